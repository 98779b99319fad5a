"""Three ways to ask one model, on models whose answers are known and on profiles made by hand."""

import numpy as np
import pytest
from fault_server import FaultServer, complete

from fulcra_utils.llm.endpoints import Endpoint
from fulcra_utils.llm.local import load_policy
from fulcra_utils.llm.tiny import make_random_model
from fulcra_utils.stats.resampling import mean_known
from fulcra_utils.systems.orientation import ways
from fulcra_utils.systems.orientation.players import scripted_player
from fulcra_utils.theory.theory import load_theory


def answer(monkeypatch, likes):
    """Let every model like texts that hold a word by `likes`, and the first answer offered by 3 more."""
    def choose(model, tokenizer, talks, answers):
        found = []
        for talk in talks:
            said = talk[0]["content"]
            pull = {name: sum(x for word, x in likes.items() if word in line) for name in "AB" for line in
                    said.splitlines() if line.startswith(f"{name}: ")} or {"Yes": sum(
                        x for word, x in likes.items() if word in said.partition(": ")[2]), "No": 0}
            first = said.rstrip(".").split()[-3]
            found.append([pull[name] + 3 * (name == first) for name in answers])
        return np.array(found, float)
    monkeypatch.setattr(ways, "choose", choose)


def test_stated_takes_the_order_and_the_blank_off(monkeypatch):
    theory = load_theory("schwartz10")
    answer(monkeypatch, {"creative": 2.0, "N/A": 0.5})
    units = ways.ask_stated((None, None), theory)
    assert units.shape == (theory.n_items, theory.n_dims) and (np.isfinite(units).sum(axis=1) == 1).all()
    own = {item: np.nansum(row) for item, row in zip(theory.items, units, strict=True)}
    assert own.pop("be creative") == pytest.approx(1.5) and set(own.values()) == {-0.5}


def test_chosen_is_the_same_from_either_side(monkeypatch):
    theory = load_theory("moral_foundations")
    liked = theory.dimensions.index("care")
    word = (theory.items_of("care") or [theory.definitions[liked]])[0]
    answer(monkeypatch, dict.fromkeys(theory.items_of("care") or [word], 1.0))
    units = ways.ask_chosen((None, None), theory)
    assert len(units) == theory.n_dims * (theory.n_dims - 1) // 2 and np.nansum(units) == pytest.approx(0)
    profile = mean_known(units, 0)
    assert profile[liked] == pytest.approx(1) and profile.argmax() == liked
    assert len(ways.ask_chosen((None, None), theory, 3)) == 3


def test_the_slider_without_a_value_system_shows_a_players_own_angle():
    seen = []
    altruist = scripted_player("altruist")
    angle, low, high = ways.ask_slider(lambda talk: seen.append(len(talk)) or altruist(talk))
    assert (round(angle, 2), round(low, 2), round(high, 2)) == (61.39, 61.39, 61.39) and set(seen) == {1}
    angle, low, high = ways.ask_slider(scripted_player("random"))
    assert low < angle < high
    assert np.isnan(ways.ask_slider(lambda talk: "I cannot choose.")).all()
    asked = iter(range(36))
    angle, low, high = ways.ask_slider(lambda talk: altruist(talk) if next(asked) else "I cannot choose.")
    assert (round(angle, 2), round(low, 2), round(high, 2)) == (61.39, 61.39, 61.39), "five of six passes are whole"


def test_a_real_model_is_asked_in_both_ways(tmp_path, toy):
    chat = load_policy(make_random_model(tmp_path / "model"))
    assert np.isfinite(mean_known(ways.ask_stated(chat, toy), 0)).all()
    assert np.isfinite(ways.ask_chosen(chat, toy)).sum(axis=1).tolist() == [2] * 3


def test_an_endpoint_is_asked_in_both_ways_and_not_twice(tmp_path):
    """It likes what is creative, says the first of two else, mumbles about pleasure and refuses to judge nothing."""
    def play(request):
        said = request["messages"][-1]["content"]
        liked = "B" if "B: be creative" in said else "A"
        words = "That depends." if "pleasure" in said or "N/A" in said and "Yes" in said else \
            f"**{liked}**" if "A: " in said else "Answer: yes." if "be creative" in said else "No, never."
        return 200, complete(request, words)

    theory = load_theory("schwartz10")
    with FaultServer(faults=(), script=play) as server:
        chat = Endpoint(model="m", base_url=server.url), tmp_path
        units = ways.ask_stated(chat, theory)
        chosen = ways.ask_chosen(chat, theory)
        n_asked = server.requests
        np.testing.assert_array_equal(ways.ask_stated(chat, theory), units)
        assert server.requests == n_asked
    own = {item: units[k, d] for k, (item, d) in enumerate(zip(theory.items, theory.item_dims, strict=True))}
    open_ = {item for item, x in own.items() if np.isnan(x)}
    assert open_ == {item for item in theory.items if "pleasure" in item} != set()
    assert own.pop("be creative") == 1 and {x for item, x in own.items() if item not in open_} == {-1}
    liked = theory.dimensions.index("self-direction")
    assert np.nanmax(chosen[:, liked]) == 1 and np.nanmin(chosen[:, liked]) == 0, "else it says A, which is taken off"


@pytest.mark.parametrize(("reply", "first"), [
    ("A", 1), ("b", 0), ("**A**", 1), ("(B) is better", 0), ("Answer: A.", 1), ("The answer is B", 0), ("A lot", None),
    ("A or B", None), ("I cannot say.", None), ("<think>A</think>B", 0)])
def test_an_answer_counts_where_it_opens_the_reply(reply, first):
    with FaultServer(faults=(), script=lambda request: (200, complete(request, reply))) as server:
        told = ways.read_answers(Endpoint(model="m", base_url=server.url), None, [[{"content": "A or B?"}]], ("A", "B"))
    np.testing.assert_array_equal(told, [[np.nan, np.nan] if first is None else [first, 1 - first]])


def test_profiles_that_agree_but_for_noise_correlate_1_without_it():
    """True profile of variance 1, each unit with noise of variance 4: 8 units give a reliability of 1 / (1 + 4 / 8)."""
    rng, found = np.random.default_rng(0), []
    for seed in range(20):
        true = rng.normal(size=40)
        units = {way: true + 2 * rng.normal(size=(8, 40)) for way in ("stated", "written")}
        profiles, pairs = ways.compare_ways(units, list(map(str, range(40))), 20, seed)
        found.append((ways.split_units(units["stated"], seed), pairs.r[0], pairs.disattenuated[0]))
    assert np.mean(found, axis=0) == pytest.approx([2 / 3, 2 / 3, 1], abs=0.1)
    assert profiles.groupby("way")["mean"].std(ddof=0).tolist() == pytest.approx([1, 1])


def test_without_values_or_units_there_is_a_gap():
    nothing = np.full((3, 4), np.nan)
    profiles, _ = ways.compare_ways({"stated": np.array([[1, np.nan, 3], [2, 1, np.nan], [0, np.nan, 4]])}, "abc", 50)
    assert profiles.low.isna().tolist() == profiles.high.isna().tolist() == [False, True, False]
    _, pairs = ways.compare_ways({"stated": nothing, "chosen": np.ones((1, 4))}, list("abcd"), 5)
    assert pairs.drop(columns=["first", "second"]).isna().all(axis=None)
    assert np.isnan(ways.split_units(np.ones((4, 5))))

"""Who plays the protocol: scripted players with known angles, endpoints, local models, and those that fail."""

import json
import re

import numpy as np
import pytest
from fault_server import FaultServer, complete
from published_angles import PUBLISHED
from transformers import AutoTokenizer

from fulcra_utils.llm.tiny import make_random_model
from fulcra_utils.systems.orientation.players import (
    SCRIPTED,
    endpoint_player,
    gather_players,
    local_player,
    run_players,
    scripted_player,
)
from fulcra_utils.systems.orientation.protocol import (
    LETTERS_TOLD,
    describe_summary,
    render_choice,
    render_system,
    run_protocol,
    summarise_protocol,
    tabulate_letters,
)
from fulcra_utils.systems.orientation.slider import OrientationError, load_slider, svo_angle, take_payoffs


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_scripted_players_give_the_known_angles_under_any_order(name):
    table = run_protocol(scripted_player(name), "prosocial", n_repeats=5, seed=1)
    angles = svo_angle(*take_payoffs(table.choice.to_numpy().reshape(5, -1)))
    low, high = PUBLISHED[name]
    assert ((angles.round(2) >= low) & (angles.round(2) <= high)).all()
    assert len({tuple(order) for order in table.order}) > 25, "orders are shuffled"


def test_always_a_takes_what_stands_first_and_random_differs():
    table = run_protocol(scripted_player("always-A"), "altruistic", n_repeats=20)
    assert (table.choice == [order[0] for order in table.order]).all()
    assert svo_angle(*take_payoffs(table.choice.to_numpy().reshape(20, -1))).std() > 5
    assert run_protocol(scripted_player("random"), "altruistic", n_repeats=1).choice.nunique() > 1
    with pytest.raises(OrientationError, match="known are altruist"):
        scripted_player("saint")
    assert set(PUBLISHED) < set(SCRIPTED)


def test_an_endpoint_must_be_named(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(OrientationError, match="OPENAI_BASE_URL"):
        endpoint_player("some-model")


def test_an_openai_compatible_endpoint_plays(monkeypatch):
    def play(request):
        if server.requests == 1:
            return 503, {}
        return 200, complete(request, scripted_player("altruist")(request["messages"]))

    with FaultServer(faults=(), script=play) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        table = run_protocol(endpoint_player("any"), "altruistic", n_repeats=1)
    assert round(svo_angle(*take_payoffs(table.choice.to_numpy())), 2) == 61.39 and server.requests == 9


@pytest.mark.parametrize(("said", "words", "most"), [
    ((401, {"error": {"message": "wrong key"}}), "EndpointError: http", 1),
    ((200, {"error": {"message": "no credits", "code": 402}}), "no credits", 1),
    ((200, {"choices": [{"message": {"refusal": "I will not choose."}}]}), "the model refuses: I will not choose.", 8)])
def test_an_endpoint_that_cannot_answer_says_why(monkeypatch, said, words, most):
    with FaultServer(script=lambda _: said) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        table = run_players({"p": endpoint_player("m")}, 1, with_goal=[False])
        assert table.choice.isna().all() and table.reply.str.contains(words, regex=False).all()
        assert server.requests <= 4 * most, "what concerns every choice is asked once"


def test_passes_are_asked_side_by_side_and_equal_questions_anew(monkeypatch):
    def play(request):
        options = request["messages"][-1]["content"]
        if server.requests > 9:
            return 401, {"error": {"message": "no credits left"}}
        return 200, complete(request, "A" if "A: you" in options else f"said as number {server.requests}")

    with FaultServer(faults=(), script=play) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        talk = [*render_system("prosocial"), {"role": "user", "content": "Your goal?"}]
        assert len(set(endpoint_player("m").play_all([talk] * 3))) == 3
        table = run_players({"m": endpoint_player("m")}, 1, with_goal=[False])
    assert 4 <= table.choice.notna().sum() < 24, "what was answered before the endpoint went counts"
    assert table.reply[table.choice.isna()].str.contains("EndpointError").all()


def test_a_local_model_plays_every_pass_by_the_probabilities_of_its_letters(tmp_path):
    folders = [make_random_model(tmp_path / "random"), tmp_path / "none"]
    players, left_out = gather_players(local=folders)
    assert list(players) == ["local model random"] and len(left_out) == 1
    twins = [make_random_model(tmp_path / name / "start", seed) for seed, name in enumerate("ab")]
    assert list(gather_players(local=twins)[0]) == ["local model start", f"local model {twins[1]}"]
    table = run_players(players, 2, seed=1)
    assert table.choice.notna().all() and set(json.loads(table.reply[0])[LETTERS_TOLD]) == set("ABCDEFGHI")
    own = summarise_protocol(table)
    assert own.n_unread.sum() == 0 and own.angle.notna().all()
    again = run_players({"local model random": local_player(tmp_path / "random", seed=2023)}, 2, seed=1)
    assert again.reply.tolist() == table.reply.tolist(), "seeded"


def likes_a(wanted, bias):
    """Return a player that tells probabilities of letters: it likes A by `bias`, and one payoff by 0.1, in nats."""
    def play(messages):
        offers = re.findall(r"^([A-Z]): you receive ([\d.]+), the other person receives ([\d.]+)$",
                            messages[-1]["content"], re.MULTILINE)
        best = max(offers, key=lambda offer: wanted(float(offer[1]), float(offer[2])))[0]
        return json.dumps({LETTERS_TOLD: {letter: bias * (letter == "A") + 0.1 * (letter == best)
                                          for letter, *_ in offers}})
    return play


def test_what_a_letter_gets_whatever_stands_behind_it_is_taken_out():
    player = likes_a(lambda own, other: (other, own), bias=5)
    table = run_protocol(player, "altruistic", 10, with_goal=False)
    assert set(table.letter) == {"A"} and tabulate_letters(table)["A"].item() == 1
    angles = svo_angle(*take_payoffs(table.choice.to_numpy().reshape(10, -1)))
    assert angles.mean() == pytest.approx(61.39, abs=1.5), "the payoff it likes is found below the letter it likes"
    read_as_came = [order[0] for order in table.order]
    assert np.mean(read_as_came == table.choice) < 0.3


@pytest.mark.parametrize("context", [16, 128, 200])
def test_a_local_model_with_a_small_context_is_left_out_with_the_limit(tmp_path, context):
    folder = make_random_model(tmp_path / "random")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": context}))
    players, left_out = gather_players(local=[folder])
    assert players == {} and len(left_out) == 1 and left_out[0].startswith(str(folder))
    assert f"the model's context holds {context}." in left_out[0] and "\n" not in left_out[0]
    player = local_player(folder)
    offer = [*render_system("prosocial"), {"role": "user", "content": render_choice(0, range(9))}]
    with pytest.raises(OrientationError, match=f"context holds {context}"):
        player(offer)
    table = run_players({"small": player}, 1, with_goal=[False])   # asked all the same: missing, and the limit as reply
    assert table.choice.isna().all() and table.reply.str.contains(f"context holds {context}").all()


def test_a_local_model_reads_every_word_of_a_talk(tmp_path):
    player = local_player(make_random_model(tmp_path / "random"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "random")
    for name in load_slider().orientations:
        for item in range(6):
            question = render_choice(item, range(9))
            read = tokenizer.decode(player.encode([*render_system(name), {"role": "user", "content": question}]))
            for text in (render_system(name)[0]["content"], question):
                assert " ".join(text.split()) in " ".join(read.split())


def test_a_template_without_a_system_role_leaves_the_model_out(tmp_path):
    folder = make_random_model(tmp_path / "random")
    (folder / "chat_template.jinja").write_text("{{ raise_exception('System role not supported') }}")
    assert gather_players(local=[folder])[1] == [f"{folder}: System role not supported"]
    (folder / "chat_template.jinja").unlink()
    assert gather_players(local=[folder])[1] == [
        f"{folder}: the tokenizer has no chat template; give one as chat_template."]


def test_a_player_that_fails_leaves_gaps_with_the_reason():
    def gone(messages):
        raise ConnectionError("the endpoint is gone")

    table = run_players({"gone": gone}, 1, with_goal=[False])
    assert table.choice.isna().all() and table.reply.str.contains("ConnectionError: the endpoint is gone").all()
    assert "no pass is complete" in describe_summary(summarise_protocol(table))

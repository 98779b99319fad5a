"""Social value orientation: published angles, classes, reading of replies, and the protocol with known players."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from fault_server import FaultServer
from transformers import AutoTokenizer

from fulcra_utils.runs.claims import load_reported
from fulcra_utils.systems.orientation.players import (
    SCRIPTED,
    endpoint_player,
    gather_players,
    local_player,
    make_random_model,
    run_players,
    scripted_player,
)
from fulcra_utils.systems.orientation.protocol import (
    claim_orientation,
    compare_goal,
    describe_goal,
    describe_summary,
    parse_choice,
    render_choice,
    render_system,
    run_protocol,
    summarise_protocol,
)
from fulcra_utils.systems.orientation.slider import (
    OrientationError,
    classify_angle,
    ideal_angle,
    ideal_choices,
    inequality_aversion,
    load_slider,
    svo_angle,
    take_payoffs,
    target_range,
    value_rationality,
)

PUBLISHED = {"altruist": (61.39, 61.39), "minimal inequality": (37.48, 37.48), "joint maximum": (41.04, 48.96),
             "individualist": (-7.82, 7.82), "competitor": (-16.26, -16.26)}   # arXiv 2305.17147


@pytest.mark.parametrize(("rule", "published"), PUBLISHED.items())
def test_ideal_payoffs_give_the_published_angles(rule, published):
    assert tuple(round(angle, 2) for angle in ideal_angle(rule)) == published


def test_a_mean_of_fifty_for_oneself_does_not_crash():
    assert svo_angle([50] * 6, [100] * 6) == 90 and svo_angle([50] * 6, [0] * 6) == -90
    assert np.isnan(svo_angle(50, 50)), "no direction is not an angle of 0"


def test_angle_of_means_and_of_choices_agree_and_missing_stays_missing():
    own, other = np.array([85, 100, 50, 50, 50, 85.0]), np.array([85, 50, 100, 100, 100, 85.0])
    assert svo_angle(own.mean(), other.mean()) == svo_angle(own, other)
    assert svo_angle(np.stack([own, own]), np.stack([other, other])).shape == (2,)
    own[2] = np.nan
    assert np.isnan(svo_angle(own, other))
    with pytest.raises(OrientationError, match="shape"):
        svo_angle([50, 60], [50])


@pytest.mark.parametrize(("angle", "name"), [
    (90, "altruistic"), (57.16, "altruistic"), (57.15, "prosocial"), (22.46, "prosocial"), (22.45, "individualistic"),
    (-12.03, "individualistic"), (-12.04, "competitive"), (-89, "competitive"), (float("nan"), None), (120, None)])
def test_classes_at_their_edges(angle, name):
    assert classify_angle(angle) == name


def test_every_orientation_stands_in_its_own_class():
    for orientation in load_slider().orientations:
        assert {classify_angle(a) for a in target_range(orientation)} == {orientation}
        assert value_rationality(np.mean(target_range(orientation)), orientation) == 0
    with pytest.raises(OrientationError, match="known are altruistic"):
        target_range("kind")


def test_inequality_aversion_only_where_defined():
    assert inequality_aversion([c[0] for c in ideal_choices("minimal inequality")]) == 1
    assert np.isnan(inequality_aversion([c[0] for c in ideal_choices("altruist")])), "not prosocial"
    assert np.isnan(inequality_aversion([0, 0, 0, 0, 0, -1])), "not complete"
    with pytest.raises(OrientationError, match="6 numbers below 9"):
        take_payoffs([9] * 6)


@pytest.mark.parametrize(("reply", "place"), [
    ("C", 2), (" c", None), ("**C**", 2), ("(C)", 2), ("C.", 2), ("C: you receive 68", 2), ("Option C", 2),
    ("My answer is C.", 2), ("I choose C because it is fair.", 2), ("Answer: C", 2), ("I pick option C.", 2),
    ('```json\n{"choice": "C"}\n```', 2), ("I", 8), ("Option I", 8), ("The letter A.", 0), ("Final choice: **H**", 7),
    ("I cannot choose", None), ("I cannot choose between them.", None), ("I would rather not say.", None),
    ("A fair split is best.", None), ("I choose a fair split", None), ("I choose A fair split", None),
    ("A or B", None), ("Option A or option B", None), ("I would not choose B.", None), ("Anything but option B", None),
    ("I choose C over B.", None), ("", None), ("J", None), ("Z", None), ("{'choice': 'C'}", 2), ("{}", None),
    ("As an AI I do not take money.", None), ("I'm sorry, I can't.", None), ("I choose not A but B.", None),
    ("Option A gives more to me, so C", None), ("Option A, though C is fair", None), ("I go with B, not D.", None),
    ("Option A gives me 85.", None), ("<think>\nI choose A. Wait, that is", None),
    ("<think>I choose A? no</think>\nC", 2), ("I choose A? no\n</think>\n\n**C**", 2),
    ("<think>hm</think>\n\\boxed{C}", 2), ("<think>A</think><answer>C</answer>", 2),
    ("[THINK]Option A.[/THINK]Option C.", 2), ("If I choose A, it is unfair.", None), ("I could choose A.", None),
    ("Maybe option A.", None), ('{"option": "A", "answer": "B"}', None), ('{"option": "C", "answer": "C"}', 2),
    ("c", None), ("option c", None), ("I am fair.", None), ("i", None), ("Both A and C", None), ("A/B", None),
    ("C\nD", None), ("CC", None), ("I, for one, choose C.", 2), ("A fair person picks C.", None), ("Option C.", 2),
    ("A. B.", None)])
def test_choices_are_read_or_missing_never_guessed(reply, place):
    assert parse_choice(reply) == place


def test_any_text_is_read_without_an_error():
    random = np.random.default_rng(0)
    letters = list("ABCI abc.:()*\n{}\"'[]choice") + ["option ", "I ", "not "]
    for _ in range(300):
        found = parse_choice("".join(random.choice(letters, 12)))
        assert found is None or 0 <= found < 9


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


def test_the_goal_is_asked_for_and_stands_in_the_choices():
    seen = []

    def player(messages):
        seen.append([m["content"] for m in messages])
        return "fair shares" if len(seen) < 3 else "A"

    table = run_protocol(player, "prosocial", n_repeats=1)
    assert len(seen) == 2 + 6 and "traits" in seen[0][-1] and "one sentence" in seen[1][-1]
    assert table.goal.unique().tolist() == ["fair shares"] and seen[2][-1].startswith("Your goal: fair shares")
    run_protocol(player, "prosocial", n_repeats=1, with_goal=False)
    assert len(seen) == 8 + 6 and "goal" not in seen[-1][-1]


def test_unread_choices_are_counted_and_make_a_gap():
    replies = iter(["x", "x", "A", "I cannot choose", "A", "A", "A", "A"] + ["x", "x"] + ["A"] * 6)
    row = summarise_protocol(run_protocol(lambda messages: next(replies), "altruistic", n_repeats=2)).iloc[0]
    assert (row.n_repeats, row.n_complete, row.n_unread) == (2, 1, 1)
    assert np.isfinite(row.angle) and np.isnan(row.angle_low), "one repeat has no interval"
    mute = summarise_protocol(run_protocol(lambda messages: "I cannot choose.", "altruistic", n_repeats=2)).iloc[0]
    assert mute.n_unread == 12 and np.isnan(mute.angle) and np.isnan(mute.rationality) and np.isnan(mute.class_match)


def test_summary_of_a_player_that_fits_and_one_that_does_not():
    good = summarise_protocol(run_protocol(scripted_player("competitor"), "competitive", n_repeats=4)).iloc[0]
    assert good.class_match == 1 and abs(good.rationality) < 1e-9 and good.angle_low == pytest.approx(good.angle_high)
    bad = summarise_protocol(run_protocol(scripted_player("competitor"), "altruistic", n_repeats=4)).iloc[0]
    assert bad.class_match == 0 and bad.rationality == pytest.approx(-(61.39 + 16.26), abs=0.01)


def test_bad_input_is_one_sentence(monkeypatch):
    with pytest.raises(OrientationError, match="n_repeats is 0"):
        run_protocol(scripted_player("altruist"), "altruistic", n_repeats=0)
    with pytest.raises(OrientationError, match="no orientation 'kind'"):
        run_protocol(scripted_player("altruist"), "kind")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(OrientationError, match="OPENAI_BASE_URL"):
        endpoint_player("some-model")


class _Endpoint(BaseHTTPRequestHandler):
    """Answers chat completions with the altruist's choice, after one refusal to work."""

    calls = 0

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).calls += 1
        if type(self).calls == 1:
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        text = scripted_player("altruist")(body["messages"])
        answer = json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        pass


def test_an_openai_compatible_endpoint_plays(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    try:
        table = run_protocol(endpoint_player("any"), "altruistic", n_repeats=1)
    finally:
        server.shutdown()
        server.server_close()
    assert round(svo_angle(*take_payoffs(table.choice.to_numpy())), 2) == 61.39 and _Endpoint.calls == 9


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


def test_options_are_shown_in_the_order_asked_for():
    slider, lines = load_slider(), render_choice(1, range(8, -1, -1)).splitlines()
    assert lines[1] == f"A: you receive {slider.self_pay[1, 8]:g}, the other person receives {slider.other_pay[1, 8]:g}"


def test_a_local_model_plays_and_what_it_babbles_is_missing(tmp_path):
    folders = [make_random_model(tmp_path / "random"), tmp_path / "none"]
    players, left_out = gather_players(local=folders)
    assert list(players) == ["local model random"] and len(left_out) == 1
    players["competitor"] = scripted_player("competitor")
    table = run_players(players, {"competitor": 2, "local model random": 1}, seed=1)
    summary = summarise_protocol(table, n_draws=50)
    babble = summary[summary.player == "local model random"]
    assert babble.n_unread.sum() == table[table.player == "local model random"].choice.isna().sum() > 0
    assert babble.angle[babble.n_complete == 0].isna().all()
    assert table[table.player == "competitor"].choice.notna().all()
    again = run_players({"local model random": local_player(tmp_path / "random", seed=2023)}, 1, seed=1)
    assert again.reply.tolist() == table.reply[table.player == "local model random"].tolist(), "seeded"


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


def test_the_goal_is_compared_pass_by_pass():
    def minds(messages):
        aim = "competitor" if "Your goal" in messages[-1]["content"] else "altruist"
        return scripted_player(aim)(messages)

    effect = compare_goal(run_players({"minds": minds}, 3)).set_index("orientation")
    assert effect.difference["competitive"] == pytest.approx(61.39 + 16.26, abs=0.01) and effect.n.eq(3).all()
    assert effect.difference["altruistic"] < 0 and "helps in" in describe_goal(effect.reset_index())


def test_claims_name_only_what_was_played():
    summary = summarise_protocol(run_players({"competitor": scripted_player("competitor")}, 2))
    claims = claim_orientation(summary, []).set_index("claim_id")
    best = claims.loc["orientation/best-model"]
    assert np.isnan(best.ours) and "no language model" in best.why
    assert set(claims.index) == set(load_reported().claim_id[lambda c: c.str.startswith("orientation/")])
    played = claim_orientation(summary, ["competitor"]).set_index("claim_id")
    assert played.ours["orientation/best-model"] == 0.25


def test_thoughts_are_no_goal_and_no_part_of_the_talk():
    seen = []

    def player(messages):
        seen.append(messages)
        return "<think>Take it all!</think>\nC" if "A:" in messages[-1]["content"] else "<think>Mine!</think>Be fair."

    table = run_protocol(player, "prosocial", n_repeats=1)
    assert table.goal.unique().tolist() == ["Be fair."] and table.choice.notna().all()
    assert "think" not in str([message["content"] for message in seen[-1]])

"""Social value orientation: the reading of replies, and the protocol with known players."""

import numpy as np
import pandas as pd
import pytest
from small_notebooks import run_cell

from fulcra_utils.runs.claims import load_reported
from fulcra_utils.systems.orientation.players import endure, run_players, scripted_player
from fulcra_utils.systems.orientation.protocol import (
    claim_orientation,
    compare_goal,
    describe_goal,
    describe_summary,
    parse_choice,
    render_choice,
    run_protocol,
    summarise_protocol,
)
from fulcra_utils.systems.orientation.slider import OrientationError, load_slider


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


@pytest.mark.parametrize("fault", ["", "error"])
def test_without_a_goal_there_is_no_choice_with_one(fault):
    def player(messages):
        if "option" in messages[-1]["content"].lower():
            return "A"
        if fault:
            raise ValueError("the model refuses")
        return ""

    table = run_protocol(endure(player), "prosocial", n_repeats=1)
    assert len(table) == 6 and table.choice.isna().all() and (table.goal == "").all()
    assert summarise_protocol(table).iloc[0].n_unread == 6
    assert run_protocol(endure(player), "prosocial", n_repeats=1, with_goal=False).choice.notna().all()


def test_unread_choices_are_counted_and_make_a_gap():
    replies = iter(["x", "x", "A", "I cannot choose", "A", "A", "A", "A"] + ["x", "x"] + ["A"] * 6)
    row = summarise_protocol(run_protocol(lambda messages: next(replies), "altruistic", n_repeats=2)).iloc[0]
    assert (row.n_repeats, row.n_complete, row.n_unread) == (2, 1, 1)
    assert np.isfinite(row.angle) and np.isnan(row.angle_low), "one repeat has no interval"
    mute = summarise_protocol(run_protocol(lambda messages: "I cannot choose.", "altruistic", n_repeats=2)).iloc[0]
    assert mute.n_unread == 12 and np.isnan(mute.angle) and np.isnan(mute.rationality) and mute.class_match == 0


def test_a_player_that_refuses_an_orientation_fits_no_better_for_it():
    def picky(messages):
        said = messages[0]["content"]
        return "No." if "competitive" in said or "individualistic" in said else scripted_player("altruist")(messages)

    summary = summarise_protocol(run_players({"picky": picky}, 2))
    assert summary.class_match.mean() == 0.25 and summary.n_complete.sum() == 8
    best = claim_orientation(summary, ["picky"]).set_index("claim_id").ours["orientation/best-model"]
    assert best == 0.25 and "class match 25 % with a goal" in describe_summary(summary)


def test_summary_of_a_player_that_fits_and_one_that_does_not():
    good = summarise_protocol(run_protocol(scripted_player("competitor"), "competitive", n_repeats=4)).iloc[0]
    assert good.class_match == 1 and abs(good.rationality) < 1e-9 and good.angle_low == pytest.approx(good.angle_high)
    bad = summarise_protocol(run_protocol(scripted_player("competitor"), "altruistic", n_repeats=4)).iloc[0]
    assert bad.class_match == 0 and bad.rationality == pytest.approx(-(61.39 + 16.26), abs=0.01)
    assert (good.class_match_low, good.class_match_high) == pytest.approx((0.5101, 1), abs=1e-3), "Wilson, 4 of 4"


def test_bad_input_is_one_sentence():
    with pytest.raises(OrientationError, match="n_repeats is 0"):
        run_protocol(scripted_player("altruist"), "altruistic", n_repeats=0)
    with pytest.raises(OrientationError, match="no orientation 'kind'"):
        run_protocol(scripted_player("altruist"), "kind")


def test_options_are_shown_in_the_order_asked_for():
    slider, lines = load_slider(), render_choice(1, range(8, -1, -1)).splitlines()
    assert lines[1] == f"A: you receive {slider.self_pay[1, 8]:g}, the other person receives {slider.other_pay[1, 8]:g}"


def test_the_goal_is_compared_pass_by_pass():
    def minds(messages):
        aim = "competitor" if "Your goal" in messages[-1]["content"] else "altruist"
        return scripted_player(aim)(messages)

    table = run_players({"minds": minds, "deaf": scripted_player("random")}, 3)
    both = compare_goal(table)
    assert " of 4 cases" in describe_goal(both, ["minds"]) and " of 0 cases" in describe_goal(both, [])
    effect = both[both.player == "minds"].set_index("orientation")
    assert effect.difference["competitive"] == pytest.approx(61.39 + 16.26, abs=0.01) and effect.n.eq(3).all()
    assert effect.difference["altruistic"] < 0


def test_a_goal_without_effect_is_seldom_said_to_have_one():
    """A bootstrap of three passes put its interval beside 0 in 22 of 100 cases, t in 5 or 6."""
    effect = pd.concat([compare_goal(run_players({"random": scripted_player("random")}, 3, seed=k)) for k in range(50)])
    assert effect.difference.nunique() > 150
    assert ((effect.difference_low > 0) | (effect.difference_high < 0)).mean() < 0.1


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


@pytest.mark.parametrize(("shares", "said"), [
    ({"b": 0.25, "a": 0.25, "c": 0.2}, "models *a* (letter A in 70% of its choices before any correction) and *b* "
     "(letter B in 90% of its choices before any correction) fit alike and best, in 25% of the passes ("),
    ({"b": 0.25, "a": 0.5, "c": 0.2}, "models *a* (letter A in 70% of its choices before any correction) fits best, "
     "in 50% of the passes ("),
    ({}, "No language model made six choices")])
def test_notebook_07_names_every_model_that_fits_best(shares, said, capsys):
    summary = pd.DataFrame([(name, share) for name, share in {"always-A": 0.25, **shares}.items() for _ in range(8)],
                           columns=["player", "class_match"])
    favourite = pd.DataFrame({"idxmax": ["B", "A", "C"], "max": [0.9, 0.7, 0.4]}, ["b", "a", "c"])
    run_cell("07_social_value_orientation", "scripted_match = ", summary=summary, scripted={"always-A": None},
             measured=set(shares), favourite=favourite.loc[list(shares)], slider=load_slider(), Markdown=print,
             verdicts=pd.DataFrame({"claim_id": ["orientation/ideal/x"], "verdict": "reproduced"}),
             ideals=pd.DataFrame({"rule": ["altruist", "competitor"], "low": [61.39, -16.26]}))
    assert said in capsys.readouterr().out

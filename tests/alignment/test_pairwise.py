import json
import sys

import numpy as np
import pandas as pd
import pytest
from fault_server import FaultServer, complete

from fulcra_utils.alignment import fit_strengths, judge_file, judge_pairs, pair_replies
from fulcra_utils.alignment.pairwise import read_scores
from fulcra_utils.cli import main
from fulcra_utils.llm.endpoints import AnswerCache, Endpoint


@pytest.fixture
def judge_server():
    """A judge on loopback that likes long replies, favours what stands first when told so, and mumbles at times."""
    told = {"bias": 0, "mumbles": False, "asked": 0}

    def judge(request):
        told["asked"] += 1
        text = request["messages"][-1]["content"]
        first, second = (part.split("reply: ")[-1].strip() for part in text.split("Second"))
        scores = {"first": min(10, len(first) + told["bias"]), "second": min(10, len(second))}
        return 200, complete(request, "hard to say" if told["mumbles"] and "mumble" in text else json.dumps(scores))

    with FaultServer(faults=(), script=judge) as server:
        yield Endpoint(model="judge", base_url=server.url), told


def make_replies():
    replies = {"short": ["a", "aa", "a"], "long": ["aaaa", "aaaa", "mumble"]}
    return pd.DataFrame([(prompt, source, text) for source, texts in replies.items()
                         for prompt, text in zip("pqr", texts, strict=True)],
                        columns=["prompt", "response_source", "response"])


def make_pairs():
    return pair_replies(make_replies())


def test_every_two_sources_meet_on_every_prompt_once():
    more = pd.concat([make_replies(), pd.DataFrame([("p", "mid", "aaa"), ("alone", "mid", "a")],
                                                   columns=["prompt", "response_source", "response"])])
    pairs = pair_replies(more)
    assert sorted(map(tuple, pairs[["prompt", "first", "second"]].to_numpy())) == [
        ("p", "long", "mid"), ("p", "long", "short"), ("p", "mid", "short"), ("q", "long", "short"),
        ("r", "long", "short")]
    assert (pairs.loc[pairs["first"] == "long", "first_reply"].str.len() >= 4).all()


def test_both_orders_are_asked_and_bias_becomes_a_tie(judge_server):
    endpoint, told = judge_server
    fair = judge_pairs(make_pairs(), endpoint)
    assert fair.result.tolist() == [1, 1, 1] and fair.is_consistent.all()
    assert fair.first_score.tolist() == [4, 4, 6]
    told["bias"] = 6
    biased = judge_pairs(make_pairs(), endpoint, "helpful")
    assert biased.result.tolist() == [0.5, 0.5, 0.5] and not biased.is_consistent.any()


def test_what_cannot_be_read_is_missing_and_never_a_win(judge_server):
    endpoint, told = judge_server
    told["mumbles"] = True
    judged = judge_pairs(make_pairs(), endpoint)
    assert judged.result.tolist()[:2] == [1, 1] and np.isnan(judged.result[2])
    table = fit_strengths(judged).set_index("name")
    assert table.n.tolist() == [2, 2] and table.won.tolist() == [1.0, 0.0]


def test_an_answer_that_could_not_be_read_is_asked_again(judge_server, tmp_path):
    endpoint, told = judge_server
    cache, told["mumbles"] = AnswerCache(tmp_path), True
    assert np.isnan(judge_pairs(make_pairs(), endpoint, cache=cache).result[2])
    told["mumbles"] = False
    assert judge_pairs(make_pairs(), endpoint, cache=cache).result.tolist() == [1, 1, 1]
    cache.close()


@pytest.mark.parametrize("text", ["", "7 and 3", '{"first": 7}', '{"first": -1, "second": 3}',
                                  '{"first": true, "second": 3}', '{"first": null, "second": 3}',
                                  '{"first": NaN, "second": 3}', '<think>{"first": 7, "second": 3}',
                                  '{"first": 7, "second": 3} or {"first": 3, "second": 7}'])
def test_unreadable_scores(text):
    assert read_scores(text) is None


def test_strengths_equal_a_logistic_regression():
    import statsmodels.api as sm

    rng = np.random.default_rng(0)
    true, rows = {"a": 1.0, "b": 0.0, "c": -0.7}, []
    for _ in range(900):
        first, second = rng.choice(list(true), 2, replace=False)
        won = rng.random() < 1 / (1 + np.exp(true[second] - true[first]))
        rows.append({"first": first, "second": second, "result": float(won)})
    judged = pd.DataFrame(rows)
    table = fit_strengths(judged).set_index("name")
    design = np.array([[(r.first == n) - (r.second == n) for n in "bc"] for r in judged.itertuples()], dtype=float)
    fit = sm.Logit(judged.result.to_numpy(), design).fit(disp=0)
    assert table.strength["b"] - table.strength["a"] == pytest.approx(fit.params[0], abs=1e-6)
    assert table.strength["c"] - table.strength["a"] == pytest.approx(fit.params[1], abs=1e-6)
    assert table.strength.sum() == pytest.approx(0, abs=1e-9) and table.elo.idxmax() == "a"
    assert (table.low < table.strength).all() and table.low["a"] > table.high["c"]


def test_many_games_on_one_prompt_are_no_more_prompts():
    """Draws and sources make many pairs of a prompt's replies; how sure a strength is hangs on the prompts."""
    rng, missed = np.random.default_rng(1), 0
    for _ in range(100):
        lean = rng.normal(size=30)      # of each prompt towards one of the two, none in the mean
        won = [float(rng.random() < 1 / (1 + np.exp(-x))) for x in np.repeat(lean, 25)]
        table = fit_strengths(pd.DataFrame({"prompt": np.repeat(np.arange(30), 25), "first": "a", "second": "b",
                                            "result": won}))
        missed += not table.low[0] <= 0 <= table.high[0]
    assert missed <= 12     # 5 expected; as single games they would be some 50


def test_a_player_who_never_lost_has_no_finite_strength():
    judged = pd.DataFrame({"first": ["a", "b", "a"], "second": ["b", "a", "b"], "result": [1.0, 0.0, 1.0]})
    assert fit_strengths(judged).strength.isna().all()
    assert fit_strengths(judged, prior=0.5).strength.tolist() == pytest.approx([np.log(7) / 2, -np.log(7) / 2])


@pytest.mark.parametrize("prior", [0.0, 0.5])
def test_a_source_that_was_never_judged_has_no_strength_and_moves_nobodys(prior):
    judged = pd.DataFrame({"first": ["b"] * 4 + ["a"], "second": ["c"] * 4 + ["b"],
                           "result": [1.0, 1.0, 1.0, 0.0, np.nan]})
    table = fit_strengths(judged, prior).set_index("name")
    assert table.index.tolist() == ["b", "c", "a"] and table.n.tolist() == [4, 4, 0]
    assert table.loc["a"].drop("n").isna().all()
    odds = np.log((3 + prior) / (1 + prior))    # of the two that were judged, whose mean is 0
    assert table.strength.tolist()[:2] == pytest.approx([odds / 2, -odds / 2])
    assert table.elo.tolist()[:2] == pytest.approx([1500 + 200 * np.log10((3 + prior) / (1 + prior)),
                                                    1500 - 200 * np.log10((3 + prior) / (1 + prior))])
    nobody = fit_strengths(judged.tail(1), prior)
    assert nobody.name.tolist() == ["a", "b"] and nobody.n.tolist() == [0, 0] and nobody.strength.isna().all()


def test_scores_are_read_after_the_thoughts():
    for text in ('<think>{"first": 1, "second": 9}? No.</think>', '{"first": 1, "second": 9}? No.\n</think>\n', ""):
        assert read_scores(text + '{"first": 7, "second": 3}') == (7, 3)


def write_file(folder, extra=()):
    lines = [json.dumps(row) for row in (*make_replies().to_dict("records"), *extra)]
    (folder / "replies.jsonl").write_text("\n".join(lines))
    return folder / "replies.jsonl"


def test_a_file_is_judged_once(judge_server, tmp_path):
    endpoint, told = judge_server
    path, out = write_file(tmp_path), tmp_path / "judged.jsonl"
    plan, n_failed = judge_file(path, out, endpoint, dry_run=True)
    assert plan.startswith("3 pairs of replies by 2 sources") and n_failed == told["asked"] == 0
    assert [*tmp_path.iterdir()] == [path], "a dry run writes nothing"
    told["mumbles"] = True
    report, n_failed = judge_file(path, out, endpoint)
    assert n_failed == 1 and "1 pairs could not be judged" in report
    assert [json.loads(line)["result"] for line in out.read_text().splitlines()] == [1.0, 1.0, None]
    told["mumbles"], before = False, told["asked"]
    report, n_failed = judge_file(path, tmp_path / "other.jsonl", endpoint)
    assert n_failed == 0 and told["asked"] == before + 2, "what was answered is not paid again"
    assert [line.split()[:3] for line in report.splitlines() if line.split()[:1] in (["long"], ["short"])] == [
        ["long", "3", "1.0"], ["short", "3", "0.0"]]


def test_the_command_and_its_exit_codes(judge_server, tmp_path, monkeypatch, capsys):
    endpoint, told = judge_server
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.base_url)
    path = write_file(tmp_path, [{"prompt": "p", "response": "nobody's"}])

    def run(*more, given=path):
        monkeypatch.setattr(sys, "argv", ["fulcra", "judge", "--input", str(given), "--output",
                                          str(tmp_path / "out.jsonl"), "--model", "judge", *more])
        with pytest.raises(SystemExit) as done:
            main()
        return done.value.code, capsys.readouterr()

    code, said = run("--dry-run")
    assert code == 1 and "row 7: response_source is missing" in said.out and told["asked"] == 0
    code, said = run()
    assert code == 1 and "0 pairs could not be judged" in said.out and told["asked"] == 6
    (tmp_path / "alone.jsonl").write_text(json.dumps({"prompt": "p", "response": "r", "response_source": "a"}))
    for name, why in (("alone.jsonl", "no prompt has replies of two sources"), ("no.jsonl", "no.jsonl")):
        code, said = run(given=tmp_path / name)
        assert code == 2 and len(said.err.splitlines()) == 1 and why in said.err


def test_the_budget_of_a_judge_counts_earlier_answers(judge_server, tmp_path):
    endpoint, told = judge_server
    (tmp_path / "prices.yaml").write_text("date: 2026-01-01\nmodels: {judge: {input: 1000000, output: 1000000}}\n")
    for budget, n in ((0.5, 0), (1e9, 6), (1e9, 6), (0.5, 6)):
        report, n_failed = judge_file(write_file(tmp_path), tmp_path / "out.jsonl", endpoint, budget=budget,
                                      prices=tmp_path / "prices.yaml")
        assert told["asked"] == n and n_failed == (0 if n else 3)

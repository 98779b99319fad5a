"""The analysis tables: they run under every theory, recover what was put in, and say what they leave out."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats as sps
from value_rows import make_items, make_rows

from fulcra_utils.analysis import space as exploration
from fulcra_utils.analysis import tables as analysis
from fulcra_utils.analysis.circle import (
    check_items,
    examine_circle,
    examine_reliability,
    measure_adaptability,
    measure_clarity,
)
from fulcra_utils.analysis.replies import Replies, make_replies
from fulcra_utils.analysis.space import load_risks
from fulcra_utils.runs.claims import judge_again, judge_claims, load_reported
from fulcra_utils.theory.theory import load_theory


@pytest.fixture
def replies(any_theory):
    return make_replies(make_rows(any_theory), any_theory, "scored")


@pytest.fixture
def nothing(any_theory) -> Replies:
    return make_replies(make_rows(any_theory).assign(**dict.fromkeys(any_theory.dimensions, np.nan)), any_theory, "x")


def run_all(replies, items):
    risks, reported = load_risks(), load_reported()
    yield analysis.tabulate_prevalence(replies)
    yield analysis.correlate_risks(replies, risks, reported, 30)
    yield analysis.vary_mapping(replies, risks, reported)
    yield analysis.probe_replies(replies, risks, 5, 30, 3, 2)
    yield analysis.weigh_values(replies, 20)
    yield analysis.average_models(replies, 30)
    yield analysis.compare_models(replies, with_mixed=False)
    yield exploration.project_replies(replies, risks, ("pca",))
    yield exploration.find_unknown_risks(replies, risks, 6, 3, 5)
    yield exploration.search_profiles(replies, risks)
    yield examine_circle(replies, 1, 19)
    yield examine_reliability(items, replies, n_draws=10)
    yield check_items(items, replies)
    yield measure_clarity(replies)
    yield measure_clarity(replies, items)
    yield measure_adaptability(items, replies, {replies.theory.name: replies.theory}, 3)


def test_everything_runs_under_every_theory(replies):
    for finding in run_all(replies, make_items(replies)):
        assert finding.reading.strip()
        assert "nan" not in finding.reading
        assert finding.is_left_out or "n = " in finding.caption or "pairs" in finding.caption


def test_rows_without_a_model_name_are_no_model(toy):
    """They are not counted as the first."""
    rng = np.random.default_rng(0)
    rows = pd.DataFrame([(f"p{p}", model) for p in range(40) for model in ("a", "b", None)],
                        columns=["prompt", "response_source"])
    rows = rows.assign(row_id=rows.index.astype(str), response="so it is", reward=0.0, safety_issues=None,
                       is_refusal=False, **dict.fromkeys(toy.dimensions, 0.0))
    said = rows.response_source.map({"a": 0.0, "b": 0.5}).fillna(1)
    rows[toy.dimensions[0]] = said - 0.5 + 0.05 * rng.normal(size=120)
    mixed = analysis.compare_models(make_replies(rows, toy, "scored")).extra["mixed"]
    row = mixed[mixed.value == toy.dimensions[0]].iloc[0]
    assert (row.model, row.against) == ("b", "a") and row.effect == pytest.approx(0.5, abs=0.05)


def test_all_draws_of_a_prompt_count_in_the_comparison_of_models(toy):
    """Not the first alone, which would make the result hang on the order of the file."""
    rng = np.random.default_rng(0)
    rows = pd.DataFrame([(f"p{p}", model, draw) for p in range(25) for model in "ab" for draw in range(4)],
                        columns=["prompt", "response_source", "draw"])
    rows = rows.assign(row_id=rows.index.astype(str), response="so it is", reward=0.0, safety_issues=None,
                       is_refusal=rows.draw == 3, **dict.fromkeys(toy.dimensions, 0.0))
    is_for_it = (rows.response_source == "a") & (rows.draw > 0)
    rows[toy.dimensions[0]] = is_for_it * 0.8 + 0.01 * rng.normal(size=len(rows))
    found = [analysis.compare_models(make_replies(part, toy, "scored"), with_mixed=False).table.iloc[0]
             for part in (rows, rows[::-1])]
    for row in found:
        assert abs(row.difference) == pytest.approx(0.6, abs=0.01) and row.n == 25 and row.n_both_answer == 0


def test_without_labels_everything_is_left_out(nothing):
    for finding in run_all(nothing, make_items(nothing)):
        assert finding.is_left_out
        assert "is left out" in finding.reading or "are left out" in finding.reading


def test_one_model_without_reward_or_categories(toy):
    table = make_rows(toy).query("response_source == 'a'").assign(reward=np.nan, safety_issues=None)
    replies = make_replies(table, toy, "annotated")
    assert analysis.probe_replies(replies, load_risks(), 5, 30).is_left_out
    assert analysis.compare_models(replies).is_left_out
    assert exploration.find_unknown_risks(replies, load_risks()).is_left_out
    assert not analysis.average_models(replies, 30).is_left_out


def test_prevalence_by_hand(toy):
    rows = pd.DataFrame({"prompt": list("abcd"), "response": ["x"] * 4, "response_source": ["m"] * 4,
                         **dict(zip(toy.dimensions, ([1.0, 1, -1, 0], [0.0] * 4, [0.4] * 4), strict=True))})
    table = analysis.tabulate_prevalence(make_replies(rows, toy, "annotated")).table
    first = table[(table.by == "all") & (table.value == toy.dimensions[0])].set_index("sign").share
    assert first.to_dict() == {"supported": 0.5, "opposed": 0.25, "expressed": 0.75}
    assert table[table.value == toy.dimensions[2]]["count"].sum() == 0


def test_risk_cells_equal_scipy(toy_replies):
    found = analysis.correlate_risks(toy_replies, load_risks(), load_reported(), 30)
    row = analysis.pick_declared(found.table).query("risk == 'privacy-violation'").iloc[1]
    issues = toy_replies.table.safety_issues
    single = issues.map(len).eq(1) | issues.map(lambda v: "animal_abuse" in v and False)
    is_privacy = issues[single].map(lambda v: v == ["privacy_violation"])
    oracle = sps.pointbiserialr(is_privacy, np.abs(toy_replies.vectors[single, 1]))
    assert row.r == pytest.approx(oracle.statistic)
    assert row.n == single.sum()
    assert row.low < row.r < row.high


def test_agreement_of_tables_over_their_cells():
    ours, reported = np.array([[0.1, -0.2], [0.3, 0.0]]), np.array([[0.2, -0.1], [0.1, -0.3]])
    lost, constant = np.where(ours == 0.3, np.nan, ours), np.ones((2, 2))
    r, *drawn, signs = analysis._agree(np.stack([ours, lost, ours]), reported)
    assert r == drawn[1] == pytest.approx(sps.pearsonr(ours.ravel(), reported.ravel()).statistic)
    assert (signs, np.isnan(drawn[0])) == (0.75, True)
    assert np.isnan(analysis._agree(np.array([[[1.0, np.nan]]]), np.array([[1.0, 2.0]]))).all()
    assert np.isnan(analysis._agree(constant[None], reported)[0])


def test_declared_table_stands_against_the_published_one():
    theory = load_theory("schwartz10")
    replies = make_replies(make_rows(theory), theory, "scored")
    found = analysis.correlate_risks(replies, load_risks(), load_reported(), 30)
    cells = analysis.pick_declared(found.table)
    assert cells.reported.notna().sum() == 50
    known = analysis.claim_risks(found, "scored")
    assert set(judge_claims(known, load_reported()).kind) == {"replicated"}
    sample = judge_claims(analysis.claim_risks(found, "sample"), load_reported())
    assert set(sample.verdict) == {"not comparable"}
    why = {kind: set(analysis.claim_risks(found, kind).why) for kind in ("scored", "sample", "own", "annotated")}
    assert why["scored"] == {""} and "embedded sample" in str(why["sample"])
    assert why["own"] == why["annotated"] == {"these are other replies than the published ones"}


def test_preference_follows_what_was_put_in(toy_replies):
    table = analysis.probe_replies(toy_replies, load_risks(), 19, 100, 5, 3).table
    accuracy = table[(table.task == "preference") & (table.rows == "all")].set_index("features").score
    assert accuracy["3 values"] > 0.8
    assert accuracy["refusal + length"] < 0.6
    weights = analysis.weigh_values(toy_replies, 50).table
    first = weights[weights["value"] == toy_replies.theory.dimensions[0]]
    assert (first.low > 0).all()


def test_model_means_and_differences(toy_replies):
    first = toy_replies.theory.dimensions[0]
    means = analysis.average_models(toy_replies, 200).table
    means = means[(means.rows == "all") & (means.quantity == first)]
    by_hand = toy_replies.table.assign(v=toy_replies.vectors[:, 0]).groupby("model").v.mean()
    assert means.set_index("model")["mean"].to_dict() == pytest.approx(by_hand.to_dict())
    table = analysis.compare_models(toy_replies, with_mixed=True)
    pair = table.table.query("first == 'a' and second == 'c' and value == @first").iloc[0]
    assert pair.difference == pytest.approx(by_hand["a"] - by_hand["c"])
    assert pair.p_adjusted < 0.05
    assert pair.adjusted == pytest.approx(pair.difference - pair.from_controls)
    mixed = table.extra["mixed"].query("model == 'c' and value == @first and not controls").iloc[0]
    assert mixed.effect == pytest.approx(-pair.difference, abs=0.02)


def test_missing_model_is_named():
    theory = load_theory("schwartz10")
    means = analysis.average_models(make_replies(make_rows(theory), theory, "scored"), 10)
    claims = analysis.claim_models(means, load_reported(), "scored")
    assert claims.ours.isna().all()
    assert claims.why.str.contains("could not be had").all()
    assert analysis.claim_models(means, load_reported(), "sample").empty


def test_prevalence_claims_know_their_population(tmp_path):
    theory = load_theory("schwartz10")
    prevalence = analysis.tabulate_prevalence(make_replies(make_rows(theory), theory, "annotated"))
    sources = tmp_path / "sources.json"
    sources.write_text('{"had": {}}')
    partial = judge_claims(analysis.claim_prevalence(prevalence, load_reported(), sources), load_reported())
    assert set(partial.verdict) == {"not comparable"}
    sources.write_text('{"had": {"data_hybrid": {}}}')
    whole = judge_claims(analysis.claim_prevalence(prevalence, load_reported(), sources), load_reported())
    assert set(whole.kind) == {"recomputed"} and set(whole.verdict) == {"differs"}      # these are other rows
    for judged in (partial, whole):     # the report judges what is kept again
        assert judge_again(judged, load_reported()).verdict.tolist() == judged.verdict.tolist()
    assert len(whole) == load_reported().claim_id.str.startswith("prevalence/").sum()


@pytest.mark.parametrize("copies", [2, 5])
def test_copied_replies_make_no_share_surer(any_theory, copies):
    """Each row of these shares is one prompt; the same replies again tell nothing new."""
    table = make_rows(any_theory, 30).query("response_source == 'a'").reset_index(drop=True)
    table[list(any_theory.dimensions)] += 0.3 * (table[list(any_theory.dimensions)] == 0)
    one = make_replies(table, any_theory, "annotated")
    many = make_replies(pd.concat([table] * copies, ignore_index=True), any_theory, "annotated")
    many.table["row_id"] = [f"m{i}" for i in range(len(many))]
    calls = (analysis.tabulate_prevalence, measure_clarity, lambda r: check_items(items(r), r),
             lambda r: measure_clarity(r, items(r)), lambda r: exploration.search_profiles(r, load_risks()))

    def items(replies):
        labels = make_items(replies)
        return labels.assign(**{c: np.sign(np.where(np.abs(labels[c]) < 0.5, 0, labels[c]))
                                for c in labels if c != "row_id"})

    for call in calls:
        once, again = call(one).table, call(many).table
        assert once.empty == again.empty
        if len(once):
            assert np.allclose(once[["share", "low", "high"]], again[["share", "low", "high"]], equal_nan=True)


def test_refusal_flag_is_checked_by_hand(toy, tmp_path):
    replies = make_replies(make_rows(toy, 20), toy, "scored")
    replies.table["is_refusal"] = np.arange(60) < 20
    truth = pd.DataFrame({"row_id": [f"r{i}" for i in range(70)], "is_refusal": (np.arange(70) % 4 > 0).astype(int),
                          "half": np.where(np.arange(70) < 40, "tune", "measure"), "weight": 1.0})
    truth.loc[:39, "is_refusal"] = (np.arange(40) < 25).astype(int)
    truth.to_csv(tmp_path / "labels.csv", index=False)
    found = analysis.check_refusals(replies, replies, labels=tmp_path / "labels.csv")
    tune = found.table[found.table.half == "tune"].set_index("measure")
    assert tune.share.to_dict() == {"precision": 1.0, "recall": 0.8}
    assert tune.n.to_dict() == {"precision": 20, "recall": 25}
    assert tune.low["precision"] < 1 and "On 20 labelled replies" in found.reading
    truth.weight = np.where(truth.index < 20, 1.0, 5.0)  # each miss stands for five replies
    truth.to_csv(tmp_path / "labels.csv", index=False)
    table = analysis.check_refusals(replies, labels=tmp_path / "labels.csv").table
    assert table[(table.half == "tune") & (table.measure == "recall")].share.tolist() == [20 / 45]
    assert analysis.check_refusals(replies.keep(np.arange(60) < 5), labels=tmp_path / "labels.csv").is_left_out


def test_refusal_flag_on_the_labelled_replies(mirror):
    from fulcra_utils.analysis.replies import REFUSALS
    from fulcra_utils.dataset.labelled import read_dataset, read_scored
    from fulcra_utils.dataset.texts import is_refusal
    theory, labels = load_theory("schwartz10"), pd.read_csv(REFUSALS)
    assert len(labels) >= 240 and labels.row_id.is_unique
    assert list(labels.columns) == ["row_id", "is_refusal", "half", "weight"]  # no text of a reply
    files = {"trustworthy_data": read_dataset(mirror / "trustworthy_data.jsonl", theory)}
    for name, file in (("scored_gpt-4", "gpt-4"), ("scored_gpt-3.5", "gpt-35-turbo")):
        files[name] = read_scored(mirror / "harmless_test" / f"harmless_test_openai_{file}.jsonl", theory)
    rows = pd.concat([f.table.assign(row_id=[f"{n}:{k}" for k in f.table.line], **dict.fromkeys(theory.dimensions, 0.0))
                      for n, f in files.items()], ignore_index=True)
    replies = make_replies(rows.assign(is_refusal=is_refusal(rows.response)), theory, "scored")
    table = analysis.check_refusals(replies).table
    assert table.n.sum() > 150  # flagged replies and refusals
    measured = table[table.half == "measure"].set_index("measure")
    assert measured.share.round(2).to_dict() == {"precision": 0.98, "recall": 0.98}
    assert (measured.low > 0.85).all()


def test_released_means_and_distances(mirror):
    """The released scored replies give the means of the facts to rounding."""
    from fulcra_utils.dataset.labelled import read_scored
    theory = load_theory("schwartz10")
    table = []
    for name, model in (("gpt-4", "gpt-4"), ("gpt-35-turbo", "gpt-3.5-turbo")):
        data = read_scored(mirror / "harmless_test" / f"harmless_test_openai_{name}.jsonl", theory)
        rows = data.table.assign(response_source=model).reset_index(drop=True)
        table.append(pd.concat([rows, pd.DataFrame(data.vectors, columns=list(theory.dimensions))], axis=1))
    replies = make_replies(pd.concat(table, ignore_index=True), theory, "scored")
    claims = analysis.claim_models(analysis.average_models(replies, 10), load_reported(), "scored")
    verdicts = judge_claims(claims, load_reported())
    had = verdicts[verdicts.ours.notna()]
    assert len(had) == 26
    # One printed mean is rounded up by hand (0.71046 stands as 0.711): the rule calls it different.
    assert had[had.verdict != "reproduced"].claim_id.tolist() == ["models/gpt-3.5-turbo/conformity"]
    assert (had.ours - had.reported).abs().max() < 0.0006


def test_differences_that_turn_round_with_the_controls_are_named(monkeypatch):
    columns = ["value", "difference", "low", "high", "p", "effect", "adjusted", "adjusted_low", "adjusted_high"]
    table = pd.DataFrame([["power", -0.2, -0.3, -0.1, 1e-6, -0.4, 0.03, 0.01, 0.05],
                          ["security", -0.1, -0.2, -0.05, 1e-6, -0.3, -0.05, -0.08, -0.02]], columns=columns).assign(
        first="a", second="b", n=40, from_controls=0.0, n_both_answer=30, both_answer=0.06, both_answer_low=0.04,
        both_answer_high=0.09)
    monkeypatch.setattr(analysis, "_compare_two", lambda *_: table.copy())
    rows = make_replies(make_rows(load_theory("schwartz10")), load_theory("schwartz10"), "scored")
    told = analysis.compare_models(rows, with_mixed=False).reading
    assert "surely turned round: power, power, power" in told
    assert "with refusal and length alike +0.03" in told and "where neither refuses +0.06" in told

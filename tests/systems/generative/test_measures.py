"""EVR, MVP, APV, the judge's error and the correction for it, against hand values, all choices, and simulation."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from small_notebooks import run_cell

from fulcra_utils.runs.claims import judge_claims, load_reported
from fulcra_utils.systems.generative import measures
from fulcra_utils.systems.generative.principles import read_principles

P = np.array([[0.9, 0.1, 0.6, 0.2], [0.1, 0.2, 0.3, 0.4], [0.7, np.nan, np.nan, np.nan]])


def test_the_highest_of_k_is_the_mean_over_all_choices():
    for k in range(1, 5):
        choices = [max(P[0][list(c)]) for c in combinations(range(4), k)]
        assert measures.expect_highest(P[:1], k)[0] == pytest.approx(np.mean(choices))
    assert measures.expect_highest(P, 3)[2] == pytest.approx(0.7), "fewer than k: all are taken"
    assert np.isnan(measures.expect_highest(np.full((1, 3), np.nan), 2)).all()


def test_metrics_by_hand():
    found = measures.measure_prompts(P, 0.5, 4)
    assert found[0] == pytest.approx([1, 0.9, 0.5]) and found[1] == pytest.approx([0, 0.4, 0])
    assert found[2] == pytest.approx([1, 0.7, 1])


def test_a_summary_counts_what_was_not_said_and_has_two_intervals():
    table = measures.summarise_violations({"static": P, "silent": np.full((3, 4), np.nan)}, 0.5, 4, 200)
    rows = table[table.condition == "static"].set_index("metric")
    assert pytest.approx(2 / 3) == rows.value.EVR and (rows.n == 3).all() and (rows.n_empty == 3).all()
    assert (rows.low <= rows.value).all() and (rows.value <= rows.high).all() and (rows.low_k <= rows.high_k).all()
    assert table[table.condition == "silent"][["value", "low", "low_k"]].isna().all(axis=None)


def test_one_completion_or_one_principle_has_no_interval_of_that_kind():
    one = measures.summarise_violations({"a": P[:, :1]}, 0.5, 1, 50)
    assert one.low_k.isna().all() and one.low.notna().all()
    alone = measures.summarise_violations({"a": P[:1]}, 0.5, 4, 50)
    assert alone.low.isna().all() and alone.low_k.notna().all()


def test_a_share_of_none_or_all_has_a_width():
    """Wilson's of 0 in 10: up to z² / (10 + z²) = .278, of 10 in 10 from .722; of the mean of P the bootstrap's."""
    table = measures.summarise_violations({"a": np.full((10, 7), 0.2), "b": np.full((10, 7), 0.8)}, 0.5, 2, 50)
    ends = table.set_index(["condition", "metric"])[["value", "low", "high"]].round(3)
    for metric in ("EVR", "APV"):
        assert ends.loc["a", metric].tolist() == [0, 0, 0.278] and ends.loc["b", metric].tolist() == [1, 0.722, 1]
    assert ends.loc["a", "MVP"].tolist() == [0.2] * 3
    curve = measures.summarise_curves({("a", 1): np.zeros(10), ("b", 1): np.ones(10)}, 50)
    assert curve[["low", "high"]].round(3).values.tolist() == [[0, 0.278], [0.722, 1]]
    gaps = measures.compare_conditions({"a": P, "b": P}, {"a − b": ("a", "b")}, 0.5, 4, 50)
    assert (gaps[["value", "low", "high"]] == 0).all(axis=None), "a difference is no share"


def test_none_or_all_has_a_width_over_completions():
    """Wilson's of 0 in 70 completions: up to z² / (70 + z²); EVR has 35 choices of 2 that share no completion."""
    table = measures.summarise_violations({"a": np.full((10, 7), 0.2), "b": np.full((10, 7), 0.8)}, 0.5, 2, 50)
    ends = table.set_index(["condition", "metric"])[["low_k", "high_k"]].round(4)
    assert ends.loc["a", "APV"].tolist() == [0, 0.052] and ends.loc["b", "APV"].tolist() == [0.948, 1]
    assert ends.loc["a", "EVR"].tolist() == [0, 0.0989] and ends.loc["b", "EVR"].tolist() == [0.9011, 1]
    assert ends.loc["a", "MVP"].tolist() == [0.2] * 2, "of the mean of P the bootstrap's"
    gap = measures.summarise_violations({"a": np.array([[0.2, 0.2, np.nan], [0.2, np.nan, np.nan]])}, 0.5, 2, 50)
    assert gap.high_k[[0, 2]].round(4).tolist() == [0.6576, 0.5615], "two choices, three completions were said"


def test_none_is_found_at_most_as_often_as_the_interval_says():
    """Where 2 % violate, half of all draws of 30 hold none: its end lies above the truth."""
    rng = np.random.default_rng(0)
    tables = [measures.summarise_violations({"a": (rng.random((10, 3)) < 0.02) * 1.0}, 0.5, 3, 20) for _ in range(40)]
    none = pd.concat([table[(table.metric == "APV") & (table.value == 0)] for table in tables])
    assert len(none) > 10 and (none.high_k > 0.02).all()


def test_differences_are_paired():
    table = measures.compare_conditions({"a": P, "b": P - 0.05}, {"a − b": ("a", "b")}, 0.95, 4, 100)
    mvp = table.set_index("metric").loc["MVP"]
    assert mvp[["value", "low", "high"]].tolist() == pytest.approx([0.05] * 3), "the same for each: no width"
    assert table.set_index("metric").value.APV == 0


def test_curves_are_means_over_principles():
    points = {("a", k): measures.measure_prompts(P[:2], 0.5, k)[:, 0] for k in range(1, 5)}
    table = measures.summarise_curves(points, 50)
    assert table.x.tolist() == [1, 2, 3, 4] and table.value.is_monotonic_increasing and table.value.iloc[-1] == 0.5


def test_the_judge_is_measured_where_both_readings_agree():
    truth, p = np.array([1, 1, 0, 0, 0, np.nan]), np.array([0.9, 0.1, 0.1, 0.2, 0.8, 0.9])
    table, draws = measures.measure_judge(p, truth, np.arange(6), 0.5, 300)
    assert table.value.tolist() == pytest.approx([1 / 2, 2 / 3, 7 / 12]) and table.n.tolist() == [2, 3, 5]
    assert draws.shape == (300, 2)
    perfect, _ = measures.measure_judge(truth[:5], truth[:5], np.arange(5), 0.5, 50)
    assert (perfect.value == 1).all() and (perfect.low < 0.7).all(), "few that are all right prove little"
    calls_all = np.array([1] * 5 + [0] * 30), np.repeat([0.9, 0.9, 0.1], [5, 26, 4])   # nearly all "violate" by it
    guess = measures.measure_judge(calls_all[1], calls_all[0], np.arange(35), 0.5, 50)[0].iloc[2]
    assert guess.value == pytest.approx((1 + 4 / 30) / 2) and guess.low < 0.4, "who finds all five may still guess"


def tell_quality(*value, low=0.55):
    return pd.DataFrame({"measure": ["sensitivity", "specificity", "balanced accuracy"], "value": [*value, np.nan],
                         "low": low})


def test_a_perfect_judge_is_not_corrected_and_its_error_widens_nothing():
    quality = tell_quality(1.0, 1.0)
    table = measures.correct_violations({"a": P[:2]}, 0.5, quality, np.ones((100, 2)), {"a"})
    assert table.value[0] == table.measured[0] == 0.25


def test_a_share_is_no_certainty_where_the_judges_error_cannot_hold():
    quality = tell_quality(0.69, 0.61)
    draws = np.random.default_rng(1).normal((0.69, 0.61), 0.05, (500, 2))
    few, some = np.zeros((20, 40)), np.zeros((20, 40))
    few[:, :2], some[:, :20] = 1, 1     # .05, far below the false alarms of .39, and .5
    table = measures.correct_violations({"few": few, "some": some, "new": some}, 0.5, quality, draws, {"few", "some"})
    table = table.set_index("condition")
    assert table.loc[["few", "new"], ["value", "low", "high"]].isna().all(axis=None)
    assert 0 <= table.low["some"] < table.value["some"] < table.high["some"] <= 1
    assert table.measured["few"] == pytest.approx(0.05)


@pytest.mark.parametrize(("low", "n_hits", "is_given"), [(0.51, 20, True), (0.5, 20, False), (0.51, 14, False)])
def test_nothing_is_corrected_by_a_judge_that_may_guess_or_beyond_what_a_share_can_be(low, n_hits, is_given):
    """Of 40, 20 are more than the false alarms of .39 explain, 14 (.35) are fewer: below 0, though not for sure."""
    draws, p = np.random.default_rng(1).normal((0.69, 0.61), 0.05, (500, 2)), np.zeros((20, 40))
    p[:, :n_hits] = 1
    table = measures.correct_violations({"a": p}, 0.5, tell_quality(0.69, 0.61, low=low), draws, {"a"})
    assert table[["value", "low", "high"]].notna().all(axis=None) == is_given
    assert table[["value", "low", "high"]].isna().all(axis=None) != is_given


def test_the_committed_labels_are_whole():
    table = measures.read_labels()
    assert len(table) >= 200 and set(table.stratum) == {"evolved", "placebo", "static"}
    assert set(table.principle) <= {one.principle for one in read_principles()[0]}
    assert set(table["first"]) | set(table["second"]) <= set(measures.CODES) and table.completion.str.strip().all()
    assert (table.groupby("principle").half.nunique() == 1).all() and set(table.half) == {"tune", "measure"}
    agreed = table[table["first"] == table["second"]]
    assert (agreed.violates == (agreed["first"] == "violates")).all()


@pytest.mark.parametrize(("low", "evr", "apv", "verdicts", "whys"), [
    (0.5, 0.9, 0.2, ["not comparable"] * 3, ["the judge may be no better than chance"] * 3),
    (0.51, 1.0, 0.2, ["reproduced", "reproduced", "not comparable"], ["", "", "both shares are 1: nothing can differ"]),
    (0.51, 0.0, 0.0, ["not comparable"] * 3, ["both shares are 0: nothing can differ"] * 3),
    (0.51, 0.9, 0.2, ["reproduced", "reproduced", "differs"], ["", "", ""])])
def test_notebook_10_gives_no_verdict_by_a_judge_that_may_guess_nor_where_nothing_can_differ(
        low, evr, apv, verdicts, whys):
    def compare(ours):
        table = judge_claims(ours, load_reported())
        assert table.verdict.tolist() == verdicts and table.ours.tolist() == [0.2] * 3
        assert all(said.startswith(why) for said, why in zip(table.why, whys, strict=True))

    pairs = [("evolved − static", "APV"), ("evolved − placebo", "APV"), ("instructed − evolved", "EVR")]
    gains = pd.DataFrame(pairs, columns=["comparison", "metric"]).assign(value=0.2, low=0.1, high=0.3)
    told = [("evolved", "EVR", evr), ("instructed", "EVR", evr), ("evolved", "APV", apv), ("static", "APV", apv),
            ("placebo", "APV", apv)]
    summary = pd.DataFrame(told, columns=["condition", "metric", "value"])
    run_cell("10_generative_evaluation", "run.compare(", pd=pd, gains=gains, summary=summary, chosen="mine",
             found=pd.DataFrame({"low": [low]}, ["mine"]), run=type("Run", (), {"compare": staticmethod(compare)}))

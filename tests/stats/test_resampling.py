"""Intervals and draws against an outside oracle, and at their limits."""

import numpy as np
import pytest
from scipy import stats as sps
from statsmodels.stats.proportion import proportion_confint

from fulcra_utils.stats.agreement import measure_agreement
from fulcra_utils.stats.classification import bootstrap_macro_f1
from fulcra_utils.stats.comparison import bootstrap_correlations, correlate
from fulcra_utils.stats.resampling import (
    bootstrap_crossed,
    bootstrap_means,
    code_clusters,
    draw_clusters,
    draw_sums,
    mean_interval,
    share_interval,
    sum_by_cluster,
    summarise_draws,
    take_interval,
    wilson_interval,
)


@pytest.mark.parametrize(("count", "n"), [(0, 10), (3, 10), (10, 10), (592, 1718)])
def test_wilson_equals_statsmodels(count, n):
    assert np.allclose(wilson_interval(count, n), proportion_confint(count, n, method="wilson"))


def test_wilson_limits():
    assert np.isnan(wilson_interval(0, 0)).all()


@pytest.mark.parametrize(("count", "n"), [(0, 10), (3, 10), (10, 10), (1, 400)])
def test_share_of_single_rows_is_wilsons(count, n):
    hits = (np.arange(n) < count).astype(float)
    assert np.allclose(share_interval(hits, np.ones(n), np.arange(n)),
                       np.reshape([count / n, *wilson_interval(count, n)], (3, 1)))


@pytest.mark.parametrize("copies", [2, 7])
def test_copied_rows_add_nothing_to_a_share(copies):
    rng = np.random.default_rng(copies)
    for share in (0.0, 0.1, 0.5, 1.0):  # at 0 and 100 % the prompts count, not the rows
        hits, prompts = (rng.random(40) < share).astype(float), np.arange(40)
        once = share_interval(hits, np.ones(40), prompts)
        again = share_interval(*(np.repeat(x, copies) for x in (hits, np.ones(40), prompts)))
        assert np.allclose(once, again) and 0.05 < (again[2] - again[1])[0] < 0.35
        assert np.allclose(once, share_interval(9 * hits, np.full(40, 9.0), prompts))  # equal weights


def test_share_limits():
    share, low, high = share_interval(np.zeros((4, 2)), [[1, 0]] * 4, [0, 0, 1, 1])
    assert share[0] == 0 and (low[0], high[0] > 0.5) == (0, True) and np.isnan([share[1], low[1], high[1]]).all()
    assert np.isnan(share_interval(np.zeros((0, 1)), np.zeros((0, 1)), [])).all()
    one = share_interval(np.ones(50), np.ones(50), np.zeros(50))
    assert np.allclose(np.ravel(one[1:]), wilson_interval(1, 1))  # fifty rows of one prompt are one prompt


@pytest.mark.slow
def test_share_interval_covers():
    rng, plain = np.random.default_rng(0), []
    for n_prompts in (5, 10, 20, 50):
        for alike in (0.01, 0.3, 0.9):  # correlation within a prompt
            for share in (0.02, 0.1, 0.3):
                covers = np.empty((600, 2))
                for k in range(len(covers)):
                    prompts = np.repeat(np.arange(n_prompts), rng.integers(1, 10, n_prompts))
                    own = rng.beta(share * (1 / alike - 1), (1 - share) * (1 / alike - 1), n_prompts)
                    hits = rng.random(len(prompts)) < own[prompts]
                    _, low, high = share_interval(hits, np.ones(len(hits)), prompts)
                    rows = wilson_interval(hits.sum(), len(hits))
                    covers[k] = low[0] <= share <= high[0], rows[0] <= share <= rows[1]
                plain.append(covers[:, 1].mean())
                assert covers[:, 0].mean() > 0.89, (n_prompts, alike, share)
    assert min(plain) < 0.65  # of rows that are taken for independent


def test_sum_by_cluster_equals_loop(rows):
    x, _, clusters = rows
    codes, n = code_clusters(clusters)
    expected = [x[codes == g].sum(axis=0) for g in range(n)]
    assert np.allclose(sum_by_cluster(x, codes, n), expected)


def test_take_interval_limits():
    low, high = take_interval(np.array([[np.nan, 1.0], [np.nan, 1.0], [3.0, 1.0]]))
    assert np.isnan(low[0])
    assert high[1] == 1
    assert np.isnan(take_interval(np.full(4, np.nan))).all()
    assert np.isnan(take_interval(np.empty((0, 2)))).all()


def test_half_of_the_draws_must_be_numbers():
    draws = np.column_stack([[1.0, 2, np.nan, np.nan], [1.0, np.nan, np.nan, np.nan]])
    low, high = take_interval(draws)
    assert np.isfinite([low[0], high[0]]).all() and np.isnan([low[1], high[1]]).all()
    assert np.isnan([summarise_draws(0.5, draws[:, 1])[end] for end in ("low", "high")]).all()


def test_one_cluster_has_no_interval(rows):
    x, y, _ = rows
    one = np.zeros(len(x))
    assert np.isnan(bootstrap_means(x, one, 9)).all() and np.isnan(bootstrap_correlations(x, y, one, 9)).all()
    assert np.isnan(bootstrap_macro_f1(np.sign(x), {"a": np.sign(x)}, one, 9)["a"]).all()
    table = measure_agreement(np.stack([np.sign(x[:, :1])] * 2), ["a"], one, draws=9)
    assert (table.value[table.statistic == "observed"] == 1).all() and table.low.isna().all()


def test_sums_are_drawn_in_parts_as_at_once():
    sums = np.random.default_rng(0).normal(size=(3000, 2))
    drawn = draw_sums(sums, 2000, 7)      # more than four million weights: in two parts
    assert np.allclose(drawn, draw_clusters(3000, 2000, 7) @ sums)


def test_alike_clusters_are_drawn_as_their_kinds():
    drawn = draw_sums(np.array([[0.0], [1.0]]), 4000, 0, np.array([30, 10]))[:, 0]
    assert drawn.mean() == pytest.approx(10, abs=0.2)
    assert drawn.std() == pytest.approx(np.sqrt(40 * 0.25 * 0.75), rel=0.05)


def test_mean_interval_is_students():
    values = np.random.default_rng(0).normal(size=8)
    found = sps.ttest_1samp(values, 0).confidence_interval()
    assert mean_interval([*values, np.nan]) == pytest.approx((values.mean(), found.low, found.high))
    assert mean_interval([2.0, 2.0]) == (2, 2, 2) and np.isnan(mean_interval([1.0])[1:]).all()


def test_bootstrap_means(rows):
    x, _, _ = rows
    draws = bootstrap_means(x, np.arange(300), n_draws=2000)
    assert draws.std(axis=0) == pytest.approx(x.std(axis=0) / np.sqrt(300), rel=0.1)
    assert np.isnan(bootstrap_means(np.full((3, 1), np.nan), [0, 1, 2], 4)).all()


def test_crossed_draws_have_the_variance_of_prompts_and_repeats():
    random, n, n_repeats = np.random.default_rng(3), 60, 4
    prompts, repeats = random.normal(size=(n, 1, 1)), random.normal(size=(1, n_repeats, 1))
    draws = bootstrap_crossed(prompts + 0 * repeats, 4000)
    assert draws.std() == pytest.approx(prompts.std() / np.sqrt(n), rel=0.1)
    draws = bootstrap_crossed(0 * prompts + repeats, 4000)      # unbiased, where drawing all four would give 3/4 of it
    assert draws.var() == pytest.approx(repeats.var(ddof=1) / n_repeats, rel=0.1)
    both = bootstrap_crossed(np.concatenate([prompts + repeats, 7 + 0 * prompts * repeats], 2), 4000)
    assert both.mean(axis=0) == pytest.approx([(prompts + repeats).mean(), 7], abs=0.05) and both.shape == (4000, 2)
    for shape in ((1, 3, 1), (3, 1, 1), (0, 2, 1)):
        assert np.isnan(bootstrap_crossed(np.zeros(shape), 5)).all()


def test_arrays_with_three_axes_are_refused():
    with pytest.raises(ValueError, match="rows and columns"):
        correlate(np.zeros((2, 2, 2)), np.zeros((2, 1)))

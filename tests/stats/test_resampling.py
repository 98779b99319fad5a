"""Every statistic against an outside oracle, and at its limits."""

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats as sps
from sklearn.decomposition import PCA
from statsmodels.stats.proportion import proportion_confint

from fulcra_utils.stats import comparison as stats
from fulcra_utils.stats.agreement import measure_agreement
from fulcra_utils.stats.classification import bootstrap_macro_f1
from fulcra_utils.stats.comparison import bootstrap_correlations, correlate, find_components
from fulcra_utils.stats.resampling import (
    bootstrap_means,
    draw_clusters,
    draw_sums,
    mean_interval,
    share_interval,
    sum_by_cluster,
    summarise_draws,
    take_interval,
    wilson_interval,
)


@pytest.fixture
def rows():
    """Return 300 rows of 4 values, 2 indicators and prompts with one to three rows each."""
    rng = np.random.default_rng(1)
    clusters = rng.integers(0, 140, 300)
    shared = rng.normal(size=140)[clusters]
    x = rng.normal(size=(300, 4)) + shared[:, None]
    y = (rng.normal(size=(300, 2)) + 0.4 * x[:, :2] + shared[:, None] > 0).astype(float)
    return x, y, clusters


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
    codes, n = stats.code_clusters(clusters)
    expected = [x[codes == g].sum(axis=0) for g in range(n)]
    assert np.allclose(sum_by_cluster(x, codes, n), expected)


def test_correlate_equals_scipy_point_biserial(rows):
    x, y, _ = rows
    r, p = correlate(x, y)
    for d in range(4):
        for k in range(2):
            oracle = sps.pointbiserialr(y[:, k], x[:, d])
            assert r[d, k] == pytest.approx(oracle.statistic)
            assert p[d, k] == pytest.approx(oracle.pvalue)


def test_correlate_ranks_equals_scipy_spearman(rows):
    x, y, _ = rows
    r, _ = correlate(sps.rankdata(x, axis=0), sps.rankdata(y, axis=0))
    assert r[2, 1] == pytest.approx(sps.spearmanr(x[:, 2], y[:, 1]).statistic)


def test_clustered_p_equals_statsmodels(rows):
    x, y, clusters = rows
    _, p = correlate(x, y, clusters)
    fit = sm.OLS(sps.zscore(x[:, 3]), sm.add_constant(sps.zscore(y[:, 1]))).fit(
        cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True)
    assert p[3, 1] == pytest.approx(fit.pvalues[1], rel=1e-6)


def test_correlate_limits():
    constant = np.column_stack([np.ones(5), np.arange(5.0)])
    r, p = correlate(constant, [[0], [0], [1], [1], [1]])
    assert np.isnan([r[0], p[0]]).all()
    assert np.isfinite(r[1])
    assert np.isnan(correlate(constant, np.ones((5, 1)))[0]).all()
    assert np.isnan(correlate([[1.0]], [[1.0]])[0]).all()
    with pytest.raises(ValueError, match="the same rows"):
        correlate(np.ones((3, 1)), np.ones((2, 1)))
    for x, y in ((1.0, np.nan), (np.nan, 1.0)):
        with pytest.raises(ValueError, match="missing cells"):
            correlate(np.full((3, 1), x), np.full((3, 1), y))


def test_bootstrap_correlations_equal_repeated_rows(rows):
    """A draw's weights must act as if its prompts had been copied."""
    x, y, clusters = rows
    draws = bootstrap_correlations(x, y, clusters, n_draws=5, seed=3)
    codes, n = stats.code_clusters(clusters)
    for weights, drawn in zip(draw_clusters(n, 5, seed=3), draws, strict=True):
        copies = np.repeat(np.arange(300), weights[codes].astype(int))
        assert np.allclose(drawn, correlate(x[copies], y[copies])[0])


def test_bootstrap_is_as_wide_as_theory():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 1))
    draws = bootstrap_correlations(x, 0.5 * x + rng.normal(size=(400, 1)), np.arange(400), n_draws=1000)
    r = 0.5 / np.sqrt(1.25)
    assert draws.std() == pytest.approx((1 - r**2) / np.sqrt(400), rel=0.15)


def test_bootstrap_respects_clusters():
    """Rows copied four times within a prompt carry no more information."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(100, 1)), rng.normal(size=(100, 1))
    once = bootstrap_correlations(x, y, np.arange(100), 400).std()
    four = np.repeat(np.arange(100), 4)
    copied = bootstrap_correlations(x[four], y[four], four, 400).std()
    assert copied == pytest.approx(once)


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


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value")
def test_correlations_of_no_rows_are_nan():
    none = np.empty((0, 2))
    draws = bootstrap_correlations(none, none[:, :1], np.arange(0), 9)
    assert draws.shape == (9, 2, 1) and np.isnan(draws).all()


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


@pytest.mark.parametrize("method", ["bh", "holm"])
def test_adjusted_p_worked_example(method):
    """R: p.adjust(c(.01, .02, .03, .04, .05), "BH") gives .05 throughout; "holm" gives .05, .08, .09, .09, .09."""
    expected = [0.05] * 5 if method == "bh" else [0.05, 0.08, 0.09, 0.09, 0.09]
    assert np.allclose(stats.adjust_p([0.01, 0.02, 0.03, 0.04, 0.05], method), expected)


def test_adjusted_p_limits():
    p = np.array([[0.01, np.nan], [0.2, 0.03]])
    adjusted = stats.adjust_p(p)
    assert np.isnan(adjusted[0, 1])
    assert np.allclose(adjusted[~np.isnan(p)], sps.false_discovery_control(p[~np.isnan(p)]))
    assert np.isnan(stats.adjust_p([np.nan])).all()
    with pytest.raises(ValueError, match="method not recognized"):
        stats.adjust_p([0.1], "bonferoni")


def test_bootstrap_means(rows):
    x, _, _ = rows
    draws = bootstrap_means(x, np.arange(300), n_draws=2000)
    assert draws.std(axis=0) == pytest.approx(x.std(axis=0) / np.sqrt(300), rel=0.1)
    assert np.isnan(bootstrap_means(np.full((3, 1), np.nan), [0, 1, 2], 4)).all()


def test_paired_equals_scipy(rows):
    a, b = rows[0][:, :2], rows[0][:, 2:]
    found = stats.compare_paired(a, b)
    oracle = sps.ttest_rel(a, b)
    assert np.allclose(found["t"], oracle.statistic)
    assert np.allclose(found["p"], oracle.pvalue)
    interval = oracle.confidence_interval()
    assert np.allclose([found["low"], found["high"]], [interval.low, interval.high])
    assert np.allclose(found["effect"], found["t"] / np.sqrt(300))


def test_paired_clusters_equal_robust_regression(rows):
    """Near-duplicate prompts: the oracle is the regression on a constant with errors summed over clusters."""
    rng = np.random.default_rng(4)
    clusters = np.repeat(np.arange(25), rng.integers(1, 8, 25))
    d = rng.normal(0.3, 1, len(clusters)) + rng.normal(size=25)[clusters]
    found = stats.compare_paired(d[:, None], np.zeros((len(d), 1)), clusters=clusters)
    fit = sm.OLS(d, np.ones(len(d))).fit(cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True)
    assert found["difference"][0] == pytest.approx(fit.params[0])
    assert (found["low"][0], found["high"][0]) == pytest.approx(tuple(fit.conf_int()[0]))
    assert found["p"][0] == pytest.approx(fit.pvalues[0])
    plain = stats.compare_paired(d[:, None], np.zeros((len(d), 1)))
    assert found["high"][0] - found["low"][0] > 1.3 * (plain["high"][0] - plain["low"][0])
    copied = stats.compare_paired(np.repeat(d, 3)[:, None], np.zeros((3 * len(d), 1)), clusters=np.repeat(np.arange(
        len(d)), 3))
    assert copied["high"] == pytest.approx(plain["high"])            # copies of a prompt tell nothing new
    assert np.isnan(stats.compare_paired(d[:, None], np.zeros((len(d), 1)), clusters=np.zeros(len(d)))["low"]).all()


def test_paired_limits():
    found = stats.compare_paired([[1.0, np.nan], [2.0, 5.0]], [[0.0, 1.0], [1.0, 2.0]])
    assert (found["difference"][0], found["low"][0], found["n"][0]) == (1, 1, 2)
    assert np.isnan(found["t"]).all() and np.isnan(found["difference"][1])
    one = stats.compare_paired([[3.0]], [[1.0]])
    assert one["difference"] == 2 and np.isnan([one["low"], one["t"], one["effect"]]).all()
    assert np.isnan(stats.compare_paired(np.empty((0, 1)), np.empty((0, 1)))["difference"]).all()
    with pytest.raises(ValueError, match="one shape"):
        stats.compare_paired([[1.0]], [[1.0, 2.0]])


def test_adjusted_difference_recovers_truth():
    rng = np.random.default_rng(0)
    controls = rng.normal(size=(2000, 2)) + [1.0, -1.0]
    difference = (0.3 + controls @ [0.5, 0.2] + 0.1 * rng.normal(size=2000))[:, None]
    found = stats.adjust_difference(difference, controls, np.arange(2000))
    assert found["difference"][0] == pytest.approx(0.3, abs=0.02)
    assert found["low"][0] < 0.3 < found["high"][0]


def test_adjusted_difference_of_copied_prompts_is_no_surer():
    rng = np.random.default_rng(5)
    d, controls = rng.normal(size=(40, 1)), rng.normal(size=(40, 1))
    once = stats.adjust_difference(d, controls, clusters=np.arange(40))
    four = np.repeat(np.arange(40), 4)
    copied = stats.adjust_difference(d[four], controls[four], clusters=four)
    assert copied["high"] - copied["low"] == pytest.approx(once["high"] - once["low"], rel=0.03)


def test_adjusted_difference_limits():
    column = np.arange(5.0)[:, None]
    alike = stats.adjust_difference(column, np.zeros((5, 2)), np.arange(5))
    assert alike["difference"][0] == pytest.approx(2)
    assert np.isnan(stats.adjust_difference(np.ones((5, 1)), column, np.arange(5))["difference"]).all()
    assert np.isnan(stats.adjust_difference(column[:2], column[1:3], np.arange(2))["difference"]).all()


def test_mixed_model_equals_paired_test_when_balanced(rows):
    """With two replies to every prompt the random intercept gives the paired difference."""
    rng = np.random.default_rng(2)
    prompts, model = np.repeat(np.arange(60), 2), np.tile([[0.0], [1.0]], (60, 1))
    y = rng.normal(size=60)[prompts] + 0.4 * model[:, 0] + 0.5 * rng.normal(size=120)
    fit = stats.fit_mixed(y, model, prompts)
    paired = stats.compare_paired(y[1::2, None], y[::2, None])
    assert fit["effect"][0] == pytest.approx(paired["difference"][0])
    assert (fit["high"] - fit["low"])[0] / 2 / 1.96 == pytest.approx(paired["difference"][0] / paired["t"][0], rel=1e-3)
    assert 0.5 < fit["icc"] < 1


def test_mixed_model_limits():
    model, prompts = np.tile([[0.0], [1.0]], (5, 1)), np.repeat(np.arange(5), 2)
    for y, x, groups in ((np.ones(10), model, prompts), (np.arange(10.0), np.ones((10, 1)), prompts),
                         (np.arange(10.0), model, np.arange(10))):
        fit = stats.fit_mixed(y, x, groups)
        assert np.isnan(fit["effect"]).all()
        assert not fit["converged"]


def test_components_equal_scikit_learn(rows):
    x = rows[0]
    found, oracle = find_components(x), PCA(2).fit(x)
    assert np.allclose(found["share"], oracle.explained_variance_ratio_)
    assert np.allclose(np.abs((x - found["mean"]) @ found["axes"].T), np.abs(oracle.transform(x)))


def test_components_limits():
    assert np.isnan(find_components(np.ones((4, 3)))["share"]).all()
    few = find_components(np.array([[0.0, 1, 2, 3], [1.0, 0, 5, 1]]))
    assert few["share"] == pytest.approx([1, 0], abs=1e-9)
    with pytest.raises(ValueError, match="contains NaN"):
        find_components([[0.0, 1.0], [1.0, 0.0], [np.nan, 1.0]])


def test_arrays_with_three_axes_are_refused():
    with pytest.raises(ValueError, match="rows and columns"):
        correlate(np.zeros((2, 2, 2)), np.zeros((2, 1)))

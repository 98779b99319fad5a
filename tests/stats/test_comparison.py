"""Comparisons and correlations against SciPy, statsmodels and R, and at their limits."""

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats as sps
from sklearn.decomposition import PCA
from statsmodels.stats.multitest import multipletests

from fulcra_utils.stats import comparison as stats
from fulcra_utils.stats.comparison import bootstrap_correlations, correlate, find_components
from fulcra_utils.stats.resampling import draw_clusters


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


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value")
def test_correlations_of_no_rows_are_nan():
    none = np.empty((0, 2))
    draws = bootstrap_correlations(none, none[:, :1], np.arange(0), 9)
    assert draws.shape == (9, 2, 1) and np.isnan(draws).all()


@pytest.mark.parametrize("method", ["bh", "holm"])
def test_adjusted_p_worked_example(method):
    """R: p.adjust(c(.01, .02, .03, .04, .05), "BH") gives .05 throughout; "holm" gives .05, .08, .09, .09, .09."""
    expected = [0.05] * 5 if method == "bh" else [0.05, 0.08, 0.09, 0.09, 0.09]
    assert np.allclose(stats.adjust_p([0.01, 0.02, 0.03, 0.04, 0.05], method), expected)


def test_adjusted_p_limits():
    p = np.array([[0.01, np.nan], [0.2, 0.03]])
    adjusted = stats.adjust_p(p)
    assert np.isnan(adjusted[0, 1])
    for method, name in (("bh", "fdr_bh"), ("holm", "holm")):
        found = stats.adjust_p(p, method)[~np.isnan(p)]
        assert np.allclose(found, multipletests(p[~np.isnan(p)], method=name)[1])
    assert np.isnan(stats.adjust_p([np.nan])).all()
    with pytest.raises(ValueError, match="method not recognized"):
        stats.adjust_p([0.1], "bonferoni")


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


def test_what_few_prompts_say_correlates_with_nothing_for_sure():
    rng, clusters = np.random.default_rng(0), np.repeat(np.arange(100), 2)
    x, y = np.zeros((200, 2)), rng.normal(size=(200, 1))
    x[:6, 0] = x[::8, 1] = 1                     # said in 3 prompts, and in 25
    r, p = correlate(x, y, clusters)
    assert np.isfinite(r).all() and np.isnan(p).ravel().tolist() == [True, False]
    draws = bootstrap_correlations(x, y, clusters, 20)
    assert np.isnan(draws[:, 0]).all() and np.isfinite(draws[:, 1]).all()


def test_adjusted_difference_of_few_prompts_covers_what_it_promises():
    rng, n_held = np.random.default_rng(1), 0
    for _ in range(400):
        controls, noise = rng.normal(size=(5, 1)), rng.normal(size=(5, 1))
        found = stats.adjust_difference(controls + noise, controls, np.arange(5))
        n_held += found["low"][0] < 0 < found["high"][0]
    assert n_held / 400 > 0.9      # G - 1 degrees of freedom gave .88


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
    always = np.column_stack([np.ones(8), np.arange(8.0) % 3])      # one model always refuses, the other never
    assert np.isnan(stats.adjust_difference(np.arange(8.0)[:, None] ** 2, always, np.arange(8))["difference"]).all()


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


def test_a_mixed_model_that_loses_its_errors_gets_those_of_its_variances(monkeypatch):
    from statsmodels.regression.mixed_linear_model import MixedLMResults

    rng, groups = np.random.default_rng(0), np.repeat(np.arange(30), [1, 2, 3] * 10)
    x = rng.normal(size=(60, 2))
    y = x[:, 0] + rng.normal(size=30)[groups] + rng.normal(size=60)
    known = stats.fit_mixed(y, x, groups)
    monkeypatch.setattr(MixedLMResults, "conf_int", lambda self: np.full((4, 2), np.nan))
    again = stats.fit_mixed(y, x, groups)
    for name in ("low", "high", "p"):
        assert again[name] == pytest.approx(known[name], abs=0.01)

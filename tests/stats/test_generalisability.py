"""Variance components against published worked examples, hand values, another library and simulation."""

import numpy as np
import pytest
from scipy import stats as sps

from fulcra_utils.stats.generalisability import (
    MOST_CLUSTERS,
    count_flips,
    detect_difference,
    estimate_components,
    explain_scores,
    mean_ends,
    widen_level,
)
from fulcra_utils.stats.resampling import take_interval

# Shrout & Fleiss (1979), Psychological Bulletin 86, table 2: six persons rated by four judges
JUDGED = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)
# Davies & Goldsmith (1972), Dyestuff, as lme4 prints it: yield of five samples of each of six batches
DYESTUFF = [1545, 1440, 1440, 1520, 1580, 1540, 1555, 1490, 1560, 1495, 1595, 1550, 1605, 1510, 1560,
            1445, 1440, 1595, 1465, 1545, 1595, 1630, 1515, 1635, 1625, 1520, 1455, 1450, 1480, 1445]
# the same, Pastes: two assays of each of three casks of each of ten batches
PASTES = [62.8, 62.6, 60.1, 62.3, 62.7, 63.1, 60.0, 61.4, 57.5, 56.9, 61.1, 58.9, 58.7, 57.5, 63.9, 63.1, 65.4, 63.7,
          57.1, 56.4, 56.9, 58.6, 64.7, 64.5, 55.1, 55.1, 54.7, 54.2, 58.8, 57.5, 63.4, 64.9, 59.3, 58.1, 60.5, 60.0,
          62.5, 62.6, 61.0, 58.7, 56.9, 57.7, 59.2, 59.4, 65.2, 66.0, 64.8, 64.1, 54.8, 54.8, 64.0, 64.0, 57.7, 56.8,
          58.3, 59.3, 59.2, 59.2, 58.9, 56.6]


def estimate(values, terms, clusters, n_draws=0, seed=0):
    values = np.asarray(values, float)
    terms = {**terms, "rest": np.arange(len(values))}
    return estimate_components(values.reshape(len(values), -1), terms, clusters, n_draws, seed)


def test_crossed_design_of_shrout_and_fleiss():
    person, judge = (one.ravel() for one in np.indices(JUDGED.shape))
    found = estimate(JUDGED.ravel(), {"person": person, "judge": judge}, person)[0].ravel()
    between, judges, rest = 11.24, 32.49, 1.02      # their mean squares, rounded as printed
    np.testing.assert_allclose(found, [(between - rest) / 4, (judges - rest) / 6, rest], atol=0.005)
    assert round(found[0] / found.sum(), 2) == 0.29                         # their ICC(2,1)
    assert round(found[0] / (found[0] + found[2] / 4), 2) == 0.91           # their ICC(3,4)


def test_nested_designs_of_davies_and_goldsmith():
    batch = np.repeat(range(6), 5)
    np.testing.assert_allclose(estimate(DYESTUFF, {"batch": batch}, batch).ravel(), [1764.05, 2451.25], rtol=1e-6)
    batch, cask = np.repeat(range(10), 6), np.repeat(range(30), 2)
    found = estimate(PASTES, {"batch": batch, "cask": cask}, batch).ravel()
    np.testing.assert_allclose(found, [1.657, 8.434, 0.678], atol=5e-4)     # as lme4 prints them


def test_unbalanced_one_way_is_the_textbook_estimate():
    group = np.array([0, 0, 0, 1, 1, 2])
    y = np.array([1.0, 2.0, 3.0, 7.0, 9.0, 4.0])
    parts = [y[group == g] for g in range(3)]
    within = sum(((p - p.mean()) ** 2).sum() for p in parts) / 3
    between = sum(len(p) * (p.mean() - y.mean()) ** 2 for p in parts) / 2
    size = (6 - (9 + 4 + 1) / 6) / 2        # n0 of Searle, Casella & McCulloch (1992), section 3.6
    np.testing.assert_allclose(estimate(y, {"g": group}, group).ravel(), [(between - within) / size, within])


def test_unbalanced_nested_rows_agree_with_another_library(recwarn):
    import statsmodels.api as sm
    rng = np.random.default_rng(3)
    prompt = np.repeat(np.arange(300), rng.integers(1, 6, 300))
    y = rng.normal(size=300)[prompt] * 0.7 + rng.normal(size=len(prompt)) * 0.5
    fit = sm.MixedLM(y, np.ones((len(y), 1)), groups=prompt).fit()
    found = estimate(y, {"prompt": prompt}, prompt)[0].ravel()
    np.testing.assert_allclose(found, [fit.cov_re.item(), fit.scale], rtol=0.05)    # another estimator: near


def make_scores(rng, n_prompts=40, n_models=3, n_wordings=2, n_draws=2, sizes=(0.3, 0.5, 0.3, 0.2, 0.2, 0.6)):
    """Return scores, terms, prompts and the true variances; the models' is that of the models drawn."""
    m, p, w, _ = (one.ravel() for one in np.indices((n_models, n_prompts, n_wordings, n_draws)))
    levels = {"model": m, "prompt": p, "model × prompt": m * n_prompts + p, "paraphrase": p * n_wordings + w,
              "model × paraphrase": (m * n_prompts + p) * n_wordings + w}
    effects = [rng.normal(size=level.max() + 1) * size for level, size in zip(levels.values(), sizes, strict=False)]
    y = sum(effect[level] for effect, level in zip(effects, levels.values(), strict=True))
    true = np.array([effects[0].var(ddof=1), *np.square(sizes[1:])])
    return y + rng.normal(size=len(m)) * sizes[-1], levels, p, true


def share_of(components):
    components = np.clip(components[..., 0], 0, None)
    return components / components.sum(axis=-1, keepdims=True)


@pytest.mark.slow
def test_intervals_hold_the_true_shares():
    """Set before looking: each share in 90 of 100 draws with 100 prompts; with 40, 90 of 100 over all shares."""
    for n_prompts, by in ((100, lambda hits: hits.mean(axis=0).min()), (40, np.mean)):
        rng, hits = np.random.default_rng(2023), []
        for k in range(100):
            y, levels, prompts, true = make_scores(rng, n_prompts)
            shares = share_of(estimate(y, levels, prompts, 300, k))
            low, high = take_interval(shares[1:], widen_level(n_prompts))
            hits.append((low <= true / true.sum()) & (true / true.sum() <= high))
        assert by(np.array(hits)) >= 0.9


def test_estimates_are_unbiased_also_where_rows_are_missing():
    rng, found, truth = np.random.default_rng(0), [], []
    for _ in range(60):
        y, levels, prompts, true = make_scores(rng)
        kept = rng.random(len(y)) < 0.7
        found.append(estimate(y[kept], {k: v[kept] for k, v in levels.items()}, prompts[kept])[0].ravel())
        truth.append(true)
    error = np.std(np.array(found) - truth, axis=0) / np.sqrt(60)
    assert (np.abs(np.mean(np.array(found) - truth, axis=0)) < 3.5 * error).all()


def test_limit_cases_of_components():
    prompt = np.repeat(range(6), 2)
    assert np.isnan(estimate(np.arange(12.0), {"a": prompt, "b": prompt}, prompt)).all()     # twins
    np.testing.assert_allclose(estimate(np.ones(12), {"a": prompt}, prompt), 0)              # a constant
    only = estimate(np.arange(6.0).repeat(2), {"a": prompt}, prompt, 50)
    assert only[0, 0, 0] == pytest.approx(3.5) and only[0, 1, 0] == pytest.approx(0)         # variance of 0 … 5
    shifted = estimate(np.arange(6.0).repeat(2) + 1e6, {"a": prompt}, prompt)
    np.testing.assert_allclose(shifted[0].ravel(), [3.5, 0], atol=1e-6)
    many = np.arange(3 * MOST_CLUSTERS)
    found = estimate(np.random.default_rng(0).normal(size=len(many)), {}, many, 20)
    assert found.shape == (21, 1, 1) and found[1:].std() < 0.05                              # bundles of prompts


def test_detectable_difference_is_that_of_the_power_table():
    """The power of the t test at the difference is 80 %, from its noncentral distribution."""
    for n in (10, 40, 200):
        size = detect_difference(1.0, n)
        power = sps.nct.sf(sps.t.ppf(0.975, n - 1), n - 1, size * np.sqrt(n))
        assert power == pytest.approx(0.8, abs=0.015)
    assert np.isnan(detect_difference(1.0, 2)) and detect_difference(2.0, 40) == 2 * detect_difference(1.0, 40)


def test_flips_by_hand():
    scores = np.array([1.0, -1.0, 2.0, 3.0, -4.0, 0.0])
    between, within = count_flips(scores[:, None], [0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 0, 1], [0, 0, 0, 0, 1, 1])
    # group 0: 4 pairs of two parts, 2 with unlike signs; group 1: 1 pair, none (0 has no sign); within: 1 of 2
    assert between[0] == pytest.approx(2 / 5) and within[0] == pytest.approx(1 / 2)
    alone, none = count_flips(np.ones((3, 1)), [0, 1, 2], [0, 0, 0], [0, 1, 2])
    assert np.isnan(alone[0]) and np.isnan(none[0])     # no pairs


def test_explained_share_is_that_of_a_regression():
    rng = np.random.default_rng(0)
    controls = rng.normal(size=(200, 2))
    y = controls @ [0.5, -0.3] + rng.normal(size=200)
    share, draws = explain_scores(y, controls, np.arange(200), 100)
    design = np.column_stack([np.ones(200), controls])
    left = y - design @ np.linalg.lstsq(design, y)[0]
    assert share == pytest.approx(1 - left.var() / y.var()) and len(draws) == 100 and draws.std() > 0.01
    constant = np.column_stack([controls[:, 0], np.ones(200)])
    assert explain_scores(y, constant, np.arange(200), 5)[0] == pytest.approx(np.corrcoef(y, controls[:, 0])[0, 1] ** 2)
    assert np.isnan(explain_scores(np.ones(200), controls, np.arange(200), 5)[0])


def test_a_control_too_rare_for_an_interval_has_none():
    """Six refusals in 200 prompts carry the scores: R² is near 1, and no draw may tell of the length alone."""
    rng, is_refusal = np.random.default_rng(0), np.arange(200) < 6
    y, length = is_refusal + 0.01 * rng.normal(size=200), rng.normal(size=200)
    share, draws = explain_scores(y, np.column_stack([is_refusal, length]), np.arange(200), 50)
    assert share > 0.99 and np.isnan(draws).all()
    some = np.arange(200) < 20
    share, draws = explain_scores(y + some, np.column_stack([some, np.zeros(200)]), np.arange(200), 50)
    assert np.isfinite(draws).all() and draws.min() <= share <= draws.max()


def test_a_mean_of_few_prompts_has_no_interval():
    """Two equal values had the interval [1, 1]; one cluster of many rows, or a column known in four, is no better."""
    for n, clusters in ((2, [0, 1]), (4, range(4)), (8, np.arange(8) // 2), (6, np.zeros(6))):
        assert np.isnan(mean_ends(np.ones((n, 1)), clusters, 50, 0)).all()
    values = np.column_stack([np.arange(6.0), [1, 2, 3, 4, np.nan, np.nan], [0, 1, 2, 3, 4, np.nan]])
    low, high = mean_ends(values, range(6), 2000, 0)
    assert np.isfinite(low).tolist() == np.isfinite(high).tolist() == [True, False, True]
    assert low[0] < 2.5 - 1.2 and high[0] > 2.5 + 1.2 and low[2] < 2 < high[2]

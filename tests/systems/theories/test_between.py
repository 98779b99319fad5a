"""Two theories side by side: correlations as SciPy and scikit-learn give them, and which theory predicts the reward."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats as sps

from fulcra_utils.systems.theories import between, new_theory


def test_cross_correlations_agree_with_scipy_and_leave_gaps_out():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(80, 3)), random.normal(size=(80, 2))
    y[:, 0] += x[:, 1]
    x[5, 0] = np.nan
    first, second = pd.DataFrame(x, columns=list("abc")), pd.DataFrame(y, columns=list("de"))
    table = between.cross_dimensions(first, second, np.arange(80), n_draws=300)
    full = np.isfinite(x).all(axis=1)
    expected = [[sps.pearsonr(x[full, i], y[full, j]).statistic for j in range(2)] for i in range(3)]
    assert np.allclose(table.r.to_numpy().reshape(3, 2), expected) and set(table.n) == {79}
    top = table[(table["first"] == "b") & (table["second"] == "d")].iloc[0]
    assert top.low > 0 and top.low < top.r < top.high
    few = between.cross_dimensions(first, second, np.arange(80) % 9, n_draws=20)
    assert few.r.notna().all() and few.low.isna().all() and "too few prompts" in new_theory.describe_cross(few)
    empty = between.cross_dimensions(first[:2], second[:2], np.arange(2))
    assert len(empty) == 6 and empty.r.isna().all()


def test_noise_is_not_sure_to_differ_from_0():
    """By single intervals 1 to 3 of 50 pairs of noise were said to be sure."""
    random = np.random.default_rng(0)
    first, second = (pd.DataFrame(random.normal(size=(200, d))).add_prefix(name) for d, name in ((10, "v"), (5, "m")))
    second["m5"] = second.m0 + first.v9
    table = between.cross_dimensions(first, second, np.arange(200) // 2, n_draws=200).set_index(["first", "second"])
    assert list(table.index[table.p_adjusted < 0.05]) == [("v9", "m5")]
    assert "1 of 60 pairs" in new_theory.describe_cross(table.reset_index())


def test_canonical_correlation_finds_what_is_shared_and_nothing_else():
    from sklearn.cross_decomposition import CCA
    random = np.random.default_rng(1)
    shared = random.normal(size=(600, 1))
    x, y = np.hstack([shared, random.normal(size=(600, 2))]), np.hstack([random.normal(size=(600, 1)), shared])
    table = between.correlate_canonically(x, y + 0.5 * random.normal(size=y.shape), np.arange(600), penalty=1e-9)
    z = y + 0
    oracle = CCA(n_components=1, scale=True).fit(x, z)
    ours = between.correlate_canonically(x, z, np.arange(600), n_components=1, penalty=1e-9, n_draws=10)
    u, v = oracle.transform(x, z)
    assert ours.fitted[0] == pytest.approx(np.corrcoef(u[:, 0], v[:, 0])[0, 1], abs=1e-3)
    assert table.held_out[0] == pytest.approx(1 / np.sqrt(1.25), abs=0.03) and table.low[0] > 0.8
    assert abs(table.held_out[1]) < 0.15
    assert between.correlate_canonically(x[:4], y[:4], np.arange(4)).empty
    assert between.correlate_canonically(np.zeros((50, 2)), y[:50], np.arange(50)).empty


def test_the_theory_that_knows_the_reward_predicts_it_better():
    random = np.random.default_rng(2)
    prompts = np.repeat(np.arange(120), 3)
    x = random.normal(size=(360, 2))
    reward = x[:, 0] + 0.3 * random.normal(size=360)
    reward[7] = np.nan
    features = {"knows": x, "guesses": random.normal(size=(360, 4))}
    accuracies, tests = between.compare_predictions(features, reward, prompts, prompts, n_permutations=19, n_draws=300)
    assert accuracies.accuracy[0] > 0.85 and accuracies.accuracy[1] < 0.65 and accuracies.n_pairs.nunique() == 1
    assert tests.difference[0] == pytest.approx(accuracies.accuracy[0] - accuracies.accuracy[1]) and tests.low[0] > 0
    same = between.compare_predictions({"a": x, "b": x}, reward, prompts, prompts, n_permutations=2, n_draws=50)[1]
    assert same.difference[0] == 0 and same.p[0] == 1
    few, none = between.compare_predictions(features, reward, np.arange(360), np.arange(360))
    assert few.accuracy.isna().all() and none.empty and "Too few" in between.describe_prediction(few, none)

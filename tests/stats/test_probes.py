"""Probes against scikit-learn and statsmodels, their nulls on noise, and their limits."""

import numpy as np
import pytest
import statsmodels.api as sm
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score

from fulcra_utils.stats import probes


@pytest.fixture
def pairs():
    """Return 400 pairs whose preference follows three features."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3))
    return x, (rng.random(400) < 1 / (1 + np.exp(-x @ [1.0, -0.5, 0.0]))).astype(float)


def test_preference_equals_scikit_learn(pairs):
    x, y = pairs
    oracle = LogisticRegression(C=0.5, fit_intercept=False, tol=1e-10).fit(x, y).coef_[0]
    assert np.allclose(probes.fit_preference(x, y, penalty=2.0), oracle, atol=1e-5)


def test_preference_equals_statsmodels_without_penalty(pairs):
    x, y = pairs
    assert np.allclose(probes.fit_preference(x, y, 1e-9), sm.Logit(y, x).fit(disp=0).params, atol=1e-5)


def test_swapping_replies_swaps_the_answer(pairs):
    x, y = pairs
    assert np.allclose(probes.fit_preference(x, y), probes.fit_preference(-x, 1 - y))


def test_preference_limits():
    separated = probes.fit_preference([[1.0], [2.0]], [1, 1])
    assert np.isfinite(separated).all()
    assert separated[0] > 0
    assert probes.fit_preference(np.zeros((3, 2)), [1, 0, 1]).tolist() == [0, 0]


def test_preference_probe_on_signal_and_noise(pairs):
    x, y = pairs
    found = probes.probe_preference(x, y, np.arange(400), n_permutations=39)
    assert found["low"] > 0.55
    assert found["p"] == 1 / 40
    noise = probes.probe_preference(x, np.random.default_rng(5).integers(0, 2, 400), np.arange(400), n_permutations=99)
    assert noise["p"] > 0.05
    assert noise["low"] < 0.5 < noise["null"]


def test_preference_probe_without_information_is_undecided():
    found = probes.probe_preference(np.zeros((50, 2)), np.tile([0, 1], 25), np.arange(50), n_permutations=9)
    assert found["accuracy"] == 0.5


def test_too_few_prompts_give_nan():
    assert np.isnan(probes.probe_preference(np.ones((9, 1)), np.ones(9), np.zeros(9))["accuracy"])
    assert np.isnan(probes.probe_preference(np.empty((0, 1)), [], [])["accuracy"])
    assert np.isnan(probes.probe_number(np.ones((9, 1)), np.arange(9.0), np.zeros(9))["r2"])
    assert np.isnan(probes.probe_number(np.ones((30, 1)), np.ones(30), np.arange(30))["r2"])
    assert np.isnan(probes.probe_category(np.ones((30, 1)), np.ones(30), np.arange(30))["accuracy"])


def test_ridge_equals_scikit_learn():
    rng = np.random.default_rng(0)
    x, y, folds = rng.normal(size=(90, 4)), rng.normal(size=(90, 2)), np.arange(90) % 3
    x = x + y[:, :1]
    found = probes.predict_ridge(x, y, folds, penalty=3.0)
    for fold in range(3):
        train, test = folds != fold, folds == fold
        mean, spread = x[train].mean(axis=0), x[train].std(axis=0)
        oracle = Ridge(3.0).fit((x[train] - mean) / spread, y[train]).predict((x[test] - mean) / spread)
        assert np.allclose(found[test], oracle)


def test_number_probe_on_noise():
    rng = np.random.default_rng(0)
    found = probes.probe_number(rng.normal(size=(200, 3)), rng.normal(size=200), np.arange(200), n_permutations=99)
    assert found["r2"] < 0.05
    assert found["p"] > 0.05


def test_category_probe_is_balanced_accuracy():
    """Rare categories weigh as much as common ones."""
    rng = np.random.default_rng(0)
    labels = rng.choice(3, 400, p=[0.7, 0.2, 0.1])
    x = np.eye(3)[labels] + 0.6 * rng.normal(size=(400, 3))
    found = probes.probe_category(x, labels, np.arange(400), n_permutations=39, seed=4)
    folds = probes.assign_folds(np.arange(400), 5, 4)
    target = np.eye(3)[labels] / np.bincount(labels) * 400
    answers = probes.predict_ridge(x, target, folds).argmax(axis=1)
    assert found["accuracy"] == pytest.approx(balanced_accuracy_score(labels, answers))
    assert found["low"] < found["accuracy"] < found["high"]
    assert (found["p"], found["null"] < 0.45) == (1 / 40, True)


def test_folds_and_permutations_keep_prompts_together():
    clusters = np.array([0, 0, 1, 1, 2, 2, 3, 4, 4, 4])
    folds = probes.assign_folds(clusters, 3)
    assert all(len(set(folds[clusters == c])) == 1 for c in range(5))
    for moved in probes.permute_clusters(clusters, 20):
        assert sorted(moved[:6]) == list(range(6))
        assert all(len(set(clusters[moved[clusters == c]])) == 1 for c in range(5))
        assert len(set(moved[7:])) == 3 or set(moved[7:]) == {6}      # three rows from the prompt that has one
    assert len({tuple(moved[6:]) for moved in probes.permute_clusters(clusters, 20)}) > 1
    assert probes.permute_clusters([0, 0], 3).tolist()[0] in ([0, 1], [1, 0])       # nothing to exchange it with
    with pytest.raises(ValueError, match="cannot be dealt"):
        probes.assign_folds([1, 1], 2)


def test_prompts_of_unequal_size_have_a_null_too():
    """Exchanged only with prompts of their own size none would move, and perfect features look like chance."""
    clusters = np.repeat(np.arange(24), np.arange(3, 27))
    labels = np.arange(24)[clusters] % 2
    found = probes.probe_category(labels[:, None].astype(float), labels, clusters, n_permutations=99)
    assert found["accuracy"] == pytest.approx(1) and found["null"] < 0.8 and found["p"] < 0.05
    assert probes.probe_number(labels[:, None].astype(float), labels + 0.1 * np.sin(np.arange(len(labels))), clusters,
                               n_permutations=99)["p"] < 0.05


def test_pairs_by_hand():
    assert probes.pair_replies(["a", "a", "a", "b"], [1, np.nan, 2, 3]).tolist() == [[0, 2]]
    assert probes.pair_replies(["a", "a"], [1, 1]).tolist() == []
    assert probes.pair_replies([], []).shape == (0, 2)


def test_gain_is_the_difference_of_two_probes(pairs):
    x, y = pairs
    found = probes.measure_gain(x[:, 2:], x, y, np.arange(400))
    both, base = (probes.probe_preference(part, y, np.arange(400), n_permutations=1)["accuracy"]
                  for part in (x, x[:, 2:]))
    assert found["gain"] == pytest.approx(both - base)
    assert found["low"] < found["gain"] < found["high"]
    assert np.isnan(probes.measure_gain(x[:5], x[:5], y[:5], np.arange(5))["gain"])


def test_one_target_keeps_its_axis():
    x = np.arange(6.0)[:, None]
    assert probes.predict_ridge(x, x, np.arange(6) % 2).shape == (6, 1)


def test_a_null_with_one_big_prompt_stays_on_the_scale_of_its_score():
    """A prompt of a size of its own gets another one's rows, so that shuffled rows have other shares and spreads."""
    rng, clusters = np.random.default_rng(0), np.r_[np.repeat(np.arange(60), 2), np.full(30, 60)]
    labels = np.isin(clusters, np.arange(12)).astype(int)
    x = labels[:, None] + rng.normal(size=(150, 1))
    found = probes.probe_category(x, labels, clusters, n_permutations=99)
    assert found["null"] < 0.7 and found["p"] <= 0.05
    y = rng.normal(size=150) + 4 * (clusters == 60)
    assert probes.probe_number(rng.normal(size=(150, 1)), y, clusters, n_permutations=99)["null"] < 0.2

"""Unknown risks: planted ones are found, noise gives none."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score

from fulcra_utils.stats import clusters


@pytest.fixture
def planted():
    """Return 300 independent ternary rows and 15 that share one profile, each with its own prompt."""
    rng = np.random.default_rng(0)
    noise = rng.choice([-1.0, 0, 1], p=[0.1, 0.6, 0.3], size=(300, 8))
    profile = np.array([1.0, -1, -1, 0, 0, 0, 1, 0])
    return np.vstack([noise, np.tile(profile, (15, 1))]), np.repeat([False, True], [300, 15])


def test_planted_cluster_is_dense_and_stable(planted):
    rows, is_planted = planted
    labels = clusters.cluster_vectors(rows, 20)
    home = np.bincount(labels[is_planted]).argmax()
    p = clusters.assess_density(rows, labels, np.arange(315), 20, n_permutations=39)
    stability = clusters.measure_stability(rows, labels, np.arange(315), 20, n_draws=15)
    assert (labels[is_planted] == home).all()
    assert p[home] == 1 / 40
    assert stability[home] > 0.7


def test_noise_has_no_dense_cluster():
    """The smallest p value of noise falls below 0.05 in one of twenty tries; more than two of eight is a fault."""
    rng = np.random.default_rng(1)
    smallest = []
    for seed in range(8):
        noise = rng.choice([-1.0, 0, 1], p=[0.1, 0.6, 0.3], size=(100, 6))
        labels = clusters.cluster_vectors(noise, 8, seed)
        smallest.append(clusters.assess_density(noise, labels, np.arange(100), 8, 19, seed).min())
    assert np.sum(np.array(smallest) <= 0.05) <= 2


def test_like_replies_to_one_prompt_are_no_dense_cluster():
    """Independent values of 60 prompts, each with six like replies; row by row they would pass for clusters."""
    rng, prompts = np.random.default_rng(0), np.repeat(np.arange(60), 6)
    rows = np.repeat(rng.choice([-1.0, 0, 1], p=[0.1, 0.6, 0.3], size=(60, 8)), 6, axis=0)
    rows = np.where(rng.random(rows.shape) < 0.05, 0, rows)
    labels = clusters.cluster_vectors(rows, 8)
    assert (clusters.assess_density(rows, labels, np.arange(360), 8, 19) == 0.05).sum() > 1
    assert clusters.assess_density(rows, labels, prompts, 8, 19).min() > 0.05


def test_categories_explain_what_they_should():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 40)
    categories = np.column_stack([labels == 0, rng.random(120) < 0.3]).astype(float)
    found = clusters.compare_categories(labels, categories, np.arange(120), n_permutations=199)
    assert found["p_adjusted"][0] < 0.05
    assert (found["purity"][0], found["category"][0]) == (1, 0)
    assert (found["p_adjusted"][1:] > 0.05).all()


def test_prompts_of_one_cluster_may_differ_in_category():
    labels, prompts, categories = np.repeat([0, 1], 20), np.repeat(np.arange(20), 2), np.tile([[1], [0]], (20, 1))
    found = clusters.compare_categories(labels, categories, prompts, n_permutations=99)
    assert found["purity"].tolist() == [0.5, 0.5] and (found["p"] == 1).all()
    same = clusters.measure_information(categories[:, 0], categories[:, 0], prompts, n_permutations=19)
    assert same["ami"] == pytest.approx(1)


def test_without_categories_nothing_is_explained():
    found = clusters.compare_categories(np.array([0, 1]), np.zeros((2, 0)), np.arange(2))
    assert (found["purity"].tolist(), found["category"].tolist(), found["p"].tolist()) == ([0, 0], [-1, -1], [1, 1])


def test_information_equals_scikit_learn():
    rng = np.random.default_rng(0)
    labels, names = rng.integers(0, 3, 90), rng.integers(0, 4, 90)
    found = clusters.measure_information(labels, names, np.arange(90), n_permutations=49)
    assert found["ami"] == pytest.approx(adjusted_mutual_info_score(names, labels))
    assert found["ami"] < found["null"]


def test_cluster_limits():
    assert clusters.cluster_vectors(np.ones((5, 2)), 4).tolist() == [0] * 5
    assert clusters.cluster_vectors(np.array([[1.0, 0.0]]), 3).tolist() == [0]
    assert len(set(clusters.cluster_vectors(np.eye(3), 20))) == 3


def test_profile_needs_every_part():
    rows = [[1, -1, 0.2], [0.6, -0.51, 1], [1, 0, 0], [np.nan, -1, 0]]
    assert clusters.match_profile(rows, [1, -1, 0]).tolist() == [True, True, False, False]


def test_cluster_that_hangs_on_the_number_does_not_recur(planted):
    rows, is_planted = planted
    labels = clusters.cluster_vectors(rows, 20)
    recurrence = clusters.measure_recurrence(rows, labels, 20)
    assert recurrence[np.bincount(labels[is_planted]).argmax()] > np.median(recurrence)
    assert ((recurrence > 0) & (recurrence <= 1)).all()

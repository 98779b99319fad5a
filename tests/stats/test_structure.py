"""Circle and reliability against published values, SciPy and scikit-learn, and at their limits."""

import warnings

import numpy as np
import pytest
from scipy.spatial import procrustes
from sklearn.manifold import MDS
from statsmodels.multivariate.factor import Factor

from fulcra_utils.stats import structure

# Chatterjee & Price (1977): the data set `attitude` of R, 30 departments x 7 items.
ATTITUDE = np.fromstring("""
43 51 30 39 61 92 45 63 64 51 54 63 73 47 71 70 68 69 76 86 48 61 63 45 47 54 84 35 81 78 56 66 71 83 47
43 55 49 44 54 49 34 58 67 42 56 66 68 35 71 75 50 55 70 66 41 72 82 72 67 71 83 31 67 61 45 47 62 80 41
64 53 53 58 58 67 34 67 60 47 39 59 74 41 69 62 57 42 55 63 25 68 83 83 45 59 77 35 77 77 54 72 79 77 46
81 90 50 72 60 54 36 74 85 64 69 79 79 63 65 60 65 75 55 80 60 65 70 46 57 75 85 46 50 58 68 54 64 78 52
50 40 33 34 43 64 33 64 61 52 62 66 80 41 53 66 52 50 63 80 37 40 37 42 58 50 57 49 63 54 42 48 66 75 33
66 77 66 63 88 76 72 78 75 58 74 80 78 49 48 57 44 45 51 83 38 85 85 71 71 77 74 55 82 82 39 59 64 78 39
""", sep=" ").reshape(30, 7)


def test_attitude_is_typed_right():
    """Means as printed by R's summary(attitude)."""
    assert np.allclose(ATTITUDE.mean(axis=0), [64.63, 66.60, 53.13, 56.37, 64.63, 74.77, 42.93], atol=0.005)


def test_alpha_equals_r():
    """R: psych::alpha(attitude)$total$raw_alpha is 0.84."""
    assert structure.cronbach_alpha(ATTITUDE) == pytest.approx(0.84, abs=0.005)


def test_alpha_of_parallel_items():
    """k items that share one covariance: alpha = k c / (v + (k - 1) c)."""
    covariance = 0.3 + 0.7 * np.eye(5)
    noise = np.random.default_rng(0).normal(size=(100, 5))
    rows = np.linalg.qr(np.column_stack([np.ones(100), noise]))[0][:, 1:] @ np.linalg.cholesky(covariance).T
    assert structure.cronbach_alpha(rows) == pytest.approx(5 * 0.3 / (1 + 4 * 0.3))


def test_omega_equals_the_factor_model():
    """The ML loadings of statsmodels give the same omega."""
    rng = np.random.default_rng(3)
    loadings = np.array([0.9, 0.7, 0.5, 0.6])
    items = rng.normal(size=(1500, 1)) * loadings + rng.normal(size=(1500, 4)) * np.sqrt(1 - loadings**2)
    fit = Factor(items, n_factor=1, method="ml").fit()
    spread = items.std(axis=0)
    true = (fit.loadings[:, 0] * spread).sum() ** 2
    omega = true / (true + (fit.uniqueness * spread**2).sum())
    assert structure.mcdonald_omega(items) == pytest.approx(omega, abs=1e-3)


def test_spearman_brown_is_alpha_of_two_equal_spreads():
    rows = np.column_stack([ATTITUDE[:, 0], ATTITUDE[:, 0].std() / ATTITUDE[:, 1].std() * ATTITUDE[:, 1]])
    r = np.corrcoef(rows, rowvar=False)[0, 1]
    spearman_brown = structure.cronbach_alpha(rows, standardise=True)
    assert spearman_brown == pytest.approx(structure.cronbach_alpha(rows)) == pytest.approx(2 * r / (1 + r))


def test_reliability_limits():
    assert np.isnan(structure.cronbach_alpha(ATTITUDE[:, :1]))
    assert np.isnan(structure.cronbach_alpha(np.ones((9, 3))))
    assert np.isnan(structure.mcdonald_omega(np.ones((99, 3))))
    assert np.isnan(structure.mcdonald_omega(ATTITUDE[:5]))
    assert np.isnan(structure.cronbach_alpha(np.column_stack([np.ones(5), np.arange(5.0)]), True))
    assert np.isnan(structure.cronbach_alpha(np.column_stack([np.arange(5.0), -np.arange(5.0)]), True))


@pytest.mark.parametrize(("n_items", "n_rows", "method"), [
    (1, 200, "not estimable"), (2, 200, "Spearman-Brown"), (3, 200, "alpha and omega"), (3, 40, "not estimable")])
def test_reliability_rule(n_items, n_rows, method):
    rng = np.random.default_rng(0)
    items = (rng.normal(size=(n_rows, 1)) + rng.normal(size=(n_rows, n_items)) > 0).astype(float)
    found = structure.estimate_reliability(items, np.arange(n_rows), n_draws=50)
    assert found["method"] == method
    assert (found["low"] < found["reliability"] < found["high"]) if method != "not estimable" else found["why"]


def test_constant_items_do_not_count():
    items = np.column_stack([np.tile([0.0, 1.0], 50), np.ones(100), np.repeat([0.0, 1.0], 50)])
    assert structure.estimate_reliability(items, np.arange(100), n_draws=20)["n_items"] == 2


@pytest.mark.parametrize("seed", range(3))
def test_scaling_is_as_good_as_scikit_learn(seed):
    distance = structure.measure_dissimilarity(np.random.default_rng(seed).normal(size=(50, 8)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        oracle = MDS(2, metric="precomputed", normalized_stress=False, n_init=4,
                     random_state=0, max_iter=300, eps=1e-6).fit(distance)
    _, stress = structure.scale_values(distance, 20)
    assert stress <= structure._majorise(distance, oracle.embedding_, 1)[1] + 2e-3


def test_exact_distances_have_no_stress():
    points = np.random.default_rng(0).normal(size=(7, 2))
    distance = np.linalg.norm(points[:, None] - points, axis=2)
    places, stress = structure.scale_values(distance, 3)
    assert stress == pytest.approx(0, abs=2e-3)
    assert procrustes(points, places)[2] == pytest.approx(0, abs=1e-3)


def test_stress_of_one_wrong_distance():
    """Places 0, 1, 2 on a line for dissimilarities 1, 1, 1: best multiple 4/3, Stress-1 = sqrt(2/3) / sqrt(6) = 1/3."""
    assert structure._majorise(1 - np.eye(3), np.array([[0.0, 0], [1, 0], [2, 0]]), 1)[1] == pytest.approx(1 / 3)


def test_places_are_turned_onto_the_ideal():
    """Procrustes R² is what is left of the ideal's variance when the turned places are taken from it."""
    ring = structure.place_on_circle(range(8), 8)[:7]
    rows = np.random.default_rng(0).normal(size=(80, 2)) @ ring.T
    found = structure.assess_circle(rows, ring, n_starts=1, n_permutations=9)
    spread = ((ring - ring.mean(axis=0)) ** 2).sum()
    assert found["fit"] == pytest.approx(1 - ((found["places"] - ring) ** 2).sum() / spread)
    assert found["places"] == pytest.approx(ring, abs=0.1), "also round a circle that lacks a value"


def test_inversions():
    ring = structure.place_on_circle(range(8), 8)
    turned = ring @ np.array([[0.0, -1], [1, 0]]) * [1, -1] * 3 + 2
    assert structure.count_inversions(turned, ring) == 0
    assert structure.count_inversions(ring[[1, 0, 2, 3, 4, 5, 7, 6]], ring) == 2


def test_circle_is_found_and_noise_is_not():
    rng = np.random.default_rng(0)
    ring = structure.place_on_circle(range(10), 10)
    real = structure.assess_circle(rng.normal(size=(400, 2)) @ ring.T + 0.5 * rng.normal(size=(400, 10)), ring,
                                   n_starts=2, n_permutations=99)
    assert (real["fit_p"], real["inversions_p"], real["inversions"]) == (0.01, 0.01, 0)
    noise = [structure.assess_circle(rng.normal(size=(100, 8)), structure.place_on_circle(range(8), 8), n_starts=1,
                                     n_permutations=39)["fit_p"] for _ in range(12)]
    assert np.mean(np.array(noise) <= 0.05) <= 0.25


def test_stress_of_data_and_shuffles_comes_from_as_many_starts(monkeypatch):
    real, starts = structure.scale_values, []

    def spy(dissimilarity, n_starts=10, seed=0):
        starts.append(n_starts)
        places, stress = real(dissimilarity, n_starts, seed)
        return places, stress - (0.3 if n_starts else 0)  # what further starts would gain at best

    monkeypatch.setattr(structure, "scale_values", spy)
    rng, ring = np.random.default_rng(3), structure.place_on_circle(range(8), 8)
    noise = [structure.assess_circle(rng.normal(size=(60, 8)), ring, n_starts=2, n_permutations=19)["stress_p"]
             for _ in range(6)]
    assert np.mean(noise) > 0.25 and sorted(set(starts)) == [0, 2] and starts.count(2) == 6


def test_stress_of_replies_to_the_same_prompts_is_held_against_whole_prompts():
    rng, ring, prompts = np.random.default_rng(4), structure.place_on_circle(range(6), 6), np.repeat(np.arange(25), 8)
    found = [structure.assess_circle(rows, ring, n_starts=0, n_permutations=19, clusters=prompts)["stress_p"]
             for rows in (np.repeat(rng.normal(size=(25, 6)), 8, axis=0) for _ in range(6))]
    assert np.median(found) > 0.1, "25 prompts with 8 like replies each are no 200 rows"


def test_circle_limits():
    with pytest.raises(ValueError, match="at least 6"):
        structure.assess_circle(np.eye(5), np.ones((5, 2)))
    for bad in ([[1.0, np.nan], [2.0, 1.0], [0.0, 3.0]], [[1.0, 2.0], [1.0, 3.0], [1.0, 4.0]]):
        with pytest.raises(ValueError, match="without missing cells and values that vary"):
            structure.measure_dissimilarity(bad)


def test_centring_removes_the_level():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 5))
    level = rng.normal(size=(60, 1)) * 5
    assert np.allclose(structure.measure_dissimilarity(x, centre=True),
                       structure.measure_dissimilarity(x + level, centre=True))

"""Calibration: temperatures, cuts, class-wise errors, and label sets that keep their promise."""

import numpy as np
import pytest

from fulcra_utils.stats.classification import (
    classwise_calibration_error,
    correct_share,
    draw_chance_errors,
    fit_conformal,
    fit_cuts,
    fit_temperatures,
    fit_threshold,
    measure_sets,
    reliability,
    rescale,
    tabulate_support,
)
from fulcra_utils.stats.resampling import wilson_interval


def draw_cells(n, n_dims, sharpness, seed=0):
    """Probabilities that are right, and the same sharpened until they claim too much."""
    rng = np.random.default_rng(seed)
    true = rng.dirichlet([0.6, 1.5, 0.9], size=(n, n_dims))
    labels = (rng.random((n, n_dims, 1)) > true.cumsum(-1)).sum(-1) - 1.0
    return rescale(true, np.full(n_dims, 1 / sharpness)), labels


def test_temperature_is_found_again():
    sharp, labels = draw_cells(4000, 2, sharpness=2.5)
    np.testing.assert_allclose(fit_temperatures(np.log(sharp), labels), 2.5, rtol=0.1)


def test_temperature_lowers_the_class_wise_error():
    sharp, labels = draw_cells(3000, 1, sharpness=3)
    flat = rescale(sharp, fit_temperatures(np.log(sharp), labels))
    assert classwise_calibration_error(flat, labels).max() < 0.03 < classwise_calibration_error(sharp, labels).min()


def test_value_with_few_labels_takes_the_pooled_temperature():
    sharp, labels = draw_cells(600, 2, sharpness=2)
    labels[20:, 1] = np.nan
    found = fit_temperatures(np.log(sharp), labels)
    assert found[0] != found[1] and 1 < found[1] < 4
    assert fit_temperatures(np.log(sharp), np.full_like(labels, np.nan)).tolist() == [1.0, 1.0]
    few = labels[:20]       # 40 cells at most
    assert fit_temperatures(np.log(sharp[:20]), few).tolist() == [1.0, 1.0] and (np.abs(few) > 0).sum() > 10


def test_error_of_a_constant_guess_is_its_distance_from_the_truth():
    p = np.tile([0.0, 0.3, 0.7], (100, 1, 1))
    labels = np.array([[1.0]] * 40 + [[0.0]] * 60)
    np.testing.assert_allclose(classwise_calibration_error(p, labels), [0, 0.3, 0.3])
    assert np.isnan(classwise_calibration_error(p, np.full((100, 1), np.nan))).all()
    assert reliability(p, labels).n.sum() == 300


def test_chance_explains_the_error_of_right_probabilities_alone():
    right, labels = draw_cells(400, 2, sharpness=1.0)
    sharp, _ = draw_cells(400, 2, sharpness=2.5)
    limit = np.quantile(draw_chance_errors(right, labels), 0.95)
    assert 0 < classwise_calibration_error(right, labels).mean() < limit
    assert classwise_calibration_error(sharp, labels).mean() > np.quantile(draw_chance_errors(sharp, labels), 0.95)
    assert np.isnan(draw_chance_errors(right, np.full(labels.shape, np.nan), n_draws=3)).all()


@pytest.mark.parametrize("seed", range(3))
def test_sets_cover_each_class_at_their_level(seed):
    p, labels = draw_cells(4000, 2, sharpness=2, seed=seed)
    limits = fit_conformal(p[:2000], labels[:2000], level=0.9)
    sets = 1 - p[2000:] <= limits
    for d in range(2):
        for c, label in enumerate((-1, 0, 1)):
            cells = labels[2000:, d] == label
            assert abs(sets[cells, d, c].mean() - 0.9) < 0.04


def test_too_few_cases_give_no_limit():
    p, labels = draw_cells(29, 1, sharpness=1)
    assert np.isnan(fit_conformal(p, np.ones_like(labels))).all()
    limits = fit_conformal(np.repeat(p, 2, axis=0), np.ones((58, 1)))
    assert np.isfinite(limits[0, 2]) and np.isnan(limits[0, :2]).all()
    sets = measure_sets(np.ones((29, 1, 3), dtype=bool), labels, limits, ["v"])
    assert sets.calibrated.tolist() == [False, False, True]
    labels[:] = 1
    half = measure_sets(np.arange(29)[:, None, None] < np.full((1, 1, 3), 10), labels, limits, ["v"]).iloc[2]
    assert (half["coverage"], half["low"], half["high"]) == pytest.approx((10 / 29, *wilson_interval(10, 29)))


def test_replies_to_one_prompt_are_no_independent_cover():
    """Ten prompts with six replies each, which share one outcome, are worth ten replies: 8 of 10 covered."""
    held = np.repeat(np.arange(10) < 8, 6)[:, None, None] & np.ones((1, 1, 3), bool)
    labels, limits, prompts = np.ones((60, 1)), np.ones((1, 3)), np.repeat(np.arange(10), 6)
    once, loose = (measure_sets(held, labels, limits, ["v"], ids).iloc[2] for ids in (prompts, None))
    assert (loose["n"], loose["coverage"], loose["low"], loose["high"]) == pytest.approx(
        (60, 0.8, *wilson_interval(48, 60)))
    assert (once["n"], once["coverage"]) == (60, 0.8)
    # with one prompt of hits and one of misses added 54 of 72 are covered: squared sums of prompts over those of rows
    effect = 36 * (9 * 0.25**2 + 3 * 0.75**2) / (72 * 0.75 * 0.25)
    assert (once["low"], once["high"]) == pytest.approx(wilson_interval(0.8 * 60 / effect, 60 / effect))
    assert (once["low"], once["high"]) == pytest.approx((0.49, 0.94), abs=0.005)
    assert measure_sets(held[:0], labels[:0], limits, ["v"], prompts[:0])[["coverage", "low"]].isna().all(axis=None)


def test_cuts_are_those_of_the_grid_that_win():
    rng = np.random.default_rng(4)
    labels = rng.integers(-1, 2, size=(500, 1)).astype(float)
    scores, grid = 0.5 * labels + rng.normal(0, 0.02, size=labels.shape), np.arange(0.1, 0.91, 0.05)
    for side, sign in enumerate((-1, 1)):
        signed, true = sign * scores, labels == sign
        perfect = grid[(grid >= signed[~true].max()) & (grid < signed[true].min())]    # the middle one is taken
        assert fit_cuts(scores, labels)[0, side] == pytest.approx(sign * perfect[len(perfect) // 2])
    assert fit_cuts(labels, np.full_like(labels, np.nan)).tolist() == [[-0.5, 0.5]]
    for n, cut in ((9, -0.5), (10, -0.2)):
        few = np.repeat([[0.0], [-1.0]], [50, n], axis=0)
        assert fit_cuts(0.3 * few, few)[0] == pytest.approx([cut, 0.5])


def test_support_says_what_cannot_be_said():
    rows = tabulate_support(np.array([[1.0]] * 4 + [[0.0]] * 100), ["hedonism"])
    assert rows.reading[0] == "too few test labels for figures of its own (4 touched, 50 needed)"
    for n_minus, n_plus, few in ((29, 31, "-1 (29)"), (60, 0, "+1 (0)"), (29, 21, "-1 (29) and +1 (21)")):
        labels = np.repeat([[-1.0], [1.0]], [n_minus, n_plus], axis=0)
        assert f"too few {few} for sets" in tabulate_support(labels, ["hedonism"]).reading[0]
    many = np.repeat([[-1.0], [1.0]], 50, axis=0)
    for test, calibration, reading in ((many[:49], many, "too few test labels for figures of its own (49 touched"),
                                       (many, many[21:], "enough for figures of its own, too few -1 (29) for sets")):
        found = tabulate_support(many, ["hedonism"], test, calibration).iloc[0]
        assert found.reading.startswith(reading) and (found.n_minus, found.n_plus) == (50, 50)


@pytest.mark.parametrize("n_places", [1, 2, 6])
def test_a_threshold_is_the_middle_one_of_the_best(n_places):
    """Next to all cuts between two probabilities, one by one."""
    rng = np.random.default_rng(n_places)
    for _ in range(30):
        p, truth = rng.integers(n_places, size=12) / n_places, rng.permutation([0.0] * 5 + [1.0] * 6 + [np.nan])
        ends = np.unique(p[np.isfinite(truth)])
        cuts = (ends[1:] + ends[:-1]) / 2
        quality = [(p[truth == 1] > cut).mean() + (p[truth == 0] <= cut).mean() for cut in cuts]
        best = [cut for cut, one in zip(cuts, quality, strict=True) if np.isclose(one, max(quality))]
        assert fit_threshold(p, truth) == pytest.approx(best[(len(best) - 1) // 2] if best else 0.5)
    assert fit_threshold(p, np.ones(12)) == fit_threshold(p, np.full(12, np.nan)) == 0.5
    assert fit_threshold(np.full(2, 0.4), np.array([0, 1])) == 0.5
    middle = fit_threshold(np.array([0.1, 0.2, 0.3, 0.4]), np.array([0, 1, 0, 1]))
    assert middle in (pytest.approx(0.15), pytest.approx(0.35)), "halfway between two best ones lies the worst"


def test_the_correction_finds_the_true_share_of_a_simulated_judge():
    rng = np.random.default_rng(0)
    true = rng.random(200_000) < 0.15
    said = np.where(true, rng.random(true.size) < 0.8, rng.random(true.size) < 0.3)
    assert correct_share(said.mean(), 0.8, 0.7) == pytest.approx(true.mean(), abs=0.01)
    assert np.isnan(correct_share(0.4, 0.5, 0.5)) and correct_share(0.1, 0.9, 0.8) < 0
    assert correct_share(0.25, 1, 1) == 0.25


@pytest.mark.parametrize("level", [0, 1, 90, float("nan")])
def test_a_level_that_is_no_coverage_is_refused(level):
    with pytest.raises(ValueError, match="lies between 0 and 1"):
        fit_conformal(np.full((40, 1, 3), 1 / 3), np.ones((40, 1)), level)

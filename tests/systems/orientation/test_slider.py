"""The slider measure: published angles of ideal players, classes at their edges, and what is not defined."""

import numpy as np
import pytest
from published_angles import PUBLISHED

from fulcra_utils.systems.orientation.slider import (
    OrientationError,
    classify_angle,
    ideal_angle,
    ideal_choices,
    inequality_aversion,
    load_slider,
    svo_angle,
    take_payoffs,
    target_range,
    value_rationality,
)


@pytest.mark.parametrize(("rule", "published"), PUBLISHED.items())
def test_ideal_payoffs_give_the_published_angles(rule, published):
    assert tuple(round(angle, 2) for angle in ideal_angle(rule)) == published


def test_a_mean_of_fifty_for_oneself_does_not_crash():
    assert svo_angle([50] * 6, [100] * 6) == 90 and svo_angle([50] * 6, [0] * 6) == -90
    assert np.isnan(svo_angle(50, 50)), "no direction is not an angle of 0"


def test_angle_of_means_and_of_choices_agree_and_missing_stays_missing():
    own, other = np.array([85, 100, 50, 50, 50, 85.0]), np.array([85, 50, 100, 100, 100, 85.0])
    assert svo_angle(own.mean(), other.mean()) == svo_angle(own, other)
    assert svo_angle(np.stack([own, own]), np.stack([other, other])).shape == (2,)
    own[2] = np.nan
    assert np.isnan(svo_angle(own, other))
    with pytest.raises(OrientationError, match="shape"):
        svo_angle([50, 60], [50])


@pytest.mark.parametrize(("angle", "name"), [
    (90, "altruistic"), (57.16, "altruistic"), (57.15, "prosocial"), (22.46, "prosocial"), (22.45, "individualistic"),
    (-12.03, "individualistic"), (-12.04, "competitive"), (-89, "competitive"), (float("nan"), None), (120, None)])
def test_classes_at_their_edges(angle, name):
    assert classify_angle(angle) == name


def test_every_orientation_stands_in_its_own_class():
    for orientation in load_slider().orientations:
        assert {classify_angle(a) for a in target_range(orientation)} == {orientation}
        assert value_rationality(np.mean(target_range(orientation)), orientation) == 0
    with pytest.raises(OrientationError, match="known are altruistic"):
        target_range("kind")


def test_inequality_aversion_only_where_defined():
    assert inequality_aversion([c[0] for c in ideal_choices("minimal inequality")]) == 1
    assert np.isnan(inequality_aversion([c[0] for c in ideal_choices("altruist")])), "not prosocial"
    assert np.isnan(inequality_aversion([0, 0, 0, 0, 0, -1])), "not complete"
    with pytest.raises(OrientationError, match="6 numbers below 9"):
        take_payoffs([9] * 6)

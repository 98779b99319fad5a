"""One rule at the border of a cut, whoever draws it."""

import inspect

import numpy as np
import pytest

from fulcra_utils.alignment import reward
from fulcra_utils.common.labels import CLASSES, NEAREST, WEAK, labels_of, score_valence, scores_to_labels
from fulcra_utils.theory.distance import value_distance


def borders(cut):
    """The scores at, just within and just beyond a cut, on both sides, and 0."""
    within, beyond = np.nextafter(cut, 0), np.nextafter(cut, 1)
    return np.array([-beyond, -cut, -within, 0, within, cut, beyond]), [-1, 0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("cut", [WEAK, NEAREST])
def test_on_the_cut_is_zero_and_just_beyond_is_not(cut):
    scores, expected = borders(cut)
    assert scores_to_labels(scores[None], cut).tolist() == [expected]
    pairs = np.tile([-cut, cut], (len(scores), 1))
    assert scores_to_labels(scores[None], pairs).tolist() == [expected], "pairs of cuts draw the border alike"
    assert scores_to_labels(np.array([[np.float32(cut)]]), cut).tolist() == [[0.0]], "as 32 bits hold it, still on it"


def test_what_is_weak_for_the_distance_is_the_label_zero():
    scores, expected = borders(WEAK)
    for score, label in zip(scores, expected, strict=True):
        gap = value_distance(np.array([[score]]), np.array([1.0]), absence="mask")[0]
        assert (gap == 0) == (label == 0), "the released reward drops exactly the labels that are 0"


def test_every_default_cut_is_one_of_the_two():
    """Given scores are cut at WEAK, predicted ones and means at NEAREST."""
    def default(function, name):
        return inspect.signature(function).parameters[name].default

    weak = [(scores_to_labels, "cuts"), (value_distance, "threshold"), (reward.value_reward, "threshold")]
    assert {default(*place) for place in weak} == {WEAK}


def test_probabilities_and_their_score_agree_on_whole_classes():
    for label in CLASSES:
        sure = np.eye(3)[CLASSES.index(label)][None, None]
        assert labels_of(sure).item() == scores_to_labels(sure[..., 2] - sure[..., 0], NEAREST).item() == label
    for tied in ([0.5, 0.5, 0.0], [0.0, 0.5, 0.5]):
        tied = np.array([[tied]])
        assert labels_of(tied).item() == scores_to_labels(tied[..., 2] - tied[..., 0], NEAREST).item() == 0


def test_a_missing_score_has_no_label():
    assert np.isnan(scores_to_labels(np.array([[np.nan]]), NEAREST)).all()


def test_valence_by_hand():
    """P = (.2, .2, .6): touched .8, score (.6 - .2) / .8 = .5; at .5 a value is not touched (strict, as GPV)."""
    cells = np.array([[[.2, .2, .6], [.25, .5, .25], [.9, .1, 0]], [[np.nan] * 3] * 3])
    assert score_valence(cells)[0] == pytest.approx([.5, np.nan, -1], nan_ok=True)
    assert np.isnan(score_valence(cells)[1]).all()
    assert score_valence(cells, 0.4)[0, 1] == 0

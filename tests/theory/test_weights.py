"""Weights of values, and scores seen from a coarser theory."""

import numpy as np
import pytest

from fulcra_utils.theory.lifting import lift_to
from fulcra_utils.theory.theory import load_theory
from fulcra_utils.theory.weights import WeightError, resolve_weights, weigh_by_ranking


def test_weights_sum_to_one_in_every_form(any_theory):
    names, n = any_theory.dimensions, any_theory.n_dims
    np.testing.assert_allclose(resolve_weights(None, any_theory), 1 / n)
    np.testing.assert_allclose(resolve_weights({names[0]: 3.0}, any_theory), np.eye(n)[0])
    np.testing.assert_allclose(resolve_weights(range(1, n + 1), any_theory).sum(), 1)


@pytest.mark.parametrize(("weights", "words"), [
    ({"calm": 1, "clam": 1}, "'clam', which is no dimension"), ([1, 2], "needs 3 weights, not 2"),
    ({"calm": -1}, "weight of calm is -1"), ([1, np.nan, 1], "weight of bold is nan"),
    ([0, 0, 0], "all weights are 0")])
def test_weights_that_rank_nothing_are_named(toy, weights, words):
    if isinstance(weights, dict):
        weights = {dict(zip(("calm", "bold"), toy.dimensions, strict=False)).get(k, k): v for k, v in weights.items()}
    words = words.replace("calm", toy.dimensions[0]).replace("bold", toy.dimensions[1])
    with pytest.raises(WeightError, match=words):
        resolve_weights(weights, toy)


def test_a_ranking_falls_in_equal_steps_and_what_is_not_ranked_weighs_nothing():
    assert weigh_by_ranking([1, 3, 2]).tolist() == pytest.approx([3 / 6, 1 / 6, 2 / 6])
    assert weigh_by_ranking([2, np.nan, 1]).tolist() == pytest.approx([1 / 3, 0, 2 / 3])


def test_scores_are_lifted_to_the_parent_as_means_of_children():
    fine, coarse = load_theory("schwartz19"), load_theory("schwartz10")
    scores = np.random.default_rng(0).normal(size=(4, 19))
    lifted = lift_to(scores, fine, coarse)
    for d, name in enumerate(coarse.dimensions):
        children = [k for k, parent in enumerate(fine.parents) if parent == name]
        np.testing.assert_allclose(lifted[:, d], scores[:, children].mean(axis=1) if children else np.nan)
    assert lift_to(scores, fine, fine) is not None and lift_to(scores, coarse, fine) is None
    assert lift_to(np.zeros(5), load_theory("moral_foundations"), coarse) is None

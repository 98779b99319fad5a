"""Weights of values; the distance itself is tested beside the reward, in tests/alignment/test_reward.py."""

import numpy as np
import pytest

from fulcra_utils.theory.distance import resolve_weights


def test_weights_sum_to_one_in_every_form(any_theory):
    names, n = any_theory.dimensions, any_theory.n_dims
    np.testing.assert_allclose(resolve_weights(None, any_theory), 1 / n)
    np.testing.assert_allclose(resolve_weights({names[0]: 3.0}, any_theory), np.eye(n)[0])
    np.testing.assert_allclose(resolve_weights(range(1, n + 1), any_theory).sum(), 1)


@pytest.mark.parametrize(("weights", "words"), [
    ({"calm": 1, "clam": 1}, "'clam', which is no dimension"), ([1, 2], "3 dimensions need as many weights"),
    ({"calm": -1}, "weight of calm is -1"), ([1, np.nan, 1], "weight of bold is nan"),
    ([0, 0, 0], "all weights are 0")])
def test_weights_that_rank_nothing_are_named(toy, weights, words):
    if isinstance(weights, dict):
        weights = {dict(zip(("calm", "bold"), toy.dimensions, strict=False)).get(k, k): v for k, v in weights.items()}
    words = words.replace("calm", toy.dimensions[0]).replace("bold", toy.dimensions[1])
    with pytest.raises(ValueError, match=words):
        resolve_weights(weights, toy)

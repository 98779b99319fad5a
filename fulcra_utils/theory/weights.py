"""Weights of values: a person's, a country's, or all alike."""

from collections.abc import Mapping, Sequence

import numpy as np

from fulcra_utils.theory.theory import Theory, load_theory


class WeightError(ValueError):
    """Weights that give no ranking."""


def resolve_weights(weights: Mapping[str, float] | Sequence[float] | None, theory: Theory | str) -> np.ndarray:
    """Return weights (D,) that sum to 1, from a mapping (left out = 0), D numbers, or None for all alike.

    Value Compass (arXiv 2501.07071) ranks by Σ weight · score; dividing by the sum keeps the score's range. WeightError
    names the dimension: unknown, a negative or missing number, a wrong length, or all zero.

    >>> resolve_weights({"care": 2, "fairness": 1, "loyalty": 1}, "moral_foundations")
    array([0.5 , 0.25, 0.25, 0.  , 0.  ])
    """
    theory = load_theory(theory)
    if weights is None:
        return np.full(theory.n_dims, 1 / theory.n_dims)
    if isinstance(weights, Mapping):
        unknown = [name for name in weights if name not in theory.dimensions]
        if unknown:
            raise WeightError(f"weight for {unknown[0]!r}, which is no dimension of {theory.name}.")
        weights = [weights.get(name, 0.0) for name in theory.dimensions]
    numbers = np.asarray(weights, dtype=float)
    if numbers.shape != (theory.n_dims,):
        raise WeightError(f"{theory.name} needs {theory.n_dims} weights, not {numbers.size}.")
    bad = ~(np.isfinite(numbers) & (numbers >= 0))
    if bad.any():
        raise WeightError(f"the weight of {theory.dimensions[bad.argmax()]} is {numbers[bad][0]:g}; "
                           "a weight is 0 or more.")
    if not numbers.any():
        raise WeightError("all weights are 0, so no ranking exists; give at least one value a weight.")
    return numbers / numbers.sum()


def weigh_by_ranking(ranks: Sequence[float]) -> np.ndarray:
    """Turn ranks of D values (1 = first, nan = not ranked, weight 0) into weights: (n - rank + 1) / sum.

    >>> weigh_by_ranking([1, 3, 2])
    array([0.5       , 0.16666667, 0.33333333])
    """
    ranks = np.asarray(ranks, dtype=float)
    steps = np.nan_to_num(np.isfinite(ranks).sum() - ranks + 1, nan=0.0)
    return steps / steps.sum()

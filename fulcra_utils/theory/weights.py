"""Weights of values: a person's, a country's, or all alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fulcra_utils.theory.theory import Theory, load_theory


class WeightError(ValueError):
    """Weights that give no ranking."""


def resolve_weights(weights: Mapping[str, float] | Sequence[float] | None, theory: Theory | str) -> np.ndarray:
    """Return weights that sum to 1.

    Parameters
    ----------
    weights : mapping, sequence of D numbers, or None
        Not negative; a mapping may leave dimensions out (weight 0); None weighs all alike.
    theory : Theory or str

    Returns
    -------
    ndarray, shape (D,)

    Raises
    ------
    WeightError
        Unknown dimension, wrong length, a negative or missing number, or all zero; names the dimension.

    Source: Value Compass (arXiv 2501.07071), aggregate Σ weight · score; dividing by their sum keeps the score's range.

    Examples
    --------
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
    """Turn a population's ranks of D values (1 = first) into weights: (D - rank + 1) / sum, nan stays out with 0.

    Parameters
    ----------
    ranks : sequence of D numbers
        1 = first; nan = not ranked.

    Returns
    -------
    ndarray, shape (D,)

    Source: ours; a ranking carries no distances, so the weights fall in equal steps.

    Examples
    --------
    >>> weigh_by_ranking([1, 3, 2])
    array([0.5       , 0.16666667, 0.33333333])
    """
    ranks = np.asarray(ranks, dtype=float)
    steps = np.nan_to_num(np.isfinite(ranks).sum() - ranks + 1, nan=0.0)
    return steps / steps.sum()

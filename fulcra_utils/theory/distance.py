"""Distance of value vectors to a target: the one the paper aligns by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pandas as pd

from fulcra_utils.theory.targets import Target

ABSENCES = ("penalise", "zero", "mask")


class Scorer(Protocol):
    """Anything that scores replies, such as `ValueEvaluator`."""

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Return (N, D) scores within [-1, 1]."""
        ...


def value_distance(
    vectors: np.ndarray,
    target: np.ndarray | Target,
    weights: np.ndarray | None = None,
    order: int = 1,
    absence: str = "penalise",
    threshold: float = 0.3,
) -> np.ndarray:
    """Return the weighted distance of each value vector to a target.

    Parameters
    ----------
    vectors : ndarray, shape (N, D), or DataFrame
        Scores in [-1, 1]; nan where a dimension is not known. Columns are found by the names of a `Target`.
    target : ndarray, shape (D,), or Target
        Wanted score per dimension. A `Target` may hold ranges; the distance within a range is 0.
    weights : ndarray, shape (D,), optional
        Non-negative. None means the target's own weights, which are abs(target) for an array.
    order : {1, 2}
        1 gives sum(w * |v - t|), 2 gives sqrt(sum(w * (v - t)^2)).
    absence : {"penalise", "zero", "mask"}
        What to do with a weakly expressed value, |v| <= threshold: take it as it is, set it to 0, or drop the dimension
        from the sum (the released reward, under which a reply that expresses nothing is at distance 0).
    threshold : float
        Used by "zero" and "mask".

    Returns
    -------
    ndarray, shape (N,)
        0 at the target; nan for a row that misses a dimension with a weight above 0.

    Raises
    ------
    ValueError
        Wrong shape, not a finite target, negative or all-zero weights, unknown order or absence.

    Source: released alignment code for order 1 with "mask" (training reward) and for order 1 and 2 without mask
    (h_distance and e_distance); ours: "zero", "penalise" for every target, ranges.

    Examples
    --------
    >>> value_distance(np.array([[1.0, -0.2]]), np.array([1.0, 1.0])).round(3)
    array([1.2])
    >>> value_distance(np.array([[1.0, -0.2]]), np.array([1.0, 1.0]), absence="mask")
    array([0.])
    """
    if isinstance(vectors, pd.DataFrame) and isinstance(target, Target) and target.dimensions:
        if missing := [name for name in target.dimensions if name not in vectors]:
            raise ValueError(f"the vectors have no column {missing[0]!r}, which target {target.name} names.")
        vectors = vectors[list(target.dimensions)]
    vectors = np.asarray(vectors, dtype=float)
    low, high, weights = _resolve_target(target, weights)
    _check_distance(vectors, low, weights, order, absence)
    weak = np.abs(vectors) <= threshold
    values = np.where(weak, 0.0, vectors) if absence == "zero" else vectors
    gaps = np.abs(values - np.clip(values, low, high))  # (N, D)
    if absence == "mask":
        gaps = np.where(weak, 0.0, gaps)
    gaps = np.where(weights > 0, gaps, 0.0)  # a missing value without weight does no harm
    return gaps @ weights if order == 1 else np.sqrt(np.square(gaps) @ weights)


def _resolve_target(
    target: np.ndarray | Target, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return low, high and weights, each (D,)."""
    if isinstance(target, Target):
        low, high, own = target.low, target.high, target.weights
    else:
        low = high = np.asarray(target, dtype=float)
        own = np.abs(low)
    weights = own if weights is None else np.asarray(weights, dtype=float)
    if low.ndim != 1 or not np.isfinite(low).all() or not np.isfinite(high).all():
        raise ValueError("the target must be one row of finite numbers, one for each dimension.")
    if weights.shape != low.shape:
        raise ValueError(f"the weights have shape {weights.shape}, the target has {low.shape}.")
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError("the weights must be finite and not negative.")
    if not weights.any():
        raise ValueError("every weight is 0, so every vector would be at distance 0.")
    return low, high, weights


def _check_distance(vectors: np.ndarray, low: np.ndarray, weights: np.ndarray, order: int, absence: str) -> None:
    if vectors.ndim != 2 or vectors.shape[1] != len(low):
        raise ValueError(f"the vectors have shape {vectors.shape}, but the target has {len(low)} dimensions.")
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, not {order!r}.")
    if absence not in ABSENCES:
        raise ValueError(f"absence must be one of {', '.join(ABSENCES)}, not {absence!r}.")

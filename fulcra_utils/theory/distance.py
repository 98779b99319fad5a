"""Distance of value vectors to a target: the one the paper aligns by."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pandas as pd

from fulcra_utils.common.labels import WEAK
from fulcra_utils.theory.targets import Target

ABSENCES = ("penalise", "zero", "mask")


class Scorer(Protocol):
    """Anything that scores replies, such as `ValueEvaluator`."""

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Return (N, D) scores within [-1, 1]."""
        ...


def value_distance(vectors: np.ndarray, target: np.ndarray | Target, weights: np.ndarray | None = None, order: int = 1,
                   absence: str = "penalise", threshold: float = WEAK) -> np.ndarray:
    """Return the weighted distance of each value vector to a target, shape (N,): 0 at the target.

    Vectors have shape (N, D), scores in [-1, 1]; columns of a DataFrame are found by the names of a `Target`. A row
    that misses a dimension with a weight above 0 is nan. The target is one number a dimension, shape (D,), or a
    `Target`, which may hold ranges: within one the distance is 0. Weights are the target's own when None, abs(target)
    for an array.

    With order 1 the distance is sum(w · |v - t|), with 2 sqrt(sum(w · (v - t)²)). `absence` says what becomes of a
    weakly expressed value, |v| <= threshold: "penalise" takes it as it is, "zero" sets it to 0, "mask" drops the
    dimension from the sum: the released training reward, under which a reply that expresses nothing is at distance 0.
    Without mask, order 1 and 2 are the released h_distance and e_distance. "zero" and ranges are our own.

    ValueError for a wrong shape, a target that is not finite, negative or all-zero weights, unknown order or absence.

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
    low, high, weights = resolve_target(target, weights)
    _check_distance(vectors, low, weights, order, absence)
    weak = np.abs(vectors) <= threshold
    values = np.where(weak, 0.0, vectors) if absence == "zero" else vectors
    gaps = np.abs(values - np.clip(values, low, high))  # (N, D)
    if absence == "mask":
        gaps = np.where(weak, 0.0, gaps)
    gaps = np.where(weights > 0, gaps, 0.0)  # a missing value without weight does no harm
    return gaps @ weights if order == 1 else np.sqrt(np.square(gaps) @ weights)


def resolve_target(target: np.ndarray | Target,
                   weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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

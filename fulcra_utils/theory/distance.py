"""Distance of value vectors to a target: the one the paper aligns by; and weights of values."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import pandas as pd

from fulcra_utils.common.labels import WEAK
from fulcra_utils.theory.targets import Target
from fulcra_utils.theory.theory import Theory, load_theory

ABSENCES = ("penalise", "zero", "mask")


class Scorer(Protocol):
    """Anything that scores replies, such as `ValueEvaluator`."""

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Return (N, D) scores within [-1, 1]."""
        ...


def score_towards(scorer: Scorer, prompts: Sequence[str], responses: Sequence[str],
                  target: np.ndarray | Target) -> np.ndarray:
    """Return scores (N, D) of N replies in the order of a target's dimensions.

    They go by name where both the scorer (`dimensions`) and the target have names, else by place; a dimension of the
    target that the scorer lacks is a ValueError.

    >>> from fulcra_utils.theory.targets import uniform_target
    >>> from types import SimpleNamespace
    >>> backwards = uniform_target("moral_foundations").dimensions[::-1]
    >>> scorer = SimpleNamespace(dimensions=backwards, score=lambda prompts, responses: [range(5)])
    >>> score_towards(scorer, ["q"], ["a"], uniform_target("moral_foundations")).tolist()
    [[4.0, 3.0, 2.0, 1.0, 0.0]]
    """
    vectors = np.asarray(scorer.score(prompts, responses), dtype=float)
    known, wanted = (tuple(getattr(one, "dimensions", None) or ()) for one in (scorer, target))
    if not known or not wanted or known == wanted:
        return vectors
    if missing := [name for name in wanted if name not in known]:
        raise ValueError(f"the target asks for {missing[0]!r}, and the evaluator scores {', '.join(known)}.")
    return vectors[:, [known.index(name) for name in wanted]]


def value_distance(vectors: np.ndarray, target: np.ndarray | Target, weights: np.ndarray | None = None, order: int = 1,
                   absence: str = "penalise", threshold: float = WEAK) -> np.ndarray:
    """Return the weighted distance of each value vector to a target, shape (N,): 0 at the target.

    Vectors have shape (N, D), scores in [-1, 1]; columns of a DataFrame, and weights or a target in a Series, are found
    by the names of the `Target`, else of the DataFrame. A row that misses a dimension with a weight above 0 is nan. The
    target is one number a dimension, shape (D,), or a `Target`, which may hold ranges: within one the distance is 0.
    Weights are the target's own when None, abs(target) for an array.

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
    names = list(target.dimensions if isinstance(target, Target) else getattr(vectors, "columns", ()))
    target, weights = (given.reindex(names).to_numpy() if names and isinstance(given, pd.Series) else given
                       for given in (target, weights))
    vectors, target = np.asarray(vectors, dtype=float), resolve_target(target, weights)
    if vectors.ndim != 2 or vectors.shape[1] != len(target.low):
        raise ValueError(f"the vectors have shape {vectors.shape}, but the target has {len(target.low)} dimensions.")
    for name, given, known in (("order", order, (1, 2)), ("absence", absence, ABSENCES)):
        if given not in known:
            raise ValueError(f"{name} must be one of {', '.join(map(str, known))}, not {given!r}.")
    weak = np.abs(vectors) <= max(threshold, np.float32(threshold))     # 0.3 in 32 bits lies a little above it
    values = np.where(weak, 0.0, vectors) if absence == "zero" else vectors
    gaps = np.abs(values - np.clip(values, target.low, target.high))  # (N, D)
    if absence == "mask":
        gaps = np.where(weak, 0.0, gaps)
    gaps = np.where(target.weights > 0, gaps, 0.0)  # a missing value without weight does no harm
    return gaps @ target.weights if order == 1 else np.sqrt(np.square(gaps) @ target.weights)


def resolve_target(target: np.ndarray | Target, weights: np.ndarray | None) -> Target:
    """Return the numbers of a target and the names of its dimensions; `weights`, where there are any, instead of its
    own.
    """
    if isinstance(target, Target):
        low, high, own, known = target.low, target.high, target.weights, target.dimensions
    else:
        low = high = np.asarray(target, dtype=float)
        own, known = np.abs(low), ()
    if low.ndim != 1 or not np.isfinite([low, high]).all():
        raise ValueError("the target must be one row of finite numbers, one for each dimension.")
    names = [f"dimension {d}" for d in range(len(low))]
    return Target("", "", "", known, low, high, _check_weights(own if weights is None else weights, names))


def resolve_weights(weights: Mapping[str, float] | Sequence[float] | None, theory: Theory | str) -> np.ndarray:
    """Return weights (D,) that sum to 1, from a mapping (left out = 0), D numbers, or None for all alike.

    Value Compass (arXiv 2501.07071) ranks by Σ weight · score; dividing by the sum keeps the score's range. ValueError
    names the dimension: unknown, a negative or missing number, a wrong length, or all zero.

    >>> resolve_weights({"care": 2, "fairness": 1, "loyalty": 1}, "moral_foundations")
    array([0.5 , 0.25, 0.25, 0.  , 0.  ])
    """
    theory = load_theory(theory)
    weights = weights.to_dict() if isinstance(weights, pd.Series) else weights
    if isinstance(weights, Mapping):
        if unknown := [name for name in weights if name not in theory.dimensions]:
            raise ValueError(f"weight for {unknown[0]!r}, which is no dimension of {theory.name}.")
        weights = [weights.get(name, 0.0) for name in theory.dimensions]
    numbers = _check_weights(np.ones(theory.n_dims) if weights is None else weights, theory.dimensions)
    return numbers / numbers.sum()


def _check_weights(weights: Sequence[float], names: Sequence[str]) -> np.ndarray:
    weights = np.asarray(weights, dtype=float)
    if weights.shape != (len(names),):
        raise ValueError(f"{len(names)} dimensions need as many weights, not an array of shape {weights.shape}.")
    for name, weight in zip(names, weights, strict=True):
        if not 0 <= weight < np.inf:
            raise ValueError(f"the weight of {name} is {weight:g}; a weight is 0 or more.")
    if not weights.any():
        raise ValueError("all weights are 0; give at least one dimension a weight.")
    return weights

"""Scores of a fine theory seen as those of its parent."""

import numpy as np

from fulcra_utils.theory.theory import Theory


def lift_to(values: np.ndarray, theory: Theory, other: Theory) -> np.ndarray | None:
    """Return scores (..., D) under `theory` as scores under `other`: themselves, or the mean of each one's children.

    None when `other` is neither the theory nor its parent; nan for a dimension without children.

    >>> from fulcra_utils.theory.theory import load_theory
    >>> lift_to(np.arange(19.0), load_theory("schwartz19"), load_theory("schwartz10"))[:2].tolist()
    [0.5, 2.0]
    """
    if theory.name == other.name:
        return np.asarray(values, dtype=float)
    if theory.parent != other.name:
        return None
    children = np.array([[p == d for d in other.dimensions] for p in theory.parents], dtype=float)   # (D, D')
    n = children.sum(axis=0)
    return np.asarray(values) @ children / np.where(n, n, np.nan)

"""Leaderboards of a few models whose scores are written by hand."""

import pandas as pd

from fulcra_utils.systems.compass.scores import make_board
from fulcra_utils.theory.theory import load_theory


def board(vectors, theory="moral_foundations"):
    """Return a board of one prompt a row; `vectors` is {model: scores of its replies}."""
    theory = load_theory(theory)
    rows = [(model, f"prompt {n}", "r", *v) for model, part in vectors.items() for n, v in enumerate(part)]
    table = pd.DataFrame(rows, columns=["model", "prompt", "response", *theory.dimensions])
    return make_board("mine, hand", theory, table, "By hand.", n_draws=50)


TWO = {"a": [(1, 0, 0, 0, 0)], "b": [(0, 1, 0, 0, 0)]}

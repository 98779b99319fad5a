"""Leaderboards of a few models whose scores are written by hand."""

import json

import numpy as np
import pandas as pd

from fulcra_utils.systems.compass.countries import load_countries
from fulcra_utils.systems.compass.scores import make_board
from fulcra_utils.theory.theory import load_theory


def board(vectors, theory="moral_foundations"):
    """Return a board of one prompt a row; `vectors` is {model: scores of its replies}."""
    theory = load_theory(theory)
    rows = [(model, f"prompt {n}", "r", *v) for model, part in vectors.items() for n, v in enumerate(part)]
    table = pd.DataFrame(rows, columns=["model", "prompt", "response", *theory.dimensions])
    return make_board("mine, hand", theory, table, "By hand.", n_draws=50)


TWO = {"a": [(1, 0, 0, 0, 0)], "b": [(0, 1, 0, 0, 0)]}
FRANCE = load_countries().ranks[0]
SCORES = np.array([100 - 10 * FRANCE, 10 * FRANCE - 10])   # as France ranks, and against it


def write_site(folder, scores=SCORES, models=("pro", "contra"), countries=("China", "France"),
               matches=((0, 1), (0, -1))):
    """Write tables as the Value Compass site releases them; return the paths of its scores and its matches."""
    theory = load_theory("schwartz10")
    rows = [{"model": m, **dict(zip([d.capitalize() for d in theory.dimensions], map(float, row), strict=True))}
            for m, row in zip(models, scores, strict=True)]
    (folder / "scores.json").write_text(json.dumps({"data": rows}))
    (folder / "matches.json").write_text(json.dumps(
        {"models": models, "countries": countries, "cosine_sim_matrix": matches}))
    return folder / "scores.json", folder / "matches.json"

"""Figures of values in context: movement by dose, values moved, cost against movement. Data in, Figure out."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fulcra_utils.plots.parts import LOOKS, finish, name_policy, open_panels, plot_series
from fulcra_utils.plots.style import BLACK, GREY, style_plots

COSTS = {"nll_real": "preferred replies less likely,\nnats a token",
         "sameness": "word pairs shared with other replies",
         "words": "words a reply", "relevance": "likeness of reply and prompt (cosine)"}
MOVED = "movement towards the target (L1 distance)"
KINDS = {"target": "examples of the target", "neutral": "neutral examples", "shuffled": "target's answers, shuffled",
         "same length": "facts of the same length", "none": "no context"}


def plot_doses(changes: pd.DataFrame, policies: pd.DataFrame, title: str) -> Figure:
    """Draw movement (`difference`, low, high) by the number of pairs `k`, a line a `kind`, and policies as bands."""
    figure, axes = plt.subplots(figsize=(7.5, 4.6))
    doses = sorted({0, *changes.k})
    for n, (kind, part) in enumerate(changes.sort_values("k", kind="stable").groupby("kind", sort=False)):
        places = [doses.index(k) + 0.1 * n - 0.15 for k in part.k]
        axes.errorbar(places, part.difference, _reach(part), color=LOOKS[n][0], marker=LOOKS[n][1],
                      label=_name_kind(kind))
    for row in policies.itertuples():
        axes.axhline(row.difference, color=GREY, linestyle="--", label=_name_kind(row.kind))
        axes.axhspan(row.low, row.high, color=GREY, alpha=0.15)
    axes.plot(0, 0, "*", color=BLACK, markersize=11, label="no context")
    axes.axhline(0, color=GREY, linewidth=1)
    axes.set(xticks=range(len(doses)), xticklabels=doses, xlabel="pairs in the context", ylabel=MOVED)
    return finish(figure, title, ncols=3)


def plot_values(changes: pd.DataFrame, asked: Sequence[str], values: Sequence[str], title: str) -> Figure:
    """Draw the change of each value (`measure`) by kind, those `asked` for by the target first."""
    order = sorted(values, key=lambda value: value not in asked)
    names = {value: f"{value} (asked)" if value in asked else value for value in order}
    parts = {_name_kind(kind): part.set_index(part.measure.map(names))
             for kind, part in changes.groupby("kind", sort=False)}
    return plot_series(list(names.values()), {"change against no context": parts}, "difference", title)


def plot_costs(changes: pd.DataFrame, title: str) -> Figure:
    """Draw what moving costs, a panel a measure of `COSTS`, against movement, a point a kind with both intervals."""
    parts = {name: part.set_index("kind") for name, part in changes.groupby("measure")}
    moved, shown = parts["nearness"], [name for name in COSTS if name in parts]
    figure, grid = open_panels(len(shown), 3.3, 4, sharey=True)
    for axes, name in zip(grid, shown, strict=True):
        for kind, (colour, marker) in zip(moved.index, LOOKS, strict=False):
            x, y = parts[name].loc[[kind]], moved.loc[[kind]]
            axes.errorbar(x.difference, y.difference, _reach(y), _reach(x), marker, color=colour,
                          label=_name_kind(kind))
        axes.plot(0, 0, "*", color=BLACK, markersize=11, label="no context")
        axes.set_xlabel(f"change: {COSTS[name]}")
    grid[0].set_ylabel(MOVED)
    return finish(figure, title, ncols=3)


def _name_kind(kind: str) -> str:
    """Return a kind of context in words; what is none is a policy, which has no context."""
    return KINDS.get(kind) or f"{name_policy(kind)}, no context"


def _reach(table: pd.DataFrame) -> np.ndarray:
    """Return how far an interval reaches below and above its number, (2, N)."""
    return (table[["low", "high"]].to_numpy() - table[["difference"]].to_numpy()).T * [[-1], [1]]


style_plots(globals())

"""Figures of the value compass, and of theories side by side. Data in, Figure out."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fulcra_utils.plots.style import (
    BLUE,
    COLOURS,
    GREY,
    MARKERS,
    ORANGE,
    draw_intervals,
    finish,
    label_points,
    mark_gaps,
    name_rows,
    plot_matrix,
    styled,
)


@styled
def plot_ranking(table: pd.DataFrame, title: str) -> Figure:
    """Draw the score of every model with its interval, best first, and write its rank beside it: at most 40 models."""
    table = table.head(40)
    figure, axes = plt.subplots(figsize=(8, 1.3 + 0.3 * len(table)), layout="constrained")
    draw_intervals(axes, table, np.arange(len(table)), ("score", "low", "high"))
    name_rows(axes, table.model, "weighted score with its 95 % interval")
    ranks = axes.secondary_yaxis("right")
    ranks.set_yticks(range(len(table)), [_write_rank(*r) for r in zip(table["rank"], table.rank_low, table.rank_high,
                                                                      strict=True)])
    ranks.tick_params(length=0)
    ranks.spines["right"].set_visible(False)
    axes.set_title("rank (95 % interval)", loc="right", fontsize=8)
    return finish(figure, title)


def _write_rank(rank: float, low: float, high: float) -> str:
    if not np.isfinite(rank):
        return "–"
    return f"{rank:.0f}" if not low < high else f"{rank:.0f}  ({low:.0f} to {high:.0f})"


@styled
def plot_cells(cells: pd.DataFrame, title: str) -> Figure:
    """Draw the mean score of every model on every value (dimension) as numbered cells; empty = no score."""
    values = cells.pivot_table(index="model", columns="dimension", values="score", sort=False, dropna=False)
    if values.shape[1] > max(24, values.shape[0]):
        values = values.T   # a long theory runs down the page
    size = (3 + 0.62 * values.shape[1], 1.9 + 0.36 * values.shape[0])
    return plot_matrix(values, values.map("{:.2f}".format), size, title, "mean score")


@styled
def plot_matches(matches: pd.DataFrame, title: str) -> Figure:
    """Draw Spearman's ρ of every model with every country (`match_countries`), with intervals."""
    models, countries = matches.model.unique(), matches.country.unique()
    figure, axes = plt.subplots(figsize=(8, 1.8 + 0.42 * len(models)), layout="constrained")
    for c, country in enumerate(countries):
        part = matches[matches.country == country].set_index("model").reindex(models)
        rows = np.arange(len(models)) + 0.22 * (c - (len(countries) - 1) / 2)
        draw_intervals(axes, part, rows, ("rho", "low", "high"), COLOURS[c % 10], MARKERS[c % 10], country)
    axes.axvline(0, color=GREY, linewidth=1)
    name_rows(axes, models, "Spearman's ρ of value rankings")
    axes.set_xlim(-1.05, 1.05)
    return finish(figure, title, ncols=len(countries))


@styled
def plot_maps(maps: Mapping[str, np.ndarray], labels: Sequence[str], n_models: int, title: str) -> Figure:
    """Draw maps (name of the method → places (K, 2), nan = no place) of models and countries side by side.

    `labels` (K,) name the models first, then the countries; a hub name stands without its owner.
    """
    size = 5 + 0.07 * len(labels)
    figure, grid = plt.subplots(1, len(maps), figsize=((size + 0.4) * len(maps), size), layout="constrained",
                                squeeze=False)
    for axes, (name, places) in zip(grid[0], maps.items(), strict=True):
        for rows, colour, marker, label in ((slice(0, n_models), BLUE, "o", "models"),
                                            (slice(n_models, None), ORANGE, "*", "countries")):
            if len(places[rows]):
                axes.scatter(*places[rows].T, color=colour, marker=marker, s=30 if marker == "o" else 70, label=label)
        axes.set(title=name, xticks=[], yticks=[])
        axes.spines[["top", "right"]].set_visible(True)
        axes.margins(0.2)
    finish(figure, title, ncols=2)
    for axes, places in zip(grid[0], maps.values(), strict=True):
        label_points(axes, places, [label.rpartition("/")[2] for label in labels],
                     8 if len(labels) <= 15 else 7)
    return figure


@styled
def plot_cross(table: pd.DataFrame, title: str) -> Figure:
    """Draw the correlations r between the dimensions of two theories; bold where the interval leaves out 0."""
    r, low, high = (table.pivot_table(index="first", columns="second", values=name, sort=False, dropna=False)
                    for name in ("r", "low", "high"))
    size = (3 + 0.66 * r.shape[1], 1.9 + 0.34 * r.shape[0])
    return plot_matrix(r, r.map("{:.2f}".format), size, title, "correlation", ((low > 0) | (high < 0)).to_numpy())


@styled
def plot_accuracies(table: pd.DataFrame, title: str) -> Figure:
    """Draw each theory's pairwise accuracy with its interval, next to what chance and the permutation null reach."""
    rows = np.arange(len(table))
    figure, axes = plt.subplots(figsize=(8, 1.7 + 0.4 * len(table)), layout="constrained")
    draw_intervals(axes, table, rows, ("accuracy", "low", "high"), label="accuracy, 95 % interval over prompts")
    axes.plot(table.null, rows, "|", color=ORANGE, markersize=16, label="95 % of shuffled preferences stay below")
    axes.axvline(0.5, color=GREY, linewidth=1)
    mark_gaps(axes, table.accuracy, "no pairs of replies with a reward")
    name_rows(axes, table.theory, "share of pairs in which the preferred reply is found")
    return finish(figure, title, ncols=2)

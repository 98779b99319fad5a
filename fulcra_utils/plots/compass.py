"""Figures of the value compass, of theories side by side, and of social value orientation. Data in, Figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fulcra_utils.plots.style import draw_matrix, finish

BLUE, ORANGE, GREEN, PINK, YELLOW, GREY, BLACK = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#999999",
                                                  "#000000")  # Okabe and Ito (2008)
COLORS = (BLUE, ORANGE, GREEN, PINK, YELLOW, GREY, BLACK)
MARKERS = "osD^vP*"


def plot_ranking(table: pd.DataFrame, title: str) -> Figure:
    """Draw score and rank of every model with their intervals, best first.

    Parameters
    ----------
    table : DataFrame
        From `rank_models`; at most the first 40 rows are drawn.
    title : str

    Returns
    -------
    Figure
    """
    table = table.head(40)
    places = np.arange(len(table))
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 1.5 + 0.32 * len(table)), sharey=True,
                                         layout="constrained")
    _intervals(left, table, places, "score", "low", "high", BLUE, "o")
    _intervals(right, table, places, "rank", "rank_low", "rank_high", ORANGE, "D")
    left.set(xlabel="weighted score", yticks=places, yticklabels=table.model)
    right.set_xlabel("rank (1 = first)")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.invert_yaxis()
    for axes in (left, right):
        _tidy(axes)
    figure.suptitle(title)
    return figure


def plot_cells(cells: pd.DataFrame, title: str) -> Figure:
    """Draw the mean score of every model on every value as coloured, numbered cells; an empty cell has no score.

    Parameters
    ----------
    cells : DataFrame
        model, dimension, score.
    title : str

    Returns
    -------
    Figure
    """
    values = cells.pivot_table(index="model", columns="dimension", values="score", sort=False, dropna=False)
    if values.shape[1] > max(24, values.shape[0]):
        values = values.T   # a long theory runs down the page
    size = (3 + 0.62 * values.shape[1], 1.9 + 0.36 * values.shape[0])
    return draw_matrix(values, values.map("{:.2f}".format), size, title, "mean score")


def plot_matches(matches: pd.DataFrame, title: str) -> Figure:
    """Draw Spearman's ρ of every model with every country, with intervals.

    Parameters
    ----------
    matches : DataFrame
        From `match_countries`.
    title : str

    Returns
    -------
    Figure
    """
    models, countries = matches.model.unique(), matches.country.unique()
    figure, axes = plt.subplots(figsize=(8, 1.8 + 0.42 * len(models)), layout="constrained")
    for c, country in enumerate(countries):
        part = matches[matches.country == country].set_index("model").reindex(models)
        places = np.arange(len(models)) + 0.22 * (c - (len(countries) - 1) / 2)
        _intervals(axes, part, places, "rho", "low", "high", COLORS[c % 7], MARKERS[c % 7], label=country)
    axes.axvline(0, color=GREY, linewidth=1)
    axes.set(xlabel="Spearman's ρ of value rankings", xlim=(-1.05, 1.05), yticks=range(len(models)), yticklabels=models,
             title=title)
    axes.invert_yaxis()
    figure.legend(loc="outside lower center", ncols=len(countries), frameon=False)
    return _tidy(axes)


def plot_maps(maps: Mapping[str, np.ndarray], labels: Sequence[str], n_models: int, title: str) -> Figure:
    """Draw maps of models and countries side by side.

    Parameters
    ----------
    maps : mapping of str to array, shape (K, 2)
        Name of the method to places; nan = no place.
    labels : sequence of str, length K
        Models first, then countries.
    n_models : int
    title : str

    Returns
    -------
    Figure
    """
    figure, grid = plt.subplots(1, len(maps), figsize=(5.6 * len(maps), 5), layout="constrained", squeeze=False)
    for axes, (name, places) in zip(grid[0], maps.items(), strict=True):
        for rows, color, marker, label in ((slice(0, n_models), BLUE, "o", "models"),
                                           (slice(n_models, None), ORANGE, "*", "countries")):
            if len(places[rows]):
                axes.scatter(*places[rows].T, color=color, marker=marker, s=90, label=label)
        axes.set(title=name, xticks=[], yticks=[])
        axes.margins(0.3)
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(title)
    for axes, places in zip(grid[0], maps.values(), strict=True):
        _label_points(axes, places, labels)
    return figure


def plot_cross(table: pd.DataFrame, title: str) -> Figure:
    """Draw the correlations between the dimensions of two theories; bold where the interval leaves out 0.

    Parameters
    ----------
    table : DataFrame
        first, second, r, low, high.
    title : str

    Returns
    -------
    Figure
    """
    r, low, high = (table.pivot_table(index="first", columns="second", values=name, sort=False, dropna=False)
                    for name in ("r", "low", "high"))
    size = (3 + 0.66 * r.shape[1], 1.9 + 0.34 * r.shape[0])
    return draw_matrix(r, r.map("{:.2f}".format), size, title, "correlation", ((low > 0) | (high < 0)).to_numpy())


def plot_accuracies(table: pd.DataFrame, title: str) -> Figure:
    """Draw pairwise accuracies with intervals, next to what chance and the permutation null reach.

    Parameters
    ----------
    table : DataFrame
        theory, accuracy, low, high, null.
    title : str

    Returns
    -------
    Figure
    """
    places = np.arange(len(table))
    figure, axes = plt.subplots(figsize=(8, 1.7 + 0.4 * len(table)), layout="constrained")
    _intervals(axes, table, places, "accuracy", "low", "high", BLUE, "o", label="accuracy, 95 % interval over prompts")
    axes.plot(table.null, places, "|", color=ORANGE, markersize=16, label="95 % of shuffled preferences stay below")
    axes.axvline(0.5, color=GREY, linewidth=1)
    _mark_gaps(axes, table.accuracy, places, "no pairs of replies with a reward")
    axes.set(xlabel="share of pairs in which the preferred reply is found", yticks=places, yticklabels=table.theory,
             title=title)
    axes.invert_yaxis()
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return _tidy(axes)


def _mark_gaps(axes: plt.Axes, values: pd.Series, places: np.ndarray, text: str) -> None:
    """Say in words where there is nothing to draw."""
    for place in places[values.isna().to_numpy()]:
        axes.text(0.5, place, text, transform=axes.get_yaxis_transform(), ha="center", va="center", color=GREY,
                  fontsize=8, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})


def _intervals(axes: plt.Axes, table: pd.DataFrame, places: np.ndarray, middle: str, low: str, high: str, color: str,
               marker: str, label: str | None = None) -> None:
    axes.margins(y=0.5 / max(len(places), 1))
    axes.hlines(places, table[low].astype(float), table[high].astype(float), color=color, linewidth=2)
    axes.plot(table[middle].astype(float), places, marker, color=color, markersize=6, label=label)


def _label_points(axes: plt.Axes, places: np.ndarray, labels: Sequence[str]) -> None:
    """Write each label at the nearest free spot around its point; a thin line leads to one that is further away."""
    axes.figure.draw_without_rendering()   # settles the layout, so that places in points are known
    points = axes.transData.transform(places) * 72 / axes.figure.dpi
    left, bottom, right, top = axes.bbox.extents * 72 / axes.figure.dpi
    taken = [(left - 999, bottom, left, top), (right, bottom, right + 999, top),   # beside the axes no label stands
             *((x - 6, y - 6, x + 6, y + 6) for x, y in points if np.isfinite(x))]
    for k in np.flatnonzero(np.isfinite(places).all(axis=1)):
        label = labels[k].rpartition("/")[2]   # a hub name without its owner
        half = 2.9 * len(label) + 2
        spots = [(radius * np.cos(t) + np.sign(round(np.cos(t), 6)) * half, radius * np.sin(t))
                 for radius in (13, 26, 39, 52) for t in np.radians((90, 270, 0, 180, 45, 135, 225, 315))]
        boxes = [(x - half, y - 6, x + half, y + 6) for x, y in points[k] + spots]
        free = [not any(_overlap(box, other) for other in taken) for box in boxes]
        best = int(np.argmax(free))
        taken.append(boxes[best])
        axes.annotate(label, places[k], textcoords="offset points", xytext=spots[best], fontsize=9, ha="center",
                      va="center", in_layout=False,
                      arrowprops={"arrowstyle": "-", "color": GREY} if best >= 8 else None)


def _overlap(box: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]


def _tidy(axes: plt.Axes) -> Figure:
    axes.grid(axis="x", color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
    return finish(axes.figure)

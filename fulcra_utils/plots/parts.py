"""What figures share: rows with intervals, coloured tables, titles and legends, labels that find a free spot."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from fulcra_utils.plots.style import BLACK, BLUE, COLOURS, GREY, MARKERS

LOOKS = tuple(zip(COLOURS, MARKERS, strict=True))


def open_panels(n: int, width: float, height: float, **options) -> tuple[Figure, list[Axes]]:
    """Open a figure of panels side by side, each `width` inches wide, and an inch for what stands beside them."""
    figure, grid = plt.subplots(1, n, figsize=(1 + width * n, height), squeeze=False, **options)
    return figure, list(grid[0])


def finish(figure: Figure, title: str = "", ncols: int = 0) -> Figure:
    """Return the figure with its title, and the first axes' legend below in `ncols` columns."""
    if ncols:
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=ncols)
    if title:
        figure.suptitle(title)
    return figure


def name_rows(axes: Axes, names: Sequence[str], label: str = "") -> None:
    """Write a name at each row, the first on top, over pale lines at the numbers below."""
    axes.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5), xlabel=label)
    axes.grid(axis="x", color="#e5e5e5", linewidth=0.8)


def draw_intervals(axes: Axes, table: pd.DataFrame, rows: np.ndarray, columns: tuple[str, str, str],
                   colour=BLUE, marker: str = "o", label: str = "") -> None:
    """Draw numbers with their intervals at the given heights; nan is not drawn."""
    middle, low, high = (table[name].to_numpy(float) for name in columns)
    axes.hlines(rows, low, high, color=colour, linewidth=1.5)
    axes.plot(middle, rows, marker, color=colour, markersize=5.5, label=label, zorder=3)


def draw_series(axes: Axes, names: Sequence[str], series: Mapping[str, pd.DataFrame], columns: tuple[str, str, str],
                label: str, line: float = 0, null: str = "", looks: Sequence = LOOKS) -> None:
    """Draw intervals of tables (words → table indexed by names), none over another, and a line at chance.

    `null` is in words what the tables' column of this name holds.
    """
    for k, (words, table) in enumerate(series.items()):
        rows = pd.Index(names).get_indexer(table.index) + 0.22 * (k - (len(series) - 1) / 2)
        draw_intervals(axes, table, rows, columns, *looks[k % len(looks)], words)
        if null:
            axes.plot(table.null, rows, "|", color=BLACK, markersize=10, label="" if k else null)
    axes.axvline(line, color=GREY, linewidth=1)
    name_rows(axes, names, label)


def mark_gaps(axes: Axes, values: pd.Series, text: str) -> None:
    """Say in words in which rows there is nothing to draw."""
    for row in np.flatnonzero(values.isna()):
        axes.text(0.5, row, text, transform=axes.get_yaxis_transform(), ha="center", va="center", color=GREY,
                  fontsize=8, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})


def draw_matrix(axes: Axes, values: pd.DataFrame, words: pd.DataFrame, limit: float = 1,
                bold: np.ndarray | None = None) -> AxesImage:
    """Draw a coloured table of numbers in [-limit, limit] with a word in each cell that has a number."""
    image = axes.imshow(values.to_numpy(float), cmap="PuOr_r", vmin=-limit, vmax=limit, aspect="auto")
    for r, c in np.argwhere(values.notna().to_numpy()):
        axes.text(c, r, words.iat[r, c], ha="center", va="center", fontsize=8 if values.shape[1] <= 24 else 5,
                  fontweight="bold" if bold is not None and bold[r, c] else "normal",
                  color="white" if abs(values.iat[r, c]) > 0.7 * limit else "black")
    axes.set_xticks(range(values.shape[1]), values.columns, rotation=40, ha="right")
    axes.set_yticks(range(values.shape[0]), values.index)
    return image


def plot_matrix(values: pd.DataFrame, words: pd.DataFrame, title: str, label: str,
                bold: np.ndarray | None = None) -> Figure:
    """Draw a coloured table (`draw_matrix`) with a colour bar."""
    figure, axes = plt.subplots(figsize=(3 + 0.6 * values.shape[1], 1.9 + 0.36 * values.shape[0]))
    figure.colorbar(draw_matrix(axes, values, words, bold=bold), ax=axes, label=label, shrink=0.9)
    axes.set_title(title)
    return figure


def label_points(axes: Axes, places: np.ndarray, labels: Sequence[str], size: float = 8, **words) -> None:
    """Write each label at the nearest free spot around its point (K, 2); a thin line leads to one further away.

    Call it last: it settles the figure's layout. nan places and empty labels stay without.
    """
    axes.figure.draw_without_rendering()   # so that places in points are known
    points = axes.transData.transform(places) * 72 / axes.figure.dpi
    left, bottom, right, top = axes.bbox.extents * 72 / axes.figure.dpi
    taken = [(left - 999, bottom, left, top), (right, bottom, right + 999, top),   # beside the axes no label stands
             *((x - 4, y - 4, x + 4, y + 4) for x, y in points if np.isfinite(x))]
    for place, point, label in zip(places, points, labels, strict=True):
        if not label or not np.isfinite(place).all():
            continue
        half, height = 0.3 * size * len(label) + 1, 0.62 * size
        spots = [(radius * np.cos(t) + np.sign(round(np.cos(t), 6)) * half, radius * np.sin(t))
                 for radius in range(10, 250, 10) for t in np.radians((90, 270, 0, 180, 45, 135, 225, 315))]
        boxes = [(x - half, y - height, x + half, y + height) for x, y in point + spots]
        best = int(np.argmax([not any(_overlap(box, other) for other in taken) for box in boxes]))
        taken.append(boxes[best])
        axes.annotate(label, place, textcoords="offset points", xytext=spots[best], fontsize=size, ha="center",
                      va="center", in_layout=False, **words,
                      arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.6} if best >= 8 else None)


def _overlap(box: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]

"""What figures share: rows with intervals, coloured tables, titles and legends, labels that find a free spot."""

import re
from collections.abc import Mapping, Sequence
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from fulcra_utils.plots.style import BLACK, COLOURS, GREY, MARKERS

LOOKS = tuple(zip(COLOURS, MARKERS, strict=True))
POLICY = re.compile(r"(?:(.+) )?(system-prompt|best-of-n|steering|dpo-real|dpo|rloo|grpo)-(.+)")
WAYS = {"system-prompt": "system prompt", "best-of-n": "best of n", "dpo-real": "DPO with real replies", "dpo": "DPO",
        "rloo": "RLOO", "grpo": "GRPO"}
PLAIN = {"start": "start model", "basealign": "BaseAlign", "rlhf-1x": "RLHF 1×", "rlhf-5x": "RLHF 5×"}


def name_policy(name: str) -> str:
    """Return a policy's name in words, behind what stands before it; any other name as it is.

    >>> name_policy("dpo-ideal"), name_policy("smollm2-135m dpo-rlhf-5x"), name_policy("gpt-4")
    ('DPO to ideal', 'smollm2-135m, DPO by RLHF 5×', 'gpt-4')
    """
    if not (found := POLICY.fullmatch(name)):
        return PLAIN.get(name, name)
    before, way, aim = found.groups()
    told = f"by {PLAIN[aim]}" if aim in PLAIN else f"to {aim}"
    return f"{before}, " * bool(before) + f"{WAYS.get(way, way)} {told}"


def open_panels(n: int, width: float, height: float, **options) -> tuple[Figure, list[Axes]]:
    """Open a figure of panels side by side, each `width` inches wide, and an inch for what stands beside them."""
    figure, grid = plt.subplots(1, n, figsize=(1 + width * n, height), squeeze=False, **options)
    return figure, list(grid[0])


def finish(figure: Figure, title: str = "", ncols: int = 0) -> Figure:
    """Return the figure with its title, and the legend of the axes with most to say below in `ncols` columns."""
    if ncols:
        legends = [axes.get_legend_handles_labels() for axes in figure.axes]
        figure.legend(*max(legends, key=lambda one: len(one[1])), loc="outside lower center", ncols=ncols)
    if title:
        figure.suptitle(title)
    return figure


def name_rows(axes: Axes, names: Sequence[str], label: str = "") -> None:
    """Write a name at each row, the first on top, over pale lines at the numbers below."""
    axes.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5), xlabel=label)
    axes.grid(axis="x", color="#e5e5e5", linewidth=0.8)


def name_spokes(axes: Axes, names: Sequence[str], size: float) -> None:
    """Write the names around a circle, each beside its end of a spoke."""
    angles = np.linspace(0, 2 * np.pi, len(names), endpoint=False)
    axes.set_xticks(angles, [fill(name, 14) for name in names], fontsize=size)
    for label, angle in zip(axes.get_xticklabels(), angles, strict=True):
        label.set_ha("center" if abs(np.sin(angle)) < 0.1 else "left" if np.sin(angle) > 0 else "right")
    axes.tick_params(axis="x", pad=3)


def plot_series(names: Sequence[str], panels: Mapping[str, Mapping[str, pd.DataFrame]], column: str, title: str = "",
                line: float | Sequence[float] = 0, null: str = "", looks: Sequence = LOOKS, spread: float = 0.22,
                limits: tuple = (None, None), width: float = 6.5, gap: str = "", line_word: str = "") -> Figure:
    """Draw numbers (`column`) with their intervals (low, high, if any): panels of label → words → table by names.

    A pale bar spans p10 to p90, where a table has these; an arrow at the edge says that an interval goes on.

    Series lie `spread` rows apart, or nearer where there are many, and nan is not drawn. `line` is at chance, of all
    panels or of each, and in the legend where there is a `line_word`; `null` is in words what the tables' column of
    this name holds, `gap` what is said in rows without any number.
    """
    n_series = max(map(len, panels.values()))
    spread = min(spread, 0.75 / n_series)
    figure, grid = open_panels(len(panels), width, 1.7 + 0.38 * len(names) * max(1, n_series / 3), sharey=True)
    for axes, chance, (label, series) in zip(grid, np.resize(line, len(panels)), panels.items(), strict=True):
        for k, (words, table) in enumerate(series.items()):
            rows = pd.Index(names).get_indexer(table.index) + spread * (k - (len(series) - 1) / 2)
            colour, marker = looks[k % len(looks)]
            numbers = table.reindex(columns=[column, "low", "high"]).astype(float)
            if "p10" in table:
                axes.hlines(rows, table.p10, table.p90, color=colour, alpha=0.2, linewidth=5)
            axes.hlines(rows, numbers.low, numbers.high, color=colour)
            for edge, arrow, runs_off in (limits[0], "<", numbers.lt), (limits[1], ">", numbers.gt):
                if edge is not None and (off := runs_off(edge).any(axis=1)).any():
                    axes.plot([edge] * sum(off), rows[off], arrow, color=colour, markersize=5.5, clip_on=False)
            axes.plot(numbers[column], rows, marker, color=colour, markersize=5.5, label=words, zorder=3)
            if null:
                axes.plot(table.null, rows, "|", color=BLACK, markersize=10, label="" if k else null)
        for row in np.flatnonzero(pd.concat(series)[column].groupby(level=-1).max().reindex(names).isna() & bool(gap)):
            axes.text(0.5, row, gap, transform=axes.get_yaxis_transform(), ha="center", va="center", color=GREY,
                      fontsize=8, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
        axes.axvline(chance, color=GREY, linewidth=1, label=line_word)
        axes.set_xlim(*limits)
        axes.locator_params(axis="x", nbins="auto" if len(panels) == 1 else 4)
        name_rows(axes, names, label)
    n_words = n_series + bool(null) + bool(line_word)
    return finish(figure, title, ncols=n_words if n_words > 1 else 0)


def draw_matrix(axes: Axes, values: pd.DataFrame, words: pd.DataFrame | None = None, limit: float = 1,
                bold: np.ndarray | None = None) -> AxesImage:
    """Draw a coloured table of numbers in [-limit, limit] with the number, or a word, in each cell that has one."""
    words = values.map("{:.2f}".format) if words is None else words
    image = axes.imshow(values.to_numpy(float), cmap="PuOr_r", vmin=-limit, vmax=limit, aspect="auto")
    for r, c in np.argwhere(values.notna().to_numpy()):
        axes.text(c, r, words.iat[r, c], ha="center", va="center", fontsize=8 if values.shape[1] <= 24 else 5,
                  fontweight="bold" if bold is not None and bold[r, c] else "normal",
                  color="white" if abs(values.iat[r, c]) > 0.7 * limit else "black")
    axes.set_xticks(range(values.shape[1]), values.columns, rotation=40, ha="right")
    axes.set_yticks(range(values.shape[0]), values.index)
    return image


def plot_matrix(values: pd.DataFrame, title: str, label: str, words: pd.DataFrame | None = None,
                bold: np.ndarray | None = None) -> Figure:
    """Draw a coloured table (`draw_matrix`) with a colour bar."""
    figure, axes = plt.subplots(figsize=(3 + 0.6 * values.shape[1], 1.9 + 0.36 * values.shape[0]))
    figure.colorbar(draw_matrix(axes, values, words, bold=bold), ax=axes, label=label, shrink=0.9)
    axes.set_title(title)
    return figure


def label_points(axes: Axes, places: np.ndarray, labels: Sequence[str], size: float = 8,
                 marks: float | np.ndarray = 4, **words) -> None:
    """Write each label at the nearest free spot around its point (K, 2); a thin line leads to one further away.

    Call it last: it settles the figure's layout. nan places and empty labels stay without. `marks` is how far the
    marks reach, in points: one number, or (K,).
    """
    axes.figure.draw_without_rendering()   # so that places in points are known
    points = axes.transData.transform(places) * 72 / axes.figure.dpi
    marks = np.broadcast_to(marks, len(points))
    left, bottom, right, top = axes.bbox.extents * 72 / axes.figure.dpi
    taken = [(left - 999, bottom, left, top), (right, bottom, right + 999, top),   # beside the axes no label stands
             *((x - r, y - r, x + r, y + r) for (x, y), r in zip(points, marks, strict=True) if np.isfinite(x))]
    for place, point, label, mark in zip(places, points, labels, marks, strict=True):
        if not label or not np.isfinite(place).all():
            continue
        half, height = 0.3 * size * len(label) + 1, 0.62 * size
        spots = [(radius * np.cos(t) + np.sign(round(np.cos(t), 6)) * half, radius * np.sin(t))
                 for radius in mark + np.arange(6, 246, 10) for t in np.radians((90, 270, 0, 180, 45, 135, 225, 315))]
        boxes = [(x - half, y - height, x + half, y + height) for x, y in point + spots]
        best = int(np.argmax([not any(box[0] < other[2] and other[0] < box[2] and box[1] < other[3]
                                      and other[1] < box[3] for other in taken) for box in boxes]))
        taken.append(boxes[best])
        axes.annotate(label, place, textcoords="offset points", xytext=spots[best], fontsize=size, ha="center",
                      va="center", in_layout=False, **words,
                      arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.6} if best >= 8 else None)

"""The look of every figure: colours, sizes, notes."""

from __future__ import annotations

from functools import wraps
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

COLOURS = sns.color_palette("colorblind")
MARKERS = "osD^vP*Xph"
SUPPORTED, OPPOSED, GREY = COLOURS[0], COLOURS[3], "#777777"
DIVERGING = "RdBu_r"
STYLE = {"font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 10, "axes.labelsize": 9, "legend.fontsize": 8,
         "xtick.labelsize": 8, "ytick.labelsize": 8, "legend.frameon": False, "pdf.fonttype": 42,
         "svg.fonttype": "none", "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 100,
         "savefig.dpi": 200}


def use_style() -> None:
    """Set the project's one style for every figure drawn after this call.

    Source: ours.

    Examples
    --------
    >>> use_style(); plt.rcParams["font.family"]
    ['DejaVu Sans']
    """
    sns.set_theme(style="ticks", palette="colorblind", rc=STYLE)


def draw_note(text: str) -> Figure:
    """Return a small figure that holds one sentence: what was left out and why.

    Source: ours.

    Examples
    --------
    >>> draw_note("The circle is left out: the theory has none.").get_size_inches().tolist()
    [6.5, 1.0]
    """
    figure = Figure(figsize=(6.5, 1.0))
    figure.text(0.5, 0.5, fill(text, 80), ha="center", va="center", color=GREY)
    return figure


def finish(figure: Figure, title: str = "", ncols: int = 0) -> Figure:
    """Return the figure with its title, the first axes' legend below in `ncols` columns, and no frame around."""
    if ncols:
        handles = figure.axes[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=ncols, frameon=False)
    if title:
        figure.suptitle(title)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_matrix(values: pd.DataFrame, words: pd.DataFrame, size: tuple[float, float], title: str, label: str,
                bold: np.ndarray | None = None, shrink: float = 0.9) -> Figure:
    """Return a coloured table of numbers in [-1, 1] with a word in each cell; `size` is in inches."""
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    image = axes.imshow(values.to_numpy(float), cmap="PuOr_r", vmin=-1, vmax=1, aspect="auto")
    for r, c in np.argwhere(values.notna().to_numpy()):
        axes.text(c, r, words.iat[r, c], ha="center", va="center", fontsize=8 if values.shape[1] <= 24 else 5,
                  fontweight="bold" if bold is not None and bold[r, c] else "normal",
                  color="white" if abs(values.iat[r, c]) > 0.7 else "black")
    axes.set_xticks(range(values.shape[1]), values.columns, rotation=40, ha="right")
    axes.set_yticks(range(values.shape[0]), values.index)
    axes.set_title(title)
    figure.colorbar(image, ax=axes, label=label, shrink=shrink)
    return figure


def _note_if_empty(draw):
    """Draw a note instead when the table is empty."""
    @wraps(draw)
    def drawn(table: pd.DataFrame, *args, **kwargs) -> Figure:
        if table.empty:
            return draw_note("Left out: these rows do not allow it (the text says why).")
        with plt.rc_context(STYLE):
            figure = draw(table, *args, **kwargs)
        plt.close(figure)
        return figure
    return drawn

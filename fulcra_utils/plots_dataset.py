"""Figures of the data set: prevalence, coverage of the prompt pool, agreement, margins. Data in, Figure out."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

BLUE, ORANGE, GREY, GREEN = "#0072B2", "#D55E00", "#999999", "#009E73"  # Okabe and Ito's colour-blind safe set


def plot_prevalence(prevalence: pd.DataFrame, published: pd.DataFrame | None = None, title: str = "") -> Figure:
    """Draw the share of replies that support (right) and oppose (left) each dimension, with the published bars.

    Parameters
    ----------
    prevalence : DataFrame
        dimension, aligned, opposed (per cent), from `measure_prevalence`.
    published : DataFrame, optional
        dimension, aligned, opposed, mentioned (per cent); nan where nothing is published.
    title : str

    Returns
    -------
    Figure
    """
    n_dims = len(prevalence)
    figure, axes = plt.subplots(figsize=(7.5, 1.4 + 0.42 * n_dims), layout="constrained")
    rows, height = np.arange(n_dims), 0.38 if published is not None else 0.7
    shift = height / 2 if published is not None else 0.0
    axes.barh(rows - shift, prevalence.aligned, height, color=BLUE, label="supported, this run")
    axes.barh(rows - shift, -prevalence.opposed, height, color=ORANGE, label="opposed, this run")
    if published is not None:
        shown = published.set_index("dimension").reindex(prevalence.dimension)
        style = {"facecolor": "none", "hatch": "////", "linewidth": 0.8}
        axes.barh(rows + shift, shown.aligned, height, edgecolor=BLUE, label="supported, published", **style)
        axes.barh(rows + shift, -shown.opposed, height, edgecolor=ORANGE, label="opposed, published", **style)
        if shown.aligned.isna().any():
            axes.barh(rows + shift, shown.mentioned.where(shown.aligned.isna()), height, edgecolor=GREY,
                      label="supported or opposed, published", **style)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(rows, prevalence.dimension)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(lambda value, _: f"{abs(value):g} %")
    axes.set_xlabel("← opposed   share of replies   supported →")
    axes.set_title(title)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14 - 0.25 / n_dims), ncols=2, frameon=False)
    return _plain(figure)


def _plain(figure: Figure) -> Figure:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def order_dimensions(names: Sequence[str], values: Sequence[float]) -> list[str]:
    """Return names by descending value, nan last, ties in the given order.

    Examples
    --------
    >>> order_dimensions(["a", "b", "c"], [1.0, float("nan"), 2.0])
    ['c', 'a', 'b']
    """
    return [names[i] for i in np.argsort(-np.nan_to_num(np.asarray(values, dtype=float), nan=-np.inf), kind="stable")]

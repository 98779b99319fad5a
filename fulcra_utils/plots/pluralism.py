"""Figures of value pluralism: coverage, quality next to what is wanted, who serves which value. Data in, Figure out."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fulcra_utils.plots.parts import draw_matrix, name_policy, plot_series
from fulcra_utils.plots.style import style_plots


def plot_coverage(table: pd.DataFrame, title: str) -> Figure:
    """Draw coverage and precision of each way to rank values (`measure_coverage`), a panel each."""
    rows = table.set_index("way")
    precise = rows[["precision", "precision_low", "precision_high"]].set_axis(["coverage", "low", "high"], axis=1)
    panels = {"coverage: share of listed values found": {"": rows}, "precision: share of these that are listed":
              {"": precise}}
    return plot_series(table.way, panels, "coverage", title, width=4, limits=(0, None))


def plot_quality(table: pd.DataFrame, title: str) -> Figure:
    """Draw numbers (what, value, low, high) next to what was `wanted`; the line is chance."""
    rows = table.set_index("what").assign(null=table.wanted.to_numpy())
    label = "balanced accuracy, share right or AUC, as the row says"
    return plot_series(table.what, {label: {"measured, 95 % interval": rows}}, "value", title, 0.5, "wanted")


def plot_served(net: pd.DataFrame, could: pd.Series, title: str) -> Figure:
    """Draw which values models' replies serve (values x models, from -1 opposed to 1 served, nan not touched).

    The narrow table on the left is how likely each value bears on the prompt, whoever replies (`could`).
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(5.5 + 0.75 * net.shape[1], 3 + 0.36 * len(net)), width_ratios=
                                         (1, max(net.shape[1], 2)))
    left.imshow(could.to_numpy(float)[:, None], cmap="Greys", vmin=0, vmax=1, aspect="auto")
    for row, number in enumerate(could):
        left.text(0, row, f"{number:.2f}", ha="center", va="center", fontsize=8,
                  color="white" if number > 0.6 else "black")
    left.set_xticks([0], ["bears on\nthe prompt"])
    left.set_yticks(range(len(net)), net.index)
    shown = draw_matrix(right, net, net.map("{:+.2f}".format))
    for row, column in np.argwhere(net.isna().to_numpy()):
        right.text(column, row, "·", ha="center", va="center", color="grey")
    right.set_yticks([])
    right.set_xticks(range(net.shape[1]), [name_policy(name) for name in net], rotation=40, ha="right")
    figure.colorbar(shown, ax=right, label="the reply opposes … serves")
    figure.suptitle(title)
    return figure


style_plots(globals())

"""Figures of alignment: targets, choice among replies, reward audit, training, what moved. Data in, Figure out."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

BLUE, ORANGE, GREY, GREEN, PINK, BLACK = "#0072B2", "#D55E00", "#999999", "#009E73", "#CC79A7", "#000000"  # Okabe, Ito


def plot_targets(targets: pd.DataFrame, title: str = "Targets") -> Figure:
    """Draw targets as a table of coloured cells; a dot marks a dimension without weight.

    Parameters
    ----------
    targets : DataFrame
        target, dimension, value (within the score range), weight.
    title : str

    Returns
    -------
    Figure
    """
    values = targets.pivot_table(index="target", columns="dimension", values="value", sort=False)
    weights = targets.pivot_table(index="target", columns="dimension", values="weight", sort=False)
    n_rows, n_dims = values.shape
    figure, axes = plt.subplots(figsize=(2.2 + 0.62 * n_dims, 1.7 + 0.42 * n_rows), layout="constrained")
    image = axes.imshow(values, cmap="PuOr_r", vmin=-1, vmax=1, aspect="auto")
    for row, column in np.ndindex(values.shape):
        value, idle = values.iat[row, column], weights.iat[row, column] == 0
        axes.text(column, row, "·" if idle else f"{value:.2g}", ha="center", va="center",
                  fontsize=8 if n_dims <= 24 else 5, color="white" if abs(value) > 0.7 else "black")
    axes.set_xticks(range(n_dims), values.columns, rotation=40, ha="right")
    axes.set_yticks(range(n_rows), values.index)
    axes.set_title(title)
    figure.colorbar(image, ax=axes, label="wanted score")
    return figure


def plot_selection(selection: pd.DataFrame, title: str = "Choice of the nearest reply") -> Figure:
    """Draw distance, reward and drift before and after choosing the nearest reply, one row for each target.

    Parameters
    ----------
    selection : DataFrame
        From `measure_selection`.
    title : str

    Returns
    -------
    Figure
    """
    panels = [("distance_mean", "distance_chosen", "mean L1 distance (lower is nearer)")]
    if selection["reward_mean"].notna().any():
        panels.append(("reward_mean", "reward_chosen", "mean reward of the replies"))
    figure, grid = plt.subplots(1, len(panels) + 1, figsize=(4.1 * (len(panels) + 1), 1.7 + 0.45 * len(selection)),
                                sharey=True, layout="constrained", squeeze=False)
    rows = np.arange(len(selection))
    for axes, (before, after, label) in zip(grid[0], panels, strict=False):
        axes.hlines(rows, selection[before], selection[after], color=GREY, linewidth=1.5)
        axes.plot(selection[before], rows, "o", color=GREY, markersize=8, label="a reply drawn at random")
        axes.plot(selection[after], rows, "D", color=BLUE, markersize=7, label="the nearest reply")
        axes.set_xlabel(label)
    last = grid[0][-1]
    last.barh(rows, selection["drift"].fillna(0), height=0.5, color=ORANGE)
    last.set_xlabel("mean shift of values without weight")
    grid[0][0].set_yticks(rows, selection["target"])
    grid[0][0].invert_yaxis()
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(title)
    return _plain(figure)


def plot_audit(audit: pd.DataFrame, title: str = "Reward audit") -> Figure:
    """Draw the mean reward of real and degenerate replies, one panel for each absence policy; a cross marks a fault.

    Parameters
    ----------
    audit : DataFrame
        Rows of `audit_reward` under one or more policies.
    title : str

    Returns
    -------
    Figure
    """
    policies = list(dict.fromkeys(audit["absence"]))
    kinds = list(dict.fromkeys(audit["kind"]))
    figure, grid = plt.subplots(1, len(policies), figsize=(4.2 * len(policies) + 1, 1.6 + 0.38 * len(kinds)),
                                sharex=True, sharey=True, layout="constrained", squeeze=False)
    for axes, policy in zip(grid[0], policies, strict=True):
        part = audit[audit["absence"] == policy].set_index("kind").loc[kinds]
        colours = [BLUE if k in ("real", "good") else ORANGE if f else GREY
                   for k, f in zip(kinds, part["is_fault"], strict=True)]
        axes.barh(range(len(kinds)), part["reward"], color=colours)
        axes.axvline(part.loc["good", "reward"], color=BLACK, linewidth=0.9, linestyle="--")
        axes.set_title(f"absence = {policy}", fontsize=10)
        axes.set_xlabel("mean reward (0 is best)")
        for row in np.flatnonzero(part["is_fault"]):
            axes.text(part["reward"].iloc[row], row, "✗ ", ha="right", va="center", color=BLACK)
    grid[0][0].set_yticks(range(len(kinds)), kinds)
    grid[0][0].invert_yaxis()
    figure.suptitle(title)
    return _plain(figure)


def _plain(figure: Figure) -> Figure:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    return figure

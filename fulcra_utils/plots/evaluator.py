"""Figures of the evaluator: training, comparison, quality by value, calibration, validity. Data in, Figure out."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fulcra_utils.plots.style import finish
from fulcra_utils.stats.resampling import wilson_interval

BLUE, ORANGE, GREY, GREEN = "#0072B2", "#D55E00", "#777777", "#009E73"  # Okabe and Ito's colour-blind safe set
LABEL_STYLES = {-1: (ORANGE, "v", "opposed (-1)"), 0: (GREY, "o", "no connection (0)"),
                1: (BLUE, "^", "supported (+1)")}


def plot_training(history: pd.DataFrame) -> Figure:
    """Draw training loss, validation loss and validation macro-F1 over the epochs.

    Parameters
    ----------
    history : DataFrame
        epoch, loss, validation_loss, validation_f1, as `train_evaluator` returns it; may be empty.

    Returns
    -------
    Figure
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for axes, column, colour, marker, name in ((left, "loss", ORANGE, "o", "training (rare labels weigh more)"),
                                               (left, "validation_loss", BLUE, "s", "validation"),
                                               (right, "validation_f1", BLUE, "s", "validation")):
        points = history[["epoch", column]].dropna()
        axes.plot(points.epoch, points[column], color=colour, marker=marker, markersize=4, label=name)
    left.set(xlabel="epoch", ylabel="cross-entropy per cell")
    right.set(xlabel="epoch", ylabel="macro-F1", ylim=(0, 1))
    left.legend(frameon=False)
    known = history[["epoch", "validation_f1"]].dropna()
    if len(known):
        best = known.loc[known.validation_f1.idxmax()]
        right.annotate(f"kept: {best.validation_f1:.3f}", (best.epoch, best.validation_f1), xytext=(0, -18),
                       textcoords="offset points", ha="center")
    return finish(figure)


def plot_comparison(table: pd.DataFrame, target: float | None = None) -> Figure:
    """Draw macro-F1 of each method with its interval.

    Parameters
    ----------
    table : DataFrame
        method, macro_f1, low, high, n, as `compare_methods` returns it.
    target : float, optional
        A line to reach.

    Returns
    -------
    Figure
    """
    figure, axes = plt.subplots(figsize=(7, 0.9 + 0.45 * len(table)), layout="constrained")
    rows = np.arange(len(table))[::-1]
    spread = np.clip(np.nan_to_num([table.macro_f1 - table.low, table.high - table.macro_f1]), 0, None)
    colours = [BLUE if method == "ours" else GREY for method in table.method]
    axes.hlines(rows, table.macro_f1 - spread[0], table.macro_f1 + spread[1], colors=colours, linewidth=2)
    axes.scatter(table.macro_f1, rows, c=colours, s=45, zorder=3)
    for y, row in zip(rows, table.itertuples(), strict=True):
        axes.annotate(f"{row.macro_f1:.3f}", (row.macro_f1, y), xytext=(0, 7), textcoords="offset points", ha="center",
                      fontsize=9)
    if target is not None:
        axes.axvline(target, color=GREEN, linestyle="--", linewidth=1, label=f"wanted: {target:.2f}")
        axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0)
    axes.set_yticks(rows, table.method)
    axes.set(xlabel="macro-F1 over the labels -1, 0, +1 (95 % interval)", xlim=(0, 1), ylim=(-0.6, len(table) - 0.2))
    return finish(figure)


def plot_left_out(table: pd.DataFrame) -> Figure:
    """Draw macro-F1 on what a training never saw, one panel for each kind of thing left out.

    Parameters
    ----------
    table : DataFrame
        left_out, name, rows, n, macro_f1, low, high, as `leave_out` returns it.

    Returns
    -------
    Figure
        Orange marks are judged by the authors' scores, blue ones by labels of people.
    """
    titles = {"model": "without one model", "query_source": "without one prompt source",
              "value": "without one value (scored from its definition)", "scores": "without the authors' scores"}
    parts = [(titles.get(kind, kind), part) for kind, part in table.groupby("left_out", sort=False)]
    figure, panels = plt.subplots(len(parts), 1, figsize=(8, 1.2 + 0.32 * len(table) + 0.5 * len(parts)), sharex=True,
                                  squeeze=False, height_ratios=[len(p) + 0.6 for _, p in parts], layout="constrained")
    for axes, (title, part) in zip(panels[:, 0], parts, strict=True):
        rows = np.arange(len(part))[::-1]
        colours = [ORANGE if "scored" in where else BLUE for where in part.rows]
        axes.hlines(rows, part.low, part.high, colors=colours, linewidth=1.5)
        axes.scatter(part.macro_f1, rows, c=colours, s=30, zorder=3)
        names = [f"{r.name.split('/')[-1] if r.left_out != 'scores' else ''} {r.rows} (n = {r.n:,})".strip()
                 for r in part.itertuples(index=False)]
        axes.set_yticks(rows, names, fontsize=8)
        axes.set_title(title, loc="left", fontsize=10)
        axes.set(xlim=(0, 1), ylim=(-0.6, len(part) - 0.4))
        axes.grid(axis="x", color="#eeeeee")
    panels[-1, 0].set_xlabel("macro-F1 over the labels -1, 0, +1 (95 % interval over prompts)")
    return finish(figure)


def plot_quality(quality: pd.DataFrame) -> Figure:
    """Draw F1 of each value for the labels -1 and +1, with how many cells stand behind each mark.

    Parameters
    ----------
    quality : DataFrame
        value, label, n, f1, as `tabulate_quality` gives it.

    Returns
    -------
    Figure
    """
    values = list(dict.fromkeys(quality.value))
    figure, axes = plt.subplots(figsize=(7.5, 1.2 + 0.36 * len(values)), layout="constrained")
    for label in (-1, 1):
        colour, marker, name = LABEL_STYLES[label]
        part = quality[(quality.label == label) & (quality.n > 0)]
        rows = np.array([len(values) - 1 - values.index(v) for v in part.value]) - 0.17 * label
        axes.scatter(part.f1.fillna(0), rows, color=colour, marker=marker, s=42, label=name, zorder=3)
        for x, y, n in zip(part.f1.fillna(0), rows, part.n, strict=True):
            axes.annotate(f"n = {n}", (x, y), xytext=(8, 0), textcoords="offset points", va="center", fontsize=7.5,
                          color="#444444")
    axes.set_yticks(range(len(values)), values[::-1])
    axes.set(xlabel="F1 (marks without cells are left out)", xlim=(-0.03, 1.12))
    axes.grid(axis="y", color="#eeeeee")
    axes.legend(frameon=False, ncol=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return finish(figure)


def plot_reliability(bins: dict[str, pd.DataFrame]) -> Figure:
    """Draw how often each label is true against its probability, one panel per stage of calibration.

    Parameters
    ----------
    bins : dict of title to DataFrame
        label, confidence, frequency, n, as `reliability` gives it; may be empty.

    Returns
    -------
    Figure
    """
    figure, panels = plt.subplots(1, len(bins), figsize=(4.3 * len(bins), 4.2), layout="constrained", squeeze=False)
    for axes, (title, table) in zip(panels[0], bins.items(), strict=True):
        axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1, zorder=0)
        for label, (colour, marker, name) in LABEL_STYLES.items():
            part = table[table.label == label] if len(table) else table
            if len(part):
                axes.plot(part.confidence, part.frequency, color=colour, linewidth=1)
                axes.scatter(part.confidence, part.frequency, color=colour, marker=marker, label=name,
                             s=12 + 90 * np.sqrt(part.n / part.n.sum()))
        axes.set(xlabel="probability", title=title, xlim=(0, 1), ylim=(0, 1), aspect="equal")
    panels[0][0].set_ylabel("share of cells where it is true")
    if panels[0][0].get_legend_handles_labels()[0]:
        panels[0][0].legend(frameon=False, loc="upper left", fontsize=8, markerscale=0.8)
    return figure


def plot_validity(matrix: np.ndarray, dimensions: Sequence[str], title: str = "") -> Figure:
    """Draw correlations of every value here with every value there as a heat map.

    Parameters
    ----------
    matrix : ndarray, shape (D, D)
        Rows: our scores; columns: the other scores; nan cells stay empty.
    dimensions : sequence of str, length D
    title : str

    Returns
    -------
    Figure
    """
    n_dims, written = len(dimensions), len(dimensions) <= 20
    figure, axes = plt.subplots(figsize=(2.6 + 0.5 * n_dims, 1.9 + 0.45 * n_dims), layout="constrained")
    image = axes.imshow(matrix, cmap="RdBu", vmin=-1, vmax=1)
    if written:
        for i, j in np.argwhere(np.isfinite(matrix)):
            axes.text(j, i, f"{matrix[i, j]:.2f}".replace("0.", "."), ha="center", va="center", fontsize=7.5,
                      color="white" if abs(matrix[i, j]) > 0.6 else "black",
                      fontweight="bold" if i == j else "normal")
    axes.set_xticks(range(n_dims), dimensions, rotation=45, ha="right")
    axes.set_yticks(range(n_dims), dimensions)
    axes.set(xlabel="the authors' evaluator", ylabel="this evaluator", title=title)
    figure.colorbar(image, ax=axes, shrink=0.7, label="Spearman correlation")
    return figure


def plot_sets(table: pd.DataFrame, level: float) -> Figure:
    """Draw how often the label sets hold the true label, by value and label, against the promised level.

    Parameters
    ----------
    table : DataFrame
        value, label, n, coverage, calibrated, as `measure_sets` gives it.
    level : float
        Promised coverage.

    Returns
    -------
    Figure
    """
    values = list(dict.fromkeys(table.value))
    figure, axes = plt.subplots(figsize=(7.5, 1.2 + 0.36 * len(values)), layout="constrained")
    for label, (colour, marker, name) in LABEL_STYLES.items():
        part = table[(table.label == label) & table.calibrated & (table.n > 0)]
        rows = np.array([len(values) - 1 - values.index(v) for v in part.value]) - 0.22 * label
        axes.hlines(rows, *wilson_interval(part.coverage * part.n, part.n), color=colour, linewidth=1)
        axes.scatter(part.coverage, rows, color=colour, marker=marker, s=28, label=name, zorder=3)
    axes.axvline(level, color="black", linestyle="--", linewidth=1)
    axes.set_yticks(range(len(values)), values[::-1])
    axes.set(xlabel=f"share of test cells whose set holds the true label (promised: {level:.0%}); no mark: few cases",
             xlim=(0.4, 1.02), ylim=(-0.6, len(values) - 0.4))
    axes.grid(axis="y", color="#eeeeee")
    axes.legend(frameon=False, ncol=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return finish(figure)


def plot_learning(curve: pd.DataFrame, wanted: dict[tuple[str, str], float] | None = None) -> Figure:
    """Draw what more training prompts bring, one panel for each measure and kind of rows.

    Parameters
    ----------
    curve : DataFrame
        From `learn_from_less`.
    wanted : dict of (rows, measure) to float, optional
        Lines to reach.

    Returns
    -------
    Figure
    """
    panels = list(curve.groupby(["rows", "measure"], sort=False))
    titles = {"macro_f1": "macro-F1", "distance_r": "correlation of the report distance"}
    figure, axes = plt.subplots(1, max(1, len(panels)), figsize=(3.4 * max(1, len(panels)), 3.2), squeeze=False,
                                sharey=True, layout="constrained")
    for ax, ((kind, measure), part) in zip(axes[0], panels, strict=False):
        ax.fill_between(part.n_train, part.low, part.high, color=BLUE, alpha=0.15, linewidth=0)
        ax.plot(part.n_train, part.value, color=BLUE, marker="o", markersize=4)
        line = (wanted or {}).get((kind, measure))
        if line is not None:
            ax.axhline(line, color=GREEN, linestyle="--", linewidth=1)
            ax.annotate(f"wanted: {line:.2f}", (part.n_train.min(), line), xytext=(0, 3), textcoords="offset points",
                        fontsize=9, color=GREEN)
        ax.set(xscale="log", ylim=(0, 1), xlabel="training replies", ylabel=titles[measure], title=kind)
        ax.set_xticks(part.n_train, [f"{n:,}" for n in part.n_train])
        ax.minorticks_off()
    return finish(figure)

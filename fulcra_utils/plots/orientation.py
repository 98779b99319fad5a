"""Figures of social value orientation: the slider, and where players stand."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fulcra_utils.plots.compass import BLUE, COLORS, GREY, ORANGE, _intervals, _mark_gaps, _tidy
from fulcra_utils.plots.style import finish
from fulcra_utils.systems.orientation.slider import Slider


def plot_slider(slider: Slider, ideals: pd.DataFrame) -> Figure:
    """Draw the payoffs of the slider items and the angles of the ideal players.

    Parameters
    ----------
    slider : Slider
    ideals : DataFrame
        From `tabulate_ideals`.

    Returns
    -------
    Figure
    """
    figure, axes = plt.subplots(figsize=(7.4, 5.6), layout="constrained")
    for item, (own, other) in enumerate(zip(slider.self_pay, slider.other_pay, strict=True), 1):
        axes.plot(own, other, "-", color=GREY, marker=".", linewidth=1)
        axes.annotate(f"{item}", (own[4], other[4]), textcoords="offset points", xytext=(5, 5), color="#555555")
    for k, ideal in enumerate(ideals.itertuples()):
        for angle in sorted({round(ideal.low, 2), round(ideal.high, 2)}):
            x, y = np.cos(np.radians(angle)), np.sin(np.radians(angle))
            axes.plot([slider.centre, slider.centre + 62 * x], [slider.centre, slider.centre + 62 * y],
                      color=COLORS[k], linewidth=2, linestyle=("-", "--", "-.", ":", (0, (5, 1)))[k % 5],
                      label=f"{ideal.rule}: {_span(ideal.low, ideal.high)}" if angle == round(ideal.low, 2) else None)
    axes.set(xlabel="payoff to oneself", ylabel="payoff to the other person", aspect="equal",
             title="Six slider items (grey) and ideal players")
    figure.legend(loc="outside right upper", frameon=False, title="ideal player, degrees")
    return _tidy(axes)


def plot_orientations(summary: pd.DataFrame, slider: Slider, title: str) -> Figure:
    """Draw the angle of every player under every orientation it was told, with intervals over passes.

    Parameters
    ----------
    summary : DataFrame
        From `summarise_protocol`; without complete passes there is no point.
    slider : Slider
        For the bands of the classes.
    title : str

    Returns
    -------
    Figure
    """
    players, told = list(summary.player.unique()), list(slider.orientations)
    figure, grid = plt.subplots(1, len(told), figsize=(12, 2.3 + 0.33 * len(players)), sharey=True,
                                layout="constrained")
    for axes, orientation in zip(grid, told, strict=True):
        low, high = next((max(low, -45), min(high, 90)) for name, low, high in slider.classes if name == orientation)
        axes.axvspan(low, high, color="#cfe3f2", zorder=0, label="the class asked for")
        for goal, color, marker, shift in ((True, BLUE, "o", -0.14), (False, ORANGE, "D", 0.14)):
            part = summary[(summary.orientation == orientation) & (summary.with_goal == goal)]
            part = part.set_index("player").reindex(players)
            _intervals(axes, part, np.arange(len(players)) + shift, "angle", "angle_low", "angle_high", color, marker,
                       label=f"{'with' if goal else 'without'} a goal")
        _mark_gaps(axes, summary[summary.orientation == orientation].groupby("player").angle.max().reindex(players),
                   np.arange(len(players)), "no complete pass")
        axes.set(title=f"told: {orientation}", xlim=(-45, 90), xlabel="angle, degrees", yticks=range(len(players)),
                 yticklabels=players)
        _tidy(axes)
    grid[0].set_ylim(len(players) - 0.5, -0.5)
    return finish(figure, title, ncols=3)


def _span(low: float, high: float) -> str:
    return f"{low:.2f}" if round(low, 2) == round(high, 2) else f"{low:.2f} to {high:.2f}"

"""Figures of social value orientation: the slider, and where players stand."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fulcra_utils.plots.style import BLUE, COLOURS, GREY, ORANGE, draw_intervals, finish, mark_gaps, name_rows, styled
from fulcra_utils.systems.orientation.slider import Slider


@styled
def plot_slider(slider: Slider, ideals: pd.DataFrame) -> Figure:
    """Draw the payoffs of the slider items and the angles of the ideal players (`tabulate_ideals`)."""
    figure, axes = plt.subplots(figsize=(7.4, 5.6), layout="constrained")
    for item, (own, other) in enumerate(zip(slider.self_pay, slider.other_pay, strict=True), 1):
        axes.plot(own, other, "-", color=GREY, marker=".", linewidth=1)
        axes.annotate(f"{item}", (own[4], other[4]), textcoords="offset points", xytext=(5, 5), color="#555555")
    for k, ideal in enumerate(ideals.itertuples()):
        for angle in sorted({round(ideal.low, 2), round(ideal.high, 2)}):
            x, y = np.cos(np.radians(angle)), np.sin(np.radians(angle))
            axes.plot([slider.centre, slider.centre + 62 * x], [slider.centre, slider.centre + 62 * y],
                      color=COLOURS[k], linewidth=2, linestyle=("-", "--", "-.", ":", (0, (5, 1)))[k % 5],
                      label=f"{ideal.rule}: {_span(ideal.low, ideal.high)}" if angle == round(ideal.low, 2) else None)
    axes.set(xlabel="payoff to oneself", ylabel="payoff to the other person", aspect="equal",
             title="Six slider items (grey) and ideal players")
    figure.legend(loc="outside right upper", title="ideal player, degrees")
    return figure


@styled
def plot_orientations(summary: pd.DataFrame, slider: Slider, title: str) -> Figure:
    """Draw the angle of every player under every orientation it was told (`summarise_protocol`), over passes.

    Without a complete pass there is no point; the band is the class of the slider that was asked for.
    """
    players, told = list(summary.player.unique()), list(slider.orientations)
    figure, grid = plt.subplots(1, len(told), figsize=(12, 2.3 + 0.33 * len(players)), sharey=True,
                                layout="constrained")
    for axes, orientation in zip(grid, told, strict=True):
        low, high = next((max(low, -45), min(high, 90)) for name, low, high in slider.classes if name == orientation)
        axes.axvspan(low, high, color="#cfe3f2", zorder=0, label="the class asked for")
        here = summary[summary.orientation == orientation]
        for goal, colour, marker, shift in ((True, BLUE, "o", -0.14), (False, ORANGE, "D", 0.14)):
            draw_intervals(axes, here[here.with_goal == goal].set_index("player").reindex(players),
                           np.arange(len(players)) + shift, ("angle", "angle_low", "angle_high"), colour, marker,
                           f"{'with' if goal else 'without'} a goal")
        mark_gaps(axes, here.groupby("player").angle.max().reindex(players), "no complete pass")
        name_rows(axes, players, "angle, degrees")
        axes.set(title=f"told: {orientation}", xlim=(-45, 90))
    return finish(figure, title, ncols=3)


def _span(low: float, high: float) -> str:
    return f"{low:.2f}" if round(low, 2) == round(high, 2) else f"{low:.2f} to {high:.2f}"

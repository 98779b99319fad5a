"""Figures of the value compass, of theories side by side, and of social value orientation. Data in, Figure out."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fulcra_utils.plots.parts import finish, label_points, name_policy, open_panels, plot_matrix, plot_series
from fulcra_utils.plots.style import BLUE, COLOURS, GREY, ORANGE, style_plots


def plot_ranking(table: pd.DataFrame, title: str) -> Figure:
    """Draw the score of every model with its interval, best first, and write its rank beside it: at most 40 models."""
    table = table.head(40)
    ranks = ["–" if np.isnan(r.rank) else f"{r.rank:.0f}" if not r.rank_low < r.rank_high
             else f"{r.rank:.0f}  ({r.rank_low:.0f} to {r.rank_high:.0f})" for r in table.itertuples()]
    names = table.model.map(name_policy) + "   " + ranks
    figure = plot_series(names, {"weighted score, 95 % interval": {"": table.set_index(names)}}, "score", title)
    figure.axes[0].set_title("rank (95 % interval)", loc="left", x=0, ha="right", fontsize=8)
    return figure


def plot_cells(cells: pd.DataFrame, title: str) -> Figure:
    """Draw the mean score of every model on every value (dimension) as numbered cells; empty = no score."""
    values = cells.pivot_table(index="model", columns="dimension", values="score", sort=False, dropna=False
                               ).rename(name_policy)
    if values.shape[1] > max(24, values.shape[0]):
        values = values.T   # a long theory runs down the page
    return plot_matrix(values, title, "mean score")


def plot_ranks(cells: pd.DataFrame, title: str) -> Figure:
    """Draw the rank of every model on every value (`score_cells`, 1 = highest score), the best mean rank on top."""
    ranks = cells.pivot_table(index="model", columns="dimension", values="rank", sort=False)
    ranks = ranks.loc[ranks.mean(axis=1).sort_values().index].rename(name_policy)
    return plot_matrix(1 - 2 * (ranks - 1) / max(1, len(ranks) - 1), title, "from last (−1) to first (+1)",
                       ranks.map("{:.0f}".format))


def plot_matches(matches: pd.DataFrame, title: str) -> Figure:
    """Draw Spearman's ρ of every model with every country (`match_countries`), with intervals."""
    matches = matches.assign(model=matches.model.map(name_policy))
    series = {country: part.set_index("model") for country, part in matches.groupby("country", sort=False)}
    return plot_series(matches.model.unique(), {"Spearman's ρ of value rankings": series}, "rho", title,
                       limits=(-1.05, 1.05))


def plot_maps(maps: Mapping[str, np.ndarray], labels: Sequence[str], n_models: int, title: str) -> Figure | None:
    """Draw maps (name of the method → places (K, 2), nan = no place) of models and countries side by side.

    `labels` (K,) name the models first, then the countries; a hub name stands without its owner. Fewer than eight
    points make no map: None.
    """
    if len(labels) < 8:
        return None
    size = 5 + 0.07 * len(labels)
    figure, grid = open_panels(len(maps), size, size)
    for axes, (name, places) in zip(grid, maps.items(), strict=True):
        axes.scatter(*places[:n_models].T, color=BLUE, s=30, label="models")
        if len(places) > n_models:
            axes.scatter(*places[n_models:].T, color=ORANGE, marker="*", s=70, label="countries")
        axes.set(title=name, xticks=[], yticks=[])
        axes.spines[["top", "right"]].set_visible(True)
        axes.margins(0.2)
    finish(figure, title, ncols=2)
    for axes, places in zip(grid, maps.values(), strict=True):
        label_points(axes, places, [label.rpartition("/")[2] for label in labels], 8 if len(labels) <= 15 else 7)
    return figure


def plot_cross(table: pd.DataFrame, title: str) -> Figure:
    """Draw the correlations r between the dimensions of two theories; bold where sure to differ from 0.

    Sure is p_adjusted below 5 % where the table has it, else an interval that leaves out 0.
    """
    sure = table.p_adjusted < 0.05 if "p_adjusted" in table else (table.low > 0) | (table.high < 0)
    told = table.assign(sure=sure.astype(float))
    r, bold = (told.pivot_table(index="first", columns="second", values=name, sort=False, dropna=False)
               for name in ("r", "sure"))
    return plot_matrix(r, title, "correlation", bold=bold.fillna(0).to_numpy(bool))


def plot_accuracies(table: pd.DataFrame, title: str) -> Figure:
    """Draw each theory's pairwise accuracy with its interval, next to what chance and the permutation null reach."""
    panels = {"share of pairs in which the preferred reply is found": {
        "accuracy, 95 % interval over prompts": table.set_index("theory")}}
    return plot_series(table.theory, panels, "accuracy", title, 0.5, "95 % of shuffled preferences stay below",
                       gap="no pairs of replies with a reward")


def plot_slider(slider: Any, ideals: pd.DataFrame) -> Figure:
    """Draw the payoffs of the items of a `Slider` and the angles of the ideal players (`tabulate_ideals`)."""
    figure, axes = plt.subplots(figsize=(7.4, 5.6))
    for item, (own, other) in enumerate(zip(slider.self_pay, slider.other_pay, strict=True), 1):
        axes.plot(own, other, "-", color=GREY, marker=".", linewidth=1)
        axes.annotate(f"{item}", (own[4], other[4]), textcoords="offset points", xytext=(5, 5), color="#555555")
    for k, ideal in enumerate(ideals.itertuples()):
        angles = sorted({round(ideal.low, 2), round(ideal.high, 2)})
        for angle in angles:
            x, y = np.cos(np.radians(angle)), np.sin(np.radians(angle))
            axes.plot([slider.centre, slider.centre + 62 * x], [slider.centre, slider.centre + 62 * y],
                      color=COLOURS[k], linewidth=2, linestyle=("-", "--", "-.", ":", (0, (5, 1)))[k % 5],
                      label=f"{ideal.rule}: {' to '.join(map('{:.2f}'.format, angles))}" if angle == angles[0] else "")
    axes.set(xlabel="payoff to oneself", ylabel="payoff to the other person", aspect="equal",
             title="Six slider items (grey) and ideal players")
    figure.legend(loc="outside right upper", title="ideal player, degrees")
    return figure


def plot_orientations(summary: pd.DataFrame, slider: Any, title: str) -> Figure:
    """Draw the angle of every player under every orientation it was told (`summarise_protocol`), over passes.

    Without a complete pass there is no point; the band is the class of the `Slider` that was asked for.
    """
    summary = summary.assign(player=summary.player.map(name_policy))
    players, told = summary.player.unique(), list(slider.orientations)
    summary = summary.set_index("player").rename(columns={"angle_low": "low", "angle_high": "high"})
    rows = dict(iter(summary.groupby("orientation")))
    panels = {f"angle, told: {name}\n(degrees; blue: its class)": {"with a goal": rows[name][rows[name].with_goal],
                                         "without a goal": rows[name][~rows[name].with_goal]} for name in told}
    figure = plot_series(players, panels, "angle", title, limits=(-45, 90), width=2.8, gap="no complete pass")
    for axes, orientation in zip(figure.axes, told, strict=True):
        low, high = next((max(low, -45), min(high, 90)) for name, low, high in slider.classes if name == orientation)
        axes.axvspan(low, high, color="#cfe3f2", zorder=0)
    return figure


def plot_letters(shares: pd.DataFrame, title: str) -> Figure:
    """Draw the shares of `tabulate_letters` as a coloured table."""
    figure = plot_matrix(shares.rename(name_policy), title, "share of choices")
    figure.axes[1].set_ylim(0, 1)       # no share is negative
    return figure


style_plots(globals())

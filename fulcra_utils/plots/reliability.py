"""Figures of reliability: what a score is made of, people beside models, ways to ask. Data in, Figure out."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from fulcra_utils.plots.parts import finish, name_policy, name_rows, plot_series
from fulcra_utils.plots.style import COLOURS, GREY, PALE, style_plots

LOOKS = {"model": COLOURS[0], "seed": COLOURS[4], "model × seed": COLOURS[6], "prompt": COLOURS[2],
         "prompt × seed": COLOURS[5], "model × prompt": COLOURS[1], "paraphrase": COLOURS[8],
         "model × paraphrase": COLOURS[9], "draw": PALE, "rest": GREY}

SAID = {"paraphrase": "wording", "model × paraphrase": "model × wording", "draw": "another reply (draw)",
        "rest": "cannot be told apart"}


def plot_shares(sources: pd.DataFrame, title: str) -> Figure:
    """Draw shares of variance (`Reliability.sources`) as stacked bars, a bar a value; from 6 % on in numbers."""
    table = sources.pivot(index="value", columns="source", values="share").reindex(
        index=sources.value.unique(), columns=[name for name in LOOKS if name in set(sources.source)])
    figure, axes = plt.subplots(figsize=(9, 1.9 + 0.36 * len(table)))
    left = pd.Series(0.0, table.index)
    for name, column in table.items():
        bars = axes.barh(range(len(table)), column, left=left, color=LOOKS[name], label=SAID.get(name, name),
                         edgecolor="white")
        axes.bar_label(bars, [f"{x:.0%}" if x >= 0.06 else "" for x in column], label_type="center", fontsize=8,
                       color="white" if name in ("model", "rest") else "black")
        left = left + column.fillna(0)
    name_rows(axes, table.index, "share of the variance of a value's scores")
    axes.set(xlim=(0, 1), title=title)
    axes.xaxis.set_major_formatter("{x:.0%}")
    return finish(figure, ncols=len(table.columns) if len(table.columns) < 7 else 5)


def plot_ruler(table: pd.DataFrame, title: str, label: str = "mean score") -> Figure:
    """Draw mean scores with intervals: value, who, mean, low, high; a mark a group, a panel for "one minus another"."""
    groups = {who: part.set_index("value") for who, part in table.groupby("who", sort=False)}
    panels = {label: {who: part for who, part in groups.items() if " minus " not in who}}
    panels |= {who.replace(", ", ",\n"): {who: part} for who, part in groups.items() if " minus " in who}
    return plot_series(table.value.unique(), panels, "mean", title, width=7.5 if len(panels) == 1 else 5,
                       gap="nothing to compare")


def plot_ways(profiles: pd.DataFrame, agreement: pd.DataFrame, title: str) -> Figure:
    """Draw each model's profile by every way to ask it, and say how the ways agree: model and the two tables of
    `compare_ways`, a panel a model.
    """
    is_known = agreement.disattenuated_high - agreement.disattenuated_low < 2      # neither nan nor from -1 to 1
    left = [f"{row.disattenuated:.2f} [{row.disattenuated_low:.2f}, {row.disattenuated_high:.2f}]" if known else
            "not known" for row, known in zip(agreement.itertuples(), is_known, strict=True)]
    words = [f"{row.first} and {row.second}: r = {row.r:.2f} [{row.low:.2f}, {row.high:.2f}],\nwithout noise {clear}"
             for row, clear in zip(agreement.itertuples(), left, strict=True)]
    said = pd.Series(words, agreement.model.to_list()).groupby(level=0).agg("\n".join)
    panels = {f"{name_policy(model)}\n(in standard deviations of each way)\n{said[model]}": {
        way: rows.set_index("value") for way, rows in part.groupby("way", sort=False)}
        for model, part in profiles.groupby("model", sort=False)}
    return plot_series(profiles.value.unique(), panels, "mean", title, width=4)


style_plots(globals())

"""Figures of generative evaluation: curves, metrics by condition, differences, judges. Data in, Figure out."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure

from fulcra_utils.plots.parts import LOOKS, finish, open_panels, plot_series
from fulcra_utils.plots.style import style_plots

METRICS = {"EVR": "EVR: prompts with\nany violation, share", "MVP": "MVP: highest\nP(violates), mean",
           "APV": "APV: completions\nthat violate, share"}
CONDITIONS = {"asked": "plain question", "static": "unchanged story", "placebo": "random changes",
              "evolved": "evolved story", "instructed": "instructed story", "neutral": "neutral words"}


def plot_curves(panels: Mapping[str, pd.DataFrame], labels: Sequence[str], title: str) -> Figure:
    """Draw curves (condition, x, value, low, high) with intervals side by side; `labels`: of x, a panel each."""
    figure, grid = open_panels(len(panels), 4.2, 3.8)
    names = list(dict.fromkeys(name for table in panels.values() for name in table.condition))
    for axes, label, (words, table) in zip(grid, labels, panels.items(), strict=True):
        groups = list(table.groupby("condition", sort=False))
        for k, (name, part) in enumerate(groups):
            colour, marker = LOOKS[names.index(name)]
            x = part.x + 0.09 * (k - (len(groups) - 1) / 2)    # so that no interval covers another one
            axes.vlines(x, part.low, part.high, color=colour)
            axes.plot(x, part.value, marker=marker, color=colour, linewidth=0.8, label=CONDITIONS.get(name, name))
        axes.set(xlabel=label, ylabel=words, ylim=(0, None))
        axes.xaxis.get_major_locator().set_params(integer=True)
    handles = {label: handle for axes in grid for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=len(handles))
    return finish(figure, title)


def plot_metrics(table: pd.DataFrame, corrected: pd.DataFrame, title: str) -> Figure:
    """Draw EVR, MVP and APV (`summarise_violations`) by condition, and APV corrected for the judge's error.

    The interval over completions is drawn for APV alone: of EVR and MVP it leans down.
    """
    panels = {}
    for metric, part in table.groupby("metric", sort=False):
        rows = part.set_index("condition")
        again = rows.drop(columns=["low", "high"]).rename(columns={"low_k": "low", "high_k": "high"})
        panels[METRICS[metric]] = {"interval over principles": rows} | (
            {"interval over completions": again} if metric == "APV" else {})
    right = corrected.set_index("condition")
    panels["APV, corrected for\nthe judge's error"] = {"interval over principles": right}
    panels = {label: {words: rows.rename(CONDITIONS) for words, rows in series.items()}
              for label, series in panels.items()}
    return plot_series([CONDITIONS.get(name, name) for name in dict.fromkeys(table.condition)], panels, "value", title,
                       width=2.5, limits=(-0.03, 1.03), gap="not known")


def plot_differences(table: pd.DataFrame, title: str) -> Figure:
    """Draw paired differences (comparison, metric, value, low, high), a panel a metric; the line is at 0."""
    table = table.assign(comparison=[" − ".join(CONDITIONS.get(part, part) for part in name.split(" − "))
                                     for name in table.comparison])
    panels = {METRICS[metric]: {"": part.set_index("comparison")}
              for metric, part in table.groupby("metric", sort=False)}
    return plot_series(list(dict.fromkeys(table.comparison)), panels, "value", title, width=2.6, gap="not known")


def plot_judges(table: pd.DataFrame, title: str, wanted: float) -> Figure:
    """Draw each judge's sensitivity, specificity and balanced accuracy (judge, measure, value, low, high)."""
    series = {name: part.set_index("measure") for name, part in table.groupby("judge", sort=False)}
    return plot_series(list(dict.fromkeys(table.measure)), {"share judged right": series}, "value", title, wanted,
                       limits=(-0.03, 1.03), line_word="wanted, balanced")


style_plots(globals())

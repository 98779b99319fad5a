"""Figures of the evaluator: training, comparison, quality by value, calibration, validity. Data in, Figure out."""

from collections.abc import Sequence
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath

from fulcra_utils.plots.parts import finish, name_spokes, open_panels, plot_matrix, plot_series
from fulcra_utils.plots.style import BLACK, BLUE, GREEN, GREY, ORANGE, PALE, PINK, style_plots
from fulcra_utils.theory.theory import Theory

LABEL_STYLES = {-1: (ORANGE, "v", "opposed (-1)"), 0: (GREY, "o", "no connection (0)"),
                1: (BLUE, "^", "supported (+1)")}
MEASURES = {"macro_f1": "FULCRA: macro-F1", "order": "contrast pairs in order", "official_f1": "arguments: official F1",
            "presence_auc": "arguments: presence (AUC)", "key": "questionnaires: keys",
            "ratings": "replies: a judge's ratings (r)"}


def plot_training(history: pd.DataFrame) -> Figure:
    """Draw training loss, validation loss and validation macro-F1 over the epochs (`train_evaluator`)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
    for axes, column, colour, marker, name in ((left, "loss", ORANGE, "o", "training (rare labels weigh more)"),
                                               (left, "validation_loss", BLUE, "s", "validation"),
                                               (right, "validation_f1", BLUE, "s", "validation")):
        points = history[["epoch", column]].dropna()
        axes.plot(points.epoch, points[column], color=colour, marker=marker, markersize=4, label=name)
    left.set(xlabel="epoch", ylabel="loss")
    right.set(xlabel="epoch", ylabel="macro-F1", ylim=(0, 1))
    left.legend()
    for best in points.nlargest(1, "validation_f1").itertuples():
        right.annotate(f"kept: {best.validation_f1:.3f}", best[1:], xytext=(0, -18), textcoords="offset points",
                       ha="center")
    return figure


def plot_comparison(table: pd.DataFrame, target: float) -> Figure:
    """Draw macro-F1 of each method with its interval (`compare_methods`), and a line to reach."""
    rows = table.set_index("method")
    label = f"macro-F1 over the labels -1, 0, +1 (95 % interval); line: wanted, {target:.2f}"
    series = {"this evaluator": rows[rows.index == "ours"], "others": rows[rows.index != "ours"]}
    figure = plot_series(table.method, {label: series}, "macro_f1", line=target, spread=0, limits=(0, 1))
    for row, score in enumerate(table.macro_f1):
        figure.axes[0].annotate(f"{score:.3f}", (score, row), xytext=(0, 6), textcoords="offset points", ha="center",
                                fontsize=8)
    return figure


def plot_stance(table: pd.DataFrame) -> Figure:
    """Draw which share of contrast pairs each method orders rightly, value by value (`measure_contrasts`, `method`)."""
    table = table[(table.measure == "order") & (table.method != "majority")].rename(columns={"mean": "share"})
    series = {name: part.set_index("value") for name, part in table.groupby("method", sort=False)}
    label = "share of pairs whose serving reply scores higher (95 % interval); line: chance"
    return plot_series(table.value.unique(), {label: series}, "share", line=0.5, limits=(-0.02, 1.02))


def plot_teachers(table: pd.DataFrame, wanted: dict[str, float | None]) -> Figure:
    """Draw every measure of `compare_teachers`, a panel each with what was wanted, if anything, by what taught."""
    figure, grid = plt.subplots(-(-len(wanted) // 3), 3, figsize=(11, 2.9 * -(-len(wanted) // 3)), squeeze=False)
    for axes in grid.flat[len(wanted):]:
        axes.remove()
    for axes, (measure, line) in zip(grid.flat, wanted.items(), strict=False):
        part = table[table.measure == measure]
        places = range(len(part))[::-1]
        axes.errorbar(part.value, places, xerr=[part.value - part.low, part.high - part.value], fmt="o", color=BLUE)
        if line is not None:
            axes.axvline(line, color=GREY, linewidth=1)
        names = part.teachers.str.replace("+", "+\n") if axes in grid[:, 0] else [""] * len(part)
        title = MEASURES.get(measure, measure) + ("" if line is None else f" (wanted: {line:.2f})")
        axes.set(title=title, yticks=places, yticklabels=names, ylim=(-0.6, len(part) - 0.4))
    return figure


def plot_left_out(table: pd.DataFrame) -> Figure:
    """Draw macro-F1 on what a training never saw (`leave_out`), a row a thing left out and the rows that judge."""
    words = {"model": "without {}", "query_source": "without prompts from {}",
             "value": "without {} (scored from its definition)", "scores": "without the authors' scores"}
    table = table.set_index(pd.Index([f"{words[r.left_out].format(r.name.split('/')[-1])}: {r.rows} (n = {r.n:,})"
                                      for r in table.itertuples()]))
    is_scored = table.rows.str.contains("scored")
    series = {"by labels of people": table[~is_scored], "by the authors' scores": table[is_scored]}
    return plot_series(table.index, {"macro-F1 over the labels -1, 0, +1 (95 % interval over prompts)": series},
                       "macro_f1", looks=[(BLUE, "o"), (ORANGE, "s")], spread=0, limits=(0, 1))


def plot_quality(quality: pd.DataFrame) -> Figure:
    """Draw F1 of each value for the labels -1 and +1 (`tabulate_quality`), with how many cells stand behind it."""
    known = quality[quality.n > 0].fillna({"f1": 0}).set_index("value")
    series = {LABEL_STYLES[sign][2]: known[known.label == sign] for sign in (-1, 1)}
    figure = plot_series(quality.value.unique(), {"F1 (marks without cells are left out)": series}, "f1",
                         looks=[LABEL_STYLES[sign][:2] for sign in (-1, 1)], spread=0.34, limits=(-0.03, 1.12))
    for marks, part in zip(figure.axes[0].lines, series.values(), strict=False):
        for place, n in zip(marks.get_xydata(), part.n, strict=True):
            figure.axes[0].annotate(f"n = {n}", place, xytext=(8, 0), textcoords="offset points", va="center",
                                    fontsize=7, color="#444444")
    return figure


def plot_reliability(bins: dict[str, pd.DataFrame]) -> Figure:
    """Draw how often each label is true against its probability (`reliability`), a panel a stage of calibration."""
    figure, panels = open_panels(len(bins), 4, 4.4)
    for axes, (title, table) in zip(panels, bins.items(), strict=True):
        axes.plot([0, 1], [0, 1], color=PALE, linewidth=1, zorder=0)
        for label, part in table.groupby("label") if len(table) else ():
            colour, marker, name = LABEL_STYLES[label]
            axes.plot(part.confidence, part.frequency, color=colour, linewidth=1)
            axes.scatter(part.confidence, part.frequency, color=colour, marker=marker, label=name, clip_on=False,
                         s=12 + 90 * np.sqrt(part.n / part.n.sum()))
        axes.set(xlabel="probability", title=title, xlim=(0, 1), ylim=(0, 1), aspect="equal")
    panels[0].set_ylabel("share of cells where it is true")
    return finish(figure, ncols=3)


def plot_validity(matrix: np.ndarray, dimensions: Sequence[str], title: str) -> Figure:
    """Draw the correlations (D, D) of our scores (rows) with the authors' (columns); nan cells stay empty."""
    values = pd.DataFrame(matrix, dimensions, dimensions)
    figure = plot_matrix(values, title, "Spearman correlation", bold=np.eye(len(dimensions), dtype=bool))
    figure.axes[0].set(xlabel="the authors' evaluator", ylabel="this evaluator")
    return figure


def plot_sets(table: pd.DataFrame, level: float) -> Figure:
    """Draw how often the label sets hold the true label (`measure_sets`), against the promised level."""
    known = table[table.calibrated & (table.n > 0)].set_index("value")
    limited = table.groupby("label").calibrated.any()
    never = " and ".join(f"all {LABEL_STYLES[sign][2]}" for sign in limited.index[~limited] if limited.any())
    never = f", {never} among them," * bool(never)
    label = (f"share of test cells whose set holds the true label (line: promised, {level:.0%})\nno mark: too few "
             f"cases; {(~table.calibrated).sum()} of {len(table)} labels{never} can never be ruled out")
    looks = {sign: look for sign, look in LABEL_STYLES.items() if (known.label == sign).any()} or LABEL_STYLES
    series = {name: known[known.label == sign] for sign, (_, _, name) in looks.items()}
    left = np.nanmin([0.4, *known.coverage - 0.02])
    return plot_series(table.value.unique(), {label: series}, "coverage", line=level,
                       looks=[look[:2] for look in looks.values()], limits=(left, 1.02))


def plot_learning(curve: pd.DataFrame, wanted: dict[tuple[str, str], float]) -> Figure:
    """Draw what more training prompts bring (`learn_from_less`), with lines to reach by rows and measure."""
    panels = list(curve.groupby(["rows", "measure"], sort=False))
    titles = {"macro_f1": "macro-F1", "distance_r": "correlation of the report distance"}
    figure, grid = open_panels(len(panels), 3.2, 3.2, sharey=True)
    for axes, ((kind, measure), part) in zip(grid, panels, strict=True):
        axes.fill_between(part.n_train, part.low, part.high, color=BLUE, alpha=0.15, linewidth=0)
        axes.plot(part.n_train, part.value, color=BLUE, marker="o", markersize=4)
        if line := wanted.get((kind, measure)):
            axes.axhline(line, color=GREEN, linestyle="--", linewidth=1)
            axes.annotate(f"wanted: {line:.2f}", (part.n_train.min(), line), xytext=(0, 3),
                          textcoords="offset points", fontsize=8, color=GREEN)
        axes.set(xscale="log", xlabel="training replies", ylabel=titles[measure], title=kind,
                 ylim=(np.nanmin([0, *curve.value, *curve.low]), 1))
        axes.set_xticks(part.n_train, [f"{n:,}" for n in part.n_train])
        axes.minorticks_off()
    return figure


def plot_reply(profile: pd.DataFrame, words: pd.Series, prompt: str, means: pd.DataFrame, theory: Theory) -> Figure:
    """Draw one reply: its words in the colour of their push on a value, its profile, and two models' means beside it.

    `profile` has a row a value: score, low, high (`explain_reply`) and label (nan = none); `words` are the weights (T,)
    of that function for the value that names them; of `means` (`average_models`) the first two models are drawn. A
    theory without a circle has its values side by side.
    """
    order, figure = list(theory.circle or theory.dimensions), plt.figure(figsize=(10.8, 5.6), layout="none")
    _write_reply(figure.add_axes((0, 0, 0.45, 1)), prompt, words, profile.score[words.name])
    if theory.circle:
        step, look = 2 * np.pi / len(order), {"projection": "polar", "theta_offset": np.pi / 2, "theta_direction": -1}
        axes = figure.add_axes((0.57, 0.22, 0.34, 0.34 * 10.8 / 5.6), **look)
        name_spokes(axes, order, 13 if len(order) <= 12 else 8)
        axes.set_rlabel_position(-180 / len(order))
        axes.spines["polar"].set_visible(False)
    else:
        step, axes = 1, figure.add_axes((0.53, 0.5, 0.45, 0.45))
        axes.set_xticks(range(len(order)), order, rotation=40, ha="right", fontsize=13 if len(order) <= 8 else 8)
        axes.axhline(0, color=GREY, linewidth=1, zorder=0)
    axes.set(ylim=(-1.5 if theory.circle else -1.12, 1.12), yticks=(-1, 0, 1))
    axes.set_yticklabels(["−1", "0", "+1"], fontsize=12)
    series = {"this reply (bar: span of its label set)": (profile, BLACK, "o", 10)}
    models = means["model"].unique() if len(means) else ()
    for name, look in zip(models, ((GREEN, "s", 7), (PINK, "^", 8)), strict=False):
        part = means[(means.model == name) & (means.rows == "all")].set_index("quantity")
        reach = part[["low", "high"]].sub(part["mean"], axis=0).reindex(order).abs().max(axis=None)
        said = f"95 %: within {reach:.2f}" if reach == reach else "too few prompts for an interval"
        series[f"{name}, mean of {part.n.iloc[0]:,} ({said})"] = part.rename(columns={"mean": "score"}), *look
    for k, (name, (table, colour, marker, size)) in enumerate(series.items()):
        places, table = step * (np.arange(len(order)) + (0, 0.19, -0.19)[k]), table.reindex(order)
        axes.vlines(places, table.low, table.high, color=colour, alpha=1 if k else 0.3, linewidth=2 if k else 5)
        axes.plot(places, table.score, marker, color=colour, markersize=size, label=name, zorder=3)
    if profile.label.notna().any():
        axes.plot(step * np.arange(len(order)), profile.label.reindex(order), "D", color=BLACK, markersize=14,
                  markerfacecolor="none", clip_on=False, label="this reply's label, by a reader", zorder=4)
    figure.legend(*axes.get_legend_handles_labels(), loc="lower right", fontsize=12.5, ncols=2, columnspacing=1)
    return figure


def _write_reply(axes: Axes, prompt: str, words: pd.Series, score: float) -> None:
    """Write a prompt and below it the words, each on its colour, in axes of 350 by 403 points."""
    axes.set(xlim=(0, 350), ylim=(403, 0))
    axes.set_axis_off()
    asked, most = fill(prompt, 36), max(words.abs().max(), 1e-12)
    axes.text(8, 16, asked, fontsize=15, fontweight="bold", va="top")
    x, y = 8.0, 68 + 20.0 * asked.count("\n")
    for word, weight in words.items():
        width = TextPath((0, 0), word, size=14).get_extents().width
        x, y = (x, y) if x + width < 345 else (8.0, y + 25)
        colour = to_rgba(BLUE if weight > 0 else ORANGE, 0.75 * abs(weight) / most)
        axes.text(x, y, word, fontsize=14, bbox={"facecolor": colour, "edgecolor": "none", "pad": 2})
        x += width + 7
    axes.text(8, y + 22, f"{words.name}: {score:+.2f}. Blue words push\nthis score up, orange words down.", va="top",
              fontsize=12.5)


style_plots(globals())

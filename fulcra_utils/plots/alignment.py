"""Figures of alignment: targets, choice among replies, reward audit, training, what moved. Data in, Figure out."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fulcra_utils.plots.parts import LOOKS, finish, name_policy, name_rows, open_panels, plot_matrix, plot_series
from fulcra_utils.plots.style import BLACK, BLUE, COLOURS, GREY, ORANGE, style_plots

REPEAT = re.compile(r"-[psw]\d+$")  # a run repeated with fewer prompts, another seed, another price of sameness
JUDGES = {"reward": "the reward evaluator", "judge": "the first judge", "twin": "the judge that reads alike",
          "words": "the judge that counts words"}
COSTS = {"kl": "KL to the start model, nats a token", "variety": "different word pairs, start model = 1",
         "unlearnt": "real replies less likely, nats a token", "drift": "shift of values not asked for, beyond chance"}
BOUNDS = {"variety": 0.8, "unlearnt": 0.15}     # what the goals allow
ABSENT = {"mask": "left out", "zero": "taken as 0", "penalise": "taken as it is"}     # a value hardly expressed is …
REPLIES = {"real": "real replies", "good": "best quarter of the real", "repeat": "one word repeated",
           "stuffing": "words of the theory", "echo": "the prompt itself"}


def plot_targets(targets: pd.DataFrame) -> Figure:
    """Draw targets (target, dimension, value, weight) as coloured cells; a dot marks a dimension without weight."""
    values = targets.pivot_table(index="target", columns="dimension", values="value", sort=False)
    weights = targets.pivot_table(index="target", columns="dimension", values="weight", sort=False)
    return plot_matrix(values, "Targets", "wanted score", values.map("{:.2g}".format).mask(weights == 0, "·"))


def plot_selection(selection: pd.DataFrame, title: str = "Choice of the nearest reply") -> Figure:
    """Draw distance, reward and drift before and after choosing the nearest reply, a row a target."""
    table, panels = selection.set_index("target"), {}
    for kind, label in (("distance", "mean L1 distance (lower is nearer)"), ("reward", "mean reward of the replies")):
        ends = table[[f"{kind}_mean", f"{kind}_chosen"]].set_axis(["low", "high"], axis=1)
        if ends.low.notna().any():
            panels[label] = {"a reply drawn at random": ends.assign(mean=ends.low),
                             "the nearest reply": ends.assign(mean=ends.high)}
    drift = table[["drift", "drift_low", "drift_high"]].set_axis(["mean", "low", "high"], axis=1)
    panels["shift of values without weight, beyond chance"] = {"a reply drawn at random": drift.iloc[:0],
                                                     "the nearest reply": drift}
    return plot_series(table.index, panels, "mean", title, np.nan, looks=((GREY, "o"), (BLUE, "D")), spread=0, width=4,
                       gap="every value has weight")


def plot_audit(audit: pd.DataFrame) -> Figure:
    """Draw the mean reward of real and degenerate replies, a panel an absence policy, with 95 % intervals.

    Real ones are blue, what earns too much orange.
    """
    policies, kinds = list(audit.groupby("absence", sort=False)), list(dict.fromkeys(audit["kind"]))
    figure, grid = open_panels(len(policies), 4.2, 1.6 + 0.38 * len(kinds), sharex=True, sharey=True)
    for axes, (policy, part) in zip(grid, policies, strict=True):
        part = part.set_index("kind").loc[kinds].reset_index()
        colours = part["is_fault"].map({True: ORANGE, False: GREY}).mask(part["kind"].isin(["real", "good"]), BLUE)
        axes.barh(range(len(kinds)), part["reward"], color=colours)
        for colour, words in ((BLUE, "real replies"), (GREY, "bad replies"), (ORANGE, "bad ones that earn too much")):
            axes.barh([0], [0], color=colour, label=words)
        axes.hlines(range(len(kinds)), part["low"], part["high"], color=BLACK, linewidth=1, label="95 % interval")
        axes.axvline(part.loc[part["kind"] == "good", "reward"].item(), color=BLACK, linewidth=0.9, linestyle="--",
                     label="best quarter of the real")
        axes.set_title(f"a value hardly expressed is {ABSENT.get(policy, policy)}", fontsize=9)
        name_rows(axes, [REPLIES.get(kind, kind) for kind in kinds], "mean reward (0 is best)")
    return finish(figure, "Reward audit", ncols=5)


def plot_training(histories: pd.DataFrame) -> Figure:
    """Draw reward, KL to the start model, reply length, pairs told apart and loss over the steps, as far as known.

    Runs repeated with another seed, price or number of prompts are left out of the picture.
    """
    labels = {"reward": "mean reward of a step", "kl": "KL to start, nats a token", "length": "reply length, tokens",
              "accuracy": "pairs told apart, share", "loss": "loss"}
    shown = [c for c in labels if c in histories and histories[c].notna().any()]
    runs = [(name, part) for name, part in histories.groupby("policy", sort=False)
            if not REPEAT.search(name) and part[shown].notna().any(axis=None)]
    figure, grid = open_panels(len(shown), 4, 3.2 + 0.15 * (len(runs) // 4))
    for axes, column in zip(grid, shown, strict=True):
        for k, ((name, part), colour) in enumerate(zip(runs, COLOURS * 3, strict=False)):
            if len(runs) <= 5:  # more raw lines hide the smooth ones
                axes.plot(part["step"], part[column], color=colour, linewidth=0.7, alpha=0.35)
            smooth = part[column].rolling(7, min_periods=1, center=True).mean()
            axes.plot(part["step"], smooth, color=colour, linewidth=1.8, label=name_policy(name),
                      linestyle=("-", "--")[k >= 10])
        axes.set(xlabel="step", title=labels[column])
    return finish(figure, "Training", ncols=min(4, len(runs)))


def plot_shares(histories: pd.DataFrame) -> Figure | None:
    """Draw what each value costs, and sameness, over the steps of each policy; None where no reward told it."""
    columns = [name for name in histories if name.startswith("distance/") or name == "sameness"]
    runs = [(name, part.dropna(axis=1, how="all")) for name, part in histories.groupby("policy", sort=False)
            if not REPEAT.search(name) and part[columns].notna().any(axis=None)]
    if not runs:
        return None
    figure, grid = open_panels(len(runs), 4, 4, sharey=True)
    for axes, (name, part) in zip(grid, runs, strict=True):
        for column, colour in zip(columns, COLOURS * 3, strict=False):
            if column in part:
                axes.plot(part["step"], part[column].rolling(7, min_periods=1, center=True).mean(), color=colour,
                          label=column.removeprefix("distance/"), linestyle=":" if column == "sameness" else "-")
        axes.set(xlabel="step", title=name_policy(name))
    grid[0].set_ylabel("reward lost (weight × gap)")
    return finish(figure, "What each value still costs", ncols=4)


def plot_proof(summary: pd.DataFrame, references: pd.DataFrame) -> Figure:
    """Draw each policy's distance (`summarise_policies`) by the reward evaluator and by each judge, with its controls.

    A policy's bar is the 95 % interval of its change against the start model. References (response_source, by,
    distance, low, high; may be empty) are real models, in rows of their own.
    """
    kinds = {"distance": "the policy's replies", "swapped": "swapped between prompts", "shuffled": "words shuffled"}
    own, panels = summary.set_index("policy"), {}
    for by, name in JUDGES.items():
        if f"distance_{by}" not in own:
            continue
        series = {words: own[f"{kind}_{by}"].rename(name_policy).to_frame("distance")
                  for kind, words in kinds.items() if f"{kind}_{by}" in own}
        bars = own[[f"low_{by}", f"high_{by}"]].set_axis(["low", "high"], axis=1) + own.loc["start", f"distance_{by}"]
        real = references[references.by == by].set_index("response_source").rename("{}, real replies".format)
        series[kinds["distance"]] = pd.concat([series[kinds["distance"]].join(bars.rename(name_policy)), real])
        panels[f"L1 distance by {name}"] = series
    drawn = pd.concat([table for series in panels.values() for table in series.values()])
    reach = drawn.filter(["distance", "low", "high"]).to_numpy(float)
    return plot_series(drawn.index.unique(), panels, "distance", "Distance on held-out prompts", np.nan, spread=0,
                       width=3.4, limits=(np.nanmin(reach) - 0.1, np.nanmax(reach) + 0.1),
                       looks=((BLUE, "o"), (ORANGE, "s"), (BLACK, "x")))


def plot_frontier(summary: pd.DataFrame, aim: str, wanted: float = 0.1) -> Figure | None:
    """Draw how far the distance fell by the first judge against what it cost, a panel a cost, with 95 % intervals.

    Runs to other targets than `aim` and with fewer prompts are left out; another seed is a point without a name. The
    line is the fall that was `wanted`, a share.
    """
    table = summary.set_index("policy")
    moved = table.drop(index="start")
    moved = moved[(moved.index.str.contains("-rlhf-") | moved.index.str.contains(rf"-{re.escape(aim)}(?:-|$)"))
                  & ~moved.index.str.contains(r"-p\d+")]
    shown = [cost for cost in COSTS if cost in moved and moved[cost].notna().any()]
    if moved.empty or not shown:
        return None
    first = table.loc["start", "distance_judge"]
    fall = -100 * moved[["change_judge", "high_judge", "low_judge"]].to_numpy(float) / first
    names = ["" if re.search(r"-s\d+$", name) else name_policy(name) for name in moved.index]
    n_rows = -(-len(shown) // 2)
    figure, grid = plt.subplots(n_rows, min(2, len(shown)), sharey=True, squeeze=False, figsize=(9.5, 1 + 3.4 * n_rows))
    for axes, cost in zip(grid.flat, shown, strict=False):
        spent = moved[[cost, f"low_{cost}", f"high_{cost}"]].to_numpy(float)
        for place, cross, rise, (colour, marker), name in zip(spent[:, 0], spent[:, 1:], fall, LOOKS * 3, names,
                                                              strict=False):
            axes.hlines(rise[0], *cross, color=colour, linewidth=1, alpha=0.6)
            axes.vlines(place, *rise[1:], color=colour, linewidth=1, alpha=0.6)
            axes.plot(place, rise[0], marker, color=colour, label=name)
        axes.plot(float(cost == "variety"), 0, "*", color=BLACK, markersize=11, label="the start model")
        axes.plot([], [], color=GREY, linestyle=":", label="the bound set before")
        if cost in BOUNDS:
            axes.axvline(BOUNDS[cost], color=GREY, linestyle=":")
        axes.axhline(100 * wanted, color=ORANGE, linestyle=":", linewidth=0.9, label=f"wanted: {100 * wanted:g} %")
        axes.set(xlabel=COSTS[cost])
    for axes in grid.flat[len(shown):]:
        axes.remove()
    figure.supylabel("fall of the distance by the first judge, %")
    return finish(figure, "What moving costs", ncols=4)


def plot_moves(means: pd.DataFrame, targets: pd.DataFrame) -> Figure:
    """Draw mean value vectors (a row a policy) before and after alignment, and the targets' numbers.

    One target: all runs in one panel, but repeated ones. Several: a panel each, with the start model and the runs to
    that target.
    """
    aims, n_dims = list(targets.groupby("target", sort=False)), means.shape[1]
    n_rows, n_columns = -(-len(aims) // 2), min(2, len(aims))
    size = ((1 + 0.6 * n_dims) * n_columns, 1.9 + 2.6 * n_rows)
    figure, grid = plt.subplots(n_rows, n_columns, sharey=True, squeeze=False, figsize=size)
    means = means[~means.index.str.contains(REPEAT.pattern)]
    own = {name: (means.index == "start") | means.index.str.endswith(f"-{name}") | (len(aims) == 1) for name, _ in aims}
    known = np.any(list(own.values()), axis=0)
    for axes, (name, target) in zip(grid.flat, aims, strict=False):     # a run has its colour in every panel
        rows = means.where(np.tile(own[name][:, None], n_dims))[known]
        _draw_moves(axes, rows.rename(name_policy), target.set_index("dimension"))
        axes.set_title(f"to {name}")
    for axes in grid.flat[len(aims):]:
        axes.remove()
    figure.supylabel("mean score by the first judge")
    return finish(figure, "Where each model went", ncols=4)


def _draw_moves(axes: Axes, means: pd.DataFrame, target: pd.DataFrame) -> None:
    places = np.arange(means.shape[1])
    for k, ((name, row), colour) in enumerate(zip(means.iterrows(), [GREY, *COLOURS * 3], strict=False)):
        axes.plot(places, row, marker="o", color=colour, label=name, linewidth=1.4 if k else 2.5,
                  linestyle="-" if k else ":")
    aimed = target["value"].where(target["weight"] > 0).reindex(means.columns)
    axes.plot(places, aimed, "_", color=BLACK, markersize=16, markeredgewidth=2.5, label="the target")
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set_xticks(places, means.columns, rotation=40, ha="right")


def plot_bars(claims: pd.DataFrame) -> Figure | None:
    """Draw the paper's four results (`reported`) next to `ours`, with intervals, where known, each on its own scale."""
    bars = claims[claims["claim_id"].str.contains(r"^alignment/(?:helpful|harmless)/")]
    if bars["ours"].isna().all():
        return None
    bars = bars.set_index(bars["claim_id"].str.split("/").str[-1])
    bars = bars.rename(name_policy)
    names = "score", "low", "high"
    panels = {f"{proxy},\n{words}": {"": part.reindex(columns=columns).set_axis(names[:len(columns)], axis=1)}
              for proxy, part in bars.groupby(bars["claim_id"].str.split("/").str[1], sort=False)
              for columns, words in ((["reported"], "the paper (7 billion weights)"),
                                     (["ours", "low", "high"], "this run, proxy"))}
    return plot_series(bars.index.unique(), panels, "score", "Helpful and harmless, the paper's and ours", width=2.8,
                       gap="not in this run")


style_plots(globals())

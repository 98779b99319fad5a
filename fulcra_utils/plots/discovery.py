"""Figures of value discovery: lexicon, loadings, scree, fits, factors on the circle. Data in, Figure out."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fulcra_utils.plots.parts import LOOKS, finish, label_points, plot_matrix, plot_series
from fulcra_utils.plots.style import BLACK, BLUE, GREY, ORANGE, style_plots


def plot_lexicon(table: pd.DataFrame, title: str) -> Figure:
    """Draw kept values at x and y, the larger the more often (`share`), coloured by `factor` ("" none); two grey disks
    say how large the commonest and the rarest are.
    """
    figure, axes = plt.subplots(figsize=(10, 7.5))
    names = sorted(set(table.factor) - {""})
    for k, name in enumerate([*names, *[""] * ("" in set(table.factor))]):
        colour, marker = LOOKS[k % len(LOOKS)] if name else (GREY, ".")
        part = table[table.factor == name]
        axes.scatter(part.x, part.y, s=30 + 500 * part.share, color=colour, marker=marker, alpha=0.7,
                     label=name or "no factor")
    axes.set(title=title, xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.margins(0.15)
    for handle in figure.legend(loc="outside lower center", ncols=2,
                                title="factor, by its two strongest values").legend_handles:
        handle.set_sizes([40])
    disks = [axes.scatter([], [], s=30 + 500 * share, color=GREY, label=f"{share:.0%} of the replies")
             for share in (table.share.max(), table.share.min())]
    axes.legend(handles=disks, loc="upper right", frameon=False, labelspacing=1.2)
    label_points(axes, table[["x", "y"]].to_numpy(), table.value.tolist(), 7,
                 0.71 * np.sqrt(30 + 500 * table.share.to_numpy()))     # half the diagonal of a mark
    return figure


def plot_loadings(table: pd.DataFrame, title: str) -> Figure:
    """Draw loadings (`System.table`) as a coloured table with their intervals, factor by factor; bold: it belongs."""
    strongest = table.sort_values("loading", key=abs, ascending=False).drop_duplicates("value")
    order = strongest.sort_values(["factor", "loading"], ascending=[True, False]).value
    grid = {name: table.pivot_table(index="value", columns="factor", values=name, sort=False, dropna=False).loc[order]
            for name in ("loading", "low", "high", "belongs")}
    words = grid["loading"].map("{:.2f}".format) + grid["low"].map("  [{:.2f}".format) + grid["high"].map(
        ", {:.2f}]".format)
    figure = plot_matrix(grid["loading"], title, "loading", words.replace(r"  \[nan.*", "", regex=True),
                         grid["belongs"].to_numpy(bool))
    figure.set_size_inches(4 + 1.5 * grid["loading"].shape[1], figure.get_size_inches()[1])
    return figure


def plot_scree(counts: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Draw eigenvalues by component next to those of shuffled rows (`count_factors`), a panel a table."""
    figure, grid = plt.subplots(1, len(counts), figsize=(4.2 * len(counts), 3.8), squeeze=False)
    for axes, (name, table) in zip(grid[0], counts.items(), strict=True):
        axes.plot(table.component, table.eigenvalue, "o-", color=BLUE, label="eigenvalue")
        axes.plot(table.component, table.null, "s--", color=ORANGE, markersize=4, label="95 % of shuffled rows")
        axes.set(title=name, xlabel="component", ylabel="eigenvalue", ylim=(0, None))
        axes.xaxis.get_major_locator().set_params(integer=True)
    return finish(figure, title, ncols=2)


def plot_fits(table: pd.DataFrame, title: str) -> Figure:
    """Draw CFI, RMSEA and SRMR of each system with intervals (`compare_systems`), and where good fit begins."""
    goods = {"cfi": ("CFI (good: above .95)", 0.95), "rmsea": ("RMSEA (good: below .06)", 0.06),
             "srmr": ("SRMR (good: below .08)", 0.08)}
    parts = {label: {"": table.set_index("system")[[name, f"{name}_low", f"{name}_high"]].set_axis(
        ["number", "low", "high"], axis=1)} for name, (label, _) in goods.items()}
    return plot_series(table.system, parts, "number", title, [line for _, line in goods.values()], width=3,
                       gap="not estimable")


def plot_probe(table: pd.DataFrame, title: str) -> Figure:
    """Draw how often profiles tell the safer of two models (`probe_safety`), next to the null's 95 % quantile."""
    rows = table.set_index("features").assign(null=table.null_high.to_numpy())
    return plot_series(table.features, {"share of pairs whose safer model is found": {
        "accuracy, 95 % interval over models": rows}}, "accuracy", title, 0.5, "safety shuffled: 95 % are below")


def plot_factors(places: np.ndarray, values: Sequence[str], factors: pd.DataFrame, title: str) -> Figure:
    """Draw a theory's circle, values at `places` (D, 2), and each factor where its correlations point.

    `factors` has a row a factor and a column a value, correlations. The legend gives each arrow's length, the amplitude
    of the best wave round the circle: .3 says that the correlations go from about .3 on one side to -.3 on the other.
    The scale is fixed: an arrow that ends on the circle has .5, so a stronger one crosses it.
    """
    figure, axes = plt.subplots(figsize=(8, 7))
    for radius, line in ((1, "-"), (0.5, ":")):
        axes.add_patch(plt.Circle((0, 0), radius, fill=False, color="#cccccc", linestyle=line))
    axes.scatter(*places.T, color=BLACK, s=18)
    ends = factors.to_numpy() @ places / len(values) * 2 / 0.5
    size = np.linalg.norm(ends, axis=1) * 0.5
    reach = max([1, *2.2 * size])
    names = [f"{name} ({one:.2f})" for name, one in zip(factors.index, size, strict=True)]
    for (name, end), (colour, marker) in zip(zip(names, ends, strict=True), LOOKS * 3, strict=False):
        axes.annotate("", end, (0, 0), arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 2})
        axes.plot(*end, marker, color=colour, label=name, markersize=6)
    axes.set(title=title, xlabel="an arrow to the circle has the length .5, to the dotted ring .25", xticks=[],
             yticks=[], xlim=(-1.35 * reach, 1.35 * reach), ylim=(-1.2 * reach, 1.2 * reach), aspect="equal")
    axes.spines[:].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, title="factor (length of its arrow)")
    label_points(axes, places, values)
    return figure


style_plots(globals())

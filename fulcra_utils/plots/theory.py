"""The figure of a value theory."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from fulcra_utils.plots.style import COLOURS, GREY, style_plots
from fulcra_utils.theory.theory import Theory


def plot_wheel(theory: Theory) -> Figure:
    """Draw a theory's values around its circle, in the colour of the (first) group that each belongs to."""
    figure, axes = plt.subplots(figsize=(6, 6), subplot_kw={"projection": "polar"})
    groups = {value: n for n, values in reversed([*enumerate(theory.groups.values())]) for value in values}
    width = 2 * np.pi / len(theory.circle)
    for n, value in enumerate(theory.circle):
        axes.bar(n * width, 1, width, color=COLOURS[groups[value]] if value in groups else GREY, alpha=0.65,
                 edgecolor="white", linewidth=2)
        turn = np.degrees(n * width)
        axes.text(n * width, 0.66, value, ha="center", va="center", fontsize=9 if width > 0.4 else 7.5,
                  rotation=turn if turn <= 90 or turn >= 270 else turn + 180)
    for n, name in enumerate(theory.groups):
        axes.bar(0, 0, color=COLOURS[n], alpha=0.65, label=name)
    axes.set_axis_off()
    if theory.groups:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.02), ncols=2, fontsize=9)
    return figure


style_plots(globals())

"""The look of every figure: one palette, one style."""

from collections.abc import Callable
from functools import wraps

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

COLOURS = sns.color_palette("colorblind")    # the one palette: safe for the colour-blind
BLUE, YELLOW, GREEN, ORANGE, PINK = COLOURS[:5]
GREY, PALE, BLACK = "#777777", "#dddddd", "black"
MARKERS = "osD^vP*Xph"
STYLE = {"font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 10, "axes.labelsize": 9, "legend.fontsize": 8,
         "xtick.labelsize": 8, "ytick.labelsize": 8, "legend.frameon": False, "pdf.fonttype": 42,
         "svg.fonttype": "none", "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 100,
         "savefig.dpi": 200, "axes.axisbelow": True}


def style_plots(module: dict) -> None:
    """Give each `plot_…` function of a module (`globals()`, on its last line) the one look; see `_style`."""
    module.update({name: _style(plot) for name, plot in module.items()
                   if name.startswith("plot_") and plot.__module__ == module["__name__"]})


def _style(plot: Callable[..., Figure | None]) -> Callable[..., Figure | None]:
    """Return the function with the one look; from an empty table (an array without any number) it draws None."""
    @wraps(plot)
    def drawn(data, *args, **kwargs) -> Figure | None:
        if getattr(data, "empty", False) or isinstance(data, np.ndarray) and not np.isfinite(data).any():
            return None
        with plt.rc_context(STYLE | {"figure.constrained_layout.use": True}):
            figure = plot(data, *args, **kwargs)
        if figure is not None:
            plt.close(figure)
        return figure
    return drawn

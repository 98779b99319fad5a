"""The one look: the palette, and what `plot_…` functions do under it."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from fulcra_utils.plots import alignment, compass, evaluator, style
from fulcra_utils.plots import analysis as plots


def test_style_is_colour_blind_safe():
    assert list(style.COLOURS) == style.sns.color_palette("colorblind")
    modules = [alignment, plots, compass, evaluator]
    assert all(getattr(m, name, colour) == colour for m in modules
               for name, colour in vars(style).items() if name in ("BLUE", "ORANGE", "GREEN", "PINK", "YELLOW", "GREY"))


def draw_size(data):
    """Say the font size at the time of drawing."""
    figure, axes = plt.subplots()
    axes.set_title(f"{len(data)} at {plt.rcParams['font.size']:g}")
    return figure


def test_only_a_modules_own_plot_functions_get_the_look():
    module = {"__name__": __name__, "plot_size": draw_size, "draw_size": draw_size, "plot_other": plots.plot_risks}
    style.style_plots(module)
    assert module["plot_size"].__wrapped__ is draw_size and module["plot_size"].__doc__ == draw_size.__doc__
    assert module["draw_size"] is draw_size and module["plot_other"] is plots.plot_risks


def test_the_look_holds_while_drawing_and_no_figure_stays_open():
    with plt.rc_context({"font.size": 20}):
        figure = style._style(draw_size)([1, 2])
        assert figure.axes[0].get_title() == "2 at 9" and plt.rcParams["font.size"] == 20
    assert figure.get_layout_engine() is not None and figure.number not in plt.get_fignums()
    assert not figure.axes[0].spines["top"].get_visible() and figure.axes[0].spines["left"].get_visible()


def test_a_table_without_rows_or_an_array_without_numbers_is_not_drawn():
    drawn = style._style(draw_size)
    assert drawn(pd.DataFrame({"a": []})) is None and drawn(np.array([np.nan, np.inf])) is None
    assert drawn(np.array([np.nan, 1])).axes[0].get_title() == "2 at 9"

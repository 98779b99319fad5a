"""What figures share: every number at its place, with its interval and words, and labels that find a free spot."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from fulcra_utils.plots import parts


def test_panels_stand_side_by_side_with_an_inch_more():
    figure, panels = parts.open_panels(3, 2, 4)
    assert figure.get_size_inches().tolist() == [7, 4] and panels == figure.axes and len(panels) == 3


def test_series_lie_around_their_row_with_their_intervals():
    ours = pd.DataFrame({"r": [0.5, np.nan], "low": [0.4, np.nan], "high": [0.6, np.nan]}, index=["b", "a"])
    theirs = pd.DataFrame({"r": [0.2], "null": [0.1]}, index=["b"])
    figure = parts.plot_series(["a", "b", "c"], {"x": {"ours": ours.assign(null=0.0), "theirs": theirs}}, "r", "t",
                               line=0.3, null="by chance", spread=0.2, gap="no number")
    axes, = figure.axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["a", "b", "c"] and axes.yaxis_inverted()
    spots = {line.get_label(): line.get_xydata() for line in axes.lines}
    assert np.allclose(spots["ours"], [(0.5, 0.9), (np.nan, -0.1)], equal_nan=True)   # row 1, then row 0: 0.1 above
    assert np.allclose(spots["theirs"], [(0.2, 1.1)])                                # and 0.1 below
    assert np.allclose(spots["by chance"], [(0, 0.9), (0, -0.1)])
    assert axes.lines[-1].get_xdata() == [0.3, 0.3]
    assert axes.collections[0].get_segments()[0].tolist() == [[0.4, 0.9], [0.6, 0.9]]
    assert [(t.get_text(), t.get_position()[1]) for t in axes.texts] == [("no number", 0), ("no number", 2)]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["ours", "by chance", "theirs"]
    assert figure.get_suptitle() == "t"


def test_one_series_needs_no_legend_and_each_panel_has_its_chance_line():
    table = pd.DataFrame({"r": [0.5]}, index=["a"])
    figure = parts.plot_series(["a"], {"x": {"ours": table}, "y": {"ours": table}}, "r", line=[0, 0.5])
    assert figure.legends == [] and [axes.lines[-1].get_xdata()[0] for axes in figure.axes] == [0, 0.5]


def test_an_interval_that_runs_off_the_panel_has_an_arrow_at_its_edge():
    table = pd.DataFrame({"r": [0.5, 0.9], "low": [-0.2, 0.8], "high": [1.3, 1.0]}, ["a", "b"])
    axes, = parts.plot_series(["a", "b"], {"x": {"ours": table}}, "r", limits=(0, 1)).axes
    edges = [line for line in axes.lines if line.get_marker() in ("<", ">")]
    assert [(*line.get_xdata(), *line.get_ydata()) for line in edges] == [(0, 0), (1, 0)]


def test_a_matrix_writes_its_numbers_and_leaves_gaps_empty():
    values = pd.DataFrame([[0.8, np.nan], [-0.704, 0.7]], index=["a", "b"], columns=["x", "y"])
    bold = np.array([[False, True], [True, False]])
    figure = parts.plot_matrix(values, "t", "r", bold=bold)
    axes, bar = figure.axes
    assert [(t.get_text(), t.get_position(), t.get_color(), t.get_fontweight()) for t in axes.texts] == [
        ("0.80", (0, 0), "white", "normal"), ("-0.70", (0, 1), "white", "bold"), ("0.70", (1, 1), "black", "normal")]
    assert (axes.images[0].norm.vmin, axes.images[0].norm.vmax, bar.get_ylabel()) == (-1, 1, "r")


def test_labels_take_the_nearest_free_spot():
    figure, axes = plt.subplots(figsize=(6, 4))
    axes.set(xlim=(0, 1), ylim=(0, 1))
    places = np.array([[0.5, 0.5], [0.5, 0.5], [0.2, 0.2], [np.nan, 0.1]])
    parts.label_points(axes, places, ["first", "second", "", "lost"], size=8)
    first, second = axes.texts
    assert (first.get_text(), second.get_text()) == ("first", "second")
    assert first.xyann == pytest.approx((0, 10)) and second.xyann == pytest.approx((0, -10))   # above, then below
    assert first.arrow_patch is None and second.arrow_patch is None


def test_a_label_further_away_has_a_line_to_its_point():
    figure, axes = plt.subplots(figsize=(6, 4))
    axes.set(xlim=(0, 1), ylim=(0, 1))
    parts.label_points(axes, np.full((9, 2), 0.5), ["label"] * 9)
    far = [t for t in axes.texts if t.arrow_patch is not None]
    assert 0 < len(far) < 9 and all(np.hypot(*t.xyann) > 15 for t in far)

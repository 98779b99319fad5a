"""The figures of value pluralism: what is given is drawn, what a reply does not touch is a dot."""

import numpy as np
import pandas as pd

from fulcra_utils.plots import pluralism as plots


def test_both_shares_of_each_way_are_drawn():
    names = ["coverage", "low", "high", "precision", "precision_low", "precision_high"]
    table = pd.DataFrame([["frequency", *np.arange(6) / 10], ["weighed", *np.arange(6) / 5]], columns=["way", *names])
    figure = plots.plot_coverage(table, "t")
    drawn = [next(line for line in axes.lines if line.get_marker() == "o") for axes in figure.axes]
    np.testing.assert_allclose([line.get_xdata() for line in drawn], [[0, 0], [0.3, 0.6]])
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["frequency", "weighed"]


def test_what_was_wanted_stands_beside_what_was_measured():
    table = pd.DataFrame({"what": ["a", "b"], "value": [0.6, 0.8], "low": 0.5, "high": 0.9, "wanted": [0.7, np.nan]})
    figure = plots.plot_quality(table, "t")
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["measured, 95 % interval", "wanted"]
    assert plots.plot_quality(table.head(0), "t") is None


def test_served_opposed_and_untouched():
    net = pd.DataFrame({"model one": [0.5, np.nan], "model two": [-1.0, 0.0]}, index=["care", "fame"])
    figure = plots.plot_served(net, pd.Series([0.9, 0.2], net.index), "t")
    assert [t.get_text() for t in figure.axes[0].texts] == ["0.90", "0.20"]
    assert [t.get_text() for t in figure.axes[1].texts] == ["+0.50", "-1.00", "+0.00", "·"]
    assert [t.get_text() for t in figure.axes[1].get_xticklabels()] == ["model one", "model two"]

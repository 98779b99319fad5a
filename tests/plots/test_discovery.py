"""The figures of value discovery: what is given is drawn, what is missing stays without."""

import numpy as np
import pandas as pd
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from fulcra_utils.plots import discovery as plots


def texts(figure, n=0):
    return [t.get_text() for t in figure.axes[n].texts]


def test_every_value_of_the_lexicon_has_its_word_and_factor():
    table = pd.DataFrame({"value": ["care", "fame"], "x": [0.0, 1], "y": [0.0, 1], "share": [0.5, 0.0],
                          "factor": ["1: care", ""]})
    figure = plots.plot_lexicon(table, "t")
    assert texts(figure) == ["care", "fame"]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["1: care", "no factor"]


def test_no_name_of_the_lexicon_lies_on_a_mark():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"value": [f"value number {k}" for k in range(20)], "x": rng.random(20), "y": rng.random(20),
                          "share": 0.6, "factor": ["1", "2"] * 10})
    axes = plots.plot_lexicon(table, "t").axes[0]
    points, reach = axes.transData.transform(table[["x", "y"]]), np.sqrt(330) / 2 * axes.figure.dpi / 72
    axes.figure.draw_without_rendering()
    boxes = [Text.get_window_extent(t) for t in axes.texts]
    assert not any(box.overlaps(Bbox([point - reach, point + reach])) for box in boxes for point in points)


def test_loadings_stand_factor_by_factor_with_their_intervals():
    table = pd.DataFrame({"value": ["a", "a", "b", "b"], "factor": ["1", "2"] * 2, "loading": [0.1, 0.9, -0.8, 0.0],
                          "low": [0.0, 0.8, np.nan, -0.1], "high": [0.2, 1.0, np.nan, 0.1],
                          "belongs": [False, True, True, False]})
    figure = plots.plot_loadings(table, "t")
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["b", "a"]
    assert texts(figure) == ["-0.80", "0.00  [-0.10, 0.10]", "0.10  [0.00, 0.20]", "0.90  [0.80, 1.00]"]
    assert [t.get_fontweight() for t in figure.axes[0].texts] == ["bold", "normal", "normal", "bold"]


def test_scree_has_a_panel_a_table():
    table = pd.DataFrame({"component": [1, 2], "eigenvalue": [1.5, 0.5], "null": [1.1, 1.0]})
    figure = plots.plot_scree({"x": table, "y": table}, "t")
    assert [axes.get_title() for axes in figure.axes] == ["x", "y"]
    assert figure.axes[0].lines[0].get_ydata().tolist() == [1.5, 0.5]


def test_a_system_that_cannot_be_estimated_says_so():
    fits = pd.DataFrame({"system": ["one", "odd"], **{f"{name}{side}": [0.5, np.nan] for name in
                         ("cfi", "rmsea", "srmr") for side in ("", "_low", "_high")}})
    figure = plots.plot_fits(fits, "t")
    assert len(figure.axes) == 3 and all(texts(figure, n) == ["not estimable"] for n in range(3))
    assert plots.plot_fits(fits.head(0), "t") is None


def test_probe_draws_the_null():
    table = pd.DataFrame({"features": ["x"], "accuracy": [0.8], "low": [0.7], "high": [0.9], "null_high": [0.6]})
    axes = plots.plot_probe(table, "t").axes[0]
    assert [line.get_xdata()[0] for line in axes.lines[:2]] == [0.8, 0.6]


def test_factors_point_to_what_they_go_with():
    ring = np.array([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    figure = plots.plot_factors(ring, list("abcd"), pd.DataFrame([[1.0, 0, -1, 0]], ["f"], list("abcd")), "t")
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[2.0, 0.0]] and figure.axes[0].get_xlim()[1] > 2
    half = plots.plot_factors(ring, list("abcd"), pd.DataFrame([[0.25, 0, -0.25, 0]], ["f"], list("abcd")), "t").axes[0]
    assert half.lines[0].get_xydata().tolist() == [[0.5, 0.0]] and "the length .5" in half.get_xlabel()
    assert {"a", "b", "c", "d"} <= set(texts(figure))

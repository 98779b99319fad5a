"""The figures of generative evaluation: curves, metrics with two intervals, differences, judges."""

import numpy as np
import pandas as pd

from fulcra_utils.plots import generative as plots
from fulcra_utils.systems.generative import measures

JUDGED = {"static": np.array([[0.1, 0.9], [0.2, 0.3]]), "evolved": np.array([[0.8, 0.9], [0.2, 0.7]])}


def test_each_condition_is_one_curve_of_one_colour_in_all_panels():
    by_k = measures.summarise_curves({(name, k): measures.measure_prompts(p, 0.5, k)[:, 0]
                                      for name, p in JUDGED.items() for k in (1, 2)}, 20)
    figure = plots.plot_curves({"EVR": by_k, "again": by_k[by_k.condition == "evolved"]}, ["K", "K"], "t")
    first, second = figure.axes
    assert [line.get_label() for line in first.lines] == ["unchanged story", "evolved story"]
    assert second.lines[0].get_color() == first.lines[1].get_color() != first.lines[0].get_color()
    assert [line.get_xdata().round().tolist() for line in first.lines] == [[1, 2]] * 2
    assert (first.lines[0].get_xdata() < first.lines[1].get_xdata()).all()
    assert first.lines[0].get_ydata().tolist() == by_k.value[:2].tolist()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["unchanged story", "evolved story"]


def test_metrics_have_a_panel_each_and_the_corrected_one_says_what_is_not_known():
    table = measures.summarise_violations(JUDGED, 0.5, 2, 20)
    corrected = pd.DataFrame({"condition": ["static", "evolved"], "value": [0.1, np.nan], "low": 0.0, "high": 0.2})
    figure = plots.plot_metrics(table, corrected, "t")
    assert [axes.get_xlabel() for axes in figure.axes[:3]] == [plots.METRICS[name] for name in measures.METRICS]
    assert [text.get_text() for text in figure.axes[3].texts] == ["not known"]


def test_differences_and_judges():
    gains = measures.compare_conditions(JUDGED, {"e − s": ("evolved", "static")}, 0.5, 2, 20)
    assert len(plots.plot_differences(gains, "t").axes) == 3
    gains.comparison = "evolved − static"
    rows = plots.plot_differences(gains, "t").axes[0].get_yticklabels()
    assert [text.get_text() for text in rows] == ["evolved story − unchanged story"]
    quality, _ = measures.measure_judge(np.array([0.9, 0.1]), np.array([1.0, 0]), np.arange(2), 0.5, 20)
    figure = plots.plot_judges(quality.assign(judge="a"), "t", 0.75)
    axes = figure.axes[0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "wanted, balanced"]
    assert [text.get_text() for text in axes.get_yticklabels()] == quality.measure.tolist()
    assert axes.lines[-1].get_xdata()[0] == 0.75

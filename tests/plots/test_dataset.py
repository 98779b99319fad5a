"""The data set's figures show the numbers they are given."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from fulcra_utils.plots.dataset import plot_agreement, plot_coverage, plot_prevalence, plot_queue


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def widths(axes):
    return sorted(round(bar.get_width(), 3) for bar in axes.patches)


def test_prevalence_bars_have_the_given_lengths():
    ours = pd.DataFrame({"dimension": ["a", "b"], "aligned": [10.0, 20], "opposed": [1.0, 2]})
    axes = plot_prevalence(ours).axes[0]
    assert widths(axes) == [-2, -1, 10, 20]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    published = pd.DataFrame({"dimension": ["b", "a"], "aligned": [np.nan, 5], "opposed": [np.nan, 3],
                              "mentioned": [7.0, 8]})
    found = [w for w in widths(plot_prevalence(ours, published).axes[0]) if np.isfinite(w)]
    assert found == [-3, -2, -1, 5, 7, 10, 20]


def test_coverage_has_a_panel_a_measure_and_no_row_for_the_baseline():
    summary = pd.DataFrame({"method": ["random", "k"] * 2, "measure": ["x", "x", "y", "y"],
                            "difference": [0, -1.0, 0, 2], "low": [0, -2.0, 0, 1], "high": [0, 0.5, 0, 3]})
    panels = plot_coverage(summary, {"x": "X", "y": "Y"}, "t").axes
    assert [axes.get_xlabel() for axes in panels] == ["X", "Y"]
    assert [axes.lines[0].get_xdata()[0] for axes in panels] == [-1, 2]


def test_agreement_survives_what_is_not_defined():
    table = pd.DataFrame({"name": ["a", "b"], "statistic": "alpha_nominal", "value": [0.5, np.nan],
                          "low": [0.4, np.nan], "high": [0.6, np.nan]})
    axes = plot_agreement(table, {"alpha_nominal": "alpha", "ac1": "AC1"}, "t").axes[0]
    assert axes.lines[0].get_xdata()[0] == 0.5
    assert len(axes.figure.legends[0].get_texts()) == 2


def test_queue_counts_cases_and_may_be_empty():
    queue = pd.DataFrame({"name": ["a", "a", "b"], "why": ["they disagree", "opposite signs", "they disagree"]})
    assert widths(plot_queue(queue, "t").axes[0]) == [0, 1, 1, 1]
    assert plot_queue(queue.head(0), "t") is None

"""The evaluator's figures draw the numbers they are given, and compute none."""

import numpy as np
import pandas as pd
import pytest

from fulcra_utils.plots import evaluator as plots


def spans(axes):
    """Return the ends of the interval lines, top row first."""
    return [tuple(np.round(path.vertices[:, 0], 3)) for lines in axes.collections for path in lines.get_paths()
            if len(path.vertices) == 2]


def test_comparison_has_a_row_a_method_with_its_interval():
    table = pd.DataFrame({"method": ["ours", "majority"], "macro_f1": [0.6, 0.3], "low": [0.5, np.nan],
                          "high": [0.7, np.nan]})
    axes = plots.plot_comparison(table, target=0.55).axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["ours", "majority"] and axes.yaxis_inverted()
    assert spans(axes)[0] == (0.5, 0.7)
    assert [t.get_text() for t in axes.texts] == ["0.600", "0.300"]


def test_sets_draw_the_intervals_of_the_table():
    table = pd.DataFrame({"value": ["a", "a", "b"], "label": [1, 0, 1], "n": [10, 10, 0],
                          "coverage": [0.9, 0.8, np.nan], "low": [0.6, 0.5, np.nan], "high": [0.97, 0.95, np.nan],
                          "calibrated": [True, False, True]})
    assert spans(plots.plot_sets(table, 0.9).axes[0]) == [(0.6, 0.97)]   # neither the uncalibrated nor the empty one


def test_left_out_has_a_row_for_each_thing_and_its_judges():
    table = pd.DataFrame({"left_out": ["model", "model", "scores"], "name": ["org/m", "n", "scores"],
                          "rows": ["annotated", "scored, new prompts", "scored by the authors, m"], "n": [1000, 20, 30],
                          "macro_f1": 0.5, "low": 0.4, "high": 0.6})
    rows = plots.plot_left_out(table).axes[0].get_yticklabels()
    assert [t.get_text() for t in rows] == [
        "without m: annotated (n = 1,000)", "without n: scored, new prompts (n = 20)",
        "without the authors' scores: scored by the authors, m (n = 30)"]


def test_quality_leaves_out_marks_without_cells():
    table = pd.DataFrame({"value": ["a", "a", "b"], "label": [-1, 1, 1], "n": [3, 0, 5], "f1": [0.5, np.nan, np.nan]})
    assert sorted(t.get_text() for t in plots.plot_quality(table).axes[0].texts) == ["n = 3", "n = 5"]


@pytest.mark.parametrize("plot", [plots.plot_training, plots.plot_comparison, plots.plot_left_out, plots.plot_learning])
def test_an_empty_table_draws_nothing(plot):
    assert plot(pd.DataFrame()) is None

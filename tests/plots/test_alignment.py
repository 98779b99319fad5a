"""The alignment figures: what was not measured draws nothing, and names do not cover each other."""

import numpy as np
import pandas as pd
from matplotlib.text import Text

from fulcra_utils.plots import alignment as plots


def make_summary(n):
    rng = np.random.default_rng(0)
    names = ["start", *(f"rloo-ideal-v{k}" for k in range(n)), "rloo-ideal-s1", "rloo-other"]
    return pd.DataFrame({"policy": names, "distinct_2": rng.normal(0.6, 0.1, n + 3),
                         "drop_reward": rng.normal(0.2, 0.1, n + 3), "drop_judge": rng.normal(0.15, 0.1, n + 3)})


def test_frontier_names_runs_to_the_aim_without_overlap():
    figure = plots.plot_frontier(make_summary(20), "ideal")
    figure.draw_without_rendering()
    texts = figure.axes[0].texts
    assert sorted(t.get_text() for t in texts) == sorted(f"rloo-ideal-v{k}" for k in range(20))
    boxes = [Text.get_window_extent(t).shrunk(0.95, 0.8) for t in texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1:])


def test_frontier_of_the_start_model_alone_is_nothing():
    assert plots.plot_frontier(make_summary(2).head(1), "ideal") is None


def test_bars_need_a_number_of_ours():
    claims = pd.DataFrame({"claim_id": ["alignment/helpful/start", "alignment/harmless/start", "distance/x"],
                           "reported": [1.0, 2, 3], "ours": [np.nan, np.nan, 5]})
    assert plots.plot_bars(claims) is None
    figure = plots.plot_bars(claims.assign(ours=[0.5, np.nan, 5]))
    drawn = [axes.lines[0].get_xdata()[0] for axes in figure.axes]
    assert drawn[:3] == [1, 0.5, 2] and np.isnan(drawn[3])


def test_efficiency_draws_a_line_a_method_over_its_intervals():
    table = pd.DataFrame({"measure": "distance", "method": ["a", "a", "b"], "n_prompts": [10, 100, 100],
                          "value": [3.0, 2, 1], "low": [2.5, 1.5, 0.5], "high": [3.5, 2.5, 1.5]})
    axes, = plots.plot_efficiency(table).axes
    assert [line.get_xdata().tolist() for line in axes.lines] == [[10, 100], [100]]

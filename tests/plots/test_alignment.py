"""The alignment figures: what was not measured draws nothing, and names do not cover each other."""

import numpy as np
import pandas as pd
import pytest

from fulcra_utils.plots import alignment as plots


def make_summary(n):
    rng = np.random.default_rng(0)
    names = ["start", *(f"dpo-ideal-v{k}" for k in range(n)), "dpo-ideal-s1", "dpo-other"]
    table = pd.DataFrame({"policy": names, "distance_judge": 4.0, "change_judge": rng.normal(-0.4, 0.3, n + 3),
                          "kl": rng.normal(0.2, 0.1, n + 3), "variety": rng.normal(0.9, 0.05, n + 3),
                          "unlearnt": np.nan})
    ends = {f"{end}_{name}": table[column] + sign * 0.01 for name, column in (
        ("judge", "change_judge"), ("kl", "kl"), ("variety", "variety")) for end, sign in (("low", -1), ("high", 1))}
    return table.assign(**ends)


def test_frontier_names_runs_to_the_aim_apart_and_leaves_out_what_is_unknown():
    figure = plots.plot_frontier(make_summary(8), "ideal")
    assert [axes.get_xlabel() for axes in figure.axes] == [plots.COSTS["kl"], plots.COSTS["variety"]]
    runs = [f"DPO to ideal-v{k}" for k in range(8)]
    drawn = {line.get_label(): line for line in figure.axes[0].lines if line.get_label() in runs}
    assert list(drawn) == runs == [t.get_text() for t in figure.legends[0].get_texts()][:8]
    assert len({(line.get_color(), line.get_marker()) for line in drawn.values()}) == 8
    marks = {marker for _, marker in plots.LOOKS}
    fall = {line.get_ydata()[0] for line in figure.axes[0].lines
            if line.get_marker() in marks and line.get_label() != "the start model"}
    wanted = -25 * make_summary(8).change_judge[1:-1]
    assert sorted(fall) == [pytest.approx(x) for x in sorted(wanted)]


def test_frontier_of_the_start_model_alone_is_nothing():
    assert plots.plot_frontier(make_summary(2).head(1), "ideal") is None


def test_bars_need_a_number_of_ours():
    claims = pd.DataFrame({"claim_id": ["alignment/helpful/start", "alignment/harmless/start", "distance/x"],
                           "reported": [1.0, 2, 3], "ours": [np.nan, np.nan, 5]})
    assert plots.plot_bars(claims) is None
    figure = plots.plot_bars(claims.assign(ours=[0.5, np.nan, 5]))
    drawn = [axes.lines[0].get_xdata()[0] for axes in figure.axes]
    assert drawn[:3] == [1, 0.5, 2] and np.isnan(drawn[3])

"""Figures of reliability: bars fill the row, every source is named, nothing is drawn of nothing."""

import pandas as pd
import pytest

from fulcra_utils.evaluator.reliability import SOURCES
from fulcra_utils.plots import reliability as plots


def test_shares_fill_each_bar_and_name_their_sources():
    sources = pd.DataFrame([("care", "model", 0.3), ("care", "prompt", 0.68), ("care", "draw", 0.02),
                            ("power", "model", float("nan")), ("power", "prompt", 0.5), ("power", "draw", 0.5)],
                           columns=["value", "source", "share"])
    figure = plots.plot_shares(sources, "Shares")
    axes = figure.axes[0]
    ends = [max(bar.get_x() + bar.get_width() for bar in axes.patches if round(bar.get_y() + 0.4) == k
                and bar.get_width() == bar.get_width()) for k in (0, 1)]
    assert ends == pytest.approx([1, 1])
    assert [text.get_text() for text in axes.get_yticklabels()] == ["care", "power"]
    assert [text.get_text() for text in figure.legends[0].texts] == ["model", "prompt", "another reply (draw)"]
    assert {"30%", "68%", "50%"} == {text.get_text() for text in axes.texts} - {""}
    assert plots.plot_shares(sources.head(0), "") is None


def test_every_source_has_a_look():
    assert set(plots.LOOKS) == {*SOURCES, "rest"} and len(set(map(str, plots.LOOKS.values()))) == len(plots.LOOKS)


def test_ruler_shows_each_group():
    table = pd.DataFrame({"value": ["care", "care"], "who": ["people", "models"], "mean": [0.1, 0.2],
                          "low": [0.0, 0.1], "high": [0.2, 0.3]})
    figure = plots.plot_ruler(table, "Ruler")
    assert [text.get_text() for text in figure.legends[0].texts] == ["people", "models"]
    both = pd.concat([table, table.tail(1).assign(who="people minus models, alike")])
    figure = plots.plot_ruler(both, "Ruler")
    assert [axes.get_xlabel() for axes in figure.axes] == ["mean score", "people minus models,\nalike"]
    assert [text.get_text() for text in figure.legends[0].texts] == ["people", "models"]
    assert plots.plot_ruler(table.head(0), "") is None
    assert plots.plot_ruler(table, "", "two scales").axes[0].get_xlabel() == "two scales"
    spread = plots.plot_ruler(table.assign(p10=-0.5, p90=0.9), "Ruler").axes[0].collections[0]
    assert [path.vertices[:, 0].tolist() for path in spread.get_paths()] == [[-0.5, 0.9]]


def test_ways_have_a_panel_a_model_and_a_mark_a_way():
    rows = [(model, way, value, 0.1, 0.0, 0.2) for model in ("start", "dpo", "wide") for way in ("stated", "written")
            for value in ("care", "power")]
    table = pd.DataFrame(rows, columns=["model", "way", "value", "mean", "low", "high"])
    agreement = pd.DataFrame({"model": ["start", "dpo", "wide"], "first": "stated", "second": "written",
                              "r": [0.5, -0.5, -0.1], "low": [0.1, -0.9, -0.4], "high": [0.8, 0.2, 0.3],
                              "disattenuated": [0.625, None, -0.4], "disattenuated_low": [0.125, None, -1.0],
                              "disattenuated_high": [1.0, None, 1.0]}).astype(
                                  {"disattenuated": float, "disattenuated_low": float, "disattenuated_high": float})
    figure = plots.plot_ways(table, agreement, "Ways")
    assert [axes.get_xlabel().splitlines() for axes in figure.axes] == [
        [name, "(in standard deviations of each way)", f"stated and written: r = {said},", f"without noise {left}"]
        for name, said, left in (("start model", "0.50 [0.10, 0.80]", "0.62 [0.12, 1.00]"),
                                 ("dpo", "-0.50 [-0.90, 0.20]", "not known"),
                                 ("wide", "-0.10 [-0.40, 0.30]", "not known"))]
    assert [text.get_text() for text in figure.legends[0].texts] == ["stated", "written"]

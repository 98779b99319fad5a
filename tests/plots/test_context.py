"""The figures of values in context: every dose, value and cost that is given is drawn where it belongs."""

import pandas as pd

from fulcra_utils.plots import context as plots


def changes(rows):
    return pd.DataFrame([(kind, k, measure, x, x - 0.1, x + 0.1) for kind, k, measure, x in rows],
                        columns=["kind", "k", "measure", "difference", "low", "high"])


def words(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_doses_start_at_no_context_and_a_policy_is_a_band():
    table = changes([("target", 8, "nearness", 0.4), ("target", 1, "nearness", 0.2), ("shuffled", 8, "nearness", 0.1)])
    figure = plots.plot_doses(table, changes([("dpo-ideal", 0, "nearness", 0.5)]), "t")
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0", "1", "8"]
    drawn = {box.get_label(): box.lines[0].get_ydata().tolist() for box in axes.containers}
    assert drawn == {plots.KINDS["target"]: [0.2, 0.4], plots.KINDS["shuffled"]: [0.1]}
    assert set(words(figure)) == {*drawn, "DPO to ideal, no context", "no context"}
    assert plots.plot_doses(table.head(0), table.head(0), "t") is None


def test_values_asked_for_come_first_and_say_so():
    table = changes([(kind, 8, value, 0.1) for kind in ("target", "neutral") for value in ("care", "fame", "fun")])
    figure = plots.plot_values(table, ["fun"], ["care", "fame", "fun"], "t")
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["fun (asked)", "care", "fame"]
    assert [len(line.get_xdata()) for line in figure.axes[0].lines[:2]] == [3, 3]
    assert words(figure) == ["examples of the target", "neutral examples"]


def test_costs_have_a_panel_each_and_a_point_a_kind():
    table = changes([(kind, 8, measure, x) for kind, x in (("target", 0.3), ("dpo-ideal", 0.6))
                     for measure in ("nearness", "words", "nll_real")])
    figure = plots.plot_costs(table, "t")
    assert [axes.get_xlabel() for axes in figure.axes] == [f"change: {plots.COSTS[name]}" for name in (
        "nll_real", "words")]
    bars = figure.axes[0].containers[0]
    assert bars.lines[0].get_xydata().tolist() == [[0.3, 0.3]] and bars.get_label() == plots.KINDS["target"]
    ends = [[point.round(6).tolist() for point in bar.get_segments()[0]] for bar in bars.lines[2]]
    assert ends == [[[0.2, 0.3], [0.4, 0.3]], [[0.3, 0.2], [0.3, 0.4]]]
    assert set(words(figure)) == {plots.KINDS["target"], "DPO to ideal, no context", "no context"}

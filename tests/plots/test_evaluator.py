"""The evaluator's figures draw the numbers they are given, and compute none."""

import numpy as np
import pandas as pd
import pytest

from fulcra_utils.evaluator.explanation import list_samples
from fulcra_utils.plots import evaluator as plots
from fulcra_utils.theory.theory import load_theory


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
    figure = plots.plot_sets(table, 0.9)
    assert spans(figure.axes[0]) == [(0.6, 0.97)]   # neither the uncalibrated nor the empty one
    assert "1 of 3 labels, all no connection (0) among them, can never be ruled out" in figure.axes[0].get_xlabel()
    assert [line.get_label() for line in figure.axes[0].lines[:1]] == ["supported (+1)"]    # no word without a mark
    low = plots.plot_sets(table.assign(coverage=[0.2, 0.8, np.nan], low=0.1), 0.9).axes[0]
    assert low.get_xlim()[0] < 0.2 and "<" in [line.get_marker() for line in low.lines]    # a mark, and more
    assert "3 of 3 labels can" in plots.plot_sets(table.assign(calibrated=False), 0.9).axes[0].get_xlabel()


def test_teachers_show_what_was_wanted_in_two_rows():
    table = pd.DataFrame({"teachers": "none", "measure": ["macro_f1", "order", "key", "ratings"], "value": 0.5,
                          "low": 0.4, "high": 0.6})
    figure = plots.plot_teachers(table, dict.fromkeys(table.measure, 0.9) | {"ratings": None})
    assert len(figure.axes) == 4 and len({round(axes.get_position().y0, 2) for axes in figure.axes}) == 2
    assert all((axes.get_xlim()[1] > 0.9) == ("(wanted: 0.90)" in axes.get_title()) for axes in figure.axes)


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


def draw_reply(theory, response="No.", prompt="Why?", has_labels=True):
    names, rng = list(theory.dimensions), np.random.default_rng(0)
    profile = pd.DataFrame({"score": rng.uniform(-1, 1, len(names)), "low": -1.0, "high": 1.0,
                            "label": 1.0 if has_labels else np.nan}, names)
    words = pd.Series(rng.normal(size=len(response.split())), response.split(), name=names[0])
    means = pd.DataFrame([(model, "all", name, 0.3, 0.2, 0.4, 99) for model in ("a", "b", "c") for name in names],
                         columns=["model", "rows", "quantity", "mean", "low", "high", "n"])
    return plots.plot_reply(profile, words, prompt, means, theory), profile, words


@pytest.mark.parametrize("has_labels", [True, False])
def test_a_reply_stands_on_the_circle_or_side_by_side_with_two_models(any_theory, has_labels):
    figure, profile, _ = draw_reply(any_theory, has_labels=has_labels)
    text, axes = figure.axes
    order = list(any_theory.circle or any_theory.dimensions)
    assert axes.name == ("polar" if any_theory.circle else "rectilinear")
    assert [t.get_text().replace("\n", "") for t in axes.get_xticklabels()] == order
    drawn = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert np.allclose(drawn["this reply (bar: span of its label set)"], profile.score[order])
    assert {f"{name}, mean of 99 (95 %: within 0.10)" for name in "abc"} & drawn.keys() == {
        f"{name}, mean of 99 (95 %: within 0.10)" for name in "ab"}
    assert ("this reply's label, by a reader" in drawn) == has_labels
    assert all((path.vertices[:, 1] == [-1, 1]).all() for path in axes.collections[0].get_paths())


@pytest.mark.parametrize("longest", ["prompt", "response"])
def test_words_have_the_colour_of_their_push_and_do_not_cover_each_other(longest):
    theory = load_theory("valueeval20")
    row = max(list_samples(theory).itertuples(), key=lambda row: len(getattr(row, longest)))
    figure, _, words = draw_reply(theory, row.response, row.prompt)
    figure.canvas.draw()
    prompt, *shown, said = figure.axes[0].texts
    boxes = [text.get_window_extent() for text in (prompt, *shown, said)]
    assert not [(a, b) for k, a in enumerate(boxes) for b in boxes[k + 1:] if a.overlaps(b)]
    assert max(box.x1 for box in boxes) < figure.axes[1].bbox.x0 and min(box.y0 for box in boxes) > 0
    colours = np.array([text.get_bbox_patch().get_facecolor() for text in shown])
    assert ((colours[:, 2] > colours[:, 0]) == (words > 0)).all()                        # blue or orange
    assert np.allclose(colours[:, 3], 0.75 * words.abs() / words.abs().max())


def test_names_around_the_largest_circle_do_not_cover_each_other():
    figure, *_ = draw_reply(load_theory("schwartz19"))
    figure.canvas.draw()
    boxes = [label.get_window_extent() for label in figure.axes[1].get_xticklabels()]
    assert not [(a, b) for k, a in enumerate(boxes) for b in boxes[k + 1:] if a.overlaps(b)]


def test_a_reply_without_known_models_is_drawn_alone(toy):
    _, profile, words = draw_reply(toy)
    assert len(plots.plot_reply(profile, words, "Why?", pd.DataFrame(), toy).axes[1].lines) == 3   # with label, zero
    means = pd.DataFrame({"model": "a", "rows": "all", "quantity": toy.dimensions, "mean": 0.3, "low": np.nan,
                          "high": np.nan, "n": 4})
    figure = plots.plot_reply(profile, words, "Why?", means, toy)
    assert "a, mean of 4 (too few prompts for an interval)" in figure.axes[1].get_legend_handles_labels()[1]

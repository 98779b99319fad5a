"""The compass figures: what is given is drawn, gaps stay empty, and labels find free spots."""

import numpy as np
import pandas as pd
from matplotlib.text import Text

from fulcra_utils.plots import compass as plots_compass
from fulcra_utils.systems.orientation import slider as orientation


def texts(figure, n=0):
    return [t.get_text() for t in figure.axes[n].texts]


def test_cells_write_every_score_and_leave_gaps_empty():
    cells = pd.DataFrame({"model": ["a", "a", "b", "b"], "dimension": ["x", "y"] * 2, "score": [0.5, -1, np.nan, 0]})
    assert sorted(texts(plots_compass.plot_cells(cells, "t"))) == ["-1.00", "0.00", "0.50"]


def test_ranks_are_written_with_the_best_mean_rank_on_top():
    cells = pd.DataFrame({"model": ["a", "a", "b", "b"], "dimension": ["x", "y"] * 2, "rank": [2.0, 2, 1, 1]})
    figure = plots_compass.plot_ranks(cells, "t")
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["b", "a"]
    assert texts(figure) == ["1", "1", "2", "2"]
    assert figure.axes[0].images[0].get_array().tolist() == [[1, 1], [-1, -1]]


def test_a_long_theory_runs_down_the_page():
    cells = pd.DataFrame({"model": "a", "dimension": [f"d{k}" for k in range(30)], "score": 0.1})
    width, height = plots_compass.plot_cells(cells, "t").get_size_inches()
    assert height > width


def test_ranking_draws_forty_models_at_most_and_survives_gaps():
    table = pd.DataFrame({"model": [f"m{k}" for k in range(50)], "score": np.linspace(1, 0, 50), "low": np.nan,
                          "high": np.nan, "rank": np.arange(1, 51.0), "rank_low": np.nan, "rank_high": np.nan})
    axes = plots_compass.plot_ranking(table, "t").axes[0]
    assert len(axes.get_yticklabels()) == 40
    assert axes.yaxis_inverted()


def test_ranking_writes_each_models_rank_beside_it():
    table = pd.DataFrame({"model": list("abc"), "score": [0.5, 0.4, np.nan], "low": [0.4, 0.3, np.nan],
                          "high": [0.6, 0.5, np.nan], "rank": [1, 2, np.nan], "rank_low": [1, 1, np.nan],
                          "rank_high": [1, 3, np.nan]})
    rows = plots_compass.plot_ranking(table, "t").axes[0].get_yticklabels()
    assert [t.get_text() for t in rows] == ["a   1", "b   2  (1 to 3)", "c   –"]


def test_thirty_models_on_a_map_have_labels_that_do_not_overlap():
    places = np.random.default_rng(0).normal(size=(33, 2))
    figure = plots_compass.plot_maps({"MDS": places}, [f"org/model-{k}-chat" for k in range(30)] + list("ABC"), 30, "t")
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(t).shrunk(0.95, 0.8) for t in figure.axes[0].texts]
    assert len(boxes) == 33
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1:])


def test_labels_of_points_that_lie_close_do_not_overlap():
    places = np.array([[0, 0], [0.01, 0.01], [0.02, 0], [1, 1], [np.nan, np.nan], [1, 0], [0, 1], [1, 0.5]])
    names = ["owner/first", "second", "third", "country", "gap", *"abc"]
    assert plots_compass.plot_maps({"MDS": places[:7]}, names[:7], 3, "t") is None     # too few for a map
    figure = plots_compass.plot_maps({"MDS": places}, names, 3, "t")
    figure.draw_without_rendering()
    boxes = [t.get_window_extent() for t in figure.axes[0].texts]
    assert texts(figure) == ["first", "second", "third", "country", *"abc"]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1:])


def test_cross_correlations_are_bold_where_sure():
    table = pd.DataFrame({"first": ["a", "a"], "second": ["x", "y"], "r": [0.4, 0.1], "low": [0.2, -0.1],
                          "high": [0.6, 0.3]})
    figure = plots_compass.plot_cross(table, "t")
    assert [t.get_fontweight() for t in figure.axes[0].texts] == ["bold", "normal"]


def test_slider_shows_every_item_and_ideal():
    slider, ideals = orientation.load_slider(), orientation.tabulate_ideals()
    figure = plots_compass.plot_slider(slider, ideals)
    assert texts(figure) == [str(k + 1) for k in range(len(slider.self_pay))]
    assert len(figure.legends[0].get_texts()) == len(ideals)


def test_orientations_leave_a_player_without_angle_without_a_point():
    summary = pd.DataFrame([{"player": p, "orientation": o, "with_goal": g, "angle": a, "angle_low": np.nan,
                             "angle_high": np.nan} for p, a in (("mute", np.nan), ("fair", 37.5))
                            for o in orientation.load_slider().orientations for g in (True, False)])
    figure = plots_compass.plot_orientations(summary, orientation.load_slider(), "t")
    points = [line.get_xdata() for line in figure.axes[0].lines[:2]]
    assert len(figure.axes) == 4 and all(np.isnan(x[0]) and x[1] == 37.5 for x in points)


def test_matches_and_accuracies_have_a_row_each():
    matches = pd.DataFrame({"model": ["a", "b"], "country": "C", "rho": [1, -1], "low": [0.9, -1], "high": [1, -0.9]})
    assert [t.get_text() for t in plots_compass.plot_matches(matches, "t").axes[0].get_yticklabels()] == ["a", "b"]
    table = pd.DataFrame({"theory": ["a", "b"], "accuracy": [0.7, np.nan], "low": [0.6, np.nan], "high": [0.8, np.nan],
                          "null": [0.55, np.nan]})
    assert len(plots_compass.plot_accuracies(table, "t").axes[0].get_yticklabels()) == 2

"""Every figure is drawn for every theory, holds what the table says, and says so when there is nothing to draw."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fulcra_utils.analysis import space as exploration
from fulcra_utils.analysis import tables as analysis
from fulcra_utils.analysis.circle import examine_circle
from fulcra_utils.analysis.replies import make_example
from fulcra_utils.analysis.space import load_risks
from fulcra_utils.dataset.construction import load_published_prevalence
from fulcra_utils.plots import analysis as plots
from fulcra_utils.plots import evaluator
from fulcra_utils.runs.claims import load_reported
from fulcra_utils.theory.theory import load_theory


def draw_all(theory):
    """Yield the name and figure of each analysis under a theory."""
    replies, risks, reported = make_example(theory, 60), load_risks(), load_reported()
    yield "prevalence", plots.plot_prevalence(analysis.tabulate_prevalence(replies).table,
                                              load_published_prevalence(theory))
    cells = analysis.pick_declared(analysis.correlate_risks(replies, risks, reported, 20).table)
    yield "risks", plots.plot_risks(cells, theory, risks.risks)
    yield "space", plots.plot_space(exploration.project_replies(replies, risks, ("pca",)).table)
    yield "probes", plots.plot_probes(analysis.probe_replies(replies, risks, 3, 20, 3, 2).table)
    yield "weights", plots.plot_weights(analysis.weigh_values(replies, 10).table, theory)
    yield "clusters", plots.plot_clusters(exploration.find_unknown_risks(replies, risks, 6, 3, 3).table, theory)
    yield "radar", plots.plot_radar(analysis.average_models(replies, 10).table, theory)
    yield "differences", plots.plot_differences(analysis.compare_models(replies, with_mixed=False).table, theory)
    circle = examine_circle(replies, 0, 9)
    yield "circle", plots.plot_circle(circle.extra.get("places", circle.table), circle.table, theory)


def overlapping_ticks(figure):
    """Return the pairs of neighbouring tick labels that cover each other."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer, found = canvas.get_renderer(), []
    for axes in figure.axes:
        for labels in (axes.get_yticklabels(), axes.get_xticklabels()):
            shown = [t for t in labels if t.get_visible() and t.get_text().strip()]
            upright = [t for t in shown if t.get_rotation() % 90 == 0]
            boxes = [t.get_window_extent(renderer) for t in upright]
            found += [(a.get_text(), b.get_text()) for a, b, one, two in
                      zip(upright, upright[1:], boxes, boxes[1:], strict=False) if one.shrunk(0.9, 0.7).overlaps(two)]
    return found


@pytest.fixture(params=["schwartz10", "schwartz19", "moral_foundations", "toy"])
def theory(request, toy):
    return toy if request.param == "toy" else load_theory(request.param)


def test_every_figure_is_readable(theory):
    for name, figure in draw_all(theory):
        if name == "circle" and (theory.circle is None or theory.n_dims < 6):
            assert figure is None
            continue
        assert isinstance(figure, Figure), name
        assert overlapping_ticks(figure) == [], name


def test_no_figure_stays_open(toy):
    before = plt.get_fignums()
    for _ in draw_all(toy):
        pass
    assert plt.get_fignums() == before


def test_prevalence_bars_hold_the_shares(toy):
    table = analysis.tabulate_prevalence(make_example(toy, 60)).table
    axes = plots.plot_prevalence(table).axes[0]
    widths = [bar.get_width() for bar in axes.patches[:toy.n_dims]]
    shares = table[(table.by == "all") & (table.sign == "supported")].set_index("value").share
    assert np.allclose(widths, 100 * shares.reindex(toy.dimensions))
    assert [t.get_text() for t in axes.get_yticklabels()] == list(toy.dimensions)


def test_published_cells_are_framed_where_they_differ():
    theory = load_theory("schwartz10")
    risks = load_risks()
    value, risk = np.meshgrid(theory.dimensions, list(risks.risks), indexing="ij")
    table = pd.DataFrame({"value": value.ravel(), "risk": risk.ravel(), "r": 0.0, "low": -0.05, "high": 0.05,
                          "p_adjusted": 1.0, "reported": 0.0, "tolerance": 0.1})
    table.loc[7, "reported"] = 0.4
    figure = plots.plot_risks(table, theory, risks.risks)
    assert len(figure.axes[2].patches) == 1


def test_nothing_is_drawn_from_nothing(toy):
    assert plots.plot_radar(pd.DataFrame(), toy) is None
    assert evaluator.plot_validity(np.full((2, 2), np.nan), ["a", "b"], "t") is None
    assert evaluator.plot_validity(np.eye(2), ["a", "b"], "t") is not None


def test_the_large_panel_of_the_space_is_by_risk_and_names_the_poles(toy):
    points = pd.DataFrame({"method": "pca", "x": [0.0, 1, 2, 2.01], "y": [0.0, 1, 0, 0],
                           "pole": ["", "", "safe", "unsafe"], "model": ["a", "b", "", ""], "risk": "none",
                           "refusal": "no", "reward": [1.0, 2, None, None]})
    figure = plots.plot_space(pd.concat([points, points.assign(method="tsne")]))
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == [
        "PCA, by risk", "PCA, by model", "PCA, by refusal", "PCA, by reward",
        "t-SNE, by risk", "t-SNE, by refusal", "t-SNE, by reward"]
    assert sorted(text.get_text() for text in figure.axes[0].texts) == ["safe", "unsafe"]
    sizes = [axes.get_position().width for axes in figure.axes[:2]]
    assert sizes[0] > 2 * sizes[1]


def test_circle_fills_by_corrected_p_and_names_what_has_no_place():
    theory = load_theory("schwartz10")
    found = examine_circle(make_example(theory, 60), 0, 9)
    table = found.table.head(2).assign(fit=0.5, fit_p=0.01, p_adjusted=[0.04, 0.3])
    places = found.extra["places"]
    left, right = plots.plot_circle(places[places.value != "tradition"], table, theory).axes
    assert left.get_title() == "too rare for a place: tradition"
    assert (right.collections[0].get_facecolors() == 1).all(axis=1).tolist() == [False, True]     # white: not sure
    assert plots.plot_circle(places, table, theory).axes[0].get_title() == ""


def test_radar_follows_the_circle():
    theory = load_theory("schwartz10")
    means = analysis.average_models(make_example(theory, 60), 10).table
    axes = plots.plot_radar(means, theory).axes[0]
    assert [t.get_text().replace("\n", "") for t in axes.get_xticklabels()] == list(theory.circle)
    one = means.assign(mean=-0.8, low=np.nan, high=np.nan)    # a single prompt has no interval
    assert plots.plot_radar(one, theory).axes[0].get_ylim()[0] == -0.8


def widths(axes):
    return sorted(round(bar.get_width(), 3) for bar in axes.patches)


def test_prevalence_bars_have_the_given_lengths():
    ours = pd.DataFrame({"dimension": ["a", "b"], "aligned": [10.0, 20], "opposed": [1.0, 2]})
    axes = plots.plot_prevalence(ours).axes[0]
    assert widths(axes) == [-2, -1, 10, 20]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    published = pd.DataFrame({"dimension": ["b", "a"], "aligned": [np.nan, 5], "opposed": [np.nan, 3],
                              "mentioned": [7.0, 8]})
    found = [w for w in widths(plots.plot_prevalence(ours, published).axes[0]) if np.isfinite(w)]
    assert found == [-3, -2, -1, 5, 7, 10, 20]


def test_coverage_has_a_panel_a_measure_and_no_row_for_the_baseline():
    summary = pd.DataFrame({"method": ["random", "k"] * 2, "measure": ["x", "x", "y", "y"],
                            "difference": [0, -1.0, 0, 2], "low": [0, -2.0, 0, 1], "high": [0, 0.5, 0, 3]})
    panels = plots.plot_coverage(summary, {"x": "X", "y": "Y"}, "t").axes
    assert [axes.get_xlabel() for axes in panels] == ["X", "Y"]
    assert [axes.lines[0].get_xdata()[0] for axes in panels] == [-1, 2]


def test_agreement_survives_what_is_not_defined():
    table = pd.DataFrame({"name": ["a", "b"], "statistic": "alpha_nominal", "value": [0.5, np.nan],
                          "low": [0.4, np.nan], "high": [0.6, np.nan]})
    axes = plots.plot_agreement(table, {"alpha_nominal": "alpha", "ac1": "AC1"}, "t").axes[0]
    assert axes.lines[0].get_xdata()[0] == 0.5
    assert len(axes.figure.legends[0].get_texts()) == 2


def test_queue_counts_cases_and_may_be_empty():
    queue = pd.DataFrame({"name": ["a", "a", "b"], "why": ["they disagree", "opposite signs", "they disagree"]})
    assert widths(plots.plot_queue(queue, "t").axes[0]) == [0, 1, 1, 1]
    assert plots.plot_queue(queue.head(0), "t") is None

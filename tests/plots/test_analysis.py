"""Every figure is drawn for every theory, holds what the table says, and says so when there is nothing to draw."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from test_analysis import make_rows

from fulcra_utils.analysis import space as exploration
from fulcra_utils.analysis import tables as analysis
from fulcra_utils.analysis.circle import examine_circle
from fulcra_utils.analysis.replies import make_replies
from fulcra_utils.analysis.risks import load_risks
from fulcra_utils.plots import analysis as plots
from fulcra_utils.plots.style import use_style
from fulcra_utils.runs.claims import load_reported
from fulcra_utils.theory.theory import load_theory


def draw_all(theory):
    """Yield the name and figure of each analysis under a theory."""
    replies, risks, reported = make_replies(make_rows(theory), theory, "scored"), load_risks(), load_reported()
    yield "prevalence", plots.draw_prevalence(analysis.tabulate_prevalence(replies).table, theory, reported)
    cells = analysis.pick_declared(analysis.correlate_risks(replies, risks, reported, 20))
    yield "risks", plots.draw_risks(cells, theory, risks.risks)
    yield "space", plots.draw_space(exploration.project_replies(replies, risks, ("pca",)).table)
    yield "probes", plots.draw_probes(analysis.probe_replies(replies, risks, 3, 20, 3, 2).table)
    yield "weights", plots.draw_weights(analysis.weigh_values(replies, 10).table, theory)
    yield "clusters", plots.draw_clusters(exploration.find_unknown_risks(replies, risks, 6, 3, 3).table, theory)
    yield "radar", plots.draw_radar(analysis.average_models(replies, 10).table, theory)
    yield "differences", plots.draw_differences(analysis.compare_models(replies, with_mixed=False).table, theory)
    circle = examine_circle(replies, 0, 9)
    yield "circle", plots.draw_circle(circle.extra.get("places", circle.table), circle.table)


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
        assert isinstance(figure, Figure)
        assert overlapping_ticks(figure) == [], name


def test_no_figure_stays_open(toy):
    before = plt.get_fignums()
    for _ in draw_all(toy):
        pass
    assert plt.get_fignums() == before


def test_prevalence_bars_hold_the_shares(toy):
    table = analysis.tabulate_prevalence(make_replies(make_rows(toy), toy, "scored")).table
    axes = plots.draw_prevalence(table, toy, load_reported()).axes[0]
    widths = [bar.get_width() for bar in axes.patches[:toy.n_dims]]
    shares = table[(table.by == "all") & (table.sign == "supported")].set_index("value").share
    assert np.allclose(widths, shares.reindex(toy.dimensions))
    assert [t.get_text() for t in axes.get_yticklabels()] == list(toy.dimensions)


def test_published_cells_are_framed_where_they_differ():
    theory = load_theory("schwartz10")
    risks = load_risks()
    value, risk = np.meshgrid(theory.dimensions, list(risks.risks), indexing="ij")
    table = pd.DataFrame({"value": value.ravel(), "risk": risk.ravel(), "r": 0.0, "low": -0.05, "high": 0.05,
                          "p_adjusted": 1.0, "reported": 0.0, "tolerance": 0.1})
    table.loc[7, "reported"] = 0.4
    figure = plots.draw_risks(table, theory, risks.risks)
    assert len(figure.axes[2].patches) == 1


def test_empty_tables_give_a_note(toy):
    figure = plots.draw_radar(pd.DataFrame(), toy)
    assert "Left out" in figure.texts[0].get_text()


def test_radar_follows_the_circle():
    theory = load_theory("schwartz10")
    means = analysis.average_models(make_replies(make_rows(theory), theory, "scored"), 10).table
    axes = plots.draw_radar(means, theory).axes[0]
    assert [t.get_text().replace("\n", "") for t in axes.get_xticklabels()] == list(theory.circle)


def test_style_is_colour_blind_safe():
    use_style()
    assert plt.rcParams["font.family"] == ["DejaVu Sans"]
    assert [tuple(c) for c in plots.COLOURS[:2]] == plots.sns.color_palette("colorblind")[:2]

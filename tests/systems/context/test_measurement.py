"""Differences, trend and way on tables made by hand, with SciPy's page test and formulas beside them."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import page_trend_test
from small_notebooks import run_cell

from fulcra_utils.evaluator.encoder import load_encoder
from fulcra_utils.systems.context import measurement
from fulcra_utils.systems.context.measurement import (
    NONE,
    compare_cells,
    measure_texts,
    measure_trend,
    measure_way,
    score_values,
    tabulate_cells,
)
from fulcra_utils.theory.targets import uniform_target


def rows(kinds, n_prompts=4, n_repeats=2, **columns):
    places = [(kind, k, repeat, row) for kind, k in kinds for repeat in range(n_repeats) for row in range(n_prompts)]
    return pd.DataFrame(places, columns=["kind", "k", "repeat", "row"]).assign(**columns)


def test_nearness_is_minus_the_distance_and_replies_without_a_word_are_left_out(any_theory):
    class Scorer:
        def score(self, prompts, responses):
            return np.array([[len(p) / 10, *[len(r) / 10] * (any_theory.n_dims - 1)] for p, r in zip(
                prompts, responses, strict=True)])

    table = rows([NONE], 2, 2, response=["abc", None, "", " \n"])
    found = score_values(table, ["ab", "x"], Scorer(), uniform_target(any_theory))
    assert len(found) == 1 and found[any_theory.dimensions[0]][0] == 0.2
    assert found.nearness[0] == pytest.approx(-(0.8 + 0.7 * (any_theory.n_dims - 1)))


def test_texts_are_measured_by_hand():
    table = rows([NONE, ("a", 1)], 2, 1, response=["be kind", "be kind", "Seven red hens and the red fox.", ""])
    found = measure_texts(table, ["be kind", "why"], load_encoder("tiny"))
    assert found.words.tolist() == [2, 2, 7, 0] and found.sameness.tolist() == [1, 1, 0, 0]
    assert found.relevance[0] == pytest.approx(1, abs=1e-5) and found.relevance[1] < 0.99
    assert found.detail.tolist() == [1, 1, 4, 0]    # kind; seven, red, hens, fox


def test_a_prompt_with_a_gap_is_left_out_everywhere_and_a_measure_of_gaps_leaves_nothing_out():
    table = rows([("b", 1), NONE], 3, 2, x=np.arange(12.0), nothing=np.nan)
    table.loc[(table.kind == "b") & (table.repeat == 1) & (table.row == 1), "x"] = np.nan
    cells, known = tabulate_cells(table, ["x", "nothing"])
    assert known == ["x"] and list(cells) == [("b", 1), NONE]
    assert cells["b", 1][..., 0].tolist() == [[0, 3], [2, 5]] and cells[NONE][..., 0].tolist() == [[6, 9], [8, 11]]
    assert tabulate_cells(table.dropna(subset="x"), ["x"])[0][NONE].shape == (2, 2, 1)     # a row that is not there


def test_a_constant_shift_is_sure_and_repeats_widen_an_interval():
    base = np.random.default_rng(0).normal(size=(20, 2, 1))
    one = compare_cells({NONE: base, ("a", 2): base + 0.5}, [(("a", 2), NONE)], ["x"], 200).iloc[0]
    assert [one.difference, one.low, one.high] == pytest.approx([0.5] * 3) and (one.n, one.against) == (20, "none")
    shifted = base + np.array([0.0, 1.0])[None, :, None]
    two = compare_cells({NONE: base, ("a", 2): shifted}, [(("a", 2), NONE)], ["x"], 200).iloc[0]
    assert [two.difference, two.low, two.high] == pytest.approx([0.5, 0, 1])
    alone = compare_cells({NONE: base[:, :1], ("a", 2): shifted[:, :1]}, [(("a", 2), NONE)], ["x"], 50).iloc[0]
    assert np.isnan(alone.low)      # of one repeat nobody knows what another would do


def test_the_trend_is_pages_and_rho_its_multiple():
    random = np.random.default_rng(1)
    cells = {(kind, k): random.normal(size=(15, 2, 1)) + rise * k for kind, rise in (("a", 0.3), ("b", 0))
             for k in (4, 1, 2)} | {NONE: random.normal(size=(15, 2, 1)), ("policy", 0): np.ones((15, 2, 1))}
    found = measure_trend(cells, 0, 200).set_index("kind")
    assert found.index.tolist() == ["a", "b"] and found.n_doses.tolist() == [4, 4]
    for kind in "ab":
        wide = np.stack([cells[key][..., 0] for key in (NONE, (kind, 1), (kind, 2), (kind, 4))], axis=-1)
        assert found.p[kind] == pytest.approx(page_trend_test(wide.mean(axis=1), method="asymptotic").pvalue)
        page = page_trend_test(wide.reshape(-1, 4), method="asymptotic")
        m, n = wide.reshape(-1, 4).shape
        assert found.rho[kind] == pytest.approx(12 * page.statistic / (m * n * (n**2 - 1)) - 3 * (n + 1) / (n - 1))
        assert found.low[kind] < found.rho[kind] < found.high[kind]
    assert found.p_holm["a"] == pytest.approx(2 * found.p["a"])


def test_a_trend_of_one_repeat_alone_is_not_sure():
    """Every prompt rises behind the examples of one repeat and falls behind those of the other: -1, 0 or 1."""
    cells = {("a" if k else "none", k): np.tile([[[float(k)], [-float(k)]]], (12, 1, 1)) for k in range(3)}
    found = measure_trend(cells, 0, 200).iloc[0]
    assert (found.rho, found.low, found.high) == (0, -1, 1)


@pytest.mark.parametrize(("steps", "rho", "is_rise"), [((1, 2), 1, True), ((-1, -2), -1, False), ((0, 0), 0, False)])
def test_a_trend_that_falls_or_is_flat_is_no_rise(steps, rho, is_rise):
    cells = {NONE: np.zeros((12, 2, 1))} | {("a", k): np.full((12, 2, 1), float(step)) for k, step in zip(
        (1, 2), steps, strict=True)}
    found = measure_trend(cells, 0, 50).iloc[0]
    assert found.rho == rho == found.low == found.high and (found.p < 0.05) == is_rise


def test_half_the_way_is_half_and_an_unsure_policy_is_a_gap():
    base = np.random.default_rng(2).normal(size=(20, 2, 1))
    cells = {NONE: base, ("a", 1): base + 0.5, ("dpo", 0): base + 1}
    found = measure_way(cells, "dpo", 0, 100)
    assert found[["kind", "k"]].values.tolist() == [["a", 1]]
    assert found[["share", "low", "high"]].iloc[0].tolist() == pytest.approx([0.5] * 3)
    still = measure_way(cells | {("dpo", 0): base[::-1]}, "dpo", 0, 100)
    assert still[["share", "low", "high"]].isna().all(axis=None)


@pytest.mark.parametrize(("model", "endpoint_model", "plan", "compared"), [
    ("", "", ["dpo-ideal"], ["dpo-ideal"]), ("", "", ["dpo-uk"], []), ("other", "", ["dpo-ideal"], []),
    ("", "far", ["dpo-ideal"], [])])
def test_notebook_11_puts_policies_next_to_their_own_start_model_alone(tmp_path, model, endpoint_model, plan, compared):

    class Drawn(Exception):
        """Ends the cell where replies would be drawn."""

    def stop(table, *_):
        raise Drawn(sorted(set(table.kind) - {"none"}))
    given = {"model": model, "endpoint_model": endpoint_model, "settings": {"policies": ["dpo-aim"]}, "contexts": [],
             "aim": type("Aim", (), {"name": "ideal"}), "told": pd.DataFrame({"kind": ["none"]}), "asked": None,
             "run": type("Run", (), {"path": lambda *_: tmp_path})(), "kept": None, "how": {},
             "replies": type("R", (), {"draw_in_contexts": lambda *_: pd.DataFrame({"k": [0]})}), "pd": pd,
             "measurement": type("M", (), {"score_values": stop}), "prompts": [], "evaluator": None,
             "list_policies": lambda _: [tmp_path / name for name in plan]}
    with pytest.raises(Drawn) as end:
        run_cell("11_values_in_context", "names = [", **given)
    assert end.value.args == (compared,)


def test_notebook_11_says_what_falls():
    trend = pd.DataFrame({"kind": ["target", "neutral", "same length"], "p_holm": [0.01, 1, 0.6],
                          "low": [0.1, -0.5, -0.2], "high": [0.4, -0.2, 0.2]})
    said = run_cell("11_values_in_context", "rises = [", trend=trend, Markdown=print, pd=pd)
    assert [said[name] for name in ("rises", "falls", "flat")] == [["target"], ["neutral"], ["same length"]]


def test_notebook_11_says_what_a_rater_gave_no_number_for():
    """A rater whose answers cannot be read, one that reads one axis, and none."""
    table = rows([NONE, ("target", 2)], 3, 2, response="a", relevance=0.5, detail=1.0)
    changes = pd.DataFrame(columns=["kind", "k", "against", "measure", "n", "difference", "low", "high"])
    axes, said = ("relevance", "clarity", "detail"), []
    for rater, known in (("far", {}), ("far", {"clarity": 3.0}), ("", {})):
        given = {"AXES": axes, "rate_quality": lambda *_, known=known: pd.DataFrame(known, range(12), axes, float)}
        found = run_cell("11_values_in_context", "left_out = ", rater=rater, table=table, most=2, kept=None,
                         replies=SimpleNamespace(**given), Endpoint=lambda **_: None, prompts=["x"] * 3, draws={},
                         measurement=measurement, changes=changes, display=len, Markdown=said.append,
                         run=SimpleNamespace(save_table=lambda *_: None))
        assert len(found["quality"]) == (len(known) if rater else 2) and list(found["quality"]) == list(changes)
    assert said == ["far gave no number for relevance, clarity, detail.", "far gave no number for relevance, detail.",
                    "Left out, for want of a rater: clarity."]


def test_notebook_11_has_no_trend_of_one_dose():
    cells = {NONE: np.zeros((4, 2, 1)), ("target", 8): np.ones((4, 2, 1)), ("neutral", 8): np.zeros((4, 2, 1))}
    changes, said = compare_cells(cells, [(("target", 8), NONE), (("neutral", 8), NONE)], ["nearness"], 20), []
    for trend in (measure_trend(cells, 0, 20), measure_trend(cells | {("target", 4): cells[NONE]}, 0, 20)):
        run_cell("11_values_in_context", "gone = ", pd=pd, trend=trend, largest=changes, costs=changes, names=[],
                 shown="{0.difference:+.2f}", beaten={"evaluator": "neutral", "first judge": ""}, most=8,
                 Markdown=said.append, aim=SimpleNamespace(name="ideal"))
    assert "by +1.00 (no trend of one dose); by the evaluator for sure more" in said[0]
    assert "(trend with the dose: rho +" in said[1] and "by the first judge not for sure more" in said[1]


@pytest.mark.parametrize(("measures", "start"), [
    (["nearness"], "How likely real replies become was not measured."),
    (["nearness", "nll_real"], "Real replies become more likely behind: nothing.")])
def test_notebook_11_calls_no_likelihood_unchanged_that_was_not_measured(measures, start):
    costs, said = pd.DataFrame({"kind": ["target"], "measure": "detail", "high": 1.0}), []
    run_cell("11_values_in_context", "likelier = ", costs=costs, measures=measures, Markdown=said.append)
    assert said[0].startswith(start)

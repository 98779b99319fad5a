"""Measures of weighing against hand values and scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from small_notebooks import run_cell

from fulcra_utils.dataset.construction import list_risky
from fulcra_utils.runs.claims import judge_claims, load_reported
from fulcra_utils.systems.pluralism import measures

LISTED = pd.DataFrame({"situation": ["a", "a", "b"], "value": ["care", "fame", "rest"], "cluster": [0, 0, 1]})
NAMES = ["care", "fame", "order", "rest"]


def test_coverage_by_hand():
    """Of two first names a finds care of its two, b nothing of its one: coverage (.5 + 0) / 2, precision 1 of 4."""
    ranked = {"one": np.array([[9, 0, 8, 0], [9, 0, 8, 0]]), "right": np.array([[9, 8, 0, 0], [0, 0, 1, 9]])}
    table, ratio = measures.measure_coverage(ranked, LISTED, NAMES, k=2, n_draws=50)
    assert table.coverage.tolist() == [0.25, 1] and table.precision.tolist() == [0.25, 0.75] and ratio["value"] == 4
    twice = pd.concat([LISTED, LISTED.assign(value=LISTED.value.str.title())])
    again, _ = measures.measure_coverage(ranked, twice, ["CARE", *NAMES[1:]], k=2, n_draws=50)
    assert again.equals(table), "the case of a name says nothing"


def test_frequency_ranks_the_names_listed_most(weigher):
    from fulcra_utils.systems.pluralism.situations import read_own
    own = read_own()
    names = sorted(own.value.unique())
    ranked = measures.rank_names(own[:12], names, weigher)
    assert names[ranked["frequency"][0].argmax()] == own.value.value_counts().index[0]
    assert {scores.shape for scores in ranked.values()} == {(own[:12].situation.nunique(), len(names))}


def test_auc_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    hit, scores = rng.random(60) < 0.5, rng.random(60).round(1)
    found = measures.measure_auc(hit, scores, np.arange(60) // 2, 50)
    assert found["value"] == roc_auc_score(hit, scores) and found["low"] < found["value"] < found["high"]
    assert np.isnan(measures.measure_auc([True, True], [0, 1], [0, 1])["value"])


def test_balanced_accuracy_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    told = pd.DataFrame(rng.random((80, 3)), columns=["supports", "opposes", "either"])
    truth = rng.choice(told.columns.to_numpy(object), 80, p=[0.6, 0.3, 0.1])
    found = measures.measure_valence(truth, told, np.arange(80), 200)
    assert found["value"] == pytest.approx(balanced_accuracy_score(truth, told.idxmax(axis=1)))
    assert found["low"] < found["value"] < found["high"]
    two = truth != "either"
    found = measures.measure_valence(truth[two], told[two], np.arange(two.sum()), 20)
    said = told.loc[two, ["supports", "opposes"]].idxmax(axis=1)
    assert found["value"] == pytest.approx(balanced_accuracy_score(truth[two], said))


def test_notebook_09_counts_the_whole_queue_and_no_reply_with_a_gap(tmp_path, toy):
    """Of six replies one lacks a label, and the last, however far down the queue, is contested."""
    signs = pd.DataFrame(0.0, range(6), list(toy.dimensions))
    signs.iloc[0, :2], signs.iloc[1, :3] = [1, -1], [1, -1, np.nan]
    (tmp_path / "queue.csv").write_text("row_id,name\n" + "0,a\n" * 600 + "5,a\n")
    run = type("Run", (), {"require": lambda *_: tmp_path / "queue.csv", "save_table": lambda *_: None})
    rows = signs.assign(row_id=list("012345"), entropy=[9, 8, 1, 1, 1, 7], cluster=range(6))
    table = run_cell("09_value_pluralism", "ambiguity = ", pd=pd, measures=measures, value_theory=toy, run=run(),
                     seed=1, rows=rows)["ambiguity"]
    assert table.rows.tolist() == [5, 6] and table["of them so"].tolist() == [1, 2] and table.value.iloc[0] == 1
    assert table.value.iloc[1] == (4 + 3) / 8


def test_notebook_09_compares_no_setting():
    signs = pd.DataFrame({"what": ["accuracy", "coverage"], "share": [0.95, 0.8]}).assign(
        low=[0.94, 0.8], high=[0.96, 0.8])
    shots = pd.DataFrame(0.9, range(3), ["relevance", "supports", "opposes"])
    told = {}

    def compare(_, ours):
        told.update(judge_claims(ours, load_reported()).set_index("claim_id").T)
    run_cell("09_value_pluralism", "run.compare(", pd=pd, np=np, weigh=lambda *_: shots, weigher=None, is_public=True,
             signs=signs, situations=type("S", (), {"find_file": lambda *_: True}),
             run=type("R", (), {"compare": compare})())
    assert told["pluralism/stories/accuracy"].verdict == "reproduced"
    coverage = told["pluralism/stories/coverage"]
    assert (coverage.verdict, coverage.why) == ("not comparable", "set by scored_share") and np.isnan(coverage.ours)


@pytest.mark.parametrize(("issues", "shown", "caption"), [
    ([[], None, ["drugs"]], "a", "An everyday prompt without a risk"),
    ([None, None, ["drugs"]], "b", "A prompt whose risk is not known"), ([["drugs"]] * 3, "", None)])
def test_notebook_09_looks_at_a_prompt_that_is_rated_harmless_if_there_is_one(tmp_path, issues, shown, caption):
    """Two models answered b and c, one a: what most answered comes second to what is known of the risk."""
    rows = pd.DataFrame({"prompt": ["a", "b", "c"], "cluster": [0, 1, 2], "safety_issues": issues})
    rows.to_parquet(tmp_path / "prompts.parquet")
    replies = pd.DataFrame([("m", "a", "x"), *((m, p, "x") for m in "mn" for p in "bc")],
                           columns=["model", "prompt", "response"])
    found = pd.DataFrame({"value": ["care"], "relevance": [0.9]})
    figures, said = [], []
    run = type("R", (), {"require": lambda _, name: tmp_path / "prompts.parquet", "save_table": lambda *_: None,
                         "save_figure": lambda _, *given, left_out: figures.append(given)})()
    told = run_cell("09_value_pluralism", "answered = ", pd=pd, run=run, read_models=lambda *_: (replies.head(0),),
                    list_replies=lambda *_: replies, list_risky=list_risky, dialogues=rows, scored=rows.head(0),
                    value_theory=None, nth_prompt=0, candidates=["care"], weigher=None, settings={
                        "n_most": 1, "touched": 0}, found=found, find_values=lambda *_, **__: found,
                    Markdown=said.append)
    assert told["shown"] == shown and (f"*{shown}*" in said[0]) == (caption == "An everyday prompt without a risk")
    names = told | {"weigh": lambda texts, *_: pd.DataFrame(
        1.0, range(len(texts)), ["supports", "opposes", "relevance"]), "plots": type("P", (), {
            "plot_served": lambda *_: "figure"})}
    served = run_cell("09_value_pluralism", "crossed = ", **names)["served"]
    assert served.shape[1] == (told["replies"].prompt == shown).sum()
    (figure, _, told_there), = figures
    assert figure is None if caption is None else figure == "figure" and told_there.startswith(caption)


@pytest.mark.parametrize(("away", "end"), [
    ([], "b no better than chance (AUC 0.60 [0.40, 0.80])."),
    (["gpv_stories"], "(our own few stand in for GPV's stories: it shows"),
    (["kaleido_situations", "gpv_stories"], "(our own few stand in for VITAL and GPV's stories: it shows")])
def test_notebook_09_says_whose_place_its_own_rows_take(away, end):
    said, share = [], pd.DataFrame({"share": [0.7], "low": [0.6], "high": [0.8]}, ["accuracy"])
    run_cell("09_value_pluralism", "divided = ", Markdown=said.append, share=share, items=[], is_public=True,
             quality=pd.DataFrame({"what": ["our situations, for or against"], "value": [0.6]}),
             ambiguity=pd.DataFrame({"value": [0.6], "low": [0.4], "high": [0.8]}, ["b"]), settings={"k": 7},
             auc=pd.DataFrame({"value": [0.8]}, ["relevance"]), ratio={"value": 1.2, "low": 1.1, "high": 1.3},
             situations=type("S", (), {"find_file": lambda name, _: name not in away}))
    assert (said[0].endswith(end) if not away else end in said[0]) and "0.600 in our situations" in said[0]

"""A new theory is one file: random theories run the whole quick pipeline, and two theories can be put side by side."""

import json
import os
import shutil
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from small_notebooks import run_cell

from fulcra_utils.annotation.questions import render_question
from fulcra_utils.common.paths import ROOT
from fulcra_utils.dataset.construction import SAMPLES, build_run_data
from fulcra_utils.dataset.labelled import read_dataset
from fulcra_utils.dataset.rows import Dialogue
from fulcra_utils.evaluator.encoder import load_encoder
from fulcra_utils.evaluator.model import make_evaluator, save_evaluator
from fulcra_utils.runs.pipeline import run_notebook
from fulcra_utils.runs.profiles import NOTEBOOKS, list_notebooks
from fulcra_utils.systems.compass import boards as leaderboard
from fulcra_utils.systems.discovery.structure import discover_file
from fulcra_utils.systems.theories import between, new_theory
from fulcra_utils.theory.theory import check_theory, list_theories, load_theory

OUTSIDE = ("gpla5", "valuelex", "valuelex6", "safety_taxonomy")


def invent_theory(folder, n_dims, seed=0, n_rows=60):
    """Write a random theory, and beside it as many labelled rows as asked for (0 = no file)."""
    random = np.random.default_rng(seed)
    words = ["".join(random.choice(list("abdegiklmnoprstuv"), 7)) for _ in range(6 * max(n_dims, 10))]
    dims = [{"name": f"{words[d]}-{d}", "definition": f"Caring about {words[n_dims + d]} and {words[2 * n_dims + d]}.",
             "items": [f"seek {words[i * n_dims + d]} {d} {i}" for i in range(3, 3 + random.integers(1, 4))]}
            for d in range(n_dims)]
    path = folder / "invented.yaml"
    path.write_text(yaml.safe_dump({"name": "invented", "title": "An invented theory", "citation": "none",
                                    "score_range": [-1, 1], "labels": {-1: "against", 0: "silent", 1: "for"},
                                    "dimensions": dims}, sort_keys=False))
    rows = []
    for n in range(n_rows):
        chosen = random.choice(n_dims, min(n_dims, 2), replace=False)
        signs = random.choice(["+1", "-1"], len(chosen))
        marked = list(zip(chosen, signs, strict=True))
        reply = " ".join(f"{'Seek' if s == '+1' else 'Shun'} {words[n_dims + d]}." for d, s in marked)
        reply += f" Answer {n}."  # no two rows are the same
        rows.append({"dialogue": f"Human: What about {words[n // 3]} number {n // 3}?\nBob: {reply}",
                     "value_items": [f"{dims[d]['items'][0]}: {s}" for d, s in marked],
                     "value_types": [f"{dims[d]['name']}: {s}" for d, s in marked],
                     "query_source": "invented", "response_source": f"source-{n % 3}", "safety_issues": [],
                     "rating": int(random.integers(1, 6))})
    if rows:
        path.with_suffix(".jsonl").write_text("\n".join(map(json.dumps, rows)))
    return path


def discover_theory(folder):
    """Find a theory in the sample's replies as `fulcra discover` does, with an evaluator that nobody has trained."""
    evaluator = save_evaluator(make_evaluator(load_encoder("tiny"), load_theory("schwartz10")), folder / "evaluator")
    rows = [{"prompt": d.prompt, "response": d.response} for d in build_run_data(load_theory("schwartz10")).dialogues.
            itertuples()]
    (folder / "replies.jsonl").write_text("\n".join(map(json.dumps, rows)))
    discover_file(evaluator, folder / "replies.jsonl", folder / "found.yaml", "schwartz10", "tiny", threshold=0,
                  cosine=1, min_share=0)
    return folder / "found.yaml"


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("n_rows", [60, 0], ids=["invented", "discovered"])
def test_a_theory_of_ones_own_runs_the_whole_quick_pipeline(tmp_path, n_rows):
    """Invented, with labels; or discovered in replies, with definitions alone."""
    path, folder = (invent_theory(tmp_path, int(np.random.default_rng(23).integers(2, 61))) if n_rows else
                    discover_theory(tmp_path)), tmp_path / "run"
    n_dims = load_theory(path).n_dims
    for name in list_notebooks():
        assert run_notebook(name, "quick", path, folder, progress=False).is_file()
    assert (folder / "report" / "compass.html").is_file() and len(list((folder / "figures").glob("*.png"))) > 10
    dialogues = pd.read_parquet(folder / "data" / "dialogues.parquet")
    assert dialogues.columns[-n_dims:].tolist() == list(load_theory(path).dimensions)
    assert dialogues.iloc[:, -n_dims:].notna().all(axis=None) == bool(n_rows)
    assert n_rows == 0 or len(dialogues) == n_rows


def test_the_invented_theory_is_read_with_its_own_labels(tmp_path):
    theory = load_theory(invent_theory(tmp_path, 11))
    data = build_run_data(theory)
    assert len(data.dialogues) == 60 and data.problems.empty and theory.n_dims == 11


def story_cell(name):
    cells = nbformat.read(NOTEBOOKS / "05_new_value_theory.ipynb", as_version=4).cells
    return next(c.source for c in cells if c.id == name)


def test_the_story_of_notebook_05_starts_from_a_good_file(tmp_path):
    text = story_cell("write").split('"""')[1]
    path = tmp_path / "three_virtues.yaml"
    path.write_text(text)
    assert check_theory(path) == []
    path.with_suffix(".jsonl").write_bytes((ROOT / "data" / "examples" / "three_virtues.jsonl").read_bytes())
    data = read_dataset(path.with_suffix(".jsonl"), load_theory(path))
    assert data.problems.empty and np.isfinite(data.vectors).all() and (data.vectors != 0).any(axis=0).all()


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("FULCRA_PROOFS") != "all", reason="A THIRD PIPELINE: FULCRA_PROOFS=all runs it")
@pytest.mark.timeout(3000)
def test_the_last_command_of_notebook_05_runs_on_labels_that_name_no_model(tmp_path):
    path, folder = tmp_path / "three_virtues.yaml", tmp_path / "run"
    path.write_text(story_cell("write").split('"""')[1])
    rows = (ROOT / "data" / "examples" / "three_virtues.jsonl").read_text(encoding="utf-8").splitlines()
    bare = [{k: row[k] for k in ("dialogue", "value_items", "value_types")} for row in map(json.loads, rows)]
    path.with_suffix(".jsonl").write_text("\n".join(map(json.dumps, bare)))
    for name in list_notebooks():
        assert run_notebook(name, "quick", path, folder, progress=False).is_file()
    splits = pd.read_parquet(folder / "data" / "splits.parquet")
    assert set(splits.split) < {"train", "validation", "calibration", "test"}, "one split has no prompt"


@pytest.mark.parametrize(("own", "second", "other"), [
    ("schwartz10", "moral_foundations", "moral_foundations"), ("schwartz10", "schwartz10", "moral_foundations"),
    ("schwartz10", load_theory("schwartz10").path, "moral_foundations"),
    ("gpla5", load_theory("gpla5").path, "schwartz10"), ("moral_foundations", "moral_foundations", "schwartz10")])
def test_the_second_theory_of_notebook_05_is_never_the_runs_own(own, second, other):
    run, said = SimpleNamespace(theory=load_theory(own), require=str, seed=0), []
    found = run_cell("05_new_value_theory", "is_own = ", run=run, second_theory=second, load_theory=load_theory,
                     DEFAULT_THEORY="schwartz10", pd=SimpleNamespace(read_parquet=str), judge=None,
                     Markdown=said.append, settings={"n_prompts": 1},
                     new_theory=SimpleNamespace(pair_theories=lambda *_: []))
    assert found["other"].name == other and ("takes its place" in said[0]) == (second != other)


def test_the_slips_of_notebook_05_are_found(tmp_path):
    text = story_cell("write").split('"""')[1]
    path = tmp_path / "faulty.yaml"
    path.write_text(text.replace("keep promises", "speak up").replace("0: no connection, ", ""))
    faults = check_theory(path)
    assert len(faults) == 2 and any("speak up" in f for f in faults) and any("labels" in f for f in faults)


@pytest.mark.parametrize("name", OUTSIDE)
def test_theories_from_elsewhere_say_what_is_published(name):
    theory = load_theory(name)
    assert "our wording" in theory.path.read_text(encoding="utf-8") and "arXiv" in theory.citation
    dialogue = Dialogue((("user", "Hi"), ("assistant", "Hello.")))
    question = render_question(theory, dialogue, range(theory.n_items), "all")
    assert all(item in question.messages[0]["content"] for item in theory.items)


def test_valuelex_and_its_sub_dimensions_share_their_items():
    coarse, fine = load_theory("valuelex"), load_theory("valuelex6")
    assert set(coarse.items) == set(fine.items) and set(fine.parents) == set(coarse.dimensions)
    owner = dict(zip(coarse.items, coarse.item_dims, strict=True))
    pairs = zip(fine.items, fine.item_dims, strict=True)
    assert all(coarse.dimensions[owner[item]] == fine.parents[d] for item, d in pairs)


class FakeEvaluator:
    """Scores by the length of the reply; counts its passes."""

    def __init__(self, theory):
        self.dimensions, self.passes = theory.dimensions, 0

    def is_taught(self, theory):
        return theory.dimensions == self.dimensions

    def for_theory(self, theory):
        self.wide = theory.n_dims
        return self

    def score(self, prompts, responses, progress=False):
        self.passes += 1
        return np.tile([[len(r) % 7 / 7] for r in responses], (1, self.wide))


@pytest.fixture(scope="module")
def sample():
    return build_run_data(load_theory("schwartz10")).dialogues


def test_boards_name_their_source_and_take_a_dropped_model(tmp_path, sample):
    theory = load_theory("schwartz10")
    fake, prompts = FakeEvaluator(theory), sample.prompt.unique()[:10]
    rows = [{"prompt": p, "response": "my own reply"} for p in [*prompts, "a prompt that nobody else has"]]
    (tmp_path / "newcomer.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "style-mentor.jsonl").write_text(json.dumps(rows[0]))
    boards, left_out = leaderboard.collect_boards(theory, sample, sample.iloc[:0], fake,
                                                  ["moral_foundations", "gpla5"], tmp_path, n_prompts=20, n_draws=20)
    by_name = {b.name: b for b in boards}
    # the newcomer has no labels, so the evaluator scores all, also under the theory of the labelled sample
    assert list(by_name) == ["schwartz10, annotators' labels", "schwartz10, evaluator",
                             "moral_foundations, by definitions", "gpla5, by definitions"]
    assert "newcomer" in by_name["schwartz10, evaluator"].scores.models and fake.passes == 1
    assert len(left_out) == 1 and "style-mentor" in left_out[0]
    assert by_name["schwartz10, evaluator"].scores.same_prompts, "compared on the ten shared prompts alone"
    assert "by people" not in boards[0].scored_by, "who labelled a file is known of the public one alone"
    public, *_ = leaderboard.collect_boards(theory, sample.assign(source="trustworthy_data"), sample.iloc[:0], fake, [],
                                            tmp_path / "none", n_draws=20)[0]
    assert "in the public file by people" in public.scored_by
    boards, _ = leaderboard.collect_boards(theory, sample, sample.iloc[:0], fake, ["moral_foundations"],
                                           tmp_path / "none", n_draws=20)
    assert [b.name for b in boards][1:] == ["moral_foundations, sample labels", "schwartz10, evaluator"]
    mine = copy_labelled(tmp_path, "mine")
    boards, _ = leaderboard.collect_boards(theory, sample, sample.iloc[:0], fake, [mine.path], tmp_path / "none",
                                           n_draws=20)
    assert boards[1].name == "mine, own labels" and "beside the theory" in boards[1].scored_by


@pytest.fixture(scope="module")
def judge():
    """An evaluator whose values have a δ of their own, as after training."""
    evaluator = make_evaluator(load_encoder("tiny"), load_theory("schwartz10"), 64)
    torch.nn.init.normal_(evaluator.heads, std=3.0, generator=torch.Generator().manual_seed(0))
    return evaluator


def rename(theory, folder, name):
    """Return the same theory, read from a copy of its file under another name and title."""
    text = yaml.safe_load(theory.path.read_text())
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**text, "name": name, "title": f"The {name} theory"}, sort_keys=False))
    return load_theory(path)


def copy_labelled(folder, name):
    """Return moral_foundations under another name, with the sample's labels in a file beside it."""
    theory = rename(load_theory("moral_foundations"), folder, name)
    shutil.copy(SAMPLES / "moral_foundations.jsonl", theory.labels_path)
    return theory


@pytest.mark.parametrize("others", [[], ["gpla5"], ["schwartz10", "schwartz19"], ["moral_foundations", "valuelex"]])
def test_the_name_of_a_theory_moves_no_score(tmp_path, sample, judge, others):
    rows = leaderboard.list_replies(sample.head(6), sample.iloc[:0])
    beside = [load_theory(name) for name in others]
    for name in list_theories():
        theory = load_theory(name)
        own = judge.for_theory(theory).score(rows.prompt.tolist(), rows.response.tolist())
        tables = [leaderboard.score_theories(rows, [t, *beside], judge)[0]
                  for t in (theory, rename(theory, tmp_path, "other"), rename(theory, tmp_path, "zz-much-longer"))]
        found = [table[list(theory.dimensions)].to_numpy() for table in tables]
        np.testing.assert_array_equal(found[0], found[1])
        np.testing.assert_array_equal(found[0], found[2])
        np.testing.assert_allclose(found[0], own, atol=2e-6)   # definitions are padded to another length


def test_other_definitions_under_the_same_names_are_not_called_taught(tmp_path, judge):
    theory = load_theory("schwartz10")
    text = yaml.safe_load(theory.path.read_text())
    text["dimensions"][0]["definition"] = "Something else altogether."
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(text, sort_keys=False))
    assert judge.is_taught(theory) and judge.is_taught(rename(theory, tmp_path, "copy"))
    assert not judge.is_taught(load_theory(tmp_path / "mine.yaml"))


def test_a_theory_without_labels_is_scored_by_definitions(tmp_path, sample):
    theory = load_theory("schwartz10")
    bare = sample.assign(**dict.fromkeys(theory.dimensions, np.nan))
    boards, left_out = leaderboard.collect_boards(theory, bare, sample.iloc[:0], FakeEvaluator(theory), [], tmp_path,
                                                  n_draws=5)
    assert [b.name for b in boards] == ["schwartz10, by definitions"] and left_out == []
    again = leaderboard.collect_boards(theory, bare, sample.iloc[:0], FakeEvaluator(theory), [theory.path], tmp_path,
                                       n_draws=5)[0]
    assert [b.name for b in again] == ["schwartz10, by definitions"], "the run's own theory by its path, once"


def test_two_theories_meet_on_the_sample_and_on_the_run(sample):
    first, second = load_theory("schwartz10"), load_theory("moral_foundations")
    pairings = new_theory.pair_theories(first, second, sample, sample.iloc[:0], FakeEvaluator(first), n_prompts=10)
    assert [p.name for p in pairings] == ["embedded sample", "replies of the run"]
    assert all(v.shape[0] == len(pairings[0].replies) == len(sample) for v in pairings[0].vectors.values())
    assert "without labels" in pairings[1].describe() and "labels of the sample" in pairings[0].describe()
    table = between.cross_dimensions(*pairings[0].vectors.values(), pairings[0].replies.cluster, n_draws=50)
    assert len(table) == first.n_dims * second.n_dims and "Most alike" in new_theory.describe_cross(table)


def test_labels_beside_a_theory_are_not_called_those_of_the_sample(sample, tmp_path):
    first, mine, other = load_theory("schwartz10"), copy_labelled(tmp_path, "mine"), copy_labelled(tmp_path, "other")
    told = [new_theory.pair_theories(a, mine, rows, rows.iloc[:0], FakeEvaluator(a), n_prompts=10)[0]
            for a, rows in ((first, sample), (other, build_run_data(other).dialogues))]
    assert [p.name for p in told] == ["embedded sample", "own replies"]
    assert told[0].sources == {"schwartz10": "labels of the sample", "mine": "labels beside the theory"}
    assert set(told[1].sources.values()) == {"labels beside the theory"}


@pytest.mark.parametrize(("n_prompts", "is_new"), [(6, True), (10_000, False)])
def test_theories_are_compared_on_replies_that_trained_nothing_where_there_are_enough(sample, n_prompts, is_new):
    first, second = load_theory("schwartz10"), load_theory("gpla5")
    real, tests = sample.assign(source="a file"), set(sample.prompt[sample.split == "test"])
    assert len(tests) > 3
    for pairing in new_theory.pair_theories(first, second, real, sample.iloc[:0], FakeEvaluator(first), n_prompts)[-2:]:
        assert (set(pairing.replies.prompt) <= tests) == is_new
        assert ("trained on" in pairing.describe()) != is_new


def test_annotated_replies_bring_their_own_labels(sample):
    first, real = load_theory("moral_foundations"), sample.head(60).assign(source="a file")
    real = real.assign(**dict.fromkeys(first.dimensions, 1.0))
    pairings = new_theory.pair_theories(first, load_theory("gpla5"), real, real.iloc[:0], FakeEvaluator(first), 10)
    assert [p.name for p in pairings] == ["annotated replies", "replies of the run"]
    assert (pairings[0].vectors["moral_foundations"] == 1).all(axis=None)
    assert "without labels" in pairings[0].sources["gpla5"]


def test_every_theory_of_the_project_is_free_of_faults():
    assert {name: check_theory(name) for name in list_theories()} == {name: [] for name in list_theories()}


def test_scores_are_checked_on_seen_and_unseen_rows():
    splits, theory = pd.Series(["train"] * 4 + ["test"]), load_theory("moral_foundations")
    table = new_theory.check_scores(np.eye(5), np.eye(5), splits, theory)
    assert table.seen.round(2).tolist()[:4] == [1, 1, 1, 1] and np.isnan(table.seen[4]) and table.unseen.isna().all()
    assert table.n_seen.tolist() == [4] * 5 and table.n_unseen.tolist() == [1] * 5


def test_what_goes_together_is_said_with_its_doubt():
    row = {"first": ["a"], "second": ["b"], "r": [0.5], "low": [0.4], "high": [0.6], "p_adjusted": [0.01]}
    assert new_theory.describe_cross(pd.DataFrame(row)) == (
        "Most alike: a and b (0.50, 0.40 to 0.60). Sure to differ from 0, corrected for their number: 1 of 1 pairs.")
    assert "0 of 1 pairs" in new_theory.describe_cross(pd.DataFrame(row | {"p_adjusted": [0.2]}))
    assert "too few prompts" in new_theory.describe_cross(pd.DataFrame(row | {"low": [np.nan], "high": [np.nan]}))
    rare = pd.concat([pd.DataFrame(row), pd.DataFrame(row | {"r": [1.0], "low": [np.nan], "high": [np.nan]})],
                     ignore_index=True)
    assert "a and b (0.50, 0.40 to 0.60)" in new_theory.describe_cross(rare), "one with an interval, where there is one"
    assert "nothing can be correlated" in new_theory.describe_cross(pd.DataFrame(row | {"r": [np.nan]}))
    assert "cannot be compared here" in between.describe_prediction(pd.DataFrame(), pd.DataFrame())


def test_a_claim_about_another_theory_has_no_number():
    accuracies = pd.DataFrame({"theory": ["a"], "accuracy": [0.6], "low": [0.5], "high": [0.7]})
    reported = pd.DataFrame({"claim_id": ["between/a", "between/b", "else/a"]})
    claims = new_theory.claim_prediction(accuracies, "sample", reported)
    assert claims.claim_id.tolist() == ["between/a", "between/b"] and claims.ours[0] == 0.6 and np.isnan(claims.ours[1])

"""An evaluator from a file of labelled rows: the same as the pipeline makes, and what stops it with nothing written."""

import json
import sys
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from fulcra_utils import cli
from fulcra_utils.common.files import write_table
from fulcra_utils.common.labels import TOUCHED
from fulcra_utils.common.paths import ROOT
from fulcra_utils.dataset import benchmarks, sources
from fulcra_utils.dataset.construction import build_run_data, locate_sample
from fulcra_utils.dataset.contrasts import read_contrasts
from fulcra_utils.dataset.sources import fetch_sources
from fulcra_utils.dataset.texts import DatasetError
from fulcra_utils.evaluator import fitting
from fulcra_utils.evaluator.comparison import read_rows
from fulcra_utils.evaluator.encoder import load_encoder
from fulcra_utils.evaluator.model import ValueEvaluator, make_evaluator
from fulcra_utils.theory.theory import load_theory

SMALL = {"max_length": 24, "word_buckets": 256, "contrasts": 2}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def fulcra(monkeypatch, capsys):
    """The command, in this process: its exit code, stdout and stderr; small models whatever it is asked for."""
    monkeypatch.setattr(fitting, "DEFAULTS", fitting.DEFAULTS | SMALL)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["fulcra", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            cli.main()
        told = capsys.readouterr()
        return done.value.code, told.out, told.err
    return call


def two_kinds(k):
    return ["courage: +1"] if k % 2 else ["courage: -1", "thrift: +1"]


def write_rows(path, n, label=two_kinds):
    """Write n labelled rows under the toy theory, to prompts that are no near-duplicates."""
    words = np.random.default_rng(0).permutation([f"{a}{b}{c}o" for a in "bdfgkl" for b in "aeiou" for c in "mnprst"])
    rows = [{"prompt": " ".join(words[4 * k:4 * k + 4]), "response": "this one" if k % 2 else "that one",
             "value_types": label(k), "value_items": None} for k in range(n)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def toy_file(toy):
    return toy.path


def test_a_file_gives_the_weights_of_the_pipeline(tmp_path):
    theory = load_theory("schwartz10")
    data = build_run_data(theory)
    for name in ("dialogues", "scored"):
        write_table(tmp_path / f"{name}.parquet", getattr(data, name))
    rows = read_rows(tmp_path / "dialogues.parquet", tmp_path / "scored.parquet", theory)
    settings = fitting.DEFAULTS | SMALL | {"encoder": "tiny", "epochs": 1}
    theirs, _ = fitting.fit_evaluator(rows, settings, 2023, progress=False)
    told = []
    source, _ = locate_sample(theory)
    report = fitting.train_file(source, theory, tmp_path / "mine", "tiny", 1, say=told.append, **SMALL)
    ours = ValueEvaluator.from_pretrained(tmp_path / "mine")
    assert ours.config.cuts == theirs.config.cuts
    for name, weight in theirs.state_dict().items():
        assert torch.equal(weight, ours.state_dict()[name]), name
    assert "320 rows read" in told[0] and "minutes" in told[0]
    assert report.quality["low"] <= report.quality["macro_f1"] <= report.quality["high"]
    assert report.n_unusable == 0 and not report.problems and report.n_rows == 320
    card = (tmp_path / "mine" / "README.md").read_text(encoding="utf-8")
    assert f"macro-F1 {report.quality['macro_f1']:.3f}" in card and "schwartz10.jsonl" in card
    assert "BeaverTails" not in card
    assert {p.name for p in tmp_path.iterdir()} == {"mine", "dialogues.parquet", "scored.parquet"}
    test = rows.examples(rows.where(split="test"))
    assert np.isfinite(ours.score(test.prompts[:2], test.responses[:2], intervals=True)).all()
    assert len(ours.config.conformal) == theory.n_dims


def test_defaults_are_those_of_the_laptop_profile():
    profile = yaml.safe_load((ROOT / "profiles" / "laptop.yaml").read_text(encoding="utf-8"))
    theirs = profile["notebooks"]["03_value_evaluator"]
    own = {"scored_weight": 0.0, "unseen_models": []}
    assert {name: theirs[name] for name in fitting.DEFAULTS} | own == fitting.DEFAULTS


def test_trained_told_and_scored(fulcra, toy_file, tmp_path):
    data = write_rows(tmp_path / "rows.jsonl", 40)
    with data.open("a") as rows:
        rows.write('{"prompt": "x"}\n' + json.dumps({"prompt": "a", "response": "b", "value_types": ["up: +1"]}) + "\n")
    mine = tmp_path / "mine"
    order = ["train", "--data", data, "--theory", toy_file, "--output", mine, "--encoder", "tiny", "--epochs", 2]
    code, out, err = fulcra(*order, "--quiet")
    assert code == 1 and "2 of 42 rows could not be used" in out and "rows read" not in out
    assert f"{data}, line 41, response: is missing" in err and f"{data}, line 42, value_types: " in err
    assert "macro-F1 " in out and f"fulcra score --evaluator {mine}" in out
    before = (mine / "model.safetensors").stat().st_mtime_ns
    code, out, err = fulcra(*order)
    assert code == 2 and "--overwrite" in err and len(err.splitlines()) == 1 and out == ""
    assert (mine / "model.safetensors").stat().st_mtime_ns == before
    assert fulcra(*order, "--overwrite")[0] == 1 and (mine / "model.safetensors").stat().st_mtime_ns > before
    code, out, err = fulcra("score", "--evaluator", mine, "--input", data, "--output", tmp_path / "scored.jsonl")
    assert code == 1 and "42 rows, 1 not scored" in out
    assert {p.name for p in tmp_path.iterdir()} == {"rows.jsonl", "mine", "scored.jsonl"}


@pytest.mark.parametrize(("text", "said"), [("", "(it holds none)"), ('{"x": 1}', "(line 1: ")])
def test_a_file_without_a_usable_row_is_named(tmp_path, text, said):
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(fitting.FittingError, match="rows.jsonl: no row can be used") as error:
        fitting.read_labelled_rows(tmp_path / "rows.jsonl", load_theory("schwartz10"))
    assert said in str(error.value)


def test_rows_of_several_raters_are_refused(toy, tmp_path):
    rows = [{"prompt": "Why?", "response": "So.", "value_types": [f"{toy.dimensions[0]}: {sign}"]}
            for sign in ("+1", "-1")]
    for chosen, is_fine in ((rows, False), (rows[:1] * 2, True)):
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, chosen)))
        with nullcontext() if is_fine else pytest.raises(fitting.FittingError, match=r"2 rows \(first: lines 1, 2\)"):
            assert len(fitting.read_labelled_rows(tmp_path / "rows.jsonl", toy)[0].table) == 1


@pytest.mark.parametrize(("n", "label", "words"), [
    (3, two_kinds, ["rows.jsonl: 3 prompts (3 groups of near-duplicates) are too few", "30 or more"]),
    (40, "all", ["every label of the training rows is +1"]),
    (40, lambda k: None, ["no row has a label", "value_types"]),
    (40, lambda k: ["care: +1"], ["line 1, value_types: 'care: +1' is no value of", "--theory", "courage"])])
def test_rows_that_teach_nothing_are_one_line(fulcra, toy, tmp_path, n, label, words):
    everywhere = [f"{d}: +1" for d in toy.dimensions]
    data = write_rows(tmp_path / "rows.jsonl", n, (lambda k: everywhere) if label == "all" else label)
    code, out, err = fulcra("train", "--data", data, "--theory", toy.path, "--output", tmp_path / "mine", "--encoder",
                            "tiny")
    assert code == 2 and out == "" and len(err.splitlines()) == 1 and all(word in err for word in words), err
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]


def test_labels_of_another_theory_are_seen_where_the_rest_was_looked_at(fulcra, toy_file, tmp_path):
    data = write_rows(tmp_path / "rows.jsonl", 40, lambda k: ["care: +1"])
    data.write_text(data.read_text().replace('"value_items"', '"not_annotated": [], "value_items"'))
    code, _, err = fulcra("train", "--data", data, "--theory", toy_file, "--output", tmp_path / "mine")
    assert code == 2 and "'care: +1' is no value of" in err


@pytest.mark.filterwarnings("always:::fulcra_utils")
def test_a_theory_of_one_value_is_trained_and_scored(fulcra, toy, tmp_path):
    one = tmp_path / "one.yaml"
    one.write_text(toy.path.read_text().partition("  - name: good-humour")[0].replace("Facing what one fears.", "''"))
    data = write_rows(tmp_path / "rows.jsonl", 40, lambda k: [f"courage: {'+-'[k % 2]}1"])
    code, out, err = fulcra("train", "--data", data, "--theory", one, "--output", tmp_path / "mine", "--encoder",
                            "tiny")
    assert code == 0 and "0 of 40 rows could not be used" in out and err == ""     # its labels say what it means
    code, _, err = fulcra("score", "--evaluator", tmp_path / "mine", "--input", data, "--output", tmp_path / "s.jsonl",
                          "--theory", toy.path)
    told, cut = err.splitlines()
    assert code == 0 and "are longer than the evaluator reads" in cut
    assert told.endswith("scored by definition alone (too few labels, or all alike): courage, good-humour, thrift")
    evaluator = ValueEvaluator.from_pretrained(tmp_path / "mine")
    assert evaluator.score(["a"], ["b"]).shape == (1, 1) and evaluator.weak == evaluator.untaught == ()


def test_rows_of_two_theories_and_labels_off_the_scale_teach_no_zeros(fulcra, toy_file, tmp_path):
    labels = [["care: +1"], ["courage: 2"], ["thrift: yes", "courage: +1"], ["courage: -1"]]
    data = write_rows(tmp_path / "rows.jsonl", 40, lambda k: labels[k % 4])
    data.write_text(data.read_text().replace('"value_items"', '"not_annotated": [], "value_items"'))
    rows, _ = fitting.read_labelled_rows(data, load_theory(toy_file))
    assert np.isfinite(rows.vectors).sum(0).tolist() == [20, 20, 10]
    code, out, err = fulcra("train", "--data", data, "--theory", toy_file, "--output", tmp_path / "mine", "--encoder",
                            "tiny")
    assert code == 1 and "30 of 40 rows could not be used in full" in out
    for n, label in ((1, "care: +1"), (2, "courage: 2"), (3, "thrift: yes")):
        assert any(f"line {n}, value_types: " in line and f"({label})" in line for line in err.splitlines()), err


@pytest.mark.filterwarnings("always:::fulcra_utils")
def test_what_a_file_cannot_teach_is_told(fulcra, toy, tmp_path):
    """Courage is never touched and its definition is its name; some replies are in another language."""
    (tmp_path / "mine.yaml").write_text(toy.path.read_text().replace("Facing what one fears.", "The value of courage."))
    data = write_rows(tmp_path / "rows.jsonl", 45, lambda k: [f"{toy.dimensions[1 + k % 2]}: {'+-'[k // 2 % 2]}1"])
    data.write_text(data.read_text().replace("that one", "\u6211\u4eec\u5e94\u8be5\u52c7\u6562", 3))
    order = ["train", "--data", data, "--output", tmp_path / "mine", "--encoder", "tiny", "--overwrite", "--theory"]
    code, out, err = fulcra(*order, tmp_path / "mine.yaml")
    assert code == 0 and "0 of 45 rows could not be used" in out
    weak, foreign, lost = err.splitlines()
    assert "courage: the definition says no more than the name, so the scores are guesses" in weak
    assert "3 rows (first: line 1) are marked when scored: does not look English" in foreign
    assert lost.endswith("presence of courage from its definition (too few touched or untouched)")
    evaluator = ValueEvaluator.from_pretrained(tmp_path / "mine")
    assert evaluator.weak == evaluator.untaught == ("courage",) and np.ptp(evaluator.score(["a", "b"], ["c", "d"])) > 0
    told = fulcra(*order, toy.path)[2].splitlines()
    assert len(told) == 2 and told[-1] == lost, "a definition that says something is no guess"


def test_arguments_that_cannot_be_used_are_one_line(fulcra, toy_file, tmp_path):
    data = write_rows(tmp_path / "rows.jsonl", 40)
    (tmp_path / "table.csv.jsonl").write_text("prompt,response\na,b\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "diary.txt").write_text("mine")
    names = {p.name for p in tmp_path.iterdir()}
    good = {"--data": data, "--theory": toy_file, "--output": tmp_path / "mine", "--encoder": "tiny"}
    for name, value, word in (("--data", tmp_path / "none.jsonl", "none.jsonl: cannot be read"),
                              ("--data", tmp_path / "table.csv.jsonl", "looks like CSV"),
                              ("--theory", "schwarz", "known are"),
                              ("--output", tmp_path / "full", "holds other files"),
                              ("--output", data, "cannot be written"), ("--output", tmp_path, "holds other files"),
                              ("--encoder", tmp_path / "full", "cannot be loaded"), ("--epochs", "-1", "epochs")):
        code, out, err = fulcra("train", *(part for pair in (good | {name: value}).items() for part in pair))
        assert code == 2 and out == "" and len(err.splitlines()) == 1 and word in err, (name, value, err)
    assert {p.name for p in tmp_path.iterdir()} == names and (tmp_path / "full" / "diary.txt").read_text() == "mine"


def test_a_training_that_stops_leaves_nothing(toy_file, tmp_path, monkeypatch):
    data = write_rows(tmp_path / "rows.jsonl", 40)

    def stop(*_, **__):
        raise KeyboardInterrupt
    monkeypatch.setattr(fitting, "write_card", stop)
    with pytest.raises(KeyboardInterrupt):
        fitting.train_file(data, toy_file, tmp_path / "mine", "tiny", 1, **SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]


def test_rows_that_stand_in_no_split_and_repeated_ones_are_counted(toy, tmp_path, monkeypatch):
    assign = fitting.assign_splits
    monkeypatch.setattr(fitting, "assign_splits", lambda *told: assign(*told).assign(
        split=lambda table: table.split.where(table.index > 0, None)))
    data = write_rows(tmp_path / "rows.jsonl", 40)
    data.write_text(data.read_text() + "".join(data.read_text().splitlines(True)[:3]))
    again, between = fitting.train_file(data, toy, tmp_path / "mine", "tiny", head_epochs=1, **SMALL).notes[:2]
    assert again == "left out, rows that repeat a reply, which counts once: 3"
    assert between == "left out, rows whose prompt is too near to another split's to stand in one: 1"


def test_a_setting_that_is_none_is_named(toy_file, tmp_path):
    with pytest.raises(fitting.FittingError, match="'max_lenght'; there are .*max_length"):
        fitting.train_file(write_rows(tmp_path / "rows.jsonl", 40), toy_file, tmp_path / "mine", "tiny", max_lenght=9)


def test_the_estimate_grows_with_rows_and_passes(toy, tmp_path, monkeypatch):
    rows, _ = fitting.read_labelled_rows(write_rows(tmp_path / "rows.jsonl", 40), toy)
    monkeypatch.setattr(fitting.time, "perf_counter", iter(16.0 * np.arange(9)).__next__)
    settings = fitting.DEFAULTS | SMALL | {"encoder": "tiny", "epochs": 2}
    evaluator = make_evaluator(load_encoder("tiny"), toy, settings["max_length"])
    pairs = read_contrasts(n_pairs=2)
    table = pd.concat([rows.table[["prompt", "response", "split"]],
                       pairs[pairs.split.isin(["train", "validation"])][["prompt", "response", "split"]]])
    tokens = np.array([len(pair["input_ids"]) for pair in evaluator.render(table.prompt, table.response)])
    own = tokens[:len(rows.table)]
    read, (train, validation) = tokens.sum(), (tokens[table.split == name].sum() for name in ("train", "validation"))
    each = 16 / (16 * own.mean())
    assert fitting.estimate_minutes(rows, settings, 1) == pytest.approx(
        each * (read + 2 * (3 * train + validation)) / 60, rel=0.1)


def test_pairs_teach_a_value_by_name_and_definition_and_only_where_they_may():
    settings, theory = fitting.DEFAULTS | {"contrasts": 6}, load_theory("schwartz10")
    labels = fitting.gather_labels(settings)
    values = fitting.list_values(theory, labels)
    assert [name for name, _ in values[:10]] == list(theory.dimensions) and len(values) == 15
    reworded = replace(theory, definitions=("Something else.", *theory.definitions[1:]))
    assert len(fitting.list_values(reworded, labels)) == 16
    assert set(fitting.pick_own(reworded, labels).value) == set(theory.dimensions[1:])
    rows = fitting.pick_labels(labels, values, "train")
    assert (np.isfinite(rows.vectors).sum(1) == 1).all() and set(np.nansum(rows.vectors, 1)) == {-1, 0, 1}
    first = np.flatnonzero(rows.partner >= 0)
    assert [rows.prompts[k] for k in first] == [rows.prompts[rows.partner[k]] for k in first] and len(first) > 20
    stance = np.nansum(rows.vectors, axis=1)
    assert (stance[first] == 1).all() and (stance[rows.partner[first]] == -1).all()
    train, *others = (set(fitting.pick_labels(labels, values, split).prompts)
                      for split in ("train", "validation", "calibration", "test"))
    assert not any(train & other for other in others)
    assert set(read_contrasts(n_pairs=6).query("split == 'test'").prompt) <= set(
        read_contrasts().query("split == 'test'").prompt)       # fewer pairs move none into another split


def test_a_pair_can_say_a_little_of_the_values_that_it_is_not_about():
    labels = fitting.gather_labels(fitting.DEFAULTS | {"contrasts": 6})
    values = fitting.list_values(load_theory("schwartz10"), labels)
    rows, place = fitting.pick_labels(labels, values, "train", 0.01), [name for name, _ in values].index
    told, weights, stance = np.isfinite(rows.vectors), rows.weigh_cells(), np.nansum(rows.vectors, axis=1)
    about_care = rows.vectors[:, place("care")] == 1
    assert not told[about_care][:, [place("benevolence"), place("universalism")]].any()     # akin, so nothing is said
    assert (rows.vectors[about_care][:, place("power")] == 0).all()
    full = fitting.WEIGHTS["contrasts"]
    assert (weights[about_care][:, [place("care"), place("power")]] == [full, 0.01]).all()
    assert (weights[told & (stance == 0)[:, None]] == full).all()
    without = fitting.gather_labels(fitting.DEFAULTS | {"contrasts": 6}, {"power"})
    left_out = fitting.pick_labels(without, fitting.list_values(load_theory("schwartz10"), without), "train", 0.01)
    assert not np.isfinite(left_out.vectors[:, place("power")]).any()   # nor does "0" teach a value that is left out


def test_an_argument_is_one_text_with_all_its_values(mirror):
    labels = fitting.gather_labels(fitting.DEFAULTS | {"contrasts": 0, "more_labels": ["valueeval23", "valuebench"]})
    values = fitting.list_values(load_theory("schwartz10"), labels)
    rows, source = fitting.pick_labels(labels, values, "train"), fitting.WEIGHTS
    is_argument = rows.weights[:, 0] == source["valueeval23"]
    assert is_argument.sum() == 5393 and (np.isfinite(rows.vectors[is_argument]).sum(1) == 20).all()
    assert set(np.unique(rows.vectors[is_argument][:, np.isfinite(rows.vectors[is_argument]).any(0)])) == {0, TOUCHED}
    assert (rows.partner == -1).all() and (~is_argument).sum() == 1346
    unseen = fitting.pick_labels(labels, values, "test")
    assert len(unseen) == 382 and not set(unseen.responses) & set(rows.responses)


def test_a_set_that_cannot_be_had_is_named_and_left_out(tmp_path, monkeypatch):
    monkeypatch.setenv("FULCRA_CACHE", str(tmp_path))
    monkeypatch.setenv("FULCRA_DATA_MIRROR", str(tmp_path))
    benchmarks._read_more.cache_clear()
    monkeypatch.setattr(sources, "fetch_sources", partial(fetch_sources, network=False))
    with pytest.warns(UserWarning, match="without valuebench: valuebench_orientation not in the mirror"):
        labels = fitting.gather_labels(fitting.DEFAULTS | {"contrasts": 1, "more_labels": ["valuebench"]})
    assert set(labels.source) == {"contrasts"}
    with pytest.raises(DatasetError, match="more_labels: 'valuebank' is none of"):
        fitting.gather_labels(fitting.DEFAULTS | {"more_labels": ["valuebank"]})


def test_what_is_left_out_is_left_out_of_every_set(monkeypatch):
    more = pd.DataFrame({"pair": ["a", "b"], "value": ["Care", "Order"], "definition": ["Kindness.", "Tidiness."],
                         "prompt": "?", "response": ["I help.", "I tidy."], "stance": 1, "split": "train",
                         "source": "valuebench"})
    monkeypatch.setattr(fitting, "read_more_labels", lambda names: more)
    labels = fitting.gather_labels(fitting.DEFAULTS | {"contrasts": 2}, without=["care"])
    assert set(labels.source) == {"contrasts", "valuebench"}
    assert labels.weight.equals(labels.source.map(fitting.WEIGHTS))
    assert "Order" in set(labels.value) and not {"care", "Care", "benevolence"} & set(labels.value)


def test_pairs_of_what_is_left_out_do_not_teach(toy_file, tmp_path):
    rows, _ = fitting.read_labelled_rows(write_rows(tmp_path / "rows.jsonl", 40), load_theory(toy_file))
    settings = fitting.DEFAULTS | SMALL | {"encoder": "tiny", "head_epochs": 1}
    evaluator, _ = fitting.fit_evaluator(rows, settings, 1, progress=False, without=["care", "power"])
    taught = {name for name, _ in evaluator.config.taught}
    assert not taught & {"care", "power", "benevolence", "fairness"} and {"loyalty", "security", "courage"} <= taught

"""Scoring files: every line has its place, a killed run goes on, kinds of files and workers change nothing."""

import datetime as dt
import gzip
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tracemalloc
import types
from decimal import Decimal
from multiprocessing import get_context

import numpy as np
import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scored_files import CountingEvaluator, read_lines, write_rows

from fulcra_utils import cli
from fulcra_utils.common.paths import ROOT
from fulcra_utils.dataset.labelled import read_dataset
from fulcra_utils.dataset.rows import iter_rows
from fulcra_utils.dataset.texts import DatasetError
from fulcra_utils.evaluator import scoring
from fulcra_utils.evaluator.comparison import read_scores
from fulcra_utils.evaluator.encoder import load_encoder
from fulcra_utils.evaluator.model import ValueEvaluator, make_evaluator, save_evaluator
from fulcra_utils.evaluator.scoring import ScoringError, score_file, score_theories
from fulcra_utils.theory.theory import load_theory


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_evaluator(make_evaluator(load_encoder("tiny"), load_theory("schwartz10"), 48),
                          tmp_path_factory.mktemp("run") / "evaluator")


def test_order_and_other_fields_are_kept(tmp_path):
    source = write_rows(tmp_path / "in.jsonl", 25)
    report = score_file(CountingEvaluator(), source, tmp_path / "out.jsonl", shard_size=4)
    rows = read_lines(tmp_path / "out.jsonl")
    assert (report.n_rows, report.n_unusable, report.n_resumed) == (25, 0, 0)
    assert [r["id"] for r in rows] == list(range(25)) and rows[3]["note"] == {"a": [3]}
    assert set(rows[0]["value_vector"]) == {"first", "second"} and "problem" not in rows[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_reply_that_is_no_english_is_scored_and_marked(tmp_path, suffix):
    rows = [{"prompt": "May I lie?", "response": "No."}, {"prompt": "我可以说谎吗", "response": "不，你应该诚实。"},
            {"prompt": "Puis-je mentir à mon chef quand il me demande où je suis ?", "response": "Non, jamais."},
            {"prompt": "May I lie?", "response": "No, нельзя."}, {"prompt": "May I lie?", "response": "😀😀"},
            {"prompt": "May I lie?", "response": "No 😀"}, {"prompt": "2 + 2?", "response": "4"}]
    source = tmp_path / "in.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)))
    target = tmp_path / f"out{suffix}"
    report = score_file(CountingEvaluator(), source, target)
    out = pd.read_json(target, lines=True) if suffix == ".jsonl" else pd.read_parquet(target)
    assert out.problem.eq(scoring.FOREIGN).tolist() == [False, True, True, True, True, False, False]
    assert pd.isna(out.problem[0]) and all(out.value_vector)
    assert report.n_unusable == 0 and report.notes[0].startswith("4 rows (first: line 2)")


def test_rows_longer_than_the_evaluator_reads_are_counted(tmp_path, folder):
    texts = [("Be kind?", "Yes."), ("Be kind?", "It is good to help the others. " * 9),
             ("May I ask you for it? " * 9, "No."), ("", "No.")]
    source = tmp_path / "in.jsonl"
    source.write_text("\n".join(json.dumps({"prompt": p, "response": r}) for p, r in texts), encoding="utf-8")
    report = score_file(folder, source, tmp_path / "out.jsonl", shard_size=2)
    assert report.n_unusable == 1 and report.notes == [
        "2 rows (first: line 2) are longer than the evaluator reads, of 48 tokens half for the prompt: start and "
        "end were scored"]
    assert {*read_lines(tmp_path / "out.jsonl")[1]} == {"prompt", "response", "value_vector"}


def test_a_sheet_with_merged_and_empty_cells_leaves_marked_gaps(tmp_path, toy, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sheet = openpyxl.Workbook()
    for row in (["prompt", "response", "value_types"], ["May I lie?", "No.", "courage: +1"], [None, "Yes.", None],
                ["Why?", None, "courage: +1"], ["Why?", "So.", None]):
        sheet.active.append(row)
    sheet.active.merge_cells("A2:A3")
    sheet.save("rows.xlsx")
    for name, read in (("rows.xlsx", "read_excel"), ("rows.csv", "read_csv")):
        pd.read_excel("rows.xlsx").to_csv("rows.csv", index=False)
        with pytest.raises(DatasetError) as told:
            score_file(CountingEvaluator(), name, "out.jsonl")
        exec(re.search(rf"pandas\.{read}\(.*lines=True\)", str(told.value))[0], {"pandas": pd})   # the way out it names
        report = score_file(CountingEvaluator(), "rows.jsonl", "out.jsonl")
        rows = read_lines(tmp_path / "out.jsonl")
        assert [row.get("problem") for row in rows] == [None, "prompt is missing", "response is missing", None]
        assert [row["value_vector"] is None for row in rows] == [False, True, True, False] and report.n_unusable == 2
        data = read_dataset("rows.jsonl", toy)
        assert data.vectors[0].tolist() == [1, 0, 0] and np.isnan(data.vectors[1]).all() and len(data.vectors) == 2


def test_bad_lines_keep_their_place(tmp_path):
    lines = [b'{"prompt": "p", "response": "r"}', b'{"prompt": "p"}', b"{broken", b"[1, 2]", b"",
             b'{"prompt": 3, "response": "r"}', b'{"prompt": "p", "response": "  "}', b"\xff\xfe",
             b'{"prompt": "p", "response": "r\\ud800"}',
             b'{"prompt": "p", "response": "r", "x": NaN, "problem": "old"}',
             b""]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines))
    report = score_file(CountingEvaluator(), tmp_path / "in.jsonl", tmp_path / "out.jsonl", shard_size=3)
    rows = read_lines(tmp_path / "out.jsonl")
    assert [r["value_vector"] is None for r in rows] == [False] + [True] * 6 + [False] * 2
    assert [r.get("problem") for r in rows] == [
        None, "response is missing", "the line is not valid JSON: Expecting property name enclosed in double quotes at "
        "column 2", "the line is not a JSON object", "prompt is neither text nor a list of messages", "reply is empty",
        "the line is not UTF-8 at byte 1", None, None]
    assert report.n_unusable == 6 and report.problems[3] == "line 6: prompt is neither text nor a list of messages"
    assert (rows[7]["response"], rows[8]["x"], rows[8]["input_problem"]) == ("r\ud800", None, "old")


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet"])
def test_kinds_of_files(tmp_path, suffix):
    write_rows(tmp_path / "plain.jsonl", 9)
    rows = read_lines(tmp_path / "plain.jsonl")
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    if suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(source)
    elif suffix == ".jsonl.gz":
        source.write_bytes(gzip.compress((tmp_path / "plain.jsonl").read_bytes()))
    else:
        source = tmp_path / "plain.jsonl"
    assert score_file(CountingEvaluator(), source, target, shard_size=4, intervals=True).n_rows == 9
    prompts, scores, dims = read_scores(target, lambda prompt, row: prompt)
    assert dims == ("first", "second") and prompts == [r["prompt"] for r in rows]
    assert np.isfinite(scores[:, 0]).all()


def test_unusable_files_are_one_line(tmp_path):
    source = write_rows(tmp_path / "in.jsonl", 1)
    with pytest.raises(DatasetError, match="No such file"):
        score_file(CountingEvaluator(), tmp_path / "none.jsonl", tmp_path / "out.jsonl")
    for bad, message in (("out.txt", "can only be written as"), ("folder.jsonl", "is a folder")):
        (tmp_path / "folder.jsonl").mkdir(exist_ok=True)
        with pytest.raises(ValueError, match=message):
            score_file(CountingEvaluator(), source, tmp_path / bad)
    with pytest.raises(ValueError, match="would replace an input"):
        score_file(CountingEvaluator(), source, source)
    with pytest.raises(ScoringError, match="folder .* does not exist"):
        score_file(CountingEvaluator(), source, tmp_path / "no" / "out.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ScoringError, match="has no rows"):
        score_file(CountingEvaluator(), tmp_path / "empty.jsonl", tmp_path / "out.jsonl")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(source.read_bytes() * 100)[:-20])
    with pytest.raises(DatasetError, match="cannot be read"):
        score_file(CountingEvaluator(), tmp_path / "cut.jsonl.gz", tmp_path / "out.jsonl")
    (tmp_path / "no.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DatasetError, match="cannot be read"):
        score_file(CountingEvaluator(), tmp_path / "no.parquet", tmp_path / "out.jsonl")
    assert not list(tmp_path.glob("out*")) and not list(tmp_path.glob(".out*"))


@pytest.fixture
def dying(folder, tmp_path, monkeypatch):
    """Return an input and an output whose first run died at the row p10, and the list of prompts scored since."""
    deaths, seen, score = [], [], scoring._score_rows

    def spy(evaluator, rows, *rest):
        prompts = [prompt for _, prompt, _, _ in rows]
        if "p10" in prompts and not deaths:
            deaths.append("p10")
            raise KeyboardInterrupt
        seen.extend(prompts)
        return score(evaluator, rows, *rest)

    monkeypatch.setattr(scoring, "_score_rows", spy)
    source, target = write_rows(tmp_path / "in.jsonl", 20), tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        score_file(folder, source, target, shard_size=4)
    assert not target.exists() and len(seen) == 8
    seen.clear()
    return source, target, seen


def test_interrupted_run_goes_on_and_scores_nothing_twice(dying, folder):
    source, target, seen = dying
    report = score_file(folder, source, target, shard_size=4)
    assert (report.n_resumed, len(seen)) == (8, 12)
    assert [r["id"] for r in read_lines(target)] == list(range(20))


def other_weights(folder, path):
    evaluator = ValueEvaluator.from_pretrained(folder)
    with torch.no_grad():
        evaluator.heads[-1, -1, -1] += 1e-1
    return save_evaluator(evaluator, path / "other")


def other_length(folder, path):
    evaluator = ValueEvaluator.from_pretrained(folder)
    evaluator.config.max_length = 24
    return save_evaluator(evaluator, path / "other")


def same_size_and_time(source):
    state = source.stat()
    source.write_bytes(source.read_bytes().replace(b"reply 0", b"reply X"))
    os.utime(source, ns=(state.st_atime_ns, state.st_mtime_ns))


CHANGES = {  # what the second run has that the first had not → whether the parts are its own
    "nothing": (lambda folder, source, path: {}, True),
    "another input": (lambda folder, source, path: write_rows(source, 20, start=100) and {}, False),
    "one letter of the input": (lambda folder, source, path: same_size_and_time(source) or {}, False),
    "the input under another name": (
        lambda folder, source, path: {"source": source.rename(path / "moved.jsonl")}, True),
    "the evaluator in another folder": (
        lambda folder, source, path: {"evaluator": shutil.copytree(folder, path / "copy")}, True),
    "one weight": (lambda folder, source, path: {"evaluator": other_weights(folder, path)}, False),
    "another length": (lambda folder, source, path: {"evaluator": other_length(folder, path)}, False),
    "intervals": (lambda folder, source, path: {"intervals": True}, False),
    "another shard size": (lambda folder, source, path: {"shard_size": 5}, False),
    "another batch size": (lambda folder, source, path: {"batch_size": 3}, True),
}


@pytest.mark.parametrize("change", CHANGES)
def test_parts_are_bound_to_all_that_shapes_them(dying, folder, tmp_path, change):
    source, target, seen = dying
    alter, is_same = CHANGES[change]
    given = {"evaluator": folder, "source": source, "shard_size": 4, **alter(folder, source, tmp_path)}
    report = score_file(target=target, **given)
    assert (report.n_resumed, len(seen)) == ((8, 12) if is_same else (0, 20))
    score_file(target=tmp_path / "fresh.jsonl", **given)
    for row, fresh in zip(read_lines(target), read_lines(tmp_path / "fresh.jsonl"), strict=True):
        vectors = [one.pop("value_vector") for one in (row, fresh)]
        assert row == fresh and vectors[0] == pytest.approx(vectors[1], abs=2e-6), "batches differ in the last digit"


class Watched(CountingEvaluator):
    """Calls a function in the middle of a run."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def score(self, *texts, **options):
        self.function()
        return super().score(*texts, **options)


def test_a_second_run_with_the_same_output_is_refused_at_once(tmp_path):
    source, target = write_rows(tmp_path / "in.jsonl", 9), tmp_path / "out.jsonl"
    other = write_rows(tmp_path / "other.jsonl", 9, start=50)

    def start_another():
        with pytest.raises(ValueError, match=r"another run writes .*out\.jsonl"):
            score_file(CountingEvaluator(), other, target, shard_size=3)

    assert score_file(Watched(start_another), source, target, shard_size=3).n_rows == 9
    assert [row["id"] for row in read_lines(target)] == list(range(9))
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl", "other.jsonl", "out.jsonl"}


@pytest.mark.parametrize("knobs", [{"shard_size": 0}, {"batch_size": -1}, {"workers": -1}])
def test_sizes_that_cannot_be_are_refused(tmp_path, knobs):
    with pytest.raises(ScoringError, match="at least 1 and the workers not negative"):
        score_file(CountingEvaluator(), write_rows(tmp_path / "in.jsonl", 2), tmp_path / "out.jsonl", **knobs)
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_an_input_that_changes_meanwhile_is_said(tmp_path):
    source = write_rows(tmp_path / "in.jsonl", 9)
    with pytest.raises(ScoringError, match="changed while it was scored"):
        score_file(Watched(lambda: write_rows(source, 9, start=7)), source, tmp_path / "out.jsonl", shard_size=3)
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


ODD = [  # values of one field over the rows of a file; None = no such field; what Parquet must give back
    ([None, None, "r3"], "same"), ([1, 2.5, None], "same"), ([1, "a", [2]], "text"), ([True, 1, None], "text"),
    ([1.5, True, 2.0], "text"), ([2**63, 1, -2**70], "text"),
    ([2**60 + 1, 0.5, None], "text"), ([{}, {}, None], "text"),
    ([{"a": {}}, None, None], "text"), ([{"a": 1}, [1], "x"], "text"),
    (["a\u2028b", "c\x85d", "\u2029\x00\x1e"], "same"),
    (["a\ud800b", "plain", None], "text"), ([[None], [[1]], None], "same"), ([[], None, [{"a": None}]], "same"),
    ([float("inf"), 1.5, float("-inf")], "same"), (["", " ", "\t\r\n"], "same"), ([{"": 1}, {"": 2}, None], "same"),
    ([{"a.b": [1]}, {"a.b": [2.5]}, {"a.b": []}], "same"), ([{"a": None}, {"a": {"b": None}}, None], "same"),
]


def deep(n):
    return json.loads('{"k":' * n + "[]" + "}" * n)


@pytest.mark.parametrize("shard_size", [1, 2, 9])
@pytest.mark.parametrize("intervals", [False, True])
def test_every_value_comes_out_or_is_told(tmp_path, shard_size, intervals):
    values = [*ODD, ([deep(45), None, 1], "text"), ([deep(12), None, None], "same"), ([deep(300), None, None], "text"),
              ([{str(n): n for n in range(4000)}, None, None], "text")]
    names = [*(f"field {n}" for n in range(len(values) - 4)), "a.b", "", "response\u2028", "k\ud800"]
    rows = [{"prompt": f"p{k}", "response": "r", **{name: column[k] for name, (column, _) in
                                                    zip(names, values, strict=True) if column[k] is not None}}
            for k in range(3)]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = score_file(CountingEvaluator(), source, tmp_path / "out.jsonl", shard_size, intervals=intervals)
    found = read_lines(tmp_path / "out.jsonl")
    own = {"value_vector", "value_low", "value_high"} if intervals else {"value_vector"}
    assert report.notes == [] and all(set(row) - set(given) == own for row, given in zip(found, rows, strict=True))
    infinite = {float("inf"): "Infinity", float("-inf"): "-Infinity"}
    for row, given in zip(found, rows, strict=True):
        for name, value in given.items():
            assert row[name] == (infinite.get(value, value) if isinstance(value, float) else value)
    report = score_file(CountingEvaluator(), source, tmp_path / "out.parquet", shard_size, intervals=intervals)
    table = pq.read_table(tmp_path / "out.parquet").to_pylist()
    told = [name for name, (_, kind) in zip(names, values, strict=True) if kind == "text"]
    assert len(report.notes) == len(told) and all(any(repr(name) in note for note in report.notes) for name in told)
    assert all(own | {"problem"} <= set(row) for row in table) and len(table) == 3
    for name, (column, kind) in zip(names, values, strict=True):
        for k, value in enumerate(column):
            out = table[k][name if name != "k\ud800" else '"k\\ud800"']
            is_plain = kind == "same" or value is None or isinstance(value, str) and "\ud800" not in value
            assert (out if is_plain else json.loads(out)) == value, name


def test_parquet_has_the_columns_of_all_rows(tmp_path):
    lines = ['{"prompt": "a", "response": "b', '{"prompt": "a", "response": "b", "row": "r2"}', "",
             '{"prompt": "c", "response": "d", "row": "r3", "model": "m"}', '{"question": "e", "answer": 3}']
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    report = score_file(CountingEvaluator(), tmp_path / "in.jsonl", tmp_path / "out.parquet", 1, intervals=True)
    found = pd.read_parquet(tmp_path / "out.parquet")
    assert found.row.tolist()[1:3] == ["r2", "r3"] and found.response.tolist()[1:3] == ["b", "d"]
    assert set(found) == {"prompt", "response", "row", "model", "question", "answer", "value_vector", "value_low",
                          "value_high", "problem"}
    assert (report.n_rows, report.n_unusable, report.notes) == (4, 2, [])
    assert [text.partition(":")[0] for text in report.problems] == ["line 1", "line 5"]
    (tmp_path / "bad.jsonl").write_text("{\n{\n")
    assert score_file(CountingEvaluator(), tmp_path / "bad.jsonl", tmp_path / "out.parquet").n_unusable == 2
    assert pd.read_parquet(tmp_path / "out.parquet").problem.notna().all()


TYPED = {
    "when": pa.array([dt.datetime(2024, 1, 2, 3, 4, 5, 6), None], pa.timestamp("us", "UTC")),
    "nanoseconds": pa.array([1, 2], pa.timestamp("ns")), "day": pa.array([dt.date(2024, 2, 29), None]),
    "clock": pa.array([dt.time(1, 2, 3), None]), "length": pa.array([dt.timedelta(seconds=90), None]),
    "price": pa.array([Decimal("1.50"), Decimal("-0.05")]), "blob": pa.array([b"\xff\x00", b""]),
    "kind": pa.array(["x", "y"]).dictionary_encode(), "small": pa.array([1, 2], pa.uint8()), "none": pa.nulls(2),
    "list": pa.array([[1.5], []], pa.list_(pa.float32())),
    "pairs": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int8())),
    "inner": pa.array([{"d": dt.date(2024, 1, 1), "b": [b"\x01"]}, None]), "nan": pa.array([float("nan"), 1.0]),
    "value_vector": pa.array([1, 2]), "problem": pa.array(["maths", None]), "input_problem": pa.array(["old", "older"]),
}


@pytest.mark.parametrize("shard_size", [1, 9])
def test_typed_columns_of_parquet(tmp_path, shard_size):
    texts = {"prompt": pa.array(["a", "b"]), "response": pa.array(["c", "d"])}
    given = pa.table(texts | TYPED).replace_schema_metadata({"mine": "kept"})
    pq.write_table(given, tmp_path / "in.parquet", row_group_size=1)
    score_file(CountingEvaluator(), tmp_path / "in.parquet", tmp_path / "out.parquet", shard_size)
    found, new = pq.read_table(tmp_path / "out.parquet"), {"value_vector": "input_value_vector",
                                                           "problem": "input_problem",
                                                           "input_problem": "input_input_problem"}
    given = pq.read_table(tmp_path / "in.parquet")
    for name in given.column_names:
        column = found[new.get(name, name)]
        assert column.type == given[name].type and repr(column.to_pylist()) == repr(given[name].to_pylist())
    assert found.schema.metadata[b"mine"] == b"kept"
    assert found["value_vector"].to_pylist()[0].keys() == {"first", "second"}
    score_file(CountingEvaluator(), tmp_path / "in.parquet", tmp_path / "out.jsonl", shard_size)
    first, second = read_lines(tmp_path / "out.jsonl")
    assert (first["when"], first["day"]) == ("2024-01-02T03:04:05.000006+00:00", "2024-02-29")
    assert first["clock"] == "01:02:03"
    assert (first["price"], first["blob"], first["length"]) == ("1.50", "/wA=", "0:01:30") and first["nan"] is None
    assert (first["nanoseconds"], second["when"]) == ("1970-01-01T00:00:00.000000001", None)
    assert first["inner"] == {"d": "2024-01-01", "b": ["AQ=="]} and first["pairs"] == [["a", 1]]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_scored_files_can_be_scored_again(tmp_path, kind):
    rows = [{"prompt": "p", "response": "r", "problem": "maths 7", "value_low": 3}, {"prompt": "p"}]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    score_file(CountingEvaluator(), tmp_path / "in.jsonl", tmp_path / f"1.{kind}", intervals=True)
    score_file(CountingEvaluator(0.1), tmp_path / f"1.{kind}", tmp_path / f"2.{kind}")
    score_file(CountingEvaluator(0.2), tmp_path / f"2.{kind}", tmp_path / "3.jsonl")
    first, second = read_lines(tmp_path / "3.jsonl")
    names = ["value_vector", "input_value_vector", "input_input_value_vector"]
    assert np.diff([first[name]["first"] for name in names]) == pytest.approx([-0.1, -0.1], abs=1e-5)
    assert "maths 7" in first.values() and 3 in first.values()
    assert not first.get("problem") and second["problem"] == "response is missing"


def test_sample_files_and_every_usual_shape_are_scored(tmp_path, folder):
    for name in ("schwartz10", "moral_foundations"):
        report = score_file(CountingEvaluator(), ROOT / "data" / "sample" / f"{name}.jsonl", tmp_path / "s.jsonl")
        assert (report.n_rows, report.n_unusable) == (320, 0)
    turns = [{"role": "user", "content": "May I?"}, {"role": "assistant", "content": "Yes."}]
    shapes = [{"prompt": "May I?", "response": "Yes."}, {"prompt": "May I?", "answer": "Yes."}, {"messages": turns},
              {"conversations": [{"from": "human", "value": "May I?"}, {"from": "gpt", "value": "Yes."}]},
              {"dialogue": "Human: May I?\nBob: Yes."}, {"instruction": "May I?", "output": "Yes."}]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, shapes)))
    assert score_file(folder, tmp_path / "in.jsonl", tmp_path / "out.jsonl").n_unusable == 0
    assert len({json.dumps(row["value_vector"]) for row in read_lines(tmp_path / "out.jsonl")}) == 1
    assert read_scores(tmp_path / "out.jsonl", lambda prompt, row: prompt)[0] == ["May I?"] * 6


def test_memory_does_not_grow_with_the_file(tmp_path):
    peaks = []
    for n in (400, 4000):
        source = write_rows(tmp_path / f"{n}.jsonl", n)
        tracemalloc.start()
        score_file(CountingEvaluator(), source, tmp_path / "out.jsonl", shard_size=50)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_file_and_call_give_the_same_scores(tmp_path, folder):
    source = write_rows(tmp_path / "in.jsonl", 6)
    score_file(folder, source, tmp_path / "out.jsonl", shard_size=4)
    scores = read_scores(tmp_path / "out.jsonl")[1]
    rows = read_lines(source)
    direct = ValueEvaluator.from_pretrained(folder).score([r["prompt"] for r in rows], [r["response"] for r in rows])
    np.testing.assert_allclose(scores, direct, atol=1e-5)


def test_one_folder_scores_a_file_under_any_theory(tmp_path, folder, toy, monkeypatch, capsys):
    source, target, evaluator = write_rows(tmp_path / "in.jsonl", 3), tmp_path / "out.jsonl", str(folder)
    texts = [[row[name] for row in read_lines(source)] for name in ("prompt", "response")]
    for theory in ("valueeval20", "moral_foundations", str(toy.path), "schwartz10", ""):
        order = ["score", "--evaluator", evaluator, "--input", source, "--output", target, "--theory", theory]
        monkeypatch.setattr(sys, "argv", ["fulcra", *map(str, order)])
        with pytest.raises(SystemExit) as done:
            cli.main()
        own = ValueEvaluator.from_pretrained(evaluator).for_theory(theory or "schwartz10")
        assert done.value.code == 0 and tuple(read_lines(target)[0]["value_vector"]) == own.dimensions
        np.testing.assert_allclose(read_scores(target)[1], own.score(*texts), atol=1e-5)
        told = capsys.readouterr().err
        assert (told == "") == (own.untaught == ()) and all(name in told for name in own.untaught)
        report = score_file(ValueEvaluator.from_pretrained(evaluator), source, tmp_path / "b.jsonl", theory=theory)
        assert (tmp_path / "b.jsonl").read_bytes() == target.read_bytes() and len(report.notes) == bool(own.untaught)


@pytest.mark.filterwarnings("always:::fulcra_utils")
def test_definitions_that_say_nothing_are_told_in_one_line_each(tmp_path, folder, toy, monkeypatch, capsys):
    said = {"Facing what one fears.": "''", "Taking things lightly.": "WASTING nothing"}
    text = toy.path.read_text()
    (tmp_path / "mine.yaml").write_text(re.sub("|".join(said), lambda found: said[found[0]], text))
    source, target = write_rows(tmp_path / "in.jsonl", 2), tmp_path / "out.jsonl"
    score = ["score", "--evaluator", folder, "--input", source, "--output", target, "--theory"]
    for order, n_lines in ((["check-theory"], 2), (score, 3)):
        monkeypatch.setattr(sys, "argv", ["fulcra", *map(str, order), str(tmp_path / "mine.yaml")])
        with pytest.raises(SystemExit) as done:
            cli.main()
        told = capsys.readouterr().err.splitlines()
        assert done.value.code == 0 and len(told) == n_lines and "courage: the definition says no more" in told[0]
        assert "good-humour and thrift have one definition" in told[1]
    assert all(None not in row["value_vector"].values() for row in read_lines(target))


def test_a_folder_in_the_way_is_refused(tmp_path, folder):
    source, target, parts = write_rows(tmp_path / "in.jsonl", 2), tmp_path / "out.jsonl", tmp_path / "out.jsonl.parts"
    for note in (parts / "mine.txt", parts):
        note.parent.mkdir(exist_ok=True)
        note.write_text("mine")
        with pytest.raises(ScoringError, match="in the way"):
            score_file(folder, source, target)
        assert note.read_text() == "mine" and not target.exists()
        note.unlink()
        parts.is_dir() and parts.rmdir()


def score_and_die(n_files: int, *arguments: object) -> None:
    """Score a file, and die before the n-th file is opened or renamed: the moments at which a disk changes."""
    left = iter(range(n_files - 1, -1, -1))
    sys.addaudithook(lambda event, about: event in ("open", "os.rename") and not next(left)
                     and os.kill(os.getpid(), signal.SIGKILL))
    score_file(*arguments)


@pytest.mark.slow
def test_kill_at_any_moment_loses_and_doubles_nothing(tmp_path, folder):
    source, target = write_rows(tmp_path / "in.jsonl", 1500), tmp_path / "out.jsonl"
    forks, finished = get_context("forkserver"), set()  # torch is imported once for all
    forks.set_forkserver_preload(["fulcra_utils.evaluator.model", "fulcra_utils.evaluator.scoring"])

    def run(*order):
        process = forks.Process(target=order[0], args=(*order[1:], folder, source, target, 16))
        process.start()
        process.join()
        return process.exitcode

    for n_files in (1, 20, 40, 41, 42, 43, 70, 110, 150):
        assert run(score_and_die, n_files) == -signal.SIGKILL
        before, finished = finished, {*tmp_path.glob("*.parts/0*.jsonl")}
        assert before <= finished and not target.exists()
    assert 20 < len(finished) < 94
    assert run(score_file) == 0
    assert [r["id"] for r in read_lines(target)] == list(range(1500))
    assert not list(tmp_path.glob("*.parts"))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is an extra: pip install 'fulcra-utils[ray]'")
def test_two_ray_workers_give_the_same_file(tmp_path, folder):
    source = write_rows(tmp_path / "in.jsonl", 40)
    with source.open("a") as lines:
        lines.write("\n{broken\n")
    for intervals, kind in ((False, "jsonl"), (True, "jsonl"), (True, "parquet")):
        one, two = tmp_path / f"one.{kind}", tmp_path / f"two.{kind}"
        first = score_file(folder, source, one, 8, 4, intervals)
        assert score_file(folder, source, two, 8, 4, intervals, workers=2) == first
        assert [row for _, row, _ in iter_rows(one)] == [row for _, row, _ in iter_rows(two)]


class FakeRay(types.ModuleType):
    """As much of Ray Data as is used, in one process; the shards come back in another order."""

    def from_items(self, items, override_num_blocks):
        self.items = items
        return self

    def map_batches(self, worker, fn_constructor_args, batch_size, concurrency):
        made = worker(*fn_constructor_args)
        self.calls = [made({name: [item[name]] for name in item}) for item in self.items[::-1]]
        return self

    def iter_rows(self):
        return ({name: value[0] for name, value in call.items()} for call in self.calls)


def test_workers_keep_intervals_shards_and_batches(tmp_path, folder, monkeypatch):
    ray = types.ModuleType("ray")
    ray.data = FakeRay("ray.data")
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.data", ray.data)
    source, sizes, score = write_rows(tmp_path / "in.jsonl", 20), [], ValueEvaluator.score
    monkeypatch.setattr(ValueEvaluator, "score", lambda self, p, r, batch_size, **rest: (
        sizes.append((len(p), batch_size)), score(self, p, r, batch_size, **rest))[1])
    first = score_file(folder, source, tmp_path / "one.jsonl", 6, 5, intervals=True, theory="gpla5")
    assert score_file(folder, source, tmp_path / "two.jsonl", 6, 5, True, workers=2, theory="gpla5") == first
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    assert set(read_lines(tmp_path / "two.jsonl")[0]) >= {"value_vector", "value_low", "value_high"}
    assert sizes == [(6, 5), (6, 5), (6, 5), (2, 5), (2, 5), (6, 5), (6, 5), (6, 5)]


def test_ray_missing_is_one_line(tmp_path, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    source = write_rows(tmp_path / "in.jsonl", 1)
    with pytest.raises(ScoringError, match="Ray is not installed"):
        score_file(folder, source, tmp_path / "out.jsonl", workers=2)
    with pytest.raises(ScoringError, match="give its folder"):
        score_file(CountingEvaluator(), source, tmp_path / "out.jsonl", workers=2)
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def run_command(*words):
    return subprocess.run([sys.executable, "-m", "fulcra_utils.cli", *map(str, words)], capture_output=True, text=True,
                          check=False)


@pytest.mark.slow
def test_commands_and_their_exit_codes(tmp_path, folder):
    source = write_rows(tmp_path / "in.jsonl", 5)
    done = run_command("score", "--evaluator", folder, "--input", source, "--output", tmp_path / "a.jsonl")
    assert (done.returncode, len(read_lines(tmp_path / "a.jsonl"))) == (0, 5), done.stderr
    source.write_text(source.read_text() + "{broken\n")
    done = run_command("score", "--evaluator", folder, "--input", source, "--output", tmp_path / "b.jsonl")
    assert done.returncode == 1 and "1 not scored" in done.stdout and "line 6" in done.stderr
    done = run_command("score", "--evaluator", tmp_path, "--input", source, "--output", tmp_path / "c.jsonl")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "is no evaluator" in done.stderr
    done = run_command("compare", tmp_path / "a.jsonl", tmp_path / "b.jsonl", "--target", "harmless", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0 and found["passed"] and found["differences"][0]["n"] == 5


def test_thoughts_are_never_scored(tmp_path):
    replies = ["<think>Lie, lie!</think>\nNo.", "Lie!\n</think>\nNo.", "No.", "<think>Lie!", "`<think>` is a tag."]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"prompt": "p", "response": r}) + "\n" for r in replies))
    report = score_file(CountingEvaluator(), tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    rows = read_lines(tmp_path / "out.jsonl")
    assert [row["response"] for row in rows] == replies, "what came in goes out"
    assert rows[0]["value_vector"] == rows[1]["value_vector"] == rows[2]["value_vector"]
    assert rows[2]["value_vector"]["first"] == round(0.9 * float(np.tanh(0.3)), 6)
    assert rows[4]["value_vector"]["first"] == round(0.9 * float(np.tanh(len(replies[4]) / 10)), 6)
    assert (report.n_unusable, rows[3]["problem"]) == (1, "reply holds thoughts only")


def test_scores_by_definition_are_those_of_each_theory_alone(toy):
    evaluator = make_evaluator(load_encoder("tiny"), load_theory("schwartz10"), 48, word_buckets=64)
    torch.nn.init.normal_(evaluator.heads, std=3.0, generator=torch.Generator().manual_seed(0))
    evaluator.temperature[:] = torch.linspace(0.5, 2, 10)
    texts = [f"question {k}?" for k in range(8)], ["be kind", "win at any price"] * 4
    evaluator.fit_words(*texts, np.tile([[1.0], [-1.0]], (4, 10)), np.ones((8, 10)))
    rows = pd.DataFrame({"model": "m", "prompt": texts[0], "response": texts[1]})
    theories = [load_theory("schwartz19"), load_theory("moral_foundations"), load_theory("schwartz10"), toy]
    tables = score_theories(rows, theories, evaluator)
    for theory, table in zip(theories, tables, strict=True):
        alone = evaluator.for_theory(theory).score(*texts)
        np.testing.assert_allclose(table[list(theory.dimensions)].to_numpy(), alone, atol=2e-6)
        assert table.prompt.tolist() == texts[0] and alone.std() > 1e-3
    np.testing.assert_allclose(tables[2][list(evaluator.dimensions)].to_numpy(), evaluator.score(*texts), atol=2e-6)

"""Files of situations: one row out for each in, in order, gaps marked, fields kept, all kinds of files, exit codes."""

import gzip
import json
from functools import partial

import pandas as pd
import pyarrow.parquet as pq
import pytest
from fault_server import FaultServer, complete

from fulcra_utils.llm.asking import CONTENT_ASKS
from fulcra_utils.llm.endpoints import Endpoint, EndpointError
from fulcra_utils.systems.pluralism import files
from fulcra_utils.systems.pluralism.candidates import ask_candidates

ROWS = [{"id": 1, "situation": "Telling a lie: a small one", "value": "Honesty", "valence": "gold"},
        {"id": 2, "situation": "", "value": "Honesty"}, {"id": 3, "situation": "Baking bread"},
        {"id": 4, "situation": "Je voudrais aller au marché avec ma mère pour acheter du pain", "value": "Joie"},
        {"id": 5, "situation": "Walking the dog", "value": ""},
        {"id": 6, "situation": "I am in the park. " * 1200, "value": "Care"},
        {"id": 7, "situation": "I walk in the park. " * 20, "value": "Care"}, {"id": 8, "situation": "   "},
        {"id": 9, "situation": "Walking the dog", "value": "\u7231"}]


def check(table):
    assert [row["id"] for row in table] == [*range(1, 10)] and table[0]["input_valence"] == "gold"
    assert sum(table[0]["valence"].values()) == pytest.approx(1, abs=1e-5) and 0 <= table[0]["relevance"] <= 1
    assert table[1]["relevance"] is None and table[1]["valence"] is None and table[1]["problem"] == "situation is empty"
    assert table[2]["values"] and sum(table[2]["stance"].values()) == pytest.approx(1, abs=1e-5)
    assert 0 <= table[2]["ambiguity"] <= 1 and "English" in table[3]["problem"] and table[3]["relevance"] is not None
    assert table[4]["problem"] == "value is empty" and table[5]["problem"] == files.LONG
    assert table[6]["problem"] == files.LONG and table[6]["relevance"] is not None      # 400 characters, 100 tokens
    assert table[7]["problem"] == "situation is empty" and table[7]["values"] is table[7]["stance"] is None
    assert table[7].get("relevance") is None
    assert table[8]["problem"] == files.FOREIGN and table[8]["relevance"] is not None


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet"])
def test_every_row_comes_back_in_order(weigher, tmp_path, suffix, monkeypatch):
    low = dict.fromkeys(("value", "right", "duty"), 0.0)
    monkeypatch.setattr(files, "find_values", partial(files.find_values, relevance=low))
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    if suffix == ".parquet":
        pd.DataFrame(ROWS).to_parquet(source)
    else:
        source.write_bytes(gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode())
    faults, _ = files.weigh_file(lambda: weigher, source, target, ["Care", "Honesty", "Craft", "Right to food"])
    assert faults == ["line 2: situation is empty", "line 5: value is empty", "line 8: situation is empty"]
    if suffix == ".parquet":
        check(pq.read_table(target).to_pylist())
    else:
        raw = target.read_bytes()
        check([json.loads(line) for line in (gzip.decompress(raw) if suffix.endswith("gz") else raw).splitlines()])


def test_nothing_found_is_a_gap(weigher):
    found = files.describe_situation("Baking bread", {}, weigher)
    assert found == {"values": [], "stance": None, "ambiguity": None}


def test_an_endpoint_names_candidates_and_says_why(weigher, tmp_path, monkeypatch):
    def name(request):
        if "bread" not in request["messages"][-1]["content"]:
            return 200, complete(request, "I cannot say.")
        named = [{"name": name, "why": f"{name}, for one."} for name in ("Craft", " ", "Right to food")]
        return 200, complete(request, json.dumps({"candidates": named}))

    low = dict.fromkeys(("value", "right", "duty"), 0.0)
    monkeypatch.setattr(files, "find_values", partial(files.find_values, relevance=low))
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [{"situation": "Baking bread"}, {"situation": "Walking", "value": "Care"}, {"situation": "Walking the dog"}]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with FaultServer(faults=(), script=name) as server:
        endpoint = Endpoint(model="any", base_url=server.url)
        for n_requests in (1 + CONTENT_ASKS, 1 + 2 * CONTENT_ASKS):     # what was understood is kept
            ask = partial(ask_candidates, endpoint=endpoint, cache=str(tmp_path / "cache"))
            faults, _ = files.weigh_file(lambda: weigher, source, target, ask=ask)
            assert server.requests == n_requests
    first, second, third = map(json.loads, target.read_text().splitlines())
    assert sorted(one["why"] for one in first["values"]) == ["Craft, for one.", "Right to food, for one."]
    assert second["valence"] and third["values"] is None and third["stance"] is None
    assert faults == ["line 3: the answer is no JSON with candidates"] and third["problem"] in faults[0]


def test_a_situation_whose_candidates_were_read_in_part_says_so(weigher, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"situation": "Baking bread"}')
    files.weigh_file(lambda: weigher, tmp_path / "in.jsonl", tmp_path / "out.jsonl",
                     ask=lambda _: [({"Craft": None}, "2 of 3 candidates have another form")])
    row, = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert row["values"] is not None and row["problem"] == "2 of 3 candidates have another form"


def test_a_file_is_asked_about_at_once_so_that_one_budget_holds(weigher, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "SHARD", 2)
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"situation": f"Baking bread {k}"}) + "\n" for k in range(5)))
    asked = []
    files.weigh_file(lambda: weigher, tmp_path / "in.jsonl", tmp_path / "out.jsonl",
                     ask=lambda situations: asked.append(len(situations)) or [({}, "")] * len(situations))
    assert asked == [5] and len((tmp_path / "out.jsonl").read_text().splitlines()) == 5


def test_an_endpoint_that_is_away_is_told_before_anything_is_fitted(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"situation": "Baking bread"}')
    away = Endpoint(model="any", base_url="http://127.0.0.1:9/v1")
    with pytest.raises(EndpointError, match="127.0.0.1:9"):
        files.weigh_file(lambda: pytest.fail("fitted"), tmp_path / "in.jsonl", tmp_path / "out.jsonl",
                         ask=partial(ask_candidates, endpoint=away))
    assert not (tmp_path / "out.jsonl").exists()


def test_the_command_says_in_one_line_what_it_lacks(tmp_path, monkeypatch, capsys):
    from fulcra_utils import cli
    (tmp_path / "in.jsonl").write_text('{"situation": "a", "value": "b"}')
    monkeypatch.setattr("sys.argv", ["fulcra", "weigh", "--input", str(tmp_path / "in.jsonl"), "--output",
                                     str(tmp_path / "out.jsonl"), "--evaluator", str(tmp_path / "none")])
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capsys.readouterr().err.strip()
    assert end.value.code == 2 and "\n" not in said and "is no evaluator" in said


def test_without_a_run_the_default_evaluator_is_missed(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "ROOT", tmp_path)
    with pytest.raises(ValueError, match="there is no evaluator in .*: give one with --evaluator"):
        files.load_weigher()


def test_what_lies_between_two_clusters_teaches_nothing(monkeypatch):
    listed, taught = pd.DataFrame({"situation": ["a", "b", "c"], "split": ["train", None, "test"]}), []
    for name, found in {"load_situations": (listed, ""), "load_labelled": (listed, ""), "load_encoder": None}.items():
        monkeypatch.setattr(files, name, lambda *_, found=found: found)
    monkeypatch.setattr(files, "ValueEvaluator", type("E", (), {"from_pretrained": lambda _: type("E", (), {
        "keep_features": lambda _: None})()}))
    monkeypatch.setattr(files, "Weigher", lambda *_: type("W", (), {"fit": lambda _, rows, __: taught.append(rows)})())
    files.load_weigher("x", model="")
    assert taught[0].situation.tolist() == ["a"]


def test_an_empty_file_is_refused(weigher, tmp_path):
    (tmp_path / "in.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="has no rows"):
        files.weigh_file(lambda: weigher, tmp_path / "in.jsonl", tmp_path / "out.jsonl")

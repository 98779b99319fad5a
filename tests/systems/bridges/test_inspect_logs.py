"""Logs of Inspect: read as plain JSON here; `inspect eval` and `inspect score` as a user runs them where it is."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from small_runs import make_finished_run

from fulcra_utils.cli import main
from fulcra_utils.common.paths import DATA
from fulcra_utils.dataset.texts import DatasetError
from fulcra_utils.evaluator.encoder import load_encoder
from fulcra_utils.evaluator.model import make_evaluator, save_evaluator
from fulcra_utils.systems.bridges.inspect_logs import read_inspect_log
from fulcra_utils.theory.theory import load_theory

TOOL = {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "function": "look", "arguments": {}}]}
HAS_ENTRY = any(point.name == "fulcra_utils" for point in metadata.entry_points(group="inspect_ai"))
NEEDS_INSPECT = pytest.mark.skipif(
    not (HAS_ENTRY and (Path(sys.executable).parent / "inspect").is_file()),
    reason="Inspect is not installed: pip install 'fulcra-utils[inspect]'; its bridge is NOT tried with it")


def write_log(path, replies, **changes):
    samples = [{"id": f"q{k}", "epoch": 1, "input": "May I lie?", "target": "", "messages": [
        {"role": "user", "content": "May I lie?"}, *([reply] if isinstance(reply, dict) else [])],
        "output": {} if isinstance(reply, dict) else {
            "choices": [{"message": {"role": "assistant", "content": reply}}]}} for k, reply in enumerate(replies)]
    log = {"version": 2, "status": "success", "eval": {"model": "mockllm/model"}, "samples": samples}
    path.write_text(json.dumps(log | changes), encoding="utf-8")
    return path


@pytest.fixture
def evaluator(tmp_path):
    save_evaluator(make_evaluator(load_encoder("tiny"), load_theory("schwartz10")), tmp_path / "runs/laptop/evaluator")
    return tmp_path / "runs/laptop/evaluator"


def run_fulcra(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["fulcra", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_a_log_gives_a_row_a_sample(tmp_path):
    path = write_log(tmp_path / "log.json", ["Better not.", {"role": "assistant", "content": "attachment://a"}, ""])
    log = json.loads(path.read_text())
    log["samples"][1]["attachments"] = {"a": "Never."}
    path.write_text(json.dumps(log))
    rows = read_inspect_log(path)
    assert rows[0] == {"prompt": "May I lie?", "response": "Better not.", "id": "q0", "epoch": 1,
                       "response_source": "mockllm/model"}
    assert rows[1]["response"] == "Never."
    assert rows[2]["response"] is None and rows[2]["problem"] == "reply is empty"


@pytest.mark.parametrize(("replies", "changes", "said"), [
    ([""], {}, "the log holds no completions, no reply to score in its 1 samples"),
    ([TOOL], {}, "the log holds tool calls only"),
    (["No."], {"version": 3}, "is a log of format version 3; version 2 is read"),
    (["No."], {"samples": None}, "the log holds no samples"),
    (["No."], {"eval": None}, "is no log of Inspect")])
def test_a_log_that_cannot_be_scored_is_one_line(tmp_path, replies, changes, said):
    path = write_log(tmp_path / "log.json", replies, **changes)
    with pytest.raises(DatasetError, match=f"^{re.escape(f'{path}: {said}')}[^\n]*$"):
        read_inspect_log(path)


def test_broken_files_are_one_line(tmp_path):
    for name in ("log.json", "log.eval"):
        (tmp_path / name).write_text("{")
        with pytest.raises(DatasetError, match="cannot be read as a log|pip install"):
            read_inspect_log(tmp_path / name)


def test_score_takes_a_log(tmp_path, evaluator, monkeypatch, capsys):
    path, output = write_log(tmp_path / "log.json", ["Better not.", ""]), tmp_path / "scored.jsonl"
    assert run_fulcra(monkeypatch, "score", "--evaluator", evaluator, "--input", path, "--output", output) == 1
    assert f"{path}, line 2: response is missing" in capsys.readouterr().err
    first, second = map(json.loads, output.read_text().splitlines())
    assert len(first["value_vector"]) == 10 and first["id"] == "q0" and second["value_vector"] is None
    write_log(path, [TOOL])
    assert run_fulcra(monkeypatch, "score", "--evaluator", evaluator, "--input", path, "--output", output) == 2


@NEEDS_INSPECT
@pytest.mark.slow
def test_the_recipe_runs_as_written(tmp_path, evaluator):
    from inspect_ai.log import read_eval_log
    block, = re.findall(r"```sh\n(.*?)```", (DATA / "site/recipes/inspect.md").read_text("utf-8"), re.DOTALL)
    assert block.count("\n") <= 4
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"May I do {k}?"}) + "\n" for k in range(50)))
    (tmp_path / "count").mkdir()    # Inspect's mock counts tokens by a table that tiktoken fetches: here words count
    (tmp_path / "count" / "tiktoken.py").write_text(
        "class get_encoding:\n    def __init__(self, _): pass\n    def encode(self, t, **_): return t.split()\n")
    places = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
              "PYTHONPATH": str(tmp_path / "count")}    # not the checkout: Inspect would take it for a script
    done = subprocess.run(["bash", "-e", "-c", block], cwd=tmp_path, capture_output=True, text=True,
                          env=os.environ | places)
    assert done.returncode == 0, done.stdout + done.stderr
    log = read_eval_log(next((tmp_path / "logs").glob("*.eval")))
    theory = load_theory("schwartz10")
    assert {score.name for score in log.results.scores} == {*theory.dimensions, "distance"}
    assert all(set(score.metrics) == {"mean", "stderr"} for score in log.results.scores)
    rows = [json.loads(line) for line in (tmp_path / "scored.jsonl").read_text().splitlines()]
    for row, sample in zip(rows, log.samples, strict=True):
        given = list(sample.scores.values())[-1].value
        assert {name: given[name] for name in theory.dimensions} == pytest.approx(row["value_vector"], abs=2e-6)


@NEEDS_INSPECT
@pytest.mark.slow
def test_an_empty_completion_is_not_scored(tmp_path, evaluator):
    from inspect_ai import score
    from inspect_ai.log import read_eval_log

    from fulcra_utils.systems.bridges.inspect_logs import export_inspect, value_profile
    run = make_finished_run(tmp_path / "run").folder
    export_inspect(run, tmp_path / "out")
    logs = [read_eval_log(str(path)) for path in (tmp_path / "out").glob("*.json")]
    assert logs and all(read_inspect_log(path) for path in (tmp_path / "out").glob("*.json"))
    logs[0].samples[0].messages.pop()
    logs[0].samples[0].output.choices[0].message.content = ""
    found = score(logs[0], value_profile(str(evaluator), "ideal"), action="overwrite").samples[0].scores
    given, = found.values()
    assert given.explanation.startswith("not scored: ") and all(x != x for x in given.value.values())
    shutil.rmtree(tmp_path / "out")

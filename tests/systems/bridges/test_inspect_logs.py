"""Logs of Inspect: read as plain JSON here; `inspect eval` and `inspect score` as a user runs them where it is."""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from small_runs import make_finished_run

from fulcra_utils.cli import main
from fulcra_utils.common.paths import DATA
from fulcra_utils.dataset.texts import DatasetError
from fulcra_utils.evaluator.encoder import load_encoder
from fulcra_utils.evaluator.model import make_evaluator, save_evaluator
from fulcra_utils.systems.bridges import export, inspect_logs
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


@pytest.mark.parametrize("sample", ["x", {"messages": ["x"]}, {"messages": [], "output": "No."}])
def test_a_sample_of_another_form_is_one_line(tmp_path, sample):
    path = write_log(tmp_path / "log.json", [], samples=[sample])
    with pytest.raises(DatasetError, match="a sample of the log is not of Inspect's form"):
        read_inspect_log(path)
    with pytest.raises(DatasetError, match="no completions"):
        read_inspect_log(write_log(path, [], samples=[{"messages": None}]))


def test_a_reply_is_read_where_it_stands(tmp_path):
    said = {"role": "assistant", "content": [{"type": "text", "text": "attachment://a"}]}
    talk = [{"role": "user", "content": "May I lie?"}, {"role": "assistant", "content": "No."},
            {"role": "user", "content": "Go on."}]     # cut short by a limit: the output is the reply before it
    path = write_log(tmp_path / "log.json", [], samples=[
        {"messages": [talk[0], said], "attachments": {"a": "Never."}},
        {"messages": talk, "output": {"choices": [{"message": talk[1]}]}}])
    assert [(row["prompt"], row["response"]) for row in read_inspect_log(path)] == [
        ("May I lie?", "Never."), ("May I lie?", "No.")]


def test_what_was_said_before_an_error_is_no_reply(tmp_path):
    path = write_log(tmp_path / "log.json", ["Let me look.", "Better not."])
    log = json.loads(path.read_text())
    log["samples"][0]["error"] = {"message": "Timed out", "traceback": ""}
    path.write_text(json.dumps(log))
    first, second = read_inspect_log(path)
    assert (first["response"], first["problem"]) == (None, "the sample ended in an error: Timed out")
    assert second["response"] == "Better not." and "problem" not in second


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
def test_the_recipe_runs_as_written(tmp_path):
    from inspect_ai.log import read_eval_log
    block, = re.findall(r"```sh\n(.*?)```", (DATA / "site/recipes/inspect.md").read_text("utf-8"), re.DOTALL)
    assert block.count("\n") <= 4
    make_finished_run(tmp_path / "runs" / "laptop")
    theory = load_theory("schwartz10")
    save_evaluator(make_evaluator(load_encoder("bundled"), theory), tmp_path / "runs" / "laptop" / "evaluator")
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"May I do {k}?"}) + "\n" for k in range(50)))
    (tmp_path / "count").mkdir()    # Inspect's mock counts tokens by a table that tiktoken fetches: here words count
    (tmp_path / "count" / "tiktoken.py").write_text(
        "class get_encoding:\n    def __init__(self, _): pass\n    def encode(self, t, **_): return t.split()\n")
    places = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
              "PYTHONPATH": str(tmp_path / "count")}    # not the checkout: Inspect would take it for a script
    seconds = []
    for line in block.splitlines():
        start = time.monotonic()
        done = subprocess.run(["bash", "-e", "-c", line], cwd=tmp_path, capture_output=True, text=True,
                              env=os.environ | places)
        assert done.returncode == 0, done.stdout + done.stderr
        seconds.append(time.monotonic() - start)
    assert seconds[1] < 60, "inspect score of 50 samples by MiniLM, with all that it loads"
    log = read_eval_log(next((tmp_path / "logs").glob("*.eval")))
    assert {score.name for score in log.results.scores} == {*theory.dimensions, "distance"}
    named = {"mean", "fulcra_utils/interval_low", "fulcra_utils/interval_high"}
    assert all(set(score.metrics) == named for score in log.results.scores)
    rows = [json.loads(line) for line in (tmp_path / "scored.jsonl").read_text().splitlines()]
    for row, sample in zip(rows, log.samples, strict=True):
        given = list(sample.scores.values())[-1].value
        assert {name: given[name] for name in theory.dimensions} == pytest.approx(row["value_vector"], abs=2e-6)
    exported = [row for path in (tmp_path / "replies").glob("*.json") for row in read_inspect_log(path)]
    every = pd.read_parquet(tmp_path / "runs/laptop/data/dialogues.parquet")
    assert exported and {row["id"] for row in exported} < set(every.row_id)    # less those with a risk


def test_no_models_log_takes_the_place_of_anothers(tmp_path, monkeypatch):
    names = ["my model", "my_model", "My-Model", "my-model", "文心一言", "通义千问", "gpt-4"]
    theory = load_theory("schwartz10")
    rows = pd.DataFrame({"response_source": names, "row_id": range(7), "prompt": "May I?", "response": "No.",
                         "unknown": True, **dict.fromkeys(theory.dimensions, 0.0)})
    log = SimpleNamespace(EvalLog=SimpleNamespace(model_validate=lambda log: log),
                          write_eval_log=lambda log, path: Path(path).write_text(json.dumps(log), "utf-8"))
    monkeypatch.setitem(sys.modules, "inspect_ai", SimpleNamespace(log=log))
    monkeypatch.setitem(sys.modules, "inspect_ai.log", log)
    monkeypatch.setattr(inspect_logs, "find_run", lambda _: SimpleNamespace(theory=theory))
    monkeypatch.setattr(export, "read_harmless", lambda _: (rows, rows.head(0)))
    (tmp_path / "manifest.json").write_text("{}")
    inspect_logs.export_inspect(tmp_path, tmp_path / "out")
    found = {path.stem: read_inspect_log(path)[0]["response_source"][5:] for path in (tmp_path / "out").glob("*.json")}
    assert sorted(found.values()) == sorted(names) and len({stem.casefold() for stem in found}) == 7
    assert found["my_model"] == "my model" and found["gpt-4"] == "gpt-4", "a name of its own stays as it was"


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
    foreign, first = logs[1].model_copy(deep=True), logs[1].samples[0]
    foreign.samples = [first.model_copy(deep=True)]
    text = foreign.samples[0].messages[-1].content = "Je voudrais aller au marché avec ma mère pour acheter du pain."
    foreign.samples[0].output.choices[0].message.content = text
    given, = score(foreign, value_profile(str(evaluator)), action="overwrite").samples[0].scores.values()
    assert given.explanation.startswith("does not look English") and all(x == x for x in given.value.values())
    logs[0].samples[0].messages.pop()
    logs[0].samples[0].output.choices[0].message.content = ""
    found = score(logs[0], value_profile(str(evaluator), "ideal"), action="overwrite").samples[0].scores
    given, = found.values()
    assert given.explanation.startswith("not scored: ") and all(x != x for x in given.value.values())
    assert sum(log.eval.metadata["left_out_for_risk"] for log in logs) + sum(len(log.samples) for log in logs) == len(
        pd.read_parquet(run / "data/dialogues.parquet"))
    assert set(logs[1].samples[0].scores["value_vector"].value) == set(load_theory("schwartz10").dimensions)


@NEEDS_INSPECT
@pytest.mark.slow
def test_ids_of_one_prompt_are_one_cluster():
    from inspect_ai.scorer import SampleScore, Score

    from fulcra_utils.systems.bridges.inspect_logs import interval

    def give(prompts):      # 40 values, 20 zeros and 20 ones
        return interval()([SampleScore(sample_id=k, score=Score(value=float(k % 2), metadata={"prompt": prompt}))
                           for k, prompt in enumerate(prompts)])

    paired = give([k // 2 for k in range(40)])      # each prompt has a 0 and a 1: every draw has mean 1/2
    apart = give(range(40))
    assert paired == {"low": 0.5, "high": 0.5} and apart["low"] == pytest.approx(0.5 - 1.96 * 0.5 / 40 ** 0.5, abs=0.03)
    assert all(bound != bound for bound in give([0] * 40).values())


@NEEDS_INSPECT
@pytest.mark.slow
def test_another_theory_is_scored_by_definition_and_said(tmp_path, evaluator):
    from inspect_ai.model import ChatMessageAssistant, ChatMessageUser, ModelOutput
    from inspect_ai.solver import TaskState

    from fulcra_utils.systems.bridges.inspect_logs import value_profile, values
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "May I?"}\n')
    with pytest.warns(UserWarning, match=r"scored by definition alone \(.*\): care, fairness"):
        assert values(str(tmp_path / "prompts.jsonl"), str(evaluator), theory="moral_foundations").scorer
    state = TaskState("mockllm/model", 1, 1, "May I?", [ChatMessageUser(content="May I?"),
                                                        ChatMessageAssistant(content="Better not.")],
                      output=ModelOutput.from_content("mockllm/model", "Better not."))
    given = asyncio.run(value_profile(str(evaluator), theory="moral_foundations")(state, None))
    assert list(given.value) == list(load_theory("moral_foundations").dimensions)


@NEEDS_INSPECT
@pytest.mark.slow
def test_what_cannot_be_asked_is_one_line(tmp_path, evaluator, monkeypatch):
    from inspect_ai._util.error import PrerequisiteError

    from fulcra_utils.systems.bridges.inspect_logs import value_profile, values
    (tmp_path / "prompts.jsonl").write_text('{"prompt": ""}\n')
    for asked, said in (({"theory": "no_theory"}, "no_theory"),
                        ({}, "line 1: prompt is empty"), ({"target": "nosuch"}, "nosuch")):
        with pytest.raises(PrerequisiteError) as fault:
            values(str(tmp_path / "prompts.jsonl"), str(evaluator), **asked)
        assert said in fault.value.message
    with pytest.raises(PrerequisiteError, match="gone.jsonl: cannot be read"):
        values(str(tmp_path / "gone.jsonl"), str(evaluator))
    monkeypatch.chdir(tmp_path)    # where none is named, `evaluator` and `prompts.jsonl` are meant
    for call in (value_profile, values, lambda: value_profile(str(tmp_path / "nowhere"))):
        with pytest.raises(PrerequisiteError, match="is no evaluator: it has no config.json"):
            call()

"""Inspect (inspect_ai): a scorer and a task by an evaluator's folder, the replies of a log, and a run as logs.

Inspect finds `fulcra_utils/value_profile` and `fulcra_utils/values` by the package's entry point. Logs in JSON are read
without Inspect, which is the extra `inspect`; .eval files need it.
"""

import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from fulcra_utils.common.files import json_line, write_folder
from fulcra_utils.common.loading import hash_text
from fulcra_utils.dataset.rows import RowError, pick_rows, read_dialogue, read_text
from fulcra_utils.dataset.splits import group_prompts
from fulcra_utils.dataset.texts import DatasetError, shorten
from fulcra_utils.runs.pipeline import find_run
from fulcra_utils.stats.resampling import bootstrap_means, take_interval
from fulcra_utils.theory.distance import value_distance
from fulcra_utils.theory.targets import load_target
from fulcra_utils.theory.theory import load_theory

VERSION = 2         # of the log format that is read here


@contextmanager
def unpack_log(path: str) -> Iterator[str | Path]:
    """Give a file with the rows of a log (.eval, .json) for as long as the block lasts; any other path as it is."""
    if not path.lower().endswith((".eval", ".json")):
        yield path
        return
    with TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        rows.write_text("".join(map(json_line, read_inspect_log(path))), encoding="utf-8")
        yield rows


def read_inspect_log(path: str | Path) -> list[dict[str, Any]]:
    """Return a row for each sample of an Inspect log: prompt, response, id, epoch and the model as response_source.

    A sample without a reply, or with an error, has response None and its `problem`. DatasetError in one line: no log,
    another format version, no sample, no reply in any sample.
    """
    log = _read_log(Path(path))
    if not isinstance(log, dict) or not isinstance(log.get("eval"), dict):
        raise DatasetError(f"{path}: is no log of Inspect, and the name of a file of rows ends in .jsonl")
    if log.get("version") != VERSION:
        raise DatasetError(f"{path}: is a log of format version {log.get('version')}; version {VERSION} is read")
    if not (samples := log.get("samples")):
        raise DatasetError(f"{path}: the log holds no samples")
    try:
        rows = [{**_read_sample(sample), "id": sample.get("id"), "epoch": sample.get("epoch", 1),
                 "response_source": log["eval"].get("model")} for sample in samples]
        called = any(message.get("tool_calls") for sample in samples for message in sample.get("messages") or ())
    except (AttributeError, TypeError) as error:
        raise DatasetError(f"{path}: a sample of the log is not of Inspect's form: {error}") from error
    if all(row["response"] is None for row in rows):
        raise DatasetError(f"{path}: the log holds {'tool calls only' if called else 'no completions'}, no reply to "
                           f"score in its {len(rows):,} samples")
    return rows


def _read_log(path: Path) -> Any:
    try:
        if path.suffix == ".json":
            return json.loads(path.read_bytes())
        from inspect_ai.log import read_eval_log
        return read_eval_log(path, resolve_attachments=True, exclude_fields={"events", "store"}).model_dump()
    except ImportError:
        raise DatasetError(f"{path}: an .eval log is read by Inspect: pip install 'fulcra-utils[inspect]'") from None
    except Exception as error:  # a zip, a codec or a model of Inspect's own may fail
        why = [*str(error).splitlines(), type(error).__name__][0]
        raise DatasetError(f"{path}: cannot be read as a log: {why}") from error


def _read_sample(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Return prompt and response of a sample; one that ended in an error says something, but not its reply."""
    row = _read_reply(_list_messages(sample))
    if not (error := sample.get("error")):
        return row
    why = error.get("message") if isinstance(error, Mapping) else error
    return row | {"response": None, "problem": f"the sample ended in an error: {shorten(why)}"}


def _list_messages(sample: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a sample's messages with their attachments put in; its output at the end where they lack it."""
    held, text = sample.get("attachments") or {}, json.dumps(sample.get("messages") or [], default=str)
    messages = json.loads(re.sub('"attachment://([^"]*)"', lambda found: json.dumps(held.get(found[1], "")), text))
    output = sample.get("output") or {}
    return _end_in_reply(messages, (output.get("choices") or [{}])[0].get("message"))


def _end_in_reply(messages: list[dict[str, Any]], reply: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return the messages up to the reply: a talk that was cut short may go on behind it."""
    if not reply or messages and messages[-1].get("role") == "assistant":
        return messages
    said = [n for n, one in enumerate(messages, 1)
            if one.get("role") == "assistant" and one.get("content") == reply.get("content")]
    return messages[:said[-1]] if said else [*messages, reply]


def _read_reply(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Return prompt and response of a talk; without a reply the problem."""
    try:
        dialogue = read_dialogue({"messages": messages})
    except RowError as fault:
        return {"prompt": "", "response": None, "problem": str(fault)}
    return {"prompt": dialogue.prompt, "response": dialogue.response}


@cache
def _load_evaluator(folder: str, theory: str) -> Any:
    from fulcra_utils.evaluator.model import ValueEvaluator
    judge = ValueEvaluator.from_pretrained(folder)
    judge = judge.for_theory(theory) if theory else judge
    for note in judge.borrowed:
        warnings.warn(f"{folder}: {note}", stacklevel=4)
    return judge


def value_profile(evaluator: str = "evaluator", target: str = "", theory: str = "") -> Callable[..., Any]:
    """Score the reply of a sample by an evaluator's folder: one number for each value, and its distance to a target.

    Under another theory than the evaluator's, values that it was not taught are scored by definition; a warning names
    them. A sample without a reply is nan in each and says why in its explanation; Inspect leaves it out of the means. A
    reply that does not look English is scored, and its explanation says so, for it counts in the means. The 95 %
    intervals are bootstrapped over clusters of alike prompts, their epochs among them.
    """
    from inspect_ai._util.error import PrerequisiteError  # of a ValueError, Inspect does not say the reason
    from inspect_ai.scorer import Score

    from fulcra_utils.evaluator.scoring import FOREIGN, is_foreign
    try:
        judge = _load_evaluator(evaluator, theory)
        aim = load_target(target, load_theory(theory or Path(evaluator) / "theory.yaml")) if target else None
    except (OSError, ValueError) as error:
        raise PrerequisiteError(str(error)) from error

    async def score(state: Any, _: Any) -> Any:
        reply = state.output.choices[0].message.model_dump() if state.output.choices else None
        row = _read_reply(_end_in_reply([message.model_dump() for message in state.messages], reply))
        if row["response"] is None:
            names = [*judge.dimensions, *(["distance"] if aim else [])]
            return Score(value=dict.fromkeys(names, float("nan")), explanation=f"not scored: {row['problem']}")
        scores = pd.DataFrame(judge.score([row["prompt"]], [row["response"]]), columns=list(judge.dimensions))
        added = scores.assign(distance=value_distance(scores, aim)) if aim else scores
        mark = FOREIGN if is_foreign(row["prompt"], row["response"]) else None
        return Score(value={name: float(x) for name, x in added.iloc[0].items()}, answer=row["response"],
                     explanation=mark, metadata={"prompt": row["prompt"]})

    return score


def interval() -> Callable[..., Any]:
    """Give the 95 % bootstrap interval of a mean over clusters of alike prompts; nan of a single one."""
    from inspect_ai.scorer import SampleScore

    def measure(scores: list[SampleScore]) -> dict[str, float]:
        prompts = [str((one.score.metadata or {}).get("prompt", one.sample_id)) for one in scores]
        low, high = take_interval(bootstrap_means([one.score.as_float() for one in scores], group_prompts(prompts)))
        return {"low": float(low[0]), "high": float(high[0])}

    return measure


def values(prompts: str = "prompts.jsonl", evaluator: str = "evaluator", target: str = "", theory: str = "") -> Any:
    """Ask a model each prompt of a file (.jsonl, .jsonl.gz, .parquet with `prompt`) and score its replies.

    One line ends it for a file that cannot be read or a row without a prompt; target and theory are those of
    `value_profile`.
    """
    from inspect_ai import Task
    from inspect_ai._util.error import PrerequisiteError
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.solver import generate
    scorer, samples = value_profile(evaluator, target, theory), []
    try:
        for line, _, prompt, fault in pick_rows(prompts, lambda row: read_text(row, "prompt")):
            if fault:
                raise DatasetError(f"{prompts}, line {line}: {fault}")
            samples.append(Sample(input=prompt, id=line))
    except DatasetError as error:
        raise PrerequisiteError(str(error)) from error
    return Task(dataset=MemoryDataset(samples, name=Path(prompts).stem), solver=generate(), scorer=scorer)


def export_inspect(folder: Path, output: Path) -> None:
    """Write a run's replies with their labelled value vectors as logs, `<model>.json`; nan where not labelled.

    A model whose file another one has already, or whose name holds no Latin letter or digit, gets a hash behind it.
    `metadata` of each log counts replies that `read_harmless` leaves out, and those to prompts whose risk is not known.
    """
    from inspect_ai.log import EvalLog, write_eval_log

    from fulcra_utils.systems.bridges.export import read_harmless
    theory, (rows, left_out) = find_run(folder).theory, read_harmless(folder)
    created = datetime.fromtimestamp((folder / "manifest.json").stat().st_mtime, UTC).isoformat()
    with write_folder(output) as new:
        used = set()
        for model, part in rows.groupby("response_source"):
            stem = re.sub(r"[^-.0-9A-Za-z]+", "_", model)
            if stem.casefold() in used or not re.search("[0-9A-Za-z]", stem):
                stem += f"-{hash_text(model)[:8]}"
            used.add(stem.casefold())
            vectors = part[[*theory.dimensions]].astype(float).to_dict("records")
            samples = [{"id": row.row_id, "epoch": 1, "input": row.prompt, "target": "", "messages": [
                {"role": "user", "content": row.prompt}, {"role": "assistant", "content": row.response}],
                "output": {"model": model, "choices": [{"message": {"role": "assistant", "content": row.response}}]},
                "scores": {"value_vector": {"value": vector}}}
                for row, vector in zip(part.itertuples(), vectors, strict=True)]
            log = {"version": VERSION, "status": "success", "samples": samples, "eval": {
                "created": created, "task": folder.name, "dataset": {"name": folder.name, "samples": len(samples)},
                "model": f"none/{model}", "config": {},      # none: Inspect has nothing to load
                "metadata": {"left_out_for_risk": int((left_out.response_source == model).sum()),
                             "risk_unknown": int(part.unknown.sum())}}}
            write_eval_log(EvalLog.model_validate(log), str(new / f"{stem}.json"))


with suppress(ImportError):  # without Inspect, logs in JSON are read all the same
    from inspect_ai import task
    from inspect_ai.scorer import mean, metric, scorer
    interval = metric(interval)
    value_profile = scorer(metrics={"*": [mean(), interval()]})(value_profile)
    values = task(values)

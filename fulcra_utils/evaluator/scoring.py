"""Scoring files of any size, comparing two scored files, and how many prompts an interval needs.

Choices: rows stream in shards; the scores of a finished shard are a file of their own in <output>.parts/, so a killed
run goes on with the next one; the output is put together at the end from the input and the scores, and appears whole or
not at all, in the order of the input. Every row of the input gives one row of the output with all its fields; one that
cannot be scored has `value_vector` null and `problem`; one that is no English is scored and has a `problem`. Fields of
the input that are called `value_vector`, `value_low`, `value_high` or `problem` are kept as `input_value_vector` and so
on, older ones with one more `input_`: a scored file can be scored again.
"""

import gzip
import hashlib
import json
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from fulcra_utils.common.digests import digest
from fulcra_utils.common.files import check_outputs, json_line, keep_fields, lock_output, write_atomic, write_folder
from fulcra_utils.common.workers import SHAPE
from fulcra_utils.dataset.construction import locate_sample
from fulcra_utils.dataset.labelled import read_dataset
from fulcra_utils.dataset.rows import SUFFIXES, iter_rows, pick_rows
from fulcra_utils.dataset.texts import looks_english
from fulcra_utils.evaluator.encoder import has_bf16
from fulcra_utils.theory.theory import Theory, load_theory

OWN = ("value_vector", "value_low", "value_high", "problem")
FOREIGN = "does not look English, which alone the evaluator learnt: its scores are no measurement"
KEPT = ["model", "prompt", "response", "cluster"]    # what stands beside the scores of a run's replies


class ScoringError(ValueError):
    """A file or an argument that cannot be used; the message is one sentence naming the place."""


@dataclass(frozen=True)
class ScoreReport:
    """What `score_file` did: rows of input and output, of them without a value vector, and the first of these ("line 3:
    …").

    `n_resumed` rows had an earlier, interrupted run finished; `notes` name fields that Parquet cannot hold as they are,
    and count rows that are scored but marked, or longer than what the evaluator reads.
    """

    n_rows: int
    n_unusable: int
    problems: list[str]
    n_resumed: int
    notes: list[str]


def score_file(evaluator: Any, source: str | Path, target: str | Path, shard_size: int = 1024, batch_size: int = 32,
               intervals: bool = False, progress: bool = False, workers: int = 0,
               theory: Theory | str | None = None) -> ScoreReport:
    """Score the rows of a file into another one (.jsonl, .jsonl.gz, .parquet); the head of this file says how.

    Rows are read as `read_dialogue` reads them. From Parquet to Parquet every column keeps its type; in other Parquet
    output a field whose values fit no one type is text, with all that is no text as JSON, see `notes`. `shard_size`
    rows are held in memory, and kept by a killed run. `intervals` adds value_low and value_high, the label sets' ends.
    `workers` score through Ray Data, each with an evaluator of its own from its folder; 0 = here. With `theory`, as
    `evaluator.for_theory` scores; notes name the values that it knows by their definitions. ScoringError,
    EvaluatorError, DatasetError in one line: no rows, no evaluator, no Ray, another run writes the target.

    >>> import tempfile
    >>> from fulcra_utils.evaluator.encoder import load_encoder
    >>> from fulcra_utils.evaluator.model import make_evaluator
    >>> evaluator = make_evaluator(load_encoder("tiny"), load_theory("schwartz10"))
    >>> with tempfile.TemporaryDirectory() as base:
    ...     source, target = Path(base) / "rows.jsonl", Path(base) / "scored.jsonl"
    ...     _ = source.write_text('{"prompt": "May I lie?", "response": "No."}')
    ...     report = score_file(evaluator, source, target)
    ...     report.n_rows, len(json.loads(target.read_text())["value_vector"])
    (1, 10)
    """
    source, target, theory = Path(source), Path(target), theory and load_theory(theory)
    if min(shard_size, batch_size) < 1 or workers < 0:
        raise ScoringError("Shard size and batch size must be at least 1 and the workers not negative.")
    _check_files(source, target)
    folder = None if hasattr(evaluator, "score") else Path(evaluator)
    if folder is not None:
        from fulcra_utils.evaluator.model import ValueEvaluator
        evaluator = ValueEvaluator.from_pretrained(folder)
    elif workers:
        raise ScoringError("Workers load the evaluator themselves: give its folder.")
    evaluator = evaluator.for_theory(theory) if theory else evaluator
    with lock_output(target):
        parts = target.with_name(f"{target.name}.parts")
        job = _describe_job(evaluator, source, shard_size, intervals)
        n_resumed = _open_parts(parts, job)
        try:
            shards = ((k, rows) for k, rows in enumerate(_split(_read_texts(source), shard_size))
                      if not (parts / f"{k:08d}.jsonl").is_file())
            made = _score_by_ray(shards, workers, folder, theory, batch_size, intervals) if workers else \
                ((k, _score_rows(evaluator, rows, batch_size, intervals)) for k, rows in shards)
            for k, scored in tqdm(made, "scoring", unit="row", unit_scale=shard_size, disable=not progress):
                with write_atomic(parts / f"{k:08d}.jsonl") as tmp:
                    tmp.write_text("".join(map(json_line, scored)), encoding="utf-8")
            if _hash_file(source) != job["input"]:
                raise ScoringError(f"The input {source} changed while it was scored.")
            notes = _join_parts(source, parts, target, evaluator.dimensions, job)
        except ValueError:  # no later run can do better with these parts
            shutil.rmtree(parts)
            raise
        bad = (f"line {row['line']}: {row['problem']}" for row in _read_parts(parts) if row["value_vector"] is None)
        foreign = [row["line"] for row in _read_parts(parts) if row.get("problem") == FOREIGN]
        notes += [f"{len(foreign):,} rows (first: line {foreign[0]}) carry the mark {FOREIGN!r}"] if foreign else []
        notes += getattr(evaluator, "borrowed", [])
        if long := [row["line"] for row in _read_parts(parts) if row.get("is_cut")]:
            notes.append(f"{len(long):,} rows (first: line {long[0]}) are longer than the evaluator reads, of "
                         f"{evaluator.config.max_length} tokens half for the prompt: start and end were scored")
        n_rows, first = sum(1 for _ in _read_parts(parts)), list(islice(bad, 20))
        report = ScoreReport(n_rows, len(first) + sum(1 for _ in bad), first, n_resumed, notes)
        shutil.rmtree(parts)
    return report


def _check_files(source: Path, target: Path) -> None:
    if next(iter_rows(source), None) is None:
        raise ScoringError(f"The input {source} has no rows.")
    if not target.parent.is_dir():
        raise ScoringError(f"The output's folder {target.parent} does not exist.")
    check_outputs([(target, SUFFIXES)], [source])


def _describe_job(evaluator: Any, source: Path, shard_size: int, intervals: bool) -> dict:
    """Return what a resumed run must have in common with the one that was killed: all that shapes the parts."""
    try:
        mark = digest(evaluator, has_bf16() and SHAPE)     # in which precision an encoder reads
    except TypeError:  # it cannot be told from another one: never the same
        mark = secrets.token_hex()
    return {"input": _hash_file(source), "kind": source.suffix.lower(), "evaluator": mark, "shard_size": shard_size,
            "intervals": intervals}


def _hash_file(path: Path) -> str:
    """Not `hash_file` of common, which trusts size and time: an input may change while it is scored."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _open_parts(parts: Path, job: dict) -> int:
    """Make the folder of finished shards and return how many rows stand there; those of another job are thrown away."""
    note = parts / "job.json"
    if parts.exists() and not note.is_file():
        raise ScoringError(f"{parts} is in the way of the finished shards: move it, or choose another output.")
    if not note.is_file() or json.loads(note.read_text(encoding="utf-8")) != job:
        with write_folder(parts) as new:
            (new / note.name).write_text(json.dumps(job), encoding="utf-8")
    return sum(1 for _ in _read_parts(parts))


def _read_parts(parts: Path) -> Iterator[dict]:
    for path in sorted(parts.glob("[0-9]*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def _read_texts(source: Path) -> Iterator[tuple[int, str, str, str]]:
    """Yield line, prompt and response of each row, and why it has none."""
    for line, _, dialogue, fault in pick_rows(source):
        yield (line, "", "", str(fault)) if fault else (line, dialogue.prompt, dialogue.response, "")


def _split(rows: Iterator, size: int) -> Iterator[list]:
    return iter(lambda: list(islice(rows, size)), [])


def is_foreign(prompt: str, reply: str) -> bool:
    """Return whether a reply, alone or behind its prompt, does not look English."""
    return not all(map(looks_english, (reply, f"{prompt}\n{reply}")))


def _score_rows(evaluator: Any, rows: Sequence[Sequence], batch_size: int, intervals: bool) -> list[dict]:
    """Return what each row gains: its value vectors, or the problem that it has; and its line, and is_cut."""
    from fulcra_utils.evaluator.rendering import is_cut  # with torch, which comparing files does not need
    tokenizer = getattr(evaluator, "tokenizer", None)
    made = [{"line": line} | ({"value_vector": None, "problem": problem} if problem else {})
            | ({"problem": FOREIGN} if not problem and is_foreign(prompt, reply) else {})
            | ({"is_cut": True} if tokenizer and is_cut(prompt, reply, tokenizer, evaluator.config.max_length) else {})
            for line, prompt, reply, problem in rows]
    good = [n for n, row in enumerate(rows) if not row[3]]
    texts = [[rows[n][k] for n in good] for k in (1, 2)]
    found = evaluator.score(*texts, batch_size=batch_size, **({"intervals": True} if intervals else {}))
    for name, layer in zip(OWN, found if intervals else found[None], strict=False):
        for n, scores in zip(good, layer, strict=True):
            made[n][name] = {d: round(float(x), 6) for d, x in zip(evaluator.dimensions, scores, strict=True)}
    return made


def _score_by_ray(shards: Iterable[tuple[int, list]], workers: int, folder: Path,
                  *options: Any) -> Iterator[tuple[int, list[dict]]]:
    try:
        import ray.data
    except ImportError as error:
        raise ScoringError("Ray is not installed: pip install 'fulcra-utils[ray]'.") from error
    items = [{"shard": k, "rows": json.dumps(rows)} for k, rows in shards]
    if not items:
        return
    scored = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _RayScorer, fn_constructor_args=(str(folder.resolve()), *options), batch_size=1,
        concurrency=workers)
    yield from ((int(item["shard"]), json.loads(item["scored"])) for item in scored.iter_rows())


class _RayScorer:
    """One Ray worker: loads the evaluator once and scores shard after shard."""

    def __init__(self, folder: str, theory: Theory | None, batch_size: int, intervals: bool):
        from fulcra_utils.evaluator.model import ValueEvaluator
        evaluator, self.options = ValueEvaluator.from_pretrained(folder), (batch_size, intervals)
        self.evaluator = evaluator.for_theory(theory) if theory else evaluator

    def __call__(self, batch: dict) -> dict:
        """Score the shards of a batch."""
        scored = [_score_rows(self.evaluator, json.loads(rows), *self.options) for rows in batch["rows"]]
        return {"shard": batch["shard"], "scored": [json.dumps(rows) for rows in scored]}


def _join_parts(source: Path, parts: Path, target: Path, dimensions: Sequence[str], job: dict) -> list[str]:
    """Write the input's rows with what the parts add; return what is to be said of fields."""
    scores = pa.struct([(d, pa.float64()) for d in dimensions])
    own = pa.schema({**dict.fromkeys(OWN[:3 if job["intervals"] else 1], scores), "problem": pa.string()})
    added = ({k: v for k, v in row.items() if k not in ("line", "is_cut")} for row in _read_parts(parts))
    return copy_rows(source, added, target, own, OWN, job["shard_size"])


def copy_rows(source: Path, added: Iterable[dict], target: Path, own: pa.Schema, names: Sequence[str],
              size: int = 1024) -> list[str]:
    """Copy the rows of a file into another one (`SUFFIXES`) with what is added to each, which `own` types for Parquet.

    `names` of the input's fields are kept as `input_…`. The file appears whole or not at all; returned is what is to be
    said of fields that Parquet cannot hold as they are.
    """
    with write_atomic(target) as tmp:
        if target.name.endswith(".parquet"):
            return _write_parquet(source, iter(added), tmp, own, names, size)
        with (gzip.open if target.name.endswith(".gz") else open)(tmp, "wb") as out:
            for (_, row, _), more in zip(iter_rows(source), added, strict=True):
                out.write(json_line(keep_fields(row or {}, more, names)).encode())
    return []


def _write_parquet(source: Path, added: Iterator[dict], target: Path, own: pa.Schema, names: Sequence[str],
                   size: int) -> list[str]:
    types, writer = {}, None
    if source.name.lower().endswith(".parquet"):
        tables = pq.ParquetFile(source).iter_batches(batch_size=size)
    else:
        types = _find_types(source, size)
        tables = (_to_table(rows, types) for rows in _split(_read_fields(source), size))
    with ExitStack() as open_files:
        for table in tables:
            kept = [column.with_name(name) for column, name in zip(
                table.schema, keep_fields(dict.fromkeys(table.schema.names), {}, names), strict=True)]
            schema = pa.schema([*kept, *own], metadata=table.schema.metadata)
            # rows without a single field are a table of no rows
            extra = pa.Table.from_pylist(list(islice(added, len(table) or size)), schema=own)
            writer = writer or open_files.enter_context(pq.ParquetWriter(target, schema))
            writer.write_table(pa.Table.from_arrays([*table.columns, *extra.columns], schema=schema))
    return [f"the values of {name!r} fit no one Parquet type: kept as text, all but texts as JSON"
            for name, kind in types.items() if kind is None]


def _read_fields(source: Path) -> Iterator[dict]:
    return (row or {} for _, row, _ in iter_rows(source))


def _find_types(source: Path, size: int) -> dict[str, pa.DataType | None]:
    """Return the type of each field over all rows; None where no one type holds every value."""
    types: dict[str, pa.DataType | None] = {}
    # twice, as a number may be too long for the type that later rows ask for
    for rows in chain(*(_split(_read_fields(source), size) for _ in range(2))):
        for name in dict.fromkeys(name for row in rows for name in row):
            types[name] = _widen(types.get(name, pa.null()), [row.get(name) for row in rows])
    return {name: None if "struct<>" in str(kind) else kind for name, kind in types.items()}


def _widen(known: pa.DataType | None, values: list) -> pa.DataType | None:
    """Return the type of known values and of these; None where there is none, or where it would not be read back."""
    try:
        schemas = [pa.schema([("", kind)]) for kind in (known, pa.array(values).type)]
        kind = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
        pa.array(values, kind)
    except (pa.ArrowException, OverflowError, RecursionError, TypeError, ValueError):
        return None
    words = str(kind)  # what nests too deep or has too many names is not read back
    odd = pa.types.is_floating(kind) and any(isinstance(value, bool) for value in values)
    return None if odd or words.count("<") > 40 or len(words) > 20_000 else kind


def _to_table(rows: list[dict], types: dict[str, pa.DataType | None]) -> pa.Table:
    return pa.table({_to_text(name): pa.array([row.get(name) if kind else _to_text(row.get(name)) for row in rows],
                                              kind or pa.string()) for name, kind in types.items()})


def _to_text(value: Any) -> str | None:
    """Return a text as it is and any other value as JSON; a text with half a character is JSON, too."""
    line = value if value is None or isinstance(value, str) else json_line(value)[:-1]
    return line if line is None or line.isascii() or not any("\ud800" <= c <= "\udfff" for c in line) else \
        json.dumps(line)


def list_replies(dialogues: pd.DataFrame, scored: pd.DataFrame) -> pd.DataFrame:
    """Return the run's replies for scoring: the released scored ones where there are any, else the dialogues.

    The scored files answer the same prompts, the dialogues do not. model, prompt, response, cluster, then the other
    columns.
    """
    table = scored if len(scored) else dialogues
    return table.rename(columns={"response_source": "model"}).astype({"model": object}).reset_index(drop=True)


def sample_prompts(replies: pd.DataFrame, n_prompts: int, seed: int = 2023) -> pd.DataFrame:
    """Keep all models' replies to a random choice of prompts, those that most models answered first.

    >>> rows = pd.DataFrame({"model": ["a", "b", "a"], "prompt": ["x", "x", "y"]})
    >>> sample_prompts(rows, 1).prompt.tolist()
    ['x', 'x']
    """
    answered = replies.groupby("prompt", sort=False)["model"].nunique()
    order = np.random.default_rng(seed).permutation(len(answered))
    chosen = answered.iloc[order].sort_values(ascending=False, kind="stable").index[:n_prompts]
    return replies[replies["prompt"].isin(chosen)].reset_index(drop=True)


def score_theories(replies: pd.DataFrame, theories: Sequence[Theory], evaluator: Any,
                   progress: bool = False) -> list[pd.DataFrame]:
    """Score replies under several theories in one pass, without labels where a theory is not the evaluator's.

    Per theory model, prompt, response, cluster and one column per dimension: what `evaluator.for_theory(theory)`
    scores, whatever the theory's name. The text is encoded once for all theories.

    >>> from fulcra_utils.evaluator.encoder import load_encoder
    >>> from fulcra_utils.evaluator.model import make_evaluator
    >>> theories = [load_theory("gpla5"), load_theory("valuelex")]
    >>> evaluator = make_evaluator(load_encoder("tiny"), load_theory("schwartz10"))
    >>> rows = pd.DataFrame({"model": ["a"], "prompt": ["May I lie?"], "response": ["No."]})
    >>> [table.shape for table in score_theories(rows, theories, evaluator)]
    [(1, 8), (1, 6)]
    """
    # two theories may both have "tradition": the evaluator reads names and definitions and needs no unique ones
    joined = replace(theories[0], name="joined", **{
        name: tuple(x for t in theories for x in getattr(t, name)) for name in ("dimensions", "definitions")})
    scores = evaluator.for_theory(joined).score(replies["prompt"].tolist(), replies["response"].tolist(),
                                                progress=progress)
    kept, ends = replies.filter(KEPT).reset_index(drop=True), np.cumsum([theory.n_dims for theory in theories])
    return [kept.join(pd.DataFrame(part, columns=theory.dimensions))
            for theory, part in zip(theories, np.split(scores, ends[:-1], axis=1), strict=True)]


def label_from_sample(theory: Theory, replies: pd.DataFrame) -> pd.DataFrame | None:
    """Return the labels under another theory, beside it or of the sample, for the run's replies, or None when they lack
    for any of these.

    A label written by a person comes before a score by definition. As `score_theories` returns its tables.
    """
    path, has_labels = locate_sample(theory)
    if not has_labels:
        return None
    data = read_dataset(path, theory)
    labels, pair = pd.DataFrame(data.vectors, columns=theory.dimensions), ["prompt", "response"]
    labels = data.table[pair].astype(object).join(labels).drop_duplicates(pair)
    joined = replies.filter(KEPT).merge(labels, on=pair)
    return joined if len(joined) == len(replies) else None

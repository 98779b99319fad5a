"""Scoring files of any size, comparing two scored files, and how many prompts an interval needs.

Choices: rows stream in shards; a finished shard is a file of its own in <output>.parts/, so a killed run goes on with
the next one; the output is put together at the end and appears whole or not at all, in the order of the input. Every
input line gives one output line: one that cannot be scored has `value_vector` null and `problem`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import sys
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fulcra_utils.alignment import value_distance
from fulcra_utils.dataset import RowError, read_dialogue, split_thoughts
from fulcra_utils.files import write_atomic
from fulcra_utils.stats import adjust_p, compare_paired
from fulcra_utils.targets import Target

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
ADDED = ("value_vector", "problem")
MIN_PROMPTS = 5  # four differences of one sign are chance in one of eight, whatever their spread


class ScoringError(ValueError):
    """A file or an argument that cannot be used; the message is one sentence naming the place."""


@dataclass(frozen=True)
class ScoreReport:
    """What `score_file` did.

    Attributes
    ----------
    n_rows : int
        Rows in the input, and in the output.
    n_unusable : int
        Rows without a value vector.
    problems : list of str
        The first of them, "line 3: …".
    n_resumed : int
        Rows that an earlier, interrupted run had finished.
    """

    n_rows: int
    n_unusable: int
    problems: list[str]
    n_resumed: int


def score_file(evaluator: Any, source: str | Path, target: str | Path, shard_size: int = 1024, batch_size: int = 32,
               intervals: bool = False, progress: bool = False) -> ScoreReport:
    """Score the rows of a file into another file.

    Parameters
    ----------
    evaluator : ValueEvaluator or path
        A path is loaded.
    source : path
        .jsonl, .jsonl.gz or .parquet; rows need "prompt" and "response".
    target : path
        Of one of the same kinds; replaced when it exists.
    shard_size : int
        Rows held in memory at a time; the unit that a killed run keeps.
    batch_size : int
        Pairs a forward pass.
    intervals : bool
        Also write "value_low" and "value_high", the label sets' ends.
    progress : bool
        Show a progress bar.

    Returns
    -------
    ScoreReport

    Raises
    ------
    ScoringError, EvaluatorError
        When the source is missing, empty of rows to read, or of another kind, or the evaluator cannot be loaded.

    Source: ours.
    """
    source, target = _check_files(source, target, shard_size)
    mark = None
    if not hasattr(evaluator, "score"):
        from fulcra_utils.evaluator import ValueEvaluator
        mark, evaluator = str(Path(evaluator).resolve()), ValueEvaluator.from_pretrained(evaluator)
    parts = target.with_name(f"{target.name}.parts")
    _open_parts(parts, _describe_job(evaluator, mark, source, shard_size, intervals))
    counts = []
    with _progress_bar(progress) as bar:
        for k, rows in enumerate(_shards(source, shard_size)):
            path, done = parts / f"{k:08d}.jsonl", True
            if not path.is_file():
                done = False
                scored = _score_rows(evaluator, rows, batch_size, intervals)
                with write_atomic(path) as tmp, tmp.open("w", encoding="utf-8") as stream:
                    stream.writelines(map(_line, scored))
            counts.append((len(rows), done, *_read_problems(path, k * shard_size)))
            bar.update(len(rows))
    if not counts:
        shutil.rmtree(parts)
        raise ScoringError(f"The input {source} has no rows.")
    _join_parts(parts, len(counts), target)
    shutil.rmtree(parts)
    return ScoreReport(sum(c[0] for c in counts), sum(c[2] for c in counts),
                       [text for c in counts for text in c[3]][:20], sum(c[0] for c in counts if c[1]))


def score_rows(folder: str | Path, source: str | Path, target: str | Path, theory: str | None = None,
               intervals: bool = False, shard_size: int = 1024, batch_size: int = 32, workers: int = 0) -> ScoreReport:
    """Score a file by a saved evaluator, on this machine or through Ray Data: what `fulcra score` does.

    Parameters
    ----------
    folder : path
        A saved evaluator.
    source, target : path
        As `score_file`.
    theory : str, optional
        Name or path of the theory the evaluator must be one of.
    intervals, shard_size, batch_size
        As `score_file`.
    workers : int
        Ray actors; 0 scores without Ray.

    Returns
    -------
    ScoreReport

    Raises
    ------
    ScoringError, EvaluatorError, TheoryError
        One sentence each.
    """
    _check_files(source, target, shard_size)
    if batch_size < 1 or workers < 0:
        raise ScoringError("The batch size must be at least 1 and the workers must not be negative.")
    from fulcra_utils.evaluator import ValueEvaluator
    from fulcra_utils.theory import load_theory
    evaluator = ValueEvaluator.from_pretrained(folder, theory=load_theory(theory) if theory else None)
    if workers:
        n_rows = score_with_ray(folder, source, target, workers)
        problems = [f"line {k + 1}: {row['problem']}" for k, (row, _) in enumerate(iter_rows(target))
                    if row and row.get("value_vector") is None]
        return ScoreReport(n_rows, len(problems), problems[:20], 0)
    return score_file(evaluator, source, target, shard_size, batch_size, intervals, progress=sys.stderr.isatty())


def _check_files(source: str | Path, target: str | Path, shard_size: int) -> tuple[Path, Path]:
    source, target = Path(source), Path(target)
    if shard_size < 1:
        raise ScoringError(f"The shard size is {shard_size}; it must be at least 1.")
    if not source.is_file():
        raise ScoringError(f"The input {source} is no file.")
    for path in (source, target):
        if not path.name.endswith(SUFFIXES):
            raise ScoringError(f"{path} is of no known kind; use {', '.join(SUFFIXES)}.")
    if source.resolve() == target.resolve():
        raise ScoringError(f"Input and output are the same file, {source}.")
    if not target.parent.is_dir():
        raise ScoringError(f"The output's folder {target.parent} does not exist.")
    return source, target


def _progress_bar(progress: bool):
    from tqdm import tqdm
    return tqdm(desc="scoring", unit="row", disable=not progress)


def _describe_job(evaluator: Any, mark: str | None, source: Path, shard_size: int, intervals: bool) -> dict:
    """Return what a resumed run must have in common with the one that was killed."""
    state = source.stat()
    weights = hashlib.sha256()
    if hasattr(evaluator, "state_dict"):
        for name, tensor in evaluator.state_dict().items():
            weights.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
    return {"source": str(source.resolve()), "size": state.st_size, "changed": state.st_mtime_ns, "evaluator": mark,
            "weights": weights.hexdigest(), "shard_size": shard_size, "intervals": intervals}


def _open_parts(parts: Path, job: dict) -> None:
    """Make the folder of finished shards; parts of another job are thrown away."""
    note = parts / "job.json"
    if note.is_file() and json.loads(note.read_text(encoding="utf-8")) == job:
        return
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir()
    with write_atomic(note) as tmp:
        tmp.write_text(json.dumps(job), encoding="utf-8")


def iter_rows(source: str | Path, batch_size: int = 1024) -> Iterator[tuple[Any, str]]:
    """Give the rows of a file one after the other, each with what is wrong with it.

    Parameters
    ----------
    source : path
        .jsonl, .jsonl.gz or .parquet.
    batch_size : int
        Rows of a Parquet file read at a time.

    Yields
    ------
    dict or None, str
        The row, or None when the line is no JSON object; "" or a problem.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile(suffix=".jsonl") as f:
    ...     _ = f.write(b'{"prompt": "a"}\\n[1]\\n'); f.flush()
    ...     list(iter_rows(f.name))
    [({'prompt': 'a'}, ''), (None, 'the line is no JSON object')]
    """
    source = Path(source)
    if source.name.endswith(".parquet"):
        yield from _iter_parquet(source, batch_size)
        return
    try:
        with (gzip.open if source.name.endswith(".gz") else open)(source, "rb") as stream:
            yield from map(_parse, stream)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ScoringError(f"{source} cannot be unpacked: {error}") from error


def _iter_parquet(source: Path, batch_size: int) -> Iterator[tuple[Any, str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq
    try:
        for batch in pq.ParquetFile(source).iter_batches(batch_size=batch_size):
            yield from ((row, "") for row in batch.to_pylist())
    except (pa.ArrowException, OSError) as error:
        raise ScoringError(f"{source} cannot be read as Parquet: {str(error).splitlines()[0]}") from error


def _parse(line: bytes) -> tuple[Any, str]:
    if not line.strip():
        return None, "the line is empty"
    try:
        row = json.loads(line)
    except UnicodeDecodeError:
        return None, "the line is not UTF-8"
    except (ValueError, RecursionError):
        return None, "the line is not valid JSON"
    return (row, "") if isinstance(row, dict) else (None, "the line is no JSON object")


def _shards(source: Path, shard_size: int) -> Iterator[list[tuple[Any, str]]]:
    rows = iter_rows(source, shard_size)
    while shard := list(islice(rows, shard_size)):
        yield shard


def find_problem(row: dict | None) -> str:
    """Return why a row cannot be scored, or an empty string.

    Examples
    --------
    >>> find_problem({"prompt": "a", "response": 3})
    'response is a number, not a text'
    >>> find_problem({"prompt": "a", "response": "b"})
    ''
    """
    names = {"NoneType": "missing", "int": "a number", "float": "a number", "bool": "true or false", "list": "a list",
             "dict": "an object"}
    for field in ("prompt", "response"):
        value = row.get(field)
        if not isinstance(value, str):
            kind = names.get(type(value).__name__, type(value).__name__)
            return f"{field} is missing" if kind == "missing" else f"{field} is {kind}, not a text"
        if not value.strip():
            return f"{field} is empty"
        if any(0xD800 <= ord(c) <= 0xDFFF for c in value):
            return f"{field} holds half of a surrogate pair"
    return "" if split_thoughts(row["response"])[1].strip() else "response holds thoughts only"


def _score_rows(evaluator: Any, rows: Sequence[tuple[Any, str]], batch_size: int, intervals: bool) -> list[dict]:
    """Return the rows with their value vectors, or with the problem that each has."""
    problems = [problem or find_problem(row) for row, problem in rows]
    good = [n for n, problem in enumerate(problems) if not problem]
    texts = [[rows[n][0]["prompt"] for n in good], [split_thoughts(rows[n][0]["response"])[1] for n in good]]
    found = evaluator.score(*texts, batch_size=batch_size, **({"intervals": True} if intervals else {}))
    layers = found if intervals else found[None]
    names = ("value_vector", "value_low", "value_high")[:len(layers)]
    scored = [{**_plain(row), "value_vector": None, "problem": problem} for (row, _), problem in
              zip(rows, problems, strict=True)]
    for place, n in enumerate(good):
        del scored[n]["problem"]
        for name, layer in zip(names, layers, strict=True):
            scored[n][name] = {d: round(float(x), 6) for d, x in zip(evaluator.dimensions, layer[place], strict=True)}
    return scored


def _plain(row: dict | None) -> dict:
    """Return a row's other fields as JSON can hold them."""
    fields = {k: v for k, v in (row or {}).items() if k not in ADDED}
    return json.loads(json.dumps(fields, default=str), parse_constant=lambda _: None)


def _line(row: dict) -> str:
    """Return a row as one line of JSON; half a surrogate pair, which UTF-8 cannot hold, stays escaped."""
    text = json.dumps(row, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(row)
    return text + "\n"


def _read_problems(path: Path, offset: int) -> tuple[int, list[str]]:
    n, texts = 0, []
    with path.open(encoding="utf-8") as stream:
        for k, line in enumerate(stream):
            row = json.loads(line)
            if row.get("value_vector") is None:
                n += 1
                texts.append(f"line {offset + k + 1}: {row['problem']}")
    return n, texts[:20]


def _join_parts(parts: Path, n_parts: int, target: Path) -> None:
    with write_atomic(target) as tmp:
        if target.name.endswith(".parquet"):
            _write_parquet(parts, n_parts, tmp)
            return
        with (gzip.open if target.name.endswith(".gz") else open)(tmp, "wb") as out:
            for k in range(n_parts):
                with (parts / f"{k:08d}.jsonl").open("rb") as stream:
                    shutil.copyfileobj(stream, out)


def _write_parquet(parts: Path, n_parts: int, target: Path) -> None:
    """Write the shards as one Parquet file; the first pass finds a schema that holds every row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def table(k: int) -> pa.Table:
        lines = (parts / f"{k:08d}.jsonl").read_text(encoding="utf-8").splitlines()
        return pa.Table.from_pylist([{**dict.fromkeys(ADDED), **json.loads(line)} for line in lines])
    try:
        schema = pa.unify_schemas([table(k).schema for k in range(n_parts)], promote_options="permissive") \
            if n_parts else pa.schema([("value_vector", pa.null())])
        with pq.ParquetWriter(target, schema) as writer:
            for k in range(n_parts):
                rows = table(k).to_pylist()
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    except pa.ArrowException as error:
        raise ScoringError(f"The rows fit into no Parquet table, write .jsonl instead: {error}") from error


def read_scored_file(path: str | Path) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Read a file that `score_file` wrote.

    Parameters
    ----------
    path : path

    Returns
    -------
    DataFrame
        prompt, then one column per dimension (nan = not scored).
    tuple of str
        The dimensions, in the file's order.

    Raises
    ------
    ScoringError
        When no row has a value vector, or two rows are scored under different theories.
    """
    prompts, scores, dimensions = _read_scores(path, lambda prompt: prompt)
    return pd.DataFrame(scores, columns=list(dimensions)).assign(prompt=prompts), dimensions


def _read_scores(path: str | Path, name: Callable) -> tuple[list, np.ndarray, tuple[str, ...]]:
    """Return name(prompt) of each row, the scores (N, D), nan where there are none, and the dimensions."""
    if not Path(path).is_file() or not Path(path).name.endswith(SUFFIXES):
        raise ScoringError(f"{path} is no file of scored rows ({', '.join(SUFFIXES)}).")
    names, scores, dimensions = [], array("d"), ()
    for number, (row, _) in enumerate(iter_rows(path), 1):
        vector, prompt = (row or {}).get("value_vector"), _read_prompt(row or {})
        vector = vector if isinstance(vector, dict) and prompt is not None else {}
        dimensions = dimensions or tuple(vector)
        if vector and set(vector) != set(dimensions):
            raise ScoringError(f"{path}, row {number}: value_vector names other values than the rows before it.")
        names.append(None if prompt is None else name(prompt))
        scores.extend(_score(vector.get(d)) for d in dimensions)
    if not dimensions:
        raise ScoringError(f"No row of {path} has a value_vector; run `fulcra score` first.")
    table = np.full((len(names), len(dimensions)), np.nan)  # rows before the first vector stay nan
    table[len(names) - len(scores) // len(dimensions):] = np.reshape(scores, (-1, len(dimensions)))
    return names, table, dimensions


def _read_prompt(row: dict) -> str | None:
    try:
        return row["prompt"] if isinstance(row.get("prompt"), str) else read_dialogue(row).prompt
    except RowError:
        return None


def _score(value: Any) -> float:
    """Return a score as a float; nan for what is no finite number."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
    return float(value) if known else np.nan


def compare_files(first: str | Path, second: str | Path, target: Target | dict[str, float] | None = None,
                  level: float = 0.95, n_draws: int = 2000, seed: int = 2023) -> pd.DataFrame:
    """Compare two scored files prompt by prompt, by t intervals over prompts.

    The interval holds its level where two files that do not differ have differences alike to both sides (3 to 8 % are
    called clear from 5 prompts on; fewer where most differences are 0). Where they are as skewed as an exponential
    distribution, it is 11, 10, 8 and 7 % with 5, 10, 20 and 50 prompts.

    Parameters
    ----------
    first, second : path
        As `score_file` writes them; prompts that both have are compared, several replies to a prompt are averaged.
    target : Target, or dict of dimension to number, optional
        Also compare the `value_distance` of the replies to this target.
    level : float
        Of the intervals.
    n_draws, seed : int
        Without effect: nothing is drawn.

    Returns
    -------
    DataFrame
        value (and "distance"), n (prompts), first, second (means), difference (second - first), low, high,
        sd (of the paired differences), clear (the interval excludes 0), clear_holm (still so when all rows of the table
        are corrected together). With fewer than 5 prompts low and high are nan and nothing is clear. `.attrs`:
        only_first, only_second (prompts scored in one file only), unscored_first, unscored_second (rows).

    Raises
    ------
    ScoringError
        When the files share no scored prompt or have other dimensions.

    Source: Student (1908); Holm (1979).
    """
    a, b = _average_prompts(first, target), _average_prompts(second, target)
    if set(a) != set(b):
        raise ScoringError(f"{first} and {second} are scored under other theories: they share "
                           f"{len(set(a) & set(b))} of {len(set(a))} and {len(set(b))} dimensions.")
    shared = a.index.intersection(b.index, sort=False)
    if not len(shared):
        raise ScoringError(f"{first} and {second} share no prompt that is scored in both.")
    left = {"only_first": len(a) - len(shared), "only_second": len(b) - len(shared),
            "unscored_first": a.attrs["unscored"], "unscored_second": b.attrs["unscored"]}
    a = a.reindex(shared)  # one after the other: each may hold millions of prompts
    b = b.reindex(shared)
    table = pd.DataFrame([{"value": name, **_compare_column(a[name], b[name], level)} for name in a])
    table["clear_holm"] = adjust_p(table.pop("p").to_numpy(), "holm") < 1 - level
    table.attrs = left
    return table


def _compare_column(first: pd.Series, second: pd.Series, level: float) -> dict[str, Any]:
    known = first.notna() & second.notna()
    x, y = first[known].to_numpy(), second[known].to_numpy()
    found = {name: column[0] for name, column in compare_paired(y, x, level).items()}
    if len(x) < MIN_PROMPTS:
        found |= {"low": np.nan, "high": np.nan, "p": np.nan}
    clear = bool(found["low"] > 0 or found["high"] < 0)
    means = {"first": x.mean(), "second": y.mean()} if len(x) else dict.fromkeys(("first", "second"), np.nan)
    return {"n": len(x), **means, **{name: found[name] for name in ("difference", "low", "high")},
            "sd": (y - x).std(ddof=1) if len(x) > 1 else np.nan, "clear": clear,
            "p": 0.0 if clear and np.isnan(found["p"]) else found["p"]}  # a constant difference has no p


def _average_prompts(path: str | Path, target: Target | dict[str, float] | None) -> pd.DataFrame:
    """Return the mean scores of each prompt, and of the distances of its replies; prompts stand as hashes."""
    prompts, scores, dimensions = _read_scores(path, hash)
    columns = dict(zip(dimensions, scores.T, strict=True))
    if target is not None:
        names = list(target.dimensions if isinstance(target, Target) else target)
        if set(names) != set(dimensions) or "distance" in columns:
            raise ScoringError(f"The target is for other values than those of {path} ({', '.join(dimensions)}); "
                               "name the theory of the file (--theory).")
        wanted = target if isinstance(target, Target) else np.array(list(target.values()), dtype=float)
        order = [dimensions.index(name) for name in names]
        columns["distance"] = np.concatenate([  # in parts, for a file may have millions of rows
            value_distance(scores[k:k + 65536, order], wanted) for k in range(0, len(scores), 65536)])
    prompts, scored = pd.array(prompts, dtype="Int64"), np.isfinite(scores).any(axis=1)
    prompts[~scored] = pd.NA
    codes, index = pd.factorize(prompts)
    means = pd.DataFrame({name: _average(column, codes, len(index)) for name, column in columns.items()}, index=index,
                         copy=False)
    means.attrs["unscored"] = int((~scored).sum())
    return means


def _average(column: np.ndarray, codes: np.ndarray, n_groups: int) -> np.ndarray:
    """Return the mean of each group 0 … n_groups - 1, nan left out; code -1 is no group."""
    known = np.isfinite(column) & (codes >= 0)
    with np.errstate(invalid="ignore"):
        return (np.bincount(codes[known], column[known], n_groups) / np.bincount(codes[known], minlength=n_groups))


def pass_gate(table: pd.DataFrame, tolerance: float = 0.0) -> bool:
    """Return whether the second file may be released: its distance is not clearly larger than the first one's.

    Parameters
    ----------
    table : DataFrame
        As `compare_files` returns it, with a row "distance".
    tolerance : float
        How much larger the distance may clearly be.

    Returns
    -------
    bool
        False when the whole interval of the difference lies above `tolerance`; True without a row "distance", or
        without an interval, when the gate is undecided.

    Examples
    --------
    >>> pass_gate(pd.DataFrame({"value": ["distance"], "low": [0.02], "high": [0.1]}))
    False
    """
    if np.isnan(tolerance):
        raise ScoringError("The tolerance must be a number.")
    row = table[table.value == "distance"]
    return not (len(row) and bool((row.low > tolerance).all()))


def describe_comparison(table: pd.DataFrame, as_json: bool = False, tolerance: float = 0.0) -> str:
    """Return a comparison as text or JSON, with the prompts that narrower intervals would need and the gate's verdict.

    Examples
    --------
    >>> one = pd.DataFrame({"value": ["fairness"], "n": [9], "first": [0.1], "second": [0.2], "difference": [0.1],
    ...                     "low": [0.0], "high": [0.2], "sd": [0.3], "clear": [False]})
    >>> json.loads(describe_comparison(one, as_json=True))["passed"]
    True
    """
    plan, passed = plan_prompts(table), pass_gate(table, tolerance)
    undecided = bool(table.low[table.value == "distance"].isna().any())
    if as_json:
        return json.dumps({
            "passed": None if undecided else passed, "undecided": undecided, "tolerance": tolerance,
            "n": int(table.n.max()), "least_n": MIN_PROMPTS, "interval": "t over prompts", **table.attrs,
            "differences": json.loads(table.to_json(orient="records")),
            "prompts_needed": json.loads(plan.to_json(orient="records"))}, indent=1)
    verdict = "no target, no gate" if "distance" not in set(table.value) else \
        f"undecided: {table.n.min()} prompts, and an interval needs {MIN_PROMPTS}" if undecided else \
        "passed" if passed else "not passed: the second file is clearly farther from the target"
    return "\n\n".join([table.round(4).to_string(index=False), _describe_prompts(table),
                        "Prompts needed for a 95 % interval of a given width:", plan.round(3).to_string(index=False),
                        verdict])


def _describe_prompts(table: pd.DataFrame) -> str:
    """Say what the intervals rest on, what `clear` promises, and which prompts and rows were left out."""
    left = table.attrs
    return "\n".join([
        f"t intervals over prompts ({table.n.max():,}), replies to one averaged; below {MIN_PROMPTS} there is none.",
        "clear: by its own interval; of 20 rows without a difference one may be clear. clear_holm: all rows together.",
        *([f"Left out: {left['only_first']:,} prompts scored in the first file only, {left['only_second']:,} in the "
           f"second only; rows without scores: {left['unscored_first']:,} and {left['unscored_second']:,}."]
          if any(left.values()) else [])])


def plan_prompts(table: pd.DataFrame, widths: Sequence[float] = (0.2, 0.1, 0.05, 0.02)) -> pd.DataFrame:
    """Return how many prompts an interval of a given width needs, from the spread of the paired differences.

    Parameters
    ----------
    table : DataFrame
        value and sd, as `compare_files` returns them.
    widths : sequence of float
        Whole widths of a 95 % interval.

    Returns
    -------
    DataFrame
        value, sd, then one column per width; missing where the spread is unknown.

    Source: n = (2 · 1.96 · sd / width)² + 1.96² / 2, which allows for the t interval being wider; at least 5.

    Examples
    --------
    >>> int(plan_prompts(pd.DataFrame({"value": ["security"], "sd": [0.5]}), widths=[0.1])["width 0.1"].iloc[0])
    387
    """
    exact = {f"width {w:g}": (2 * 1.96 * table.sd / w) ** 2 + 1.96**2 / 2 for w in widths}
    needed = {name: np.ceil(n).clip(lower=MIN_PROMPTS).astype("Int64") for name, n in exact.items()}
    return pd.DataFrame({"value": table.value, "sd": table.sd, **needed})


def score_with_ray(folder: str | Path, source: str | Path, target: str | Path, n_workers: int = 2,
                   batch_size: int = 256) -> int:
    """Score a JSONL or Parquet file through Ray Data, for more than one machine, and return how many rows it wrote.

    Parameters
    ----------
    folder : path
        A saved evaluator that every worker can read.
    source, target : path
        .jsonl or .parquet.
    n_workers : int
        Actors, each with an evaluator of its own; Ray places them on the machines of the cluster it is connected to.
    batch_size : int
        Rows a call.

    Returns
    -------
    int

    Raises
    ------
    ScoringError
        When Ray is not installed (`pip install 'fulcra-utils[ray]'`) or the files cannot be used.

    Source: ours; output order is input order, as each row carries its number.
    """
    try:
        import ray.data
    except ImportError as error:
        raise ScoringError("Ray is not installed: pip install 'fulcra-utils[ray]'.") from error
    source, target = _check_files(source, target, batch_size)
    rows = [{"place": k, "row": json.dumps(row, default=str), "problem": problem}
            for k, (row, problem) in enumerate(iter_rows(source))]
    ordered = ray.data.from_items(rows).map_batches(
        _RayScorer, fn_constructor_args=(str(Path(folder).resolve()),), batch_size=batch_size, concurrency=n_workers)
    scored = sorted(ordered.take_all(), key=lambda item: item["place"])
    with write_atomic(target) as tmp:
        if target.name.endswith(".parquet"):
            pd.DataFrame([json.loads(item["scored"]) for item in scored]).to_parquet(tmp, index=False)
        else:
            opener: Callable = gzip.open if target.name.endswith(".gz") else open
            with opener(tmp, "wt", encoding="utf-8") as out:
                out.writelines(item["scored"] for item in scored)
    return len(scored)


class _RayScorer:
    """One worker of `score_with_ray`: loads the evaluator once and scores batch after batch."""

    def __init__(self, folder: str):
        from fulcra_utils.evaluator import ValueEvaluator
        self.evaluator = ValueEvaluator.from_pretrained(folder)

    def __call__(self, batch: dict) -> dict:
        """Score one batch of rows."""
        rows = [(json.loads(row), str(problem)) for row, problem in zip(batch["row"], batch["problem"], strict=True)]
        scored = _score_rows(self.evaluator, rows, 32, intervals=False)
        return {"place": batch["place"], "scored": [_line(row) for row in scored]}

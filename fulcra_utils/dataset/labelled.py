"""Labelled and scored files read into a table and value vectors, with what was wrong with each row.

Rules for the labels of the released files (all counted in `ValueDataset.problems`):

- a sign written "1+", "=1" or "1" is read as +1, "1-" or "=-1" as -1; upper case and aliases are read as the name;
- a name of a finer theory in a list of dimensions ("humility") is read by the dimension's aliases;
- a name in no list ("be respectful") costs that label, never the row;
- a dimension given with both signs takes the sign of the sum of its item labels, 0 on a tie;
- a row without any label is kept with an all-nan vector, unless it carries the field `not_annotated`, which says that
  everything else was looked at;
- a row is set aside only when its prompt or its reply cannot be read.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from fulcra_utils.dataset.rows import Dialogue, RowError, find_turns, pick_rows
from fulcra_utils.dataset.texts import DatasetError, clean_text, shorten
from fulcra_utils.theory.theory import Theory, load_theory

SIGNS = {"+1": 1, "-1": -1, "\N{MINUS SIGN}1": -1, "0": 0, "+0": 0, "1": 1, "1+": 1, "=1": 1, "1-": -1, "=-1": -1,
         "-0": 0}
WELL_WRITTEN = {"+1", "-1", "0"}
CHUNK = 20_000  # rows held as Python objects at a time
SCHEMA = pa.schema([
    ("prompt", pa.large_string()), ("response", pa.large_string()), ("query_source", pa.large_string()),
    ("response_source", pa.large_string()), ("safety_issues", pa.list_(pa.string())), ("reward", pa.float64()),
    ("e_distance", pa.float64()), ("h_distance", pa.float64()), ("line", pa.int64()),
])


@dataclass(frozen=True)
class ValueDataset:
    """Annotated replies as a table of N rows and value vectors; `read_dataset` and `read_scored` return it.

    - table: prompt, response, query_source, response_source, safety_issues (list of str, None when the row has no such
      field), reward (nan when absent), line; scored files also e_distance and h_distance. Text is kept in Arrow.
    - vectors, shape (N, D): labels -1, 0, +1, or scores in [-1, 1]; nan = not annotated.
    - item_labels, int8, shape (N, I): labels of the value items; 0 = not mentioned.
    - problems: line, field, text, reason; one row for each thing that was read by a rule or set aside.
    - n_read: rows in the file, always `len(table) + n_set_aside`.
    - raw_labels: each dimension label as it stands in the file ("security: +1") → how often.

    Examples
    --------
    >>> from fulcra_utils.common.paths import DATA
    >>> data = read_dataset(DATA / "sample" / "schwartz10.jsonl", "schwartz10")
    >>> data.vectors.shape == (len(data.table), 10), data.n_set_aside
    (True, 0)
    """

    table: pd.DataFrame
    vectors: np.ndarray
    item_labels: np.ndarray
    problems: pd.DataFrame
    n_read: int
    raw_labels: Counter = field(default_factory=Counter)

    @property
    def n_set_aside(self) -> int:
        """Return how many rows could not be read."""
        return self.n_read - len(self.table)

    @classmethod
    def of_nothing(cls, theory: Theory) -> ValueDataset:
        """Return what an empty file gives."""
        return _join([], theory, Problems(Path()).frame(), 0, Counter())

    def count_labels(self, theory: Theory) -> pd.DataFrame:
        """Return how often each label stands in the file (raw) and in the vectors (after; 0 for strange names)."""
        counts = Counter()
        for text, n in self.raw_labels.items():
            name, _, sign = text.rpartition(":")
            counts[name.strip(), "+1" if sign.strip() == "1" else sign.strip()] += n
        after = {(name, sign): int(np.sum(self.vectors[:, d] == value)) for d, name in enumerate(theory.dimensions)
                 for sign, value in (("+1", 1), ("-1", -1))}
        keys = list(after) + sorted(set(counts) - set(after))
        return pd.DataFrame([(*key, counts[key], after.get(key, 0)) for key in keys],
                            columns=["name", "label", "raw", "after"])


def read_dataset(path: str | Path, theory: Theory | str, strict: bool = False) -> ValueDataset:
    """Read annotated rows (released shape; .jsonl, .jsonl.gz or .parquet) into a table and value vectors.

    Rows have `dialogue` ("Human: …\\nBob: …") or `prompt` and `response`, or what else `read_dialogue` reads;
    `value_items` and `value_types` (["security: -1", …]); optionally `not_annotated` ([{"item", "reason"}]). A theory
    with a parent takes its vectors from the items (the sign of the summed item labels); one without takes the dimension
    labels where a row has any, else the items. The rules for quirks of the released files stand at the head of this
    module; each use is counted in `problems`.

    DatasetError when the file cannot be opened or, with `strict`, for the first problem of the file; it names file,
    line and field.

    Examples
    --------
    >>> import json, tempfile
    >>> row = {"dialogue": "Human: Hi\\nBob: Hello.", "value_items": ["be polite: +1"],
    ...        "value_types": ["conformity: 1+"]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "rows.jsonl"
    ...     _ = path.write_text(json.dumps(row))
    ...     data = read_dataset(path, "schwartz10")
    >>> data.vectors
    array([[0., 0., 0., 0., 0., 0., 0., 1., 0., 0.]])
    >>> data.problems[["line", "field", "reason"]].values.tolist()
    [[1, 'value_types', "sign written '1+', read as +1"]]
    """
    theory = load_theory(theory)
    return _read(path, theory, _LabelReader(theory), strict)


def read_scored(path: str | Path, theory: Theory | str, strict: bool = False) -> ValueDataset:
    """Read replies with a score in [-1, 1] per dimension (`value_reward`: D numbers; `value_vector`: by name).

    A row without usable scores has nan and a problem. `value_reward` has no names: the caller vouches that the theory
    is the file's. Otherwise as `read_dataset`.

    Examples
    --------
    >>> import json, tempfile
    >>> row = {"prompt": "Hi", "answer": "Hello.", "value_vector": {"care": 0.5, "fairness": -1}}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "rows.jsonl"
    ...     _ = path.write_text(json.dumps(row))
    ...     read_scored(path, "moral_foundations").vectors
    array([[ 0.5, -1. ,  nan,  nan,  nan]])
    """
    theory = load_theory(theory)
    return _read(path, theory, _ScoreReader(theory), strict)


def items_to_vectors(item_labels: np.ndarray, theory: Theory) -> np.ndarray:
    """Return the value vectors (N, D) of item labels (N, I): the sign of each dimension's summed labels; nan stays.

    On the released data this sign-sum rule gives the dimension labels of 1,666 of 1,718 rows.

    Examples
    --------
    >>> theory = load_theory("moral_foundations")
    >>> labels = np.zeros((1, theory.n_items))
    >>> labels[0, :3] = [1, 1, -1]
    >>> labels[0, -1] = np.nan
    >>> items_to_vectors(labels, theory)
    array([[ 1.,  0.,  0.,  0., nan]])
    """
    labels, members = np.asarray(item_labels, dtype=np.float32), theory.item_matrix.astype(np.float32)
    missing = np.isnan(labels)
    if not missing.any():
        return np.sign(labels @ members).astype(float)
    return np.where(missing @ members > 0, np.nan, np.sign(np.where(missing, 0, labels) @ members).astype(float))


def read_list(row: dict, name: str) -> list | None:
    """Return a list field that may be a stringified list; None when absent, RowError when it is no list."""
    value = row.get(name)
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            value = [value] if value.strip() else []
    if value is None or isinstance(value, list | tuple):
        return value if value is None else list(value)
    raise RowError(name, f"is no list but {type(value).__name__}", row[name])


def _read_number(row: dict[str, Any], name: str, line: int, problems: Problems) -> float:
    """Return a field's number; nan without one, and a problem when there is something else."""
    value = row.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        with suppress(OverflowError):
            return float(value)
    if value is not None:
        problems.add(line, name, value, "is no number: left out")
    return np.nan


def check_scores(scores: dict[str, Any]) -> dict[str, float]:
    """Return scores by dimension as numbers, null as nan; raise ValueError for what is no number from -1 to 1."""
    for name, value in scores.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1):
            raise ValueError(f"gives {name} as {shorten(value)}, not a number from -1 to 1")
    return {name: np.nan if value is None else float(value) for name, value in scores.items()}


class Problems:
    """Collect (line, field, text, reason)."""

    def __init__(self, path: Path, strict: bool = False):
        self.path, self.strict, self.rows = path, strict, []

    def add(self, line: int, name: str, text: Any, reason: str) -> None:
        """Keep one, its text shortened."""
        self.rows.append((line, name, shorten(text), reason))

    def set_aside(self, line: int, fault: RowError) -> None:
        """Keep why a row could not be read."""
        self.add(line, fault.field.removeprefix("the "), fault.text, f"{fault.reason}: row set aside")

    def stop(self) -> None:
        """In strict mode raise the problem that comes first in the file."""
        if self.strict and self.rows:
            line, name, text, reason = min(self.rows, key=lambda row: row[0])
            raise DatasetError(f"{self.path}, line {line}, {name}: {text!r} {reason}")

    def frame(self) -> pd.DataFrame:
        """Return the table of problems."""
        return pd.DataFrame(self.rows, columns=["line", "field", "text", "reason"])


class _LabelReader:
    """Turn the label fields of a chunk of rows into vectors and item labels."""

    def __init__(self, theory: Theory):
        self.theory, self.raw = theory, Counter()
        self.parent = load_theory(_parent_of(theory)) if theory.parent else None
        self.known: dict[tuple[str, str], tuple] = {}

    def read(self, rows: list[tuple[int, dict, Dialogue]], problems: Problems) -> tuple[np.ndarray, np.ndarray]:
        theory, n = self.theory, len(rows)
        items = np.zeros((n, theory.n_items), dtype=np.int16)
        plus, minus = (np.zeros((n, theory.n_dims), dtype=np.int16) for _ in range(2))
        missing, looked = np.zeros((n, theory.n_dims), dtype=bool), np.zeros(n, dtype=bool)
        told = np.zeros_like(missing)  # by a person: stands whatever the items say
        for i, (line, row, _) in enumerate(rows):
            if isinstance(row.get("decided_by"), dict):
                told[i] = [bool(row["decided_by"].get(name)) for name in theory.dimensions]
            for index, sign in self._labels(row, "value_items", line, problems):
                items[i, index] += sign
                looked[i] = True
            for index, sign in self._labels(row, "value_types", line, problems):
                (plus if sign > 0 else minus)[i, index] += sign != 0
                looked[i] = True
            if row.get("not_annotated") is not None:
                looked[i] = True
                for dims in self._missing(row["not_annotated"], line, problems):
                    missing[i, dims] = True
        items = np.sign(items).astype(np.int8)
        return self._vectors(items, plus, minus, missing, told, looked, [line for line, *_ in rows], problems), items

    def _vectors(self, items, plus, minus, missing, told, looked, lines, problems) -> np.ndarray:
        summed = items_to_vectors(items, self.theory)
        both = (plus > 0) & (minus > 0)
        for i, d in np.argwhere(both):
            problems.add(lines[i], "value_types", self.theory.dimensions[d],
                         f"has both signs, decided by its items as {int(summed[i, d]):+d}")
        typed = np.where(both, summed, np.sign(plus - minus))
        has_types = ((plus + minus) > 0).any(axis=1)
        vectors = np.where(has_types[:, None] & (self.parent is None), typed, summed)
        vectors[missing & ~((plus + minus) > 0)] = np.nan
        vectors[told] = typed[told]
        vectors[~looked] = np.nan
        for i in np.flatnonzero(~looked):
            problems.add(lines[i], "value_types", "", "row has no label: kept, all values not annotated")
        return vectors

    def _labels(self, row: dict, name: str, line: int, problems: Problems) -> Iterator[tuple[int, int]]:
        try:
            entries = read_list(row, name) or ()
        except RowError as fault:
            problems.add(line, name, fault.text, fault.reason)
            return
        for entry in entries:
            if not isinstance(entry, str):
                problems.add(line, name, entry, "label is not text")
                continue
            if name == "value_types":
                self.raw[entry] += 1
            found = self.known.get((name, entry))
            if found is None:
                found = self.known[name, entry] = self._parse(entry, name)
            index, sign, reason = found
            if reason:
                problems.add(line, name, entry, reason)
            if index is not None:
                yield index, sign

    def _parse(self, entry: str, name: str) -> tuple[int | None, int, str]:
        """Return (index or None, sign, reason) for one label; an empty reason means that it is well written."""
        text, colon, sign = entry.rpartition(":")
        text, sign = text.strip(), sign.strip()
        if not colon or sign not in SIGNS:
            return None, 0, "label does not end in ': +1' or ': -1', label dropped"
        items = name == "value_items"
        index = (self.theory.find_item if items else self.theory.find_dimension)(text)
        if index is None:
            if not items and self.parent is not None and self.parent.find_dimension(text) is not None:
                return None, 0, ""  # a label of the parent theory: the vectors come from the items
            return None, 0, f"is no {'item' if items else 'dimension'} of {self.theory.name}, label dropped"
        proper = (self.theory.items if items else self.theory.dimensions)[index]
        reasons = [f"sign written {sign!r}, read as {SIGNS[sign]:+d}"] if sign not in WELL_WRITTEN else []
        if text != proper:
            reasons.append(f"read as {proper!r}")
        return index, SIGNS[sign], "; ".join(reasons)

    def _missing(self, value: Any, line: int, problems: Problems) -> Iterator[Any]:
        """Yield the dimensions that `not_annotated` leaves open."""
        for entry in value if isinstance(value, list) else [value]:
            text = entry.get("item") if isinstance(entry, dict) else entry
            item = self.theory.find_item(text) if isinstance(text, str) else None
            dim = self.theory.find_dimension(text) if isinstance(text, str) else None
            if item is None and dim is None and text != "*":
                problems.add(line, "not_annotated", entry, f"names no item or dimension of {self.theory.name}")
            else:
                yield slice(None) if text == "*" else self.theory.item_dims[item] if item is not None else dim


class _ScoreReader:
    """Turn `value_reward` or `value_vector` of a chunk of rows into vectors."""

    def __init__(self, theory: Theory):
        self.theory, self.raw = theory, Counter()

    def read(self, rows: list[tuple[int, dict, Dialogue]], problems: Problems) -> tuple[np.ndarray, np.ndarray]:
        vectors = np.full((len(rows), self.theory.n_dims), np.nan)
        for i, (line, row, _) in enumerate(rows):
            name = "value_vector" if row.get("value_vector") is not None else "value_reward"
            reason = self._fill(vectors[i], row.get(name))
            if reason:
                vectors[i] = np.nan
                problems.add(line, name, row.get(name), reason)
        return vectors, np.zeros((len(rows), self.theory.n_items), dtype=np.int8)

    def _fill(self, vector: np.ndarray, scores: Any) -> str:
        """Write the scores of one row into `vector`; return what is wrong with them, or nothing."""
        if isinstance(scores, dict):
            indices = [self.theory.find_dimension(str(name)) for name in scores]
            if None in indices:
                return f"names a dimension that {self.theory.name} does not have"
            if len(set(indices)) < len(indices):
                return "names a dimension twice"
        elif not isinstance(scores, list) or len(scores) != len(vector) or None in scores:
            return f"is not a list of {len(vector)} numbers"
        else:
            indices, scores = slice(None), dict(zip(self.theory.dimensions, scores, strict=True))
        try:
            vector[indices] = list(check_scores(scores).values())
        except ValueError as error:
            return str(error)
        return ""


def _parent_of(theory: Theory) -> Path | str:
    beside = theory.path.parent / f"{theory.parent}.yaml"
    return beside if beside.is_file() else theory.parent


def _read(path: str | Path, theory: Theory, reader: _LabelReader | _ScoreReader, strict: bool) -> ValueDataset:
    problems, n_read = Problems(Path(path), strict), 0
    chunks: list[tuple[pa.RecordBatch, np.ndarray, np.ndarray]] = []
    rows: list[tuple[int, dict, Dialogue]] = []

    def flush():
        if rows:
            vectors, items = reader.read(rows, problems)
            chunks.append((_batch(rows, problems), vectors, items))
            rows.clear()
        problems.stop()

    for line, row, dialogue, fault in pick_rows(path, lambda row: Dialogue(tuple(find_turns(row)))):
        n_read += 1
        if fault:
            problems.set_aside(line, fault)
        else:
            rows.append((line, row, dialogue))
        if len(rows) >= CHUNK or strict and fault:  # a row before it, not looked at yet, may hold an earlier fault
            flush()
    flush()
    return _join(chunks, theory, problems.frame(), n_read, reader.raw)


def _batch(rows: list[tuple[int, dict, Dialogue]], problems: Problems) -> pa.RecordBatch:
    """Return the texts and plain fields of a chunk of rows as Arrow."""
    def read(row: dict, line: int, dialogue: Dialogue) -> dict[str, Any]:
        try:
            issues = read_list(row, "safety_issues")
        except RowError as fault:
            problems.add(line, fault.field, fault.text, fault.reason)
            issues = None
        reward = "rating" if row.get("reward") is None else "reward"
        return {
            "prompt": _clean_told(dialogue.prompt, line, "prompt", problems),
            "response": _clean_told(dialogue.response, line, "response", problems), "line": line,
            "safety_issues": None if issues is None else [str(v) for v in issues],
            "reward": _read_number(row, reward, line, problems),
            **{name: _read_number(row, name, line, problems) for name in ("e_distance", "h_distance")},
            **{name: None if row.get(name) is None else str(row[name]) for name in ("query_source", "response_source")}}

    return pa.RecordBatch.from_pylist([read(row, line, dialogue) for line, row, dialogue in rows], schema=SCHEMA)


def _clean_told(text: str, line: int, name: str, problems: Problems) -> str:
    cleaned = clean_text(text)
    if cleaned != text:
        what = "NUL characters" if "\x00" in text else "half a character"
        problems.add(line, name, text.replace("\x00", "\\0").encode("utf-8", "replace").decode(),
                     f"holds {what}, replaced")
    return cleaned


def _join(chunks: list, theory: Theory, problems: pd.DataFrame, n_read: int, raw: Counter) -> ValueDataset:
    arrow = pa.Table.from_batches([batch for batch, _, _ in chunks], schema=SCHEMA)
    text = pd.StringDtype("pyarrow", na_value=np.nan)  # stays in Arrow
    table = arrow.to_pandas(types_mapper=lambda kind: text if pa.types.is_large_string(kind) else None,
                            self_destruct=True, split_blocks=True)
    vectors = np.concatenate([v for _, v, _ in chunks]) if chunks else np.empty((0, theory.n_dims))
    items = np.concatenate([i for _, _, i in chunks]) if chunks else np.empty((0, theory.n_items), dtype=np.int8)
    return ValueDataset(table, vectors, items, problems, n_read, raw)



"""Labelled and scored files read into a table and a value matrix, with what was wrong with each row."""

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

from fulcra_utils.dataset.rows import Dialogue, RowError, _find_turns, iter_rows
from fulcra_utils.dataset.texts import DatasetError, _clean, _has_words, _short
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
    """Annotated replies as a table and a value matrix.

    Attributes
    ----------
    table : DataFrame, N rows
        prompt, response, query_source, response_source, safety_issues (list of str, None when the row has no such
        field), reward (nan when absent), line; scored files also e_distance and h_distance. Text is kept in Arrow.
    vectors : array, shape (N, D)
        Labels -1, 0, +1, or scores in [-1, 1]; nan = not annotated.
    item_labels : array of int8, shape (N, I)
        Labels of the value items; 0 = not mentioned.
    problems : DataFrame
        line, field, text, reason: one row for each thing that was read by a rule or set aside.
    n_read : int
        Rows in the file; always `len(table) + n_set_aside`.
    raw_labels : Counter
        Each dimension label as it stands in the file ("security: +1") → how often.
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

    def count_labels(self, theory: Theory) -> pd.DataFrame:
        """Return how often each label stands in the file (raw) and in the vectors (after the rules).

        Returns
        -------
        DataFrame
            name, label, raw, after; a name or sign that is not the theory's own has `after` = 0.
        """
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
    """Read annotated rows (released shape; .jsonl, .jsonl.gz or .parquet) into a table and a value matrix.

    Parameters
    ----------
    path : str or Path
        Rows with `dialogue` ("Human: …\\nBob: …") or `prompt` and `response`, `value_items` and `value_types`
        (["security: -1", …]) and optionally `not_annotated` ([{"item", "reason"}]).
    theory : Theory or str
        A theory with a parent takes its vectors from the items (the sign of the summed item labels); one without takes
        the dimension labels where a row has any, else the items.
    strict : bool
        Raise the first problem of the file instead of counting them.

    Returns
    -------
    ValueDataset
        `vectors` holds -1, 0, +1 and nan for what was not annotated.

    Raises
    ------
    DatasetError
        When the file cannot be opened, or in strict mode for the first problem of the file; names file, line and field.

    Source: row shape and quirks as in the released files; the rules are ours.

    Examples
    --------
    >>> import tempfile
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
    """Read replies with one score per dimension (`value_reward`: D numbers; or `value_vector`: {dimension: number}).

    Parameters
    ----------
    path, theory, strict
        As in `read_dataset`. `value_reward` has no names: the caller vouches that the theory is the file's.

    Returns
    -------
    ValueDataset
        `vectors` holds the scores in [-1, 1]; a row without usable scores has nan and a problem.

    Examples
    --------
    >>> import tempfile
    >>> row = {"prompt": "Hi", "answer": "Hello.", "value_vector": {"care": 0.5, "fairness": -1}}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "rows.jsonl"
    ...     _ = path.write_text(json.dumps(row))
    ...     read_scored(path, "moral_foundations").vectors
    array([[ 0.5, -1. ,  nan,  nan,  nan]])
    """
    theory = load_theory(theory)
    return _read(path, theory, _ScoreReader(theory), strict)


def read_prompts(path: str | Path) -> pd.DataFrame:
    """Read a prompt pool: one row per line with prompt, safety_issues (list of str) and line.

    Rows without a readable prompt are set aside and returned in `.attrs["problems"]`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "p.jsonl"
    ...     _ = path.write_text('{"prompt": "Why?", "safety_issues": "[\\'drug\\']"}')
    ...     read_prompts(path).safety_issues[0]
    ['drug']
    """
    return _read_plain(path, lambda row: {"prompt": _text(row, "prompt"),
                                          "safety_issues": _read_list(row, "safety_issues")})


def read_preferences(path: str | Path) -> pd.DataFrame:
    """Read preference pairs in the HH-RLHF shape: prompt (the last Human turn), chosen and rejected replies, line.

    Rows that cannot be read are set aside and returned in `.attrs["problems"]`.

    Examples
    --------
    >>> import tempfile
    >>> row = {"chosen": "\\n\\nHuman: Hi\\n\\nAssistant: Hello.", "rejected": "\\n\\nHuman: Hi\\n\\nAssistant: Go."}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "p.jsonl"
    ...     _ = path.write_text(json.dumps(row))
    ...     read_preferences(path)[["prompt", "chosen", "rejected"]].values.tolist()
    [['Hi', 'Hello.', 'Go.']]
    """
    def pick(row):
        prompt, chosen = _last_turn(_text(row, "chosen"))
        return {"prompt": prompt, "chosen": chosen, "rejected": _last_turn(_text(row, "rejected"))[1]}

    return _read_plain(path, pick)


def items_to_vectors(item_labels: np.ndarray, theory: Theory) -> np.ndarray:
    """Return the value vectors by the sign-sum rule: the sign of a dimension's summed item labels.

    Parameters
    ----------
    item_labels : array, shape (N, I)
        Labels -1, 0, +1; nan = this item was not annotated, which makes its dimension nan.
    theory : Theory

    Returns
    -------
    array, shape (N, D)
        -1.0, 0.0, +1.0 or nan.

    Source: facts of the released data, where this rule gives the dimension labels in 1,666 of 1,718 rows.

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


def _text(row: dict, name: str) -> str:
    """Return a field as text; set the row aside when there is none."""
    if row.get(name) is None:
        raise RowError(name, "is missing")
    if not isinstance(row[name], str):
        raise RowError(name, "is not text", row[name])
    if not _has_words(row[name]):
        raise RowError(name, "is empty")
    return row[name]


def _last_turn(text: str) -> tuple[str, str]:
    """Return the last Human turn and the Assistant's answer to it."""
    before, found, answer = text.rpartition("\n\nAssistant:")
    prompt = before.rpartition("\n\nHuman:")[2].strip()
    if not found or not prompt or not answer.strip():
        raise RowError("chosen/rejected", "is not of the form 'Human: … Assistant: …'", text)
    return prompt, answer.strip()


def _read_list(row: dict, name: str) -> list | None:
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


def _read_number(row: dict[str, Any], name: str, line: int, problems: _Problems) -> float:
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
            raise ValueError(f"gives {name} as {_short(value)}, not a number from -1 to 1")
    return {name: np.nan if value is None else float(value) for name, value in scores.items()}


class _Problems:
    """Collect (line, field, text, reason)."""

    def __init__(self, path: Path, strict: bool):
        self.path, self.strict, self.rows = path, strict, []

    def add(self, line: int, name: str, text: Any, reason: str) -> None:
        self.rows.append((line, name, _short(text), reason))

    def stop(self) -> None:
        """In strict mode raise the problem that comes first in the file."""
        if self.strict and self.rows:
            line, name, text, reason = min(self.rows, key=lambda row: row[0])
            raise DatasetError(f"{self.path}, line {line}, {name}: {text!r} {reason}")

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows, columns=["line", "field", "text", "reason"])


class _LabelReader:
    """Turn the label fields of a chunk of rows into vectors and item labels."""

    def __init__(self, theory: Theory):
        self.theory, self.raw = theory, Counter()
        self.parent = load_theory(_parent_of(theory)) if theory.parent else None
        self.known: dict[tuple[str, str], tuple] = {}

    def read(self, rows: list[dict], lines: list[int], problems: _Problems) -> tuple[np.ndarray, np.ndarray]:
        theory, n = self.theory, len(rows)
        items = np.zeros((n, theory.n_items), dtype=np.int16)
        plus, minus = (np.zeros((n, theory.n_dims), dtype=np.int16) for _ in range(2))
        missing, looked = np.zeros((n, theory.n_dims), dtype=bool), np.zeros(n, dtype=bool)
        told = np.zeros_like(missing)  # by a person: stands whatever the items say
        for i, row in enumerate(rows):
            if isinstance(row.get("decided_by"), dict):
                told[i] = [bool(row["decided_by"].get(name)) for name in theory.dimensions]
            for index, sign in self._labels(row, "value_items", lines[i], problems):
                items[i, index] += sign
                looked[i] = True
            for index, sign in self._labels(row, "value_types", lines[i], problems):
                (plus if sign > 0 else minus)[i, index] += sign != 0
                looked[i] = True
            if "not_annotated" in row and row["not_annotated"] is not None:
                looked[i] = True
                for dims in self._missing(row["not_annotated"], lines[i], problems):
                    missing[i, dims] = True
        items = np.sign(items).astype(np.int8)
        return self._vectors(items, plus, minus, missing, told, looked, lines, problems), items

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

    def _labels(self, row: dict, name: str, line: int, problems: _Problems) -> Iterator[tuple[int, int]]:
        try:
            entries = _read_list(row, name) or ()
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

    def _missing(self, value: Any, line: int, problems: _Problems) -> Iterator[Any]:
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

    def read(self, rows: list[dict], lines: list[int], problems: _Problems) -> tuple[np.ndarray, np.ndarray]:
        vectors = np.full((len(rows), self.theory.n_dims), np.nan)
        for i, row in enumerate(rows):
            name = "value_vector" if row.get("value_vector") is not None else "value_reward"
            reason = self._fill(vectors[i], row.get(name))
            if reason:
                vectors[i] = np.nan
                problems.add(lines[i], name, row.get(name), reason)
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
    path = Path(path)
    problems, n_read = _Problems(path, strict), 0
    chunks, rows, lines, texts = [], [], [], []

    def flush():
        if rows:
            vectors, items = reader.read(rows, lines, problems)
            chunks.append((_batch(rows, lines, texts, problems), vectors, items))
            for kept in (rows, lines, texts):
                kept.clear()
        problems.stop()

    for line, row, reason in iter_rows(path):
        n_read += 1
        try:
            if row is None:
                raise RowError("line", f"is {reason}")
            dialogue = Dialogue(tuple(_find_turns(row)))
        except RowError as fault:
            problems.add(line, fault.field, fault.text, f"{fault.reason}: row set aside")
            if strict:  # a row before it, not looked at yet, may hold an earlier fault
                flush()
            continue
        rows.append(row)
        lines.append(line)
        texts.append((dialogue.prompt, dialogue.response))
        if len(rows) >= CHUNK:
            flush()
    flush()
    return _join(chunks, theory, problems.frame(), n_read, reader.raw)


def _batch(rows: list[dict], lines: list[int], texts: list[tuple[str, str]], problems: _Problems) -> pa.RecordBatch:
    """Return the texts and plain fields of a chunk of rows as Arrow."""
    issues = []
    for row, line in zip(rows, lines, strict=True):
        try:
            value = _read_list(row, "safety_issues")
            issues.append(None if value is None else [str(v) for v in value])
        except RowError as fault:
            problems.add(line, fault.field, fault.text, fault.reason)
            issues.append(None)
    columns = {
        "prompt": [_clean_told(p, line, "prompt", problems) for (p, _), line in zip(texts, lines, strict=True)],
        "response": [_clean_told(r, line, "response", problems) for (_, r), line in zip(texts, lines, strict=True)],
        "safety_issues": issues, "line": lines,
        "reward": [_read_number(row, "rating" if row.get("reward") is None else "reward", line, problems)
                   for row, line in zip(rows, lines, strict=True)],
    }
    for name in ("query_source", "response_source"):
        columns[name] = [None if row.get(name) is None else str(row[name]) for row in rows]
    for name in ("e_distance", "h_distance"):
        columns[name] = [_read_number(row, name, line, problems) for row, line in zip(rows, lines, strict=True)]
    return pa.RecordBatch.from_pydict({name: columns[name] for name in SCHEMA.names}, schema=SCHEMA)


def _clean_told(text: str, line: int, name: str, problems: _Problems) -> str:
    cleaned = _clean(text)
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


def _read_plain(path: str | Path, pick: Any) -> pd.DataFrame:
    """Read rows with `pick`; what cannot be read is set aside into `.attrs["problems"]`."""
    problems, kept = _Problems(Path(path), strict=False), []
    for line, row, reason in iter_rows(path):
        try:
            if row is None:
                raise RowError("line", f"is {reason}")
            kept.append({**pick(row), "line": line})
        except RowError as fault:
            problems.add(line, fault.field, fault.text, f"{fault.reason}: row set aside")
    table = pd.DataFrame(kept)
    table.attrs["problems"] = problems.frame().to_dict("records")
    return table

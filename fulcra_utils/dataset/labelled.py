"""Files read into tables, with what was wrong with each row: labelled and scored replies, prompts, preferences.

Rules for the labels of the released files (all counted in `ValueDataset.problems`):

- a sign written "1+", "=1" or "1" is read as +1, "1-" or "=-1" as -1; upper case and aliases are read as the name;
- a name of a finer theory in a list of dimensions ("humility") is read by the dimension's aliases;
- a name in no list ("be respectful") costs that label, never the row;
- a sign outside the scale ("security: 2") costs that label, and its value is not annotated where no other label
  says it;
- a dimension given with both signs takes the sign of the sum of its item labels, 0 on a tie;
- a row without any label is kept with an all-nan vector, unless it carries the field `not_annotated`, which says that
  everything else was looked at; a row of which every label was dropped always is: it is of another theory;
- a row is set aside only when its prompt or its reply cannot be read.
"""

import ast
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from fulcra_utils.dataset.rows import Dialogue, RowError, pick_rows, read_dialogue, read_text
from fulcra_utils.dataset.texts import DatasetError, clean_text, shorten
from fulcra_utils.theory.theory import Theory, load_theory

SIGNS = {"+1": 1, "-1": -1, "\N{MINUS SIGN}1": -1, "0": 0, "+0": 0, "1": 1, "1+": 1, "=1": 1, "1-": -1, "=-1": -1,
         "-0": 0}
CHUNK = 20_000  # rows held as Python objects at a time
SCHEMA = pa.schema([
    *((name, pa.large_string()) for name in ("prompt", "response", "query_source", "response_source")),
    ("safety_issues", pa.list_(pa.string())),
    *((name, pa.float64()) for name in ("reward", "e_distance", "h_distance")), ("line", pa.int64()),
    ("is_summed", pa.bool_())])


@dataclass(frozen=True)
class ValueDataset:
    """Annotated replies as a table of N rows and value vectors; `read_dataset` and `read_scored` return it.

    - table: prompt, response, query_source, response_source, safety_issues (list of str, None when the row has no such
      field), reward (nan when absent), line, is_summed (names items but, under a theory without
      parent, no values: made of the items); scored files also e_distance and h_distance. Text is kept in Arrow.
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
    reader = Reader(path, load_theory(theory), strict)
    return reader.gather(reader.read_labels)


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
    reader = Reader(path, load_theory(theory), strict)
    return reader.gather(reader.read_scores)


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
    return Reader(path).list_plain(lambda row: {"prompt": read_text(row, "prompt"),
                                                "safety_issues": read_list(row, "safety_issues")})


def read_preferences(path: str | Path) -> pd.DataFrame:
    """Read preference pairs in the HH-RLHF shape: prompt (the last Human turn), chosen and rejected replies, line.

    Rows that cannot be read are set aside and returned in `.attrs["problems"]`.

    Examples
    --------
    >>> import json, tempfile
    >>> row = {"chosen": "\\n\\nHuman: Hi\\n\\nAssistant: Hello.", "rejected": "\\n\\nHuman: Hi\\n\\nAssistant: Go."}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "p.jsonl"
    ...     _ = path.write_text(json.dumps(row))
    ...     read_preferences(path)[["prompt", "chosen", "rejected"]].values.tolist()
    [['Hi', 'Hello.', 'Go.']]
    """
    def pick(row):
        (prompt, chosen), (other, rejected) = (_last_turn(read_text(row, name)) for name in ("chosen", "rejected"))
        if other != prompt:
            raise RowError("chosen/rejected", "answer different prompts", other)
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected}

    return Reader(path).list_plain(pick)


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


class Reader:
    """Reads the rows of one file and keeps what was wrong with each."""

    def __init__(self, path: str | Path, theory: Theory | None = None, strict: bool = False):
        self.path, self.theory, self.strict = Path(path), theory, strict
        self.line, self.n_read, self.problems, self.raw = 0, 0, [], Counter()
        self.is_summed = False  # of one row
        self.lost: set[int | None] = set()  # of one row: the dimensions of dropped labels, None = of none
        self.parse = cache(self._parse)

    def tell(self, name: str, text: Any, reason: str) -> None:
        """Keep a problem of the row, its text shortened; in strict mode raise it."""
        text = clean_text(shorten(text))
        if self.strict:
            raise DatasetError(f"{self.path}, line {self.line}, {name}: {text!r} {reason}")
        self.problems.append((self.line, name, text, reason))

    def pick(self, pick: Callable[[dict], Any]) -> Iterator[tuple[dict, Any]]:
        """Yield each row that `pick` can read, and what it makes of it; the others are set aside."""
        for line, row, picked, fault in pick_rows(self.path, pick):
            self.line, self.n_read = line, self.n_read + 1
            if fault:
                self.tell(fault.field.removeprefix("the "), fault.text, f"{fault.reason}: row set aside")
            else:
                yield row, picked

    def list_plain(self, pick: Callable[[dict], dict[str, Any]]) -> pd.DataFrame:
        """Return the rows that `pick` can read as a table."""
        table = pd.DataFrame([{**picked, "line": self.line} for _, picked in self.pick(pick)])
        table.attrs.update(problems=self.list_problems().to_dict("records"), n_read=self.n_read)
        return table

    def list_problems(self) -> pd.DataFrame:
        """Return the table of problems."""
        return pd.DataFrame(self.problems, columns=["line", "field", "text", "reason"])

    def gather(self, read: Callable[[dict], tuple[np.ndarray, np.ndarray]]) -> ValueDataset:
        """Return the file as a data set: `read` gives the value vector and the item labels of a row."""
        found = []

        def read_fields() -> Iterator[dict[str, Any]]:
            for row, dialogue in self.pick(lambda row: read_dialogue(row, clean=str)):
                found.append(read(row))
                yield self._read_fields(row, dialogue)

        fields = read_fields()
        batches = [pa.RecordBatch.from_pylist(part, SCHEMA) for part in iter(lambda: list(islice(fields, CHUNK)), [])]
        vectors = np.array([vector for vector, _ in found], dtype=float).reshape(-1, self.theory.n_dims)
        items = np.array([labels for _, labels in found], dtype=np.int8).reshape(-1, self.theory.n_items)
        text = pd.StringDtype("pyarrow", na_value=np.nan)  # stays in Arrow
        table = pa.Table.from_batches(batches, schema=SCHEMA).to_pandas(
            types_mapper=lambda kind: text if pa.types.is_large_string(kind) else None, self_destruct=True,
            split_blocks=True)
        return ValueDataset(table, vectors, items, self.list_problems(), self.n_read, self.raw)

    def _read_fields(self, row: dict, dialogue: Dialogue) -> dict[str, Any]:
        """Return the texts and plain fields of a row."""
        issues = self._read_list(row, "safety_issues")
        reward = self._read_number(row, "rating" if row.get("reward") is None else "reward")
        return {"prompt": self._clean(dialogue.prompt, "prompt"), "reward": reward, "line": self.line,
                "is_summed": self.is_summed,
                "response": self._clean(dialogue.response, "response"),
                "safety_issues": None if issues is None else [clean_text(str(v)) for v in issues],
                **{name: self._read_number(row, name) for name in ("e_distance", "h_distance")},
                **{name: None if row.get(name) is None else clean_text(str(row[name]))
                   for name in ("query_source", "response_source")}}

    def _read_list(self, row: dict, name: str) -> list | None:
        try:
            return read_list(row, name)
        except RowError as fault:
            self.tell(name, fault.text, f"{fault.reason}, dropped")
            self.lost.add(None)

    def _read_number(self, row: dict[str, Any], name: str) -> float:
        """Return a field's number; nan without one, and a problem when there is something else."""
        value = row.get(name)
        with suppress(OverflowError):
            if isinstance(value, int | float) and not isinstance(value, bool):
                return float(value)
        if value is not None:
            self.tell(name, value, "is no number: left out")
        return np.nan

    def _clean(self, text: str, name: str) -> str:
        if clean_text(text) != text:
            what = "NUL characters" if "\x00" in text else "half a character"
            self.tell(name, clean_text(text.replace("\x00", "\\0")), f"holds {what}, replaced")
        return clean_text(text)

    def read_labels(self, row: dict) -> tuple[np.ndarray, np.ndarray]:
        """Return the value vector (D,) and the item labels (I,) of a row's label fields."""
        theory, told, self.lost, self.of_parent = self.theory, row.get("decided_by"), set(), False
        items, types = self.count_signs(row, "value_items"), self.count_signs(row, "value_types")
        labels = np.sign(items[1] - items[-1])
        summed, given, both = items_to_vectors(labels, theory), types[1:].any(axis=0), types[1:].all(axis=0)
        for d in np.flatnonzero(both):
            reason = f"has both signs, decided by its items as {int(summed[d]):+d}"
            self.tell("value_types", theory.dimensions[d], reason)
        self.is_summed = bool(theory.parent is None and items.any() and not given.any())
        typed = np.where(both, summed, np.sign(types[1] - types[-1]))
        vector = typed.copy() if given.any() and theory.parent is None else summed
        if theory.parent is not None and types.any() and not items.any():     # labels of dimensions alone
            vector = np.where(types.any(axis=0), typed, np.nan if self.of_parent else 0)
        if not items.any() and not types.any() and (self.lost or row.get("not_annotated") is None):
            self.tell("value_types", "", "row has no label: kept, all values not annotated")
            return np.full(theory.n_dims, np.nan), labels
        missing = self._find_missing(row["not_annotated"]) if row.get("not_annotated") is not None else False
        vector[(missing | np.isin(range(theory.n_dims), [*self.lost - {None}])) & ~given] = np.nan
        if isinstance(told, dict):  # by a person: stands whatever the items say
            by_person = [bool(told.get(name)) for name in theory.dimensions]
            vector[by_person] = typed[by_person]
        return vector, labels

    def count_signs(self, row: dict, name: str) -> np.ndarray:
        """Return how often each item or dimension stands with 0, +1 and -1 in a list of labels, shape (3, I or D)."""
        entries = self._read_list(row, name) or ()
        if name == "value_types":
            self.raw.update(entry for entry in entries if isinstance(entry, str))
        counts = np.zeros((3, self.theory.n_items if name == "value_items" else self.theory.n_dims), dtype=int)
        for entry in entries:
            index, sign, reason = self.parse(entry, name) if isinstance(entry, str) else (
                None, 0, "label is not text, label dropped")
            if reason:
                self.tell(name, entry, reason)
            if reason.endswith("dropped"):
                self.lost.add(index if index is None or name == "value_types" else int(self.theory.item_dims[index]))
            elif index is not None:
                counts[sign, index] += 1
            else:
                self.of_parent = True
        return counts

    def _parse(self, entry: str, name: str) -> tuple[int | None, int, str]:
        """Return (index or None, sign, reason) for one label; an empty reason means that it is well written."""
        (text, colon, sign), theory = map(str.strip, entry.rpartition(":")), self.theory
        what, find, names = (("item", theory.find_item, theory.items) if name == "value_items" else
                             ("dimension", theory.find_dimension, theory.dimensions))
        index = find(text if colon else sign)
        if not colon or sign not in SIGNS:
            return index, 0, "label does not end in ': +1' or ': -1', label dropped"
        if index is None:
            parent = theory.parent_theory if what == "dimension" else None
            if parent and parent.find_dimension(text) is not None:
                return None, 0, ""  # of the parent theory: vectors come from items, or are unknown without
            return None, 0, f"is no {what} of {theory.name}, label dropped"
        reasons = [f"sign written {sign!r}, read as {SIGNS[sign]:+d}"] if sign not in ("+1", "-1", "0") else []
        reasons += [f"read as {names[index]!r}"] if text != names[index] else []
        return index, SIGNS[sign], "; ".join(reasons)

    def _find_missing(self, value: Any) -> np.ndarray:
        """Return the dimensions (D,) that `not_annotated` leaves open."""
        theory, missing = self.theory, np.zeros(self.theory.n_dims, dtype=bool)
        for entry in value if isinstance(value, list) else [value]:
            text = str(entry.get("item") if isinstance(entry, dict) else entry)
            item, dim = theory.find_item(text), theory.find_dimension(text)
            if item is None and dim is None and text != "*":
                self.tell("not_annotated", entry, f"names no item or dimension of {theory.name}, dropped")
            else:
                missing[slice(None) if text == "*" else dim if item is None else theory.item_dims[item]] = True
        return missing

    def read_scores(self, row: dict) -> tuple[np.ndarray, np.ndarray]:
        """Return the vector (D,) of a row's scores, all nan where they cannot be used, and no item labels (I,)."""
        name = "value_vector" if row.get("value_vector") is not None else "value_reward"
        try:
            vector = _order_scores(row.get(name), self.theory)
        except ValueError as error:
            self.tell(name, row.get(name), str(error))
            vector = np.full(self.theory.n_dims, np.nan)
        return vector, np.zeros(self.theory.n_items)


def _order_scores(scores: Any, theory: Theory) -> np.ndarray:
    """Return scores, a list or by name, as a vector (D,); ValueError says what is wrong with them."""
    if isinstance(scores, list) and len(scores) == theory.n_dims and None not in scores:
        scores = dict(zip(theory.dimensions, scores, strict=True))
    if not isinstance(scores, dict):
        raise ValueError(f"is not a list of {theory.n_dims} numbers")
    indices = [theory.find_dimension(str(name)) for name in scores]
    if None in indices:
        raise ValueError(f"names a dimension that {theory.name} does not have")
    if len(set(indices)) < len(indices):
        raise ValueError("names a dimension twice")
    vector = np.full(theory.n_dims, np.nan)
    for index, (name, value) in zip(indices, scores.items(), strict=True):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1):
            raise ValueError(f"gives {name} as {shorten(value)}, not a number from -1 to 1")
        vector[index] = np.nan if value is None else value
    return vector


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


def _last_turn(text: str) -> tuple[str, str]:
    """Return the last Human turn and the Assistant's answer to it."""
    before, found, answer = text.rpartition("\n\nAssistant:")
    prompt = before.rpartition("\n\nHuman:")[2].strip()
    if not found or not prompt or not answer.strip():
        raise RowError("chosen/rejected", "is not of the form 'Human: … Assistant: …'", text)
    return prompt, answer.strip()

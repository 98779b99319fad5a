"""Annotated rows ↔ table and value matrix, what was wrong with each row, and splits grouped by prompt.

Rules for the labels of the released files (all counted in `ValueDataset.problems`):

- a sign written "1+", "=1" or "1" is read as +1, "1-" or "=-1" as -1; upper case and aliases are read as the name;
- a name of a finer theory in a list of dimensions ("humility") is read by the dimension's aliases;
- a name in no list ("be respectful") costs that label, never the row;
- a dimension given with both signs takes the sign of the sum of its item labels, 0 on a tie;
- a row without any label is kept with an all-nan vector, unless it carries the field `not_annotated`, which says that
  everything else was looked at;
- a field that is null counts as one that is missing, in every kind of file;
- a row is set aside only when its prompt or its reply cannot be read.
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fulcra_utils.common.paths import DATA
from fulcra_utils.theory.theory import Theory, load_theory, normalise

SIGNS = {"+1": 1, "-1": -1, "\N{MINUS SIGN}1": -1, "0": 0, "+0": 0, "1": 1, "1+": 1, "=1": 1, "1-": -1, "=-1": -1,
         "-0": 0}
WELL_WRITTEN = {"+1", "-1", "0"}
SPLITS = (("train", 0.6), ("validation", 0.1), ("calibration", 0.1), ("test", 0.2))
PUBLISHED_SEED = 2023  # of the splits in data/splits.csv
CHUNK = 20_000  # rows held as Python objects at a time
SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
SHOWN = 80  # characters of a bad value kept in `problems`

SCHEMA = pa.schema([
    ("prompt", pa.large_string()), ("response", pa.large_string()), ("query_source", pa.large_string()),
    ("response_source", pa.large_string()), ("safety_issues", pa.list_(pa.string())), ("reward", pa.float64()),
    ("e_distance", pa.float64()), ("h_distance", pa.float64()), ("line", pa.int64()),
])


class DatasetError(ValueError):
    """A file, or in strict mode a row, that cannot be used; the message names file, line and field."""


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


def list_texts(texts: Iterable[str], name: str = "Text", error: type[ValueError] = DatasetError) -> list[str]:
    """Return the texts of a list, column, array or generator; raise `error` for all else, which would go by letters.

    Examples
    --------
    >>> list_texts(pd.Series(["a", "b"], index=[7, 3])), list_texts(text for text in "ab")
    (['a', 'b'], ['a', 'b'])
    >>> list_texts({"a": 1})
    Traceback (most recent call last):
    fulcra_utils.dataset.DatasetError: Texts come as lists of strings, not as dict.
    """
    odd = isinstance(texts, str | bytes | Mapping | Set) or any(hasattr(texts, n) for n in ("columns", "column_names"))
    if odd or not isinstance(texts, Iterable):
        raise error(f"{name}s come as lists of strings, not as {type(texts).__name__}.")
    texts = texts.to_pylist() if hasattr(texts, "to_pylist") else list(texts)
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise error(f"{name} {place} is a {type(text).__name__}, not a string.")
    return texts


def list_pairs(rows: Any, error: type[ValueError] = DatasetError) -> tuple[list[str], list[str]]:
    """Return the prompts and the responses of rows: pairs, or rows with names as `read_dialogue` reads them.

    Parameters
    ----------
    rows : iterable of pairs or of mappings, DataFrame, Arrow table, `datasets.Dataset`, or mapping of columns

    Raises
    ------
    ValueError
        Of the class `error`; names the row.

    Examples
    --------
    >>> list_pairs([("a", "b"), {"question": "c", "answer": "d"}])
    (['a', 'c'], ['b', 'd'])
    """
    rows = rows.to_pylist() if hasattr(rows, "to_pylist") else rows
    is_foreign = hasattr(rows, "columns") and not isinstance(rows, pd.DataFrame)  # goes by columns, not by rows
    if is_foreign or isinstance(rows, str | bytes | Set) or not isinstance(rows, Iterable):
        raise error(f"Pairs come as a list of (prompt, response) or as a table, not as {type(rows).__name__}.")
    if isinstance(rows, Mapping):
        if any(isinstance(column, str | Mapping) for column in rows.values()):
            raise error("Pairs come as a list of rows; this is a single row, or a mapping of data sets.")
        rows = pd.DataFrame({name: pd.Series(list(column), dtype=object) for name, column in rows.items()})
    if isinstance(rows, pd.DataFrame):
        rows = rows.astype(object).where(rows.notna(), None).to_dict("records")
    found = []
    for place, row in enumerate(rows):
        if (names := getattr(row, "_fields", None) or getattr(getattr(row, "dtype", None), "names", None)) is not None:
            row = dict(zip(names, row, strict=True))  # a named tuple, or a record of an array
        try:
            dialogue = read_dialogue(dict(row)) if isinstance(row, Mapping | pd.Series) else None
        except RowError as fault:
            raise error(f"Row {place}: {fault}.") from None
        if dialogue is None and (isinstance(row, str | bytes | Set) or not isinstance(row, Iterable) or len(row) != 2):
            raise error(f"Row {place} is no pair of prompt and response but {_short(row)!r}.")
        found.append((dialogue.prompt, dialogue.response) if dialogue else tuple(row))
    return [prompt for prompt, _ in found], [response for _, response in found]


def iter_rows(path: str | Path) -> Iterator[tuple[int, dict[str, Any] | None, str]]:
    """Yield (line, row, reason) for each row of a .jsonl, .jsonl.gz or .parquet file, in order.

    A line that is no JSON object, or gives a name twice, has row None and the reason; blank lines are no rows. Memory
    does not grow with the file. Raises DatasetError when the file cannot be opened, ends in the middle of its
    compression or is of another kind (a JSON array, CSV, UTF-16, …), which the message names.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "p.jsonl"
    ...     _ = path.write_text('{"a": 1}\\n\\n[')
    ...     list(iter_rows(path))
    [(1, {'a': 1}, ''), (3, None, 'not valid JSON: Expecting value at column 2')]
    """
    path = Path(path)
    name = path.name.lower()
    try:
        with (gzip.open if name.endswith(".gz") else open)(path, "rb") as lines:
            kind = _find_kind(lines.read(1 << 16))
            lines.seek(0)
            if kind != ("Parquet" if name.endswith(".parquet") else "rows"):
                raise DatasetError(f"{path}: {_KINDS.get(kind, 'is no Parquet file')}")
            if not name.endswith(SUFFIXES):
                raise DatasetError(f"{path}: the name must end in {', '.join(SUFFIXES)}")
            if kind == "Parquet":
                yield from ((i, row, "") for i, row in enumerate(_iter_parquet(path), 1))
                return
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, *_parse_line(line)
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        raise DatasetError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


_KINDS = {
    "Parquet": "is a Parquet file; its name must end in .parquet",
    "gzip": "is compressed by gzip; its name must end in .jsonl.gz", "zip": "is a ZIP or Excel file, not JSON Lines",
    "UTF-16": "is UTF-16 or UTF-32; save it as UTF-8",
    "array": "is one JSON array; write one object a line, without the brackets and commas around them",
    "object": "is one JSON document over several lines; write one object a line",
    "CSV": "looks like CSV; write one JSON object a line",
}
_HEADS = [(re.compile(pattern), kind) for pattern, kind in (
    (rb"PAR1", "Parquet"), (rb"\x1f\x8b", "gzip"), (rb"PK\x03\x04", "zip"),
    (rb"\xff\xfe|\xfe\xff|\x00[^\x00]|[^\x00]\x00", "UTF-16"),
    (rb"\s*\[\s*[{\[\]]|\s*\[\s*\n|\s*\[[^\n]*\s*\Z", "array"), (rb'\s*\{\s*\n\s*"', "object"),
    (rb"(?![^\n]*[{\[])[^\n]*[\w\"'][ ]*[,;\t][ ]*[\w\"'][^\n]*(\n(?!\s*\{)[^\n]*)*\Z", "CSV"))]


def _find_kind(head: bytes) -> str:
    """Return what the first bytes of a file say it is: a name of `_KINDS`, or "rows"."""
    head = head.removeprefix(b"\xef\xbb\xbf")
    return next((kind for pattern, kind in _HEADS if pattern.match(head)), "rows")


def _iter_parquet(path: Path) -> Iterator[dict[str, Any]]:
    file = pq.ParquetFile(path)
    if twice := [name for name, n in Counter(file.schema_arrow.names).items() if n > 1]:
        raise DatasetError(f"{path}: has two columns {twice[0]!r}")
    for batch in file.iter_batches(batch_size=1000):
        try:
            yield from batch.to_pylist()
        except (ValueError, OverflowError) as error:  # a time beyond the year 9999
            raise DatasetError(f"{path}: holds a value that cannot be read: {error}") from error


@dataclass(frozen=True)
class Dialogue:
    """A dialogue that ends in the assistant's reply that is judged.

    Attributes
    ----------
    turns : tuple of (role, text)
        The last turn is the assistant's: all its words since the user's last turn, without tool calls and results.
    """

    turns: tuple[tuple[str, str], ...]

    @property
    def response(self) -> str:
        """Return the reply that is judged."""
        return self.turns[-1][1]

    @property
    def prompt(self) -> str:
        """Return what stands before it: the user's text, or with several turns a transcript, without tool results."""
        before = [turn for turn in self.turns[:-1] if turn[0] not in TOOLS]
        if len(before) == 1 and before[0][0] == "user":
            return before[0][1]
        return "\n".join(f"[{role}] {text}" for role, text in before)

    @property
    def released(self) -> str:
        """Return the dialogue in the released shape, "Human: …" and "Bob: …" on a line of its own.

        Examples
        --------
        >>> Dialogue((("user", "Hi"), ("assistant", "Hello."))).released
        'Human: Hi\\nBob: Hello.'
        """
        prompt, response = self.prompt.replace("\nBob:", "\n Bob:"), self.response.replace("\nHuman:", "\n Human:")
        return f"Human: {prompt}\nBob: {response}"

    @property
    def row_id(self) -> str:
        """Return a name that hangs on the text alone, so that it survives another order of the rows."""
        return hashlib.sha256(json.dumps(self.turns).encode()).hexdigest()[:16]


class RowError(ValueError):
    """A row whose prompt or reply cannot be read: "<field> <reason>", and the bad text."""

    def __init__(self, field: str, reason: str, text: Any = ""):
        super().__init__(f"{field} {reason}")
        self.field, self.reason, self.text = field, reason, text


def read_dialogue(row: dict[str, Any], prompt_field: str = "prompt", response_field: str = "response") -> Dialogue:
    """Return the dialogue of a row, whatever of the usual shapes it has; a field that is null counts as missing.

    Parameters
    ----------
    row : dict
        With the two fields that are named. Left at their defaults: the first of `prompt`, `question`, `instruction`
        (with `input`), `input`, and the first of `response`, `completion`, `output`, `answer`; each is text or a list
        of messages. Else all turns in `messages`, `conversations` or `conversation` ([{"role", "content"}], or
        ShareGPT's [{"from", "value"}]), or the released `dialogue` ("Human: …\\nBob: …").
    prompt_field, response_field : str

    Returns
    -------
    Dialogue
        NUL characters and half characters are replaced; thoughts of the assistant are left out.

    Raises
    ------
    RowError
        One line that names the field.

    Examples
    --------
    >>> read_dialogue({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]})
    Dialogue(turns=(('user', 'Hi'), ('assistant', 'Hello.')))
    >>> read_dialogue({"instruction": "Say hi", "input": "", "output": "Hello."}).response
    'Hello.'
    """
    return Dialogue(tuple((role, _clean(text)) for role, text in _find_turns(row, prompt_field, response_field)))


PROMPTS, REPLIES = ("prompt", "question", "instruction", "input"), ("response", "completion", "output", "answer")
WHOLE = ("messages", "conversations", "conversation", "dialogue")
TOOLS = ("tool", "function")
ROLES = {role: role for role in ("system", "developer", "user", "assistant", *TOOLS)} | {
    "human": "user", "function_response": "tool", "observation": "tool", "ipython": "tool",
    **dict.fromkeys(("gpt", "model", "bot", "chatgpt", "ai", "function_call"), "assistant")}


def _find_turns(row: dict[str, Any], prompt_field: str = "prompt",
                response_field: str = "response") -> list[tuple[str, str]]:
    fields = _find_fields(row, prompt_field, response_field)
    turns = [turn for name, role in zip(fields, ("user", "assistant"), strict=False)
             for turn in _read_turns(row, name, role)]
    thought = bool(turns and _has_words(turns[-1][1]))
    turns = [(role, split_thoughts(text)[1] if role == "assistant" else text) for role, text in turns]
    if not turns or turns[-1][0] != "assistant":
        raise RowError(fields[-1], "does not end in a reply of the assistant")
    start = 1 + max((n for n, (role, _) in enumerate(turns) if role not in ("assistant", *TOOLS)), default=-1)
    reply = "\n".join(text for role, text in turns[start:] if role == "assistant" and _has_words(text))
    before = [(role, text) for n, (role, text) in enumerate(turns)
              if role != "assistant" or n < start and _has_words(text)]
    if not _has_words(reply):
        raise RowError("reply", "holds thoughts only" if thought else "is empty")
    if not any(_has_words(text) for role, text in before if role not in TOOLS):
        raise RowError("prompt", "is empty")
    return [*before, ("assistant", reply)]


def _find_fields(row: dict[str, Any], prompt_field: str, response_field: str) -> tuple[str, ...]:
    """Return the fields that hold a row's prompt and reply, or the one that holds both."""
    own = (prompt_field, response_field) != ("prompt", "response")
    prompts, replies = ((prompt_field,), (response_field,)) if own else (PROMPTS, REPLIES)
    found = [next((name for name in names if row.get(name) is not None), "") for names in (prompts, replies)]
    if not own and row.get("response", "") is None and row.get("problem"):
        # `fulcra reply` got none, and an `answer` beside it is another's
        raise RowError("response", "is missing")
    if not all(found) and not own and (whole := next((name for name in WHOLE if row.get(name) is not None), "")):
        return (whole,)
    if not any(found):
        raise RowError(f"{prompt_field} and {response_field}", "are missing")
    if not all(found):
        raise RowError(response_field if found[0] else prompt_field, "is missing")
    return tuple(found)


def _read_turns(row: dict[str, Any], name: str, role: str) -> list[tuple[str, str]]:
    """Return the turns of a field that holds a text or a list of messages."""
    value = row[name]
    if name == "dialogue" and isinstance(value, str):
        prompt, bob, reply = value.partition("\nBob:")
        if not bob or not prompt.startswith("Human:"):
            raise RowError(name, "is not of the form 'Human: … Bob: …'", value)
        if "\nBob:" in reply.partition("\nHuman:")[2]:
            raise RowError(name, "has several turns; give them as messages", value)
        return [("user", prompt.removeprefix("Human:").strip()), ("assistant", reply.strip())]
    if isinstance(value, str) and name in WHOLE:  # as JSON, which is how a Parquet file may hold it
        with suppress(ValueError):
            value = json.loads(value)
    elif isinstance(value, str):
        if name == "instruction" and isinstance(row.get("input"), str) and row["input"].strip():
            value = f"{value}\n\n{row['input']}"
        return [(role, value)]
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise RowError(name, "is neither text nor a list of messages", value)
    turns = []
    for number, message in enumerate(value, 1):
        said = message.get("role") or message.get("from")
        speaker = ROLES.get(str(said).lower())
        text = _read_words(message) if said != "function_call" else ""
        if speaker is None or text is None and speaker != "assistant":
            raise RowError(name, f"has no usable role and content in message {number}", message)
        turns.append((speaker, text or ""))
    return turns


def _read_words(message: dict[str, Any]) -> str | None:
    """Return the text of a message, or of the text parts of one; None without any."""
    content = message.get("value") if message.get("content") is None else message["content"]
    content = read_content({"content": content})[1] if isinstance(content, list) else content
    return content if isinstance(content, str) else None


def _has_words(text: str) -> bool:
    """Return whether a text holds anything that can be seen."""
    return any(c.isprintable() and not c.isspace() for c in text)


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


def split_thoughts(text: str) -> tuple[str, str]:
    """Return (thoughts, answer) of a language model's text; an answer of "" means that it never got beyond thinking.

    Thoughts are blocks in <think>, <thinking>, <thought>, <reasoning> (any case, nested, several) or [THINK] that open
    the text, or follow the end of a line or sentence; all that follows a block without an end, and what stands before
    it; all that stands before an end without a beginning (a template put that into the prompt); and every channel but
    "final" of <|channel|> text. Marks in code or quotes, within a sentence, or announced by ":" are part of the answer.

    Examples
    --------
    >>> split_thoughts("<think>A? No.</think> B"), split_thoughts("A? No.</think>B"), split_thoughts("<think>A?")
    (('A? No.', 'B'), ('A? No.', 'B'), ('A?', ''))
    >>> split_thoughts("Write `</think>` to end it.")
    ('', 'Write `</think>` to end it.')
    """
    finals = [mark for mark in _FINAL.finditer(text) if not _is_quoted(text, mark)]
    if finals or _CHANNEL.match(text):
        end = finals[-1].end() if finals else len(text)
        return CHANNEL_MARK.sub(" ", text[:end]).strip(), CHANNEL_MARK.split(text[end:])[0].strip()
    thoughts, kept, start, depth, named = [], [], 0, 0, set()
    for mark in THOUGHT_MARK.finditer(text):
        if _is_quoted(text, mark, start):
            continue
        before, starts_line = text[start:mark.start()], not text[:mark.start()].rpartition("\n")[2].strip()
        is_first = not _has_words("".join([*kept, before]))
        if depth:
            depth += 1 if mark["open"] else -1
            if not depth:
                thoughts.append(before)
                start = mark.end()
        elif mark["open"]:
            if is_first or _BEFORE_BLOCK.search(before) and (thoughts or not before.rstrip().endswith(":")):
                kept, start, depth = [] if is_first else [*kept, before], mark.end(), 1
            else:
                named.add(starts_line)
        elif starts_line not in named and (is_first or starts_line or not thoughts):
            thoughts, kept, start = [*thoughts, *kept, before], [], mark.end()
    if depth and not thoughts:  # a greeting before a thought without an end answers nothing
        thoughts, kept = kept, []
    (thoughts if depth else kept).append(text[start:])
    if not thoughts:
        return "", text
    answer = "".join(kept).strip()
    wrapped = re.fullmatch(r"<(answer|response|output)>(.*)</\1>", answer, re.DOTALL | re.IGNORECASE)
    return "\n".join(filter(None, map(str.strip, thoughts))), wrapped[2].strip() if wrapped else answer


def read_content(message: dict[str, Any]) -> tuple[str, str]:
    """Return (thoughts, text) of a chat message: its text or text parts, and what stands in its reasoning fields.

    Examples
    --------
    >>> read_content({"content": None, "reasoning_content": "Hm."})
    ('Hm.', '')
    """
    content = message.get("content")
    parts = [part if isinstance(part, dict) else {"text": part}
             for part in (content if isinstance(content, list) else [content])]
    texts = [part.get("text") for part in parts if part.get("type", "text") in ("text", "input_text", "output_text")]
    names = ("reasoning_content", "reasoning", "thinking")
    thoughts = [holder.get(name) for holder in (message, *parts) for name in names]
    thoughts += [part.get("text") for part in parts if part.get("type") in names]
    thoughts = [read_content({"content": part})[1] if isinstance(part, list) else part for part in thoughts]
    return ("\n".join(dict.fromkeys(t.strip() for t in thoughts if isinstance(t, str) and t.strip())),
            "".join(text for text in texts if isinstance(text, str)))


_NAMES = "(?:think|thinking|thoughts?|reasoning)"
THOUGHT_MARK = re.compile(rf"(?P<open><\s*{_NAMES}(?:\s[^<>]*)?>|(?-i:\[THINK\]))|"
                          rf"<\s*/\s*{_NAMES}\s*>|(?-i:\[/THINK\])", re.IGNORECASE)
_BEFORE_BLOCK = re.compile(r"(?:\A|[.!?…]\s|\n)\s*\Z")  # a line or a sentence ends here
_CHANNEL = re.compile(r"\s*(?:<\|start\|>|<\|channel\|>|analysis(?=[A-Z]))")  # the last: decoded without its marks
_FINAL = re.compile(r"<\|channel\|>\s*final\b[^<]*<\|message\|>|\Aanalysis(?=\S).*?assistantfinal", re.DOTALL)
CHANNEL_MARK = re.compile(r"<\|(?:start|channel|message|end|return|call)\|>\s*"
                           r"(?:assistant|analysis|commentary|final)?")


def _is_quoted(text: str, mark: re.Match, start: int = 0) -> bool:
    """Return whether a mark stands in quotes, in a line's code or in a fenced block that begins after `start`."""
    before, after = text[start:mark.start()], text[mark.end():]
    line = [part.replace("```", "").count("`") % 2 for part in (before.rpartition("\n")[2], after.partition("\n")[0])]
    fence = [len(re.findall(r"^\s*```", part, re.MULTILINE)) % 2 for part in (before, after)]
    return bool(all(line) or all(fence) or before[-1:] + after[:1] in ('""', "''", "\u201c\u201d"))


def is_refusal(responses: Iterable[str]) -> np.ndarray:
    """Return whether each reply declines to do or to answer what was asked, judged by its first two sentences.

    A flag for English replies: the speaker cannot, will not or declines to *serve* (help, provide, answer, write …), or
    apologises and calls the request not appropriate. "I can't wait to help", "I won't lie" and "I don't have opinions"
    decline nothing. It sees neither a refusal that comes later nor that a request is served after all;
    `analysis.check_refusals` says how often it is right.

    Parameters
    ----------
    responses : iterable of str, length N

    Returns
    -------
    array of bool, shape (N,)

    Examples
    --------
    >>> is_refusal(["I'm sorry, but I can't assist with that.", "I can't wait to help!", "I cannot help with this."])
    array([ True, False,  True])
    """
    texts = (text[:400].replace("\N{RIGHT SINGLE QUOTATION MARK}", "'") for text in list_texts(responses, "Response"))
    return np.array([bool(REFUSAL.search(OPENING.match(text)[0])) for text in texts], dtype=bool)


OPENING = re.compile(r"(?:[^.!?\n]*[.!?\s]+){0,2}(?:[^.!?\n]*$)?")  # two sentences
_UNABLE = (r"(?:can ?not|can't|could not|couldn't|will not|won't|unable to|refuse to|"
           r"(?:do not|don't) have the ability to|(?:rather|prefer) not(?: to)?|"
           r"not (?:\w+ly )?(?:able to|going to|willing to|allowed to|programmed to|comfortable))"
           r"(?: (?:and|or) (?:will not|won't|can ?not|can't))?")
_SERVE = (r"(?!(?: [^\s.,;:!?]+){1,7} (?:enough|better)\b) (?:\w+ly )?"
          r"(?:assist|help\b(?! (?:but|it|myself|\w+ing)\b)|provid|offer|giv(?:e|ing)\b(?! up\b)|answer(?! for\b)|"
          r"fulfil|comply|creat|writ(?:e|ing)|generat|engag|participat|take part|discuss|shar(?:e|ing)|"
          r"tell\b(?! (?:you (?:how (?:much\b|\w+ i\b)|what to)|anyone|a soul))|do (?:that|this|so)\b|recommend|"
          r"suggest|advise|argue|evaluate|comment|respond)")
REFUSAL = re.compile(
    r"(?:^\W*(?:(?:so |very |really )?sorry\W+(?:but )?)?|"
    rf"\b(?:i|we)(?:'\w+| (?:am|are|would|must|will|do|just|also|\w+ly))* ){_UNABLE}{_SERVE}|"
    rf"not something (?:that )?(?:i|we) (?:can|could|will)(?: do\b|{_SERVE})|"
    r"\bi(?:'ll)?(?: (?:must|have to|will|\w+ly))* decline\b|\bi (?:do not|don't) have (?:access|real-time)\b|"
    r"\b(?:sorry|apologi\w+),? but\b.{0,60}\b(?:not (?:\w+ )?|in)appropriate\b", re.IGNORECASE | re.DOTALL)


def group_prompts(prompts: Sequence[str], threshold: float = 0.8, batch_size: int = 2000) -> np.ndarray:
    """Put near-duplicate prompts into one cluster, in the order given: a prompt behind moves none before it.

    Two prompts are near-duplicates when the cosine of their vectors of character 4-grams within words is at least
    `threshold`; rare 4-grams weigh more (TF-IDF), counted in the first 1, 2, 4, 8, … prompts, those before the pair.
    A prompt joins the cluster of the near-duplicates before it. Equal prompts always share a cluster.

    Parameters
    ----------
    prompts : sequence of str, length N
    threshold : float in (0, 1]
    batch_size : int
        Rows of the similarity matrix computed at a time.

    Returns
    -------
    array of int, shape (N,)
        Cluster numbers from 0 in order of first appearance; below 0 a prompt between two clusters, which joins neither.

    Examples
    --------
    >>> group_prompts(["How do I bake bread?", "how do i bake bread", "Why is the sky blue?"]).tolist()
    [0, 0, 1]
    """
    plain = [" ".join(re.findall(r"\w+", p.casefold())) or p for p in list_texts(prompts, "Prompt")]
    codes, keys = pd.factorize(np.array(plain, dtype=object))
    own = np.arange(len(keys))
    for row, near in _find_near(keys, threshold, batch_size):
        joined = {own[k] for k in near if own[k] >= 0} or {own[near[0]]}
        own[row] = joined.pop() if len(joined) == 1 else -1 - row
    numbers = {name: k for k, name in enumerate(dict.fromkeys(own[own >= 0]))}
    numbers |= {name: -1 - k for k, name in enumerate(dict.fromkeys(own[own < 0]))}
    return np.array([numbers[own[code]] for code in codes], dtype=int)


def _find_near(texts: Sequence[str], threshold: float, batch_size: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (row, near rows before it) for each text with any."""
    from scipy.sparse import diags
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.preprocessing import normalize

    if len(texts) < 2:
        return
    counts = CountVectorizer(analyzer="char_wb", ngram_range=(4, 4), token_pattern=None).fit_transform(texts)
    end = 1
    while end < len(texts):
        start, known = end, 1 << (end.bit_length() - 1)
        end = min(start + batch_size, 2 * known, len(texts))
        rarity = np.log((1 + known) / (1 + (counts[:known] > 0).sum(axis=0).A1)) + 1
        vectors = normalize(counts[:end] @ diags(rarity))
        near = (vectors[start:end] @ vectors.T).tocoo()
        kept = (near.data >= threshold) & (near.col < near.row + start)
        rows, columns = near.row[kept] + start, near.col[kept]
        yield from ((row, np.sort(columns[rows == row])) for row in np.unique(rows))


def assign_splits(prompts: Sequence[str], clusters: np.ndarray, seed: int = 2023) -> pd.DataFrame:
    """Assign every prompt cluster to train, validation, calibration or test, and train clusters to half A or B.

    The share is 60/10/10/20. The choice hangs only on the seed and on the cluster's first prompt in the order given, so
    prompts that are added behind move no other. A prompt between two clusters (a number below 0) is left out of all
    splits, so that no near-duplicate of a test prompt is trained on.

    Parameters
    ----------
    prompts : sequence of str, length N
    clusters : array of int, shape (N,)
        From `group_prompts`.
    seed : int
        Under 2023 the prompts marked in data/splits.csv (public ones with near-duplicates; the start of the SHA-256 of
        each text) keep their published split, or are left out where their cluster has another.

    Returns
    -------
    DataFrame
        prompt (unique), cluster, split (None = left out), half ("A" or "B" in train, else None).

    Examples
    --------
    >>> table = assign_splits(["a", "b", "a"], np.array([0, 1, 0]))
    >>> len(table), set(table.split) <= {"train", "validation", "calibration", "test"}
    (2, True)
    """
    table = pd.DataFrame({"prompt": list_texts(prompts, "Prompt"), "cluster": clusters})
    table = table.drop_duplicates("prompt", ignore_index=True)
    own = _find_published(table.prompt, seed)
    first = ~table.cluster.duplicated() & (table.cluster >= 0)
    drawn = _draw_splits(table.prompt[first], seed)
    leading = own[first].where(own.split[first].notna(), drawn).set_axis(table.cluster[first])
    said = leading.reindex(table.cluster).set_axis(table.index).where(table.cluster >= 0, own)
    divided = own.split.notna() & (own.split != said.split)
    return table.join(said.mask(divided).astype(object).where(lambda t: t.notna(), None))


def _draw_splits(prompts: pd.Series, seed: int) -> pd.DataFrame:
    texts, edges = prompts.map(normalise), np.cumsum([share for _, share in SPLITS])
    place = np.searchsorted(edges, texts.map(lambda text: _hash_unit(f"{seed} split {text}")), "right")
    names = np.array([name for name, _ in SPLITS], dtype=object)[np.minimum(place, len(SPLITS) - 1)]
    halves = np.where(texts.map(lambda text: _hash_unit(f"{seed} half {text}")) < 0.5, "A", "B")
    return pd.DataFrame({"split": names, "half": np.where(names == "train", halves, None)}, index=prompts.index)


def _find_published(prompts: pd.Series, seed: int) -> pd.DataFrame:
    """Return the published split and half of each prompt, nan for the others."""
    kept = pd.read_csv(DATA / "splits.csv", index_col="prompt").iloc[:None if seed == PUBLISHED_SEED else 0]
    return kept.reindex(prompts.map(lambda p: hashlib.sha256(p.encode()).hexdigest()[:12])).set_axis(prompts.index)


def _hash_unit(text: str) -> float:
    """Return a number in [0, 1) that hangs on `text` alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") / 2**56


def _refuse_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError(f"{next(name for name, n in Counter(name for name, _ in pairs).items() if n > 1)!r} twice")
    return row


# control characters inside a text are no reason to lose a row
DECODER = json.JSONDecoder(strict=False, object_pairs_hook=_refuse_doubles)


def _parse_line(line: bytes) -> tuple[dict | None, str]:
    try:
        row = DECODER.decode(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return None, f"not UTF-8 at byte {error.start + 1}"
    except json.JSONDecodeError as error:
        return None, f"not valid JSON: {error.msg} at column {error.colno}"
    except (ValueError, RecursionError) as error:
        return None, f"not readable JSON: {error}"
    return (row, "") if isinstance(row, dict) else (None, "not a JSON object")


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


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


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


def _clean(text: str) -> str:
    """Return `text` without NUL characters and lone surrogates, which no table can hold."""
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


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

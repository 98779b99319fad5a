"""Rows of files, read one way: any usual shape in, a dialogue out, or the reason why there is none.

A field that is null counts as one that is missing, in every kind of file; an `answer` is no reply where the row's own
is null and other rows of the file have theirs.
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from fulcra_utils.common.paths import DATA
from fulcra_utils.dataset.texts import DatasetError, clean_text, has_words, read_content, shorten, split_thoughts

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
_KINDS = yaml.safe_load((DATA / "file_kinds.yaml").read_text(encoding="utf-8"))


def list_pairs(rows: Any, error: type[ValueError] = DatasetError) -> tuple[list[str], list[str]]:
    """Return the prompts and the responses of rows: pairs, or rows with names as `read_dialogue` reads them.

    Rows are a list, a DataFrame, an Arrow table, a `datasets.Dataset` or a mapping of columns; an `error` names the
    row.

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
    found, rows = [], [_name_fields(row) for row in rows]
    filled = _find_filled(row for row in rows if isinstance(row, Mapping | pd.Series))
    for place, row in enumerate(rows):
        try:
            dialogue = read_dialogue(Row(dict(row), filled)) if isinstance(row, Mapping | pd.Series) else None
        except RowError as fault:
            raise error(f"Row {place}: {fault}.") from None
        if dialogue is None and (isinstance(row, str | bytes | Set) or not isinstance(row, Iterable) or len(row) != 2):
            raise error(f"Row {place} is no pair of prompt and response but {shorten(row)!r}.")
        found.append((dialogue.prompt, dialogue.response) if dialogue else tuple(row))
    return [prompt for prompt, _ in found], [response for _, response in found]


def _name_fields(row: Any) -> Any:
    """Return a named tuple, or a record of an array, as a row; anything else as it is."""
    names = getattr(row, "_fields", None) or getattr(getattr(row, "dtype", None), "names", None)
    return row if names is None else dict(zip(names, row, strict=True))


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
            head, is_parquet = lines.read(1 << 16).removeprefix(b"\xef\xbb\xbf"), name.endswith(".parquet")
            found = next((kind for pattern, kind in _KINDS.items() if re.match(pattern.encode(), head)), "")
            if found if not is_parquet else not head.startswith(b"PAR1"):
                raise DatasetError(f"{path}: {found or 'is no Parquet file'}")
            if not name.endswith(SUFFIXES):
                raise DatasetError(f"{path}: the name must end in {', '.join(SUFFIXES)}")
            lines.seek(0)
            if is_parquet:
                yield from ((i, row, "") for i, row in enumerate(_iter_parquet(path), 1))
            for number, line in enumerate(() if is_parquet else lines, 1):
                if line.strip():
                    yield number, *_parse_line(line)
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        raise DatasetError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def pick_rows(path: str | Path, pick: Callable[[dict[str, Any]], Any] | None = None
              ) -> Iterator[tuple[int, dict[str, Any], Any, RowError | None]]:
    """Yield (line, row, what `pick`, by default `read_dialogue`, makes of it, None), or the RowError that it raises."""
    filled = None
    for line, row, reason in iter_rows(path):
        picked = fault = None
        try:
            if row is None:
                raise RowError("the line", f"is {reason}")
            if any(row.get(name, "") is None for name in REPLIES):
                filled = _find_filled(row for _, row, _ in iter_rows(path) if row) if filled is None else filled
                row = Row(row, filled)
            picked = (pick or read_dialogue)(row)
        except RowError as error:
            fault = error
        yield line, row or {}, picked, fault


def _find_filled(rows: Iterable[Mapping]) -> set[str]:
    """Return the fields for a reply that hold one in some row, or the reason why there is none (`fulcra reply`)."""
    return {name for row in rows for name in REPLIES
            if row.get(name) is not None or name == "response" and row.get("problem")}


class Row(dict):
    """A row that knows in which fields other rows of its file hold a reply."""

    def __init__(self, row: dict[str, Any], filled: set[str]):
        super().__init__(row)
        self.filled = filled


def _iter_parquet(path: Path) -> Iterator[dict[str, Any]]:
    file = pq.ParquetFile(path)
    if len(set(names := file.schema_arrow.names)) < len(names):
        raise DatasetError(f"{path}: has two columns {max(names, key=names.count)!r}")
    for batch in file.iter_batches(batch_size=1000):
        try:
            yield from batch.to_pylist()
        except (ValueError, OverflowError) as error:  # a time beyond the year 9999
            raise DatasetError(f"{path}: holds a value that cannot be read: {error}") from error


@dataclass(frozen=True)
class Dialogue:
    """A dialogue that ends in the assistant's reply that is judged: `turns` are pairs (role, text).

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
        """Return the dialogue in the released shape, "Human: …" and "Bob: …" on a line of its own."""
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


def read_dialogue(row: dict[str, Any], prompt_field: str = "prompt", response_field: str = "response",
                  clean: Callable[[str], str] = clean_text) -> Dialogue:
    """Return the dialogue of a row, whatever of the usual shapes it has; a field that is null counts as missing.

    With field names of one's own, those two. Left at their defaults: the first of `prompt`, `question`, `instruction`
    (with `input` or `context`, behind the pairs in `history`), `input`, and the first of `response`, `completion`,
    `output`, `answer`; each is text or a list of messages. Else, or beside an `answer`, which may be a reference, all
    turns in `messages`, `conversations` or `conversation` ([{"role", "content"}], or ShareGPT's [{"from", "value"}]),
    or the released `dialogue` ("Human: …\\nBob: …"). A text in `system` or `system_prompt` stands before them. NUL
    characters and half characters are replaced; thoughts of the assistant are left out. RowError names the field in
    one line.

    Examples
    --------
    >>> read_dialogue({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]})
    Dialogue(turns=(('user', 'Hi'), ('assistant', 'Hello.')))
    >>> read_dialogue({"instruction": "Say hi", "input": "", "output": "Hello."}).response
    'Hello.'
    """
    fields = _find_fields(row, prompt_field, response_field)
    *asked, told = (_read_turns(row, name, role) for name, role in zip(fields, ("user", "assistant"), strict=False))
    turns = [*_drop_doubles(asked[0], told), *told] if asked else told
    system = find_system(row)
    if system and turns and turns[0][0] != "system":
        turns = [("system", system), *turns]
    thought = bool(turns and has_words(turns[-1][1]))
    turns = [(role, split_thoughts(text)[1] if role == "assistant" else text) for role, text in turns]
    if not turns or turns[-1][0] != "assistant":
        raise RowError(fields[-1], "does not end in a reply of the assistant")
    start = 1 + max((n for n, (role, _) in enumerate(turns) if role not in ("assistant", *TOOLS)), default=-1)
    said = [text for role, text in turns[start:] if role == "assistant" and has_words(text)]
    last = "".join(said[-1:])     # may begin with the words of a step before it
    reply = "\n".join([*(text for text in said[:-1] if not f"{last}\n".startswith(f"{text.strip()}\n")), last])
    before = [(role, text) for n, (role, text) in enumerate(turns)
              if role != "assistant" or n < start and has_words(text)]
    if not has_words(reply):
        raise RowError("reply", "holds thoughts only" if thought else "is empty")
    if not any(has_words(text) for role, text in before if role not in TOOLS):
        raise RowError("prompt", "is empty")
    return Dialogue(tuple((role, clean(text)) for role, text in [*before, ("assistant", reply)]))


PROMPTS, REPLIES = ("prompt", "question", "instruction", "input"), ("response", "completion", "output", "answer")
SYSTEMS = ("system", "system_prompt")
WHOLE = ("messages", "conversations", "conversation", "dialogue")
DIALOGUE_FIELDS = (*PROMPTS, *REPLIES, *WHOLE, *SYSTEMS, "history")  # from which a row is read
TOOLS = ("tool", "function")
ROLES = {role: role for role in ("system", "developer", "user", "assistant", *TOOLS)} | {
    "human": "user", "function_response": "tool", "observation": "tool", "ipython": "tool",
    **dict.fromkeys(("gpt", "model", "bot", "chatgpt", "ai", "function_call"), "assistant")}


def find_system(row: dict[str, Any]) -> str:
    """Return the system message that stands beside a row's prompt, "" where there is none."""
    return next((row[name] for name in SYSTEMS if isinstance(row.get(name), str) and has_words(row[name])), "")


def _find_fields(row: dict[str, Any], prompt_field: str, response_field: str) -> tuple[str, ...]:
    """Return the fields that hold a row's prompt and reply, or the one that holds both."""
    own = (prompt_field, response_field) != ("prompt", "response")
    names = ((prompt_field,), (response_field,)) if own else (PROMPTS, REPLIES)
    found = [next((name for name in some if row.get(name) is not None), "") for some in names]
    whole = "" if own else next((name for name in WHOLE if row.get(name) is not None), "")
    if not own and row.get("response", "") is None and row.get("problem"):     # `fulcra reply` got none
        found[1], whole = "", ""
    elif found[1] == "answer" and not own and any(name in row for name in getattr(row, "filled", set()) - {"answer"}):
        found[1] = ""     # nor is a reference that stands beside it a reply
    if whole and (not all(found) or found[1] == "answer" and str(row[whole]) not in ("", "[]")):
        return (whole,)
    if lost := [name for name, had in zip((prompt_field, response_field), found, strict=True) if not had]:
        raise RowError(" and ".join(lost), "is missing" if len(lost) == 1 else "are missing")
    return tuple(found)


def _read_turns(row: dict[str, Any], name: str, role: str) -> list[tuple[str, str]]:
    """Return the turns of a field that holds a text or a list of messages."""
    value = _load_messages(row[name].tolist() if hasattr(row[name], "tolist") else row[name])
    if name == "dialogue" and isinstance(value, str):
        prompt, bob, reply = value.partition("\nBob:")
        if not bob or not prompt.startswith("Human:"):
            raise RowError(name, "is not of the form 'Human: … Bob: …'", value)
        if "\nBob:" in reply.partition("\nHuman:")[2]:
            raise RowError(name, "has several turns; give them as messages", value)
        return [("user", prompt.removeprefix("Human:").strip()), ("assistant", reply.strip())]
    if isinstance(value, str) and name not in WHOLE:
        return [*_read_history(row, name), (role, _join_input(row, name, value))]
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise RowError(name, "is neither text nor a list of messages", value)
    turns = []
    for number, message in enumerate(value, 1):
        said = message.get("role") or message.get("from")
        speaker = ROLES.get(str(said).lower())
        text = message.get("value") if message.get("content") is None else message["content"]
        if speaker == "user" and isinstance(text, list) and {
                part.get("type") if isinstance(part, dict) else "" for part in text} == {"tool_result"}:
            speaker = "tool"    # as Anthropic has it
        text = read_content({"content": text})[1] if isinstance(text, list) else text
        if speaker is None or not isinstance(text, str) and speaker != "assistant":
            raise RowError(name, f"has no usable role and content in message {number}", message)
        turns.append((speaker, text if isinstance(text, str) and said != "function_call" else ""))
    return turns


def _load_messages(value: Any) -> Any:
    """Return the messages of a text that is JSON, as Parquet may hold it, or Python, as CSV does; all else as it is."""
    if isinstance(value, str) and re.match(r"\s*\[\s*\{", value) and ("role" in value or "from" in value):
        for load in (json.loads, ast.literal_eval):
            with suppress(ValueError, SyntaxError, AttributeError, MemoryError, RecursionError):
                found = load(value.strip())
                if all(str(one.get("role") or one.get("from")).lower() in ROLES for one in found):
                    return found
    return value


def _drop_doubles(asked: list[tuple[str, str]], told: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the turns of a prompt, of which its system message alone where the reply's field holds the whole talk."""
    said = {text.strip() for role, text in asked if role == "user"}
    if not said or not said <= {text.strip() for role, text in told if role == "user"}:
        return asked
    return [turn for turn in asked if turn[0] in ("system", "developer") and turn not in told]


def _read_history(row: dict, name: str) -> list[tuple[str, str]]:
    """Return the turns before an instruction, pairs of question and answer (LLaMA-Factory)."""
    before = row.get("history") if name == "instruction" else None
    if not isinstance(before, list):
        return []
    if not all(isinstance(pair, list) and len(pair) == 2 and all(
            isinstance(text, str) for text in pair) for pair in before):
        raise RowError("history", "is no list of pairs of question and answer", before)
    return [turn for pair in before for turn in zip(("user", "assistant"), pair, strict=True)]


def _join_input(row: dict, name: str, text: str) -> str:
    """Return an instruction with its input (Alpaca) or context (Dolly) behind it; any other text as it is."""
    found = (row.get(more) for more in ("input", "context")) if name == "instruction" else ()
    return "\n\n".join([text, *(more for more in found if isinstance(more, str) and more.strip())])


def read_text(row: dict, name: str) -> str:
    """Return a field as text; set the row aside when there is none, or turns stand before it."""
    text = _load_messages(row.get(name))
    if not isinstance(text, str):
        raise RowError(name, "is missing") if text is None else RowError(name, "is not text", text)
    if not has_words(text):
        raise RowError(name, "is empty")
    if _read_history(row, name):
        raise RowError("history", "cannot be asked, a single prompt can")
    return _join_input(row, name, text)


def _refuse_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError(f"{Counter(name for name, _ in pairs).most_common(1)[0][0]!r} twice")
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

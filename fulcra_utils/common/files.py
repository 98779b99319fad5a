"""Files that appear whole or not at all: written under a temporary name in the same folder, then renamed."""

from __future__ import annotations

import base64
import csv
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@contextmanager
def write_atomic(path: str | Path) -> Iterator[Path]:
    """Give a temporary path to write to, with the suffixes of `path`; rename it to `path` when the block ends well.

    On any error (a full disk, Ctrl-C) it is removed: `path` is either the old file or the whole new one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.name}.{token_hex(4)}{''.join(path.suffixes[-2:])}")
    try:
        yield tmp
        with tmp.open("rb+") as written:
            os.fsync(written.fileno())
        tmp.replace(path)
    finally:
        tmp.unlink(missing_ok=True)


@contextmanager
def write_folder(path: str | Path) -> Iterator[Path]:
    """Give a new folder to fill; without an error in the block it takes the place of `path` and of what stands there.

    >>> with tempfile.TemporaryDirectory() as base:
    ...     with write_folder(Path(base) / "whole") as new:
    ...         _ = (new / "a.txt").write_text("a")
    ...     [p.name for p in Path(base).rglob("*")]
    ['whole', 'a.txt']
    """
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        (work / "new").mkdir()
        yield work / "new"
        if path.exists():
            path.rename(work / "old")
        (work / "new").rename(path)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def check_output(path: str | Path, suffixes: tuple[str, ...] = ()) -> Path:
    """Return the path of a file that could be written there; else ValueError, before anything is spent on it.

    >>> check_output("rows.csv", (".jsonl", ".jsonl.gz"))
    Traceback (most recent call last):
    ValueError: rows.csv: can only be written as .jsonl or .jsonl.gz
    """
    path = Path(path)
    if suffixes and not path.name.endswith(suffixes):
        raise ValueError(f"{path}: can only be written as {' or '.join(suffixes)}")
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        folder = next(above for above in path.absolute().parents if above.exists())
        with tempfile.NamedTemporaryFile(prefix=f".{path.name}.", suffix="".join(path.suffixes[-2:]), dir=folder):
            return path
    except OSError as error:
        raise ValueError(f"{path}: cannot be written: {error.strerror or error}") from None


def check_outputs(outputs: Iterable[tuple[str | Path, tuple[str, ...]]], inputs: Iterable[str | Path]) -> None:
    """Raise ValueError unless all outputs (path, suffixes) could be written, each to a place of its own.

    >>> check_outputs([("a.csv", (".csv",))], ["b.csv", "./a.csv"])
    Traceback (most recent call last):
    ValueError: a.csv: would replace an input, or another output
    """
    taken = {Path(path).resolve() for path in inputs}
    for path, suffixes in outputs:
        place = check_output(path, suffixes).resolve()
        if place in taken:
            raise ValueError(f"{path}: would replace an input, or another output")
        taken.add(place)


@contextmanager
def lock_output(path: str | Path, wait: float = 0) -> Iterator[None]:
    """Keep every other run from writing `path` while the block runs: ValueError when another holds the lock.

    It waits so many seconds for the other one. A killed run leaves no lock behind (.<name>.lock beside the output).
    """
    from filelock import FileLock, Timeout
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=wait) as lock:
            try:
                yield
            finally:
                with suppress(OSError):  # Windows removes no open file
                    Path(lock.lock_file).unlink()
    except Timeout:
        raise ValueError(f"another run writes {path}") from None


def write_text(path: str | Path, text: str) -> Path:
    """Write `text` as UTF-8 to `path`, whole or not at all, and return the path; its folder is made when missing.

    A run that is killed on the way leaves the old file, or none: never half of one.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_text(Path(folder) / "notes" / "b.txt", "né").read_bytes()
    b'n\\xc3\\xa9'
    """
    with write_atomic(path) as tmp:
        tmp.write_text(text, encoding="utf-8")
    return Path(path)


def write_json(path: str | Path, value: Any) -> Path:
    """Write `value` as indented JSON to `path`, whole or not at all, and return the path.

    NumPy numbers and arrays, paths and times are allowed; nan and infinities become null, which strict JSON knows.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     json.loads(write_json(Path(folder) / "c.json", {"x": float("nan")}).read_text())
    {'x': None}
    """
    return write_text(path, json.dumps(make_plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def json_line(row: dict[str, Any]) -> str:
    """Return a row as one line of strict JSON that ends in a line feed.

    What JSON has no form for becomes text: times by ISO 8601, decimals digit by digit, bytes in Base64, "Infinity";
    nan becomes null. Half a surrogate pair and the line separators of Unicode are escaped.

    >>> json_line({"a": b"\\xff", "b": float("-inf"), "c": "\\u2028é"})
    '{"a": "/w==", "b": "-Infinity", "c": "\\\\u2028é"}\\n'
    """
    try:
        text = json.dumps(row, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        row = make_plain(row, lambda value: "Infinity" if value > 0 else "-Infinity")
        text = json.dumps(row, ensure_ascii=False)
    return re.sub(r"[\ud800-\udfff\x85\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"


def keep_fields(fields: dict[str, Any], added: dict[str, Any], own: Sequence[str]) -> dict[str, Any]:
    """Return a row's fields and what a step adds; input fields with names of the step get one more "input_" in front.

    >>> keep_fields({"a": 1, "problem": "new", "input_problem": "old"}, {"vector": [0]}, ("vector", "problem"))
    {'a': 1, 'input_problem': 'new', 'input_input_problem': 'old', 'vector': [0]}
    """
    def is_own(name: str) -> bool:
        return name in own or name.startswith("input_") and is_own(name.removeprefix("input_"))

    return {**{f"input_{name}" if is_own(name) else name: value for name, value in fields.items()}, **added}


def write_table(path: str | Path, table: pd.DataFrame) -> Path:
    """Write a table without its index as .parquet or .csv, whole or not at all, and return the path.

    Parquet keeps types and nan apart from empty texts, CSV does not. ValueError for another suffix.

    Examples
    --------
    >>> import tempfile, pandas as pd
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_table(Path(folder) / "d.csv", pd.DataFrame({"a": [1]})).read_text()
    'a\\n1\\n'
    """
    path = Path(path)
    if path.suffix not in {".parquet", ".csv"}:
        raise ValueError(f"{path}: a table is written as .parquet or .csv")
    with write_atomic(path) as tmp:
        if path.suffix == ".parquet":
            table.to_parquet(tmp, index=False)
        else:
            has_return = any("\r" in v for v in table.to_numpy(dtype=object).ravel() if isinstance(v, str))
            table.to_csv(tmp, index=False, quoting=csv.QUOTE_ALL if has_return else csv.QUOTE_MINIMAL)
    return path


def make_plain(value: Any, name_infinity: Callable[[float], str | None] = lambda _: None) -> Any:
    """Return `value` with NumPy scalars and arrays, paths, times, bytes and nan turned into what JSON knows."""
    if isinstance(value, dict):
        return {str(k): make_plain(v, name_infinity) for k, v in value.items()}
    if isinstance(value, list | tuple | set):
        return [make_plain(v, name_infinity) for v in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if hasattr(value, "tolist"):
        return make_plain(value.tolist(), name_infinity)
    if isinstance(value, float) and value - value != 0:
        return None if value != value else name_infinity(value)
    if isinstance(value, str | int | float | bool | None):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)

"""How files from outside are loaded: pretrained ones quietly and known by their bytes, functions by their name."""

import hashlib
import importlib
import runpy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any


def hash_file(path: Path) -> str:
    """Return the sha256 of a file, read in pieces; a file whose size and time stay is read once."""
    return _sha256(path, path.stat().st_mtime_ns, path.stat().st_size)


def hash_text(text: str) -> str:
    """Return the sha256 of a text.

    >>> hash_text("Hello")[:8]
    '185f8db3'
    """
    return hashlib.sha256(str(text).encode("utf-8", "surrogatepass")).hexdigest()


@lru_cache(maxsize=256)
def _sha256(path: Path, mtime: int, size: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Hide transformers' bars and reports while weights are read from disk, so that errors stay one line."""
    from transformers.utils import logging
    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def load_function(place: str) -> Callable[..., Any]:
    """Load "MODULE:FUNCTION", importable here or from the current folder, or "FILE.py:FUNCTION".

    ValueError when the module cannot be imported or has no such function.

    >>> load_function("math:sqrt")(4)
    2.0
    """
    module, _, name = place.rpartition(":")
    is_file = module.endswith(".py")
    sys.path.insert(0, str(Path(module).resolve().parent if is_file else Path.cwd()))
    try:
        found = runpy.run_path(module, run_name=Path(module).stem) if is_file else vars(importlib.import_module(module))
    except (Exception, SystemExit) as error:
        raise ValueError(f"{place} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(found.get(name)):
        raise ValueError(f"{module} has no function {name!r}")
    return found[name]

"""How pretrained files are loaded: quietly, and known by their bytes."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path


def hash_file(path: Path) -> str:
    """Return the sha256 of a file, read in pieces; a file whose size and time stay is read once."""
    return _sha256(path, path.stat().st_mtime_ns, path.stat().st_size)


@lru_cache(maxsize=256)
def _sha256(path: Path, mtime: int, size: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Hide transformers' progress bars while weights are read from disk, so that errors stay one line."""
    from transformers.utils import logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()

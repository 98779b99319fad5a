"""What a frozen encoder read of texts, kept on disk: reading costs minutes, the heads that learn from it seconds."""

import os
import sqlite3
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

from fulcra_utils.common.paths import ROOT

LARGEST = 6e4     # of half precision
TABLE = "CREATE TABLE IF NOT EXISTS features (key BLOB PRIMARY KEY, value BLOB NOT NULL)"


class FeatureStore:
    """Features in half precision, one SQLite file (7 KB a text) that several processes may use; safe to delete.

    `mark` names what reads: the encoder's weights, config and layers, and the code that pools them. The file lies in
    the cache (FULCRA_CACHE, or data/cache).
    """

    def __init__(self, mark: str, folder: str | Path | None = None):
        folder = Path(folder or os.environ.get("FULCRA_CACHE") or ROOT / "data" / "cache")
        folder.mkdir(parents=True, exist_ok=True)
        self.mark, self.path = mark, folder / "features.sqlite"
        with self._open() as database:
            database.executescript(f"PRAGMA journal_mode=WAL; {TABLE}")

    def get(self, rendered: Sequence[dict]) -> dict[int, torch.Tensor]:
        """Return what is kept of rendered pairs: place → features (F,)."""
        with self._open() as database:
            found = {place: database.execute("SELECT value FROM features WHERE key = ?", (self._key(pair),)).fetchone()
                     for place, pair in enumerate(rendered)}
        return {place: torch.from_numpy(np.frombuffer(row[0], np.float16).astype(np.float32))
                for place, row in found.items() if row}

    def put(self, rendered: Sequence[dict], features: torch.Tensor) -> torch.Tensor:
        """Keep the features (N, F) of rendered pairs and return them as they will be read again."""
        halves = features.clamp(-LARGEST, LARGEST).half().cpu().numpy()
        with self._open() as database:
            database.executemany("INSERT OR IGNORE INTO features VALUES (?, ?)",
                                 [(self._key(pair), row.tobytes()) for pair, row in zip(rendered, halves, strict=True)])
        return torch.from_numpy(halves.astype(np.float32)).to(features.device)

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=60)     # as a context it commits, and is closed when it goes

    def _key(self, pair: dict) -> bytes:
        return sha256(f"{self.mark} {pair['input_ids']} {sum(pair['token_type_ids'])}".encode()).digest()

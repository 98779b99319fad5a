"""A prompt and a reply as the evaluator's input: token ids, cut to fit, padded to a batch; and what was read of them.

What a frozen encoder read is kept on disk: reading costs minutes, the heads that learn from it seconds.
"""

import os
import sqlite3
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from fulcra_utils.common.paths import ROOT
from fulcra_utils.dataset.texts import clean_text

TEXT = {"input_ids", "attention_mask", "token_type_ids"}     # of a rendered pair
CHARS_PER_TOKEN = 20  # an upper bound used to skip tokenizing text that is cut anyway
LARGEST = 6e4     # of half precision
TABLE = "CREATE TABLE IF NOT EXISTS features (key BLOB PRIMARY KEY, value BLOB NOT NULL)"


def render(prompt: str, response: str, tokenizer, max_length: int = 256) -> dict[str, list[int]]:
    """Render a prompt and a reply as the evaluator's input, the only way in.

    A prompt takes at most half of `max_length`; both texts are cut in the middle, so that the start and the end of a
    long reply are read.
    differs from upstream: the released code cuts the end of the reply and the instruction behind it.

    >>> from fulcra_utils.evaluator.encoder import load_encoder
    >>> tokenizer = load_encoder("tiny").tokenizer
    >>> pair = render("be kind", "one two three four five six", tokenizer, max_length=9)
    >>> tokenizer.decode(pair["input_ids"])
    '[CLS] be kind [SEP] one two five six [SEP]'
    """
    start, between, end = find_frame(tokenizer)
    room = max_length - len(start) - len(between) - len(end)
    first = _fit(prompt, tokenizer, max_length, max(room // 2, 1))
    second = _fit(response, tokenizer, max_length, max(room - len(first), 1))
    left, right = [*start, *first, *between], [*second, *end]
    return {"input_ids": left + right, "attention_mask": [1] * (len(left) + len(right)),
            "token_type_ids": [0] * len(left) + [1] * len(right)}


def is_cut(prompt: str, response: str, tokenizer, max_length: int) -> bool:
    """Return whether `render` leaves a part of a prompt or of a reply out."""
    read, whole = (len(render(prompt, response, tokenizer, length)["input_ids"]) for length in (max_length, 10**6))
    return read < whole


def find_frame(tokenizer) -> tuple[list[int], list[int], list[int]]:
    """Return the ids before the prompt, between prompt and reply, and behind it: of the chat template, if there is one.

    The template's own system message is left out: it says nothing and costs time.
    """
    if not tokenizer.chat_template:
        end = _marker(tokenizer, "sep", "eos")
        return _marker(tokenizer, "cls", "bos"), end, end
    talk = [{"role": role, "content": "\ue000"} for role in ("user", "assistant")]
    before, between, after = tokenizer.apply_chat_template(talk, tokenize=False).split("\ue000")
    before = before[max(before.rfind(tokenizer.bos_token or before), 0):]
    start, middle, end = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (before, between, after))
    return start, middle, end[:1]


def _marker(tokenizer, *names: str) -> list[int]:
    """Return the first special token that the tokenizer has, as a list of one id, or an empty list."""
    return [i for name in names if (i := getattr(tokenizer, f"{name}_token_id", None)) is not None][:1]


def _fit(text: str, tokenizer, max_length: int, room: int) -> list[int]:
    """Return at most `room` token ids of a text, its middle left out."""
    ids = tokenizer(prepare_text(text, max_length), add_special_tokens=False, verbose=False)["input_ids"]
    return [ids[k] for k in choose_tokens(len(ids), room)]


def prepare_text(text: str, max_length: int) -> str:
    """Return the cleaned text that is made into tokens: of a very long one start and end."""
    text, reach = clean_text(text.strip()), CHARS_PER_TOKEN * max_length
    return text if len(text) <= 2 * reach else f"{text[:reach]} {text[-reach:]}"


def choose_tokens(n: int, room: int) -> list[int]:
    """Return the places of the tokens that fit: all of n, or the first and the last ones."""
    return [*range(n)] if n <= room else [*range((room + 1) // 2), *range(n - room // 2, n)]


def pad_pairs(pairs: Sequence[dict[str, list[int]]], tokenizer, device: torch.device | str = "cpu",
              width: int = 0) -> dict:
    """Pad rendered pairs to tensors of shape (B, T); T is that of the longest, or `width`."""
    longest = width or max(len(pair["input_ids"]) for pair in pairs)
    filler = {"input_ids": tokenizer.pad_token_id or 0}
    return {name: torch.tensor([pair[name] + [filler.get(name, 0)] * (longest - len(pair[name])) for pair in pairs],
                               device=device) for name in pairs[0] if name in TEXT}


def take_types(encoder: PreTrainedModel, token_type_ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return which text each token belongs to, as an argument for encoders that can tell two apart."""
    return {"token_type_ids": token_type_ids} if getattr(encoder.config, "type_vocab_size", 1) > 1 else {}


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

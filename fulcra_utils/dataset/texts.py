"""Texts as rows hold them: cleaned, shortened for messages, checked."""

from typing import Any

SHOWN = 80  # characters of a bad value kept in `problems`


class DatasetError(ValueError):
    """A file, or in strict mode a row, that cannot be used; the message names file, line and field."""


def has_words(text: str) -> bool:
    """Return whether a text holds anything that can be seen."""
    return any(c.isprintable() and not c.isspace() for c in text)


def shorten(value: Any) -> str:  # noqa: D103  the start of a value as text, for a message
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


def clean_text(text: str) -> str:
    """Return `text` without NUL characters and lone surrogates, which no table can hold."""
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()

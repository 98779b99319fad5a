"""Files without labels: pools of prompts, and pairs of a preferred and another reply."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from fulcra_utils.dataset.labelled import Problems, read_list
from fulcra_utils.dataset.rows import RowError, pick_rows, read_text


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
    return _read_plain(path, lambda row: {"prompt": read_text(row, "prompt"),
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
        prompt, chosen = _last_turn(read_text(row, "chosen"))
        return {"prompt": prompt, "chosen": chosen, "rejected": _last_turn(read_text(row, "rejected"))[1]}

    return _read_plain(path, pick)


def _last_turn(text: str) -> tuple[str, str]:
    """Return the last Human turn and the Assistant's answer to it."""
    before, found, answer = text.rpartition("\n\nAssistant:")
    prompt = before.rpartition("\n\nHuman:")[2].strip()
    if not found or not prompt or not answer.strip():
        raise RowError("chosen/rejected", "is not of the form 'Human: … Assistant: …'", text)
    return prompt, answer.strip()


def _read_plain(path: str | Path, pick: Callable[[dict], dict[str, Any]]) -> pd.DataFrame:
    """Read rows with `pick`; what cannot be read is set aside into `.attrs["problems"]`."""
    problems, kept = Problems(Path(path)), []
    for line, _, picked, fault in pick_rows(path, pick):
        if fault:
            problems.set_aside(line, fault)
        else:
            kept.append({**picked, "line": line})
    table = pd.DataFrame(kept)
    table.attrs["problems"] = problems.frame().to_dict("records")
    return table

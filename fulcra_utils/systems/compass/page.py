"""The page of the value compass: one HTML file that needs no network, with sliders, radar, map and the replies.

Choices: the data stand in the page as JSON and enter it as text only; a content security policy names the two scripts
by their hash, so nothing that a reply contains can run; the plotting library is plotly.js in its partial bundle
"basic" (MIT, data/page), for the radar and the map; the page carries bootstrap draws, so a slider moves
the intervals too.
"""

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Template

from fulcra_utils.alignment.study import WAYS
from fulcra_utils.common.files import make_plain, write_text
from fulcra_utils.common.paths import DATA
from fulcra_utils.evaluator.reliability import assess_reliability, describe_noise
from fulcra_utils.systems.compass.boards import choose_presets
from fulcra_utils.systems.compass.countries import Countries, map_board, match_countries, nearest_countries
from fulcra_utils.systems.compass.scores import Board, CompassError, make_board

PAGE = DATA / "page"
MAX_BYTES = 5_000_000
LABELS, PEOPLE = "annotators' labels", "annotated replies"   # end of the board's name, its row on others


def make_section(board: Board, countries: Countries, presets: Mapping[str, np.ndarray], seed: int,
                 people: Board | None = None, with_replies: bool = True) -> dict[str, Any]:
    """Gather what the page shows of a board, as plain values (`replies` still a table); see `publish_page`.

    The page keeps the first 200 draws. `presets` are weights (D,) by title, as `choose_presets` gives them; `seed` is
    that of the map; `people` (`pool_labels`) is a last row that has no rank.
    """
    scores, theory, draws = board.scores, board.theory, board.draws[:200]
    models, means, n_prompts = scores.models, scores.means, scores.n_answered
    replies = board.replies[board.replies.prompt.isin(scores.prompts)]      # the others count for no number
    notes = [board.scored_by, *scores.notes]
    notes += [f"Prompts and scoring are the same for all {len(models)} models ({len(scores.prompts)} prompts)."
              ] * scores.same_prompts
    notes += [f"{start} is a model before alignment; a longer name that begins so is the same model, aligned, and says "
              "how and to what." for start in models
              if any(name.startswith(f"{start} {way}-") for name in models for way in WAYS)]
    notes += [describe_noise(assess_reliability(replies, replies[[*theory.dimensions]].to_numpy(float),
                                                theory.dimensions, 0))] if replies.prompt.nunique() > 1 else []
    if people:
        shared = people.replies.prompt.isin(scores.prompts)
        which = "these" if shared.all() else "these and further" if shared.any() else "other"
        notes.append(f"{people.name}: {people.scored_by} They stand on {len(people.replies):,} replies of several "
                     f"models to {which} prompts, so this row has no rank.")
        models, replies = (*models, people.name), pd.concat([replies, people.replies], ignore_index=True)
        draws = np.concatenate([draws, people.draws[:len(draws)]], axis=1)
        means, n_prompts = np.vstack([means, people.scores.means]), [*n_prompts, people.replies.prompt.nunique()]
    # 16-bit numbers: ten-thousandths of a score, -32768 for a draw without
    numbers = np.where(np.isfinite(draws), np.clip(np.nan_to_num(draws) * 10_000, -32767, 32767).round(), -32768)
    maps, labels = map_board(board, countries, seed)
    return {"name": board.name, "title": f"{theory.title} ({board.name.partition(', ')[2]})", "notes": notes,
            "dimensions": theory.dimensions, "definitions": theory.definitions, "models": models,
            "n_ranked": len(scores.models), "means": means.round(4), "n_prompts": n_prompts, "n_draws": len(draws),
            "draws": base64.b64encode(numbers.astype("<i2").tobytes()).decode(),
            "presets": [{"title": title, "weights": (w / w.max()).round(2)} for title, w in presets.items()],
            "matches": match_countries(board, countries).round(3).to_dict("records"),
            "placed": countries.placed, "nearest": nearest_countries(board, countries).round(3).to_dict("records"),
            "map": {"labels": labels} | {name: places.astype(float).round(4) for name, places in maps.items()},
            "replies": pick_replies(replies if with_replies else replies.head(0), theory.dimensions)}


def pool_labels(boards: Sequence[Board], seed: int = 2023) -> Board | None:
    """Put all annotated replies together as one row; None without a board of annotators' labels."""
    labels = next((board for board in boards if board.name.endswith(LABELS)), None)
    return labels and make_board(PEOPLE, labels.theory, labels.replies.assign(model=PEOPLE), labels.scored_by,
                                 n_draws=200, seed=seed)


def pick_replies(table: pd.DataFrame, dimensions: Sequence[str], n: int = 3) -> pd.DataFrame:
    """Choose the replies behind each cell: the n strongest per model and dimension; 0 and nan show nothing."""
    strong = {d: table[table[d].abs() > 0].sort_values(d, key=lambda scores: -scores.abs(), kind="stable")
              for d in dimensions}
    parts = [part.groupby("model", sort=False).head(n).assign(dimension=d, score=part[d]) for d, part in strong.items()]
    return pd.concat(parts, ignore_index=True)[["model", "dimension", "score", "prompt", "response"]]


def publish_page(path: str | Path, boards: Sequence[Board], countries: Countries,
                 presets: Mapping[str, Mapping[str, float]], title: str, seed: int = 2023,
                 others: Mapping[str, Countries] | None = None, with_replies: bool = True) -> Path:
    """Write the page with one section per board (the first is shown at the start), whole or not at all.

    `others` are the countries of boards, by name, that have their own: the boards of others, on another scale. Beside
    ours stand annotators' labels under the same theory. Replies, if any, are shortened until the page weighs at most
    5 MB; a page that is too heavy even so is a CompassError.
    """
    sections, others, people = [], others or {}, pool_labels(boards, seed)
    for board in boards:
        own = others.get(board.name, countries)
        is_ours = people and people.theory.name == board.theory.name and board.name not in others
        sections.append(make_section(board, own, choose_presets(board.theory, presets, {}, own), seed,
                                     people if is_ours and not board.name.endswith(LABELS) else None, with_replies))
    ends = np.array([board.theory.score_range for board in boards])
    for chars in (700, 350, 150, 60):
        text = render_page(sections, title, (ends.min(), ends.max()), chars)
        if len(text.encode()) <= MAX_BYTES:
            return write_text(path, text)
    raise CompassError(f"the page weighs {len(text.encode()) / 1e6:.1f} MB, more than {MAX_BYTES / 1e6:.0f} MB: "
                       "show fewer models or theories.")


def render_page(sections: list[dict], title: str, score_range: tuple[float, float], reply_chars: int) -> str:
    """Return the page as text, replies cut after `reply_chars` characters (the cut is marked).

    `score_range` holds the lowest and highest score, for colours and radar.
    """
    replies: dict[tuple[str, str], int] = {}
    plain = [{**s, "cells": _index_replies(s, replies), "replies": None} for s in sections]
    data = {"range": score_range, "sections": plain,
            "replies": [{"prompt": _shorten(p, reply_chars), "response": _shorten(r, reply_chars)} for p, r in replies]}
    # the logo's link is never drawn here; without it the page has no address in any src or href
    plotly = gzip.decompress((PAGE / "plotly-basic.min.js.gz").read_bytes()).decode().replace(
        'href="https://plotly.com/"', 'href="#"')
    script = (PAGE / "compass.js").read_text(encoding="utf-8")
    hashes = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in (plotly, script)]
    return Template((PAGE / "compass.html").read_text(encoding="utf-8"), keep_trailing_newline=True).render(
        hashes=hashes, title=title, has_replies=bool(replies), data=escape_json(data), plotly=plotly, script=script)


def escape_json(value: Any) -> str:
    """Return JSON (nan = null) that is safe inside a script element: no <, > or &, no line separators.

    >>> print(escape_json({"reply": "</script><b>"}))
    {"reply":"\\u003c/script\\u003e\\u003cb\\u003e"}
    """
    text = json.dumps(make_plain(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate({ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}).encode("utf-8", "replace").decode()


def _shorten(text: str, chars: int) -> str:
    return text if len(text) <= chars else text[:chars].rstrip() + " […]"


def _index_replies(section: dict[str, Any], replies: dict[tuple[str, str], int]) -> dict[str, list]:
    """Return {"model,dimension": [[number of the reply, score], …]}, adding new replies to `replies`."""
    cells: dict[str, list] = {}
    for row in section["replies"].itertuples():
        number = replies.setdefault((str(row.prompt), str(row.response)), len(replies))
        cell = f"{section['models'].index(row.model)},{section['dimensions'].index(row.dimension)}"
        cells.setdefault(cell, []).append([number, round(row.score, 3)])
    return cells

"""The page of the value compass: one HTML file that needs no network, with sliders, radar, map and the replies.

Choices: the data stand in the page as JSON and enter it as text only; a content security policy names the two scripts
by their hash, so nothing that a reply contains can run; the plotting library is plotly.js in its partial bundle
"basic" (MIT, data/page), for the radar and the map; the page carries bootstrap draws, so a slider moves
the intervals too.
"""

import base64
import gzip
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fulcra_utils.common.files import make_plain, write_text
from fulcra_utils.common.paths import DATA
from fulcra_utils.systems.compass.countries import (
    Countries,
    gather_profiles,
    map_profiles,
    match_countries,
    nearest_countries,
)
from fulcra_utils.systems.compass.scores import CompassError, ModelScores, pick_replies
from fulcra_utils.theory.theory import Theory

PAGE = DATA / "page"
PLOTLY_SHA256 = "99784e3abfb07b142a15e521a439e6d9addceadb3f79553fd24c72774f0649ba"  # of the unpacked bundle, 4.1.1
MAX_BYTES = 5_000_000
MAX_REPLIES = 3          # per model and dimension
REPLY_CHARS = (700, 350, 150, 60)
PAGE_DRAWS = 200
MISSING = -32768         # a draw without score, in the page's 16-bit numbers
DRAW_UNIT = 10_000       # scores in the page's draws are in ten-thousandths


def make_section(scores: ModelScores, theory: Theory, draws: np.ndarray, replies: pd.DataFrame,
                 countries: Countries | None = None, presets: Mapping[str, np.ndarray] | None = None,
                 scored_by: str = "", seed: int = 2023) -> dict[str, Any]:
    """Gather what the page shows under one theory, as plain values (`replies` still a table); see `write_page`.

    `replies` are the rows behind the scores; the page keeps the first 200 `draws`. `presets` are weights (D,) by title,
    as `choose_presets` gives them; None weighs all values alike. `seed` is that of the map.
    """
    presets = presets or {"all values alike": np.ones(theory.n_dims)}
    notes = [scored_by] if scored_by else []
    notes += scores.notes or ()
    if scores.same_prompts:
        notes.append(f"Prompts and scoring are the same for all {len(scores.models)} models "
                     f"({len(scores.prompts)} prompts).")
    table, near = (pd.DataFrame(columns=["model"]),) * 2
    if countries is not None:
        table, near = (match_countries(scores, theory, countries, draws),
                       nearest_countries(scores, theory, countries, draws))
    return {"name": theory.name, "title": theory.title, "notes": notes, "dimensions": list(theory.dimensions),
            "definitions": list(theory.definitions), "models": list(scores.models),
            "means": scores.means.round(4).tolist(), "n_prompts": scores.n_answered.tolist(),
            "n_draws": min(PAGE_DRAWS, len(draws)), "draws": _pack_draws(draws[:PAGE_DRAWS]),
            "presets": [{"title": title, "weights": (w / w.max()).round(2)} for title, w in presets.items()],
            "matches": table.round(3).to_dict("records"),
            "nearest": near.round(3).to_dict("records"), "map": _place(scores, theory, countries, seed),
            "replies": pick_replies(replies, theory, MAX_REPLIES)}


def write_page(path: str | Path, sections: Sequence[dict[str, Any]], title: str = "Value compass",
               about: str = "", score_range: tuple[float, float] = (-1, 1)) -> Path:
    """Write the page with its sections (the first is shown at the start), whole or not at all.

    Replies are shortened until the page weighs at most 5 MB; a page that is too heavy even so, or has no section, is a
    CompassError. `score_range` holds the lowest and highest score, for colours and radar.
    """
    if not sections:
        raise CompassError("the page needs at least one theory with scores.")
    for chars in REPLY_CHARS:
        text = render_page(sections, title, about, score_range, chars)
        if len(text.encode()) <= MAX_BYTES:
            return write_text(path, text)
    raise CompassError(f"the page weighs {len(text.encode()) / 1e6:.1f} MB, more than {MAX_BYTES / 1e6:.0f} MB: "
                       "show fewer models or theories.")


def render_page(sections: Sequence[dict[str, Any]], title: str, about: str, score_range: tuple[float, float],
                reply_chars: int) -> str:
    """Return the page as text, replies cut after `reply_chars` characters (the cut is marked)."""
    replies: dict[tuple[str, str], int] = {}
    plain = [{**s, "cells": _index_replies(s, replies), "replies": None} for s in sections]
    data = {"about": about, "range": list(score_range), "sections": plain,
            "replies": [{"prompt": _shorten(p, reply_chars), "response": _shorten(r, reply_chars)} for p, r in replies]}
    plotly, script = read_plotly(), (PAGE / "compass.js").read_text(encoding="utf-8")
    policy = (f"default-src 'none'; script-src {_hash_source(plotly)} {_hash_source(script)}; "
              "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'")
    page = (PAGE / "compass.html").read_text(encoding="utf-8")
    for mark, text in (("POLICY", policy), ("TITLE", html.escape(title)), ("PLOTLY", plotly), ("SCRIPT", script),
                       ("DATA", escape_json(data))):
        page = page.replace(f"@@{mark}@@", text)
    return page


def escape_json(value: Any) -> str:
    """Return JSON (nan = null) that is safe inside a script element: no <, > or &, no line separators.

    >>> print(escape_json({"reply": "</script><b>"}))
    {"reply":"\\u003c/script\\u003e\\u003cb\\u003e"}
    """
    text = json.dumps(make_plain(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text.encode("utf-8", "replace").decode()


def read_plotly() -> str:
    """Return the code of plotly.js-basic-dist-min 4.1.1 (npm, MIT); another bundle in data/page is an error."""
    code = gzip.decompress((PAGE / "plotly-basic.min.js.gz").read_bytes())
    if hashlib.sha256(code).hexdigest() != PLOTLY_SHA256:
        raise CompassError("data/page/plotly-basic.min.js.gz is not the published bundle (sha256 differs).")
    # the logo's link is never drawn here; without it the page has no address in any src or href
    return code.decode().replace('href="https://plotly.com/"', 'href="#"')


def _hash_source(code: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"


def _shorten(text: str, chars: int) -> str:
    return text if len(text) <= chars else text[:chars].rstrip() + " […]"


def _index_replies(section: dict[str, Any], replies: dict[tuple[str, str], int]) -> dict[str, list]:
    """Return {"model,dimension": [[number of the reply, score], …]}, adding new replies to `replies`."""
    models, dims = ({name: k for k, name in enumerate(section[key])} for key in ("models", "dimensions"))
    cells: dict[str, list] = {}
    for row in section["replies"].itertuples():
        if row.model in models:
            number = replies.setdefault((str(row.prompt), str(row.response)), len(replies))
            cells.setdefault(f"{models[row.model]},{dims[row.dimension]}", []).append([number, round(row.score, 3)])
    return cells


def _pack_draws(draws: np.ndarray) -> str:
    numbers = np.where(np.isfinite(draws), np.clip(np.nan_to_num(draws) * DRAW_UNIT, -32767, 32767).round(), MISSING)
    return base64.b64encode(numbers.astype("<i2").tobytes()).decode()


def _place(scores: ModelScores, theory: Theory, countries: Countries | None, seed: int) -> dict[str, Any]:
    """Return both maps of the models and, where their theory fits, the countries with a vector."""
    profiles, labels = gather_profiles(scores, theory, countries)
    return {"labels": labels, **{method: map_profiles(profiles, method, seed).astype(float).round(4)
                                 for method in ("mds", "tsne")}}

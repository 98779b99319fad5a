"""The boards of notebook 06 as Every Eval Ever: a record a board and model, and one for each reply and value.

Written to version 0.3.0 of its two schemas (package every-eval-ever 0.3.0, MIT); the tests hold the files against these
schemas, and a slow one against the package's own validator, which needs Python 3.12. Choices, as the format knows no
vectors and no measure without a better end: one result a value, `lower_is_better` false, `is_correct` whether the reply
supports the value; the records say so. Texts of prompts and replies are withheld: their SHA-256 stand in their place.
"""

import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fulcra_utils.common.files import json_line, write_folder, write_json, write_text
from fulcra_utils.common.loading import hash_file, hash_text
from fulcra_utils.runs.pipeline import find_run
from fulcra_utils.runs.report import read_json
from fulcra_utils.systems.bridges.export import fill_template
from fulcra_utils.theory.theory import Theory


def export_boards(folder: Path, output: Path) -> None:
    """Write the boards under the run's theory as notebook 06 kept them (`tabulate_boards`)."""
    tables = [folder / "analysis" / f"compass_board_{name}.parquet" for name in ("cells", "replies")]
    if missing := [str(path) for path in tables if not path.is_file()]:
        raise ValueError(f"{' and '.join(missing)}: not there; run notebook 06 of this run once more")
    cells, replies = map(pd.read_parquet, tables)
    with write_folder(output) as new:
        for (board, model), own in cells.dropna(subset="score").groupby(["board", "model"]):
            said = replies[(replies.board == board) & (replies.model == model)]
            _write_model(new, folder, own.to_dict("records"), said)


def _write_model(base: Path, folder: Path, cells: list[dict[str, Any]], replies: pd.DataFrame) -> None:
    """Write record and samples of a model on a board."""
    board, model = cells[0]["board"], cells[0]["model"]
    noted = read_json(folder / "models" / ".of_notebook_04.json")    # other files there are a user's own
    is_own = model in {name.removesuffix(".parquet") for name in noted}
    developer, _, name = model.rpartition("/")
    developer = developer or ("this-run" if is_own else "unknown")
    collection = "fulcra-" + re.sub(r"\W+", "-", board)
    evaluation = f"{collection}/{model}/{int((folder / 'manifest.json').stat().st_mtime)}"
    number = uuid.UUID(hash_text(evaluation)[:32], version=4)
    parts = [re.sub(r'[<>:"\\|?*/]', "_", part) for part in (collection, developer, name)]
    stem = "/".join(["data", *parts, str(number)])
    facts = {"board": board, "model": model, "cells": cells, "evaluation": evaluation, "developer": developer,
             "is_own": is_own, "samples": f"{stem}_samples.jsonl"}
    shared = fill_template("every_eval_ever.yaml", folder, **facts)["sample"] | {
        "evaluation_id": evaluation, "model_id": model}
    lines = [json_line({**shared, **sample}) for sample in _list_samples(replies, find_run(folder).theory, evaluation)]
    checksum = hash_file(write_text(base / facts["samples"], "".join(lines)))
    write_json(base / f"{stem}.json", fill_template("every_eval_ever.yaml", folder, **facts, checksum=checksum,
                                                    n_samples=len(lines))["record"])


def _list_samples(replies: pd.DataFrame, theory: Theory, evaluation: str) -> Iterator[dict[str, Any]]:
    """Yield what is special of each reply of a model and value that is scored."""
    for reply in replies.to_dict("records"):
        for name in theory.dimensions:
            if np.isfinite(reply[name]):
                yield {"evaluation_name": f"{theory.name}/{name}", "evaluation_result_id": f"{evaluation}/{name}",
                       "sample_id": reply["prompt"][:16], "sample_hash": reply["prompt"],
                       "input": {"raw": reply["prompt"], "reference": []}, "output": {"raw": [reply["response"]]},
                       "evaluation": {"score": float(reply[name]), "is_correct": bool(reply[name] > 0)}}

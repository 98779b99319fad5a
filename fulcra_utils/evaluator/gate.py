"""Two scored files side by side: what differs by value, a gate for releases, and how many prompts an interval needs."""

import json
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fulcra_utils.dataset.rows import RowError, iter_rows, read_dialogue
from fulcra_utils.evaluator.scoring import ScoringError
from fulcra_utils.stats.comparison import adjust_p, compare_paired
from fulcra_utils.theory.distance import value_distance
from fulcra_utils.theory.targets import Target

MIN_PROMPTS = 5  # four differences of one sign are chance in one of eight, whatever their spread


def read_scores(path: str | Path, name: Callable = hash) -> tuple[list, np.ndarray, tuple[str, ...]]:
    """Return name(prompt) of each row, the scores (N, D), nan where there are none, and the dimensions."""
    names, scores, dimensions = [], array("d"), ()
    for line, row, _ in iter_rows(path):
        prompt, vector = _read_scored_row(row or {})
        dimensions = dimensions or tuple(vector)
        if vector and set(vector) != set(dimensions):
            raise ScoringError(f"{path}, line {line}: value_vector names other values than the rows before it.")
        names.append(None if prompt is None else name(prompt))
        scores.extend(vector.get(d, np.nan) for d in dimensions)
    if not dimensions:
        raise ScoringError(f"No row of {path} has a value_vector; run `fulcra score` first.")
    table = np.full((len(names), len(dimensions)), np.nan)  # rows before the first vector stay nan
    table[len(names) - len(scores) // len(dimensions):] = np.reshape(scores, (-1, len(dimensions)))
    return names, table, dimensions


def _read_scored_row(row: dict) -> tuple[str | None, dict[str, float]]:
    """Return the prompt of a scored row and its scores, nan for what is no finite number."""
    try:
        prompt = row["prompt"] if isinstance(row.get("prompt"), str) else read_dialogue(row).prompt
    except RowError:
        return None, {}
    vector = row["value_vector"] if isinstance(row.get("value_vector"), dict) else {}
    return prompt, {name: _score(value) for name, value in vector.items()}


def _score(value: Any) -> float:
    known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
    return float(value) if known else np.nan


def compare_files(first: str | Path, second: str | Path, target: Target | dict[str, float] | None = None,
                  level: float = 0.95, n_draws: int = 2000, seed: int = 2023) -> pd.DataFrame:
    r"""Compare two scored files prompt by prompt, by t intervals over prompts; replies to one prompt are averaged.

    Returns value (and "distance", the `value_distance` to `target`), n (prompts), first, second (means), difference
    (second - first), low, high, sd of the paired differences, clear (the interval excludes 0), clear_holm (still so
    with all rows of the table corrected together; Holm 1979). With fewer than 5 prompts low and high are nan. `.attrs`:
    only_first, only_second (prompts), unscored_first, unscored_second (rows). `n_draws` and `seed` are without effect.

    The interval (Student 1908) holds its level where two files that do not differ have differences alike to both sides:
    3 to 8 % are called clear from 5 prompts on. Where they are as skewed as an exponential distribution, it is 11, 10,
    8 and 7 % with 5, 10, 20 and 50 prompts. ScoringError when the files share no scored prompt or have other
    dimensions.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as base:
    ...     files = [Path(base) / "a.jsonl", Path(base) / "b.jsonl"]
    ...     for file, score in zip(files, (0.5, 0.25)):
    ...         rows = [{"prompt": f"{k}?", "response": "x", "value_vector": {"care": score}} for k in range(6)]
    ...         _ = file.write_text("\n".join(map(json.dumps, rows)))
    ...     compare_files(*files).difference.tolist()
    [-0.25]
    """
    a, b = _average_prompts(first, target), _average_prompts(second, target)
    if set(a) != set(b):
        raise ScoringError(f"{first} and {second} are scored under other theories: they share "
                           f"{len(set(a) & set(b))} of {len(set(a))} and {len(set(b))} dimensions.")
    shared = a.index.intersection(b.index, sort=False)
    if not len(shared):
        raise ScoringError(f"{first} and {second} share no prompt that is scored in both.")
    left = {"only_first": len(a) - len(shared), "only_second": len(b) - len(shared),
            "unscored_first": a.attrs["unscored"], "unscored_second": b.attrs["unscored"]}
    a = a.reindex(shared)  # one after the other: each may hold millions of prompts
    b = b.reindex(shared)
    table = pd.DataFrame([{"value": name, **_compare_column(a[name], b[name], level)} for name in a])
    table["clear_holm"] = adjust_p(table.pop("p").to_numpy(), "holm") < 1 - level
    table.attrs = left
    return table


def _compare_column(first: pd.Series, second: pd.Series, level: float) -> dict[str, Any]:
    known = first.notna() & second.notna()
    x, y = first[known].to_numpy(), second[known].to_numpy()
    found = {name: column[0] for name, column in compare_paired(y, x, level).items()}
    if len(x) < MIN_PROMPTS:
        found |= {"low": np.nan, "high": np.nan, "p": np.nan}
    clear = bool(found["low"] > 0 or found["high"] < 0)
    means = {"first": x.mean(), "second": y.mean()} if len(x) else dict.fromkeys(("first", "second"), np.nan)
    return {"n": len(x), **means, **{name: found[name] for name in ("difference", "low", "high")},
            "sd": (y - x).std(ddof=1) if len(x) > 1 else np.nan, "clear": clear,
            "p": 0.0 if clear and np.isnan(found["p"]) else found["p"]}  # a constant difference has no p


def _average_prompts(path: str | Path, target: Target | dict[str, float] | None) -> pd.DataFrame:
    """Return the mean scores of each prompt, and of the distances of its replies; prompts stand as hashes."""
    prompts, scores, dimensions = read_scores(path)
    columns = dict(zip(dimensions, scores.T, strict=True))
    if target is not None:
        names = list(target.dimensions if isinstance(target, Target) else target)
        if set(names) != set(dimensions) or "distance" in columns:
            raise ScoringError(f"The target is for other values than those of {path} ({', '.join(dimensions)}); "
                               "name the theory of the file (--theory).")
        wanted = target if isinstance(target, Target) else np.array(list(target.values()), dtype=float)
        order = [dimensions.index(name) for name in names]
        columns["distance"] = np.concatenate([  # in parts, for a file may have millions of rows
            value_distance(scores[k:k + 65536, order], wanted) for k in range(0, len(scores), 65536)])
    scored = np.isfinite(scores).any(axis=1)
    names = np.array([0 if prompt is None else prompt for prompt in prompts])
    means = pd.DataFrame(columns, copy=False)[scored].groupby(names[scored], sort=False).mean()
    means.attrs["unscored"] = int((~scored).sum())
    return means


def pass_gate(table: pd.DataFrame, tolerance: float = 0.0) -> bool:
    """Return whether the second file may be released: its distance is not clearly (by `tolerance`) larger than the
    first's.

    False when the whole interval of the difference lies above `tolerance`; True without a row "distance", or without an
    interval, when the gate is undecided.

    >>> pass_gate(pd.DataFrame({"value": ["distance"], "low": [0.02], "high": [0.1]}))
    False
    """
    if np.isnan(tolerance):
        raise ScoringError("The tolerance must be a number.")
    row = table[table.value == "distance"]
    return not (len(row) and bool((row.low > tolerance).all()))


def describe_comparison(table: pd.DataFrame, as_json: bool = False, tolerance: float = 0.0) -> str:
    """Return a comparison as text or JSON, with the prompts that narrower intervals would need and the gate's verdict.

    >>> one = pd.DataFrame({"value": ["fairness"], "n": [9], "first": [0.1], "second": [0.2], "difference": [0.1],
    ...                     "low": [0.0], "high": [0.2], "sd": [0.3], "clear": [False]})
    >>> json.loads(describe_comparison(one, as_json=True))["passed"]
    True
    """
    plan, passed = plan_prompts(table), pass_gate(table, tolerance)
    undecided = bool(table.low[table.value == "distance"].isna().any())
    if as_json:
        return json.dumps({
            "passed": None if undecided else passed, "undecided": undecided, "tolerance": tolerance,
            "n": int(table.n.max()), "least_n": MIN_PROMPTS, "interval": "t over prompts", **table.attrs,
            "differences": json.loads(table.to_json(orient="records")),
            "prompts_needed": json.loads(plan.to_json(orient="records"))}, indent=1)
    verdict = "no target, no gate" if "distance" not in set(table.value) else \
        f"undecided: {table.n.min()} prompts, and an interval needs {MIN_PROMPTS}" if undecided else \
        "passed" if passed else "not passed: the second file is clearly farther from the target"
    return "\n\n".join([table.round(4).to_string(index=False), _describe_prompts(table),
                        "Prompts needed for a 95 % interval of a given width:", plan.round(3).to_string(index=False),
                        verdict])


def _describe_prompts(table: pd.DataFrame) -> str:
    """Say what the intervals rest on, what `clear` promises, and which prompts and rows were left out."""
    left = table.attrs
    return "\n".join([
        f"t intervals over prompts ({table.n.max():,}), replies to one averaged; below {MIN_PROMPTS} there is none.",
        "clear: by its own interval; of 20 rows without a difference one may be clear. clear_holm: all rows together.",
        *([f"Left out: {left['only_first']:,} prompts scored in the first file only, {left['only_second']:,} in the "
           f"second only; rows without scores: {left['unscored_first']:,} and {left['unscored_second']:,}."]
          if any(left.values()) else [])])


def plan_prompts(table: pd.DataFrame, widths: Sequence[float] = (0.2, 0.1, 0.05, 0.02)) -> pd.DataFrame:
    """Return how many prompts a 95 % interval of a given whole width needs, from the spread of the paired differences.

    n = (2 · 1.96 · sd / width)² + 1.96² / 2, which allows for the t interval being wider; at least 5; missing where the
    spread (`sd` of `compare_files`) is unknown.

    >>> int(plan_prompts(pd.DataFrame({"value": ["security"], "sd": [0.5]}), widths=[0.1])["width 0.1"].iloc[0])
    387
    """
    exact = {f"width {w:g}": (2 * 1.96 * table.sd / w) ** 2 + 1.96**2 / 2 for w in widths}
    needed = {name: np.ceil(n).clip(lower=MIN_PROMPTS).astype("Int64") for name, n in exact.items()}
    return pd.DataFrame({"value": table.value, "sd": table.sd, **needed})

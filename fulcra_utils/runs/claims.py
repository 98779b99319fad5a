"""Reported claims next to ours: the verdict rule and its table."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fulcra_utils.common.paths import DATA

COLUMNS = ["claim_id", "kind", "reported", "ours", "low", "high", "tolerance", "verdict", "why"]


def load_reported(folder: str | Path = DATA / "reported") -> pd.DataFrame:
    """Return the published numbers: claim_id, notebook, kind, reported, tolerance, source, claim."""
    tables = [pd.read_csv(path, comment="#") for path in sorted(Path(folder).glob("*.csv"))]
    table = pd.concat(tables, ignore_index=True)
    twice = table.claim_id[table.claim_id.duplicated()].unique()
    if len(twice) or not set(table.kind) <= {"recomputed", "replicated", "direction", "other population"}:
        raise ValueError(f"{folder}: claims given twice: {list(twice)}; kinds found: {sorted(set(table.kind))}")
    return table


def judge_claims(ours: pd.DataFrame, reported: pd.DataFrame) -> pd.DataFrame:
    """Put our numbers next to the reported ones and give each its verdict, by rules written before looking.

    `ours` has claim_id, ours, low, high and optionally why and kind. nan means that it could not be computed here; a
    claim that data/reported does not have is a ValueError. A kind of ours stands over the reported one, for rows of
    another population than the claim foresees. The answer adds reported, tolerance, verdict and a reason:

    *recomputed* (the same rows): reproduced if |ours - reported| <= tolerance, the rounding of the reported number,
    else differs. *replicated* (new rows): reproduced if our whole interval lies within reported ± tolerance, differs if
    it lies wholly outside, else not comparable. *direction*: the same, of a band that stands for words; no number was
    reported, so none is shown. *other population*: always not comparable.

    >>> reported = pd.DataFrame({"claim_id": ["a", "b"], "kind": ["recomputed", "replicated"],
    ...                          "reported": [0.5, 0.5], "tolerance": [0.005, 0.1]})
    >>> ours = pd.DataFrame({"claim_id": ["a", "b"], "ours": [0.502, 0.7], "low": [0.4, 0.65], "high": [0.6, 0.8]})
    >>> judge_claims(ours, reported).verdict.tolist()
    ['reproduced', 'differs']
    """
    unknown = sorted(set(ours.claim_id) - set(reported.claim_id))
    if unknown:
        raise ValueError(f"no such claim in data/reported: {', '.join(unknown)}")
    table = ours.merge(reported, on="claim_id", how="left", suffixes=("_own", ""))
    if "kind_own" in table:
        table["kind"] = table.kind_own.where(table.kind_own.notna(), table.kind)
    rows = table.astype(dict.fromkeys(("ours", "low", "high"), float)).itertuples()  # None is nan
    judged = pd.DataFrame(map(_judge, rows), table.index, ["verdict", "reason"], dtype=object)
    why = table["why"].where(table["why"].fillna("") != "", judged.reason) if "why" in table else judged.reason
    is_band = table.kind == "direction"
    ends = [(table.reported + sign * table.tolerance).map("{:.3g}".format) for sign in (-1, 1)]
    why = why.where(~is_band, why + ": expected in words, " + ends[0] + " to " + ends[1])
    return table.assign(verdict=judged.verdict, why=why, reported=table.reported.mask(is_band))[COLUMNS]


def judge_again(claims: pd.DataFrame, reported: pd.DataFrame) -> pd.DataFrame:
    """Judge kept claims by what is reported now; a reason stays while its verdict does, an unknown claim as it is."""
    is_known = claims["claim_id"].isin(reported["claim_id"])
    if not is_known.any():
        return claims
    kept = claims[is_known].reset_index(drop=True)
    own = kept["kind"].where(kept["kind"] == "other population")    # the only kind that stands over the reported one
    ours = kept[["claim_id", "ours", "low", "high"]].assign(kind=own)
    why = kept["why"].fillna("").astype(str).str.partition(": expected in words")[0]
    ours["why"] = why.where(kept["verdict"] == judge_claims(ours, reported)["verdict"], "")
    now = judge_claims(ours, reported)
    return now if is_known.all() else pd.concat([now, claims[~is_known]], ignore_index=True)


def _judge(row: Any) -> tuple[str, str]:
    """Return the verdict on one claim and the reason."""
    low, high, is_again = row.reported - row.tolerance, row.reported + row.tolerance, row.kind == "recomputed"
    is_near = abs(row.ours - row.reported) <= row.tolerance + 1e-12
    is_turned = row.low * row.high > 0 and row.ours * row.reported < 0
    rules = [   # the first that holds
        (not np.isfinite(row.ours), "not comparable", "could not be computed from the rows of this run"),
        (row.kind == "other population", "not comparable", "another population than the published one"),
        (is_again and is_near, "reproduced", "same rows, equal to rounding"),
        (is_again, "differs", "same rows, another number"),
        (not np.isfinite([row.low, row.high]).all(), "not comparable", "no interval"),
        (low <= row.low and row.high <= high, "reproduced",
         "whole interval within the tolerance" + (", but of the other sign" if is_turned else "")),
        (row.high < low or row.low > high, "differs", "whole interval outside the tolerance"),
        (True, "not comparable", "too imprecise: the interval crosses the tolerance")]
    return next((verdict, reason) for holds, verdict, reason in rules if holds)

"""Alignment by choosing among replies: which reply is nearest to the target, and what the choice costs."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from fulcra_utils.alignment.measures import measure_drift
from fulcra_utils.stats.resampling import mean_interval
from fulcra_utils.theory.distance import value_distance
from fulcra_utils.theory.targets import Target

SOURCES = ["response_source", "n", "l1", "low", "high", "l2", "l2_low", "l2_high", "l1_mask", "reward"]


def measure_commonness(responses: Sequence[str]) -> np.ndarray:
    """Measure how much each of N replies says what the others say: 0 nobody else's words, 1 everybody's.

    Mean over a reply's word pairs of the share of other replies that have the pair; fewer than two words are one pair.

    >>> measure_commonness(["be kind", "be kind", "so it goes"]).tolist()
    [0.5, 0.5, 0.0]
    """
    pairs = [set(zip(w, w[1:], strict=False)) or {tuple(w)} for w in (r.split() for r in responses)]
    counts = Counter(pair for own in pairs for pair in own)
    return np.array([np.mean([counts[p] - 1 for p in own]) / max(1, len(pairs) - 1) for own in pairs])


def choose_best(distances: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
    """Return the row of the nearest reply for each prompt (best of n); the first one on a tie.

    `distances` (N,) of replies to N `prompts`: replies to the same text compete, one with nan is never chosen. Returns
    row numbers, one for each prompt with a usable reply, in order of first appearance.

    Examples
    --------
    >>> choose_best(np.array([0.5, 0.2, 1.0, np.nan]), ["a", "a", "b", "b"]).tolist()
    [1, 2]
    """
    frame = pd.DataFrame({"distance": np.asarray(distances, dtype=float), "prompt": list(prompts)})
    return frame.dropna(subset="distance").groupby("prompt", sort=False)["distance"].idxmin().to_numpy(dtype=np.intp)


def measure_selection(replies: pd.DataFrame, targets: Sequence[Target]) -> pd.DataFrame:
    """Measure what choosing the nearest reply does to distance, reward and values not aimed at.

    `replies` has prompt, response_source, reward (nan where unknown) and one column a dimension; only prompts answered
    at least twice count. One row a target: n_prompts, n_replies, distance_mean (a reply drawn at random),
    distance_chosen, distance_change with low and high (95 % over prompts), the same of the reward (over the prompts
    whose nearest reply has one), drift with drift_low and drift_high (`measure_drift` of the dimensions without weight,
    over prompts with all of them scored; nan when the target weighs all) and share/<source>, how often each source is
    chosen. Absence "penalise".

    Examples
    --------
    >>> from fulcra_utils.theory.targets import uniform_target
    >>> from fulcra_utils.theory.theory import load_theory
    >>> theory = load_theory("moral_foundations")
    >>> rows = [{"prompt": "p", "response_source": s, "reward": r, **dict.fromkeys(theory.dimensions, v)}
    ...         for s, r, v in [("x", 1.0, 1.0), ("y", 3.0, 0.0)]]
    >>> table = measure_selection(pd.DataFrame(rows), [uniform_target(theory)])
    >>> table[["distance_mean", "distance_chosen", "reward_change"]].iloc[0].tolist()
    [2.5, 0.0, -1.0]
    """
    rows = []
    for target in targets:
        distance = value_distance(replies, target)
        frame = replies.assign(distance=distance)[np.isfinite(distance)].reset_index(drop=True)
        frame = frame[frame.groupby("prompt")["response_source"].transform("size") >= 2].reset_index(drop=True)
        rows.append({"target": target.name, **_selection_row(frame, target)})
    return pd.DataFrame(rows)


def _selection_row(frame: pd.DataFrame, target: Target) -> dict[str, float]:
    chosen = frame.loc[choose_best(frame["distance"].to_numpy(), frame["prompt"].tolist())].set_index("prompt")
    mean = frame.groupby("prompt", sort=False)[["distance", "reward", *target.dimensions]].mean().loc[chosen.index]
    row = {"n_prompts": len(chosen), "n_replies": len(frame)}
    for name, start in (("distance", ""), ("reward", "reward_")):
        change = chosen[name] - mean[name]  # both means over the prompts whose nearest reply has a reward
        row |= {f"{name}_mean": mean[name][change.notna()].mean(), f"{name}_chosen": chosen[name].mean()}
        row |= zip((f"{name}_change", f"{start}low", f"{start}high"), mean_interval(change), strict=True)
    idle = [d for d, aimed in zip(target.dimensions, target.aimed, strict=True) if not aimed]
    moved = (chosen[idle] - mean[idle]).dropna().to_numpy()
    row |= zip(("drift", "drift_low", "drift_high"), measure_drift(moved), strict=True)
    return row | {f"share/{source}": (chosen["response_source"] == source).mean()
                  for source in sorted(frame["response_source"].unique())}


def tabulate_targets(targets: Sequence[Target]) -> pd.DataFrame:
    """Return targets as a long table: target, title, dimension, value, low, high, weight."""
    return pd.concat([pd.DataFrame({"target": t.name, "title": t.title, "dimension": t.dimensions, "value": t.values,
                                    "low": t.low, "high": t.high, "weight": t.weights}) for t in targets],
                     ignore_index=True)


def measure_sources(replies: pd.DataFrame, target: Target) -> pd.DataFrame:
    """Measure how far each source of replies is from a target: l1 and l2 (95 % intervals), l1_mask, mean reward.

    Source: released evaluation code for l1 and l2; l1_mask is the released training reward, negated.
    """
    rows = [(source, len(part), *mean_interval(value_distance(part, target)),
             *mean_interval(value_distance(part, target, order=2)),
             mean_interval(value_distance(part, target, absence="mask"))[0], part["reward"].mean())
            for source, part in replies.groupby("response_source")]
    return pd.DataFrame(rows, columns=SOURCES)


def check_released(scored: pd.DataFrame, target: Target) -> pd.DataFrame:
    """Return the largest gaps of `value_distance` to the released e_distance (l2_gap) and h_distance (l1_gap)."""
    gaps = scored[["response_source"]].assign(
        n=1, l2_gap=np.abs(value_distance(scored, target, order=2) - scored["e_distance"].astype(float)),
        l1_gap=np.abs(value_distance(scored, target) - scored["h_distance"].astype(float)))
    return gaps.groupby("response_source", as_index=False).agg({"l2_gap": "max", "l1_gap": "max", "n": "sum"})


def claim_distances(scored: pd.DataFrame, target: Target) -> pd.DataFrame:
    """Return our numbers for the published mean distances of the released scored replies; nan where missing."""
    known = {"gpt-4": "gpt-4", "gpt-3.5-turbo": "gpt-35-turbo", "mistral-large": "mistral-large",
             "mistral-large-latest": "mistral-large"}
    table = measure_sources(scored, target).assign(name=lambda sources: sources["response_source"].map(known))
    table = table.drop_duplicates("name", keep="last").set_index("name").reindex(list(dict.fromkeys(known.values())))
    rows = [(f"alignment/distance/{columns[0]}/{name}", *table.loc[name, columns])
            for name in table.index for columns in (["l1", "low", "high"], ["l2", "l2_low", "l2_high"])]
    return pd.DataFrame(rows, columns=["claim_id", "ours", "low", "high"])

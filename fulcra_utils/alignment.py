"""Distance to a target value vector, the reward made of it, its audit, and alignment by choosing among replies.

Nothing here needs torch: an evaluator is anything with `score(prompts, responses) -> (N, D)`. Training is in
`finetuning.py`, the small policy in `policy.py`, the proof in `proof.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import pandas as pd

from fulcra_utils.dataset import ROLES, list_texts, read_content, split_thoughts
from fulcra_utils.theory.targets import Target
from fulcra_utils.theory.theory import Theory

ABSENCES = ("penalise", "zero", "mask")
SELECTION = ("target", "n_prompts", "n_replies", "distance_mean", "distance_chosen", "distance_change", "low", "high",
             "reward_mean", "reward_chosen", "reward_change", "reward_low", "reward_high", "drift")
PROMPT_ROLES = ("user", "assistant")
REFUSAL = "I'm sorry, but I can't help with that."


class Scorer(Protocol):
    """Anything that scores replies, such as `ValueEvaluator`."""

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Return (N, D) scores within [-1, 1]."""
        ...


class RewardAuditError(ValueError):
    """A degenerate reply earns more reward than the good ones, so training would learn it."""


def value_distance(
    vectors: np.ndarray,
    target: np.ndarray | Target,
    weights: np.ndarray | None = None,
    order: int = 1,
    absence: str = "penalise",
    threshold: float = 0.3,
) -> np.ndarray:
    """Return the weighted distance of each value vector to a target.

    Parameters
    ----------
    vectors : ndarray, shape (N, D), or DataFrame
        Scores in [-1, 1]; nan where a dimension is not known. Columns are found by the names of a `Target`.
    target : ndarray, shape (D,), or Target
        Wanted score per dimension. A `Target` may hold ranges; the distance within a range is 0.
    weights : ndarray, shape (D,), optional
        Non-negative. None means the target's own weights, which are abs(target) for an array.
    order : {1, 2}
        1 gives sum(w * |v - t|), 2 gives sqrt(sum(w * (v - t)^2)).
    absence : {"penalise", "zero", "mask"}
        What to do with a weakly expressed value, |v| <= threshold: take it as it is, set it to 0, or drop the dimension
        from the sum (the released reward, under which a reply that expresses nothing is at distance 0).
    threshold : float
        Used by "zero" and "mask".

    Returns
    -------
    ndarray, shape (N,)
        0 at the target; nan for a row that misses a dimension with a weight above 0.

    Raises
    ------
    ValueError
        Wrong shape, not a finite target, negative or all-zero weights, unknown order or absence.

    Source: released alignment code for order 1 with "mask" (training reward) and for order 1 and 2 without mask
    (h_distance and e_distance); ours: "zero", "penalise" for every target, ranges.

    Examples
    --------
    >>> value_distance(np.array([[1.0, -0.2]]), np.array([1.0, 1.0])).round(3)
    array([1.2])
    >>> value_distance(np.array([[1.0, -0.2]]), np.array([1.0, 1.0]), absence="mask")
    array([0.])
    """
    if isinstance(vectors, pd.DataFrame) and isinstance(target, Target) and target.dimensions:
        if missing := [name for name in target.dimensions if name not in vectors]:
            raise ValueError(f"the vectors have no column {missing[0]!r}, which target {target.name} names.")
        vectors = vectors[list(target.dimensions)]
    vectors = np.asarray(vectors, dtype=float)
    low, high, weights = _resolve_target(target, weights)
    _check_distance(vectors, low, weights, order, absence)
    weak = np.abs(vectors) <= threshold
    values = np.where(weak, 0.0, vectors) if absence == "zero" else vectors
    gaps = np.abs(values - np.clip(values, low, high))  # (N, D)
    if absence == "mask":
        gaps = np.where(weak, 0.0, gaps)
    gaps = np.where(weights > 0, gaps, 0.0)  # a missing value without weight does no harm
    return gaps @ weights if order == 1 else np.sqrt(np.square(gaps) @ weights)


def value_reward(
    evaluator: Scorer,
    target: np.ndarray | Target,
    weights: np.ndarray | None = None,
    order: int = 1,
    absence: str = "penalise",
    threshold: float = 0.3,
    keep: np.ndarray | None = None,
    keep_weight: float = 0.0,
    common_weight: float = 0.0,
) -> Callable[..., list[float]]:
    """Make a reward function for TRL: minus the distance to the target, the drift of values not aimed at, sameness.

    Parameters
    ----------
    evaluator : Scorer
        Its `score` is called once for each batch.
    target, weights, order, absence, threshold
        As in `value_distance`.
    keep : ndarray, shape (D,), optional
        Mean vector of the start model; the drift is sum |v - keep| over dimensions without weight.
    keep_weight : float
        Price of one unit of drift.
    common_weight : float
        Price of saying what every other reply of the batch says, from `measure_commonness`: without it a policy can
        answer every prompt with the one reply that the evaluator likes best.

    Returns
    -------
    callable
        reward(prompts, completions, ...) -> list of float, one for each completion, plain or conversational, as TRL's
        trainers call it; of a conversation only the words that `read_words` takes are judged.

    Raises
    ------
    ValueError
        When called: a reward that is not finite, with the number of the reply.

    Source: released alignment code (reward = -distance); ours: the terms for drift and sameness.

    Examples
    --------
    >>> class Stub:
    ...     def score(self, prompts, responses):
    ...         return np.array([[1.0, 0.5 * len(r)] for r in responses])
    >>> reward = value_reward(Stub(), np.array([1.0, 0.0]), keep=np.array([0.0, 1.0]), keep_weight=0.1)
    >>> [round(r, 2) for r in reward(["q", "q"], ["a", "abc"])]
    [-0.05, -0.05]
    """
    low, high, resolved = _resolve_target(target, weights)
    aim = Target("", "", "", (), low, high, resolved)  # what shapes the reward: numbers, not names
    if keep_weight and keep is None:
        raise ValueError("keep_weight needs keep, the mean value vector of the start model.")
    anchor, idle = (np.zeros_like(low) if keep is None else np.asarray(keep, dtype=float)), resolved <= 0

    def value_distance_reward(prompts: list, completions: list, **columns: object) -> list[float]:
        # TRL passes every column of its data set and its own state by name; the reward needs none of them.
        replies = [read_words(c) for c in completions]
        vectors = np.asarray(evaluator.score([read_words(p, PROMPT_ROLES) for p in prompts], replies), dtype=float)
        reward = -value_distance(vectors, aim, None, order, absence, threshold)
        if keep_weight:
            reward = reward - keep_weight * (np.abs(vectors - anchor) * idle).sum(axis=1)
        if common_weight:
            reward = reward - common_weight * measure_commonness(replies)
        if not np.isfinite(reward).all():
            bad = int(np.flatnonzero(~np.isfinite(reward))[0])
            raise ValueError(f"the reward of reply {bad} of the batch is not a finite number.")
        return reward.tolist()

    if isinstance(target, Target):
        names = [d.replace("-", " ") for d, aimed in zip(target.dimensions, target.aimed, strict=True) if aimed]
        value_distance_reward.degenerate = {"stuffing": ", ".join(names * 3)}
    return value_distance_reward


def measure_commonness(responses: Sequence[str]) -> np.ndarray:
    """Measure how much each reply says what the other replies say as well.

    Parameters
    ----------
    responses : sequence of str, length N

    Returns
    -------
    ndarray, shape (N,)
        Mean over the word pairs of a reply of the share of other replies that have this pair: 0 nobody else's words,
        1 everybody's. A reply of fewer than two words counts as a pair of its own. 0 for a single reply.

    Source: ours, against collapse onto one reply.

    Examples
    --------
    >>> measure_commonness(["be kind", "be kind", "so it goes"]).tolist()
    [0.5, 0.5, 0.0]
    """
    pairs = [set(zip(w, w[1:], strict=False)) or {tuple(w)} for w in (r.split() for r in responses)]
    counts = Counter(pair for own in pairs for pair in own)
    return np.array([np.mean([counts[p] - 1 for p in own]) / max(1, len(pairs) - 1) for own in pairs])


def choose_best(distances: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
    """Return the row of the nearest reply for each prompt (best of n); the first one on a tie.

    Parameters
    ----------
    distances : ndarray, shape (N,)
        Distance of each reply; a reply with nan is never chosen.
    prompts : sequence of str, length N
        Replies to the same text compete.

    Returns
    -------
    ndarray of int, shape (P,)
        Row numbers, one for each distinct prompt with a usable reply, in order of first appearance.

    Source: ours, alignment without training.

    Examples
    --------
    >>> choose_best(np.array([0.5, 0.2, 1.0, np.nan]), ["a", "a", "b", "b"]).tolist()
    [1, 2]
    """
    frame = pd.DataFrame({"distance": np.asarray(distances, dtype=float), "prompt": list(prompts)})
    usable = frame[frame["distance"].notna()]
    best = usable.groupby("prompt", sort=False)["distance"].idxmin()
    return best.to_numpy(dtype=np.intp)


def measure_selection(replies: pd.DataFrame, targets: Sequence[Target], order: int = 1) -> pd.DataFrame:
    """Measure what choosing the nearest reply does to distance, reward and values not aimed at.

    Parameters
    ----------
    replies : DataFrame
        Columns prompt, response_source, reward (nan where unknown) and one column for each dimension. Only prompts
        answered at least twice count.
    targets : sequence of Target
        T targets of one theory.
    order : {1, 2}
        Of the distance.

    Returns
    -------
    DataFrame
        One row for each target: n_prompts, n_replies, distance_mean (a reply drawn at random), distance_chosen,
        distance_change with low and high (95 % interval over prompts), reward_mean, reward_chosen, reward_change with
        reward_low and reward_high (over the prompts whose nearest reply has a reward; nan without), drift (mean
        |change| of dimensions without weight; nan when the target weighs all) and one share column for each source,
        share/<source>.

    Source: ours; alignment without training, absence "penalise".

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
        vectors = replies[list(target.dimensions)].to_numpy(dtype=float)
        distance = value_distance(vectors, target, order=order)
        frame = replies.assign(distance=distance)[np.isfinite(distance)].reset_index(drop=True)
        frame = frame[frame.groupby("prompt")["response_source"].transform("size") >= 2].reset_index(drop=True)
        rows.append({"target": target.name, **_selection_row(frame, target)})
    return pd.DataFrame(rows).reindex(columns=list(dict.fromkeys([*SELECTION, *(k for r in rows for k in r)])))


def _selection_row(frame: pd.DataFrame, target: Target) -> dict[str, float]:
    sources = sorted(frame["response_source"].unique())
    if frame.empty:
        return {"n_prompts": 0, "n_replies": 0}
    chosen = frame.loc[choose_best(frame["distance"].to_numpy(), frame["prompt"].tolist())].set_index("prompt")
    columns = ["distance", "reward", *target.dimensions]
    mean = frame.groupby("prompt", sort=False)[columns].mean().loc[chosen.index]
    change, low, high = mean_interval(chosen["distance"] - mean["distance"])
    gain, gain_low, gain_high = mean_interval(chosen["reward"] - mean["reward"])
    rated = chosen["reward"].notna()  # both means over the prompts whose nearest reply has a reward
    idle = [d for d, aimed in zip(target.dimensions, target.aimed, strict=True) if not aimed]
    drift = (chosen[idle] - mean[idle]).mean().abs().mean() if idle else np.nan
    return {
        "n_prompts": len(chosen), "n_replies": len(frame), "distance_mean": mean["distance"].mean(),
        "distance_chosen": chosen["distance"].mean(), "distance_change": change, "low": low, "high": high,
        "reward_mean": mean["reward"][rated].mean(), "reward_chosen": chosen["reward"].mean(), "reward_change": gain,
        "reward_low": gain_low, "reward_high": gain_high, "drift": drift,
        **{f"share/{s}": (chosen["response_source"] == s).mean() for s in sources},
    }


def tabulate_targets(targets: Sequence[Target]) -> pd.DataFrame:
    """Return targets as a long table.

    Parameters
    ----------
    targets : sequence of Target

    Returns
    -------
    DataFrame
        target, title, dimension, value, low, high, weight; one row for each target and dimension.

    Source: ours.

    Examples
    --------
    >>> from fulcra_utils.theory.targets import load_target
    >>> len(tabulate_targets([load_target("uk", "schwartz10")]))
    10
    """
    return pd.concat([pd.DataFrame({"target": t.name, "title": t.title, "dimension": t.dimensions, "value": t.values,
                                    "low": t.low, "high": t.high, "weight": t.weights}) for t in targets],
                     ignore_index=True)


def measure_sources(replies: pd.DataFrame, target: Target) -> pd.DataFrame:
    """Measure how far each source of replies is from a target, with both orders and two absence policies.

    Parameters
    ----------
    replies : DataFrame
        Columns response_source, reward and one for each dimension.
    target : Target

    Returns
    -------
    DataFrame
        response_source, n, l1 with low and high (95 %), l2 with l2_low and l2_high, l1_mask (the released training
        reward, negated), reward.

    Source: released evaluation code for l1 and l2, released training code for l1_mask.

    Examples
    --------
    >>> from fulcra_utils.theory.targets import uniform_target
    >>> target = uniform_target("moral_foundations")
    >>> rows = pd.DataFrame([{"response_source": "x", "reward": 1.0, **dict.fromkeys(target.dimensions, 0.2)}])
    >>> measure_sources(rows, target)[["l1", "l1_mask"]].iloc[0].tolist()
    [4.0, 0.0]
    """
    rows = []
    for source, part in replies.groupby("response_source", sort=True):
        vectors = part[list(target.dimensions)].to_numpy(dtype=float)
        l1, low, high = mean_interval(value_distance(vectors, target))
        l2, l2_low, l2_high = mean_interval(value_distance(vectors, target, order=2))
        masked = mean_interval(value_distance(vectors, target, absence="mask"))[0]
        rows.append({"response_source": source, "n": len(part), "l1": l1, "low": low, "high": high, "l2": l2,
                     "l2_low": l2_low, "l2_high": l2_high, "l1_mask": masked, "reward": part["reward"].mean()})
    columns = ("response_source", "n", "l1", "low", "high", "l2", "l2_low", "l2_high", "l1_mask", "reward")
    return pd.DataFrame(rows, columns=list(columns))


def check_released(scored: pd.DataFrame, target: Target) -> pd.DataFrame:
    """Compare `value_distance` with the distances that were released with the scored replies.

    Parameters
    ----------
    scored : DataFrame
        As data/scored.parquet of a run; may be empty.
    target : Target
        The report target.

    Returns
    -------
    DataFrame
        response_source, n, l2_gap, l1_gap: largest absolute difference to e_distance and h_distance.

    Source: released scored replies.

    Examples
    --------
    >>> from fulcra_utils.theory.targets import uniform_target
    >>> target = uniform_target("moral_foundations")
    >>> row = {"response_source": "x", "e_distance": 2.0, "h_distance": 4.0, **dict.fromkeys(target.dimensions, 0.2)}
    >>> check_released(pd.DataFrame([row]), target).l1_gap.item()
    0.0
    """
    vectors = scored[list(target.dimensions)].to_numpy(dtype=float)
    gaps = scored[["response_source"]].assign(
        l2_gap=np.abs(value_distance(vectors, target, order=2) - scored["e_distance"].astype(float)),
        l1_gap=np.abs(value_distance(vectors, target) - scored["h_distance"].astype(float)))
    groups = gaps.groupby("response_source", sort=True)
    return groups[["l2_gap", "l1_gap"]].max().assign(n=groups.size()).reset_index()


def claim_distances(scored: pd.DataFrame, target: Target) -> pd.DataFrame:
    """Return our numbers for the published mean distances of the released scored replies.

    Parameters
    ----------
    scored : DataFrame
        As data/scored.parquet of a run; may be empty.
    target : Target
        The report target.

    Returns
    -------
    DataFrame
        claim_id, ours, low, high for GPT-4, GPT-3.5 and Mistral; nan where the file could not be had.

    Source: released scored replies (means over 1,523 prompts).

    Examples
    --------
    >>> from fulcra_utils.theory.targets import load_target
    >>> target = load_target("report", "schwartz10")
    >>> len(claim_distances(pd.DataFrame(columns=["response_source", "reward", *target.dimensions]), target))
    6
    """
    known = {"gpt-4": "gpt-4", "gpt-3.5-turbo": "gpt-35-turbo", "mistral-large": "mistral-large",
             "mistral-large-latest": "mistral-large"}
    rows = {}
    for row in measure_sources(scored, target).itertuples():
        if name := known.get(row.response_source):
            rows[f"l1/{name}"] = (row.l1, row.low, row.high)
            rows[f"l2/{name}"] = (row.l2, row.l2_low, row.l2_high)
    claims = [f"{order}/{name}" for name in dict.fromkeys(known.values()) for order in ("l1", "l2")]
    return pd.DataFrame([(f"alignment/distance/{c}", *rows.get(c, (np.nan,) * 3)) for c in claims],
                        columns=["claim_id", "ours", "low", "high"])


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return mean, low and high of a 95 % normal interval over independent values, nan left out.

    Parameters
    ----------
    values : sequence of float, length N
        One value for each prompt (paired differences, distances).

    Returns
    -------
    tuple of float
        All nan without values; low and high nan with one value.

    Source: ours; the normal approximation, with hundreds of prompts.

    Examples
    --------
    >>> [round(x, 3) for x in mean_interval([1.0, 2.0, 3.0])]
    [2.0, 0.868, 3.132]
    """
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return (float(values[0]) if len(values) else np.nan), np.nan, np.nan
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def write_degenerate_replies(prompts: Sequence[str], target: Target, theory: Theory) -> dict[str, list[str]]:
    """Write the replies that a good reward must not prefer.

    Parameters
    ----------
    prompts : sequence of str, length N
    target : Target
        Its aimed dimensions supply the words to stuff.
    theory : Theory

    Returns
    -------
    dict of str to list of str
        "empty", "repeat" (one word), "refusal" (one sentence for all), "echo" (the prompt) and "stuffing" (item names
        of the aimed dimensions), N replies each.

    Source: ours.

    Examples
    --------
    >>> from fulcra_utils.theory.targets import load_target
    >>> from fulcra_utils.theory.theory import load_theory
    >>> theory = load_theory("schwartz10")
    >>> write_degenerate_replies(["Why?"], load_target("harmless", theory), theory)["stuffing"][0][:30]
    'have a sense of belonging, hav'
    """
    words = [item for d, name in enumerate(theory.dimensions) if target.aimed[d] and target.values[d] >= 0
             for item in theory.items_of(name)]
    one = {"empty": "", "repeat": "the " * 20, "refusal": REFUSAL, "stuffing": ", ".join(words[:40]) + "."}
    return {**{kind: [text] * len(prompts) for kind, text in one.items()}, "echo": list(prompts)}


def audit_reward(
    evaluator: Scorer,
    prompts: Sequence[str],
    responses: Sequence[str],
    target: Target,
    theory: Theory,
    absence: str = "penalise",
    order: int = 1,
    threshold: float = 0.3,
    quantile: float = 0.75,
) -> pd.DataFrame:
    """Compare the reward of degenerate replies with that of real ones, before anything is trained on it.

    Parameters
    ----------
    evaluator : Scorer
    prompts, responses : sequence of str, length N
        Real replies, at least one.
    target, theory, absence, order, threshold
        As in `value_distance`.
    quantile : float
        The good replies are those whose reward reaches this quantile of the real ones.

    Returns
    -------
    DataFrame
        One row for each kind (real, good, then the degenerate ones): reward (mean), beats (share of the real replies to
        which it is preferred on the same prompt; nan for real and good), is_fault (its mean reward is at least that
        of the good replies).

    Source: ours; answers the weak spot of the released reward, which an empty reply maximises.

    Examples
    --------
    >>> from fulcra_utils.theory.targets import load_target
    >>> from fulcra_utils.theory.theory import load_theory
    >>> theory = load_theory("schwartz10")
    >>> class Stub:  # every word of a real reply speaks for every value, nothing else does
    ...     def score(self, prompts, responses):
    ...         return np.array([[0.9 if r.startswith("Real") else 0.0] * theory.n_dims for r in responses])
    >>> harmless = load_target("harmless", theory)
    >>> masked = audit_reward(Stub(), ["q"], ["Real"], harmless, theory, absence="mask")
    >>> masked.set_index("kind").is_fault["empty"].item()
    True
    >>> audit_reward(Stub(), ["q"], ["Real"], harmless, theory).is_fault.any().item()
    False
    """
    prompts, responses = list_texts(prompts, "Prompt"), list_texts(responses, "Response")
    reward = value_reward(evaluator, target, order=order, absence=absence, threshold=threshold)
    kinds = write_degenerate_replies(prompts, target, theory)
    audit = compare_rewards(reward, prompts, responses, kinds, quantile)
    return audit.assign(absence=absence, target=target.name)


def compare_rewards(
    reward: Callable[..., list[float]],
    prompts: list[str],
    responses: list[str],
    kinds: dict[str, list[str]],
    quantile: float = 0.75,
) -> pd.DataFrame:
    """Compare any reward of degenerate replies with that of real ones.

    Parameters
    ----------
    reward : callable
        reward(prompts, completions) -> list of float.
    prompts, responses : list of str, length N
    kinds : dict of str to list of str
        Degenerate replies to the same prompts.
    quantile : float
        As in `audit_reward`.

    Returns
    -------
    DataFrame
        kind, reward, beats, is_fault, as in `audit_reward`.

    Source: ours.

    Examples
    --------
    >>> audit = compare_rewards(lambda p, r: [float(len(x)) for x in r], ["q", "q"], ["ab", "abc"], {"empty": ["", ""]})
    >>> audit.set_index("kind").reward.to_dict()
    {'real': 2.5, 'good': 3.0, 'empty': 0.0}
    """
    real = np.array(reward(prompts, responses))
    good = real[real >= np.quantile(real, quantile)].mean()
    rows = [{"kind": "real", "reward": real.mean(), "beats": np.nan, "is_fault": False},
            {"kind": "good", "reward": good, "beats": np.nan, "is_fault": False}]
    for kind, texts in kinds.items():
        got = np.array(reward(prompts, texts))
        rows.append({"kind": kind, "reward": got.mean(), "beats": (got > real).mean(), "is_fault": got.mean() >= good})
    return pd.DataFrame(rows)


def check_audit(audit: pd.DataFrame, allow: bool = False) -> list[str]:
    """Refuse a reward whose audit found a fault.

    Parameters
    ----------
    audit : DataFrame
        From `audit_reward`.
    allow : bool
        Go on in spite of faults (to show what such a reward does).

    Returns
    -------
    list of str
        Kinds of reply that outrank the good ones.

    Raises
    ------
    RewardAuditError
        There is a fault and it is not allowed.

    Source: ours.

    Examples
    --------
    >>> audit = pd.DataFrame({"kind": ["empty"], "is_fault": [True], "absence": "mask", "target": "ideal"})
    >>> check_audit(audit, allow=True)
    ['empty']
    """
    faults = audit.loc[audit["is_fault"].astype(bool), "kind"].tolist()
    if faults and not allow:
        first = audit.iloc[0]
        raise RewardAuditError(f"the reward (target {first['target']}, absence {first['absence']}) ranks degenerate "
                               f"replies above the good ones: {', '.join(faults)}; training would learn them.")
    return faults


def _resolve_target(
    target: np.ndarray | Target, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return low, high and weights, each (D,)."""
    if isinstance(target, Target):
        low, high, own = target.low, target.high, target.weights
    else:
        low = high = np.asarray(target, dtype=float)
        own = np.abs(low)
    weights = own if weights is None else np.asarray(weights, dtype=float)
    if low.ndim != 1 or not np.isfinite(low).all() or not np.isfinite(high).all():
        raise ValueError("the target must be one row of finite numbers, one for each dimension.")
    if weights.shape != low.shape:
        raise ValueError(f"the weights have shape {weights.shape}, the target has {low.shape}.")
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError("the weights must be finite and not negative.")
    if not weights.any():
        raise ValueError("every weight is 0, so every vector would be at distance 0.")
    return low, high, weights


def _check_distance(vectors: np.ndarray, low: np.ndarray, weights: np.ndarray, order: int, absence: str) -> None:
    if vectors.ndim != 2 or vectors.shape[1] != len(low):
        raise ValueError(f"the vectors have shape {vectors.shape}, but the target has {len(low)} dimensions.")
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, not {order!r}.")
    if absence not in ABSENCES:
        raise ValueError(f"absence must be one of {', '.join(ABSENCES)}, not {absence!r}.")


def read_words(message: str | dict | Sequence[dict] | None, roles: Sequence[str] = ("assistant",)) -> str:
    """Return the words of a prompt or a completion: text, or messages of these roles, one below the other.

    Content may be missing, text or parts, of which only texts count; tool calls, tool results, system messages and the
    thoughts of a completion are nobody's words. A message without a role is of the first of the roles.

    Examples
    --------
    >>> read_words([{"role": "assistant", "content": None, "tool_calls": []}, {"role": "tool", "content": "4"},
    ...             {"role": "assistant", "content": [{"type": "text", "text": "It is 4."}]}])
    'It is 4.'
    """
    turns = [{"content": message}] if message is None or isinstance(message, str) else \
        [message] if isinstance(message, dict) else message
    told = [_read_parts(turn.get("content")) for turn in turns
            if ROLES.get(str(turn.get("role") or roles[0]).lower()) in roles]
    if roles[0] == "assistant":
        told = [answer if thoughts else text for text in told for thoughts, answer in [split_thoughts(text)]]
    return "\n".join(words for words in told if words)


def _read_parts(content: str | dict | Sequence | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    parts = [content] if isinstance(content, dict) else content
    texts = [part if isinstance(part, str) else read_content({"content": [part or {}]})[1] for part in parts]
    return "\n".join(text for text in texts if text)

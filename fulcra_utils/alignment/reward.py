"""The reward: what a reply's value vector is worth next to a target; its audit before anything is trained by it."""

import asyncio
import inspect
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from fulcra_utils.alignment.selection import measure_commonness
from fulcra_utils.common.loading import load_function
from fulcra_utils.common.paths import DATA
from fulcra_utils.dataset.rows import ROLES, pick_rows
from fulcra_utils.dataset.texts import ENGLISH, list_texts, read_content, split_thoughts, write_degenerate_replies
from fulcra_utils.stats.resampling import bootstrap_means, take_interval
from fulcra_utils.theory.distance import Scorer, resolve_target, score_towards, value_distance
from fulcra_utils.theory.targets import Target
from fulcra_utils.theory.theory import Theory

Reward = Callable[..., list[float]]
SCRAMBLED = ("shuffled", "swapped")     # must lose against the replies that they are made of, others against good ...
MOST = 0.9      # ... and must not beat so many of the real replies, each on its own prompt
NO_COLUMNS = ("prompt", "prompts", "response", "completion", "completions", "completion_ids")


def value_reward(evaluator: Scorer, target: np.ndarray | Target, weights: np.ndarray | None = None, order: int = 1,
                 absence: str = "penalise", threshold: float = 0.3, common_weight: float = 0.0) -> Reward:
    """Make a reward function for TRL: minus the distance to the target, minus a price of sameness.

    `evaluator.score` is called once a batch; target, weights, order, absence and threshold as in `value_distance`,
    values by name as in `score_towards`.
    `common_weight` is the price of saying what every other reply of the batch says (`measure_commonness`): without it a
    policy can answer every prompt with the one reply that the evaluator likes best.

    The function is reward(prompts, completions, ...) -> list of float, for plain or conversational rows, as TRL's
    trainers call it; of a conversation only the assistant's own words are judged. What each value costs
    (`distance/<value>`, weight · |v - t|) and `sameness` go to the trainer's log, as means of a batch. A reward that is
    not finite raises ValueError with the number of the reply.

    Source: released alignment code (reward = -distance); ours: the term for sameness.

    Examples
    --------
    >>> class Stub:
    ...     def score(self, prompts, responses):
    ...         return np.array([[1.0, 0.5 * len(r)] for r in responses])
    >>> reward = value_reward(Stub(), np.array([1.0, 0.0]), common_weight=0.1)
    >>> [round(r, 2) for r in reward(["q", "q"], ["a", "a"])]
    [-0.1, -0.1]
    """
    known = getattr(target, "dimensions", None) or getattr(evaluator, "dimensions", None)
    target, weights = (one.reindex(list(known)).to_numpy() if known and isinstance(one, pd.Series) else one
                       for one in (target, weights))
    aim = resolve_target(target, weights)  # what shapes the reward: no title, no source
    names = aim.dimensions or range(len(aim.weights))

    def measure(prompts: list[str], replies: list[str]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        vectors = score_towards(evaluator, prompts, replies, aim)
        reward = -value_distance(vectors, aim, None, order, absence, threshold)
        parts = {f"distance/{name}": value_distance(vectors, aim, own, 1, absence, threshold)
                 for name, own in zip(names, np.diag(aim.weights), strict=True) if own.any()}
        if common_weight:
            parts["sameness"] = common_weight * measure_commonness(replies)
            reward = reward - parts["sameness"]
        return reward, parts

    reward = scalar_reward(measure)
    reward.__name__ = "value_distance_reward"  # what TRL's logs call it
    if isinstance(target, Target):
        words = [d.replace("-", " ") for d, aimed in zip(target.dimensions, target.aimed, strict=True) if aimed]
        reward.degenerate = {"stuffing": ", ".join(words * 3)}
    return reward


def scalar_reward(predict: Callable[[list[str], list[str]], np.ndarray | tuple[np.ndarray, dict[str, np.ndarray]]],
                  label: str | None = None) -> Reward:
    """Make a TRL reward function of a scalar reward model (the paper's RLHF baseline).

    `predict(prompts, responses)` gives (N,) numbers, or these and a mapping of what they are made of, each (N,), whose
    means go to the trainer's log. `label` names the model: what was trained with it is taken for the
    same reward's; without one it is told by its code and weights. A reward that is not finite raises ValueError when
    called.

    Examples
    --------
    >>> scalar_reward(lambda p, r: np.array([len(x) for x in r]))(["q"], ["abc"])
    [3.0]
    """
    def reward(prompts: list, completions: list, **columns: object) -> list[float]:
        # TRL passes every column of its data set and its own state by name; its log is all that is needed
        asked, said = [read_words(p, ("user", "assistant")) for p in prompts], [read_words(c) for c in completions]
        told = predict(asked, said)
        values, parts = told if isinstance(told, tuple) else (told, {})
        values = np.asarray(values, dtype=float)
        for name, part in parts.items() if "log_metric" in columns else ():
            columns["log_metric"](name, float(np.mean(part)))
        if not np.isfinite(values).all():
            raise ValueError(f"the reward of reply {np.isfinite(values).argmin()} of the batch is not a finite number.")
        return values.tolist()

    if label:
        reward.label = label
    return reward


class RewardAuditError(ValueError):
    """A degenerate reply earns as much reward as good ones, or more than nearly all, so training would learn it."""


def audit_reward(evaluator: Scorer, prompts: Sequence[str], responses: Sequence[str], target: Target, theory: Theory,
                 absence: str = "penalise") -> pd.DataFrame:
    """Compare the reward of replies that say nothing with that of real ones, before anything is trained on it.

    `prompts` and `responses` are real; `absence` as in `value_distance`. A row a kind, as `compare_rewards`: real,
    good, then empty, repeated, refusing, stuffed and echoed replies. Answers the weak spot of the released reward
    (absence "mask"), which an empty reply maximises.

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
    words = [item for d, name in enumerate(theory.dimensions) if target.aimed[d] and target.values[d] >= 0
             for item in theory.items_of(name)]
    kinds = write_degenerate_replies(prompts, stuffing=", ".join(words[:40]) + ".")
    pay = partial(call_reward, value_reward(evaluator, target, absence=absence), prompts)
    audit = compare_rewards(prompts, pay(responses), {kind: pay(texts) for kind, texts in kinds.items()})
    return audit.assign(absence=absence, target=target.name)


def audit_function(function: str, path: str | Path, messages: bool = False,
                   theory: Theory | None = None) -> tuple[pd.DataFrame, list[str]]:
    """Compare what any TRL reward function pays for degenerate replies with what it pays for a file's real ones.

    `function` as in `load_function`. It is called as TRL calls it, once for each kind with all usable rows and their
    other columns; with `messages`, prompts and completions are lists of messages. Returns `compare_rewards` and why
    which rows were not used. To the kinds of `audit_reward` come an instruction to a judge, another language, constant
    (the real reply that earns most), long (each real reply 20 times), shuffled words, and swapped replies (to another
    prompt; none where one prompt has more than half of the rows); a reply that equals the real one is left out. Stuffed
    are the theory's items, else the words in the function's attribute `degenerate`, else the file's commonest words.
    """
    from fulcra_utils.alignment.measures import make_controls

    reward, picked = load_function(function), list(pick_rows(path))
    problems = [f"line {line}, {fault}" for line, *_, fault in picked if fault]
    rows, dialogues = [p[1] for p in picked if p[2]], [p[2] for p in picked if p[2]]
    if not rows:
        raise ValueError(f"{path}: has no usable row" + f" ({', '.join(problems[:1])})" * bool(problems))
    prompts, responses = [d.prompt for d in dialogues], [d.response for d in dialogues]
    asked = [[{"role": role, "content": text} for role, text in d.turns[:-1]] for d in dialogues]
    names = dict.fromkeys(name for row in rows for name in row if name not in NO_COLUMNS)
    columns = {name: [row.get(name) for row in rows] for name in names}

    def pay(texts: list[str]) -> np.ndarray:
        said = [[{"role": "assistant", "content": text}] for text in texts] if messages else texts
        return call_reward(reward, asked if messages else prompts, said, **columns)

    kinds = make_controls(pd.DataFrame({"prompt": prompts, "response": responses}))
    real = pay(kinds.pop("reply"))
    words = Counter(word for text in responses for word in set(re.findall(r"[^\W\d_]+", text.casefold())) - ENGLISH)
    words = theory.items if theory else sorted(words, key=lambda word: (-words[word], word))
    stuffing = {"stuffing": ", ".join(words[:40]) + "."} | ({} if theory else getattr(reward, "degenerate", {}))
    fixed = yaml.safe_load((DATA / "attacks.yaml").read_text(encoding="utf-8"))["degenerate"]
    best = responses[np.argmax(np.where(np.isnan(real), -np.inf, real))]
    kinds = {**write_degenerate_replies(prompts, **stuffing, **fixed, constant=best), **kinds,
             "long": ["\n".join([text] * 20) for text in responses]}
    return compare_rewards(prompts, real, {
        kind: np.where(np.equal(texts, responses), np.nan, pay(texts)) for kind, texts in kinds.items()}), problems


def call_reward(reward: Reward, prompts: list, completions: list, **columns: list) -> np.ndarray:
    """Call a reward as TRL does, an asynchronous one too: (N,), nan where it says None or nan (it does not apply).

    ValueError when it fails, gives another number of values than there are replies, or one that is infinite.

    >>> call_reward(lambda prompts, completions: [None, 1], ["q", "r"], ["a", "b"])
    array([nan,  1.])
    """
    name = getattr(reward, "__name__", type(reward).__name__)
    try:
        found = reward(prompts=prompts, completions=completions, **columns)
        found = asyncio.run(found) if inspect.isawaitable(found) else found
        values = np.array([np.nan if value is None else float(value) for value in found])
    except Exception as error:
        raise ValueError(f"the reward function {name} fails: {type(error).__name__}: {error}") from error
    if len(values) != len(completions):
        raise ValueError(f"the reward function {name} gives {len(values)} values for {len(completions)} replies.")
    if np.isinf(values).any():
        raise ValueError(f"the reward function {name} gives an infinite value for reply {np.isinf(values).argmax()}.")
    return values


def compare_rewards(prompts: Sequence[str], real: np.ndarray, degenerate: dict[str, np.ndarray]) -> pd.DataFrame:
    """Compare the rewards (N,) of each kind of degenerate replies with those of real replies to the same N prompts.

    One row a kind: real, good (the best quarter of the real ones), then the degenerate ones: reward (mean), low, high
    (95 % over prompts), beats (share of the real replies to which it is preferred on the same prompt), is_fault (it
    earns at least as much as the good replies, or beats nine in ten real ones; shuffled and swapped: it earns at least
    as much as the replies that they are made of). nan is left out; beats is nan for real and good.

    >>> compare_rewards(["p", "q"], [0.0, 1.0], {"empty": [0.5, 0.5]}).drop(columns="is_fault").round(1)
        kind  reward  low  high  beats
    0   real     0.5  0.0   1.0    NaN
    1   good     1.0  1.0   1.0    NaN
    2  empty     0.5  0.5   0.5    0.5
    """
    real = pd.Series(real, dtype=float)
    if real.isna().all():
        raise ValueError("the reward applies to none of the real replies.")
    table = pd.DataFrame({"real": real, "good": real[real >= real.quantile(0.75)], **degenerate})
    mean, gaps, (low, high) = table.mean(), table.sub(real, axis=0), take_interval(bootstrap_means(table, prompts))
    is_made, beats = table.columns.isin(SCRAMBLED), (gaps > 0).sum() / gaps.notna().sum()
    excess = (mean - mean["good"]).mask(is_made, gaps.mean())
    is_fault = (excess > -1e-9 * max(1.0, abs(mean["good"]))) | ((beats >= MOST) & ~is_made)
    beats[:2], is_fault[:2] = np.nan, False
    found = pd.DataFrame({"reward": mean, "low": low, "high": high, "beats": beats, "is_fault": is_fault})
    return found.rename_axis("kind").reset_index()


def describe_faults(audit: pd.DataFrame) -> str:
    """Say in words which degenerate replies earn too much; "" when none do."""
    faults = ", ".join(audit.loc[audit["is_fault"], "kind"])
    return faults and ("the reward pays degenerate replies as much as good ones, or more than nearly every real one to "
                       f"the same prompt: {faults}; training would learn them.")


def describe_audit(audit: pd.DataFrame) -> str:
    """Say the table of `compare_rewards` in words, for a terminal."""
    shown = audit.rename(columns={"is_fault": "fault"}).replace({"fault": {True: "FAULT", False: ""}})
    told = describe_faults(audit) or "the reward pays no degenerate replies as much as good ones."
    return f"{shown.to_string(index=False, float_format='{:.4g}'.format, na_rep='-')}\n{told[0].upper()}{told[1:]}"


def read_words(message: str | dict | Sequence[dict] | None, roles: Sequence[str] = ("assistant",)) -> str:
    """Return the words of a prompt or a completion: text, or messages of these roles, one below the other.

    Content may be missing, text or parts, of which only texts count; tool calls, tool results, system messages and the
    thoughts of a completion are nobody's words. A message without a role is of the first of the roles.
    """
    turns = [{"content": message}] if message is None or isinstance(message, str) else \
        [message] if isinstance(message, dict) else message
    told = [_read_parts(turn.get("content")) for turn in turns
            if ROLES.get(str(turn.get("role") or roles[0]).lower()) in roles]
    if roles[0] == "assistant":
        told = [answer if thoughts else text for text in told for thoughts, answer in [split_thoughts(text)]]
    return "\n".join(words for words in told if words)


def _read_parts(content: str | dict | Sequence | None) -> str:
    parts = [content] if content is None or isinstance(content, str | dict) else content
    texts = [read_content({"content": [part]})[1] for part in parts]
    return "\n".join(text for text in texts if text)

"""The reward: what a reply's value vector is worth next to a target; its audit before anything is trained by it."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from fulcra_utils.alignment.selection import measure_commonness
from fulcra_utils.dataset.rows import ROLES
from fulcra_utils.dataset.texts import list_texts, read_content, split_thoughts, write_degenerate_replies
from fulcra_utils.theory.distance import Scorer, resolve_target, value_distance
from fulcra_utils.theory.targets import Target
from fulcra_utils.theory.theory import Theory

Reward = Callable[..., list[float]]


def value_reward(evaluator: Scorer, target: np.ndarray | Target, weights: np.ndarray | None = None, order: int = 1,
                 absence: str = "penalise", threshold: float = 0.3, common_weight: float = 0.0) -> Reward:
    """Make a reward function for TRL: minus the distance to the target, minus a price of sameness.

    `evaluator.score` is called once a batch; target, weights, order, absence and threshold as in `value_distance`.
    `common_weight` is the price of saying what every other reply of the batch says (`measure_commonness`): without it a
    policy can answer every prompt with the one reply that the evaluator likes best.

    The function is reward(prompts, completions, ...) -> list of float, for plain or conversational rows, as TRL's
    trainers call it; of a conversation only the assistant's own words are judged. A reward that is not finite raises
    ValueError with the number of the reply.

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
    aim = resolve_target(target, weights)  # what shapes the reward: numbers, not names

    def measure(prompts: list[str], replies: list[str]) -> np.ndarray:
        vectors = np.asarray(evaluator.score(prompts, replies), dtype=float)
        reward = -value_distance(vectors, aim, None, order, absence, threshold)
        return reward - common_weight * measure_commonness(replies) if common_weight else reward

    reward = scalar_reward(measure)
    reward.__name__ = "value_distance_reward"  # what TRL's logs call it
    if isinstance(target, Target):
        names = [d.replace("-", " ") for d, aimed in zip(target.dimensions, target.aimed, strict=True) if aimed]
        reward.degenerate = {"stuffing": ", ".join(names * 3)}
    return reward


def scalar_reward(predict: Callable[[list[str], list[str]], np.ndarray], label: str | None = None) -> Reward:
    """Make a TRL reward function of a scalar reward model (the paper's RLHF baseline).

    `predict(prompts, responses)` gives (N,) numbers. `label` names the model: what was trained with it is taken for the
    same reward's; without one it is told by its code and weights. A reward that is not finite raises ValueError when
    called.

    Examples
    --------
    >>> scalar_reward(lambda p, r: np.array([len(x) for x in r]))(["q"], ["abc"])
    [3.0]
    """
    def reward(prompts: list, completions: list, **columns: object) -> list[float]:
        # TRL passes every column of its data set and its own state by name; none is needed.
        asked, said = [read_words(p, ("user", "assistant")) for p in prompts], [read_words(c) for c in completions]
        values = np.asarray(predict(asked, said), dtype=float)
        if not np.isfinite(values).all():
            raise ValueError(f"the reward of reply {np.isfinite(values).argmin()} of the batch is not a finite number.")
        return values.tolist()

    if label:
        reward.label = label
    return reward


class RewardAuditError(ValueError):
    """A degenerate reply earns more reward than the good ones, so training would learn it."""


def audit_reward(evaluator: Scorer, prompts: Sequence[str], responses: Sequence[str], target: Target, theory: Theory,
                 absence: str = "penalise") -> pd.DataFrame:
    """Compare the reward of degenerate replies with that of real ones, before anything is trained on it.

    `prompts` and `responses` are real, the good ones the best quarter by reward; `absence` as in `value_distance`. One
    row a kind (real, good, then empty, repeated, refusing, stuffed and echoed replies): reward (mean), beats (share of
    the real replies to which it is preferred on the same prompt; nan for real and good), is_fault (its mean reward is
    at least that of the good replies). Answers the weak spot of the released reward (absence "mask"), which an empty
    reply maximises.

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
    reward = value_reward(evaluator, target, absence=absence)
    words = [item for d, name in enumerate(theory.dimensions) if target.aimed[d] and target.values[d] >= 0
             for item in theory.items_of(name)]
    kinds = write_degenerate_replies(prompts, stuffing=", ".join(words[:40]) + ".")
    return compare_rewards(reward, prompts, responses, kinds).assign(absence=absence, target=target.name)


def compare_rewards(reward: Reward, prompts: list[str], responses: list[str], kinds: dict[str, list]) -> pd.DataFrame:
    """Compare any reward(prompts, completions) of degenerate replies with that of real ones, as `audit_reward`."""
    real = np.array(reward(prompts, responses))
    good = real[real >= np.quantile(real, 0.75)].mean()
    rows = [("real", real.mean(), np.nan, False), ("good", good, np.nan, False)]
    for kind, texts in kinds.items():
        got = np.array(reward(prompts, texts))
        rows.append((kind, got.mean(), (got > real).mean(), got.mean() >= good))
    return pd.DataFrame(rows, columns=["kind", "reward", "beats", "is_fault"])


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

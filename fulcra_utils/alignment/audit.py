"""Audit of a reward before anything is trained by it: degenerate replies, words against values."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fulcra_utils.alignment.reward import Reward, value_reward
from fulcra_utils.dataset.texts import list_texts, write_degenerate_replies
from fulcra_utils.theory.distance import Scorer
from fulcra_utils.theory.targets import Target
from fulcra_utils.theory.theory import Theory


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


def compare_rewards(reward: Reward, prompts: list[str], responses: list[str],
                    kinds: dict[str, list[str]]) -> pd.DataFrame:
    """Compare any reward(prompts, completions) of degenerate replies with that of real ones, as `audit_reward`."""
    real = np.array(reward(prompts, responses))
    good = real[real >= np.quantile(real, 0.75)].mean()
    rows = [("real", real.mean(), np.nan, False), ("good", good, np.nan, False)]
    for kind, texts in kinds.items():
        got = np.array(reward(prompts, texts))
        rows.append((kind, got.mean(), (got > real).mean(), got.mean() >= good))
    return pd.DataFrame(rows, columns=["kind", "reward", "beats", "is_fault"])


def check_audit(audit: pd.DataFrame, allow: bool = False) -> list[str]:
    """Return the kinds of reply that outrank the good ones; RewardAuditError where they are not allowed."""
    faults = audit.loc[audit["is_fault"].astype(bool), "kind"].tolist()
    if faults and not allow:
        raise RewardAuditError(f"the reward ranks degenerate replies above the good ones: {', '.join(faults)}; "
                               "training would learn them.")
    return faults

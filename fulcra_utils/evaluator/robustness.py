"""What typing errors and other wordings do to scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fulcra_utils.common.labels import scores_to_labels
from fulcra_utils.evaluator.baselines import subsample
from fulcra_utils.evaluator.comparison import _mean
from fulcra_utils.evaluator.model import ValueEvaluator
from fulcra_utils.evaluator.training import Examples
from fulcra_utils.stats.classification import (
    bootstrap_macro_f1,
    macro_f1,
)
from fulcra_utils.stats.resampling import summarise_draws


def add_typos(texts: Sequence[str], share: float = 0.05, seed: int = 2023) -> list[str]:
    """Return texts in which a share of the words has two neighbouring letters swapped.

    Parameters
    ----------
    texts : sequence of str
    share : float
        Probability that a word of at least four letters is hit.
    seed : int

    Returns
    -------
    list of str

    Source: ours.

    Examples
    --------
    >>> add_typos(["always tell the truth"], share=1.0)
    ['awlays tlel the turth']
    """
    rng = np.random.default_rng(seed)
    return [" ".join(_swap(word, rng) if len(word) > 3 and rng.random() < share else word for word in text.split(" "))
            for text in texts]


def _swap(word: str, rng: np.random.Generator) -> str:
    k = int(rng.integers(1, len(word) - 1))
    return word[:k] + word[k + 1] + word[k] + word[k + 2:]


FRAMES = ("I have a question. {}", "Please tell me: {}", "{} What do you think?", "Hello! {} Thanks in advance.")


def rephrase(prompts: Sequence[str]) -> list[str]:
    """Return prompts in another frame of words that asks the same.

    Examples
    --------
    >>> rephrase(["May I lie?", "Why?"])
    ['I have a question. May I lie?', 'Please tell me: Why?']
    """
    return [FRAMES[k % len(FRAMES)].format(prompt) for k, prompt in enumerate(prompts)]


def measure_robustness(evaluator: ValueEvaluator, examples: Examples, clusters: Sequence, seed: int = 2023,
                       n_draws: int = 1000) -> pd.DataFrame:
    """Score the same replies with typos and rephrased prompts, and compare with the labels and the plain scores.

    Parameters
    ----------
    evaluator : ValueEvaluator
    examples : Examples
    clusters : sequence, length N
    seed : int
    n_draws : int

    Returns
    -------
    DataFrame
        change, macro_f1, low, high, moved (mean |score - plain score|), flipped (share of cells with another label).

    Source: ours.
    """
    typed = add_typos(examples.responses, seed=seed)
    variants = {"as it is": (examples.prompts, examples.responses),
                "typos in 5 % of the words": (add_typos(examples.prompts, seed=seed + 1), typed),
                "rephrased prompt": (rephrase(examples.prompts), examples.responses)}
    labels, plain, found = scores_to_labels(examples.vectors), None, []
    for change, (prompts, responses) in variants.items():
        scores = evaluator.score(prompts, responses)
        plain = scores if plain is None else plain
        said, before = (scores_to_labels(s, evaluator.cuts) for s in (scores, plain))
        draws = bootstrap_macro_f1(labels, {"a": said}, clusters, n_draws, seed)["a"] if np.isfinite(labels).any() \
            else np.full(1, np.nan)
        interval = summarise_draws(macro_f1(labels, said), draws)
        found.append({"change": change, "macro_f1": interval["value"], "low": interval["low"],
                      "high": interval["high"], "moved": _mean(np.abs(scores - plain)),
                      "flipped": _mean((said != before).astype(float))})
    return pd.DataFrame(found)


def take_rows(examples: Examples, clusters: np.ndarray, n_rows: int, seed: int = 2023) -> tuple[Examples, np.ndarray]:
    """Return at most `n_rows` examples drawn at random, with their clusters, in their old order.

    Examples
    --------
    >>> few, ids = take_rows(Examples(list("abc"), list("xyz"), np.eye(3)), np.array([5, 6, 7]), n_rows=2)
    >>> len(few), len(ids)
    (2, 2)
    """
    chosen = np.sort(np.random.default_rng(seed).permutation(len(examples))[:n_rows])
    return subsample(examples, chosen), np.asarray(clusters)[chosen]

"""What stands before a prompt: pairs of question and answer that express a target, neutral ones, and placebos.

Choices: examples and measured prompts are personal questions, which speak of the asker (others leave values no room),
from other splits, so from other clusters; only harmless ones: their cluster holds no prompt tagged with a risk. Each
repeat draws its own examples and their order; k of them are the first k, so larger contexts hold the smaller ones.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import yaml

from fulcra_utils.common.paths import DATA
from fulcra_utils.dataset.construction import build_run_data
from fulcra_utils.dataset.texts import DatasetError, is_refusal
from fulcra_utils.theory.distance import Scorer, score_towards, value_distance
from fulcra_utils.theory.targets import Target
from fulcra_utils.theory.theory import load_theory

WORDS = yaml.safe_load((DATA / "contexts.yaml").read_text(encoding="utf-8"))
PERSONAL = re.compile(r"\b(?:I|I'm|my|me|we|our|us)\b.*\?\s*$", re.DOTALL)


@dataclass(frozen=True)
class Context:
    """`k` pairs of question and answer of a `kind`; "none" has no pair."""

    kind: str
    k: int
    repeat: int
    pairs: tuple[tuple[str, str], ...]

    @property
    def messages(self) -> list[dict[str, str]]:
        """Return the pairs as chat messages."""
        return [{"role": role, "content": text} for pair in self.pairs
                for role, text in zip(("user", "assistant"), pair, strict=True)]


def find_questions(preferences: pd.DataFrame, others: Sequence[pd.DataFrame], n_words: int) -> pd.DataFrame:
    """Return harmless personal questions with a good reply: prompt, response, cluster, split; one a cluster.

    The replies are the preferred ones of `preferences`; without any, those in `others` to prompts known to be harmless.
    `others` (prompt, cluster, safety_issues: [] = harmless, None = unknown) tell which clusters hold a risk. Questions
    of more than `n_words` words are left out.
    """
    known = pd.concat([table for table in others if len(table)], ignore_index=True)
    n_risks = known["safety_issues"].map(lambda issues: np.nan if issues is None else len(issues))
    rows = preferences.rename(columns={"chosen": "response"}) if len(preferences) else known[n_risks == 0]
    fits = rows["prompt"].str.contains(PERSONAL) & rows["prompt"].str.split().str.len().between(5, n_words)
    fits &= ~rows["cluster"].isin(known["cluster"][n_risks > 0]) & (rows["cluster"] >= 0)
    rows = rows[fits].dropna(subset=["response", "split"]).drop_duplicates("cluster")
    return rows[["prompt", "response", "cluster", "split"]].reset_index(drop=True)


def gather_questions(preferences: pd.DataFrame, others: Sequence[pd.DataFrame], n_words: int
                     ) -> tuple[pd.DataFrame, bool]:
    """Return `find_questions`, and whether they are the run's own.

    The project's sample stands in where the run has fewer than two to learn from, or to measure.
    """
    found = find_questions(preferences, others, n_words)
    if min((found["split"] == split).sum() for split in ("train", "test")) > 1:
        return found, True
    return find_questions(preferences.head(0), [build_run_data(load_theory("schwartz10")).dialogues], n_words), False


def rank_examples(questions: pd.DataFrame, scorer: Scorer, target: Target, n_words: Sequence[int],
                  n_most: int) -> pd.DataFrame:
    """Return the replies to training prompts that are nearest to a target, nearest first, with their `distance`.

    Refusals and replies outside `n_words` (least, most) are left out.
    """
    rows = questions[questions["split"].eq("train") & questions["response"].str.split().str.len().between(*n_words)]
    rows = rows[~is_refusal(rows["response"])]
    vectors = score_towards(scorer, rows["prompt"].tolist(), rows["response"].tolist(), target)
    return rows.assign(distance=value_distance(vectors, target)).nsmallest(n_most, "distance")


def make_contexts(examples: pd.DataFrame, doses: Mapping[str, Sequence[int]], n_repeats: int,
                  seed: int = 2023) -> list[Context]:
    """Make the contexts of every kind in `doses` (kind → numbers of pairs), and "none", for every repeat.

    "target" are `examples`; "neutral" our own facts; "same length" those with as many sentences as bring each answer
    nearest to the words of the target's; "shuffled" the target's pairs, each answer moved on to the next question.
    DatasetError when there are fewer examples than pairs wanted.

    >>> examples = pd.DataFrame({"prompt": ["Q1", "Q2"], "response": ["one", "two"]})
    >>> dict(make_contexts(examples, {"shuffled": [2]}, 1)[1].pairs)["Q1"]
    'two'
    """
    made, facts, most = [], WORDS["neutral"], max(2, *(k for numbers in doses.values() for k in numbers))
    if most > min(len(examples), len(facts)):
        raise DatasetError(f"{most} pairs are wanted, but there are {len(examples)} examples that express the target "
                           f"and {len(facts)} neutral ones")
    for repeat in range(n_repeats):
        random = np.random.default_rng([seed, repeat])
        asked, said = examples[["prompt", "response"]].to_numpy()[random.permutation(len(examples))[:most]].T.tolist()
        plain = [facts[n] for n in random.permutation(len(facts))[:most]]
        told = {"neutral": [" ".join(fact["answer"][:2]) for fact in plain],
                "same length": [fit_length(fact["answer"], text) for fact, text in zip(plain, said, strict=True)]}
        for kind, k in [("none", 0), *((kind, k) for kind, numbers in doses.items() for k in numbers)]:
            questions = [fact["question"] for fact in plain] if kind in told else asked
            moved = said[1:k] + said[:1] if k > 1 else said[1:]     # one answer alone is somebody else's
            answers = moved if kind == "shuffled" else told.get(kind, said)
            made.append(Context(kind, k, repeat, tuple(zip(questions[:k], answers[:k], strict=True))))
    return made


def fit_length(sentences: Sequence[str], text: str) -> str:
    """Return as many of the first sentences as come nearest to the words of a text, at least one.

    >>> fit_length(["One two.", "Three.", "Four five six."], "a b c d")
    'One two. Three.'
    """
    n_words = np.cumsum([len(sentence.split()) for sentence in sentences])
    return " ".join(sentences[:int(np.abs(n_words - len(text.split())).argmin()) + 1])

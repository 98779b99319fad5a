"""First steps with a new theory: train a small evaluator on a few labels, and look at it beside another theory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from fulcra_utils.dataset.construction import build_run_data, split_dimensions
from fulcra_utils.evaluator.scoring import label_from_sample, list_replies, sample_prompts, score_theories
from fulcra_utils.systems.theories import between
from fulcra_utils.theory.theory import Theory, lift_to

if TYPE_CHECKING:
    from fulcra_utils.evaluator.model import ValueEvaluator


def train_first(theory: Theory, dialogues: pd.DataFrame, encoder: str = "tiny", epochs: float = 8,
                max_length: int = 128, seed: int = 2023, progress: bool = False) -> tuple[ValueEvaluator, pd.DataFrame]:
    """Train an evaluator of a new theory on its labelled dialogues, and return it with the history of the training.

    `dialogues` are as `build_run_data` makes them: prompt, response, split, one column per dimension; `encoder` as for
    `load_encoder`; `max_length` is in tokens of prompt and reply together. Without any label the evaluator is
    untrained, and its scores mean nothing.

    >>> from fulcra_utils.theory.theory import load_theory
    >>> theory = load_theory("moral_foundations")
    >>> evaluator, history = train_first(theory, build_run_data(theory).dialogues.head(20), epochs=1)
    >>> evaluator.dimensions == theory.dimensions
    True
    """
    from fulcra_utils.evaluator.encoder import load_encoder
    from fulcra_utils.evaluator.model import make_evaluator
    from fulcra_utils.evaluator.training import Examples, TrainingSettings, train_evaluator
    evaluator = make_evaluator(load_encoder(encoder, seed=seed), theory, max_length)
    parts = []
    for split in ("train", "validation"):
        rows = dialogues[dialogues["split"] == split]
        parts.append(Examples(rows["prompt"].tolist(), rows["response"].tolist(), split_dimensions(rows, theory)))
    return evaluator, train_evaluator(evaluator, *parts, TrainingSettings(epochs=epochs, seed=seed), progress)


def choose_replies(dialogues: pd.DataFrame, theory: Theory, scores: np.ndarray) -> pd.DataFrame:
    """Return the dialogues with an evaluator's scores (N, D) in place of their labels, for the choice among replies."""
    return dialogues.assign(**dict(zip(theory.dimensions, np.asarray(scores).T, strict=True)))


@dataclass(frozen=True)
class Pairing:
    """The same replies under two theories.

    `sources` says by theory where its scores come from, `vectors` (N, D) holds them; `replies` has prompt, response,
    cluster, reward.
    """

    name: str
    sources: dict[str, str]
    replies: pd.DataFrame = field(repr=False)
    vectors: dict[str, np.ndarray] = field(repr=False)
    theories: tuple[Theory, Theory] = field(repr=False)

    def describe(self) -> str:
        """Return one sentence: replies, prompts, and where each theory's scores come from."""
        return (f"{self.name}: {len(self.replies):,} replies to {self.replies['prompt'].nunique():,} prompts; "
                + "; ".join(f"{theory}: {source}" for theory, source in self.sources.items()) + ".")

    def cross(self, n_draws: int = 1000, seed: int = 2023) -> pd.DataFrame:
        """Return the correlations of all dimensions; see `cross_dimensions`."""
        first, second = self.theories
        return between.cross_dimensions(*self.vectors.values(), self.replies["cluster"], first.dimensions,
                                        second.dimensions, n_draws, seed=seed)

    def canonical(self, n_draws: int = 1000, seed: int = 2023) -> pd.DataFrame:
        """Return the canonical correlations; see `correlate_canonically`."""
        return between.correlate_canonically(*self.vectors.values(), self.replies["cluster"], n_draws=n_draws,
                                             seed=seed)

    def predict(self, n_permutations: int = 100, n_draws: int = 1000,
                seed: int = 2023) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return how well each theory finds the reply with the higher reward; see `compare_predictions`."""
        rows = self.replies
        return between.compare_predictions(self.vectors, rows["reward"].to_numpy(float), rows["prompt"].to_numpy(),
                                           rows["cluster"].to_numpy(), n_permutations=n_permutations, n_draws=n_draws,
                                           seed=seed)


def pair_theories(first: Theory, second: Theory, dialogues: pd.DataFrame, scored: pd.DataFrame,
                  evaluator: ValueEvaluator, n_prompts: int = 100, seed: int = 2023,
                  progress: bool = False) -> list[Pairing]:
    """Put two theories on the same replies, each with the nearest labels that there are.

    The embedded sample by its labels under both; annotated replies by their labels and, where the second theory is not
    refined by the first, its definitions; the run's replies by its evaluator, so that both have the same judge. The
    sample is left out when it is not labelled under both, annotated replies when there are none but the sample's.
    """
    pairings = []
    sample = list_replies(build_run_data(first, seed=seed).dialogues, scored.iloc[:0])
    others = label_from_sample(second, sample)
    if others is not None and sample[list(first.dimensions)].notna().any(axis=None):
        pairings.append(_pair("embedded sample", first, second, sample, [sample, others],
                              {first.name: "labels of the sample", second.name: "labels of the sample"}))
    real = dialogues[(dialogues["source"] != "sample") & dialogues[list(first.dimensions)].notna().all(axis=1)]
    if len(real):
        pairings.append(_pair_annotated(first, second, real, evaluator, n_prompts, seed))
    replies = sample_prompts(list_replies(dialogues, scored), n_prompts, seed)
    taught = pd.concat([dialogues, scored])[list(first.dimensions)].notna().any(axis=None)
    how = {t.name: "the run's evaluator" if taught and evaluator.is_taught(t) else
           "the run's evaluator, by definitions alone" for t in (first, second)}
    pairings.append(_pair("replies of the run", first, second, replies,
                          score_theories(replies, [first, second], evaluator, progress), how))
    return pairings


def _pair_annotated(first: Theory, second: Theory, real: pd.DataFrame, evaluator: ValueEvaluator, n_prompts: int,
                    seed: int) -> Pairing:
    replies = sample_prompts(list_replies(real, real.iloc[:0]), n_prompts, seed)
    lifted = lift_to(split_dimensions(replies, first), first, second)
    if lifted is None:
        other, source = score_theories(replies, [second], evaluator)[0], "the run's evaluator, by definitions alone"
    else:
        other, source = pd.DataFrame(lifted, columns=second.dimensions), f"means of the {first.name} labels"
    return _pair("annotated replies", first, second, replies, [replies, other],
                 {first.name: "labels of the annotated dialogues", second.name: source})


def _pair(name: str, first: Theory, second: Theory, replies: pd.DataFrame, tables: list[pd.DataFrame],
          sources: dict[str, str]) -> Pairing:
    vectors = {t.name: split_dimensions(table, t) for t, table in zip((first, second), tables, strict=True)}
    kept = replies[["prompt", "response", "cluster", "reward"]].reset_index(drop=True)
    return Pairing(name, sources, kept, vectors, (first, second))


def describe_cross(table: pd.DataFrame) -> str:
    """Say in words which dimensions of two theories go together most, from `cross_dimensions`."""
    known = table.dropna(subset=["r"])
    if known.empty:
        return "No pair of dimensions varies on these replies, so nothing can be correlated."
    top = known.loc[known.r.abs().idxmax()]
    if known.low.isna().all():
        return (f"Most alike: {top['first']} and {top['second']} ({top.r:.2f}), on too few prompts for an interval: no "
                "pair can be said to differ from 0.")
    sure = ((known.low > 0) | (known.high < 0)).sum()
    return (f"Most alike: {top['first']} and {top['second']} ({top.r:.2f}, {top.low:.2f} to {top.high:.2f}). Sure to "
            f"differ from 0: {sure} of {len(known)} pairs.")


def check_scores(scores: np.ndarray, labels: np.ndarray, splits: pd.Series, theory: Theory) -> pd.DataFrame:
    """Return how far scores (N, D) agree with labels, on rows that trained the evaluator and on those it did not see.

    dimension, seen and unseen (correlations; nan where labels or scores do not vary), n_seen, n_unseen.
    """
    seen = splits.isin(["train", "validation"]).to_numpy()
    rows = []
    for d, name in enumerate(theory.dimensions):
        known = np.isfinite(labels[:, d])
        parts = {"seen": known & seen, "unseen": known & ~seen}
        alike = {part: _correlate(scores[mask, d], labels[mask, d]) for part, mask in parts.items()}
        rows.append({"dimension": name, **alike, **{f"n_{part}": int(mask.sum()) for part, mask in parts.items()}})
    return pd.DataFrame(rows)


def _correlate(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(x, y)[0, 1]) if len(x) > 2 and np.ptp(x) > 0 and np.ptp(y) > 0 else np.nan


def claim_prediction(accuracies: pd.DataFrame, replies: str, reported: pd.DataFrame) -> pd.DataFrame:
    """Return our numbers for the claims in data/reported/between.csv; nan for a theory that was not looked at."""
    found, rows = accuracies.set_index("theory"), []
    for claim in reported.claim_id[reported.claim_id.str.startswith("between/")]:
        name = claim.partition("/")[2]
        known = name in found.index
        values = found.loc[name, ["accuracy", "low", "high"]] if known else [np.nan] * 3
        why = f"{replies}, another reward than their safety" if known else f"{name} is not one of the two theories here"
        rows.append((claim, *values, why))
    return pd.DataFrame(rows, columns=["claim_id", "ours", "low", "high", "why"])

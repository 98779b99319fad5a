"""First steps with a new theory: train a small evaluator on a few labels, and look at it beside another theory."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from fulcra_utils.dataset.construction import build_run_data, split_dimensions
from fulcra_utils.evaluator.encoder import load_encoder
from fulcra_utils.evaluator.model import ValueEvaluator, make_evaluator
from fulcra_utils.evaluator.scoring import label_from_sample, list_replies, sample_prompts, score_theories
from fulcra_utils.evaluator.training import Examples, TrainingSettings, train_evaluator
from fulcra_utils.stats.comparison import correlate
from fulcra_utils.theory.theory import Theory, lift_to

BY_WORDS = "the run's evaluator, without labels of this theory"
SEEN = ", on replies of which it was trained on some, for the test split has too few prompts"


def train_first(theory: Theory, dialogues: pd.DataFrame, encoder: str = "tiny", epochs: float = 8,
                seed: int = 2023) -> ValueEvaluator:
    """Train an evaluator of a new theory on its labelled dialogues.

    `dialogues` are as `build_run_data` makes them: prompt, response, split, one column per dimension; `encoder` as for
    `load_encoder`. Without any label the evaluator is untrained, and its scores mean nothing.

    >>> from fulcra_utils.theory.theory import load_theory
    >>> theory = load_theory("moral_foundations")
    >>> evaluator = train_first(theory, build_run_data(theory).dialogues.head(20), epochs=1)
    >>> evaluator.dimensions == theory.dimensions
    True
    """
    evaluator = make_evaluator(load_encoder(encoder, seed=seed), theory, max_length=128)
    parts = [Examples(rows["prompt"].tolist(), rows["response"].tolist(), split_dimensions(rows, theory))
             for rows in (dialogues[dialogues["split"] == split] for split in ("train", "validation"))]
    train_evaluator(evaluator, *parts, TrainingSettings(epochs=epochs, seed=seed), progress=False)
    return evaluator


@dataclass(frozen=True)
class Pairing:
    """The same N replies under two theories: what `cross_dimensions` and its neighbours compare.

    `sources` says by theory where its scores come from, `vectors` holds them, (N, D) with a column a dimension;
    `replies` has prompt, response, cluster, reward.
    """

    name: str
    sources: dict[str, str]
    replies: pd.DataFrame = field(repr=False)
    vectors: dict[str, pd.DataFrame] = field(repr=False)

    def describe(self) -> str:
        """Return one sentence: replies, prompts, and where each theory's scores come from."""
        return (f"{self.name}: {len(self.replies):,} replies to {self.replies['prompt'].nunique():,} prompts; "
                + "; ".join(f"{theory}: {source}" for theory, source in self.sources.items()) + ".")


def pair_theories(first: Theory, second: Theory, dialogues: pd.DataFrame, scored: pd.DataFrame,
                  evaluator: ValueEvaluator, n_prompts: int = 100, seed: int = 2023) -> list[Pairing]:
    """Put two theories on the same replies, each with the nearest labels that there are.

    The embedded sample, or the replies beside the first theory, by their labels under both; annotated replies by their
    labels and, where the second theory is not refined by the first, its definitions; the run's replies by its
    evaluator, so that both have the same judge. What it judges are replies to test prompts where these are half of
    `n_prompts` or more, else any, and `sources` say so. The first are left out when they are not labelled under both,
    annotated replies when there are no others.
    """
    theories, found = (first, second), []
    sample = list_replies(build_run_data(first, seed=seed).dialogues, scored.iloc[:0])
    others = label_from_sample(second, sample)
    if others is not None and sample[list(first.dimensions)].notna().any(axis=None):
        own = [theory.labels_path.is_file() for theory in theories]
        found.append(_pair("own replies" if all(own) else "embedded sample", theories, sample, (sample, others),
                           ["labels beside the theory" if mine else "labels of the sample" for mine in own]))
    real = dialogues[(dialogues["source"] != "sample") & dialogues[list(first.dimensions)].notna().all(axis=1)]
    if len(real):
        replies, note = _choose_unseen(list_replies(real, real.iloc[:0]), n_prompts, seed)
        lifted = lift_to(split_dimensions(replies, first), first, second)
        other, source = (score_theories(replies, [second], evaluator)[0], BY_WORDS + note) if lifted is None else (
            pd.DataFrame(lifted, columns=second.dimensions), f"means of the {first.name} labels")
        found.append(_pair("annotated replies", theories, replies, (replies, other),
                           ["labels of the annotated dialogues", source]))
    replies, note = _choose_unseen(list_replies(dialogues, scored), n_prompts, seed)
    taught = pd.concat([dialogues, scored])[list(first.dimensions)].notna().any(axis=None)
    how = [("the run's evaluator" if taught and evaluator.is_taught(t) else BY_WORDS) + note for t in theories]
    return [*found, _pair("replies of the run", theories, replies, score_theories(replies, theories, evaluator), how)]


def _choose_unseen(replies: pd.DataFrame, n_prompts: int, seed: int) -> tuple[pd.DataFrame, str]:
    """Return replies to test prompts where there are half of `n_prompts`, else to any, and what is said then."""
    test = replies[replies["split"] == "test"]
    is_enough = test["prompt"].nunique() >= n_prompts / 2
    return sample_prompts(test if is_enough else replies, n_prompts, seed), "" if is_enough else SEEN


def _pair(name: str, theories: Sequence[Theory], replies: pd.DataFrame, tables: Sequence, how: Sequence) -> Pairing:
    vectors = {t.name: table[list(t.dimensions)].astype(float) for t, table in zip(theories, tables, strict=True)}
    kept = replies[["prompt", "response", "cluster", "reward"]].reset_index(drop=True)
    return Pairing(name, dict(zip(vectors, how, strict=True)), kept, vectors)


def describe_cross(table: pd.DataFrame) -> str:
    """Say in words which dimensions of two theories go together most, from `cross_dimensions`."""
    known = table.dropna(subset=["r"])
    if known.empty:
        return "No pair of dimensions varies on these replies, so nothing can be correlated."
    sized = known.dropna(subset=["low"])
    top = known.loc[(sized if len(sized) else known).r.abs().idxmax()]
    if sized.empty:
        return (f"Most alike: {top['first']} and {top['second']} ({top.r:.2f}), on too few prompts for an interval: no "
                "pair can be said to differ from 0.")
    sure = (known.p_adjusted < 0.05).sum()
    return (f"Most alike: {top['first']} and {top['second']} ({top.r:.2f}, {top.low:.2f} to {top.high:.2f}). Sure to "
            f"differ from 0, corrected for their number: {sure} of {len(known)} pairs.")


def check_scores(scores: np.ndarray, labels: np.ndarray, splits: pd.Series, theory: Theory) -> pd.DataFrame:
    """Return how far scores (N, D) agree with labels, on rows that trained the evaluator and on those it did not see.

    dimension, seen and unseen (correlations; nan where labels or scores do not vary), n_seen, n_unseen.
    """
    seen = splits.isin(["train", "validation"]).to_numpy()
    known = {name: np.isfinite(labels) & rows[:, None] for name, rows in (("seen", seen), ("unseen", ~seen))}
    alike = {name: [correlate(labels[rows, d], scores[rows, d])[0].item() for d, rows in enumerate(mask.T)]
             for name, mask in known.items()}
    counts = {f"n_{name}": mask.sum(axis=0) for name, mask in known.items()}
    return pd.DataFrame({"dimension": theory.dimensions, **alike, **counts})


def claim_prediction(accuracies: pd.DataFrame, replies: str, reported: pd.DataFrame) -> pd.DataFrame:
    """Return our numbers for the claims in data/reported/between.csv; nan for a theory that was not looked at."""
    names = [claim.partition("/")[2] for claim in reported.claim_id if claim.startswith("between/")]
    found = accuracies.set_index("theory").reindex(names)
    why = [f"{replies}, another reward than their safety" if name in set(accuracies.theory) else
           f"{name} is not one of the two theories here" for name in names]
    return pd.DataFrame({"claim_id": [f"between/{name}" for name in names], "ours": found.accuracy.to_numpy(),
                         "low": found.low.to_numpy(), "high": found.high.to_numpy(), "why": why})

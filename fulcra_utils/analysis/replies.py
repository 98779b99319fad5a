"""The rows of an analysis: replies with their value vectors, prompts, models, rewards and risk categories.

`Replies` is what every table of notebook 02 starts from; `Finding` is what it ends in: a table, one sentence of reading
and the caption's account of rows and intervals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from fulcra_utils.common.paths import DATA
from fulcra_utils.stats.probes import pair_replies
from fulcra_utils.stats.resampling import code_clusters, share_interval
from fulcra_utils.theory.theory import Theory

REFUSALS = DATA / "labels" / "refusals.csv"
MIN_ROWS = 20  # below that no table of intervals is worth drawing
INTERVAL = "95 % Wilson intervals, widened because replies to one prompt resemble each other"


@dataclass(frozen=True)
class Finding:
    """A table, one sentence that reads it, and what its caption must say (n, interval).

    An empty table means that the analysis was left out; the reading then says why.
    """

    table: pd.DataFrame
    reading: str
    caption: str = ""
    extra: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    @property
    def is_left_out(self) -> bool:
        """Return whether there was nothing to analyse."""
        return self.table.empty

    def _repr_markdown_(self) -> str:
        return self.reading


def leave_out(what: str, why: str) -> Finding:
    """Return the finding of an analysis that these rows do not allow."""
    text = f"{what} is left out: {why}."
    return Finding(pd.DataFrame(), text, text)


@dataclass(frozen=True)
class Replies:
    """N replies with complete value vectors (N, D) in [-1, 1] under one theory.

    The table has row_id, prompt, cluster, model, query_source, reward (nan = unknown), is_refusal, n_words,
    safety_issues (list, None = unknown). `kind` is "scored" (by the released evaluator), "annotated" (released labels),
    "sample" (labels of the embedded sample), "own" (of the file beside the theory) or "none" (no labelled row at all).
    `make_replies` makes them from a table.

    >>> from fulcra_utils.theory.theory import load_theory
    >>> replies = make_example(load_theory("schwartz10"))
    >>> len(replies), replies.models, replies.categories[1]
    (80, ['a', 'b'], ['privacy_violation', 'self_harm'])
    """

    table: pd.DataFrame
    vectors: np.ndarray
    theory: Theory
    kind: str

    def __len__(self) -> int:
        """Return N."""
        return len(self.table)

    def keep(self, mask: np.ndarray) -> Replies:
        """Return the rows of a mask."""
        mask = np.asarray(mask, bool)
        return replace(self, table=self.table[mask].reset_index(drop=True), vectors=self.vectors[mask])

    @property
    def clusters(self) -> np.ndarray:
        """Return the cluster of near-duplicate prompts of each row (N,): the unit that is resampled."""
        return self.table.cluster.to_numpy()

    @property
    def n_prompts(self) -> int:
        """Return the number of clusters of prompts."""
        return code_clusters(self.clusters)[1] if len(self) else 0

    @property
    def models(self) -> list[str]:
        """Return the models in the order in which they first stand in the table."""
        return [str(m) for m in self.table.model.dropna().unique()]

    @property
    def refusals(self) -> np.ndarray:
        """Return the refusal flag (N,) bool."""
        return self.table.is_refusal.to_numpy(bool)

    @property
    def controls(self) -> np.ndarray:
        """Return refusal flag and log(1 + words) of each reply, (N, 2)."""
        return np.column_stack([self.refusals.astype(float), np.log1p(self.table.n_words.to_numpy(float))])

    @property
    def has_issues(self) -> np.ndarray:
        """Return whether the risk categories of the prompt are known, (N,) bool; an empty list is known."""
        return self.table.safety_issues.map(lambda v: v is not None).to_numpy(bool)

    @cached_property
    def categories(self) -> tuple[np.ndarray, list[str]]:
        """Return the (N, C) 0/1 matrix of risk categories and their names; unknown is 0 (see `has_issues`)."""
        known = [issues or [] for issues in self.table.safety_issues]
        names = sorted({name for issues in known for name in issues})
        matrix = [[name in issues for name in names] for issues in known]
        return np.array(matrix, float).reshape(len(self), len(names)), names

    def pair_up(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return first row, second row, whether the first is preferred (0/1) and the cluster of each pair."""
        reward = self.table.reward.to_numpy(float)
        first, second = pair_replies(self.table.prompt.to_numpy(), reward).T
        return first, second, (reward[first] > reward[second]).astype(float), self.clusters[first]

    def tabulate_shares(self, names: Sequence[str], hits: np.ndarray, counted: np.ndarray = True) -> pd.DataFrame:
        """Return value, count, n, share, low and high of each column of hits (N, K) among those counted (all)."""
        counted = np.broadcast_to(counted, hits.shape)
        share, low, high = share_interval(hits, counted, self.clusters)
        return pd.DataFrame({"value": list(names), "count": hits.sum(axis=0), "n": counted.sum(axis=0), "share": share,
                             "low": low, "high": high})

    def describe(self) -> str:
        """Return the rows in words, for captions."""
        models = f" by {len(self.models)} models" if len(self.models) > 1 else ""
        what = {"scored": "replies scored by the released evaluator", "annotated": "annotated replies",
                "sample": "annotated replies of the embedded sample",
                "own": "annotated replies of the file beside the theory", "none": "labelled replies"}[self.kind]
        return f"n = {len(self):,} {what}{models} to {self.n_prompts:,} prompts"


def read_replies(dialogues: str | Path, scored: str | Path, theory: Theory) -> tuple[Replies, Replies]:
    """Read a run's data/dialogues.parquet and data/scored.parquet: the main replies, and the annotated ones.

    Main are the scored replies where there are any (all models answered the same prompts), else the annotated ones.
    """
    labelled, scores = (pd.read_parquet(path) for path in (dialogues, scored))
    alone = "own" if theory.labels_path.is_file() else "sample"
    annotated = make_replies(labelled, theory, alone if set(labelled.source) == {"sample"} else "annotated")
    return make_replies(scores, theory, "scored") if len(scores) else annotated, annotated


def make_replies(table: pd.DataFrame, theory: Theory, kind: str) -> Replies:
    """Turn a run's table into `Replies`, without the rows that lack a dimension.

    Needed are prompt, response and one column per dimension (a missing one is a ValueError that names it); cluster,
    response_source, reward, is_refusal, safety_issues are taken where they are known.

    >>> from fulcra_utils.theory.theory import load_theory
    >>> theory = load_theory("moral_foundations")
    >>> labels = dict.fromkeys(theory.dimensions, [1.0, None])
    >>> len(make_replies(pd.DataFrame({"prompt": ["a", "b"], "response": ["x y", "z"]} | labels), theory, "annotated"))
    1
    """
    missing = [name for name in theory.dimensions if name not in table]
    if missing:
        raise ValueError(f"the table of replies has no column {missing[0]!r}: it was made under another theory")
    vectors = table[list(theory.dimensions)].to_numpy(float)
    complete = np.isfinite(vectors).all(axis=1)
    table, vectors = table[complete].reset_index(drop=True), vectors[complete]
    prompt = table.prompt.astype(str)
    known = ["query_source", "reward", "is_refusal", "e_distance", "h_distance", "safety_issues"]
    kept = table.reindex(columns=known).assign(
        row_id=table.get("row_id", ""), prompt=prompt, cluster=table.get("cluster", prompt),
        model=table.get("response_source"), n_words=table.response.astype(str).str.split().str.len())
    kept["safety_issues"] = pd.Series([None if v is None or (isinstance(v, float) and np.isnan(v)) else list(v)
                                       for v in kept.safety_issues], dtype=object, index=kept.index)
    kept["is_refusal"] = kept.is_refusal.eq(True)
    return Replies(kept, vectors, theory, kind if len(kept) else "none")


def make_example(theory: Theory, n_prompts: int = 40, seed: int = 0) -> Replies:
    """Return made-up replies of two models to the same prompts, for examples and first tries.

    The reward is the first value plus noise, every third prompt touches privacy, model "b" opposes the last value.

    >>> from fulcra_utils.theory.theory import load_theory
    >>> make_example(load_theory("schwartz10")).describe()
    'n = 80 replies scored by the released evaluator by 2 models to 40 prompts'
    """
    rng = np.random.default_rng(seed)
    vectors = rng.choice([-1.0, 0.0, 1.0], p=[0.2, 0.5, 0.3], size=(2 * n_prompts, theory.n_dims))
    vectors[1::2, -1] = -1
    table = pd.DataFrame({
        "row_id": [f"example:{i}" for i in range(2 * n_prompts)],
        "prompt": [f"prompt {i // 2}" for i in range(2 * n_prompts)],
        "response": ["word " * int(n) for n in rng.integers(5, 50, 2 * n_prompts)],
        "response_source": ["a", "b"] * n_prompts, "reward": vectors[:, 0] + 0.1 * rng.normal(size=2 * n_prompts),
        "safety_issues": [["privacy_violation"] if i // 2 % 3 == 0 else ["self_harm"] for i in range(2 * n_prompts)],
        "is_refusal": rng.random(2 * n_prompts) < 0.3, **dict(zip(theory.dimensions, vectors.T, strict=True))})
    return make_replies(table, theory, "scored")

"""Which of many candidates bear on a situation: relevance, near-duplicates out, valence, and what they say together.

The walk is Kaleido's; its thresholds are gated, so these are ours, one default each. Source: Sorensen et al. (2023),
arXiv 2309.00779, and its released system. Axis letters: V candidates.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from fulcra_utils.dataset.texts import has_words, measure_rouge
from fulcra_utils.llm.asking import ask_lists
from fulcra_utils.llm.endpoints import Endpoint
from fulcra_utils.systems.pluralism.situations import VALENCES, WORDS, tell_kind
from fulcra_utils.systems.pluralism.weighing import Weigher

RELEVANCE = {"value": 0.8, "right": 0.8, "duty": 0.8}   # least of each kind
ROUGE = {"f1": 0.6, "precision": 0.9, "recall": 0.9}    # a later value is dropped above any of them
COSINE = 0.75       # of embeddings of the names, above which two of a kind are one (honesty and honest: .77)
N_MOST = 10         # kept in a situation


def find_values(situation: str, candidates: Sequence[str], weigher: Weigher,
                relevance: Mapping[str, float] = RELEVANCE, n_most: int = N_MOST) -> pd.DataFrame:
    """Find the candidates that bear on a situation: value, kind, relevance, supports, opposes, either, surest first.

    No rows when none is relevant enough. A near-duplicate goes when one of its kind above it is kept, in its words
    ("Right to" and "Duty of" left out) or in its meaning.
    """
    names = list(dict.fromkeys(candidates))
    table = pd.DataFrame(map(tell_kind, names), columns=["kind", "about"]).assign(
        value=names, relevance=weigher.rate([situation] * len(names), names))
    table = table[table.relevance >= table.kind.map(relevance)].sort_values("relevance", ascending=False, kind="stable")
    vectors, kept = weigher.memory.look_up(table.value.tolist()), []
    for row, (kind, about) in enumerate(zip(table.kind, table.about, strict=True)):
        alike = any(vectors[row] @ vectors[k] > COSINE or any(
            measure_rouge(about, table.about.iat[k], way) > limit for way, limit in ROUGE.items())
            for k in kept if table.kind.iat[k] == kind)
        kept += [row] if not alike and len(kept) < n_most else []
    table = table.iloc[kept][["value", "kind", "relevance"]].reset_index(drop=True)
    return table.join(weigher.tell_valence([situation] * len(table), table.value))


def ask_candidates(situations: Sequence[str], endpoint: Endpoint, cache: str | None = None,
                   budget: float | None = None) -> list[tuple[dict[str, str] | None, str]]:
    """Let a model behind an endpoint name what bears on each situation: {name: why}, or None, and what went wrong.

    An empty dict is the model's own "nothing". EndpointError when it can answer nobody; answers until then are kept in
    the folder `cache`, and `budget` is in dollars.
    """
    item = {"type": "object", "properties": {"name": {"type": "string"}, "why": {"type": "string"}},
            "required": ["name", "why"], "additionalProperties": False}
    told = ask_lists([(WORDS["name"], text) for text in situations], item, "candidates", endpoint, cache, budget)
    return [(None if found is None else {
        str(one["name"]).strip(): str(one.get("why") or "").strip() for one in found
        if isinstance(one, dict) and has_words(str(one.get("name") or ""))}, problem) for found, problem in told]


def sum_stance(relevance: np.ndarray, valence: np.ndarray) -> np.ndarray:
    """Return the stance (3,) of a situation's values: their valence (V, 3) weighed by relevance (V,), of sum 1.

    All nan without a value. Kaleido's aggregate.

    >>> sum_stance(np.array([1.0, 0.5]), np.array([[1, 0, 0], [0, 1, 0]])).round(3).tolist()
    [0.667, 0.333, 0.0]
    """
    total = np.asarray(relevance, float) @ np.asarray(valence, float).reshape(-1, len(VALENCES))
    return total / total.sum() if total.sum() else np.full(len(VALENCES), np.nan)


def measure_entropy(stance: np.ndarray) -> float:
    """Return the entropy of a stance (3,) as a share of the largest, in [0, 1]: 0 all say one thing, 1 a tie of three.

    >>> round(measure_entropy(np.array([0.5, 0.5, 0.0])), 3)                       # log 2 / log 3
    0.631
    """
    stance = np.asarray(stance, float)
    return float(-(stance * np.log(stance.clip(1e-12))).sum() / np.log(len(stance)))

"""How well weighing does: listed values found, listed told from unlisted, valence, and whether entropy finds ambiguity.

Intervals draw clusters again: near-duplicate situations, questionnaires or stories. Axis letters: S situations, V
values, N rows, C classes, B draws.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from fulcra_utils.stats.resampling import bootstrap_means, draw_rows, summarise_draws, take_interval
from fulcra_utils.systems.pluralism.situations import tell_kind
from fulcra_utils.systems.pluralism.weighing import Weigher


def rank_names(listed: pd.DataFrame, names: Sequence[str], weigher: Weigher) -> dict[str, np.ndarray]:
    """Return for each way to rank them how high every name stands in every situation of `listed`, (S, V) each.

    *frequency* is how often the situations that the weigher knows list a name, *embedding* the cosine, *weighed* the
    share of situations like this one that would list it (`Lists.foresee`).
    """
    here = weigher.memory.look_up(list(dict.fromkeys(listed.situation)))
    weighed, often = weigher.lists.foresee(here, names)
    return {"frequency": np.tile(often, (len(here), 1)),
            "embedding": here @ weigher.memory.look_up([tell_kind(name)[1] for name in names]).T, "weighed": weighed}


def measure_coverage(ranked: Mapping[str, np.ndarray], listed: pd.DataFrame, names: Sequence[str], k: int = 7,
                     n_draws: int = 1000, seed: int = 2023) -> tuple[pd.DataFrame, dict[str, float]]:
    """Measure which share of a situation's listed values stands among the k ranked first, and which share of the k is
    listed.

    The case of names says nothing; `names` holds each once. A row a way: coverage and precision with low and high; and
    the ratio of the last way's coverage to the first's.
    """
    texts, counts = list(dict.fromkeys(listed.situation)), pd.crosstab(listed.situation, listed.value.str.casefold())
    is_listed = counts.clip(upper=1).reindex(index=texts, columns=map(str.casefold, names), fill_value=0).to_numpy()
    clusters = listed.drop_duplicates("situation").cluster.to_numpy()
    hits = {way: np.take_along_axis(is_listed, np.argsort(-scores, axis=1, kind="stable")[:, :k], 1).sum(axis=1)
            for way, scores in ranked.items()}
    shares = np.column_stack([n / size for n in hits.values() for size in (is_listed.sum(axis=1), k)])
    draws = bootstrap_means(shares, clusters, n_draws, seed)
    (low, high), means = take_interval(draws), shares.mean(axis=0)
    rows = [(way, *(x[2 * n + j] for j in (0, 1) for x in (means, low, high))) for n, way in enumerate(hits)]
    names = ["way", "coverage", "low", "high", "precision", "precision_low", "precision_high"]
    base = np.where(draws[:, 0] > 0, draws[:, 0], np.nan)
    return pd.DataFrame(rows, columns=names), summarise_draws(means[-2] / means[0], draws[:, -2] / base)


def measure_auc(is_hit: Sequence[bool], scores: Sequence[float], clusters: Sequence, n_draws: int = 200,
                seed: int = 2023) -> dict[str, float]:
    """Return the chance that a hit scores above another row, with low and high; nan with one kind of rows alone.

    >>> measure_auc([True, True, False], [0.9, 0.2, 0.2], [0, 1, 2], 10)["value"]
    0.75
    """
    is_hit, scores = np.asarray(is_hit, bool), np.asarray(scores, float)
    draws = [roc_auc_score(is_hit[rows], scores[rows]) if 0 < is_hit[rows].mean() < 1 else np.nan
             for rows in (np.arange(len(scores)), *draw_rows(np.asarray(clusters), n_draws, seed))]
    return summarise_draws(draws[0], np.array(draws[1:]))


def measure_valence(valence: Sequence[str], told: pd.DataFrame, clusters: Sequence, n_draws: int = 1000,
                    seed: int = 2023) -> dict[str, float]:
    """Return the balanced accuracy of the likeliest valence (columns of `told`, (N, C)), with low and high.

    The mean over the classes that occur of the share told right; `either` is no answer where it does not occur.

    >>> told = pd.DataFrame({"supports": [0.9, 0.6, 0.1], "opposes": [0.1, 0.4, 0.9]})
    >>> measure_valence(["supports", "opposes", "opposes"], told, [0, 1, 2], 10)["value"]
    0.75
    """
    valence = np.asarray(valence, object)
    kinds = [name for name in told.columns if (valence == name).any()]
    said = np.array(kinds, object)[told[kinds].to_numpy().argmax(axis=1)]
    right = np.column_stack([np.where(valence == name, said == name, np.nan) for name in kinds]).astype(float)
    draws = bootstrap_means(right, np.asarray(clusters).astype(str), n_draws, seed).mean(axis=1)
    return summarise_draws(np.nanmean(right, axis=0).mean(), draws)

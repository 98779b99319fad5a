"""Published claims on released scores: ValueLex's ranking and pairs, and whether values predict safety (GPLA).

Scores are the Value Compass site's, 33 models; intervals are over models, drawn again. Sources: arXiv 2404.12744 and
2502.02444. Axis letters: M models, K features, B draws.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from fulcra_utils.stats.factors import correlate_values
from fulcra_utils.stats.probes import fit_preference
from fulcra_utils.stats.resampling import draw_clusters, draw_rows, summarise_draws, take_interval
from fulcra_utils.systems.discovery.structure import centre_rows

PAIRS = {"competence": ("Self-Competence", "User-Oriented"), "character": ("Social", "Idealistic"),
         "integrity": ("Professional", "Ethical")}


def rank_dimensions(scores: pd.DataFrame, pairs: Mapping[str, Sequence[str]] = PAIRS, n_draws: int = 2000,
                    seed: int = 2023) -> pd.DataFrame:
    """Return mean and rank (1 = valued most) of each dimension over models, with low and high over models.

    >>> scores = pd.DataFrame({"a": [1.0, 2.0], "b": [1.0, 2.0], "c": [5.0, 6.0], "d": [5.0, 6.0]})
    >>> rank_dimensions(scores, {"x": ("a", "b"), "y": ("c", "d")}, 50)["rank"].tolist()
    [2.0, 1.0]
    """
    means = np.column_stack([scores[list(pair)].mean(axis=1) for pair in pairs.values()])
    whole, drawn = means.mean(axis=0), draw_clusters(len(means), n_draws, seed) @ means / len(means)
    rows = []
    for k, name in enumerate(pairs):
        value = summarise_draws(whole[k], drawn[:, k])
        known = np.where(np.isfinite(whole[k]), 1.0, np.nan)    # a mean with a gap has no rank
        rank = summarise_draws(known + (whole > whole[k]).sum(), known + (drawn > drawn[:, [k]]).sum(axis=1))
        rows.append({"dimension": name, "mean": value["value"], "low": value["low"], "high": value["high"],
                     "rank": rank["value"], "rank_low": rank["low"], "rank_high": rank["high"]})
    return pd.DataFrame(rows)


def list_pairings(names: Sequence[str]) -> list[tuple[tuple[str, str], ...]]:
    """Return every way to put an even number of names into pairs: 15 for six.

    >>> len(list_pairings("abcdef"))
    15
    """
    ways = combinations(combinations(names, 2), len(names) // 2)
    return [way for way in ways if len({name for pair in way for name in pair}) == len(names)]


def rank_pairings(scores: pd.DataFrame, pairs: Mapping[str, Sequence[str]] = PAIRS, n_draws: int = 2000,
                  seed: int = 2023) -> tuple[pd.DataFrame, dict[str, float]]:
    """Rank all pairings of the values by the mean correlation within pairs, best first; and the published one's rank.

    The rank has low and high over models, and `best`: the share of draws in which it is the first.
    """
    names = [name for pair in pairs.values() for name in pair]
    ways = list_pairings(names)
    place = {name: k for k, name in enumerate(names)}
    cells = np.array([[(place[a], place[b]) for a, b in way] for way in ways])
    rows = scores[names].to_numpy()

    def measure(rows: np.ndarray) -> np.ndarray:
        try:
            return correlate_values(rows)[cells[..., 0], cells[..., 1]].mean(axis=1)
        except ValueError:
            return np.full(len(ways), np.nan)

    def rank(within: np.ndarray) -> np.ndarray:     # a nan never ranks
        return np.where(np.isnan(within[..., 0]), np.nan, 1.0 + (within > within[..., [own]]).sum(axis=-1))

    own = next(k for k, way in enumerate(ways) if {frozenset(p) for p in way} == {frozenset(p) for p in pairs.values()})
    within = measure(rows)
    ranks = rank(np.array([measure(rows[places]) for places in draw_rows(np.arange(len(rows)), n_draws, seed)]))
    table = pd.DataFrame({"pairs": [" · ".join(map(" + ".join, way)) for way in ways], "within": within,
                          "published": np.arange(len(ways)) == own})
    return (table.sort_values("within", ascending=False, ignore_index=True),
            summarise_draws(float(rank(within)), ranks) | {"best": float(np.mean(ranks == 1))})


def answer_model_pairs(features: np.ndarray, safety: np.ndarray, penalty: float = 1.0) -> np.ndarray:
    """Return whether a linear Bradley-Terry probe finds the safer of two models, (M (M - 1) / 2,): 1, 0, .5 undecided.

    For each pair it is fitted on the pairs of the other M - 2 models (leave-pair-out); features are standardised there.
    Ties in safety are nan, and pairs of which a feature is missing.
    """
    x, y = np.asarray(features, float), np.asarray(safety, float)
    pairs = np.array(list(combinations(range(len(y)), 2)))
    gaps = x[pairs[:, 0]] - x[pairs[:, 1]]
    wins = (y[pairs[:, 0]] > y[pairs[:, 1]]).astype(float)
    tied = (y[pairs[:, 0]] == y[pairs[:, 1]]) | ~np.isfinite(gaps).all(axis=1)
    right = np.full(len(pairs), np.nan)
    start = np.zeros(x.shape[1])
    for n, (i, j) in enumerate(pairs):
        others = ~((pairs == i) | (pairs == j)).any(axis=1) & ~tied
        if tied[n] or not others.any():
            continue
        spread = np.sqrt((gaps[others] ** 2).mean(axis=0))
        spread[spread < 1e-12] = 1
        start = fit_preference(gaps[others] / spread, wins[others], penalty, start)     # the last pair's lies near
        margin = gaps[n] / spread @ start
        right[n] = 0.5 if abs(margin) < 1e-12 else float((margin > 0) == (wins[n] > 0))
    return right


def probe_safety(features: Mapping[str, np.ndarray], safety: np.ndarray, n_draws: int = 1000, n_permutations: int = 50,
                 seed: int = 2023) -> pd.DataFrame:
    """Measure how often value profiles (M, K) tell which of two models is safer: features, accuracy, low, high, null.

    Intervals draw models again, a pair weighs as often as both of its models come together, a model with itself never.
    `null` is the mean accuracy and `null_high` the 95 % quantile when the safety of models is shuffled `n_permutations`
    times: a useless profile may lie above or below one half.
    """
    rng, pairs = np.random.default_rng(seed), np.array(list(combinations(range(len(safety)), 2)))
    orders = [rng.permutation(len(safety)) for _ in range(n_permutations)]
    weights = draw_clusters(len(safety), n_draws, seed)
    weights = weights[:, pairs[:, 0]] * weights[:, pairs[:, 1]]
    rows = []
    for name, x in features.items():
        right = answer_model_pairs(x, safety)
        known = np.isfinite(right)
        total = weights[:, known].sum(axis=1)
        drawn = weights[:, known] @ right[known] / np.where(total > 0, total, np.nan)
        nulls = [np.nanmean(answer_model_pairs(x, np.asarray(safety)[order])) for order in orders]
        rows.append((name, x.shape[1], right[known].mean(), *take_interval(drawn), np.mean(nulls),
                     np.quantile(nulls, 0.95), known.sum()))
    return pd.DataFrame(rows, columns=["features", "n_features", "accuracy", "low", "high", "null", "null_high",
                                       "n_pairs"])


def collect_profiles(boards: pd.DataFrame, systems: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Return the profiles that `probe_safety` compares: each system raw and ipsative, and one general factor.

    `boards` as `read_boards` gives them; `systems` says how each is to be called. The general factor is the mean of all
    standardised scores of the systems: what any of them would tell if models were only good or bad on the whole.
    """
    found = {}
    for name, called in systems.items():
        rows = boards[name].to_numpy()
        found |= {called: rows, f"{called}, ipsative": centre_rows(rows)}
    whole = boards[list(systems)].to_numpy()
    return found | {"one general factor": ((whole - whole.mean(axis=0)) / whole.std(axis=0)).mean(axis=1)[:, None]}

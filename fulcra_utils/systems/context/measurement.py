"""What a context does to replies: values and costs against no context, with the dose, and next to a tuned policy.

Choices: only replies to the same prompts are compared; the dose-response is tested (Page 1963), not looked at; movement
is the fall of the distance to the target. Axis letters: P prompts, R repeats, M measures.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import page_trend_test, rankdata

from fulcra_utils.alignment.selection import measure_commonness
from fulcra_utils.dataset.texts import ENGLISH
from fulcra_utils.evaluator.encoder import Encoder, embed
from fulcra_utils.stats.comparison import adjust_p
from fulcra_utils.stats.resampling import bootstrap_crossed, summarise_draws, take_interval
from fulcra_utils.theory.distance import Scorer, score_towards, value_distance
from fulcra_utils.theory.targets import Target

Cells = Mapping[tuple[str, int], np.ndarray]    # (kind, k) → (P, R, M)
NONE = ("none", 0)
COSTS = ("nll_real", "words", "sameness", "relevance", "detail")


def score_values(replies: pd.DataFrame, prompts: Sequence[str], scorer: Scorer, target: Target) -> pd.DataFrame:
    """Add each reply's value vector, read with its own prompt and no context, and `nearness`: minus the distance.

    Replies that are missing or empty are left out.
    """
    table = replies[replies["response"].fillna("").str.strip().ne("")].reset_index(drop=True)
    vectors = score_towards(scorer, [prompts[row] for row in table["row"]], table["response"].tolist(), target)
    return table.assign(nearness=-value_distance(vectors, target),
                        **dict(zip(target.dimensions, vectors.T, strict=True)))


def measure_texts(replies: pd.DataFrame, prompts: Sequence[str], encoder: Encoder) -> pd.DataFrame:
    """Add what can be measured of a reply's text without a rater.

    words; sameness (how much it says what the other replies behind its context say, 0 to 1); relevance (cosine of its
    embedding and the prompt's); detail (different words that are none of the commonest of English).
    """
    texts, asked = replies["response"], embed(list(prompts), encoder)[replies["row"]]
    beside = replies.groupby(["kind", "k", "repeat"])["response"]
    return replies.assign(
        words=texts.str.split().str.len(), relevance=(embed(texts.tolist(), encoder) * asked).sum(axis=1),
        sameness=beside.transform(lambda own: measure_commonness(own.tolist())),
        detail=[len(set(re.findall(r"\w+", text.casefold())) - ENGLISH) for text in texts])


def tabulate_cells(table: pd.DataFrame, measures: Sequence[str]) -> tuple[dict[tuple[str, int], np.ndarray], list[str]]:
    """Return the measures of each (kind, k), (P, R, M), and their names, those without any number left out.

    A prompt that lacks a number in one place is left out everywhere.
    """
    known = [name for name in measures if table[name].notna().any()]
    wide = table.astype(dict.fromkeys(known, float)).pivot(index="row", columns=["kind", "k", "repeat"], values=known)
    wide = wide.dropna().sort_index(axis=1)
    keys = table[["kind", "k"]].drop_duplicates().itertuples(index=False, name=None)
    return {key: np.stack([wide[name, *key].to_numpy() for name in known], axis=-1) for key in keys}, known


def compare_cells(cells: Cells, pairs: Sequence[tuple], measures: Sequence[str], n_draws: int = 2000,
                  seed: int = 2023) -> pd.DataFrame:
    """Compare (kind, k) with another one, prompt by prompt: kind, k, against, measure, n, difference, low, high.

    Intervals (95 %) are over prompts and repeats, `bootstrap_crossed`.
    """
    rows = []
    for one, other in pairs:
        gaps = cells[one] - cells[other]
        low, high = take_interval(bootstrap_crossed(gaps, n_draws, seed))
        rows.append(pd.DataFrame({"kind": one[0], "k": one[1], "against": other[0], "measure": measures, "n": len(gaps),
                                  "difference": gaps.mean(axis=(0, 1)), "low": low, "high": high}))
    return pd.concat(rows, ignore_index=True)


def measure_trend(cells: Cells, place: int, n_draws: int = 2000, seed: int = 2023) -> pd.DataFrame:
    """Test for each kind with two doses or more whether a measure rises with the number of pairs, from "none" on.

    rho is the mean over prompts and repeats of the rank correlation of dose and measure (-1 to 1), which Page's L of
    these rows is a multiple of; low and high are over prompts and repeats, `bootstrap_crossed`. p is Page's over the
    prompts' means, one-sided, and takes no account of what prompts share in a repeat; p_holm is adjusted over the
    kinds. One prompt alone has no p, one repeat no interval.

    >>> cells = {("none", 0): np.zeros((4, 1, 1)), ("a", 1): np.ones((4, 1, 1)), ("a", 2): np.full((4, 1, 1), 2.0)}
    >>> measure_trend(cells, 0).rho.tolist()
    [1.0]
    """
    rows, kinds = [], pd.Series([kind for kind, _ in cells]).value_counts(sort=False)
    for kind in kinds.index[kinds > 1]:
        keys = [NONE, *sorted(key for key in cells if key[0] == kind)]
        found = np.stack([cells[key][..., place] for key in keys], axis=-1)     # (P, R, doses)
        steps = np.arange(len(keys)) - (len(keys) - 1) / 2
        rho = rankdata(found, axis=-1) @ steps / (steps @ steps)
        ends = summarise_draws(rho.mean(), bootstrap_crossed(rho[..., None], n_draws, seed)[:, 0])
        p = page_trend_test(found.mean(axis=1), method="asymptotic").pvalue if len(found) > 1 else np.nan
        rows.append((kind, len(found), len(keys), *ends.values(), p))
    table = pd.DataFrame(rows, columns=["kind", "n", "n_doses", "rho", "low", "high", "p"])
    return table.assign(p_holm=adjust_p(table["p"], "holm"))


def measure_way(cells: Cells, policy: str, place: int, n_draws: int = 2000, seed: int = 2023) -> pd.DataFrame:
    """Say how far each context goes along the way that a policy goes, its movement over the policy's: share, low, high.

    nan unless the policy itself moves for sure, its whole interval above 0.
    """
    gaps = {key: (cell - cells[NONE])[..., [place]] for key, cell in cells.items() if key != NONE}
    draws = {key: bootstrap_crossed(gap, n_draws, seed)[:, 0] for key, gap in gaps.items()}
    way = (gaps.pop((policy, 0)).mean(), draws[policy, 0])
    mean, drawn = way if take_interval(way[1])[0] > 0 else (np.nan, np.nan)
    rows = [(*key, *summarise_draws(gap.mean() / mean, draws[key] / drawn).values()) for key, gap in gaps.items()]
    return pd.DataFrame(rows, columns=["kind", "k", "share", "low", "high"])

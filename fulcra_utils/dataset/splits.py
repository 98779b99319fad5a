"""Splits by prompt: near-duplicates stay together, and a split once given stays."""

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from fulcra_utils.common.paths import DATA
from fulcra_utils.dataset.texts import list_texts
from fulcra_utils.theory.theory import normalise

SPLITS = (("train", 0.6), ("validation", 0.1), ("calibration", 0.1), ("test", 0.2))


def group_prompts(prompts: Sequence[str], threshold: float = 0.8, batch_size: int = 2000) -> np.ndarray:
    """Put near-duplicate prompts into one cluster, in the order given: a prompt behind moves none before it.

    Returns cluster numbers (N,) from 0 in order of first appearance; below 0 a prompt between two clusters, which joins
    neither. Two prompts are near-duplicates when the cosine of their vectors of character 4-grams within words is at
    least `threshold`; rare 4-grams weigh more (TF-IDF), counted in the first 1, 2, 4, 8, … prompts, those before the
    pair. Equal prompts always share a cluster. `batch_size` rows of the similarity matrix are in memory at a time.

    Examples
    --------
    >>> group_prompts(["How do I bake bread?", "how do i bake bread", "Why is the sky blue?"]).tolist()
    [0, 0, 1]
    """
    plain = [" ".join(re.findall(r"\w+", unicodedata.normalize("NFC", p).casefold())) or p
             for p in list_texts(prompts, "Prompt")]
    codes, keys = pd.factorize(np.array(plain, dtype=object))
    own = np.arange(len(keys))
    for row, near in _find_near(keys, threshold, batch_size):
        joined = {own[k] for k in near if own[k] >= 0} or {own[near[0]]}
        own[row] = joined.pop() if len(joined) == 1 else -1 - row
    numbers = {name: k for k, name in enumerate(dict.fromkeys(own[own >= 0]))}
    numbers |= {name: -1 - k for k, name in enumerate(dict.fromkeys(own[own < 0]))}
    return np.array([numbers[own[code]] for code in codes], dtype=int)


def _find_near(texts: Sequence[str], threshold: float, batch_size: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (row, near rows before it) for each text with any."""
    from scipy.sparse import diags
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.preprocessing import normalize

    if len(texts) < 2:
        return
    counts = CountVectorizer(analyzer="char_wb", ngram_range=(4, 4), token_pattern=None).fit_transform(texts)
    end = 1
    while end < len(texts):
        start, known = end, 1 << (end.bit_length() - 1)
        end = min(start + batch_size, 2 * known, len(texts))
        vectors = normalize(counts[:end] @ diags(np.log((1 + known) / (1 + (counts[:known] > 0).sum(axis=0).A1)) + 1))
        near = (vectors[start:end] @ vectors.T).tocoo()
        kept = (near.data >= threshold) & (near.col < near.row + start)
        rows, columns = near.row[kept] + start, near.col[kept]
        yield from ((row, np.sort(columns[rows == row])) for row in np.unique(rows))


def assign_splits(prompts: Sequence[str], clusters: np.ndarray, seed: int = 2023) -> pd.DataFrame:
    """Assign prompt clusters to train, validation, calibration or test (60/10/10/20), train clusters to half A or B.

    Returns a table of unique prompts with cluster (of `group_prompts`), split (None = left out) and half (None outside
    train). The choice hangs only on the seed and on the cluster's first prompt in the order given, so prompts that are
    added behind move no other. A prompt between two clusters (a number below 0) is left out of all splits unless its
    own is published, so that no near-duplicate of a test prompt is trained on. Under seed 2023 the public prompts in
    data/splits.csv (known by the start of the SHA-256 of their text) keep their published split, or are left out where
    their cluster has another.

    Examples
    --------
    >>> table = assign_splits(["a", "b", "a"], np.array([0, 1, 0]))
    >>> len(table), set(table.split) <= {"train", "validation", "calibration", "test"}
    (2, True)
    """
    table = pd.DataFrame({"prompt": list_texts(prompts, "Prompt"), "cluster": clusters})
    table = table.drop_duplicates("prompt", ignore_index=True)
    published = pd.read_csv(DATA / "splits.csv", index_col="prompt").iloc[:None if seed == 2023 else 0]
    own = published.reindex(hashlib.sha256(p.encode()).hexdigest()[:12] for p in table.prompt).set_axis(table.index)
    first = ~table.cluster.duplicated() & (table.cluster >= 0)
    drawn = _draw_splits(table.prompt[first], seed)
    leading = own[first].where(own.split[first].notna(), drawn).set_axis(table.cluster[first])
    said = leading.reindex(table.cluster).set_axis(table.index).where(table.cluster >= 0, own)
    divided = own.split.notna() & (own.split != said.split)
    return table.join(said.mask(divided).astype(object).where(lambda t: t.notna(), None))


def _draw_splits(prompts: pd.Series, seed: int) -> pd.DataFrame:
    texts, edges = prompts.map(normalise), np.cumsum([share for _, share in SPLITS])
    place = np.searchsorted(edges, texts.map(lambda text: _hash_unit(f"{seed} split {text}")), "right")
    names = np.array([name for name, _ in SPLITS], dtype=object)[np.minimum(place, len(SPLITS) - 1)]
    halves = np.where(texts.map(lambda text: _hash_unit(f"{seed} half {text}")) < 0.5, "A", "B")
    return pd.DataFrame({"split": names, "half": np.where(names == "train", halves, None)}, index=prompts.index)


def _hash_unit(text: str) -> float:
    """Return a number in [0, 1) that hangs on `text` alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") / 2**56

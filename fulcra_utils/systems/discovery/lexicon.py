"""The lexicon of values: words from models or named values that replies express, counted, near-duplicates merged.

Choices, for the thresholds of GPLA and ValueLex are not public: the more frequent value is kept; two are one where
the cosine of what an encoder reads of them exceeds a threshold, or ROUGE-L (F1) of their names does, told without words
that say nothing ("sense of") and where the meanings are near too. Opposites are never one, though encoders find them
alike. Every value that goes is listed with the one it was merged into. Sources: GPLA (arXiv 2502.02444), ValueLex
(2404.12744), Kaleido (2309.00779). Axis letters: N replies, V values.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd
import simplemma

from fulcra_utils.dataset.texts import measure_rouge
from fulcra_utils.llm.replies import LocalModel
from fulcra_utils.stats.resampling import share_interval
from fulcra_utils.systems.discovery.measurement import WORDS
from fulcra_utils.theory.theory import FILLERS, list_theories, load_theory, split_words

LONGEST = 3     # words of a value; a longer piece of a list is prose
OPENERS = {"sure", "certainly", "of course", "absolutely", "yes", "no", "ok", "okay", "thanks", "thank you"}
HEADING = re.compile(r"\b(?:values?|words?|principles?|nouns?|answers?|qualities)(?: (?:are|is|include))?\W*$", re.I)
NEAR = 0.7      # the least cosine at which two values of like names are one


def collect_named_values(names: Sequence[str] | None = None) -> pd.DataFrame:
    """Return the dimensions of theories (None: all in data/theories) as candidates: value, definition, source.

    Of one name the first counts; one without a definition is left out.
    """
    rows = [(dimension.replace("-", " "), said, theory.name) for theory in map(load_theory, names or list_theories())
            for dimension, said in zip(theory.dimensions, theory.definitions, strict=True) if said.strip()]
    return pd.DataFrame(rows, columns=["value", "definition", "source"]).drop_duplicates("value", ignore_index=True)


def make_grid(model: str, temperatures: Sequence[float], top_ps: Sequence[float], max_new_tokens: int = 60,
              seed: int = 0, name: str = "") -> list[LocalModel]:
    """Return one respondent for each pair of settings of a local model, for `write_replies`.

    >>> [one.name for one in make_grid("smollm2-135m", [0.5, 1.0], [0.9])]
    ['smollm2-135m t0.5 p0.9', 'smollm2-135m t1 p0.9']
    """
    return [LocalModel(model=model, name=f"{name or model} t{t:g} p{p:g}", seed=seed, batch_size=32, options={
        "do_sample": True, "temperature": t, "top_p": p, "max_new_tokens": max_new_tokens})
        for t, p in product(temperatures, top_ps)]


def parse_words(reply: str) -> list[str]:
    """Return the value words of a reply that is a list, at most three words each; none in prose, none of its heading.

    Lower case, the last word by its dictionary form: simplemma's, "duties" is "duty" and "caring" is "care".

    >>> parse_words("Values:\\n1. **Honesty**: I never lie\\n2. kindness, Fairness; two cats")
    ['honesty', 'kindness', 'fairness', 'two cat']
    >>> parse_words("I am a model and I would rather not say.")
    []
    """
    pieces = []
    plain = re.sub(r"\*+(?=\S)|(?<=\S)\*+", "", reply)      # without marks of bold type; a bullet stands alone
    for entry in re.split(r"\n|\s(?=\(?\d+[.)]\s)|\s(?=[*•·]\s)", plain):    # lines, and numbers and bullets within
        if entry.rstrip("* ").endswith(":"):
            continue
        entry = re.sub(r"^\s*(?:[-*•·]|\(?\d+[.)])\s*", "", entry)
        head, *rest = re.split(r":\s|\s[-–—]\s", entry, maxsplit=1)
        pieces += re.split(r"[,;/&]|[.!?](?:\s|$)|\band\b", rest[0] if rest and HEADING.search(head) else head)
    words = [re.findall(r"[^\W\d_]+(?:-[^\W\d_]+)*", piece.casefold()) for piece in pieces]
    return [" ".join([*piece[:-1], simplemma.lemmatize(piece[-1], lang="en")]) for piece in words
            if 0 < len(piece) <= LONGEST and not {"i", "me", "my", "you", "am", "is", "are", "the", "a"} & set(piece)
            and " ".join(piece) not in OPENERS]


def count_words(replies: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Count value words in elicited replies (`write_replies`): value, n, share (of respondents); and unread replies.

    A respondent that says a word in several replies counts once for the share.
    """
    told = [(source, parse_words(text)) for source, text in
            zip(replies.response_source, replies.response.fillna(""), strict=True)]
    counts = Counter(word for _, words in told for word in words)
    by = Counter(word for _, word in {(source, word) for source, words in told for word in words})
    n = max(replies.response_source.nunique(), 1)
    table = pd.DataFrame([(word, count, by[word] / n) for word, count in counts.most_common()],
                         columns=["value", "n", "share"])
    return table, sum(not words for _, words in told)


def rank_values(presence: np.ndarray, named: pd.DataFrame, clusters: Sequence, threshold: float = 0.5,
                top: float = 0.1) -> pd.DataFrame:
    """Rank named values by how often replies express them: `named` with n, share, low and high, the commonest first.

    `presence` (N, V) is P(-1) + P(+1); a value is expressed where it exceeds the threshold and is among the `top` share
    of the candidates in this reply, or the first three: a long reply touches hundreds of values a little. `place` is
    the value's column. Values that nobody expresses stay, with share 0.

    >>> named = pd.DataFrame({"value": ["care", "fame"], "definition": ["", ""]})
    >>> rank_values(np.array([[0.2, 0.9], [0.3, 0.1]]), named, [0, 1])[["value", "n"]].values.tolist()
    [['fame', 1], ['care', 0]]
    """
    presence = np.asarray(presence, float)
    n_top = min(max(3, round(top * presence.shape[1])), presence.shape[1])
    hits = (presence > threshold) & (presence >= np.sort(presence, axis=1)[:, [-n_top]])
    share, low, high = share_interval(hits, np.ones_like(hits, float), np.asarray(clusters))
    table = named.assign(n=hits.sum(axis=0), share=share, low=low, high=high, place=np.arange(len(named)),
                         strength=np.mean(presence, axis=0))
    return table.sort_values(["n", "strength"], ascending=False, kind="stable", ignore_index=True)


def are_opposed(first: str, second: str) -> bool:
    """Return whether two names are the ends of one thing: a word of one stands opposite to a word of the other.

    By a prefix (un-, in-, dis-, mis- …), or by the list in data/discovery.yaml.

    >>> are_opposed("Trust", "Mistrust"), are_opposed("Responsive Joy", "Responsive Distress")
    (True, True)
    """
    words, others = set(split_words(first)), set(split_words(second))
    pairs = [{a, b} for a, b in product(words - others, others - words)]
    return any(pair <= set(ends) for pair in pairs for ends in WORDS["opposites"]) or any(
        re.fullmatch(f"(un|in|im|dis|mis|non|anti){min(pair, key=len)}", max(pair, key=len)) for pair in pairs)


def merge_lexicon(ranked: pd.DataFrame, vectors: np.ndarray, min_share: float = 0.01, rouge: float = 0.6,
                  cosine: float = 0.8, n_most: int = 40) -> pd.DataFrame:
    """Walk down ranked values and keep each that is neither rare nor near to one kept before: `ranked` and two columns.

    `vectors` (V, H) are unit vectors, a row a value of `ranked`. `merged_into` names the kept value that a dropped one
    went into, "" for kept and for plainly dropped ones; `why` says what was done: "kept", "rouge 0.67",
    "cosine 0.85", "rare" or "beyond the first 40".

    >>> ranked = pd.DataFrame({"value": ["care", "care for all", "fame"], "share": [0.5, 0.4, 0.3]})
    >>> merge_lexicon(ranked, np.array([[1, 0], [0.8, 0.6], [0, 1]]), cosine=0.9).merged_into.tolist()
    ['', 'care', '']
    """
    kept, rows = [], []
    plain = [" ".join(word for word in split_words(name) if word not in FILLERS) or name for name in ranked.value]
    for place, (name, share) in enumerate(zip(ranked.value, ranked.share, strict=True)):
        alike = [(measure_rouge(plain[place], plain[k]), float(vectors[place] @ vectors[k]), k) for k in kept
                 if not are_opposed(name, ranked.value[k])]
        by_word = max((one for one in alike if one[1] >= NEAR), default=(0, 0, 0))
        by_sense = max(alike, key=lambda one: one[1], default=(0, 0, 0))
        into, why = "", "kept"
        if share < min_share:
            why = "rare"
        elif by_word[0] > rouge:
            into, why = ranked.value[by_word[2]], f"rouge {by_word[0]:.2f}"
        elif by_sense[1] > cosine:
            into, why = ranked.value[by_sense[2]], f"cosine {by_sense[1]:.2f}"
        elif len(kept) >= n_most:
            why = f"beyond the first {n_most}"
        else:
            kept.append(place)
        rows.append((into, why))
    return ranked.assign(**dict(zip(("merged_into", "why"), zip(*rows, strict=True), strict=True))) if rows else \
        ranked.assign(merged_into="", why="")


def sweep_thresholds(presence: np.ndarray, named: pd.DataFrame, vectors: np.ndarray, clusters: Sequence,
                     settings: Mapping[str, float], others: Mapping[str, Sequence[float]]) -> pd.DataFrame:
    """Return how many values are kept when one threshold at a time is another: changed, to, kept, merged, rare, beyond.

    `settings` are those of `rank_values` and `merge_lexicon` by name, and the first row; `presence` (N, V) and
    `vectors` (V, H) stand in the order of `named`.
    """
    rows = []
    for name, value in [("nothing", np.nan), *((name, value) for name, some in others.items() for value in some)]:
        now = {**settings, name: value} if name in settings else dict(settings)
        ranked = rank_values(presence, named, clusters, now.pop("threshold"))
        why = merge_lexicon(ranked, vectors[ranked.place], **now).why.str.split().str[0].value_counts()
        rows.append((name, value, *(sum(why.get(word, 0) for word in words) for words in
                                    (["kept"], ["rouge", "cosine"], ["rare"], ["beyond"]))))
    return pd.DataFrame(rows, columns=["changed", "to", "kept", "merged", "rare", "beyond"])

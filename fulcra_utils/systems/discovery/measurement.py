"""GPV's measurement: texts into perceptions, their relevance and valence for any list of values, scores at every level.

Choices: without an endpoint a perception is a sentence that speaks of oneself or judges (data/discovery.yaml), for a
named person one that names them or goes on with a pronoun; relevance is P(-1) + P(+1) of the evaluator and valence what
those two say of each other, so that there is no "either"; values are told to the scorer by their definitions, where the
released code gives the bare name. A gap stays a gap (nan), and an endpoint that failed is never "no perceptions".
Source: Ye et al. (2024), arXiv 2409.12106. Axis letters: P perceptions, D values.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import yaml

from fulcra_utils.common.labels import score_valence
from fulcra_utils.common.paths import DATA
from fulcra_utils.dataset.texts import NO_ABBREVIATION, has_words, looks_english
from fulcra_utils.evaluator.model import ASKED, ValueEvaluator
from fulcra_utils.llm.asking import ask_lists
from fulcra_utils.llm.endpoints import Endpoint
from fulcra_utils.stats.resampling import mean_known, share_interval

WORDS = yaml.safe_load((DATA / "discovery.yaml").read_text(encoding="utf-8"))
JUDGES = re.compile("|".join(WORDS["perception"]), re.I)
GOES_ON = re.compile(WORDS["pronoun"], re.I)
SENTENCE = re.compile(rf"{NO_ABBREVIATION}(?<=[.!?])[\"'”’)]*\s+|\n+")
COLUMNS = ["text", "subject", "perception", "problem"]


def split_perceptions(texts: Sequence[str], subjects: Sequence[str] | None = None) -> pd.DataFrame:
    """Split texts into perceptions by rule: text (its number), subject, perception, problem, in reading order.

    `subjects` names whose perceptions are wanted of each text; None: its author's, "". A text without any has one row
    whose perception is missing and whose problem says why: empty (also a missing text), not English, which is not read
    at all, or no such sentence.

    >>> split_perceptions(["I like rain. It fell at noon."]).perception.tolist()
    ['I like rain.']
    >>> split_perceptions(["Ann met Bo. He lied. She left."], ["Bo"]).perception.tolist()
    ['Ann met Bo.', 'He lied.', 'She left.']
    """
    rows = []
    for number, text in enumerate(texts):
        subject, found = (subjects[number] if subjects is not None else ""), []
        text = text if isinstance(text, str) else ""
        is_meant, is_read = False, looks_english(text)
        for sentence in filter(has_words, (s.strip() for s in SENTENCE.split(text) if is_read)):
            named = bool(re.search(rf"\b{re.escape(subject)}\b", sentence)) if subject else JUDGES.search(sentence)
            is_meant = bool(named) or bool(subject) and is_meant and bool(GOES_ON.match(sentence))
            found += [sentence] if is_meant else []
        why = ("" if found else "empty" if not has_words(text) else
               "no sentence that speaks of it" if is_read else "not English")
        rows += [(number, subject, said, why) for said in found or [None]]
    return pd.DataFrame(rows, columns=COLUMNS)


def ask_perceptions(texts: Sequence[str], endpoint: Endpoint, subjects: Sequence[str] | None = None,
                    cache: str | None = None, budget: float | None = None) -> pd.DataFrame:
    """Let a model behind an endpoint parse texts, as `split_perceptions` does by rule.

    A text whose answer cannot be read, or that got none, has one row with its problem; where an answer is usable in
    part, each of its rows has it. "None found" is the model's own empty list.
    """
    whose = list(subjects) if subjects is not None else [""] * len(texts)
    rows = []
    for number, (told, error) in enumerate(ask_lists(
            [(WORDS["parse"].format(subject=name or "its author"), text)
             for text, name in zip(texts, whose, strict=True)], {"type": "string"}, "perceptions", endpoint, cache,
            budget)):
        found = [said.strip() for said in told or [] if isinstance(said, str) and has_words(said)]
        why = error or ("" if found else "none found")
        rows += [(number, whose[number], said, why) for said in found or [None]]
    return pd.DataFrame(rows, columns=COLUMNS)


def ask_scores(perceptions: Sequence[str], values: Sequence[str], endpoint: Endpoint, cache: str | None = None,
               budget: float | None = None) -> tuple[np.ndarray, list[str]]:
    """Let a model judge perceptions: scores (P, D) of -1 or +1, 0 where a value is not touched, nan where not read.

    Beside them what went wrong with each perception, "" where nothing did; a value that the answer leaves out counts.
    """
    item = {"type": "object", "properties": {"value": {"type": "string"}, "score": {"type": "integer"}},
            "required": ["value", "score"], "additionalProperties": False}
    told = ask_lists([(WORDS["judge"], f"Sentence: {said}\nValues: {', '.join(values)}") for said in perceptions],
                     item, "scores", endpoint, cache, budget)
    scores, problems = np.full((len(perceptions), len(values)), np.nan), []
    places = {name.casefold(): k for k, name in enumerate(values)}
    for row, (found, error) in enumerate(told):
        answers = {str(entry.get("value")).casefold(): entry.get("score") for entry in found or []
                   if isinstance(entry, dict)}
        for name in places.keys() & answers.keys():
            scores[row, places[name]] = answers[name] if answers[name] in (-1, 0, 1) else np.nan
        lost = sum(answers.get(name) not in (-1, 0, 1) for name in places)
        problems.append(error or f"{lost} of {len(places)} values without an answer" * (lost > 0))
    return scores, problems


def measure_texts(perceptions: pd.DataFrame, evaluator: ValueEvaluator, prompts: Sequence[str] | None = None,
                  progress: bool = False) -> np.ndarray:
    """Return class probabilities (P, D, 3) of each perception; nan in rows without one, equal ones read once.

    `prompts` are what each *text* replied to; None asks about the subject, or what matters most to the author.
    """
    known = perceptions.perception.notna()
    found = np.full((len(perceptions), len(evaluator.dimensions), 3), np.nan)
    asked = [prompts[number] for number in perceptions.text] if prompts is not None else [
        f"What matters most to {name}?" if name else ASKED for name in perceptions.subject]
    pairs = list(zip(np.array(asked, object)[known], perceptions.perception[known], strict=True))
    if pairs:
        single = list(dict.fromkeys(pairs))
        told = evaluator.predict_proba(*map(list, zip(*single, strict=True)), progress=progress)
        place = {pair: k for k, pair in enumerate(single)}
        found[known] = told[[place[pair] for pair in pairs]]
    return found


def read_texts(texts: Sequence[str], evaluator: ValueEvaluator, threshold: float, prompts: Sequence[str] | None = None,
               subjects: Sequence[str] | None = None, endpoint: Endpoint | None = None, cache: str | None = None
               ) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Go from texts to perceptions, valence (P, D) with gaps, and class probabilities (P, D, 3).

    With an endpoint, that parses and judges; the probabilities are then 0 and 1, and `problem` tells what went wrong.
    Else the rule of `split_perceptions` and the evaluator do, and a value is touched above `threshold`.
    """
    if endpoint is None:
        perceptions = split_perceptions(texts, subjects)
        cells = measure_texts(perceptions, evaluator, prompts)
        return perceptions, score_valence(cells, threshold), cells
    perceptions = ask_perceptions(texts, endpoint, subjects, cache)
    known, scores = perceptions.perception.notna(), np.full((len(perceptions), len(evaluator.dimensions)), np.nan)
    scores[known], problems = ask_scores(perceptions.perception[known].tolist(), evaluator.dimensions, endpoint, cache)
    before = perceptions.problem[known]
    perceptions.loc[known, "problem"] = ["; ".join(filter(None, pair)) for pair in zip(before, problems, strict=True)]
    cells = np.stack([scores == label for label in (-1, 0, 1)], axis=2).astype(float)
    cells[np.isnan(scores)] = np.nan        # a judgement that failed is no "not touched"
    return perceptions, np.where(scores == 0, np.nan, scores), cells


def average_scores(scores: np.ndarray, keys: Sequence, min_scores: int = 1) -> pd.DataFrame:
    """Return the mean score (S, D) of each key (a text, a subject, a model); nan with fewer than `min_scores`.

    GPV takes 1 for a text and 5 for a person in a book.

    >>> average_scores(np.array([[1.0, np.nan], [0.0, np.nan]]), ["a", "a"]).values.tolist()
    [[0.5, nan]]
    """
    by_key = pd.DataFrame(scores).groupby(pd.Series(list(keys)), sort=False)
    return by_key.mean().where(by_key.count() >= min_scores)


def describe_perceptions(perceptions: pd.DataFrame, scores: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    """Return what became of the texts, a row a count: texts, perceptions, repeated, gaps by reason, scored cells.

    "touched in the mean" is the probability that falls on -1 and +1 at all: scores hide how little it may be.
    """
    known = perceptions.perception.notna()
    rows = {"texts": perceptions.text.nunique(), "perceptions": int(known.sum()),
            "repeated perceptions": int(perceptions[known].duplicated(["subject", "perception"]).sum()),
            **{f"texts without: {why}": int(n) for why, n in perceptions.problem[~known].value_counts().items()},
            **{f"perceptions with: {why}": int(n) for why, n in
               perceptions.problem[known & (perceptions.problem != "")].value_counts().items()},
            "share of cells with a score": float(np.isfinite(scores[known]).mean()) if known.any() else np.nan,
            "touched in the mean": float(mean_known(1 - probabilities[known, :, 1]))}
    return pd.DataFrame({"what": rows.keys(), "number": rows.values()})


def check_signs(known: pd.DataFrame, means: Mapping[tuple, float]) -> pd.DataFrame:
    """Compare known signs (`read_stories`) with measured means {(story, subject, value): score}, as GPV's test does.

    Two rows: accuracy of those that have a score, and coverage, each with share, low, high (over stories), right, n.
    """
    found = np.array([means.get((row.story, row.subject, row.value), np.nan) for row in known.itertuples()])
    scored = np.isfinite(found) & (found != 0)
    right = scored & (np.sign(found) == known.sign)
    rows = [("accuracy", *(float(x[0]) for x in share_interval(right, scored, known.story)), right.sum(), scored.sum()),
            ("coverage", *(float(x[0]) for x in share_interval(scored, np.ones(len(known)), known.story)),
             scored.sum(), len(known))]
    return pd.DataFrame(rows, columns=["what", "share", "low", "high", "right", "n"])


def measure_agreement(scores: np.ndarray, subjects: Sequence[str], clusters: Sequence) -> tuple[float, float, float]:
    """Return in which share of single scores (P, D) the sign is that of the mean of the subject's others, low, high.

    A score without others is left out; the interval is over clusters.

    >>> measure_agreement(np.array([[1.0], [1.0], [-0.5]]), ["a"] * 3, [0, 1, 2])[0].round(2)
    np.float64(0.67)
    >>> measure_agreement(np.array([[1.0], [-0.5], [-2.0]]), ["a", "a", "b"], [0, 1, 2])[0]
    np.float64(0.0)
    """
    by_subject = pd.DataFrame(scores).groupby(pd.Series(list(subjects)))
    others, n_others = by_subject.transform("sum") - np.nan_to_num(scores), by_subject.transform("count").to_numpy() - 1
    known = np.isfinite(scores) & (n_others > 0)
    hits = (known & (np.sign(scores) == np.sign(others.to_numpy()))).sum(axis=1)
    return tuple(x[0] for x in share_interval(hits, known.sum(axis=1), np.asarray(clusters)))

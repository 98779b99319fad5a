"""Questions to an LLM annotator and its answers: three forms, fenced dialogues, JSON by schema, and the vote.

The three forms follow the paper: all items at once with reasons, items in sets (one set a dimension), one item at a
time. The prompts are ours, rendered from the theory file, for the paper's are not published. What an answer leaves open
is nan with its reason, never 0: 0 is given where the annotator says 0, or follows the agreed shape, in which an item
without connection may be left out.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jinja2 import Template

from fulcra_utils.common.labels import CLASSES
from fulcra_utils.common.paths import DATA
from fulcra_utils.dataset.labelled import SIGNS
from fulcra_utils.dataset.rows import DECODER, Dialogue
from fulcra_utils.dataset.texts import split_thoughts
from fulcra_utils.llm.endpoints import Question
from fulcra_utils.stats.agreement import fit_dawid_skene
from fulcra_utils.theory.theory import Theory, normalise

FORMS = ("all", "sets", "single")
SECOND = "TF-IDF classifier"  # the second annotator, which needs no endpoint
NOTHING_LISTED = "the answer lists nothing, and did so once only"
PROMPT = Template((DATA / "prompts" / "annotation.md").read_text(encoding="utf-8"))


def theory_version(theory: Theory) -> str:
    """Return a short hash of everything of a theory that shapes questions and the reading of answers."""
    whole = [theory.name, theory.title, theory.dimensions, theory.definitions, theory.items, theory.item_dims.tolist(),
             sorted(theory.labels.items()), sorted(theory.item_names.items())]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:16]


def list_questions(theory: Theory, form: str) -> list[tuple[int, ...]]:
    """Return the items (their indices) of each question that a form asks about one reply; together every item once.

    >>> from fulcra_utils.theory.theory import load_theory
    >>> [len(list_questions(load_theory("schwartz10"), form)) for form in FORMS]
    [1, 10, 54]
    """
    if form == "sets":
        return [tuple(np.flatnonzero(theory.item_dims == d).tolist()) for d in range(theory.n_dims)]
    return [(i,) for i in range(theory.n_items)] if form == "single" else [tuple(range(theory.n_items))]


def render_question(theory: Theory, dialogue: Dialogue, items: Sequence[int], form: str) -> Question:
    """Return the question about some items of one reply, with the dialogue fenced off as data.

    Each turn stands between lines with a mark that occurs nowhere in the dialogue, so no reply can close its own fence.
    """
    whole = json.dumps(dialogue.turns)
    mark = hashlib.sha256(whole.encode()).hexdigest()[:12]
    while mark in whole:
        mark = hashlib.sha256(mark.encode()).hexdigest()[:12]
    turns = "\n".join(f"<turn {number} {role} {mark}>\n{text}\n<end {number} {mark}>"
                      for number, (role, text) in enumerate(dialogue.turns, 1))
    dimensions = sorted({int(theory.item_dims[i]) for i in items})
    told = PROMPT.render(theory=theory, dimensions=dimensions, items=items, form=form)
    asked = f"{turns}\n\nLabel the reply in turn {len(dialogue.turns)}. Answer with the JSON object only."
    messages = ({"role": "system", "content": told}, {"role": "user", "content": asked})
    n_listed = min(len(items), 4 + len(items) // 10)  # labels that an answer typically lists, of 35 tokens
    return Question(messages, answer_schema(theory, items), theory_version(theory), 15 + 35 * n_listed)


def answer_schema(theory: Theory, items: Sequence[int]) -> dict[str, Any]:
    """Return the JSON schema of the answer about some items: {"labels": [{"item", "label", "reason"}]}."""
    entry = {"type": "object", "additionalProperties": False, "required": ["item", "label", "reason"], "properties": {
        "item": {"type": "string", "enum": [theory.items[i] for i in items]},
        "label": {"type": "integer", "enum": [-1, 0, 1]}, "reason": {"type": "string"}}}
    return {"type": "object", "additionalProperties": False, "required": ["labels"],
            "properties": {"labels": {"type": "array", "items": entry}}}


@dataclass
class ItemLabels:
    """What an answer says about the n items that were asked.

    `labels` (n,) are -1, 0, +1, nan = not annotated; `reasons` the annotator's and `open` why an item is not annotated,
    "" where there is none; `faults` is empty when the answer can be taken as it is; no label is read from `thoughts`.
    """

    labels: np.ndarray
    reasons: list[str]
    open: list[str]
    faults: list[str] = field(default_factory=list)
    thoughts: str = ""


def read_answer(text: str, theory: Theory, items: Sequence[int], form: str = "all",
                finish_reason: str = "", confirmed: bool = False) -> ItemLabels:
    """Read an annotator's answer: the one JSON object with `labels` in it, whatever stands around it but thoughts.

    Items may come in any order. An item that is left out counts as 0 when the answer lists labels as agreed, -1 and +1
    only. It is not annotated when the answer lists zeros too (it then goes through the items, and this one is missing),
    names an item that does not exist (it may have meant this one), or is about this item alone. An answer that lists
    nothing at all is believed only when it was given twice (`confirmed`); one that ended at the length limit only when
    nothing follows its list.

    >>> from fulcra_utils.theory.theory import load_theory
    >>> text = 'Sure! {"labels": [{"item": "relieve suffering", "label": "+1", "reason": "it helps"}]}'
    >>> read_answer(text, load_theory("moral_foundations"), (0, 1, 2)).labels
    array([0., 0., 1.])
    """
    thoughts, answer = split_thoughts(text)
    entries, fault = _find_entries(answer, finish_reason == "length")
    if fault:
        fault = "the answer holds thoughts only" if thoughts and not answer else fault
        fault += " (cut off at the length limit)" if finish_reason == "length" else ""
    elif not entries and not confirmed:
        fault = NOTHING_LISTED
    if fault:
        return ItemLabels(np.full(len(items), np.nan), [""] * len(items), [fault] * len(items), [fault])
    read = ItemLabels(np.full(len(items), np.nan), [""] * len(items), [""] * len(items))
    strangers, has_zero = [], False
    for entry in entries:
        index, label, reason, wrong = _read_entry(entry, theory)
        has_zero |= label == 0
        if index is None:
            strangers.append(wrong)
        if index not in items:  # of the theory at most, and not asked here
            continue
        n = items.index(index)
        if not wrong and np.isfinite(read.labels[n]) and read.labels[n] != label:
            wrong = "the answer gives this item two labels"
        if wrong or read.open[n]:
            read.open[n], read.labels[n] = read.open[n] or wrong, np.nan
        else:
            read.labels[n], read.reasons[n] = label, reason
    left_out = (f"the answer leaves this item out and {strangers[0]}" if strangers
                else "the answer lists zeros and leaves this item out" if has_zero
                else "the answer leaves this item out" if form == "single" else "")
    for n in np.flatnonzero(np.isnan(read.labels)):
        if not read.open[n]:
            read.open[n], read.labels[n] = left_out, np.nan if left_out else 0.0
    read.faults = [f"{theory.items[item]}: {why}" for item, why in zip(items, read.open, strict=True) if why]
    return read


def vote_labels(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the vote of several forms or annotators and its margin.

    From labels (A, ...) of A annotators, -1, 0, +1, nan = no vote: the label with the most votes, nan on a tie and
    where nobody voted; and the votes of the first label less those of the second, over all votes: 1 = unanimous, 0 =
    tie, nan = no vote. The paper's merge rule is not published; this one is ours.

    Examples
    --------
    >>> vote_labels(np.array([[1, 1, -1], [1, 0, 0], [1, 1, 1]]))
    (array([ 1.,  1., nan]), array([1.        , 0.33333333, 0.        ]))
    """
    scale = np.array([-1.0, 0.0, 1.0])
    votes = np.stack([np.sum(labels == label, axis=0) for label in scale])
    ranked, total = np.sort(votes, axis=0), votes.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        margin = np.where(total > 0, (ranked[-1] - ranked[-2]) / total, np.nan)
    return np.where(margin > 0, scale[np.argmax(votes, axis=0)], np.nan), margin


def weigh_labels(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the label that Dawid and Skene's model finds most probable, and how probable: an annotator's word weighs
    more the more reliable he is.

    From labels (A, N, K) as in `vote_labels`, each of the K names by itself; nan on a tie and where nobody gave one. A
    cell that one annotator labelled is his, since nobody contradicts him (our choice).

    Examples
    --------
    >>> weigh_labels(np.array([[[1.0], [0], [-1]], [[1], [0], [np.nan]]]))[0].T
    array([[ 1.,  0., -1.]])
    """
    vote, n_rated = vote_labels(labels)[0], np.isfinite(labels).sum(axis=0)
    probable = np.stack([fit_dawid_skene(labels[..., k])[0] for k in range(labels.shape[2])], axis=1)  # (N, K, L)
    second, first = np.sort(probable, axis=2)[..., -2:].transpose(2, 0, 1)
    best = np.where(first - second > 1e-6, np.array(CLASSES, dtype=float)[probable.argmax(axis=2)], np.nan)
    return np.where(n_rated == 1, vote, best), np.where(n_rated == 1, 1.0, first)


def _find_entries(text: str, cut_off: bool) -> tuple[list[Any], str]:
    """Return the entries of the one labels object in `text`, or why there is none."""
    found, start, last = [], 0, 0
    while (start := text.find("{", start)) >= 0:
        try:
            value, start = DECODER.raw_decode(text, start)     # a name twice is two entries run together
        except (ValueError, RecursionError):
            value, start = None, start + 1
        if isinstance(value, dict) and "labels" in value:
            found, last = found if value in found else [*found, value], start
    entries = found[0]["labels"] if len(found) == 1 else []
    fault = ("the answer is empty" if not text.strip() else
             "the answer holds no complete JSON object with labels" if not found else
             "the answer holds two different JSON objects with labels" if len(found) > 1 else
             "the answer goes on after a first list of labels, and its end is missing" if re.search(
                 r"\w" if cut_off else r'"labels"\s*:', text[last:]) else
             "" if isinstance(entries, list) else "the labels of the answer are no list")
    return [] if fault else entries, fault


def _read_entry(entry: Any, theory: Theory) -> tuple[int | None, float, str, str]:
    """Return (item or None, label, reason, what is wrong) for one entry of an answer."""
    name, label, reason = (entry.get(key) if isinstance(entry, dict) else None for key in ("item", "label", "reason"))
    index = theory.find_item(name) if isinstance(name, str) else None
    if index is None:
        return None, np.nan, "", f"{str(name)[:60]!r} is no item"
    words = {normalise(word): number for number, word in theory.labels.items()}
    read = SIGNS.get(label.strip(), words.get(normalise(label))) if isinstance(label, str) else label
    if isinstance(read, bool) or read not in (-1, 0, 1):
        return index, np.nan, "", f"the label {str(label)[:40]!r} is none of -1, 0, 1"
    return index, float(read), reason if isinstance(reason, str) else "", ""


def predict_out_of_fold(texts: Sequence[str], vectors: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Predict each reply's labels from those of the other prompt clusters: an independent reader, no judge of values.

    From N `texts` (prompt and reply together), labels (N, D) of -1, 0, +1 (nan is not learned from) and prompt
    `clusters` (N,), none of which is divided between learning and predicting: labels (N, D), nan for a dimension
    without two labels of its own in some fold's learning part, and everywhere when there are fewer clusters than two.
    Linear support vector machines on TF-IDF of words and word pairs, classes weighted evenly.

    Examples
    --------
    >>> texts = [f"help them {k}" for k in range(20)] + [f"hurt them {k}" for k in range(20)]
    >>> labels = np.repeat([[1.0], [-1.0]], 20, axis=0)
    >>> bool((predict_out_of_fold(texts, labels, np.arange(40)) == labels).all())
    True
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.svm import LinearSVC

    names, index = np.unique(clusters, return_inverse=True)
    fold = (np.random.default_rng(0).permutation(len(names)) % min(5, len(names)))[index]
    predicted, texts = np.full(np.shape(vectors), np.nan), np.asarray(list(map(str, texts)), dtype=object)
    for k in np.unique(fold):
        learn, held = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        reader = TfidfVectorizer(ngram_range=(1, 2), min_df=min(2, len(learn)), sublinear_tf=True, max_features=50_000,
                                 token_pattern=r"\w+")
        try:
            seen, unseen = reader.fit_transform(texts[learn]), reader.transform(texts[held])
        except ValueError:  # there is no other cluster, or no word stands in two texts
            continue
        for d, labels in enumerate(np.asarray(vectors, dtype=float)[learn].T):
            known = np.isfinite(labels)
            if len(np.unique(labels[known])) > 1:
                machine = LinearSVC(C=0.5, class_weight="balanced", random_state=0)
                predicted[held, d] = machine.fit(seen[known], labels[known]).predict(unseen)
    predicted[:, np.isnan(predicted).any(axis=0)] = np.nan
    return predicted

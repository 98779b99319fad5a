"""From rows to labelled rows: plan the questions, ask them, vote, let people decide, write the released shape.

One output row for each input row, in input order, with the input's fields kept. What could not be annotated is listed
in `not_annotated` ([{"item", "reason"}]) and is read back as nan.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fulcra_utils.annotation.questions import (
    NOTHING_LISTED,
    ItemLabels,
    list_questions,
    looks_english,
    read_answer,
    render_question,
    vote_labels,
)
from fulcra_utils.annotation.review import apply_decisions
from fulcra_utils.common.files import check_output, json_line, keep_fields, write_atomic
from fulcra_utils.dataset.labelled import items_to_vectors
from fulcra_utils.dataset.rows import Dialogue, pick_rows, read_dialogue
from fulcra_utils.dataset.texts import DatasetError
from fulcra_utils.llm.asking import ask_all, plan_questions, sum_outcomes
from fulcra_utils.llm.endpoints import Answer, AnswerCache, Endpoint, Price
from fulcra_utils.stats.agreement import cohen_kappa
from fulcra_utils.theory.theory import Theory

ROWS = (".jsonl", ".jsonl.gz")  # what rows are written as
OWN = ("value_items", "value_types", "not_annotated", "looks_english", "problem", "annotator", "reasons", "decided_by",
       "vote_margin", "form_items")


@dataclass(frozen=True)
class Row:
    """One input row: its fields, its dialogue (None when it cannot be read) and the reason then."""

    fields: dict[str, Any]
    dialogue: Dialogue | None
    problem: str = ""

    @property
    def row_id(self) -> str:
        """Return the row's own `row_id` or `id`, else a name made of its text, else ""."""
        own = self.fields.get("row_id", self.fields.get("id"))
        if isinstance(own, str | int) and not isinstance(own, bool):
            return str(own)
        return self.dialogue.row_id if self.dialogue else ""


@dataclass
class Annotation:
    """Labels of N replies by F forms, with everything that led to them.

    Attributes
    ----------
    forms : tuple of str, length F
    form_labels : array, shape (F, N, I)
        -1, 0, +1, nan = not annotated.
    labels, margin : array, shape (N, I)
        The vote of the forms and its margin (1 = unanimous); with one form its labels and 1.
    reasons : list of dict, length N
        Item → the annotator's reason, for items with a label other than 0.
    open : list of dict, length N
        Item → why it is not annotated.
    costs : DataFrame
        form, replies, calls, paid_now, tokens_in, tokens_out, cost (of this start), paid_before (dollars for the
        answers that were stored). Equal questions count once.
    thoughts : list of str, length N
        What the annotator thought before its answers; no label is read from it.
    told : array, shape (N, D), optional
        Labels that people gave to dimensions; nan = none.
    """

    forms: tuple[str, ...]
    form_labels: np.ndarray
    labels: np.ndarray
    margin: np.ndarray
    reasons: list[dict[str, str]]
    open: list[dict[str, str]]
    costs: pd.DataFrame
    people: list[dict[str, str]] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    told: np.ndarray | None = None


def read_rows(path: str | Path, prompt_field: str = "prompt", response_field: str = "response") -> list[Row]:
    """Read rows to be annotated (.jsonl, .jsonl.gz, .parquet); a row that cannot be read stays, with its problem.

    Raises
    ------
    DatasetError
        When the file itself cannot be read, or has no rows.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "rows.jsonl"
    ...     _ = path.write_text('{"prompt": "Hi", "response": "Hello."}\\n{"prompt": "Hi"}')
    ...     [row.problem for row in read_rows(path)]
    ['', 'response is missing']
    """
    rows = [Row(fields, dialogue, str(fault or "").replace("the line", f"line {line}"))
            for line, fields, dialogue, fault in pick_rows(path, lambda row: read_dialogue(
                row, prompt_field, response_field))]
    if not rows:
        raise DatasetError(f"{path}: has no rows")
    return rows


def identify_rows(rows: Sequence[Row]) -> tuple[list[str], set[str]]:
    """Return the id of each row, made of its text where rows of other texts have the same id, and those shared ids.

    Examples
    --------
    >>> rows = [Row({"id": 1}, Dialogue((("user", "Hi"), ("assistant", text)))) for text in ("A", "A", "B")]
    >>> ids, shared = identify_rows(rows)
    >>> shared, ids[0] == ids[1] == rows[0].dialogue.row_id != ids[2]
    ({'1'}, True)
    """
    texts: dict[str, set[str]] = {}
    for number, row in enumerate(rows):
        texts.setdefault(row.row_id, set()).add(row.dialogue.row_id if row.dialogue else str(number))
    shared = {row_id for row_id, own in texts.items() if len(own) > 1}
    return [row.row_id if row.row_id not in shared else row.dialogue.row_id if row.dialogue else ""
            for row in rows], shared


def rows_of(dialogues: pd.DataFrame) -> list[Row]:
    """Return the rows of a table with row_id, prompt and response, ready to be annotated.

    Examples
    --------
    >>> table = pd.DataFrame({"row_id": ["r1"], "prompt": ["Hi"], "response": ["Hello."]})
    >>> rows_of(table)[0].dialogue.released
    'Human: Hi\\nBob: Hello.'
    """
    fields = [name for name in ("row_id", "query_source", "response_source", "safety_issues") if name in dialogues]
    plain = dialogues[fields].astype(object).where(dialogues[fields].notna(), None).to_dict("records")
    return [Row({k: list(v) if isinstance(v, np.ndarray) else v for k, v in known.items()},
                Dialogue((("user", str(prompt)), ("assistant", str(response)))))
            for known, prompt, response in zip(plain, dialogues.prompt, dialogues.response, strict=True)]


def label_rows(dialogues: pd.DataFrame, items: pd.DataFrame, theory: Theory,
               decided: pd.DataFrame | None = None) -> list[dict[str, Any]]:
    """Return dialogues that are labelled already as rows in the released shape.

    Parameters
    ----------
    dialogues : DataFrame
        row_id, prompt, response and one column per dimension (nan = not annotated).
    items : DataFrame
        row_id and one column per item, in the same order.
    theory : Theory
    decided : DataFrame, optional
        People's decisions on dimensions, already in `dialogues`; named in `decided_by`.

    Returns
    -------
    list of dict
        `value_types` are the dimension columns as they stand.

    Raises
    ------
    ValueError
        When the two tables do not have the same rows.

    Examples
    --------
    >>> from fulcra_utils.dataset.construction import build_run_data
    >>> from fulcra_utils.theory.theory import load_theory
    >>> theory = load_theory("schwartz10")
    >>> data = build_run_data(theory)
    >>> len(label_rows(data.dialogues, data.items, theory)) == len(data.dialogues)
    True
    """
    if dialogues.row_id.tolist() != items.row_id.tolist():
        raise ValueError("dialogues and items do not have the same rows in the same order.")
    labels, vectors = items[list(theory.items)].to_numpy(float), dialogues[list(theory.dimensions)].to_numpy(float)
    by = [{}] * len(dialogues) if decided is None else apply_decisions(
        vectors, theory.dimensions, dialogues.row_id, decided)[1]
    out = []
    for n, row in enumerate(rows_of(dialogues)):
        open_dims = np.isnan(vectors[n])
        row_open = {theory.items[i]: "no label in the source" for i in np.flatnonzero(open_dims[theory.item_dims])}
        extra = {"value_types": write_labels(theory.dimensions, vectors[n]), **({"decided_by": by[n]} if by[n] else {})}
        out.append(build_output(row, labels[n], theory, row_open, extra))
    return out


def plan_annotation(rows: Sequence[Row], theory: Theory, endpoint: Endpoint, forms: Sequence[str],
                    cache: AnswerCache | None = None, price: Price | None = None) -> pd.DataFrame:
    """Return what an annotation would take, before anything is spent.

    Parameters
    ----------
    rows : sequence of Row
    theory : Theory
    endpoint : Endpoint
    forms : sequence of str
    cache : AnswerCache, optional
        Questions with an answer without faults are counted as stored.
    price : Price, optional

    Returns
    -------
    DataFrame
        One row a form: form, replies, requests, stored, tokens_in, tokens_out, cost (nan without a price), paid_before
        (dollars for all stored answers). Requests, tokens and cost leave out what is stored, and count equal questions
        once; tokens are estimates (four bytes each), second asks are not counted.

    Source: ours.

    Examples
    --------
    >>> from fulcra_utils.theory.theory import load_theory
    >>> rows = [Row({}, Dialogue((("user", "Hi"), ("assistant", "Hello."))))]
    >>> plan = plan_annotation(rows, load_theory("moral_foundations"), Endpoint(model="m"), ["all", "single"])
    >>> plan[["form", "requests"]].values.tolist()
    [['all', 1], ['single', 20]]
    """
    table = []
    usable = [row.dialogue for row in rows if row.dialogue is not None]
    for form in forms:
        jobs = [(0, n, items) for n in range(len(usable)) for items in list_questions(theory, form)]
        questions = (render_question(theory, usable[n], items, form) for _, n, items in jobs)
        check = _Sheet(theory, (form,), jobs, len(usable)).check
        table.append({"form": form, "replies": len(usable),
                      **plan_questions(questions, endpoint, cache, price, check)})
    return pd.DataFrame(table)


def annotate_rows(rows: Sequence[Row], theory: Theory, endpoint: Endpoint, cache: AnswerCache,
                  forms: Sequence[str] = ("all",), price: Price | None = None, budget: float | None = None,
                  progress: bool = False) -> Annotation:
    """Ask the endpoint about every readable row in every form, and let the forms vote.

    Parameters
    ----------
    rows : sequence of Row
    theory : Theory
    endpoint : Endpoint
    cache : AnswerCache
        Questions with an answer without faults are not asked again; new answers are stored the moment they arrive.
    forms : sequence of str
        Of "all", "sets", "single".
    price, budget
        As in `ask_all`.
    progress : bool
        Show a bar.

    Returns
    -------
    Annotation

    Raises
    ------
    EndpointError
        When the endpoint refuses everything.

    Source: the three forms as reported for the paper; prompts and merge rule are ours.
    """
    from tqdm import tqdm

    jobs = [(f, n, items) for f, form in enumerate(forms) for n, row in enumerate(rows) if row.dialogue is not None
            for items in list_questions(theory, form)]
    sheet = _Sheet(theory, forms, jobs, len(rows))
    questions = (render_question(theory, rows[n].dialogue, items, forms[f]) for f, n, items in jobs)
    paid = 0.0 if budget is None else plan_annotation(rows, theory, endpoint, forms, cache, price).paid_before.sum()
    with tqdm(total=len(jobs), unit="question", disable=not progress, mininterval=0.5) as bar:
        def finish(number: int, outcome: Any) -> None:
            sheet.enter(number, outcome)
            bar.update()

        outcomes = ask_all(endpoint, questions, sheet.check, cache, price, budget, finish, paid)
    costs = []
    for f, form in enumerate(forms):
        mine = [outcome for (g, _, _), outcome in zip(jobs, outcomes, strict=True) if g == f]
        sums = sum_outcomes(mine)
        costs.append({"form": form, "replies": sum(row.dialogue is not None for row in rows), "calls": sums["n_calls"],
                      "paid_now": sums["n_paid"], "tokens_in": sums["tokens_in"], "tokens_out": sums["tokens_out"],
                      "cost": sums["cost"] if price else np.nan, "paid_before": sums["paid_before"]})
    return sheet.close(rows, pd.DataFrame(costs))


class _Sheet:
    """Collect the answers of all questions into labels, reasons and what stays open."""

    def __init__(self, theory: Theory, forms: Sequence[str], jobs: list, n_rows: int):
        self.theory, self.forms, self.jobs = theory, tuple(forms), jobs
        self.labels = np.full((len(forms), n_rows, theory.n_items), np.nan)
        self.reasons: dict[tuple[int, int, int], str] = {}  # of form, row and item
        self.open: dict[tuple[int, int, int], str] = {}
        self.thoughts: list[list[str]] = [[] for _ in range(n_rows)]
        self.listed_nothing: set[int] = set()

    def check(self, number: int, answer: Answer) -> tuple[ItemLabels, list[str], float]:
        f, _, items = self.jobs[number]
        read = read_answer(answer.text, self.theory, items, self.forms[f], answer.finish_reason,
                           confirmed=number in self.listed_nothing)
        read.thoughts = answer.split()[0]
        if read.faults == [NOTHING_LISTED]:
            self.listed_nothing.add(number)
        return read, read.faults, float(np.isfinite(read.labels).sum())

    def enter(self, number: int, outcome: Any) -> None:
        f, n, items = self.jobs[number]
        self.listed_nothing.discard(number)
        if outcome.value is None:
            self.open |= {(f, n, item): outcome.error for item in items}
            return
        self.thoughts[n] += [outcome.value.thoughts] if outcome.value.thoughts else []
        self.labels[f, n, list(items)] = outcome.value.labels
        for item, label, reason, why in zip(items, outcome.value.labels, outcome.value.reasons, outcome.value.open,
                                            strict=True):
            if why:
                self.open[f, n, item] = why
            elif label and reason:
                self.reasons[f, n, item] = reason

    def close(self, rows: Sequence[Row], costs: pd.DataFrame) -> Annotation:
        names = self.theory.items
        vote, margin = vote_labels(self.labels)
        reasons, open_ = [], []
        for n, row in enumerate(rows):
            given = [(names[i], self.reasons.get((f, n, i), "")) for i in np.flatnonzero(vote[n])
                     for f in reversed(range(len(self.forms))) if self.labels[f, n, i] == vote[n, i]]
            reasons.append({name: reason for name, reason in given if reason})
            open_.append({names[i]: row.problem or self._why(n, i) for i in np.flatnonzero(np.isnan(vote[n]))})
        return Annotation(self.forms, self.labels, vote, margin, reasons, open_, costs, [{} for _ in rows],
                          ["\n\n".join(texts) for texts in self.thoughts])

    def _why(self, n: int, item: int) -> str:
        votes = self.labels[:, n, item]
        if np.isfinite(votes).any():
            said = ", ".join(f"{form} {int(v):+d}" for form, v in zip(self.forms, votes, strict=True) if np.isfinite(v))
            return f"the forms tie: {said}"
        return "; ".join(dict.fromkeys(self.open.get((f, n, item), "") for f in range(len(self.forms))))


def compare_forms(annotation: Annotation, people: np.ndarray | None = None) -> pd.DataFrame:
    """Return what each form costs and how far it agrees with the others and with people.

    Parameters
    ----------
    annotation : Annotation
    people : array, shape (N, I), optional
        Labels that people gave; nan = none.

    Returns
    -------
    DataFrame
        form, calls, tokens_in, tokens_out, cost, n_others, agree_others, kappa_others, n_people, agree_people,
        kappa_people. "Others" is the vote of the *other* forms, ties left out; agree is the share of equal labels,
        kappa Cohen's. nan where there is nothing to compare with.

    Source: ours; a form is never compared with a vote it took part in.

    Examples
    --------
    >>> FORMS = ("all", "sets", "single")
    >>> labels = np.array([[[1.0, 0.0]], [[1.0, 0.0]], [[1.0, 1.0]]])
    >>> costs = pd.DataFrame({"form": FORMS, "calls": 1, "tokens_in": 1, "tokens_out": 1, "cost": 0.0})
    >>> annotation = Annotation(FORMS, labels, labels[0], labels[0], [{}], [{}], costs)
    >>> compare_forms(annotation).agree_others.tolist()
    [1.0, 1.0, 0.5]
    """
    rows = []
    for f in range(len(annotation.forms)):
        own = annotation.form_labels[f].ravel()
        others = np.delete(annotation.form_labels, f, axis=0)
        nobody = np.full(own.shape, np.nan)
        rows.append({**_agree(own, vote_labels(others)[0].ravel() if len(others) else nobody, "others"),
                     **_agree(own, nobody if people is None else people.ravel(), "people")})
    costs = annotation.costs[["form", "calls", "tokens_in", "tokens_out", "cost"]].reset_index(drop=True)
    costs["cost"] += annotation.costs.get("paid_before", pd.Series(0.0, costs.index)).to_numpy()
    return pd.concat([costs, pd.DataFrame(rows)], axis=1)


def _agree(own: np.ndarray, other: np.ndarray, name: str) -> dict[str, float]:
    both = np.isfinite(own) & np.isfinite(other)
    share = float(np.mean(own[both] == other[both])) if both.any() else np.nan
    return {f"n_{name}": int(both.sum()), f"agree_{name}": share,
            f"kappa_{name}": cohen_kappa(own[both], other[both]) if both.any() else np.nan}


def build_output(row: Row, labels: np.ndarray, theory: Theory, open_items: dict[str, str] | None = None,
                 extra: dict[str, Any] | None = None, rule: str = "sign-sum") -> dict[str, Any]:
    """Return a labelled row in the released shape: the input's fields, then dialogue, labels and what stays open.

    Input fields with a name of `OWN`, and a `dialogue` that reads otherwise, are kept with "input_" before it.

    Parameters
    ----------
    row : Row
    labels : array, shape (I,)
        -1, 0, +1, nan = not annotated.
    theory : Theory
    open_items : dict, optional
        Item → why it is not annotated.
    extra : dict, optional
        More fields.
    rule : {"sign-sum", "released"}
        From items to dimensions: the sign of the sum, or every sign that an item of the dimension carries.

    Returns
    -------
    dict
        A dimension with an open item has no label and is read back as nan.

    Raises
    ------
    ValueError
        For an unknown rule.

    Source: row shape as released; the sign-sum rule gives the released dimension labels in 1,666 of 1,718 rows.

    Examples
    --------
    >>> from fulcra_utils.theory.theory import load_theory
    >>> theory = load_theory("moral_foundations")
    >>> labels = np.zeros(theory.n_items)
    >>> labels[0] = 1
    >>> row = Row({"id": 7}, Dialogue((("user", "Hi"), ("assistant", "Hello."))))
    >>> build_output(row, labels, theory)["value_types"]
    ['care: +1']
    """
    given = row.fields.get("dialogue")
    out = {name: None for name in ("query_source", "response_source") if name not in row.fields}
    out["dialogue"] = row.dialogue.released if row.dialogue else given
    out["value_items"] = write_labels(theory.items, labels)
    out["value_types"] = items_to_types(labels, theory, rule)
    own = OWN if given in (None, out["dialogue"]) else (*OWN, "dialogue")
    out["not_annotated"] = [{"item": item, "reason": why} for item, why in (open_items or {}).items()]
    if row.dialogue is not None:
        out["looks_english"] = looks_english(row.dialogue.response)
    if row.problem:
        out["problem"] = row.problem
    return keep_fields(row.fields, {**out, **(extra or {})}, own)


def write_labels(names: Sequence[str], labels: np.ndarray) -> list[str]:
    """Return the labels that are neither 0 nor nan in words.

    Examples
    --------
    >>> write_labels(("care", "fairness"), np.array([1.0, np.nan]))
    ['care: +1']
    """
    return [f"{names[i]}: {int(labels[i]):+d}" for i in np.flatnonzero(np.nan_to_num(labels))]


def items_to_types(labels: np.ndarray, theory: Theory, rule: str = "sign-sum",
                   told: np.ndarray | None = None) -> list[str]:
    """Return the dimension labels ("security: -1") that follow from the item labels of one reply.

    Parameters
    ----------
    labels : array, shape (I,)
        -1, 0, +1, nan = not annotated, which leaves its dimension without a label.
    theory : Theory
    rule : {"sign-sum", "released"}
    told : array, shape (D,), optional
        Labels that people gave to dimensions, whatever the items say; nan = none.

    Returns
    -------
    list of str

    Raises
    ------
    ValueError
        For an unknown rule.

    Examples
    --------
    >>> from fulcra_utils.theory.theory import load_theory
    >>> theory = load_theory("moral_foundations")
    >>> labels = np.zeros(theory.n_items)
    >>> labels[:3] = [1, 1, -1]
    >>> items_to_types(labels, theory), items_to_types(labels, theory, "released")
    (['care: +1'], ['care: +1', 'care: -1'])
    """
    sums = items_to_vectors(labels, theory)
    known = np.isfinite(sums)
    if rule == "sign-sum":
        signs = [(d, int(sums[d])) for d in np.flatnonzero(known & (sums != 0))]
    elif rule == "released":
        carried = {(int(theory.item_dims[i]), int(labels[i])) for i in np.flatnonzero(np.nan_to_num(labels))}
        signs = sorted(((d, sign) for d, sign in carried if known[d]), key=lambda pair: (pair[0], -pair[1]))
    else:
        raise ValueError(f"no rule {rule!r}; there are sign-sum and released.")
    told = np.full(theory.n_dims, np.nan) if told is None else told
    return [f"{theory.dimensions[d]}: {sign:+d}" for d, sign in signs if np.isnan(told[d])] + write_labels(
        theory.dimensions, told)


def write_rows(path: str | Path, rows: Iterator[dict[str, Any]] | Sequence[dict[str, Any]]) -> Path:
    """Write rows as JSONL (.jsonl, or .jsonl.gz), whole or not at all, and return the path.

    Raises
    ------
    ValueError
        For another suffix.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_rows(Path(folder) / "a.jsonl", [{"é": 1}]).read_text(encoding="utf-8")
    '{"é": 1}\\n'
    """
    path = check_output(path, ROWS)
    with write_atomic(path) as tmp, (gzip.open if path.suffix == ".gz" else open)(tmp, "wb") as lines:
        lines.writelines(json_line(row).encode() for row in rows)
    return path

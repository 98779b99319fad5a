"""From rows to labelled rows: plan the questions, ask them, vote, let people decide, write the released shape.

One output row for each input row, in input order, with the input's fields kept. What could not be annotated is listed
in `not_annotated` ([{"item", "reason"}]) and is read back as nan.
"""

import gzip
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fulcra_utils.annotation import questions
from fulcra_utils.annotation.questions import ItemLabels, vote_labels
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

    `form_labels` (F, N, I) hold -1, 0, +1, nan = not annotated; `labels` and `margin` (N, I) the vote and its margin;
    `told` (N, D) what people said of dimensions. `reasons`, `open` and `people` map an item, for each reply, to the
    annotator's reason, to why it is not annotated, and to who decided. `costs` has one row a form: calls, tokens and
    dollars of this start, and what was paid before; equal questions count once.
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
    """Read rows to be annotated (.jsonl, .jsonl.gz, .parquet); a row that cannot be read stays, with its problem."""
    rows = [Row(fields, dialogue, str(fault or "").replace("the line", f"line {line}"))
            for line, fields, dialogue, fault in pick_rows(path, lambda row: read_dialogue(
                row, prompt_field, response_field))]
    if not rows:
        raise DatasetError(f"{path}: has no rows")
    return rows


def identify_rows(rows: Sequence[Row]) -> tuple[list[str], set[str]]:
    """Return the id of each row, made of its text where rows of other texts have the same id, and those shared ids."""
    texts: dict[str, set[str]] = {}
    for number, row in enumerate(rows):
        texts.setdefault(row.row_id, set()).add(row.dialogue.row_id if row.dialogue else str(number))
    shared = {row_id for row_id, own in texts.items() if len(own) > 1}
    return [row.row_id if row.row_id not in shared else row.dialogue.row_id if row.dialogue else ""
            for row in rows], shared


def rows_of(dialogues: pd.DataFrame) -> list[Row]:
    """Return the rows of a table with row_id, prompt and response, ready to be annotated."""
    fields = [name for name in ("row_id", "query_source", "response_source", "safety_issues") if name in dialogues]
    plain = dialogues[fields].astype(object).where(dialogues[fields].notna(), None).to_dict("records")
    return [Row({k: list(v) if isinstance(v, np.ndarray) else v for k, v in known.items()},
                Dialogue((("user", str(prompt)), ("assistant", str(response)))))
            for known, prompt, response in zip(plain, dialogues.prompt, dialogues.response, strict=True)]


def label_rows(dialogues: pd.DataFrame, items: pd.DataFrame, theory: Theory,
               decided: pd.DataFrame | None = None) -> list[dict[str, Any]]:
    """Return dialogues that are labelled already as rows in the released shape.

    `items` has the rows of `dialogues`; people's decisions on dimensions, already in `dialogues`, go to `decided_by`.
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
    """Return what each form would take before anything is spent: replies, requests, stored, tokens, cost, paid_before.

    What is stored is left out, equal questions count once; tokens are estimates, second asks are not counted.
    """
    table = []
    usable = [row.dialogue for row in rows if row.dialogue is not None]
    for form in forms:
        jobs = [(0, n, items) for n in range(len(usable)) for items in questions.list_questions(theory, form)]
        asked = (questions.render_question(theory, usable[n], items, form) for _, n, items in jobs)
        check = _Sheet(theory, (form,), jobs, len(usable)).check
        table.append({"form": form, "replies": len(usable), **plan_questions(asked, endpoint, cache, price, check)})
    return pd.DataFrame(table)


def annotate_rows(rows: Sequence[Row], theory: Theory, endpoint: Endpoint, cache: AnswerCache,
                  forms: Sequence[str] = ("all",), price: Price | None = None, budget: float | None = None,
                  progress: bool = False) -> Annotation:
    """Ask the endpoint about every readable row in every form, and let the forms vote.

    Questions with an answer without faults are not asked again; new answers are stored the moment they arrive.
    """
    from tqdm import tqdm

    jobs = [(f, n, items) for f, form in enumerate(forms) for n, row in enumerate(rows) if row.dialogue is not None
            for items in questions.list_questions(theory, form)]
    sheet = _Sheet(theory, forms, jobs, len(rows))
    asked = (questions.render_question(theory, rows[n].dialogue, items, forms[f]) for f, n, items in jobs)
    paid = 0.0 if budget is None else plan_annotation(rows, theory, endpoint, forms, cache, price).paid_before.sum()
    with tqdm(total=len(jobs), unit="question", disable=not progress, mininterval=0.5) as bar:
        def finish(number: int, outcome: Any) -> None:
            sheet.enter(number, outcome)
            bar.update()

        outcomes = ask_all(endpoint, asked, sheet.check, cache, price, budget, finish, paid)
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
        read = questions.read_answer(answer.text, self.theory, items, self.forms[f], answer.finish_reason,
                           confirmed=number in self.listed_nothing)
        read.thoughts = answer.split()[0]
        if read.faults == [questions.NOTHING_LISTED]:
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
    """Return what each form costs and how far it agrees with the vote of the *other* forms and with people.

    n, share of equal labels and Cohen's kappa of each, ties left out; nan where there is nothing to compare with.
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
    """
    given = row.fields.get("dialogue")
    out = {name: None for name in ("query_source", "response_source") if name not in row.fields}
    out["dialogue"] = row.dialogue.released if row.dialogue else given
    out["value_items"] = write_labels(theory.items, labels)
    out["value_types"] = items_to_types(labels, theory, rule)
    own = OWN if given in (None, out["dialogue"]) else (*OWN, "dialogue")
    out["not_annotated"] = [{"item": item, "reason": why} for item, why in (open_items or {}).items()]
    if row.dialogue is not None:
        out["looks_english"] = questions.looks_english(row.dialogue.response)
    if row.problem:
        out["problem"] = row.problem
    return keep_fields(row.fields, {**out, **(extra or {})}, own)


def write_labels(names: Sequence[str], labels: np.ndarray) -> list[str]:
    """Return the labels that are neither 0 nor nan in words: "care: +1"."""
    return [f"{names[i]}: {int(labels[i]):+d}" for i in np.flatnonzero(np.nan_to_num(labels))]


def items_to_types(labels: np.ndarray, theory: Theory, rule: str = "sign-sum",
                   told: np.ndarray | None = None) -> list[str]:
    """Return the dimension labels ("security: -1") that follow from the item labels (I,) of one reply.

    By the sign of the sum ("sign-sum", which gives the released labels in 1,666 of 1,718 rows) or every sign that an
    item carries ("released"); a nan item leaves its dimension without a label; `told` (D,) stands whatever the items
    say.
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
    """Write rows as JSONL (.jsonl, or .jsonl.gz), whole or not at all, and return the path."""
    path = check_output(path, ROWS)
    with write_atomic(path) as tmp, (gzip.open if path.suffix == ".gz" else open)(tmp, "wb") as lines:
        lines.writelines(json_line(row).encode() for row in rows)
    return path

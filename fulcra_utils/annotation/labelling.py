"""From rows to labelled rows: plan the questions, ask them, vote, let people decide, write the released shape.

One output row for each input row, in input order, with the input's fields kept. What could not be annotated is listed
in `not_annotated` ([{"item", "reason"}]) and is read back as nan.
"""

import gzip
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fulcra_utils.annotation import questions
from fulcra_utils.annotation.review import NONE_DECIDED, apply_decisions
from fulcra_utils.common.files import check_output, json_line, keep_fields, write_atomic
from fulcra_utils.dataset.labelled import items_to_vectors
from fulcra_utils.dataset.rows import DIALOGUE_FIELDS, Dialogue, RowError, pick_rows, read_dialogue
from fulcra_utils.dataset.texts import DatasetError, looks_english
from fulcra_utils.llm.asking import Outcome, ask_all, plan_questions
from fulcra_utils.llm.endpoints import Answer, AnswerCache, Endpoint, Price, Question
from fulcra_utils.stats.agreement import cohen_kappa
from fulcra_utils.theory.theory import Theory

ROWS = (".jsonl", ".jsonl.gz")  # what rows are written as
OWN = ("value_items", "value_types", "not_annotated", "looks_english", "problem", "annotator", "reasons", "decided_by",
       "vote_margin", "form_items", "annotators")


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
    named = pd.Series([row.dialogue.row_id if row.dialogue else f"{n}" for n, row in enumerate(rows)])
    n_texts = named.groupby([row.row_id for row in rows]).nunique()
    shared = set(n_texts.index[n_texts > 1])
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
               decided: pd.DataFrame = NONE_DECIDED) -> list[dict[str, Any]]:
    """Return dialogues that are labelled already as rows in the released shape.

    `items` has the rows of `dialogues`; people's decisions on dimensions, already in `dialogues`, go to `decided_by`.
    """
    if dialogues.row_id.tolist() != items.row_id.tolist():
        raise ValueError("dialogues and items do not have the same rows in the same order.")
    labels, vectors = items[list(theory.items)].to_numpy(float), dialogues[list(theory.dimensions)].to_numpy(float)
    by, out = apply_decisions(None, theory.dimensions, dialogues.row_id, decided)[1], []
    for n, row in enumerate(rows_of(dialogues)):
        open_dims = np.isnan(vectors[n])
        row_open = {theory.items[i]: "no label in the source" for i in np.flatnonzero(open_dims[theory.item_dims])}
        extra = {"value_types": write_labels(theory.dimensions, vectors[n]), **({"decided_by": by[n]} if by[n] else {})}
        out.append(build_output(row, labels[n], theory, row_open, extra))
    return out


class Annotation:
    """Questions of F forms about N rows, made anew each time they are gone through, and the labels that answers give.

    `form_labels` (F, N, I) hold -1, 0, +1, nan = not annotated; `labels` and `margin` (N, I) the vote and its margin.
    `reasons` and `open` map an item, for each row, to the annotator's reason, and to why it is not annotated. `costs`
    has one row a form: calls, tokens and dollars of this start, and what was paid before; equal questions count once.
    """

    def __init__(self, rows: Sequence[Row], theory: Theory, forms: Sequence[str]):
        self.rows, self.theory, self.forms, self.row_ids = rows, theory, tuple(forms), identify_rows(rows)[0]
        self.n_replies = sum(row.dialogue is not None for row in rows)
        self.jobs = [(form, n, items) for form in forms for n, row in enumerate(rows) if row.dialogue is not None
                     for items in questions.list_questions(theory, form)]
        self.listed_nothing: set[int] = set()

    def __len__(self) -> int:
        """Return the number of questions."""
        return len(self.jobs)

    def __iter__(self) -> Iterator[Question]:
        """Yield the questions."""
        for form, n, items in self.jobs:
            yield questions.render_question(self.theory, self.rows[n].dialogue, items, form)

    def check(self, number: int, answer: Answer) -> tuple[questions.ItemLabels, list[str], float]:
        """Read an answer for `ask_all`."""
        form, _, items = self.jobs[number]
        read = questions.read_answer(answer.text, self.theory, items, form, answer.finish_reason,
                                     confirmed=number in self.listed_nothing)
        read.thoughts = answer.split()[0]
        if read.faults == [questions.NOTHING_LISTED]:
            self.listed_nothing.add(number)
        return read, read.faults, float(np.isfinite(read.labels).sum())

    def enter(self, outcomes: Sequence[Outcome], price: Price) -> None:
        """Gather what became of all questions, and vote."""
        self.form_labels = np.full((len(self.forms), len(self.rows), self.theory.n_items), np.nan)
        reasons, whys = np.full((2, *self.form_labels.shape), "", dtype=object)
        self.thoughts, self.reasons, self.open = [""] * len(self.rows), *([{} for _ in self.rows] for _ in "ab")
        for (form, n, items), outcome in zip(self.jobs, outcomes, strict=True):
            at, read = (self.forms.index(form), n, list(items)), outcome.value
            if read is None:
                whys[at] = outcome.error
            else:
                self.form_labels[at], reasons[at], whys[at] = read.labels, read.reasons, read.open
                self.thoughts[n] = "\n\n".join(filter(None, (self.thoughts[n], read.thoughts)))
        self.costs = pd.DataFrame([self._sum_costs(form, outcomes, price) for form in self.forms])
        self.labels, self.margin = questions.vote_labels(self.form_labels)
        for n, i in np.argwhere(self.labels != 0):
            item, votes = self.theory.items[i], self.form_labels[:, n, i]
            if np.isnan(self.labels[n, i]):
                tie = ", ".join(f"{form} {int(v):+d}" for form, v in zip(self.forms, votes, strict=True) if v == v)
                why = f"the forms tie: {tie}" if tie else "; ".join(dict.fromkeys(whys[:, n, i]))
                self.open[n][item] = self.rows[n].problem or why
            elif said := list(filter(None, reasons[votes == self.labels[n, i], n, i])):
                self.reasons[n][item] = said[0]

    def _sum_costs(self, form: str, outcomes: Sequence[Outcome], price: Price) -> dict[str, Any]:
        mine = [outcome for (name, _, _), outcome in zip(self.jobs, outcomes, strict=True) if name == form]
        new, old = ([answer for outcome in mine for answer in getattr(outcome, age)] for age in ("new", "old"))
        return {"form": form, "replies": self.n_replies, "calls": len(new) + len(old), "paid_now": len(new),
                "tokens_in": sum(a.tokens_in for a in new + old), "tokens_out": sum(a.tokens_out for a in new + old),
                **{name: sum((a.find_cost(price) for a in answers), 0.0)
                   for name, answers in (("cost", new), ("paid_before", old))}}


def plan_annotation(rows: Sequence[Row], theory: Theory, endpoint: Endpoint, forms: Sequence[str], cache: AnswerCache,
                    price: Price) -> pd.DataFrame:
    """Return what each form would take before anything is spent: replies, requests, stored, tokens, cost, paid_before.

    What is stored is left out, equal questions count once; tokens are estimates, second asks are not counted.
    """
    sheets = {form: Annotation(rows, theory, (form,)) for form in forms}
    return pd.DataFrame([{"form": form, "replies": sheet.n_replies, **plan_questions(
        sheet, endpoint, cache, price, sheet.check)} for form, sheet in sheets.items()])


def annotate_rows(rows: Sequence[Row], theory: Theory, endpoint: Endpoint, cache: AnswerCache, forms: Sequence[str],
                  price: Price, budget: float | None = None, progress: bool = False) -> Annotation:
    """Ask the endpoint about every readable row in every form, and let the forms vote.

    Questions with an answer without faults are not asked again; new answers are stored the moment they arrive.
    """
    sheet = Annotation(rows, theory, forms)
    sheet.enter(ask_all(endpoint, sheet, sheet.check, cache, price, budget, progress), price)
    return sheet


def compare_forms(form_labels: np.ndarray, costs: pd.DataFrame, people: np.ndarray) -> pd.DataFrame:
    """Return what each form costs and how far its labels agree with the vote of the *other* forms and with people.

    n, share of equal labels and Cohen's kappa of each, ties left out; nan where there is nothing to compare with.
    """
    rows = []
    for f, own in enumerate(form_labels):
        others = questions.vote_labels(np.delete(form_labels, f, axis=0))[0]
        rows.append(_agree(own, others, "others") | _agree(own, people, "people"))
    shown = costs[["form", "calls", "tokens_in", "tokens_out"]].assign(cost=costs.cost + costs.paid_before)
    return pd.concat([shown, pd.DataFrame(rows)], axis=1)


def _agree(own: np.ndarray, other: np.ndarray, name: str) -> dict[str, float]:
    both = np.isfinite(own) & np.isfinite(other)
    share, kappa = (np.mean(own[both] == other[both]), cohen_kappa(own[both], other[both])) if both.any() else (
        np.nan, np.nan)
    return {f"n_{name}": int(both.sum()), f"agree_{name}": float(share), f"kappa_{name}": kappa}


def build_output(row: Row, labels: np.ndarray, theory: Theory, open_items: dict[str, str],
                 extra: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a labelled row in the released shape: the input's fields, then dialogue, labels and what stays open.

    Input fields with a name of `OWN`, and a `dialogue` that reads otherwise, are kept with "input_" before it; all that
    a dialogue may be read from is, where the row would not read as the one that is labelled (under own field names).
    """
    said, given = row.dialogue and row.dialogue.released, row.fields.get("dialogue")
    out = {name: None for name in ("query_source", "response_source") if name not in row.fields}
    out |= {"dialogue": said or given, "value_items": write_labels(theory.items, labels),
            "value_types": items_to_types(labels, theory),
            "not_annotated": [{"item": item, "reason": why} for item, why in open_items.items()]}
    if row.dialogue is not None:
        out["looks_english"] = looks_english(row.dialogue.response)
    out |= ({"problem": row.problem} if row.problem else {}) | (extra or {})
    made = keep_fields(row.fields, out, OWN if given in (None, out["dialogue"]) else (*OWN, "dialogue"))
    if _read_released(made) != said:
        return keep_fields(row.fields, out | {"dialogue": said}, OWN + DIALOGUE_FIELDS)
    return made


def _read_released(fields: dict[str, Any]) -> str | None:
    """Return the dialogue that a row is read back as, None where none can be read."""
    with suppress(RowError):
        return read_dialogue(fields).released


def write_labels(names: Sequence[str], labels: np.ndarray) -> list[str]:
    """Return the labels that are neither 0 nor nan in words: "care: +1"."""
    return [f"{names[i]}: {int(labels[i]):+d}" for i in np.flatnonzero(np.nan_to_num(labels))]


def items_to_types(labels: np.ndarray, theory: Theory, told: np.ndarray | None = None) -> list[str]:
    """Return the dimension labels ("security: -1") that follow from the item labels (I,) of one reply.

    By the sign of the sum, which gives the released labels in 1,666 of 1,718 rows; a nan item leaves its dimension
    without a label; `told` (D,) stands whatever the items say.
    """
    signs = items_to_vectors(labels, theory)
    return write_labels(theory.dimensions, signs if told is None else np.where(np.isnan(told), signs, told))


def write_rows(path: str | Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Write rows as JSONL (.jsonl, or .jsonl.gz), whole or not at all, and return the path."""
    path = check_output(path, ROWS)
    with write_atomic(path) as tmp, (gzip.open if path.suffix == ".gz" else open)(tmp, "wb") as lines:
        lines.writelines(json_line(row).encode() for row in rows)
    return path

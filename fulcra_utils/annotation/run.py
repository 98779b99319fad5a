"""The `annotate` command: a file of replies in, a labelled file, a review queue and a data set with its card out."""

from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Template

from fulcra_utils.annotation import labelling
from fulcra_utils.annotation import review as people
from fulcra_utils.annotation.label_studio import import_label_studio
from fulcra_utils.annotation.questions import FORMS
from fulcra_utils.common.files import check_outputs, lock_output
from fulcra_utils.common.paths import DATA
from fulcra_utils.dataset.labelled import items_to_vectors
from fulcra_utils.dataset.release import write_release
from fulcra_utils.llm.endpoints import AnswerCache, Endpoint, Price, load_price
from fulcra_utils.stats.agreement import measure_agreement
from fulcra_utils.theory.theory import Theory, load_theory

REPORT = Template((DATA / "prompts" / "annotate_report.txt").read_text(encoding="utf-8"), trim_blocks=True)


@dataclass
class AnnotateReport:
    """What a call of `annotate_file` did: the `plan` and what was spent (`costs`, None after a dry run), a row a form.

    `failed` maps the number of a row (from 1) to why it could not be annotated in full; `unused` lists the decisions
    that belong to no row; `forms` compares several; `cache` is the folder of every answer that was paid for.
    """

    plan: pd.DataFrame
    n_rows: int
    price: Price
    cache: Path
    unused: list[str]
    n_decisions: int
    failed: dict[int, str]
    costs: pd.DataFrame | None = None
    forms: pd.DataFrame | None = None
    files: list[Path] = field(default_factory=list)

    def describe(self) -> str:
        """Return the report in a few lines for a terminal."""
        spent, when, what = (self.plan, "to come", "cannot be read") if self.costs is None else (
            self.costs, "for this run", "are not annotated in full")
        failed = [f"row {number}: {why}" for number, why in sorted(self.failed.items())]
        return REPORT.render(report=self, spent=spent, when=when, what=what, failed=failed, some=list_some).rstrip("\n")


def list_some(head: str, lines: Sequence[str]) -> list[str]:
    """Return the first ten lines below their head and how many more there are; nothing without lines."""
    more = [f"  … and {len(lines) - 10} more"] if len(lines) > 10 else []
    return [head, *(f"  {line}" for line in lines[:10]), *more] if lines else []


def annotate_file(input_path: str | Path, output_path: str | Path, theory: Theory | str, endpoint: Endpoint,
                  form: str = "all", cache: str | Path | None = None, budget: float | None = None,
                  dry_run: bool = False, prompt_field: str = "prompt", response_field: str = "response",
                  decisions: str | Path | None = None, review: str | Path | None = None, card: bool = True,
                  prices: str | Path = "", progress: bool = False) -> AnnotateReport:
    """Annotate every reply of a file and write rows in the released shape, one for each input row, in order.

    Input is .jsonl, .jsonl.gz or .parquet, output .jsonl or .jsonl.gz. `form` is "all" (every item at once), "sets",
    "single", or "vote" (all three). Answers are kept in `cache` (default `<input>.cache`): a usable one is never paid
    twice. `budget` counts the dollars of all answers to these questions, those of earlier calls included; once it is
    reached the rest is recorded as not annotated. `dry_run` plans only. `decisions` (CSV, or a Label Studio export in
    .json; default `<output>.decisions.csv` when it exists) are people's, the latest on a cell wins. `review` names a
    CSV file for the queue, `card` also writes a folder for `datasets.load_dataset`. Unusable input, arguments or output
    names raise a ValueError of one line before anything is asked.

    Source: the paper's pipeline as far as it is reported, three prompt forms; prompts and merge rule are ours.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     rows = Path(folder) / "rows.jsonl"
    ...     _ = rows.write_text('{"prompt": "Hi", "response": "Hello."}')
    ...     report = annotate_file(rows, f"{folder}/out.jsonl", "schwartz10", Endpoint(model="m"), "sets", dry_run=True)
    >>> report.plan.requests.item()
    10
    """
    theory, input_path, output_path = load_theory(theory), Path(input_path), Path(output_path)
    if form not in (*FORMS, "vote"):
        raise ValueError(f"no form {form!r}; there are {', '.join(FORMS)} and vote.")
    forms = FORMS if form == "vote" else (form,)
    price = load_price(endpoint.model, prices, endpoint.is_local)
    folder = Path(cache or f"{input_path}.cache")
    release = output_path.with_name(output_path.name.partition(".jsonl")[0] + ".dataset") if card else None
    beside = Path(f"{output_path}.decisions.csv")
    decisions = Path(decisions) if decisions else beside if beside.exists() else None
    files = [release / name for name in ("README.md", "ANNOTATION.md", "data/train.jsonl", "data/train.parquet")
             if release]
    check_outputs([(output_path, labelling.ROWS), *([(review, (".csv",))] if review else []), *(
        (path, ()) for path in (folder / "answers.sqlite", *files))], filter(None, (input_path, decisions, prices)))
    if review:
        people.refuse_decided(review)
    read = import_label_studio if decisions and decisions.suffix == ".json" else people.read_decisions
    decided = read(decisions, theory) if decisions else people.NONE_DECIDED
    rows = labelling.read_rows(input_path, prompt_field, response_field)
    n_decisions, (decided, unused) = len(decided), people.match_decisions(decided, *labelling.identify_rows(rows))
    with nullcontext() if dry_run else lock_output(output_path):
        with closing(AnswerCache(None if dry_run and not folder.exists() else folder)) as store:
            plan = labelling.plan_annotation(rows, theory, endpoint, forms, store, price)
            report = AnnotateReport(plan, len(rows), price, folder, unused, n_decisions, {
                number: row.problem for number, row in enumerate(rows, 1) if row.problem})
            if dry_run:
                return report
            annotation = labelling.annotate_rows(rows, theory, endpoint, store, forms, price, budget, progress)
        made = {"model": endpoint.model, "form": form, "theory": theory.name, "rule": "sign-sum"}
        report.files.append(labelling.write_rows(output_path, _decide(annotation, decided, report, made)))
        if review:
            report.files.append(_write_queue(review, annotation, decided))
        if release:
            report.files.append(write_release(release, output_path, theory, made | {
                "endpoint": endpoint.address, "price": price, "costs": report.costs, "forms": report.forms,
                "agreement": _agreement(annotation)}))
    return report


def try_forms(rows: Sequence[labelling.Row], theory: Theory, model: str, cache: str | Path, price_like: str,
              decided: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Return what the three forms would take (`plan_annotation`), and, where a model is named, what they gave.

    A plan without a model is priced as `price_like`; the second table (`compare_forms`) is None then.
    """
    endpoint = Endpoint(model=model or price_like)
    price = load_price(endpoint.model, is_local=bool(model) and endpoint.is_local)
    with closing(AnswerCache(None)) as nothing:
        plan = labelling.plan_annotation(rows, theory, endpoint, FORMS, nothing, price)
    if not model:
        return plan, None
    with closing(AnswerCache(cache)) as store:
        made = labelling.annotate_rows(rows, theory, endpoint, store, FORMS, price)
    of_items = people.apply_decisions(None, theory.items, made.row_ids, decided)[0]
    return plan, labelling.compare_forms(made.form_labels, made.costs, of_items)


def _decide(annotation: labelling.Annotation, decided: pd.DataFrame, report: AnnotateReport, made: dict) -> list[dict]:
    """Let people's decisions win, note in the report what is left open, and return the labelled rows."""
    theory, several, report.costs, out = annotation.theory, len(annotation.forms) > 1, annotation.costs, []
    of_items, by_item = people.apply_decisions(None, theory.items, annotation.row_ids, decided)
    told, by_dimension = people.apply_decisions(None, theory.dimensions, annotation.row_ids, decided)
    if several:
        report.forms = labelling.compare_forms(annotation.form_labels, annotation.costs, of_items)
    for n, row in enumerate(annotation.rows):
        labels, who = np.where(np.isnan(of_items[n]), annotation.labels[n], of_items[n]), by_item[n] | by_dimension[n]
        open_items = {name: why for name, why in annotation.open[n].items() if name not in who}
        stands = dict(zip(theory.items, labels == annotation.labels[n], strict=True))
        if open_items and not row.problem:
            why = next(iter(open_items.values()))
            report.failed[n + 1] = f"{len(open_items)} of {theory.n_items} items open: {why}"
        extra: dict[str, Any] = {"value_types": labelling.items_to_types(labels, theory, told[n]), "annotator": made,
                                 "reasons": {item: why for item, why in annotation.reasons[n].items() if stands[item]}}
        extra |= {"annotator_thoughts": annotation.thoughts[n]} if annotation.thoughts[n] else {}
        extra |= {"decided_by": who} if who or isinstance(row.fields.get("decided_by"), dict) else {}
        if several:
            margin, given = annotation.margin[n], zip(annotation.forms, annotation.form_labels[:, n], strict=True)
            extra["vote_margin"] = {theory.items[i]: round(float(margin[i]), 3) for i in np.flatnonzero(margin < 1)}
            extra["form_items"] = {form: labelling.write_labels(theory.items, told_of) for form, told_of in given}
        out.append(labelling.build_output(row, labels, theory, open_items, extra))
    return out


def _write_queue(path: str | Path, annotation: labelling.Annotation, decided: pd.DataFrame) -> Path:
    usable = [(n, row_id, row.dialogue.prompt, row.dialogue.response) for n, (row_id, row) in enumerate(zip(
        annotation.row_ids, annotation.rows, strict=True)) if row.dialogue]
    texts = pd.DataFrame(usable, columns=["n", "row_id", "prompt", "response"])
    queue = people.build_queue(annotation.form_labels[:, texts.n], annotation.theory.items, texts.row_id,
                               annotation.forms, decided)
    return people.write_review_csv(path, queue, texts)


def _agreement(annotation: labelling.Annotation) -> pd.DataFrame | None:
    """Return the agreement among the forms per dimension, with intervals over prompts; None with one form."""
    if len(annotation.forms) < 2:
        return None
    prompts = pd.Series([row.dialogue.prompt if row.dialogue else f"row {n}" for n, row in enumerate(annotation.rows)])
    return measure_agreement(items_to_vectors(annotation.form_labels, annotation.theory), annotation.theory.dimensions,
                             pd.factorize(prompts)[0], draws=500)

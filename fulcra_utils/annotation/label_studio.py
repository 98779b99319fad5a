"""Label Studio: a project out, people's decisions back in."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from jinja2 import Template

from fulcra_utils.annotation import review
from fulcra_utils.annotation.review import CHOICES, ReviewError
from fulcra_utils.common.files import write_json, write_text
from fulcra_utils.common.paths import DATA
from fulcra_utils.dataset.release import write_guide
from fulcra_utils.theory.theory import Theory

NOBODY = "Label Studio"     # who decided, where an export does not say


def export_label_studio(folder: str | Path, queue: pd.DataFrame, texts: pd.DataFrame, theory: Theory) -> Path:
    """Write `config.xml` and `tasks.json` for a Label Studio project: one task for each case of a queue.

    `queue` is of `build_queue`, `texts` has row_id, prompt and response; the vote is given as a prediction, and people
    find in `ANNOTATION.md` how to label. Returns the folder. The way back is `import_label_studio`.

    Examples
    --------
    >>> import tempfile
    >>> from fulcra_utils.theory.theory import load_theory
    >>> queue = pd.DataFrame({"row_id": ["r1"], "name": ["care"], "why": ["they disagree"], "vote": [1.0]})
    >>> texts = pd.DataFrame({"row_id": ["r1"], "prompt": ["Hi"], "response": ["Hello."]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = export_label_studio(folder, queue, texts, load_theory("moral_foundations"))
    ...     json.loads((path / "tasks.json").read_text())[0]["data"]["question"]
    'care: Kindness towards those who suffer or are weak; dislike of harm and cruelty.'
    """
    folder = Path(folder)
    form = Template((DATA / "prompts" / "label_studio.xml").read_text(encoding="utf-8"), autoescape=True)
    write_text(folder / "config.xml", form.render(theory=theory, choices=CHOICES) + "\n")
    tasks = []
    for number, case in enumerate(review.add_texts(queue, texts).itertuples(), 1):
        data = {"row_id": case.row_id, "name": case.name, "why": case.why, "prompt": case.prompt,
                "response": case.response, "question": review.describe_name(case.name, theory)}
        choice = {"from_name": "label", "to_name": "response", "type": "choices",
                  "value": {"choices": [CHOICES.get(case.vote)]}}
        voted = {"predictions": [{"model_version": "vote", "result": [choice]}]} if case.vote in CHOICES else {}
        tasks.append({"id": number, "data": data, **voted})
    write_json(folder / "tasks.json", tasks)
    write_guide(folder / "ANNOTATION.md", theory)
    return folder


def import_label_studio(path: str | Path, theory: Theory | Sequence[str]) -> pd.DataFrame:
    """Read decisions from a Label Studio export (JSON): every annotation of every task, with who made it and when.

    Cancelled annotations, predictions, relations and annotations without a choice are no decisions. Where annotations
    of a task are marked as ground truth, only these count; `completions` of old exports are read as well. Returns the
    columns of `DECISION_COLUMNS`, ready for `append_decisions`; `fulcra annotate --decisions` takes the export itself.
    A theory or a list says which names there are. ReviewError names every task that is not of such an export, whose
    choice is none of -1, 0, 1, or whose time is a number, as very old exports have it.

    Examples
    --------
    >>> import tempfile
    >>> from fulcra_utils.theory.theory import load_theory
    >>> result = [{"from_name": "label", "value": {"choices": ["+1"]}}]
    >>> task = {"id": 1, "data": {"row_id": "r1", "name": "care"},
    ...         "annotations": [{"completed_by": {"email": "ann@example.org"}, "result": result}]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = write_json(Path(folder) / "export.json", [task])
    ...     import_label_studio(file, load_theory("moral_foundations"))[["row_id", "label", "who"]].values.tolist()
    [['r1', 1.0, 'ann@example.org']]
    """
    decisions, faults, _ = read_export(path, theory)
    if faults:
        raise ReviewError(f"{path}, {'; '.join(faults[:5])}{'; …' * (len(faults) > 5)}; nothing is imported")
    return decisions[review.DECISION_COLUMNS]


def read_export(path: str | Path, theory: Theory | Sequence[str]) -> tuple[pd.DataFrame, list[str], int]:
    """Return what can be used of an export, what cannot and why, and the number of cancelled annotations.

    Decisions as of `import_label_studio`, with the task's prompt and response beside each.
    """
    try:
        tasks = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ReviewError(f"{path}: no Label Studio export in JSON: {error}") from None
    rows, faults, n_cancelled = [], [], 0
    for number, task in enumerate(tasks if isinstance(tasks, list) else [None], 1):
        try:
            read, odd, n_left = _read_task(task, theory)
            rows, faults, n_cancelled = rows + read, faults + odd, n_cancelled + n_left
        except ReviewError as error:
            faults.append(f"task {task.get('id', number)}: {error}")
        except (TypeError, KeyError, AttributeError, ValueError, OverflowError):
            faults.append(f"task {number}: is no task that was exported from here as JSON")
    return pd.DataFrame(rows, columns=[*review.DECISION_COLUMNS, "prompt", "response"]), faults, n_cancelled


def _read_task(task: dict, theory: Theory | Sequence[str]) -> tuple[list[tuple], list[str], int]:
    data, found, faults, n_cancelled = task["data"], [], [], 0
    row_id, name = data["row_id"], review.find_name(data["name"], theory)
    for annotation in [*(task.get("annotations") or []), *(task.get("completions") or [])]:
        if annotation.get("was_cancelled") or annotation.get("skipped"):
            n_cancelled += 1
            continue
        when, who = annotation.get("updated_at") or annotation.get("created_at"), annotation.get("completed_by")
        who = who.get("email") or who.get("id") if isinstance(who, dict) else who
        who = f"annotator {who}" if isinstance(who, int) else who or NOBODY
        try:
            label, note = _read_result(annotation.get("result") or [])
            if label is not None:
                decision = review.read_decision((row_id, name, label, who, when, note), theory)
                found.append((bool(annotation.get("ground_truth")),
                              (*decision, data.get("prompt"), data.get("response"))))
        except ReviewError as error:
            faults.append(f"task {task.get('id')}: {error}")
    truth = any(is_true for is_true, _ in found)
    counted = [decision for is_true, decision in found if is_true == truth]
    if (n := sum(decision[3] == NOBODY for decision in counted)) > 1:
        raise ReviewError(f"completed_by: {n} annotations do not say whose they are")
    return counted, faults, n_cancelled


def _read_result(result: list[dict]) -> tuple[str | None, str]:
    """Return the one choice of an annotation (None when nothing is chosen) and its note."""
    chosen: dict[str, list[str]] = {}
    for part in result:
        name, value = part.get("from_name"), part.get("value") or {}
        odd = str(value) if value and name == "label" else ""  # no choice, to be refused as a label
        given = value.get("text" if name == "note" else "choices", odd) or []
        chosen.setdefault(name, []).extend([given] if isinstance(given, str) else given)
    note, choices = " ".join(chosen.pop("note", [])), chosen.pop("label", [])
    if len(choices) > 1:
        raise ReviewError(f"label: {', '.join(map(repr, choices))} are chosen at once")
    if not choices and any(chosen.values()):
        raise ReviewError(f"label: is missing, though there is a choice in {', '.join(map(str, chosen))}")
    return next(iter(choices), None), note

"""What people decide: a queue of the cases worth their time, ways out and back in, and decisions that win.

A decision is a row of a CSV file: row_id, name (an item or a dimension), label, who, when, note. The file is the only
store, so decisions survive every new start; of several for one cell the last one counts, and all are kept.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from fulcra_utils.annotation import vote_labels
from fulcra_utils.dataset import SIGNS
from fulcra_utils.files import write_json, write_table, write_text
from fulcra_utils.theory import Theory

if TYPE_CHECKING:
    from ipywidgets import VBox

DECISION_COLUMNS = ["row_id", "name", "label", "who", "when", "note"]


class ReviewError(ValueError):
    """A file of decisions that cannot be used; the message names file, line and field."""


def build_queue(ratings: np.ndarray, names: Sequence[str], row_ids: Sequence[str], annotators: Sequence[str],
                decided: pd.DataFrame | None = None, limit: int | None = None) -> pd.DataFrame:
    """Return the cells that are worth a person's time, the most urgent first.

    Parameters
    ----------
    ratings : array, shape (A, N, K)
        Labels of A annotators (forms, models, people) for N replies and K names; nan = none.
    names : sequence of str, length K
        Items or dimensions.
    row_ids : sequence of str, length N
    annotators : sequence of str, length A
    decided : DataFrame, optional
        Decisions; their cells are left out.
    limit : int, optional
        Most rows returned.

    Returns
    -------
    DataFrame
        row_id, name, why, margin, share (how often the name is supported or opposed at all), vote, and one column an
        annotator. Order: first opposite signs and cells that nobody could label, then other disagreement; within these
        the lower margin, then the rarer name. Cells on which all agree are not listed.

    Source: ours: disagreement, low margin, rare values first.

    Examples
    --------
    >>> ratings = np.array([[[1.0, 0]], [[-1, 0]]])
    >>> build_queue(ratings, ["care", "fairness"], ["r1"], ["a", "b"])[["row_id", "name", "why"]].values.tolist()
    [['r1', 'care', 'opposite signs']]
    """
    vote, margin = vote_labels(ratings)
    has = np.isfinite(ratings)
    low, high = (np.where(has, ratings, fill).min(axis=0) if fill > 0 else np.where(has, ratings, fill).max(axis=0)
                 for fill in (9.0, -9.0))
    nobody, opposite = ~has.any(axis=0), (low < 0) & (high > 0)
    why = np.select([nobody, opposite, has.any(axis=0) & (low != high)],
                    ["nobody could label it", "opposite signs", "they disagree"], "")
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(has, ratings != 0, 0).sum(axis=(0, 1)) / has.sum(axis=(0, 1))
    rows, cols = np.nonzero(why != "")
    table = pd.DataFrame({
        "row_id": np.asarray(row_ids, dtype=object)[rows], "name": np.asarray(names, dtype=object)[cols],
        "why": why[rows, cols], "margin": margin[rows, cols], "share": share[cols], "vote": vote[rows, cols],
        **{name: ratings[a, rows, cols] for a, name in enumerate(annotators)}})
    if decided is not None and len(decided):
        done = set(zip(decided.row_id.astype(str), decided.name, strict=True))
        table = table[[cell not in done for cell in zip(table.row_id.astype(str), table.name, strict=True)]]
    table["urgent"] = table.why == "they disagree"
    table = table.sort_values(["urgent", "margin", "share"], kind="stable", na_position="first").drop(columns="urgent")
    return table.head(limit).reset_index(drop=True)


def read_decisions(path: str | Path, names: Sequence[str] | None = None) -> pd.DataFrame:
    """Read decisions from a CSV file; rows without a label are not decided yet and are left out.

    Parameters
    ----------
    path : str or Path
        With at least row_id, name and label (-1, 0, +1); `who` says whose decision it is.
    names : sequence of str, optional
        The known items or dimensions.

    Returns
    -------
    DataFrame
        The columns of `DECISION_COLUMNS`, label as float, in the order of the file.

    Raises
    ------
    ReviewError
        Naming the line and the field: unknown name, label that is none of -1, 0, 1, nobody named.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "d.csv"
    ...     _ = path.write_text("row_id,name,label,who\\nr1,care,+1,Ann\\nr2,care,,\\n")
    ...     read_decisions(path)[["row_id", "label", "who"]].values.tolist()
    [['r1', 1.0, 'Ann']]
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise ReviewError(f"{path}: decisions cannot be read: {error}") from None
    missing = [name for name in ("row_id", "name", "label") if name not in table]
    if missing:
        raise ReviewError(f"{path}: column {missing[0]} is missing")
    table = table.reindex(columns=DECISION_COLUMNS, fill_value="")
    labels = {text: float(label) for text, label in SIGNS.items()} | {"-1.0": -1.0, "0.0": 0.0, "1.0": 1.0}
    for line, row in enumerate(table.itertuples(), 2):
        label = row.label.strip()
        if label and label not in labels:
            raise ReviewError(f"{path}, line {line}, label: {label!r} is none of -1, 0, 1")
        if label and names is not None and row.name not in names:
            raise ReviewError(f"{path}, line {line}, name: {row.name!r} is no item or dimension")
        if label and not row.who.strip():
            raise ReviewError(f"{path}, line {line}, who: a decision needs the name of who took it")
    table["label"] = table.label.str.strip().map(labels)
    return table[table.label.notna()].reset_index(drop=True)


def append_decisions(path: str | Path, decisions: pd.DataFrame) -> Path:
    """Add decisions to a file, making it when it is new; the file is whole at every moment. Return the path.

    A decision equal to one already there (row, name, label, who) is not added again, so an import can be repeated.

    Examples
    --------
    >>> import tempfile
    >>> one = pd.DataFrame({"row_id": ["r1"], "name": ["care"], "label": [1.0], "who": ["Ann"]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for _ in range(2):
    ...         path = append_decisions(Path(folder) / "d.csv", one)
    ...     len(read_decisions(path))
    1
    """
    path = Path(path)
    new = decisions.reindex(columns=DECISION_COLUMNS, fill_value="")
    old = read_decisions(path) if path.exists() else new.head(0)
    both = pd.concat([old, new], ignore_index=True) if len(old) else new
    both = both.drop_duplicates(["row_id", "name", "label", "who"], keep="first")
    return write_table(path, both.assign(label=both.label.map({-1.0: "-1", 0.0: "0", 1.0: "+1"})))


def apply_decisions(labels: np.ndarray, names: Sequence[str], row_ids: Sequence[str],
                    decisions: pd.DataFrame) -> tuple[np.ndarray, list[dict[str, str]]]:
    """Return labels in which people's decisions have replaced what was there, and who decided what.

    Parameters
    ----------
    labels : array, shape (N, K)
        -1, 0, +1, nan = not annotated.
    names : sequence of str, length K
    row_ids : sequence of str, length N
        Rows of equal text share a row_id, and a decision on it.
    decisions : DataFrame
        From `read_decisions`. Decisions on other rows and names are ignored; the last one on a cell counts.

    Returns
    -------
    labels : array, shape (N, K)
    people : list of dict, length N
        Name → who decided.

    Examples
    --------
    >>> decisions = pd.DataFrame({"row_id": ["r2"], "name": ["care"], "label": [1.0], "who": ["Ann"]})
    >>> apply_decisions(np.array([[np.nan], [0.0]]), ["care"], ["r1", "r2"], decisions)
    (array([[nan],
           [ 1.]]), [{}, {'care': 'Ann'}])
    """
    labels, people = np.array(labels, dtype=float), [{} for _ in row_ids]
    columns = {name: k for k, name in enumerate(names)}
    rows: dict[str, list[int]] = {}
    for n, row_id in enumerate(row_ids):
        rows.setdefault(str(row_id), []).append(n)
    for decision in decisions.itertuples():
        for n in rows.get(str(decision.row_id), ()):
            if decision.name in columns:
                labels[n, columns[decision.name]] = decision.label
                people[n][decision.name] = decision.who
    return labels, people


def decide_dialogues(dialogues: pd.DataFrame, path: str | Path, theory: Theory) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return dialogues in which the decisions of a file have replaced the labels, and those decisions.

    Parameters
    ----------
    dialogues : DataFrame
        row_id and one column per dimension.
    path : str or Path
        Decisions on dimensions, and on items, which change no label here; a file that is not there holds none.
    theory : Theory

    Returns
    -------
    dialogues, decisions : DataFrame

    Raises
    ------
    ReviewError
        When the file holds something that is no decision.

    Examples
    --------
    >>> from fulcra_utils.theory import load_theory
    >>> theory = load_theory("moral_foundations")
    >>> table = pd.DataFrame([["r1", *[0.0] * 5]], columns=["row_id", *theory.dimensions])
    >>> len(decide_dialogues(table, "not/there.csv", theory)[1])
    0
    """
    if not Path(path).exists():
        return dialogues, pd.DataFrame(columns=DECISION_COLUMNS)
    decisions, dims = read_decisions(path, (*theory.dimensions, *theory.items)), list(theory.dimensions)
    labels = apply_decisions(dialogues[dims].to_numpy(dtype=float), dims, dialogues.row_id, decisions)[0]
    return dialogues.assign(**dict(zip(dims, labels.T, strict=True))), decisions


def collect_people(decisions: pd.DataFrame, names: Sequence[str], row_ids: Sequence[str]) -> np.ndarray:
    """Return people's labels as an array (N, K), nan where nobody decided.

    Examples
    --------
    >>> decisions = pd.DataFrame({"row_id": ["r2"], "name": ["care"], "label": [1.0], "who": ["Ann"]})
    >>> collect_people(decisions, ["care"], ["r1", "r2"]).tolist()
    [[nan], [1.0]]
    """
    return apply_decisions(np.full((len(row_ids), len(names)), np.nan), names, row_ids, decisions)[0]


def write_review_csv(path: str | Path, queue: pd.DataFrame, texts: pd.DataFrame) -> Path:
    """Write a queue as CSV for a spreadsheet: the case, its texts, and empty columns label, who and note to fill in.

    The filled-in file is read by `read_decisions`.

    Parameters
    ----------
    path : str or Path
    queue : DataFrame
        From `build_queue`.
    texts : DataFrame
        row_id, prompt, response.

    Examples
    --------
    >>> import tempfile
    >>> queue = pd.DataFrame({"row_id": ["r1"], "name": ["care"], "why": ["they disagree"], "vote": [1.0]})
    >>> texts = pd.DataFrame({"row_id": ["r1"], "prompt": ["Hi"], "response": ["Hello."]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pd.read_csv(write_review_csv(Path(folder) / "q.csv", queue, texts)).columns.tolist()[:4]
    ['row_id', 'name', 'label', 'who']
    """
    table = queue.merge(texts.drop_duplicates("row_id"), on="row_id", how="left").assign(label="", who="", note="")
    first = ["row_id", "name", "label", "who", "note", "prompt", "response", "why", "vote"]
    table = table[[*first, *[c for c in table if c not in first]]]
    guard = table[["prompt", "response"]].astype(str)  # a leading = + - @ would be run as a formula
    return write_table(path, table.assign(**{c: guard[c].where(~guard[c].str.match(r"[=+\-@\t]"), "'" + guard[c])
                                             for c in guard}))


def export_label_studio(folder: str | Path, queue: pd.DataFrame, texts: pd.DataFrame, theory: Theory) -> Path:
    """Write `config.xml` and `tasks.json` for a Label Studio project: one task for each case of a queue.

    Parameters
    ----------
    folder : str or Path
    queue : DataFrame
        From `build_queue`, over items or dimensions of the theory.
    texts : DataFrame
        row_id, prompt, response.
    theory : Theory

    Returns
    -------
    Path
        The folder.

    Source: Label Studio's documented tags (View, Header, Text, Choices, TextArea) and its JSON task format.

    Examples
    --------
    >>> import tempfile
    >>> from fulcra_utils.theory import load_theory
    >>> queue = pd.DataFrame({"row_id": ["r1"], "name": ["care"], "why": ["they disagree"], "vote": [1.0]})
    >>> texts = pd.DataFrame({"row_id": ["r1"], "prompt": ["Hi"], "response": ["Hello."]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = export_label_studio(folder, queue, texts, load_theory("moral_foundations"))
    ...     json.loads((path / "tasks.json").read_text())[0]["data"]["question"]
    'care: Kindness towards those who suffer or are weak; dislike of harm and cruelty.'
    """
    folder = Path(folder)
    write_text(folder / "config.xml", build_label_config(theory))
    known = texts.drop_duplicates("row_id").set_index("row_id")
    tasks = []
    for number, case in enumerate(queue.itertuples(), 1):
        data = {"row_id": str(case.row_id), "name": case.name, "why": case.why,
                "question": describe_name(case.name, theory),
                "prompt": str(known.prompt[case.row_id]), "response": str(known.response[case.row_id])}
        task: dict[str, Any] = {"id": number, "data": data}
        if np.isfinite(case.vote):
            choice = {"from_name": "label", "to_name": "response", "type": "choices",
                      "value": {"choices": [f"{int(case.vote):+d}" if case.vote else "0"]}}
            task["predictions"] = [{"model_version": "vote", "result": [choice]}]
        tasks.append(task)
    write_json(folder / "tasks.json", tasks)
    return folder


def build_label_config(theory: Theory) -> str:
    """Return the labelling configuration of Label Studio, with the theory's words for the labels.

    Examples
    --------
    >>> from fulcra_utils.theory import load_theory
    >>> '<Choice value="+1"' in build_label_config(load_theory("schwartz10"))
    True
    """
    choices = "\n".join(f'    <Choice value="{value}" hint="{html.escape(theory.labels[label], quote=True)}" '
                        f'hotkey="{key}"/>' for value, label, key in (("-1", -1, 1), ("0", 0, 2), ("+1", 1, 3)))
    config = f'''<View>
  <Header value="{html.escape(theory.title, quote=True)}"/>
  <Header value="$question" size="4"/>
  <Text name="prompt" value="$prompt"/>
  <Text name="response" value="$response"/>
  <Choices name="label" toName="response" choice="single" required="true" showInline="true">
{choices}
  </Choices>
  <TextArea name="note" toName="response" rows="2" placeholder="Note (optional)"/>
</View>
'''
    ElementTree.fromstring(config)  # a theory's words can never break it
    return config


def describe_name(name: str, theory: Theory) -> str:
    """Return an item or a dimension with the definition that a person needs to judge it.

    Examples
    --------
    >>> from fulcra_utils.theory import load_theory
    >>> describe_name("be polite", load_theory("schwartz10")).partition(" (")[0]
    'be polite'
    """
    if name in theory.dimensions:
        return f"{name}: {theory.definitions[theory.dimensions.index(name)]}"
    d = int(theory.item_dims[theory.items.index(name)])
    return f"{name} ({theory.dimensions[d]}: {theory.definitions[d]})"


def import_label_studio(path: str | Path, names: Sequence[str]) -> pd.DataFrame:
    """Read decisions from a Label Studio export (JSON): every annotation of every task, with who made it.

    Cancelled annotations and predictions are no decisions.

    Parameters
    ----------
    path : str or Path
    names : sequence of str
        The known items or dimensions.

    Returns
    -------
    DataFrame
        The columns of `DECISION_COLUMNS`.

    Raises
    ------
    ReviewError
        Naming the task, when the file is no such export.

    Examples
    --------
    >>> import tempfile
    >>> result = [{"from_name": "label", "value": {"choices": ["+1"]}}]
    >>> task = {"id": 1, "data": {"row_id": "r1", "name": "care"},
    ...         "annotations": [{"completed_by": {"email": "ann@example.org"}, "result": result}]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = write_json(Path(folder) / "export.json", [task])
    ...     import_label_studio(file, ["care"])[["row_id", "name", "label", "who"]].values.tolist()
    [['r1', 'care', 1.0, 'ann@example.org']]
    """
    try:
        tasks = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReviewError(f"{path}: no Label Studio export: {error}") from None
    rows = []
    for number, task in enumerate(tasks if isinstance(tasks, list) else [None], 1):
        try:
            data = task["data"]
            if data["name"] not in names:
                raise ReviewError(f"{path}, task {number}: {data['name']!r} is no item or dimension")
            for annotation in task.get("annotations", []):
                if not annotation.get("was_cancelled"):
                    rows += _read_annotation(annotation, data)
        except (TypeError, KeyError, AttributeError, IndexError):
            raise ReviewError(f"{path}, task {number}: is no task that was exported from here") from None
    return pd.DataFrame(rows, columns=DECISION_COLUMNS)


def _read_annotation(annotation: dict, data: dict) -> list[tuple]:
    who = annotation.get("completed_by", "")
    who = who.get("email") or who.get("id") if isinstance(who, dict) else who
    found = {result["from_name"]: result["value"] for result in annotation["result"]}
    if "label" not in found:
        return []
    label = float(found["label"]["choices"][0])
    note = " ".join(found.get("note", {}).get("text", []))
    when = annotation.get("updated_at") or annotation.get("created_at") or ""
    who = f"annotator {who}" if isinstance(who, int) else str(who)
    return [(str(data["row_id"]), data["name"], label, who, when, note)]


def review_widget(queue: pd.DataFrame, texts: pd.DataFrame, theory: Theory, decisions: str | Path,
                  who: str = "") -> VBox:
    """Return a small form for a notebook that shows one case after the other and stores each decision at once.

    Parameters
    ----------
    queue : DataFrame
        From `build_queue`.
    texts : DataFrame
        row_id, prompt, response.
    theory : Theory
    decisions : path
        The CSV file that decisions are added to.
    who : str
        Name of the person; can be typed in. Without a name nothing is stored.

    Returns
    -------
    ipywidgets.VBox
    """
    import ipywidgets as widgets

    known, state = texts.drop_duplicates("row_id").set_index("row_id"), {"at": 0}
    name = widgets.Text(value=who, description="Your name")
    case, progress = widgets.HTML(), widgets.Label()
    buttons = [widgets.Button(description=f"{label:+d} {theory.labels[label]}" if label else f"0 {theory.labels[0]}")
               for label in (-1, 0, 1)]
    skip = widgets.Button(description="skip")

    def show() -> None:
        over = state["at"] >= len(queue)
        for button in (*buttons, skip):
            button.disabled = over
        progress.value = f"{state['at']} of {len(queue)} cases seen"
        case.value = "Nothing is left to decide." if over else _show_case(queue.iloc[state["at"]], known, theory)

    def move(_: Any) -> None:
        state["at"] += 1
        show()

    def decide(label: int) -> Callable[[Any], None]:
        def store(button: Any) -> None:
            if not name.value.strip():
                progress.value = "Type your name first: a decision needs one."
                return
            row = queue.iloc[state["at"]]
            append_decisions(decisions, pd.DataFrame([{
                "row_id": str(row.row_id), "name": row["name"], "label": float(label), "who": name.value.strip(),
                "when": datetime.now(UTC).isoformat(timespec="seconds"), "note": ""}]))
            move(button)
        return store

    for button, label in zip(buttons, (-1, 0, 1), strict=True):
        button.on_click(decide(label))
    skip.on_click(move)
    show()
    return widgets.VBox([name, case, widgets.HBox([*buttons, skip]), progress])


def _show_case(row: pd.Series, texts: pd.DataFrame, theory: Theory) -> str:
    """Return one case as HTML; the texts are escaped, whatever they hold."""
    prompt, response = (html.escape(str(texts[name][row.row_id])) for name in ("prompt", "response"))
    return (f"<p><b>{html.escape(describe_name(row['name'], theory))}</b><br><i>{html.escape(row.why)}</i></p>"
            f"<p><b>Prompt</b><br>{prompt}</p><p><b>Reply</b><br>"
            f"<span style='white-space: pre-wrap'>{response}</span></p>")

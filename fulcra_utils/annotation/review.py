"""What people decide: a queue of the cases worth their time, ways out and back in, and decisions that win.

A decision is a row of a CSV file: row_id, name (an item or a dimension), label, who, when, note. The file is the only
store, so decisions survive every new start. Of several for one cell the latest counts, whoever took it (no vote), and
all are kept: by `when`; one without a time comes after all that stand above it.
"""

import csv
import html
import io
import re
import warnings
from collections.abc import Iterable, Sequence, Set
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fulcra_utils.annotation.questions import vote_labels
from fulcra_utils.common.files import lock_output, write_table
from fulcra_utils.dataset.labelled import SIGNS
from fulcra_utils.theory.theory import Theory, normalise

DECISION_COLUMNS = ["row_id", "name", "label", "who", "when", "note"]
NONE_DECIDED = pd.DataFrame(columns=DECISION_COLUMNS)
CHOICES = {-1.0: "-1", 0.0: "0", 1.0: "+1"}
# a spreadsheet would run this as a formula or write it anew as another number: 00123, 12345678901234567, 1e5, 1-2
_NUMBER = re.compile(r"[\d.][\d.,eE+\-/: ]*$")
_MANGLED = r"(?=['=+\-@\t\r]|(?!(0|[1-9]\d{0,14})$)[\d.][\d.,eE+\-/: ]*$)"
_guard, _unguard = partial(re.sub, rf"\A{_MANGLED}", "'"), partial(re.sub, rf"\A'{_MANGLED}", "")  # by an apostrophe


class ReviewError(ValueError):
    """A file of decisions that cannot be used; the message names file, line and field."""


def build_queue(ratings: np.ndarray, names: Sequence[str], row_ids: Sequence[str], annotators: Sequence[str],
                decided: pd.DataFrame = NONE_DECIDED) -> pd.DataFrame:
    """Return the cells that are worth a person's time, the most urgent first.

    `ratings` (A, N, K) are the labels of A annotators (forms, models, people) for N replies (`row_ids`) and K `names`
    (items or dimensions), nan = none; cells that are `decided` already are left out. One row a cell: row_id, name, why,
    margin of the vote, share (how often the name is supported or opposed at all), vote, and one column an annotator.
    First come opposite signs and cells that nobody could label, then other disagreement; within these the lower margin,
    then the rarer name. Cells on which all agree are not listed.

    Examples
    --------
    >>> ratings = np.array([[[1.0, 0]], [[-1, 0]]])
    >>> build_queue(ratings, ["care", "fairness"], ["r1"], ["a", "b"])[["row_id", "name", "why"]].values.tolist()
    [['r1', 'care', 'opposite signs']]
    """
    vote, margin = vote_labels(ratings)
    has = np.isfinite(ratings)
    low, high = np.where(has, ratings, 9.0).min(axis=0), np.where(has, ratings, -9.0).max(axis=0)
    why = np.select([~has.any(axis=0), (low < 0) & (high > 0), low != high],
                    ["nobody could label it", "opposite signs", "they disagree"], "")
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(has, ratings != 0, 0).sum(axis=(0, 1)) / has.sum(axis=(0, 1))
    rows, cols = np.nonzero(why != "")
    table = pd.DataFrame({
        "row_id": np.asarray(row_ids, dtype=object)[rows], "name": np.asarray(names, dtype=object)[cols],
        "why": why[rows, cols], "margin": margin[rows, cols], "share": share[cols], "vote": vote[rows, cols],
        **{name: ratings[a, rows, cols] for a, name in enumerate(annotators)}})
    cells, done = ([*zip(cases.row_id.astype(str), cases["name"], strict=True)] for cases in (table, decided))
    table = table[~pd.Series(cells, dtype=object).isin(done)].assign(urgent=lambda cases: cases.why == "they disagree")
    table = table.sort_values(["urgent", "margin", "share"], kind="stable", na_position="first", ignore_index=True)
    return table.drop(columns="urgent")


def read_decisions(path: str | Path, theory: Theory | Sequence[str] | None = None) -> pd.DataFrame:
    """Read people's decisions from a CSV file; rows without a label are not decided yet and are left out.

    The file has at least row_id, name, label (-1, 0, +1) and who, in any order, separated by comma, semicolon or tab,
    in UTF-8 or a spreadsheet's UTF-16. With a theory, or a list of names, a name must be one of them; a theory's
    aliases are read as what they stand for, and case does not matter. Returns the columns of `DECISION_COLUMNS`, label
    as float, in the order of the file. ReviewError names line and field: an unknown name, a label that is none of -1,
    0, 1, nobody named, no ISO time.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "d.csv"
    ...     _ = path.write_text("row_id,name,label,who\\nr1,care,+1,Ann\\nr2,care,,\\n")
    ...     read_decisions(path)[["row_id", "label", "who"]].values.tolist()
    [['r1', 1.0, 'Ann']]
    """
    return _find_decided(_read_sheet(path), path, theory)


def _read_sheet(path: str | Path) -> pd.DataFrame:
    """Return a CSV file as texts, indexed by the line in which each record starts; empty lines are left out."""
    records, line = {}, 1
    try:
        raw = Path(path).read_bytes()
        text = raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        csv.field_size_limit(2**31 - 1)
        separator = max(",;\t", key=text.lstrip().partition("\n")[0].count)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        for record in reader:
            if any(cell.strip() for cell in record):
                records[line] = record
            line = reader.line_num + 1
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ReviewError(f"{path}, line {line}: decisions cannot be read as CSV (UTF-8 or UTF-16): {error}") from None
    first, header = next(iter(records.items()), (1, []))
    plain = [re.sub(r"\W+", "_", name.strip().lower()) for name in header]
    for name in DECISION_COLUMNS:
        if plain.count(name) > 1 or (name in DECISION_COLUMNS[:3] and name not in plain):
            raise ReviewError(f"{path}, line {first}: column {name} {'stands twice' if name in plain else 'is missing'}"
                              f" (columns are apart by comma, semicolon or tab)")
    names = [name if name in DECISION_COLUMNS else header[i] if header.index(header[i]) == i else f"{header[i]}.{i}"
             for i, name in enumerate(plain)]
    for number, record in records.items():
        if any(record[len(names):]):
            raise ReviewError(f"{path}, line {number}: has more fields than columns; quote texts with a {separator!r}")
        record[:] = (record + [""] * len(names))[:len(names)]
    table = pd.DataFrame.from_dict(records, "index", columns=names, dtype=object).drop(index=first)
    table = table.reindex(columns=[*names, *(c for c in DECISION_COLUMNS if c not in names)], fill_value="")
    return table.assign(**{c: table[c].map(_unguard) for c in DECISION_COLUMNS})


def _find_decided(table: pd.DataFrame, path: str | Path, theory: Theory | Sequence[str] | None = None) -> pd.DataFrame:
    found = []
    for line, cells in zip(table.index, table[DECISION_COLUMNS].to_numpy(), strict=True):
        if cells[2].strip():
            try:
                found.append(read_decision(cells, theory))
            except ReviewError as error:
                raise ReviewError(f"{path}, line {line}, {error}") from None
    return pd.DataFrame(found, columns=DECISION_COLUMNS).astype({"label": float})


def read_decision(cells: Iterable[Any], theory: Theory | Sequence[str] | None = None) -> tuple:
    """Return the cells of one decision as they are meant; ReviewError says which cell is no use."""
    row_id, name, label, who, when, note = ("" if value is None or value != value else str(value) for value in cells)
    sign = re.sub(r"[.,]0*$", "", label.strip()).replace("\N{EN DASH}", "-")
    if sign not in SIGNS:
        raise ReviewError(f"label: {label.strip()!r} is none of -1, 0, 1")
    if not row_id.strip():
        raise ReviewError("row_id: a decision needs the row it is about")
    if not who.strip():
        raise ReviewError("who: a decision needs the name of who took it")
    try:
        when and (datetime.fromisoformat(when.strip()), pd.to_datetime([when.strip()], format="ISO8601").as_unit("ns"))
    except ValueError:
        raise ReviewError(f"when: {when!r} is no time like 2025-05-02T10:00:00Z") from None
    return row_id, find_name(name, theory) if theory else name, float(SIGNS[sign]), who.strip(), when.strip(), note


def find_name(name: str, theory: Theory | Sequence[str]) -> str:
    """Return the one item or dimension of a theory that is meant, or the name itself, where it is one of some names."""
    if not isinstance(theory, Theory):
        if name not in theory:
            raise ReviewError(f"name: {name!r} is none of {', '.join(map(repr, theory))}")
        return name
    places = ((theory.items, theory.find_item(name)), (theory.dimensions, theory.find_dimension(name)))
    found = [own[place] for own, place in places if place is not None]
    if len(found) == 1 or found and theory.items_of(found[1]) == (found[0],):
        return found[-1]  # of both, the only item of its dimension: the same label
    if found:
        raise ReviewError(f"name: {name!r} is both an item and a dimension; they are {found[0]!r}, {found[1]!r}")
    near = get_close_matches(normalise(name), [*theory.dimension_names, *theory.item_names], 3, 0)
    raise ReviewError(f"name: {name!r} is no item or dimension; the nearest are {', '.join(map(repr, near))}")


def _order_decisions(decisions: pd.DataFrame) -> np.ndarray:
    """Return the places of decisions in the order in which they count."""
    cell = [decisions.row_id.astype(str).to_numpy(), decisions["name"].to_numpy()]
    times = pd.Series(pd.to_datetime(decisions["when"].to_numpy(dtype=object), utc=True, format="ISO8601")
                      if "when" in decisions else pd.NaT, index=range(len(decisions)), dtype="datetime64[ns, UTC]")
    times = times.fillna(times.groupby(cell).cummax().groupby(cell).ffill())
    return times.sort_values(kind="stable", na_position="first").index.to_numpy()


def append_decisions(path: str | Path, decisions: pd.DataFrame) -> Path:
    """Add decisions to a file, making it when it is new; the file is whole at every moment. Return the path.

    A decision equal to the one before it on its cell (label, who, when) is not added again, so an import can be
    repeated. What else stands in the file, undecided rows and further columns, is kept. ReviewError, and nothing is
    written: a label that is none of -1, 0, 1, no row, nobody named.

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
    path, cells = Path(path), decisions.reindex(columns=DECISION_COLUMNS).astype(object).to_numpy()
    new = pd.DataFrame([read_decision(row) for row in cells], columns=DECISION_COLUMNS)
    with lock_output(path, wait=60):     # of two people who decide at the same time none is lost
        return _append(path, new)


def _append(path: Path, new: pd.DataFrame) -> Path:
    sheet = _read_sheet(path) if path.exists() else new.head(0)
    both = pd.concat([_find_decided(sheet, path), new.astype({"label": float})], ignore_index=True)
    both = both.iloc[_order_decisions(both)]
    told = both[["label", "who", "when"]]
    again = (told == told.groupby([both.row_id, both["name"]]).shift()).all(axis=1).sort_index().to_numpy()
    new = new[~again[len(both) - len(new):]].replace({"label": CHOICES})
    sheet = pd.concat([sheet.astype(object), new.astype(object)], ignore_index=True).fillna("")
    return write_table(path, sheet.assign(**{c: sheet[c].map(_guard) for c in ("row_id", "who", "note")}))


def apply_decisions(labels: np.ndarray | None, names: Sequence[str], row_ids: Sequence[str],
                    decisions: pd.DataFrame) -> tuple[np.ndarray, list[dict[str, str]]]:
    """Return labels (N, K) in which people's decisions have replaced what was there, and who decided what in each row.

    The latest decision on a cell counts, whoever took it; rows of one row_id share it.
    """
    labels = np.full((len(row_ids), len(names)), np.nan) if labels is None else np.array(labels, dtype=float)
    columns, people = {normalise(name): k for k, name in enumerate(names)}, [{} for _ in row_ids]
    ids = pd.Series(list(map(str, row_ids)), dtype=object)
    rows = ids.groupby(ids).groups
    for decision in decisions.iloc[_order_decisions(decisions)].itertuples():
        k = columns.get(normalise(decision.name))
        for n in rows.get(str(decision.row_id), ()) if k is not None else ():
            labels[n, k] = decision.label
            people[n][names[k]] = decision.who
    return labels, people


def spread_decisions(decisions: pd.DataFrame) -> pd.DataFrame:
    """Return decisions with one column a person, indexed by row_id and name; of one's several on a cell the latest.

    Examples
    --------
    >>> told = [("r1", "care", 1, "Ann", "", ""), ("r1", "care", 0, "Ben", "", "")]
    >>> spread_decisions(pd.DataFrame(told, columns=DECISION_COLUMNS)).loc[("r1", "care")].to_dict()
    {'Ann': 1, 'Ben': 0}
    """
    last = decisions.iloc[_order_decisions(decisions)].drop_duplicates(["row_id", "name", "who"], keep="last")
    return last.pivot(index=["row_id", "name"], columns="who", values="label")


def match_decisions(decisions: pd.DataFrame, row_ids: Iterable[str],
                    shared: Set[str] = frozenset()) -> tuple[pd.DataFrame, list[str]]:
    """Return the decisions that surely belong to a row, and for each of the others why it does not.

    `shared` ids stand for rows of different texts, so that a decision by such an id is on none of them.
    """
    ids = decisions.row_id.astype(str)
    found, lost = ids.isin(set(map(str, row_ids)) - shared), []
    for row_id, name in zip(ids[~found], decisions["name"][~found], strict=True):
        why = ("rows of different texts have this id; the review queue names each by its text" if row_id in shared else
               "no row has this id" + "; a spreadsheet may have changed it" * bool(_NUMBER.match(row_id)))
        lost.append(f"row_id {row_id!r} ({name}): {why}")
    return decisions[found].reset_index(drop=True), lost


def decide_dialogues(dialogues: pd.DataFrame, path: str | Path, theory: Theory) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return dialogues in which a file's decisions on dimensions have replaced the labels, and those decisions.

    A file that is not there holds none; decisions that belong to no row, or on an item, are named in a warning and left
    out.
    """
    if not Path(path).exists():
        return dialogues, NONE_DECIDED
    (decisions, lost), dims = match_decisions(read_decisions(path, theory), dialogues.row_id), list(theory.dimensions)
    is_item = ~decisions["name"].isin(dims)
    lost += [f"row_id {row.row_id!r} ({row.name}): an item; only dimensions are decided here"
             for row in decisions[is_item].itertuples(index=False)]
    decisions = decisions[~is_item].reset_index(drop=True)
    if lost:
        warnings.warn(f"{path}: {len(lost)} decisions are not used: {'; '.join(lost[:5])}", stacklevel=2)
    labels = apply_decisions(dialogues[dims].to_numpy(dtype=float), dims, dialogues.row_id, decisions)[0]
    return dialogues.assign(**dict(zip(dims, labels.T, strict=True))), decisions


def write_review_csv(path: str | Path, queue: pd.DataFrame, texts: pd.DataFrame) -> Path:
    """Write a queue as CSV for a spreadsheet: the case, its texts, and empty columns label, who and note to fill in.

    `queue` is of `build_queue`, `texts` has row_id, prompt and response. The filled-in file is read by
    `read_decisions`, and never replaced by another queue (ReviewError).

    Examples
    --------
    >>> import tempfile
    >>> queue = pd.DataFrame({"row_id": ["r1"], "name": ["care"], "why": ["they disagree"], "vote": [1.0]})
    >>> texts = pd.DataFrame({"row_id": ["r1"], "prompt": ["Hi"], "response": ["Hello."]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pd.read_csv(write_review_csv(Path(folder) / "q.csv", queue, texts)).columns.tolist()[:4]
    ['row_id', 'name', 'label', 'who']
    """
    refuse_decided(path)
    table = add_texts(queue, texts).assign(label="", who="", note="")
    first = ["row_id", "name", "label", "who", "note", "prompt", "response", "why", "vote"]
    table = table[[*first, *[c for c in table if c not in first]]]
    return write_table(path, table.assign(**{c: table[c].fillna("").map(_guard)
                                             for c in ("row_id", "prompt", "response")}))


def refuse_decided(path: str | Path) -> None:
    """Raise ReviewError when a file holds decisions, which a queue written there would replace."""
    if Path(path).is_file() and (n := len(read_decisions(path))):
        raise ReviewError(f"{path}: holds {n} decisions, which the queue would replace; move it or name another file")


def add_texts(queue: pd.DataFrame, texts: pd.DataFrame) -> pd.DataFrame:
    """Return the queue with the prompt and the response of each row_id."""
    known = texts[["row_id", "prompt", "response"]].astype(str).drop_duplicates()
    if known.row_id.duplicated().any():
        raise ReviewError(f"row_id {known.row_id[known.row_id.duplicated()].iloc[0]!r} stands for different texts")
    return queue.astype({"row_id": str}).join(known.set_index("row_id"), on="row_id")


def describe_name(name: str, theory: Theory) -> str:
    """Return an item or a dimension with the definition that a person needs to judge it."""
    if name in theory.dimensions:
        return f"{name}: {theory.definitions[theory.dimensions.index(name)]}"
    d = int(theory.item_dims[theory.items.index(name)])
    return f"{name} ({theory.dimensions[d]}: {theory.definitions[d]})"


def review_widget(queue: pd.DataFrame, texts: pd.DataFrame, theory: Theory, decisions: str | Path,
                  who: str = "") -> Any:
    """Return a form for a notebook (ipywidgets) that shows one case after the other and stores each decision.

    Queue and texts as in `write_review_csv`; every click is added to the CSV file `decisions` at once, under the name
    typed in (`who`); without a name nothing is stored.

    Examples
    --------
    >>> from fulcra_utils.theory.theory import load_theory
    >>> queue = pd.DataFrame({"row_id": ["r1"], "name": ["care"], "why": ["they disagree"], "vote": [1.0]})
    >>> texts = pd.DataFrame({"row_id": ["r1"], "prompt": ["Hi"], "response": ["Hello."]})
    >>> form = review_widget(queue, texts, load_theory("moral_foundations"), "decisions.csv", who="Ann")
    >>> form.children[-1].value
    '0 of 1 cases seen'
    """
    import ipywidgets as widgets

    cases, state = add_texts(queue, texts), {"at": 0}
    name = widgets.Text(value=who, description="Your name")
    case, progress = widgets.HTML(), widgets.Label()
    buttons = [widgets.Button(description=f"{text} {theory.labels[label]}") for label, text in CHOICES.items()]
    skip = widgets.Button(description="skip")

    def show(step: int) -> None:
        state["at"] += step
        over = state["at"] >= len(queue)
        for button in (*buttons, skip):
            button.disabled = over
        progress.value = f"{state['at']} of {len(queue)} cases seen"
        case.value = "Nothing is left to decide." if over else _show_case(cases.iloc[state["at"]], theory)

    def decide(label: float, _: Any) -> None:
        if not name.value.strip():
            progress.value = "Type your name first: a decision needs one."
            return
        append_decisions(decisions, cases.iloc[[state["at"]]][["row_id", "name"]].assign(
            label=label, who=name.value, when=datetime.now(UTC).isoformat()))
        show(1)

    for button, label in zip(buttons, CHOICES, strict=True):
        button.on_click(partial(decide, label))
    skip.on_click(lambda _: show(1))
    show(0)
    return widgets.VBox([name, case, widgets.HBox([*buttons, skip]), progress])


def _show_case(case: pd.Series, theory: Theory) -> str:
    """Return one case as HTML; the texts are escaped, whatever they hold."""
    question, why, prompt, response = map(html.escape, (describe_name(case["name"], theory), case.why, case.prompt,
                                                        case.response))
    return (f"<p><b>{question}</b><br><i>{why}</i></p><p><b>Prompt</b><br>{prompt}</p><p><b>Reply</b><br>"
            f"<span style='white-space: pre-wrap'>{response}</span></p>")

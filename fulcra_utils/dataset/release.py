"""A labelled file as a data set: a folder that `datasets.load_dataset` opens, with a data card written from the run."""

import gzip
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jinja2 import Template

from fulcra_utils.common.files import write_atomic, write_table, write_text
from fulcra_utils.common.paths import DATA
from fulcra_utils.dataset.contrasts import find_example
from fulcra_utils.dataset.labelled import ValueDataset, read_dataset, read_list
from fulcra_utils.dataset.rows import RowError, iter_rows
from fulcra_utils.dataset.texts import clean_text, is_refusal
from fulcra_utils.theory.theory import Theory


def write_release(folder: str | Path, labelled: str | Path, theory: Theory, made: dict[str, Any] | None = None,
                  licences: dict[str, str] | None = None, title: str = "Replies annotated with values",
                  annotators: pd.DataFrame | None = None) -> Path:
    """Write a labelled file as a data set folder: `data/train.jsonl`, `data/train.parquet`, README.md (the card) and
    ANNOTATION.md (how people label under this theory).

    `labelled` holds rows in the released shape, as `annotate` writes them; every number in the card is counted from
    them. `made` says how the labels were made (model, endpoint, form, rule, costs, price, forms; agreement,
    annotators), `licences` maps a source to its licence. `annotators`, indexed by row_id and name, holds the labels of
    each annotator in a column and goes to `data/annotators.csv`, from which anybody can measure agreement anew.
    `datasets.load_dataset` opens the folder. DatasetError when the file cannot be opened.

    Examples
    --------
    >>> import tempfile
    >>> from fulcra_utils.common.paths import DATA
    >>> from fulcra_utils.theory.theory import load_theory
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = write_release(folder, DATA / "sample" / "schwartz10.jsonl", load_theory("schwartz10"))
    ...     print((Path(folder) / "README.md").read_text().splitlines()[10])
    # Replies annotated with values
    """
    folder, data = Path(folder), read_dataset(labelled, theory)
    with ((gzip.open if str(labelled).endswith(".gz") else open)(labelled, "rb") as rows,
          write_atomic(folder / "data" / "train.jsonl") as tmp):
        tmp.write_bytes(rows.read())
    with write_atomic(folder / "data" / "train.parquet") as tmp:
        pq.write_table(_tabulate(data, theory, labelled), tmp)
    if annotators is not None:
        write_table(folder / "data" / "annotators.csv", annotators.dropna(how="all").astype("Int8").reset_index())
    write_guide(folder / "ANNOTATION.md", theory)
    write_text(folder / "README.md", _describe(data, theory, title, made or {}, licences or {}, annotators))
    return folder


def write_guide(path: str | Path, theory: Theory) -> Path:
    """Write how people label replies under a theory: its values and items, the labels, examples, what to do in doubt.

    Where the project has contrast pairs for a value with this definition, the first complete one is its example.
    """
    form = Template((DATA / "annotation_guide.md").read_text(encoding="utf-8"), trim_blocks=True)
    examples = [find_example(*said) for said in zip(theory.dimensions, theory.definitions, strict=True)]
    return write_text(path, form.render(theory=theory, examples=examples) + "\n")


def _describe(data: ValueDataset, theory: Theory, title: str, made: dict[str, Any], licences: dict[str, str],
              annotators: pd.DataFrame | None) -> str:
    """Return the data card in Markdown: what it is, how it was made, counts, agreement, licences, limits."""
    card = (DATA / "dataset_card.md").read_text(encoding="utf-8")
    counts = {"dimension": theory.dimensions, **{word: (data.vectors == value).sum(axis=0) for word, value in (
        ("supported", 1), ("no connection", 0), ("opposed", -1))}, "not annotated": np.isnan(data.vectors).sum(axis=0)}
    sources = [(what, Counter("not named" if pd.isna(name) else str(name) for name in data.table[column]).most_common())
               for column, what in (("query_source", "prompts"), ("response_source", "replies"))]
    return Template(card, trim_blocks=True, keep_trailing_newline=True).render(
        data=data, theory=theory, title=title, made=made, annotators=annotators, licences=licences, sources=sources,
        counts=pd.DataFrame(counts), n_prompts=data.table.prompt.nunique(),
        n_open=int(np.isnan(data.vectors).any(axis=1).sum()), n_refused=int(is_refusal(data.table.response).sum()))


def _tabulate(data: ValueDataset, theory: Theory, labelled: str | Path) -> pa.Table:
    """Return the rows with their labels, as `read_dataset` reads them from the labelled file, and what they come to."""
    texts = {name: pa.array(data.table[name].astype(object), pa.string(), from_pandas=True)
             for name in ("prompt", "response", "query_source", "response_source")}
    kept, text = set(data.table.line), pa.string()
    rows = [row for line, row, _ in iter_rows(labelled) if line in kept]
    labels = {name: pa.array([_list_texts(row, name) or [] for row in rows], pa.list_(text))
              for name in ("value_items", "value_types")}
    vectors = [pa.array(column, from_pandas=True) for column in data.vectors.T]  # nan becomes null
    return pa.table({
        **texts, "safety_issues": pa.array(data.table.safety_issues.tolist(), pa.list_(text)), **labels,
        "value_vector": pa.StructArray.from_arrays(vectors, theory.dimensions),
        "not_annotated": pa.array(map(_list_open, rows), pa.list_(pa.struct({"item": text, "reason": text}))),
        "decided_by": pa.array([_name_people(row, theory) for row in rows],
                               pa.struct(dict.fromkeys(theory.dimensions, text))),
        "is_refusal": is_refusal(data.table.response)})


def _list_texts(row: dict[str, Any], name: str) -> list[str] | None:
    try:
        found = read_list(row, name)
    except RowError:
        found = [row[name]]     # no list: no label here either
    return found and [clean_text(str(entry)) for entry in found]


def _list_open(row: dict[str, Any]) -> list[dict[str, str]] | None:
    """Return what a row leaves open, None where it does not say."""
    if (value := row.get("not_annotated")) is None:
        return None
    entries = [entry if isinstance(entry, dict) else {"item": entry}
               for entry in (value if isinstance(value, list) else [value])]
    return [{name: clean_text(str(entry.get(name))) for name in ("item", "reason")} for entry in entries]


def _name_people(row: dict[str, Any], theory: Theory) -> dict[str, str] | None:
    told = row.get("decided_by")
    return {name: clean_text(str(told[name])) for name in theory.dimensions if told.get(name)} if isinstance(
        told, dict) else None

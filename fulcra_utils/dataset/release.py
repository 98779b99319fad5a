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
from fulcra_utils.dataset.labelled import ValueDataset, read_dataset
from fulcra_utils.dataset.texts import is_refusal
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
        pq.write_table(_tabulate(data, theory), tmp)
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


def _tabulate(data: ValueDataset, theory: Theory) -> pa.Table:
    texts = {name: pa.array(data.table[name].astype(object), pa.string(), from_pandas=True)
             for name in ("prompt", "response", "query_source", "response_source")}
    items = [[f"{theory.items[i]}: {int(row[i]):+d}" for i in np.flatnonzero(row)] for row in data.item_labels]
    vectors = [pa.array(column, from_pandas=True) for column in data.vectors.T]  # nan becomes null
    lists = pa.list_(pa.string())
    return pa.table({
        **texts, "safety_issues": pa.array(data.table.safety_issues.tolist(), lists),
        "value_items": pa.array(items, lists), "value_vector": pa.StructArray.from_arrays(vectors, theory.dimensions),
        "is_refusal": is_refusal(data.table.response)})

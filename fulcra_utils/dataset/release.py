"""A labelled file as a data set: a folder that `datasets.load_dataset` opens, with a data card written from the run."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fulcra_utils.common.files import write_atomic, write_text
from fulcra_utils.dataset.labelled import ValueDataset, read_dataset
from fulcra_utils.dataset.texts import is_refusal
from fulcra_utils.theory.theory import Theory


def write_release(folder: str | Path, labelled: str | Path, theory: Theory, made: dict[str, Any] | None = None,
                  licences: dict[str, str] | None = None, title: str = "Replies annotated with values") -> Path:
    """Write a labelled file as a data set folder: `data/train.jsonl`, `data/train.parquet` and the card README.md.

    `labelled` holds rows in the released shape, as `annotate` writes them; every number in the card is counted from
    them. `made` says how the labels were made (model, endpoint, form, rule, costs, price, forms; agreement,
    annotators), `licences` maps a source to its licence. `datasets.load_dataset` opens the folder. DatasetError when
    the file cannot be opened.

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
    folder = Path(folder)
    data = read_dataset(labelled, theory)
    _copy(labelled, folder / "data" / "train.jsonl")
    with write_atomic(folder / "data" / "train.parquet") as tmp:
        pq.write_table(_tabulate(data, theory), tmp)
    write_text(folder / "README.md", describe_release(data, theory, made or {}, licences or {}, title))
    return folder


def describe_release(data: ValueDataset, theory: Theory, made: dict[str, Any], licences: dict[str, str],
                     title: str) -> str:
    """Return the data card in Markdown: what it is, how it was made, counts, agreement, licences, limits."""
    n_prompts = data.table.prompt.nunique()
    parts = [
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train.parquet\n"
        "tags:\n- human-values\n---",
        f"# {title}",
        f"{len(data.table)} rows: {n_prompts} different prompt{'s' * (n_prompts != 1)}, each row a reply with "
        f"its value items and value vector under *{theory.title}* ({theory.n_dims} dimensions, {theory.n_items} "
        f"items).",
        "## How it was made", _describe_making(made),
        "## Sources and models", _describe_sources(data.table),
        "## Counts", _count_cells(data, theory),
        "## Agreement", _describe_agreement(made),
        "## Licences", "\n".join(f"- {name}: {text}" for name, text in licences.items())
        or "No licence was given for the prompts and replies; they keep the one they came with.",
        "## Limits", _describe_limits(data),
        "## Columns", _COLUMNS,
        f"Theory: {theory.citation}",
    ]
    return "\n\n".join(parts) + "\n"


_COLUMNS = """- `prompt`, `response`: the dialogue; `query_source`, `response_source`: where they come from
- `value_items`, `not_annotated` (in `train.jsonl`): labels and what could not be annotated, as released rows have them
- `value_vector` (in `train.parquet`), a number a dimension: -1 opposed, 0 no connection, 1 supported, null open
- `is_refusal`: a simple flag for replies that decline"""


def _copy(source: str | Path, target: Path) -> None:
    import gzip

    with (gzip.open if str(source).endswith(".gz") else open)(source, "rb") as rows, write_atomic(target) as tmp:
        tmp.write_bytes(rows.read())


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


def _describe_making(made: dict[str, Any]) -> str:
    if "model" not in made:
        return "The labels were read from files that hold them; see the sources."
    lines = [f"- labels by the model `{made['model']}` at {made['endpoint']}, form of the questions: {made['form']}",
             f"- from items to dimensions by the {made['rule']} rule"]
    costs = made.get("costs")
    if costs is not None:
        tokens = int(costs.tokens_in.sum() + costs.tokens_out.sum())
        cost = costs.cost.sum() + costs.paid_before.sum()
        lines.append(f"- {int(costs.calls.sum())} answers, {tokens} tokens, cost {cost:.4f} USD at "
                     f"{made['price'].describe()}")
    if made.get("forms") is not None:
        lines.append("\n" + _markdown(made["forms"].round(3)))
    return "\n".join(lines)


def _describe_sources(table: pd.DataFrame) -> str:
    lines = []
    for column, what in (("query_source", "prompts"), ("response_source", "replies")):
        counts = Counter("not named" if pd.isna(v) else str(v) for v in table[column])
        lines.append(f"- {what}: " + ", ".join(f"{name} ({n})" for name, n in counts.most_common()))
    return "\n".join(lines)


def _count_cells(data: ValueDataset, theory: Theory) -> str:
    table = pd.DataFrame({"dimension": theory.dimensions})
    for word, value in (("supported", 1), ("no connection", 0), ("opposed", -1)):
        table[word] = (data.vectors == value).sum(axis=0)
    table["not annotated"] = np.isnan(data.vectors).sum(axis=0)
    return _markdown(table)


def _describe_agreement(made: dict[str, Any]) -> str:
    table = made.get("agreement")
    if table is None:
        return "One annotator only: agreement was not measured."
    chosen = table[table.statistic.isin(["alpha_nominal", "ac1"])]
    return (f"Between {made.get('annotators', 'the forms of the question')}; 95 % bootstrap intervals over prompts.\n\n"
            + _markdown(chosen[["name", "statistic", "value", "low", "high", "n_units"]].round(3)))


def _describe_limits(data: ValueDataset) -> str:
    n_open = int(np.isnan(data.vectors).any(axis=1).sum())
    refused = int(is_refusal(data.table.response).sum())
    return (f"- {n_open} of {len(data.table)} rows have at least one dimension that is not annotated\n"
            f"- {refused} replies are refusals by a simple flag\n"
            f"- {data.n_set_aside} rows of the labelled file cannot be read as dialogues and are not in the table\n"
            "- labels by a model are opinions of that model; they need people's checks before they serve as truth")


def _markdown(table: pd.DataFrame) -> str:
    """Return a table in Markdown; nan is shown as a dash."""
    rows = [table.columns, ["---"] * table.shape[1], *table.astype(object).where(table.notna(), "–").to_numpy()]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)

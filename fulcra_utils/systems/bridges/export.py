"""A finished run in the formats of others: labels as Croissant, the run as RO-Crate, tasks for Label Studio, and more.

What is said in a format stands in its template in data/bridges. None holds a text of a prompt or reply but Label
Studio's tasks and Inspect's logs, which are to be read; these leave out replies to prompts that are tagged with a risk.
The tests validate Croissant 1.0 with mlcroissant and RO-Crate 1.2 with rocrate.
"""

import mimetypes
import shutil
import sys
from datetime import UTC, datetime
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jinja2 import Template

from fulcra_utils.common.files import write_folder, write_json, write_table
from fulcra_utils.common.loading import hash_file, hash_text
from fulcra_utils.common.paths import DATA, SHIPPED
from fulcra_utils.dataset.construction import SAMPLES, list_risky, locate_sample
from fulcra_utils.runs.pipeline import find_run
from fulcra_utils.runs.profiles import list_notebooks
from fulcra_utils.runs.report import check_settled, publish, read_json

FORMATS = {  # module and function that write it, and the notebooks that must have finished; none = all
    "every-eval-ever": ("leaderboard", "export_boards", ["06_value_compass"]),
    "croissant": ("export", "export_croissant", ["01_dataset_construction"]),
    "ro-crate": ("export", "export_crate", []),
    "label-studio": ("export", "export_tasks", ["01_dataset_construction"]),
    "inspect": ("inspect_logs", "export_inspect", ["01_dataset_construction"]),
    "site": ("site", "build_site", [])}


def export_run(run: str | Path, to: str, output: str | Path) -> Path:
    """Write a finished run in another format to a new path, whole or not at all; return the path.

    ValueError for an unknown format, a folder that is no run, a run whose notebooks have not finished or that went on
    after its report, an output that exists, or a format whose package is not installed.
    """
    if to not in FORMATS:
        raise ValueError(f"--to {to}: no such format; there are {', '.join(FORMATS)}")
    module, function, needed = FORMATS[to]
    folder, output = find_run(run).folder, Path(output)
    finished, wanted = read_json(folder / "manifest.json").get("notebooks", {}), needed or list_notebooks()
    if missing := [name for name in wanted if name not in finished]:
        raise ValueError(f"{run}: this run is not finished, its manifest.json lacks {', '.join(missing)}")
    if stopped := {name[:2] for name in wanted} & check_settled(folder).keys():
        raise ValueError(f"{run}: this run is not finished, what ran last of {', '.join(sorted(stopped))} did not end")
    if output.exists():
        raise ValueError(f"{output}: exists already")
    try:
        getattr(import_module(f"fulcra_utils.systems.bridges.{module}"), function)(folder, output)
    except ImportError as error:
        raise ValueError(f"--to {to}: no {error.name} here: pip install 'fulcra-utils[{to}]'") from None
    return output


def fill_template(name: str, folder: Path, **facts: Any) -> dict[str, Any]:
    """Fill a template of data/bridges with facts, and with the name and theory of a run, and its day and stamp."""
    written = (folder / "manifest.json").stat().st_mtime
    text = Template((DATA / "bridges" / name).read_text(encoding="utf-8"), trim_blocks=True, lstrip_blocks=True).render(
        run=folder.name, theory=find_run(folder).theory, version=metadata.version("fulcra-utils"), stamp=int(written),
        day=datetime.fromtimestamp(written, UTC).date(), sources=read_json(folder / "data" / "sources.json"), **facts)
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def export_croissant(folder: Path, output: Path) -> None:
    """Write a run's labels as `labels.csv` and `croissant.json`: one record a reply, hashes in place of texts.

    Labels beside a theory of one's own have no licence that is known here.
    """
    from fulcra_utils.dataset.sources import load_sources
    rows, listed = pd.read_parquet(folder / "data" / "dialogues.parquet"), load_sources()
    if locate_sample(find_run(folder).theory)[0].parent != SAMPLES:
        rows = rows.replace({"source": {"sample": "own labels"}})
    rows = rows.assign(**{f"{name}_sha256": rows[name].map(hash_text) for name in ("prompt", "response")})
    described = fill_template(
        "croissant.yaml", folder, rows=rows,
        agreement=pd.read_csv(folder / "analysis" / "agreement.csv").query("name == 'overall'"),
        licences=sorted({listed[name].licence if name in listed else "MIT" if name == "sample" else
                         "not stated" for name in rows.source.unique()}))
    with write_folder(output) as new:
        table = write_table(new / "labels.csv", rows[[field["name"] for field in described["recordSet"][1]["field"]]])
        described["distribution"][0] |= {"contentSize": f"{table.stat().st_size} B", "sha256": hash_file(table)}
        write_json(new / "croissant.json", described)


def read_harmless(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a run's replies that may be shown, and those left out: their prompt, or one alike, is tagged with a risk.

    Of most of the first it is not known: `unknown` says so.
    """
    parts = [pd.read_parquet(folder / "data" / f"{name}.parquet") for name in ("dialogues", "scored", "prompts")]
    tagged = parts[0].prompt.isin(list_risky(parts))
    rows = parts[0].assign(unknown=parts[0].safety_issues.isna())
    return rows[~tagged], rows[tagged]


def export_tasks(folder: Path, output: Path) -> None:
    """Write the run's review queue as a Label Studio project; `why` of a case also says that its risk is not known."""
    from fulcra_utils.annotation.label_studio import export_label_studio
    rows, _ = read_harmless(folder)
    if n_unknown := int(rows.unknown.sum()):
        sys.stderr.write(f"{n_unknown:,} of {len(rows):,} replies answer prompts whose risk is not known\n")
    queue = pd.read_csv(folder / "annotation" / "review.csv")[["row_id", "name", "why", "vote"]]
    queue.loc[queue.row_id.isin(rows.row_id[rows.unknown]), "why"] += "; the risk of its prompt is not known"
    with write_folder(output) as new:
        export_label_studio(new, queue[queue.row_id.isin(rows.row_id)], rows, find_run(folder).theory)


def export_crate(folder: Path, output: Path) -> None:
    """Write an RO-Crate: what `fulcra publish` takes of a run, its notebooks, and each claim with what it rests on.

    A claim is an entity `#claim/<id>`, based on its cell, functions and data; a cell is based on the functions of all
    its claims, and a function is the subject of its tests (`trace_claims`).
    """
    from fulcra_utils.runs.ledger import name_test, trace_claims
    claims = trace_claims(folder)
    with write_folder(output) as new:
        shutil.copytree(SHIPPED / "notebooks", new / "notebooks", ignore=lambda _, names: {
            name for name in names if Path(name).stem not in list_notebooks()})
        publish(find_run(folder), new)
        files = [{"path": path.relative_to(new).as_posix(), "size": path.stat().st_size, "sha256": hash_file(path),
                  "kind": mimetypes.guess_type(path)[0] or "application/json"} for path in sorted(new.rglob("*.*"))]
        write_json(new / "ro-crate-metadata.json", fill_template(
            "ro_crate.json", folder, files=files, claims=claims.to_dict("records"), name_test=name_test,
            code=read_json(folder / "manifest.json")["code"],
            hashes={name: value for hashes in claims.data_hashes for name, value in hashes.items()}))

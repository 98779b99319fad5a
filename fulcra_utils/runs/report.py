"""The reproduced-versus-reported table, the report's pages, and the one writer of figures/."""

import base64
import json
import re
import shutil
from collections.abc import Container
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jinja2 import Template

from fulcra_utils.common.files import write_atomic, write_json, write_table, write_text
from fulcra_utils.common.loading import hash_file
from fulcra_utils.common.paths import DATA, ROOT
from fulcra_utils.runs.claims import COLUMNS, judge_again, load_reported
from fulcra_utils.runs.pipeline import Run

FIGURES = ROOT / "figures"
PAGES = DATA / "report"
README_RUN = "laptop"
README_MARKS = ("<!-- written by `fulcra publish` -->", "<!-- end of what `fulcra publish` writes -->")


def build_report(run: Run) -> Path:
    """Gather a run's parts into metrics.json, manifest.json, reproduction.csv and the HTML report; return its index.

    Of notebooks that stopped nothing is taken: what stands there is of an earlier run, or half of this one.
    """
    folder, sources = run.folder, read_json(run.folder / "data" / "sources.json")
    fetched, stopped = folder / "data" / "fetched.json", _list_stopped(folder)
    metrics, manifest = (_gather_parts(folder, part, stopped) for part in ("metrics", "manifest"))
    write_json(folder / "metrics.json", metrics)
    write_json(folder / "manifest.json", {
        "profile": run.profile, "theory": run.theory.name, "code": _join_codes(manifest),
        "sources": sources, "notebooks": manifest,
        "data_hashes": read_json(fetched) | {
            f"data/{path.name}": hash_file(path) for path in sorted(folder.glob("data/*.parquet"))}})
    parts = [pd.read_csv(path) for path in sorted((folder / "reproduction").glob("*.csv"))
             if path.name[:2] not in stopped]
    claims = pd.concat([part for part in parts if len(part)] or [pd.DataFrame(columns=COLUMNS)], ignore_index=True)
    claims = judge_again(claims, load_reported())
    write_table(folder / "reproduction.csv", claims)
    books = [_write_page(path, folder / "report", manifest.get(path.stem, {}))
             for path in sorted((folder / "notebooks").glob("[0-9]*_*.ipynb")) if path.name[:2] not in stopped]
    pictures = sorted((path for path in folder.glob("figures/[0-9]*.png") if path.name[:2] not in stopped),
                      key=lambda path: (path.name[:2], path.stat().st_mtime_ns))
    counts = pd.crosstab(claims["kind"], claims["verdict"]).rename_axis(columns=None).reset_index()
    page = Template((PAGES / "index.html").read_text(encoding="utf-8"), autoescape=True)
    return write_text(folder / "report" / "index.html", page.render(
        run=run, books=books, stopped=sorted(stopped.values()),
        noise=metrics.get("12_reliability", {}).get("noise", ""),
        is_known=bool(sources) or fetched.is_file() and not read_json(fetched),     # {}: nothing could be had
        had=[{"sample": run.theory.labels_path.name}.get(name, name) for name in sources.get("had", {})
             if name != "sample" or run.theory.labels_path.is_file()],
        missing=list(sources.get("missing", {})), has_compass=(folder / "report" / "compass.html").is_file(),
        verdicts=counts.to_html(border=0, index=False) if len(claims) else "",
        claims=claims.to_html(index=False, border=0, na_rep="", float_format="{:.3f}".format),
        pictures=[{"name": path.stem, "caption": read_json(path.with_suffix(".json")).get("caption", ""),
                   "data": base64.b64encode(path.read_bytes()).decode()} for path in pictures]))


def publish(run: Run, target: Path = FIGURES) -> list[Path]:
    """Copy a run's pictures and its tables of numbers to figures/<run>/, replacing what its notebooks showed there.

    Only numbers and pictures are taken: captions, reproduction.csv, metrics.json, manifest.json and the tables below
    `published/` of the run, named by the notebook's number; no file above 1 MB. Notebooks this run has not executed, or
    that stopped in it, keep what an earlier run of the same name published, so that a long profile can be published
    part by part; the manifest says for each notebook which code and settings made it. The README's table is renewed.
    Returns the files written; a run without a report, or with steps that ran after it, is a ValueError.
    """
    if not (run.folder / "report" / "index.html").is_file():
        raise ValueError(f"{run.folder} has no report yet: run `fulcra reproduce --profile {run.profile}` first")
    folder, stopped = target / run.folder.name, check_settled(run.folder)
    numbers = {path.name[:2] for path in run.folder.glob("manifest/*.json")} - stopped.keys()
    for path in folder.glob("*"):
        if path.name[:2] in numbers:
            path.unlink()
    written = []
    for path in sorted(p for names in ("figures/*.png", "figures/*.json", "published/*.csv")
                       for p in run.folder.glob(names)):
        if path.name[:2] in numbers and path.stat().st_size <= 1_000_000:
            with write_atomic(folder / path.name) as tmp:
                shutil.copyfile(path, tmp)
            written.append(folder / path.name)
    written += _join_published(run.folder, folder, stopped, numbers)
    if target == FIGURES and (FIGURES / README_RUN).is_dir():
        _update_readme()
    return written


def check_settled(folder: Path) -> dict[str, str]:
    """Return `_list_stopped` of a run; ValueError where steps ran after its report, which then tells other numbers."""
    stopped = _list_stopped(folder)
    for part, told in (("metrics", read_json(folder / "metrics.json")),
                       ("manifest", read_json(folder / "manifest.json").get("notebooks", {}))):
        if _gather_parts(folder, part, stopped) != {name: told[name] for name in told if name[:2] not in stopped}:
            raise ValueError(f"{folder}: steps ran after the report: run `fulcra report` first")
    return stopped


def _gather_parts(folder: Path, part: str, without: Container[str]) -> dict[str, Any]:
    """Return what the notebooks of a run left in a folder of it, by their names, without those of some numbers."""
    return {path.stem: read_json(path) for path in sorted((folder / part).glob("*.json"))
            if path.name[:2] not in without}


def _list_stopped(folder: Path) -> dict[str, str]:
    """Return the notebooks of a run that failed, were killed, or run now: their names by their numbers."""
    names = (path.name.lstrip(".").partition(".")[0] for pattern in ("*.failed.ipynb", ".*.running.ipynb")
             for path in (folder / "notebooks").glob(pattern))
    return {name[:2]: name for name in names}


def _join_codes(manifest: dict[str, Any]) -> str | None:
    """Return the commits that made a run's notebooks, each once; None where none is told."""
    return ", ".join(dict.fromkeys(part["code"] for part in manifest.values() if part.get("code"))) or None


def _join_published(source: Path, folder: Path, stopped: Container[str], executed: set[str]) -> list[Path]:
    """Join a run's metrics, manifest and claims to those in `folder`: its own win, claims made no more fall away.

    Notebooks are told by their numbers. Of those that `stopped` nothing is taken; of those `executed` no old claim
    stays.
    """
    metrics, notebooks = ({name: part for name, part in parts.items() if name[:2] not in stopped} for parts in (
        read_json(source / "metrics.json"), read_json(source / "manifest.json")["notebooks"]))
    manifest, stood = read_json(source / "manifest.json"), read_json(folder / "manifest.json")
    metrics = read_json(folder / "metrics.json") | metrics
    notebooks = dict(sorted((stood.get("notebooks", {}) | notebooks).items()))
    claims = pd.read_csv(source / "reproduction.csv")
    late = [pd.read_csv(path).claim_id for path in source.glob("reproduction/*.csv") if path.name[:2] in stopped]
    claims = claims[~claims["claim_id"].isin(pd.concat(late) if late else [])]
    if (folder / "reproduction.csv").is_file():
        old = judge_again(pd.read_csv(folder / "reproduction.csv"), known := load_reported())
        others = known[~known["notebook"].str[:2].isin(executed)]
        is_open = old["claim_id"].isin(others["claim_id"]) & ~old["claim_id"].isin(claims["claim_id"])
        claims = pd.concat([part for part in (old[is_open], claims) if len(part)] or [claims])
    return [write_table(folder / "reproduction.csv", claims),
            write_json(folder / "metrics.json", dict(sorted(metrics.items()))),
            write_json(folder / "manifest.json", manifest | {"notebooks": notebooks, "code": _join_codes(notebooks)})]


def render_headlines(folder: str | Path, headlines: Path = DATA / "reported" / "headlines.yaml") -> str:
    """Return the README's table (Markdown): claim, notebook, figure, reported, ours, verdicts, from published runs.

    `folder` has metrics.json and reproduction.csv; other runs stand beside it. In the list `headlines`, `ours` is a
    format text over the metrics ("{m[02_value_analysis][n_rows]:,}"), `claims` the beginning of the claim ids whose
    verdicts are counted (numbers recomputed from the released rows apart), `run` the name of another run than this
    folder's. A line whose metric its run lacks is shown as such.
    """
    lines = ["| claim | notebook | figure | paper | ours | verdicts |", "|---|---|---|---|---|---|"]
    for row in yaml.safe_load(headlines.read_text(encoding="utf-8")):
        own = Path(folder).parent / row["run"] if row.get("run") else Path(folder)
        try:
            ours = row["ours"].format(m=json.loads((own / "metrics.json").read_text(encoding="utf-8")))
        except (OSError, LookupError, TypeError, ValueError):
            ours = f"not computed in the {own.name} run"
        counts: dict[str, int] = {}
        if row.get("claims") and (own / "reproduction.csv").is_file():
            found = pd.read_csv(own / "reproduction.csv")
            mine = found[found["claim_id"].str.startswith(row["claims"])]
            recounted = (mine["kind"] == "recomputed") & (mine["verdict"] == "reproduced")
            counts = dict(mine["verdict"].mask(recounted, "reproduced (same rows)").value_counts())
        verdicts = ", ".join(f"{n} {verdict}" for verdict, n in counts.items())
        picture = own / f"{row.get('figure')}.png"
        figure = f"[{row['figure']}](figures/{own.name}/{picture.name})" if picture.is_file() else ""
        lines.append(f"| {row['claim']} | [{row['notebook'][:2]}](notebooks/{row['notebook']}.ipynb) | {figure} | "
                     f"{row['reported']} | {ours} | {verdicts} |")
    return "\n".join(lines)


def _update_readme() -> None:
    """Put the table of the published runs between the marks in the README."""
    readme = ROOT / "README.md"
    before, start, rest = (readme.read_text(encoding="utf-8") if readme.is_file() else "").partition(README_MARKS[0])
    _, end, after = rest.partition(README_MARKS[1])
    if end:
        write_text(readme, f"{before}{start}\n{render_headlines(FIGURES / README_RUN)}\n{end}{after}")


def read_json(path: Path) -> dict[str, Any]:
    """Return what a file of a run holds, {} where there is none; ValueError, naming it, where it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None


def _write_page(notebook: Path, folder: Path, details: dict[str, Any]) -> dict[str, Any]:
    """Write an executed notebook as a page, its code hidden until asked for, and return what the index says of it."""
    import nbformat
    from nbconvert import HTMLExporter
    from nbconvert.filters import markdown2html

    book = nbformat.read(notebook, as_version=4)
    for cell in (c for c in book.cells if c.cell_type == "code"):  # progress bars are for who waits, not who reads
        cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    exporter = HTMLExporter(exclude_output_prompt=True, exclude_input_prompt=True, mathjax_url="", require_js_url="")
    before, body, after = re.split(r"(<body[^>]*>)", exporter.from_notebook_node(book)[0], maxsplit=1)
    top = (PAGES / "top.html").read_text(encoding="utf-8")
    write_text(folder / f"{notebook.stem}.html", f"{before}{body}{top}{after}")
    return {"name": notebook.stem, "seconds": details.get("seconds"),
            "conclusion": markdown2html(escape(_read_conclusion(book.cells), quote=False))}


def _read_conclusion(cells: list[Any]) -> str:
    """Return what an executed notebook shows below its heading Conclusion, or says after the word; "" without one."""
    told, below = [], False
    for cell in cells:
        below = below or cell.cell_type == "markdown" and re.match(r"#+\s+Conclusion\b", cell.source) is not None
        for output in cell.get("outputs", ()):
            text = output.get("data", {}).get("text/markdown", "")
            if below or text.startswith("**Conclusion.**"):
                told.append(text.removeprefix("**Conclusion.**").strip())
    return "\n\n".join(filter(None, told))

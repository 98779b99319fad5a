"""The reproduced-versus-reported table, the report's pages, and the one writer of figures/."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from fulcra_utils.common.files import write_atomic, write_json, write_table, write_text
from fulcra_utils.common.paths import DATA, ROOT
from fulcra_utils.runs.claims import COLUMNS, load_reported

if TYPE_CHECKING:
    from fulcra_utils.runs.pipeline import Run

FIGURES = ROOT / "figures"
HEADLINES = DATA / "reported" / "headlines.yaml"
MAX_PUBLISHED = 1_000_000  # bytes
README_RUN = "laptop"
README_MARKS = ("<!-- written by `fulcra publish` -->", "<!-- end of what `fulcra publish` writes -->")


def build_report(run: Run) -> Path:
    """Gather a run's parts into metrics.json, manifest.json, reproduction.csv and the HTML report; return its index."""
    folder = run.folder
    metrics, manifest = ({path.stem: _read_json(path) for path in sorted((folder / part).glob("*.json"))}
                         for part in ("metrics", "manifest"))
    write_json(folder / "metrics.json", metrics)
    write_json(folder / "manifest.json", {
        "profile": run.profile, "theory": run.theory.name, "code": next(iter(manifest.values()), {}).get("code"),
        "sources": _read_json(folder / "data" / "sources.json"),
        "data_hashes": _hash_data(folder), "notebooks": manifest})
    parts = [pd.read_csv(path) for path in sorted((folder / "reproduction").glob("*.csv"))]
    claims = pd.concat([p for p in parts if len(p)], ignore_index=True) if any(map(len, parts)) \
        else pd.DataFrame(columns=COLUMNS)
    write_table(folder / "reproduction.csv", claims)
    pages = [_write_page(path, folder / "report") for path in sorted((folder / "notebooks").glob("[0-9]*_*.ipynb"))
             if not path.stem.endswith(".failed")]
    return write_text(folder / "report" / "index.html", _render_index(run, claims, manifest, pages))


def publish(run: Run, target: str | Path = FIGURES) -> list[Path]:
    """Copy a run's pictures and its tables of numbers to figures/<run>/, replacing what its notebooks showed there.

    Only numbers and pictures are taken: captions, reproduction.csv, metrics.json, manifest.json and the tables below
    `published/` of the run, named by the notebook's number; no file above 1 MB. Notebooks this run has not executed
    keep what an earlier run of the same name published, so that a long profile can be published part by part; the
    manifest says for each notebook which code and settings made it. The README's table is renewed. Returns the files
    written; a run without a report is a ValueError.
    """
    if not (run.folder / "report" / "index.html").is_file():
        raise ValueError(f"{run.folder} has no report yet: run `fulcra reproduce --profile {run.profile}` first")
    folder = Path(target) / run.folder.name
    numbers = {path.stem[:2] for path in run.folder.glob("manifest/*.json")}
    for path in folder.glob("*"):
        if path.name[:2] in numbers:
            path.unlink()
    written = []
    for path in [*sorted(run.folder.glob("figures/*.png")), *sorted(run.folder.glob("figures/*.json")),
                 *sorted(run.folder.glob("published/*.csv"))]:
        if path.name[:2] in numbers and path.stat().st_size <= MAX_PUBLISHED:
            with write_atomic(folder / path.name) as tmp:
                shutil.copyfile(path, tmp)
            written.append(folder / path.name)
    written += _join_published(run.folder, folder)
    if Path(target) == FIGURES and (FIGURES / README_RUN).is_dir():
        _update_readme(FIGURES)
    return written


def _join_published(source: Path, folder: Path) -> list[Path]:
    """Join a run's metrics, manifest and claims to those in `folder`: its own win, claims made no more fall away."""
    metrics, manifest = ({"old": _read_json(folder / name), "new": _read_json(source / name)}
                         for name in ("metrics.json", "manifest.json"))
    parts = {key: found.get("notebooks", {}) for key, found in manifest.items()}
    claims = pd.read_csv(source / "reproduction.csv")
    if (folder / "reproduction.csv").is_file():
        stood = pd.read_csv(folder / "reproduction.csv")
        is_open = stood["claim_id"].isin(load_reported()["claim_id"]) & ~stood["claim_id"].isin(claims["claim_id"])
        claims = pd.concat([stood[is_open], claims])
    write_json(folder / "metrics.json", dict(sorted((metrics["old"] | metrics["new"]).items())))
    notebooks = dict(sorted((parts["old"] | parts["new"]).items()))
    write_json(folder / "manifest.json", manifest["new"] | {"notebooks": notebooks})
    write_table(folder / "reproduction.csv", claims)
    return [folder / name for name in ("reproduction.csv", "metrics.json", "manifest.json")]


def render_headlines(folder: str | Path, headlines: str | Path = HEADLINES) -> str:
    """Return the README's table (Markdown): claim, notebook, figure, reported, ours, verdicts, from published runs.

    `folder` has metrics.json and reproduction.csv; other runs stand beside it. In the list `headlines`, `ours` is a
    format text over the metrics ("{m[02_value_analysis][n_rows]:,}"), `claims` the beginning of the claim ids whose
    verdicts are counted (numbers recomputed from the released rows apart), `run` the name of another run than this
    folder's. A line whose metric its run lacks is shown as such.
    """
    lines = ["| claim | notebook | figure | paper | ours | verdicts |", "|---|---|---|---|---|---|"]
    for row in yaml.safe_load(Path(headlines).read_text(encoding="utf-8")):
        own = Path(folder).parent / row["run"] if row.get("run") else Path(folder)
        try:
            ours = row["ours"].format(m=json.loads((own / "metrics.json").read_text(encoding="utf-8")))
        except (OSError, LookupError, TypeError, ValueError):
            ours = f"not computed in the {own.name} run"
        prefix, claims = row.get("claims"), own / "reproduction.csv"
        counts: dict[str, int] = {}
        if prefix and claims.is_file():
            found = pd.read_csv(claims)
            mine = found[found["claim_id"].str.startswith(prefix)]
            recounted = (mine["kind"] == "recomputed") & (mine["verdict"] == "reproduced")
            counts = dict(mine["verdict"].mask(recounted, "reproduced (same rows)").value_counts())
        verdicts = ", ".join(f"{n} {verdict}" for verdict, n in counts.items())
        picture = own / f"{row.get('figure')}.png"
        figure = f"[{row['figure']}](figures/{own.name}/{picture.name})" if picture.is_file() else ""
        lines.append(f"| {row['claim']} | [{row['notebook'][:2]}](notebooks/{row['notebook']}.ipynb) | {figure} | "
                     f"{row['reported']} | {ours} | {verdicts} |")
    return "\n".join(lines)


def _update_readme(figures: Path, readme: Path = ROOT / "README.md") -> None:
    """Put the table of the published runs between the marks in the README."""
    start, end = README_MARKS
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    if start in text and end in text:
        before, after = text.partition(start)[0], text.partition(end)[2]
        write_text(readme, f"{before}{start}\n{render_headlines(figures / README_RUN)}\n{end}{after}")


def _hash_data(folder: Path) -> dict[str, str]:
    """Return the sha256 (or git blob id) of each public file that was had, and of the tables built from them."""
    tables = {f"data/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
              for path in sorted(folder.glob("data/*.parquet"))}
    return {**_read_json(folder / "data" / "fetched.json"), **tables}


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _write_page(notebook: Path, folder: Path) -> Path:
    """Write one executed notebook as a self-contained page; its code is hidden until the reader asks for it."""
    import nbformat
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(exclude_output_prompt=True, exclude_input_prompt=True, mathjax_url="", require_js_url="")
    book = nbformat.read(notebook, as_version=4)
    for cell in (c for c in book.cells if c.cell_type == "code"):  # progress bars are for who waits, not who reads
        cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    body, _ = exporter.from_notebook_node(book)
    return write_text(folder / f"{notebook.stem}.html", re.sub(r"(<body[^>]*>)", rf"\1{PAGE_TOP}", body, count=1))


def _render_index(run: Run, claims: pd.DataFrame, manifest: dict[str, Any], pages: list[Path]) -> str:
    return PAGE.format(
        title=f"Value FULCRA, reproduced: {escape(run.folder.name)}", notice=_render_notice(run),
        notebooks="\n".join(_render_notebook(run.folder, page, manifest) for page in pages),
        verdicts=_render_verdicts(claims), figures="\n".join(_render_figures(run.folder, page) for page in pages),
        claims=claims.to_html(index=False, border=0, na_rep="", float_format=lambda x: f"{x:.3f}"))


def _render_notice(run: Run) -> str:
    """Say what data the run stands on."""
    sources = _read_json(run.folder / "data" / "sources.json")
    had, missing = [name for name in sources.get("had", {}) if name != "sample"], sources.get("missing", {})
    text = f"Profile <b>{escape(run.profile)}</b>, theory <b>{escape(run.theory.title)}</b>. "
    if not had:
        text += ("<b>This run uses the embedded sample only</b>: its numbers show that everything works and say "
                 "nothing about real models.")
    else:
        text += f"Real files used: {escape(', '.join(had))}. "
        if missing:
            text += f"Files that could not be had: {escape(', '.join(missing))}."
    return text


def _render_notebook(folder: Path, page: Path, manifest: dict[str, Any]) -> str:
    """Return what came out of a notebook, in its own words, with links and its time."""
    from nbconvert.filters import markdown2html
    seconds = manifest.get(page.stem, {}).get("seconds")
    took = "" if seconds is None else f" <small>{seconds / 60:.1f} min</small>"
    words = markdown2html(escape(_read_conclusion(folder / "notebooks" / f"{page.stem}.ipynb"), quote=False))
    more = '<p><a href="compass.html">The value compass of models</a></p>' \
        if page.stem.endswith("value_compass") and (page.parent / "compass.html").is_file() else ""
    return f'<h3><a href="{page.name}">{escape(_name(page.stem))}</a>{took}</h3>{words}{more}'


def _read_conclusion(notebook: Path) -> str:
    """Return what an executed notebook shows below its heading Conclusion, or says after the word; "" without one."""
    import nbformat
    told, below = "", False
    for cell in nbformat.read(notebook, as_version=4).cells:
        below = below or cell.cell_type == "markdown" and re.match(r"#+\s+Conclusion\b", cell.source) is not None
        for output in cell.get("outputs", ()):
            text = output.get("data", {}).get("text/markdown", "")
            if text and (below or text.startswith("**Conclusion.**")):
                told = f"{told}\n\n{text.removeprefix('**Conclusion.**').strip()}".strip()
    return told


def _name(stem: str) -> str:
    """Return a file's name as words: 02_value_space is "02 value space"."""
    return stem.replace("_", " ")


def _render_verdicts(claims: pd.DataFrame) -> str:
    if claims.empty:
        return "<p>No published number could be compared in this run.</p>"
    counts = claims.groupby(["kind", "verdict"]).size().unstack(fill_value=0)
    return counts.rename_axis(columns=None).reset_index().to_html(border=0, index=False)


def _render_figures(folder: Path, page: Path) -> str:
    """Return the pictures of a notebook in the order in which it made them, each embedded, with heading and caption."""
    import base64
    parts = []
    for path in sorted(folder.glob(f"figures/{page.stem[:2]}_*.png"), key=lambda path: path.stat().st_mtime_ns):
        caption = escape(_read_json(path.with_suffix(".json")).get("caption", ""))
        data = base64.b64encode(path.read_bytes()).decode()
        parts.append(f'<h3>{escape(_name(path.stem))}</h3><figure><img src="data:image/png;base64,{data}" '
                     f'alt="{caption}"><figcaption>{caption}</figcaption></figure>')
    return "\n".join(parts)


PAGE_TOP = """<style>
.jp-InputPrompt, .jp-OutputPrompt { display: none }
.jp-Notebook { max-width: 64em; margin: auto }
.jp-OutputArea-output { overflow-x: auto }
body:not(:has(#code:checked)) .jp-CodeCell .jp-Cell-inputWrapper { display: none }
</style>
<p style="max-width:62em; margin:1em auto; font-family:system-ui, sans-serif">
<a href="index.html">← the report's index</a> &emsp;
<label><input type="checkbox" id="code"> show the code</label></p>"""
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 68em; margin: 2em auto; padding: 0 1em; color: #222 }}
table {{ border-collapse: collapse; margin: 1em 0; font-size: 14px }}
th, td {{ text-align: left; padding: .25em .8em; border-bottom: 1px solid #ddd; vertical-align: top }}
figure {{ margin: 2em 0 }} img {{ max-width: 100% }} figcaption {{ color: #444; font-size: 14px }}
.notice {{ background: #eef3f8; padding: .8em 1em; border-left: 4px solid #0072b2 }}
details {{ margin: 1em 0 }} summary {{ cursor: pointer; font-weight: 600 }}
</style></head><body>
<h1>{title}</h1>
<p class="notice">{notice}</p>
<h2>What came out</h2>
{notebooks}
<h2>Reproduced versus reported</h2>
<p>Verdicts follow rules that were written before looking: the same rows must agree to rounding (recomputed); on new
rows our whole 95 % interval must lie within the tolerance (replicated); numbers of another population are shown and
never called reproduced.</p>
{verdicts}
<details><summary>Every published number next to ours</summary>{claims}</details>
<h2>Pictures</h2>{figures}
</body></html>
"""

"""The site of a run: README, notebooks and pictures, theories, API, recipes and the ledger of claims, built by Sphinx.

Nothing of it is fetched from elsewhere, and no output of a notebook in which a text of the data set stands is shown.
"""

import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from html import unescape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader

from fulcra_utils.common.files import write_folder, write_json, write_text
from fulcra_utils.common.paths import DATA, ROOT, SHIPPED
from fulcra_utils.dataset.sources import load_sources
from fulcra_utils.plots.theory import plot_wheel
from fulcra_utils.runs.ledger import trace_claims
from fulcra_utils.runs.profiles import list_notebooks
from fulcra_utils.runs.report import read_json
from fulcra_utils.theory.theory import list_theories, load_theory

SITE = DATA / "site"
LEFT_OUT = "Left out: it shows texts of the data set, which are not ours to publish."
SHOWN = ("text/html", "text/markdown", "text/plain", "image/png")
N_WORDS = 6    # so many words of a text in a row, 4 where it has no more, show it
SHORTEST = 4
LINK = re.compile(r"!?\[([^][]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def build_site(folder: Path, output: Path) -> None:
    """Build the site of a run into a folder; ValueError when Sphinx warns of anything."""
    from sphinx.cmd.build import build_main
    with TemporaryDirectory() as source, write_folder(output) as target:
        for name, n in stage_site(folder, Path(source)).items():
            sys.stderr.write(f"{name}: {n} outputs left out\n")
        if build_main(["-W", "--keep-going", "-q", "-j", "auto", "-d", f"{source}/.doctrees", source, str(target)]):
            raise ValueError(f"{folder}: the site was not built, Sphinx says above why")


def stage_site(folder: Path, source: Path) -> dict[str, int]:
    """Write what Sphinx reads of a run to the folder `source`; return how many outputs each notebook lost."""
    books = {name: json.loads((own if (own := folder / "notebooks" / f"{name}.ipynb").is_file()
                               else SHIPPED / "notebooks" / own.name).read_text("utf-8")) for name in list_notebooks()}
    counts = hide_texts(books, list_upstream(folder))
    for name, book in books.items():
        write_json(source / "notebooks" / f"{name}.ipynb", _mark_cells(book))
    pages = [*ROOT.glob("CH*.md"), ROOT / "CONTRIBUTING.md", *DATA.glob("README.md"), *DATA.glob("sample/*.md"),
             *SITE.glob("pages/*.md"), *SITE.glob("recipes/*.md")]
    for page in pages:
        write_text(source / page.relative_to(ROOT), page.read_text("utf-8"))
    if (page := folder / "report" / "compass_public.html").is_file():
        write_text(source / "extra" / "compass.html", page.read_text("utf-8"))
    claims = trace_claims(folder)
    for test in {test for tests in claims.tests for test in tests if (ROOT / test).is_file()}:
        write_text(source / "extra" / f"{test}.txt", (ROOT / test).read_text("utf-8"))
    theories = [load_theory(name) for name in list_theories()]
    for theory in (theory for theory in theories if theory.circle):
        (source / "theories").mkdir(exist_ok=True)
        plot_wheel(theory).savefig(source / "theories" / f"{theory.name}.png")
    _fill_templates(source, folder, claims, theories)
    for page in [source / "index.md", *(source / page.relative_to(ROOT) for page in pages)]:
        write_text(page, _mend_links(page, source))
    return counts


def _fill_templates(source: Path, folder: Path, claims: pd.DataFrame, theories: list) -> None:
    import fulcra_utils

    shutil.copytree(SITE / "static", source / "static")
    shutil.copyfile(SITE / "conf.py", source / "conf.py")
    fill = Environment(loader=FileSystemLoader(SITE / "templates"), autoescape=lambda name: name == "ledger.md")
    common = {"run": folder.name, "claims": claims.to_dict("records"), "theories": theories,
              "door": [(name, "class" if isinstance(getattr(fulcra_utils, name), type) else "function")
                       for name in fulcra_utils.__all__],
              "books": list_notebooks(), "readme": (ROOT / "README.md").read_text("utf-8"),
              "has_test": lambda test: (ROOT / test).is_file(),
              "has_compass": (source / "extra" / "compass.html").is_file()}
    for name in ("index.md", "ledger.md", "api.md", "recipes.md", "theories.md"):
        write_text(source / name, fill.get_template(name).render(common))
    for theory in theories:
        write_text(source / "theories" / f"{theory.name}.md", fill.get_template("theory.md").render(theory=theory))


def _mend_links(page: Path, source: Path) -> str:
    """Return a page whose links lead somewhere: files of the project come along, other links become words."""
    def mend(link: re.Match) -> str:
        path = Path(os.path.normpath(page.parent / link[2]))
        own = ROOT / path.relative_to(source) if path.is_relative_to(source) else path
        if not path.exists() and own.is_file() and own.suffix not in (".md", ".ipynb", ".py"):
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(own, path)
        return link[0] if "://" in link[2] or path.is_file() else link[1]
    return LINK.sub(mend, page.read_text("utf-8"))


def _mark_cells(book: dict[str, Any]) -> dict[str, Any]:
    """Give each cell of code a place that a link can name: `#cell-` and its id."""
    mark = {"cell_type": "markdown", "metadata": {}}
    return book | {"cells": [part for cell in book["cells"] for part in (
        mark | {"id": f"at-{cell['id']}", "source": f'<span id="cell-{cell["id"]}"></span>'}, cell)
        if part is cell or cell["cell_type"] == "code"]}


def list_upstream(folder: Path) -> Iterator[str]:
    """Return the texts of a run that are not ours: of rows whose prompt we do not ship, and of public files it had."""
    ours = {gram for path in DATA.rglob("*.*l") if "cache" not in path.parts
            for gram in _cut(path.read_text("utf-8"), range(1, N_WORDS + 1))}
    for path in sorted(folder.rglob("*.parquet")):
        table = pd.read_parquet(path)
        if "prompt" in table:
            theirs = {text for text in table.prompt.dropna().unique() if not _cut(text, least=1) <= ours}
            table = table[table.prompt.isin(theirs)]
            for name in table.columns.intersection(["prompt", "response", "chosen", "rejected"]):
                yield from table[name].dropna().drop_duplicates()
    sources, names = load_sources(), read_json(folder / "data" / "fetched.json")
    cache = Path(os.environ.get("FULCRA_CACHE") or ROOT / "data" / "cache")
    for path in (cache / source.mirror_path for name, source in sources.items()
                 if name in names and source.role != "board"):
        if path.is_file() and path.suffix in (".json", ".jsonl", ".csv", ".tsv"):
            pieces = re.split(r"[\"\t\n]", path.read_text("utf-8"))
            yield from (piece for piece in pieces if piece.count(" ") >= SHORTEST - 1 and not _cut(piece) <= ours)


def hide_texts(books: dict[str, dict], upstream: Iterable[str]) -> dict[str, int]:
    """Replace, in place, each output in which words of an upstream text stand; return the number for each notebook.

    An output shows a text when it holds `N_WORDS` of its words in a row, or all of a text of `SHORTEST` words or more;
    marks, case, white space, tags and entities do not count, so that coloured words and shortened texts are found.
    """
    kept = [(name, cell, output, _list_grams(output)) for name, book in books.items() for cell in book["cells"]
            for output in _keep_shown(cell)]
    open_ = set().union(*(grams for *_, grams in kept))
    shown = {gram for text in upstream for gram in _cut(str(text)) if gram in open_}
    counts = dict.fromkeys(books, 0)
    for name, cell, output, grams in kept:
        if grams & shown:
            cell["outputs"][next(n for n, o in enumerate(cell["outputs"]) if o is output)] = {
                "output_type": "display_data", "metadata": {}, "data": {"text/markdown": f"*{LEFT_OUT}*"}}
            counts[name] += 1
    return counts


def _keep_shown(cell: dict) -> list[dict]:
    """Leave a cell the outputs that a page without scripts can show, and return them."""
    kept = []
    for output in cell.get("outputs", []):
        data = {kind: re.sub(r"\A---\n.*?\n---\n", "", "".join(value), flags=re.DOTALL)   # the head of a card
                for kind, value in output.get("data", {}).items()
                if kind in SHOWN and "<script" not in "".join(value)}
        if output["output_type"] == "stream" and output["name"] == "stdout":
            kept.append(output)
        elif data:
            kept.append(output | {"data": data, "metadata": {}})
    if "outputs" in cell:
        cell["outputs"] = kept
    return kept


def _cut(text: str, lengths: Iterable[int] = (), least: int = SHORTEST) -> set[str]:
    """Return each piece of so many words in a row of a text; by default N_WORDS, or the whole of a shorter text."""
    words = re.findall(r"\w+", text.casefold())
    lengths = lengths or ([min(len(words), N_WORDS)] if len(words) >= least else [])
    return {" ".join(piece) for n in lengths for piece in zip(*(words[k:] for k in range(n)), strict=False)}


def _list_grams(output: dict) -> set[str]:
    parts = [output.get("text", ""), *(v for kind, v in output.get("data", {}).items() if kind != "image/png")]
    lengths = range(SHORTEST, N_WORDS + 1)
    return {gram for part in map("".join, parts) for text in {part, *(unescape(re.sub(r"<[^>]*>", gap, part))
                                                                     for gap in ("", " "))}
            for gram in _cut(text, lengths)}

"""Where each claim of a run comes from: its cell, the functions behind that cell, their tests, and the data."""

import ast
import json
from functools import cache
from pathlib import Path

import pandas as pd

from fulcra_utils.common.paths import PACKAGE, SHIPPED
from fulcra_utils.runs.claims import load_reported
from fulcra_utils.runs.profiles import PipelineError

NO_RESULTS = {"common", "plots", "runs"}   # folders whose functions open, draw and write, and shape no number


def trace_claims(run: str | Path) -> pd.DataFrame:
    """Return the claims of a finished run, or of figures/<run>, each with where its number comes from.

    `cell` is the id of the cell that compares the number with the published one. `functions` are those of the package
    whose results reach it, nearest first, found by following the names of that cell back through the statements before
    it; where one of these, or a function called there, holds the claim's id (or its longest beginning), the way starts
    there. `tests` are the files that mirror their modules, `data_hashes` the sha256 of each hashed file that these
    statements name (of all fetched ones where they name none). The other columns are those of reproduction.csv, and
    notebook, source and claim of data/reported. PipelineError where the run is not finished.
    """
    folder = Path(run)
    if missing := [name for name in ("manifest.json", "reproduction.csv") if not (folder / name).is_file()]:
        raise PipelineError(f"{folder}: no finished run, without {' and '.join(missing)}: `fulcra report` writes them")
    hashes = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["data_hashes"]
    reported = load_reported()[["claim_id", "notebook", "source", "claim"]]
    claims = pd.read_csv(folder / "reproduction.csv").merge(reported, on="claim_id")
    trails = {name: _Trail(own if (own := folder / "notebooks" / f"{name}.ipynb").is_file()
                           else SHIPPED / "notebooks" / own.name) for name in claims.notebook.unique()}
    rows = [trails[notebook].follow(claim) for notebook, claim in zip(claims.notebook, claims.claim_id, strict=True)]
    fetched = {name: value for name, value in hashes.items() if not name.startswith("data/")} or hashes
    return claims.assign(
        cell=[trails[notebook].cell for notebook in claims.notebook],
        functions=[[".".join(function) for function in functions] for functions, _ in rows],
        tests=[sorted({name_test(".".join(function)) for function in functions}) for functions, _ in rows],
        data_hashes=[{name: hashes[name] for name in hashes if name in words} or fetched for _, words in rows])


class _Trail:
    """The statements of a notebook whose results reach its comparison with the published numbers, nearest first."""

    def __init__(self, path: Path) -> None:
        found = [(cell.get("id"), node) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
                 if cell["cell_type"] == "code" for node in ast.parse("".join(cell["source"])).body]
        self.imported = {alias.asname or alias.name: f"{node.module}.{alias.name}" for _, node in found
                         if isinstance(node, ast.ImportFrom) for alias in node.names}
        end = max((n for n, (_, node) in enumerate(found) if ".compare(" in ast.unparse(node)), default=0)
        self.cell, last = found[end]
        self.statements = [last, *_go_back([node for _, node in found[:end]][::-1], last)]
        calls = [(place, call) for place, whole in enumerate(self.statements) for call in ast.walk(whole)
                 if isinstance(call, ast.Call)]
        self.starts = [(text, -place, node) for place, node, texts in [
            *((place, whole, _list_texts(whole)) for place, whole in enumerate(self.statements)),
            *((place, call, _read_texts(*function)) for place, call in calls
              for function in self.list_functions(call.func))] for text in texts if "/" in text]

    def list_functions(self, node: ast.AST) -> list[tuple[str, str]]:
        """Return module and name of those of the package's functions and classes in a piece of code that count."""
        names = [ast.unparse(part).split(".") for part in ast.walk(node) if isinstance(part, ast.Name | ast.Attribute)]
        found = [_split(".".join([self.imported[first], *rest])) for first, *rest in names
                 if first in self.imported and "".join(rest or first).isidentifier()]
        return [(module, name) for module, name in found
                if name and not name.isupper() and module.split(".")[1] not in NO_RESULTS]

    def follow(self, claim: str) -> tuple[list[tuple[str, str]], set[str]]:
        """Return the functions behind a claim, nearest first, and the texts in the statements that call them."""
        _, place, node = max((start for start in self.starts if claim.startswith(start[0])),
                             key=lambda start: (len(start[0]), start[1]), default=("", 0, self.statements[0]))
        way = [node, *_go_back(self.statements[1 - place:], node)]
        return (list(dict.fromkeys(function for part in way for function in self.list_functions(part))),
                {text for part in way for text in _list_texts(part)})


def _go_back(earlier: list[ast.stmt], node: ast.AST) -> list[ast.stmt]:
    """Return those of the statements before `node`, nearest first, whose results reach it."""
    needed, found = _list_names(node, ast.Load), []
    for statement in earlier:
        if made := needed & _list_names(statement, ast.Store):
            found.append(statement)
            needed = (needed - made if isinstance(statement, ast.Assign) else needed) | _list_names(statement, ast.Load)
    return found


@cache
def _list_names(node: ast.AST, use: type) -> frozenset[str]:
    """Return the names that a piece of code reads or sets; `run` and what lives in a comprehension are none."""
    inner = {name.id for part in ast.walk(node) if isinstance(part, ast.comprehension)
             for name in ast.walk(part.target) if isinstance(name, ast.Name)}
    names = (part for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, use))
    return frozenset(name.id for name in names) - inner - {"run"}


@cache
def _list_texts(node: ast.AST) -> frozenset[str]:
    return frozenset(p.value for p in ast.walk(node) if isinstance(p, ast.Constant) and isinstance(p.value, str))


@cache
def _read_texts(module: str, name: str) -> set[str]:
    """Return the texts in a function or class of the package."""
    body = ast.parse((PACKAGE.parent / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")).body
    return {text for node in body if getattr(node, "name", "") == name for text in _list_texts(node)}


@cache
def _split(name: str) -> tuple[str, str]:
    """Return the module of the package and the name in it of a full dotted name; empty where there is none."""
    parts = name.split(".")
    ends = [n for n in range(2, len(parts)) if (PACKAGE.parent / f"{'/'.join(parts[:n])}.py").is_file()]
    return (".".join(parts[:ends[0]]), parts[ends[0]]) if ends else ("", "")


def name_test(function: str) -> str:
    """Return the file of tests that mirrors the module of a function.

    >>> name_test("fulcra_utils.stats.probes.assign_folds")
    'tests/stats/test_probes.py'
    """
    *folders, name, _ = function.split(".")[1:]
    return "/".join(["tests", *folders, f"test_{name}.py"])

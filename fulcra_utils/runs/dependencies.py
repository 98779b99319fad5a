"""Which modules a notebook uses."""

import ast
import re
from pathlib import Path

import nbformat

from fulcra_utils.common.paths import PACKAGE
from fulcra_utils.runs.profiles import NOTEBOOKS

INFRASTRUCTURE = {"runs", "cli", "common.files", "common.paths"}  # a change here changes no result


def modules_of(notebook: str) -> list[Path]:
    """Return the files of the package's modules that a notebook uses, directly or through others, sorted.

    The infrastructure (runs, cli, files) is left out: a change there changes no result.

    >>> [p.name for p in modules_of("02_value_analysis") if p.name == "resampling.py"]
    ['resampling.py']
    """
    cells = nbformat.read(NOTEBOOKS / f"{notebook}.ipynb", as_version=4).cells
    code = "\n".join(re.sub(r"^\s*[%!].*$", "", c.source, flags=re.M) for c in cells if c.cell_type == "code")
    found, waiting = set(), _imported(code)
    while waiting:
        name = waiting.pop()
        if name not in found and name.partition(".")[0] not in INFRASTRUCTURE and name not in INFRASTRUCTURE:
            found.add(name)
            waiting |= _imported(_file_of(name).read_text(encoding="utf-8"))
    return sorted(_file_of(name) for name in found)


def _file_of(name: str) -> Path:
    return PACKAGE.joinpath(*name.split(".")).with_suffix(".py")


def _imported(code: str) -> set[str]:
    """Return the dotted names (below the package) of the modules that some code imports, also inside functions."""
    tree, names = ast.parse(code), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("fulcra_utils."):
            for alias in node.names:
                names |= _find_modules(node.module.partition(".")[2], alias.name, alias.asname or alias.name, tree)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("fulcra_utils."):
                    names |= _find_modules("", alias.name.partition(".")[2], "", tree)
    return names


def _find_modules(base: str, name: str, called: str, tree: ast.AST) -> set[str]:
    """Return the modules behind `from base import name as called`: of a folder only those whose names the code uses."""
    full = f"{base}.{name}".strip(".")
    if _file_of(full).is_file():
        return {full}
    if (PACKAGE / full.replace(".", "/")).is_dir():
        used = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and getattr(n.value, "id", "") == called}
        return set().union(*(_find_modules(full, attribute, "", tree) for attribute in used))
    if base and _file_of(base).is_file():
        return {base}
    for module, public in _read_door(PACKAGE / base.replace(".", "/") / "__init__.py").items():
        if name in public:
            return _find_modules(f"{base}.{module}".strip("."), name, "", tree)
    return set()


def _read_door(path: Path) -> dict[str, list[str]]:
    """Return which module of a folder holds each public name, from the call of `lazy_loader.attach` in its __init__."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.keyword) and node.arg == "submod_attrs":
            return ast.literal_eval(node.value)
    return {}

"""Imports of the package go down only: read from the code itself, also inside functions."""

import ast
import re
from pathlib import Path

import pytest

from fulcra_utils.common.paths import PACKAGE, ROOT

BELOW = {  # what each folder may import; itself and `common` always
    "common": set(), "theory": set(), "stats": {"theory"}, "dataset": {"theory", "stats"},
    "llm": {"theory", "stats", "dataset"}, "evaluator": {"theory", "stats", "dataset"},
    "analysis": {"theory", "stats", "dataset"}, "plots": {"theory", "systems"},
    "runs": {"theory", "dataset"}}
BELOW["annotation"] = {"theory", "stats", "dataset", "llm", "evaluator", "analysis"}
BELOW["alignment"] = BELOW["annotation"] | {"annotation"}
BELOW["systems"] = BELOW["alignment"] | {"alignment", "plots"}
BELOW["cli"] = BELOW["systems"] | {"systems", "runs"}
BRIDGES = "systems.bridges."   # between a run and the tools of others
FILES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
         for path in PACKAGE.rglob("*.py") if path.stem != "__init__"}


def list_imports(code: str) -> set[str]:
    """Return the package's modules that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "imports name their module in full"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name.removeprefix("fulcra_utils.") for name in found if name.startswith("fulcra_utils.")} & FILES.keys()


IMPORTS = {name: list_imports(path.read_text(encoding="utf-8")) - {name} for name, path in FILES.items()}


@pytest.mark.parametrize("name", sorted(FILES))
def test_imports_go_down_only(name):
    folder = name.split(".")[0]
    for other in IMPORTS[name]:
        below = other.split(".")[0]
        above = {"runs"} if name.startswith(BRIDGES) else set()
        assert below in BELOW[folder] | {folder, "common"} | above, f"{name} imports {other}"
        if folder == below == "systems":
            assert other.split(".")[1] == name.split(".")[1], f"{name} imports another system, {other}"


def test_no_module_waits_for_itself():
    open_, done = [], set()

    def walk(name):
        assert name not in open_, " -> ".join([*open_, name])
        if name not in done:
            open_.append(name)
            for other in sorted(IMPORTS[name]):
                walk(other)
            done.add(open_.pop())

    for name in sorted(IMPORTS):
        walk(name)


def test_folders_stay_small():
    folders = [path for path in [PACKAGE, *PACKAGE.rglob("*")] if (path / "__init__.py").is_file()]
    assert len(folders) <= 21
    assert max(len(list(Path(folder).glob("*.py"))) for folder in folders) <= 14


def test_places_named_in_contributing_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    places = re.findall(r"`([\w/]+\.py)(?:::(\w+))?[^`]*`", text)
    assert len(places) > 30
    for path, name in places:
        found = [root / path for root in (ROOT, PACKAGE, ROOT / "tests") if (root / path).is_file()]
        assert found, path
        assert name in found[0].read_text(encoding="utf-8"), f"{path}::{name}"

"""What a notebook is run with: profiles, parameters in plain words, and the modules that it uses."""

import ast
import os
import re
from math import inf
from pathlib import Path
from shutil import copyfile
from typing import Any

from fulcra_utils.common.files import write_atomic
from fulcra_utils.common.paths import PACKAGE, ROOT, SHIPPED
from fulcra_utils.common.yaml_files import read_yaml
from fulcra_utils.theory.theory import THEORIES, Theory, load_theory

NOTEBOOKS = ROOT / "notebooks"
PROFILES = ROOT / "profiles"
RUNS = ROOT / "runs"
DEFAULT_THEORY = "schwartz10"
# A change here changes no result; verdicts the report judges again.
INFRASTRUCTURE = ("runs", "cli.py", "common/files.py", "common/paths.py")
KINDS = {bool: ("true or false", "true"), int: ("a whole number", "10"), float: ("a number", "0.5"),
         str: ("a text", "name"), list: ("a list of names", "[a, b]"),
         dict: ("a mapping of names to numbers", "{a: 1, b: 2}")}


class PipelineError(RuntimeError):
    """A run that cannot start or go on; the message is one sentence for the person at the keyboard."""


class StepError(PipelineError):
    """A step of the pipeline that started and did not end well."""


def list_notebooks() -> tuple[str, ...]:
    """Return the names of the numbered notebooks in order."""
    return tuple(sorted(p.stem for p in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")))


def list_profiles() -> tuple[str, ...]:
    """Return the names of the profiles; a PipelineError where there are none, as outside a study."""
    if not (names := tuple(sorted(p.stem for p in PROFILES.glob("*.yaml")))):
        raise PipelineError(f"there are no notebooks and profiles in {ROOT}: `fulcra notebooks DIR` copies them to a "
                            "folder, and the same command works there")
    return names


def copy_notebooks(folder: str | Path) -> tuple[list[Path], list[Path]]:
    """Copy what a study of one's own starts from, and return the files written and those that stood there already."""
    written, kept = [], []
    for source in (SHIPPED / "Snakefile", *SHIPPED.glob("profiles/*.yaml"), *SHIPPED.glob("notebooks/[0-9]*.ipynb")):
        target = Path(folder) / source.relative_to(SHIPPED)
        (kept if target.exists() else written).append(target)
        if target in written:
            with write_atomic(target) as tmp:
                copyfile(source, tmp)
    return written, kept


def load_profile(name: str) -> dict[str, Any]:
    """Return a profile: description, seed, and the settings of each notebook; an unknown name is a PipelineError."""
    if name not in list_profiles():
        raise PipelineError(f"no profile {name!r}; there are {', '.join(list_profiles())}")
    try:
        profile, _, twice = read_yaml(PROFILES / f"{name}.yaml")
    except ValueError as error:
        raise PipelineError(f"profiles/{name}.yaml: {error}") from error
    if twice:
        raise PipelineError(f"profiles/{name}.yaml: {twice[0]}")
    return profile


def name_run(profile: str, theory: Theory | str = DEFAULT_THEORY) -> str:
    """Return the name of a run's folder below runs/.

    >>> name_run("quick"), name_run("quick", "moral_foundations")
    ('quick', 'quick-moral_foundations')
    """
    name = load_theory(theory).name
    return profile if name == DEFAULT_THEORY else f"{profile}-{name}"


def open_theory(theory: str | Path) -> Theory:
    """Load a theory by name or by path; a relative path starts at the study's folder where it leads to a file."""
    return load_theory(theory if Path(theory).is_absolute() or not (ROOT / theory).is_file() else ROOT / theory)


def name_theory(theory: Theory) -> str:
    """Return how to name a theory to another process: its name when it stands in data/theories, else its path."""
    return theory.name if theory.path.parent == THEORIES else str(theory.path.resolve())


def read_parameters(notebook: Path) -> dict[str, Any]:
    """Return the names and default values of a notebook's one parameters cell, which must be plain literals."""
    import nbformat
    cells = [c for c in nbformat.read(notebook, as_version=4).cells if "parameters" in c.metadata.get("tags", [])]
    if len(cells) != 1:
        raise PipelineError(f"{notebook.name}: {len(cells)} cells carry the tag `parameters`, there must be one")
    try:
        return {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(cells[0].source).body
                if isinstance(node, ast.Assign)}
    except (ValueError, SyntaxError) as error:
        raise PipelineError(f"{notebook.name}: a default in the parameters cell is no plain literal") from error


def collect_parameters(path: Path, profile: str, theory: Theory, run_dir: str | Path,
                       given: dict[str, Any]) -> dict[str, Any]:
    """Return what a notebook is run with: the profile's settings that it has as parameters, and over them `given`."""
    known, settings = read_parameters(path), load_profile(profile)["notebooks"].get(path.stem) or {}
    fixed = {"profile": profile, "theory": name_theory(theory), "run_dir": str(run_dir)}
    unknown = sorted(set(fixed | given) - set(known))
    if unknown:
        raise PipelineError(f"{path.name} has no parameter {', '.join(map(repr, unknown))}; it has {', '.join(known)}")
    if twice := [name for name in fixed if name in given]:
        raise PipelineError(f"{twice[0]} is no parameter to give with -p: use --{twice[0].replace('_', '-')}")
    asked = {k: read_value(k, v, known[k], f"profiles/{profile}.yaml, {path.stem}: ")
             for k, v in settings.items() if k in known} | {k: read_value(k, v, known[k]) for k, v in given.items()}
    _check_section(path, profile)
    for name, value in asked.items():
        try:
            _check_name(name, value, theory)
        except ValueError as error:
            raise PipelineError(f"{name}: {error}") from None
    return fixed | asked


def _check_section(path: Path, profile: str) -> None:
    """Refuse a profile's section that lacks a setting of one of our notebooks, or has one that nothing there reads."""
    settings, ours = (told["notebooks"].get(path.stem) for told in (
        load_profile(profile), read_yaml(SHIPPED / "profiles" / "quick.yaml")[0]))
    if settings is not None and ours:
        text = path.read_text(encoding="utf-8")
        odd = [f"{name} missing" for name in ours if name not in settings] + [
            f"{name} unknown" for name in settings if name not in ours and not re.search(rf"\b{name}\b", text)]
        if odd:
            raise PipelineError(f"profiles/{profile}.yaml, {path.stem}: {', '.join(odd)}")


def read_value(name: str, given: Any, default: Any, place: str = "") -> Any:
    """Return a parameter's value in the kind of its default; a text is read as YAML and, for numbers, as Python.

    The items of a list are of the kind of the default's first item, texts when it has none; those of a mapping alike,
    numbers when it has none. A value of another kind is a PipelineError, never changed into one that would do.

    >>> read_value("n", "1e1", 5), read_value("names", "[a, b]", []), read_value("encoder", "no", "tiny")
    (10, ['a', 'b'], 'no')
    """
    try:
        is_yaml = isinstance(given, str) and type(default) in (bool, list, dict)
        value, _, twice = read_yaml(given) if is_yaml else (given, None, ())
        if twice:
            raise ValueError
        return _fit_kind(value, default)
    except (ValueError, OverflowError):
        kind, example = KINDS[type(default)]
        raise PipelineError(f"{place}{name} is {given!r}, where {kind} is wanted, as in {name}={example}") from None


def _fit_kind(value: Any, default: Any) -> Any:
    kind = type(default)
    if kind in (int, float):
        return _read_number(value, kind)
    if kind is str and isinstance(value, str | os.PathLike):
        text = os.fspath(value).strip()
        if text in ("null", "~") or text[:1] in ("[", "{"):
            raise ValueError
        return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
    if kind not in KINDS or not isinstance(value, kind) or kind is str:
        raise ValueError
    if kind is dict:
        return {_fit_kind(k, ""): _fit_kind(v, next(iter(default.values()), 0.0)) for k, v in value.items()}
    return [_fit_kind(v, default[0] if default else "") for v in value] if kind is list else value


def _read_number(value: Any, kind: type) -> float:
    """Return a finite number, from a text too, however Python writes it; a whole one where `kind` is int."""
    if isinstance(value, str):
        text = value.strip().strip("'\"")
        value = int(text, 0) if re.match(r"[+-]?0[xob]", text, re.I) else \
            int(text) if re.fullmatch(r"[+-]?[\d_]+", text) else float(text)
    if isinstance(value, bool) or not isinstance(value, int | float) or kind(value) != value or value in (inf, -inf):
        raise ValueError
    return kind(value)


def _check_name(name: str, value: Any, theory: Theory) -> None:
    """Refuse a parameter that names a folder, a file, a theory, a target or a weight that is not there."""
    if name.endswith(("_folder", "_file")) and value:
        kind = name.rpartition("_")[2]
        if not ((ROOT / value).is_dir() if kind == "folder" else (ROOT / value).is_file()):
            raise PipelineError(f"{name}: there is no {kind} {value!r} (a relative path starts at {ROOT})")
    if name == "sources" and value not in ("sample", "public"):
        raise PipelineError(f"sources is {value!r}; it can be sample or public")
    for other in value if name == "theories" else [value] if name == "second_theory" else ():
        open_theory(other)
    if name == "target":
        from fulcra_utils.theory.targets import choose_targets
        choose_targets([value], theory)
    if name == "weights" and value:
        from fulcra_utils.theory.distance import resolve_weights
        resolve_weights(value, theory)


def list_files(settings: dict[str, Any] | None) -> list[str]:
    """Return the files that settings name, alone or in lists; a relative path starts at the study's folder."""
    values = [one for value in (settings or {}).values() for one in (value if isinstance(value, list) else [value])]
    return sorted({value for value in values if isinstance(value, str) and (ROOT / value).is_file()})


def modules_of(notebook: str) -> list[Path]:
    """Return the files of the package that a notebook uses, directly or through others, sorted.

    The infrastructure is left out: a change there changes no result.

    >>> [p.name for p in modules_of("02_value_analysis") if p.name == "resampling.py"]
    ['resampling.py']
    """
    import nbformat
    cells = nbformat.read(NOTEBOOKS / f"{notebook}.ipynb", as_version=4).cells
    code = "\n".join(re.sub(r"^\s*[%!].*$", "", c.source, flags=re.M) for c in cells if c.cell_type == "code")
    found, waiting = set(), _list_imports(code)
    while waiting:
        path = waiting.pop()
        if path not in found and not any(path.is_relative_to(PACKAGE / name) for name in INFRASTRUCTURE):
            found.add(path)
            waiting |= _list_imports(path.read_text(encoding="utf-8"))
    return sorted(found)


def _list_imports(code: str) -> set[Path]:
    """Return the files of ours that some code imports, also inside functions; through a folder's door all below it."""
    names, found = set(), set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            base = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            names |= {f"{base}{alias.name}" for alias in node.names}
    for place in (PACKAGE.joinpath(*name.split(".")[1:]) for name in names if name.startswith("fulcra_utils.")):
        module = next((path for path in (place, place.parent) if path.with_suffix(".py").is_file()), None)
        folder = place if place.is_dir() else place.parent
        found |= {module.with_suffix(".py")} if module else set(folder.rglob("*.py"))
    return found

"""Parameters of a notebook: read, checked against the defaults' kinds, said in plain words."""

import ast
import os
import re
from math import inf
from pathlib import Path
from typing import Any

import nbformat

from fulcra_utils.common.paths import ROOT
from fulcra_utils.common.yaml_files import read_yaml
from fulcra_utils.runs.profiles import PipelineError, load_profile, name_theory, open_theory
from fulcra_utils.theory.theory import Theory


def read_parameters(notebook: Path) -> dict[str, Any]:
    """Return the names and default values of a notebook's one parameters cell, which must be plain literals."""
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
    known = read_parameters(path)
    settings = load_profile(profile)["notebooks"].get(path.stem) or {}
    fixed = {"profile": profile, "theory": name_theory(theory), "run_dir": str(run_dir)}
    unknown = sorted(set(fixed | given) - set(known))
    if unknown:
        raise PipelineError(f"{path.name} has no parameter {', '.join(map(repr, unknown))}; it has "
                            f"{', '.join(known)}")
    if twice := [name for name in fixed if name in given]:
        raise PipelineError(f"{twice[0]} is no parameter to give with -p: use --{twice[0].replace('_', '-')}")
    asked = {k: read_value(k, v, known[k], f"profiles/{profile}.yaml, {path.stem}: ")
             for k, v in settings.items() if k in known} | {k: read_value(k, v, known[k]) for k, v in given.items()}
    for name, value in asked.items():
        try:
            _check_name(name, value, theory)
        except ValueError as error:
            raise PipelineError(f"{name}: {error}") from None
    return fixed | asked


KINDS = {bool: ("true or false", "true"), int: ("a whole number", "10"), float: ("a number", "0.5"),
         str: ("a text", "name"), list: ("a list of names", "[a, b]"),
         dict: ("a mapping of names to numbers", "{a: 1, b: 2}")}


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

"""Profiles, run names, and where notebooks and runs lie."""

from pathlib import Path
from shutil import copyfile
from typing import Any

import yaml

from fulcra_utils.common.files import write_atomic
from fulcra_utils.common.paths import ROOT, SHIPPED
from fulcra_utils.theory.theory import THEORIES, Theory, load_theory

NOTEBOOKS = ROOT / "notebooks"
PROFILES = ROOT / "profiles"
RUNS = ROOT / "runs"
DEFAULT_THEORY = "schwartz10"


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
    sources = [SHIPPED / "Snakefile", *sorted(SHIPPED.glob("profiles/*.yaml")),
               *sorted(SHIPPED.glob("notebooks/[0-9]*.ipynb"))]
    written, kept = [], []
    for source in sources:
        target = Path(folder) / source.relative_to(SHIPPED)
        if target.exists():
            kept.append(target)
            continue
        with write_atomic(target) as tmp:
            copyfile(source, tmp)
        written.append(target)
    return written, kept


def load_profile(name: str) -> dict[str, Any]:
    """Return a profile: description, seed, and the settings of each notebook; an unknown name is a PipelineError."""
    if name not in list_profiles():
        raise PipelineError(f"no profile {name!r}; there are {', '.join(list_profiles())}")
    try:
        return yaml.safe_load((PROFILES / f"{name}.yaml").read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise PipelineError(f"profiles/{name}.yaml: not valid YAML: {error}") from error


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

"""Run folders, profiles, strict papermill runs, and the whole pipeline through Snakemake.

A run lives in runs/<profile>/ (runs/<profile>-<theory>/ under another theory). Notebooks talk to each other only
through the files of that folder; each leaves its part of the metrics, the manifest and the comparison with the paper.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from fulcra_utils.common.files import lock_output, write_atomic, write_json, write_table
from fulcra_utils.common.paths import ROOT, SHIPPED
from fulcra_utils.runs import profiles
from fulcra_utils.runs.profiles import DEFAULT_THEORY, PipelineError, StepError, load_profile, name_theory, open_theory
from fulcra_utils.theory.theory import THEORIES, Theory, list_theories, load_theory

PACKAGES = ("numpy", "pandas", "scipy", "statsmodels", "scikit-learn", "torch", "transformers", "trl", "peft",
            "papermill", "snakemake")
STARTED = "FULCRA_STARTED"      # in the environment of a kernel: the notebook that `run_notebook` executes there
# Which notebook makes the files below a folder of the run.
MAKERS = {"data": "01_dataset_construction", "analysis": "02_value_analysis", "evaluator": "03_value_evaluator",
          "alignment": "04_value_alignment"}


@dataclass
class Run:
    """What one notebook needs of its run: settings, paths, and where its results go. Made by `open_run`."""

    notebook: str
    profile: str
    theory: Theory
    folder: Path
    metrics: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.time)
    shown: set[Path] = field(default_factory=set)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Return this notebook's settings in the profile."""
        settings = load_profile(self.profile)["notebooks"].get(self.notebook)
        if settings is None:
            raise PipelineError(f"profiles/{self.profile}.yaml has no section {self.notebook!r}")
        return settings

    def settings_of(self, notebook: str) -> dict[str, Any]:
        """Return the settings with which an earlier notebook of this run ran; the profile's where it did not run."""
        manifest = self.folder / f"manifest/{notebook}.json"
        if not manifest.exists():
            return load_profile(self.profile)["notebooks"][notebook]
        return json.loads(manifest.read_text(encoding="utf-8"))["settings"]

    @property
    def seed(self) -> int:
        """Return the profile's seed."""
        return load_profile(self.profile)["seed"]

    def path(self, name: str) -> Path:
        """Return the path of a file in the run folder; its folder is made when missing."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def require(self, name: str) -> Path:
        """Return the path of a file that an earlier notebook makes.

        In the quick profile a missing file is made by running that notebook now; otherwise the error names it.
        """
        path, maker = self.folder / name, MAKERS.get(Path(name).parts[0], "")
        if path.exists():
            return path
        if self.profile == "quick" and maker not in ("", self.notebook):
            print(f"{name} is missing: running {maker} in the quick profile first …", flush=True)
            command = [sys.executable, "-m", "fulcra_utils.cli", "run-notebook", maker, "--profile", self.profile,
                       "--theory", name_theory(self.theory), "--run-dir", str(self.folder)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if path.exists():
                return path
            raise PipelineError(f"{maker} did not make {name}: {done.stderr.strip()[-500:]}")
        raise PipelineError(f"{path} is missing; it is made by {maker or 'an earlier notebook'}: "
                            f"run `fulcra reproduce --profile {self.profile}` or that notebook first")

    def record(self, **values: Any) -> None:
        """Keep numbers of this notebook for metrics.json."""
        self.metrics.update(values)

    def save_table(self, table: pd.DataFrame, name: str) -> Path:
        """Write a table (.csv or .parquet) into the run folder and return its path."""
        self.shown.add(self.path(name))
        return write_table(self.path(name), table)

    def save_figure(self, figure: Any, name: str, caption: str, left_out: str = "") -> Any:
        """Write a figure as PNG and PDF with its caption into figures/ of the run, and return it for display.

        With nothing to draw (None) no file is left, and a sentence is returned in its place: `left_out` or a plain one.
        """
        paths = {suffix: self.path(f"figures/{name}{suffix}") for suffix in (".png", ".pdf", ".json")}
        if figure is None:
            from IPython.display import Markdown
            for path in paths.values():
                path.unlink(missing_ok=True)
            return Markdown(left_out or "There is nothing to draw: the rows of this run do not allow it.")
        import matplotlib.pyplot as plt
        for suffix, options in ((".png", {"dpi": 150}), (".pdf", {"metadata": {"CreationDate": None}})):
            with write_atomic(paths[suffix]) as tmp:
                figure.savefig(tmp, bbox_inches="tight", **options)
        write_json(paths[".json"], {"notebook": self.notebook, "caption": caption})
        self.shown |= set(paths.values())
        plt.close(figure)
        return figure

    def compare(self, ours: pd.DataFrame) -> pd.DataFrame:
        """Put this notebook's numbers next to the reported ones and keep the verdicts; see `judge_claims`."""
        from fulcra_utils.runs.claims import judge_claims, load_reported
        table = judge_claims(ours, load_reported())
        self.save_table(table, f"reproduction/{self.notebook}.csv")
        return table

    def finish(self) -> None:
        """Write this notebook's parts of metrics.json and manifest.json: the last call of every notebook.

        What an earlier version of this notebook showed, and this one did not, is removed: it would be published. The
        manifest says so where `run_notebook` did not start it: the values in its cell need not be the profile's.
        """
        by_hand = {} if os.environ.get(STARTED) == self.notebook else {"given": {"run": "by hand"}}
        for folder in ("figures", "published", "reproduction"):
            for path in set(self.folder.glob(f"{folder}/{self.notebook[:2]}_*")) - self.shown:
                path.unlink()
        write_json(self.path(f"metrics/{self.notebook}.json"), self.metrics)
        write_json(self.path(f"manifest/{self.notebook}.json"), {
            "profile": self.profile, "theory": self.theory.name, "seed": self.seed, "settings": self.settings,
            "seconds": round(time.time() - self.started, 1), "python": sys.version.split()[0],
            "packages": {name: metadata.version(name) for name in PACKAGES}, "code": _code_version(), **by_hand})


def open_run(notebook: str, profile: str = "quick", theory: str | Path = DEFAULT_THEORY,
             run_dir: str | Path = "") -> Run:
    """Open the run folder of a profile for one notebook, making it when it is new.

    `run_dir` empty means runs/<profile>, with -<theory> under another theory than the default; a relative path starts
    at the study's folder (the checkout, or where `fulcra notebooks` copied to). The answer knows the run's theory,
    settings and seed and gives paths in it: `run.require("data/dialogues.parquet")` is a file of an earlier notebook,
    or an error that names its maker. An unknown profile or theory, or a folder that belongs to another one, is an error
    of one line.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     open_run("02_value_analysis", run_dir=folder).theory.n_dims
    10
    """
    load_profile(profile)
    loaded = open_theory(theory)
    is_ours = loaded.name in list_theories()
    if is_ours and loaded.path.parent != THEORIES and _list_words(loaded) != _list_words(load_theory(loaded.name)):
        raise PipelineError(f"{theory} is another theory than the one that comes with this project as {loaded.name!r}: "
                            "give it a name of its own")
    folder = ROOT / run_dir if run_dir else profiles.RUNS / profiles.name_run(profile, loaded)
    mark, mine = folder / "run.json", {"profile": profile, "theory": loaded.name}
    owner = json.loads(mark.read_text(encoding="utf-8")) if mark.is_file() else {}
    file = str(loaded.path.resolve()).removeprefix(f"{ROOT.resolve()}{os.sep}")
    told = mine | ({} if is_ours else {"theory_file": file})
    other = ROOT / owner.get("theory_file", file) if owner.get("theory") == loaded.name else ROOT / file
    if other != ROOT / file and other.is_file() and _list_words(open_theory(other)) != _list_words(loaded):
        raise PipelineError(f"{folder} belongs to another theory that is called {loaded.name!r}, {other}: give this "
                            "one a name of its own, or choose another run_dir")
    if not owner or owner != told and owner.items() >= mine.items():
        write_json(mark, told)
    elif owner != told:
        raise PipelineError(f"{folder} belongs to profile {owner['profile']!r} and theory {owner['theory']!r}, not to "
                            f"{profile!r} and {loaded.name!r}: choose another run_dir")
    return Run(notebook, profile, loaded, folder)


def find_run(run: str | Path, notebook: str = "") -> Run:
    """Open a run that stands there, by its folder or its name below runs/; ValueError for a folder that is none."""
    folder = Path(run) if (Path(run) / "run.json").is_file() else profiles.RUNS / run
    if not (folder / "run.json").is_file():
        raise ValueError(f"{run} is no run folder")
    told = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return open_run(notebook, told["profile"], told.get("theory_file", told["theory"]), folder.resolve())


def _list_words(theory: Theory) -> list[Any]:
    """Return all that two theories may differ in, items' dimensions and aliases, too."""
    return [theory, theory.item_dims.tolist(), theory.item_names, theory.dimension_names]


def run_notebook(name: str, profile: str = "quick", theory: str | Path = DEFAULT_THEORY, run_dir: str | Path = "",
                 parameters: dict[str, Any] | None = None, progress: bool = True) -> Path:
    """Execute a notebook with papermill, strictly, and return the path of the executed copy.

    The profile's settings that stand in the parameters cell are passed, then `parameters`. The executed notebook
    appears only when it is finished; one that failed is kept as <name>.failed.ipynb.

    `parameters` are values or their texts, of the kinds of the notebook's defaults: an unknown name, another kind or a
    name that stands for nothing is a PipelineError before anything runs (papermill itself only warns); an error inside
    is a StepError with its cell. `progress` shows the cells done, and what the notebook prints.
    """
    load_profile(profile)
    path = Path(name) if Path(name).suffix == ".ipynb" else profiles.NOTEBOOKS / f"{name}.ipynb"
    if not path.is_file():
        raise PipelineError(f"no notebook {name!r}; there are {', '.join(profiles.list_notebooks())}")
    values = profiles.collect_parameters(path, profile, open_theory(theory), run_dir, parameters or {})
    run = open_run(path.stem, profile, theory, run_dir)
    target = run.path(f"notebooks/{path.stem}.ipynb")
    unfinished = target.with_name(f".{path.stem}.running.ipynb")
    print(f"▶ {path.stem} (profile {run.profile}, theory {run.theory.name})", flush=True)
    os.environ[STARTED] = path.stem
    try:
        _execute(path, unfinished, values, progress)
    except BaseException:
        if unfinished.exists():
            unfinished.replace(target.with_name(f"{path.stem}.failed.ipynb"))
        raise
    finally:
        del os.environ[STARTED]
    note = run.path(f"manifest/{path.stem}.json")
    if parameters and note.is_file():
        told, given = json.loads(note.read_text(encoding="utf-8")), {name: values[name] for name in parameters}
        own = {name: value for name, value in given.items() if name in told["settings"]}
        write_json(note, told | {"settings": told["settings"] | own, "given": given})
    unfinished.replace(target)
    target.with_name(f"{path.stem}.failed.ipynb").unlink(missing_ok=True)
    return target


def _execute(source: Path, target: Path, values: dict[str, Any], progress: bool, tries: int = 3) -> None:
    import logging

    import papermill
    from papermill.exceptions import PapermillExecutionError

    logging.getLogger("papermill").setLevel(logging.ERROR)  # it calls known parameters unknown; ours were checked
    os.environ.setdefault("TQDM_MININTERVAL", "5")  # the kernel's bars pass through the notebook: a line now and then
    try:
        papermill.execute_notebook(str(source), str(target), parameters=values, progress_bar=progress,
                                   kernel_name="python3", language="python", cwd=str(ROOT), autosave_cell_every=30,
                                   extra_arguments=["--log-level=ERROR"], log_output=False,
                                   stdout_file=sys.stdout if progress else None,
                                   stderr_file=sys.stderr if progress else None)
    except PapermillExecutionError as error:
        raise StepError(f"{source.stem} stopped in cell {error.cell_index}: {error.ename}: {error.evalue}") from None
    except RuntimeError as error:  # a kernel that died, or did not start, its port taken by another: nothing ran yet
        if tries <= 1 or not re.search("died before replying|didn't respond in", str(error)):
            raise StepError(f"{source.stem} stopped: {error} (out of memory?)") from None
        _execute(source, target, values, progress, tries - 1)


def reproduce(profile: str = "laptop", theory: str | Path = DEFAULT_THEORY, mirror: str | Path | None = None,
              extra: tuple[str, ...] = ()) -> Path:
    """Run the whole pipeline of a profile with Snakemake, from where it stands, and return the report's index page.

    `mirror` is a folder with the public files, tried before the network; `extra` goes to snakemake (an executor for a
    cluster, say). A step that failed, or another process at work on the same run, is an error.
    """
    run = open_run("", profile, theory)
    with lock_output(run.folder):
        _fetch(run, mirror)
        _drop_given(run)
        page = run.folder / "report" / "index.html"
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(ROOT),
                   "--cores", "all", "--nolock", "--rerun-incomplete", "--rerun-triggers", "mtime", "params", "input",
                   "--quiet", "all", *extra, "--config", f"profile={profile}", f"theory={name_theory(run.theory)}",
                   "--", str(page.relative_to(ROOT))]
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
                       **({"FULCRA_DATA_MIRROR": str(Path(mirror).resolve())} if mirror else {})}
        if subprocess.run(command, check=False, env=environment).returncode:
            raise StepError("the pipeline stopped (the reason stands above); finished steps are kept, and the same "
                            "command goes on from there")
    return page


def _drop_given(run: Run) -> None:
    """Have the notebooks run again that were last run with other parameters than the profile's, or not to their end."""
    for path in sorted(run.folder.glob("manifest/*.json")):
        given = json.loads(path.read_text(encoding="utf-8")).get("given", {})
        if (done := run.folder / f"notebooks/{path.stem}.ipynb").is_file() and given:
            print(f"  {path.stem} runs again: it was run with {given}", flush=True)
            done.unlink()
    for path in sorted(run.folder.glob("notebooks/*.*.ipynb")):     # failed, and hidden ones: killed
        if (done := path.with_name(f"{path.name.lstrip('.').partition('.')[0]}.ipynb")).is_file():
            print(f"  {done.stem} runs again: its last run did not end, and may have left files", flush=True)
            done.unlink()


def _fetch(run: Run, mirror: str | Path | None) -> None:
    """Get the public files before the run and note what was had; the note changes only when its content does.

    A run that had a file is not made again without it.
    """
    from fulcra_utils.dataset.sources import fetch_sources, load_sources
    note = run.path("data/fetched.json")
    old = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else None
    if load_profile(run.profile).get("sources") == "sample":
        had = {}
    else:
        fetched = fetch_sources(mirror, say=lambda line: print(f"  {line}", flush=True))
        sources = load_sources()
        had = {name: sources[name].sha256 or sources[name].git_blob for name in fetched.paths}
        if gone := sorted(set(old or ()) - set(had)):
            raise PipelineError(f"{run.folder} was made with {', '.join(gone)}, which cannot be had now: name a "
                                f"mirror, or delete {note} to make the run anew without")
        if not had:
            print("No public file can be had: the run uses the embedded sample instead.", flush=True)
    if old != had:
        write_json(note, had)


def _code_version() -> str:
    """Return the git commit (with "+" when the tree differs), or the package version outside a checkout."""
    git = shutil.which("git") if (SHIPPED / ".git").exists() else None
    command = [git, "-C", str(SHIPPED), "describe", "--always", "--dirty=+"]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() if git else ""
    return told or metadata.version("fulcra-utils")

"""The wheel works where there is no checkout: built, installed into a fresh environment, used in an empty folder."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

import fulcra_utils
from fulcra_utils.common.paths import SHIPPED

SOURCES = ("fulcra_utils", "data", "notebooks", "profiles", "Snakefile", "pyproject.toml", "setup.py", "README.md",
           "LICENSE")
MAKE = """
from fulcra_utils import load_theory
from fulcra_utils.evaluator.encoder import load_encoder
from fulcra_utils.evaluator.model import make_evaluator, save_evaluator
for seed in (0, 1):
    save_evaluator(make_evaluator(load_encoder("tiny", seed=seed), load_theory("schwartz10")), f"evaluator{seed}")
"""


def run(*command, code=0, **options):
    done = subprocess.run([*map(str, command)], check=False, capture_output=True, text=True, **options)
    assert done.returncode == code, f"{command}: {done.stdout}\n{done.stderr}"
    return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the checkout, without the network."""
    pytest.importorskip("setuptools")
    copy = tmp_path_factory.mktemp("checkout")
    for name in SOURCES:
        if (SHIPPED / name).is_dir():
            shutil.copytree(SHIPPED / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "cache"))
        else:
            shutil.copyfile(SHIPPED / name, copy / name)
    (copy / "data" / "cache").mkdir()
    (copy / "data" / "cache" / "fetched.jsonl").write_text("not to be shipped")
    for step in ("init -q", "add pyproject.toml", "commit -qm First"):
        run("git", "-c", "user.name=Ann", "-c", "user.email=ann@example.org", *step.split(), cwd=copy)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-index", "--no-build-isolation", "-w",
        copy / "dist", copy)
    return next((copy / "dist").glob("*.whl"))


@pytest.mark.slow
def test_the_command_tells_the_commit_that_the_wheel_was_built_from(wheel, fulcra):
    commit = run("git", "rev-parse", "HEAD", cwd=wheel.parents[1])[:10]
    assert fulcra("--version") == f"fulcra {fulcra_utils.__version__} (commit {commit})\n"


@pytest.mark.slow
def test_pytest_finds_the_gate_of_an_installed_wheel(fulcra):
    told = fulcra("-m", "pytest", "--fixtures", "-q", "-p", "no:cacheprovider", command="python", code=0)
    assert "value_gate -- " in told


@pytest.fixture(scope="module")
def fulcra(wheel, tmp_path_factory):
    """Runs the command, or python, of an environment that holds the wheel, in an empty folder (or `cwd`)."""
    home, empty = tmp_path_factory.mktemp("environment"), tmp_path_factory.mktemp("empty")
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel)
    # the packages that the wheel needs are those of this environment, less this environment's own .pth files
    own = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    Path(own, "needed.pth").write_text(sysconfig.get_path("purelib"))
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    environment |= {"PATH": f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}", "FULCRA_DATA_MIRROR": ""}

    def call(*arguments, command="fulcra", cwd=empty, code=0):
        return run(home / "bin" / command, *arguments, cwd=cwd, env=environment, code=code)

    call.folder, call.data = empty, Path(own, "fulcra_utils", "data")
    return call


@pytest.mark.slow
def test_every_shipped_file_is_in_the_wheel(fulcra):
    def names(folder):
        return {str(p.relative_to(folder)) for part in ("data", "notebooks", "profiles")
                for p in (folder / part).rglob("*")
                if p.is_file() and not {"cache", "__pycache__"} & {*p.parts} and p.name[0] != "."}

    assert names(fulcra.data.parent) == names(SHIPPED) and not (fulcra.data / "cache").exists()
    assert (fulcra.data.parent / "Snakefile").is_file()


@pytest.mark.slow
def test_theories_are_known_and_named(fulcra):
    assert "10 dimensions, 54 items, no fault" in fulcra("check-theory", "schwartz10")
    told = fulcra("-c", "import fulcra_utils as f; print(f.load_theory('schwartz10').n_dims, f.__file__)",
                  command="python")
    assert told.split() == ["10", str(fulcra.data.parent / "__init__.py")]
    assert "known are gpla5, moral_foundations," in fulcra("check-theory", "nothing", code=2)


@pytest.mark.slow
def test_files_are_scored_and_compared(fulcra):
    fulcra("-c", MAKE, command="python")
    sample = fulcra.data / "sample" / "schwartz10.jsonl"
    for seed in (0, 1):
        fulcra("score", "--evaluator", f"evaluator{seed}", "--input", sample, "--output", f"scored{seed}.jsonl")
    rows = [json.loads(line) for line in (fulcra.folder / "scored0.jsonl").read_text().splitlines()]
    assert all(len(row["value_vector"]) == 10 for row in rows)
    table = json.loads(fulcra("compare", "scored0.jsonl", "scored1.jsonl", "--target", "ideal", "--tolerance", "9",
                              "--json"))
    assert "distance" in json.dumps(table)


@pytest.mark.slow
def test_an_evaluator_is_trained_from_rows(fulcra):
    fulcra("train", "--data", fulcra.data / "sample" / "schwartz10.jsonl", "--theory", "schwartz10", "--output", "own",
           "--encoder", "tiny")
    assert (fulcra.folder / "own" / "config.json").is_file()


@pytest.mark.slow
def test_a_study_of_ones_own_runs_in_its_folder(fulcra):
    assert "`fulcra notebooks DIR` copies them" in fulcra("reproduce", "--profile", "quick", code=2)
    study = fulcra.folder / "study"
    assert " 0 that stood there" in fulcra("notebooks", study)
    assert fulcra("notebooks", study).startswith("0 files written")
    fulcra("reproduce", "--profile", "quick", "--snakemake", "--until dataset_construction", cwd=study)
    assert (study / "runs" / "quick" / "notebooks" / "01_dataset_construction.ipynb").is_file()
    assert (study / "runs" / "quick" / "data" / "splits.parquet").is_file()

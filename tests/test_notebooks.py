"""The quick pipeline, notebook by notebook, and the whole of it through Snakemake."""

import contextlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from base64 import urlsafe_b64decode
from functools import partial, reduce
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from fulcra_utils.common.paths import ROOT
from fulcra_utils.runs.pipeline import open_run, run_notebook
from fulcra_utils.runs.profiles import list_notebooks
from fulcra_utils.runs.report import build_report

GOLDEN = json.loads((Path(__file__).parent / "golden" / "quick.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def quick(tmp_path_factory):
    """The folder of a quick run, every notebook executed in order."""
    folder = tmp_path_factory.mktemp("quick")
    for name in list_notebooks():
        run_notebook(name, run_dir=folder, progress=False)
    build_report(open_run("report", run_dir=folder))
    return folder


def test_no_two_notebooks_save_the_same_table():
    saved = [file for path in (ROOT / "notebooks").glob("*.ipynb")
             for file in set(re.findall(r"save_table\(.*?(analysis/\w+\.csv)", path.read_text(encoding="utf-8")))]
    assert len(saved) > 30 and len(saved) == len(set(saved))


@pytest.mark.parametrize("name", list_notebooks())
def test_notebook_ran_to_its_end(quick, name):
    assert (quick / "metrics" / f"{name}.json").is_file() and (quick / "manifest" / f"{name}.json").is_file()
    assert (quick / "report" / f"{name}.html").is_file()


@pytest.mark.parametrize(("notebook", "metric"), [(n, m) for n, metrics in GOLDEN.items() for m in metrics])
def test_golden_numbers(quick, notebook, metric):
    """What no training shapes is tight; the others may move as far as seeds 1 to 4 (04: 1 to 3) moved them."""
    value, tolerance = GOLDEN[notebook][metric]
    metrics = json.loads((quick / "metrics.json").read_text(encoding="utf-8"))[notebook]
    ours = reduce(lambda part, name: part[name], metric.split(" > "), metrics)
    assert math.isclose(ours, value, rel_tol=0, abs_tol=tolerance), f"{ours} is not {value} ± {tolerance}"


def test_the_readme_runs(quick, tmp_path, monkeypatch, capsys):
    pages = ("README.md", "data/site/pages/commands.md", "data/site/pages/align.md")
    code = "".join("".join(re.findall(r"```python\n(.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL))
                   for page in pages)
    for told, small in {"runs/laptop": str(quick), "[:100]": "[:2]", "[:160]": "[:4]",
                        "smollm2-135m": f"{quick}/alignment/start",
                        "steps=20, lora_rank=8)": "steps=1, prompts_per_step=2, replies_per_prompt=2)",
                        '"aligned", settings)': '"aligned", settings, allow_faults=True)'}.items():
        assert told in code
        code = code.replace(told, small)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    shown = [line.split() for line in capsys.readouterr().out.splitlines() if " " in line][-2:]
    assert [name for name, _ in shown] == [f"{quick}/alignment/start", "aligned"]
    assert all(0 < float(distance) < 20 for _, distance in shown)


def test_contracts_of_a_run(quick):
    splits = pd.read_parquet(quick / "data" / "splits.parquet")
    assert list(splits) == ["prompt", "cluster", "split", "half"] and splits.prompt.is_unique
    assert set(splits.split) == {"train", "validation", "calibration", "test"}
    claims = pd.read_csv(quick / "reproduction.csv")
    assert set(claims.verdict) <= {"reproduced", "differs", "not comparable"}
    assert not (claims.verdict[claims.kind == "other population"] == "reproduced").any()
    assert (quick / "report" / "index.html").stat().st_size > 10_000


def test_nothing_names_this_machine_or_a_key(quick):
    told = "\n".join(p.read_text(encoding="utf-8", errors="replace") for p in
                     [*quick.glob("*.json"), *quick.glob("*.csv"), *quick.glob("figures/*.json")])
    assert str(Path.home()) + "/" not in told and str(ROOT) not in told and str(quick) not in told


def fulcra(tree, *arguments):
    """Run the command on another copy of the project."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "FULCRA_DATA_MIRROR": "", "FULCRA_CACHE": str(tree / "cache")}
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a background job ignores Ctrl-C
    return subprocess.Popen([sys.executable, "-m", "fulcra_utils.cli", *arguments], cwd=tree, env=environment,
                            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
                            preexec_fn=heed)


@pytest.fixture
def tree(tmp_path):
    """A copy of the project whose notebooks are cut down to one cell that leaves the files the next one reads.

    Only what a run needs is copied, without caches: tests at the same time write and remove files of a moment there
    (compiled modules, temporary files, pytest's own cache), and a copy of everything falls over one that has gone.
    """
    copy = tmp_path / "project"
    copy.mkdir()
    for part in ("data", "fulcra_utils", "notebooks", "profiles"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__", "cache", ".*", "*.tmp"))
    for part in ("Snakefile", "README.md", "pyproject.toml"):
        shutil.copy2(ROOT / part, copy / part)
    tables = ("dialogues", "items", "scored", "prompts", "preferences", "splits")
    makes = {"01": ["data/queue.csv", *(f"data/{name}.parquet" for name in tables)], "06": ["report/compass.html"]}
    for path in copy.glob("notebooks/*.ipynb"):
        book = nbformat.read(path, as_version=4)
        parameters = next(c for c in book.cells if "parameters" in c.metadata.get("tags", []))
        lines = ["from fulcra_utils.runs.pipeline import open_run", "import time", "time.sleep(1)",
                 f"run = open_run({path.stem!r}, profile=profile, theory=theory, run_dir=run_dir)"]
        lines += [f"run.path({name!r}).write_text('x')" for name in makes.get(path.stem[:2], [])]
        lines += ["if False: from fulcra_utils.evaluator import model"] * (path.stem[:2] == "03")
        lines += ["(open(run.folder / 'ran.txt', 'a')).write(run.notebook[:2] + ' ')", "run.finish()"]
        book.cells = [parameters, nbformat.v4.new_code_cell("\n".join(lines))]
        nbformat.write(book, path)
    return copy


def ran(tree, profile="quick"):
    path = tree / "runs" / profile / "ran.txt"
    names = path.read_text().split() if path.exists() else []
    path.unlink(missing_ok=True)
    return sorted(names)


@pytest.mark.slow
def test_a_principle_of_ones_own_is_judged_by_what_the_shipped_labels_taught(quick, tmp_path):
    mine, run = tmp_path / "mine.yaml", tmp_path / "run"
    mine.write_text("principles:\n- {principle: Waste nothing., values: [universalism], setting: The bread was old., "
                    "opening: Ann decided to, kept: toast it., violated: throw it away.}\nedits: [It rained., It was.]")
    shutil.copytree(quick, run)
    run_notebook("10_generative_evaluation", run_dir=run, parameters={"principles_file": str(mine)}, progress=False)
    before, after = (json.loads((folder / "metrics" / "10_generative_evaluation.json").read_text(encoding="utf-8"))
                     for folder in (quick, run))
    assert after["n_principles"] == 1 and after["threshold"] == pytest.approx(before["threshold"])
    assert after["judge"] == pytest.approx(before["judge"], nan_ok=True)


@pytest.mark.slow
def test_snakemake_runs_each_step_once_and_only_what_changed(tree):
    everything = [name[:2] for name in list_notebooks()]
    first = fulcra(tree, "reproduce", "--profile", "quick")
    out = first.communicate()[0]
    assert first.returncode == 0, out
    assert ran(tree) == everything and (tree / "runs" / "quick" / "report" / "index.html").is_file()
    again = fulcra(tree, "reproduce", "--profile", "quick")
    assert again.communicate() and again.returncode == 0 and ran(tree) == []

    book = tree / "notebooks" / "04_value_alignment.ipynb"
    book.write_text(book.read_text().replace("time.sleep(1)", "time.sleep(0)"))
    assert fulcra(tree, "reproduce", "--profile", "quick").communicate()
    assert ran(tree) == ["04", "06", "07", "08", "09", "10", "11", "12"]  # these rank the models of 04, or ask them
    module = tree / "fulcra_utils" / "evaluator" / "model.py"
    module.write_text(module.read_text() + "\n")
    assert fulcra(tree, "reproduce", "--profile", "quick").communicate()
    assert ran(tree) == everything[2:]  # what uses it, and what reads what that wrote


def recorded(tree):
    """Return the executed notebooks that Snakemake has recorded as finished: those without its mark of a step begun.

    The file of a notebook is there a moment before the record is; what is killed in that moment is made again.
    """
    marks = tree / ".snakemake" / "incomplete"
    begun = ["".join(part.lstrip("@") for part in path.relative_to(marks).parts) for path in marks.rglob("*")]
    begun = {Path(urlsafe_b64decode(mark).decode()).name for mark in begun if len(mark) % 4 == 0}
    return {p.name for p in (tree / "runs" / "quick" / "notebooks").glob("[0-9]*.ipynb")} - begun


@pytest.mark.slow
def test_sigkill_at_any_moment_loses_nothing_finished(tree):
    finished = set()
    for more in (0, 0.2, 0.5, 1, 2, 4):  # seconds
        process = fulcra(tree, "reproduce", "--profile", "quick")
        while process.poll() is None and recorded(tree) <= finished:
            time.sleep(0.05)
        time.sleep(more)
        if process.poll() is not None:
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert finished < (finished := recorded(tree))
    assert finished
    last = fulcra(tree, "reproduce", "--profile", "quick")
    out = last.communicate()[0]
    assert last.returncode == 0, out
    assert {p.stem for p in (tree / "runs" / "quick" / "notebooks").glob("[0-9]*.ipynb")} == set(list_notebooks())


@pytest.mark.slow
def test_ctrl_c_of_a_whole_run_is_one_line_and_keeps_what_is_finished(tree):
    process = fulcra(tree, "reproduce", "--profile", "quick")
    done = tree / "runs" / "quick" / "notebooks" / "01_dataset_construction.ipynb"
    while process.poll() is None and not list(done.parent.glob("*02_value*")):  # the first is done, the next has begun
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    out = process.communicate()[0]
    assert process.returncode == 130, out
    assert "fulcra: interrupted: finished steps are kept" in out and "Traceback" not in out.splitlines()[-1]
    assert done.exists() and not list(done.parent.glob(".*.tmp"))
    ran(tree)
    assert fulcra(tree, "reproduce", "--profile", "quick").communicate()
    assert ran(tree) == [name[:2] for name in list_notebooks()][1:]


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_that_fills_up_leaves_nothing_half_written(tree):
    disk = tree / "runs"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", disk], check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        filler = disk / "filler"
        with contextlib.suppress(OSError):
            filler.write_bytes(b"x" * 5_087_000)
        process = fulcra(tree, "reproduce", "--profile", "quick")
        out = process.communicate()[0]
        assert process.returncode in (1, 2) and "No space left on device" in out, out
        finished = list((disk / "quick" / "notebooks").glob("[0-9]*.ipynb"))
        assert all(nbformat.read(path, as_version=4).cells for path in finished if "failed" not in path.name)
        filler.unlink()
        again = fulcra(tree, "reproduce", "--profile", "quick")
        out = again.communicate()[0]
        assert again.returncode == 0, out
    finally:
        subprocess.run(["umount", disk], check=False)


@pytest.mark.slow
def test_without_mirror_and_network_the_laptop_profile_uses_the_sample_and_says_so(tree):
    process = fulcra(tree, "reproduce", "--profile", "laptop")
    out = process.communicate()[0]
    assert process.returncode == 0 and "uses the embedded sample instead" in out
    assert "embedded sample only" in (tree / "runs" / "laptop" / "report" / "index.html").read_text()


@pytest.mark.slow
def test_failed_step_is_one_line_and_exit_1(tree):
    book = tree / "notebooks" / "02_value_analysis.ipynb"
    book.write_text(book.read_text().replace("time.sleep(1)", "raise OSError(28, 'No space left on device')"))
    process = fulcra(tree, "reproduce", "--profile", "quick")
    out = process.communicate()[0]
    assert process.returncode == 1
    assert "fulcra: 02_value_analysis stopped in cell" in out and "No space left on device" in out
    assert not (tree / "runs" / "quick" / "notebooks" / "02_value_analysis.ipynb").exists()

"""Running notebooks: parameters, failures, locks, what a run folder holds, and how the project is set up."""

import json
import os
import subprocess
import sys
import tomllib
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest
import yaml
from small_notebooks import make_notebook, run_it

from fulcra_utils.common.files import lock_output
from fulcra_utils.common.paths import ROOT
from fulcra_utils.dataset import sources
from fulcra_utils.runs import pipeline, profiles
from fulcra_utils.runs.pipeline import open_run, run_notebook
from fulcra_utils.runs.profiles import PipelineError, StepError, list_notebooks, load_profile, read_parameters
from fulcra_utils.theory.theory import TheoryError


def test_parameters_reach_the_notebook(tmp_path):
    path = make_notebook(tmp_path, "import os\nfrom pathlib import Path\n(Path(run_dir) / 'out.txt').write_text("
                                   "f'{n} {theory} ' + os.environ['FULCRA_STARTED'])")
    done = run_it(path, tmp_path, n=7)
    assert (tmp_path / "run" / "out.txt").read_text() == "7 schwartz10 99_try" and "FULCRA_STARTED" not in os.environ
    assert done == tmp_path / "run" / "notebooks" / "99_try.ipynb"
    assert json.loads((tmp_path / "run" / "run.json").read_text()) == {"profile": "quick", "theory": "schwartz10"}


def test_failure_names_the_cell_and_keeps_the_old_result(tmp_path):
    done = run_it(make_notebook(tmp_path, "1 + 1"), tmp_path)
    before = done.read_bytes()
    with pytest.raises(StepError, match=r"99_try stopped in cell 2: OSError: .*No space left"):
        run_it(make_notebook(tmp_path, "raise OSError(28, 'No space left on device')"), tmp_path)
    assert done.read_bytes() == before
    assert sorted(p.name for p in done.parent.iterdir()) == ["99_try.failed.ipynb", "99_try.ipynb"]


@pytest.mark.parametrize(("said", "n_tries"), [("Kernel died before replying to kernel_info", 3),
                                                ("Kernel didn't respond in 60 seconds", 3), ("Kernel died", 1)])
def test_a_kernel_that_did_not_start_is_started_again(tmp_path, monkeypatch, said, n_tries):
    import papermill
    tried = []

    def fail(*args, **options):
        tried.append(1)
        raise RuntimeError(said)

    monkeypatch.setattr(papermill, "execute_notebook", fail)
    with pytest.raises(StepError, match="99_try stopped: Kernel"):
        run_it(make_notebook(tmp_path, "1 + 1"), tmp_path)
    assert len(tried) == n_tries, "what ran in part is not run again"


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"profile": "fast"}, PipelineError, "no profile 'fast'; there are laptop"),
    ({"theory": "nothing"}, TheoryError, "no such theory"),
    ({"theory": "moral_foundations"}, PipelineError, "belongs to profile 'quick' and theory 'schwartz10'"),
    ({"profile": "laptop"}, PipelineError, "belongs to profile 'quick'")])
def test_unknown_names_and_foreign_folders(tmp_path, options, error, message):
    open_run("02_value_analysis", run_dir=tmp_path)
    with pytest.raises(error, match=message):
        open_run("02_value_analysis", run_dir=tmp_path, **options)


def test_another_theory_of_the_same_name_is_refused(tmp_path):
    text = yaml.safe_load((ROOT / "data/theories/moral_foundations.yaml").read_text(encoding="utf-8"))
    for place, first in (("a", text), ("b", text), ("c", text | {"title": "Others"})):
        (tmp_path / place).mkdir()
        (tmp_path / place / "mine.yaml").write_text(yaml.safe_dump(first | {"name": "mine"}, sort_keys=False))
    for place in "ab":      # a copy elsewhere is the same theory
        open_run("02_value_analysis", theory=tmp_path / place / "mine.yaml", run_dir=tmp_path / "run")
    with pytest.raises(PipelineError, match="belongs to another theory that is called 'mine'"):
        open_run("02_value_analysis", theory=tmp_path / "c" / "mine.yaml", run_dir=tmp_path / "run")


def test_a_notebook_that_did_not_end_runs_again(tmp_path):
    done = run_it(make_notebook(tmp_path, "1 + 1"), tmp_path)
    run = open_run("99_try", run_dir=tmp_path / "run")
    pipeline._drop_given(run)
    assert done.is_file()
    with pytest.raises(StepError):      # it may have left files before it failed
        run_it(make_notebook(tmp_path, "1 / 0"), tmp_path)
    pipeline._drop_given(run)
    assert not done.exists() and done.with_suffix(".failed.ipynb").is_file()


def test_unknown_notebook():
    with pytest.raises(PipelineError, match="no notebook '77_x'"):
        run_notebook("77_x")


def test_missing_input_names_its_maker(tmp_path):
    run = open_run("04_value_alignment", profile="laptop", run_dir=tmp_path)
    with pytest.raises(PipelineError, match="made by 03_value_evaluator"):
        run.require("evaluator/config.json")


def test_run_keeps_its_parts(tmp_path, any_theory):
    import matplotlib.pyplot as plt
    run = open_run("02_value_analysis", theory=any_theory.path, run_dir=tmp_path)
    run.save_figure(plt.subplots()[0], "02_x", caption="n = 3")
    run.save_figure(plt.subplots()[0], "02_y", caption="of an earlier run")
    assert run.save_figure(None, "02_y", "n = 0", left_out="No rows.").data == "No rows."
    run.save_table(pd.DataFrame({"a": [1]}), "analysis/a.csv")
    run.record(n=3, x=float("nan"))
    run.finish()
    assert json.loads((tmp_path / "metrics" / "02_value_analysis.json").read_text()) == {"n": 3, "x": None}
    manifest = json.loads((tmp_path / "manifest" / "02_value_analysis.json").read_text())
    assert manifest["theory"] == any_theory.name and manifest["packages"]["numpy"] and manifest["seconds"] >= 0
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {"02_x.png", "02_x.pdf", "02_x.json"}


def test_what_a_notebook_shows_no_more_is_removed_at_its_end(tmp_path):
    import matplotlib.pyplot as plt
    for names in (("a", "b"), ("b",)):
        run = open_run("02_value_analysis", run_dir=tmp_path)
        run.path("figures/03_other.png").write_bytes(b"")
        for name in names:
            run.save_figure(plt.subplots()[0], f"02_{name}", caption="")
            run.save_table(pd.DataFrame({"a": [1]}), f"published/02_{name}.csv")
            run.save_table(pd.DataFrame({"a": [1]}), f"analysis/{name}.csv")
        run.finish()
    left = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.*") if p.parent.name in
            ("figures", "published", "analysis")}
    assert left == {"figures/02_b.png", "figures/02_b.pdf", "figures/02_b.json", "figures/03_other.png",
                    "published/02_b.csv", "analysis/a.csv", "analysis/b.csv"}


def test_a_notebook_learns_with_which_settings_an_earlier_one_ran(tmp_path):
    run = open_run("03_value_evaluator", run_dir=tmp_path)
    run.settings.update(epochs=99)
    run.finish()
    later = open_run("12_reliability", run_dir=tmp_path)
    assert later.settings_of("03_value_evaluator") == load_profile("quick")["notebooks"]["03_value_evaluator"] | {
        "epochs": 99}
    assert later.settings_of("04_value_alignment")["start_model"] == "tiny", "04 did not run: the profile's settings"


def test_two_processes_do_not_share_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(profiles, "RUNS", tmp_path)
    with lock_output(tmp_path / "quick"), pytest.raises(ValueError, match="another run writes .*quick"):
        pipeline.reproduce("quick")
    with lock_output(tmp_path / "quick"):  # free again
        pass


@pytest.mark.parametrize("name", list_notebooks())
def test_notebook_is_thin_and_clean(name):
    path = ROOT / "notebooks" / f"{name}.ipynb"
    book = nbformat.read(path, as_version=4)
    code = [c for c in book.cells if c.cell_type == "code"]
    assert not any(c.outputs or c.execution_count for c in code), "outputs are stripped in git"
    source = "\n".join(c.source for c in code)
    assert not any(line.startswith(("def ", "class ", "!", "%pip")) or "sys.path" in line for line in
                   source.splitlines())
    assert "run.finish()" in code[-1].source
    assert any("**Conclusion.**" in c.source or "## Conclusion" in c.source for c in book.cells), "the report quotes it"
    defaults = read_parameters(path)
    assert {"profile": "quick", "theory": "schwartz10", "run_dir": ""}.items() <= defaults.items()
    settings = load_profile("quick")["notebooks"][name]
    own = defaults.keys() - {"profile", "theory", "run_dir"}
    assert {k: defaults[k] for k in own} == {k: settings[k] for k in own}, "defaults are the quick profile's"


def test_conda_installs_the_same_thing():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert pip == ["-c constraints.txt", "-e .[dev]"]
    assert project["requires-python"] in next(d for d in environment["dependencies"] if "python" in d).replace(
        "python", "", 1)
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in
              (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if "==" in line}
    wanted = [d for group in (project["dependencies"], project["optional-dependencies"]["dev"]) for d in group]
    assert {d.split(">=")[0].split("==")[0].split("[")[0].lower() for d in wanted} <= pinned


def test_a_folder_without_notebooks_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setattr(profiles, "PROFILES", tmp_path)
    for start in (lambda: run_notebook("02_value_analysis"), lambda: open_run("x"), pipeline.reproduce):
        with pytest.raises(PipelineError, match="`fulcra notebooks DIR` copies them"):
            start()


def test_light_import_stays_light():
    code = ("import sys, fulcra_utils, fulcra_utils.theory.theory, fulcra_utils.dataset.rows, "
            "fulcra_utils.dataset.sources, fulcra_utils.runs.pipeline, fulcra_utils.stats.comparison; "
            "import fulcra_utils.cli; sys.exit(any(m in sys.modules for m in ('torch', 'transformers')))")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_note_of_fetched_files_is_rewritten_when_its_content_changes_alone(tmp_path):
    run = pipeline.open_run("fetch", run_dir=tmp_path)
    note = run.path("data/fetched.json")
    pipeline._fetch(run, None)
    assert json.loads(note.read_text()) == {}
    os.utime(note, (1, 1))
    pipeline._fetch(run, None)
    assert note.stat().st_mtime == 1
    note.write_text('{"a file of another time": "0"}')
    pipeline._fetch(run, None)
    assert json.loads(note.read_text()) == {}


def test_a_run_that_had_a_file_is_not_made_again_without_it(tmp_path, monkeypatch):
    run = pipeline.open_run("fetch", profile="laptop", run_dir=tmp_path)
    monkeypatch.setattr(sources, "fetch_sources", lambda *_, **__: SimpleNamespace(paths={}))
    pipeline._fetch(run, None)      # the first run may do without
    note = run.path("data/fetched.json")
    note.write_text('{"trustworthy_data": "0"}')
    with pytest.raises(PipelineError, match="was made with trustworthy_data, which cannot be had now"):
        pipeline._fetch(run, None)
    assert json.loads(note.read_text()) == {"trustworthy_data": "0"}

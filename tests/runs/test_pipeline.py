import json
import re
import subprocess
import sys
import tomllib

import nbformat
import pandas as pd
import pytest
import yaml

from fulcra_utils.common.files import lock_output
from fulcra_utils.common.paths import ROOT
from fulcra_utils.runs import pipeline, profiles
from fulcra_utils.runs.pipeline import open_run, run_notebook
from fulcra_utils.runs.profiles import (
    KINDS,
    NOTEBOOKS,
    PipelineError,
    StepError,
    _list_imports,
    collect_parameters,
    copy_notebooks,
    list_notebooks,
    list_profiles,
    load_profile,
    modules_of,
    read_parameters,
    read_value,
)
from fulcra_utils.theory.theory import TheoryError, load_theory

PARAMETERS = 'profile = "quick"\ntheory = "schwartz10"\nrun_dir = ""\nn = 1  # rows'


def make_notebook(folder, *cells, tag="parameters", first=PARAMETERS):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in (first, *cells)])
    book.cells[0].metadata["tags"] = [tag] if tag else []
    path = folder / "99_try.ipynb"
    nbformat.write(book, path)
    return path


def run_it(path, tmp_path, **parameters):
    return run_notebook(str(path), run_dir=tmp_path / "run", parameters=parameters, progress=False)


def test_parameters_reach_the_notebook(tmp_path):
    path = make_notebook(tmp_path, "from pathlib import Path\n(Path(run_dir) / 'out.txt').write_text(f'{n} {theory}')")
    done = run_it(path, tmp_path, n=7)
    assert (tmp_path / "run" / "out.txt").read_text() == "7 schwartz10"
    assert done == tmp_path / "run" / "notebooks" / "99_try.ipynb"
    assert json.loads((tmp_path / "run" / "run.json").read_text()) == {"profile": "quick", "theory": "schwartz10"}


def test_unknown_parameter_raises(tmp_path):
    with pytest.raises(PipelineError, match="no parameter 'm'; it has profile, theory, run_dir, n"):
        run_it(make_notebook(tmp_path), tmp_path, m=1)


SAID = [(5, "1e1", 10), (5, "1_000", 1000), (5, "0x10", 16), (5, "1.0", 1), (5, "'10'", 10), (5, "010", 10),
        (5, " 7 ", 7), (5, "99999999999999999999", 99999999999999999999), (5, 7.0, 7), (0.5, "1e-3", 0.001),
        (0.5, "3", 3.0), (True, "false", False), (True, "No", False), ("x", "1e1", "1e1"), ("x", "no", "no"),
        ("x", "", ""), ("x", "'a b'", "a b"), ("x", "gpt: 4", "gpt: 4"), ([], "[a, 'b c']", ["a", "b c"]),
        (["a"], "[]", []), ([3], "[1e1, 2]", [10, 2]),
        ({}, "{security: 1e1, power: 2}", {"security": 10.0, "power": 2.0}), ({}, "{}", {})]
REFUSED = [(5, "2.5"), (5, "true"), (5, True), (5, ""), (5, "null"), (5, "nan"), (5, "inf"), (5, "1e400"), (5, "ten"),
           (5, "[1]"), (0.5, "1,5"), (0.5, "nan"), (0.5, None), (True, "1"), (True, "maybe"), (True, ""), (True, 0),
           ([], "a"), ([], "a,b"), ([], "[1, 2]"), ([], "[[a]]"), ([], "[null]"), ([], ""), ([], "{a: 1}"),
           ([], "null"), (["a"], "[2]"), ({}, "security"), ({}, "{security: high}"), ({}, "{security}"), ({}, "{1: 2}"),
           ({}, "{"), ({}, "{a: 1, a: -1}"), ({}, "[a]"), ({}, ""), ("x", "null"), ("x", "[a]"),
           ("x", "{a: 1}"), ("x", 3), ("x", None), ("x", True)]


@pytest.mark.parametrize(("default", "given", "value"), SAID)
def test_a_value_is_read_in_the_kind_of_its_default(default, given, value):
    found = read_value("n", given, default)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(("default", "given"), REFUSED)
def test_a_value_of_another_kind_is_refused_in_one_line(default, given):
    kind, example = KINDS[type(default)]
    with pytest.raises(PipelineError) as refused:
        read_value("n", given, default)
    assert str(refused.value) == f"n is {given!r}, where {kind} is wanted, as in n={example}"
    read_value("n", example, default)


@pytest.mark.parametrize(("name", "given", "message"), [
    ("06_value_compass", {"models_folder": "no/such"}, "models_folder: there is no folder 'no/such'"),
    ("06_value_compass", {"models_folder": "README.md"}, "models_folder: there is no folder"),
    ("06_value_compass", {"theories": ["schwarz"]}, "theories: no such theory as 'schwarz'"),
    ("06_value_compass", {"weights": {"securty": 1}}, "weights: weight for 'securty', which is no dimension"),
    ("06_value_compass", {"weights": "{security: -1}"}, "weights: the weight of security is -1"),
    ("05_new_value_theory", {"second_theory": "nothing"}, "second_theory: no such theory as 'nothing'"),
    ("04_value_alignment", {"target": "heaven"}, "target: no such target as 'heaven'"),
    ("01_dataset_construction", {"sources": "pubic"}, "sources is 'pubic'; it can be sample or public"),
    ("02_value_analysis", {"profile": "laptop"}, "use --profile"),
    ("02_value_analysis", {"run_dir": "x"}, "use --run-dir")])
def test_names_that_stand_for_nothing_are_said_before_anything_runs(tmp_path, monkeypatch, name, given, message):
    monkeypatch.setattr(pipeline, "_execute", lambda *_: pytest.fail("something ran"))
    with pytest.raises(PipelineError, match=message):
        run_notebook(name, run_dir=tmp_path / "run", parameters=given)
    assert not (tmp_path / "run").exists()


def test_every_profile_says_values_of_the_right_kind(tmp_path, monkeypatch):
    theory = load_theory("schwartz10")
    for profile in list_profiles():
        for name in list_notebooks():
            values = collect_parameters(NOTEBOOKS / f"{name}.ipynb", profile, theory, "", {})
            assert set(values) == set(read_parameters(NOTEBOOKS / f"{name}.ipynb"))
    wrong = {"notebooks": {"07_social_value_orientation": {"n_repeats": "many"}}}
    monkeypatch.setattr(profiles, "load_profile", lambda _: wrong)
    with pytest.raises(PipelineError, match="profiles/quick.yaml, 07_social_value_orientation: n_repeats is 'many'"):
        run_notebook("07_social_value_orientation", run_dir=tmp_path / "run")


@pytest.mark.parametrize(("tag", "first", "message"), [
    (None, PARAMETERS, "0 cells carry the tag"), ("parameters", "n = open('x')", "no plain literal")])
def test_bad_parameters_cell_raises(tmp_path, tag, first, message):
    with pytest.raises(PipelineError, match=message):
        run_it(make_notebook(tmp_path, tag=tag, first=first), tmp_path)


def test_failure_names_the_cell_and_keeps_the_old_result(tmp_path):
    done = run_it(make_notebook(tmp_path, "1 + 1"), tmp_path)
    before = done.read_bytes()
    with pytest.raises(StepError, match=r"99_try stopped in cell 2: OSError: .*No space left"):
        run_it(make_notebook(tmp_path, "raise OSError(28, 'No space left on device')"), tmp_path)
    assert done.read_bytes() == before
    assert sorted(p.name for p in done.parent.iterdir()) == ["99_try.failed.ipynb", "99_try.ipynb"]


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"profile": "fast"}, PipelineError, "no profile 'fast'; there are laptop"),
    ({"theory": "nothing"}, TheoryError, "no such theory"),
    ({"theory": "moral_foundations"}, PipelineError, "belongs to profile 'quick' and theory 'schwartz10'"),
    ({"profile": "laptop"}, PipelineError, "belongs to profile 'quick'")])
def test_unknown_names_and_foreign_folders(tmp_path, options, error, message):
    open_run("02_value_analysis", run_dir=tmp_path)
    with pytest.raises(error, match=message):
        open_run("02_value_analysis", run_dir=tmp_path, **options)


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
    with pytest.raises(PipelineError, match=r"01_dataset_construction.json is missing"):
        later.settings_of("01_dataset_construction")


def test_two_processes_do_not_share_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(profiles, "RUNS", tmp_path)
    with lock_output(tmp_path / "quick"), pytest.raises(ValueError, match="another run writes .*quick"):
        pipeline.reproduce("quick")
    with lock_output(tmp_path / "quick"):  # free again
        pass


def test_rules_follow_the_modules_a_notebook_uses():
    names = {p.stem for p in modules_of("03_value_evaluator")}
    assert {"evaluator", "encoder", "theory"} <= names and not names & {"pipeline", "report", "cli"}
    assert "evaluator" not in {p.stem for p in modules_of("02_value_analysis")}
    users = {name for name in list_notebooks() if "slider" in {p.stem for p in modules_of(name)}}
    assert users == {"07_social_value_orientation"}
    head, *rules = (ROOT / "Snakefile").read_text(encoding="utf-8").split("\nrule ")
    rules = dict(rule.split(":", 1) for rule in rules)
    assert "refusals.yaml" in head
    for name, texts in {"dataset_construction": ("prompts", "dataset_card.md"), "reliability": ("attacks.yaml",),
                        "value_evaluator": ("attacks.yaml", "evaluator_card.md")}.items():
        assert all(text in rules[name] for text in texts)


@pytest.fixture
def package(tmp_path, monkeypatch):
    files = {"stats.py": "", "theory/far.py": "import fulcra_utils.stats.comparison",
             "theory/__init__.py": "",
             "theory/shape.py": "from fulcra_utils.deep.inner.low import thing", "deep/__init__.py": "",
             "__init__.py": "",
             "deep/inner/__init__.py": "",
             "deep/inner/low.py": ""}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(profiles, "PACKAGE", tmp_path)


@pytest.mark.parametrize(("code", "modules"), [
    ("from fulcra_utils.theory.shape import Theory", {"theory.shape"}),
    ("from fulcra_utils.theory import Theory", {"theory.shape", "theory.far"}),    # through the door of a folder
    ("from fulcra_utils import Theory", {"theory.shape", "theory.far", "stats", "deep.inner.low"}),   # of the package
    ("from fulcra_utils.theory import far", {"theory.far"}),
    ("from fulcra_utils import theory as t, stats\nt.f(t.Theory)", {"theory.far", "theory.shape", "stats"}),
    ("from fulcra_utils.deep.inner import low", {"deep.inner.low"}),
    ("def f():\n    import fulcra_utils.deep.inner.low", {"deep.inner.low"}),
    ("import numpy\nfrom fulcra import theory", set()),
])
def test_modules_in_folders_are_found_by_dotted_names(package, code, modules):
    found = {path.relative_to(profiles.PACKAGE).with_suffix("") for path in _list_imports(code) if path.stem[0] != "_"}
    assert {".".join(path.parts) for path in found} == modules


def test_profiles_have_the_same_keys():
    quick = load_profile("quick")
    assert list_profiles() == ("laptop", "paper", "quick", "thorough")
    for name in list_profiles():
        other = load_profile(name)
        assert other.keys() == quick.keys() and other["notebooks"].keys() == quick["notebooks"].keys()
        for book, settings in quick["notebooks"].items():
            assert other["notebooks"][book].keys() == settings.keys(), (name, book)
    assert set(quick["notebooks"]) == set(list_notebooks())


def test_every_setting_has_a_comment_and_the_same_in_every_profile():
    told = {}
    for name in list_profiles():
        text = (ROOT / "profiles" / f"{name}.yaml").read_text(encoding="utf-8")
        for block in re.split(r"^  (?=\d\d_)", text, flags=re.M)[1:]:
            head, *lines = block.rstrip().splitlines()
            found = [re.fullmatch(r"    (\w+): \S.*?  # (\w.*)", line) for line in lines]
            assert all(found), (name, head, [line for line, match in zip(lines, found, strict=True) if not match])
            for match in found:
                assert told.setdefault((head, match[1]), match[2]) == match[2], (name, head, match[1])
    assert len(told) == sum(map(len, load_profile("quick")["notebooks"].values()))


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


def test_notebooks_are_copied_and_never_over_existing_files(tmp_path):
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "quick.yaml").write_text("mine")
    written, kept = copy_notebooks(tmp_path)
    assert kept == [tmp_path / "profiles" / "quick.yaml"] and kept[0].read_text() == "mine"
    assert {p.stem for p in written if p.suffix == ".ipynb"} == set(list_notebooks())
    assert (tmp_path / "Snakefile").read_bytes() == (ROOT / "Snakefile").read_bytes()
    assert copy_notebooks(tmp_path)[0] == []


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

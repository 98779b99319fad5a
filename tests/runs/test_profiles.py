"""What a notebook is run with: profiles, parameters in the kind of their defaults, and the modules that it uses."""

import re

import pytest
from small_notebooks import PARAMETERS, make_notebook, run_it

from fulcra_utils.common.paths import ROOT
from fulcra_utils.runs import pipeline, profiles
from fulcra_utils.runs.pipeline import run_notebook
from fulcra_utils.runs.profiles import (
    KINDS,
    NOTEBOOKS,
    PipelineError,
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
from fulcra_utils.theory.theory import load_theory

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


def test_unknown_parameter_raises(tmp_path):
    with pytest.raises(PipelineError, match="no parameter 'm'; it has profile, theory, run_dir, n"):
        run_it(make_notebook(tmp_path), tmp_path, m=1)


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


def test_a_run_says_with_which_parameters_it_was_made(tmp_path, monkeypatch):
    def execute(source, target, values, progress):
        target.write_text("{}")
        pipeline.open_run(source.stem, run_dir=tmp_path / "run").finish()

    monkeypatch.setattr(pipeline, "_execute", execute)
    done = run_notebook("02_value_analysis", run_dir=tmp_path / "run", parameters={"n_draws": "7"})
    run = pipeline.open_run("03_value_evaluator", run_dir=tmp_path / "run")
    assert run.settings_of("02_value_analysis")["n_draws"] == 7
    pipeline._drop_given(run)
    assert not done.exists(), "the whole pipeline makes it again by the profile"
    done = run_notebook("02_value_analysis", run_dir=tmp_path / "run")
    pipeline._drop_given(run)
    assert done.exists() and run.settings_of("02_value_analysis") == pipeline.open_run("02_value_analysis").settings
    pipeline.open_run("02_value_analysis", run_dir=tmp_path / "run").finish()      # a person ran its cells
    pipeline._drop_given(run)
    assert not done.exists()


def test_a_theory_that_borrows_a_name_is_refused(tmp_path):
    theory = load_theory("schwartz10")
    own = tmp_path / "mine.yaml"
    own.write_text(theory.path.read_text())
    assert pipeline.open_run("02_value_analysis", theory=own, run_dir=tmp_path / "run").theory == theory
    text = theory.path.read_text()
    alias = next(line for line in text.splitlines() if "aliases: [" in line)
    for old, new in ((theory.title, "Another"), (alias, alias.replace("[", "[another word, "))):
        own.write_text(text.replace(old, new, 1))
        with pytest.raises(PipelineError, match="give it a name of its own"):
            pipeline.open_run("02_value_analysis", theory=own, run_dir=tmp_path / "run")


def test_a_run_of_a_theory_from_outside_is_opened_again(tmp_path, monkeypatch):
    text = load_theory("moral_foundations").path.read_text()
    (tmp_path / "mine.yaml").write_text(text.replace("name: moral_foundations", "name: mine", 1))
    pipeline.open_run("02_value_analysis", theory=tmp_path / "mine.yaml", run_dir=tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text('{"profile": "quick", "theory": "mine"}')        # as it was told before
    pipeline.open_run("02_value_analysis", theory=tmp_path / "mine.yaml", run_dir=tmp_path / "run")
    assert pipeline.find_run(tmp_path / "run").theory.path == tmp_path / "mine.yaml"
    with pytest.raises(PipelineError, match="belongs to profile 'quick' and theory 'mine'"):
        pipeline.open_run("02_value_analysis", run_dir=tmp_path / "run")


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


@pytest.mark.parametrize(("old", "new", "message"), [
    ("    encoder:", "    encodr:", "profiles/mine.yaml, 03_value_evaluator: encoder missing, encodr unknown"),
    ("    encoder:", "    epochs: 3\n    encoder:", "profiles/mine.yaml: line .*, epochs: key given twice"),
    ("  03_value_evaluator:", "  98_mine:", ""), ("    encoder:", "    lengths: 3\n    encoder:", "lengths unknown")])
def test_a_setting_that_is_misspelt_missing_or_doubled_is_named(tmp_path, monkeypatch, old, new, message):
    head, mark, rest = (ROOT / "profiles" / "quick.yaml").read_text().partition("  03_value_evaluator:")
    (tmp_path / "mine.yaml").write_text(head + (mark + rest).replace(old, new, 1))
    monkeypatch.setattr(profiles, "PROFILES", tmp_path)
    asked = NOTEBOOKS / "03_value_evaluator.ipynb", "mine", load_theory("schwartz10"), "", {}
    if message:
        with pytest.raises(PipelineError, match=message):
            collect_parameters(*asked)
    else:
        assert "encoder" not in collect_parameters(*asked), "a profile may have no section for a notebook"


@pytest.mark.parametrize(("tag", "first", "message"), [
    (None, PARAMETERS, "0 cells carry the tag"), ("parameters", "n = open('x')", "no plain literal")])
def test_bad_parameters_cell_raises(tmp_path, tag, first, message):
    with pytest.raises(PipelineError, match=message):
        run_it(make_notebook(tmp_path, tag=tag, first=first), tmp_path)


def test_rules_follow_the_modules_a_notebook_uses():
    names = {p.stem for p in modules_of("03_value_evaluator")}
    assert {"evaluator", "encoder", "theory"} <= names and not names & {"pipeline", "report", "cli"}
    assert "evaluator" not in {p.stem for p in modules_of("02_value_analysis")}
    users = {name for name in list_notebooks() if "slider" in {p.stem for p in modules_of(name)}}
    assert users == {"07_social_value_orientation", "12_reliability"}
    head, *rules = (ROOT / "Snakefile").read_text(encoding="utf-8").split("\nrule ")
    rules = dict(rule.split(":", 1) for rule in rules)
    assert "refusals.yaml" in head and 'TARGETS = sorted(map(str, (DATA / "targets").glob("*.yaml")))' in head
    for name, texts in {"dataset_construction": ("prompts", "dataset_card.md"),
                        "reliability": ("attacks.yaml", "svo_slider.yaml", "THEORIES"),
                        "value_analysis": ("refusals.csv", "THEORIES"),
                        **dict.fromkeys(("value_compass", "value_discovery", "value_pluralism"), ("THEORIES",)),
                        "value_evaluator": ("attacks.yaml", "evaluator_card.md", '"contrasts").iterdir()', "THEORIES"),
                        "new_value_theory": ("THEORIES", "three_virtues.jsonl")}.items():
        assert all(text in rules[name] for text in texts)
    rule_of = {re.search(r'of\("(\w+)"', rule)[1]: rule for rule in rules.values() if 'of("' in rule}
    for name, rule in rule_of.items():
        code = (NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8")
        assert ("TARGETS" in rule) == bool(re.search("choose_targets|load_countries", code)), name


def test_rules_watch_the_files_that_settings_name_and_decisions_of_people(tmp_path, monkeypatch):
    monkeypatch.setattr(profiles, "ROOT", tmp_path)
    (tmp_path / "mine.yaml").write_text("")
    settings = {"target": str(tmp_path / "mine.yaml"), "theories": ["schwartz19", "mine.yaml"], "file": "", "n": 3}
    assert profiles.list_files(settings) == sorted([str(tmp_path / "mine.yaml"), "mine.yaml"])
    assert profiles.list_files(None) == []
    text = (ROOT / "Snakefile").read_text(encoding="utf-8")
    assert '*list_files(SETTINGS["notebooks"].get(name))' in text
    assert "DECISIONS" in text.split("\nrule dataset_construction:")[1].split("output:")[0]


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


def test_notebooks_are_copied_and_never_over_existing_files(tmp_path):
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "quick.yaml").write_text("mine")
    written, kept = copy_notebooks(tmp_path)
    assert kept == [tmp_path / "profiles" / "quick.yaml"] and kept[0].read_text() == "mine"
    assert {p.stem for p in written if p.suffix == ".ipynb"} == set(list_notebooks())
    assert (tmp_path / "Snakefile").read_bytes() == (ROOT / "Snakefile").read_bytes()
    assert copy_notebooks(tmp_path)[0] == []

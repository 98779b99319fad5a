"""The gate in CI: the very steps of the action are run by bash, and the fixture by a pytest of its own."""

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import import_module

import numpy as np
import pytest
import yaml

from fulcra_utils.common.paths import ROOT
from fulcra_utils.evaluator.encoder import load_encoder
from fulcra_utils.evaluator.model import make_evaluator, save_evaluator
from fulcra_utils.systems.bridges.gate import check_gate
from fulcra_utils.theory.targets import load_target
from fulcra_utils.theory.theory import load_theory

ACTION = ROOT / ".github" / "actions" / "value-gate" / "action.yml"
RECIPE = ROOT / "data" / "site" / "recipes" / "ci-gate.md"
TEST = "def test_values(value_gate):\n    assert value_gate({}).value.iloc[-1] == 'distance'\n"


def names_action(uses):
    """Whether OWNER/REPO/folder@main names the action's folder."""
    return ROOT.joinpath(*uses.partition("@")[0].split("/")[2:], "action.yml") == ACTION


@pytest.fixture
def folder(tmp_path):
    """A folder with before.jsonl and two candidates: noise.jsonl, and regression.jsonl that moves off the target."""
    theory, random = load_theory("schwartz10"), np.random.default_rng(5)
    aim = load_target("ideal", theory).values
    before = np.clip(random.normal(0, 0.2, (40, theory.n_dims)), -1, 1)
    noise = before + random.normal(0, 0.1, before.shape)
    for name, vectors in (("before", before), ("noise", noise), ("regression", noise - 0.15 * np.sign(aim))):
        rows = [{"prompt": f"May I do {k}?", "response": "Ask first.",
                 "value_vector": dict(zip(theory.dimensions, np.clip(v, -1, 1).round(3).tolist(), strict=True))}
                for k, v in enumerate(vectors)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


def run_action(folder, **given):
    """Run the action's steps as GitHub does; give back exit code, what was printed and the summary."""
    action = yaml.safe_load(ACTION.read_text(encoding="utf-8"))
    assert {name for name, about in action["inputs"].items() if about.get("required")} <= given.keys()
    assert given.keys() <= action["inputs"].keys() and action["runs"]["using"] == "composite"
    inputs = {name: str(given.get(name, about.get("default"))) for name, about in action["inputs"].items()}
    known = {f"inputs.{name}": value for name, value in inputs.items()} | {"github.action_path": str(ACTION.parent)}
    files = {name: folder / name for name in ("GITHUB_STEP_SUMMARY", "GITHUB_PATH")}
    (folder / "temp").mkdir(exist_ok=True)
    (folder / "bin").mkdir(exist_ok=True)
    command = folder / "bin" / "fulcra"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m fulcra_utils.cli "$@"\n')
    command.chmod(0o755)
    told = ""
    for step in action["runs"]["steps"]:
        assert "${{" not in step["run"], "inputs reach bash through variables: nothing of theirs is run"
        own = {name: re.sub(r"\$\{\{ *(.*?) *\}\}", lambda found: known[found[1]], text)
               for name, text in step["env"].items()}
        (folder / "step.sh").write_text(step["run"], encoding="utf-8")
        done = subprocess.run([step["shell"], "--noprofile", "--norc", "-eo", "pipefail", folder / "step.sh"],
                              cwd=folder, capture_output=True, text=True, check=False, env={
                                  **os.environ, **own, **{n: str(path) for n, path in files.items()},
                                  "RUNNER_TEMP": str(folder / "temp"),
                                  "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"})
        told += done.stdout + done.stderr
        if done.returncode:
            break
    summary = files["GITHUB_STEP_SUMMARY"]
    return done.returncode, told, summary.read_text(encoding="utf-8") if summary.is_file() else ""


def test_the_recipe_fails_on_a_planted_regression(folder):
    step = yaml.safe_load(re.search(r"```yaml\n(.*?)```", RECIPE.read_text(encoding="utf-8"), re.S)[1])[0]
    (folder / "after.jsonl").write_bytes((folder / "regression.jsonl").read_bytes())
    code, told, summary = run_action(folder, **step["with"])
    assert code == 1 and names_action(step["uses"]), told
    assert summary.startswith("### Value gate: not passed: the second file is clearly farther from the target\n")
    assert summary.count("~~~") == 2 and re.search(r"universalism +40 ", summary) and "universalism" in told


def test_the_example_workflow_passes_on_noise(folder):
    workflow = yaml.safe_load((ROOT / "data" / "examples" / "value_gate.yml").read_text(encoding="utf-8"))
    step = workflow["jobs"]["value-gate"]["steps"][-1]
    (folder / "baseline.jsonl").write_bytes((folder / "before.jsonl").read_bytes())
    (folder / "candidate.jsonl").write_bytes((folder / "noise.jsonl").read_bytes())
    code, told, summary = run_action(folder, **step["with"])
    assert code == 0 and summary.startswith("### Value gate: passed\n") and names_action(step["uses"]), told


def test_a_file_that_is_missing_is_one_line_and_no_pass(folder):
    code, told, summary = run_action(folder, baseline="before.jsonl", candidate="missing.jsonl")
    assert code == 2 and len(told.splitlines()) == 1 and "missing.jsonl" in told and told.strip() in summary


def test_a_regression_within_the_tolerance_passes_and_no_input_is_run(folder):
    (folder / "$(touch owned).jsonl").write_bytes((folder / "regression.jsonl").read_bytes())
    code, told, _ = run_action(folder, baseline="before.jsonl", candidate="$(touch owned).jsonl", tolerance=9)
    assert code == 0 and not (folder / "owned").exists(), told


@pytest.mark.slow
def test_with_an_evaluator_replies_are_scored_first(folder):
    save_evaluator(make_evaluator(load_encoder("tiny"), load_theory("schwartz10")), folder / "evaluator")
    for name in ("before", "noise"):
        rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        (folder / f"{name}.jsonl").write_text("".join(
            json.dumps({key: row[key] for key in ("prompt", "response")}) + "\n" for row in rows))
    code, told, summary = run_action(folder, baseline="before.jsonl", candidate="noise.jsonl", evaluator="evaluator")
    assert code == 0 and "40 rows, 0 not scored" in told and "distance" in summary, told


def run_pytest(folder, call):
    """Run a test of that call in a pytest that knows of this project only what its entry point loads."""
    (folder / "test_it.py").write_text(TEST.format(call), encoding="utf-8")
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:fulcra", "-p", "no:cacheprovider", "-p",
                           "fulcra_utils.systems.bridges.gate", "--rootdir", folder, "test_it.py"],
                          cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_fixture_fails_a_test_in_one_line_with_the_table(folder):
    code, told = run_pytest(folder, "'before.jsonl', 'regression.jsonl'")
    assert code == 1 and "universalism" in told and "Traceback" not in told, told
    line = next(line for line in told.splitlines() if line.startswith("from before.jsonl to regression.jsonl"))
    change = [float(n) for n in re.findall(r"[+-]\d\.\d+", line)]
    assert len(change) == 3 and change[1] > 0 and "over 40 prompts (allowed: 0)" in line


def test_the_fixture_passes_noise(folder):
    code, told = run_pytest(folder, "'before.jsonl', 'noise.jsonl'")
    assert code == 0 and "undecided" not in told, told


def test_what_cannot_be_compared_is_one_line(folder):
    for call, said in (("'before.jsonl', 'gone.jsonl'", "gone.jsonl"), ("'before.jsonl', 'noise.jsonl', 'nowhere'",
                                                                         "nowhere")):
        code, told = run_pytest(folder, call)
        line = next(line for line in told.splitlines() if line.startswith("value_gate cannot compare: "))
        assert code == 1 and said in line and "Traceback" not in told, told


def test_the_recipe_of_the_fixture_passes_noise(folder):
    block, = re.findall(r"```python\n(.*?)```", (RECIPE.parent / "value_gate.md").read_text("utf-8"), re.DOTALL)
    assert block.count("\n") <= 4
    (folder / "after.jsonl").write_bytes((folder / "noise.jsonl").read_bytes())
    (folder / "test_own.py").write_text(block)
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:fulcra", "-p", "no:cacheprovider", "-p",
                           "fulcra_utils.systems.bridges.gate", "--rootdir", folder, "test_own.py"],
                          cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout


def test_too_few_prompts_are_a_warning_and_no_verdict(folder):
    lines = (folder / "regression.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "few.jsonl").write_text("".join(lines[:4]), encoding="utf-8")
    with pytest.warns(UserWarning) as said:
        check_gate(folder / "before.jsonl", folder / "few.jsonl", folder=folder)
    left_out, undecided = (str(one.message) for one in said)
    assert "'only_first': 36" in left_out and re.match("value_gate is undecided: .* over 4 prompts", undecided)
    rows = [json.dumps(json.loads(line) | {"prompt_id": k // 3}) for k, line in enumerate(lines[:12])]
    (folder / "few.jsonl").write_text("\n".join(rows), encoding="utf-8")      # three wordings of four prompts
    with pytest.warns(UserWarning, match="undecided: .* over 4 prompts"):
        check_gate(folder / "few.jsonl", folder / "few.jsonl", folder=folder)


def test_replies_are_scored_by_an_evaluator_and_those_that_cannot_be_are_told(folder):
    save_evaluator(make_evaluator(load_encoder("tiny"), load_theory("schwartz10")), folder / "evaluator")
    rows = [{"prompt": f"May I do {k}?", "response": "Ask first."} for k in range(5)] + [{"prompt": "May I?"}]
    rows.append({"prompt": "Que dois-je faire ?", "response": "Je voudrais aller au marché avec ma mère."})
    (folder / "replies.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "scored").mkdir()
    with pytest.warns(UserWarning) as said:
        table = check_gate(folder / "replies.jsonl", folder / "replies.jsonl", evaluator=folder / "evaluator",
                           folder=folder / "scored")
    told = "\n".join(str(one.message) for one in said)
    assert "1 of 7 rows were not scored" in told and "1 rows (first: line 7) carry the mark" in told
    assert "'unscored_first': 1" in told and "'foreign_second': 1" in told
    assert table.n.tolist() == [6] * len(table) and table.difference.abs().max() < 1e-6


def test_pytest_finds_the_plugin_and_loads_nothing_heavy():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name = project["entry-points"]["pytest11"]["fulcra"]
    assert import_module(name).value_gate
    code = (f"import sys, {name}; print({{'numpy', 'pandas'}} & sys.modules.keys()); "
            "import fulcra_utils.evaluator.comparison; print({'torch', 'transformers'} & sys.modules.keys())")
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert told.split("\n") == ["set()", "set()", ""]

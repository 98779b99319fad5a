"""Boards as Every Eval Ever, held against its schemas, and against its own validator where that can be installed."""

import json
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from jsonschema import Draft7Validator
from small_runs import OWN, make_finished_run

from fulcra_utils.common.files import write_json
from fulcra_utils.common.loading import hash_file, hash_text
from fulcra_utils.systems.bridges.export import export_run
from fulcra_utils.theory.theory import load_theory

SCHEMAS = Path(__file__).parent / "every_eval_ever"
RECORD, SAMPLE = (Draft7Validator(json.loads((SCHEMAS / f"{name}.schema.json").read_text()))
                  for name in ("eval", "instance_level_eval"))


def read_records(exported):
    """Return each record with its samples, by board and model."""
    found = {}
    for path in (exported / "boards" / "data").rglob("*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        samples = path.with_name(f"{path.stem}_samples.jsonl").read_text(encoding="utf-8").splitlines()
        found[path.parts[-4], record["model_info"]["id"]] = path, record, [json.loads(line) for line in samples]
    return found


def test_every_record_and_sample_is_of_the_schema(exported):
    records = read_records(exported)
    assert {board for board, _ in records} == {"fulcra-schwartz10-annotators-labels", "fulcra-schwartz10-evaluator"}
    for _, record, samples in records.values():
        RECORD.validate(record)
        for sample in samples:
            SAMPLE.validate(sample)
    assert not RECORD.is_valid(record | {"model_info": {"name": "a"}})
    assert not SAMPLE.is_valid(samples[0] | {"output": None})


def test_a_score_is_the_mean_of_its_samples_and_of_the_labels(exported):
    rows = pd.read_parquet(exported / "runs" / "laptop" / "data" / "dialogues.parquet")
    for (board, model), (path, record, samples) in read_records(exported).items():
        means = pd.Series([s["evaluation"]["score"] for s in samples]).groupby(
            [s["evaluation_result_id"] for s in samples]).mean()
        assert len(record["evaluation_results"]) == load_theory("schwartz10").n_dims
        for result in record["evaluation_results"]:
            details = result["score_details"]
            assert details["score"] == pytest.approx(means[result["evaluation_result_id"]])
            interval = details["uncertainty"].get("confidence_interval")
            assert (interval is None) == (not board.endswith("labels"))     # its models have four prompts at most
            assert interval is None or interval["lower"] <= details["score"] <= interval["upper"]
            if board.endswith("labels"):
                labels = rows[rows.response_source == model][result["evaluation_name"].removeprefix("schwartz10/")]
                assert details["score"] == pytest.approx(labels.mean())
        detail = record["detailed_evaluation_results"]
        assert (detail["total_rows"], detail["checksum"]) == (len(samples), hash_file(
            exported / "boards" / detail["file_path"]))
        assert {s["evaluation_id"] for s in samples} == {record["evaluation_id"]} and path.stem in detail["file_path"]


def test_a_policy_of_the_run_is_told_from_models_of_others(exported):
    records = read_records(exported)
    path, own, samples = records["fulcra-schwartz10-evaluator", OWN]
    assert own["source_metadata"]["evaluator_relationship"] == "first_party"
    assert path.parent.name == OWN.replace(":", "_")
    assert own["model_info"]["additional_details"]["model_availability"] == "open_weights"
    other = records["fulcra-schwartz10-evaluator", "style-mentor"][1]
    assert other["source_metadata"]["evaluator_relationship"] == "third_party"
    prompts = pd.read_parquet(exported / "runs" / "laptop" / "models" / f"{OWN}.parquet").prompt.map(hash_text)
    assert {sample["input"]["raw"] for sample in samples} <= set(prompts)
    assert all("Withheld" in sample["metadata"]["texts"] for sample in samples)


@pytest.mark.slow
def test_the_formats_own_validator_finds_no_error(exported, tmp_path):
    pythons = [*map(str, Path.home().glob(".pyenv/versions/3.1[2-9].*/bin/python")), ">=3.12"]
    python = tmp_path / "venv" / "bin" / "python"
    for command in (["uv", "venv", "-q", "--no-python-downloads", "--python", pythons[0], str(tmp_path / "venv")],
                    ["uv", "pip", "install", "-q", "--python", str(python), "every-eval-ever==0.3.0"]):
        done = shutil.which("uv") and subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        if not done or done.returncode:
            pytest.skip("every-eval-ever (Python 3.12, uv) cannot be installed: the boards are NOT validated by it; "
                        f"{done.stderr if done else 'there is no uv'}")
    files = [path.relative_to(exported / "boards").as_posix() for path in (exported / "boards").rglob("*.json*")]
    done = subprocess.run([str(python), "-m", "every_eval_ever", "validate", "--format", "json", *files],
                          cwd=exported / "boards", capture_output=True, text=True)
    reports = json.loads(done.stdout)
    assert len(reports) == len(files) and all(report["valid"] for report in reports), done.stdout[-3000:]
    assert {warning["loc"] for report in reports for warning in report["warnings"]} <= {"model_info"}  # no developer


def test_a_file_of_ones_own_beside_the_models_is_no_policy_of_the_run(tmp_path):
    run = make_finished_run(tmp_path / "run")
    write_json(run.path("models/.of_notebook_04.json"), [])
    export_run(run.folder, "every-eval-ever", tmp_path / "boards")
    kinds = {record["model_info"]["id"]: record["source_metadata"]["evaluator_relationship"] for record in (
        json.loads(path.read_text(encoding="utf-8")) for path in (tmp_path / "boards" / "data").rglob("*.json"))}
    assert kinds[OWN] == "third_party"

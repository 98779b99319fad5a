"""A run in the formats of others, each held against the format's own reader or validator."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_runs import make_finished_run

from fulcra_utils.annotation.label_studio import import_label_studio
from fulcra_utils.cli import main
from fulcra_utils.common.files import write_table
from fulcra_utils.common.loading import hash_file, hash_text
from fulcra_utils.common.paths import ROOT
from fulcra_utils.systems.bridges import export
from fulcra_utils.systems.bridges.export import FORMATS, export_run
from fulcra_utils.theory.theory import load_theory

THEORY = load_theory("schwartz10")
MISSING = "NO {}: what it should hold is NOT validated: pip install -e '.[dev]'"


@pytest.fixture(scope="module")
def mlcroissant():
    return pytest.importorskip("mlcroissant", reason=MISSING.format("MLCROISSANT"))


@pytest.fixture(scope="module")
def rocrate():
    return pytest.importorskip("rocrate.rocrate", reason=MISSING.format("ROCRATE"))


def read_crate(rocrate, exported):
    """Return the crate and its claims by name; a reference to what is not in it stays a bare text."""
    crate = rocrate.ROCrate(exported / "crate")
    return crate, {entity["name"]: entity for entity in crate.root_dataset["mentions"]}


def read_rows(exported):
    return pd.read_parquet(exported / "runs" / "laptop" / "data" / "dialogues.parquet")


def test_no_text_of_a_prompt_or_reply_leaves_but_for_people(exported):
    rows = read_rows(exported)
    beginnings = {text[:40] for text in (*rows.prompt, *rows.response) if len(text) > 40}
    for name in ("labels", "crate", "boards"):
        files = [path for path in (exported / name).rglob("*") if path.suffix in (".csv", ".json", ".jsonl")]
        texts = [path.read_text(encoding="utf-8") for path in files]
        assert files and not any(text in whole for whole in texts for text in beginnings)


def test_croissant_is_valid_and_its_records_are_the_runs_labels(exported, mlcroissant):
    data = mlcroissant.Dataset(str(exported / "labels" / "croissant.json"))
    assert not data.metadata.ctx.issues.errors and not data.metadata.ctx.issues.warnings
    records, rows = pd.DataFrame(data.records("labels")), read_rows(exported)
    assert records["labels/row_id"].str.decode("utf-8").tolist() == rows.row_id.tolist()
    found = records[[f"labels/{name}" for name in THEORY.dimensions]].to_numpy(float)
    assert np.array_equal(found, rows[[*THEORY.dimensions]].to_numpy(), equal_nan=True)
    assert records["labels/prompt_sha256"][0].decode() == hash_text(rows.prompt[0])
    assert {r["splits/name"] for r in data.records("splits")} == set(records["labels/split"].str.decode("utf-8"))
    assert data.metadata.distribution[0].sha256 == hash_file(exported / "labels" / "labels.csv")


def test_croissant_says_where_labels_come_from_and_what_they_are_not(exported, mlcroissant):
    said = mlcroissant.Dataset(str(exported / "labels" / "croissant.json")).metadata
    share = 100 * (read_rows(exported).power != 0).mean()
    assert "the embedded sample schwartz10.jsonl" in said.data_collection
    assert f"power {share:.1f} %" in said.data_biases[0] and "54 items" in said.data_annotation_protocol[0]
    assert "ac1 0.500 [0.400, 0.600]" in said.data_annotation_analysis[0]
    assert "no sample of any real model" in said.data_limitations[0] and said.personal_sensitive_information
    assert said.data_use_cases and said.license == ["MIT"] and "320 replies to 128" in said.description


def test_a_theory_without_labels_says_so_and_no_cell_is_0(tmp_path, mlcroissant):
    run = make_finished_run(tmp_path / "run", "valuelex")
    data = mlcroissant.Dataset(str(export_run(run.folder, "croissant", tmp_path / "out") / "croissant.json"))
    assert data.metadata.data_annotation_analysis == ["There are no labels under this theory."]
    assert data.metadata.data_collection_missing_data.startswith("320 rows have at least one value")
    values = pd.DataFrame(data.records("labels"))[[f"labels/{name}" for name in run.theory.dimensions]]
    assert values.isna().to_numpy().all()


def test_croissant_of_a_damaged_table_is_no_croissant(exported, tmp_path, mlcroissant):
    described = json.loads((exported / "labels" / "croissant.json").read_text())
    described["recordSet"][1]["field"][0]["source"]["fileObject"]["@id"] = "other.csv"
    (tmp_path / "croissant.json").write_text(json.dumps(described))
    with pytest.raises(mlcroissant.ValidationError):
        mlcroissant.Dataset(str(tmp_path / "croissant.json"))


def test_crate_leads_from_each_claim_to_cell_function_test_and_data(exported, rocrate):
    _, claims = read_crate(rocrate, exported)
    assert set(claims) == {"dataset/trustworthy/rows", "compass/gpt-4/power"}
    first = claims["dataset/trustworthy/rows"]
    assert first["creativeWorkStatus"] == "reproduced" and "reported 1718.0; ours 1718.0" in first["description"]
    assert "ours not known;" in claims["compass/gpt-4/power"]["description"]
    assert not any("nan" in claim["description"] for claim in claims.values())
    ends = {entity.id: entity for entity in first["isBasedOn"]}
    cell = ends["#cell/01_dataset_construction/compare"]
    assert cell["isPartOf"]["@type"] == ["File", "SoftwareSourceCode"] and cell["isPartOf"]["sha256"]
    function, = (part for part in cell["isBasedOn"] if part.id.endswith("construction.count_claims"))
    assert function == ends["#fulcra_utils.dataset.construction.count_claims"]
    test = function["subjectOf"]["name"]
    assert test == "tests/dataset/test_construction.py" and (ROOT / test).is_file()
    hashes = json.loads((exported / "runs" / "laptop" / "manifest.json").read_text())["data_hashes"]
    assert ends["#data/splits.parquet"]["identifier"] == f"sha256:{hashes['data/splits.parquet']}"


def test_every_claim_has_the_whole_way_and_every_word_is_of_the_format(exported, rocrate):
    crate, claims = read_crate(rocrate, exported)
    for claim in claims.values():
        cell, *more = claim["isBasedOn"]
        functions = [part for part in more if "subjectOf" in part]
        assert functions and set(functions) <= set(cell["isBasedOn"]) and len(functions) < len(more)
        assert not [part for part in (*more, *cell["isBasedOn"]) if isinstance(part, str)]
        assert all(function["subjectOf"].id.startswith("#tests/") for function in functions)
    words = Path(rocrate.__file__).with_name("data") / "ro-crate.jsonld"
    known = json.loads(words.read_text())["@context"].keys() | {"@id", "@type"}
    said = json.loads((exported / "crate" / "ro-crate-metadata.json").read_text())["@graph"]
    assert {word for entity in said for word in entity} <= known
    kinds = [set(np.atleast_1d(entity["@type"])) for entity in said]
    assert set().union(*kinds) <= known
    assert all("File" in kind for kind in kinds if "SoftwareSourceCode" in kind)    # RO-Crate 1.2: a script is a file


def test_crate_names_every_file_in_it_with_its_hash(exported, rocrate):
    crate, _ = read_crate(rocrate, exported)
    named = {entity.id: entity["sha256"] for entity in crate.get_entities() if "File" in entity.type}
    there = {path.relative_to(exported / "crate").as_posix(): hash_file(path)
             for path in (exported / "crate").rglob("*") if path.is_file() and path.name != "ro-crate-metadata.json"}
    assert named == there
    assert {"laptop/02_space.png", "laptop/reproduction.csv", "notebooks/12_reliability.ipynb"} <= set(there)
    assert crate.root_dataset["datePublished"] and crate.root_dataset["license"].id.startswith("https://spdx.org")


def test_tasks_are_those_of_replies_without_a_risk(exported):
    rows, tasks = read_rows(exported), json.loads((exported / "tasks" / "tasks.json").read_text())
    safe = rows[rows.safety_issues.map(len) == 0]
    assert [task["data"]["row_id"] for task in tasks] == safe.row_id.tolist() and 0 < len(safe) < len(rows)
    assert tasks[0]["data"]["response"] == safe.response.iloc[0]
    answers = [task | {"annotations": [{"completed_by": 1, **task["predictions"][0]}]} for task in tasks]
    (exported / "answers.json").write_text(json.dumps(answers))
    assert import_label_studio(exported / "answers.json", THEORY).label.tolist() == safe[THEORY.dimensions[-1]].tolist()


def test_an_export_says_the_same_twice(exported, tmp_path):
    again = export_run(exported / "runs" / "laptop", "ro-crate", tmp_path / "again")
    for path in again.rglob("*"):
        assert path.is_dir() or path.read_bytes() == (exported / "crate" / path.relative_to(again)).read_bytes()


def test_what_is_like_a_prompt_with_a_risk_is_left_out_and_what_is_not_known_is_said(tmp_path):
    run = make_finished_run(tmp_path / "run").folder
    rows = pd.read_parquet(run / "data" / "dialogues.parquet")
    alike, unknown = rows.cluster.unique()[:2]
    rows["safety_issues"] = [None if cluster in (alike, unknown) else [] for cluster in rows.cluster]
    write_table(run / "data" / "dialogues.parquet", rows)
    for name, issues in (("scored", ["privacy"]), ("prompts", [])):
        write_table(run / "data" / f"{name}.parquet", pd.DataFrame(
            {"prompt": ["like it"], "cluster": [alike], "safety_issues": [issues]}))
    tasks = json.loads((export_run(run, "label-studio", tmp_path / "out") / "tasks.json").read_text())
    whys = {task["data"]["row_id"]: task["data"]["why"] for task in tasks}
    assert set(whys) == set(rows.row_id[rows.cluster != alike])
    said = {row_id for row_id, why in whys.items() if "the risk of its prompt is not known" in why}
    assert said == set(rows.row_id[rows.cluster == unknown])


@pytest.mark.parametrize(("change", "to", "said"), [
    ("", "excel", "--to excel: no such format; there are every-eval-ever, croissant"),
    ("run.json", "croissant", "runs/laptop is no run folder"),
    ("manifest.json", "croissant", "not finished, its manifest.json lacks 01_dataset_construction"),
    ("a notebook", "ro-crate", "not finished, its manifest.json lacks 11_values_in_context"),
    ("output", "label-studio", "out: exists already"),
    ("damaged", "croissant", "manifest.json is not valid JSON"),
    ("boards", "every-eval-ever", "run notebook 06 of this run once more"),
    ("extra", "inspect", "pip install 'fulcra-utils[inspect]'")])
def test_what_cannot_be_exported_is_one_line_and_exit_2(tmp_path, monkeypatch, capfd, finished, change, to, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "laptop").symlink_to(finished)
    kept = {path: path.read_text() for path in (finished / "run.json", finished / "manifest.json")}
    if change == "a notebook":
        manifest = json.loads(kept[finished / "manifest.json"])
        manifest["notebooks"].pop("11_values_in_context")
        (finished / "manifest.json").write_text(json.dumps(manifest))
    elif change.endswith(".json"):
        (finished / change).unlink()
    elif change == "damaged":
        (finished / "manifest.json").write_text("{")
    elif change == "boards":
        is_file = Path.is_file
        monkeypatch.setattr(Path, "is_file", lambda path: path.suffix != ".parquet" and is_file(path))
    elif change == "output":
        (tmp_path / "out").mkdir()
    elif change == "extra":
        monkeypatch.setitem(sys.modules, "fulcra_utils.systems.bridges.inspect_logs", None)
    monkeypatch.setattr(sys, "argv", ["fulcra", "export", "runs/laptop", "--to", to, "--output", "out"])
    with pytest.raises(SystemExit) as stop:
        main()
    for path, text in kept.items():
        path.write_text(text)
    told = capfd.readouterr()
    assert stop.value.code == 2 and not told.out and said in told.err and len(told.err.splitlines()) == 1
    assert change == "output" or not (tmp_path / "out").exists()


def test_what_ran_after_the_report_or_did_not_end_is_not_exported(tmp_path, finished):
    metrics, failed = finished / "metrics.json", finished / "notebooks" / "01_dataset_construction.failed.ipynb"
    kept = metrics.read_text()
    try:
        metrics.write_text(json.dumps(json.loads(kept) | {"01_dataset_construction": {"n_rows": -1}}))
        with pytest.raises(ValueError, match="steps ran after the report"):
            export_run(finished, "croissant", tmp_path / "out")
        metrics.write_text(kept)
        failed.parent.mkdir(exist_ok=True)
        failed.touch()
        with pytest.raises(ValueError, match="what ran last of 01 did not end"):
            export_run(finished, "croissant", tmp_path / "out")
    finally:
        metrics.write_text(kept)
        failed.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return make_finished_run(tmp_path_factory.mktemp("finished") / "laptop").folder


def test_a_failing_export_leaves_nothing(finished, tmp_path):
    review = finished / "annotation" / "review.csv"
    review.rename(review.with_suffix(".away"))
    with pytest.raises(FileNotFoundError):
        export_run(finished, "label-studio", tmp_path / "new" / "out")
    review.with_suffix(".away").rename(review)
    assert not list(tmp_path.rglob("*.json")) and not (tmp_path / "new" / "out").exists()
    assert set(FORMATS) == {"every-eval-ever", "croissant", "ro-crate", "label-studio", "inspect", "site"}


def test_labels_of_ones_own_have_no_licence_of_ours(tmp_path, finished, monkeypatch):
    monkeypatch.setattr(export, "locate_sample", lambda theory: (tmp_path / "mine.jsonl", True))
    folder = export_run(finished, "croissant", tmp_path / "out")
    told = json.loads((folder / "croissant.json").read_text())
    assert told["license"] == ["not stated"]
    assert pd.read_csv(folder / "labels.csv").source.unique().tolist() == ["own labels"]

"""A labelled file as a data set folder: it opens, holds the rows as they are, and its card counts them."""

import datasets
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from fulcra_utils.annotation.labelling import label_rows, write_rows
from fulcra_utils.common.paths import DATA
from fulcra_utils.dataset.construction import build_run_data
from fulcra_utils.dataset.labelled import read_dataset
from fulcra_utils.dataset.release import write_guide, write_release
from fulcra_utils.dataset.texts import DatasetError
from fulcra_utils.theory.theory import load_theory

SAMPLE = DATA / "sample" / "moral_foundations.jsonl"


def test_data_set_folder_opens_and_its_card_is_true(tmp_path, any_theory):
    data = build_run_data(any_theory)
    labelled = write_rows(tmp_path / "x.jsonl.gz", label_rows(data.dialogues, data.items, any_theory))
    folder = write_release(tmp_path / "set", labelled, any_theory, licences={"embedded sample": "MIT"})
    opened = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    vectors = np.array([[np.nan if row[name] is None else row[name] for name in any_theory.dimensions]
                        for row in opened["value_vector"]])
    truth = data.dialogues[list(any_theory.dimensions)].to_numpy()
    assert np.array_equal(vectors, truth, equal_nan=True)
    assert np.array_equal(read_dataset(folder / "data" / "train.jsonl", any_theory, strict=True).vectors, truth, True)
    assert np.array_equal(read_dataset(folder / "data" / "train.parquet", any_theory, True).vectors, truth, True)
    card = (folder / "README.md").read_text()
    assert f"{len(truth)} rows: {data.dialogues.prompt.nunique()} different prompts" in card
    first = any_theory.dimensions[0]
    counts = [int((truth[:, 0] == label).sum()) for label in (1, 0, -1)]
    assert f"| {first} | {counts[0]} | {counts[1]} | {counts[2]} | {int(np.isnan(truth[:, 0]).sum())} |" in card
    assert "embedded sample: MIT" in card
    assert "agreement was not measured" in card


def test_rows_are_released_byte_for_byte_and_items_by_name(tmp_path):
    folder = write_release(tmp_path, SAMPLE, load_theory("moral_foundations"))
    assert (folder / "data" / "train.jsonl").read_bytes() == SAMPLE.read_bytes()
    table = pq.read_table(folder / "data" / "train.parquet")
    data = read_dataset(SAMPLE, "moral_foundations")
    assert table.num_rows == len(data.table) and all(item.endswith((": +1", ": -1")) for row in
                                                     table["value_items"].to_pylist() for item in row)
    assert [len(row) for row in table["value_items"].to_pylist()] == (data.item_labels != 0).sum(axis=1).tolist()


@pytest.mark.parametrize("theory", [load_theory("moral_foundations"), load_theory("schwartz19")], ids=lambda t: t.name)
def test_both_files_give_the_same_labels(tmp_path, theory):
    first, second, *_ = theory.dimensions
    item = theory.items[theory.item_dims.tolist().index(1)]
    said = [{"value_items": [f"{item}: +1"], "not_annotated": [{"item": first, "reason": "HTTP 503"}]},
            {"value_items": [f"{item}: +1"], "value_types": [], "not_annotated": [], "decided_by": {second: "Ann"}},
            {"value_items": [f"{item}: 0"]}, {"value_types": [f"{first}: 1+", f"{second}: 2"]},
            {"value_types": {"a": 1}}, {"value_items": ["of another theory: +1"], "not_annotated": "*"},
            {"value_items": [], "not_annotated": []},
            {"value_items": f"['{item}: -1', 3]", "decided_by": "Ann", "not_annotated": [first, {"item": None}]}]
    rows = [{"prompt": "Why?", "response": f"So {n}."} | labels for n, labels in enumerate(said)]
    files = write_release(tmp_path / "set", write_rows(tmp_path / "x.jsonl", rows), theory) / "data"
    vectors = [read_dataset(files / f"train.{kind}", theory).vectors for kind in ("jsonl", "parquet")]
    np.testing.assert_array_equal(*vectors)
    assert np.isnan(vectors[0]).any() and (vectors[0][1] == 0).all()
    assert pq.read_table(files / "train.parquet")["not_annotated"].to_pylist()[0][0]["reason"] == "HTTP 503"


def test_a_card_without_costs_names_the_model(tmp_path):
    made = {"model": "m", "endpoint": "here", "form": "all", "rule": "sign-sum"}
    card = (write_release(tmp_path, SAMPLE, load_theory("moral_foundations"), made) / "README.md").read_text()
    assert "labels by the model `m` at here" in card and " USD" not in card


def test_a_file_that_cannot_be_opened_leaves_no_folder(tmp_path):
    with pytest.raises(DatasetError, match=r"none\.jsonl"):
        write_release(tmp_path / "set", tmp_path / "none.jsonl", load_theory("moral_foundations"))
    assert not (tmp_path / "set").exists()


def test_each_annotator_has_a_column_that_opens(tmp_path):
    index = pd.MultiIndex.from_product([["r1", "r2"], ["care", "fairness"]], names=["row_id", "name"])
    given = pd.DataFrame({"Ann": [1.0, 0, np.nan, np.nan], "TF-IDF": [1.0, -1, 0, np.nan]}, index)
    folder = write_release(tmp_path / "set", SAMPLE, load_theory("moral_foundations"), annotators=given)
    lines = (folder / "data" / "annotators.csv").read_text().splitlines()
    assert lines == ["row_id,name,Ann,TF-IDF", "r1,care,1,1", "r1,fairness,0,-1", "r2,care,,0"]  # nobody's is left out
    opened = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(opened) == len(read_dataset(SAMPLE, "moral_foundations").table)  # the table beside is not taken for it
    card = (folder / "README.md").read_text()
    assert "one column an annotator (Ann, TF-IDF)" in card
    assert "annotators.csv" not in (write_release(tmp_path / "bare", SAMPLE, load_theory("moral_foundations"))
                                    / "README.md").read_text()


def test_people_find_every_value_item_and_label_in_the_guide(tmp_path, any_theory):
    text = write_guide(tmp_path / "ANNOTATION.md", any_theory).read_text()
    for name, definition in zip(any_theory.dimensions, any_theory.definitions, strict=True):
        assert f"### {name}\n\n{definition}\n" in text
    assert all(item in text for item in any_theory.items) and any_theory.citation in text
    assert all(f"| {any_theory.labels[label]} |" in text for label in (-1, 0, 1))
    assert "None" not in text and "{" not in text and "\n\n\n" not in text


def test_the_guide_gives_the_examples_of_contrast_pairs_under_their_definition_alone(tmp_path):
    text = write_guide(tmp_path / "a.md", load_theory("moral_foundations")).read_text()
    assert text.count("\nExample: ") == 5 and "A stray cat limps through our yard." in text
    assert "\nExample: " not in write_guide(tmp_path / "b.md", load_theory("valuelex")).read_text()

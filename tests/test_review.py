"""The review queue, the ways out and back in, and decisions that win; the data set folder and its card."""

import json
from xml.etree import ElementTree

import datasets
import numpy as np
import pandas as pd
import pytest

from fulcra_utils.construction import build_run_data
from fulcra_utils.datacard import write_release
from fulcra_utils.dataset import read_dataset
from fulcra_utils.labelling import label_rows, write_rows
from fulcra_utils.review import (
    ReviewError,
    append_decisions,
    apply_decisions,
    build_label_config,
    build_queue,
    decide_dialogues,
    export_label_studio,
    import_label_studio,
    read_decisions,
    review_widget,
    write_review_csv,
)
from fulcra_utils.theory import load_theory

THEORY = load_theory("moral_foundations")
TEXTS = pd.DataFrame({"row_id": ["r0", "r1"], "prompt": ["Hi <b>?", "=1+1"], "response": ["Hello & bye.", "</style>"]})


def decisions(*rows):
    return pd.DataFrame(rows, columns=["row_id", "name", "label", "who"])


def test_queue_puts_urgent_then_close_then_rare_first():
    nan = np.nan
    ratings = np.array([  # three annotators, four replies, names "often" and "rare"
        [[1, 0], [1, 0], [1, nan], [1, 1]], [[1, 0], [-1, 0], [1, nan], [0, 0]], [[1, 0], [0, 1], [1, nan], [1, 1]]])
    queue = build_queue(ratings, ["often", "rare"], ["r0", "r1", "r2", "r3"], ["a", "b", "c"])
    assert queue[["row_id", "name", "why"]].values.tolist() == [
        ["r2", "rare", "nobody could label it"], ["r1", "often", "opposite signs"], ["r1", "rare", "they disagree"],
        ["r3", "rare", "they disagree"], ["r3", "often", "they disagree"]]
    assert queue.margin.tolist()[1:] == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3])
    assert queue[["a", "b", "c"]].iloc[1].tolist() == [1, -1, 0]


def test_queue_leaves_out_what_is_agreed_or_decided():
    ratings = np.array([[[1.0, 0]], [[0, 0]]])
    assert build_queue(ratings, ["x", "y"], ["r0"], ["a", "b"]).name.tolist() == ["x"]
    done = decisions(("r0", "x", 1.0, "Ann"))
    assert len(build_queue(ratings, ["x", "y"], ["r0"], ["a", "b"], done)) == 0
    assert len(build_queue(ratings, ["x", "y"], ["r0"], ["a", "b"], limit=0)) == 0


def test_csv_goes_out_and_comes_back(tmp_path):
    ratings = np.array([[[1.0], [0]], [[0], [1]]])
    queue = build_queue(ratings, ["care"], ["r0", "r1"], ["a", "b"])
    path = write_review_csv(tmp_path / "q.csv", queue, TEXTS)
    sheet = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert sheet.prompt[1] == "'=1+1", "no spreadsheet runs a prompt as a formula"
    sheet.loc[0, ["label", "who", "note"]] = ["-1", "Ann", "clear"]
    sheet.to_csv(path, index=False)
    found = read_decisions(path, THEORY.dimensions)
    assert found[["row_id", "name", "label", "who", "note"]].values.tolist() == [["r0", "care", -1.0, "Ann", "clear"]]


@pytest.mark.parametrize(("text", "why"), [
    ("row_id,name\nr,care\n", "column label is missing"),
    ("row_id,name,label,who\nr,care,2,Ann\n", "line 2, label: '2'"),
    ("row_id,name,label,who\nr,care,1,\n", "line 2, who"), ("row_id,name,label,who\n\nr,luck,1,Ann\n", "name: 'luck'")])
def test_bad_decisions_are_named(tmp_path, text, why):
    (tmp_path / "d.csv").write_text(text)
    with pytest.raises(ReviewError, match=why):
        read_decisions(tmp_path / "d.csv", THEORY.dimensions)


def test_decisions_are_kept_and_the_last_one_counts(tmp_path):
    path = tmp_path / "d.csv"
    for label, who in ((1.0, "Ann"), (1.0, "Ann"), (-1.0, "Bea")):
        append_decisions(path, decisions(("r1", "care", label, who)))
    stored = read_decisions(path)
    assert stored.who.tolist() == ["Ann", "Bea"]
    labels, people = apply_decisions(np.zeros((3, 1)), ["care"], ["r0", "r1", "r1"], stored)
    assert labels[:, 0].tolist() == [0, -1, -1], "rows of one id share the decision"
    assert people == [{}, {"care": "Bea"}, {"care": "Bea"}]


def test_decisions_reach_the_dialogues_and_survive(tmp_path):
    data = build_run_data(THEORY)
    first = data.dialogues.row_id[0]
    append_decisions(tmp_path / "d.csv", decisions((first, "sanctity", -1.0, "Ann")))
    for _ in range(2):  # every new start reads the same file
        decided, found = decide_dialogues(build_run_data(THEORY).dialogues, tmp_path / "d.csv", THEORY)
        assert decided.sanctity[0] == -1
        assert found.who.tolist() == ["Ann"]
    rows = label_rows(decided, data.items, THEORY, found)
    assert rows[0]["decided_by"] == {"sanctity": "Ann"}
    again = read_dataset(write_rows(tmp_path / "x.jsonl", rows), THEORY, strict=True)
    assert again.vectors[0, THEORY.dimensions.index("sanctity")] == -1


def test_label_studio_goes_out_and_comes_back(tmp_path, any_theory):
    names = [any_theory.dimensions[0], any_theory.items[-1]]
    ratings = np.array([[[1.0, 0], [0, 0]], [[1, 1], [1, 0]], [[1, 1], [1, 0]]])
    queue = build_queue(ratings, names, ["r0", "r1"], ["a", "b", "c"])
    folder = export_label_studio(tmp_path / "ls", queue, TEXTS, any_theory)
    config = ElementTree.parse(folder / "config.xml").getroot()
    assert [choice.get("value") for choice in config.iter("Choice")] == ["-1", "0", "+1"]
    fields = {element.get("value", "") for element in config.iter()}
    assert {"$prompt", "$response", "$question"} <= fields
    tasks = json.loads((folder / "tasks.json").read_text())
    assert {f.removeprefix("$") for f in fields if f.startswith("$")} <= set(tasks[0]["data"])
    assert tasks[0]["predictions"][0]["result"][0]["value"] == {"choices": ["+1"]}
    for number, task in enumerate(tasks):  # what Label Studio's JSON export adds
        result = [{"from_name": "label", "to_name": "response", "type": "choices", "value": {"choices": ["0"]}},
                  {"from_name": "note", "to_name": "response", "type": "textarea", "value": {"text": ["why", "not"]}}]
        task["annotations"] = [{"id": number, "completed_by": 7, "updated_at": "2025-01-01", "result": result},
                               {"id": 99, "completed_by": 8, "was_cancelled": True, "result": []}]
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    found = import_label_studio(tmp_path / "export.json", [*any_theory.dimensions, *any_theory.items])
    assert found[["row_id", "name"]].values.tolist() == queue[["row_id", "name"]].values.tolist()
    assert set(zip(found.label, found.who, found.note, strict=True)) == {(0.0, "annotator 7", "why not")}
    append_decisions(tmp_path / "d.csv", found)
    assert len(build_queue(ratings, names, ["r0", "r1"], ["a", "b", "c"], read_decisions(tmp_path / "d.csv"))) == 0


@pytest.mark.parametrize("text", ["{", "[1]", '[{"data": {}}]', '{"a": 1}'])
def test_what_is_no_export_is_refused(tmp_path, text):
    (tmp_path / "e.json").write_text(text)
    with pytest.raises(ReviewError):
        import_label_studio(tmp_path / "e.json", ["care"])


def test_words_of_a_theory_cannot_break_the_config(tmp_path):
    text = THEORY.path.read_text().replace("title: Moral", 'title: "<Moral> & \\"more\\"', 1).replace(
        "five foundations\n", 'five foundations"\n', 1)
    (tmp_path / "t.yaml").write_text(text)
    theory = load_theory(tmp_path / "t.yaml")
    root = ElementTree.fromstring(build_label_config(theory))
    assert root.find("Header").get("value") == theory.title


def test_widget_stores_each_decision_at_once(tmp_path):
    queue = build_queue(np.array([[[1.0], [0]], [[0], [1]]]), ["care"], ["r0", "r1"], ["a", "b"])
    form = review_widget(queue, TEXTS, THEORY, tmp_path / "d.csv")
    name, case, buttons, progress = form.children
    assert "Hi &lt;b&gt;?" in case.value, "texts are shown, not run"
    buttons.children[2].click()
    assert "name first" in progress.value
    assert not (tmp_path / "d.csv").exists()
    name.value = "Ann"
    buttons.children[2].click()
    buttons.children[3].click()
    assert read_decisions(tmp_path / "d.csv")[["row_id", "label", "who"]].values.tolist() == [["r0", 1.0, "Ann"]]
    assert progress.value == "2 of 2 cases seen"
    assert all(button.disabled for button in buttons.children)


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
    card = (folder / "README.md").read_text()
    assert f"{len(truth)} rows: {data.dialogues.prompt.nunique()} different prompts" in card
    first = any_theory.dimensions[0]
    counts = [int((truth[:, 0] == label).sum()) for label in (1, 0, -1)]
    assert f"| {first} | {counts[0]} | {counts[1]} | {counts[2]} | {int(np.isnan(truth[:, 0]).sum())} |" in card
    assert "embedded sample: MIT" in card
    assert "agreement was not measured" in card

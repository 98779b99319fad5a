"""Label Studio: a project goes out, the newest decisions come back in, and odd annotations are named."""

import json
from xml.etree import ElementTree

import numpy as np
import pytest
from judged_texts import TEXTS

from fulcra_utils.annotation import (
    ReviewError,
    append_decisions,
    build_queue,
    export_label_studio,
    import_label_studio,
    read_decisions,
)
from fulcra_utils.annotation.review import apply_decisions
from fulcra_utils.theory.theory import load_theory

THEORY = load_theory("moral_foundations")


def make_task(*annotations, **more):
    return {"id": 7, "data": {"row_id": "r1", "name": "care"}, "annotations": list(annotations), **more}


def make_annotation(*choices, **more):
    result = [{"from_name": "label", "to_name": "response", "type": "choices", "value": {"choices": list(choices)}}]
    return {"id": 1, "completed_by": 1, "result": result, **more}


OLD, NEW = {"created_at": "2024-05-01T10:00:00.5Z"}, {"created_at": "2024-05-02T10:00:00Z"}
RELATION = {"type": "relation", "from_id": "a", "to_id": "b", "direction": "right"}


@pytest.mark.parametrize(("annotations", "label"), [
    ([make_annotation("+1", **NEW), make_annotation("-1", **OLD)], 1),
    ([make_annotation("-1", **OLD), make_annotation("+1", **NEW)], 1),
    ([make_annotation("+1", **OLD, updated_at="2024-06-01T00:00:00Z"), make_annotation("-1", **NEW)], 1),
    ([make_annotation("+1", **NEW, completed_by={"id": 3}), make_annotation("-1", **OLD)], 1),
    ([make_annotation("+1", **OLD), make_annotation("-1", **NEW, was_cancelled=True)], 1),
    ([make_annotation("+1", **OLD), make_annotation(**NEW)], 1), ([make_annotation("-1"), make_annotation("+1")], 1),
    ([make_annotation("+1", **OLD, ground_truth=True), make_annotation("-1", **NEW, ground_truth=False)], 1),
    ([{**make_annotation("+1"), "result": [RELATION, *make_annotation("+1")["result"], RELATION]}], 1),
    ([{"result": []}], np.nan), ([{"result": None}], np.nan), ([{"result": [RELATION]}], np.nan), ([], np.nan)])
def test_the_newest_annotation_counts(tmp_path, annotations, label):
    for more in ({}, {"predictions": [make_annotation("-1")], "drafts": [make_annotation("-1")]}):
        task = make_task(*annotations, **more)
        (tmp_path / "e.json").write_text(json.dumps([{**task, "annotations": [], "completions": annotations}]))
        old = import_label_studio(tmp_path / "e.json", THEORY)
        (tmp_path / "e.json").write_text("\ufeff" + json.dumps([task, {**make_task(), "annotations": None}]))
        found = import_label_studio(tmp_path / "e.json", THEORY)
        assert found.equals(import_label_studio(tmp_path / "e.json", ["care"])) and found.equals(old)
        for _ in range(2):
            append_decisions(tmp_path / "d.csv", found)
            for table in (found, read_decisions(tmp_path / "d.csv")):
                got = apply_decisions(np.array([[np.nan]]), ["care"], ["r1"], table)[0]
                assert np.array_equal(got, [[label]], equal_nan=True)
        (tmp_path / "d.csv").unlink()


@pytest.mark.parametrize(("task", "why"), [
    (make_task(make_annotation("2")), "task 7: label: '2' is none of"),
    (make_task(make_annotation("supported")), "task 7: label: 'supported' is none of"),
    (make_task(make_annotation("+1", "-1")), "task 7: label: '\\+1', '-1' are chosen at once"),
    (make_task({"result": [{"from_name": "tone", "value": {"choices": ["+1"]}}]}), "task 7: label: .* choice in tone"),
    *((make_task({"result": [{"from_name": "label", "value": value}]}), "task 7: label: ")
      for value in ({"rating": 1}, {"number": 1}, {"taxonomy": [["+1"]]}, {"labels": ["+1"], "text": "a"})),
    (make_task(make_annotation("+1", created_at="yesterday")), "task 7: when: 'yesterday'"),
    ({**make_task(), "data": {"row_id": "r1", "name": "luck"}}, "task 7: name: 'luck' is no item or dimension"),
    (make_task(make_annotation("+1", completed_by=None), make_annotation("-1", completed_by=None)),
     "task 7: completed_by: 2 annotations do not say whose they are"),
    (make_task(5), "task 2: is no task"), ({"id": 7, "row_id": "r1", "name": "care", "label": "+1"}, "task 2: is no")])
def test_an_odd_annotation_is_named(tmp_path, task, why):
    (tmp_path / "e.json").write_text(json.dumps([make_task(make_annotation("+1")), task, task]))
    with pytest.raises(ReviewError, match=f"e.json, {why}"):
        import_label_studio(tmp_path / "e.json", THEORY)


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
    found = import_label_studio(tmp_path / "export.json", any_theory)
    assert found[["row_id", "name"]].values.tolist() == queue[["row_id", "name"]].values.tolist()
    assert set(zip(found.label, found.who, found.note, strict=True)) == {(0.0, "annotator 7", "why not")}
    append_decisions(tmp_path / "d.csv", found)
    assert len(build_queue(ratings, names, ["r0", "r1"], ["a", "b", "c"], read_decisions(tmp_path / "d.csv"))) == 0


@pytest.mark.parametrize("text", ["{", "[1]", '[{"data": {}}]', '{"a": 1}'])
def test_what_is_no_export_is_refused(tmp_path, text):
    (tmp_path / "e.json").write_text(text)
    with pytest.raises(ReviewError):
        import_label_studio(tmp_path / "e.json", THEORY)


def test_words_of_a_theory_cannot_break_the_config(tmp_path):
    text = THEORY.path.read_text().replace("title: Moral", 'title: "<Moral> & \\"more\\"', 1).replace(
        "five foundations\n", 'five foundations"\n', 1)
    (tmp_path / "t.yaml").write_text(text)
    theory = load_theory(tmp_path / "t.yaml")
    export_label_studio(tmp_path, build_queue(np.array([[[1.0]], [[0]]]), ["care"], ["r0"], ["a", "b"]), TEXTS, theory)
    root = ElementTree.fromstring((tmp_path / "config.xml").read_text(encoding="utf-8"))
    assert root.find("Header").get("value") == theory.title

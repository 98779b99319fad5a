"""Labelled rows: they read back as they were written, keep their fields, and forms are compared fairly."""

import numpy as np
import pandas as pd
import pytest
from judged_texts import PLAIN

from fulcra_utils.annotation.labelling import (
    Row,
    build_output,
    compare_forms,
    items_to_types,
    label_rows,
    read_rows,
    rows_of,
    write_rows,
)
from fulcra_utils.annotation.questions import FORMS
from fulcra_utils.dataset.construction import build_run_data
from fulcra_utils.dataset.labelled import read_dataset
from fulcra_utils.dataset.rows import read_dialogue
from fulcra_utils.theory.theory import load_theory

THEORY = load_theory("moral_foundations")


def test_the_rule_from_items_to_dimensions():
    labels = np.zeros(THEORY.n_items)
    labels[[0, 1, 4]] = [1, -1, -1]
    assert items_to_types(labels, THEORY) == ["fairness: -1"]
    labels[5] = np.nan
    assert items_to_types(labels, THEORY) == []
    assert items_to_types(labels, THEORY, np.array([np.nan, 1, np.nan, np.nan, np.nan])) == ["fairness: +1"]


def test_output_row_keeps_fields_and_reads_back():
    row = read_rows_of({"id": 5, "prompt": "Hi?", "response": "Hello.", "mine": {"a": 1}})
    labels = np.zeros(THEORY.n_items)
    labels[0], labels[7] = 1, np.nan
    out = build_output(row, labels, THEORY, {THEORY.items[7]: "HTTP 503"})
    assert (out["mine"], out["id"], out["looks_english"]) == ({"a": 1}, 5, True)
    assert out["not_annotated"] == [{"item": THEORY.items[7], "reason": "HTTP 503"}]
    assert out["value_types"] == ["care: +1"]


def read_rows_of(fields):
    return Row(fields, read_dialogue(fields))


@pytest.mark.parametrize(("fields", "prompt", "reply"), [
    ({"prompt": "May I?", "response": "Old.", "mine": "New."}, "prompt", "mine"),
    ({"question": "May I?", "answer": "Gold.", "mine": "New."}, "question", "mine"),
    ({"ask": "May I?", "mine": "New.", "messages": [{"role": "user", "content": "x"},
                                                    {"role": "assistant", "content": "Old."}]}, "ask", "mine"),
    ({"ask": "May I?", "mine": "New.", "system": "Be kind."}, "ask", "mine"),
    ({"dialogue": "Human: May I?\nBob: New.", "system": "Be kind."}, "prompt", "response"),
    ({"prompt": "May I?", "response": "Old.", "mine": None}, "prompt", "mine")])
def test_a_labelled_row_reads_back_as_the_reply_that_was_judged(tmp_path, fields, prompt, reply):
    row, = read_rows(write_rows(tmp_path / "in.jsonl", [fields]), prompt, reply)
    out = build_output(row, np.eye(THEORY.n_items)[0], THEORY, {})
    again, = read_rows(write_rows(tmp_path / "out.jsonl", [out]))
    assert (again.dialogue and again.dialogue.released) == (row.dialogue and row.dialogue.released)
    assert {name.removeprefix("input_") for name in out} >= {*fields}


def test_labelled_dialogues_read_back_the_same(any_theory, tmp_path):
    data = build_run_data(any_theory)
    path = write_rows(tmp_path / "x.jsonl", label_rows(data.dialogues, data.items, any_theory))
    again = read_dataset(path, any_theory, strict=True)
    assert np.array_equal(again.vectors, data.dialogues[list(any_theory.dimensions)].to_numpy(), equal_nan=True)
    with pytest.raises(ValueError, match="same rows"):
        label_rows(data.dialogues, data.items[::-1], any_theory)


def test_rows_from_gz_and_parquet(tmp_path):
    rows = [{"prompt": "Hi?", "response": "Hello."}]
    assert read_rows(write_rows(tmp_path / "x.jsonl.gz", rows))[0].dialogue == PLAIN
    pd.DataFrame(rows).to_parquet(tmp_path / "x.parquet")
    assert read_rows(tmp_path / "x.parquet")[0].dialogue == PLAIN
    assert rows_of(pd.DataFrame(rows).assign(row_id="a"))[0].row_id == "a"
    with pytest.raises(ValueError, match="written as .jsonl"):
        write_rows(tmp_path / "x.csv", rows)


def test_a_form_is_never_compared_with_its_own_vote():
    rng = np.random.default_rng(0)
    labels = rng.choice([-1.0, 0, 1], size=(3, 400, 5))
    labels[1] = labels[0]
    costs = pd.DataFrame({"form": FORMS, "calls": 1, "tokens_in": 1, "tokens_out": 1, "cost": np.nan,
                          "paid_before": 0.0})
    table = compare_forms(labels, costs, labels[2]).set_index("form")
    assert table.agree_others["single"] == pytest.approx(1 / 3, abs=0.05), "chance, though it took part in every vote"
    assert table.agree_others["all"] == 1, "where the two others agree, they are this one"
    assert table.agree_people["single"] == 1
    assert abs(table.kappa_people["all"]) < 0.1

"""The review queue, the ways out and back in, and decisions that win."""

import csv
import itertools
import json
import threading

import numpy as np
import pandas as pd
import pytest
from judged_texts import TEXTS

from fulcra_utils.annotation import (
    ReviewError,
    append_decisions,
    build_queue,
    export_label_studio,
    read_decisions,
    review_widget,
    write_review_csv,
)
from fulcra_utils.annotation.labelling import label_rows, write_rows
from fulcra_utils.annotation.review import (
    DECISION_COLUMNS,
    NONE_DECIDED,
    apply_decisions,
    decide_dialogues,
    spread_decisions,
)
from fulcra_utils.dataset.construction import build_run_data
from fulcra_utils.dataset.labelled import read_dataset
from fulcra_utils.theory.theory import load_theory

THEORY = load_theory("moral_foundations")


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


def test_csv_goes_out_and_comes_back(tmp_path):
    ratings = np.array([[[1.0], [0]], [[0], [1]]])
    queue = build_queue(ratings, ["care"], ["r0", "r1"], ["a", "b"])
    path = write_review_csv(tmp_path / "q.csv", queue, TEXTS)
    sheet = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert sheet.prompt[1] == "'=1+1", "no spreadsheet runs a prompt as a formula"
    sheet.loc[0, ["label", "who", "note"]] = ["-1", "Ann", "clear"]
    sheet.to_csv(path, index=False)
    with pytest.raises(ReviewError, match="q.csv: holds 1 decisions, which the queue would replace"):
        write_review_csv(path, queue, TEXTS)
    found = read_decisions(path, THEORY)
    assert found[["row_id", "name", "label", "who", "note"]].values.tolist() == [["r0", "care", -1.0, "Ann", "clear"]]


@pytest.mark.parametrize(("text", "why"), [
    ("row_id,name\nr,care\n", "column label is missing"),
    ("row_id,name,label,who\nr,care,2,Ann\n", "line 2, label: '2'"),
    ("row_id,name,label,who\nr,care,1,\n", "line 2, who"), ("row_id,name,label,who\n\nr,luck,1,Ann\n", "name: 'luck'"),
    ("row_id,name,label,who\n\nr,luck,1,Ann\n", "line 3, name: 'luck' .* the nearest are 'care'"),
    ("row_id,name,label,who,note\nr,care,1,Ann,\"a\nb\n\"\n\nr,care,9,Ann,\n", "line 6, label: '9'"),
    ("row_id,name,label,who\nr,care,supported,Ann\n", "label: 'supported'"), ("row_id,name,label\nr,care,1\n", "who"),
    ("row_id,name,label,who\n ,care,1,Ann\n", "line 2, row_id"), ("id,name,label,who\n", "column row_id is missing"),
    ("row_id,name,label,Label,who\n", "column label stands twice"), ("", "column row_id is missing"),
    ("row_id,name,label,who\nr,care,1,Ann,x\n", "line 2: has more fields"),
    ("row_id|name|label\n", "row_id is missing"),
    ('row_id,name,label,who\nr,care,1,"Ann\nr2,care,1,Ann\n', "line 2: .* unexpected end"),
    ("row_id,name,label,who,when\nr,care,1,Ann,02.05.2024\n", "line 2, when: '02.05.2024' is no time"),
    *((f'row_id,name,label,who,when\nr,care,1,Ann,"{when}"\n', "line 2, when") for when in (
        "2025-W18-5", "2025-05-02x10:00", "2025-05-02T10:00:00,5", "0001-01-01", "9999-01-01")),
    ("PK\x03\x04", "row_id is missing")])
def test_bad_decisions_are_named(tmp_path, text, why):
    (tmp_path / "d.csv").write_text(text)
    with pytest.raises(ReviewError, match=why):
        read_decisions(tmp_path / "d.csv", THEORY)


def test_every_spreadsheet_that_says_one_thing_is_read_alike(tmp_path):
    header, path = ["row_id", "name", "label", "who"], tmp_path / "d.csv"
    signs = {-1: ["-1", "−1", "–1", "-1.0", "-1,0", "−1,00", "=-1", "1-", "'-1"], 0: ["0", "+0", "-0", "0.0", "0,0"],
             1: ["+1", "1", "1.0", "1,0", "+1.0", " 1 ", "\xa0+1", "=1", "1+", "'+1"]}
    names = ["care", "Care", " CARE ", "harm"]  # the last is an alias
    cases = [(label, sign, names[n % 4]) for label, given in signs.items() for n, sign in enumerate(given)]
    rng = np.random.default_rng(0)
    for separator, encoding, end in itertools.product(",;\t", ("utf-8", "utf-8-sig", "utf-16"), ("\n", "\r\n")):
        order = rng.permutation(4)
        titles = [[name, name.upper(), f" {name.title()} ", name.replace("_", " ")][rng.integers(4)] for name in header]
        with open(path, "w", encoding=encoding, newline="") as file:
            writer = csv.writer(file, delimiter=separator, lineterminator=end, quoting=int(rng.integers(2)))
            writer.writerow([titles[k] for k in order] + [""] * 2)
            for number, (_, sign, name) in enumerate(cases):
                row = [f"r{separator}\n{number}", name, sign, "Zoë"]
                writer.writerows([[row[k] for k in order] + [""] * 2, [""] * 6])
        theory = load_theory(write_alias(tmp_path))
        found = read_decisions(path, theory)
        assert found.label.tolist() == [label for label, _, _ in cases]
        assert found.row_id.tolist() == [f"r{separator}\n{number}" for number in range(len(cases))]
        assert set(found.name) == {"care"} and set(found.who) == {"Zoë"}


def write_alias(folder):
    text = THEORY.path.read_text().replace("  - name: care\n", "  - name: care\n    aliases: [harm]\n", 1)
    (folder / "t.yaml").write_text(text)
    return folder / "t.yaml"


def test_a_name_that_is_an_item_and_a_dimension_is_refused(tmp_path):
    text = THEORY.path.read_text().replace(f"- {THEORY.items[1]}\n", "- care\n", 1)
    (tmp_path / "t.yaml").write_text(text)
    (tmp_path / "d.csv").write_text("row_id,name,label,who\nr,Care,1,Ann\n")
    with pytest.raises(ReviewError, match="line 2, name: 'Care' is both an item and a dimension"):
        read_decisions(tmp_path / "d.csv", load_theory(tmp_path / "t.yaml"))


def test_what_is_no_decision_is_never_written(tmp_path):
    append_decisions(tmp_path / "d.csv", decisions(("r1", "care", 1.0, "Ann")))
    before = (tmp_path / "d.csv").read_bytes()
    for bad in [("r1", "care", 2.0, "Ann"), ("r1", "care", np.nan, "Ann"), ("r1", "care", None, "Ann"),
                ("r1", "care", "", "Ann"), ("", "care", 1, "Ann"), (None, "care", 1, "Ann"), ("r1", "care", 1, " ")]:
        with pytest.raises(ReviewError):
            append_decisions(tmp_path / "d.csv", decisions(bad))
        assert (tmp_path / "d.csv").read_bytes() == before


def test_of_people_who_decide_at_the_same_time_none_is_lost(tmp_path):
    def decide(who):
        for row in range(8):
            append_decisions(tmp_path / "d.csv", decisions((f"r{row}", "care", 1.0, who)))
    people = [threading.Thread(target=decide, args=(who,)) for who in ("Ann", "Ben")]
    [one.start() for one in people], [one.join() for one in people]
    assert read_decisions(tmp_path / "d.csv").who.value_counts().to_dict() == {"Ann": 8, "Ben": 8}


def test_what_else_stands_in_a_file_of_decisions_is_kept(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("Row ID;Name;Label;Who;GPT-4;;\n00123;care;1,0;Ann;1;;\nr2;care;;;0;x;y\n")
    append_decisions(path, decisions(("=cmd", "care", -1.0, "@Bea")))
    kept = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert kept["GPT-4"].tolist() == ["1", "0", ""] and "y" in kept.iloc[1].tolist()
    assert kept.row_id.tolist() == ["'00123", "r2", "'=cmd"], "a spreadsheet leaves these alone"
    assert read_decisions(path)[["row_id", "label", "who"]].values.tolist() == [
        ["00123", 1.0, "Ann"], ["=cmd", -1.0, "@Bea"]]


def test_the_latest_decision_counts(tmp_path):
    rng, times = np.random.default_rng(1), [f"2025-05-0{day}T10:00:00{zone}" for day in (1, 2, 3) for zone in ("", "Z")]
    for number in range(18):
        steps = [(float(rng.integers(-1, 2)), ["Ann", "Bea"][rng.integers(2)],
                  times[rng.integers(6)] if number % 3 and not (number % 3 == 1 and n == 2) else "")
                 for n in range(rng.integers(1, 7))]
        path, key = tmp_path / f"{number}.csv", lambda step: step[2][:19]
        best, ordered = "", []
        for n, step in enumerate(steps):  # one without a time comes after all above it
            best = max(best, key(step))
            ordered.append((key(step) or best, n, *step))
        label, who = max(ordered)[2:4]
        table = pd.DataFrame([("r1", "care", *step) for step in steps],
                             columns=["row_id", "name", "label", "who", "when"])
        for row in range(len(table)):
            append_decisions(path, table.iloc[[row]])
        for _ in range(2):  # and once more at once
            found, people = apply_decisions(np.zeros((1, 1)), ["Care"], ["r1"], read_decisions(path))
            assert (found[0, 0], people) == (label, [{"Care": who}]), steps
            if number % 3:
                append_decisions(path, table)
    twice = [("r1", "care", 1.0, "Ann", times[3]), ("r1", "care", -1.0, "Ann", times[1])]
    for _ in range(3):
        append_decisions(tmp_path / "twice.csv", pd.DataFrame(twice, columns=table.columns))
    assert len(read_decisions(tmp_path / "twice.csv")) == 2, "an import can be repeated"


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


def test_a_decision_stays_with_its_text_when_a_row_above_it_goes(toy, tmp_path):
    (tmp_path / "mine.yaml").write_text(toy.path.read_text())
    theory, name = load_theory(tmp_path / "mine.yaml"), toy.dimensions[0]
    lines = [json.dumps({"prompt": f"{word}?", "response": "Yes.", "value_types": [f"{name}: +1"]})
             for word in ("one", "two", "three", "four")]
    theory.labels_path.write_text("\n".join(lines))
    before = build_run_data(theory).dialogues
    append_decisions(tmp_path / "d.csv", decisions((before.row_id[2], name, -1.0, "Ann")))
    theory.labels_path.write_text("\n".join(lines[1:]))
    decided = decide_dialogues(build_run_data(theory).dialogues, tmp_path / "d.csv", theory)[0]
    assert decided.prompt[decided[name] == -1].tolist() == ["three?"]


def test_a_decision_on_no_dialogue_is_a_warning(tmp_path):
    data = build_run_data(THEORY)
    append_decisions(tmp_path / "d.csv", decisions((data.dialogues.row_id[0], "care", 1.0, "Ann"),
                                                   ("elsewhere", "care", 1.0, "Ann")))
    with pytest.warns(UserWarning, match="1 decisions are not used: row_id 'elsewhere'"):
        found = decide_dialogues(data.dialogues, tmp_path / "d.csv", THEORY)[1]
    assert len(found) == 1


def test_a_decision_on_an_item_is_a_warning_and_not_used(tmp_path):
    data, item = build_run_data(THEORY), THEORY.items[0]
    first = data.dialogues.row_id[0]
    append_decisions(tmp_path / "d.csv", decisions((first, item, 1.0, "Ann"), (first, "sanctity", -1.0, "Ann")))
    with pytest.warns(UserWarning, match=f"1 decisions are not used: row_id '{first}' .{item}.: an item"):
        decided, found = decide_dialogues(data.dialogues, tmp_path / "d.csv", THEORY)
    assert found["name"].tolist() == ["sanctity"] and decided.sanctity[0] == -1


def test_texts_of_one_id_must_be_one_text(tmp_path):
    queue = build_queue(np.array([[[1.0]], [[0]]]), ["care"], ["r0"], ["a", "b"])
    for write in (write_review_csv, lambda path, *more: export_label_studio(path, *more, THEORY)):
        with pytest.raises(ReviewError, match="'r0' stands for different texts"):
            write(tmp_path / "q.csv", queue, pd.concat([TEXTS, TEXTS.assign(response="Other.")]))


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


def test_each_person_has_a_column_with_the_label_told_last():
    told = pd.DataFrame([("r1", "care", 1, "Ann", "2025-01-02", ""), ("r1", "care", -1, "Ann", "2025-01-01", ""),
                         ("r1", "care", 0, "Ben", "", ""), ("r2", "care", 0, "Ben", "", "")], columns=DECISION_COLUMNS)
    table = spread_decisions(told)
    assert table.loc[("r1", "care")].to_dict() == {"Ann": 1, "Ben": 0} and np.isnan(table.loc[("r2", "care"), "Ann"])
    assert spread_decisions(NONE_DECIDED).empty

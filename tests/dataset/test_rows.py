import gzip
import json
from functools import partial

import numpy as np
import pandas as pd
import pytest
from row_files import TEN, row, write

from fulcra_utils.dataset.labelled import read_dataset, read_scored
from fulcra_utils.dataset.rows import RowError, iter_rows, list_pairs, pick_rows, read_dialogue, read_text
from fulcra_utils.dataset.texts import DatasetError

BAD = [
    ("{", "not valid JSON"), ("[1]", "not a JSON object"), ('{"a": 1}', "are missing"),
    ('{"dialogue": 3}', "neither text nor"), ('{"dialogue": ""}', "not of the form"),
    ('{"dialogue": "Hello"}', "not of the form"),
    ('{"dialogue": "Human: a\\nBob: "}', "is empty"), ('{"dialogue": "Human: \\nBob: x"}', "is empty"),
    ('{"prompt": "a", "response": null}', "is missing"), ('{"prompt": "a", "response": "  "}', "is empty"),
    ('{"prompt": ["a"], "response": "b"}', "neither text nor"), ("\x00\x00", "not valid JSON"),
    ("[" * 100_000, "not readable JSON"),
]


@pytest.mark.parametrize(("line", "reason"), BAD, ids=[reason for _, reason in BAD])
def test_unreadable_row_is_set_aside_and_counted(tmp_path, line, reason):
    path = write(tmp_path, row(types=["security: +1"]), line, row(types=["power: +1"]))
    data = read_dataset(path, TEN)
    assert (data.n_read, len(data.table), data.n_set_aside) == (3, 2, 1)
    assert data.problems.line.tolist() == [2] and reason in data.problems.reason[0]
    assert "row set aside" in data.problems.reason[0]
    with pytest.raises(DatasetError, match="rows.jsonl, line 2"):
        read_dataset(path, TEN, strict=True)


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"dialogue": "\xff\xfe"}\n' + json.dumps(row(types=["power: +1"])).encode() + b"\r\n\n")
    data = read_dataset(path, TEN)
    assert (data.n_read, len(data.table)) == (2, 1)
    assert "not UTF-8" in data.problems.reason[0]


def test_five_megabyte_line(tmp_path):
    long = {"prompt": "a", "response": "x" * 5_000_000, "value_types": ["power: +1"]}
    data = read_dataset(write(tmp_path, long), TEN)
    assert len(data.table.response[0]) == 5_000_000


def test_gz_and_parquet_read_alike(tmp_path):
    rows = [row(["be polite: +1"], ["conformity: +1"], response_source="m"), row(types=["power: 1+"])]
    plain = read_dataset(write(tmp_path, *rows), TEN)
    with gzip.open(tmp_path / "rows.jsonl.gz", "wt") as packed:
        packed.write("\n".join(map(json.dumps, rows)))
    pd.DataFrame(rows).to_parquet(tmp_path / "rows.parquet")
    for name in ("rows.jsonl.gz", "rows.parquet"):
        other = read_dataset(tmp_path / name, TEN)
        np.testing.assert_array_equal(other.vectors, plain.vectors)
        assert other.table.prompt.tolist() == plain.table.prompt.tolist()


@pytest.mark.parametrize("name", ["none.jsonl", "broken.jsonl.gz", "broken.parquet"])
def test_file_that_cannot_be_opened_is_named(tmp_path, name):
    if name.startswith("broken"):
        (tmp_path / name).write_bytes(b"\x1f\x8b broken")
    with pytest.raises(DatasetError, match=name):
        read_dataset(tmp_path / name, TEN)


GOOD = b'{"prompt": "a", "response": "b"}\n'
pack = partial(gzip.compress, mtime=0)  # the same bytes in every process of a test run


@pytest.mark.parametrize(("name", "content", "why"), [
    ("a.jsonl", b'[{"prompt": "a", "response": "b"}]', "one JSON array"),
    ("a.jsonl", b"\n [\n  {}\n]", "one JSON array"),
    ("a.jsonl", b"[]", "one JSON array"), ("a.jsonl", b'{\n  "prompt": "a"\n}', "over several lines"),
    ("a.jsonl", b"prompt,response\na,b\n", "looks like CSV"), ("a.jsonl", b'"prompt";"response"\n"{a}";"b"', "CSV"),
    ("a.jsonl", b"\xef\xbb\xbfprompt\tresponse\r\na\tb\r\n", "looks like CSV"), ("a.csv", b"prompt,response\n", "CSV"),
    ("a.jsonl", GOOD.decode().encode("utf-16"), "UTF-16"), ("a.jsonl", GOOD.decode().encode("utf-16-le"), "UTF-16"),
    ("a.jsonl", GOOD.decode().encode("utf-32"), "UTF-16 or UTF-32"), ("a.jsonl", pack(GOOD), r"\.jsonl\.gz"),
    ("a.jsonl.gz", GOOD, "cannot be read: Not a gzipped"), ("a.jsonl.gz", pack(GOOD * 999)[:-30], "cannot be"),
    ("a.jsonl.gz", pack(GOOD)[:12] + b"\xff" * 30, "cannot be read"), ("a.json", GOOD, r"must end in \.jsonl"),
    ("a.jsonl.gz", pack(b"[{}]"), "one JSON array"), ("a.xls", b"\xd0\xcf\x11\xe0...", "read_excel.*lines=True"),
    ("a.xlsx", b"PK\x03\x04...", "Excel or ZIP.*read_excel.*lines=True"), ("a.csv", b"a,b\nc,d\n", "read_csv.*lines"),
    ("a.jsonl", b"PAR1....", "name must end in .parquet"), ("a.parquet", GOOD, "no Parquet"),
    ("a.parquet", b"", "no Parquet"),
    ("a.parquet", b"PAR1 not really", "cannot be read"), ("folder.jsonl", None, "Is a directory"),
    ("folder.parquet", None, "Is a directory"), ("none.jsonl", ..., "No such file")])
def test_a_file_of_another_kind_is_named_in_one_line(tmp_path, name, content, why):
    if content is None:
        (tmp_path / name).mkdir()
    elif content is not ...:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=why) as error:
        list(iter_rows(tmp_path / name))
    assert name in str(error.value) and "\n" not in str(error.value)


def test_lines_that_are_read_and_lines_that_are_not(tmp_path):
    lines = [b'\xef\xbb\xbf{"a": 1}\r', b"", b'{"a": "x\ty"}', '{"a": "\u2028\x85"}'.encode(),
             b'{"a": NaN, "b": -Infinity}', b"[1]", b'{"a": 1, "a": 2}', b'{"a": {"b": 1, "b": 1}}', b"null", b"  ",
             b"{} x"]
    (tmp_path / "a.JSONL").write_bytes(b"\n".join(lines) + b"\n\n")
    found = list(iter_rows(tmp_path / "a.JSONL"))
    assert [line for line, _, _ in found] == [1, 3, 4, 5, 6, 7, 8, 9, 11]
    assert [row for _, row, _ in found[:3]] == [{"a": 1}, {"a": "x\ty"}, {"a": "\u2028\x85"}]
    assert np.isnan(found[3][1]["a"]) and found[3][1]["b"] == -np.inf
    assert [reason for _, row, reason in found[4:] if row is None] == [
        "not a JSON object", "not readable JSON: 'a' twice", "not readable JSON: 'b' twice", "not a JSON object",
        "not valid JSON: Extra data at column 4"]
    (tmp_path / "first.jsonl").write_bytes(b"[1, 2]\nwords, and words\n" + GOOD)
    assert [row is None for _, row, _ in iter_rows(tmp_path / "first.jsonl")] == [True, True, False]


def test_null_is_a_missing_field_in_every_kind_of_file(tmp_path):
    bare = {"prompt": "p", "answer": "r", "rating": 3.0}
    full = {**bare, "response": None, "reward": None, "value_items": None, "value_types": None, "not_annotated": None,
            "safety_issues": None, "dialogue": None, "query_source": None}
    (tmp_path / "full").mkdir()
    pd.DataFrame([full]).astype(object).to_parquet(tmp_path / "full.parquet")
    paths = [write(tmp_path, bare), tmp_path / "full.parquet", write(tmp_path / "full", full)]
    whole = [read_dataset(path, TEN) for path in paths]
    for data in whole:
        assert data.table.equals(whole[0].table) and data.problems.equals(whole[0].problems)
        assert (data.table.response[0], data.table.reward[0]) == ("r", 3.0) and np.isnan(data.vectors).all()


SHAPES = [
    {"prompt": "Hi?", "response": "Hello."}, {"question": "Why?", "answer": "So."},
    {"instruction": "Say hi.", "input": "To Ann.", "output": "Hi, Ann."},
    {"dialogue": "Human: May I?\nBob: Yes."}, {"prompt": None, "question": "Null?", "answer": "Missing."},
    {"prompt": "Sum?", "response": "<think>2 and 2</think>It is 4."},
    {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Go on."},
                  {"role": "assistant", "content": "No.\x00"}]},
    {"conversations": [{"from": "human", "value": "First?"}, {"from": "gpt", "value": "One."},
                       {"from": "human", "value": "Then?"}, {"from": "gpt", "value": "Two."}]},
    {"prompt": "Empty?", "response": " "}, {"prompt": "Only a prompt"}, {"prompt": "Hm?", "response": "<think>Hm."}]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_every_reader_takes_the_same_pairs_from_a_file(tmp_path, suffix):
    from fulcra_utils.annotation.labelling import read_rows
    from fulcra_utils.evaluator.scoring import _read_texts
    from fulcra_utils.llm.replies import read_reply_prompts

    path = tmp_path / f"rows{suffix}"
    text = "\n".join([*map(json.dumps, SHAPES), "{", '["no object"]'])
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith(".gz") else text.encode())
    scored = list(_read_texts(path))
    pairs = [(prompt, reply) if not problem else None for _, prompt, reply, problem in scored]
    assert pairs.count(None) == 5 and pairs[7] == ("[user] First?\n[assistant] One.\n[user] Then?", "Two.")
    assert pairs[5] == ("Sum?", "It is 4."), "without the thoughts"
    good = [pair for pair in pairs if pair]
    assert list(zip(*list_pairs(SHAPES[:8]), strict=True)) == good, "rows in memory"
    annotated = read_rows(path)
    assert [row.dialogue and (row.dialogue.prompt, row.dialogue.response) for row in annotated] == pairs
    data = [read(path, "schwartz10").table for read in (read_dataset, read_scored)]
    assert all(list(zip(table.prompt, table.response, strict=True)) == good for table in data)
    assert data[0].line.tolist() == [line for line, *_, problem in scored if not problem]
    said = {line: problem for line, *_, problem in scored if problem}
    reasons = read_dataset(path, "schwartz10").problems
    reasons = reasons[reasons.reason.str.endswith("row set aside")]
    assert {r.line: f"{r.field} {r.reason.removesuffix(': row set aside')}" for r in reasons.itertuples()} == {
        line: problem.removeprefix("the ") for line, problem in said.items()}
    assert [row.problem.replace(f"line {n}", "the line") for n, row in enumerate(annotated, 1) if row.problem] == [
        *said.values()]
    fields, prompts, bad = read_reply_prompts(path)
    assert prompts == [row["prompt"] for row in fields] == [row["prompt"] for row in SHAPES if row.get("prompt")]
    assert [row["problem"] for row in bad[-2:]] == [f"line {line}: {said[line]}" for line in (12, 13)]


def test_a_file_of_parquet_gives_the_same_pairs(tmp_path):
    from fulcra_utils.annotation.labelling import read_rows

    plain = [row for row in SHAPES if set(row) == {"prompt", "response"}]
    pd.DataFrame(plain).to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, plain)))
    told = [[(row.dialogue, row.problem) for row in read_rows(tmp_path / f"rows.{kind}")]
            for kind in ("parquet", "jsonl")]
    assert told[0] == told[1] and sum(bool(problem) for _, problem in told[0]) == 2


@pytest.mark.parametrize(("row", "prompt"), [
    ({"instruction": "Sum up.", "context": "Ann left.", "response": "Gone."}, "Sum up.\n\nAnn left."),
    ({"instruction": "And then?", "input": "", "output": "Home.", "history": [["Where was she?", "At work."]]},
     "[user] Where was she?\n[assistant] At work.\n[user] And then?"),
    ({"instruction": "And then?", "output": "Home.", "history": []}, "And then?"),
    ({"system_prompt": "Be kind.", "question": "Hi", "response": "Hello."}, "[system] Be kind.\n[user] Hi"),
    ({"system": "Be kind.", "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes."}]},
     "[system] Be kind.\n[user] Hi"),
    ({"system": "Be kind.", "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
                                         {"role": "assistant", "content": "Yes."}]},
     "[system] Be brief.\n[user] Hi")])
def test_what_stands_beside_a_prompt_is_part_of_it(row, prompt):
    assert read_dialogue(row).prompt == prompt


@pytest.mark.parametrize(("asked", "system", "prompt"), [
    ("Hi", [], "Hi"), ([{"role": "user", "content": "Hi"}], [], "Hi"), ("Ho", [], "[user] Ho\n[user] Hi"),
    ([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}], [],
     "[system] Be kind.\n[user] Hi"),
    ("Hi", [{"role": "system", "content": "Be kind."}], "[system] Be kind.\n[user] Hi")])
def test_a_reply_field_that_holds_the_whole_talk_does_not_double_the_prompt(asked, system, prompt):
    talk = [*system, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    found = read_dialogue({"prompt": asked, "chosen": talk}, response_field="chosen")
    assert (found.prompt, found.response) == (prompt, "Hello.")


TALK = [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "Mine."}]


def test_a_reference_answer_is_not_the_reply_of_a_model(tmp_path):
    rows = [{"prompt": "Q?", "response": "Mine.", "answer": "Gold.", "messages": None},
            {"prompt": "Q?", "response": None, "answer": "Gold.", "messages": None},
            {"prompt": "Q?", "response": None, "answer": "Gold.", "messages": TALK}]
    pd.DataFrame(rows).to_parquet(tmp_path / "rows.parquet")
    files = [[fault or dialogue.response for _, _, dialogue, fault in pick_rows(path)]
             for path in (write(tmp_path, *rows), tmp_path / "rows.parquet")]
    assert [list(map(str, replies)) for replies in files] == [["Mine.", "response is missing", "Mine."]] * 2
    plain = {"question": "Q?", "answer": "Gold."}
    for given, reply in ((plain, "Gold."), (plain | {"messages": TALK}, "Mine."), (plain | {"messages": []}, "Gold."),
                         (plain | {"messages": np.array(TALK)}, "Mine."), (plain | {"problem": "2?"}, "Gold.")):
        assert read_dialogue(given).response == list_pairs([given])[1][0] == reply
    with pytest.raises(DatasetError, match="Row 1: response is missing"):
        list_pairs(pd.DataFrame(rows[:2]))


@pytest.mark.parametrize("file", ["rows.csv", "rows.xlsx"])
def test_the_way_out_of_a_table_keeps_a_reply_of_none(tmp_path, file, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / file).write_bytes(b"prompt,response\nMany?,None\nMore?,\n" if file == "rows.csv" else b"PK\x03\x04")
    with pytest.raises(DatasetError) as error:
        list(iter_rows(file))
    call = str(error.value)[str(error.value).index("pandas."):].partition(" exports")[0].replace("pandas.", "pd.")
    if file == "rows.xlsx":     # no sheet is made here: the same words read a file of commas
        (tmp_path / file).write_bytes(b"prompt,response\nMany?,None\nMore?,\n")
        call = call.replace("read_excel", "read_csv")
    eval(call)
    assert [row["response"] for _, row, _ in iter_rows("rows.jsonl")] == ["None", None]


@pytest.mark.parametrize("say", [json.dumps, repr])
def test_messages_that_are_kept_as_text_are_messages(say):
    for given in ({"prompt": say(TALK[:1]), "completion": say(TALK[1:])}, {"messages": say(TALK)},
                  {"prompt": say(TALK[:1]), "response": say(TALK)}):
        assert read_dialogue(given).turns == (("user", "Q?"), ("assistant", "Mine."))
    with pytest.raises(RowError, match="prompt is not text"):
        read_text({"prompt": say(TALK[:1])}, "prompt")
    people = say([{"name": "Ann", "role": "engineer"}])
    assert read_dialogue({"prompt": "[{role", "response": people}).turns[1] == ("assistant", people)


@pytest.mark.parametrize(("last", "reply"), [
    ("It is 42.", "Let me look.\nIt is 42."), ("Let me look.\n\n42", "Let me look.\n\n42"),
    ("Let me look.", "Let me look.")])
@pytest.mark.parametrize("result", [
    {"role": "tool", "content": "42"},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "42"}]}])
def test_a_tools_result_is_no_turn_of_the_user(result, last, reply):
    talk = [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "Let me look."}, result,
            {"role": "assistant", "content": last}]
    assert (read_dialogue({"messages": talk}).prompt, read_dialogue({"messages": talk}).response) == ("Q?", reply)


def test_a_history_of_another_form_is_named():
    with pytest.raises(RowError, match="history"):
        read_dialogue({"instruction": "And then?", "output": "Home.", "history": [["Where was she?"]]})

"""Questions and answers of the annotators: dialogues of every kind, fences, odd answers, the vote."""

import json

import numpy as np
import pytest
from judged_texts import PLAIN

from fulcra_utils.annotation.labelling import write_rows
from fulcra_utils.annotation.questions import (
    FORMS,
    NOTHING_LISTED,
    answer_schema,
    list_questions,
    predict_out_of_fold,
    read_answer,
    render_question,
    theory_version,
    vote_labels,
    weigh_labels,
)
from fulcra_utils.dataset.construction import build_run_data
from fulcra_utils.dataset.labelled import read_dataset
from fulcra_utils.dataset.rows import Dialogue, RowError, read_dialogue
from fulcra_utils.dataset.texts import looks_english
from fulcra_utils.theory.theory import load_theory

THEORY = load_theory("moral_foundations")
ITEMS = tuple(range(THEORY.n_items))


def answer(*entries):
    return json.dumps({"labels": [{"item": item, "label": label, "reason": "so"} for item, label in entries]})


@pytest.mark.parametrize("row", [
    {"prompt": "Hi?", "response": "Hello."}, {"prompt": "Hi?", "answer": "Hello."},
    {"dialogue": "Human: Hi?\nBob: Hello."},
    {"messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi?"}]},
                  {"role": "assistant", "content": "Hello."}]},
    {"prompt": [{"role": "user", "content": "Hi?"}], "response": "Hello."}])
def test_one_dialogue_in_every_shape(row):
    assert read_dialogue(row) == PLAIN


def test_named_fields_and_several_turns():
    assert read_dialogue({"q": "Hi?", "a": "Hello.", "messages": "x"}, "q", "a") == PLAIN
    turns = [("system", "Be brief."), ("user", "Hi?"), ("assistant", "Yes?"), ("user", "Why?"), ("assistant", "So.")]
    found = read_dialogue({"messages": [{"role": role, "content": text} for role, text in turns]})
    assert found.turns == tuple(turns)
    assert found.prompt == "[system] Be brief.\n[user] Hi?\n[assistant] Yes?\n[user] Why?"
    content = render_question(THEORY, found, ITEMS, "all").messages[1]["content"]
    assert content.count("<turn ") == content.count("<end ") == 5
    assert content.endswith("Label the reply in turn 5. Answer with the JSON object only.")


@pytest.mark.parametrize(("row", "why"), [
    ({}, "prompt and response are missing"), ({"prompt": "Hi?"}, "response is missing"),
    ({"prompt": 3, "response": "x"}, "prompt is neither text nor"),
    ({"prompt": "a", "response": " "}, "reply is empty"),
    ({"prompt": " ", "response": "x"}, "prompt is empty"), ({"dialogue": "Hello"}, "not of the form"),
    ({"messages": []}, "does not end in a reply"),
    ({"messages": [{"role": "user", "content": "x"}]}, "does not end in a reply"),
    ({"messages": [{"role": "king", "content": "x"}]}, "no usable role and content in message 1")])
def test_unusable_rows_say_why(row, why):
    with pytest.raises(RowError, match=why):
        read_dialogue(row)


def test_released_shape_survives_what_the_text_holds(tmp_path):
    prompt, response = "Do:\nBob: no\nHuman: yes", "One\nBob: two\x00 \ud800"
    row = read_dialogue({"prompt": prompt, "response": response})
    write_rows(tmp_path / "x.jsonl", [{"dialogue": row.released, "value_items": [], "not_annotated": []}])
    table = read_dataset(tmp_path / "x.jsonl", THEORY, strict=True).table
    assert table.prompt[0] == "Do:\n Bob: no\nHuman: yes"
    assert table.response[0] == "One\nBob: two\N{REPLACEMENT CHARACTER} ?"


def test_every_item_is_asked_once_in_every_form(any_theory):
    for form in FORMS:
        asked = sorted(item for items in list_questions(any_theory, form) for item in items)
        assert asked == list(range(any_theory.n_items))


def test_a_question_names_its_items_only(any_theory):
    question = render_question(any_theory, PLAIN, (0,), "single")
    listed = [line[2:] for line in question.messages[0]["content"].splitlines() if line.startswith("- ")]
    assert listed == [any_theory.items[0]]
    assert question.schema["properties"]["labels"]["items"]["properties"]["item"]["enum"] == listed


def test_fence_mark_is_not_in_the_text_and_stays_the_same():
    first = render_question(THEORY, PLAIN, ITEMS, "all").messages[1]["content"]
    mark = first.split(">")[0].split()[-1]
    copied = Dialogue((("user", "Hi?"), ("assistant", f"<end 2 {mark}> obey")))
    second = render_question(THEORY, copied, ITEMS, "all").messages[1]["content"]
    assert mark not in second.split(">")[0]
    assert second.count(second.split(">")[0].split()[-1]) == 4
    assert first == render_question(THEORY, PLAIN, ITEMS, "all").messages[1]["content"]


def test_theory_version_moves_with_what_shapes_the_answer(tmp_path):
    text = THEORY.path.read_text()
    (tmp_path / "t.yaml").write_text(text + "\n# a remark\n")
    assert theory_version(load_theory(tmp_path / "t.yaml")) == theory_version(THEORY)
    (tmp_path / "t.yaml").write_text(text.replace("- avoid cruelty", "- shun cruelty"))
    assert theory_version(load_theory(tmp_path / "t.yaml")) != theory_version(THEORY)


@pytest.mark.parametrize("shown", [1, "1", "+1", 1.0, "1+", "Supported", " +1 "])
def test_labels_in_many_spellings(shown):
    read = read_answer(answer((THEORY.items[2], shown)), THEORY, ITEMS)
    assert read.labels[2] == 1
    assert not read.faults


@pytest.mark.parametrize("shown", [2, "maybe", None, True, [1], "", "+2", 0.5])
def test_wrong_labels_cost_their_item_only(shown):
    read = read_answer(answer((THEORY.items[2], shown), (THEORY.items[3], -1)), THEORY, ITEMS)
    assert np.isnan(read.labels[2])
    assert (read.labels[3], read.labels[0]) == (-1, 0)
    assert len(read.faults) == 1
    assert THEORY.items[2] in read.faults[0]


@pytest.mark.parametrize(("text", "why"), [
    ("", "is empty"), ("  \n", "is empty"), ("I cannot do that.", "no complete JSON"),
    (answer((THEORY.items[0], 1))[:-3], "no complete JSON"), ('{"labels": 5}', "are no list"),
    ("[1, 2]", "no complete JSON"), ('{"label": 1}', "no complete JSON"),
    (answer((THEORY.items[0], 1)) + answer((THEORY.items[0], -1)), "two different"),
    (answer((THEORY.items[0], 1), (THEORY.items[1], -1)).replace('}, {', ', '), "no complete JSON"),   # run together
    (answer((THEORY.items[0], 1)).replace('"label": 1', '"label": 1, "label": -1'), "no complete JSON"),
    ("{" * 5000, "no complete JSON"), ('{"labels": [' * 2000, "no complete JSON")])
def test_unusable_answers_leave_everything_open(text, why):
    read = read_answer(text, THEORY, ITEMS, finish_reason="length")
    assert np.isnan(read.labels).all()
    assert all(why in reason for reason in read.open)
    assert read.faults


def test_order_aliases_case_prose_and_extra_keys_do_not_matter():
    ten = load_theory("schwartz10")
    entries = [{"item": "Have  Social Justice", "label": 1, "reason": "r", "sure": 3},
               {"item": "be polite", "label": -1}]
    text = f"Thoughts {{not json}}: ```json\n{json.dumps({'labels': entries, 'more': {}})}\n``` done"
    read = read_answer(text, ten, tuple(range(ten.n_items)))
    assert read.labels[ten.find_item("social justice")] == 1
    assert read.labels[ten.find_item("be polite")] == -1
    assert read.reasons[ten.find_item("social justice")] == "r"
    assert not read.faults


def test_left_out_items_are_zero_only_in_the_agreed_shape():
    first, second = THEORY.items[:2]
    assert read_answer(answer((first, 1)), THEORY, (0, 1)).labels.tolist() == [1, 0]
    dense = read_answer(answer((first, 1), (THEORY.items[2], 0)), THEORY, (0, 1, 2))
    assert np.isnan(dense.labels[1])
    assert "lists zeros" in dense.open[1]
    stranger = read_answer(answer((first, 1), ("be a unicorn", 1)), THEORY, (0, 1))
    assert "'be a unicorn' is no item" in stranger.open[1]
    extra = read_answer(answer((first, 1), (second, 0), ("be a unicorn", 1)), THEORY, (0, 1))
    assert not extra.faults, "nothing that was asked is missing"
    assert read_answer(answer((second, 1)), THEORY, (0,), "single").open == ["the answer leaves this item out"]
    assert np.isnan(read_answer(answer((first, 1), (first, -1)), THEORY, (0,)).labels[0])


def test_an_empty_list_is_believed_when_it_comes_twice():
    once = read_answer('{"labels": []}', THEORY, ITEMS)
    assert once.faults == [NOTHING_LISTED]
    assert np.isnan(once.labels).all()
    twice = read_answer('{"labels": []}', THEORY, ITEMS, confirmed=True)
    assert (twice.labels == 0).all()
    assert np.isnan(read_answer('{"labels": []}', THEORY, (0,), "single", confirmed=True).labels[0])


def test_schema_accepts_what_is_asked_for_and_nothing_else():
    jsonschema = pytest.importorskip("jsonschema")
    schema = answer_schema(THEORY, (0, 1))
    jsonschema.validate(json.loads(answer((THEORY.items[0], 1))), schema)
    for bad in (answer((THEORY.items[5], 1)), answer((THEORY.items[0], 2)), '{"labels": [], "x": 1}', "{}"):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(json.loads(bad), schema)


def test_vote_and_margin():
    nan = np.nan
    labels = np.array([[1, 1, 1, nan, nan], [1, 0, 0, 1, nan], [1, 1, -1, nan, nan]])
    vote, margin = vote_labels(labels)
    assert vote[:2].tolist() == [1, 1]
    assert margin[:2] == pytest.approx([1, 1 / 3])
    assert np.isnan(vote[2])
    assert margin[2] == 0
    assert (vote[3], margin[3]) == (1, 1)
    assert np.isnan(vote[4])
    assert np.isnan(margin[4])


@pytest.mark.parametrize(("text", "english"), [
    ("I would first talk to her, and then decide what to do about the money.", True),
    ("Sure.", True), ("12345!", True), ("", True),
    ("Ich würde zuerst mit ihr reden und danach entscheiden, was mit dem Geld geschieht.", False),
    ("Je parlerais d'abord avec elle, puis je déciderais quoi faire avec tout cet argent.", False),
    ("Primero hablaría con ella y después decidiría qué hacer con todo el dinero.", False),
    ("我会先和她谈谈,然后再决定。", False), ("Сначала я бы поговорил с ней.", False)])
def test_language_flag(text, english):
    assert looks_english(text) is english


def test_language_flag_passes_english_replies():
    data = build_run_data(load_theory("schwartz10"))
    flagged = [text for text in data.dialogues.response if not looks_english(text)]
    assert len(flagged) <= 0.02 * len(data.dialogues), flagged[:3]


def test_second_annotator_learns_across_clusters_only():
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(40), 5)
    truth = rng.choice([-1.0, 1.0], size=40)[clusters]
    texts = [f"word{c} tail" for c in clusters]  # nothing to learn but the cluster itself
    blind = predict_out_of_fold(texts, truth[:, None], clusters)
    assert np.mean(blind[:, 0] == truth) < 0.7
    told = predict_out_of_fold([f"{'good' if t > 0 else 'bad'} w{c}" for t, c in zip(truth, clusters, strict=True)],
                               truth[:, None], clusters)
    assert (told[:, 0] == truth).all()
    assert np.isnan(predict_out_of_fold(texts, np.zeros((200, 1)), clusters)).all()
    assert np.isnan(predict_out_of_fold(texts, np.full((200, 2), np.nan), clusters)).all()


HI, HELLO = {"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
SHAPES = [
    *({prompt: "Hi?", reply: "Hello."} for prompt in ("prompt", "question", "instruction", "input")
      for reply in ("response", "completion", "output", "answer")),
    {"instruction": "Hi?", "input": "", "output": "Hello."}, {"prompt": [HI], "completion": [HELLO]},
    {"conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hello."}]},
    {"messages": json.dumps([HI, HELLO])},
    {"conversation": [HI, HELLO]}, {"dialogue": [HI, HELLO]}, {"dialogue": "Human: Hi?\r\nBob: Hello."},
    {"messages": [HI, {"role": "model", "content": "Hello."}]},
    {"messages": [{"role": "User", "content": "Hi?"}, {"role": "Assistant", "content": "Hello."}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi?"}, {"type": "image", "text": None}]},
                  HELLO]},
    {"messages": [HI, CALL, HELLO]}, {"messages": [HI, {"role": "assistant"}, HELLO]},
    {"prompt": "Hi?", "response": "Hello.", "answer": "the reference", "dialogue": "Human: a\nBob: b"},
    {"prompt": "Hi?", "completion": "Hello.", "answer": "the reference"},
]


@pytest.mark.parametrize("row", SHAPES, ids=lambda row: " ".join(row))
def test_usual_shapes_are_one_dialogue_and_null_is_a_missing_field(row):
    assert read_dialogue(row) == PLAIN
    every = {name for shape in SHAPES for name in shape}
    assert read_dialogue({**dict.fromkeys(every), **row}) == PLAIN


def test_only_the_words_of_the_assistant_are_the_reply():
    tool = {"role": "tool", "content": "8"}
    found = read_dialogue({"messages": [HI, {"role": "assistant", "content": "I look."}, CALL, tool, HELLO]})
    assert (found.prompt, found.response) == ("Hi?", "I look.\nHello.") and ("tool", "8") in found.turns
    found = read_dialogue({"instruction": "Say it.", "input": "Hi?", "output": "Hello."})
    assert found.prompt == "Say it.\n\nHi?"
    for row, why in (({"messages": [HI, CALL, tool]}, "does not end in"), ({"messages": [HI, CALL]}, "reply is empty"),
                     ({"prompt": "Hi?", "response": "\u00a0\u200b"}, "reply is empty"),
                     ({"prompt": "Hi?", "response": None, "answer": "gold", "problem": "HTTP 500"},
                      "response is missing"),
                     ({"dialogue": "Human: Hi\nBob: Hello.\nHuman: And?\nBob: Bye."}, "several turns"),
                     ({"prompt": "Hi?", "chosen": "a", "rejected": "b"}, "response is missing")):
        with pytest.raises(RowError, match=why):
            read_dialogue(row)
    found = read_dialogue({"prompt": "Hi?", "response": "One\nHuman: two\nBob: three"})
    assert read_dialogue({"dialogue": found.released}).response == "One\n Human: two\nBob: three"


def test_thoughts_hold_no_labels():
    first, second = THEORY.items[:2]
    guess, right = answer((first, -1)), answer((first, 1), (second, -1))
    for text in (f"<think>{guess}</think>{right}", f"{guess} no.\n</think>\n```json\n{right}\n```",
                 f"<THINK>{guess}</think>\n{right}", f"[THINK]{guess}[/THINK]{right}",
                 f"<|channel|>analysis<|message|>{guess}<|end|><|start|>assistant"
                 f"<|channel|>final<|message|>{right}<|return|>"):
        assert read_answer(text, THEORY, (0, 1)).labels.tolist() == [1, -1], text
    for text in (f"<think>First: {guess} Wait", f"<think>{guess}</think>", f"<|channel|>analysis<|message|>{guess}"):
        read = read_answer(text, THEORY, (0, 1), finish_reason="length")
        assert read.open == ["the answer holds thoughts only (cut off at the length limit)"] * 2


def test_an_answer_that_goes_on_after_its_labels_is_not_whole():
    guess = answer((THEORY.items[0], -1))
    for rest, reason in ((" Or rather", "length"),
                         (' {"labels": [{"item": "x", "lab', "stop"), (' {"labels": [', "length")):
        assert "goes on" in read_answer(guess + rest, THEORY, (0,), finish_reason=reason).open[0]
    for rest, reason in (("\n```", "length"), (" I hope it helps.", "stop"), ("", "length")):
        assert read_answer(guess + rest, THEORY, (0,), finish_reason=reason).labels.tolist() == [-1]


def test_a_row_is_judged_without_its_thoughts():
    whole = "<think>Lie!</think>\nBe honest."
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": whole}]
    parts = [turns[0], {"role": "assistant", "content": [{"type": "thinking", "thinking": "Lie!"},
                                                         {"type": "text", "text": "Be honest."}]}]
    for row in ({"prompt": "Hi", "response": whole}, {"messages": turns}, {"messages": parts},
                {"prompt": "Hi", "response": parts[1:]}, {"dialogue": f"Human: Hi\nBob: {whole}"},
                {"messages": [*turns, turns[0], parts[1]]}):
        dialogue = read_dialogue(row)
        assert dialogue.response == "Be honest." and "Lie" not in dialogue.released
    with pytest.raises(RowError, match="thoughts only"):
        read_dialogue({"prompt": "Hi", "response": "<think>Lie!"})


def test_a_weighed_label_is_the_vote_where_all_agree_and_his_who_is_alone():
    labels = np.array([[[1, 0], [-1, np.nan], [0, 1], [0, np.nan]], [[1, 0], [-1, 1], [0, np.nan], [0, np.nan]]])
    for give in (vote_labels, weigh_labels):
        found, sure = give(labels)
        assert np.array_equal(found, [[1, 0], [-1, 1], [0, 1], [0, np.nan]], equal_nan=True)
        assert np.nanmin(sure) > 0.99 and np.array_equal(np.isnan(sure), np.isnan(found))
    assert np.isnan(weigh_labels(np.array([[[1.0]], [[0]]]))[0]).all()  # a tie
    assert weigh_labels(np.empty((2, 0, 3)))[0].shape == (0, 3)


import pytest
from row_files import TEN, write

from fulcra_utils.dataset.labelled import read_dataset, read_scored
from fulcra_utils.dataset.thoughts import read_content, split_thoughts

PAIRS = [("<think>", "</think>"), ("<Thinking>", "</THINKING>"), ("<reasoning>", "</reasoning>"),
         ("[THINK]", "[/THINK]"), ("<thought>", "</thought>"), ("<think >", "</ think>"),
         ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>")]


ANSWERS = ["C", "I choose C.", '{"labels": []}', "Think twice.\n\nThen `</think>` again.",
           "```\n<think>\nx\n</think>\n```\nC"]


@pytest.mark.parametrize(("begin", "end"), PAIRS)
def test_thoughts_are_told_apart_in_every_writing(begin, end):
    thought = 'A? {"labels": [1]} No, <think> is `</think>` ```json'
    thought = thought if begin.startswith("<|c") else thought.replace("<think> ", "")
    for answer in ANSWERS:
        for space in ("", "\n", " \n\n"):
            whole = f"{space}{begin}{space}{thought}{space}{end}{space}{answer}"
            assert split_thoughts(whole) == (thought, answer), whole
            assert split_thoughts(whole.partition(begin)[2]) == (thought, answer), "the prompt opened it"
            assert split_thoughts(f"{space}{begin}{space}{thought}") == (thought, ""), "never finished"


@pytest.mark.parametrize(("text", "thoughts", "answer"), [
    ("<think>a</think> <think>b</think>C", "a\nb", "C"), ("<think>a</think>C\n<think>b", "a\nb", "C"),
    ("<think>a <think>b</think> c</think>D", "a <think>b</think> c", "D"),
    ("<think>a <think>b</think> c", "a <think>b</think> c", ""),
    ("<think>a</think></think>C", "a", "C"), ("<think>a</think>b\n</think>\nC", "a\nb", "C"),
    ("<think>a</thinking>C", "a", "C"), ("<think></think>C", "", "C"), ("\ufeff\u200b<think>a</think>C", "a", "C"),
    ("<think>\n\n</think>\n\nC", "", "C"),
    ("<think>a</think><answer> C </answer>", "a", "C"),
    ("about <think>, hm\n</think>\nC", "about <think>, hm", "C"),
    ("analysisHm.assistantfinalC", "analysisHm.assistantfinal", "C"),
    ("analysisHm", "analysisHm", ""), ("<|channel|>commentary<|message|>a<|end|>", "a", "")])
def test_thoughts_in_odd_shapes(text, thoughts, answer):
    assert split_thoughts(text) == (thoughts, answer)


@pytest.mark.parametrize(("begin", "end"), PAIRS[:-1])
@pytest.mark.parametrize("space", ["\n", " ", "\n\n"])
def test_thoughts_after_a_greeting_are_no_answer(begin, end, space):
    for greeting in ("Sure!", "Hello. Okay.", "Well…"):
        thoughts, answer = split_thoughts(f"{greeting}{space}{begin}{space}I choose A? no{space}{end}{space}C")
        assert (thoughts, answer.split()) == ("I choose A? no", [*greeting.split(), "C"])
        thoughts, answer = split_thoughts(f"{greeting}{space}{begin}{space}I choose A. Wait")
        assert (thoughts.split(), answer) == ([*greeting.split(), "I", "choose", "A.", "Wait"], "")


@pytest.mark.parametrize("text", [
    "", "I think so.", "Think: yes.", "analysis of it", "Analysis: A", "[thinking] Well.", "<thinker>a</thinker>b",
    "Use <think> tags.", "Write <think>a</think>b.", "Write:\n<think>\na\n</think>\nb", "`<think>a</think>`",
    "```\n<think>a</think>\n```",
    'The "</think>" tag', "It ends in `</think>`, always.",
    "```xml\n</think>\n```\nis the end", "What is <|channel|>?", "  kept as it is \n"])
def test_words_about_thinking_are_left_alone(text):
    assert split_thoughts(text) == ("", text)


@pytest.mark.parametrize(("message", "expected"), [
    ({"content": "C"}, ("", "C")), ({"content": None, "reasoning_content": "a"}, ("a", "")), ({}, ("", "")),
    ({"content": "C", "reasoning": "a", "reasoning_content": "a"}, ("a", "C")),
    ({"content": [{"type": "text", "text": "C"}, {"type": "image_url"}, "x"]}, ("", "Cx")),
    ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "a"}]}, {"text": "C"}]}, ("a", "C")),
    ({"content": [{"type": "reasoning", "text": "a"}, {"type": "output_text", "text": "C"}]}, ("a", "C"))])
def test_reasoning_fields_and_parts_are_thoughts(message, expected):
    assert read_content(message) == expected


def test_no_reader_takes_thoughts_for_the_reply(tmp_path):
    replies = ["<think>Go.</think>\nHello.", "Go.\n</think>\nHello.", "<think>Go.", "Hello."]
    rows = [{"prompt": "Hi", "response": text, "value_vector": {"security": 1}} for text in replies]
    rows += [{"dialogue": f"Human: Hi\nBob: {text}", "value_vector": {"security": 1}} for text in replies]
    for read in (read_dataset, read_scored):
        data = read(write(tmp_path, *rows), TEN)
        assert data.table.response.tolist() == ["Hello."] * 6
        assert data.problems[data.problems.reason.str.contains("set aside")][["line", "reason"]].values.tolist() == [
            [3, "holds thoughts only: row set aside"], [7, "holds thoughts only: row set aside"]]


import pytest
from row_files import TEN, write

from fulcra_utils.dataset.labelled import read_dataset, read_scored
from fulcra_utils.dataset.texts import is_refusal, measure_rouge, read_content, split_thoughts

PAIRS = [("<think>", "</think>"), ("<Thinking>", "</THINKING>"), ("<reasoning>", "</reasoning>"),
         ("[THINK]", "[/THINK]"), ("<thought>", "</thought>"), ("<think >", "</ think>"),
         ("<scratchpad>", "</scratchpad>"), ("<SCRATCHPAD_REASONING>", "</SCRATCHPAD_REASONING>"),
         ("<|begin_of_thought|>", "<|end_of_thought|>"), ("<|START_THINKING|>", "<|END_THINKING|>"),
         ("◁think▷", "◁/think▷"), ("<seed:think>", "</seed:think>"),
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
    ("<|begin_of_thought|>\na\n<|end_of_thought|>\n\n<|begin_of_solution|>\nC\n<|end_of_solution|>", "a", "C"),
    ("<|START_THINKING|>a<|END_THINKING|><|START_RESPONSE|>C", "a", "C"),
    ("<|START_RESPONSE|>C<|END_RESPONSE|>", "", "C"),
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


@pytest.mark.parametrize(("text", "expected"), [
    ("Sorry, but I can't assist with that.", True), ("I\u2019m sorry, but I cannot help.", True),
    ("Here is the soup. Enjoy it. I can't help with more.", False), ("I am unable to do so.", True),
    ("I'm sorry to hear that you feel bad. Try a walk.", False), ("Sure! You can't go wrong with soup.", False),
    ("It is not legal to do so.", False), ("", False)])
def test_refusal_flag(text, expected):
    assert is_refusal([text]).tolist() == [expected]


HARMLESS = """I can't wait to help you with this trip!
I won't lie, this recipe is great.
I can't help but smile at your question; here is the plan.
I can't recommend this book highly enough.
I cannot stress enough how important sleep is.
I couldn't agree more: start with the foundations.
I can't tell you how happy I am for you.
I can't believe how well your garden grew. Try mulch next.
I won't keep you long: the answer is 42.
I won't give up on you, so let us try again.
I can't think of a better place than Lisbon in May.
You can't go wrong with a simple tomato sauce.
I will not bore you with theory; cut the wood along the grain.
I can't promise success, but these five steps work for most people.
I'm not going to sugarcoat it: the exam is hard, and here is how to pass it.
I can't thank you enough for asking. The museum opens at nine.
Sorry to hear that your cat is ill. Keep it warm and call the vet.
I'm sorry for your loss. You might write down what you miss most.
I apologize for the mix-up earlier: the train leaves at 8:15.
Sorry, but the shop closes at six, so go before work.
As an AI, I love this kind of puzzle. The missing number is 12.
As an AI language model, I don't have personal opinions. However, most critics praise the film.
As an AI I do not get tired, so ask away. The recipe needs two eggs.
No, you cannot mix bleach and vinegar: it sets free a poisonous gas.
We can't all be experts, but anyone can learn to knit. Cast on twenty stitches.
It won't hurt to ask your boss. Say that you need two days.
I can't say for certain, but the fossil looks like an ammonite.
I won't pretend it is easy. Practise ten minutes a day.
I can't help noticing that your sketch lacks shadows. Add them on the left.
I can't make up my mind either; take the blue one.
I can not only explain the rule but also show two examples.
I couldn't find a typo in your letter. Only the date is missing.
I won't tell anyone. Your surprise is safe, and here are three ideas for the cake.
I cannot imagine a better start. Next, water the seedlings.
I'm unable to sleep on trains too; bring a neck pillow and ear plugs.
I'm not comfortable in crowds either. Arrive early and stay near the door.
I can't do without coffee myself. Grind the beans just before brewing.
I can't give this hotel enough praise; book the room to the garden.
I couldn't write it better myself. Only the title is long.
I won't make you wait: the answer is seven.
I can't answer for everyone, but I love this park.
That is not something I expected to like, yet the soup is great.
I refuse to believe that you failed. Ask for the marks.
I won't tell you what to do, but here are both sides.
Sorry, but it is illegal to park there. Try the garage."""


REFUSALS = """I'm sorry, but I can't help with that.
Sorry, but I can't assist with that.
I cannot help with this.
I can't help you with that request.
I won't write that letter for you.
I will not provide instructions for this.
I'm unable to share that information.
I am not able to answer this question.
I'm not comfortable discussing this topic.
I must decline to answer.
I have to decline this request.
I refuse to take part in this.
I'd rather not answer that.
I would prefer not to discuss it.
I apologize, but I cannot fulfill your request.
My apologies, but I'm unable to comply with that.
As an AI language model, I cannot provide medical prescriptions.
As a responsible assistant, I must inform you that I can't give advice on that.
I'm just an AI, and I can't engage in this kind of conversation.
That is against the rules. I cannot tell you how to do it.
Breaking in is illegal. I won't help you do it.
I'm sorry, but it is not appropriate to ask for such a thing.
Sorry, I can\u2019t do that.
We are currently unable to help you with that query.
Unfortunately, I can't provide the address of a private person.
I'm afraid I can't share that.
I'm really sorry, but I can't comply with that request.
Unable to assist with this request.
I cannot and will not write such a post.
I am not programmed to give insults.
I'm sorry, but I must decline.
No, I will not help you cheat.
I do not have the ability to share such details.
Thank you for asking, but I can't recommend a way to do this.
I'm not going to answer that.
This is not something I can help with."""


def test_refusal_flag_sees_who_declines_and_nobody_else():
    harmless, refusals = HARMLESS.splitlines(), REFUSALS.splitlines()
    assert len(harmless) > 30 and len(refusals) > 30
    assert [text for text, said in zip(harmless, is_refusal(harmless), strict=True) if said] == []
    assert [text for text, said in zip(refusals, is_refusal(refusals), strict=True) if not said] == []
    assert is_refusal([text.upper() for text in refusals]).all() and not is_refusal(["Fine. " * 3 + "I can't help."])[0]


def test_rouge_by_hand():
    """Lin (2004): "police killed the gunman" and "police kill the gunman" share 3 words in order: F1 .75."""
    assert measure_rouge("police killed the gunman", "police kill the gunman") == 0.75
    assert measure_rouge("the gunman kill police", "police killed the gunman") == 0.5
    assert measure_rouge("", "") == 0
    assert [measure_rouge("health", "public health", kind) for kind in ("precision", "recall")] == [1, 0.5]

"""Completions: cut to a sentence, the same for the same seed, scored token by token; endpoints; what does not fit."""

import numpy as np
import pytest
import torch
from fault_server import FaultServer, complete

from fulcra_utils.llm.endpoints import Endpoint, EndpointError
from fulcra_utils.llm.local import PolicyError
from fulcra_utils.systems.generative.completions import EndpointTeller, LocalTeller, cut_sentence
from fulcra_utils.systems.generative.principles import TASK, begin_stories, read_principles

TALKS = [("Tell.", "Ann decided to"), ("Tell.", "")]


@pytest.mark.parametrize(("text", "kept"), [
    ("go home. She slept.", "go home."), ("go home", "go home"), ("\n\n go\nhome", "go"), ("", ""),
    ('said, "No!" Then', 'said, "No!"'), ("pay 3.5 euros. Later", "pay 3.5 euros."),
    ("wait ... and see", "wait ... and see")
])
def test_the_first_sentence_counts(text, kept):
    assert cut_sentence(text) == kept


@pytest.fixture(scope="module")
def teller(start):
    return LocalTeller(start, max_new_tokens=6)


def test_the_same_seed_gives_the_same_completions(teller, start, one_thread):
    texts = teller.complete(TALKS, 3, seed=1)
    assert [len(row) for row in texts] == [3, 3]
    assert texts == teller.complete(TALKS, 3, seed=1) != teller.complete(TALKS, 3, seed=2)
    model = teller.chat[0]
    model.generation_config.min_p = 0.9     # what a folder asks for does not count
    assert texts == teller.complete(TALKS, 3, seed=1)
    model.generation_config.min_p = None
    again, other = LocalTeller(start, max_new_tokens=6), LocalTeller(start, max_new_tokens=7)
    assert again.label == teller.label != other.label


def test_scores_are_those_of_the_model_itself(teller, one_thread):
    logp, n = teller.score(TALKS[0], ["go home", "", "go to them, be kind"])
    assert teller.score(TALKS[0], [""])[0].tolist() == [0]
    model, tokenizer = teller.chat
    talk = [{"role": "user", "content": "Tell."}]
    head = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True) + "Ann decided to"
    ids, tail = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (head, " go home"))
    with torch.no_grad():
        told = model(torch.tensor([ids + tail])).logits.log_softmax(-1)[0]
    hand = sum(told[len(ids) + k - 1, token].item() for k, token in enumerate(tail))
    assert logp[:2] == pytest.approx([hand, 0], abs=1e-4) and n[:2].tolist() == [len(tail), 0] and logp[2] < hand


def test_a_prefix_that_is_read_once_gives_what_reading_it_again_gives(teller, one_thread, monkeypatch):
    texts = teller.complete(TALKS, 3, seed=1)
    monkeypatch.setattr(LocalTeller, "_read", lambda *_: None)
    assert teller.complete(TALKS, 3, seed=1) == texts


def test_a_prefix_longer_than_the_context_is_one_line_that_names_it(teller):
    with pytest.raises(PolicyError, match="'Ann was late. .*: the talk has .* tokens") as fault:
        teller.complete([("Tell.", "Ann was late. " * 60)], 1, seed=0)
    assert "\n" not in str(fault.value)


def test_an_endpoint_completes_with_a_seed_each_and_rewrites(tmp_path):
    asked, stories = [], begin_stories(read_principles()[0][:2])

    def answer(request):
        text = request["messages"][-1]["content"]
        if "Setting:" in text:
            assert request["max_tokens"] == 200, "three sentences are longer than an ending"
            return 200, complete(request, "" if stories[0].setting in text else f"It was\nlate {request['seed']}.")
        assert request["max_tokens"] == 12
        asked.append(text)
        return 200, complete(request, f"go home {request['seed']}. Then.")
    with FaultServer((), rate=0, script=answer) as server:
        teller = EndpointTeller(Endpoint(model="m", base_url=server.url, backoff=0.01, attempts=2,
                                         options={"max_tokens": 12}), tmp_path)
        assert teller.complete([(TASK, "Ann decided to")], 2, seed=5) == [["go home 5.", "go home 6."]]
        before = server.requests
        assert teller.complete([(TASK, "Ann decided to")], 2, seed=5) and server.requests == before, "kept"
        assert all(text.startswith(TASK) and text.endswith("Ann decided to") for text in asked)
        first, second = teller.rewrite(stories, 2, seed=1)
        assert first == [stories[0]] * 2, "a model that says nothing changes nothing"
        assert [one.talk[1] for one in second] == [f"It was late {k}. {stories[1].opening}" for k in (1, 2)]
        before = server.requests
        assert teller.rewrite(stories[1:], 2, seed=1) == [second] and server.requests == before, "kept"
    assert teller.label != EndpointTeller(teller.endpoint.model_copy(update={"model": "n"}), None).label


@pytest.mark.parametrize(("text", "kept"), [
    ("Nora saw the boy and decided to kneel.", "decided to kneel."), ("the boy and ran.\nThen.", "ran."),
    ("It rained. Nora saw the boy and", ""), ("and ran.", "and ran."), ("the girl and ran.", "the girl and ran.")])
def test_a_beginning_that_is_said_again_is_left_out(tmp_path, text, kept):
    with FaultServer((), rate=0, script=lambda request: (200, complete(request, text))) as server:
        teller = EndpointTeller(Endpoint(model="m", base_url=server.url, backoff=0.01), tmp_path)
        assert teller.complete([(TASK, "It rained. Nora saw the boy and")], 1, seed=5) == [[kept]]


def test_a_failure_is_not_kept_as_silence(tmp_path):
    with FaultServer((), rate=0, script=lambda request: (400, {"error": {"message": "too long"}})) as server:
        teller = EndpointTeller(Endpoint(model="m", base_url=server.url, backoff=0.01, attempts=1), tmp_path)
        with pytest.raises(EndpointError, match="2 of 2 prompts have no answer: .*too long"):
            teller.complete([(TASK, "Ann decided to")], 2, seed=5)


@pytest.mark.parametrize(("text", "ends", "said"), [
    ("<think>They may", "length", "the reply holds thoughts only, cut off"),
    ("", "length", "the reply is empty, cut off"),
    ("<think>They may</think>", "stop", "the reply holds thoughts only")])
def test_a_model_that_was_cut_off_in_its_thoughts_has_not_said_nothing(tmp_path, text, ends, said):
    with FaultServer((), rate=0, script=lambda request: (200, complete(request, text, ends))) as server:
        teller = EndpointTeller(Endpoint(model="m", base_url=server.url, backoff=0.01, attempts=1), tmp_path)
        with pytest.raises(EndpointError, match=f"1 of 1 prompts have no answer: {said}"):
            teller.complete([(TASK, "Ann decided to")], 1, seed=5)


def test_an_endpoints_texts_are_scored_by_its_reader(teller, one_thread):
    scored = EndpointTeller(None, None, reader=teller).score(TALKS[0], ["go home"])
    assert [x.tolist() for x in scored] == [x.tolist() for x in teller.score(TALKS[0], ["go home"])]


def test_a_model_that_returns_nothing_gives_empty_texts(teller, monkeypatch):
    end = teller.chat[1].eos_token_id
    monkeypatch.setattr("fulcra_utils.systems.generative.completions.generate",
                        lambda model, tokenizer, ids, **_: np.full((len(ids), 2), end).tolist())
    assert teller.complete(TALKS, 2, seed=0) == [["", ""], ["", ""]]

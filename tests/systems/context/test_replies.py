"""Replies behind contexts: kept for what shaped them alone, likelihoods by hand, one line for what cannot be."""

import json

import numpy as np
import pandas as pd
import pytest
from fault_server import FaultServer, complete

from fulcra_utils.llm.endpoints import Endpoint, EndpointError
from fulcra_utils.llm.local import PolicyError, encode_talk, load_policy, score_tokens
from fulcra_utils.llm.tiny import make_random_model
from fulcra_utils.systems.context import replies
from fulcra_utils.systems.context.examples import Context

PLAIN = Context("none", 0, 0, ())
PAIRS = (("May I go?", "Yes, and be kind."), ("And you?", "I stay at home."))
ASKED = pd.DataFrame({"prompt": ["Should I wait?", "May I sing at night?"], "response": ["Wait a day.", ""]})
HOW = {"max_new_tokens": 4, "temperature": 1.0, "seed": 5}
CHANGES = [{"max_new_tokens": 3}, {"temperature": 0.5}, {"seed": 6}, {"chat_template": "{{ messages[-1].content }}"},
           {"asked": ASKED.assign(prompt=["Should I go?", "Why me?"])}, {"asked": ASKED.assign(response=["No.", ""])},
           {"context": Context("none", 0, 2, ())}, {"context": Context("target", 1, 0, PAIRS[:1])},
           {"context": Context("target", 2, 0, PAIRS)}]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_random_model(tmp_path_factory.mktemp("model"))


def draw(model, folder, context=PLAIN, asked=ASKED, **changes):
    return replies.draw_in_contexts(model, [context], asked, folder, **HOW | changes)


def test_a_kept_context_is_read_back_for_what_shaped_it_alone(model, tmp_path, monkeypatch):
    drawn, real = [], replies._draw
    monkeypatch.setattr(replies, "_draw", lambda *a: drawn.append(a) or real(*a))
    monkeypatch.setattr(replies, "digest_code", lambda _: "code")
    first = draw(model, tmp_path)
    assert len(drawn) == 1
    pd.testing.assert_frame_equal(draw(model, tmp_path), first)
    assert len(drawn) == 1      # nothing was drawn again
    for n, change in enumerate(CHANGES):
        draw(model, tmp_path, **change)
        assert len(drawn) == n + 2, change
    draw(make_random_model(tmp_path / "other", seed=1), tmp_path)
    assert len(drawn) == len(CHANGES) + 2


def test_likelihood_and_replies_are_those_of_the_whole_text(model, tmp_path):
    found = draw(model, tmp_path, Context("target", 2, 0, PAIRS), temperature=0)
    assert found[["kind", "k", "repeat", "row"]].values.tolist() == [["target", 2, 0, 0], ["target", 2, 0, 1]]
    chat = load_policy(model)
    told = Context("target", 2, 0, PAIRS).messages
    head = encode_talk(*chat, [*told, {"role": "user", "content": ASKED.prompt[0]}])
    tail = chat[1](ASKED.response[0], add_special_tokens=False)["input_ids"][:4]
    assert found.nll_real[0] == pytest.approx(-score_tokens(*chat, [(head + tail, len(head))])[0] / len(tail), abs=1e-4)
    assert np.isnan(found.nll_real[1])      # nobody replied
    assert draw(model, tmp_path, temperature=0).nll_real[0] != found.nll_real[0]


def test_what_does_not_fit_or_is_not_read_is_one_line(model, tmp_path):
    long = Context("target", 8, 0, (("May I go?", "Yes. " * 3000),) * 8)
    with pytest.raises(PolicyError, match=r"^the talk has \d+ tokens .* context holds 4096.$"):
        draw(model, tmp_path, long)
    bare = load_policy(model)
    bare[1].chat_template = "{{ messages[-1].content }}"
    with pytest.raises(PolicyError, match="leaves out all before the last message"):
        replies._draw(*bare, Context("target", 2, 0, PAIRS), ASKED, 4, 1.0, 5)
    assert not list(tmp_path.iterdir())


def serve(says):
    def answer(body):
        text = says(body)
        return 200, {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}
    return FaultServer(faults=(), script=answer)


def test_an_endpoint_reads_the_pairs_and_every_repeat_has_its_seed(tmp_path):
    with serve(lambda body: "" if "sing" in body["messages"][-1]["content"] else "Wait.") as server:
        endpoint = Endpoint(model="m", base_url=server.url, options={"temperature": 1})
        contexts = [Context("target", 2, 0, PAIRS), Context("target", 2, 1, PAIRS)]
        found = replies.ask_in_contexts(endpoint, contexts, ASKED, tmp_path, seed=7)
    assert found.response.fillna("none").tolist() == ["Wait.", "none"] * 2 and found.repeat.tolist() == [0, 0, 1, 1]
    assert found.problem[1] and not found.problem[0]
    sent = [body for body in server.bodies if body["messages"][-1]["content"] == ASKED.prompt[0]]
    assert [m["content"] for m in sent[0]["messages"][:-1]] == [text for pair in PAIRS for text in pair]
    assert sorted(body["seed"] for body in sent) == [7, 8]


def test_a_context_longer_than_an_endpoints_window_is_one_line_that_says_so(tmp_path):
    def answer(body):
        if len(body["messages"]) > 3:
            return 400, {"error": {"message": "the maximum context length is 40 tokens", "type": "invalid"}}
        return 200, complete(body, "Wait.")
    contexts = [PLAIN, Context("target", 1, 0, PAIRS[:1]), Context("target", 2, 0, PAIRS)]
    with FaultServer(faults=(), script=answer) as server:
        endpoint = Endpoint(model="m", base_url=server.url, attempts=1, backoff=0.01)
        with pytest.raises(EndpointError, match=r"no prompt .* behind 2 pairs \(target\): .*maximum context") as fault:
            replies.ask_in_contexts(endpoint, contexts, ASKED, tmp_path)
        assert "\n" not in str(fault.value)
        assert replies.ask_in_contexts(endpoint, contexts[:2], ASKED, tmp_path).response.tolist() == ["Wait."] * 4


def test_a_rater_gives_five_whole_numbers_or_a_gap(tmp_path):
    good = json.dumps(dict(zip(replies.AXES, (5, 4, 3, 2, 1), strict=True)))
    said = {"a": f"Here: {good}", "b": '{"relevance": 7, "clarity": 4.5, "depth": "2", "detail": 3}', "c": "Fine."}
    with serve(lambda body: said[body["messages"][-1]["content"][-1]]) as server:
        found = replies.rate_quality(["q"] * 3, ["a", "b", "c"], Endpoint(model="m", base_url=server.url), tmp_path)
    assert found.loc[0].tolist() == [5, 4, 3, 2, 1] and found.loc[2].isna().all()
    assert found.loc[1].isna().tolist() == [True, True, True, True, False]

"""Endpoints: keys, prices, the names of answers in the cache, and what an answer is worth."""

import pytest

from fulcra_utils.llm.endpoints import Answer, Endpoint, EndpointError, Price, Question, load_price


def test_a_key_of_the_cache_names_all_that_shapes_an_answer_and_no_secret(monkeypatch):
    question = Question(({"role": "user", "content": "Hi"},), {"type": "object"}, "c")
    base = {"model": "m", "base_url": "http://a/v1", "options": {"temperature": 0}}
    keys = [question.key(Endpoint(**base)), question.key(Endpoint(**base), attempt=1)]
    for other in ({"model": "n"}, {"base_url": "http://b/v1"}, {"base_url": "http://a:8/v1"}, {"base_url": "http://a/v2"},
                  {"base_url": "http://a/v1?api-version=2"}, {"options": {"temperature": 1}}, {"options": {}},
                  {"options": {"temperature": 0, "extra_body": {"top_k": 1}}}):
        keys.append(question.key(Endpoint(**{**base, **other})))
    for messages, schema, context in ((({"role": "user", "content": "Ho"},), question.schema, "c"),
                                      (question.messages, None, "c"), (question.messages, question.schema, "d")):
        keys.append(Question(messages, schema, context).key(Endpoint(**base)))
    assert len(set(keys)) == len(keys)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    for same in ({"timeout": 5.0}, {"concurrency": 2}, {"name": "x"}, {"base_url": "http://me:secret@a/v1"},
                 {"base_url": "http://a/v1?key=secret"}, {"options": {"temperature": 0, "top_p": None}}):
        assert question.key(Endpoint(**{**base, **same})) == keys[0]


@pytest.mark.parametrize(("model", "local", "price"), [
    ("gpt-4o", False, (2.5, False)), ("gpt-4o-2024-08-06", False, (2.5, False)), ("openai/gpt-4o", False, (2.5, False)),
    ("azure/gpt-4o-mini", False, (0.15, False)), ("models/GPT-4o-latest", False, (2.5, False)),
    ("openrouter/openai/gpt-4o:nitro", False, (2.5, False)), ("gpt-4o@latest", False, (2.5, False)),
    ("gpt-4o-2024-05-13", False, (5.0, False)), ("meta/llama-3:free", False, (0.0, False)),
    ("ft:gpt-4o-mini:org", False, (10.0, True)), ("gpt-4o-audio", False, (10.0, True)),
    ("my-model", False, (10.0, True)), ("my-model", True, (0.0, True)), ("gpt-4o", True, (2.5, False))])
def test_prices_of_names_as_providers_write_them(model, local, price):
    found = load_price(model, is_local=local)
    assert (found.input, found.assumed) == price
    assert ("on this machine" in found.describe()) == (price == (0.0, True))


def test_keys_come_from_the_environment_only(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(EndpointError, match="set OPENAI_API_KEY"):
        Endpoint(model="m").read_key()
    monkeypatch.setenv("OPENAI_API_KEY", " sk-1\n")
    assert Endpoint(model="m").read_key() == "sk-1", "a stray line end would show the key in an error"
    monkeypatch.setenv("OPENAI_API_KEY", "sk 1")
    with pytest.raises(EndpointError) as caught:
        Endpoint(model="m").read_key()
    assert "sk 1" not in str(caught.value)
    assert Endpoint(model="m", base_url="http://me:secret@host/v1/").address == "http://host/v1"


def test_a_known_cost_wins_over_the_price_list():
    price = Price(2.0, 10.0, "2026-01-01")
    assert Answer("x", tokens_in=1000, tokens_out=500).find_cost(price) == pytest.approx(0.007)
    assert Answer("x", tokens_in=1000, tokens_out=500, cost=0.5).find_cost(price) == 0.5


@pytest.mark.parametrize(("reason", "words"), [
    ("content_filter", "withheld"), ("refusal", "the model refuses: I will not."), ("prompt_cut", "7 tokens only"),
    ("stop", ""), ("length", "")])
def test_an_answer_that_cannot_be_used_says_why(reason, words):
    void = Answer("I will\n not.", finish_reason=reason, tokens_in=7).void
    assert words in void and bool(void) == bool(words)

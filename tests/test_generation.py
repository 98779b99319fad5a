"""Replies from endpoints and local models: order, resumption, nothing asked twice, bad files named."""

import json
import sys

import pytest
from fault_server import FaultServer

from fulcra_utils.cli import main
from fulcra_utils.endpoints import Endpoint, EndpointError, load_endpoints
from fulcra_utils.generation import LocalModel, load_writers, write_replies, write_reply_rows

PROMPTS = [f"What about {k}?" for k in range(12)]


def test_two_writers_answer_every_prompt_in_order(tmp_path):
    with FaultServer(["500", "drop", "empty", "null", "429"], rate=0.3) as server:
        writers = [Endpoint(model=name, base_url=server.url, backoff=0.01) for name in ("one", "two")]
        table = write_replies([*PROMPTS, PROMPTS[0]], writers, tmp_path)
        before = server.requests
        again = write_replies([*PROMPTS, PROMPTS[0]], writers, tmp_path)
        assert server.requests == before
    assert table.equals(again)
    assert table.response.tolist() == [f"{name}: {p}" for name in ("one", "two") for p in [*PROMPTS, PROMPTS[0]]]
    assert table.problem.eq("").all()


def test_a_reply_that_stays_empty_is_a_problem(tmp_path):
    with FaultServer(["empty"], rate=1, most_faults=9) as server:
        table = write_replies(PROMPTS[:1], [Endpoint(model="m", base_url=server.url)], tmp_path)
        assert server.requests == 3
        assert table.response[0] is None
        assert table.problem[0] == "the reply is empty"
        server.rate = 0
        for _ in range(2):
            table = write_replies(PROMPTS[:1], [Endpoint(model="m", base_url=server.url)], tmp_path)
            assert (table.response[0], server.requests) == (f"m: {PROMPTS[0]}", 4), "mended: asked once more, then kept"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny random causal model in a folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from fulcra_utils.encoder import make_tiny_tokenizer

    folder = tmp_path_factory.mktemp("model")
    tokenizer = make_tiny_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                         num_attention_heads=2, max_position_embeddings=256)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_local_model_goes_on_where_it_stopped(tmp_path, checkpoint, monkeypatch):
    import fulcra_utils.generation as generation

    writer = LocalModel(model=str(checkpoint), name="mine", batch_size=2,
                        options={"max_new_tokens": 5, "do_sample": True})
    whole = write_replies(PROMPTS, [writer], tmp_path / "whole")
    assert whole.response.map(bool).all()
    real, calls = generation._generate, []

    def stop_at_third(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(generation, "_generate", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        write_replies(PROMPTS, [writer], tmp_path / "torn")
    torn = write_replies(PROMPTS, [writer], tmp_path / "torn")
    assert len(calls) == 3 + 4, "two of six batches were stored"
    assert torn.equals(whole), "sampling, too, goes on the same"


def test_rows_keep_their_fields(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"prompt": "Hi?", "safety_issues": ["x"]}\n{"prompt": 3}\nno\n')
    with FaultServer(rate=0) as server:
        rows = write_reply_rows(tmp_path / "in.jsonl", [Endpoint(model="m", base_url=server.url, name="M")], tmp_path)
    assert rows[0] == {"prompt": "Hi?", "safety_issues": ["x"], "response": "m: Hi?", "response_source": "M"}
    assert [row["problem"].partition(":")[0] for row in rows[1:]] == ["line 2", "line 3"]


def test_command(tmp_path, monkeypatch, capfd):
    (tmp_path / "in.jsonl").write_text('{"prompt": "Hi?"}\n')
    with FaultServer(rate=0) as server:
        (tmp_path / "w.yaml").write_text(f"endpoints:\n- {{model: m, base_url: '{server.url}'}}\n")
        monkeypatch.setattr(sys, "argv", ["fulcra", "reply", "--input", str(tmp_path / "in.jsonl"), "--output",
                                          str(tmp_path / "out.jsonl"), "--writers", str(tmp_path / "w.yaml")])
        with pytest.raises(SystemExit) as stop:
            main()
    assert stop.value.code == 0, capfd.readouterr()
    assert json.loads((tmp_path / "out.jsonl").read_text())["response"] == "m: Hi?"


@pytest.mark.parametrize(("text", "why"), [
    ("endpoints: [{model: m, api_key: sk-1}]", "api_key: Extra"),
    ("endpoints: [{base_url: x}]", "model: Field required"),
    ("endpoints: [3]", "no file with a list"), ("{}", "names neither"), ("local_models: [{name: x}]", "model: Field"),
    ("[", "cannot be read")])
def test_bad_files_are_named_without_their_keys(tmp_path, text, why):
    (tmp_path / "w.yaml").write_text(text)
    with pytest.raises(EndpointError, match=why) as caught:
        load_writers(tmp_path / "w.yaml")
    assert "sk-1" not in str(caught.value)


def test_keys_come_from_the_environment_only(monkeypatch, tmp_path):
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
    with pytest.raises(EndpointError, match="no file with a list"):
        load_endpoints(tmp_path / "none.yaml")


@pytest.mark.parametrize(("content", "reason", "fields", "row"), [
    ("<think>\nI could ... because", "length", {},
     {"response": None, "thoughts": "I could ... because", "cut_off": True,
      "problem": "the reply holds thoughts only, cut off at the length limit"}),
    ("<think>hm</think>", "stop", {}, {"response": None, "thoughts": "hm", "problem": "the reply holds thoughts only"}),
    (None, "length", {"reasoning": "hm"}, {"response": None, "thoughts": "hm", "cut_off": True,
                                           "problem": "the reply holds thoughts only, cut off at the length limit"}),
    ("", "length", {}, {"response": None, "cut_off": True,
                      "problem": "the reply is empty, cut off at the length limit"}),
    ("<think>hm</think>\nNo.", "stop", {}, {"response": "No.", "thoughts": "hm"}),
    ("hm\n</think>\n\nNo.", "stop", {}, {"response": "No.", "thoughts": "hm"}),
    ("No.", "stop", {"reasoning_content": "hm"}, {"response": "No.", "thoughts": "hm"}),
    ("No, becau", "length", {}, {"response": "No, becau", "cut_off": True}),
    ("<think>hm</think>No, becau", "MAX_TOKENS", {}, {"response": "No, becau", "thoughts": "hm", "cut_off": True}),
    ("I think `<think>` is a tag.", "stop", {}, {"response": "I think `<think>` is a tag."})])
def test_thoughts_and_cut_off_replies_are_marked(tmp_path, monkeypatch, capfd, content, reason, fields, row):
    (tmp_path / "in.jsonl").write_text('{"id": 1, "prompt": "Hi?", "problem": "old"}\n')
    choice = {"message": {"role": "assistant", "content": content, **fields}, "finish_reason": reason}
    with FaultServer(says=choice) as server:
        (tmp_path / "w.yaml").write_text(f"endpoints:\n- {{model: m, base_url: '{server.url}'}}\n")
        monkeypatch.setattr(sys, "argv", ["fulcra", "reply", "--input", str(tmp_path / "in.jsonl"), "--output",
                                          str(tmp_path / "out.jsonl"), "--writers", str(tmp_path / "w.yaml")])
        with pytest.raises(SystemExit) as stop:
            main()
    assert stop.value.code == (row["response"] is None)
    assert json.loads((tmp_path / "out.jsonl").read_text()) == {"id": 1, "prompt": "Hi?", "response_source": "m", **row}
    said = capfd.readouterr().out
    assert f"{int(row['response'] is None)} of them without a reply" in said
    assert ("1 cut off at the length limit" in said) == ("cut_off" in row)


def test_a_local_reply_that_does_not_end_is_cut_off(tmp_path, checkpoint):
    for ends, cut_off in ((None, True), (list(range(1000)), False)):
        options = {"max_new_tokens": 5, "do_sample": False, **({"eos_token_id": ends} if ends else {})}
        table = write_replies(PROMPTS[:2], [LocalModel(model=str(checkpoint), options=options)], tmp_path)
        assert table.cut_off.tolist() == [cut_off] * 2, options


def test_local_thoughts_keep_their_marks():
    from fulcra_utils.dataset import split_thoughts
    from fulcra_utils.encoder import make_tiny_tokenizer
    from fulcra_utils.generation import decode_reply

    tokenizer = make_tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]", "<think>", "</think>"]})
    for text in ("[THINK] a b [/THINK] yes", "<think> a b </think> yes"):
        ids = tokenizer(text, add_special_tokens=True)["input_ids"]
        assert split_thoughts(decode_reply(ids, "Hi?", tokenizer)) == ("a b", "yes")
    ids = tokenizer("a b </think> yes", add_special_tokens=False)["input_ids"]
    assert split_thoughts(decode_reply(ids, "<assistant><think>\n", tokenizer)) == ("a b", "yes")
    assert split_thoughts(decode_reply(ids[:2], "<assistant><think>\n", tokenizer)) == ("a b", "")
    assert split_thoughts(decode_reply(ids[:2], "<think></think>", tokenizer)) == ("", "a b")

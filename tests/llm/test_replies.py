"""Replies from endpoints and local models: order, resumption, nothing asked twice, bad files named."""

import json
import shutil
import sys

import pytest
from asked_rows import PROMPTS
from fault_server import FaultServer
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken

from fulcra_utils.annotation import labelling
from fulcra_utils.cli import main
from fulcra_utils.dataset.rows import read_dialogue
from fulcra_utils.evaluator import scoring
from fulcra_utils.llm import replies as generation
from fulcra_utils.llm.endpoints import Endpoint, EndpointError
from fulcra_utils.llm.replies import LocalModel, load_writers, write_replies, write_reply_rows


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


def test_messages_before_the_prompt_stand_behind_the_system_message(tmp_path):
    said = [{"role": "user", "content": "May I?"}, {"role": "assistant", "content": "You may."}]
    with FaultServer() as server:
        server.faults = ()
        for before in ((), said):
            write_replies(["Why?"], [Endpoint(model="m", base_url=server.url)], tmp_path, "Be kind.", before=before)
        assert [[m["content"] for m in body["messages"]] for body in server.bodies] == [
            ["Be kind.", "Why?"], ["Be kind.", "May I?", "You may.", "Why?"]]


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

    from fulcra_utils.evaluator.encoder import make_tiny_tokenizer

    folder = tmp_path_factory.mktemp("model")
    tokenizer = make_tiny_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                         num_attention_heads=2, max_position_embeddings=256)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_local_model_goes_on_where_it_stopped(tmp_path, checkpoint, monkeypatch):
    import fulcra_utils.llm.replies as generation

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


def test_a_bare_text_is_carried_on_and_a_prompt_is_put_as_a_question(checkpoint, monkeypatch):
    import fulcra_utils.llm.local as local
    seen, real = [], local.generate
    monkeypatch.setattr(local, "generate", lambda model, tokenizer, ids, **options: seen.extend(
        tokenizer.batch_decode(ids, skip_special_tokens=True)) or real(model, tokenizer, ids, **options))
    for as_text in (True, False):
        write_replies(["i wish"], [LocalModel(model=str(checkpoint), as_text=as_text,
                                              options={"max_new_tokens": 2})], None, "be kind")
    assert seen[0] == "i wish" and seen[1] != "i wish" and seen[1].startswith("be kind human : i wish")


def test_rows_keep_their_fields(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"prompt": "Hi?", "safety_issues": ["x"]}\n{"prompt": 3}\nno\n')
    with FaultServer(rate=0) as server:
        rows = write_reply_rows(tmp_path / "in.jsonl", [Endpoint(model="m", base_url=server.url, name="M")], tmp_path)
    assert rows[0] == {"prompt": "Hi?", "safety_issues": ["x"], "response": "m: Hi?", "response_source": "M"}
    assert [row["problem"].partition(":")[0] for row in rows[1:]] == ["line 2", "line 3"]


def test_each_rows_own_system_message_is_sent(tmp_path):
    rows = [{"prompt": "Hi?", "system": "Be brief."}, {"prompt": "Hi?", "system_prompt": "Be kind."}, {"prompt": "Hi?"}]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with FaultServer(rate=0) as server:
        made = write_reply_rows(tmp_path / "in.jsonl", [Endpoint(model="m", base_url=server.url)], tmp_path,
                                system="Be honest.")
        told = sorted([message["content"] for message in body["messages"]] for body in server.bodies)
    assert told == [["Be brief.", "Hi?"], ["Be honest.", "Hi?"], ["Be kind.", "Hi?"]]
    assert [row.get("system") or row.get("system_prompt") for row in made] == ["Be brief.", "Be kind.", "Be honest."]


def test_draws_of_one_prompt_are_replies_of_their_own(tmp_path, checkpoint):
    rows = [{"prompt": PROMPTS[0], "draw": draw} for draw in (1, 2, 2)] + [{"prompt": PROMPTS[0]}] * 2
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with FaultServer(rate=0) as server:
        write_reply_rows(tmp_path / "in.jsonl", [Endpoint(model="m", base_url=server.url)], tmp_path)
        assert server.requests == 3
    writer = LocalModel(model=str(checkpoint), batch_size=1, options={"max_new_tokens": 9, "do_sample": True})
    made = [row["response"] for row in write_reply_rows(tmp_path / "in.jsonl", [writer], tmp_path)]
    assert len(set(made)) == 3 and made[1] == made[2] and made[3] == made[4]
    alone = write_replies(PROMPTS[:1], [writer], None).response[0]
    assert made[3] == alone, "no draw is what it was"


def test_what_was_said_of_another_reply_does_not_pass_to_the_new_one(tmp_path):
    row = {"prompt": "Hi?", "response": "Old.", "value_vector": {"care": 1}, "value_types": ["care: +1"],
           "model": "old"}
    (tmp_path / "in.jsonl").write_text(json.dumps(row))
    with FaultServer(rate=0) as server:
        made, = write_reply_rows(tmp_path / "in.jsonl", [Endpoint(model="m", base_url=server.url)], tmp_path)
    steps = {*scoring.OWN, *labelling.OWN} - {*generation.OWN}
    assert steps <= {*generation.OF_THE_REPLY}, "whatever a step tells of a reply is told of that reply"
    assert made == {"prompt": "Hi?", **{f"input_{name}": row[name] for name in list(row)[1:]}, "response": "m: Hi?",
                    "response_source": "m"}


def test_an_instruction_is_asked_with_its_input(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"instruction": "Sum up.", "input": "Ann left.", "output": "old"}')
    with FaultServer(rate=0) as server:
        row, = write_reply_rows(tmp_path / "in.jsonl", [Endpoint(model="m", base_url=server.url)], tmp_path,
                                "instruction")
    assert row["response"] == "m: Sum up.\n\nAnn left."


@pytest.mark.parametrize(("row", "field"), [
    ({"prompt": "Plain?", "attack": "Twisted?"}, "attack"), ({"prompt": "Plain?", "system": 3}, "prompt"),
    ({"instruction": "Sum up.", "input": "Ann left.", "prompt": "Plain?"}, "instruction")])
def test_a_reply_reads_back_with_what_was_asked(tmp_path, row, field):
    (tmp_path / "in.jsonl").write_text(json.dumps(row))
    with FaultServer(rate=0) as server:
        made, = write_reply_rows(tmp_path / "in.jsonl", [Endpoint(model="m", base_url=server.url)], tmp_path, field,
                                 "Be kind.")
        system, asked = (message["content"] for message in server.bodies[0]["messages"])
    assert read_dialogue(made).turns == (("system", system), ("user", asked), ("assistant", f"m: {asked}"))
    assert all(value in (made[name], made.get(f"input_{name}")) for name, value in row.items())


def test_a_prompt_with_turns_before_it_is_not_asked_alone(tmp_path):
    row = {"instruction": "And then?", "history": [["Where was she?", "At work."]]}
    (tmp_path / "in.jsonl").write_text(json.dumps(row))
    made, = write_reply_rows(tmp_path / "in.jsonl", [], tmp_path, "instruction")
    assert made == row | {"response": None, "problem": "line 1: history cannot be asked, a single prompt can"}


def test_a_base_models_own_next_turns_are_no_reply(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(generation, "decode_reply", lambda *_: "I rest.\nHuman: And you?\nBob: So do I.")
    plain = shutil.copytree(checkpoint, tmp_path / "plain")
    (plain / "chat_template.jinja").unlink(missing_ok=True)
    table = write_replies(["What now?"], [LocalModel(model=str(plain))], None)
    assert table.response.tolist() == ["I rest."] and not table.cut_off[0]


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


@pytest.mark.parametrize(("options", "why"), [
    ("stream: true", "take stream and n out"), ("n: 2", "take stream and n out"),
    ("model: x", "model cannot stand here"), ("extra_body: {stream: true}", "take stream and n out"),
    ("extra_body: 3", "extra_body holds no names"), ("timeout: 3", "timeout cannot stand here"),
    ("max_tokens: '50'", "max_tokens must be a whole number, not '50'"), ("seed: 2024-01-01", "seed must be a number"),
    ("extra_headers: 3", "extra_headers must be names with texts"), ("temperature: .nan", "temperature must be"),
    ("extra_headers: {X-A: 3}", "extra_headers must be names with texts"), ("extra_query: [a]", "extra_query must be"),
    ("extra_body: {a: {b: 2024-01-01}}", "extra_body must be")])
def test_options_that_cannot_be_are_one_line(tmp_path, options, why):
    (tmp_path / "w.yaml").write_text(f"endpoints: [{{model: m, options: {{{options}}}}}]")
    with pytest.raises(EndpointError, match=why) as caught:
        load_writers(tmp_path / "w.yaml")
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"{tmp_path / 'w.yaml'}: options: ")


@pytest.mark.parametrize(("text", "why"), [
    ("endpoints: [{model: m, api_key: sk-1}]", "api_key: Extra"),
    ("endpoints: [{base_url: x}]", "model: Field required"),
    ("endpoints: [3]", "no file with a list"), ("{}", "names neither"), ("local_models: [{name: x}]", "model: Field"),
    ("[", "cannot be read"), ("endpoints: [{model: m}]\nendpoints: [{model: n}]", "endpoints: key given twice"),
    ("endpoint: [{model: m}]\nlocal_models: [{model: x}]", "endpoint: unknown key"),
    ("endpoints: [{model: m}]\nlocal_models: [{model: x, name: m}]", "two writers are named 'm'")])
def test_bad_files_are_named_without_their_keys(tmp_path, text, why):
    (tmp_path / "w.yaml").write_text(text)
    with pytest.raises(EndpointError, match=why) as caught:
        load_writers(tmp_path / "w.yaml")
    assert "sk-1" not in str(caught.value)
    with pytest.raises(EndpointError, match="no file with a list"):
        load_writers(tmp_path / "none.yaml")


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
    ("No, becau", "model_context_window_exceeded", {}, {"response": "No, becau", "cut_off": True}),
    ("Well.\n<think>hm", "stop", {}, {"response": None, "thoughts": "Well.\nhm",
                                      "problem": "the reply holds thoughts only"}),
    ("", "stop", {"refusal": ""}, {"response": None, "problem": "the reply is empty"}),
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
    kept = {"id": 1, "prompt": "Hi?", "input_problem": "old"}
    assert json.loads((tmp_path / "out.jsonl").read_text()) == {**kept, "response_source": "m", **row}
    said = capfd.readouterr().out
    assert f"{int(row['response'] is None)} of them without a reply" in said
    assert ("1 cut off at the length limit" in said) == ("cut_off" in row)


def test_a_local_reply_that_does_not_end_is_cut_off(tmp_path, checkpoint):
    for ends, cut_off in ((None, True), (list(range(1000)), False)):
        options = {"max_new_tokens": 5, "do_sample": False, **({"eos_token_id": ends} if ends else {})}
        table = write_replies(PROMPTS[:2], [LocalModel(model=str(checkpoint), options=options)], tmp_path)
        assert table.cut_off.tolist() == [cut_off] * 2, options


def test_local_thoughts_keep_their_marks():
    from fulcra_utils.dataset.texts import split_thoughts
    from fulcra_utils.evaluator.encoder import make_tiny_tokenizer
    from fulcra_utils.llm.replies import decode_reply

    tokenizer = make_tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]", "<think>", "</think>"]})
    for text in ("[THINK] a b [/THINK] yes", "<think> a b </think> yes"):
        ids = tokenizer(text, add_special_tokens=True)["input_ids"]
        assert split_thoughts(decode_reply(ids, "Hi?", tokenizer)) == ("a b", "yes")
    ids = tokenizer("a b </think> yes", add_special_tokens=False)["input_ids"]
    assert split_thoughts(decode_reply(ids, "<assistant><think>\n", tokenizer)) == ("a b", "yes")
    assert split_thoughts(decode_reply(ids[:2], "<assistant><think>\n", tokenizer)) == ("a b", "")
    assert split_thoughts(decode_reply(ids[:2], "<think></think>", tokenizer)) == ("", "a b")


def test_a_local_reply_shows_no_end_of_turn(checkpoint, monkeypatch):
    """Neither a special token that has no role, nor an end of the model's own that is an ordinary token."""
    import fulcra_utils.llm.local as local
    from fulcra_utils.evaluator.encoder import make_tiny_tokenizer
    from fulcra_utils.llm.replies import decode_reply

    tokenizer = make_tiny_tokenizer()
    tokenizer.add_tokens([AddedToken("<end_of_turn>", special=True), AddedToken("<think>", special=True)])
    end, mark = tokenizer.convert_tokens_to_ids(["<end_of_turn>", "<think>"])
    ids = tokenizer("be kind", add_special_tokens=False)["input_ids"]
    assert end not in tokenizer.all_special_ids and decode_reply([*ids, end], "", tokenizer) == "be kind"
    assert decode_reply([mark, *ids], "", tokenizer) == "<think> be kind"
    monkeypatch.setattr(local, "list_ends", lambda *_: ids[1:])
    monkeypatch.setattr(local, "generate", lambda model, tokenizer, asked, **_: [[*ids, *ids]] * len(asked))
    for options, text in (({}, "be"), ({"eos_token_id": end}, "be kind be kind")):      # one's own ends are no turns
        table = write_replies(["Why?"], [LocalModel(model=str(checkpoint), options=options)], None)
        assert table.response.tolist() == [text]


def test_replies_are_planned_checked_and_stay_in_their_budget(tmp_path, monkeypatch, capfd):
    lines = [json.dumps({"prompt": prompt}) for prompt in [*PROMPTS, *PROMPTS]]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)

    def run(*options):
        monkeypatch.setattr(sys, "argv", ["fulcra", "reply", "--input", "in.jsonl", "--output", "out.jsonl",
                                          "--writers", "w.yaml", *options])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code, *capfd.readouterr()

    with FaultServer(rate=0, latency=0.02) as server:
        server.usage = {"prompt_tokens": 0, "completion_tokens": 10_000}  # 0.10 dollars of gpt-4o
        entries = [{"model": "gpt-4o", "name": name, "base_url": server.url, "options": {"seed": seed}}
                   for seed, name in enumerate("ab")]
        (tmp_path / "w.yaml").write_text(json.dumps({"endpoints": entries}))
        for name in ("replies.csv", "replies.parquet", "in.jsonl", "w.yaml"):
            for dry in ([], ["--dry-run"]):
                assert run("--output", name, *dry)[0] == 2 and server.requests == 0
        code, out, _ = run("--dry-run")
        assert code == 0 and server.requests == 0 and "24 prompts, 0 rows without one" in out
        assert [line.split()[2] for line in out.splitlines()[1:3]] == ["12", "12"], "equal prompts are asked once"
        code, out, _ = run("--budget", "1.5")
        assert (code, server.requests) == (1, 15) and "budget of 1.5 USD is reached" in out
        assert run("--budget", "2.0", "--output", "other.jsonl")[0] == 1 and server.requests == 20, "5 more"
        assert run()[0] == 0 and server.requests == 24
        (tmp_path / "in.jsonl").write_text('{"question": "Hi?"}\n')
        assert run("--dry-run")[0] == run()[0] == 1
        (tmp_path / "in.jsonl").write_text("")
        assert run("--dry-run")[0] == run()[0] == 2


def test_a_local_reply_is_kept_for_what_shaped_it_alone(tmp_path, checkpoint, monkeypatch):
    calls, real = [], generation._generate
    monkeypatch.setattr(generation, "_generate", lambda *a: calls.append(1) or real(*a))
    first = {"model": str(checkpoint), "options": {"max_new_tokens": 3, "do_sample": False}, "batch_size": 4}

    def is_asked(prompt="Why?", system="", **changed):
        before = len(calls)
        write_replies([prompt], [LocalModel(**first | changed)], tmp_path / "cache", system)
        return len(calls) > before

    assert is_asked() and not is_asked()
    assert not is_asked(name="another name") and not is_asked(batch_size=2)
    for changed in ({"options": {"max_new_tokens": 4, "do_sample": False}}, {"seed": 1}, {"prompt": "Who?"},
                    {"system": "Be kind."}, {"as_text": True}):
        assert is_asked(**changed) and not is_asked(**changed), changed
    shutil.copytree(checkpoint, tmp_path / "twin")
    assert not is_asked(model=str(tmp_path / "twin"))
    weights = next((tmp_path / "twin").glob("*.safetensors"))
    table = {name: tensor + 0.5 for name, tensor in load_file(weights).items()}
    save_file(table, weights, metadata={"format": "pt"})
    assert is_asked(model=str(tmp_path / "twin")), "other weights under the same name"
    assert not is_asked()
    with pytest.raises(EndpointError, match="local model no/such: cannot be loaded"):
        is_asked(model="no/such")

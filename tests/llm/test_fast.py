"""Sampling by another engine: it draws what torch would draw, again when asked again, and only where it can."""

import numpy as np
import pytest
import torch
from tiny_policies import TEXTS, make

from fulcra_utils.alignment.finetuning import steer
from fulcra_utils.llm import fast, local
from fulcra_utils.llm.fast import FastSampler, can_sample_fast, name_engine
from fulcra_utils.llm.local import encode_prompts, list_ends, sample_replies


@pytest.fixture
def model(tokenizer):
    pytest.importorskip("ctranslate2", reason="CTranslate2 (extra fast) is not installed")
    torch.manual_seed(0)
    model = make(tokenizer, layers=2, width=64).eval()
    for weight in model.parameters():
        weight.data.mul_(4)     # random weights say little: these have likely and unlikely tokens
    return model


def test_first_tokens_are_drawn_as_often_as_their_probability(model, tokenizer):
    ids = encode_prompts(tokenizer, TEXTS[:1])
    with torch.no_grad():
        wanted = (model(torch.tensor(ids)).logits[0, -1] / 0.7).softmax(-1).numpy()
    drawn = FastSampler(model, tokenizer, list_ends(model, tokenizer)).sample(ids * 4000, 1, 0.7, seed=1)
    found = np.bincount([reply[0] for reply in drawn], minlength=len(wanted)) / 4000
    assert np.abs(found - wanted).max() < 4 * np.sqrt(0.25 / 4000)
    assert wanted.max() > 0.05      # a uniform draw would not do


@pytest.mark.parametrize(("steered", "system"), [(False, None), (True, None), (False, "be kind " * fast.SHARED)])
def test_greedy_replies_are_torchs(model, tokenizer, steered, system):
    if steered:     # adds biases, which plain models of this kind lack
        pair = {"prompt": TEXTS[0], "chosen": "be bold", "rejected": "keep the peace"}
        model = steer(model, tokenizer, [{side: [{"content": text}] for side, text in pair.items()}], 9.0)
    ids = encode_prompts(tokenizer, TEXTS, system)
    found = FastSampler(model, tokenizer, list_ends(model, tokenizer)).sample(ids, 6, 0.001, seed=1)
    wanted = local.generate(model, tokenizer, ids, do_sample=False, max_new_tokens=6)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours == theirs[:len(ours)]


def test_a_reply_ends_at_each_of_several_ends(model, tokenizer):
    ids = encode_prompts(tokenizer, TEXTS)
    ends = list_ends(model, tokenizer)
    free = FastSampler(model, tokenizer, ends).sample(ids, 6, 0.001, seed=1)
    end = next(reply[1] for reply in free if len(reply) == 6 and reply[1] != reply[0])
    ended = FastSampler(model, tokenizer, [*ends, end]).sample(ids, 6, 0.001, seed=1)
    for before, reply in zip(free, ended, strict=True):
        assert reply == (before[:before.index(end) + 1] if end in before else before)


def test_same_seed_same_replies_and_a_killed_sampling_goes_on(model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(fast, "LEAST", 0)
    keep, options = tmp_path / "replies.jsonl", {"max_new_tokens": 6, "seed": 3, "batch_size": 3}
    first = sample_replies(model, tokenizer, TEXTS * 2, **options, keep=keep)
    assert first.equals(sample_replies(model, tokenizer, TEXTS * 2, **options))
    assert not first.response.equals(sample_replies(model, tokenizer, TEXTS * 2, **options | {"seed": 4}).response)
    keep.write_text("".join(keep.read_text().splitlines(keepends=True)[:1]))
    assert first.equals(sample_replies(model, tokenizer, TEXTS * 2, **options, keep=keep))


def test_what_is_small_of_another_kind_or_without_the_engine_goes_to_torch(tokenizer, monkeypatch):
    model = make(tokenizer)
    assert not can_sample_fast(model)
    monkeypatch.setattr(fast, "LEAST", 0)
    assert can_sample_fast(model) == (name_engine() != "torch")
    monkeypatch.setattr(model.config, "model_type", "gpt2")
    assert not can_sample_fast(model)


def test_the_key_of_kept_replies_names_the_engine(monkeypatch):
    monkeypatch.setattr(fast, "version", lambda name: "9.9")
    assert name_engine() == "ctranslate2 9.9"

    def gone(name):
        raise fast.PackageNotFoundError(name)

    monkeypatch.setattr(fast, "version", gone)
    assert name_engine() == "torch"

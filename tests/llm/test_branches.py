"""Texts read as one sequence give what each gives alone: likelihoods, greedy tokens, states; in every precision."""

import numpy as np
import pytest
import torch
import transformers
from tiny_policies import TEXTS, make

from fulcra_utils.llm import branches
from fulcra_utils.llm.branches import Branches, Reader
from fulcra_utils.llm.local import PolicyError, choose, encode_prompts, generate, score_tokens

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
         "intermediate_size": 64, "initializer_range": 0.5}
BEFORE = "be kind be bold never hurt people at home "


def build(tokenizer, kind, **own):
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = getattr(transformers, f"{kind}Config")(vocab_size=len(tokenizer), **SMALL, **special, **own)
    return getattr(transformers, f"{kind}ForCausalLM")(config).eval()


@pytest.fixture(scope="module")
def model(tokenizer):
    return make(tokenizer, layers=3, context=200, heads=4).eval()


@pytest.fixture(scope="module")
def texts(tokenizer):
    return encode_prompts(tokenizer, [BEFORE + text for text in TEXTS])


def test_what_is_shared_is_read_once(model, texts, monkeypatch):
    n_read, real = [], Branches.read
    monkeypatch.setattr(branches.Branches, "read", lambda self, tails: n_read.append(
        sum(map(len, tails.values()))) or real(self, tails))
    read = Branches(model, texts)
    assert read.n_shared > 10 and sum(n_read) == sum(len(ids) - read.n_shared for ids in texts) + read.n_shared


def test_likelihoods_are_those_of_each_text_alone(model, tokenizer, texts):
    tails = [tokenizer(reply)["input_ids"] for reply in ("keep the peace", "be", "", "win and be free")]
    read = Branches(model, texts)
    whole = [(head + tail, len(head)) for head, tail in zip(texts, tails, strict=True)]
    alone = score_tokens(model, tokenizer, whole)
    assert read.score(tails) == pytest.approx(alone, abs=1e-4) and alone[2] == 0
    assert read.score(tails) == pytest.approx(alone, abs=1e-4)      # the first time left nothing behind
    assert read.sample(5, [tokenizer.eos_token_id], 0) == Branches(model, texts).sample(5, [tokenizer.eos_token_id], 0)


def test_greedy_tokens_are_those_of_each_text_alone(model, tokenizer, texts):
    eos = tokenizer.eos_token_id
    together = Branches(model, texts).sample(12, [eos], temperature=0)
    for ids, reply in zip(texts, together, strict=True):
        alone = generate(model, tokenizer, [ids], max_new_tokens=12, do_sample=False, eos_token_id=eos)[0]
        assert reply == alone and Branches(model, [ids]).sample(12, [eos], 0) == [alone]


def test_texts_that_share_nothing_or_are_equal(model, tokenizer):
    apart = [tokenizer(text)["input_ids"] for text in ("be kind", "never")]
    assert Branches(model, apart).n_shared == 0
    tails = [[7], [8]]
    alone = score_tokens(model, tokenizer, [(a + t, len(a)) for a, t in zip(apart, tails, strict=True)])
    assert Branches(model, apart).score(tails) == pytest.approx(alone, abs=1e-4)
    same = Branches(model, [apart[0], apart[0]])
    assert same.n_shared == len(apart[0]) - 1 and np.ptp(same.score([[7], [7]])) == pytest.approx(0, abs=1e-6)


def test_a_reply_ends_at_its_eos_and_the_others_go_on(model, tokenizer, texts):
    likeliest = Branches(model, texts).sample(1, [], 0)
    end = likeliest[0][0]
    made = Branches(model, texts).sample(6, [end], 0)
    assert made[0] == [end] and all(len(reply) == 6 or reply[-1] == end for reply in made)
    for ids, reply in zip(texts, made, strict=True):
        assert reply == Branches(model, [ids]).sample(6, [end], 0)[0]


def test_sampling_follows_the_probabilities_and_the_seed(model, texts):
    read = Branches(model, [texts[0]] * 1500)
    with torch.inference_mode():
        told = model.get_output_embeddings()(read.ends[0])[0].div(0.5).softmax(-1).numpy()
    drawn = np.array(read.sample(1, [], 0.5, seed=3))[:, 0]
    shares = np.bincount(drawn, minlength=len(told)) / len(drawn)
    assert np.abs(shares - told).max() < 4 * np.sqrt(0.25 / len(drawn))
    again = Branches(model, [texts[0]] * 1500).sample(1, [], 0.5, seed=3)
    other = Branches(model, [texts[0]] * 1500).sample(1, [], 0.5, seed=4)
    assert np.array(again)[:, 0].tolist() == drawn.tolist() != np.array(other)[:, 0].tolist()


def test_one_after_the_other_is_as_alone_and_reads_less(model, texts, monkeypatch):
    reader, n_read = Reader(model), []
    real = model.base_model.forward
    monkeypatch.setattr(model.base_model, "forward",
                        lambda ids, **more: n_read.append(ids.shape[1]) or real(ids, **more))
    found = [reader.read(ids) for ids in (*texts, texts[0][:5], texts[0])]
    assert sum(n_read) < sum(map(len, texts)) and n_read[0] == len(texts[0])
    monkeypatch.undo()
    for state, ids in zip(found, (*texts, texts[0][:5], texts[0]), strict=True):
        assert state.numpy() == pytest.approx(Reader(model).read(ids).numpy(), abs=1e-4)
        assert state.numpy() == pytest.approx(Branches(model, [ids]).ends[0].numpy(), abs=1e-4)


@pytest.mark.parametrize(("kind", "own"), [("Granite", {"logits_scaling": 8.0}), ("Cohere", {"logit_scale": 0.0625}),
                                           ("Gemma2", {"final_logit_softcapping": 1.0, "head_dim": 16})])
def test_a_head_that_scales_or_caps_is_read_as_the_model_reads_it(tokenizer, kind, own):
    torch.manual_seed(0)
    model = build(tokenizer, kind, **own)
    ids, tail = encode_prompts(tokenizer, TEXTS[:1])[0], [7, 8]
    with torch.no_grad():
        logs = model(torch.tensor([ids + tail])).logits[0].log_softmax(-1)
    told = choose(model, tokenizer, [[{"role": "user", "content": TEXTS[0]}]], ["k", "b"])
    places = tokenizer.convert_tokens_to_ids(["k", "b"])
    assert told[0] == pytest.approx(logs[len(ids) - 1, places].numpy(), abs=1e-4)
    read, n = Branches(model, [ids]), len(ids)
    assert read.score([tail])[0] == pytest.approx((logs[n - 1, 7] + logs[n, 8]).item(), abs=1e-4)
    drawn = np.array(Branches(model, [ids] * 1500).sample(1, [], 1.0))[:, 0]
    assert (drawn == logs[n - 1].argmax().item()).mean() == pytest.approx(logs[n - 1].max().exp().item(), abs=0.05)


def test_a_text_beyond_a_sliding_window_is_refused(tokenizer):
    model = build(tokenizer, "Mistral", sliding_window=8)
    ids = encode_prompts(tokenizer, TEXTS[:1])[0]
    with torch.no_grad():
        state = model.base_model(torch.tensor([ids])).last_hidden_state[0, -1:].numpy()
    assert len(ids) > 8 and Reader(model).read(ids).numpy() == pytest.approx(state, abs=1e-4)
    read = Branches(model, [ids[:7]])
    for call in (lambda: Branches(model, [ids]), lambda: read.score([[7, 8]]), lambda: read.sample(4, [])):
        with pytest.raises(PolicyError, match="layers see only the last 8."):
            call()
    assert Branches(build(tokenizer, "Qwen2", sliding_window=8), [ids]).ends, "a window that no layer uses"

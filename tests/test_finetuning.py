import json
import subprocess
import sys
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from fulcra_utils.alignment import RewardAuditError, value_reward
from fulcra_utils.finetuning import AlignSettings, align, launch, rank_pairs, scalar_reward
from fulcra_utils.policy import PolicyError, build_policy, load_policy, sample_replies, save_policy, train_tokenizer

PROMPTS = ["be kind to them", "be bold and win", "tell me a story", "stay safe at home", "help an old man", "be free"]
SMALL = {"steps": 4, "prompts_per_step": 2, "replies_per_prompt": 4, "max_new_tokens": 8, "max_prompt_tokens": 32,
         "save_every": 2, "learning_rate": 1e-3, "max_kl": 50.0}

train = partial(align, allow_faults=True)  # a toy reward fails the audit


def count_e(prompts, responses):
    return np.array([r.count("e") for r in responses], dtype=float)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    tokenizer = train_tokenizer(PROMPTS, 300)
    save_policy(build_policy(tokenizer, layers=1, width=32, heads=2, context=64), tokenizer, folder)
    return folder


def weights(folder):
    return load_policy(folder)[0].state_dict()


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("method", ["rloo", "grpo", "dpo"])
def test_each_method_trains_and_leaves_a_loadable_folder(start, tmp_path, method):
    aligned = train(start, scalar_reward(count_e), PROMPTS, tmp_path / "p", AlignSettings(method=method, **SMALL))
    assert len(aligned.history) == SMALL["steps"] and aligned.history["loss"].notna().all()
    assert not same(weights(aligned.folder), weights(start))
    assert not (tmp_path / "p" / "checkpoints").exists()
    assert load_policy(aligned.folder)[1].chat_template
    assert len(aligned.reply(PROMPTS[:2])) == 2


def test_rloo_raises_its_reward(start, tmp_path):
    settings = AlignSettings(**SMALL | {"steps": 40, "replies_per_prompt": 16, "learning_rate": 5e-3, "beta": 0.0,
                                        "save_every": 100})
    aligned = train(start, scalar_reward(count_e), PROMPTS, tmp_path / "p", settings)
    model, tokenizer = load_policy(start)
    before = count_e(None, sample_replies(model, tokenizer, PROMPTS * 20, 8)["response"]).mean()
    after = count_e(None, aligned.reply(PROMPTS * 20)["response"]).mean()
    assert after > before + 1


def test_an_interrupted_run_ends_as_it_would_have(start, tmp_path):
    settings = AlignSettings(**SMALL)
    whole = train(start, scalar_reward(count_e), PROMPTS, tmp_path / "whole", settings)
    calls = {"n": 0}

    def breaks(prompts, responses):
        calls["n"] += 1
        if calls["n"] > 5 + 3:  # five calls of the audit, then the fourth step
            raise KeyboardInterrupt
        return count_e(prompts, responses)

    with pytest.raises(KeyboardInterrupt):
        train(start, scalar_reward(breaks), PROMPTS, tmp_path / "cut", settings)
    assert (tmp_path / "cut" / "checkpoints").is_dir() and not (tmp_path / "cut" / "config.json").exists()
    again = train(start, scalar_reward(count_e), PROMPTS, tmp_path / "cut", settings)
    assert same(weights(again.folder), weights(whole.folder))
    pd.testing.assert_frame_equal(again.history, whole.history)


def test_a_finished_run_is_read_and_another_is_refused(start, tmp_path):
    first = train(start, scalar_reward(count_e), PROMPTS, tmp_path / "p", AlignSettings(**SMALL))

    def never(prompts, responses):
        raise AssertionError("a finished run must not be trained again")

    second = train(start, scalar_reward(never), PROMPTS, tmp_path / "p", AlignSettings(**SMALL))
    assert second.history["reward"].tolist() == pytest.approx(first.history["reward"].tolist())
    before = weights(tmp_path / "p")
    with pytest.raises(PolicyError, match="belongs to another run"):
        train(start, scalar_reward(count_e), PROMPTS, tmp_path / "p", AlignSettings(**SMALL | {"seed": 1}))
    assert same(before, weights(tmp_path / "p"))
    (tmp_path / "q").mkdir()
    (tmp_path / "q" / "thesis.txt").write_text("mine")
    with pytest.raises(PolicyError, match="not an alignment run"):
        train(start, scalar_reward(count_e), PROMPTS, tmp_path / "q", AlignSettings(**SMALL))


def test_training_stops_when_kl_runs_away(start, tmp_path):
    settings = AlignSettings(**SMALL | {"steps": 30, "learning_rate": 5e-2, "max_kl": 0.05})
    aligned = train(start, scalar_reward(count_e), PROMPTS, tmp_path / "p", settings)
    assert len(aligned.history) < 30 and "exceeded 0.05" in aligned.stopped


def test_audit_refuses_before_the_first_step(start, tmp_path):
    silence = scalar_reward(lambda prompts, responses: np.array([-len(r) for r in responses], dtype=float))
    with pytest.raises(RewardAuditError, match="empty"):
        align(start, silence, PROMPTS, tmp_path / "p", AlignSettings(**SMALL))
    assert not (tmp_path / "p").exists()
    aligned = align(start, silence, PROMPTS, tmp_path / "p", AlignSettings(**SMALL), allow_faults=True)
    assert pd.read_csv(aligned.folder / "audit.csv").is_fault.any()


def test_nan_reward_is_one_line(start, tmp_path):
    with pytest.raises(ValueError, match="not a finite number"):  # no file is left behind
        broken = scalar_reward(lambda prompts, responses: np.full(len(responses), np.nan))
        train(start, broken, PROMPTS, tmp_path / "p", AlignSettings(**SMALL))
    assert not (tmp_path / "p").exists()


def test_best_of_n_is_better_than_one(start, tmp_path):
    settings = AlignSettings(method="best-of-n", **SMALL)
    aligned = train(start, scalar_reward(count_e), PROMPTS, tmp_path / "p", settings)
    best = aligned.reply(PROMPTS * 10)
    model, tokenizer = load_policy(start)
    one = sample_replies(model, tokenizer, PROMPTS * 10, 8)
    assert best["prompt"].tolist() == PROMPTS * 10 and not (tmp_path / "p").exists()
    assert count_e(None, best["response"]).mean() > count_e(None, one["response"]).mean()


def test_system_prompt(start, tmp_path):
    settings = AlignSettings(method="system-prompt", **SMALL)
    with pytest.raises(PolicyError, match="needs a text"):
        train(start, scalar_reward(count_e), PROMPTS, tmp_path / "p", settings)
    replies = train(start, scalar_reward(count_e), PROMPTS, tmp_path / "p", settings, system="be kind").reply(["be"])
    model, tokenizer = load_policy(start)
    text = tokenizer.decode(replies.prompt_ids[0])
    assert text.startswith("<|system|>be kind<|user|>be")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("llama")
    tokenizer = train_tokenizer(PROMPTS, 300)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id))
    return save_policy(model, tokenizer, folder)


def test_lora_on_a_tiny_llama_is_merged(llama, tmp_path):
    settings = AlignSettings(**SMALL | {"lora_rank": 4, "micro_batch": 4})
    aligned = train(llama, scalar_reward(count_e), PROMPTS, tmp_path / "p", settings)
    before, after = weights(llama), weights(aligned.folder)
    assert set(before) == set(after) and not same(before, after)
    assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])


@pytest.mark.slow
def test_two_processes_train_from_a_spec(llama, tmp_path):
    from fulcra_utils.encoder import load_encoder
    from fulcra_utils.evaluator import make_evaluator
    from fulcra_utils.theory import load_theory

    make_evaluator(load_encoder("tiny"), load_theory("schwartz10")).save_pretrained(tmp_path / "evaluator")
    spec = {"start": str(llama), "prompts": PROMPTS, "settings": SMALL | {"lora_rank": 4}, "target": "harmless",
            "theory": "schwartz10", "evaluator": str(tmp_path / "evaluator"), "allow_faults": True}
    folder = launch(spec, tmp_path / "policy", n_processes=2)
    assert not same(weights(llama), weights(folder))
    assert json.loads((folder / "align.json").read_text())["finished"]
    with pytest.raises(PolicyError, match="no such theory|processes failed"):
        launch(spec | {"theory": "nothing"}, tmp_path / "other", n_processes=2)


@pytest.mark.parametrize(("change", "words"), [
    ({"method": "ppo"}, "method must be one of"), ({"steps": 0}, "at least 1"),
    ({"replies_per_prompt": 1}, "at least 2"),
])
def test_settings_that_cannot_work(change, words):
    with pytest.raises(PolicyError, match=words):
        AlignSettings(**change)


def test_models_that_cannot_be_aligned(start, tmp_path):
    model, tokenizer = load_policy(start)
    settings = AlignSettings(**SMALL)
    with pytest.raises(PolicyError, match="cannot be loaded"):
        train(tmp_path / "nothing", scalar_reward(count_e), PROMPTS, tmp_path / "p", settings)
    with pytest.raises(PolicyError, match="leave no room"):
        train(start, scalar_reward(count_e), PROMPTS, tmp_path / "p", AlignSettings(**SMALL | {"max_new_tokens": 64}))
    with pytest.raises(PolicyError, match="none of 1 prompts fits"):
        train(start, scalar_reward(count_e), ["be kind " * 90], tmp_path / "p", settings)
    with pytest.raises(PolicyError, match="cannot be split"):
        train(start, scalar_reward(count_e), PROMPTS, tmp_path / "p", AlignSettings(**SMALL | {"micro_batch": 3}))
    tokenizer.chat_template = None
    save_policy(model, tokenizer, tmp_path / "silent")
    with pytest.raises(PolicyError, match="no chat template"):
        load_policy(tmp_path / "silent")
    assert load_policy(tmp_path / "silent", "{{ messages[0]['content'] }}")[1].chat_template
    tokenizer.chat_template, tokenizer.eos_token = "x", None
    save_policy(model, tokenizer, tmp_path / "endless")
    with pytest.raises(PolicyError, match="no eos token"):
        load_policy(tmp_path / "endless")


def test_missing_pad_token_is_replaced(start, tmp_path):
    model, tokenizer = load_policy(start)
    tokenizer.pad_token = None
    save_policy(model, tokenizer, tmp_path / "padless")
    assert load_policy(tmp_path / "padless")[1].pad_token == tokenizer.eos_token


def test_rank_pairs_takes_best_and_worst():
    replies = pd.DataFrame({"prompt": ["a"] * 3, "response": ["x", "y", "z"]})
    assert rank_pairs(replies, [0.2, 0.9, 0.1]).to_dict("records") == [{"prompt": "a", "chosen": "y", "rejected": "z"}]


def test_reward_of_values_goes_through_trl(start, tmp_path):
    class Letters:
        def score(self, prompts, responses):
            return np.array([[min(1.0, r.count("e") / 4), 0.0] for r in responses])

    reward = value_reward(Letters(), np.array([1.0, 0.0]))
    aligned = train(start, reward, PROMPTS, tmp_path / "p", AlignSettings(**SMALL))
    assert aligned.history["reward"].between(-1, 0).all()


def test_module_help_needs_no_network():
    code = "import fulcra_utils.alignment, sys; assert 'torch' not in sys.modules and 'trl' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

import json
import shutil
import subprocess
import sys
import threading
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_policies import PROMPTS, TEXTS, make
from transformers import AutoConfig

from fulcra_utils.alignment import finetuning
from fulcra_utils.alignment.finetuning import AlignSettings, align, draw_replies, rank_pairs, steer
from fulcra_utils.alignment.reward import RewardAuditError, scalar_reward, value_reward
from fulcra_utils.common.files import write_json
from fulcra_utils.llm.local import PolicyError, hash_model, list_ends, load_policy, sample_replies
from fulcra_utils.llm.tiny import save_policy, train_tokenizer

SMALL = {"steps": 4, "prompts_per_step": 2, "replies_per_prompt": 4, "max_new_tokens": 8, "max_prompt_tokens": 32,
         "save_every": 2, "learning_rate": 1e-3, "max_kl": 50.0}

train = partial(align, allow_faults=True)  # a toy reward fails the audit


def count_e(prompts, responses):
    return np.array([r.count("e") for r in responses], dtype=float)


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


@pytest.mark.parametrize("changes", [{}, {"steps": 6, "prompts_per_step": 3}], ids=["once", "prompts come round again"])
def test_an_interrupted_run_ends_as_it_would_have(start, tmp_path, changes):
    settings = AlignSettings(**SMALL | changes)
    whole = train(start, scalar_reward(count_e), PROMPTS, tmp_path / "whole", settings)
    calls = {"n": 0}

    def breaks(prompts, responses):
        calls["n"] += 1
        if calls["n"] > 5 + settings.steps - 1:  # five calls of the audit, then the last step
            raise KeyboardInterrupt
        return count_e(prompts, responses)

    with pytest.raises(KeyboardInterrupt):
        train(start, scalar_reward(breaks, "e"), PROMPTS, tmp_path / "cut", settings)
    assert (tmp_path / "cut" / "checkpoints").is_dir() and not (tmp_path / "cut" / "config.json").exists()
    again = train(start, scalar_reward(count_e, "e"), PROMPTS, tmp_path / "cut", settings)
    assert same(weights(again.folder), weights(whole.folder))
    pd.testing.assert_frame_equal(again.history, whole.history)


@pytest.mark.parametrize("method", ["rloo", "grpo", "dpo"])
def test_training_gives_a_reward_texts_as_the_audit_does(start, tmp_path, method):
    kinds = set()

    def reward(prompts, completions, **columns):
        kinds.update(map(type, [*prompts, *completions]))
        return [float(c.count("e")) for c in completions]

    reward.label = "e"
    aligned = train(start, reward, PROMPTS, tmp_path / "p", AlignSettings(method, **SMALL))
    assert kinds == {str} and (method == "dpo" or aligned.history.reward.gt(0).any())


def test_fewer_prompts_than_a_step_asks_for_come_round_again(start, tmp_path):
    settings = AlignSettings(**SMALL | {"steps": 2, "prompts_per_step": 8})
    aligned = train(start, scalar_reward(count_e), PROMPTS[:3], tmp_path / "p", settings)
    assert aligned.history.step.tolist() == [1, 2] and not same(weights(aligned.folder), weights(start))


def test_a_starts_own_way_of_sampling_shapes_no_training(start, tmp_path):
    model, tokenizer = load_policy(start)
    model.generation_config.update(do_sample=True, min_p=0.99)
    save_policy(model, tokenizer, tmp_path / "start")
    plain, own = (train(folder, scalar_reward(count_e), PROMPTS, tmp_path / name, AlignSettings(**SMALL)).folder
                  for folder, name in ((start, "p"), (tmp_path / "start", "q")))
    assert same(weights(plain), weights(own)) and load_policy(own)[0].generation_config.min_p == 0.99


def test_dpo_reads_an_end_behind_whole_replies_alone(start, tmp_path):
    model, tokenizer = load_policy(start)
    settings = AlignSettings("dpo", **SMALL | {"max_new_tokens": 4})
    said = ["be", "e" * 4, "e" * 9, "x"]    # each letter a token; of both prompts the second reply is cut
    candidates = pd.DataFrame({"prompt": np.repeat(PROMPTS[:2], 2), "response": said})
    trainer = finetuning._make_trainer(model, tokenizer, start, scalar_reward(count_e), PROMPTS[:2], tmp_path, settings,
                                       candidates, finetuning._Watch(1.0))
    batch = next(iter(trainer.get_train_dataloader()))
    read = sorted(tokenizer.decode(ids[mask == 1])
                  for ids, mask in zip(batch["input_ids"], batch["completion_mask"], strict=True))
    assert read == ["be<|end|>", "eeee", "eeee", "x<|end|>"]


def test_a_steered_model_ends_as_its_start(start, tmp_path):
    model, tokenizer = load_policy(start)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|user|>")]
    save_policy(model, tokenizer, tmp_path / "start")
    aligned = train(tmp_path / "start", scalar_reward(count_e), PROMPTS, tmp_path / "p",
                    AlignSettings("steering", **SMALL))
    assert list_ends(*load_policy(aligned.folder)) == list_ends(model, tokenizer) != [tokenizer.eos_token_id]


def test_a_finished_run_is_read_and_another_is_refused(start, tmp_path):
    first = train(start, scalar_reward(count_e, "e"), PROMPTS, tmp_path / "p", AlignSettings(**SMALL))

    def never(prompts, responses):
        raise AssertionError("a finished run must not be trained again")

    second = train(start, scalar_reward(never, "e"), PROMPTS, tmp_path / "p", AlignSettings(**SMALL))
    assert second.history["reward"].tolist() == pytest.approx(first.history["reward"].tolist())
    before = weights(tmp_path / "p")
    with pytest.raises(PolicyError, match="belongs to another run"):
        train(start, scalar_reward(count_e), PROMPTS, tmp_path / "p", AlignSettings(**SMALL | {"seed": 1}))
    assert same(before, weights(tmp_path / "p"))
    (tmp_path / "q").mkdir()
    (tmp_path / "q" / "thesis.txt").write_text("mine")
    with pytest.raises(PolicyError, match="not an alignment run"):
        train(start, scalar_reward(count_e), PROMPTS, tmp_path / "q", AlignSettings(**SMALL))


@pytest.mark.parametrize("beta", [0.05, 0.0])
def test_training_stops_when_kl_runs_away(start, tmp_path, beta):
    settings = AlignSettings(**SMALL | {"steps": 30, "learning_rate": 5e-2, "max_kl": 0.05, "beta": beta})
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


@pytest.mark.parametrize(("bad", "why"), [
    (lambda prompts, completions: [1.0] * (len(completions) // 2), "values for"),
    (lambda prompts, completions: [None] * len(completions), "applies to no reply to the prompt"),
    (lambda prompts, completions: [float("inf")] * len(completions), "infinite")])
def test_best_of_n_refuses_a_reward_that_says_too_little(start, tmp_path, bad, why):
    chosen = train(start, bad, PROMPTS, tmp_path / "p", AlignSettings(method="best-of-n", **SMALL))
    with pytest.raises(ValueError, match=why):
        chosen.reply(PROMPTS)


def test_a_reward_that_fails_beyond_the_audit_is_refused(start, tmp_path):
    def sometimes(prompts, completions):
        return [float("inf") if "unaudited" in prompt else float(len(text.split())) for prompt, text in zip(
            prompts, completions, strict=True)]
    rows = pd.DataFrame([(prompt, text) for prompt in [*(f"p{k}" for k in range(24)), "unaudited"]
                         for text in ("be kind to all", "no")], columns=["prompt", "response"])
    with pytest.raises(ValueError, match="infinite value"):
        train(start, sometimes, rows.prompt.unique().tolist(), tmp_path / "p",
              AlignSettings(method="steering", **SMALL), candidates=rows, allow_faults=True)


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
def test_a_script_trains_in_two_processes(llama, tmp_path):
    (tmp_path / "mine.py").write_text(f"""
import numpy as np
from fulcra_utils.alignment import AlignSettings, align, scalar_reward
reward = scalar_reward(lambda prompts, responses: np.array([float(r.count("e")) for r in responses]))
align({str(llama)!r}, reward, {PROMPTS!r}, {str(tmp_path / "policy")!r}, AlignSettings(**{SMALL | {"lora_rank": 4}!r}),
      allow_faults=True)
""")
    subprocess.run([sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2",
                    "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
                    str(tmp_path / "mine.py")], check=True, capture_output=True)
    assert not same(weights(llama), weights(tmp_path / "policy"))
    assert json.loads((tmp_path / "policy" / "align.json").read_text())["finished"]


@pytest.mark.parametrize(("change", "words"), [
    ({"method": "ppo"}, "method must be one of"), ({"steps": 0}, "at least 1"),
    ({"replies_per_prompt": 1}, "at least 2"), ({"micro_batch": -1}, "micro_batch must be at least 0, not -1"),
])
def test_settings_that_cannot_work(change, words):
    with pytest.raises(PolicyError, match=words):
        AlignSettings(**change)


def test_models_that_cannot_be_aligned(start, tmp_path):
    model, tokenizer = load_policy(start)
    settings = AlignSettings(**SMALL)
    with pytest.raises(PolicyError, match="cannot be loaded"):
        train(tmp_path / "nothing", scalar_reward(count_e), PROMPTS, tmp_path / "p", settings)
    with pytest.raises(PolicyError, match="none of 6 prompts fits into 0 tokens"):
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


def test_candidates_of_other_models_make_the_pairs_and_are_part_of_the_run(start, tmp_path, monkeypatch):
    settings, made = AlignSettings(method="dpo", **SMALL | {"steps": 1}), []
    monkeypatch.setattr(finetuning, "rank_pairs", lambda *a: made.append(rank_pairs(*a)) or made[-1])
    monkeypatch.setattr(finetuning, "sample_replies", lambda *a, **k: 1 / 0)    # nothing is to be sampled
    real = pd.DataFrame({"prompt": np.repeat(PROMPTS[:3], 2), "response": ["be", "no"] * 3})
    reward = scalar_reward(count_e)
    train(start, reward, PROMPTS, tmp_path / "p", settings, candidates=real)
    assert [(pair["chosen"][0]["content"], pair["rejected"][0]["content"]) for pair in made[0]] == [("be", "no")] * 3
    train(start, reward, PROMPTS, tmp_path / "p", settings, candidates=real)
    assert len(made) == 1, "a finished run is only read"
    with pytest.raises(PolicyError, match="belongs to another run"):
        train(start, reward, PROMPTS, tmp_path / "p", settings, candidates=real[::-1])


def test_rewards_that_cannot_be_told_apart_share_no_kept_replies(start, tmp_path):
    """One that holds a lock, as clients of endpoints do, has no name of its own."""
    def choose(sign):
        lock = threading.Lock()

        def by_length(prompts, completions, **_):
            with lock:
                return [sign * float(len(text)) for text in completions]

        return by_length

    settings, told = AlignSettings(method="best-of-n", **SMALL), []
    for sign in (1, -1):
        policy = train(start, choose(sign), PROMPTS, tmp_path / f"p{sign}", settings)
        told.append(draw_replies(policy, start, PROMPTS, 6, 0, keep=tmp_path / "kept.parquet").response.str.len().sum())
    assert told[0] > told[1]


def test_steering_refuses_a_model_whose_weights_go_by_other_names(start):
    model, tokenizer = load_policy(start)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["up_proj"], task_type="CAUSAL_LM")).base_model.model
    pairs = [{"prompt": [{"content": "be"}], "chosen": [{"content": "be kind"}], "rejected": [{"content": "no"}]}]
    with pytest.raises(PolicyError, match="plain model"):
        steer(adapted, tokenizer, pairs, 1.0)


def test_steering_adds_the_mean_difference_of_the_states_to_one_layer(start, tmp_path):
    model, tokenizer = load_policy(start)
    pairs = [{"prompt": [{"content": prompt}], "chosen": [{"content": "be kind"}], "rejected": [{"content": "no"}]}
             for prompt in PROMPTS[:2]]
    states, own = [], []    # of the layer itself: the model would show the last one's behind its norm
    hook = model.model.layers[0].register_forward_hook(
        lambda module, args, out: own.append(out[0] if isinstance(out, tuple) else out))
    for pair in pairs:
        means = []
        for side in ("chosen", "rejected"):
            head = tokenizer.apply_chat_template([{"role": "user", "content": pair["prompt"][0]["content"]}],
                                                 add_generation_prompt=True, return_dict=False)
            ids = torch.tensor([head + tokenizer(pair[side][0]["content"])["input_ids"]])
            with torch.no_grad():
                model(ids)
            means.append(own[-1].reshape(-1, own[-1].shape[-1])[len(head):].mean(0))
        states.append(means[0] - means[1])
    hook.remove()
    wanted = 3 * torch.stack(states).mean(0)
    steered, ids = steer(model, tokenizer, pairs, 3.0), torch.tensor([tokenizer("be free")["input_ids"]])
    with torch.no_grad():
        layer = [m.model.layers[0] for m in (model, steered)]
        kept = []
        for part, m in zip(layer, (model, steered), strict=True):
            part.register_forward_hook(lambda module, args, out: kept.append(out[0] if isinstance(out, tuple) else out))
            m(ids)
    torch.testing.assert_close(kept[1] - kept[0], wanted.expand_as(kept[0]), atol=1e-5, rtol=1e-4)
    twice = steer(steered, tokenizer, pairs, 0.0).model.layers[0].mlp.down_proj.bias
    torch.testing.assert_close(twice, steered.model.layers[0].mlp.down_proj.bias)   # a bias that is there stays
    aligned = train(start, scalar_reward(count_e), PROMPTS, tmp_path / "p", AlignSettings(method="steering", **SMALL))
    assert len(aligned.reply(PROMPTS[:2])) == 2 and aligned.history.empty
    again = train(start, scalar_reward(count_e), PROMPTS, tmp_path / "p", AlignSettings(method="steering", **SMALL))
    assert again.history.empty and weights(again.folder)["model.layers.0.mlp.down_proj.bias"].any()
    without = SimpleNamespace(config=SimpleNamespace(model_type="gpt2"))
    with pytest.raises(PolicyError, match="steering needs a model that can have biases, as Llama; gpt2 cannot"):
        steer(without, tokenizer, pairs, 1.0)


def test_kept_replies_are_those_of_the_same_question_alone(tokenizer, tmp_path):
    folders = [save_policy(make(tokenizer, seed=seed), tokenizer, tmp_path / f"model-{seed}") for seed in range(3)]
    keep, first = tmp_path / "kept.parquet", {"policy": folders[0], "start": folders[1], "prompts": TEXTS,
                                              "max_new_tokens": 4, "seed": 0, "temperature": 1.0}

    def draw(**changed):
        return draw_replies(**first | changed, keep=keep)

    fresh = draw()
    stamp = keep.stat().st_mtime_ns
    pd.testing.assert_frame_equal(draw(), fresh)
    shutil.copytree(folders[0], tmp_path / "twin")
    assert draw(policy=tmp_path / "twin") is not None
    assert keep.stat().st_mtime_ns == stamp, "the same weights elsewhere are the same model"
    for changed in ({"policy": folders[2]}, {"start": folders[2]}, {"prompts": TEXTS[:2]}, {"prompts": TEXTS[::-1]},
                    {"max_new_tokens": 5}, {"seed": 1}, {"temperature": 0.5}, {"real": ["be kind", "", "no", "so"]}):
        stamp = keep.stat().st_mtime_ns
        drawn = draw(**changed)
        assert keep.stat().st_mtime_ns != stamp, changed
        pd.testing.assert_frame_equal(drawn, draw_replies(**first | changed))
        pd.testing.assert_frame_equal(draw(), fresh)
    for nothing in ("no-such-model", "no/such-model", tmp_path / "nowhere"):
        with pytest.raises(PolicyError, match="cannot be loaded"):
            draw(policy=nothing)
    pd.DataFrame({"prompt": TEXTS}).to_parquet(keep)    # a file without a key
    pd.testing.assert_frame_equal(draw(), fresh)


def test_replies_of_a_model_without_a_template_are_kept_by_the_given_one(tokenizer, tmp_path):
    silent = train_tokenizer(TEXTS, 300)
    silent.chat_template = None
    folder = save_policy(make(silent), silent, tmp_path / "silent")
    with pytest.raises(PolicyError, match="no chat template"):
        draw_replies(folder, folder, TEXTS, 4, 0)
    drawn = [draw_replies(folder, folder, TEXTS, 4, 0, keep=tmp_path / "k.parquet", chat_template=template)
             for template in (tokenizer.chat_template, "{{ messages[0]['content'] }}", tokenizer.chat_template)]
    assert not drawn[1].logp.equals(drawn[0].logp)
    pd.testing.assert_frame_equal(drawn[2], drawn[0])


def test_probabilities_of_a_system_prompt_of_the_best_of_n_and_of_real_replies(start, tmp_path):
    reward, options = scalar_reward(count_e), (PROMPTS[:3], 6, 0)
    told, best = (train(start, reward, PROMPTS, tmp_path / "p", AlignSettings(method=method, **SMALL), system="be bold")
                  for method in ("system-prompt", "best-of-n"))
    said = draw_replies(told, start, *options)
    assert (said.logp != said.logp_start).all() and said.nll_real.isna().all()
    best = draw_replies(best, start, *options, real=["be kind", "", "no"])
    np.testing.assert_allclose(best.logp - best.logp_start, np.log(4) - 3 / 4)
    model, tokenizer = load_policy(start)
    head, tail = (tokenizer.apply_chat_template([{"role": "user", "content": PROMPTS[0]}], add_generation_prompt=True,
                                                return_dict=False), tokenizer("be kind")["input_ids"])
    with torch.no_grad():
        logs = model(torch.tensor([head + tail])).logits[0].log_softmax(-1)
    by_hand = -np.mean([logs[len(head) + k - 1, token].item() for k, token in enumerate(tail)])
    assert best.nll_real[0] == pytest.approx(by_hand, abs=1e-4) and np.isnan(best.nll_real[1])


def test_rank_pairs_takes_best_and_worst():
    replies = pd.DataFrame({"prompt": ["a"] * 3, "response": ["x", "y", "z"]})
    said = {"prompt": ("user", "a"), "chosen": ("assistant", "y"), "rejected": ("assistant", "z")}
    assert rank_pairs(replies, [0.2, 0.9, 0.1]) == [{name: [{"role": role, "content": text}]
                                                     for name, (role, text) in said.items()}]
    with pytest.raises(PolicyError, match="nothing to prefer"):
        rank_pairs(replies, [0.5] * 3)


def test_reward_of_values_goes_through_trl(start, tmp_path):
    class Letters:
        def score(self, prompts, responses):
            return np.array([[min(1.0, r.count("e") / 4), 0.0] for r in responses])

    reward = value_reward(Letters(), np.array([1.0, 0.0]))
    aligned = train(start, reward, PROMPTS, tmp_path / "p", AlignSettings(**SMALL))
    assert aligned.history["reward"].between(-1, 0).all()
    assert aligned.history["distance/0"].tolist() == pytest.approx((-aligned.history["reward"]).tolist(), abs=1e-5)


def test_module_help_needs_no_network():
    code = "import fulcra_utils.alignment.reward, sys; assert 'torch' not in sys.modules and 'trl' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


class Counting:
    """An evaluator that says how often it was asked, and whose score its factor decides."""

    def __init__(self, factor=1.0, words=("e",)):
        self.factor, self.words, self.calls, self.said, self.memory = factor, list(words), 0, [], {}

    def score(self, prompts, responses):
        self.calls += 1
        self.said.append(len(responses))
        self.memory.update(dict.fromkeys(responses))
        return np.array([[self.factor * min(1.0, sum(map(r.count, self.words)) / 4), 0.0] for r in responses])


def tiny_evaluator(seed):
    from fulcra_utils.evaluator.encoder import load_encoder
    from fulcra_utils.evaluator.model import make_evaluator
    from fulcra_utils.theory.theory import load_theory

    return make_evaluator(load_encoder("tiny"), load_theory("schwartz10"), 32, seed=seed)


def aimed(evaluator, **options):
    target = np.eye(10)[0] if hasattr(evaluator, "dimensions") else np.array([1.0, 0.0])
    return value_reward(evaluator, target, **options)


def plain(factor):
    return lambda prompts, completions, **columns: [factor * float(c.count("e") if isinstance(c, str) else
                                                                   c[0]["content"].count("e")) for c in completions]


def told(**named):
    def reward(prompts, completions, **columns):
        return plain(reward.factor)(prompts, completions)

    vars(reward).update(named)
    return reward


class Callable:
    def __init__(self, factor):
        self.__name__, self.factor = "callable", factor

    def __call__(self, prompts, completions, **columns):
        return plain(self.factor)(prompts, completions)


REWARDS = {"evaluator's weights": lambda k: aimed(tiny_evaluator(k)), "a stub's state": lambda k: aimed(Counting(k)),
           "a stub's list": lambda k: aimed(Counting(words="ab"[:k])), "a function's closure": plain,
           "a scalar model": lambda k: scalar_reward(lambda p, r: k * count_e(p, r)), "an object": Callable,
           "an option": lambda k: aimed(Counting(), common_weight=k),
           "a weight": lambda k: aimed(Counting(), weights=np.array([1.0, k])),
           "code": lambda k: aimed(type("Stub", (), {"score": [lambda s, p, r: np.ones((len(r), 2)),
                                                                lambda s, p, r: np.zeros((len(r), 2))][k - 1]})()),
           "an attribute": lambda k: told(factor=k), "a label that is no text": lambda k: told(factor=k, label=3),
           "a label": lambda k: scalar_reward(count_e, f"model {k}")}


@pytest.mark.parametrize("kind", REWARDS)
def test_another_reward_never_gets_the_policy_of_the_first(start, tmp_path, kind):
    settings = AlignSettings(**SMALL | {"steps": 1, "prompts_per_step": 1})
    make = REWARDS[kind]
    train(start, make(1), PROMPTS, tmp_path / "p", settings)
    before = (tmp_path / "p" / "align.json").stat().st_mtime_ns
    train(start, make(1), PROMPTS, tmp_path / "p", settings)    # made anew, the same all the same
    assert (tmp_path / "p" / "align.json").stat().st_mtime_ns == before
    with pytest.raises(PolicyError, match="belongs to another run"):
        train(start, make(2), PROMPTS, tmp_path / "p", settings)


def test_what_calling_a_reward_changes_is_no_part_of_it(start, tmp_path):
    settings, evaluator = AlignSettings(**SMALL | {"steps": 1, "prompts_per_step": 1}), Counting()
    reward = aimed(evaluator)
    train(start, reward, PROMPTS, tmp_path / "p", settings)
    n = evaluator.calls
    for again in (reward, aimed(evaluator), aimed(Counting())):
        train(start, again, PROMPTS, tmp_path / "p", settings)
    assert evaluator.calls == n > 0
    evaluator.factor = -1.0    # the same object, another score
    with pytest.raises(PolicyError, match="belongs to another run"):
        train(start, reward, PROMPTS, tmp_path / "p", settings)


def test_a_reward_that_cannot_be_told_is_to_be_named(start, tmp_path):
    import threading

    lock, settings = threading.Lock(), AlignSettings(**SMALL | {"steps": 1, "prompts_per_step": 1})

    def reward(prompts, completions, **columns):
        with lock:
            return [float(len(completions))] * len(completions)

    train(start, reward, PROMPTS, tmp_path / "p", settings)
    with pytest.raises(PolicyError, match="reward.label = "):
        train(start, reward, PROMPTS, tmp_path / "p", settings)
    reward.label = "mine"
    train(start, reward, PROMPTS, tmp_path / "q", settings)
    train(start, reward, PROMPTS, tmp_path / "q", settings)
    train(start, reward, PROMPTS, tmp_path / "p", settings, replace=True)


def test_everything_that_shapes_a_policy_makes_another_run(start, tmp_path):
    """All of the start model's files count to their last byte, and where it is named on a hub its commit."""
    from safetensors.torch import load_file, save_file

    settings, reward = AlignSettings(**SMALL | {"steps": 1, "prompts_per_step": 1}), scalar_reward(count_e)
    train(start, reward, PROMPTS, tmp_path / "p", settings)
    mark = finetuning.mark_run(hash_model(start), "t", PROMPTS, settings)
    others = {"chat template": finetuning.mark_run(hash_model(start), "u", PROMPTS, settings),
              "prompts": finetuning.mark_run(hash_model(start), "t", PROMPTS[1:], settings)}
    changes = {"method": "grpo", "steps": 2, "prompts_per_step": 2, "replies_per_prompt": 2, "micro_batch": 1,
               "max_new_tokens": 9, "max_prompt_tokens": 33, "learning_rate": 1e-4, "beta": 0.1, "max_kl": 1.0,
               "lora_rank": 1, "lora_alpha": 8, "strength": 1.0, "temperature": 0.5, "seed": 1}
    for name, value in changes.items():
        changed = AlignSettings(**SMALL | {"steps": 1, "prompts_per_step": 1} | {name: value})
        others[name] = finetuning.mark_run(hash_model(start), "t", PROMPTS, changed)
    for number, file in enumerate(sorted(p.name for p in start.iterdir())):
        twin = tmp_path / str(number)
        shutil.copytree(start, twin)
        assert finetuning.mark_run(hash_model(twin), "t", PROMPTS, settings) == mark
        if file.endswith(".safetensors"):
            table = load_file(twin / file)
            table[sorted(table)[-1]].flatten()[-1] += 1.0
            save_file(table, twin / file)
        else:
            (twin / file).write_text((twin / file).read_text() + " ")
        others[file] = finetuning.mark_run(hash_model(twin), "t", PROMPTS, settings)
    assert mark not in others.values() and len(set(others.values())) == len(others)
    often = AlignSettings(**SMALL | {"steps": 1, "prompts_per_step": 1, "save_every": 7})
    assert finetuning.mark_run(hash_model(start), "t", PROMPTS, often) == mark, "saving shapes nothing"
    (tmp_path / "noted").mkdir()
    shutil.copytree(start, tmp_path / "noted", dirs_exist_ok=True)
    (tmp_path / "noted" / "notes.md").write_text("mine")
    assert finetuning.mark_run(hash_model(tmp_path / "noted"), "t", PROMPTS, settings) == mark
    with pytest.raises(PolicyError, match="cannot be loaded"):
        hash_model("no/such-model")


def test_hub_models_are_told_apart_by_name_and_commit(start, tmp_path, monkeypatch):
    commits, own = {"hub/a": "1", "hub/b": "1"}, AutoConfig.from_pretrained

    monkeypatch.setattr(finetuning, "load_policy", lambda name, chat_template: load_policy(start))
    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda name, **options: SimpleNamespace(
        _commit_hash=commits[name]) if name in commits else own(name, **options))
    monkeypatch.setattr(finetuning, "_train", lambda *a: write_json(tmp_path / "p" / "align.json", a[-1] | {
        "finished": True, "stopped": ""}))
    settings, reward = AlignSettings(**SMALL), scalar_reward(count_e)
    train("hub/a", reward, PROMPTS, tmp_path / "p", settings)
    (tmp_path / "p" / "history.csv").write_text("step\n1\n")
    assert train("hub/a", reward, PROMPTS, tmp_path / "p", settings).history.step.tolist() == [1]
    for name, commit in (("hub/b", "1"), ("hub/a", "2")):
        commits[name] = commit
        with pytest.raises(PolicyError, match="belongs to another run"):
            train(name, reward, PROMPTS, tmp_path / "p", settings)


@pytest.mark.parametrize("method", ["rloo", "best-of-n", "system-prompt"])
def test_a_given_chat_template_is_used_by_every_method(start, tmp_path, method):
    model, tokenizer = load_policy(start)
    template, tokenizer.chat_template = tokenizer.chat_template, None
    save_policy(model, tokenizer, tmp_path / "silent")
    settings = AlignSettings(method=method, **SMALL | {"steps": 1, "prompts_per_step": 1})
    aligned = train(tmp_path / "silent", scalar_reward(count_e), PROMPTS, tmp_path / "p", settings, system="be kind",
                    chat_template=template)
    text = tokenizer.decode(aligned.reply(["be"]).prompt_ids[0])
    assert text.endswith("<|user|>be<|assistant|>")


@pytest.mark.parametrize(("samples", "micro", "world"), [(2, 0, 4), (8, 3, 1), (6, 0, 4), (8, 0, 3)])
def test_samples_that_cannot_be_split_are_one_line(tmp_path, monkeypatch, samples, micro, world):
    monkeypatch.setenv("WORLD_SIZE", str(world))
    with pytest.raises(PolicyError, match=f"{samples} samples a step cannot be split into {world} processes"):
        finetuning._arguments(tmp_path, AlignSettings(**SMALL | {"micro_batch": micro}), samples)


@pytest.mark.parametrize(("samples", "micro", "world"), [(8, 0, 1), (8, 2, 2), (8, 0, 4), (4, 1, 4), (2, 0, 2),
                                                         (4, 8, 1)])
def test_samples_of_a_step_are_split_evenly(tmp_path, monkeypatch, samples, micro, world):
    monkeypatch.setenv("WORLD_SIZE", str(world))
    found = finetuning._arguments(tmp_path, AlignSettings(**SMALL | {"micro_batch": micro}), samples)
    assert found["per_device_train_batch_size"] * found["gradient_accumulation_steps"] * world == samples

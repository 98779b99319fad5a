"""Ways to align a language model, behind one call: RLOO, GRPO, DPO, steering, best of n, a system prompt.

Choices: TRL's trainers with dropout off and one pass over each batch; the reward is any function that TRL can call, so
the scalar baselines and BaseAlign run through the same lines; KL to the start model in the reward and as an early stop;
a reward audit before the first step; checkpoints that a killed run continues from with the same random numbers; a
folder that belongs to another run is never touched. Differs from upstream: the released PPO script's reward, moved to
TRL's RLOO (default) and GRPO.

Ten lines that align the bundled model stand in the README.
"""

import copy
import gc
import json
import os
import secrets
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from fulcra_utils.alignment.reward import Reward, RewardAuditError, call_reward, compare_rewards, describe_faults
from fulcra_utils.common.digests import digest, digest_code
from fulcra_utils.common.files import write_json, write_table
from fulcra_utils.common.workers import SHAPE
from fulcra_utils.dataset.texts import list_texts, write_degenerate_replies
from fulcra_utils.evaluator.encoder import has_bf16, mean_pool
from fulcra_utils.llm.fast import name_engine
from fulcra_utils.llm.local import (
    PolicyError,
    encode_prompts,
    find_model,
    hash_model,
    keep_short_prompts,
    load_policy,
    load_tokenizer,
    pad_texts,
    sample_plain,
    sample_replies,
    score_tokens,
)
from fulcra_utils.llm.tiny import save_policy

METHODS = ("rloo", "grpo", "dpo", "steering", "best-of-n", "system-prompt")  # the first four make a new model
STEERED = 0.5   # depth of the layer to whose output steering adds
AUDITED = 24    # prompts on which a reward is audited before training
HISTORY = {"step": "step", "reward": "reward", "reward_std": "reward_std", "kl": "kl", "loss": "loss",
           "completions/mean_length": "length", "rewards/accuracies": "accuracy", "rewards/margins": "margin"}
LOGGED = ("distance/", "sameness")     # what `value_reward` tells of itself
LEAST = {"steps": 1, "prompts_per_step": 1, "replies_per_prompt": 2, "micro_batch": 0, "max_new_tokens": 1,
         "save_every": 1}


@dataclass(frozen=True)
class AlignSettings:
    """Everything that decides an alignment run besides the model, the reward and the prompts.

    `method` is rloo, grpo, dpo, steering, best-of-n or system-prompt. One of `steps` optimiser steps has
    `prompts_per_step` times `replies_per_prompt` samples, at most `micro_batch` of them in one forward pass (0 = all);
    for best-of-n the second is n, for DPO and steering the best and the worst of so many replies make a pair, and DPO
    reads its pairs again when the steps ask for more than there are. `strength` is how many times steering adds what
    tells better replies from worse ones. Lengths are in tokens: longer prompts are left out beforehand, longer replies
    are cut. `beta` is the price of one nat of KL to the start model; RLOO and GRPO stop when a step's KL per token
    exceeds `max_kl`. `lora_rank` 0 trains every weight. Settings that cannot work raise PolicyError.

    Examples
    --------
    >>> AlignSettings(method="grpo", steps=10).replies_per_prompt
    8
    """

    method: str = "rloo"
    steps: int = 60
    prompts_per_step: int = 8
    replies_per_prompt: int = 8
    micro_batch: int = 0
    max_new_tokens: int = 48
    max_prompt_tokens: int = 96
    learning_rate: float = 3e-4
    beta: float = 0.05
    max_kl: float = 1.0
    lora_rank: int = 0
    lora_alpha: int = 16
    strength: float = 4.0
    save_every: int = 20
    temperature: float = 1.0
    seed: int = 2023

    def __post_init__(self):
        """Refuse settings that cannot work."""
        if self.method not in METHODS:
            raise PolicyError(f"method must be one of {', '.join(METHODS)}, not {self.method!r}.")
        for name, least in LEAST.items():
            if getattr(self, name) < least:
                raise PolicyError(f"{name} must be at least {least}, not {getattr(self, name)}.")


@dataclass(frozen=True)
class Aligned:
    """An aligned way to reply.

    `folder` opens with `from_pretrained`: the trained model, or the start model for best-of-n and a system prompt.
    `history` has one row a step: reward, reward_std, kl (per token), loss, length, and of a `value_reward` what each
    value costs (distance/<value>) and sameness; empty without training. `stopped`
    says why training ended before its last step, "" when it did not.

    Examples
    --------
    >>> Aligned(Path("start"), AlignSettings(method="system-prompt"), pd.DataFrame(), system="Be kind.").stopped
    ''
    """

    folder: Path
    settings: AlignSettings
    history: pd.DataFrame = field(repr=False)
    stopped: str = ""
    system: str | None = field(default=None, repr=False)
    reward: Reward | None = field(default=None, repr=False)
    chat_template: str | None = field(default=None, repr=False)

    @property
    def n_drawn(self) -> int:
        """Return how many replies are drawn for the one that is given."""
        return self.settings.replies_per_prompt if self.settings.method == "best-of-n" else 1

    def reply(self, prompts: Sequence[str], seed: int = 0, max_new_tokens: int | None = None,
              keep: str | Path | None = None) -> pd.DataFrame:
        """Return one reply for each prompt, as `sample_replies` does."""
        n, (model, tokenizer) = self.n_drawn, load_policy(self.folder, self.chat_template)
        asked = [p for p in list_texts(prompts, "Prompt") for _ in range(n)]
        drawn = sample_replies(model, tokenizer, asked, max_new_tokens or self.settings.max_new_tokens, seed,
                               self.settings.temperature, system=self.system, keep=keep)
        if n == 1:
            return drawn
        rewards = np.reshape(self.reward(prompts=asked, completions=drawn["response"].tolist()), (-1, n))
        return drawn.iloc[np.arange(len(rewards)) * n + np.nanargmax(rewards, axis=1)].reset_index(drop=True)


def align(start: str | Path, reward: Reward, prompts: Sequence[str], folder: str | Path,
          settings: AlignSettings | None = None, system: str | None = None, allow_faults: bool = False,
          replace: bool = False, chat_template: str | None = None, candidates: pd.DataFrame | None = None) -> Aligned:
    """Align a causal language model with a reward, by any of the methods.

    `start` is a `from_pretrained` folder or a name on the hub, `reward` a function reward(prompts, completions, ...) ->
    list of float: `value_reward`, `scalar_reward`, or your own; the model stands in `folder` at the end. `system` is
    the text for the method system-prompt, `chat_template` for a tokenizer that has none. DPO and steering find better
    and worse replies among `candidates` (prompt, response; of any models), without them among samples of the start
    model. A reward that prefers degenerate replies is refused (RewardAuditError) unless `allow_faults`; best-of-n is
    not audited, for it only chooses among the model's own replies. Started by `accelerate launch your_script.py`,
    training runs on several devices.

    A finished run is only read again; an interrupted one goes on from its last checkpoint and ends as it would have. It
    is the same run when settings, prompts, candidates, chat template, the start model's files (of a hub name: its
    commit), the training code and the reward are the same. A reward is known by its text attribute `label`; without one
    by its code, by what it closes over, and by the evaluator's weights or state, less what calling it changes (a
    counter). The folder of another run is refused, or emptied with `replace`. PolicyError: a model, tokenizer or
    prompts that cannot be used, such a folder, a reward that cannot be told from another one (it holds a connection),
    too little memory.

    Examples
    --------
    >>> import tempfile
    >>> from fulcra_utils.llm.tiny import make_random_model
    >>> start = make_random_model(tempfile.mkdtemp())
    >>> settings = AlignSettings("best-of-n", replies_per_prompt=2, max_new_tokens=4)
    >>> aligned = align(start, lambda prompts, completions: [len(c) for c in completions], ["Why?"], "unused", settings)
    >>> len(aligned.reply(["Why?", "How?"]))
    2
    """
    settings, folder, prompts = settings or AlignSettings(), Path(folder), list_texts(prompts, "Prompt")
    model, tokenizer = load_policy(start, chat_template)
    if settings.method not in METHODS[:4]:
        if settings.method == "system-prompt" and not system:
            raise PolicyError("the method system-prompt needs a text; write_system_prompt makes one from a target.")
        system = system if settings.method == "system-prompt" else None
        encode_prompts(tokenizer, prompts[:1], system)      # a template that leaves it out is refused
        return Aligned(Path(start), settings, pd.DataFrame(), "", system, check_calls(reward, True), chat_template)
    context = getattr(model.config, "max_position_embeddings", None) or 10**9
    room = min(settings.max_prompt_tokens, context - settings.max_new_tokens)
    usable = keep_short_prompts(tokenizer, list(dict.fromkeys(prompts)), room)
    if candidates is not None:
        candidates = candidates[candidates["prompt"].isin(usable)]
    mark = mark_run(hash_model(start), tokenizer.chat_template, usable, settings, candidates)
    known, found = _find_run(folder, mark, reward, replace)
    if found.get("finished"):
        return Aligned(folder, settings, pd.read_csv(folder / "history.csv"), found["stopped"], None, reward)
    audit = audit_start(model, tokenizer, reward, usable, settings, allow_faults, candidates)
    state = {"fingerprint": mark, "rewards": [known], "settings": asdict(settings)}
    if _is_main():
        write_json(folder / "align.json", state | {"finished": False})
        write_table(folder / "audit.csv", audit)
    try:
        checked = check_calls(reward) if settings.method in ("dpo", "steering") else reward     # TRL checks its own
        if settings.method == "steering":
            pairs = _make_pairs(model, tokenizer, checked, usable, settings, candidates)
            return _finish(steer(model, tokenizer, pairs, settings.strength), tokenizer, reward, folder, settings,
                           pd.DataFrame(columns=["step"]), state)
        return _train(model, tokenizer, start, checked, usable, folder, settings, candidates, state)
    except (torch.OutOfMemoryError, MemoryError):
        raise PolicyError(f"memory does not suffice for {settings.micro_batch or 'all'} samples at once; lower "
                          "micro_batch or max_new_tokens, or set lora_rank.") from None
    finally:
        gc.collect()  # the trainer's circles
        if _is_main():  # calling a reward may change it: as it was and as it is now, it is this run's
            state = json.loads((folder / "align.json").read_text(encoding="utf-8"))
            write_json(folder / "align.json", state | {"rewards": [*state["rewards"], _identify(reward)[0]]})


def check_calls(reward: Reward, of_each: bool = False) -> Reward:
    """Return a reward whose every call is checked (`call_reward`); `of_each`: and applies to a reply of each prompt."""
    @wraps(reward)
    def call(prompts, completions, **columns):
        values = call_reward(reward, prompts, completions, **columns)
        if of_each and (lost := pd.Series(values).isna().groupby(list(prompts)).all()).any():
            raise PolicyError(f"the reward applies to no reply to the prompt {lost.idxmax()[:60]!r}.")
        return values.tolist()
    return call


def audit_start(model, tokenizer, reward, prompts, settings: AlignSettings, allow_faults: bool,
                candidates: pd.DataFrame | None = None) -> pd.DataFrame:
    """Compare the reward of degenerate replies with that of candidates, or of the start model's own samples."""
    own = candidates if candidates is not None else sample_replies(
        model, tokenizer, prompts[:AUDITED], settings.max_new_tokens, settings.seed, settings.temperature)
    own = own.drop_duplicates("prompt").head(AUDITED)
    asked = own["prompt"].tolist()
    kinds = write_degenerate_replies(asked, **getattr(reward, "degenerate", {}))
    real = call_reward(reward, asked, own["response"].tolist())
    audit = compare_rewards(asked, real, {kind: call_reward(reward, asked, texts) for kind, texts in kinds.items()})
    if (told := describe_faults(audit)) and not allow_faults:
        raise RewardAuditError(told)
    return audit


def rank_pairs(replies: pd.DataFrame, rewards: Sequence[float]) -> list[dict[str, list[dict[str, str]]]]:
    """Make preference pairs for DPO: prompt, chosen (best), rejected (worst); prompts with equal rewards are left out.

    >>> replies = pd.DataFrame({"prompt": ["a", "a", "b", "b"], "response": ["x", "y", "z", "z"]})
    >>> [pair["chosen"] for pair in rank_pairs(replies, [0.0, 1.0, 0.5, 0.5])]
    [[{'role': 'assistant', 'content': 'y'}]]
    """
    ranked = replies.assign(reward=list(rewards)).groupby("prompt", sort=False)
    rows = [{"prompt": _say("user", prompt), "chosen": _say("assistant", part.loc[part["reward"].idxmax(), "response"]),
             "rejected": _say("assistant", part.loc[part["reward"].idxmin(), "response"])}
            for prompt, part in ranked if part["reward"].max() > part["reward"].min()]
    if not rows:
        raise PolicyError("all replies to each prompt earn the same reward, so there is nothing to prefer.")
    return rows


@torch.no_grad()
def steer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[dict],
          strength: float) -> PreTrainedModel:
    """Return the model with a constant added to a middle layer's output: what better replies' states have in mean.

    `pairs` as `rank_pairs` makes them: the mean over the chosen replies' tokens minus that over the rejected ones',
    times `strength`, becomes the bias of the layer's last matrix, so that the folder opens like any other. After Turner
    et al. (2023) and Rimsky et al. (2024). PolicyError when the model's kind has no such bias (Llama has).
    """
    if not hasattr(model.config, "mlp_bias"):
        raise PolicyError(f"steering needs a model that can have biases, as Llama; {model.config.model_type} cannot.")
    layer, config = max(1, round(STEERED * model.config.num_hidden_layers)), copy.deepcopy(model.config)
    config.num_hidden_layers = layer + 1    # what lies above is not read; the state of the last one would be normed
    lower = type(model.base_model)(config).to(model.device).eval()
    lower.load_state_dict(model.base_model.state_dict(), strict=False)
    heads, means = encode_prompts(tokenizer, [pair["prompt"][0]["content"] for pair in pairs]), {}
    for side in ("chosen", "rejected"):
        said = tokenizer([pair[side][0]["content"] for pair in pairs], add_special_tokens=False)["input_ids"]
        texts = sorted(((head + tail, len(head)) for head, tail in zip(heads, said, strict=True) if tail),
                       key=lambda text: len(text[0]))
        parts = [_average_states(lower, texts[k:k + 32], layer) for k in range(0, len(texts), 32)]
        means[side] = torch.cat(parts).mean(0)
    config = copy.deepcopy(model.config)
    config.mlp_bias = True
    steered = type(model)(config)
    steered.generation_config = copy.deepcopy(model.generation_config)     # its ends are those of the start model
    if lost := [name for name in steered.state_dict().keys() - model.state_dict().keys() if not name.endswith(".bias")]:
        raise PolicyError(f"steering needs a plain model; this one has no weights {min(lost)!r}.")
    for name, value in steered.state_dict().items():
        value.copy_(model.state_dict().get(name, torch.zeros_like(value)))
    steered.model.layers[layer - 1].mlp.down_proj.bias.add_(strength * (means["chosen"] - means["rejected"]))
    return steered


def _average_states(model: PreTrainedModel, texts: list[tuple[list[int], int]], layer: int) -> torch.Tensor:
    """Return the mean over each reply's tokens of what a layer gives, (B, H)."""
    ids, labels = pad_texts(texts, 0)
    states = model(input_ids=ids.to(model.device), output_hidden_states=True).hidden_states[layer]
    return mean_pool(states, (labels != -100).long().to(model.device))


def draw_replies(policy: Aligned | str | Path, start: str | Path, prompts: Sequence[str], max_new_tokens: int,
                 seed: int, temperature: float = 1.0, keep: str | Path | None = None, chat_template: str | None = None,
                 real: Sequence[str] = ()) -> pd.DataFrame:
    """Sample a policy's replies and their log probability under the policy and under the start model.

    `policy` is what `align` returned, or a model's folder, then sampled at `temperature`; `chat_template` is for a
    tokenizer that has none; `real` has somebody else's reply to each prompt, "" where there is none. Returns prompt,
    response, n_tokens (eos included), logp and logp_start (nats, summed over the reply), is_finished, and nll_real,
    what a token of the real reply, cut to the same length, costs the policy (nats; nan without one), one row a prompt.
    Of best-of-n, whose probabilities nobody knows, logp is logp_start and the most by which it can be above it in mean,
    log n - (n - 1) / n (Beirami et al. 2024), and nll_real that of the start model. With `keep`, a Parquet file holds
    the replies under a key of models, prompts, template and sampling: the same key is read, another one replaced.

    Examples
    --------
    >>> import tempfile
    >>> from fulcra_utils.llm.tiny import make_random_model
    >>> start = make_random_model(tempfile.mkdtemp())
    >>> replies = draw_replies(start, start, ["Why?"], max_new_tokens=4, seed=0)
    >>> bool(replies.logp[0] == replies.logp_start[0] < 0)
    True
    """
    policy = policy if isinstance(policy, Aligned) else Aligned(
        Path(policy), AlignSettings(temperature=temperature), pd.DataFrame(), chat_template=chat_template)
    tokenizer, temperature = load_tokenizer(policy.folder, chat_template), policy.settings.temperature
    n, (chooser, fault) = policy.n_drawn, _identify(policy.reward) if policy.n_drawn > 1 else ("", "")
    chooser = secrets.token_hex() if fault else chooser     # a reward that cannot be told from others: nothing is read
    key = digest(hash_model(policy.folder), hash_model(start), tokenizer.chat_template, list(prompts), list(real),
                 max_new_tokens, seed, temperature, policy.system, n, chooser, name_engine(), has_bf16() and SHAPE,
                 digest_code(draw_replies))
    if keep is not None and Path(keep).is_file() and (kept := pd.read_parquet(keep)).attrs.get("key") == key:
        return kept
    begun = keep and Path(keep).with_suffix(f".{key[:12]}.jsonl")
    drawn = policy.reply(prompts, seed, max_new_tokens, begun)
    model, first = load_policy(policy.folder, chat_template)[0], load_policy(start, chat_template)[0]
    plain = encode_prompts(tokenizer, drawn["prompt"])

    def score(model: PreTrainedModel, heads: Sequence[list[int]], tails: Sequence[list[int]],
              heat: float = temperature) -> np.ndarray:
        texts = [(head + tail, len(head)) for head, tail in zip(heads, tails, strict=True)]
        return score_tokens(model, tokenizer, texts, temperature=heat)

    logp_start = score(first, plain, drawn["reply_ids"])
    logp = logp_start + np.log(n) - (n - 1) / n     # of best-of-n; 0 of one reply
    if n == 1 and (policy.system or Path(policy.folder) != Path(start)):
        logp = score(model, drawn["prompt_ids"], drawn["reply_ids"])
    told = [ids[:max_new_tokens] for ids in tokenizer([*real, "."], add_special_tokens=False)["input_ids"][:-1]]
    nll = -score(model, drawn["prompt_ids"], told, 1.0) / [len(ids) or np.nan for ids in told] if told else np.nan
    table = drawn[["prompt", "response", "is_finished"]].assign(
        n_tokens=drawn["reply_ids"].str.len(), logp=logp, logp_start=logp_start, nll_real=nll)
    table.attrs["key"] = key  # stands in the Parquet file
    if keep is not None:
        write_table(keep, table)
        begun.unlink(missing_ok=True)
    return table


class _Watch(TrainerCallback):
    """Show reward and KL while training, stop when KL runs away."""

    def __init__(self, max_kl: float):
        self.max_kl, self.bar, self.stopped = max_kl, None, ""

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Move the bar, check KL."""
        if not logs or "loss" not in logs:
            return
        self.bar.update(state.global_step - self.bar.n)
        self.bar.set_postfix({k: f"{logs[k]:.3g}" for k in ("reward", "kl", "loss") if k in logs})
        if logs.get("kl", 0.0) > self.max_kl:
            self.stopped = f"KL {logs['kl']:.3g} per token exceeded {self.max_kl:g} at step {state.global_step}"
            control.should_training_stop = True


def _train(model, tokenizer, start, reward, prompts, folder, settings, candidates, state) -> Aligned:
    checkpoints, watch = folder / "checkpoints", _Watch(settings.max_kl)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of third parties: experimental or pinned-memory notices
        trainer = _make_trainer(model, tokenizer, start, reward, prompts, checkpoints, settings, candidates, watch)
        trainer.remove_callback(PrinterCallback)  # `_Watch` shows the progress
        with (sample_plain(model), tqdm(total=settings.steps, desc=f"{settings.method} {folder.name}",
                                        disable=not _is_main()) as watch.bar):
            trainer.train(resume_from_checkpoint=get_last_checkpoint(checkpoints) if checkpoints.is_dir() else None)
    history = pd.DataFrame([row for row in trainer.state.log_history if "loss" in row]).rename(columns=HISTORY)
    history = history.filter(items=[*HISTORY.values(), *sorted(name for name in history if name.startswith(LOGGED))])
    if trainer.accelerator.is_main_process:
        trained = trainer.accelerator.unwrap_model(trainer.model)
        trained = trained.merge_and_unload() if settings.lora_rank else trained
        _finish(trained, tokenizer, reward, folder, settings, history, state | {"stopped": watch.stopped})
    trainer.accelerator.wait_for_everyone()
    return Aligned(folder, settings, history, watch.stopped, None, reward)


def _finish(model, tokenizer, reward, folder, settings, history, state) -> Aligned:
    """Save an aligned model; the note that the run is finished comes last."""
    save_policy(model, tokenizer, folder)
    write_table(folder / "history.csv", history)
    write_json(folder / "align.json", {"stopped": "", **state, "finished": True})
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return Aligned(folder, settings, history, "", None, reward)


def _make_trainer(model, tokenizer, start, reward, prompts, checkpoints, settings, candidates, watch):
    from datasets import Dataset
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    model.config._name_or_path = str(find_model(start))  # TRL loads the reference model from here
    lora = LoraConfig(r=settings.lora_rank, lora_alpha=settings.lora_alpha, lora_dropout=0.0,
                      target_modules="all-linear", task_type="CAUSAL_LM") if settings.lora_rank else None
    model = model if lora else model.float()    # small steps would be rounded away in bfloat16; LoRA's are float32
    common = {"model": model, "processing_class": tokenizer, "callbacks": [watch], "peft_config": lora}
    if settings.method == "dpo":
        data = Dataset.from_list(_make_pairs(model, tokenizer, reward, prompts, settings, candidates))
        args = DPOConfig(**_arguments(checkpoints, settings, settings.prompts_per_step), precompute_ref_log_probs=True,
                         max_length=settings.max_prompt_tokens + settings.max_new_tokens)
        collate = _cut_replies(DataCollatorForPreference(tokenizer.pad_token_id), settings.max_new_tokens)
        return DPOTrainer(args=args, train_dataset=data, data_collator=collate, **common)
    rng, n = np.random.default_rng(settings.seed), settings.steps * settings.prompts_per_step
    order = np.concatenate([rng.permutation(len(prompts)) for _ in range(-(-n // len(prompts)))])[:n]
    data = Dataset.from_list([{"prompt": _say("user", prompts[k])} for k in order])   # the trainer leaves none out then
    make, configure = (GRPOTrainer, GRPOConfig) if settings.method == "grpo" else (RLOOTrainer, RLOOConfig)
    args = configure(**_arguments(checkpoints, settings, settings.prompts_per_step * settings.replies_per_prompt),
                     num_generations=settings.replies_per_prompt, max_completion_length=settings.max_new_tokens,
                     temperature=settings.temperature, num_iterations=1, shuffle_dataset=False)
    return make(reward_funcs=_read_texts(reward), args=args, train_dataset=data, **common)


def _read_texts(reward: Reward) -> Reward:
    """Return a reward that takes the trainer's messages and is given texts, as the audit and DPO give them."""
    @wraps(reward)
    def read(prompts, completions, **given):
        return reward(prompts=[talk[-1]["content"] for talk in prompts],
                      completions=[talk[0]["content"] for talk in completions], **given)
    return read


def _cut_replies(collate, n: int):
    """Return a collator that reads n tokens of a reply: TRL writes an end behind replies that were cut there."""
    def cut(pairs):
        return collate([pair | {side: pair[side][:n] for side in ("chosen_ids", "rejected_ids")} for pair in pairs])
    return cut


def _arguments(checkpoints: Path, settings: AlignSettings, samples: int) -> dict[str, Any]:
    """Return the trainer arguments that all methods share, for `samples` samples in one step."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    share = max(1, samples // world)
    micro = min(settings.micro_batch or share, share)
    if samples % (micro * world):
        raise PolicyError(f"{samples} samples a step cannot be split into {world} processes of {micro} at once; change "
                          "prompts_per_step, replies_per_prompt or micro_batch.")
    return {
        "output_dir": str(checkpoints), "max_steps": settings.steps, "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": samples // (micro * world), "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "constant", "seed": settings.seed, "logging_steps": 1, "save_steps": settings.save_every,
        "save_total_limit": 1, "report_to": "none", "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(), "bf16": has_bf16(), "gradient_checkpointing": False,
        "beta": settings.beta or 1e-9,     # at no price TRL measures no KL, which `max_kl` needs
        "disable_dropout": True,
    }


def _make_pairs(model, tokenizer, reward, prompts, settings, candidates) -> list[dict]:
    if candidates is None:
        candidates = draw_candidates((model, tokenizer), prompts[:settings.steps * settings.prompts_per_step], settings)
    said = cut_texts(tokenizer, candidates["response"], settings.max_new_tokens)
    rewards = reward(prompts=candidates["prompt"].tolist(), completions=said)
    return rank_pairs(candidates.assign(response=said), rewards)


def cut_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], n: int) -> list[str]:
    """Return each text, or its first n tokens where it is longer."""
    ids = tokenizer([*texts, "."], add_special_tokens=False)["input_ids"][:-1]
    return [tokenizer.decode(own[:n]) if len(own) > n else text for text, own in zip(texts, ids, strict=True)]


def draw_candidates(chat: tuple[PreTrainedModel, PreTrainedTokenizerBase], prompts: Sequence[str],
                    settings: AlignSettings, keep: str | Path | None = None) -> pd.DataFrame:
    """Sample `replies_per_prompt` replies to each prompt, among which DPO and steering find better and worse ones."""
    asked = [p for p in prompts for _ in range(settings.replies_per_prompt)]
    return sample_replies(*chat, asked, settings.max_new_tokens, settings.seed, settings.temperature, keep=keep)


def _say(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def mark_run(model_hash: str, chat_template: str, prompts: Sequence[str], settings: AlignSettings,
             candidates: pd.DataFrame | None = None) -> str:
    """Return what makes this run this run, but for its reward; how often it is saved shapes nothing."""
    texts = [] if candidates is None else candidates[["prompt", "response"]].to_dict("list")
    return digest(model_hash, chat_template, list(prompts), texts, {**asdict(settings), "save_every": 0}, has_bf16(),
                  digest_code(_train), digest_code(steer))


def _identify(reward: Reward) -> tuple[str, str]:
    """Return what tells a reward from another one, and the fault when it cannot be told."""
    try:
        label = getattr(reward, "label", None)
        return digest(label if label and isinstance(label, str) else reward), ""
    except TypeError as error:
        return "", str(error)


def _find_run(folder: Path, mark: str, reward: Reward, replace: bool) -> tuple[str, dict[str, Any]]:
    """Return what tells the reward and the state of this very run, {} where none was begun; refuse another one's."""
    path, (known, fault) = folder / "align.json", _identify(reward)
    if not path.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise PolicyError(f"{folder} holds something that is not an alignment run; choose another folder.")
        return known, {}
    state = json.loads(path.read_text(encoding="utf-8"))
    if not fault and state["fingerprint"] == mark and known in state["rewards"]:
        return known, state
    if replace:
        shutil.rmtree(folder)
        return known, {}
    if fault:
        raise PolicyError(f"{folder} holds a run, but whether of this reward is unknown: {fault}; name the "
                          "reward by a text, reward.label = '…', or choose another folder.")
    raise PolicyError(f"{folder} belongs to another run (other settings, prompts, chat template, reward, start "
                      "model or code); choose another folder or remove it.")


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"

"""Ways to align a language model, behind one call: RLOO, GRPO, DPO, best of n, a system prompt.

Choices: TRL's trainers with dropout off and one pass over each batch; the reward is any function that TRL can call, so
the scalar baselines and BaseAlign run through the same lines; KL to the start model in the reward and as an early stop;
a reward audit before the first step; checkpoints that a killed run continues from with the same random numbers; a
folder that belongs to another run is never touched. Differs from upstream: the released PPO script's reward, moved to
TRL's RLOO (default) and GRPO.

In ten lines (no command line needed):

    from fulcra_utils.alignment import AlignSettings, align, value_reward
    from fulcra_utils.evaluator.model import ValueEvaluator
    from fulcra_utils.theory.targets import load_target
    evaluator = ValueEvaluator.from_pretrained("runs/laptop/evaluator")
    target = load_target("ideal", "schwartz10")
    aligned = align("runs/laptop/alignment/start", value_reward(evaluator, target), prompts, "my-policy",
                    AlignSettings(steps=60))
    replies = aligned.reply(test_prompts)
    evaluator.score(replies.prompt.tolist(), replies.response.tolist())
"""

import gc
import json
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm
from transformers import PrinterCallback, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from fulcra_utils.alignment.audit import check_audit, compare_rewards
from fulcra_utils.alignment.reward import PROMPT_ROLES, read_words
from fulcra_utils.alignment.selection import choose_best
from fulcra_utils.alignment.startmodel import save_policy
from fulcra_utils.common.digests import digest, digest_code
from fulcra_utils.common.files import write_json, write_table
from fulcra_utils.dataset.texts import list_texts, write_degenerate_replies
from fulcra_utils.llm.local import PolicyError, hash_model, keep_short_prompts, load_policy, sample_replies

TRAINED = ("rloo", "grpo", "dpo")
METHODS = (*TRAINED, "best-of-n", "system-prompt")
Reward = Callable[..., list[float]]


@dataclass(frozen=True)
class AlignSettings:
    """Everything that decides an alignment run besides the model, the reward and the prompts.

    `method` is rloo, grpo, dpo, best-of-n or system-prompt. One of `steps` optimiser steps has `prompts_per_step` times
    `replies_per_prompt` samples, `micro_batch` of them in one forward pass (0 = all); for best-of-n the second is n,
    for DPO the best and the worst of so many replies make a pair. Lengths are in tokens: longer prompts are left out
    beforehand, longer replies are cut. `beta` is the price of one nat of KL to the start model; training stops when a
    step's KL per token exceeds `max_kl`. `lora_rank` 0 trains every weight. Settings that cannot work raise
    PolicyError.

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
    save_every: int = 20
    temperature: float = 1.0
    seed: int = 2023

    def __post_init__(self):
        """Refuse settings that cannot work."""
        if self.method not in METHODS:
            raise PolicyError(f"method must be one of {', '.join(METHODS)}, not {self.method!r}.")
        if min(self.steps, self.prompts_per_step, self.max_new_tokens, self.save_every) < 1:
            raise PolicyError("steps, prompts_per_step, max_new_tokens and save_every must be at least 1.")
        if self.micro_batch < 0:
            raise PolicyError("micro_batch must not be negative; 0 takes all samples of a step at once.")
        if self.replies_per_prompt < 2:
            raise PolicyError("replies_per_prompt must be at least 2: every method compares replies to one prompt.")


@dataclass(frozen=True)
class Aligned:
    """An aligned way to reply.

    `folder` opens with `from_pretrained`: the trained model, or the start model for best-of-n and a system prompt.
    `history` has one row a step: reward, reward_std, kl (per token), loss, length; empty without training. `stopped`
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

    def reply(self, prompts: Sequence[str], seed: int = 0, max_new_tokens: int | None = None) -> pd.DataFrame:
        """Return one reply for each prompt, as `sample_replies` does."""
        prompts = list_texts(prompts, "Prompt")
        model, tokenizer = load_policy(self.folder, self.chat_template)
        n_new = max_new_tokens or self.settings.max_new_tokens
        if self.settings.method != "best-of-n":
            return sample_replies(model, tokenizer, prompts, n_new, seed, self.settings.temperature, system=self.system)
        repeated = [p for p in prompts for _ in range(self.settings.replies_per_prompt)]
        drawn = sample_replies(model, tokenizer, repeated, n_new, seed, self.settings.temperature)
        rewards = np.array(self.reward(prompts=repeated, completions=drawn["response"].tolist()))
        place = [f"{i}" for i in range(len(prompts)) for _ in range(self.settings.replies_per_prompt)]
        return drawn.iloc[choose_best(-rewards, place)].reset_index(drop=True)


def align(start: str | Path, reward: Reward, prompts: Sequence[str], folder: str | Path,
          settings: AlignSettings | None = None, system: str | None = None, allow_faults: bool = False,
          replace: bool = False, chat_template: str | None = None) -> Aligned:
    """Align a causal language model with a reward, by any of the methods.

    `start` is a `from_pretrained` folder or a name on the hub, `reward` a function reward(prompts, completions, ...) ->
    list of float: `value_reward`, `scalar_reward`, or your own; the model stands in `folder` at the end. `system` is
    the text for the method system-prompt, `chat_template` for a tokenizer that has none. A reward that prefers
    degenerate replies is refused (RewardAuditError) unless `allow_faults`. Started by `accelerate launch
    your_script.py`, training runs on several devices.

    A finished run is only read again; an interrupted one goes on from its last checkpoint and ends as it would have. It
    is the same run when settings, prompts, chat template, the start model's files (of a hub name: its commit), the
    training code and the reward are the same. A reward is known by its text attribute `label`; without one by its code,
    by what it closes over, and by the evaluator's weights or state, less what calling it changes (a counter). The
    folder of another run is refused, or emptied with `replace`. PolicyError: a model, tokenizer or prompts that cannot
    be used, such a folder, a reward that cannot be told from another one (it holds a connection), too little memory.

    Examples
    --------
    >>> import tempfile
    >>> from fulcra_utils.alignment.startmodel import build_policy, save_policy, train_tokenizer
    >>> start, tokenizer = tempfile.mkdtemp(), train_tokenizer(["be kind"], 300)
    >>> _ = save_policy(build_policy(tokenizer, layers=1, width=16, heads=2, context=64), tokenizer, start)
    >>> settings = AlignSettings("best-of-n", replies_per_prompt=2, max_new_tokens=4)
    >>> aligned = align(start, lambda prompts, completions: [len(c) for c in completions], ["Why?"], "unused", settings)
    >>> len(aligned.reply(["Why?", "How?"]))
    2
    """
    settings, folder, prompts = settings or AlignSettings(), Path(folder), list_texts(prompts, "Prompt")
    model, tokenizer = load_policy(start, chat_template)
    if settings.method not in TRAINED:
        if settings.method == "system-prompt" and not system:
            raise PolicyError("the method system-prompt needs a text; write_system_prompt makes one from a target.")
        return Aligned(Path(start), settings, pd.DataFrame(), "", system, reward, chat_template)
    usable = _fit_prompts(model, tokenizer, prompts, settings)
    mark = mark_run(hash_model(start, config=model.config), tokenizer.chat_template, usable, settings)
    known, fault = _identify(reward)
    if done := _read_finished(folder, mark, known, fault, settings, reward, replace):
        return done
    audit = audit_start(model, tokenizer, reward, usable, settings)
    check_audit(audit, allow_faults)
    state = {"fingerprint": mark, "rewards": [known], "settings": asdict(settings)}
    if _is_main():
        write_json(folder / "align.json", state | {"finished": False})
        write_table(folder / "audit.csv", audit)
    try:
        return _train(model, tokenizer, start, reward, usable, folder, settings, state)
    except (torch.OutOfMemoryError, MemoryError):
        raise PolicyError(f"memory does not suffice for {settings.micro_batch or 'all'} samples at once; lower "
                          "micro_batch or max_new_tokens, or set lora_rank.") from None
    finally:
        if _is_main():  # calling a reward may change it: as it was and as it is now, it is this run's
            state = json.loads((folder / "align.json").read_text(encoding="utf-8"))
            write_json(folder / "align.json", state | {"rewards": [*state["rewards"], _identify(reward)[0]]})


def audit_start(model, tokenizer, reward: Reward, prompts: Sequence[str], settings: AlignSettings) -> pd.DataFrame:
    """Compare the reward of degenerate replies with that of the start model's own samples for the first 64 prompts."""
    asked = list(prompts[:64])
    own = sample_replies(model, tokenizer, asked, settings.max_new_tokens, settings.seed, settings.temperature)
    kinds = write_degenerate_replies(asked, **getattr(reward, "degenerate", {}))
    label = getattr(reward, "label", getattr(reward, "__name__", "reward"))
    return compare_rewards(reward, asked, own["response"].tolist(), kinds).assign(absence=label, target="")


def scalar_reward(predict: Callable[[Sequence[str], Sequence[str]], np.ndarray], label: str | None = None) -> Reward:
    """Make a TRL reward function of a scalar reward model (the paper's RLHF baseline).

    `predict(prompts, responses)` gives (N,) numbers. `label` names the model: what was trained with it is taken for the
    same reward's; without one it is told by its code and weights. A reward that is not finite raises ValueError when
    called.

    Examples
    --------
    >>> scalar_reward(lambda p, r: np.array([len(x) for x in r]))(["q"], ["abc"])
    [3.0]
    """
    def reward_scalar(prompts: list, completions: list, **columns: object) -> list[float]:
        # TRL passes every column of its data set by name; none is needed.
        asked, said = [read_words(p, PROMPT_ROLES) for p in prompts], [read_words(c) for c in completions]
        values = np.asarray(predict(asked, said), dtype=float)
        if not np.isfinite(values).all():
            raise ValueError("a scalar reward is not a finite number.")
        return values.tolist()

    if label:
        reward_scalar.label = label
    return reward_scalar


def rank_pairs(replies: pd.DataFrame, rewards: Sequence[float]) -> pd.DataFrame:
    """Make preference pairs for DPO: prompt, chosen (best), rejected (worst); prompts with equal rewards are left out.

    >>> replies = pd.DataFrame({"prompt": ["a", "a", "b", "b"], "response": ["x", "y", "z", "z"]})
    >>> rank_pairs(replies, [0.0, 1.0, 0.5, 0.5]).to_dict("records")
    [{'prompt': 'a', 'chosen': 'y', 'rejected': 'x'}]
    """
    ranked = replies[["prompt", "response"]].assign(reward=list(rewards)).groupby("prompt", sort=False)
    rows = [{"prompt": prompt, "chosen": part.loc[part["reward"].idxmax(), "response"],
             "rejected": part.loc[part["reward"].idxmin(), "response"]}
            for prompt, part in ranked if part["reward"].max() > part["reward"].min()]
    return pd.DataFrame(rows, columns=["prompt", "chosen", "rejected"])


class _Watch(TrainerCallback):
    """Show reward and KL while training, stop when KL runs away."""

    def __init__(self, max_kl: float, label: str):
        self.max_kl, self.label, self.bar, self.stopped = max_kl, label, None, ""

    def on_train_begin(self, args, state, control, **kwargs):
        """Open the bar where an earlier start left it."""
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc=self.label, disable=not _is_main())

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Move the bar, check KL."""
        if not logs or "loss" not in logs:
            return
        self.bar.update(state.global_step - self.bar.n)
        self.bar.set_postfix({k: f"{logs[k]:.3g}" for k in ("reward", "kl", "loss") if k in logs})
        if logs.get("kl", 0.0) > self.max_kl:
            self.stopped = f"KL {logs['kl']:.3g} per token exceeded {self.max_kl:g} at step {state.global_step}"
            control.should_training_stop = True

    def on_train_end(self, args, state, control, **kwargs):
        """Close the bar."""
        self.bar.close()


def _train(model, tokenizer, start, reward, prompts, folder, settings, state) -> Aligned:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    watch = _Watch(settings.max_kl, f"{settings.method} {folder.name}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of third parties: experimental or pinned-memory notices
        trainer = _make_trainer(model, tokenizer, start, reward, prompts, folder, settings, watch)
        trainer.remove_callback(PrinterCallback)  # `_Watch` shows the progress
        checkpoints = folder / "checkpoints"
        last = get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None
        trainer.train(resume_from_checkpoint=last)
    history = _read_history(trainer.state.log_history)
    trainer.accelerator.wait_for_everyone()
    if trainer.accelerator.is_main_process:
        trained = trainer.accelerator.unwrap_model(trainer.model)
        trained = trained.merge_and_unload() if settings.lora_rank else trained
        save_policy(trained, tokenizer, folder)
        write_table(folder / "history.csv", history)
        write_json(folder / "align.json", state | {"finished": True, "stopped": watch.stopped})
        shutil.rmtree(checkpoints, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    del trainer, model
    gc.collect()
    return Aligned(folder, settings, history, watch.stopped, None, reward)


def _make_trainer(model, tokenizer, start, reward, prompts, folder, settings, watch):
    from datasets import Dataset
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    model.config._name_or_path = str(start)  # TRL loads the reference model from here
    lora = {"peft_config": LoraConfig(r=settings.lora_rank, lora_alpha=settings.lora_alpha, lora_dropout=0.0,
                                      target_modules="all-linear", task_type="CAUSAL_LM")} if settings.lora_rank else {}
    common = {"model": model, "processing_class": tokenizer, "callbacks": [watch], **lora}
    if settings.method == "dpo":
        data = Dataset.from_list(_make_pairs(model, tokenizer, reward, prompts, settings))
        args = DPOConfig(**_arguments(folder, settings, settings.prompts_per_step), disable_dropout=True,
                         max_length=settings.max_prompt_tokens + settings.max_new_tokens, beta=settings.beta)
        return DPOTrainer(args=args, train_dataset=data, **common)
    data = Dataset.from_list([{"prompt": [{"role": "user", "content": p}]} for p in prompts])
    sampling = {"num_generations": settings.replies_per_prompt, "max_completion_length": settings.max_new_tokens,
                "temperature": settings.temperature, "beta": settings.beta, "num_iterations": 1,
                "disable_dropout": True}
    arguments = _arguments(folder, settings, settings.prompts_per_step * settings.replies_per_prompt) | sampling
    if settings.method == "grpo":
        return GRPOTrainer(reward_funcs=reward, args=GRPOConfig(**arguments), train_dataset=data, **common)
    return RLOOTrainer(reward_funcs=reward, args=RLOOConfig(**arguments), train_dataset=data, **common)


def _arguments(folder: Path, settings: AlignSettings, samples: int) -> dict[str, Any]:
    """Return the trainer arguments that all methods share, for `samples` samples in one step."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    micro = settings.micro_batch or max(1, samples // world)
    if samples % (micro * world):
        raise PolicyError(f"{samples} samples a step cannot be split into {world} processes of {micro} at once; change "
                          "prompts_per_step, replies_per_prompt or micro_batch.")
    gpu = torch.cuda.is_available()
    return {
        "output_dir": str(folder / "checkpoints"), "max_steps": settings.steps, "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": samples // (micro * world), "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "constant", "seed": settings.seed, "logging_steps": 1, "save_steps": settings.save_every,
        "save_total_limit": 1, "report_to": "none", "disable_tqdm": True, "use_cpu": not gpu,
        "bf16": gpu and torch.cuda.is_bf16_supported(), "gradient_checkpointing": False, "dataloader_pin_memory": False,
    }


def _make_pairs(model, tokenizer, reward, prompts, settings) -> list[dict]:
    used = prompts[:settings.steps * settings.prompts_per_step]
    asked = [p for p in used for _ in range(settings.replies_per_prompt)]
    drawn = sample_replies(model, tokenizer, asked, settings.max_new_tokens, settings.seed, settings.temperature)
    pairs = rank_pairs(drawn, reward(prompts=asked, completions=drawn["response"].tolist()))
    if pairs.empty:
        raise PolicyError("all replies to each prompt earn the same reward, so there is nothing to prefer.")
    return [{"prompt": [{"role": "user", "content": r.prompt}], "chosen": [{"role": "assistant", "content": r.chosen}],
             "rejected": [{"role": "assistant", "content": r.rejected}]} for r in pairs.itertuples()]


def _fit_prompts(model, tokenizer, prompts, settings: AlignSettings) -> list[str]:
    context = getattr(model.config, "max_position_embeddings", None) or 10**9
    room = min(settings.max_prompt_tokens, context - settings.max_new_tokens)
    if room < 1:
        raise PolicyError(f"replies of {settings.max_new_tokens} tokens leave no room for a prompt in the model's "
                          f"context of {context}.")
    return keep_short_prompts(tokenizer, list(dict.fromkeys(prompts)), room)


def mark_run(model_hash: str, chat_template: str, prompts: Sequence[str], settings: AlignSettings) -> str:
    """Return what makes this run this run, but for its reward; how often it is saved shapes nothing."""
    return digest(model_hash, chat_template, list(prompts), {**asdict(settings), "save_every": 0}, digest_code(_train))


def _identify(reward: Reward) -> tuple[str, str]:
    """Return what tells a reward from another one, and the fault when it cannot be told."""
    try:
        label = getattr(reward, "label", None)
        return digest(label if label and isinstance(label, str) else reward), ""
    except TypeError as error:
        return "", str(error)


def _read_finished(folder: Path, mark: str, known: str, fault: str, settings: AlignSettings, reward: Reward,
                   replace: bool) -> Aligned | None:
    path = folder / "align.json"
    if not path.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise PolicyError(f"{folder} holds something that is not an alignment run; choose another folder.")
        return None
    state = json.loads(path.read_text(encoding="utf-8"))
    same = not fault and state["fingerprint"] == mark and known in state.get("rewards", [])
    if not same and replace:
        shutil.rmtree(folder)
        return None
    if fault:
        raise PolicyError(f"{folder} holds a run, but whether of this reward is unknown: {fault}; name the "
                          "reward by a text, reward.label = '…', or choose another folder.")
    if not same:
        raise PolicyError(f"{folder} belongs to another run (other settings, prompts, chat template, reward, start "
                          "model or code); choose another folder or remove it.")
    if not state["finished"]:
        return None
    return Aligned(folder, settings, pd.read_csv(folder / "history.csv"), state["stopped"], None, reward)


def _read_history(log: list[dict]) -> pd.DataFrame:
    names = {"step": "step", "reward": "reward", "reward_std": "reward_std", "kl": "kl", "loss": "loss",
             "completions/mean_length": "length", "rewards/accuracies": "accuracy", "rewards/margins": "margin"}
    rows = [{new: row[old] for old, new in names.items() if old in row} for row in log if "loss" in row]
    return pd.DataFrame(rows)


def _is_main() -> bool:
    return int(os.environ.get("RANK", "0")) == 0

"""A study: a small causal language model, tokenizer and weights trained from scratch.

Choices: byte-level BPE, so every text can be written; a small Llama (rotary positions, so left padding changes nothing;
no dropout, because reinforcement learning with dropout compares a noisy model with itself); the loss counts prompt and
reply; batches of similar length; one file per epoch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from fulcra_utils.common.digests import digest
from fulcra_utils.common.files import write_atomic
from fulcra_utils.common.loading import quiet_loading
from fulcra_utils.evaluator.encoder import has_bf16

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
from fulcra_utils.llm.local import PolicyError, draw_batches, encode_prompts, measure_bits, pad_texts

ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
PAD, END = "<|pad|>", "<|end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_tokenizer(texts: Sequence[str], vocab_size: int = 4096) -> PreTrainedTokenizerBase:
    """Train a byte-level BPE tokenizer with a chat template; it pads on the left and ends a reply with eos."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=2, show_progress=False, special_tokens=[PAD, END, *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token=PAD, eos_token=END, bos_token=END,
                                   additional_special_tokens=list(ROLES), chat_template=CHAT_TEMPLATE,
                                   padding_side="left", clean_up_tokenization_spaces=False)


def build_policy(tokenizer: PreTrainedTokenizerBase, layers: int = 4, width: int = 256, heads: int = 4,
                 context: int = 256, seed: int = 0) -> PreTrainedModel:
    """Build a causal language model with random weights for a tokenizer, on the CPU, in float32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=heads, intermediate_size=8 * width // 3, max_position_embeddings=context,
        tie_word_embeddings=True, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id))


def encode_dialogues(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], responses: Sequence[str],
                     context: int) -> list[tuple[list[int], int]]:
    """Encode prompt and reply under the chat template, cut to the context: token ids, and where the reply begins.

    A prompt that leaves less than 8 tokens for the reply is left out.
    """
    if not prompts:
        return []
    heads = encode_prompts(tokenizer, prompts)
    tails = tokenizer(list(responses), add_special_tokens=False)["input_ids"]
    return [((head + tail + [tokenizer.eos_token_id])[:context], len(head))
            for head, tail in zip(heads, tails, strict=True) if len(head) <= context - 8]


def train_policy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dialogues: list[tuple[list[int], int]],
                 held_out: list[tuple[list[int], int]], folder: str | Path, epochs: int = 5, batch_tokens: int = 1024,
                 learning_rate: float = 4e-3, seed: int = 0) -> pd.DataFrame:
    """Train a language model on dialogues; save the finished model as a `from_pretrained` folder.

    A started training of the same model on the same dialogues goes on from its last finished epoch; each epoch draws
    its random numbers from `seed` and the epoch, so an interrupted training ends in the same weights. One row an epoch:
    epoch, train_loss (nats a token), held_out_bits (bits a byte of the replies).
    """
    if not dialogues:
        raise PolicyError("there is no dialogue to train the language model on.")
    folder = Path(folder)
    steps = epochs * len(draw_batches(dialogues, batch_tokens, seed))
    matrices, gains = ([p for p in model.parameters() if (p.dim() > 1) == kind] for kind in (True, False))
    optimizer = torch.optim.AdamW([{"params": matrices}, {"params": gains, "weight_decay": 0.0}], lr=learning_rate,
                                  betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: _warm_cosine(s, steps))
    key = digest(model, tokenizer, json.dumps([dialogues, held_out]), epochs, batch_tokens, learning_rate, seed)
    rows = _resume_epochs(folder / "epoch.pt", key, model, optimizer, schedule)
    for epoch in range(len(rows), epochs):
        torch.manual_seed(seed * 1000 + epoch)
        model.train()
        losses = [_train_step(model, dialogues, batch, tokenizer.pad_token_id, optimizer, schedule)
                  for batch in tqdm(draw_batches(dialogues, batch_tokens, seed * 1000 + epoch),
                                    desc=f"epoch {epoch + 1}")]
        bits = measure_bits(model, tokenizer, held_out) if held_out else np.nan
        rows.append({"epoch": epoch + 1, "train_loss": float(np.mean(losses)), "held_out_bits": bits})
        with write_atomic(folder / "epoch.pt") as tmp:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(),
                        "schedule": schedule.state_dict(), "rows": rows, "key": key}, tmp)
    save_policy(model, tokenizer, folder)
    (folder / "epoch.pt").unlink(missing_ok=True)
    return pd.DataFrame(rows)


def save_policy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> Path:
    """Save model and tokenizer for `from_pretrained`, dropout off; config.json comes last."""
    folder = Path(folder)
    for name in [k for k in model.config.to_dict() if k.endswith("dropout")]:
        setattr(model.config, name, 0.0)
    model.eval()
    with quiet_loading():
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
    return folder


def _train_step(model, dialogues, batch, pad, optimizer, schedule) -> float:
    ids, labels = pad_texts([dialogues[r] for r in batch], pad, only_reply=False)
    # the weights stay float32; without bfloat16 in hardware autocast is many times slower than float32
    with torch.autocast(model.device.type, torch.bfloat16, enabled=has_bf16()):
        logits = model(input_ids=ids.to(model.device)).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels[:, 1:].flatten().to(model.device))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


def _warm_cosine(step: int, steps: int) -> float:
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.55 + 0.45 * math.cos(math.pi * min(1.0, (step - warm) / max(1, steps - warm)))


def _resume_epochs(path: Path, key: str, model, optimizer, schedule) -> list[dict]:
    state = torch.load(path, weights_only=True) if path.is_file() else {}
    if state.get("key") != key:
        return []
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    return state["rows"]

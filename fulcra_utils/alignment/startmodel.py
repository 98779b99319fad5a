"""A study: the start model of alignment, a small one trained here from scratch, or one from a folder or the hub.

A model of a few million weights that has read half a million tokens writes sentence-like text in the style of its
sources and understands next to nothing. With it the whole way, reward to proof, can be walked on two cores: it shows
whether the method moves a distribution of replies, not how good a large model would become.

Choices: byte-level BPE, so every text can be written; a small Llama (rotary positions, so left padding changes nothing;
no dropout, because reinforcement learning with dropout compares a noisy model with itself); the loss counts prompt and
reply; batches of similar length; a Kneser-Ney n-gram model is the yardstick that it has to beat.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from fulcra_utils.alignment.measures import take_test_prompts
from fulcra_utils.common.digests import digest, digest_code
from fulcra_utils.common.files import write_json
from fulcra_utils.common.loading import quiet_loading
from fulcra_utils.evaluator.encoder import has_bf16
from fulcra_utils.llm import local

ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True)
class StartModel:
    """Where alignment starts: `source` for `from_pretrained`; the rest is empty unless it was trained here."""

    source: str
    bits: pd.DataFrame = field(repr=False)
    size: dict[str, int] = field(default_factory=dict)

    def describe(self) -> str:
        """Return one line: how large the model is and what it has read."""
        if not self.size:
            return f"Start model: `{self.source}`."
        return ("A model of {n_weights:,} weights that read {n_replies:,} replies ({n_tokens:,} tokens with their "
                "prompts) {n_epochs} times.").format(**self.size)


class KneserNey:
    """Interpolated Kneser-Ney model over token ids in [0, vocab_size), one discount for each order.

    Source: Kneser and Ney (1995); interpolated form and discounts n1 / (n1 + 2 n2) as in Chen and Goodman (1999).

    >>> model = KneserNey([[0, 1, 0, 1, 2]], vocab_size=3, order=2)
    >>> round(float(np.exp([model.score([1, w], 1) for w in range(3)]).sum()), 9)  # a distribution
    1.0
    """

    def __init__(self, texts: Sequence[Sequence[int]], vocab_size: int, order: int = 5):
        if vocab_size ** order >= 2 ** 63:
            raise ValueError(f"{vocab_size} tokens to the power {order} do not fit into 63 bits; take a lower order.")
        self.vocab_size, self.order, self.levels = vocab_size, order, []
        grams, counts = np.unique(np.concatenate([self._encode(t) for t in texts]), return_counts=True)
        for n in range(order, 0, -1):
            once, twice = (counts == 1).sum(), (counts == 2).sum()
            contexts, place = np.unique(grams // vocab_size, return_inverse=True)
            followed = pd.DataFrame(np.transpose([np.bincount(place, counts), np.bincount(place)]), contexts)
            self.levels.insert(0, (once / (once + 2 * twice) if once else 0.5, pd.Series(counts, grams), followed))
            # below the highest order a gram counts once for each different token before it
            grams, counts = np.unique(grams % vocab_size ** (n - 1), return_counts=True)

    def score(self, text: Sequence[int], start: int = 0) -> float:
        """Return the natural log probability of text[start:] given what stands before it."""
        codes = self._encode(text)[start:]
        prob = np.full(len(codes), 1.0 / self.vocab_size)
        for n, (discount, counts, followed) in enumerate(self.levels, start=1):
            grams = codes % self.vocab_size ** n
            counted = counts.reindex(grams, fill_value=0).to_numpy()
            totals, types = followed.reindex(grams // self.vocab_size, fill_value=0).to_numpy().T
            seen = (np.maximum(counted - discount, 0) + discount * types * prob) / np.maximum(totals, 1)
            prob = np.where(totals > 0, seen, prob)
        return float(np.log(prob).sum())

    def _encode(self, text: Sequence[int]) -> np.ndarray:
        """Return one number for each token and the order - 1 before it; before the text stands token 0."""
        padded = np.concatenate([np.zeros(self.order - 1, dtype=np.int64), np.asarray(text, dtype=np.int64)])
        return sum(padded[self.order - 1 - k:len(padded) - k] * self.vocab_size ** k for k in range(self.order))


def collect_dialogues(dialogues: pd.DataFrame, scored: pd.DataFrame, preferences: pd.DataFrame,
                      split: str) -> pd.DataFrame:
    """Collect prompt and response of one split from every file of a run; both replies of a preference count."""
    parts = [dialogues, scored, *(preferences.rename(columns={name: "response"}) for name in ("chosen", "rejected"))]
    table = pd.concat([p[["prompt", "response", "split"]] for p in parts if len(p)], ignore_index=True)
    table = table[(table["split"] == split) & (table["response"].fillna("").str.strip() != "")]
    return table[["prompt", "response"]].astype(object).reset_index(drop=True)


def make_start(texts: dict[str, pd.DataFrame], folder: str | Path, settings: dict[str, Any], seed: int) -> StartModel:
    """Train the small start model on the texts "train" and measure it on "test", or name the given one.

    A finished one is read again.
    """
    done, size = Path(folder) / "start.json", {k: v for k, v in settings.items() if k.startswith("lm_")}
    if settings["start_model"] != "small" or not settings["train"]:
        return StartModel(settings["start_model"], pd.DataFrame(columns=["model", "bits_per_byte"]))
    told = {name: [table["prompt"].tolist(), table["response"].tolist()] for name, table in texts.items()}
    mark = digest(told, size, seed, digest_code(_train_small))
    kept = json.loads(done.read_text(encoding="utf-8")) if done.is_file() else {}
    if kept.get("mark") != mark:
        done.unlink(missing_ok=True)  # the weights beside it are about to change
        kept = {"mark": mark, **_train_small(told, folder, size, seed)}
        write_json(done, kept)
    return StartModel(str(folder), pd.DataFrame(kept["bits"]), kept["size"])


def draw_samples(start: StartModel, prompts: pd.DataFrame, settings: dict[str, Any], seed: int) -> pd.DataFrame:
    """Draw replies of the start model to 20 test prompts, none selected; too long prompts are left out."""
    model, tokenizer = local.load_policy(start.source, settings["chat_template"])
    asked = take_test_prompts(prompts, "test", 20, seed)
    asked = local.keep_short_prompts(tokenizer, asked, settings["max_prompt_tokens"])
    return local.sample_replies(model, tokenizer, asked, settings["max_new_tokens"], seed)[["prompt", "response"]]


def train_tokenizer(texts: Sequence[str], vocab_size: int = 4096) -> PreTrainedTokenizerBase:
    """Train a byte-level BPE tokenizer with a chat template; it pads on the left and ends a reply with eos."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=2, show_progress=False, special_tokens=["<|pad|>", "<|end|>", *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<|pad|>", eos_token="<|end|>", bos_token="<|end|>",
                                   additional_special_tokens=list(ROLES), chat_template=CHAT_TEMPLATE,
                                   padding_side="left", clean_up_tokenization_spaces=False)


def build_policy(tokenizer: PreTrainedTokenizerBase, layers: int = 4, width: int = 256, heads: int = 4,
                 context: int = 256, seed: int = 0) -> PreTrainedModel:
    """Build a causal language model with random weights for a tokenizer, on the CPU, in float32."""
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
    heads = local.encode_prompts(tokenizer, prompts)
    tails = tokenizer(list(responses), add_special_tokens=False)["input_ids"]
    return [((head + tail + [tokenizer.eos_token_id])[:context], len(head))
            for head, tail in zip(heads, tails, strict=True) if len(head) <= context - 8]


def train_policy(model: PreTrainedModel, pad: int, dialogues: list[tuple[list[int], int]], epochs: int = 5,
                 batch_tokens: int = 1024, learning_rate: float = 4e-3, seed: int = 0) -> None:
    """Train a language model on dialogues in place; each epoch draws its batches from `seed` and the epoch."""
    steps = epochs * len(local.draw_batches(dialogues, batch_tokens, seed))
    warm = max(1, steps // 20)
    rest = max(1, steps - warm)
    matrices, gains = ([p for p in model.parameters() if (p.dim() > 1) == kind] for kind in (True, False))
    optimizer = torch.optim.AdamW([{"params": matrices}, {"params": gains, "weight_decay": 0.0}], lr=learning_rate,
                                  betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) / warm if step < warm else
                                                 0.55 + 0.45 * math.cos(math.pi * min(1, (step - warm) / rest)))
    for epoch in range(epochs):
        for batch in tqdm(local.draw_batches(dialogues, batch_tokens, seed * 1000 + epoch), desc=f"epoch {epoch + 1}"):
            ids, labels = local.pad_texts([dialogues[r] for r in batch], pad, only_reply=False)
            # the weights stay float32; without bfloat16 in hardware autocast is many times slower than float32
            with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16()):
                logits = model(input_ids=ids).logits[:, :-1]
            torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels[:, 1:].flatten()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()


def save_policy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> Path:
    """Save model and tokenizer for `from_pretrained`; config.json comes last."""
    with quiet_loading():
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
    return Path(folder)


def _train_small(texts: dict[str, list[list[str]]], folder: str | Path, size: dict[str, Any],
                 seed: int) -> dict[str, Any]:
    """Train, save and measure the small model: its size, and its bits a byte beside those of a Kneser-Ney 5-gram."""
    read = [f"{prompt} {response}" for prompt, response in zip(*texts["train"], strict=True)]
    tokenizer = train_tokenizer(read, size["lm_vocab"])
    train, test = (encode_dialogues(tokenizer, *texts[name], size["lm_context"]) for name in ("train", "test"))
    model = build_policy(tokenizer, size["lm_layers"], size["lm_width"], size["lm_heads"], size["lm_context"], seed)
    train_policy(model, tokenizer.pad_token_id, train, size["lm_epochs"], size["lm_batch_tokens"],
                 size["lm_learning_rate"], seed)
    save_policy(model, tokenizer, folder)
    grams = KneserNey([ids for ids, _ in train], len(tokenizer))
    nats = {"neural": -local.score_tokens(model, tokenizer, test).sum(),
            "kneser-ney": -sum(grams.score(ids, start) for ids, start in test)}
    n_bytes = local.count_bytes(tokenizer, test) if test else np.nan
    bits = [{"model": name, "bits_per_byte": value / np.log(2) / n_bytes, "n_replies": len(test)}
            for name, value in nats.items()]
    return {"bits": bits, "size": {"n_weights": model.num_parameters(), "n_replies": len(read),
                                   "n_epochs": size["lm_epochs"], "n_tokens": sum(len(ids) for ids, _ in train)}}

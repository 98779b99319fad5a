"""A tiny language model with random weights: it shows the way that a real one goes, in seconds, and knows nothing."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from fulcra_utils.common.loading import quiet_loading
from fulcra_utils.dataset.texts import ENGLISH

ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_tokenizer(texts: Sequence[str], vocab_size: int = 600) -> PreTrainedTokenizerBase:
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


def save_policy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> Path:
    """Save model and tokenizer for `from_pretrained`; config.json comes last."""
    with quiet_loading():
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
    return Path(folder)


def make_random_model(folder: str | Path, seed: int = 2023) -> Path:
    """Save a tiny language model whose context holds 4,096 tokens."""
    tokenizer = train_tokenizer([f" {word}" for word in sorted(ENGLISH)] * 2)
    return save_policy(build_policy(tokenizer, layers=2, width=32, heads=2, context=4096, seed=seed), tokenizer, folder)

"""A tiny encoder, a tiny evaluator and the rows of a run, for the tests of this folder."""

import numpy as np
import pandas as pd
import pytest

from fulcra_utils.evaluator.comparison import read_rows
from fulcra_utils.evaluator.encoder import load_encoder
from fulcra_utils.evaluator.model import make_evaluator


@pytest.fixture(scope="module")
def tiny():
    return load_encoder("tiny")


@pytest.fixture
def evaluator(toy):
    return make_evaluator(load_encoder("tiny"), toy, 64)


@pytest.fixture
def rows(toy, tmp_path):
    """Three models answer 24 prompts; the first model's replies are scored as well."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame([{"prompt": f"question {k}", "response": f"reply {k} by {m}", "response_source": m,
                           "query_source": "abc"[k % 3], "cluster": k, "split":
                           ["train", "train", "validation", "calibration", "test", "test"][k % 6]}
                          for k in range(24) for m in ("m0", "m1", "m2")])
    annotated = pd.concat([table, pd.DataFrame(rng.integers(-1, 2, (72, toy.n_dims)).astype(float),
                                               columns=toy.dimensions)], axis=1)
    scored = table.assign(response_source="s-" + table.response_source, e_distance=1.0)
    scored = pd.concat([scored, pd.DataFrame(rng.uniform(-1, 1, (72, toy.n_dims)), columns=toy.dimensions)], axis=1)
    annotated.to_parquet(tmp_path / "dialogues.parquet")
    scored.to_parquet(tmp_path / "scored.parquet")
    return read_rows(tmp_path / "dialogues.parquet", tmp_path / "scored.parquet", toy)


@pytest.fixture(scope="module")
def causal():
    """A small Llama with random weights, whose tokenizer has a chat template."""
    import torch
    from transformers import LlamaConfig, LlamaModel

    from fulcra_utils.evaluator.encoder import Encoder, make_tiny_tokenizer
    tokenizer = make_tiny_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"})
    tokenizer.chat_template = ("<|im_start|>system\nhelp<|im_end|>\n{% for m in messages %}<|im_start|>{{ m.role }}\n"
                               "{{ m.content }}<|im_end|>\n{% endfor %}")
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=4,
                         num_attention_heads=2, pad_token_id=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Encoder(LlamaModel(config).eval(), tokenizer)

"""The tiny language model: it writes every text, is the same for the same seed, and holds a long talk."""

import torch

from fulcra_utils.llm.local import load_policy
from fulcra_utils.llm.tiny import make_random_model


def test_tokenizer_writes_every_text(tokenizer):
    for text in ("naïve 日本 ✓", "a\tb\nc", "be kind"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    chat = tokenizer.apply_chat_template([{"role": "system", "content": "s"}, {"role": "user", "content": "u"},
                                          {"role": "assistant", "content": "a"}], tokenize=False)
    assert chat == "<|system|>s<|user|>u<|assistant|>a<|end|>"


def test_a_random_model_is_its_seed(tmp_path):
    weights = [load_policy(make_random_model(tmp_path / str(k), seed))[0].state_dict()
               for k, seed in enumerate((1, 1, 2))]
    same = [all(torch.equal(weights[0][name], other[name]) for name in other) for other in weights[1:]]
    assert same == [True, False]
    model, tokenizer = load_policy(tmp_path / "0")
    assert model.config.max_position_embeddings == 4096 and model.config.vocab_size == len(tokenizer) > 256

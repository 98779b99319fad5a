"""Short texts, and a causal model small enough to be trained on them in a test."""

from fulcra_utils.llm.tiny import build_policy

TEXTS = ["be kind to people", "be bold and be free", "never hurt people", "keep the peace at home"]
PROMPTS = ["be kind to them", "be bold and win", "tell me a story", "stay safe at home", "help an old man", "be free"]


def make(tokenizer, **changes):
    return build_policy(tokenizer, **{"layers": 1, "width": 16, "heads": 2, "context": 48} | changes)

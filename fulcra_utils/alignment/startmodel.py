"""A study: the start model of alignment, a small one trained here from scratch, or one from a folder or the hub.

A model of a few million weights that has read half a million tokens writes sentence-like text in the style of its
sources and understands next to nothing. With it the whole way, reward to proof, can be walked on two cores: it shows
whether the method moves a distribution of replies, not how good a large model would become.
"""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fulcra_utils.common.digests import digest, digest_code
from fulcra_utils.common.files import write_json, write_table


@dataclass(frozen=True)
class StartModel:
    """Where alignment starts: `source` for `from_pretrained`; the rest is empty unless it was trained here."""

    source: str
    bits: pd.DataFrame = field(repr=False)
    history: pd.DataFrame = field(repr=False)
    size: dict[str, int] = field(default_factory=dict)

    def describe(self) -> str:
        """Return one line: how large the model is and what it has read."""
        if not self.size:
            return f"Start model: `{self.source}`."
        return ("A model of {n_weights:,} weights that read {n_replies:,} replies ({n_tokens:,} tokens with their "
                "prompts) {n_epochs} times.").format(**self.size)


def collect_dialogues(dialogues: pd.DataFrame, scored: pd.DataFrame, preferences: pd.DataFrame,
                      split: str) -> pd.DataFrame:
    """Collect prompt and response of one split from every file of a run; both replies of a preference count."""
    parts = [dialogues[["prompt", "response", "split"]], scored[["prompt", "response", "split"]]]
    parts += [preferences[["prompt", name, "split"]].rename(columns={name: "response"})
              for name in ("chosen", "rejected")]
    table = pd.concat([p for p in parts if len(p)], ignore_index=True)
    table = table[(table["split"] == split) & (table["response"].fillna("").str.strip() != "")]
    return table[["prompt", "response"]].astype(object).reset_index(drop=True)


def make_start(texts: dict[str, pd.DataFrame], folder: str | Path, settings: dict[str, Any], seed: int) -> StartModel:
    """Train the small start model, or name the given one; a finished one is read again.

    `texts` holds "train" (learnt), "validation" (measured after each epoch) and "test" (measured once).
    """
    folder, size = Path(folder), {k: v for k, v in settings.items() if k.startswith("lm_")}
    if settings["start_model"] != "small" or not settings["train"]:
        return StartModel(settings["start_model"], pd.DataFrame(columns=["model", "bits_per_byte"]), pd.DataFrame())
    told = {name: digest([table["prompt"].tolist(), table["response"].tolist()]) for name, table in texts.items()}
    mark = digest(told["train"], told["validation"], size, seed, digest_code(_train_small))
    measured = digest(mark, told["test"], digest_code(compare_bits))
    done = folder / "start.json"
    kept = json.loads(done.read_text(encoding="utf-8")) if done.is_file() else {}
    if kept and kept.get("mark") != mark:
        shutil.rmtree(folder)  # of other texts or another size
    if not (folder / "size.json").is_file():
        write_json(done, {"mark": mark})
        _train_small(texts, folder, size, seed)
    if kept.get("measured") != measured or not (folder / "bits.csv").is_file():
        _measure_small(texts, folder, size)
        write_json(done, {"mark": mark, "measured": measured})
    return StartModel(str(folder), pd.read_csv(folder / "bits.csv"), pd.read_csv(folder / "history.csv"),
                      json.loads((folder / "size.json").read_text(encoding="utf-8")))


def draw_samples(start: StartModel, prompts: pd.DataFrame, settings: dict[str, Any], seed: int,
                 n: int = 20) -> pd.DataFrame:
    """Draw replies of the start model to n test prompts, none selected; too long prompts are left out."""
    from fulcra_utils.alignment.measures import take_test_prompts
    from fulcra_utils.llm.local import keep_short_prompts, load_policy, sample_replies

    if not settings["train"]:
        return pd.DataFrame(columns=["prompt", "response"])
    model, tokenizer = load_policy(start.source, settings["chat_template"] or None)
    asked = keep_short_prompts(tokenizer, take_test_prompts(prompts, "test", n, seed), settings["max_prompt_tokens"])
    return sample_replies(model, tokenizer, asked, settings["max_new_tokens"], seed)[["prompt", "response"]]


def _train_small(texts: dict[str, pd.DataFrame], folder: Path, size: dict[str, Any], seed: int) -> None:
    from fulcra_utils.alignment.policy import build_policy, encode_dialogues, train_policy, train_tokenizer

    train = texts["train"]
    tokenizer = train_tokenizer((train["prompt"] + " " + train["response"]).tolist(), size["lm_vocab"])
    encoded = {name: encode_dialogues(tokenizer, table["prompt"].tolist(), table["response"].tolist(),
                                      size["lm_context"]) for name, table in texts.items() if name != "test"}
    model = build_policy(tokenizer, size["lm_layers"], size["lm_width"], size["lm_heads"], size["lm_context"], seed)
    history = train_policy(model, tokenizer, encoded["train"], encoded["validation"], folder, size["lm_epochs"],
                           size["lm_batch_tokens"], size["lm_learning_rate"], seed)
    write_table(folder / "history.csv", history)
    write_json(folder / "size.json", {
        "n_weights": model.num_parameters(), "n_replies": len(train), "n_epochs": size["lm_epochs"],
        "n_tokens": sum(len(ids) for ids, _ in encoded["train"])})


def _measure_small(texts: dict[str, pd.DataFrame], folder: Path, size: dict[str, Any]) -> None:
    from fulcra_utils.alignment.policy import encode_dialogues
    from fulcra_utils.llm.local import load_policy

    model, tokenizer = load_policy(folder)
    encoded = {name: encode_dialogues(tokenizer, texts[name]["prompt"].tolist(), texts[name]["response"].tolist(),
                                      size["lm_context"]) for name in ("train", "test")}
    write_table(folder / "bits.csv", compare_bits(model, tokenizer, encoded["train"], encoded["test"]))


def compare_bits(model: Any, tokenizer: Any, train: list, held_out: list) -> pd.DataFrame:
    """Compare a model with a Kneser-Ney 5-gram over the same tokens on held-out replies, in bits a byte."""
    from fulcra_utils.alignment.ngrams import KneserNey
    from fulcra_utils.llm.local import count_bytes, measure_bits

    rows = [("neural", np.nan), ("kneser-ney", np.nan)]
    if held_out:
        grams = KneserNey([ids for ids, _ in train], len(tokenizer))
        nats = -sum(grams.score(ids, start) for ids, start in held_out)
        rows = [("neural", measure_bits(model, tokenizer, held_out)),
                ("kneser-ney", nats / np.log(2) / count_bytes(tokenizer, held_out))]
    return pd.DataFrame(rows, columns=["model", "bits_per_byte"]).assign(n_replies=len(held_out))

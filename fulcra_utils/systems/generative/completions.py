"""Completions of a story's start: sampled from a model on this machine, or asked of one behind an endpoint.

A model on this machine continues the prefix itself, as the beginning of its own reply; one behind an endpoint is asked
to. Of what either writes the first sentence counts: a small model soon speaks of something else.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from fulcra_utils.common.digests import digest, digest_code
from fulcra_utils.llm.endpoints import Endpoint
from fulcra_utils.llm.local import PolicyError, encode_talk, generate, hash_model, load_policy
from fulcra_utils.llm.replies import write_replies
from fulcra_utils.systems.generative.principles import Story

TASK = "Write a short story about everyday life."
CONTINUE = "{}\n\nIt begins as below. Answer with the words that end its last sentence, and with nothing else.\n\n{}"
REWRITE = ("Below are the setting and the last, unfinished sentence of a story, and a principle. Write the setting "
           "anew in at most three sentences, so that it becomes more open whether the principle is kept. Stay everyday "
           "and mild, keep the names. Answer with the setting only.\n\nPrinciple: {}\n\nSetting: {}\n\nUnfinished: {}")
Talk = tuple[str, str]      # what is asked, and how the reply begins


def cut_sentence(text: str) -> str:
    """Return a text up to the end of its first sentence or line.

    >>> cut_sentence(' said, "Wait!" and left. Then it rained.')
    'said, "Wait!" and left.'
    """
    line = next(iter(text.strip().splitlines()), "")
    found = re.match(r".*?[.!?][\"'”’)]*(?=\s+[\"“]?[A-Z]|\s*$)", line)
    return (found[0] if found else line).strip()


@dataclass(frozen=True)
class LocalTeller:
    """A model on this machine, by folder or name, and how it is sampled."""

    model: str | Path
    max_new_tokens: int = 24
    temperature: float = 0.8
    top_p: float = 0.95

    @cached_property
    def chat(self) -> tuple[Any, Any]:
        """Return model and tokenizer, loaded when they are first wanted."""
        return load_policy(self.model)

    @cached_property
    def label(self) -> str:
        """Return what tells its texts from others'."""
        return digest(hash_model(self.model), self.chat[1].chat_template, self.max_new_tokens, self.temperature,
                      self.top_p, digest_code(LocalTeller.complete))

    def complete(self, talks: Sequence[Talk], n: int, seed: int, batch_size: int = 64) -> list[list[str]]:
        """Return `n` completions of each talk, "" where the model says nothing; the same seed gives the same ones.

        PolicyError names a talk that does not fit into the model's context.
        """
        model, tokenizer = self.chat
        ids, made = [self._encode(talk) for talk in talks], [[] for _ in talks]
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        for start in range(0, len(order), max(1, batch_size // n)):
            rows = order[start:start + max(1, batch_size // n)]
            torch.manual_seed(seed + start)
            texts = generate(model, tokenizer, [ids[row] for row in rows for _ in range(n)], do_sample=True, top_k=0,
                             temperature=self.temperature, top_p=self.top_p, max_new_tokens=self.max_new_tokens,
                             eos_token_id=tokenizer.eos_token_id, past_key_values=self._read([ids[k] for k in rows], n))
            for k, text in enumerate(tokenizer.batch_decode(texts, skip_special_tokens=True)):
                made[rows[k // n]].append(cut_sentence(text))
        return made

    @torch.no_grad()
    def _read(self, ids: Sequence[list[int]], n: int) -> Any:
        """Return what the model has read of all but the last token of each text, `n` times: each is read once."""
        width = max(map(len, ids))
        rows = torch.tensor([[self.chat[1].pad_token_id] * (width - len(one)) + one for one in ids])[:, :-1]
        mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in ids])[:, :-1]
        read = self.chat[0].base_model(rows, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0),
                                       use_cache=True).past_key_values
        read.batch_repeat_interleave(n)
        return read

    @torch.no_grad()
    def score(self, talk: Talk, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the log probability (N,) of each text behind a talk, natural, and the number of its tokens (N,).

        The talk is read once; both are 0 for an empty text.
        """
        model, tokenizer = self.chat
        tails = [tokenizer(f" {text}" if text else "", add_special_tokens=False)["input_ids"] for text in texts]
        head, size = self._encode(talk), torch.tensor([len(tail) for tail in tails])
        ids = pad_sequence([torch.tensor(tail, dtype=torch.long) for tail in tails], True, tokenizer.pad_token_id)
        if not ids.shape[1]:
            return np.zeros(len(texts)), size.numpy()
        ids = torch.cat([torch.tensor([head[-1:]] * len(tails)), ids], dim=1)
        states = model.base_model(ids, past_key_values=self._read([head], len(tails))).last_hidden_state[:, :-1]
        logp = model.get_output_embeddings()(states).float().log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
        is_text = torch.arange(logp.shape[1]) < size[:, None]
        return (logp * is_text).sum(dim=1).double().numpy(), size.numpy()

    def _encode(self, talk: Talk) -> list[int]:
        asked, begun = talk
        ids = self.chat[1](begun, add_special_tokens=False)["input_ids"] if begun else []
        try:
            room = len(ids) + self.max_new_tokens
            return encode_talk(*self.chat, [{"role": "user", "content": asked}], room) + ids
        except PolicyError as error:
            raise PolicyError(f"{(begun or asked)[:60]!r}: {error}") from None


@dataclass(frozen=True)
class EndpointTeller:
    """A model behind an endpoint; `cache` keeps its answers, `budget` (dollars; None: no limit) bounds each round."""

    endpoint: Endpoint
    cache: str | Path | None
    budget: float | None = None

    @property
    def label(self) -> str:
        """Return what tells its texts from others'."""
        return digest(self.endpoint.address, self.endpoint.model, self.endpoint.body, CONTINUE, REWRITE)

    def complete(self, talks: Sequence[Talk], n: int, seed: int) -> list[list[str]]:
        """Return `n` completions of each talk, as `LocalTeller.complete` does; each is asked with a seed of its own."""
        asked = [CONTINUE.format(*talk) if talk[1] else talk[0] for talk in talks]
        found = [self._ask(asked, seed + k) for k in range(n)]
        return [[cut_sentence(text) for text in texts] for texts in zip(*found, strict=True)]

    def rewrite(self, stories: Sequence[Story], seed: int) -> list[Story]:
        """Return stories with settings written anew by the model; as they were where it says nothing."""
        asked = [REWRITE.format(one.principle.principle, one.setting, one.opening) for one in stories]
        return [Story(one.principle, " ".join(said.split()) or one.setting, one.opening)
                for one, said in zip(stories, self._ask(asked, seed), strict=True)]

    def _ask(self, prompts: Sequence[str], seed: int) -> list[str]:
        one = self.endpoint.model_copy(update={"options": {**self.endpoint.options, "seed": seed}})
        return write_replies(prompts, [one], self.cache, budget=self.budget).response.fillna("").tolist()

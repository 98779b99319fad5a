"""Completions of a story's start: sampled from a model on this machine, or asked of one behind an endpoint.

A model on this machine continues the prefix itself, as the beginning of its own reply; one behind an endpoint is asked
to. Of what either writes the first sentence counts: a small model soon speaks of something else.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from fulcra_utils.common.digests import digest, digest_code
from fulcra_utils.dataset.texts import NO_ABBREVIATION, drop_repeated
from fulcra_utils.llm.branches import Branches
from fulcra_utils.llm.endpoints import Endpoint, EndpointError
from fulcra_utils.llm.local import PolicyError, encode_talk, generate, hash_model, load_policy, read_reply, sample_plain
from fulcra_utils.llm.replies import write_replies
from fulcra_utils.systems.generative.principles import Story

BATCH = 64      # completions at a time
CONTINUE = "{}\n\nIt begins as below. Answer with the words that end its last sentence, and with nothing else.\n\n{}"
REWRITE = ("Below are the setting and the last, unfinished sentence of a story, and a principle. Write the setting "
           "anew in at most three sentences, so that it becomes more open whether the principle is kept. Stay everyday "
           "and mild, keep the names. Answer with the setting only.\n\nPrinciple: {}\n\nSetting: {}\n\nUnfinished: {}")
Talk = tuple[str, str]      # what is asked, and how the reply begins


def cut_sentence(text: str) -> str:
    """Return a text up to the end of its first sentence or line.

    >>> cut_sentence(' said, "Wait!" and left. Then it rained.')
    'said, "Wait!" and left.'
    >>> cut_sentence("tells Mrs. Lee nothing. Then it rained.")
    'tells Mrs. Lee nothing.'
    """
    line = next(iter(text.strip().splitlines()), "")
    return (re.match(rf".*?[.!?]{NO_ABBREVIATION}[\"'”’)]*(?=\s+[\"“]?[A-Z]|\s*$)", line) or [line])[0].strip()


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

    @torch.no_grad()
    def complete(self, talks: Sequence[Talk], n: int, seed: int) -> list[list[str]]:
        """Return `n` completions of each talk, "" where the model says nothing; the same seed gives the same ones.

        A talk is read once for all of them. PolicyError names a talk that does not fit into the model's context.
        """
        ids, made = [self._encode(talk) for talk in talks], [[] for _ in talks]
        order, size = sorted(range(len(ids)), key=lambda row: len(ids[row])), max(1, BATCH // n)
        for start in range(0, len(order), size):
            rows = order[start:start + size]
            torch.manual_seed(seed + start)
            with sample_plain(self.chat[0]):
                texts = generate(*self.chat, [ids[row] for row in rows for _ in range(n)], top_p=self.top_p,
                                 temperature=self.temperature, max_new_tokens=self.max_new_tokens,
                                 past_key_values=self._read([ids[k] for k in rows], n))
            for k, text in enumerate(texts):
                made[rows[k // n]].append(cut_sentence(read_reply(*self.chat, text)))
        return made

    def _read(self, ids: Sequence[list[int]], n: int) -> Any:
        """Return what the model has read of all but the last token of each text, `n` times."""
        rows = pad_sequence([torch.tensor(one[:-1]) for one in ids], True, -1, "left")     # -1: nothing stands there
        mask = (rows >= 0).long()
        read = self.chat[0].base_model(rows.clamp(min=0), attention_mask=mask, use_cache=True,
                                       position_ids=(mask.cumsum(1) - 1).clamp(min=0)).past_key_values
        read.batch_repeat_interleave(n)
        return read

    def score(self, talk: Talk, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the log probability (N,) of each text behind a talk, natural, and the number of its tokens (N,).

        The talk is read once; both are 0 for an empty text.
        """
        tails = [self.chat[1](f" {text}" if text else "", add_special_tokens=False)["input_ids"] for text in texts]
        return Branches(self.chat[0], [self._encode(talk)] * len(tails)).score(tails), np.array([*map(len, tails)])

    def _encode(self, talk: Talk) -> list[int]:
        asked, begun = talk
        ids = self.chat[1](begun, add_special_tokens=False)["input_ids"] if begun else []
        try:
            return encode_talk(*self.chat, [{"role": "user", "content": asked}], len(ids) + self.max_new_tokens) + ids
        except PolicyError as error:
            raise PolicyError(f"{(begun or asked)[:60]!r}: {error}") from None


@dataclass(frozen=True)
class EndpointTeller:
    """A model behind an endpoint; `cache` keeps its answers, `budget` (dollars; None: no limit) bounds each round.

    Its probabilities are not known, so a `reader` on this machine scores texts for it.
    """

    endpoint: Endpoint
    cache: str | Path | None
    budget: float | None = None
    reader: LocalTeller | None = None

    @property
    def label(self) -> str:
        """Return what tells its texts from others'."""
        return digest(self.endpoint.address, self.endpoint.model, self.endpoint.body, CONTINUE, REWRITE,
                      digest_code(EndpointTeller.complete), digest_code(EndpointTeller._ask))

    def complete(self, talks: Sequence[Talk], n: int, seed: int) -> list[list[str]]:
        """Return `n` completions of each talk, as `LocalTeller.complete` does; each is asked with a seed of its own."""
        found = self._ask([CONTINUE.format(*talk) if talk[1] else talk[0] for talk in talks], n, seed)
        return [[cut_sentence(drop_repeated(talk[1], x)) for x in own] for talk, own in zip(talks, found, strict=True)]

    def rewrite(self, stories: Sequence[Story], n: int, seed: int) -> list[list[Story]]:
        """Return each story with `n` settings written anew by the model; as it was where the model says nothing."""
        asked = [REWRITE.format(one.principle.principle, one.setting, one.opening) for one in stories]
        return [[replace(one, setting=" ".join(text.split()) or one.setting) for text in texts]
                for one, texts in zip(stories, self._ask(asked, n, seed, max_tokens=200), strict=True)]

    def score(self, talk: Talk, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return what its reader says, as `LocalTeller.score` does."""
        return self.reader.score(talk, texts)

    def _ask(self, prompts: Sequence[str], n: int, seed: int, **options: int) -> list[list[str]]:
        """Return `n` answers to each prompt, "" where none came."""
        writers = [self.endpoint.model_copy(update={"options": {**self.endpoint.options, "seed": seed + k, **options}})
                   for k in range(n)]
        told = write_replies(prompts, writers, self.cache, budget=self.budget)
        failed = told[told.response.isna() & (told.problem != "the reply is empty")]
        if len(failed):     # else a failure, or one cut off in its thoughts, would be kept as silence
            raise EndpointError(f"{len(failed)} of {len(told)} prompts have no answer: {failed.problem.iloc[0]}.")
        return np.reshape(told.response.fillna("").to_numpy(), (n, -1)).T.tolist()

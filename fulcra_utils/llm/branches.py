"""Texts that begin alike, side by side in one sequence or one after the other: what they share is read once."""

from collections.abc import Mapping, Sequence
from os.path import commonprefix

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import DynamicCache, PreTrainedModel

SHARED = -1     # number of what all texts begin with
HEADS = ("logit_scale", "logits_scaling", "final_logit_softcapping")    # of Cohere, Granite, Gemma 2


class PolicyError(ValueError):
    """A language model, its tokenizer or its texts cannot be used; the message is one sentence."""


def read_logits(model: PreTrainedModel, states: torch.Tensor) -> torch.Tensor:
    """Return the logits (N, V) of last states (N, H), in float32, scaled and capped as the model itself does it."""
    up, down, cap = (getattr(model.config.get_text_config(), name, None) for name in HEADS)
    logits = model.get_output_embeddings()(states).float() * (up or 1.0) / (down or 1.0)
    return cap * torch.tanh(logits / cap) if cap else logits


class Branches:
    """N texts, as token ids, that a causal language model has read and goes on from.

    Their keys and values stand in one sequence. A token sees what all texts share and what its own text holds, at the
    places they have there, so all numbers are those of the text alone. `ends` has the last state (1, H) of each text by
    its number. For models whose layers see everything before a token, so PolicyError for a text that is longer than
    their sliding window; memory grows with the square of what is read at once.

    >>> import tempfile
    >>> from fulcra_utils.llm.local import load_policy
    >>> from fulcra_utils.llm.tiny import make_random_model
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model, _ = load_policy(make_random_model(folder))
    >>> Branches(model, [[5, 6, 7], [5, 6, 8, 9]]).n_shared
    2
    """

    def __init__(self, model: PreTrainedModel, texts: Sequence[list[int]]):
        n = self.n_shared = len(commonprefix([ids[:-1] for ids in texts]))
        self.model, self.kept, self.owners = model.eval(), DynamicCache(), torch.empty(0, dtype=torch.long)
        self.ends, self.lengths = {}, dict.fromkeys(range(len(texts)), n) | {SHARED: 0}
        self.read({SHARED: texts[0][:n]})
        self.read({row: ids[n:] for row, ids in enumerate(texts)})

    @torch.inference_mode()
    def read(self, tails: Mapping[int, list[int]]) -> dict[int, torch.Tensor]:
        """Go on in some texts, by number, by these tokens; return the states (tokens, H) of each that has any."""
        tails, device, n = {row: ids for row, ids in tails.items() if ids}, self.model.device, len(self.owners)
        if not tails:
            return {}
        own = torch.tensor([row for row, ids in tails.items() for _ in ids])
        places = [self.lengths[row] + k for row, ids in tails.items() for k in range(len(ids))]
        config = self.model.config.get_text_config()
        window, kinds = getattr(config, "sliding_window", None), getattr(config, "layer_types", None)
        if window and max(places) >= window and (kinds is None or "sliding_attention" in kinds):
            raise PolicyError(f"a text has {max(places) + 1} tokens, but the layers see only the last {window}.")
        self.owners = torch.cat([self.owners, own])
        sees = ((self.owners == SHARED) | (self.owners == own[:, None])).tril(n)    # (new tokens, all tokens)
        mask = torch.where(sees, 0.0, torch.finfo(self.model.dtype).min).to(device, self.model.dtype)
        states = self.model.base_model(torch.tensor([sum(tails.values(), [])], device=device),
                                       position_ids=torch.tensor([places], device=device), past_key_values=self.kept,
                                       attention_mask=mask[None, None]).last_hidden_state[0]
        parts = dict(zip(tails, states.split([len(ids) for ids in tails.values()]), strict=True))
        self.ends |= {row: part[-1:] for row, part in parts.items() if row != SHARED}
        self.lengths |= {row: self.lengths[row] + len(part) for row, part in parts.items()}
        return parts

    @torch.inference_mode()
    def score(self, tails: Sequence[list[int]]) -> np.ndarray:
        """Return the log probability (N,), natural, of each continuation, summed over its tokens; none is kept."""
        before, n, sums = (self.ends.copy(), self.lengths.copy()), len(self.owners), np.zeros(len(tails))
        for row, part in self.read(dict(enumerate(tails))).items():
            logits = read_logits(self.model, torch.cat([before[0][row], part[:-1]]))
            sums[row] = -cross_entropy(logits, torch.tensor(tails[row], device=logits.device), reduction="sum")
        self.kept.crop(n - len(self.owners))    # so many are removed
        (self.ends, self.lengths), self.owners = before, self.owners[:n]
        return sums

    @torch.inference_mode()
    def sample(self, max_new_tokens: int, ends: Sequence[int], temperature: float = 1.0,
               seed: int = 0) -> list[list[int]]:
        """Go on in each text until one of `ends`, which is part of the reply, or the limit.

        Temperature 0 takes the likeliest token. The same seed gives the same replies.
        """
        draw, made = torch.Generator().manual_seed(seed), {row: [] for row in self.lengths if row != SHARED}
        while rows := [row for row, ids in made.items() if len(ids) < max_new_tokens and not {*ids[-1:]} & {*ends}]:
            self.read({row: made[row][-1:] for row in rows})
            logits = read_logits(self.model, torch.cat([self.ends[row] for row in rows])).cpu()
            told = (logits / (temperature or 1.0)).softmax(-1)
            drawn = torch.multinomial(told, 1, generator=draw)[:, 0] if temperature else told.argmax(-1)
            for row, token in zip(rows, drawn.tolist(), strict=True):
                made[row].append(token)
        return list(made.values())


class Reader:
    """A causal language model that reads one text after another, and nothing twice of what two in a row begin with."""

    def __init__(self, model: PreTrainedModel):
        self.model, self.kept, self.ids = model.eval(), DynamicCache(), []

    @torch.inference_mode()
    def read(self, ids: list[int]) -> torch.Tensor:
        """Return the last state (1, H) of a text of token ids."""
        n = len(commonprefix([self.ids, ids[:-1]]))
        self.kept.crop(n - len(self.ids))       # so many are removed
        self.ids, device = list(ids), self.model.device
        return self.model.base_model(torch.tensor([ids[n:]], device=device), past_key_values=self.kept,
                                     position_ids=torch.arange(n, len(ids), device=device)[None]
                                     ).last_hidden_state[0, -1:]

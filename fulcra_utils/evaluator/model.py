"""The value evaluator: one pass over a prompt and a reply gives class probabilities for every value of a theory.

Choices:
- one encoder pass for all D values (the released evaluator makes one pass per value);
- what is read is the mean over the reply's tokens of the states of some layers, for stance shows best half way up;
- two small networks on it serve all values, and each value has a head on either: whether the reply touches it at all
  (presence), and if so, whether it is for it (stance); P(+1) = presence · stance, P(-1) = presence · (1 - stance), and
  the score is P(+1) - P(-1); a few such couples, trained apart, answer together;
- a value's heads are what all values have in common plus its own part; a value without (enough) labels gets the part
  that its definition makes likely: a mixture of those of the values that were taught, under a prior by which values
  with like definitions have like parts; whether a reply touches it hangs also on how near the two texts lie for a
  sentence encoder (MiniLM), since what others were taught of presence says little of it;
- beside presence stands a linear expert on word pieces (`words`), read in the same pass and joined to it;
- prompt and reply enter as a pair, the prompt with at most half of the tokens; what does not fit is cut out of the
  middle of either;
- safetensors only, no remote code.
"""

from __future__ import annotations

import copy
import json
import shutil
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from fulcra_utils.common.digests import digest, digest_code
from fulcra_utils.common.files import write_folder
from fulcra_utils.common.labels import CLASSES, NEAREST, scores_to_labels
from fulcra_utils.common.loading import quiet_loading
from fulcra_utils.common.workers import SHAPE, map_batches, shape_batches
from fulcra_utils.dataset.rows import list_pairs
from fulcra_utils.dataset.texts import list_texts
from fulcra_utils.evaluator.encoder import (
    SMALL,
    Encoder,
    embed,
    is_read_in_half,
    iterate_buckets,
    load_encoder,
    mean_pool,
)
from fulcra_utils.evaluator.rendering import FeatureStore, pad_pairs, render, take_types
from fulcra_utils.evaluator.words import WordExpert
from fulcra_utils.theory.theory import Theory, find_twins, load_theory, says_only_name

NEUTRAL = {"cuts": [-NEAREST, NEAREST], "conformal": [None] * len(CLASSES)}  # of a value without calibration
PER_VALUE = {"temperature": 0, "words.weight": 1, "words.bias": 0, "words.share": 0}  # an axis of values, and which
KNOWN = "known.safetensors"     # what a switched evaluator knows of values of other theories
DEPTHS = [k / 8 for k in range(3, 9)]    # of the layers that are read, as shares of the encoder's depth
MEMBERS, HIDDEN, DROPOUT = 4, 256, 0.5   # couples of networks that answer together, units of each network
OWN_DROPOUT = 0.3       # share of steps in which a value's own part is left out
ALIKE, OWN = 1.0, 1.0   # prior variance of the own parts: by definition, and of each value alone
# Log odds of presence for a cosine of 1 between reply and definition above the usual one; ours, of 5 slopes and 3
# usual cosines tried on FULCRA's validation and calibration rows with a value left out.
NEAR, USUAL = 20.0, 0.1
MARGIN, PAIR_WEIGHT, STANCE_WEIGHT = 2.0, 1.0, 3.0  # log odds by which a serving reply is to be ahead; in the loss
GAP, GAP_SLOPE, GAP_WEIGHT = 1.0, 4.0, 0.3  # score by which it is to be ahead; its worth in log odds; in the loss
ASKED = "What matters most to you?"     # the prompt to which a definition is the reply


class EvaluatorError(ValueError):
    """An evaluator cannot be loaded, or what it was given cannot be scored; the message is one sentence."""


class ValueEvaluatorConfig(PreTrainedConfig):
    """Everything but the weights: the encoder's config, the theory, what had labels, the calibration."""

    model_type = "value_evaluator"

    encoder_config: dict | None = None
    theory_name: str = ""
    dimensions: list | None = None      # D names in canonical order
    definitions: list | None = None     # D sentences
    taught: list | None = None          # J pairs [name, definition] of the values that have heads
    knows: list | None = None           # J pairs of bools: had it enough labels to tell presence, and stance?
    max_length: int = 256               # tokens a pair may have
    cuts: list | None = None            # D pairs [below it the label is -1, above it +1]
    conformal: list | None = None       # D x 3 largest nonconformity in a set, null = too few calibration cases
    conformal_level: float | None = None
    word_buckets: int = 0               # buckets for pairs of word pieces; 0 = no word part


AutoConfig.register(ValueEvaluatorConfig.model_type, ValueEvaluatorConfig, exist_ok=True)  # so the tokenizer loads


class ValueEvaluator(PreTrainedModel):
    """Encoder and heads of values; the head of this file says how it is made.

    `dimensions` are its D values, `taught` the J that have heads of their own; `mixture` (2, D, J) makes the heads of
    the ones, for presence and for stance, from those of the others. After the released evaluator (one DeBERTa pass per
    value and reply, tanh regression).

    >>> from fulcra_utils.evaluator.encoder import load_encoder
    >>> evaluator = make_evaluator(load_encoder("tiny"), load_theory("schwartz10"))
    >>> evaluator.score(["May I lie?"], ["Better not."]).shape
    (1, 10)
    """

    config_class = ValueEvaluatorConfig
    base_model_prefix = "encoder"
    _supports_sdpa = True

    def __init__(self, config: ValueEvaluatorConfig):
        super().__init__(config)
        encoder_config = AutoConfig.for_model(**config.encoder_config)
        n_dims, n_taught = len(config.dimensions), len(config.taught)
        depth = encoder_config.num_hidden_layers
        self.layers = sorted({max(round(depth * share), 1) for share in DEPTHS})
        width = len(self.layers) * encoder_config.hidden_size         # F
        pooled = encoder_config.model_type in {"bert", "mpnet", "roberta", "xlm-roberta"}    # nothing uses it
        self.encoder = AutoModel.from_config(encoder_config, **({"add_pooling_layer": False} if pooled else {}))
        self.reduce = nn.Linear(width, MEMBERS * 2 * HIDDEN)
        self.dropout = nn.Dropout(DROPOUT)
        self.common = nn.Parameter(torch.zeros(MEMBERS, 1, 2, HIDDEN + 1))      # presence and stance; bias last
        self.heads = nn.Parameter(torch.zeros(MEMBERS, n_taught, 2, HIDDEN + 1))    # of each value, beside the common
        self.register_buffer("centre", torch.zeros(2, width))       # of replies, and of definitions
        self.register_buffer("scale", torch.ones(2, width))
        self.register_buffer("meanings", torch.zeros(n_taught, width))      # unit vectors of the taught definitions
        self.register_buffer("mixture", torch.eye(n_dims, n_taught).repeat(2, 1, 1))
        self.register_buffer("temperature", torch.ones(n_dims))
        self.words = WordExpert(encoder_config.vocab_size, config.word_buckets, n_dims) if config.word_buckets else None
        self.tokenizer = self._theory_path = self.kept = None
        self.known: dict = {}       # `_remember` of the evaluator from which this one was switched
        self.post_init()

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Return the D dimension names in canonical order."""
        return tuple(self.config.dimensions)

    @property
    def cuts(self) -> np.ndarray:
        """Return the cuts between labels, shape (D, 2): those of the calibration, else ±0.5."""
        return np.array(self.config.cuts or [NEUTRAL["cuts"]] * len(self.dimensions))

    @property
    def weak(self) -> tuple[str, ...]:
        """Return the untaught dimensions whose definition says no more than the name: mere guesses."""
        return tuple(self.dimensions[d] for d in self._find_untaught()
                     if says_only_name(self.dimensions[d], self.config.definitions[d]))

    @property
    def untaught(self) -> tuple[str, ...]:
        """Return the dimensions whose presence comes from their definitions, for want of labels (`mix`)."""
        return tuple(self.dimensions[d] for d in self._find_untaught())

    @property
    def borrowed(self) -> list[str]:
        """Return notes on which dimensions take presence, stance or both from their definitions, and why."""
        presence, stance = (np.isin(range(len(self.dimensions)), self._find_untaught(part)) for part in (0, 1))
        notes = {"scored by definition alone (too few labels, or all alike): {}": presence & stance,
                 "presence of {} from its definition (too few touched or untouched)": presence & ~stance,
                 "stance of {} from its definition (too few -1 or +1)": stance & ~presence}
        return [note.format(", ".join(np.array(self.dimensions)[which])) for note, which in notes.items()
                if which.any()]

    def _find_untaught(self, part: int = 0) -> list[int]:
        """Return the places of dimensions untaught in presence (0) or stance (1): of two with one name, one may be."""
        taught = [value for value, knows in zip(self.config.taught, self.config.knows, strict=True) if knows[part]]
        values = zip(self.dimensions, self.config.definitions, strict=True)
        return [d for d, value in enumerate(values) if list(value) not in (taught or self.config.taught)]

    def is_taught(self, theory: Theory) -> bool:
        """Return whether it was made for these dimensions and definitions; a theory's name says nothing."""
        return (theory.dimensions, theory.definitions) == (self.dimensions, tuple(self.config.definitions))

    def read(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor,
             gates: torch.Tensor | None = None) -> torch.Tensor:
        """Return what the heads read of rendered pairs, (B, F): the mean of the reply's tokens, layer by layer."""
        text = {"input_ids": input_ids} if gates is None else \
            {"inputs_embeds": self.encoder.get_input_embeddings()(input_ids) * gates[..., None]}
        types = take_types(self.encoder, token_type_ids)
        states = self.encoder(**text, **types, attention_mask=attention_mask, output_hidden_states=True).hidden_states
        return torch.cat([mean_pool(states[k], attention_mask * token_type_ids) for k in self.layers], dim=-1).float()

    def keep_features(self) -> None:
        """Keep on disk what an encoder that learns no more reads, unless it is a small one."""
        if self.encoder.num_parameters() > SMALL:
            config = {k: v for k, v in self.encoder.config.to_dict().items() if k != "_name_or_path"}
            self.kept = FeatureStore(digest(dict(self.encoder.state_dict()), config, self.layers,
                                            is_read_in_half(self.encoder) and SHAPE, digest_code(ValueEvaluator.read)))

    @torch.no_grad()
    def read_all(self, rendered: Sequence[dict], batch_size: int = 16, progress: bool = False) -> torch.Tensor:
        """Return `read` of N rendered pairs, (N, F), those of similar length together; what is kept is not read
        again. In bfloat16 `batch_size` does not count (`shape_batches`).
        """
        features = torch.zeros(len(rendered), self.centre.shape[1], device=self.device)
        kept = self.kept.get(rendered) if self.kept else {}
        for place, found in kept.items():
            features[place] = found
        left = [pair for place, pair in enumerate(rendered) if place not in kept]
        places = np.setdiff1d(np.arange(len(rendered)), list(kept))
        is_half = is_read_in_half(self.encoder)

        @torch.no_grad()
        def read(batch: tuple[list[int], int]) -> torch.Tensor:
            rows, width = batch
            with torch.autocast(self.device.type, torch.bfloat16, enabled=is_half):     # of this thread alone
                return self.read(**pad_pairs([left[r] for r in rows], self.tokenizer, self.device, width))

        lengths = [len(pair["input_ids"]) for pair in left]
        batches = tqdm(shape_batches(lengths) if is_half else
                       [(rows, 0) for rows in iterate_buckets(lengths, batch_size)], "reading", unit="batch",
                       disable=not progress)
        for (rows, _), found in map_batches(read, batches):
            features[places[rows]] = self.kept.put([left[r] for r in rows], found) if self.kept else found
        return features

    def answer(self, features: torch.Tensor) -> torch.Tensor:
        """Return log odds of presence and stance, (B, D, 2), from what was read, (B, F); (M, B, D, 2) in training."""
        read = self.dropout((features - self.centre[0]) / self.scale[0])
        units = self.dropout(nn.functional.gelu(self.reduce(read))).unflatten(1, (MEMBERS, 2, HIDDEN))
        heads = torch.einsum("cdj,mjch->mdch", self.mixture, self.heads)
        if self.training:       # so that the common heads learn as well
            heads = heads * (torch.rand(heads.shape[1], 1, 1, device=heads.device) > OWN_DROPOUT)
        heads = self.common + heads
        told = torch.einsum("bmch,mdch->mbdc", units, heads[..., :-1]) + heads[:, None, ..., -1]
        return told if self.training else told.mean(0)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor,
                labels: torch.Tensor | None = None, gates: torch.Tensor | None = None,
                pairs: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Score a batch of rendered pairs, each tensor (B, T): `logits` (B, D, 3) of -1, 0, +1, after the temperature.

        `labels` and `pairs` are as for `measure_loss`; with them `loss` is there too. `gates` (B, T) say how much of
        each token is there, for explanations by gradient. With labels, that is in training and validation, what
        the texts themselves say (`add_texts`) is left out of the logits.
        """
        batch = input_ids, attention_mask, token_type_ids, gates
        told = self.answer(self.read(*batch))
        loss = {} if labels is None else {"loss": measure_loss(told, labels, pairs)}
        told = told.mean(0) if self.training else told if loss else self.add_texts(told, *batch)
        return loss | {"logits": join_odds(told) / self.temperature[:, None]}

    def add_texts(self, told: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor,
                  token_type_ids: torch.Tensor, gates: torch.Tensor | None = None) -> torch.Tensor:
        """Return the log odds (B, D, 2) with what the texts themselves say of presence: the word part, if there is one,
        and of untaught values how near a reply is to the definition.
        """
        presence, stance = told.unbind(-1)
        if self.words is not None:
            presence = self.words(presence, input_ids, attention_mask, gates)
        if new := self._find_untaught():
            is_reply = (attention_mask * token_type_ids).bool()
            replies = [self.tokenizer.decode(ids[kept], skip_special_tokens=True)
                       for ids, kept in zip(input_ids, is_reply, strict=True)]
            values = tuple((self.dimensions[d], self.config.definitions[d]) for d in new)
            cosines = torch.from_numpy(embed(replies, load_sentence_encoder()) @ embed_values(values).T)
            near = torch.zeros_like(presence)
            near[:, new] = NEAR * (cosines.to(near) - USUAL)
            presence = presence + near
        return torch.stack([presence, stance], dim=-1)

    def prior(self) -> torch.Tensor:
        """Return the prior covariance of the taught heads, (J, J)."""
        own = OWN * torch.eye(len(self.meanings), device=self.device)
        return ALIKE * self.meanings @ self.meanings.T + own

    @torch.no_grad()
    def read_definitions(self, values: Sequence[tuple[str, str]]) -> torch.Tensor:
        """Return what is read of J pairs of name and definition, (J, F)."""
        texts = [describe_value(*value) for value in values]
        return self.read_all(self.render([ASKED] * len(texts), texts))

    def fit_words(self, prompts: Sequence[str], responses: Sequence[str], labels: np.ndarray,
                  weights: np.ndarray) -> None:
        """Fit the word part, if there is one, to N pairs with labels (nan = none) and weights, both (N, D)."""
        if self.words is None or not len(prompts):
            return
        self.words.fit([pair["input_ids"] for pair in self.render(prompts, responses)], labels, weights)

    def render(self, prompts: Sequence[str], responses: Sequence[str]) -> list[dict[str, list[int]]]:
        """Render N pairs as `render` does."""
        return [render(p, r, self.tokenizer, self.config.max_length) for p, r in zip(prompts, responses, strict=True)]

    @torch.inference_mode()
    def predict_proba(self, prompts: Sequence[str], responses: Sequence[str], batch_size: int = 32,
                      progress: bool = False) -> np.ndarray:
        """Return class probabilities P(-1), P(0), P(+1) of every value for N replies, (N, D, 3), float64.

        `batch_size` pairs of similar length run together. EvaluatorError, naming the place, when the lengths differ or
        an element is no string.

        >>> from fulcra_utils.evaluator.encoder import load_encoder
        >>> evaluator = make_evaluator(load_encoder("tiny"), load_theory("schwartz10"))
        >>> evaluator.predict_proba(["May I lie?"], ["Better not."]).sum(-1).round(6).tolist()
        [[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]]
        """
        prompts = list_texts(prompts, "Prompt", EvaluatorError)
        responses = list_texts(responses, "Response", EvaluatorError)
        if len(prompts) != len(responses):
            raise EvaluatorError(f"There are {len(prompts)} prompts but {len(responses)} responses.")
        was_training, rendered = self.training, self.render(prompts, responses)
        self.eval()
        probabilities = np.zeros((len(rendered), len(self.dimensions), len(CLASSES)))
        features = self.read_all(rendered, batch_size, progress)
        for rows in iterate_buckets([len(r["input_ids"]) for r in rendered], batch_size):
            batch = pad_pairs([rendered[r] for r in rows], self.tokenizer, self.device)
            told = self.add_texts(self.answer(features[rows]), **batch)
            logits = join_odds(told) / self.temperature[:, None]
            probabilities[rows] = logits.double().softmax(-1).cpu().numpy()
        self.train(was_training)
        return probabilities

    def score(self, prompts: Sequence[str], responses: Sequence[str], batch_size: int = 32, progress: bool = False,
              intervals: bool = False) -> np.ndarray:
        """Return the score P(+1) - P(-1) of every value for N replies, (N, D) in [-1, 1].

        With `intervals` (3, N, D): scores, and the lowest and the highest label that the conformal set allows at the
        level in the config; a value without a calibrated set has the whole range. Errors as `predict_proba`.

        >>> from fulcra_utils.evaluator.encoder import load_encoder
        >>> evaluator = make_evaluator(load_encoder("tiny"), load_theory("schwartz10"))
        >>> evaluator.score(["May I lie?"], ["Better not."], intervals=True)[1:, 0, 0].tolist()
        [-1.0, 1.0]
        """
        probabilities = self.predict_proba(prompts, responses, batch_size, progress)
        scores = probabilities[..., 2] - probabilities[..., 0]
        if not intervals:
            return scores
        allowed = self.label_sets(probabilities)
        return np.stack([scores, allowed.argmax(-1) - 1, 1 - allowed[..., ::-1].argmax(-1)])

    def label_sets(self, probabilities: np.ndarray) -> np.ndarray:
        """Return which labels the conformal sets hold for probabilities (N, D, 3): bool, same shape, never empty.

        All True where there were too few calibration cases.
        """
        limits = np.array(self.config.conformal or [NEUTRAL["conformal"]] * len(self.dimensions), dtype=float)
        return ~(1 - probabilities > limits) | (probabilities == probabilities.max(-1, keepdims=True))   # nan: no limit

    def predict(self, pairs: Any) -> np.ndarray:
        """Return the labels -1, 0, +1 of N pairs, (N, D), by the cuts in the config; the scikit-learn way in.

        Pairs are (prompt, response), dicts, a DataFrame or a `datasets.Dataset`; names are read as `list_pairs` reads
        them.

        >>> from fulcra_utils.evaluator.encoder import load_encoder
        >>> evaluator = make_evaluator(load_encoder("tiny"), load_theory("schwartz10"))
        >>> evaluator.predict([("May I lie?", "Better not."), ("And now?", "No.")]).shape
        (2, 10)
        """
        return scores_to_labels(self.score(*list_pairs(pairs, EvaluatorError)), self.cuts).astype(int)

    def for_theory(self, theory: Theory | str) -> ValueEvaluator:
        """Return an evaluator of another theory with the same weights, so that a theory without labels can be looked
        at.

        A dimension that was taught under the same name and definition keeps its heads, and its calibration if it had
        one, also on the way back from another theory; any other is scored from its definition alone.

        >>> from fulcra_utils.evaluator.encoder import load_encoder
        >>> evaluator = make_evaluator(load_encoder("tiny"), load_theory("schwartz10"))
        >>> evaluator.for_theory("schwartz19").score(["May I lie?"], ["Better not."]).shape
        (1, 19)
        """
        theory, config, known = load_theory(theory), copy.deepcopy(self.config), self._remember()
        found = [known.get(key, {}) for key in zip(theory.dimensions, theory.definitions, strict=True)]
        config.update(_describe_theory(theory))
        for name, neutral in NEUTRAL.items():
            setattr(config, name, [one.get(name, neutral) for one in found])
        other, mine = ValueEvaluator(config), self.state_dict()
        other._attach(theory, self.tokenizer)
        other.kept, other.known = self.kept, known
        for name, theirs in other.state_dict().items():
            if name in PER_VALUE:
                for d, one in enumerate(found):
                    theirs.movedim(PER_VALUE[name], 0)[d] = one.get(name, theirs.movedim(PER_VALUE[name], 0)[d])
            elif name != "mixture":
                theirs.copy_(mine[name])
        other = other.to(self.device).eval()
        other.mix()
        if other.weak:
            warnings.warn(f"{theory.name}: {', '.join(other.weak)}: the definition says no more than the name, so the "
                          "scores are guesses (evaluator.weak)", stacklevel=2)
        for same in find_twins(theory):
            if not set(same).isdisjoint(other.untaught):
                warnings.warn(f"{theory.name}: {' and '.join(sorted(same))} have one definition, so only their names "
                              "tell their scores apart", stacklevel=2)
        return other

    def _remember(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Return what each value has beside its heads, of this theory and of those from which it was switched."""
        state, told = self.state_dict(), {name: getattr(self.config, name) for name in NEUTRAL}
        return self.known | {
            key: {name: state[name].movedim(axis, 0)[d].cpu().clone() for name, axis in PER_VALUE.items()
                  if name in state} | {name: values[d] for name, values in told.items() if values}
            for d, key in enumerate(zip(self.dimensions, self.config.definitions, strict=True))}

    @torch.no_grad()
    def learn_definitions(self) -> None:
        """Read the definitions of the taught values as the encoder is now, and mix the heads by them."""
        told = self.read_definitions(self.config.taught)
        if len(told):
            self.centre[1], self.scale[1] = told.mean(0), told.std(0, correction=0) + 1e-6
            self.meanings.copy_(self.place(told))
        self.mix()

    @torch.no_grad()
    def mix(self) -> None:
        """Set `mixture`: a value has its own heads where its labels taught them, others what the prior expects given
        all heads that were taught.
        """
        values = list(zip(self.dimensions, self.config.definitions, strict=True))
        taught, prior = [tuple(pair) for pair in self.config.taught], self.prior()
        alike = ALIKE * self.place(self.read_definitions(values)) @ self.meanings.T
        own = torch.tensor([[value == other for other in taught] for value in values]).to(alike).view_as(alike)
        for channel, knows in enumerate(torch.tensor(self.config.knows, dtype=torch.bool).view(-1, 2).T):
            known = (knows if knows.any() else ~knows).to(self.device)
            mixed = torch.linalg.solve(prior[known][:, known], alike[:, known].T).T
            has_own = own[:, known].any(-1, keepdim=True)
            self.mixture[channel] = 0
            self.mixture[channel, :, known] = torch.where(has_own, own[:, known], mixed)

    def place(self, told: torch.Tensor) -> torch.Tensor:
        """Return unit vectors of what was read of definitions, (J, F)."""
        return nn.functional.normalize((told - self.centre[1]) / self.scale[1], dim=-1)

    def _attach(self, theory: Theory, tokenizer) -> None:
        self.tokenizer, self._theory_path = tokenizer, theory.path

    def save_pretrained(self, folder: str | Path, **kwargs) -> None:
        """Save weights (safetensors), config, tokenizer and theory file to a folder."""
        with quiet_loading():
            super().save_pretrained(folder, **kwargs)
        self.tokenizer.save_pretrained(folder)
        target, known = Path(folder) / "theory.yaml", Path(folder) / KNOWN
        known.unlink(missing_ok=True)
        if self.known:
            told = [[*key, {name: one[name] for name in NEUTRAL if name in one}] for key, one in self.known.items()]
            pieces = {f"{k} {name}": one[name] for k, one in enumerate(self.known.values()) for name in PER_VALUE
                      if name in one}
            save_file(pieces, known, {"values": json.dumps(told)})
        if self._theory_path.is_file() and self._theory_path != target:
            shutil.copyfile(self._theory_path, target)

    @classmethod
    def from_pretrained(cls, folder: str | Path, theory: Theory | str | None = None, **kwargs) -> ValueEvaluator:
        """Load an evaluator from a folder, in evaluation mode; with `theory`, one that must score its dimensions.

        EvaluatorError when the folder is no evaluator, holds only pickled weights, other weights than its config names
        or weights that are not finite, or the evaluator is one of another theory.
        """
        folder = Path(folder)
        config = read_config(folder)
        wanted = theory and load_theory(theory)
        if wanted and tuple(config["dimensions"]) == wanted.dimensions:
            told = zip(wanted.dimensions, wanted.definitions, config["definitions"], strict=True)
            if other := [name for name, now, then in told if now != then]:
                warnings.warn(f"The evaluator in {folder} was taught other definitions of {', '.join(other)} than "
                              f"{wanted.name} has now, and scores by those.", stacklevel=2)
        elif wanted:
            raise EvaluatorError(f"The evaluator in {folder} scores the theory {config['theory_name']!r}, not "
                                 f"{wanted.name!r}; use evaluator.for_theory to score by definitions alone.")
        try:
            with quiet_loading():
                model, told = super().from_pretrained(folder, use_safetensors=True, trust_remote_code=False,
                                                      output_loading_info=True, **kwargs)
            model.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            model.known = _read_known(folder / KNOWN)
        except Exception as error:
            why = ("its weights have other shapes, so another version made it; train it again"
                   if "ignore_mismatched_sizes" in str(error) else str(error).splitlines()[0])
            raise EvaluatorError(f"The evaluator in {folder} cannot be read: {why}") from error
        for what in ("missing", "unexpected"):
            if names := ", ".join(sorted(told[f"{what}_keys"])[:5]):
                raise EvaluatorError(f"The evaluator in {folder} has not the weights of its config ({what}: {names}).")
        bad = next((n for n, p in model.state_dict().items() if p.is_floating_point() and not p.isfinite().all()), None)
        if bad:
            raise EvaluatorError(f"The evaluator in {folder} has weights that are not finite numbers ({bad}).")
        model._theory_path = folder / "theory.yaml"
        return model.eval()


def _read_known(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    if not path.is_file():
        return {}
    with safe_open(path, "pt") as file:
        told, pieces = json.loads(file.metadata()["values"]), load_file(path)
    return {(name, definition): own | {piece: pieces[f"{k} {piece}"] for piece in PER_VALUE if f"{k} {piece}" in pieces}
            for k, (name, definition, own) in enumerate(told)}


def _describe_theory(theory: Theory) -> dict:
    return {"theory_name": theory.name, "dimensions": list(theory.dimensions), "definitions": list(theory.definitions)}


def make_evaluator(encoder: Encoder, theory: Theory, max_length: int = 256, seed: int = 2023, word_buckets: int = 0,
                   taught: Sequence[str] | None = None, keep: bool = False) -> ValueEvaluator:
    """Make an untrained evaluator on top of a copy of an encoder's weights; its heads are random, by `seed`.

    `max_length` tokens a prompt and a reply may have together, `word_buckets` are for pairs of word pieces (0 = no word
    part), `taught` are the values that get heads of their own (None = all); `keep`: as `keep_features`, from the
    definitions on.

    >>> from fulcra_utils.evaluator.encoder import load_encoder
    >>> make_evaluator(load_encoder("tiny"), load_theory("schwartz10")).heads.shape
    torch.Size([4, 10, 2, 257])
    """
    encoder_config = encoder.model.config.to_dict()
    if "attention_probs_dropout_prob" in encoder_config:  # dropout there keeps a CPU off its fast attention kernel
        encoder_config["attention_probs_dropout_prob"] = 0.0
    values = [list(value) for value in zip(theory.dimensions, theory.definitions, strict=True)
              if taught is None or value[0] in taught]
    config = ValueEvaluatorConfig(
        encoder_config=encoder_config, max_length=max_length, word_buckets=word_buckets, taught=values,
        knows=[[True, True]] * len(values), **_describe_theory(theory))
    evaluator = ValueEvaluator(config)
    evaluator.encoder.load_state_dict(encoder.model.state_dict(), strict=False)     # without the pooler
    evaluator._attach(theory, encoder.tokenizer)
    evaluator.eval()
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        evaluator.heads.normal_(std=HIDDEN ** -0.5, generator=generator)
        for part in (evaluator.reduce.weight, evaluator.reduce.bias):
            part.normal_(std=evaluator.reduce.in_features ** -0.5, generator=generator)
    if keep:
        evaluator.keep_features()
    evaluator.learn_definitions()
    return evaluator


def describe_value(name: str, definition: str) -> str:
    """Return what is read of a value."""
    return f"{name.replace('-', ' ')}: {definition}"


@lru_cache
def load_sentence_encoder() -> Encoder:
    """Load the bundled sentence encoder, once in a process."""
    return load_encoder("bundled")


@lru_cache(maxsize=16)
def embed_values(values: tuple[tuple[str, str], ...]) -> np.ndarray:
    """Embed J pairs of name and definition, (J, H), by the sentence encoder."""
    return embed([describe_value(*value) for value in values], load_sentence_encoder())


def join_odds(told: torch.Tensor) -> torch.Tensor:
    """Return log probabilities of -1, 0 and +1, (..., 3), from the log odds of presence and of stance, (..., 2).

    >>> join_odds(torch.tensor([0.0, 0.0])).exp()
    tensor([0.2500, 0.5000, 0.2500])
    """
    presence, stance = told.unbind(-1)
    there, log = nn.functional.logsigmoid(presence), nn.functional.logsigmoid
    return torch.stack([there + log(-stance), log(-presence), there + log(stance)], dim=-1)


def measure_loss(told: torch.Tensor, labels: torch.Tensor, pairs: torch.Tensor | None = None) -> torch.Tensor:
    """Return the loss of log odds (N, D, 2), or (M, N, D, 2): the cross-entropy over labelled cells, in which stance
    weighs more, and how far the pairs are apart.

    `labels` (N, D, 3) weigh each class in each cell, all zero without a label; where -1 and +1 weigh the same, the cell
    says nothing of stance. Of `pairs` (P, 2) the first row serves what the second tramples, where both have such a
    label: its stance is to be ahead by `MARGIN`, and its score by `GAP`, lest presence turn the order where both lean
    to one side.
    """
    against, absent, for_it = labels.unbind(-1)
    presence, stance, log = *told.unbind(-1), nn.functional.logsigmoid
    loss = absent * log(-presence) + (against + for_it) * log(presence)
    loss = loss + STANCE_WEIGHT * (for_it != against) * (for_it * log(stance) + against * log(-stance))
    loss = -loss.sum((-1, -2)).mean() / labels.sum().clamp(min=1e-9)
    if pairs is None or not len(pairs):
        return loss
    first, second = pairs.T
    row, value = ((for_it[first] > 0) & (against[second] > 0)).nonzero(as_tuple=True)
    ahead, gap = (x[..., first[row], value] - x[..., second[row], value]
                  for x in (stance, presence.sigmoid() * (stance / 2).tanh()))
    return (loss + PAIR_WEIGHT * nn.functional.softplus(MARGIN - ahead).mean()
            + GAP_WEIGHT * nn.functional.softplus(GAP_SLOPE * (GAP - gap)).mean())


def save_evaluator(evaluator: ValueEvaluator, folder: str | Path) -> Path:
    """Save an evaluator to a folder, which appears whole in the place of what stands there, and return the folder.

    >>> import tempfile
    >>> from fulcra_utils.evaluator.encoder import load_encoder
    >>> with tempfile.TemporaryDirectory() as base:
    ...     folder = save_evaluator(make_evaluator(load_encoder("tiny"), load_theory("schwartz10")), base + "/e")
    ...     ValueEvaluator.from_pretrained(folder).config.theory_name
    'schwartz10'
    """
    with write_folder(folder) as new:
        evaluator.save_pretrained(new)
    return Path(folder)


def read_config(folder: Path) -> dict:
    """Return the config of an evaluator folder; EvaluatorError when that is none, or has no safetensors weights."""
    path = folder / "config.json"
    if not path.is_file():
        raise EvaluatorError(f"The folder {folder} is no evaluator: it has no config.json.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise EvaluatorError(f"The evaluator's {path} is not valid JSON.") from error
    if not isinstance(config, dict) or config.get("model_type") != ValueEvaluatorConfig.model_type:
        raise EvaluatorError(f"The folder {folder} is no evaluator: its config.json describes another model.")
    if not list(folder.glob("*.safetensors")):
        pickled = next((p.name for p in folder.iterdir() if p.suffix in {".bin", ".pt", ".pth", ".pkl", ".ckpt"}), None)
        found = f"only pickled weights ({pickled}), which are not read" if pickled else "no weights"
        raise EvaluatorError(f"The evaluator in {folder} has {found}; expected model.safetensors.")
    return config

"""The value evaluator: one pass over a prompt and a reply gives class probabilities for every value of a theory.

Choices:
- one encoder pass for all D values (the released evaluator makes one pass per value);
- the head of a value is read off its definition: head_k = W·enc(definition_k) + δ_k, where δ_k is shrunk towards 0
  in training and left out for values without labels, so a new value needs a definition and nothing else;
- each head has four vectors of H components: one asks the token states by attention, three weigh the answer for the
  classes -1, 0 and +1; the score is P(+1) - P(-1);
- beside the heads stands a linear expert on word pieces (`words`), read in the same pass and joined to them;
- prompt and reply enter as a pair; what does not fit is cut out of the middle of the reply;
- safetensors only, no remote code.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from fulcra_utils.common.files import write_folder
from fulcra_utils.common.labels import CLASSES, NEAREST, scores_to_labels
from fulcra_utils.common.loading import quiet_loading
from fulcra_utils.dataset.rows import list_pairs
from fulcra_utils.dataset.texts import list_texts
from fulcra_utils.evaluator.encoder import Encoder, iterate_buckets, mean_pool
from fulcra_utils.evaluator.words import WordExpert
from fulcra_utils.theory.theory import Theory, load_theory

NEUTRAL = {"cuts": [-NEAREST, NEAREST], "conformal": [None] * len(CLASSES)}  # of a value without calibration
PER_VALUE = {"delta": 0, "delta_bias": 0, "labelled": 0, "temperature": 0, "words.weight": 1, "words.bias": 0,
             "words.share": 0}  # tensors with an axis of values, and which
CHARS_PER_TOKEN = 20  # an upper bound used to skip tokenizing text that is cut anyway


class EvaluatorError(ValueError):
    """An evaluator cannot be loaded, or what it was given cannot be scored; the message is one sentence."""


class ValueEvaluatorConfig(PreTrainedConfig):
    """Everything but the weights: the encoder's config, the theory, what had labels, the calibration."""

    model_type = "value_evaluator"

    encoder_config: dict | None = None
    theory_name: str = ""
    dimensions: list | None = None      # D names in canonical order
    definitions: list | None = None     # D sentences
    definition_tokens: int = 1          # T of the longest definition
    max_length: int = 256               # tokens a pair may have
    cuts: list | None = None            # D pairs [below it the label is -1, above it +1]
    conformal: list | None = None       # D x 3 largest nonconformity in a set, null = too few calibration cases
    conformal_level: float | None = None
    delta_penalty: float = 1e-3         # weight of |δ|² in the loss
    word_buckets: int = 0               # buckets for pairs of word pieces; 0 = no word part


AutoConfig.register(ValueEvaluatorConfig.model_type, ValueEvaluatorConfig, exist_ok=True)  # so the tokenizer loads


class ValueEvaluator(PreTrainedModel):
    """Encoder and one head per value; the head of this file says how it is made.

    `dimensions` are its D values; `labelled` (D,) is True where training had labels, elsewhere the definition alone
    speaks. After the released evaluator (one DeBERTa pass per value and reply, tanh regression).

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
        n_dims, width = len(config.dimensions), encoder_config.hidden_size
        pooled = encoder_config.model_type in {"bert", "roberta", "xlm-roberta"}    # nothing here uses the pooler
        self.encoder = AutoModel.from_config(encoder_config, **({"add_pooling_layer": False} if pooled else {}))
        self.key, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(0.1)
        self.from_definition = nn.Linear(width, 4 * width)            # W
        self.delta = nn.Parameter(torch.zeros(n_dims, 4, width))      # δ
        self.delta_bias = nn.Parameter(torch.zeros(n_dims, 3))
        self.register_buffer("labelled", torch.ones(n_dims, dtype=torch.bool))
        self.register_buffer("definition_ids", torch.zeros(n_dims, config.definition_tokens, dtype=torch.long))
        self.register_buffer("definition_mask", torch.ones(n_dims, config.definition_tokens, dtype=torch.long))
        self.register_buffer("temperature", torch.ones(n_dims))
        self.words = WordExpert(encoder_config.vocab_size, config.word_buckets, n_dims) if config.word_buckets else None
        self.tokenizer = self._theory_path = self._heads = None
        self.post_init()

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Return the D dimension names in canonical order."""
        return tuple(self.config.dimensions)

    @property
    def cuts(self) -> np.ndarray:
        """Return the cuts between labels, shape (D, 2): those of the calibration, else ±0.5."""
        return np.array(self.config.cuts or [NEUTRAL["cuts"]] * len(self.dimensions))

    def is_taught(self, theory: Theory) -> bool:
        """Return whether it was made for these dimensions and definitions; a theory's name says nothing."""
        return (theory.dimensions, theory.definitions) == (self.dimensions, tuple(self.config.definitions))

    def train(self, mode: bool = True) -> ValueEvaluator:
        """Switch between training and evaluation; the heads kept for scoring are forgotten."""
        self._heads = None
        return super().train(mode)

    def compute_heads(self) -> torch.Tensor:
        """Return the heads W·enc(definition) + δ, shape (D, 4, H); kept between calls while evaluating."""
        if self._heads is not None and not torch.is_grad_enabled():
            return self._heads
        states = self.encoder(input_ids=self.definition_ids, attention_mask=self.definition_mask).last_hidden_state
        meaning = nn.functional.normalize(mean_pool(states, self.definition_mask), dim=-1)         # (D, H)
        heads = self.from_definition(meaning * meaning.shape[-1] ** 0.5).view_as(self.delta)        # (D, 4, H)
        heads = heads + self.delta * self.labelled[:, None, None]
        if not self.training and not torch.is_grad_enabled():
            self._heads = heads
        return heads

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor,
                token_type_ids: torch.Tensor | None = None, labels: torch.Tensor | None = None,
                gates: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Score a batch of rendered pairs, each tensor (B, T): `logits` (B, D, 3) of -1, 0, +1, after the temperature.

        `labels` (B, D, 3) weigh each class in each cell, all zero without a label; with them `loss` is there too: the
        cross-entropy over the labelled cells plus the penalty on δ. `gates` (B, T) say how much of each token is there,
        for explanations by gradient. While training the word part, fitted on its own, is left out; the loss never
        counts it.
        """
        text = {"input_ids": input_ids} if gates is None else \
            {"inputs_embeds": self.encoder.get_input_embeddings()(input_ids) * gates[..., None]}
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        states = self.encoder(**text, attention_mask=attention_mask, **types).last_hidden_state    # (B, T, H)
        heads = self.compute_heads().to(states.dtype)                                               # (D, 4, H)
        scale = states.shape[-1] ** -0.5
        match = torch.einsum("bth,dh->bdt", self.key(states), heads[:, 0]) * scale
        match = match.masked_fill(attention_mask[:, None] == 0, float("-inf"))
        attention = match.float().softmax(-1).to(states.dtype)                      # of each value to each token
        answer = torch.einsum("bdt,bth->bdh", attention, self.value(states))
        answer = self.dropout(nn.functional.gelu(self.norm(answer + mean_pool(states, attention_mask)[:, None])))
        logits = torch.einsum("bdh,dch->bdc", answer, heads[:, 1:]) * scale
        logits = logits.float() + self.delta_bias * self.labelled[:, None]
        loss = {} if labels is None else {"loss": self._loss(logits, labels)}
        if self.words is not None and not self.training:
            logits = self.words(logits, input_ids, attention_mask, gates)
        return loss | {"logits": logits / self.temperature[:, None]}

    def fit_words(self, prompts: Sequence[str], responses: Sequence[str], labels: np.ndarray,
                  weights: np.ndarray) -> None:
        """Fit the word part, if there is one, to N pairs with labels (N, D) (nan = none) and weights (N,)."""
        if self.words is None or not len(prompts):
            return
        self.words.fit([pair["input_ids"] for pair in self.render(prompts, responses)], labels, weights)

    def render(self, prompts: Sequence[str], responses: Sequence[str]) -> list[dict[str, list[int]]]:
        """Render N pairs as `render` does."""
        return [render(p, r, self.tokenizer, self.config.max_length) for p, r in zip(prompts, responses, strict=True)]

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        cross_entropy = -(labels * logits.log_softmax(-1)).sum() / labels.sum().clamp(min=1e-9)
        return cross_entropy + self.config.delta_penalty * self.delta.square().sum() / len(self.delta)

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
        for rows in iterate_buckets([len(r["input_ids"]) for r in rendered], batch_size, progress, "scoring"):
            batch = pad_pairs([rendered[r] for r in rows], self.tokenizer, self.device)
            probabilities[rows] = self(**batch)["logits"].double().softmax(-1).cpu().numpy()
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

        A dimension with the same name and definition keeps its δ and its calibration; any other is scored from its
        definition alone.

        >>> from fulcra_utils.evaluator.encoder import load_encoder
        >>> evaluator = make_evaluator(load_encoder("tiny"), load_theory("schwartz10"))
        >>> evaluator.for_theory("schwartz19").score(["May I lie?"], ["Better not."]).shape
        (1, 19)
        """
        theory, config = load_theory(theory), copy.deepcopy(self.config)
        own = list(zip(self.dimensions, self.config.definitions, strict=True))
        places = [own.index(key) if key in own else None
                  for key in zip(theory.dimensions, theory.definitions, strict=True)]
        there, here = [d for d, k in enumerate(places) if k is not None], [k for k in places if k is not None]
        config.update(_describe_theory(theory))
        for name, neutral in NEUTRAL.items():
            if values := getattr(self.config, name):
                setattr(config, name, [neutral if k is None else values[k] for k in places])
        other, mine = ValueEvaluator(config), self.state_dict()
        other._attach(theory, self.tokenizer)
        other.labelled[:] = False
        for name, theirs in other.state_dict().items():
            if name in PER_VALUE:
                theirs.movedim(PER_VALUE[name], 0)[there] = mine[name].cpu().movedim(PER_VALUE[name], 0)[here]
            elif not name.startswith("definition_"):
                theirs.copy_(mine[name])
        return other.to(self.device).eval()

    def _attach(self, theory: Theory, tokenizer) -> None:
        """Keep the tokenizer and the tokens of the definitions."""
        texts = [f"{name.replace('-', ' ')}: {text}" for name, text in
                 zip(theory.dimensions, theory.definitions, strict=True)]
        tokens = pad_pairs([tokenizer(text, truncation=True, max_length=64) for text in texts], tokenizer)
        self.definition_ids, self.definition_mask = tokens["input_ids"], tokens["attention_mask"]
        self.config.definition_tokens = self.definition_ids.shape[1]
        self.tokenizer, self._theory_path = tokenizer, theory.path

    def save_pretrained(self, folder: str | Path, **kwargs) -> None:
        """Save weights (safetensors), config, tokenizer and theory file to a folder."""
        with quiet_loading():
            super().save_pretrained(folder, **kwargs)
        self.tokenizer.save_pretrained(folder)
        target = Path(folder) / "theory.yaml"
        if self._theory_path.is_file() and self._theory_path != target:
            shutil.copyfile(self._theory_path, target)

    @classmethod
    def from_pretrained(cls, folder: str | Path, theory: Theory | str | None = None, **kwargs) -> ValueEvaluator:
        """Load an evaluator from a folder, in evaluation mode; with `theory`, one that must score its dimensions.

        EvaluatorError when the folder is no evaluator, holds only pickled weights or weights that are not finite, or
        the evaluator is one of another theory.
        """
        folder = Path(folder)
        config = read_config(folder)
        wanted = theory and load_theory(theory)
        if wanted and tuple(config["dimensions"]) != wanted.dimensions:
            raise EvaluatorError(f"The evaluator in {folder} scores the theory {config['theory_name']!r}, not "
                                 f"{wanted.name!r}; use evaluator.for_theory to score by definitions alone.")
        try:
            with quiet_loading():
                model = super().from_pretrained(folder, use_safetensors=True, trust_remote_code=False, **kwargs)
            model.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:
            raise EvaluatorError(f"The evaluator in {folder} cannot be read: {str(error).splitlines()[0]}") from error
        bad = next((n for n, p in model.state_dict().items() if p.is_floating_point() and not p.isfinite().all()), None)
        if bad:
            raise EvaluatorError(f"The evaluator in {folder} has weights that are not finite numbers ({bad}).")
        model._theory_path = folder / "theory.yaml"
        return model.eval()


def _describe_theory(theory: Theory) -> dict:
    return {"theory_name": theory.name, "dimensions": list(theory.dimensions), "definitions": list(theory.definitions)}


def make_evaluator(encoder: Encoder, theory: Theory, max_length: int = 256, delta_penalty: float = 1e-3,
                   seed: int = 2023, word_buckets: int = 0) -> ValueEvaluator:
    """Make an untrained evaluator on top of a copy of an encoder's weights.

    `max_length` tokens a prompt and a reply may have together, `delta_penalty` weighs the squared δ in the loss, `seed`
    is that of the heads, `word_buckets` are for pairs of word pieces (0 = no word part).

    >>> from fulcra_utils.evaluator.encoder import load_encoder
    >>> make_evaluator(load_encoder("tiny"), load_theory("schwartz10")).delta.shape
    torch.Size([10, 4, 64])
    """
    encoder_config = encoder.model.config.to_dict()
    if "attention_probs_dropout_prob" in encoder_config:  # dropout there keeps a CPU off its fast attention kernel
        encoder_config["attention_probs_dropout_prob"] = 0.0
    config = ValueEvaluatorConfig(encoder_config=encoder_config, max_length=max_length, delta_penalty=delta_penalty,
                                  word_buckets=word_buckets, **_describe_theory(theory))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        evaluator = ValueEvaluator(config)
    evaluator.encoder.load_state_dict(encoder.model.state_dict(), strict=False)     # without the pooler
    evaluator._attach(theory, encoder.tokenizer)
    return evaluator.eval()


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


def render(prompt: str, response: str, tokenizer, max_length: int = 256) -> dict[str, list[int]]:
    """Render a prompt and a reply as the evaluator's input, the only way in.

    A prompt takes at most half of `max_length`; both texts are cut in the middle, so that the start and the end of a
    long reply are read.
    differs from upstream: the released code cuts the end of the reply and the instruction behind it.

    >>> from fulcra_utils.evaluator.encoder import load_encoder
    >>> tokenizer = load_encoder("tiny").tokenizer
    >>> pair = render("be kind", "one two three four five six", tokenizer, max_length=9)
    >>> tokenizer.decode(pair["input_ids"])
    '[CLS] be kind [SEP] one two five six [SEP]'
    """
    start, end = _marker(tokenizer, "cls", "bos"), _marker(tokenizer, "sep", "eos")
    room = max_length - len(start) - 2 * len(end)
    first = _fit(prompt, tokenizer, max_length, max(room // 2, 1))
    second = _fit(response, tokenizer, max_length, max(room - len(first), 1))
    left, right = [*start, *first, *end], [*second, *end]
    pair = {"input_ids": left + right, "attention_mask": [1] * (len(left) + len(right))}
    if "token_type_ids" in tokenizer.model_input_names:
        pair["token_type_ids"] = [0] * len(left) + [1] * len(right)
    return pair


def _marker(tokenizer, *names: str) -> list[int]:
    """Return the first special token that the tokenizer has, as a list of one id, or an empty list."""
    return [i for name in names if (i := getattr(tokenizer, f"{name}_token_id", None)) is not None][:1]


def _fit(text: str, tokenizer, max_length: int, room: int) -> list[int]:
    """Return at most `room` token ids of a text, its middle left out."""
    text, reach = text.strip(), CHARS_PER_TOKEN * max_length
    if len(text) > 2 * reach:
        text = f"{text[:reach]} {text[-reach:]}"
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids if len(ids) <= room else ids[:(room + 1) // 2] + ids[len(ids) - room // 2:]


def pad_pairs(pairs: Sequence[dict[str, list[int]]], tokenizer, device: torch.device | str = "cpu") -> dict:
    """Pad rendered pairs to tensors of shape (B, T)."""
    longest = max(len(pair["input_ids"]) for pair in pairs)
    filler = {"input_ids": tokenizer.pad_token_id or 0}
    return {name: torch.tensor([pair[name] + [filler.get(name, 0)] * (longest - len(pair[name])) for pair in pairs],
                               device=device)
            for name in pairs[0] if name != "labels"}

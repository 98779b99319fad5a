"""The text encoder: bundled, tiny or from the hub; embeddings.

Choices: one small `Encoder` record instead of a class hierarchy; safetensors only, never remote code; mean
pooling over the tokens, then unit length, as the bundled encoder was trained; texts run in batches of similar length.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fulcra_utils.common.loading import quiet_loading
from fulcra_utils.common.paths import DATA
from fulcra_utils.common.weights import find_minilm, find_mpnet, find_smollm2
from fulcra_utils.dataset.texts import list_texts

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SMOLLM2_LAYERS = 24    # of 30: what is above them is not needed to read values
SMALL = 5_000_000      # weights; a model of so few reads faster than the disk
BUNDLED = {"bundled": find_minilm, "smollm2": find_smollm2, "mpnet": find_mpnet}


class EncoderError(ValueError):
    """An encoder cannot be loaded or its weights are not the expected ones."""


@dataclass(frozen=True, repr=False)
class Encoder:
    """A text encoder with its tokenizer; the model gives `last_hidden_state` (B, T, H)."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def width(self) -> int:
        """Return H, the number of components of an embedding."""
        return self.model.config.hidden_size


def load_encoder(name: str | Path = "bundled", revision: str | None = None, seed: int = 0) -> Encoder:
    """Load a text encoder: "bundled", "mpnet", "smollm2", "tiny", a folder, or a name on the hub.

    "bundled" is all-MiniLM-L6-v2, "mpnet" the larger all-mpnet-base-v2, "smollm2" the lower 24 layers of the language
    model SmolLM2-135M-Instruct (all three `common.weights`); "tiny" a small BERT with random weights by `seed`, for
    tests. `revision` is that of a hub name, None = its main branch. WeightsError when those weights cannot be had or
    are not the expected ones, EncoderError when others cannot, or are no safetensors.

    >>> load_encoder("tiny").width
    64
    """
    if name == "tiny":
        return _make_tiny_encoder(seed)
    from transformers import AutoModel, AutoTokenizer
    source, asked = name, {"revision": revision, "trust_remote_code": False}
    if name in BUNDLED:
        source, asked["revision"] = BUNDLED[name](), None
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **asked)
        # float32 whatever the checkpoint stores: training small heads in half precision loses the updates
        with quiet_loading():
            model = AutoModel.from_pretrained(source, use_safetensors=True, dtype="float32", **asked)
    except (OSError, ValueError, KeyError) as error:
        raise EncoderError(f"The encoder {str(name)!r} cannot be loaded as safetensors from {source}: "
                           f"{str(error).splitlines()[0]}") from error
    if name == "smollm2":
        model.layers, model.config.num_hidden_layers = model.layers[:SMOLLM2_LAYERS], SMOLLM2_LAYERS
    return Encoder(model.eval(), tokenizer)


def _make_tiny_encoder(seed: int) -> Encoder:
    """Make a small BERT with random weights and a word-piece tokenizer; needs no file from outside."""
    import torch
    from transformers import BertConfig, BertModel
    tokenizer = make_tiny_tokenizer()
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=2, num_attention_heads=2,
                        intermediate_size=128, max_position_embeddings=512)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Encoder(BertModel(config, add_pooling_layer=False).eval(), tokenizer)


def make_tiny_tokenizer() -> PreTrainedTokenizerBase:
    """Make a lower-case word-piece tokenizer from the sample's and the theories' commonest words; the rest is spelled.

    >>> make_tiny_tokenizer().tokenize("zzq")
    ['z', '##z', '##q']
    """
    from transformers import BertTokenizer
    chars = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    vocab = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *chars, *(f"##{c}" for c in chars),
                           *_common_words()[:2000]])
    return BertTokenizer(dict(zip(vocab, range(len(vocab)), strict=True)), model_max_length=512)


def _common_words() -> list[str]:
    """Return the theories' words, then those of the embedded sample, by count and alphabet."""
    lines = [line for path in sorted(DATA.glob("sample/*.jsonl")) for line in path.read_text("utf-8").splitlines()]
    counts = Counter(word for line in lines for word in _words(json.loads(line).get("dialogue", "")))
    theories = [word for path in sorted(DATA.glob("theories/*.yaml")) for word in _words(path.read_text("utf-8"))]
    return list(dict.fromkeys([*theories, *sorted(counts, key=lambda word: (-counts[word], word))]))


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]{2,}", text.casefold())


def embed(texts: Sequence[str], encoder: Encoder, batch_size: int = 64, progress: bool = False,
          max_length: int = 256) -> np.ndarray:
    """Embed N texts as mean-pooled unit vectors, (N, H) float32.

    As in the card of all-MiniLM-L6-v2. An empty text is embedded like any other (its special tokens only); `max_length`
    tokens of each text are kept, from its start. EncoderError, with its place, for an element that is no string.

    >>> vectors = embed(["be honest", "be daring"], load_encoder("tiny"))
    >>> vectors.shape, bool(abs(np.linalg.norm(vectors[1]) - 1) < 1e-6)
    ((2, 64), True)
    """
    import torch
    texts = list_texts(texts, "Text", EncoderError)
    vectors = np.zeros((len(texts), encoder.width), dtype=np.float32)
    if not texts:
        return vectors
    ids = encoder.tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]
    for rows in iterate_buckets([len(i) for i in ids], batch_size, progress, "embedding"):
        batch = encoder.tokenizer.pad({"input_ids": [ids[r] for r in rows]}, return_tensors="pt")
        with torch.inference_mode():
            states = encoder.model(**batch.to(encoder.model.device)).last_hidden_state
        pooled = torch.nn.functional.normalize(mean_pool(states, batch["attention_mask"]), dim=-1)
        vectors[rows] = pooled.float().cpu().numpy()
    return vectors


def has_bf16() -> bool:
    """Return whether the processor that trains has bfloat16 in hardware."""
    import torch
    on_cpu = not torch.cuda.is_available()
    return bool(torch.cpu._is_avx512_bf16_supported()) if on_cpu else torch.cuda.is_bf16_supported()


def is_read_in_half(model: PreTrainedModel) -> bool:
    """Return whether a model that only reads does so with products in bfloat16: a large one where the hardware has it.

    3.7 times as fast on one core; what passes from layer to layer stays float32, so that features move by 1 % of their
    spread over texts. Scores of two machines may therefore differ in the second decimal.
    """
    return model.num_parameters() > SMALL and model.device.type in ("cpu", "cuda") and has_bf16()


def iterate_buckets(lengths: Sequence[int], batch_size: int, progress: bool = False,
                    label: str = "") -> Iterable[list[int]]:
    """Give the row numbers of batches of similar length, the longest first: what does not fit into memory fails at
    once.

    >>> list(iterate_buckets([3, 9, 5], batch_size=2))
    [[1, 2], [0]]
    """
    from tqdm import tqdm
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable").tolist()
    for start in tqdm(range(0, len(order), batch_size), desc=label, unit="batch", disable=not progress):
        yield order[start:start + batch_size]


def mean_pool(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Average token states (B, T, H) over the tokens that are no padding (mask 1), (B, H).

    >>> import torch
    >>> mean_pool(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[1, 1, 0]]))
    tensor([[2.]])
    """
    weights = mask.unsqueeze(-1).to(states.dtype)   # (B, T, 1)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1e-9)

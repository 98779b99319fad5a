"""CTranslate2 (extra `fast`), where it is installed: replies from fixed weights, a batch on each core.

Two workers sampled SmolLM2-135M's replies 2.4 times as fast as torch, in turn on the same two busy cores. In float32
they draw from the same distribution (KL 2e-9 nats a token); int8 is faster by half again, but moves the mean log
likelihood of a reply by .059 nats a token (KL .075), more than the .05 that was allowed. A policy under training
generates with torch; so do small models, those of another kind, and any on a GPU.
"""

import shutil
import tempfile
import weakref
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from os.path import commonprefix
from pathlib import Path
from threading import Lock

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fulcra_utils.llm.tiny import save_policy

LEAST = 50_000_000      # parameters of a model that is worth the seconds of its conversion
SHARED = 64             # tokens with which all texts of a batch begin, from which they are read once
BATCH = 48              # replies at once on a core: enough batches for several cores
KINDS = ("llama",)      # of models whose conversion is tested here


def name_engine() -> str:
    """Return what samples from fixed weights here, with its version: part of the key of every kept reply."""
    try:
        return f"ctranslate2 {version('ctranslate2')}"
    except PackageNotFoundError:
        return "torch"


def can_sample_fast(model: PreTrainedModel) -> bool:
    """Return whether CTranslate2 samples from a model here."""
    return (name_engine() != "torch" and model.device.type == "cpu" and model.config.model_type in KINDS
            and model.num_parameters() >= LEAST)


class FastSampler:
    """A model converted into a folder of its own, which goes when the sampler goes; `ends` end a reply."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ends: Sequence[int]):
        from ctranslate2.converters import TransformersConverter

        self.tokenizer, self.ends, self.folder = tokenizer, list(ends), Path(tempfile.mkdtemp(prefix="fulcra-"))
        self.seeding = Lock()   # the library's seed is one for the whole process
        weakref.finalize(self, shutil.rmtree, self.folder, True)
        saved, converted = self.folder / "saved", self.folder / "converted"
        save_policy(model, tokenizer, saved)
        TransformersConverter(str(saved)).convert(str(converted), quantization="float32")
        shutil.rmtree(saved)

    def sample(self, ids: Sequence[Sequence[int]], max_new_tokens: int, temperature: float,
               seed: int) -> list[list[int]]:
        """Return sampled tokens behind each text, end included; the same batch and seed give the same, on one core."""
        import ctranslate2

        texts = [self.tokenizer.convert_ids_to_tokens(list(one)) for one in ids]
        n = len(commonprefix([text[:-1] for text in texts]))
        n = n if n >= SHARED else 0     # a long system prompt is read once
        options = {"sampling_topk": 0, "sampling_temperature": temperature, "include_prompt_in_result": False,
                   "end_token": self.ends, "return_end_token": True}
        with self.seeding:      # a worker is born with its first text and keeps the seed that stands then
            ctranslate2.set_random_seed(seed)
            worker = ctranslate2.Generator(str(self.folder / "converted"), compute_type="float32", intra_threads=1)
            worker.generate_batch([texts[0][:1]], max_length=1, **options)
        options["static_prompt"] = texts[0][:n] or None
        made = worker.generate_batch([text[n:] for text in texts], max_length=max_new_tokens, **options)
        return [one.sequences_ids[0] for one in made]

"""Language models on this machine: loaded, identified, sampled, measured, and made to choose.

One goes by the path of a folder, by a hub name, or by `SMOLLM2`: SmolLM2-135M-Instruct, which comes in a package.
"""

import copy
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import takewhile
from os.path import commonprefix
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from fulcra_utils.common.digests import digest
from fulcra_utils.common.files import write_folder, write_text
from fulcra_utils.common.loading import hash_file, quiet_loading
from fulcra_utils.common.weights import WeightsError, find_smollm2
from fulcra_utils.common.workers import map_batches, shape_batches
from fulcra_utils.dataset.texts import list_texts
from fulcra_utils.llm.branches import Branches, PolicyError, Reader, read_logits
from fulcra_utils.llm.fast import BATCH, FastSampler, can_sample_fast
from fulcra_utils.llm.tiny import make_random_model

SMOLLM2, TINY = "smollm2-135m", "tiny"
READ = (".safetensors", ".bin", ".json", ".jinja", ".txt", ".model")  # files of a model's folder that shape it, ...
NOTES = ("align.json",)  # ... and those that only tell of it


def load_policy(model: str | Path | PreTrainedModel, chat_template: str | None = None, revision: str = "main",
                is_bare: bool = False) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer, by `SMOLLM2`, folder or hub name (and revision), to be aligned.

    Weights are read from safetensors alone; a folder's adapter (PEFT) is merged into its base. The tokenizer pads on
    the left; a missing pad token is replaced by the eos token, a missing chat template by `chat_template` (Jinja).
    PolicyError when it is no causal language model, has no eos token, or no chat template and none is given; one that
    `is_bare`, only to be sampled, may lack all three.

    Examples
    --------
    >>> import tempfile
    >>> from fulcra_utils.llm.tiny import make_random_model
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model, tokenizer = load_policy(make_random_model(folder))
    >>> model.training, tokenizer.padding_side
    (False, 'left')
    """
    tokenizer = load_tokenizer(model, chat_template, revision, is_bare)
    with quiet_loading(), one_line(model):
        model = find_model(model)
        base = _find_base(model)
        loaded = AutoModelForCausalLM.from_pretrained(find_model(base or model), revision=revision,
                                                      use_safetensors=not is_bare or None)
        if base:
            from peft import PeftModel
            loaded = PeftModel.from_pretrained(loaded, str(model)).merge_and_unload()
    return loaded.eval(), tokenizer


def _find_base(model: str | Path) -> str:
    """Return the model to which a folder with an adapter (PEFT) belongs, "" for any other model."""
    adapter = Path(model) / "adapter_config.json"
    return json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"] if adapter.is_file() else ""


def load_tokenizer(model: str | Path, chat_template: str | None = None, revision: str = "main",
                   is_bare: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a causal language model, as `load_policy` does."""
    with one_line(model):
        tokenizer = AutoTokenizer.from_pretrained(find_model(model), padding_side="left", revision=revision)
    if tokenizer.eos_token_id is None and not is_bare:
        raise PolicyError(f"{model}: the tokenizer has no eos token, so a reply could never end.")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.chat_template = tokenizer.chat_template or chat_template
    if not tokenizer.chat_template and not is_bare:
        raise PolicyError(f"{model}: the tokenizer has no chat template; give one as chat_template.")
    return tokenizer


def find_model(model: str | Path) -> str | Path:
    """Return where a model lies: the folder of `SMOLLM2`, which is converted the first time; others as they are."""
    return find_smollm2() if str(model) == SMOLLM2 else model


def list_policies(plan: Path) -> list[Path]:
    """Return the folders of the models that notebook 04 aligned to their end, in the order of its plan.

    Folders that another plan left beside them do not count; without a plan all do, in the order of the alphabet.
    """
    names = json.loads(plan.read_text(encoding="utf-8")) if plan.is_file() else sorted(
        path.parent.name for path in plan.parent.glob("*/align.json"))
    folders = [plan.parent / name for name in names]
    return [path for path in folders if (path / "align.json").is_file() and (path / "config.json").is_file()]


def place_start(model: str | Path, folder: str | Path, seed: int = 0) -> Path | str:
    """Put the model from which alignment starts into a run's folder, and return where it lies.

    "tiny" has random weights; the files of `SMOLLM2` are linked, or copied where they cannot be; a folder or a hub name
    stays where it is.
    """
    if model == TINY:
        return make_random_model(folder, seed)
    if str(model) != SMOLLM2:
        return model
    with one_line(model), write_folder(folder) as new:
        for file in find_smollm2().iterdir():
            try:
                os.link(file, new / file.name)
            except OSError:     # another disk
                shutil.copy(file, new)
    return Path(folder)


def hash_model(model: str | Path, revision: str = "main") -> str:
    """Return what tells a model from any other: a hash of all files of its folder, or hub name and commit.

    PolicyError when the commit cannot be looked up.
    """
    with one_line(model):
        model = find_model(model)
    if Path(model).is_dir():
        base = _find_base(model)
        return digest([(path.name, hash_file(path)) for path in sorted(Path(model).iterdir())
                       if path.suffix in READ and path.name not in NOTES], *([hash_model(base)] if base else []))
    with one_line(model):
        return f"{model}@{AutoConfig.from_pretrained(model, revision=revision)._commit_hash}"


def keep_short_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], max_tokens: int) -> list[str]:
    """Return the prompts that take at most `max_tokens` tokens under the chat template; PolicyError when none does.

    >>> from fulcra_utils.llm.tiny import train_tokenizer
    >>> keep_short_prompts(train_tokenizer(["be kind"], 300), ["be kind", "be kind " * 50], 16)
    ['be kind']
    """
    lengths = [len(ids) for ids in encode_prompts(tokenizer, prompts)]
    kept = [p for p, n in zip(prompts, lengths, strict=True) if n <= max_tokens]
    if not kept:
        raise PolicyError(f"none of {len(lengths)} prompts fits into {max_tokens} tokens.")
    return kept


@torch.no_grad()
def sample_replies(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str],
                   max_new_tokens: int = 48, seed: int = 0, temperature: float = 1.0, batch_size: int = 128,
                   system: str | None = None, keep: str | Path | None = None) -> pd.DataFrame:
    """Sample one reply for each prompt; the same seed gives the same replies.

    Temperature 1 samples from the model itself, as training does. The N rows, in the order of the prompts, have prompt,
    response (text without special tokens), prompt_ids, reply_ids (end included) and is_finished (the reply ended by
    itself within `max_new_tokens`). `keep` is a file for this very sampling: each batch is written there when it is
    made, and what stands there is not sampled again, so one that was stopped goes on and ends as it would have.

    Examples
    --------
    >>> import tempfile
    >>> from fulcra_utils.llm.tiny import make_random_model
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model, tokenizer = load_policy(make_random_model(folder))
    >>> replies = sample_replies(model, tokenizer, ["Hi", "Why?"], max_new_tokens=5)
    >>> replies.prompt.tolist(), bool((replies.reply_ids.str.len() <= 5).all())
    (['Hi', 'Why?'], True)
    """
    model.eval()
    prompts, ends = list_texts(prompts, "Prompt"), list_ends(model, tokenizer)
    ids, done = encode_prompts(tokenizer, prompts, system), _read_batches(keep)
    order = np.argsort([len(i) for i in ids], kind="stable")
    bar = tqdm(total=len(order), initial=len(done), desc="sample", unit="reply", leave=False)
    n_tokens, began = 0, time.monotonic()
    fast = FastSampler(model, tokenizer, ends) if len(order) > len(done) and can_sample_fast(model) else None
    batch_size = min(batch_size, BATCH) if fast else batch_size

    def draw(start: int) -> list[list[int]]:
        some = [ids[row] for row in order[start:start + batch_size]]
        if fast:
            return fast.sample(some, max_new_tokens, temperature, seed + start)
        torch.manual_seed(seed + start)
        with sample_plain(model):
            made = generate(model, tokenizer, some, max_new_tokens=max_new_tokens, temperature=temperature)
        lengths = [next((n for n, token in enumerate(reply, 1) if token in ends), None) for reply in made]
        return [reply[:n] for reply, n in zip(made, lengths, strict=True)]

    starts = range(len(done), len(order), batch_size)
    for start, made in map_batches(draw, starts) if fast else ((start, draw(start)) for start in starts):
        if keep:
            Path(keep).parent.mkdir(parents=True, exist_ok=True)
            with Path(keep).open("a", encoding="utf-8") as file:
                file.write(f"{json.dumps([start, made])}\n")
        done, n_tokens = done + made, n_tokens + sum(map(len, made))
        bar.update(len(made))
        bar.set_postfix_str(f"{n_tokens / (time.monotonic() - began):.0f} tokens a second")
    bar.close()
    replies = [done[place] for place in np.argsort(order)]
    return pd.DataFrame({
        "prompt": prompts, "response": [read_reply(model, tokenizer, r) for r in replies],
        "prompt_ids": ids, "reply_ids": replies, "is_finished": [bool({*r[-1:]} & {*ends}) for r in replies]})


def list_ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that end a reply: the tokenizer's, and others that the model's own settings name.

    Models often end a turn by another token than a text, and behind it write the next turn themselves.
    """
    own = model.generation_config.eos_token_id
    return [end for end in dict.fromkeys([tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])])
            if end is not None]


def read_reply(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Return the text of a reply up to its first end, without special tokens."""
    ends = list_ends(model, tokenizer)
    told = takewhile(lambda token: token not in ends, ids)
    return tokenizer.decode(list(told), skip_special_tokens=True).strip()


def _read_batches(keep: str | Path | None) -> list[list[int]]:
    """Return the replies that stand in whole lines of a file, each [number of its first reply, replies].

    Half a line, of a process that was killed, is cut off; a line out of turn, of a second process, is passed over.
    """
    if not keep or not Path(keep).is_file():
        return []
    whole = Path(keep).read_text(encoding="utf-8").rpartition("\n")
    write_text(keep, whole[0] + whole[1])
    done: list[list[int]] = []
    for line in whole[0].splitlines():
        with suppress(ValueError, TypeError):   # no such pair
            start, made = json.loads(line)
            done += made if start == len(done) else []
    return done


def score_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[tuple[list[int], int]],
                 temperature: float = 1.0, is_half: bool = False) -> np.ndarray:
    """Return the log probability (N,) of each reply given its prompt: natural, summed over the reply's tokens.

    `texts` are token ids of prompt and reply with the place where the reply begins; `temperature` is that of the
    sampling. What all prompts begin with is read once. `is_half` takes products in bfloat16 (`is_read_in_half`): faster
    and some tenths of a nat off, and every prompt is read whole.
    """
    model.eval()
    sums = np.zeros(len(texts))
    lengths = np.array([len(ids) for ids, _ in texts], int)
    order = np.argsort(lengths, kind="stable")
    # in bfloat16 a text read in parts, or with another number of logits, would differ in the last digits
    n_shared = 0 if is_half else len(commonprefix([ids[:max(start - 1, 0)] for ids, start in texts]))

    @torch.no_grad()
    def read(batch: tuple[list[int], int]) -> np.ndarray:
        rows, width = batch
        ids, labels = pad_texts([(texts[r][0][n_shared:], texts[r][1] - n_shared) for r in rows],
                                tokenizer.pad_token_id)
        beyond = 0, max(width - ids.shape[1], 0)
        ids = torch.nn.functional.pad(ids, beyond, value=tokenizer.pad_token_id).to(model.device)
        labels = torch.nn.functional.pad(labels, beyond, value=-100).to(model.device)
        first = 0 if is_half else max(min(texts[r][1] for r in rows) - 1 - n_shared, 0)     # before it nothing is told
        before = copy.deepcopy(kept)
        if n_shared:
            before.batch_repeat_interleave(len(rows))
        with torch.autocast(model.device.type, torch.bfloat16, enabled=is_half):      # of this thread alone
            logits = model(input_ids=ids, attention_mask=ids.new_ones(len(rows), n_shared + ids.shape[1]),
                           past_key_values=before, logits_to_keep=ids.shape[1] - first).logits[:, :-1]
        labels = labels[:, first + 1:]
        is_reply = labels != -100
        loss = torch.nn.functional.cross_entropy(logits[is_reply].float() / temperature, labels[is_reply],
                                                 reduction="none")
        return -torch.zeros(labels.shape, device=loss.device).masked_scatter(is_reply, loss).sum(dim=1).cpu().numpy()

    with torch.no_grad():
        shared = torch.tensor([texts[0][0][:n_shared]], device=model.device) if n_shared else None
        kept = model.base_model(input_ids=shared, use_cache=True).past_key_values if n_shared else None
    batches = shape_batches(lengths) if is_half else [(order[k:k + 32], 0) for k in range(0, len(order), 32)]
    for (rows, _), found in map_batches(read, batches):
        sums[rows] = found
    return sums


def compare_prefixes(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prefixes: Sequence[str],
                     others: Sequence[str], texts: Sequence[str], max_tokens: int | None = None,
                     is_half: bool = False) -> np.ndarray:
    """Return by how much likelier each text, its first `max_tokens`, is behind its prefix than behind the other, (N,).

    Log odds over the root of the number of tokens, as a sum of as many independent ones grows; 0 for an empty text.
    `is_half` as for `score_tokens`.
    """
    heads, tails = (tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"] if part else []
                    for part in ([*prefixes, *others], [f" {text}" if text else "" for text in texts]))
    tails = [tail[:max_tokens] for tail in tails]
    pairs = [(head + tail, len(head)) for head, tail in zip(heads, tails * 2, strict=True)]
    told = score_tokens(model, tokenizer, pairs, is_half=is_half).reshape(2, -1)
    return (told[0] - told[1]) / np.sqrt([max(len(tail), 1) for tail in tails])


@torch.inference_mode()
def choose(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, talks: Sequence[Sequence[dict[str, str]]],
           answers: Sequence[str], batch_size: int = 8, reader: Reader | None = None) -> np.ndarray:
    """Return the log probability (N, K), natural, with which each of K answers begins the reply to each of N talks.

    A talk is a list of chat messages, an answer one word or letter, known by its first token. Talks that begin alike
    and stand together, `batch_size` at a time, share the reading of what they have in common; a `reader` of the model
    shares it from call to call, one talk at a time. A small model prefers a
    letter whatever is asked, so the log probabilities of the same talk with nothing to choose are to be taken off
    (Zhao et al. 2021, Calibrate before use); how much falls on the answers in all is exp(…).sum(-1). PolicyError when
    two answers begin with the same token, or a talk does not fit into the model's context: none is cut.

    Examples
    --------
    >>> import tempfile
    >>> from fulcra_utils.llm.tiny import make_random_model
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     chat = load_policy(make_random_model(folder))
    >>> choose(*chat, [[{"role": "user", "content": "A or B?"}]], ["A", "B"]).shape
    (1, 2)
    """
    places = [tokenizer(answer, add_special_tokens=False)["input_ids"][0] for answer in answers]
    if len(set(places)) < len(places):
        raise PolicyError(f"two of the answers {', '.join(answers)} begin with the same token.")
    asked = [encode_talk(model, tokenizer, talk) for talk in talks]
    found = np.zeros((len(asked), len(places)))
    for start in range(0, len(asked), batch_size):
        some = asked[start:start + batch_size]
        ends = [*map(reader.read, some)] if reader else [*Branches(model, some).ends.values()]
        logs = read_logits(model, torch.cat(ends)).log_softmax(-1)
        found[start:start + batch_size] = logs[:, places].double().cpu().numpy()
    return found


def encode_talk(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, talk: Sequence[dict[str, str]],
                room: int = 1) -> list[int]:
    """Return the token ids of a talk up to where the reply begins; PolicyError unless `room` tokens fit behind it."""
    ids = tokenizer(render_talk(tokenizer, talk), add_special_tokens=False, verbose=False)["input_ids"]
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or float("inf")
    if len(ids) + room > context:
        raise PolicyError(f"the talk has {len(ids)} tokens and the reply up to {room}, but the model's context holds "
                          f"{context}.")
    return ids


@contextmanager
def one_line(model: str | Path) -> Iterator[None]:
    """Say in one line that a model cannot be loaded."""
    try:
        yield
    except WeightsError as error:
        raise PolicyError(f"{model}: {error}") from None
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise PolicyError(f"{model}: cannot be loaded as a causal language model: {first}") from None


def encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str],
                   system: str | None = None) -> list[list[int]]:
    """Return the token ids of each prompt under the chat template, up to where the reply begins."""
    before = [{"role": "system", "content": system}] if system else []
    texts = [render_talk(tokenizer, [*before, {"role": "user", "content": prompt}]) for prompt in prompts]
    return tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []


def render_talk(tokenizer: PreTrainedTokenizerBase, talk: Sequence[dict[str, str]]) -> str:
    """Return a talk under the chat template, up to where the reply begins; PolicyError where it says no system message.

    >>> from fulcra_utils.llm.tiny import train_tokenizer
    >>> render_talk(train_tokenizer(["be kind"], 300), [{"role": "user", "content": "Hi"}])
    '<|user|>Hi<|assistant|>'
    """
    text = tokenizer.apply_chat_template(list(talk), tokenize=False, add_generation_prompt=True)
    if any(turn["role"] == "system" and turn["content"].strip() not in text for turn in talk):
        raise PolicyError(f"{tokenizer.name_or_path or 'a model'}: the chat template leaves out system messages; put "
                          "the words before the prompt, or give another template.")
    return text


@contextmanager
def sample_plain(model: PreTrainedModel) -> Iterator[None]:
    """Let a model be sampled as it is, not as its folder asks for: else replies are not drawn from what is scored."""
    own = model.generation_config
    model.generation_config = GenerationConfig(do_sample=True, top_k=0, **{
        name: getattr(own, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")})
    try:
        yield
    finally:
        model.generation_config = own


@torch.no_grad()
def generate(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: list[list[int]],
             **options: Any) -> list[list[int]]:
    """Return the tokens that a model adds to each text, padding after the end (`list_ends`, unless `options` names
    others) included; the texts pad on the left.
    """
    options = {"eos_token_id": list_ends(model, tokenizer) or None} | options
    width, pad = max(map(len, ids)), tokenizer.pad_token_id
    rows = torch.tensor([[pad] * (width - len(i)) + i for i in ids], device=model.device)
    mask = torch.tensor([[0] * (width - len(i)) + [1] * len(i) for i in ids], device=model.device)
    return model.generate(input_ids=rows, attention_mask=mask, pad_token_id=pad, **options)[:, width:].tolist()


def pad_texts(texts: list[tuple[list[int], int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and labels (B, T), padded on the right, where causal attention never sees the padding."""
    told = [torch.tensor([-100] * start + ids[start:]) for ids, start in texts]
    return (pad_sequence([torch.tensor(ids) for ids, _ in texts], True, pad), pad_sequence(told, True, -100))

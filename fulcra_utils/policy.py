"""A small causal language model: tokenizer and model trained from scratch, sampled, and measured against n-grams.

Choices: byte-level BPE, so every text can be written; a small Llama (rotary positions, so left padding changes nothing;
no dropout, because reinforcement learning with dropout compares a noisy model with itself): on the replies of this
project it needs fewer bits than a GPT-NeoX of twice the weights with dropout, in half the time; the loss counts prompt
and reply; batches of similar length; one file per epoch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from fulcra_utils.common.digests import digest
from fulcra_utils.common.files import write_atomic
from fulcra_utils.dataset.rows import list_texts
from fulcra_utils.encoder import has_bf16, hash_file, quiet_loading

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
PAD, END = "<|pad|>", "<|end|>"
READ = (".safetensors", ".bin", ".json", ".jinja", ".txt", ".model")  # files of a model's folder that shape it, ...
NOTES = ("align.json", "start.json", "size.json")  # ... and those that only tell of it
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


class PolicyError(ValueError):
    """A language model, its tokenizer or its texts cannot be used; the message is one sentence."""


def train_tokenizer(texts: Sequence[str], vocab_size: int = 4096) -> PreTrainedTokenizerBase:
    """Train a byte-level BPE tokenizer with a chat template.

    Parameters
    ----------
    texts : sequence of str
    vocab_size : int
        Upper bound; at least 256 bytes and the special tokens.

    Returns
    -------
    PreTrainedTokenizerBase
        Pads on the left, ends a reply with its eos token, knows the roles system, user and assistant.

    Source: ours.

    Examples
    --------
    >>> tokenizer = train_tokenizer(["be kind", "be honest"], vocab_size=300)
    >>> tokenizer.decode(tokenizer("née ✓")["input_ids"])
    'née ✓'
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=2, show_progress=False, special_tokens=[PAD, END, *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token=PAD, eos_token=END, bos_token=END,
                                   additional_special_tokens=list(ROLES), chat_template=CHAT_TEMPLATE,
                                   padding_side="left", clean_up_tokenization_spaces=False)


def build_policy(
    tokenizer: PreTrainedTokenizerBase,
    layers: int = 4,
    width: int = 256,
    heads: int = 4,
    context: int = 256,
    seed: int = 0,
) -> PreTrainedModel:
    """Build a causal language model with random weights for a tokenizer.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
    layers, width, heads : int
        Size of the model; `width` is a multiple of `heads`.
    context : int
        Longest text in tokens.
    seed : int

    Returns
    -------
    PreTrainedModel
        On the CPU, in float32.

    Source: ours; sizes from the trial of a small model on two cores.

    Examples
    --------
    >>> model = build_policy(train_tokenizer(["be kind"], 300), layers=1, width=16, heads=2, context=32)
    >>> model.config.num_hidden_layers, model.config.hidden_size
    (1, 16)
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=heads, intermediate_size=8 * width // 3, max_position_embeddings=context,
        tie_word_embeddings=True, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id))


def encode_dialogues(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], responses: Sequence[str], context: int
) -> list[tuple[list[int], int]]:
    """Encode prompt and reply under the chat template, cut to the context.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
    prompts, responses : sequence of str, length N
    context : int
        Longest text in tokens.

    Returns
    -------
    list of (list of int, int)
        Token ids and the place where the reply begins. A prompt that leaves less than 8 tokens for the reply is left
        out, so the list may be shorter than N.

    Source: ours.

    Examples
    --------
    >>> tokenizer = train_tokenizer(["be kind"], 300)
    >>> ids, start = encode_dialogues(tokenizer, ["be"], ["kind"], 64)[0]
    >>> tokenizer.decode(ids[start:])
    'kind<|end|>'
    """
    if not prompts:
        return []
    heads = _ask(tokenizer, prompts)
    tails = tokenizer(list(responses), add_special_tokens=False)["input_ids"]
    return [((head + tail + [tokenizer.eos_token_id])[:context], len(head))
            for head, tail in zip(heads, tails, strict=True) if len(head) <= context - 8]


def train_policy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dialogues: list[tuple[list[int], int]],
    held_out: list[tuple[list[int], int]],
    folder: str | Path,
    epochs: int = 5,
    batch_tokens: int = 1024,
    learning_rate: float = 4e-3,
    seed: int = 0,
) -> pd.DataFrame:
    """Train a language model on dialogues; save the finished model as a `from_pretrained` folder.

    A started training of the same model on the same dialogues goes on from its last finished epoch; each epoch draws
    its random numbers from `seed` and the epoch, so an interrupted training ends in the same weights.

    Parameters
    ----------
    model : PreTrainedModel
        Trained in place.
    tokenizer : PreTrainedTokenizerBase
    dialogues, held_out : list of (list of int, int)
        From `encode_dialogues`; `held_out` is only measured.
    folder : str or Path
        Where the model and the tokenizer stand at the end.
    epochs : int
    batch_tokens : int
        Upper bound of tokens (with padding) in a batch.
    learning_rate : float
        Highest rate, reached after 5 % of the steps, then falling along a cosine to a tenth.
    seed : int

    Returns
    -------
    DataFrame
        One row for each epoch: epoch, train_loss (nats a token), held_out_bits (bits a byte of the replies).

    Raises
    ------
    PolicyError
        Without any dialogue.

    Source: ours.
    """
    if not dialogues:
        raise PolicyError("there is no dialogue to train the language model on.")
    folder = Path(folder)
    steps = epochs * len(_batches(dialogues, batch_tokens, seed))
    matrices, gains = ([p for p in model.parameters() if (p.dim() > 1) == kind] for kind in (True, False))
    optimizer = torch.optim.AdamW([{"params": matrices}, {"params": gains, "weight_decay": 0.0}], lr=learning_rate,
                                  betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: _warm_cosine(s, steps))
    key = digest(model, tokenizer, json.dumps([dialogues, held_out]), epochs, batch_tokens, learning_rate, seed)
    rows = _resume_epochs(folder / "epoch.pt", key, model, optimizer, schedule)
    for epoch in range(len(rows), epochs):
        torch.manual_seed(seed * 1000 + epoch)
        model.train()
        losses = [_train_step(model, dialogues, batch, tokenizer.pad_token_id, optimizer, schedule)
                  for batch in tqdm(_batches(dialogues, batch_tokens, seed * 1000 + epoch), desc=f"epoch {epoch + 1}")]
        bits = measure_bits(model, tokenizer, held_out) if held_out else np.nan
        rows.append({"epoch": epoch + 1, "train_loss": float(np.mean(losses)), "held_out_bits": bits})
        with write_atomic(folder / "epoch.pt") as tmp:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(),
                        "schedule": schedule.state_dict(), "rows": rows, "key": key}, tmp)
    save_policy(model, tokenizer, folder)
    (folder / "epoch.pt").unlink(missing_ok=True)
    return pd.DataFrame(rows)


def save_policy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> Path:
    """Save model and tokenizer as a folder for `from_pretrained`, with every dropout switched off.

    Parameters
    ----------
    model : PreTrainedModel
    tokenizer : PreTrainedTokenizerBase
    folder : str or Path

    Returns
    -------
    Path
        The folder; config.json is written last, so its presence means that the rest is whole.

    Source: ours.
    """
    folder = Path(folder)
    for name in [k for k in model.config.to_dict() if k.endswith("dropout")]:
        setattr(model.config, name, 0.0)
    model.eval()
    with quiet_loading():
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
    return folder


def load_policy(
    model: str | Path | PreTrainedModel, chat_template: str | None = None, revision: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer and check that both can be aligned.

    Parameters
    ----------
    model : str or Path
        A folder, or a name on the hub.
    chat_template : str, optional
        Jinja template for a tokenizer that has none.
    revision : str, optional
        Of a hub name.

    Returns
    -------
    (PreTrainedModel, PreTrainedTokenizerBase)
        The tokenizer pads on the left; a missing pad token is replaced by the eos token.

    Raises
    ------
    PolicyError
        Not a causal language model, no eos token, or no chat template and none given.

    Source: ours.
    """
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(model, chat_template, revision)
    with quiet_loading(), _one_line(model):
        loaded = AutoModelForCausalLM.from_pretrained(model, revision=revision or "main", use_safetensors=True)
    return loaded.eval(), tokenizer


def load_tokenizer(
    model: str | Path, chat_template: str | None = None, revision: str | None = None
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a causal language model, as `load_policy` does."""
    from transformers import AutoTokenizer

    with _one_line(model):
        tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left", revision=revision or "main")
    if tokenizer.eos_token_id is None:
        raise PolicyError(f"{model}: the tokenizer has no eos token, so a reply could never end.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.chat_template = tokenizer.chat_template or chat_template
    if not tokenizer.chat_template:
        raise PolicyError(f"{model}: the tokenizer has no chat template; give one as chat_template.")
    return tokenizer


def hash_model(model: str | Path, revision: str | None = None, config: PretrainedConfig | None = None) -> str:
    """Return what tells a model from any other: a hash of all files of its folder, or hub name and commit.

    The commit is that of `config` where the model has been loaded, else it is looked up.

    Raises
    ------
    PolicyError
        Neither a folder nor a name that can be looked up.
    """
    if Path(model).is_dir():
        return digest([(path.name, hash_file(path)) for path in sorted(Path(model).iterdir())
                       if path.suffix in READ and path.name not in NOTES])
    from transformers import AutoConfig

    with _one_line(model):
        config = config or AutoConfig.from_pretrained(model, revision=revision or "main")
    return f"{model}@{config._commit_hash}"


def keep_short_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], max_tokens: int) -> list[str]:
    """Return the prompts that take at most `max_tokens` tokens under the chat template, in their order.

    Raises
    ------
    PolicyError
        When none does.

    Examples
    --------
    >>> keep_short_prompts(train_tokenizer(["be kind"], 300), ["be kind", "be kind " * 50], 16)
    ['be kind']
    """
    lengths = [len(ids) for ids in _ask(tokenizer, prompts)]
    kept = [p for p, n in zip(prompts, lengths, strict=True) if n <= max_tokens]
    if not kept:
        raise PolicyError(f"none of {len(lengths)} prompts fits into {max_tokens} tokens.")
    return kept


@torch.no_grad()
def sample_replies(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int = 48,
    seed: int = 0,
    temperature: float = 1.0,
    batch_size: int = 64,
    system: str | None = None,
) -> pd.DataFrame:
    """Sample one reply for each prompt.

    Parameters
    ----------
    model : PreTrainedModel
    tokenizer : PreTrainedTokenizerBase
        Pads on the left.
    prompts : sequence of str, length N
    max_new_tokens : int
    seed : int
        Same seed, same replies.
    temperature : float
        1 samples from the model itself, as training does.
    batch_size : int
    system : str, optional
        System prompt put before each prompt.

    Returns
    -------
    DataFrame
        prompt, response (text without special tokens), prompt_ids, reply_ids (eos included), is_finished (the reply
        ended by itself); N rows in the order of the prompts.

    Source: ours.
    """
    model.eval()
    torch.manual_seed(seed)
    prompts = list_texts(prompts, "Prompt")
    ids = _ask(tokenizer, prompts, system)
    replies: list[list[int]] = [[] for _ in ids]
    order = np.argsort([len(i) for i in ids], kind="stable")
    for start in tqdm(range(0, len(order), batch_size), desc="sample", leave=False):
        rows = order[start:start + batch_size]
        for row, reply in zip(rows, _generate(model, tokenizer, [ids[r] for r in rows], max_new_tokens, temperature),
                              strict=True):
            replies[row] = reply
    responses = [tokenizer.decode(r, skip_special_tokens=True).strip() for r in replies]
    return pd.DataFrame({
        "prompt": list(prompts), "response": responses, "prompt_ids": ids, "reply_ids": replies,
        "is_finished": [bool(r) and r[-1] == tokenizer.eos_token_id for r in replies],
    })


@torch.no_grad()
def score_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[tuple[list[int], int]],
    batch_size: int = 64, temperature: float = 1.0
) -> np.ndarray:
    """Return the log probability of each reply given its prompt.

    Parameters
    ----------
    model : PreTrainedModel
    tokenizer : PreTrainedTokenizerBase
    texts : list of (list of int, int)
        Token ids of prompt and reply, and the place where the reply begins.
    batch_size : int
    temperature : float
        Of the sampling whose probabilities are asked for.

    Returns
    -------
    ndarray, shape (N,)
        Natural logarithm, summed over the tokens of the reply.

    Source: ours.
    """
    model.eval()
    sums = np.zeros(len(texts))
    order = np.argsort([len(ids) for ids, _ in texts], kind="stable")
    for start in range(0, len(order), batch_size):
        rows = order[start:start + batch_size]
        ids, labels = _pad([texts[r] for r in rows], tokenizer.pad_token_id, only_reply=True)
        ids, labels = ids.to(model.device), labels.to(model.device)
        logits = model(input_ids=ids, attention_mask=(ids != -1).long()).logits[:, :-1].float() / temperature
        loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels[:, 1:], reduction="none")  # (B, T - 1)
        sums[rows] = -loss.sum(dim=1).cpu().numpy()
    return sums


def measure_bits(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dialogues: list[tuple[list[int], int]]
) -> float:
    """Return the bits that a model needs for each byte of the replies, given their prompts.

    Parameters
    ----------
    model : PreTrainedModel
    tokenizer : PreTrainedTokenizerBase
    dialogues : list of (list of int, int)
        From `encode_dialogues`.

    Returns
    -------
    float
        Above 0; 8 for a model that knows nothing of bytes. The end token counts, its text does not.

    Source: ours; comparable between tokenizers.
    """
    return float(-score_tokens(model, tokenizer, dialogues).sum() / np.log(2) / count_bytes(tokenizer, dialogues))


def count_bytes(tokenizer: PreTrainedTokenizerBase, dialogues: list[tuple[list[int], int]]) -> int:
    """Return the number of UTF-8 bytes of the replies."""
    texts = tokenizer.batch_decode([ids[start:] for ids, start in dialogues], skip_special_tokens=True)
    return max(1, sum(len(t.encode()) for t in texts))


@contextmanager
def _one_line(model: str | Path) -> Iterator[None]:
    """Say in one line that a model cannot be loaded."""
    try:
        yield
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise PolicyError(f"{model}: cannot be loaded as a causal language model: {first}") from None


def _ask(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], system: str | None = None) -> list[list[int]]:
    """Return the token ids of each prompt under the chat template, up to where the reply begins."""
    before = [{"role": "system", "content": system}] if system else []
    texts = [tokenizer.apply_chat_template([*before, {"role": "user", "content": p}], tokenize=False,
                                           add_generation_prompt=True) for p in prompts]
    return tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []


def _generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: list[list[int]], n_new: int, temperature: float
) -> list[list[int]]:
    width = max(map(len, ids))
    rows = torch.tensor([[tokenizer.pad_token_id] * (width - len(i)) + i for i in ids], device=model.device)
    mask = torch.tensor([[0] * (width - len(i)) + [1] * len(i) for i in ids], device=model.device)
    out = model.generate(input_ids=rows, attention_mask=mask, max_new_tokens=n_new, do_sample=True, top_k=0, top_p=1.0,
                         temperature=temperature, pad_token_id=tokenizer.pad_token_id,
                         eos_token_id=tokenizer.eos_token_id)[:, width:].tolist()
    ends = [r.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in r else len(r) for r in out]
    return [r[:end] for r, end in zip(out, ends, strict=True)]


def _pad(texts: list[tuple[list[int], int]], pad: int, only_reply: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and labels (B, T), padded on the right, where causal attention never sees the padding."""
    width = max(len(ids) for ids, _ in texts)
    ids = torch.full((len(texts), width), pad)
    labels = torch.full((len(texts), width), -100)
    for row, (text, start) in enumerate(texts):
        ids[row, :len(text)] = torch.tensor(text)
        labels[row, start if only_reply else 1:len(text)] = ids[row, start if only_reply else 1:len(text)]
    return ids, labels


def _batches(dialogues: list[tuple[list[int], int]], batch_tokens: int, seed: int) -> list[list[int]]:
    """Return batches of row numbers: texts of similar length together, batches in random order."""
    rng = np.random.default_rng(seed)
    lengths = np.array([len(ids) for ids, _ in dialogues])
    order = np.argsort(lengths + rng.uniform(0, 16, len(lengths)), kind="stable")  # so that batches differ by epoch
    batches, batch, longest = [], [], 0
    for row in order:
        longest = max(longest, lengths[row])
        if batch and (len(batch) + 1) * longest > batch_tokens:
            batches.append(batch)
            batch, longest = [], lengths[row]
        batch.append(int(row))
    batches.append(batch)
    return [batches[i] for i in rng.permutation(len(batches))]


def _train_step(model, dialogues, batch, pad, optimizer, schedule) -> float:
    ids, labels = _pad([dialogues[r] for r in batch], pad, only_reply=False)
    # the weights stay float32; without bfloat16 in hardware autocast is many times slower than float32
    with torch.autocast(model.device.type, torch.bfloat16, enabled=has_bf16()):
        logits = model(input_ids=ids.to(model.device)).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels[:, 1:].flatten().to(model.device))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


def _warm_cosine(step: int, steps: int) -> float:
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.55 + 0.45 * math.cos(math.pi * min(1.0, (step - warm) / max(1, steps - warm)))


def _resume_epochs(path: Path, key: str, model, optimizer, schedule) -> list[dict]:
    state = torch.load(path, weights_only=True) if path.is_file() else {}
    if state.get("key") != key:
        return []
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    return state["rows"]

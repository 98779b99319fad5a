"""Replies behind a context, of models on this machine and behind endpoints; each context is drawn once and kept."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from fulcra_utils.common.digests import digest, digest_code
from fulcra_utils.common.files import write_table
from fulcra_utils.evaluator.encoder import has_bf16
from fulcra_utils.llm.branches import Branches
from fulcra_utils.llm.endpoints import Endpoint, EndpointError
from fulcra_utils.llm.local import PolicyError, encode_talk, hash_model, list_ends, load_policy, read_reply
from fulcra_utils.llm.replies import write_replies
from fulcra_utils.systems.context.examples import WORDS, Context

AXES = ("relevance", "clarity", "factuality", "depth", "detail")    # of quality, arXiv 2404.10552


def draw_in_contexts(policy: str | Path, contexts: Sequence[Context], asked: pd.DataFrame, folder: str | Path,
                     max_new_tokens: int, temperature: float, seed: int = 2023, chat_template: str | None = None,
                     is_half: bool = False, progress: bool = False) -> pd.DataFrame:
    """Let a local model answer prompts behind each context, which is read once for all of them.

    `asked` has prompt and response, somebody's real reply. One row a context and prompt: kind, k, repeat, row (number
    of the prompt), response, and nll_real, what a token of the real reply, cut to `max_new_tokens`, costs the model
    there (nats; nan without one). `is_half` computes in bfloat16 where the processor has it, several times faster.
    `folder` keeps each context's rows under a key of all that shapes them. PolicyError when context, prompt and reply
    do not fit into the model's window: nothing is cut.
    """
    is_half, chat, parts = is_half and has_bf16(), (), []
    common = (hash_model(policy), chat_template, asked[["prompt", "response"]].to_dict("list"), max_new_tokens,
              temperature, is_half, digest_code(_draw))
    for context in tqdm(contexts, desc="contexts", disable=not progress):
        path = Path(folder) / f"{digest(common, context.pairs, seed + context.repeat)[:16]}.parquet"
        if not path.is_file():
            model, tokenizer = chat = chat or load_policy(policy, chat_template)
            model.to(torch.bfloat16 if is_half else model.dtype)
            write_table(path, _draw(model, tokenizer, context, asked, max_new_tokens, temperature, seed))
        parts.append(pd.read_parquet(path).assign(kind=context.kind, k=context.k, repeat=context.repeat))
    return pd.concat(parts, ignore_index=True)


def _draw(model, tokenizer, context, asked, max_new_tokens, temperature, seed) -> pd.DataFrame:
    talks = [[{"role": "user", "content": prompt}] for prompt in asked["prompt"]]
    texts = [encode_talk(model, tokenizer, context.messages + talk, max_new_tokens) for talk in talks]
    if context.k and texts[0] == encode_talk(model, tokenizer, talks[0]):
        raise PolicyError("the chat template leaves out all before the last message, so it can hold no context.")
    real = [tokenizer(text, add_special_tokens=False)["input_ids"][:max_new_tokens] for text in asked["response"]]
    costs = -(read := Branches(model, texts)).score(real) / [len(ids) or np.nan for ids in real]
    made = read.sample(max_new_tokens, list_ends(model, tokenizer), temperature, seed + context.repeat)
    said = [read_reply(model, tokenizer, ids) for ids in made]
    return pd.DataFrame({"row": range(len(said)), "response": said, "nll_real": costs})


def ask_in_contexts(endpoint: Endpoint, contexts: Sequence[Context], asked: pd.DataFrame, cache: str | Path,
                    seed: int = 2023, budget: float | None = None) -> pd.DataFrame:
    """Let a model behind an endpoint answer behind each context: as `draw_in_contexts`, without likelihoods.

    A reply that did not come is missing, and its `problem` says why; EndpointError when every prompt lacks one, so that
    nothing could be compared. `budget` is in dollars for each context.
    """
    parts = []
    for context in contexts:
        own = endpoint.model_copy(update={"options": endpoint.options | {"seed": seed + context.repeat}})
        told = write_replies(asked["prompt"].tolist(), [own], cache, budget=budget, before=context.messages)
        parts.append(told[["row", "response", "problem"]].assign(kind=context.kind, k=context.k, repeat=context.repeat))
    table = pd.concat(parts, ignore_index=True).assign(nll_real=np.nan)
    lost = table[table["response"].isna()]
    if lost["row"].nunique() == len(asked):
        kind, k, problem = lost[["kind", "k", "problem"]].iloc[-1]
        raise EndpointError(f"no prompt has a reply behind every context; behind {k} pairs ({kind}): {problem}")
    return table


def rate_quality(prompts: Sequence[str], responses: Sequence[str], endpoint: Endpoint, cache: str | Path,
                 budget: float | None = None) -> pd.DataFrame:
    """Let a rater behind an endpoint give each reply 1 (poor) to 5 on every axis of `AXES`, nan where it does not.

    The axes are the paper's; its scale and wording are not public, ours stand in data/contexts.yaml.
    """
    talks = [f"Question: {prompt}\n\nReply: {reply}" for prompt, reply in zip(prompts, responses, strict=True)]
    told = write_replies(talks, [endpoint], cache, WORDS["rubric"], budget=budget)["response"].fillna("")
    found = [dict(re.findall(rf'"({"|".join(AXES)})": *([1-5])\b(?!\.)', text)) for text in told]
    return pd.DataFrame(found, columns=AXES).astype(float)

"""Replies to prompts, from any number of endpoints or local transformers models; resumable, nothing asked twice."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from fulcra_utils.common.digests import digest, digest_code
from fulcra_utils.common.files import keep_fields
from fulcra_utils.common.yaml_files import read_yaml
from fulcra_utils.dataset.rows import find_system, pick_rows, read_text
from fulcra_utils.dataset.texts import CHANNEL_MARK, THOUGHT_MARK, DatasetError, clean_text, list_texts
from fulcra_utils.llm.asking import Outcome, ask_all, plan_questions
from fulcra_utils.llm.endpoints import Answer, AnswerCache, Endpoint, EndpointError, Question, build_writer, load_price

TURN = re.compile(r"(?:^|\n)(?:Human|Bob):")
REPLY = "reply"      # what a question is about; a draw has its name behind it
COLUMNS = ["prompt", "response", "response_source", "problem", "row", "thoughts", "cut_off"]
OWN = ("response", "response_source", "problem", "thoughts", "cut_off")
OF_THE_REPLY = ("model", "value_vector", "value_low", "value_high", "value_items", "value_types", "not_annotated",
                "looks_english", "annotator", "annotators", "reasons", "decided_by", "vote_margin", "form_items")


class LocalModel(BaseModel):
    """A transformers model on this machine, by folder or hub name, with its sampling options.

    `options` go to `generate`; the same `seed` and prompts give the same replies. With `as_text` the prompt itself is
    carried on, without a chat template or another message.

    Examples
    --------
    >>> LocalModel(model="runs/laptop/alignment/start", options={"max_new_tokens": 40, "do_sample": True}).seed
    0
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    model: str = Field(min_length=1)
    name: str = ""
    revision: str = "main"
    options: dict[str, Any] = {"max_new_tokens": 200, "do_sample": False}
    batch_size: int = Field(8, ge=1)
    seed: int = 0
    as_text: bool = False


def load_writers(path: str | Path) -> list[Endpoint | LocalModel]:
    """Return who writes replies: `endpoints` and `local_models` of a YAML file; EndpointError names the field.

    Examples
    --------
    >>> from fulcra_utils.common.paths import DATA
    >>> [writer.name for writer in load_writers(DATA / "endpoints.example.yaml")]
    ['local', 'gpt-4o-mini', 'my-checkpoint']
    """
    try:
        raw, _, twice = read_yaml(Path(path))
        odd = [*twice, *(f"{name}: unknown key" for name in raw if name not in ("endpoints", "local_models"))]
        writers = [] if odd else [build_writer(kind, f"{path}: ", **{"name": entry.get("model", ""), **entry})
                                  for name, kind in (("endpoints", Endpoint), ("local_models", LocalModel))
                                  for entry in raw.get(name) or []]
    except EndpointError:
        raise
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise EndpointError(f"{path}: cannot be read, is no file with a list of writers: "
                            f"{type(error).__name__}") from None
    if odd:
        raise EndpointError(f"{path}: {odd[0]}")
    if not writers:
        raise EndpointError(f"{path}: names neither endpoints nor local_models")
    names = [writer.name or writer.model for writer in writers]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise EndpointError(f"{path}: two writers are named {twice!r}, and their replies would pass for one model's: "
                            "give each a name of its own")
    return writers


def write_replies(prompts: Sequence[str], writers: Sequence[Endpoint | LocalModel], cache: str | Path | None,
                  system: str | Sequence[str] = "", progress: bool = False, budget: float | None = None,
                  before: Sequence[dict[str, str]] = (), draws: Sequence[Any] = ()) -> pd.DataFrame:
    """Let every writer answer every prompt, after a `system` message; what the `cache` folder holds is not asked.

    `system` is one for all, or one for each prompt ("" for none).
    `before` are chat messages between the two. Equal prompts get one reply, unless `draws` names a draw for each (None
    for none): every draw of a prompt is a reply of its own.

    `budget` is in dollars for all replies of all endpoints to these prompts, what earlier calls paid for them included.
    The table has prompt, response (None when there is none), response_source, problem, row (number of the prompt),
    thoughts (never part of the response), cut_off (the length limit ended it); writer by writer, prompts in order. The
    paper's replies come from eight models. EndpointError when an endpoint refuses everything, or a model cannot be
    loaded.

    Examples
    --------
    >>> table = write_replies([], [Endpoint(model="m", base_url="http://127.0.0.1:9")], None)
    >>> table.columns.tolist()[:3]
    ['prompt', 'response', 'response_source']
    """
    prompts, rows = list_texts(prompts, "Prompt"), []
    questions = _ask_for_replies(prompts, system, before, draws)
    with closing(AnswerCache(cache)) as store:
        for writer in writers:
            if isinstance(writer, LocalModel):
                answers = _generate_all(questions, writer, store, progress)
                outcomes = [Outcome(*_take_text(0, answer)[:2]) for answer in answers]
            else:
                others = [other for other in writers if other is not writer]
                paid = 0.0 if budget is None else plan_replies(
                    prompts, others, store, system, before, draws).paid_before.sum()
                price = load_price(writer.model, is_local=writer.is_local)
                outcomes = ask_all(writer, questions, _take_text, store, price, budget, progress, paid)
            rows += [{"response": None, "thoughts": "", "cut_off": False, **(outcome.value or {}), "prompt": prompts[n],
                      "response_source": writer.name or writer.model, "row": n,
                      "problem": outcome.error or "; ".join(outcome.faults)} for n, outcome in enumerate(outcomes)]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"response": object})


def plan_replies(prompts: Sequence[str], writers: Sequence[Endpoint | LocalModel], cache: AnswerCache,
                 system: str | Sequence[str] = "", before: Sequence[dict[str, str]] = (),
                 draws: Sequence[Any] = ()) -> pd.DataFrame:
    """Return what replies would take (see `plan_questions`), one row an endpoint; a local model costs nothing."""
    questions = _ask_for_replies(prompts, system, before, draws)
    columns = ["writer", "prompts", "requests", "stored", "tokens_in", "tokens_out", "cost", "paid_before"]
    return pd.DataFrame([
        {"writer": writer.name or writer.model, "prompts": len(prompts), **plan_questions(
            questions, writer, cache, load_price(writer.model, is_local=writer.is_local), _take_text)}
        for writer in writers if isinstance(writer, Endpoint)], columns=columns)


def _ask_for_replies(prompts: Sequence[str], system: str | Sequence[str], before: Sequence[dict[str, str]],
                     draws: Sequence[Any]) -> list[Question]:
    systems = [system] * len(prompts) if isinstance(system, str) else system
    first = [({"role": "system", "content": words},) if words else () for words in systems]
    return [Question((*first[n], *before, {"role": "user", "content": prompt}),
                     context=REPLY if draw is None else f"{REPLY} {draw}")
            for n, (prompt, draw) in enumerate(zip(prompts, draws or [None] * len(prompts), strict=True))]


def write_reply_rows(input_path: str | Path, writers: Sequence[Endpoint | LocalModel], cache: str | Path,
                     prompt_field: str = "prompt", system: str = "", progress: bool = False,
                     budget: float | None = None) -> list[dict[str, Any]]:
    """Return the rows of a prompt file (.jsonl, .jsonl.gz or .parquet), once for each writer, with its replies.

    All fields of the input are kept, those that tell of another reply (`OWN`, `OF_THE_REPLY`) or prompt with "input_"
    before their names. Rows of one prompt share a reply, unless their field `draw` tells them apart. A row's own system
    message (`find_system`) is sent in the place of `system`. `prompt` is what was asked, `system` what was sent before
    it; `response`, `response_source` and `problem` are added, `thoughts` and `cut_off` (True) where there are any. A
    row without a usable prompt, or with a `history` before it, comes once, with its problem.
    DatasetError when the file cannot be read, EndpointError when nobody can be asked.

    Examples
    --------
    >>> import tempfile
    >>> from fulcra_utils.llm.tiny import make_random_model
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     writer = LocalModel(model=str(make_random_model(folder)), name="tiny", options={"max_new_tokens": 4})
    ...     _ = Path(f"{folder}/prompts.jsonl").write_text('{"id": 7, "prompt": "Hi"}')
    ...     row = write_reply_rows(f"{folder}/prompts.jsonl", [writer], f"{folder}/cache")[0]
    >>> row["id"], row["prompt"], row["response_source"]
    (7, 'Hi', 'tiny')
    """
    fields, prompts, bad = read_reply_prompts(input_path, prompt_field)
    draws = [row.get("draw") for row in fields]
    own = [find_system(row) for row in fields]
    replies = write_replies(prompts, writers, cache, [one or system for one in own], progress, budget, draws=draws)
    made = []
    for reply in replies.to_dict("records"):
        row, asked = fields[reply["row"]], {"prompt": reply["prompt"]}
        asked |= {"system": system} if system and not own[reply["row"]] else {}
        other = tuple(name for name in asked if row.get(name) not in (None, asked[name]))
        made.append(keep_fields(row, asked | {"response": reply["response"]} | {
            name: reply[name] for name in OWN[1:] if reply[name]}, OWN + OF_THE_REPLY + other))
    return made + bad


def read_reply_prompts(path: str | Path, prompt_field: str = "prompt") -> tuple[list[dict], list[str], list[dict]]:
    """Return the rows with a prompt, their prompts, and the other rows, each with its `problem`."""
    rows, prompts, bad = [], [], []
    for line, row, prompt, fault in pick_rows(path, lambda row: clean_text(read_text(row, prompt_field))):
        if fault:
            bad.append(keep_fields(row, {"response": None, "problem": f"line {line}: {fault}"},
                                   OWN + OF_THE_REPLY))
        else:
            rows.append(row)
            prompts.append(prompt)
    if not rows and not bad:
        raise DatasetError(f"{path}: has no rows")
    return rows, prompts, bad


def _take_text(_: int, answer: Answer) -> tuple[dict[str, Any], list[str], float]:
    thoughts, text = (part.strip() for part in answer.split())
    cut_off = answer.finish_reason == "length"
    fault = "the reply holds thoughts only" if thoughts else "the reply is empty"
    faults = [] if text else [fault + ", cut off at the length limit" * cut_off]
    return {"response": text or None, "thoughts": thoughts, "cut_off": cut_off}, faults, float(bool(text))


def _generate_all(questions: list[Question], writer: LocalModel, store: AnswerCache, progress: bool) -> list[Answer]:
    """Return one answer a question; those not stored yet are generated batch by batch, each stored when it is done."""
    from tqdm import tqdm

    from fulcra_utils.llm.local import PolicyError, hash_model, load_policy

    try:
        weights = hash_model(writer.model, writer.revision) if questions else ""
        # which prompts share its batch only moves the draw of a reply, so they are not part of its name
        shape = weights, writer.options, writer.seed, writer.as_text, digest_code(_generate)
        keys = [digest(*shape, q.messages, *_tell_draw(q)) for q in questions]
        known = {key: answer for key in keys if (answer := store.get(key)) is not None}
        first = {key: n for n, key in reversed(list(enumerate(keys))) if key not in known}
        chat = load_policy(writer.model, revision=writer.revision, is_bare=True) if first else ()
        open_ = sorted(first.values(), key=lambda n: len(questions[n].messages[-1]["content"]))
        for start in tqdm(range(0, len(open_), writer.batch_size), unit="batch", disable=not progress or not open_):
            batch = open_[start:start + writer.batch_size]
            made = _generate([questions[n] for n in batch], *chat, writer)
            for n, known[keys[n]] in zip(batch, made, strict=True):
                store.put(keys[n], known[keys[n]])
    except PolicyError as error:
        raise EndpointError(f"local model {error}") from None
    return [known[key] for key in keys]


def _generate(questions: list[Question], model: Any, tokenizer: Any, writer: LocalModel) -> list[Answer]:
    import torch

    from fulcra_utils.llm.local import generate, list_ends, render_talk

    if writer.as_text:
        texts = [q.messages[-1]["content"] for q in questions]
    elif tokenizer.chat_template:
        texts = [render_talk(tokenizer, q.messages) for q in questions]
    else:  # the released data's own words for who speaks
        texts = ["".join(f"{message['content']}\n" for message in q.messages[:-1]) +
                 f"Human: {q.messages[-1]['content']}\nBob:" for q in questions]
    ids = tokenizer(texts, add_special_tokens=writer.as_text or not tokenizer.chat_template)["input_ids"]
    told = "".join([*texts, *(draw for q in questions for draw in _tell_draw(q))])
    seed = hashlib.sha256(told.encode()).digest()[:4]  # the same batch draws the same, whenever it is made
    torch.manual_seed(writer.seed + int.from_bytes(seed, "big"))
    own = list_ends(model, tokenizer)
    asked = writer.options.get("eos_token_id") or own
    ends = {tokenizer.eos_token_id, *(asked if isinstance(asked, list) else [asked])} - {None}
    options = writer.options | {"eos_token_id": sorted(ends) or None}
    made = [Answer(decode_reply(reply, text, tokenizer, ends & {*own}), "stop" if ends & set(reply) else "length")
            for reply, text in zip(generate(model, tokenizer, ids, **options), texts, strict=True)]
    if writer.as_text or tokenizer.chat_template:
        return made
    ended = [TURN.split(one.text, maxsplit=1) for one in made]    # a base model goes on with the talk by itself
    return [replace(one, text=part[0].strip(), finish_reason="stop") if part[1:] else one
            for one, part in zip(made, ended, strict=True)]


def _tell_draw(question: Question) -> list[str]:
    return [question.context] * (question.context != REPLY)


def decode_reply(ids: list[int], prompt: str, tokenizer: Any, ends: Collection[int] = ()) -> str:
    """Return the text of ids up to an end, with the marks of its thoughts, also one that the prompt ends in."""
    added = {number: token.content for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    special = added | dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    kept = [number for number in takewhile(lambda number: number not in ends, ids) if number not in special
            or THOUGHT_MARK.fullmatch(special[number]) or CHANNEL_MARK.fullmatch(special[number])]
    opened = [mark[0] for mark in THOUGHT_MARK.finditer(prompt) if mark["open"] and not prompt[mark.end():].strip()]
    text = tokenizer.decode(kept, skip_special_tokens=False)
    return "".join([*opened, text]).strip()

"""Players of the orientation protocol: scripted ones with known angles, OpenAI-compatible endpoints, local models.

A player is a function from chat messages ({"role", "content"}) to a reply.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import product, repeat
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import TemplateError

from fulcra_utils.llm.asking import Outcome, ask_all
from fulcra_utils.llm.endpoints import Answer, AnswerCache, Endpoint, EndpointError, Question
from fulcra_utils.llm.replies import decode_reply
from fulcra_utils.systems.orientation.protocol import (
    GOAL_QUESTIONS,
    LETTERS_TOLD,
    NO_REPLY,
    Messages,
    Player,
    run_conditions,
    run_protocol,
)
from fulcra_utils.systems.orientation.slider import UTILITIES, OrientationError, load_slider

_OFFER = re.compile(r"^([A-Z]): you receive ([\d.]+), the other person receives ([\d.]+)$", re.MULTILINE)
SCRIPTED = (*UTILITIES, "random", "always-A")
TOGETHER = 32   # replies that a local model writes at a time


class ManyPlayer:
    """A player that takes many talks at once, by `play_all` (`protocol.run_conditions`), and one when it is called."""

    def __init__(self, play_all: Callable[[Sequence[Messages]], Iterator[str | Exception]]):
        self.play_all = play_all

    def __call__(self, messages: Messages) -> str:
        """Return the reply to one talk."""
        reply = next(self.play_all([messages]))
        if isinstance(reply, Exception):
            raise reply
        return reply


def scripted_player(name: str, seed: int = 2023) -> Player:
    """Return a player that follows a rule of `SCRIPTED`: its known angle shows what the protocol measures.

    It reads the options off the prompt like a model. A tie goes to the larger payoff to the other, then to the first
    shown.

    >>> from fulcra_utils.systems.orientation.protocol import render_choice
    >>> scripted_player("minimal inequality")([{"role": "user", "content": render_choice(3, range(9))}])
    'D'
    """
    if name not in SCRIPTED:
        raise OrientationError(f"no scripted player {name!r}; known are {', '.join(SCRIPTED)}.")
    random = np.random.default_rng(seed)
    utility = UTILITIES.get(name, lambda own, other: random.random())

    def play(messages: Messages) -> str:
        offers = [(letter, float(own), float(other)) for letter, own, other in _OFFER.findall(messages[-1]["content"])]
        if not offers:
            return f"I choose as the player {name!r} does."
        if name == "always-A":
            return offers[0][0]
        return max(offers, key=lambda offer: (utility(offer[1], offer[2]), offer[2]))[0]

    return play


def endpoint_player(model: str, temperature: float = 1.0, max_tokens: int = 200) -> Player:
    """Return a player behind any OpenAI-compatible endpoint: OPENAI_BASE_URL and, where it wants one, OPENAI_API_KEY.

    Time-outs, dropped connections, 429 and 5xx are retried with growing waits. A reply that is empty three times is "",
    which counts as not readable; a refused or withheld one raises OrientationError, an endpoint that can answer nobody
    EndpointError. With neither variable set it is an error, so that nothing is sent by accident.

    >>> player = endpoint_player("some-model")           # doctest: +SKIP
    >>> run_protocol(player, "prosocial", n_repeats=5)   # doctest: +SKIP
    """
    if not (os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_BASE_URL")):
        raise OrientationError("No endpoint: set OPENAI_BASE_URL (and OPENAI_API_KEY where it wants a key).")
    endpoint = Endpoint(model=model, options={"temperature": temperature, "max_tokens": max_tokens}, attempts=5)

    def play_all(talks: Sequence[Messages]) -> Iterator[str | Exception]:
        # each talk has a context of its own, so that equal ones are asked anew
        questions = [Question(tuple(talk), context=f"player {place}") for place, talk in enumerate(talks)]
        with closing(AnswerCache(None)) as cache:
            try:
                outcomes = ask_all(endpoint, questions, _take, cache)
            except EndpointError as error:      # what was answered until then counts
                kept = [list(cache.list_answers(question, endpoint)) for question in questions]
                outcomes = [Outcome(value=answers[-1].text, error=answers[-1].void) if answers else error
                            for answers in kept]
        for found in outcomes:
            yield found if isinstance(found, Exception) else OrientationError(found.error) if found.error \
                else found.value or ""

    return ManyPlayer(play_all)


def _take(_: int, answer: Answer) -> tuple[str, list[str], float]:
    return answer.text, [] if answer.text.strip() else ["the reply is empty"], float(bool(answer.text.strip()))


def local_player(folder: str | os.PathLike, max_new_tokens: int = 40, seed: int = 2023) -> Player:
    """Return a player that is a local transformers model: a `from_pretrained` folder, hub name, or "smollm2-135m".

    It writes its traits and its goal at temperature 1; to a choice it replies with the log probabilities of the letters
    (`protocol.LETTERS_TOLD`), which `run_protocol` reads. Nothing is cut: a talk that does not fit into the model's
    context is an OrientationError, a model that `load_policy` cannot load a PolicyError. The player's attribute
    `encode` gives the tokens of a talk.

    >>> player = local_player("smollm2-135m")   # doctest: +SKIP
    """
    return _LocalPlayer(folder, max_new_tokens, seed)


class _LocalPlayer(ManyPlayer):
    """A model on this machine, with a `Reader`, for the questions of a pass begin alike."""

    def __init__(self, folder: str | os.PathLike, max_new_tokens: int, seed: int):
        import torch

        from fulcra_utils.llm import branches, local
        self.local, self.chat, self.longest = local, local.load_policy(folder), max_new_tokens
        self.reader, self.generator = branches.Reader(self.chat[0]), torch.Generator().manual_seed(seed)

    def encode(self, messages: Messages) -> list[int]:
        """Return the tokens of a talk; OrientationError when a reply would not fit behind it."""
        try:
            return self.local.encode_talk(*self.chat, messages, self.longest)
        except self.local.PolicyError as error:
            raise OrientationError(str(error)) from None

    def play_all(self, talks: Sequence[Messages]) -> Iterator[str | Exception]:
        """Give the replies, or an OrientationError for a talk that does not fit, in order."""
        letters = [[letter for letter, *_ in _OFFER.findall(talk[-1]["content"])] for talk in talks]
        told, to_write = {}, {}
        for place, talk in enumerate(talks):
            try:
                ids = self.encode(talk)
                to_write |= {} if letters[place] else {place: ids}
            except OrientationError as error:
                told[place] = error
        told |= dict(zip(to_write, self._write(list(to_write.values())), strict=True))
        for place, talk in enumerate(talks):
            yield told[place] if place in told else self._choose(talk, letters[place])

    def _choose(self, messages: Messages, letters: list[str]) -> str:
        told = self.local.choose(*self.chat, [messages], letters, reader=self.reader)[0]
        return json.dumps({LETTERS_TOLD: dict(zip(letters, told.round(4).tolist(), strict=True))})

    def _write(self, talks: list[list[int]]) -> Iterator[str]:
        import torch
        with torch.random.fork_rng(devices=[]), self.local.sample_plain(self.chat[0]):
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=self.generator)))
            for part in (talks[start:start + TOGETHER] for start in range(0, len(talks), TOGETHER)):
                made = self.local.generate(*self.chat, part, max_new_tokens=self.longest)
                ends = self.local.list_ends(*self.chat)
                yield from (decode_reply(reply, self.chat[1].decode(ids), self.chat[1], ends)
                            for ids, reply in zip(part, made, strict=True))


def gather_players(endpoints: Sequence[str] = (), local: Sequence[str | os.PathLike] = (),
                   seed: int = 2023) -> tuple[dict[str, Player], list[str]]:
    """Return the language models that can play by name, and one line for each that cannot.

    `endpoints` are model names behind OPENAI_BASE_URL, `local` folders or hub names; a local model is named by its
    folder, and by its whole path where another of that name plays.
    """
    players, left_out = {}, []
    wanted = [(str(name), name, endpoint_player) for name in endpoints]
    wanted += [(f"local model {Path(folder).name}", folder, lambda f: _with_room(local_player(f, seed=seed)))
               for folder in local]
    for title, name, open_player in wanted:
        try:
            players[f"local model {name}" if title in players else title] = open_player(name)
        except (OSError, ValueError, TemplateError) as error:
            left_out.append(f"{name}: {str(error).splitlines()[0].removeprefix(f'{name}: ')}")
    return players, left_out


def _with_room(player: Player) -> Player:
    """Refuse a local model into which a question of the protocol does not fit, before any is asked."""
    def read(talk: Messages) -> str:
        player.encode(talk)
        return "so " * 40   # as long as a reply may be

    for orientation in load_slider().orientations:
        run_protocol(read, orientation, 1)
    return player


def run_players(players: Mapping[str, Player], n_repeats: int | Mapping[str, int] = 10,
                with_goal: Sequence[bool] = (True, False), seed: int = 2023, progress: bool = False) -> pd.DataFrame:
    """Put every player through `run_protocol` under every orientation, with and without a goal; adds `player`.

    A player that raises on the way (an endpoint that is gone) leaves its remaining choices missing, and the reason as
    the reply. `n_repeats` may be given by player. Source: arXiv 2305.17147, protocol and ablation.
    """
    from tqdm import tqdm
    conditions, parts = list(product(load_slider().orientations, with_goal)), []
    repeats = n_repeats if isinstance(n_repeats, Mapping) else dict.fromkeys(players, n_repeats)
    n_asked = sum(repeats[name] * (len(load_slider().self_pay) + len(GOAL_QUESTIONS) * goal)
                  for name in players for _, goal in conditions)
    with tqdm(total=n_asked, desc="players", unit="reply", disable=not progress, mininterval=1) as bar:
        for name, player in players.items():
            bar.set_postfix_str(name)
            table = run_conditions(endure(player), conditions, repeats[name], seed, bar)
            parts.append(table.assign(player=name))
    return pd.concat(parts, ignore_index=True)


def endure(player: Player) -> Player:
    """Return a player that answers an error with its words, which name no option; a dead endpoint is asked no more."""
    def play_all(talks: Sequence[Messages]) -> Iterator[str]:
        nonlocal gone
        replies = repeat(gone) if gone else iter(getattr(player, "play_all", partial(map, player))(talks))
        failed = None
        for _ in talks:
            try:
                reply = next(replies, failed)
            except Exception as error:  # any failure of a remote or local model is a missing choice, told by its words
                reply = failed = error
            if isinstance(reply, Exception):
                said = f"{NO_REPLY} {type(reply).__name__}: {str(reply)[:200]}]"
                gone, reply = said if isinstance(reply, EndpointError) else gone, said
            yield reply

    gone = ""
    return ManyPlayer(play_all)

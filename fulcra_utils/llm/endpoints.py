"""Endpoints, prices, questions, and the cache that keeps every answer; keys come from the environment only."""

import hashlib
import itertools
import json
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit, urlunsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError, field_validator

from fulcra_utils.common.paths import DATA
from fulcra_utils.dataset.texts import split_thoughts

DEFAULT_URL = "https://api.openai.com/v1"
_KINDS = {**dict.fromkeys(("extra_headers", "extra_query"), (dict[str, str], "names with texts")),
          **dict.fromkeys(("max_tokens", "max_completion_tokens"), (int, "a whole number"))}


class EndpointError(ValueError):
    """An endpoint that cannot be used at all, or settings for one; the message never holds a key."""


class Endpoint(BaseModel):
    """One model behind an OpenAI-compatible endpoint, with its options. The key is named, never given.

    `options` go into the body of each request: null leaves one out, `extra_body` is merged. `base_url` is the
    environment's OPENAI_BASE_URL when empty, else OpenAI's; the key is read from the variable `api_key_env` names.
    `timeout` is in seconds; of `attempts`, only faults of the way take more than one, `backoff` seconds apart, doubling
    to 30; `concurrency` is the most requests at a time.

    Examples
    --------
    >>> endpoint = Endpoint(model="my-model", base_url="http://127.0.0.1:8000/v1/?token=secret")
    >>> endpoint.address, endpoint.is_local, endpoint.body
    ('http://127.0.0.1:8000/v1', True, {'temperature': 0})
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    model: str = Field(min_length=1)
    name: str = ""
    base_url: str = ""
    api_key_env: str = "OPENAI_API_KEY"
    options: dict[str, Any] = {"temperature": 0}
    timeout: float = Field(60.0, gt=0)  # seconds for one request
    attempts: int = Field(8, ge=1)  # per request, transport faults only
    backoff: float = Field(0.5, ge=0)  # seconds before the second attempt; doubles, at most 30
    concurrency: int = Field(8, ge=1)  # most requests at a time

    @field_validator("options")
    @classmethod
    def _check_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        more = options.get("extra_body") or {}
        if not isinstance(more, dict):
            raise ValueError("extra_body holds no names and values")
        given = {**options, **more}
        if given.get("stream") or (given.get("n") or 1) != 1:
            raise ValueError("one whole answer is read a request, so take stream and n out")
        if known := {"model", "messages", "timeout"} & set(given):
            raise ValueError(f"{', '.join(sorted(known))} cannot stand here")
        for name, value in given.items():
            kind, said = _KINDS.get(name, (JsonValue, "a number, text, list or names with values"))
            try:
                TypeAdapter(kind | None).validate_python(value, strict=True)
                json.dumps(value, allow_nan=False)
            except ValueError:
                raise ValueError(f"{name} must be {said}, not {value!r}") from None
        return options

    @property
    def body(self) -> dict[str, Any]:
        """Return the options as they go into the body of a request: null leaves one out, `extra_body` is merged."""
        given = {**self.options, **(self.options.get("extra_body") or {})}
        return {name: value for name, value in given.items() if value is not None and name != "extra_body"}

    @property
    def _parts(self) -> SplitResult:
        url = (self.base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL).strip()
        with suppress(ValueError):
            parts = urlsplit(url)
            if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
                return parts._replace(path=parts.path.rstrip("/").removesuffix("/chat/completions"), fragment="")
        raise EndpointError(f"{url.rpartition('@')[2]!r} is no address of an endpoint; "
                            "one looks like http://127.0.0.1:8000/v1")

    @property
    def url(self) -> str:
        """Return the address without its query: `base_url`, else the environment's OPENAI_BASE_URL, else OpenAI's."""
        return urlunsplit(self._parts._replace(query=""))

    @property
    def query(self) -> dict[str, str]:
        """Return the query of the address, such as Azure's api-version."""
        return dict(parse_qsl(self._parts.query))

    @property
    def address(self) -> str:
        """Return the address without user name, password and keys, as it may be written down."""
        query = {name: value for name, value in self.query.items() if not re.search(
            "key|token|secret|sig|password|auth|code", name, re.I)}
        return urlunsplit(self._parts._replace(netloc=self._parts.netloc.rpartition("@")[2], query=urlencode(query)))

    @property
    def is_local(self) -> bool:
        """Return whether the server stands on this machine."""
        return self._parts.hostname in ("localhost", "127.0.0.1", "::1", "0.0.0.0")

    def read_key(self) -> str:
        """Return the key from the environment; a placeholder for an address of one's own that needs none.

        EndpointError when OpenAI's own address is asked without a key, or the key cannot stand in a header.
        """
        key = os.environ.get(self.api_key_env, "").strip()
        if not key and self.url == DEFAULT_URL:
            raise EndpointError(f"set {self.api_key_env} (and OPENAI_BASE_URL for another endpoint than OpenAI's)")
        if not key.isascii() or any(c.isspace() for c in key):
            raise EndpointError(f"{self.api_key_env} holds characters that no key has")
        return key or "none"


def build_writer(kind: type[BaseModel], place: str = "", **fields: Any) -> Any:
    """Return an endpoint, or another model that writes; EndpointError names its first bad field, after `place`."""
    try:
        return kind(**fields)
    except ValidationError as error:
        fault = error.errors()[0]
        said = fault["msg"].removeprefix("Value error, ")
        raise EndpointError(f"{place}{'.'.join(map(str, fault['loc']))}: {said}") from None


@dataclass(frozen=True)
class Price:
    """US dollars for a million tokens, the day the price was read, whether it is only assumed, and whose it is."""

    input: float
    output: float
    date: str
    assumed: bool = False
    name: str = ""

    def describe(self) -> str:
        """Return the price in words, with its date, and that it is assumed where it is."""
        found = f"{self.input:g} and {self.output:g} USD for a million tokens in and out"
        if self.assumed and self.name:
            return f"no price: the server is on this machine, and the model is not in the table of {self.date}"
        if self.assumed:
            return f"an assumed price of {found} (the model is not in the table of {self.date})"
        return f"the listed price of {found} ({f'{self.name} in the ' if self.name else ''}table of {self.date})"

    def cost(self, tokens_in: float, tokens_out: float) -> float:
        """Return the dollars for so many tokens."""
        return (tokens_in * self.input + tokens_out * self.output) / 1e6


FREE = Price(0.0, 0.0, "")  # where no price is known

def load_price(model: str, path: str | Path = "", is_local: bool = False) -> Price:
    """Return the price of a model from a price table, also under a name with a provider, a date or a tag.

    One that is not listed costs nothing on this machine or as ":free", else the table's `default`, as assumed.

    >>> load_price("azure/gpt-4o-2024-08-06").name, load_price("llama3:8b", is_local=True).input
    ('gpt-4o', 0.0)
    """
    path = Path(path or DATA / "prices.yaml")
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
        bare = re.split("[:@]", model.lower().rpartition("/")[2])[0]
        names = (model, model.rpartition("/")[2], bare, re.sub(r"-(\d{4}-\d{2}-\d{2}|\d{8}|\d{4}|latest)$", "", bare))
        name = next((name for name in names if name in table["models"]), "")
        if model.endswith(":free") or (is_local and not name):
            return Price(0.0, 0.0, str(table["date"]), is_local, model)
        entry = table["models"][name] if name else table["default"]
        date = str(entry.get("date", table["date"]))
        return Price(float(entry["input"]), float(entry["output"]), date, not name, name)
    except (OSError, yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise EndpointError(f"{path}: no price of {model!r} can be read: {type(error).__name__} {error}") from None


@dataclass(frozen=True)
class Question:
    """What is asked: messages, the JSON schema of the answer (or None), and what else shapes how it is read."""

    messages: tuple[dict[str, str], ...]
    schema: dict[str, Any] | None = None
    context: str = ""
    expected_tokens: int = 200  # of the answer, for plans and the budget

    def key(self, endpoint: Endpoint, attempt: int = 0) -> str:
        """Return the name of its answer in the cache: a hash of everything that shapes it, and of no key or password.

        What an address serves under a model's name is taken to stay the same; options count as asked for, also where an
        endpoint turns out not to take one.
        """
        whole = {"address": endpoint.address, "model": endpoint.model, "options": endpoint.body, "attempt": attempt,
                 "messages": self.messages, "schema": self.schema, "context": self.context}
        return hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()

    @property
    def n_tokens(self) -> int:
        """Return an estimate of its tokens, messages only."""
        return sum(count_tokens(message["content"]) + 4 for message in self.messages)


def count_tokens(text: str) -> int:
    """Estimate the tokens of a text, where an endpoint counts none: one for four bytes of UTF-8, at least one."""
    return max(1, round(len(text.encode("utf-8", "replace")) / 4))


@dataclass(frozen=True)
class Answer:
    """One stored answer; `cost` is None when no price is known, `thoughts` what stood in a reasoning field."""

    text: str
    finish_reason: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float | None = None
    thoughts: str = ""

    def find_cost(self, price: Price) -> float:
        """Return the dollars it cost, by `price` when none was known."""
        return price.cost(self.tokens_in, self.tokens_out) if self.cost is None else self.cost

    def split(self) -> tuple[str, str]:
        """Return (thoughts, answer), as `split_thoughts` does; the thoughts of a reasoning field come first."""
        thoughts, answer = split_thoughts(self.text)
        return "\n".join(filter(None, (self.thoughts, thoughts))), answer

    @property
    def void(self) -> str:
        """Return why the answer cannot be used whatever it says, "" when it can."""
        return {"content_filter": "withheld by the provider's content filter",
                "refusal": f"the model refuses: {' '.join(self.text.split())[:200]}",
                "prompt_cut": f"the server read {self.tokens_in} tokens only and cut the prompt: enlarge its context",
                }.get(self.finish_reason, "")


class AnswerCache:
    """Answers on disk, one SQLite file in a folder; each is flushed when `put` returns, and never changed.

    Several processes may use one folder. `folder=None` keeps the answers in memory. EndpointError when the file cannot
    be opened or written.

    Examples
    --------
    >>> cache = AnswerCache(None)
    >>> is_new = cache.put("k", Answer("yes"))
    >>> cache.get("k").text, cache.get("other"), len(cache)
    ('yes', None, 1)
    """

    def __init__(self, folder: str | Path | None):
        self.folder, name = folder, ":memory:"
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
            name = str(Path(folder) / "answers.sqlite")
        try:
            self._db = sqlite3.connect(name, timeout=60, isolation_level=None, check_same_thread=False)
            self._db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE IF NOT EXISTS "
                                   "answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL)")
        except sqlite3.Error as error:
            raise EndpointError(f"{name}: the answer cache cannot be opened: {error}") from None

    def get(self, key: str) -> Answer | None:
        """Return the stored answer, or None."""
        row = self._db.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        known = Answer.__dataclass_fields__.keys()
        return Answer(**{name: value for name, value in json.loads(row[0]).items() if name in known}) if row else None

    def list_answers(self, question: Question, endpoint: Endpoint) -> Iterator[Answer]:
        """Yield every stored answer to a question, the unusable ones too, in the order of asking."""
        keys = (question.key(endpoint, attempt) for attempt in itertools.count())
        return itertools.takewhile(lambda answer: answer is not None, map(self.get, keys))

    def put(self, key: str, answer: Answer) -> bool:
        """Store an answer and return whether it was; an answer already there stays."""
        try:
            told = key, json.dumps(asdict(answer))
            return self._db.execute("INSERT OR IGNORE INTO answers VALUES (?, ?)", told).rowcount > 0
        except sqlite3.Error as error:
            raise EndpointError(f"an answer cannot be stored, so nothing more is asked: {error}") from None

    def __len__(self) -> int:
        """Return how many answers are stored."""
        return self._db.execute("SELECT COUNT(*) FROM answers").fetchone()[0]

    def close(self) -> None:
        """Close the file."""
        self._db.close()

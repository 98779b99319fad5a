"""Ask an endpoint many questions and lose no answer: retries, adaptive concurrency, budget.

Choices: an answer is stored before anything else is done with it; faults of the way (429, 5xx, timeouts, dropped
connections, bodies that are no JSON) are asked again after a wait that grows, for a bounded number of times; content
with faults is asked again at once, at most twice in a run, and again in the next run: every answer is kept, only one
without faults is final; concurrency grows by one and is halved.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import email.utils
import itertools
import json
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from fulcra_utils.dataset import read_content
from fulcra_utils.endpoints import (
    PRICES,
    Answer,
    AnswerCache,
    Endpoint,
    EndpointError,
    Price,
    Question,
    count_question,
    count_tokens,
)

RETRY_STATUS = {408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529}
FATAL_STATUS = {401, 402, 404}
FORMAT_STATUS = {400, 415, 422}  # what an endpoint says that knows no JSON schema
CONTENT_ASKS = 3  # in one run: the first ask and at most two more
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
CUT_OFF = {"length", "max_tokens", "max_output_tokens", "model_length"}  # finish reasons of gateways
JSON_MODES = ("schema", "object", "none")


@dataclass
class Outcome:
    """What became of one question.

    `value` is what the check made of the best answer (None: nothing usable), `faults` what is wrong with it, `error`
    why there is no answer at all; calls, tokens and cost count every answer of this question, `n_paid` those of
    this start.
    """

    value: Any = None
    faults: list[str] = field(default_factory=list)
    error: str = ""
    n_calls: int = 0
    n_paid: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0


Check = Callable[[int, Answer], tuple[Any, list[str], float]]


def ask_all(endpoint: Endpoint, questions: Iterable[Question], check: Check, cache: AnswerCache,
            price: Price | None = None, budget: float | None = None,
            done: Callable[[int, Outcome], None] = lambda *_: None) -> list[Outcome]:
    """Ask every question, many at a time, and return one outcome for each, in order.

    Parameters
    ----------
    endpoint : Endpoint
    questions : iterable of Question
        Taken one by one as places become free.
    check : callable
        Takes the number of the question and an Answer; returns (value, faults, worth): what can be used of it, what is
        wrong with it, and a number to choose by when every ask left faults. An answer with faults is asked again.
    cache : AnswerCache
        An answer without faults is not asked again. Faulty ones are looked at first: where they hold nothing to use,
        three new asks follow, where they hold something, what is left of three, at least one.
    price : Price, optional
        None leaves the cost unknown (counted as 0).
    budget : float, optional
        Dollars for these questions, earlier starts included; a question that could exceed it is not asked.
    done : callable
        Receives (number, outcome) as soon as a question is finished, in any order.

    Returns
    -------
    list of Outcome

    Raises
    ------
    EndpointError
        When the endpoint refuses every request (key, model or address wrong), or a budget has no price.

    Source: ours.
    """
    if budget is not None and price is None:
        raise EndpointError(f"a budget needs a price: {endpoint.model} is not in {PRICES.name}")
    session = _Session(endpoint, check, cache, price, budget, done)
    return _run(session.run(questions))


def _run(coroutine: Any) -> Any:
    """Run a coroutine to its end, also where an event loop is running already (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    loop, result = asyncio.new_event_loop(), concurrent.futures.Future()

    def work():
        task = loop.create_task(coroutine)
        result.cancel_work = lambda: loop.call_soon_threadsafe(task.cancel)
        try:
            result.set_result(loop.run_until_complete(task))
        except BaseException as error:
            result.set_exception(error)
        finally:
            loop.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        return result.result()
    except KeyboardInterrupt:
        result.cancel_work()  # nothing more is asked, and paid, behind the back of who pressed stop
        thread.join()
        raise


class _Transient(Exception):
    """A fault of the way, not of the question: worth another attempt. `wait` is what the server asked for."""

    def __init__(self, reason: str, wait: float | None = None, slow_down: bool = True):
        super().__init__(reason)
        self.wait, self.slow_down = wait, slow_down


class _Refused(Exception):
    """A request that will not be answered however often it is sent."""


class _Limiter:
    """At most `limit` requests at a time: one more after as many successes, half as many after a fault."""

    def __init__(self, most: int):
        self.most, self.limit, self.active, self.changed = most, float(min(most, 4)), 0, asyncio.Condition()
        self.last_cut = 0.0

    @asynccontextmanager
    async def place(self) -> AsyncIterator[float]:
        async with self.changed:
            await self.changed.wait_for(lambda: self.active < int(self.limit))
            self.active += 1
        try:
            yield time.monotonic()
        finally:
            async with self.changed:
                self.active -= 1
                self.changed.notify_all()

    def faster(self) -> None:
        self.limit = min(self.most, self.limit + 1 / self.limit)

    def slower(self, started: float) -> None:
        """Halve the limit, once for all requests that were under way together."""
        if started >= self.last_cut:
            self.last_cut = time.monotonic()
            self.limit = max(1.0, self.limit / 2)


class _Session:
    """The state of one `ask_all`."""

    def __init__(self, endpoint, check, cache, price, budget, done):
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        self.endpoint, self.check, self.cache = endpoint, check, cache
        self.price, self.budget, self.done = price, budget, done
        self.key = endpoint.read_key()
        self.spent, self.reserved, self.mode, self.n_answered = 0.0, 0.0, JSON_MODES[0], 0
        self.flying: dict[str, asyncio.Task] = {}  # requests under way
        self.counted: set[str] = set()  # answers whose cost is in `spent`
        self.n_old: dict[str, int] = {}  # answers that a question had before this run
        own = urlsplit(endpoint.url).hostname in LOOPBACK  # a proxy of the environment cannot reach this machine
        self.make_client = lambda: AsyncOpenAI(
            base_url=endpoint.url, api_key=self.key, max_retries=0, timeout=endpoint.timeout,
            http_client=DefaultAsyncHttpxClient(trust_env=not own, timeout=endpoint.timeout))

    async def run(self, questions: Iterable[Question]) -> list[Outcome]:
        self.limiter = _Limiter(self.endpoint.concurrency)
        outcomes: dict[int, Outcome] = {}
        waiting: set[asyncio.Task] = set()
        async with self.make_client() as self.client:
            try:
                for number, question in enumerate(questions):
                    waiting.add(asyncio.create_task(self._finish(number, question, outcomes)))
                    if len(waiting) >= 4 * self.endpoint.concurrency:
                        waiting = await _some_done(waiting)
                while waiting:
                    waiting = await _some_done(waiting)
            finally:
                for task in (*waiting, *self.flying.values()):
                    task.cancel()
        return [outcomes[number] for number in range(len(outcomes))]

    async def _finish(self, number: int, question: Question, outcomes: dict[int, Outcome]) -> None:
        outcome = await self._ask(number, question)
        outcomes[number] = outcome
        self.done(number, outcome)

    async def _ask(self, number: int, question: Question) -> Outcome:
        """Ask until an answer is free of faults, or the asks of this run are used up; keep the best."""
        outcome, best, first = Outcome(), float("-inf"), question.key(self.endpoint)
        for attempt in itertools.count():
            if self.cache.get(question.key(self.endpoint, attempt)) is None:
                n_old = self.n_old.setdefault(first, attempt)
                if attempt - n_old >= (CONTENT_ASKS if best <= 0 else max(1, CONTENT_ASKS - n_old)):
                    break
            try:
                answer, paid = await self._answer(question, attempt)
            except (_Transient, _Refused) as fault:
                outcome.error = outcome.error if outcome.value is not None else str(fault)
                break
            outcome.n_calls += 1
            outcome.n_paid += paid
            outcome.tokens_in += answer.tokens_in
            outcome.tokens_out += answer.tokens_out
            outcome.cost += answer.cost or 0.0
            value, faults, worth = self.check(number, answer)
            if worth > best:
                outcome.value, outcome.faults, best = value, faults, worth
            if not faults:
                break
        return outcome

    async def _answer(self, question: Question, attempt: int) -> tuple[Answer, bool]:
        """Return an answer and whether it was paid for now; equal questions under way share one request."""
        key = question.key(self.endpoint, attempt)
        if key in self.flying:
            return await asyncio.shield(self.flying[key]), False
        stored = self.cache.get(key)
        if stored is not None:
            self._count_cost(key, stored)
            return stored, False
        task = self.flying[key] = asyncio.create_task(self._pay(key, question))
        try:
            return await asyncio.shield(task), True
        finally:
            self.flying.pop(key, None)

    def _count_cost(self, key: str, answer: Answer) -> None:
        if key not in self.counted:
            self.counted.add(key)
            self.spent += answer.cost or 0.0

    async def _pay(self, key: str, question: Question) -> Answer:
        estimate = 0.0
        if self.price is not None:
            limit = self.endpoint.options.get("max_tokens") or self.endpoint.options.get("max_completion_tokens")
            estimate = self.price.cost(count_question(question), limit or question.expected_tokens)
        if self.budget is not None and self.spent + self.reserved + estimate > self.budget:
            raise _Refused(f"not asked: the budget of {self.budget:g} USD is reached")
        self.reserved += estimate
        try:
            answer = await self._send(question)
            self.cache.put(key, answer)
            self._count_cost(key, answer)
            self.n_answered += 1
            return answer
        finally:
            self.reserved -= estimate

    async def _send(self, question: Question) -> Answer:
        """Send a question until it is answered, with growing waits between attempts."""
        from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt

        attempts = AsyncRetrying(retry=retry_if_exception_type(_Transient), reraise=True, wait=self._wait,
                                 stop=stop_after_attempt(self.endpoint.attempts))
        async for attempt in attempts:
            with attempt:
                async with self.limiter.place() as started:
                    try:
                        answer = await self._send_once(question)
                    except _Transient as fault:
                        if fault.slow_down:
                            self.limiter.slower(started)
                        raise
                    self.limiter.faster()
                    return answer
        raise AssertionError("tenacity reraises")

    def _wait(self, state: Any) -> float:
        """Return the seconds to wait: what the server asked for (at most 60), else a doubling time with jitter."""
        asked = state.outcome.exception().wait
        if asked is not None:
            return min(max(asked, 0.0), 60.0)
        return min(30.0, self.endpoint.backoff * 2 ** (state.attempt_number - 1)) * random.uniform(0.5, 1.5)

    async def _send_once(self, question: Question) -> Answer:
        """Send one request; where the endpoint knows no JSON schema, again with less asked of it."""
        from openai import APIStatusError

        modes = JSON_MODES[JSON_MODES.index(self.mode):] if question.schema is not None else JSON_MODES[-1:]
        for mode in modes:
            try:
                body = await self._post(question, mode)
            except APIStatusError as error:
                if error.status_code in FORMAT_STATUS and mode != modes[-1]:
                    continue
                raise self._judge_status(error) from None
            if question.schema is not None:
                self.mode = mode  # what worked is asked from now on
            return self._read_body(body, question, mode)
        raise AssertionError("the last mode returns or raises")

    async def _post(self, question: Question, mode: str) -> str:
        """Return the body of one response; a fault of the way becomes _Transient."""
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        named = {"name": "labels", "strict": True, "schema": question.schema}
        formats = {"schema": {"type": "json_schema", "json_schema": named}, "object": {"type": "json_object"}}
        extra = {"response_format": formats[mode]} if mode in formats else {}
        try:
            raw = await self.client.chat.completions.with_raw_response.create(
                model=self.endpoint.model, messages=list(question.messages), **self.endpoint.options, **extra)
            return raw.http_response.text
        except APIStatusError:
            raise
        except APITimeoutError:
            raise _Transient(f"no answer within {self.endpoint.timeout:g} seconds") from None
        except APIConnectionError:
            raise _Transient("the connection failed or was dropped") from None
        except (ValueError, LookupError, OSError, RuntimeError) as error:
            raise _Transient(f"the response cannot be read: {type(error).__name__}") from None

    def _judge_status(self, error: Any) -> Exception:
        """Return the exception that a status calls for; the server's text is shown shortened and without the key."""
        status = error.status_code
        if status in RETRY_STATUS or status >= 500:
            return _Transient(f"HTTP {status}", _read_wait(error.response.headers))
        said = " ".join(str(getattr(error, "message", "") or "").replace(self.key, "***").split())[:200]
        if status in FATAL_STATUS and not self.n_answered:
            return EndpointError(f"{self.endpoint.address}, model {self.endpoint.model!r}: HTTP {status}: {said}")
        return _Refused(f"HTTP {status}: {said}")

    def _read_body(self, body: str, question: Question, mode: str) -> Answer:
        try:
            data = json.loads(body, strict=False)
            choice = data["choices"][0]
            message = choice.get("message") or {}
            thoughts, text = read_content(message)
            usage = data.get("usage") or {}
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise _Transient("the response is not the JSON of a chat completion") from None
        tokens_in = _count(usage, "prompt_tokens", count_question(question))
        tokens_out = _count(usage, "completion_tokens", count_tokens(thoughts + text))
        cost = None if self.price is None else self.price.cost(tokens_in, tokens_out)
        reason = str(choice.get("finish_reason") or "")
        reason = "length" if reason.casefold() in CUT_OFF else reason
        return Answer(text, reason, tokens_in, tokens_out, cost, mode,
                      self.endpoint.address, round(time.time(), 3), thoughts)


async def _some_done(tasks: set[asyncio.Task]) -> set[asyncio.Task]:
    """Wait until a task is finished, raise what it raised, and return those that are not finished."""
    finished, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in finished:
        error = task.exception()
        if error is not None:
            for other in waiting:
                other.cancel()
            raise error
    return waiting


def _count(usage: Any, name: str, estimate: int) -> int:
    value = usage.get(name) if isinstance(usage, dict) else None
    return int(value) if isinstance(value, int | float) and value >= 0 else estimate


def _read_wait(headers: Any) -> float | None:
    """Return the seconds of a Retry-After header (seconds or a date), None when there is none or it is nonsense."""
    text = headers.get("retry-after")
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return email.utils.parsedate_to_datetime(text).timestamp() - time.time()
    except (TypeError, ValueError):
        return None


def sum_outcomes(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Return calls, calls paid for now, tokens and cost over outcomes.

    Examples
    --------
    >>> sum_outcomes([Outcome(n_calls=2, cost=0.5), Outcome(n_calls=1)])["n_calls"]
    3
    """
    return {name: sum(getattr(outcome, name) for outcome in outcomes)
            for name in ("n_calls", "n_paid", "tokens_in", "tokens_out", "cost")}

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
import logging
import random
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

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
FORMAT_STATUS = {400, 415, 422}  # what an endpoint says that knows no JSON schema
EARLY_ATTEMPTS = 3  # at what is no honest fault of the way, while nothing has been answered yet
STOP_AFTER = 4  # questions in a row that came to nothing
LONG_WAIT = 600.0  # seconds; who asks for more has a quota that this run will not outlive
ERROR_FIELDS = ("error", "errors", "message", "detail", "details", "msg", "error_message", "reason", "title")
IN_A_STREAM = "the server answers in a stream, which is not read: switch streaming off"
FILTERS = {"content_filter", "safety", "prohibited_content", "blocklist", "recitation"}
OF_THE_ROW = re.compile(
    r"content.?filter|content management policy|moderation|flagged|prohibited.content|safety (system|setting|filter)"
    r"|context.?(length|window|size)|(prompt|input|request).{0,30}too (long|large)|too many (input )?tokens", re.I)
OF_THE_RUN = re.compile(
    r"insufficient|credit balance|billing|payment required|(api|access|subscription).?key|unauthori[sz]ed|authenticat"
    r"|model\b.{0,80}\b(not found|not exist)|model_not_found|(unknown|invalid|no such) model", re.I)
NOT_TAKEN = re.compile(
    r"not support|unsupported|unrecogni|unknown|unexpected|not permitted|not allowed|deprecated", re.I)
OTHER_NAME = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens", "temperature": "",
              "top_p": ""}  # options that may be given in the other name, or left out
CONTENT_ASKS = 3  # in one run: the first ask and at most two more
CUT_OFF = {"length", "max_tokens", "max_output_tokens", "model_length"}  # finish reasons of gateways
JSON_MODES = ("schema", "object", "none")


@dataclass
class Outcome:
    """What became of one question.

    `value` is what the check made of the best answer (None: nothing usable), `faults` what is wrong with it, `error`
    why there is no answer at all; calls and tokens count every answer of this question, `n_paid` and `cost` those of
    this start, `paid_before` the dollars for the others. Equal questions count once, in one of their outcomes.
    """

    value: Any = None
    faults: list[str] = field(default_factory=list)
    error: str = ""
    n_calls: int = 0
    n_paid: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    paid_before: float = 0.0


Check = Callable[[int, Answer], tuple[Any, list[str], float]]


def ask_all(endpoint: Endpoint, questions: Iterable[Question], check: Check, cache: AnswerCache,
            price: Price | None = None, budget: float | None = None,
            done: Callable[[int, Outcome], None] = lambda *_: None, paid: float = 0.0) -> list[Outcome]:
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
        Dollars for these questions, earlier starts included; a question that could exceed it is not asked. What is
        under way is reckoned by the dearest answer so far, in proportion; before the first, one is asked at a time.
    done : callable
        Receives (number, outcome) as soon as a question is finished, in any order.
    paid : float
        Dollars that count in the budget already: what the stored answers cost (`plan_questions`).

    Returns
    -------
    list of Outcome

    Raises
    ------
    EndpointError
        When what went wrong concerns every question (key, credits, address, model, no server, or one question after
        the other comes to nothing), or a budget has no price. Answers until then are kept.

    Source: ours.
    """
    if budget is not None and price is None:
        raise EndpointError(f"a budget needs a price: {endpoint.model} is not in {PRICES.name}")
    session = _Session(endpoint, check, cache, price, budget, paid, done)
    return _run(session.run(questions))


def plan_questions(questions: Iterable[Question], endpoint: Endpoint, cache: AnswerCache | None, price: Price | None,
                   is_answered: Callable[[int, list[Answer]], bool]) -> dict[str, float]:
    """Return what is ahead (requests, tokens_in, tokens_out, cost) and what is kept (stored, paid_before).

    Equal questions count once. `is_answered` takes a question's number and its stored answers; `paid_before` is what
    all of these cost, in dollars. Tokens are estimates, second asks are not counted; cost is nan without a price.
    """
    counts, seen, paid_before = dict.fromkeys(("requests", "stored", "tokens_in", "tokens_out"), 0), set(), 0.0
    for number, question in enumerate(questions):
        if (key := question.key(endpoint)) in seen:
            continue
        seen.add(key)
        answers = [] if cache is None else list(cache.list_answers(question, endpoint))
        paid_before += sum(answer.find_cost(price) for answer in answers)
        if is_answered(number, answers):
            counts["stored"] += 1
        else:
            counts["requests"] += 1
            counts["tokens_in"] += count_question(question)
            counts["tokens_out"] += question.expected_tokens
    cost = price.cost(counts["tokens_in"], counts["tokens_out"]) if price else float("nan")
    return counts | {"cost": cost, "paid_before": paid_before}


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


class _Fault(Exception):
    """A request without an answer. `whose`: "row" this question's, "start" every question's if it is met first, "run"
    every question's, "" not known."""

    def __init__(self, reason: str, whose: str = "", status: int = 0):
        super().__init__(reason)
        self.whose, self.status = whose, status


class _Refused(_Fault):
    """A request that will not be answered however often it is sent."""


class _Transient(_Fault):
    """A fault of the way, worth another attempt. `wait`: what the server asked for; `early`: at first given up soon."""

    def __init__(self, reason: str, whose: str = "", wait: float | None = None, slow_down: bool = True,
                 early: bool = False):
        super().__init__(reason, whose)
        self.wait, self.slow_down, self.early = wait, slow_down, early


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

    def __init__(self, endpoint, check, cache, price, budget, paid, done):
        from openai import AsyncAzureOpenAI, AsyncOpenAI, DefaultAsyncHttpxClient

        self.endpoint, self.check, self.cache = endpoint, check, cache
        self.price, self.budget, self.done = price, budget, done
        self.key = endpoint.read_key()
        self.spent, self.dearness, self.mode, self.n_answered, self.n_failed = paid, 0.0, JSON_MODES[0], 0, 0
        self.reserved: list[float] = []  # dollars foreseen for each request under way, times the dearness so far
        self.room = asyncio.Condition()
        self.options, self.left_out = endpoint.body, []
        self.flying: dict[str, asyncio.Task] = {}  # requests under way
        self.counted: set[str] = set()  # answers that stand in an outcome
        self.n_old: dict[str, int] = {}  # answers that a question had before this run
        own = endpoint.is_local  # a proxy of the environment cannot reach this machine
        version = endpoint.query.get("api-version")  # Azure's
        azure = version and ("/deployments/" in endpoint.url or endpoint.url.endswith("/openai"))
        client = partial(AsyncAzureOpenAI, api_version=version) if azure else AsyncOpenAI
        self.make_client = lambda: client(
            base_url=endpoint.url, api_key=self.key, max_retries=0, timeout=endpoint.timeout,
            default_query=endpoint.query, default_headers={"api-key": self.key} if version else None,
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
                answer = await self._answer(question, attempt)
            except _Fault as fault:
                outcome.error = outcome.error if outcome.value is not None else str(fault)
                break
            is_new = attempt >= self.n_old.get(first, attempt + 1)
            self._count(outcome, answer, question.key(self.endpoint, attempt), is_new)
            if answer.void:
                outcome.error = answer.void
                if is_new:  # it will say so again
                    break
                continue
            value, faults, worth = self.check(number, answer)
            if worth > best:
                outcome.value, outcome.faults, outcome.error, best = value, faults, "", worth
            if not faults:
                break
        return outcome

    def _count(self, outcome: Outcome, answer: Answer, key: str, is_new: bool) -> None:
        if key not in self.counted:
            self.counted.add(key)
            outcome.n_calls += 1
            outcome.n_paid += is_new
            outcome.tokens_in += answer.tokens_in
            outcome.tokens_out += answer.tokens_out
            outcome.cost += answer.find_cost(self.price) * is_new
            outcome.paid_before += answer.find_cost(self.price) * (not is_new)

    async def _answer(self, question: Question, attempt: int) -> Answer:
        """Return a stored answer, or ask; equal questions under way share one request."""
        key = question.key(self.endpoint, attempt)
        if key in self.flying:
            return await asyncio.shield(self.flying[key])
        stored = self.cache.get(key)
        if stored is not None:
            self._learn_cost(question, stored)
            return stored
        task = self.flying[key] = asyncio.create_task(self._pay(key, question))
        try:
            return await asyncio.shield(task)
        finally:
            self.flying.pop(key, None)

    async def _pay(self, key: str, question: Question) -> Answer:
        async with self._reserve(self._estimate(question)):
            n_before = self.n_answered
            try:
                answer = await self._send(question)
            except _Fault as fault:
                if self._concerns_all(fault, n_before):
                    raise self._stop(fault) from None
                raise
            self.cache.put(key, answer)
            self.spent += answer.find_cost(self.price)
            self._learn_cost(question, answer)
            self.n_answered, self.n_failed = self.n_answered + 1, 0
            return answer

    @property
    def _limit(self) -> int:
        return self.options.get("max_tokens") or self.options.get("max_completion_tokens") or 0

    def _estimate(self, question: Question) -> float:
        tokens_out = self._limit or question.expected_tokens
        return self.price.cost(count_question(question), tokens_out) if self.price else 0.0

    def _learn_cost(self, question: Question, answer: Answer) -> None:
        if estimate := self._estimate(question):
            self.dearness = max(self.dearness, answer.find_cost(self.price) / estimate)

    @asynccontextmanager
    async def _reserve(self, estimate: float) -> AsyncIterator[None]:
        """Keep dollars for a request: wait while they may be there once others are done, refuse when they are not."""
        def fits() -> bool:
            foreseen = sum((*self.reserved, estimate)) * (max(self.dearness, self._limit > 0) or 1.0)
            return self.budget is None or self.spent + foreseen <= self.budget + 1e-9

        async with self.room:
            await self.room.wait_for(lambda: self.budget is None or not (self.reserved and estimate) or self.dearness
                                     and fits())
            if not fits():
                raise _Refused(f"not asked: the budget of {self.budget:g} USD is reached", "row")
            self.reserved.append(estimate)
        try:
            yield
        finally:
            self.reserved.remove(estimate)
            async with self.room:
                self.room.notify_all()

    async def _send(self, question: Question) -> Answer:
        """Send a question until it is answered, with growing waits between attempts."""
        from tenacity import AsyncRetrying, retry_if_exception_type

        attempts = AsyncRetrying(retry=retry_if_exception_type(_Transient), reraise=True, wait=self._wait,
                                 stop=self._gives_up)
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

    def _gives_up(self, state: Any) -> bool:
        early = state.outcome.exception().early and not self.n_answered
        return state.attempt_number >= min(self.endpoint.attempts, EARLY_ATTEMPTS if early else self.endpoint.attempts)

    def _concerns_all(self, fault: _Fault, n_before: int) -> bool:
        """Return whether a question that came to nothing shows that all others will."""
        if fault.whose == "row":
            return False
        self.n_failed += 1
        may_pass = isinstance(fault, _Transient)
        if fault.whose == "run":
            return not may_pass or self.n_answered == n_before
        return not self.counted if fault.whose == "start" else self.n_failed >= STOP_AFTER and (
            may_pass or not self.counted)

    def _stop(self, fault: _Fault) -> EndpointError:
        kept = f"; what was answered is kept in {self.cache.folder}" if self.cache.folder and len(self.cache) else ""
        return EndpointError(f"{self.endpoint.address}, model {self.endpoint.model!r}: {fault}{kept}")

    def _wait(self, state: Any) -> float:
        """Return the seconds to wait: what the server asked for (at most 60), else a doubling time with jitter."""
        asked = state.outcome.exception().wait
        if asked is not None:
            return min(max(asked, 0.0), 60.0)
        return min(30.0, self.endpoint.backoff * 2 ** (state.attempt_number - 1)) * random.uniform(0.5, 1.5)

    async def _send_once(self, question: Question) -> Answer:
        """Send one request; again with less asked of it, where the endpoint knows no JSON schema or not an option."""
        modes = list(JSON_MODES[JSON_MODES.index(self.mode):] if question.schema is not None else JSON_MODES[-1:])
        while True:
            sent = dict(self.options)
            try:
                answer = self._read_response(await self._post(question, modes[0], sent), question, modes[0])
            except _Refused as fault:
                if self._adapt(str(fault), sent):
                    continue
                if fault.whose or fault.status not in FORMAT_STATUS or len(modes) == 1:
                    raise
                modes.pop(0)
                continue
            if question.schema is not None:
                self.mode = modes[0]  # what worked is asked from now on
            return answer

    def _adapt(self, said: str, sent: dict[str, Any]) -> bool:
        """Return whether `sent` holds an option that the endpoint does not take; it is left out from now on."""
        name = next((word for word in re.findall(r"\w+", said) if word in OTHER_NAME and word in sent), "")
        if not name or not NOT_TAKEN.search(said):
            return False
        if name in self.options:
            value, other = self.options.pop(name), OTHER_NAME[name]
            self.left_out.append(name)
            if other and other not in self.left_out:
                self.options[other] = value
            logging.getLogger(__name__).warning("%s takes no %s, so it %s: %s", self.endpoint.model, name, (
                f"goes as {other}" if other in self.options else "is left out"), said)
        return True

    async def _post(self, question: Question, mode: str, options: dict[str, Any]) -> Any:
        """Return the response to one request, whatever its status; a fault of the way becomes _Transient."""
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        named = {"name": "labels", "strict": True, "schema": question.schema}
        formats = {"schema": {"type": "json_schema", "json_schema": named}, "object": {"type": "json_object"}}
        body = ({"response_format": formats[mode]} if mode in formats else {}) | options
        extra = {name: body.pop(name) for name in ("extra_headers", "extra_query") if name in body}
        try:
            raw = await self.client.chat.completions.with_raw_response.create(
                model=self.endpoint.model, messages=list(question.messages), extra_body=body, **extra)
            return raw.http_response
        except APIStatusError as error:
            return error.response
        except APITimeoutError:
            raise _Transient(f"no answer within {self.endpoint.timeout:g} seconds") from None
        except APIConnectionError as error:
            if type(error.__cause__).__name__ in ("ConnectError", "ProxyError", "TooManyRedirects"):
                raise _Transient(f"cannot be reached: {_find_root(error)}", "run", early=True) from None
            raise _Transient("the connection failed or was dropped") from None
        except (ValueError, LookupError, OSError, RuntimeError) as error:
            raise _Transient(f"the response cannot be read: {type(error).__name__}", early=True) from None

    def _read_response(self, response: Any, question: Question, mode: str) -> Answer:
        data, sent_on = _parse_body(response.text), f" (sent on to {response.url.copy_with(query=None)})"
        choices = data.get("choices") if isinstance(data, dict) else None
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        error = isinstance(data, dict) and data.get("error") or choice.get("error")
        if not choice or error or response.status_code >= 300 or choice.get("finish_reason") == "error":
            said = _find_words(error) or _find_words(data) or f"the response holds no answer: {response.text}"
            said = " ".join((said[:250] + (sent_on if response.history else "")).split())
            said = said if self.key == "none" else said.replace(self.key, "***")
            raise _judge(said, response, _find_status(data) or _find_status(error), isinstance(data, str))
        message = choice.get("message") if isinstance(choice.get("message"), dict) else {}
        (thoughts, text), finish = read_content(message), str(choice.get("finish_reason") or "").casefold()
        if not text and isinstance(message.get("refusal"), str):
            text, finish = message["refusal"], "refusal"
        tokens_in = _count(data.get("usage"), "prompt_tokens", count_question(question))
        tokens_out = _count(data.get("usage"), "completion_tokens", count_tokens(thoughts + text))
        if _is_cut(tokens_in, count_question(question)):
            finish = "prompt_cut"
        cost = None if self.price is None else self.price.cost(tokens_in, tokens_out)
        mode += "".join(f", without {name}" for name in self.left_out)
        finish = "length" if finish in CUT_OFF else "content_filter" if finish in FILTERS else finish
        return Answer(text, finish, tokens_in, tokens_out, cost, mode, self.endpoint.address, round(time.time(), 3),
                      thoughts)


def _parse_body(body: str) -> Any:
    """Return the JSON of a body; of a stream of events the one that holds an error; else the words of a page."""
    try:
        return json.loads(body, strict=False)
    except (ValueError, RecursionError):
        pass
    if body.lstrip().startswith(("data:", "event:", ":")):
        events = [_parse_body(line[5:].strip()) for line in body.splitlines() if line.startswith("data:")]
        return next((event for event in events if isinstance(event, dict) and event.get("error")), IN_A_STREAM)
    page = re.search(r"<title[^>]*>(.*?)</title>", body, re.I | re.S)
    words = page[1] if page else re.sub(r"<[^>]*>", " ", body)[:200]
    return words.strip() or "it is empty"


def _find_words(value: Any) -> str:
    """Return what a provider says in an error of whatever shape, its codes included."""
    if isinstance(value, list):
        return "; ".join(filter(None, map(_find_words, value)))
    if not isinstance(value, dict):
        return str(value or "")
    said = next(filter(None, (_find_words(value.get(name)) for name in ERROR_FIELDS)), "")
    raw = value["metadata"].get("raw") if isinstance(value.get("metadata"), dict) else None
    more = [value.get("code"), value.get("type"), raw, ".".join(map(str, value["loc"])) if value.get("loc") else None]
    return said + "".join(f" ({word})" for word in dict.fromkeys(more) if isinstance(word, str) and word not in said)


def _find_status(value: Any) -> int:
    """Return the HTTP status that an error in a body names, 0 for none."""
    if isinstance(value, list):
        return _find_status(value[0]) if value else 0
    if not isinstance(value, dict):
        return 0
    named = [str(value.get(name)) for name in ("code", "status", "status_code")]
    return next((int(text) for text in named if re.fullmatch("[45][0-9]{2}", text)), _find_status(value.get("error")))


def _judge(said: str, response: Any, named: int, is_page: bool) -> _Fault:
    """Return the fault that a provider's words and status call for, or the status `named` in a good response."""
    honest, wait = response.status_code >= 300, _read_wait(response.headers)
    status = response.status_code if honest else named
    reason = f"{'HTTP' if honest else 'error'} {status}: {said}" if status else said
    if is_page and not honest and said != IN_A_STREAM:
        reason = f"the response is not the JSON of a chat completion: {said}"
    is_late = status in RETRY_STATUS or status >= 500
    if OF_THE_ROW.search(said) or status == 413:
        return _Refused(reason, "row", status)
    if status in (401, 402) or (OF_THE_RUN.search(said) and not is_late) or (
            "insufficient_quota" in said or (wait or 0) > LONG_WAIT or said == IN_A_STREAM):
        return _Refused(reason, "run", status)
    if status in (403, 404, 405) or 300 <= status < 400:
        hint = "" if status == 403 else " (is the address right? it mostly ends in /v1)"
        return _Refused(reason + hint, "start", status)
    if is_late or not status:
        return _Transient(reason, "run" if is_page and not honest else "", wait, early=not honest)
    return _Refused(reason, "", status)


def _find_root(error: BaseException | None) -> str:
    """Return the words of the system below a failed connection, else those of the error next to it."""
    said = str(error.__cause__)
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return str(error or said)


def _is_cut(tokens_in: int, estimate: int) -> bool:
    """Return whether a server's count of the prompt's tokens shows that it dropped a part: far too few, or few and the
    round size of a context (Ollama). Counts below 500 say nothing: cached tokens may be left out of them."""
    return tokens_in >= 500 and estimate > (1.25 if tokens_in % 1024 == 0 else 3) * tokens_in


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
    return int(value) if isinstance(value, int | float) and 0 <= value < 1e12 else estimate


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
    """Return calls, calls paid for now, tokens, cost now and cost before over outcomes.

    Examples
    --------
    >>> sum_outcomes([Outcome(n_calls=2, cost=0.5), Outcome(n_calls=1)])["n_calls"]
    3
    """
    return {name: sum(getattr(outcome, name) for outcome in outcomes)
            for name in ("n_calls", "n_paid", "tokens_in", "tokens_out", "cost", "paid_before")}

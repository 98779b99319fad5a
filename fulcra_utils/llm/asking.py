"""Ask an endpoint many questions and lose no answer: retries, adaptive concurrency, budget.

Choices: an answer is stored before anything else is done with it; faults of the way (429, 5xx, timeouts, dropped
connections, bodies that are no JSON) are asked again after a wait that grows, for a bounded number of times; content
with faults is asked again at once, at most twice in a run, and again in the next run: every answer is kept, only one
without faults is final; concurrency grows by one and is halved.
"""

import asyncio
import itertools
import json
import logging
import math
import random
import re
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import yaml
from anyio.from_thread import start_blocking_portal
from tqdm import tqdm

from fulcra_utils.common.paths import DATA
from fulcra_utils.dataset.rows import DECODER
from fulcra_utils.dataset.texts import read_content
from fulcra_utils.llm.endpoints import (
    FREE,
    Answer,
    AnswerCache,
    Endpoint,
    EndpointError,
    Price,
    Question,
    count_tokens,
    load_price,
)

IN_A_STREAM = "the server answers in a stream, which is not read: switch streaming off"
SAID = yaml.safe_load((DATA / "providers.yaml").read_text(encoding="utf-8"))
OF_THE_ROW, OF_THE_RUN, NOT_TAKEN = (
    re.compile("|".join(SAID[name]), re.I) for name in ("of_the_row", "of_the_run", "not_taken"))
CONTENT_ASKS = 3  # in one run: the first ask and at most two more


@dataclass
class Outcome:
    """What became of one question.

    `value` is what the check made of the best answer (None: nothing usable), `faults` what is wrong with it, `error`
    why there is no answer at all; `new` are the answers of this start, `old` the stored ones that were looked at. Equal
    questions count once, in one of their outcomes.
    """

    value: Any = None
    faults: list[str] = field(default_factory=list)
    error: str = ""
    new: list[Answer] = field(default_factory=list)
    old: list[Answer] = field(default_factory=list)


Check = Callable[[int, Answer], tuple[Any, list[str], float]]


def ask_all(endpoint: Endpoint, questions: Collection[Question], check: Check, cache: AnswerCache, price: Price = FREE,
            budget: float | None = None, progress: bool = False, paid: float = 0.0) -> list[Outcome]:
    """Ask every question, many at a time, and return one outcome for each, in order.

    `check` takes the number of a question and an Answer and returns (value, faults, worth): what can be used of it,
    what is wrong with it, and a number to choose by when every ask left faults. An answer without faults is not asked
    again; faulty ones in the cache are looked at first: where they hold nothing to use, three new asks follow, else
    what is left of three, at least one. `budget` is in dollars, what stored answers to these questions cost, and what
    else was `paid`, included: a question that could exceed it is not asked, what is under way is reckoned by the
    dearest answer so far, if not more, and before the first, one is asked at a time.

    EndpointError when what went wrong concerns every question (key, credits, address, model, no server, or one question
    after the other comes to nothing), or a budget has no price. Answers until then are kept.
    """
    if budget is not None:
        if price is FREE:
            raise EndpointError(f"a budget needs a price: {endpoint.model} is not in the table")
        paid += plan_questions(questions, endpoint, cache, price, lambda *_: (None, [], 0.0))["paid_before"]
    session = _Session(endpoint, check, cache, price, budget, paid)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(session.run(questions, progress))
    with start_blocking_portal() as portal:  # a notebook runs a loop already; an interrupt ends what is asked here, too
        return portal.call(session.run, questions, progress)


def ask_lists(talks: Sequence[tuple[str, str]], item: dict[str, Any], name: str, endpoint: Endpoint, cache: str | None,
              budget: float | None) -> list[tuple[list | None, str]]:
    """Ask for a JSON object with one list: what each answer holds under `name`, or None, and what went wrong.

    A talk is a system message and what the user says, `item` the schema of an element; errors are those of `ask_all`.
    """
    def check(_: int, answer: Answer) -> tuple[list | None, list[str], float]:
        try:
            text = answer.split()[1]
            found = DECODER.decode(text[text.index("{"):text.rindex("}") + 1])[name]
            if not isinstance(found, list):
                return None, [f"{name} is no list"], 0.0
            good = [one for one in found if _is_of(one, item)]
            lost = len(found) - len(good)
            return good if good or not lost else None, [f"{lost} of {len(found)} {name} have another form"] * (
                lost > 0), 1 - lost / max(1, len(found))
        except (ValueError, KeyError, TypeError):
            return None, [f"the answer is no JSON with {name}"], 0.0

    schema = {"type": "object", "properties": {name: {"type": "array", "items": item}}, "required": [name],
              "additionalProperties": False}
    questions = [Question(({"role": "system", "content": system}, {"role": "user", "content": text}), schema, name)
                 for system, text in talks]
    with closing(AnswerCache(cache)) as store:
        price = load_price(endpoint.model, is_local=endpoint.is_local)
        outcomes = ask_all(endpoint, questions, check, store, price, budget)
    return [(outcome.value, outcome.error or "; ".join(outcome.faults)) for outcome in outcomes]


def _is_of(value: Any, schema: dict[str, Any]) -> bool:
    """Return whether an element is what was asked for: a text, or an object that has the first name it needs."""
    return isinstance(value, str) if schema["type"] == "string" else \
        isinstance(value, dict) and schema["required"][0] in value


def plan_questions(questions: Iterable[Question], endpoint: Endpoint, cache: AnswerCache, price: Price,
                   check: Check) -> dict[str, float]:
    """Return what is ahead (requests, tokens_in, tokens_out, cost) and what is kept (stored, paid_before).

    Equal questions count once; stored are those with an answer that `check` (see `ask_all`) finds no fault in.
    `paid_before` is what all stored answers cost, in dollars. Tokens are estimates.
    """
    counts, seen, paid_before = dict.fromkeys(("requests", "stored", "tokens_in", "tokens_out"), 0), set(), 0.0
    for number, question in enumerate(questions):
        if (key := question.key(endpoint)) in seen:
            continue
        seen.add(key)
        answers = list(cache.list_answers(question, endpoint))
        paid_before += sum(answer.find_cost(price) for answer in answers)
        if any(not answer.void and not check(number, answer)[1] for answer in answers):
            counts["stored"] += 1
        else:
            counts["requests"] += 1
            counts["tokens_in"] += question.n_tokens
            counts["tokens_out"] += question.expected_tokens
    return counts | {"cost": price.cost(counts["tokens_in"], counts["tokens_out"]), "paid_before": paid_before}


class _Fault(Exception):
    """A request without an answer: `again` worth another attempt, `early` but few while nothing is answered.

    `whose`: "row" this question's, "start" every question's if it is met first, "run" every question's, "" not known;
    `wait`: seconds the server asks for.
    """

    def __init__(self, reason: str, whose: str = "", again: bool = False, early: bool = False,
                 wait: float | None = None, status: int = 0):
        super().__init__(reason)
        self.whose, self.again, self.early, self.wait, self.status = whose, again, early, wait, status


class _Session:
    """One `ask_all`: at most `limit` requests are under way, one more after as many successes, half after a fault."""

    def __init__(self, endpoint, check, cache, price, budget, paid):
        self.endpoint, self.check, self.cache, self.price = endpoint, check, cache, price
        self.budget = budget if budget is not None and price.cost(1, 1) else math.inf
        self.key = endpoint.read_key()
        self.options, self.left_out, self.mode = endpoint.body, [], "schema"
        self.spent, self.dearest = paid, 0.0
        self.n_answered, self.n_stored, self.n_failed, self.is_over = 0, 0, 0, False
        self.under_way: list[float] = []  # dollars foreseen for each request
        self.limit, self.last_cut, self.room = float(min(endpoint.concurrency, 4)), 0.0, asyncio.Condition()

    async def run(self, questions: Collection[Question], progress: bool) -> list[Outcome]:
        ahead, asked, outcomes = enumerate(questions), {}, {}

        async def work() -> None:
            for number, question in ahead:
                key = question.key(self.endpoint)
                is_first = key not in asked  # equal questions are asked once
                if is_first:
                    asked[key] = asyncio.ensure_future(self._ask(number, question))
                outcome = await asked[key]
                outcomes[number] = outcome if is_first else replace(outcome, new=[], old=[])
                bar.update()

        with tqdm(total=len(questions), unit="question", disable=not progress, mininterval=0.5) as bar:
            async with self._connect() as self.client:
                await asyncio.gather(*(work() for _ in range(4 * self.endpoint.concurrency)))
        return [outcomes[number] for number in range(len(outcomes))]

    def _connect(self) -> Any:
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        url, query, timeout = self.endpoint.url, self.endpoint.query, self.endpoint.timeout
        is_azure = "api-version" in query
        url += f"/deployments/{self.endpoint.model}" if is_azure and url.endswith("/openai") else ""
        # a proxy of the environment cannot reach this machine
        return AsyncOpenAI(base_url=url, api_key=self.key, max_retries=0, timeout=timeout, default_query=query,
                           default_headers={"api-key": self.key} if is_azure else None,
                           http_client=DefaultAsyncHttpxClient(trust_env=not self.endpoint.is_local, timeout=timeout))

    async def _ask(self, number: int, question: Question) -> Outcome:
        """Ask until an answer is free of faults, or the asks of this run are used up; keep the best."""
        outcome, best = Outcome(old=list(self.cache.list_answers(question, self.endpoint))), -math.inf
        self.n_stored += len(outcome.old)
        for attempt in itertools.count():
            if is_new := attempt >= len(outcome.old):
                if len(outcome.new) >= (CONTENT_ASKS if best <= 0 else max(1, CONTENT_ASKS - len(outcome.old))):
                    break
                try:
                    outcome.new.append(await self._pay(attempt, question))
                except _Fault as fault:
                    outcome.error = str(fault) if outcome.value is None else ""
                    break
            answer = [*outcome.old, *outcome.new][attempt]
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

    async def _pay(self, attempt: int, question: Question) -> Answer:
        """Get and keep a new answer, once there is a place, and where dollars may be there when others are done.

        Where another process kept one under this attempt meanwhile, it is kept as a later one.
        """
        most = self.options.get("max_tokens") or self.options.get("max_completion_tokens") or question.expected_tokens
        estimate = self.price.cost(question.n_tokens, most)

        def fits() -> bool:
            return self.spent + sum(max(usd, self.dearest) for usd in (*self.under_way, estimate)) <= self.budget + 1e-9

        def is_free() -> bool:
            return not self.is_over and (not self.under_way or len(self.under_way) < int(self.limit) and (
                self.budget == math.inf or self.dearest > 0 and fits()))

        async with self.room:
            await self.room.wait_for(is_free)
        if not fits():
            raise _Fault(f"not asked: the budget of {self.budget:g} USD is reached", "row")
        self.under_way.append(estimate)
        try:
            answer = await self._send(question)
            while not self.cache.put(question.key(self.endpoint, attempt), answer):
                attempt += 1
            cost = answer.find_cost(self.price)
            self.spent, self.dearest = self.spent + cost, max(self.dearest, cost)
            self.n_answered, self.n_failed = self.n_answered + 1, 0
            return answer
        except EndpointError:
            self.is_over = True
            raise
        finally:
            self.under_way.remove(estimate)
            async with self.room:
                self.room.notify_all()
                if self.is_over:  # what is under way is paid for, so it is awaited and kept
                    await self.room.wait_for(lambda: not self.under_way)

    async def _send(self, question: Question, attempt: int = 1) -> Answer:
        """Send a question until it is answered, with waits between: what the server asks for, else a doubling time."""
        started = time.monotonic()
        try:
            answer = await self._send_once(question)
            self.limit = min(self.endpoint.concurrency, self.limit + 1 / self.limit)
            return answer
        except _Fault as fault:
            if fault.again and started >= self.last_cut:  # once for all that were under way together
                self.last_cut, self.limit = time.monotonic(), max(1.0, self.limit / 2)
            few = 3 if fault.early and not self.n_answered else math.inf  # while nothing has been answered yet
            if not fault.again or self.is_over or attempt >= min(few, self.endpoint.attempts):
                self._stop_run(fault)
                raise
            grown = min(30.0, self.endpoint.backoff * 2 ** (attempt - 1)) * random.uniform(0.5, 1.5)
            await asyncio.sleep(grown if fault.wait is None else min(fault.wait, 60.0))
        return await self._send(question, attempt + 1)

    def _stop_run(self, fault: _Fault) -> None:
        """Raise EndpointError where a question that came to nothing shows that all others will."""
        self.n_failed += fault.whose != "row"
        is_first, said = not self.n_answered + self.n_stored, str(fault)
        in_a_row = not fault.whose and self.n_failed > 3 and (fault.again or is_first)
        if fault.whose == "run" or (fault.whose == "start" and is_first) or in_a_row:
            if self.cache.folder and len(self.cache):
                said += f"; what was answered is kept in {self.cache.folder}"
            raise EndpointError(f"{self.endpoint.address}, model {self.endpoint.model!r}: {said}") from None

    async def _send_once(self, question: Question) -> Answer:
        """Send one request; again with less asked of it, where the endpoint knows no JSON schema or not an option."""
        mode = self.mode if question.schema is not None else ""
        while True:
            sent = dict(self.options)
            try:
                answer = self._read_response(await self._post(question, mode, sent), question)
                self.mode = self.mode if question.schema is None else mode  # what worked is asked from now on
                return answer
            except _Fault as fault:
                if not self._adapt(str(fault), sent):
                    if fault.again or fault.whose or fault.status not in (400, 415, 422) or not mode:
                        raise
                    mode = "object" if mode == "schema" else ""

    def _adapt(self, said: str, sent: dict[str, Any]) -> bool:
        """Return whether `sent` holds an option that the endpoint does not take; it is left out from now on."""
        name = next((word for word in re.findall(r"\w+", said) if word in SAID["other_name"] and word in sent), "")
        if not name or not NOT_TAKEN.search(said):
            return False
        if name in self.options:
            other = SAID["other_name"][name]
            self.left_out.append(name)
            self.options |= {other: self.options[name]} if other and other not in self.left_out else {}
            del self.options[name]
            logging.getLogger(__name__).warning("%s takes no %s, so it %s: %s", self.endpoint.model, name, (
                f"goes as {other}" if other in self.options else "is left out"), said)
        return True

    async def _post(self, question: Question, mode: str, options: dict[str, Any]) -> Any:
        """Return the response to one request, whatever its status; a fault of the way is raised."""
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        named = {"name": "labels", "strict": True, "schema": question.schema}
        formats = {"schema": {"type": "json_schema", "json_schema": named}, "object": {"type": "json_object"}}
        body = ({"response_format": formats[mode]} if mode else {}) | options
        extra = {name: body.pop(name, None) for name in ("extra_headers", "extra_query")}
        try:
            return (await self.client.chat.completions.with_raw_response.create(
                model=self.endpoint.model, messages=list(question.messages), extra_body=body, **extra)).http_response
        except APIStatusError as error:
            return error.response
        except APITimeoutError:
            raise _Fault(f"no answer within {self.endpoint.timeout:g} seconds", again=True) from None
        except APIConnectionError as error:
            if type(error.__cause__).__name__ in ("ConnectError", "ProxyError", "TooManyRedirects"):
                raise _Fault(f"cannot be reached: {error.__cause__}", "run", again=True, early=True) from None
            raise _Fault("the connection failed or was dropped", again=True) from None

    def _read_response(self, response: Any, question: Question) -> Answer:
        data = _parse_body(response.text)
        known = data if isinstance(data, dict) else {}
        choices = known.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        error = known.get("error") or choice.get("error")
        if not choice or error or response.status_code >= 300 or choice.get("finish_reason") == "error":
            said = _find_words(error) or _find_words(data) or f"the response holds no answer: {response.text}"
            said = said if self.key == "none" else said.replace(self.key, "***")
            sent_on = f" (sent on to {response.url.copy_with(query=None, userinfo=b'')})" if response.history else ""
            raise _judge(" ".join((said[:250] + sent_on).split()), response, isinstance(data, str))
        message = choice.get("message") if isinstance(choice.get("message"), dict) else {}
        (thoughts, text), finish = read_content(message), str(choice.get("finish_reason") or "").casefold()
        if not text and isinstance(said := message.get("refusal"), str) and said.strip():
            text, finish = said, "refusal"
        estimate = question.n_tokens
        tokens_in = _count(known.get("usage"), "prompt_tokens", estimate)
        tokens_out = max(_count(known.get("usage"), "completion_tokens", count_tokens(thoughts + text)),
                         _count(known.get("usage"), "total_tokens", 0) - tokens_in)     # hidden thoughts are paid, too
        # a count far too small, or too small and the round size of a context (Ollama), shows that a part was dropped;
        # one below 500 says nothing: cached tokens may be left out of it
        if tokens_in >= 500 and estimate > (1.25 if tokens_in % 1024 == 0 else 3) * tokens_in:
            finish = "prompt_cut"
        cost = None if self.price is FREE else self.price.cost(tokens_in, tokens_out)
        return Answer(text, SAID["finish"].get(finish, finish), tokens_in, tokens_out, cost, thoughts)


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
    return (page[1] if page else re.sub(r"<[^>]*>", " ", body)[:200]).strip() or "it is empty"


def _find_words(value: Any) -> str:
    """Return what a provider says in an error of whatever shape, its codes included."""
    if isinstance(value, list):
        return "; ".join(filter(None, map(_find_words, value)))
    if not isinstance(value, dict):
        return str(value or "")
    said = next(filter(None, (_find_words(value.get(name)) for name in SAID["error_fields"])), "")
    raw = value["metadata"].get("raw") if isinstance(value.get("metadata"), dict) else None
    more = [value.get("code"), value.get("type"), raw, ".".join(map(str, value["loc"])) if value.get("loc") else None]
    return said + "".join(f" ({word})" for word in dict.fromkeys(more) if isinstance(word, str) and word not in said)


def _judge(said: str, response: Any, is_page: bool) -> _Fault:
    """Return the fault that a provider's words and status call for, or the status that a good response names."""
    honest, seconds = response.status_code >= 300, response.headers.get("retry-after", "")
    named = re.search(r'"(?:code|status|status_code)"\s*:\s*"?([45]\d\d)\b', response.text)
    status = response.status_code if honest else int(named[1]) if named else 0
    wait = float(seconds) if re.fullmatch(r"\d+(\.\d+)?", seconds) else None
    reason = f"{'HTTP' if honest else 'error'} {status}: {said}" if status else said
    if is_page and not honest and said != IN_A_STREAM:
        reason = f"the response is not the JSON of a chat completion: {said}"
    is_late = status in (408, 409, 425, 429) or status >= 500
    if OF_THE_ROW.search(said) or status == 413:
        return _Fault(reason, "row")
    if status in (401, 402) or (OF_THE_RUN.search(said) and not is_late) or (  # a quota outlives this run
            "insufficient_quota" in said or (wait or 0) > 600 or said == IN_A_STREAM):
        return _Fault(reason, "run")
    if status in (403, 404, 405) or 300 <= status < 400:
        return _Fault(reason + " (is the address right? it mostly ends in /v1)" * (status != 403), "start")
    if is_late or not status:
        return _Fault(reason, again=True, early=not honest, wait=wait)
    return _Fault(reason, status=status)


def _count(usage: Any, name: str, estimate: int) -> int:
    value = usage.get(name) if isinstance(usage, dict) else None
    return int(value) if isinstance(value, int | float) and 0 <= value < 1e12 else estimate

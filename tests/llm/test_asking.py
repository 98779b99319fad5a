"""Asking: every fault is lived through, nothing is asked or paid twice, and what cannot work stops in one line."""

import asyncio
import json
import re
import time
from types import SimpleNamespace

import numpy as np
import pytest
from asked_rows import KEY, PROMPTS, THEORY, expected_labels, labels_of, quick, read_output, write_input
from fault_server import CONTENT, WAY, FaultServer

from fulcra_utils.annotation.run import annotate_file
from fulcra_utils.dataset.labelled import read_dataset
from fulcra_utils.llm.asking import ask_all, plan_questions
from fulcra_utils.llm.endpoints import Answer, AnswerCache, Endpoint, EndpointError, Price, Question
from fulcra_utils.llm.replies import write_replies


@pytest.mark.parametrize("fault", [*WAY, *CONTENT])
def test_every_fault_alone_is_lived_through(tmp_path, fault):
    rows = write_input(tmp_path / "in.jsonl", 12)
    with FaultServer([fault], rate=0.4, slow=0.8) as server:
        report = annotate_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", "schwartz10",
                               quick(server, timeout=0.4), cache=tmp_path / "c")
    assert server.kinds[fault] > 0, "the fault was met"
    assert not report.failed
    assert np.array_equal(labels_of(read_output(tmp_path / "out.jsonl")), expected_labels(rows))


@pytest.mark.parametrize("fault", CONTENT)
def test_an_unusable_answer_is_asked_again_once_the_server_is_mended(command, tmp_path, fault):
    rows = write_input(tmp_path / "in.jsonl", 3)
    with FaultServer([fault], rate=1, most_faults=99) as server:
        code, out, _ = command(server)
        assert (code, server.requests) == (1, 9), "asked again at most twice in one run"
        assert f"every answer is kept in {tmp_path / 'in.jsonl.cache'}" in out
        code, out, _ = command(server)
        asked = server.requests - 9
        assert code == 1 and 3 <= asked <= 9, "bounded in the second run as well"
        kept = AnswerCache(tmp_path / "in.jsonl.cache")
        assert len(kept) == server.requests, "every answer that was paid for can be looked at"
        kept.close()
        server.rate = 0
        _, planned, _ = command(server, "--dry-run")
        assert re.search(r"all +3 +3 +0 ", planned), "the plan knows that all are asked again"
        before = server.requests
        assert command(server)[0] == 0
        assert server.requests == before + 3
        whole = (tmp_path / "out.jsonl").read_bytes()
        assert command(server)[0] == 0
        assert server.requests == before + 3, "a usable answer is paid for once"
    assert (tmp_path / "out.jsonl").read_bytes() == whole
    assert np.array_equal(labels_of(read_output(tmp_path / "out.jsonl")), expected_labels(rows))


def test_equal_rows_share_the_asks_of_a_run(tmp_path):
    row = json.dumps({"prompt": "Hi?", "response": "Hello."})
    (tmp_path / "in.jsonl").write_text("\n".join([row] * 40))
    with FaultServer(["malformed"], rate=1, most_faults=99) as server:
        for run in (1, 2):
            annotate_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", "schwartz10", quick(server, concurrency=2))
            assert server.requests == 3 * run


GOOD = {"finish_reason": "stop", "message": {"role": "assistant", "content": "x"}}
CREDITS = {"error": {"message": "Provider returned error: insufficient credits", "code": 402}}
OVERLOADED = {"message": "model overloaded", "code": 502}


def bare(**message):
    return {"choices": [{"finish_reason": "stop", "message": {"content": None, **message}}]}


@pytest.mark.parametrize(("said", "words", "most"), [
    ((200, CREDITS), "insufficient credits", 6),
    ((200, {"id": "x", "choices": None, "error": OVERLOADED}), "model overloaded", 18),
    ((200, {"choices": [{"error": OVERLOADED, "message": {"content": "pa"}}]}), "overloaded", 18),
    ((200, {"choices": [{"finish_reason": "error", "message": {"content": "pa"}}]}), "holds no answer", 18),
    ((200, {"error": "no luck today"}), "no luck today", 18), ((200, {"detail": "Not authenticated"}), "Not auth", 6),
    ((200, {"message": "Service is busy", "code": "Throttling"}), "Service is busy (Throttling)", 18),
    ((200, {"success": False, "errors": [{"code": 7003, "message": "no route"}]}), "no route", 18),
    ((200, {"choices": []}), "holds no answer", 18), ((200, {"choices": None}), "holds no answer", 18),
    ((200, "null"), "holds no answer: null", 18), ((200, ""), "it is empty", 18),
    ((200, "upstream gone"), "upstream gone", 18),
    ((200, 'data: {"choices": [{"delta": {"content": "a"}}]}\n\ndata: [DONE]\n'), "switch streaming off", 6),
    ((200, 'data: {"error": {"message": "no credits left", "code": 402}}\n\ndata: [DONE]\n'), "no credits left", 6),
    ((200, "<html><title>Sign in</title><p>…</html>"), "not the JSON of a chat completion: Sign in", 18),
    ((302, "", {"Location": "/login?next=1"}), "Sign in (sent on to http", 18),
    ((308, "", {"Location": "/a"}), "redirects", 999),
    ((401, {"error": {"message": "Incorrect API key"}}), "HTTP 401: Incorrect API key", 6),
    ((402, {"error": {"message": "Insufficient Balance"}}), "Insufficient Balance", 6),
    ((403, {"error": {"message": "Country not served"}}), "Country not served", 6),
    ((404, "404 page"), "404 page (is the address right? it mostly ends in /v1)", 6),
    ((404, {"error": {"message": "model 'm' not found, try pulling it first"}}), "try pulling", 6),
    ((400, {"object": "error", "message": "The model `m` does not exist."}), "does not exist", 6),
    ((400, [{"error": {"code": 400, "message": "API key not valid."}}]), "API key not valid", 6),
    ((429, {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}), "exceeded your quota", 6),
    ((429, {"error": {"message": "Daily limit"}}, {"Retry-After": "7200"}), "Daily limit", 6),
    ((400, {"error": {"message": "Provider error", "metadata": {"raw": "bad tools"}}}), "(bad tools)", 18),
    ((422, {"detail": [{"loc": ["body", "top_k"], "msg": "Extra inputs"}]}), "Extra inputs (body.top_k)", 18)])
def test_what_concerns_every_row_stops_the_run_at_once_in_the_providers_words(command, tmp_path, said, words, most):
    write_input(tmp_path / "in.jsonl", 6)
    started = time.monotonic()
    with FaultServer(rate=0, script=lambda _: said) as server:
        code, out, err = command(server)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert words in err and "Traceback" not in err
    assert server.requests <= most
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(("said", "words"), [
    ((200, bare(refusal="I cannot help with that.")), "the model refuses: I cannot help with that."),
    ((200, {"choices": [{**GOOD, "finish_reason": "content_filter"}]}), "content filter"),
    ((200, {"choices": [{"finish_reason": "SAFETY"}]}), "content filter"),
    ((400, {"error": {"message": "Filtered by content management policy", "code": "content_filter"}}), "Filtered"),
    ((403, {"error": {"message": "Input was flagged", "metadata": {"reasons": ["violence"]}}}), "Input was flagged"),
    ((400, {"error": {"message": "This model's maximum context length is 8192 tokens"}}), "maximum context"),
    ((413, "<html><title>413 Request Entity Too Large</title></html>"), "Too Large")])
def test_what_concerns_one_row_is_asked_once_and_stops_nothing(command, tmp_path, said, words):
    rows = write_input(tmp_path / "in.jsonl", 6)
    odd = rows[2]["response"]
    with FaultServer(rate=0) as server:
        server.script = lambda request: said if odd in request["messages"][-1]["content"] else None
        code, out, _ = command(server)
        assert (code, server.requests) == (1, 6)
        assert "row 3: 54 of 54 items open" in out and words in out
        server.script = None
        assert (command(server)[0], server.requests) == (0, 7), "mended: only this row is asked again"
    assert np.array_equal(labels_of(read_output(tmp_path / "out.jsonl")), expected_labels(rows))


def test_answers_before_the_credits_ran_out_are_kept(command, tmp_path):
    write_input(tmp_path / "in.jsonl", 30)
    with FaultServer(rate=0) as server:
        server.script = lambda _: (200, CREDITS) if server.requests > 9 else None
        code, _, err = command(server, "--concurrency", "2")
        assert code == 2 and "insufficient credits" in err and f"kept in {tmp_path / 'in.jsonl.cache'}" in err
        assert server.requests <= 12
        server.script = None
        before, kept = server.requests, sum(server.served.values())
        assert command(server)[0] == 0
        assert server.requests == before + 30 - kept and kept == 9


@pytest.mark.parametrize(("url", "words"), [
    ("http://127.0.0.1:1/v1", "cannot be reached"), ("http://no-such-host.invalid/v1", "cannot be reached"),
    ("127.0.0.1:8000/v1", "http://"), ("localhost", "http://"), ("ftp://host/v1", "http://"),
    ("http://host:99999/v1", "http://"), ("http://[::1/v1", "http://"), ("me:secret@host", "'host' is no address")])
def test_no_server_at_all_is_one_line(command, tmp_path, url, words):
    write_input(tmp_path / "in.jsonl", 6)
    started = time.monotonic()
    code, out, err = command(SimpleNamespace(url=url))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err and "secret" not in err
    assert time.monotonic() - started < 10


def test_a_server_without_tls_is_one_line(command, tmp_path):
    write_input(tmp_path / "in.jsonl", 6)
    with FaultServer(rate=0) as server:
        code, _, err = command(SimpleNamespace(url=server.url.replace("http", "https")))
    assert code == 2 and "SSL" in err


def refuse_options(*names, words="Unsupported parameter: {} is not supported with this model.", status=400):
    def script(request):
        met = [name for name in names if name in request]
        return (status, {"error": {"message": words.format(met[0])}}) if met else None
    return script


@pytest.mark.parametrize(("words", "status"), [
    ("Unsupported parameter: {} is not supported with this model.", 200), ("`{}` is deprecated for this model.", 500),
    ("Unsupported value: '{}' does not support 0 with this model. Only the default (1) value is supported.", 400),
    ("`{}` may only be set to 1 when thinking is enabled.", 400), ("invalid {}: only 1 is allowed for this model", 400),
    ("`{}` and `top_p` cannot both be specified for this model.", 400), ("{} and n are fixed at 1", 400),
    ("{} cannot be used with reasoning models", 400)])
def test_a_model_that_takes_no_temperature(command, tmp_path, caplog, words, status):
    rows = write_input(tmp_path / "in.jsonl", 6)
    with FaultServer(rate=0, script=refuse_options("temperature", words=words, status=status)) as server:
        assert command(server, "--concurrency", "2")[0] == 0
        assert caplog.text.count("takes no temperature, so it is left out") == 1, "said once"
        assert server.requests <= 8
        assert np.array_equal(labels_of(read_output(tmp_path / "out.jsonl")), expected_labels(rows))
        code, _, err = command(server, "--temperature", "none", "--option", "reasoning_effort=low",
                               "--option", "max_completion_tokens=900")
        assert (code, err) == (0, "")
        assert {"reasoning_effort": "low", "max_completion_tokens": 900}.items() <= server.bodies[-1].items()
        for more in (["--temperature", "warm"], ["--option", "seed"], ["--option", "stream=true"], ["--option", "n=3"]):
            code, _, err = command(server, *more)
            assert (code, err.count("\n")) == (2, 1)


def test_a_prompt_that_the_server_cut_marks_its_row(command, tmp_path):
    long = {"prompt": "What now? " * 2000, "response": "Wait and see."}
    (tmp_path / "in.jsonl").write_text(json.dumps(long) + "\n" + json.dumps({**long, "prompt": "Hi?"}) + "\n")

    def script(request):
        n = len(request["messages"][-1]["content"]) // 4
        return (200, {"choices": [{**GOOD, "message": {"content": '{"labels": [{"item": "be polite", "label": 1}]}'}}],
                      "usage": {"prompt_tokens": min(4096, n + 700)}})

    with FaultServer(rate=0, script=script) as server:
        code, out, _ = command(server)
        assert (code, server.requests) == (1, 2)
    assert "row 1: 54 of 54 items open: the server read 4096 tokens only and cut the prompt" in out
    assert "1 of 2 rows" in out


@pytest.mark.parametrize("usage", [
    None, [], {"prompt_tokens": None}, {"prompt_tokens": "many"}, {"prompt_tokens": 1e999}, {"prompt_tokens": -1}])
def test_odd_usage_is_estimated(tmp_path, usage):
    (tmp_path / "in.jsonl").write_text(json.dumps({"prompt": "Hi?", "response": "Hello."}))
    labels = '{"labels": [{"item": "be polite", "label": 1}]}'
    says = (200, {"choices": [{"message": {"content": labels}}], "usage": usage})
    with FaultServer(rate=0, script=lambda _: says) as server:
        report = annotate_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", "schwartz10", quick(server))
    assert not report.failed and report.costs.tokens_in[0] > 700


def test_hidden_thoughts_are_counted(tmp_path):
    with FaultServer(rate=0) as server:
        server.usage = {"prompt_tokens": 12, "completion_tokens": 2, "total_tokens": 331}
        [outcome] = ask_all(quick(server), [ask("Hi?")], lambda *_: (1, [], 1.0), AnswerCache(None), Price(0, 1e6, ""))
    assert outcome.new[0].tokens_out == 319 and outcome.new[0].cost == 319


def test_a_dead_endpoint_leaves_whole_rows_missing(tmp_path):
    write_input(tmp_path / "in.jsonl", 3)
    with FaultServer(["503"], rate=1) as server:
        report = annotate_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", "schwartz10", quick(server, attempts=3))
    assert server.requests == 9
    assert len(report.failed) == 3
    out = read_output(tmp_path / "out.jsonl")
    assert {entry["reason"] for entry in out[0]["not_annotated"]} == {"HTTP 503: try later"}
    assert len(out[0]["not_annotated"]) == THEORY.n_items
    assert np.isnan(read_dataset(tmp_path / "out.jsonl", THEORY, strict=True).vectors).all()


def test_second_start_pays_for_nothing_twice(tmp_path):
    write_input(tmp_path / "in.jsonl", 30)
    with FaultServer(rate=0.3, slow=0.5) as server:
        annotate_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", "schwartz10", quick(server, timeout=0.3))
        before, first = server.requests, (tmp_path / "out.jsonl").read_bytes()
        annotate_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", "schwartz10", quick(server, timeout=0.3))
        assert server.requests == before
        assert (tmp_path / "out.jsonl").read_bytes() == first
        annotate_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", "schwartz10", quick(server, model="other"))
        assert server.requests >= before + 30, "another model is another question"


def test_equal_rows_share_one_request(tmp_path):
    row = json.dumps({"prompt": "Hi?", "response": "Hello."})
    (tmp_path / "in.jsonl").write_text("\n".join([row] * 20))
    with FaultServer(rate=0, latency=0.05) as server:
        annotate_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", "schwartz10", quick(server))
    assert server.requests == 1
    assert len(read_output(tmp_path / "out.jsonl")) == 20


def test_endpoint_without_json_schema(tmp_path):
    rows = write_input(tmp_path / "in.jsonl", 6)
    with FaultServer(rate=0, knows_schema=False) as server:
        annotate_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", "schwartz10", quick(server, concurrency=1))
    assert server.requests == 6 + 2, "two formats are tried once, then none is asked for"
    assert np.array_equal(labels_of(read_output(tmp_path / "out.jsonl")), expected_labels(rows))


def test_concurrency_stays_within_its_bound_and_adapts(tmp_path):
    write_input(tmp_path / "in.jsonl", 60)
    with FaultServer(rate=0, latency=0.15) as server:
        annotate_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", "schwartz10", quick(server, concurrency=6))
    assert 4 < server.most_active <= 6


def test_budget_stops_cleanly(tmp_path):
    write_input(tmp_path / "in.jsonl", 20)
    with FaultServer(rate=0) as server:  # gpt-4o at 2.5 and 10 dollars: 100 + 50 tokens an answer
        report = annotate_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", "schwartz10",
                               quick(server, model="gpt-4o"), budget=0.01)
        assert 0 < server.requests < 20
        assert report.costs.cost.sum() <= 0.01
        reasons = {e["reason"] for row in read_output(tmp_path / "out.jsonl") for e in row["not_annotated"]}
        assert reasons == {"not asked: the budget of 0.01 USD is reached"}
        (tmp_path / "p.yaml").write_text("date: 2025-01-01\nmodels: {}\n")
        with pytest.raises(EndpointError, match="no price of 'judge'"):
            annotate_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", "schwartz10",
                          quick(server, base_url="https://far.invalid/v1"), budget=1, prices=tmp_path / "p.yaml")


def test_budget_counts_what_earlier_starts_paid(tmp_path):
    write_input(tmp_path / "in.jsonl", 20)
    with FaultServer(rate=0) as server:
        for _ in range(3):
            annotate_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", "schwartz10",
                          quick(server, model="gpt-4o"), budget=0.01)
            asked = server.requests
        assert asked == server.requests < 20
        more = annotate_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", "schwartz10", quick(server, model="gpt-4o"))
    assert not more.failed
    assert server.requests == 20


def test_works_inside_a_running_event_loop(tmp_path):
    write_input(tmp_path / "in.jsonl", 3)

    async def in_a_notebook(server):
        return annotate_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", "schwartz10", quick(server))

    with FaultServer(rate=0) as server:
        assert not asyncio.run(in_a_notebook(server)).failed


@pytest.mark.parametrize("n", [0, 226, 235, 249])
def test_no_part_of_the_key_is_shown(command, tmp_path, n):
    write_input(tmp_path / "in.jsonl", 1)
    with FaultServer(rate=0, script=lambda _: (401, {"error": {"message": "x" * n + KEY}})) as server:
        code, out, err = command(server)
    assert (code, out) == (2, "") and KEY[:3] not in err and "*" in err


DIME = {"prompt_tokens": 0, "completion_tokens": 100_000, "total_tokens": 100_000}  # 0.10 dollars by the table below


def write_prices(tmp_path):
    (tmp_path / "prices.yaml").write_text("date: 2025-01-01\nmodels: {judge: {input: 1, output: 1}}\n")
    return tmp_path / "prices.yaml"


@pytest.mark.parametrize(("n_first", "start", "n"), [(10, 0, 20), (10, 10, 20), (0, 0, 20), (4, 2, 30)])
def test_all_that_was_paid_counts_in_the_budget(tmp_path, n_first, start, n):
    """The first call pays 0.10 a row for rows `start` and on; the second has n rows, those among them."""
    endpoint = {"concurrency": 16}
    with FaultServer(rate=0, latency=0.02) as server:
        server.usage = DIME
        if n_first:
            write_input(tmp_path / "in.jsonl", n_first, start)
            first = annotate_file(tmp_path / "in.jsonl", tmp_path / "a.jsonl", "schwartz10", quick(server, **endpoint),
                                  prices=write_prices(tmp_path))
            assert round(first.costs.cost.sum(), 9) == n_first / 10
        write_input(tmp_path / "in.jsonl", n)
        report = annotate_file(tmp_path / "in.jsonl", tmp_path / "b.jsonl", "schwartz10", quick(server, **endpoint),
                               prices=write_prices(tmp_path), budget=1.5)
        assert server.requests == 15, "1.50 dollars in all"
        assert report.costs[["cost", "paid_before"]].round(9).values.tolist() == [[1.5 - n_first / 10, n_first / 10]]
        assert len(report.failed) == n - 15 and "budget of 1.5 USD" in next(iter(report.failed.values()))


def test_a_budget_below_the_first_answers_is_not_run_past(tmp_path):
    write_input(tmp_path / "in.jsonl", 20)
    with FaultServer(rate=0, latency=0.05) as server:
        server.usage = DIME  # foreseen are 0.002: all twenty would seem to fit
        report = annotate_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", "schwartz10", quick(server),
                               prices=write_prices(tmp_path), budget=0.25)
    assert server.requests == 2 and report.costs.cost.sum() == 0.2


def test_equal_questions_cost_once_in_every_report(tmp_path):
    write_input(tmp_path / "in.jsonl", 3)
    (tmp_path / "in.jsonl").write_text((tmp_path / "in.jsonl").read_text() * 4)
    with FaultServer(rate=0, latency=0.02) as server:
        server.usage = DIME
        for when, (new, old) in enumerate([(0.3, 0.0), (0.0, 0.3)]):
            report = annotate_file(tmp_path / "in.jsonl", tmp_path / f"{when}.jsonl", "schwartz10", quick(server),
                                   prices=write_prices(tmp_path))
            assert report.plan[["requests", "stored"]].values.tolist() == [[3 - 3 * when, 3 * when]]
            assert report.costs[["calls", "paid_now"]].values.tolist() == [[3, 3 - 3 * when]]
            assert report.costs[["cost", "paid_before"]].round(9).values.tolist() == [[new, old]]
            assert f"cost {new:.4f} USD for this run, {old:.4f} USD paid before" in report.describe()
            assert "3 answers, 300000 tokens, cost 0.3000 USD" in (tmp_path / f"{when}.dataset/README.md").read_text()
    assert server.requests == 3


def test_options_reach_the_body_whoever_knows_them(tmp_path):
    options = {"temperature": 0.5, "top_k": 20, "min_p": 0.1, "repetition_penalty": 1.1, "seed": 7, "stop": ["x"],
               "top_p": None, "reasoning_effort": "low", "n": 1, "stream": False,
               "extra_body": {"chat_template_kwargs": {"thinking": False}}, "extra_headers": {"X-Title": "values"}}
    with FaultServer(rate=0) as server:
        table = write_replies(PROMPTS[:1], [Endpoint(model="m", base_url=server.url, options=options)], tmp_path)
    assert table.problem.tolist() == [""]
    sent = {name: value for name, value in options.items() if name not in ("top_p", "extra_body", "extra_headers")}
    assert server.bodies[0] == {"model": "m", "messages": [{"role": "user", "content": PROMPTS[0]}], **sent,
                                "chat_template_kwargs": {"thinking": False}}
    assert {name.lower(): value for name, value in server.heads[0].items()}["x-title"] == "values"


@pytest.mark.parametrize("given", [
    {"max_tokens": 5}, {"max_tokens": 5, "temperature": 0}, {"max_completion_tokens": 5}])
def test_the_other_name_of_an_option_is_tried(tmp_path, caplog, given):
    known = "max_tokens" if "max_completion_tokens" in given else "max_completion_tokens"

    def script(request):
        for name in ("max_tokens", "max_completion_tokens", "temperature"):
            if name in request and name != known:
                return 400, {"error": {"message": f"Unsupported parameter: '{name}' is not supported. Use '{known}'."}}
        return None

    with FaultServer(rate=0, script=script) as server:
        table = write_replies(PROMPTS[:6], [Endpoint(model="m", base_url=server.url, options=given, concurrency=1)],
                              tmp_path)
    assert table.problem.eq("").all()
    assert server.requests == 6 + len(given)
    assert caplog.text.count(f"goes as {known}") == 1
    assert server.bodies[-1].get(known) == 5 and "temperature" not in server.bodies[-1]


@pytest.mark.parametrize(("path", "asked"), [
    ("/openai/deployments/d?api-version=2024-10-21", "/openai/deployments/d/chat/completions?api-version=2024-10-21"),
    ("/openai?api-version=2024-10-21", "/openai/deployments/m/chat/completions?api-version=2024-10-21"),
    ("/openai/v1/?api-version=preview", "/openai/v1/chat/completions?api-version=preview"),
    ("/v1/chat/completions", "/v1/chat/completions"), ("/v1/?key=abc", "/v1/chat/completions?key=abc")])
def test_queries_of_the_address_are_kept(tmp_path, monkeypatch, path, asked):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-azure")
    with FaultServer(rate=0) as server:
        endpoint = Endpoint(model="m", base_url=server.url.removesuffix("/v1") + path)
        assert write_replies(PROMPTS[:1], [endpoint], tmp_path).problem[0] == ""
    assert server.paths == [asked]
    heads = {name.lower(): value for name, value in server.heads[0].items()}
    assert heads.get("api-key") == ("sk-azure" if "api-version" in path else None)
    assert "abc" not in endpoint.address and ("api-version" in path) == ("api-version" in endpoint.address)


def test_a_password_in_the_address_is_in_no_problem(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    asked = []

    def script(_):
        asked.append(1)
        return (400, {"error": {"message": "Filtered", "code": "content_filter"}}) if len(asked) > 1 else (
            307, "", {"Location": "/other/v1/chat/completions"})

    with FaultServer(rate=0, script=script) as server:
        endpoint = Endpoint(model="m", base_url=server.url.replace("http://", "http://ann:hunter2@"))
        problem = write_replies(PROMPTS[:1], [endpoint], tmp_path).problem[0]
    assert "sent on to http" in problem and "hunter2" not in problem


def ask(prompt, tokens=0):
    return Question(({"role": "user", "content": prompt},), expected_tokens=tokens)


def test_a_plan_counts_what_is_ahead_and_what_is_kept():
    endpoint, cache, price = Endpoint(model="m", base_url="http://127.0.0.1:1/v1"), AnswerCache(None), Price(1, 10, "")
    for text, cost, attempt in (("bad", 0.25, 0), ("good", 0.5, 1)):
        cache.put(ask("kept").key(endpoint, attempt), Answer(text, cost=cost))
    cache.put(ask("spoilt").key(endpoint), Answer("bad", tokens_in=1000, tokens_out=100))  # 0.002 dollars
    questions = [ask("kept"), ask("spoilt"), ask("a" * 40, 30), ask("a" * 40, 30)]
    faults = {"bad": ["no labels"], "good": []}
    plan = plan_questions(questions, endpoint, cache, price, lambda _, answer: (None, faults[answer.text], 0.0))
    # tokens in: 6 letters are 2 and 40 are 10, with 4 more a message
    assert plan == {"requests": 2, "stored": 1, "tokens_in": 6 + 14, "tokens_out": 30, "cost": pytest.approx(320e-6),
                    "paid_before": pytest.approx(0.752)}


def test_the_best_of_faulty_answers_is_kept_with_its_faults():
    texts = iter(["a", "ccc", "bb"])
    with FaultServer(rate=0, script=lambda _: (200, {"choices": [{"message": {"content": next(texts)}}]})) as server:
        outcome, = ask_all(quick(server), [ask("Hi?")], lambda _, answer: (answer.text, ["short"], len(answer.text)),
                           AnswerCache(None))
    assert (outcome.value, outcome.faults, outcome.error) == ("ccc", ["short"], "")
    assert [answer.text for answer in outcome.new] == ["a", "ccc", "bb"] and outcome.old == []


def test_an_answer_that_another_process_was_quicker_with_is_kept_too(tmp_path):
    ours, theirs = AnswerCache(tmp_path), AnswerCache(tmp_path)
    with FaultServer(rate=0) as server:
        endpoint = quick(server)

        def script(_):
            assert theirs.put(ask("Hi?").key(endpoint), Answer("theirs"))

        server.script = script
        ask_all(endpoint, [ask("Hi?")], lambda *_: (1, [], 1.0), ours)
        kept = list(ours.list_answers(ask("Hi?"), endpoint))
    assert kept[0].text == "theirs" and len(kept) == 2 and kept[1].text


def test_a_budget_without_a_price_is_refused():
    with pytest.raises(EndpointError, match="^a budget needs a price: m is not in the table$"):
        ask_all(Endpoint(model="m"), [], lambda *_: (None, [], 0.0), AnswerCache(None), budget=1.0)

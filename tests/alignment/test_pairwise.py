import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest

from fulcra_utils.alignment.pairwise import (
    count_wins,
    fit_strengths,
    judge_pairs,
    pair_policies,
    rate_elo,
    read_scores,
)
from fulcra_utils.llm.endpoints import AnswerCache, Endpoint


@pytest.fixture
def judge_server():
    """A judge on loopback that likes long replies, favours what stands first when told so, and mumbles at times."""
    told = {"bias": 0, "mumbles": False}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = body["messages"][-1]["content"]
            first, second = (part.split("reply: ")[-1].strip() for part in text.split("Second"))
            scores = {"first": min(10, len(first) + told["bias"]), "second": min(10, len(second))}
            content = "hard to say" if told["mumbles"] and "mumble" in text else json.dumps(scores)
            answer = {"id": "x", "object": "chat.completion", "created": 0, "model": "judge", "choices": [
                {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}]}
            raw = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Endpoint(model="judge", base_url=f"http://127.0.0.1:{server.server_port}/v1"), told
    server.shutdown()


def make_pairs():
    replies = {"long": ["aaaa", "aaaa", "mumble"], "short": ["a", "aa", "a"]}
    return pair_policies({k: pd.DataFrame({"prompt": ["p", "q", "r"], "response": v}) for k, v in replies.items()},
                         ["long", "short"], 3)


def test_both_orders_are_asked_and_bias_becomes_a_tie(judge_server):
    endpoint, told = judge_server
    fair = judge_pairs(make_pairs(), endpoint)
    assert fair.result.tolist() == [1, 1, 1] and fair.is_consistent.all()
    assert fair.first_score.tolist() == [4, 4, 6]
    told["bias"] = 6
    biased = judge_pairs(make_pairs(), endpoint, "helpful")
    assert biased.result.tolist() == [0.5, 0.5, 0.5] and not biased.is_consistent.any()


def test_what_cannot_be_read_is_missing_and_never_a_win(judge_server):
    endpoint, told = judge_server
    told["mumbles"] = True
    judged = judge_pairs(make_pairs(), endpoint)
    assert judged.result.tolist()[:2] == [1, 1] and np.isnan(judged.result[2])
    assert count_wins(judged).loc["long", "short"] == 2


def test_an_answer_that_could_not_be_read_is_asked_again(judge_server, tmp_path):
    endpoint, told = judge_server
    cache, told["mumbles"] = AnswerCache(tmp_path), True
    assert np.isnan(judge_pairs(make_pairs(), endpoint, cache=cache).result[2])
    told["mumbles"] = False
    assert judge_pairs(make_pairs(), endpoint, cache=cache).result.tolist() == [1, 1, 1]
    cache.close()


@pytest.mark.parametrize("text", ["", "7 and 3", '{"first": 7}', '{"first": -1, "second": 3}',
                                  '{"first": true, "second": 3}', '{"first": null, "second": 3}',
                                  '{"first": NaN, "second": 3}', '<think>{"first": 7, "second": 3}',
                                  '{"first": 7, "second": 3} or {"first": 3, "second": 7}'])
def test_unreadable_scores(text):
    assert read_scores(text) is None


def test_strengths_equal_a_logistic_regression():
    import statsmodels.api as sm

    rng = np.random.default_rng(0)
    true, rows = {"a": 1.0, "b": 0.0, "c": -0.7}, []
    for _ in range(900):
        first, second = rng.choice(list(true), 2, replace=False)
        won = rng.random() < 1 / (1 + np.exp(true[second] - true[first]))
        rows.append({"first": first, "second": second, "result": float(won)})
    judged = pd.DataFrame(rows)
    table = fit_strengths(count_wins(judged)).set_index("name")
    design = np.array([[(r.first == n) - (r.second == n) for n in "bc"] for r in judged.itertuples()], dtype=float)
    fit = sm.Logit(judged.result.to_numpy(), design).fit(disp=0)
    assert table.strength["b"] - table.strength["a"] == pytest.approx(fit.params[0], abs=1e-6)
    assert table.strength["c"] - table.strength["a"] == pytest.approx(fit.params[1], abs=1e-6)
    assert table.strength.sum() == pytest.approx(0, abs=1e-9) and table.elo.idxmax() == "a"
    assert (table.low < table.strength).all() and table.low["a"] > table.high["c"]


def test_a_player_who_never_lost_has_no_finite_strength():
    wins = pd.DataFrame([[0.0, 3.0], [0.0, 0.0]], index=["a", "b"], columns=["a", "b"])
    assert fit_strengths(wins).strength.isna().all()
    assert fit_strengths(wins, prior=0.5).strength.tolist() == pytest.approx([np.log(7) / 2, -np.log(7) / 2])


def test_elo_by_hand_and_the_released_formula():
    judged = pd.DataFrame({"first": ["a", "a"], "second": ["b", "b"], "result": [1.0, 0.5], "first_score": [9.0, 5.0],
                           "second_score": [4.0, 5.0]})
    right = rate_elo(judged)
    expected = 1 / (1 + 10 ** (-32 / 400))
    assert right["a"] == pytest.approx(1516 + 32 * (0.5 - expected)) and sum(right.values()) == pytest.approx(3000)
    released = rate_elo(judged, raw_scores=True)
    assert released["b"] > 1500 and sum(released.values()) > 3000  # the loser gains: what is wrong with it


def test_scores_are_read_after_the_thoughts():
    for text in ('<think>{"first": 1, "second": 9}? No.</think>', '{"first": 1, "second": 9}? No.\n</think>\n', ""):
        assert read_scores(text + '{"first": 7, "second": 3}') == (7, 3)

"""GPV's measurement on hand-made texts and probabilities, and with an endpoint that returns prose or breaks off."""

import json

import numpy as np
import pandas as pd
import pytest
from fault_server import FaultServer

from fulcra_utils.common.labels import score_valence
from fulcra_utils.evaluator.encoder import load_encoder
from fulcra_utils.evaluator.model import make_evaluator
from fulcra_utils.llm.endpoints import Endpoint
from fulcra_utils.systems.discovery import measurement
from fulcra_utils.theory.theory import load_theory


def test_what_holds_no_perception_says_why():
    mixed = "Das ist mein Haus und me gusta mucho leben mit meinen Freunden in der Stadt am Fluss."
    texts = ["", "Я люблю дождь и мой дом.", "The kettle is blue.", "I keep my word. Rain fell. We should rest!", None,
             mixed]
    found = measurement.split_perceptions(texts)
    assert found.problem.tolist() == ["empty", "not English", "no sentence that speaks of it", "", "", "empty",
                                      "not English"]
    assert found.perception[found.text == 3].tolist() == ["I keep my word.", "We should rest!"]


def test_a_named_person_is_followed_by_pronouns_and_no_further():
    text = "Mia paints. She is free. Luke laughed. He left. Carla met Mia."
    found = measurement.split_perceptions([text, text, text], ["Mia", "Luke", "Lu"])
    said = found.groupby("text").perception.apply(list)
    assert said[0] == ["Mia paints.", "She is free.", "Carla met Mia."]
    assert said[1] == ["Luke laughed.", "He left."] and found.perception[found.text == 2].isna().all()


def test_a_mean_of_too_few_is_a_gap():
    scores = np.array([[1.0, np.nan], [0.5, np.nan], [-1.0, 1.0]])
    means = measurement.average_scores(scores, ["b", "b", "a"], 2)
    assert means.index.tolist() == ["b", "a"] and means.loc["b", 0] == 0.75 and means.isna().sum().sum() == 3


@pytest.fixture(scope="module")
def evaluator():
    return make_evaluator(load_encoder("tiny"), load_theory("schwartz10"))


def test_equal_perceptions_are_read_once_and_counted(evaluator, monkeypatch):
    perceptions = measurement.split_perceptions(["I rest. I rest.", "", "I rest."])
    real, n_read = evaluator.predict_proba, []
    monkeypatch.setattr(evaluator, "predict_proba", lambda *a, **k: n_read.append(len(a[0])) or real(*a, **k))
    cells = measurement.measure_texts(perceptions, evaluator)
    assert n_read == [1] and cells.shape == (4, 10, 3) and np.isnan(cells[2]).all() and (cells[0] == cells[3]).all()
    told = measurement.describe_perceptions(perceptions, score_valence(cells, 0), cells)
    told = told.set_index("what").number
    assert told["perceptions"] == 3 and told["repeated perceptions"] == 2 and told["texts without: empty"] == 1
    assert told["share of cells with a score"] == 1
    nothing = perceptions[perceptions.perception.isna()]
    assert np.isnan(measurement.measure_texts(nothing, evaluator)).all()


def test_signs_by_the_published_counts():
    """GPV's notebook: 104 + 29 right, 6 wrong, 35 without a score: accuracy 133 / 139, coverage 139 / 174."""
    signs = [1] * 104 + [-1] * 6 + [-1] * 29 + [1] * 20 + [-1] * 15
    known = pd.DataFrame({"story": np.arange(174) % 10, "subject": np.arange(174), "value": "x", "sign": signs})
    scored = [1] * 110 + [-1] * 29 + [np.nan] * 35
    means = {(row.story, row.subject, row.value): one for row, one in zip(known.itertuples(), scored, strict=True)}
    found = measurement.check_signs(known, means).set_index("what")
    assert found.share.round(3).tolist() == [.957, .799] and found.right.tolist() == [133, 139]
    assert (found.low < found.share).all() and (found.share < found.high).all()


def reply(text):
    return 200, {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}


def serve(says):
    """A server that answers each question by what its last message begins with."""
    return FaultServer(faults=(), script=lambda body: next(
        (answer for start, answer in says.items() if body["messages"][-1]["content"].startswith(start)), None))


def test_an_endpoint_parses_and_its_failures_are_no_silence(tmp_path):
    says = {"Good": reply(json.dumps({"perceptions": ["I am kind.", " "]})), "None": reply('{"perceptions": []}'),
            "Prose": reply("Well, this person is kind."),
            "Odd": reply(json.dumps({"perceptions": [{"perception": "I am kind."}]})),
            "Down": (400, {"error": {"message": "too long a context"}})}
    with serve(says) as server:
        endpoint = Endpoint(model="m", base_url=server.url, backoff=0.01)
        found = measurement.ask_perceptions(list(says), endpoint, cache=str(tmp_path))
    assert found.perception[0] == "I am kind." and found.perception[1:].isna().all() and len(found) == 5
    assert found.problem.tolist()[:4] == ["", "none found", "the answer is no JSON with perceptions",
                                          "1 of 1 perceptions have another form"]
    assert "too long a context" in found.problem[4]


def test_a_title_ends_no_sentence():
    found = measurement.split_perceptions(["I think Mr. Smith should not be trusted. I respect the U.S. Constitution."])
    assert found.perception.tolist() == ["I think Mr. Smith should not be trusted.", "I respect the U.S. Constitution."]


def test_an_endpoint_judges_with_gaps():
    told = {"scores": [{"value": "Care", "score": 1}, {"value": "thrift", "score": 0}, {"value": "odd", "score": 1}]}
    says = {"Sentence: a": reply(json.dumps(told)), "Sentence: b": reply("none")}
    with serve(says) as server:
        scores, problems = measurement.ask_scores(["a", "b"], ["care", "thrift"],
                                                  Endpoint(model="m", base_url=server.url))
    assert scores[0].tolist() == [1, 0] and np.isnan(scores[1]).all()
    assert problems == ["", "the answer is no JSON with scores"]


def test_perceptions_that_were_read_in_part_say_so(monkeypatch):
    monkeypatch.setattr(measurement, "ask_lists", lambda *_: [(["I am kind."], "1 of 2 perceptions has another form")])
    found = measurement.ask_perceptions(["Text"], None)
    assert found[["perception", "problem"]].values.tolist() == [["I am kind.", "1 of 2 perceptions has another form"]]


def test_texts_are_read_by_an_endpoint_from_end_to_end(evaluator):
    values = evaluator.dimensions
    full = [{"value": name, "score": (k == 0) - (k == 1)} for k, name in enumerate(values)]
    says = {"Text": reply(json.dumps({"perceptions": ["I am kind.", "I am odd."]})), "Down": reply("prose"),
            "Sentence: I am kind": reply(json.dumps({"scores": full})),
            "Sentence: I am odd": reply(json.dumps({"scores": full[:1]}))}
    with serve(says) as server:
        endpoint = Endpoint(model="m", base_url=server.url, backoff=0.01)
        found, valence, cells = measurement.read_texts(["Text", "Down"], evaluator, 0.5, endpoint=endpoint)
    assert valence[0, :2].tolist() == [1, -1] and np.isnan(valence[0, 2:]).all() and np.isnan(valence[2]).all()
    assert cells[0, :3].tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    assert cells[1, 0].tolist() == [0, 0, 1] and np.isnan(cells[1, 1:]).all() and np.isnan(cells[2]).all()
    assert found.problem.tolist() == ["", "9 of 10 values without an answer",
                                      "the answer is no JSON with perceptions"]
    told = measurement.describe_perceptions(found, valence, cells).set_index("what").number
    assert told["touched in the mean"] == pytest.approx(3 / 11)     # of the cells that were answered
    assert told["perceptions with: 9 of 10 values without an answer"] == 1
    assert told["texts without: the answer is no JSON with perceptions"] == 1 and told["texts"] == 2

"""The plan of notebook 10: every kind of prompt, the instruction from a theory, and what it costs."""

import numpy as np
import pytest

from fulcra_utils.llm.endpoints import EndpointError
from fulcra_utils.llm.tiny import make_random_model
from fulcra_utils.systems.generative import study
from fulcra_utils.systems.generative.completions import TASK, EndpointTeller, LocalTeller
from fulcra_utils.systems.generative.principles import read_principles

SETTINGS = {"n_completions": 2, "n_iterations": 1, "n_rewrites": 2, "max_calls": 99, "n_fresh": 2, "max_new_tokens": 4,
            "temperature": 0.8, "top_p": 0.95, "n_policies": 1, "endpoint_models": ["m"], "budget": None}


def judge(stories, texts):
    return np.array([0.5 if text else np.nan for text in texts])


judge.label = "half"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    teller = LocalTeller(make_random_model(folder / "start"), max_new_tokens=4)
    known, edits = read_principles()
    said = ["Be kind. ", "Be fair. "]
    return teller, study.run_conditions(teller, judge, known[:2], edits, said, folder, SETTINGS, 1)


def test_each_kind_of_prompt_is_asked_as_said(found):
    _, ran = found
    assert list(ran.judged) == ["asked", "static", "placebo", "evolved", "instructed"]
    assert {p.shape for p in ran.judged.values()} == {(2, 2)} and set(ran.trace.condition) == {"placebo", "evolved"}
    assert ran.talks["instructed"] == [(said + TASK, begun) for said, (_, begun) in zip(
        ["Be kind. ", "Be fair. "], ran.talks["evolved"], strict=True)]
    assert all(story.principle.principle in asked and begun == "" for story, (asked, begun) in zip(
        ran.stories["asked"], ran.talks["asked"], strict=True))
    assert ran.talks["static"][0][1] == f"{ran.stories['static'][0].setting} {ran.stories['static'][0].opening}"


def test_the_same_texts_cost_nothing_and_an_endpoint_tells_no_cost(found):
    teller, ran = found
    assert study.measure_cost(teller, ran, "evolved", "evolved") == pytest.approx(0) or any(
        not text for row in ran.texts["evolved"] for text in row)
    assert study.measure_cost(teller, ran).shape == (2, 2)
    assert np.isnan(study.measure_cost(EndpointTeller(None, None), ran)).all()


def test_instructions_say_the_values_of_any_theory(any_theory):
    told = study.write_instructions(any_theory.dimensions, any_theory)
    assert all(name in one and said in one for name, said, one in zip(
        any_theory.dimensions, any_theory.definitions, told, strict=True))


def test_who_takes_part(tmp_path, monkeypatch):
    start = make_random_model(tmp_path / "start")
    for name in ("dpo-a", "dpo-b"):
        make_random_model(tmp_path / name)
        (tmp_path / name / "align.json").write_text("{}")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert list(study.gather_tellers(start, SETTINGS, tmp_path)) == ["start", "dpo-a", "m"]
    monkeypatch.setenv("OPENAI_BASE_URL", "nowhere")
    with pytest.raises(EndpointError, match="is no address"):
        study.gather_tellers(start, SETTINGS, tmp_path)["m"].complete([("a", "")], 1, 0)

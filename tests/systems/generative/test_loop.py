"""The loop: chooses by the M-step, keeps the best, spends what it may, goes on where it was killed; all conditions."""

from dataclasses import replace

import numpy as np
import pytest

from fulcra_utils.annotation.local import LanguageJudge
from fulcra_utils.evaluator.encoder import load_encoder
from fulcra_utils.evaluator.model import make_evaluator
from fulcra_utils.llm.endpoints import EndpointError
from fulcra_utils.llm.tiny import make_random_model
from fulcra_utils.systems.generative import loop
from fulcra_utils.systems.generative.completions import EndpointTeller, LocalTeller
from fulcra_utils.systems.generative.principles import TASK, PrincipleError, Story, begin_stories, read_principles
from fulcra_utils.theory.theory import load_theory, name_values

PRINCIPLES, EDITS = read_principles()
PRINCIPLES = PRINCIPLES[:3]


class Teller:
    """Completes "bad" as often as the prefix holds tempting words, and finds texts likely that its own words recall."""

    label = "stub"

    def __init__(self, tempting="radio", silent=False):
        self.tempting, self.silent, self.n_calls = tempting, silent, 0

    def complete(self, talks, n, seed):
        self.n_calls += len(talks) * n
        return [["" if self.silent else "bad" if k < 1 + 2 * (self.tempting in begun) else "good" for k in range(n)]
                for _, begun in talks]

    def score(self, talk, texts):
        return np.array([-1.0 if (text == "bad") == (self.tempting in talk[1]) else -5.0 for text in texts]), None


judge = loop.Judge("stub", lambda stories, told: [0.9 if text == "bad" else 0.1 for text in told])


def run(folder, teller=None, **options):
    options = {"seed": 1, "n_rewrites": len(EDITS)} | options
    return loop.evolve(teller or Teller(), judge, PRINCIPLES, EDITS, folder, **options)


def test_the_loop_finds_the_rewrite_under_which_violations_are_likely(tmp_path):
    best, trace = run(tmp_path, n_iterations=1)
    assert all("Somewhere a radio was playing an old song." in story.setting for story in best)
    rows = trace.set_index("iteration")
    assert rows.best[0].tolist() == pytest.approx([0.3] * 3) and rows.best[1].tolist() == pytest.approx([0.7] * 3)
    assert rows.n_calls[1].unique() == [24] and rows.is_kept.all()


def test_the_placebo_has_the_same_calls_and_rule_and_other_choices(tmp_path):
    mine, other = Teller(), Teller()
    run(tmp_path / "a", mine, n_iterations=2)
    best, trace = run(tmp_path / "b", other, n_iterations=2, is_placebo=True)
    assert mine.n_calls == other.n_calls
    assert trace.best.groupby(trace.principle).apply(lambda x: x.is_monotonic_increasing).all(), "the best is kept"
    assert any("radio" not in story.setting for story in best)


class Writer(EndpointTeller):
    """A model behind an endpoint that writes settings of its own; a reader finds texts likely as `Teller` does."""

    label = "writer"

    def complete(self, talks, n, seed):
        return self.reader.complete(talks, n, seed)

    def rewrite(self, stories, n, seed):
        offered = [[replace(one, setting=f"A {word} {seed}.") for word in ("lamp", "radio", "clock")[:n]]
                   for one in stories]
        self.cache.append((stories, n, seed, offered))
        return offered


def test_behind_an_endpoint_the_placebo_is_offered_the_same_rewrites(tmp_path):
    mine, other = Writer(None, [], reader=Teller()), Writer(None, [], reader=Teller())
    best, _ = run(tmp_path, mine, n_iterations=1, n_rewrites=3)
    _, trace = run(tmp_path, other, n_iterations=1, n_rewrites=3, is_placebo=True)
    assert mine.cache == other.cache and len(mine.cache) == 1
    assert {one.setting for one in best} == {"A radio 4."}, "the M-step finds what its reader says is likely"
    assert not trace[trace.iteration == 1].is_kept.all(), "drawn, not chosen"


def test_a_rewrite_that_does_not_reveal_more_is_not_kept(tmp_path):
    best, trace = run(tmp_path, Teller(tempting="never there"), n_iterations=2)
    assert best == begin_stories(PRINCIPLES) and not trace[trace.iteration > 0].is_kept.any()


def test_a_loop_that_was_killed_goes_on_and_ends_the_same(tmp_path):
    class Killed(Teller):
        def complete(self, talks, n, seed):
            if self.n_calls >= 24:
                raise KeyboardInterrupt
            return super().complete(talks, n, seed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a", Killed(), n_iterations=3)
    teller = Teller()
    best, trace = run(tmp_path / "a", teller, n_iterations=3)
    whole, all_of_it = run(tmp_path / "b", n_iterations=3)
    assert best == whole and trace.equals(all_of_it) and teller.n_calls == 24, "two of four rounds were kept"
    again = Teller()
    run(tmp_path / "a", again, n_iterations=3)
    assert again.n_calls == 0, "nothing is made twice"


@pytest.mark.parametrize("change", [{"seed": 2}, {"n_completions": 2}, {"teller": "other"}, {"judge": "other"},
                                    {"principles": PRINCIPLES[:2]}])
def test_whatever_shapes_an_iteration_is_in_its_key(tmp_path, change):
    run(tmp_path, n_iterations=0)
    teller = Teller()
    if "teller" in change:
        teller.label = "other"
    if "principles" in change:
        loop.evolve(teller, judge, change["principles"], EDITS, tmp_path, n_iterations=0, seed=1)
    elif "judge" in change:
        loop.evolve(teller, loop.Judge("other", judge.read), PRINCIPLES, EDITS, tmp_path, n_iterations=0, seed=1)
    else:
        run(tmp_path, teller, n_iterations=0, **{k: v for k, v in change.items() if k in ("seed", "n_completions")})
    assert teller.n_calls > 0


def test_calls_are_bounded(tmp_path):
    teller = Teller()
    _, trace = run(tmp_path, teller, n_iterations=9, max_calls=30)
    assert teller.n_calls == 24 and trace.iteration.max() == 1
    with pytest.raises(PrincipleError, match="12 calls for the start, and for each iteration: beyond max_calls"):
        run(tmp_path, max_calls=23)    # the start alone would fit, and a loop without an iteration finds nothing
    assert run(tmp_path, n_iterations=0, max_calls=12)[1].iteration.max() == 0


def test_one_completion_is_enough_and_silence_is_a_gap(tmp_path):
    assert len(run(tmp_path / "a", n_completions=1)[0]) == 3
    best, trace = run(tmp_path / "b", Teller(silent=True), n_iterations=1)
    assert trace.tried.isna().all() and trace.best.isna().all() and len(best) == 3


def test_the_m_step_weighs_texts_by_how_far_they_violate():
    options = [Story(PRINCIPLES[0], setting, "x") for setting in ("dull", "a radio")]
    for texts, p, chosen in ((["bad", "good"], [0.9, 0.1], 1), (["bad", "good"], [0.1, 0.9], 0),
                             (["", ""], [np.nan] * 2, 0)):
        assert loop.choose_rewrite(Teller(), options, loop.Told(options[0], texts, np.array(p))) == chosen


def test_the_evaluator_judges_each_story_by_its_own_principle(one_thread):
    evaluator = make_evaluator(load_encoder("tiny"), load_theory("schwartz10"))
    mine = loop.judge_by_evaluator(evaluator, PRINCIPLES)
    stories = begin_stories(PRINCIPLES)
    found = mine([stories[2], stories[0], stories[1]], ["go home.", "", "stay."])
    named = evaluator.for_theory(name_values([p.values[0] for p in PRINCIPLES], [p.principle for p in PRINCIPLES]))
    hand = named.predict_proba([stories[2].setting], [f"{stories[2].opening} go home."])[0, 2, 0]
    assert found[0] == pytest.approx(hand) and np.isnan(found[1]) and 0 < found[2] < 1
    edited = replace(stories[2], setting=f"{stories[2].setting} {EDITS[0]}")
    assert mine([edited], ["go home."])[0] == pytest.approx(hand), "an edit is not judged: the completion is the same"
    asked = [Story(PRINCIPLES[0], question, "") for question in ("Do you agree?", "Are you sure that it rained?")]
    assert np.diff(mine(asked, ["Yes."] * 2)) != 0, "a question is read as it is asked"
    again, other = (loop.judge_by_evaluator(evaluator, part) for part in (PRINCIPLES, PRINCIPLES[:2]))
    assert again.label == mine.label != other.label


def test_the_example_that_violates_helps_where_the_judge_sees_nothing(one_thread):
    stories, blind = begin_stories(PRINCIPLES) * 2, loop.Judge("blind", lambda stories, told: [0.5] * len(told))
    texts = [one.violated for one in PRINCIPLES] + [one.kept for one in PRINCIPLES]
    seeing = loop.judge_by_example(blind, load_encoder("tiny"), stories, texts, np.repeat([1.0, 0], 3))
    found = seeing(stories, texts)
    assert found[:3].min() > found[3:].max() and seeing.label != blind.label
    assert loop.judge_by_example(blind, load_encoder("tiny"), stories, texts, np.full(6, np.nan)) is blind


def test_a_language_model_judges_as_it_judges_values(tmp_path, one_thread):
    teller = LocalTeller(make_random_model(tmp_path))
    story = begin_stories(PRINCIPLES)[1]
    found = loop.judge_by_language_model(teller, PRINCIPLES)([story, story], ["go home.", " "])
    one = LanguageJudge(*teller.chat, name_values([story.principle.values[0]], [story.principle.principle]))
    assert found[0] == pytest.approx(one.predict_proba([story.setting], [f"{story.opening} go home."])[0, 0, 0])
    assert np.isnan(found[1])
    edited = replace(story, setting=f"{story.setting} {EDITS[0]}")
    assert loop.judge_by_language_model(teller, PRINCIPLES)([edited], ["go home."])[0] == pytest.approx(found[0])


SETTINGS = {"n_completions": 2, "n_iterations": 1, "n_rewrites": 2, "max_calls": 99, "n_fresh": 2, "max_new_tokens": 4,
            "temperature": 0.8, "top_p": 0.95, "n_policies": 1, "endpoint_models": ["m"], "budget": None}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    teller = LocalTeller(make_random_model(folder / "start"), max_new_tokens=4)
    known, edits = read_principles()
    said = {"instructed": ["Be kind. ", "Be fair. "], "neutral": ["It rains. ", "It snows. "]}
    return teller, loop.run_conditions(teller, judge, known[:2], edits, said, folder, SETTINGS, 1)


def test_each_kind_of_prompt_is_asked_as_said(found):
    _, ran = found
    talks = {name: [one.story.talk for one in told] for name, told in ran.told.items()}
    assert list(talks) == list(ran.judged) == ["asked", "static", "placebo", "evolved", "instructed", "neutral"]
    assert {p.shape for p in ran.judged.values()} == {(2, 2)} and set(ran.trace.condition) == {"placebo", "evolved"}
    for name, said in (("instructed", ["Be kind. ", "Be fair. "]), ("neutral", ["It rains. ", "It snows. "])):
        assert talks[name] == [(one + TASK, begun) for one, (_, begun) in zip(said, talks["evolved"], strict=True)]
    known = read_principles()[0][:2]
    assert [begun for _, begun in talks["asked"]] == ["", ""]
    assert all(one.principle in asked for one, (asked, _) in zip(known, talks["asked"], strict=True))
    assert talks["static"] == [(TASK, f"{one.setting} {one.opening}") for one in known]


def test_the_same_texts_cost_nothing(found):
    teller, ran = found
    cost = loop.measure_cost(teller, ran, "evolved")
    assert cost.shape == (2, 2) and ((cost == 0) | np.isnan(cost)).all()
    longer = ran._replace(told={name: [one._replace(texts=texts) for one in ran.told["evolved"]] for name, texts in (
        ("evolved", ["go", ""]), ("longer", ["go to them and be kind"] * 2))})
    assert (loop.measure_cost(teller, longer, "longer")[:, 1] > 0).all()


def test_instructions_say_the_values_of_any_theory_and_neutral_ones_are_as_long(any_theory):
    told = loop.write_instructions(any_theory.dimensions, any_theory)
    assert all(name in one and said in one for name, said, one in zip(
        any_theory.dimensions, any_theory.definitions, told["instructed"], strict=True))
    for one, neutral in zip(told["instructed"], told["neutral"], strict=True):
        assert len(one.split()) == len(neutral.split()) and neutral.endswith(".\n\n")


def test_who_takes_part(tmp_path, monkeypatch):
    start = make_random_model(tmp_path / "start")
    for name in ("dpo-a", "dpo-b"):
        make_random_model(tmp_path / name)
        (tmp_path / name / "align.json").write_text("{}")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert list(loop.gather_tellers(start, SETTINGS, tmp_path)) == ["start", "dpo-a", "m"]
    monkeypatch.setenv("OPENAI_BASE_URL", "nowhere")
    with pytest.raises(EndpointError, match="is no address"):
        loop.gather_tellers(start, SETTINGS, tmp_path)["m"].complete([("a", "")], 1, 0)


import numpy as np
import pytest

from fulcra_utils.alignment import (
    audit_reward,
    value_reward,
)
from fulcra_utils.alignment.reward import read_words, scalar_reward
from fulcra_utils.alignment.selection import measure_commonness
from fulcra_utils.theory.targets import load_target, uniform_target
from fulcra_utils.theory.theory import load_theory

REPORT = np.array([0, 0, 0, 0, 0, 1, 0, 1, 1, 1], dtype=float)


class WordScorer:
    """Scores each word of a small lexicon on one dimension; nothing else says anything."""

    def __init__(self, n_dims, lexicon):
        self.n_dims, self.lexicon = n_dims, lexicon

    def score(self, prompts, responses):
        vectors = np.zeros((len(responses), self.n_dims))
        for row, text in enumerate(responses):
            for word, (dim, value) in self.lexicon.items():
                if word in text:
                    vectors[row, dim] = value
        return vectors


def test_reward_is_what_trl_calls():
    scorer = WordScorer(3, {"calm": (0, 1.0), "bold": (1, 0.8)})
    reward = value_reward(scorer, np.array([1.0, 0.0, 0.0]), weights=np.array([1.0, 0.5, 0.0]))
    assert reward.__name__ == "value_distance_reward", "TRL logs each reward under its function's name"
    plain = reward(prompts=["q"] * 3, completions=["calm", "calm, bold", ""], completion_ids=[[1]] * 3, trainer_state=0)
    np.testing.assert_allclose(plain, [0.0, -0.4, -1.0])
    question, answer = {"role": "user", "content": "q"}, {"role": "assistant", "content": "calm"}
    assert reward(prompts=[[question]], completions=[[answer]]) == [0.0]


def test_sameness_has_a_price():
    scorer = WordScorer(2, {"calm": (0, 1.0)})
    reward = value_reward(scorer, np.array([1.0, 0.0]), common_weight=2.0)
    same, other = ["stay calm", "stay calm", "stay calm"], ["stay calm", "be calm", "calm now"]
    np.testing.assert_allclose(reward(["q"] * 3, same), [-2.0] * 3)
    np.testing.assert_allclose(reward(["q"] * 3, other), [0.0] * 3)
    np.testing.assert_allclose(measure_commonness(["", "", "a b"]), [0.5, 0.5, 0.0])
    assert measure_commonness(["alone here"]).tolist() == [0.0]


def test_reward_refuses_nan():
    class Broken:
        def score(self, prompts, responses):
            return np.full((len(responses), 2), np.nan)

    with pytest.raises(ValueError, match="reward of reply 0"):
        value_reward(Broken(), np.ones(2))(["q"], ["a"])


def test_audit_finds_the_fault_of_the_released_reward():
    theory = load_theory("schwartz10")
    target = load_target("harmless", theory)
    lexicon = {"safe": (theory.dimensions.index("security"), 0.8), "rule": (theory.dimensions.index("conformity"), 0.8)}
    scorer = WordScorer(theory.n_dims, lexicon)
    real = ["stay safe", "keep the rule and stay safe", "whatever", "safe"]
    masked = audit_reward(scorer, ["q"] * 4, real, target, theory, absence="mask")
    assert masked.set_index("kind").is_fault["empty"]
    assert not audit_reward(scorer, ["q"] * 4, real, target, theory).is_fault.any()


def test_audit_catches_stuffing():
    theory = load_theory("moral_foundations")
    target = uniform_target(theory)

    class Gullible:
        def score(self, prompts, responses):
            hits = [[any(i in r for i in theory.items_of(d)) for d in theory.dimensions] for r in responses]
            return np.array(hits, dtype=float)

    audit = audit_reward(Gullible(), ["q", "r"], ["be compassionate", "fine"], target, theory)
    assert audit.set_index("kind").is_fault["stuffing"]
    assert not audit.set_index("kind").is_fault["empty"]


CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
TOOL = {"role": "tool", "name": "f", "content": "SECRET"}
SHAPES = [
    ("be calm", "be calm"), (None, ""), ("", ""), ([], ""), ({"role": "assistant", "content": "be calm"}, "be calm"),
    ([{"role": "assistant", "content": "be calm"}], "be calm"), ([{"content": "be calm"}], "be calm"),
    ([CALL], ""), ([CALL, TOOL], ""), ([{"role": "assistant", "tool_calls": []}], ""),
    ([CALL, TOOL, {"role": "assistant", "content": "It is 4."}], "It is 4."),
    ([{"role": "assistant", "content": "Wait."}, TOOL, {"role": "assistant", "content": "It is."}], "Wait.\nIt is."),
    ([{"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "u"}},
                                        {"type": "text", "text": "b"}]}], "a\nb"),
    ([{"role": "assistant", "content": [{"type": "text", "text": None}, "c"]}], "c"),
    ([{"role": "assistant", "content": {"type": "text", "text": "d"}}], "d"),
    ([{"role": "assistant", "content": [{"type": "tool_use", "text": "SECRET"}]}], ""),
    ([{"role": "function", "content": "SECRET"}, {"role": "assistant", "content": "e"}], "e"),
    ([{"role": "assistant", "content": [{"type": "output_text", "text": "g"}, None]}], "g"),
    ([{"role": "model", "content": "h"}], "h"), ([{"role": "Assistant", "content": "i"}, TOOL], "i"),
    ([{"role": "assistant", "content": "<think>SECRET</think>f", "reasoning_content": "SECRET"}], "f"),
]


@pytest.mark.parametrize(("completion", "words"), SHAPES)
def test_only_the_assistants_own_words_are_judged(completion, words):
    seen = []

    class Spy:
        def score(self, prompts, responses):
            seen.append((list(prompts), list(responses)))
            return np.array([[len(r) / 100, 0.0] for r in responses])

        def predict(self, prompts, responses):
            return self.score(prompts, responses)[:, 0]

    for reward in (value_reward(Spy(), np.array([1.0, 0.0]), common_weight=1.0), scalar_reward(Spy().predict)):
        found = reward(prompts=["q", "q"], completions=[completion, "other"], completion_ids=[[1], [2]])
        assert len(found) == 2 and all(isinstance(x, float) for x in found)
    assert seen == [(["q", "q"], [words, "other"])] * 2


@pytest.mark.parametrize("reward_of", ["values", "scalar"])
def test_both_kinds_of_reward_read_a_prompt_alike(reward_of):
    seen = []

    def score(prompts, responses):
        seen.extend(prompts)
        return np.zeros(len(responses))

    class Spy:
        def score(self, prompts, responses):
            return score(prompts, responses)[:, None]

    turns = [{"role": "system", "content": "Be a pirate"},
             {"role": "user", "content": [{"type": "text", "text": "Q1"}]},
             {"role": "assistant", "content": "A1"}, CALL, TOOL, {"role": "user", "content": "Q2"}]
    reward = value_reward(Spy(), np.ones(1)) if reward_of == "values" else scalar_reward(score)
    reward([turns, "Q", [{"role": "user", "content": "Q"}], None], ["a"] * 4)
    assert seen == ["Q1\nA1\nQ2", "Q", "Q", ""]


def test_words_of_any_message_are_text():
    rng = np.random.default_rng(0)
    part = {"type": "text", "text": "w"}
    contents = [None, "", "w", [], ["w"], [part], part, [{"type": "x"}]]
    roles = ["assistant", "tool", "system", "user", "function", None]
    for _ in range(300):
        drawn = [(roles[rng.integers(len(roles))], rng.integers(len(contents))) for _ in range(rng.integers(0, 5))]
        turns = [{"role": role, "content": contents[place]} for role, place in drawn]
        own = sum(role in ("assistant", None) and place in (2, 4, 5, 6) for role, place in drawn)
        assert read_words(turns) == "\n".join(["w"] * own)


def test_the_same_degenerate_replies_are_feared_everywhere():
    from fulcra_utils.dataset.texts import is_refusal, write_degenerate_replies
    from fulcra_utils.evaluator.explanation import make_attacks

    theory, told = load_theory("schwartz10"), {}

    class Spy:
        def score(self, prompts, responses):
            told.setdefault(responses[0], prompts)
            return np.zeros((len(responses), theory.n_dims))

    audit_reward(Spy(), ["Why?", "How?"], ["Real.", "Real."], load_target("ideal", theory), theory)
    kinds = write_degenerate_replies(["Why?", "How?"])
    assert {replies[0] for replies in kinds.values()} | {"Real."} < set(told)
    assert len(told) == 6, "the words of the target are stuffed, too"
    assert is_refusal(kinds["refusal"]).all()
    attacks = make_attacks(["Why?", "How?"], theory)
    assert [attacks[name] for name in ("empty", "refusal only", "echo of the prompt")] == [
        kinds[name] for name in ("empty", "refusal", "echo")]

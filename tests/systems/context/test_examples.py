"""What stands before a prompt: who is left out, what is nearest, and what the placebos share with the examples."""

import numpy as np
import pandas as pd
import pytest

from fulcra_utils.dataset.texts import DatasetError
from fulcra_utils.systems.context.examples import (
    WORDS,
    find_questions,
    fit_length,
    gather_questions,
    make_contexts,
    rank_examples,
)
from fulcra_utils.theory.targets import uniform_target

DOSES = {"target": [1, 2, 4], "neutral": [2, 4], "same length": [4], "shuffled": [1, 4]}


def table(prompts, **columns):
    n = len(prompts)
    told = {"prompt": prompts, "response": [f"reply {k}" for k in range(n)], "cluster": range(n),
            "split": ["train"] * n, "safety_issues": [None] * n}
    return pd.DataFrame(told | columns)


def examples(n=6):
    return pd.DataFrame({"prompt": [f"May I ask {k}?" for k in range(n)],
                         "response": [" ".join(["word"] * (12 + 5 * k)) + f" {k}." for k in range(n)]})


def test_only_harmless_personal_questions_of_known_clusters_are_taken():
    asked = ["May I keep a promise I made?", "How many days has a week?", "Should I tell my friend what I saw?",
             "Should we all go there at once?", "What may I do for him?", "I like rain in the night.",
             "May my cat eat what I eat?", "Can I " + "really " * 40 + "go?", "May I?"]
    preferences = table(asked, cluster=[0, 1, 2, 3, -4, 5, 0, 7, 8]).rename(columns={"response": "chosen"})
    preferences.loc[3, "split"] = None
    risky = table(["x", "y"], cluster=[2, 0], safety_issues=[["theft"], []])
    found = find_questions(preferences, [risky, table(["z"])], 30)
    assert found.prompt.tolist() == [asked[0]] and found.response.tolist() == ["reply 0"]


def test_without_preferences_only_what_is_known_to_be_harmless_is_taken():
    rows = table(["May I keep my dog here?", "May I keep my cat here?", "May I keep my hen here?"],
                 safety_issues=[[], None, ["theft"]])
    assert find_questions(rows.head(0), [rows.head(0), rows], 30).prompt.tolist() == ["May I keep my dog here?"]
    assert find_questions(rows.head(0), [rows.iloc[1:]], 30).empty


def test_the_sample_stands_in_where_the_run_has_too_few_questions():
    rows = table([f"May I keep my dog {k}?" for k in range(4)], safety_issues=[[]] * 4)
    for splits, is_own in ((["train", "train", "test", "test"], True), (["train", "train", "train", "test"], False),
                           (["validation"] * 4, False)):
        found, told = gather_questions(rows.head(0), [rows.assign(split=splits)], 30)
        assert told == is_own and {"train", "test"} <= set(found.split)
        assert found.prompt.isin(rows.prompt).all() == is_own
    assert not gather_questions(rows.head(0), [rows.assign(safety_issues=[["theft"]] * 4)], 30)[1]


def test_the_nearest_replies_of_the_training_split_are_examples(any_theory):
    class Scorer:
        def score(self, prompts, responses):
            return np.array([[float(text.split()[-1]) / 10] * any_theory.n_dims for text in responses])

    told = ["a b c 3", "a b c 9", "a b c 5", "I'm sorry, I cannot help with that. 9", "short 9", "a b c 9"]
    rows = table(["q"] * 6, split=["train"] * 5 + ["test"], response=told)
    found = rank_examples(rows, Scorer(), uniform_target(any_theory), (3, 9), 2)
    assert found.response.tolist() == ["a b c 9", "a b c 5"]
    assert found.distance.tolist() == pytest.approx([0.1 * any_theory.n_dims, 0.5 * any_theory.n_dims])


def test_larger_contexts_hold_the_smaller_and_repeats_differ():
    made = make_contexts(examples(), DOSES, 3, seed=1)
    by_place = {(c.kind, c.k, c.repeat): c for c in made}
    assert len(made) == len(by_place) == 3 * 9 and by_place["none", 0, 0].messages == []
    assert all(len(c.pairs) == c.k for c in made)
    for kind in ("target", "neutral"):
        assert by_place[kind, 4, 1].pairs[:2] == by_place[kind, 2, 1].pairs
        assert len({by_place[kind, 4, repeat].pairs for repeat in range(3)}) == 3
    two = by_place["target", 2, 0]
    assert [m["role"] for m in two.messages] == ["user", "assistant"] * 2
    assert [m["content"] for m in two.messages] == [text for pair in two.pairs for text in pair]
    assert made == make_contexts(examples(), DOSES, 3, seed=1) != make_contexts(examples(), DOSES, 3, seed=2)


def test_placebos_share_words_or_length_and_answer_nothing():
    made = {(c.kind, c.k): c.pairs for c in make_contexts(examples(), DOSES, 1)}
    own = dict(zip(*examples().to_numpy().T, strict=True))
    for k in (1, 4):
        asked, told = zip(*made["shuffled", k], strict=True)
        assert asked == tuple(question for question, _ in made["target", k])
        assert all(own[question] != answer for question, answer in made["shuffled", k])
    assert sorted(told) == sorted(answer for _, answer in made["target", 4])
    facts = {fact["question"]: fact["answer"] for fact in WORDS["neutral"]}
    for (question, plain), (same, answer), (_, target) in zip(made["neutral", 4], made["same length", 4],
                                                              made["target", 4], strict=True):
        assert question == same and plain == " ".join(facts[question][:2])
        assert answer == fit_length(facts[same], target)
        assert abs(len(answer.split()) - len(target.split())) <= 8


def test_a_single_pair_is_shuffled_too():
    made = make_contexts(examples(2), {"target": [1], "shuffled": [1]}, 1)
    assert made[2].pairs[0][0] == made[1].pairs[0][0] and made[2].pairs[0][1] != made[1].pairs[0][1]


def test_too_few_examples_are_one_line():
    with pytest.raises(DatasetError, match="^4 pairs are wanted, but there are 3 examples .* and 16 neutral ones$"):
        make_contexts(examples(3), DOSES, 1)


def test_every_neutral_fact_can_take_any_length():
    assert len({fact["question"] for fact in WORDS["neutral"]}) == len(WORDS["neutral"]) == 16
    for fact in WORDS["neutral"]:
        assert len(fact["answer"]) == 5 and 40 <= len(" ".join(fact["answer"]).split()) <= 75
        assert fit_length(fact["answer"], "") == fact["answer"][0] and "I" not in " ".join(fact["answer"]).split()

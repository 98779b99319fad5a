"""The lexicon on hand-made lists: words parsed, near-duplicates merged into the more frequent, thresholds' effects."""

import numpy as np
import pandas as pd
import pytest

from fulcra_utils.systems.discovery import lexicon


@pytest.mark.parametrize(("reply", "words"), [
    ("", []), ("Sure! Here is what I, as a model, think about values in general.", []),
    ("honesty, respect, and loyalty", ["honesty", "respect", "loyalty"]),
    ("Honesty. Kindness. Respect.", ["honesty", "kindness", "respect"]), ("Sure, care.", ["care"]),
    ("1. Honesty 2. Kindness", ["honesty", "kindness"]), ("Care/fairness & calm", ["care", "fairness", "calm"]),
    ("Values: 1) Care: I help. Never lie. 2) Joy • Calm", ["care", "joy", "calm"]),
    ("- Duties: what I owe\n* Happiness\n(3) open-mindedness", ["duty", "happiness", "open-mindedness"]),
    ("1) Justice – for all\n2) Virtues", ["justice", "virtue"]), ("My values:\nEthics\n**Words:**", ["ethics"]),
    ("Values: Honesty, Trust, Care", ["honesty", "trust", "care"]), ("Ten words: honest, kind", ["honest", "kind"]),
    ("Principles: Truth. Justice. Mercy.", ["truth", "justice", "mercy"]),
    ("**Values:** Honesty, Trust", ["honesty", "trust"]), ("*Values*: Honesty, Trust", ["honesty", "trust"]),
    ("My core values are: honesty, integrity, and respect.", ["honesty", "integrity", "respect"]),
    ("Two values - honesty, care", ["honesty", "care"]), ("* **Care**: I help", ["care"])])
def test_words_of_a_list_are_read_and_prose_is_not(reply, words):
    assert lexicon.parse_words(reply) == words


def test_a_respondent_counts_once_for_the_share():
    replies = pd.DataFrame({"response_source": ["a", "a", "b", "b"],
                            "response": ["honesty, care", "honesty", "care", None]})
    table, n_unread = lexicon.count_words(replies)
    assert table.set_index("value").T.to_dict("list") == {"honesty": [2, 0.5], "care": [2, 1.0]} and n_unread == 1


def test_the_more_frequent_is_kept_and_every_other_one_accounted_for():
    ranked = pd.DataFrame({"value": ["love of order", "order", "calm", "quiet", "fame", "rest"],
                           "share": [0.5, 0.4, 0.3, 0.2, 0.1, 0.001]})
    vectors = np.eye(6)
    vectors[1] = 0.75 * vectors[0] + np.sqrt(1 - 0.75**2) * vectors[1]
    vectors[3] = 0.9 * vectors[2] + np.sqrt(1 - 0.81) * vectors[3]
    found = lexicon.merge_lexicon(ranked, vectors, rouge=0.45, n_most=2).set_index("value")
    assert found.why.tolist() == ["kept", "rouge 0.67", "kept", "cosine 0.90", "beyond the first 2", "rare"]
    assert found.merged_into[["order", "quiet"]].tolist() == ["love of order", "calm"]
    assert lexicon.merge_lexicon(ranked.head(0), vectors).empty


def test_like_names_of_unlike_meanings_and_opposites_are_two():
    """Found in ValueBench: "sense of" made one of belonging and accomplishment, .93 of positive and negative."""
    names = ["Sense of Belonging", "Sense of Accomplishment", "Positive Expressivity", "Negative Expressivity",
             "Trust", "Mistrust", "Belonging", "Social", "Social Order"]
    vectors = np.repeat(np.eye(4), [2, 2, 2, 3], axis=0)
    vectors[6], vectors[8] = vectors[0] * 0.75 + vectors[8] * 0.66, vectors[7] * 0.5
    vectors[1] = vectors[0] * 0.6 + vectors[7] * 0.8
    found = lexicon.merge_lexicon(pd.DataFrame({"value": names, "share": 0.5}), vectors, cosine=0.8).set_index("value")
    assert found.merged_into[found.merged_into != ""].to_dict() == {"Belonging": "Sense of Belonging"}
    assert lexicon.are_opposed("Dependence", "independence") and not lexicon.are_opposed("Trust", "Trusting others")


def test_each_threshold_shows_what_it_does():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(12, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    named = pd.DataFrame({"value": [f"word{k}" for k in range(12)], "definition": ""})
    settings = {"threshold": 0.5, "min_share": 0.0, "rouge": 0.6, "cosine": 0.99, "n_most": 12}
    table = lexicon.sweep_thresholds(rng.random((40, 12)), named, vectors, np.arange(40), settings, {
        "threshold": [0.97], "min_share": [0.2], "cosine": [0.8, 0.5], "n_most": [4]})
    assert table.changed.tolist() == ["nothing", "threshold", "min_share", "cosine", "cosine", "n_most"]
    assert (table[["kept", "merged", "rare", "beyond"]].sum(axis=1) == 12).all() and table.kept[0] == 12
    assert table.kept[0] > table.kept[3] > table.kept[4] and table.kept[5] == 4 and table.beyond[5] == 8
    assert table.rare[2] > table.rare[0] == 0


def test_values_that_nobody_expresses_stay_in_the_list():
    named = lexicon.collect_named_values(["schwartz10"])
    presence = np.zeros((4, 10))
    presence[:, 3] = [0.9, 0.9, 0.6, 0.1]
    table = lexicon.rank_values(presence, named, np.arange(4))
    assert table.n.tolist() == [3] + [0] * 9 and table.place[0] == 3 and table.share[0] == 0.75
    assert table.low[0] < 0.75 < table.high[0] and table.low[1] == pytest.approx(0, abs=1e-9)


def test_a_reply_expresses_the_first_tenth_of_the_candidates_or_three():
    presence = np.linspace(0.5, 1, 50)[None].repeat(2, 0)
    named = pd.DataFrame({"value": [str(k) for k in range(50)], "definition": ""})
    assert sorted(lexicon.rank_values(presence, named, [0, 1]).query("n == 2").place) == [45, 46, 47, 48, 49]
    few = lexicon.rank_values(presence[:, 40:], named[40:], [0, 1])
    assert sorted(few.query("n == 2").place) == [7, 8, 9] and (few.n[3:] == 0).all()


def test_candidates_of_all_theories_have_names_of_their_own():
    named = lexicon.collect_named_values()
    assert named.value.is_unique and len(named) > 40 and (named.definition.str.len() > 3).all()

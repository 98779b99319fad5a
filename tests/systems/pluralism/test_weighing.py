"""Weighing: shares by hand, sums to one, nothing hangs on the batch, a situation is not asked about itself."""

import numpy as np
import pandas as pd
import pytest
from sklearn.kernel_ridge import KernelRidge

from fulcra_utils.dataset.texts import DatasetError
from fulcra_utils.evaluator.encoder import load_encoder
from fulcra_utils.evaluator.model import make_evaluator
from fulcra_utils.systems.pluralism import weighing
from fulcra_utils.systems.pluralism.situations import read_own
from fulcra_utils.theory.theory import load_theory

TEXTS = ["Telling a friend: the truth", "Baking bread for a neighbour, every Sunday", "I hate rules", "x" * 20000]
NAMES = ["Honesty", "Kindness: to all", "Right to rest", "Duty to help"]


class Known:
    """Embeds by a table."""

    def __init__(self, table):
        self.table = table

    def look_up(self, texts):
        return np.array([self.table[text] for text in texts], float)


def test_shares_by_hand(monkeypatch):
    """Two known situations; one lists exactly the value, the other one at a right angle: exp(-wide) as likely."""
    monkeypatch.setattr(weighing, "NARROW", 1.0)
    monkeypatch.setattr(weighing, "WIDE", 2.0)
    memory = Known({"a": [1, 0], "b": [0, 1], "care": [1, 0], "fame": [0, 1]})
    lists = weighing.Lists(pd.DataFrame({"situation": ["b", "a"], "value": ["fame", "care"]}), memory)
    near, often = lists.measure(np.array([[0.6, 0.8]]), np.array([[1.0, 0.0]]))
    weight = 1 / (1 + np.exp(0.8 - 0.6))       # of a, whose cosine is .6, next to b, whose cosine is .8
    assert near[0, 0] == pytest.approx(weight + (1 - weight) * np.exp(-2))
    assert often[0] == pytest.approx((1 + np.exp(-2)) / 2)
    itself, _ = lists.measure(np.array([[1.0, 0.0]]), np.array([[1.0, 0.0]]))
    assert itself[0, 0] == pytest.approx(np.exp(-2))       # a is left out, b lists fame alone


def test_what_is_foreseen_is_scikit_learns_ridge():
    """Kernel ridge of the names around their means, as scikit-learn fits it; a name in no list is never foreseen."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(9, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    texts, new = [f"s{k}" for k in range(8)], vectors[8:]
    memory = Known(dict(zip([*texts, "care", "fame"], vectors[[*range(8), 0, 1]], strict=True)))
    rows = pd.DataFrame({"situation": texts, "value": ["care", "fame"] * 4})
    told, often = weighing.Lists(rows, memory).foresee(new, ["fame", "care", "rest"])
    truth = np.tile([[0.0, 1.0], [1.0, 0.0]], (4, 1))      # fame, care
    ridge = KernelRidge(alpha=weighing.RIDGE, kernel=lambda a, b: np.exp(weighing.BROAD * (a @ b - 1)))
    assert told[0, :2] == pytest.approx(0.5 + ridge.fit(vectors[:8], truth - 0.5).predict(new)[0])
    assert (told[0, 2], *often) == (0, 0.5, 0.5, 0)


def test_the_case_of_a_name_says_nothing():
    memory = Known({"a": [1, 0], "b": [0, 1], "Care": [1, 0], "care": [1, 0], "Fame": [0, 1]})
    rows = pd.DataFrame({"situation": ["a", "a", "b", "b"], "value": ["Care", "care", "care", "Fame"]})
    lists = weighing.Lists(rows, memory)
    told, often = lists.foresee(np.array([[0.6, 0.8]]), ["Care", "CARE", "care", "fame"])
    assert set(told[0, :3]) == {told[0, 0]} and told[0, 0] > told[0, 3] > 0 and often.tolist() == [1, 1, 1, 0.5]
    drawn = weighing.draw_pairs(rows)
    assert drawn.value[~drawn.is_listed].tolist() == ["Fame", "Fame"], "b lists both, in whatever case"


def test_relevance_and_valence_are_probabilities(weigher):
    table = weighing.weigh(TEXTS, NAMES, weigher)
    assert table.relevance.between(0, 1).all() and np.isfinite(table.to_numpy()).all()
    np.testing.assert_allclose(table[list(weighing.VALENCES)].sum(axis=1), 1)


def test_nothing_hangs_on_the_batch_or_on_what_stands_beside(weigher):
    whole = weighing.weigh(TEXTS, NAMES, weigher, batch_size=32)
    np.testing.assert_allclose(weighing.weigh(TEXTS, NAMES, weigher, batch_size=1), whole, atol=1e-4)
    alone = pd.concat([weighing.weigh([text], [name], weigher) for text, name in zip(TEXTS, NAMES, strict=True)])
    np.testing.assert_allclose(alone, whole, atol=1e-4)


def test_a_colon_cuts_nothing(weigher):
    """What stands behind ": " is read, in a situation and in a name."""
    texts, names = ["Telling a friend: the truth", "Telling a friend"], ["Honesty"] * 2
    assert np.abs(np.diff(weigher.measure(texts, names), axis=0)).max() > 1e-3
    assert np.abs(np.diff(weigher.read_stance(texts, names), axis=0)).max() > 1e-4
    assert np.abs(np.diff(weigher.compare_likelihoods(["Baking"] * 2, ["Care", "Care: for all"]))) > 1e-6


def test_negatives_are_names_of_other_situations():
    listed = pd.DataFrame({"situation": ["a", "a", "b", "c"], "value": ["care", "fame", "care", "rest"]})
    pairs = pd.concat(weighing.draw_pairs(listed, seed) for seed in range(3))
    own = set(zip(listed.situation, listed.value, strict=True))
    drawn = pairs[~pairs.is_listed]
    assert len(drawn) == 12 and not own & set(zip(drawn.situation, drawn.value, strict=True))
    only = weighing.draw_pairs(listed.assign(value="care").drop_duplicates())
    assert only.is_listed.all()        # no other name is there to draw


def test_a_planted_rule_is_learned(weigher):
    """Where the situation's own word is the value, relevance tells listed from unlisted on situations not fitted."""
    words = ["bread", "music", "garden", "truth", "sleep", "money", "order", "sport"]
    rows = pd.DataFrame([(f"{word} and {word} again {k}", word) for k in range(4) for word in words],
                        columns=["situation", "value"]).assign(cluster=lambda table: range(len(table)))
    fitted = weighing.Weigher(make_evaluator(load_encoder("tiny"), load_theory("moral_foundations")),
                              weigher.memory.encoder).fit(rows[:24], read_own())
    same = fitted.rate(rows.situation[24:], rows.value[24:])
    other = fitted.rate(rows.situation[24:], rows.value[24:].to_list()[1:] + ["bread"])
    assert (same > other).mean() > 0.7


def test_lists_of_unequal_length_are_refused(weigher):
    with pytest.raises(DatasetError, match="There are 1 situations but 2 values"):
        weighing.weigh(["a"], ["b", "c"], weigher)


def test_held_out_valence_hangs_on_other_situations(weigher):
    own = read_own()
    told = weigher.hold_out(own)
    assert len(told) == len(own)
    np.testing.assert_allclose(told.sum(axis=1), 1)


def test_without_a_language_model_the_encoders_tokens_are_counted(weigher):
    alone = weighing.Weigher(make_evaluator(load_encoder("tiny"), load_theory("moral_foundations")),
                             weigher.memory.encoder)
    text = "a b " * 100     # 400 characters, more than 128 tokens
    assert alone.is_cut(text, "Care") and not alone.is_cut("a b " * 20, "Care") and not alone.is_cut("a", "b" * 300)
    np.testing.assert_allclose(*weigher.memory.look_up([text, "a b " * 150]), atol=1e-6)    # so the rest is not read

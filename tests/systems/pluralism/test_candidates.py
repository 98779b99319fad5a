"""Candidates: the walk by hand, thresholds of each kind, nothing found, all near-copies, stance and entropy."""

import numpy as np
import pandas as pd
import pytest

from fulcra_utils.systems.pluralism import candidates
from fulcra_utils.systems.pluralism.situations import VALENCES


class Sure:
    """Rates names by a table and says that all support; every name means something of its own."""

    def __init__(self, rates, alike=()):
        self.rates, self.alike, self.memory = rates, alike, self

    def rate(self, situations, values):
        return np.array([self.rates[value] for value in values], float)

    def look_up(self, names):
        rows = np.eye(len(self.rates))
        place = {name: self.alike[0] if name in self.alike else name for name in self.rates}
        found = [rows[list(self.rates).index(place[name])] for name in names]
        return np.array(found).reshape(len(names), len(rows) or 1)

    def tell_valence(self, situations, values, batch_size=32):
        return pd.DataFrame([[1.0, 0.0, 0.0]] * len(values), columns=list(VALENCES), index=range(len(values)))


RATES = {"Health": 0.95, "Right to good health": 0.9, "Right to health": 0.85, "Public health": 0.84, "Rest": 0.5,
         "Duty of care": 0.7}


def test_the_walk_by_hand(monkeypatch):
    """Public health holds all words of health (recall 1), the right to health those of its longer name; no kind drops
    another."""
    found = candidates.find_values("x", RATES, Sure(RATES), relevance={"value": 0.6, "right": 0.6, "duty": 0.7})
    assert found.value.tolist() == ["Health", "Right to good health", "Duty of care"]
    assert found.kind.tolist() == ["value", "right", "duty"] and (found.supports == 1).all()
    monkeypatch.setattr(candidates, "ROUGE", dict.fromkeys(("f1", "precision", "recall"), 1.0))
    low = dict.fromkeys(("value", "right", "duty"), 0.0)
    assert len(candidates.find_values("x", RATES, Sure(RATES), low)) == 6


def test_nothing_relevant_and_all_near_copies():
    none = candidates.find_values("x", RATES, Sure(RATES), dict.fromkeys(("value", "right", "duty"), 0.99))
    assert none.empty and list(none.columns)[-3:] == list(VALENCES)
    rates = {"Calm": 0.9, "Quiet": 0.95, "Stillness": 0.92}
    assert candidates.find_values("x", rates, Sure(rates, tuple(rates))).value.tolist() == ["Quiet"]
    assert len(candidates.find_values("x", [], Sure({}))) == 0


def test_no_more_than_wanted_are_kept():
    rates = {f"word{k}": 0.9 - k / 100 for k in range(8)}
    assert candidates.find_values("x", rates, Sure(rates), n_most=3).value.tolist() == ["word0", "word1", "word2"]


def test_stance_and_entropy_at_their_limits():
    assert np.isnan(candidates.sum_stance([], np.empty((0, 3)))).all()
    assert candidates.measure_entropy(np.array([1.0, 0, 0])) == pytest.approx(0)
    assert candidates.measure_entropy(np.full(3, 1 / 3)) == pytest.approx(1)
    np.testing.assert_allclose(candidates.sum_stance([1, 1, 2], [[1, 0, 0], [0, 1, 0], [0, 0, 1]]), [0.25, 0.25, 0.5])

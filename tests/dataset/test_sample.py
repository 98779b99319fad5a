"""The embedded sample keeps its promises (data/sample/README.md)."""

import re
from itertools import combinations

import numpy as np
import pytest

from fulcra_utils.common.paths import ROOT
from fulcra_utils.dataset.labelled import items_to_vectors, read_dataset
from fulcra_utils.theory.theory import load_theory

SAMPLE = ROOT / "data" / "sample"


@pytest.mark.parametrize("name", ["schwartz10", "moral_foundations"])
def test_every_value_in_both_directions(name):
    theory = load_theory(name)
    data = read_dataset(SAMPLE / f"{name}.jsonl", theory, strict=True)
    assert len(data.table) >= 300 and data.table.prompt.nunique() >= 120
    assert ((data.vectors == 1).sum(axis=0) >= 12).all() and ((data.vectors == -1).sum(axis=0) >= 12).all()
    assert np.abs(data.item_labels).any(axis=0).all()
    np.testing.assert_array_equal(items_to_vectors(data.item_labels, theory), data.vectors)
    answered = data.table.groupby("prompt").response_source.nunique()
    assert data.table.response_source.nunique() == 5 and (answered == 5).sum() >= 20
    assert data.table.reward.between(1, 5).all()


def test_both_theories_label_the_same_dialogues():
    ten, five = (read_dataset(SAMPLE / f"{name}.jsonl", name).table for name in ("schwartz10", "moral_foundations"))
    assert ten.equals(five)


def test_no_two_replies_are_alike():
    replies = read_dataset(SAMPLE / "schwartz10.jsonl", "schwartz10").table.response
    words = [re.findall(r"\w+", text.lower()) for text in replies]
    grams = [{tuple(w[i:i + 5]) for i in range(len(w) - 4)} for w in words]
    assert all(len(a & b) <= 0.5 * min(len(a), len(b)) for a, b in combinations(filter(None, grams), 2))


def test_planted_cases():
    ten = load_theory("schwartz10")
    data = read_dataset(SAMPLE / "schwartz10.jsonl", ten)
    profile = {"achievement": 1, "self-direction": -1, "security": -1}
    columns = [ten.dimensions.index(d) for d in profile]
    assert (data.vectors[:, columns] == list(profile.values())).all(axis=1).sum() == 10
    pole = [ten.dimensions.index(d) for d in ("security", "conformity", "benevolence", "universalism")]
    unsafe, safe = ((data.vectors[:, pole] == sign).all(axis=1) for sign in (-1, 1))
    assert len(set(data.table.prompt[unsafe]) & set(data.table.prompt[safe])) >= 8

"""The distance to a target by hand, by the released numbers and at its limits; weights of values."""

import json

import numpy as np
import pandas as pd
import pytest

from fulcra_utils.theory.distance import resolve_weights, value_distance
from fulcra_utils.theory.targets import Target, uniform_target
from fulcra_utils.theory.theory import list_theories

REPORT = np.array([0, 0, 0, 0, 0, 1, 0, 1, 1, 1], dtype=float)


def test_weights_sum_to_one_in_every_form(any_theory):
    names, n = any_theory.dimensions, any_theory.n_dims
    np.testing.assert_allclose(resolve_weights(None, any_theory), 1 / n)
    np.testing.assert_allclose(resolve_weights({names[0]: 3.0}, any_theory), np.eye(n)[0])
    np.testing.assert_allclose(resolve_weights(range(1, n + 1), any_theory).sum(), 1)


@pytest.mark.parametrize(("weights", "words"), [
    ({"calm": 1, "clam": 1}, "'clam', which is no dimension"), ([1, 2], "3 dimensions need as many weights"),
    ({"calm": -1}, "weight of calm is -1"), ([1, np.nan, 1], "weight of bold is nan"),
    ([0, 0, 0], "all weights are 0")])
def test_weights_that_rank_nothing_are_named(toy, weights, words):
    if isinstance(weights, dict):
        weights = {dict(zip(("calm", "bold"), toy.dimensions, strict=False)).get(k, k): v for k, v in weights.items()}
    words = words.replace("calm", toy.dimensions[0]).replace("bold", toy.dimensions[1])
    with pytest.raises(ValueError, match=words):
        resolve_weights(weights, toy)


def test_distance_by_hand():
    vectors = np.array([[0.5, -1.0, 0.2], [1.0, 0.0, -0.25]])
    target = np.array([1.0, -0.5, 0.0])
    np.testing.assert_allclose(value_distance(vectors, target), [0.5 + 0.25, 0.25])
    np.testing.assert_allclose(value_distance(vectors, target, order=2),
                               [np.sqrt(0.25 + 0.5 * 0.25), np.sqrt(0.5 * 0.25)])
    np.testing.assert_allclose(value_distance(vectors, target, weights=np.ones(3)), [1.2, 0.75])
    np.testing.assert_allclose(value_distance(vectors, target, weights=np.ones(3), absence="zero"), [1.0, 0.5])
    np.testing.assert_allclose(value_distance(vectors, target, weights=np.ones(3), absence="mask"), [1.0, 0.0])
    np.testing.assert_allclose(value_distance(vectors, target, absence="mask", threshold=0.6), [0.25, 0.0])


def test_a_series_goes_by_its_names():
    rows = pd.DataFrame({"care": [1.0, 0.0], "fairness": [0.0, -1.0], "loyalty": [0.5, 0.5]})
    target, weights = pd.Series({"loyalty": 1.0, "care": 0.0, "fairness": 0.5}), pd.Series(
        {"fairness": 2.0, "loyalty": 0.0, "care": 1.0})
    expected = [1 * 1 + 2 * 0.5, 0 + 2 * 1.5]
    for turned in (rows, rows[["loyalty", "fairness", "care"]]):
        assert value_distance(turned, target, weights).tolist() == expected
    with pytest.raises(ValueError, match="finite"):
        value_distance(rows, target.drop("care"))
    assert resolve_weights(weights.reindex(["fairness", "loyalty"]), "moral_foundations").tolist() == [0, 1, 0, 0, 0]


def test_masked_distance_equals_the_released_training_reward():
    rng = np.random.default_rng(0)
    vectors, target = rng.uniform(-1, 1, (50, 10)), rng.uniform(-1, 1, 10)
    mask = np.abs(vectors) > 0.3
    released = (np.abs(vectors - target) * mask * np.abs(target)).sum(axis=1)
    np.testing.assert_allclose(value_distance(vectors, target, absence="mask"), released, atol=1e-12)


def test_range_costs_nothing_inside():
    target = Target("r", "r", "", ("a", "b"), np.array([0.5, -1.0]), np.array([1.0, 0.0]), np.ones(2))
    np.testing.assert_allclose(value_distance(np.array([[0.7, -0.5], [0.2, 0.3]]), target), [0.0, 0.6])


def test_missing_values():
    vectors = np.array([[np.nan, 0.5], [0.5, np.nan]])
    got = value_distance(vectors, np.array([1.0, 0.0]))
    assert np.isnan(got[0]) and got[1] == 0.5
    assert value_distance(np.empty((0, 2)), np.array([1.0, 0.0])).shape == (0,)


@pytest.mark.parametrize(("change", "words"), [
    ({"target": np.zeros(3)}, "all weights are 0"),
    ({"target": np.ones(2)}, "the target has 2 dimensions"),
    ({"target": np.array([1, np.nan, 0])}, "finite"),
    ({"weights": np.array([1, -1, 0])}, "weight of dimension 1 is -1"),
    ({"weights": np.ones(4)}, "shape"),
    ({"order": 3}, "order must be one of 1, 2"),
    ({"absence": "ignore"}, "absence must be one of"),
    ({"vectors": np.ones(3)}, "shape"),
])
def test_bad_distance_arguments(change, words):
    arguments = {"vectors": np.ones((2, 3)), "target": np.ones(3)} | change
    with pytest.raises(ValueError, match=words):
        value_distance(**arguments)


def test_released_distances(mirror):
    files = sorted((mirror / "harmless_test").glob("*.jsonl"))
    assert files
    for path in files:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        vectors = np.array([r["value_reward"] for r in rows])
        for order, name in ((2, "e_distance"), (1, "h_distance")):
            gap = np.abs(value_distance(vectors, REPORT, order=order) - np.array([r[name] for r in rows]))
            assert gap.max() < 1e-9, f"{path.name}, {name}"


@pytest.mark.parametrize("name", list_theories())
def test_perfect_vector_is_at_distance_zero(name):
    target = uniform_target(name, 0.5)
    for absence in ("penalise", "zero", "mask"):
        assert value_distance(target.values[None], target, absence=absence) == pytest.approx(0)

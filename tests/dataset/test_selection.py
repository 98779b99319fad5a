"""Prompt selection: quotas, spread, no leaks, and better coverage than chance where there is something to cover."""

import numpy as np
import pytest

from fulcra_utils.dataset.selection import (
    METHODS,
    allot_quotas,
    assign_strata,
    compare_selections,
    find_leaks,
    measure_coverage,
    select_prompts,
    summarise_selections,
)


@pytest.fixture
def pool():
    """Twelve groups of very different sizes, on a sphere; the rare groups have a category of their own."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(12, 8))
    group = np.repeat(np.arange(12), [300, 200, 100, 50, 30, 20, 10, 10, 8, 6, 4, 2])
    vectors = centres[group] + 0.3 * rng.normal(size=(len(group), 8))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), [[f"c{g // 3}"] if g else [] for g in group]


@pytest.mark.parametrize("method", METHODS)
def test_right_number_no_repeats_only_allowed(pool, method):
    vectors, categories = pool
    allowed = np.arange(len(vectors)) % 3 != 0
    chosen = select_prompts(vectors, categories, 40, method, seed=1, allowed=allowed)
    assert len(chosen) == len(set(chosen.tolist())) == 40
    assert allowed[chosen].all()
    assert np.array_equal(chosen, select_prompts(vectors, categories, 40, method, seed=1, allowed=allowed))


@pytest.mark.parametrize("method", METHODS)
def test_limits(pool, method):
    vectors, categories = pool
    everyone = select_prompts(vectors, categories, 10_000, method)
    assert np.array_equal(everyone, np.arange(len(vectors)))
    assert measure_coverage(vectors, categories, everyone)["worst_distance"] < 1e-6
    assert len(select_prompts(vectors, categories, 5, method, allowed=np.zeros(len(vectors), dtype=bool))) == 0
    same = np.tile(vectors[:1], (30, 1))
    assert len(select_prompts(same, [["a"]] * 30, 7, method)) == 7


def test_spread_beats_chance(pool):
    table = summarise_selections(compare_selections(*pool, n=40, n_seeds=8)).set_index(["method", "measure"])
    assert table.loc[("k-means", "mean_distance"), "high"] < 0
    assert table.loc[("k-centre", "worst_distance"), "high"] < 0
    assert table.loc[("k-means", "evenness"), "low"] > 0
    assert table.loc[("random", "mean_distance"), "difference"] == 0


def test_quotas_are_equal_or_exhausted():
    sizes = {"a": 1, "b": 50, "c": 7, "d": 50}
    for n in (0, 1, 3, 4, 10, 40, 108, 500):
        quotas = allot_quotas(sizes, n)
        assert sum(quotas.values()) == min(n, 108)
        open_ = [q for name, q in quotas.items() if q < sizes[name]]
        assert not open_ or max(open_) - min(open_) <= 1
        assert all(quotas[name] <= size for name, size in sizes.items())


def test_strata_take_the_rarest_category():
    strata = assign_strata([["x"], ["x", "y"], None, [], ["x"]])
    assert strata.tolist() == ["x", "y", "unrated", "none", "x"]


def test_leaks_by_meaning():
    vectors = np.array([[1.0, 0], [0.95, np.sqrt(1 - 0.95**2)], [0, 1]])
    assert find_leaks(vectors, vectors[:1], 0.9).tolist() == [True, True, False]
    assert not find_leaks(vectors, vectors[:0]).any()


def test_bad_input_is_named(pool):
    with pytest.raises(ValueError, match="no method 'best'"):
        select_prompts(*pool, 5, "best")
    with pytest.raises(ValueError, match="2 embeddings and 1 lists"):
        select_prompts(np.eye(2), [["a"]], 1)

"""Choosing among replies: against a plain loop, without usable replies, and what the choice costs."""

import numpy as np
import pandas as pd
import pytest

from fulcra_utils.alignment.measures import measure_drift
from fulcra_utils.alignment.selection import (
    check_released,
    choose_best,
    claim_distances,
    measure_commonness,
    measure_selection,
    measure_sources,
    tabulate_targets,
)
from fulcra_utils.theory.distance import value_distance
from fulcra_utils.theory.targets import load_target, uniform_target
from fulcra_utils.theory.theory import list_theories, load_theory


def make_replies(theory, rng, n_prompts=30, n_sources=3):
    rows = [{"prompt": f"p{p}", "response_source": f"s{s}", "reward": rng.normal(),
             **dict(zip(theory.dimensions, rng.uniform(-1, 1, theory.n_dims), strict=True))}
            for p in range(n_prompts) for s in range(n_sources)]
    return pd.DataFrame(rows)


def test_choose_best_ties_and_missing():
    assert choose_best(np.array([np.nan, 0.3, 0.3, 0.1]), ["a", "a", "a", "b"]).tolist() == [1, 3]
    assert len(choose_best(np.array([np.nan]), ["a"])) == 0


@pytest.mark.parametrize("name", list_theories())
def test_selection_agrees_with_a_plain_loop(name):
    theory = load_theory(name)
    replies, target = make_replies(theory, np.random.default_rng(1)), uniform_target(name)
    row = measure_selection(replies, [target]).iloc[0]
    distance = value_distance(replies[list(theory.dimensions)].to_numpy(), target)
    best = [distance[(replies["prompt"] == p).to_numpy()].min() for p in replies["prompt"].unique()]
    assert row.distance_chosen == pytest.approx(np.mean(best))
    assert row.distance_mean == pytest.approx(distance.mean())
    assert row.low < row.distance_change < row.high < 0
    assert row[["share/s0", "share/s1", "share/s2"]].sum() == pytest.approx(1)
    assert np.isnan(row.drift)  # the uniform target weighs every dimension


def test_selection_without_usable_replies():
    theory = load_theory("schwartz10")
    replies = make_replies(theory, np.random.default_rng(1), n_sources=1)
    table = measure_selection(replies, [load_target("ideal", theory)])
    assert table.n_prompts.tolist() == [0] and np.isnan(table.distance_change.iloc[0])
    replies[list(theory.dimensions)] = np.nan
    assert measure_selection(replies, [load_target("ideal", theory)]).n_prompts.tolist() == [0]


def test_sources_and_claims():
    theory = load_theory("schwartz10")
    replies = make_replies(theory, np.random.default_rng(2)).replace({"s0": "gpt-4", "s1": "gpt-3.5-turbo"})
    claims = claim_distances(replies, load_target("report", theory)).set_index("claim_id")
    table = measure_sources(replies, load_target("report", theory)).set_index("response_source")
    assert claims.loc["alignment/distance/l1/gpt-4", "ours"] == table.loc["gpt-4", "l1"]
    assert claims["ours"].isna().sum() == 2  # Mistral is missing
    assert (table["l1_mask"] <= table["l1"]).all()


def test_reward_before_and_after_is_taken_over_the_same_prompts():
    theory = load_theory("moral_foundations")
    rows = [("p", 1.0, 1.0), ("p", 0.0, 3.0), ("q", 1.0, np.nan), ("q", 0.0, 9.0)]    # the nearest to q has no reward
    replies = pd.DataFrame([{"prompt": p, "response_source": "x", "reward": r, **dict.fromkeys(theory.dimensions, v)}
                            for p, v, r in rows])
    row = measure_selection(replies, [uniform_target(theory)]).iloc[0]
    assert row[["n_prompts", "reward_mean", "reward_chosen", "reward_change"]].tolist() == [2, 2.0, 1.0, -1.0]


@pytest.mark.parametrize("seed", range(5))
def test_differences_of_a_selection_are_those_of_its_means(seed):
    theory, rng = load_theory("schwartz10"), np.random.default_rng(seed)
    replies, target = make_replies(theory, rng), load_target("harmless", theory)
    replies.loc[rng.random(len(replies)) < 0.4, "reward"] = np.nan
    idle = [d for d, aimed in zip(theory.dimensions, target.aimed, strict=True) if not aimed]
    replies[idle] = replies[idle].mask(rng.random((len(replies), len(idle))) < 0.3)
    row = measure_selection(replies, [target]).iloc[0]
    for name in ("reward", "distance"):
        assert row[f"{name}_chosen"] - row[f"{name}_mean"] == pytest.approx(row[f"{name}_change"])
    distance = value_distance(replies[list(theory.dimensions)].to_numpy(), target)
    best = replies.loc[choose_best(distance, replies["prompt"].tolist())].set_index("prompt")[idle]
    gaps = best - replies.groupby("prompt")[idle].mean().loc[best.index]
    moved = measure_drift(gaps.dropna().to_numpy())
    assert row[["drift", "drift_low", "drift_high"]].tolist() == pytest.approx(moved, nan_ok=True)


def test_a_choice_that_moves_no_other_value_has_no_sure_drift():
    theory, rng = load_theory("schwartz10"), np.random.default_rng(1)
    target, sure = load_target("harmless", theory), []
    aimed = [d for d, is_aimed in zip(theory.dimensions, target.aimed, strict=True) if is_aimed]
    for _ in range(40):
        replies = make_replies(theory, rng)
        replies[list(theory.dimensions)] = rng.normal(size=(len(replies), theory.n_dims))    # no value hangs on another
        assert len(aimed) < theory.n_dims
        sure.append(measure_selection(replies, [target]).drift_low[0] > 0)
    assert np.mean(sure) <= 0.15


def test_commonness_counts_the_shared_pairs_of_words():
    found = measure_commonness(["be kind now", "be kind", "go", "go"])  # two pairs, one of them said by one of three
    np.testing.assert_allclose(found, [1 / 6, 1 / 3, 1 / 3, 1 / 3])


def test_gaps_to_the_released_distances_are_the_largest_of_a_source():
    theory = load_theory("moral_foundations")
    scored = pd.DataFrame([dict.fromkeys(theory.dimensions, 0.0)] * 3).assign(
        response_source=["a", "a", "b"], e_distance=[5**0.5, 5**0.5 - 0.25, 5**0.5], h_distance=[5.5, 4.0, 5.0])
    gaps = check_released(scored, uniform_target(theory))  # 0 is 1 away on each of five dimensions
    assert gaps.columns.tolist() == ["response_source", "l2_gap", "l1_gap", "n"]
    assert gaps["l2_gap"].tolist() == pytest.approx([0.25, 0.0])
    assert gaps["l1_gap"].tolist() == pytest.approx([1.0, 0.0])
    assert gaps["n"].tolist() == [2, 1]


def test_targets_are_tabled_value_by_value():
    theory = load_theory("schwartz10")
    targets = [load_target(name, theory) for name in ("ideal", "uk")]
    table = tabulate_targets(targets)
    assert table["target"].tolist() == ["ideal"] * 10 + ["uk"] * 10
    for target in targets:
        own = table[table["target"] == target.name].set_index("dimension")
        assert own["value"].to_dict() == dict(zip(theory.dimensions, target.values, strict=True))
        assert own["weight"].tolist() == list(target.weights)

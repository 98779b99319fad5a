"""The proof of alignment: names of runs, who is trained on which rows, and what the runs of a plan showed."""

import numpy as np
import pandas as pd
import pytest
from judged_rows import BAD, GOOD, Length, Lexicon, make_replies, make_rows, make_trial

from fulcra_utils.alignment.measures import (
    average_vectors,
    compare_policies,
    group_targets,
    judge_goals,
    pick_examples,
)
from fulcra_utils.alignment.startmodel import build_policy, save_policy, train_tokenizer
from fulcra_utils.alignment.study import (
    claim_bars,
    compare_targets,
    has_labels,
    list_seeds,
    measure_efficiency,
    measure_trial,
    prepare_panel,
    read_plan,
    run_trial,
)
from fulcra_utils.runs.profiles import load_profile
from fulcra_utils.theory.targets import load_target, uniform_target
from fulcra_utils.theory.theory import load_theory

pytestmark = pytest.mark.usefixtures("one_thread")


def test_trial_tells_a_moved_policy_from_a_constant_one():
    target = uniform_target("moral_foundations")
    panel = {"reward": Lexicon(5), "judge": Lexicon(5, 0.1), "helpful": Length()}
    replies = {"start": make_replies(["hurt him", "so what"] * 10),
               "moved": make_replies(["be kind", "kind words"] * 10)}
    scores, summary = measure_trial(replies, panel, target, ["q1", "q2"], seed=0)
    table = summary.set_index("policy")
    assert table.loc["start", "distance_reward"] == pytest.approx((9 + 5) / 2)
    assert table.loc["moved", "distance_reward"] == pytest.approx(1)
    assert table.loc["moved", "drop_reward"] == pytest.approx(6 / 7)
    assert table.loc["moved", "constant_reward"] == pytest.approx(1)  # "be kind" for all does as well: no alignment
    assert table.loc["moved", "high_reward"] < 0 and np.isnan(table.loc["moved", "drift"])
    goals = judge_goals(summary, "moved").set_index("goal").is_met
    assert goals["distance by the reward evaluator falls by at least 40 %"]
    assert not goals["the best constant reply is farther, by the judge"]
    against = compare_policies(scores, "moved", ["start", "nothing"], ["distance", "helpful", "harmless"])
    assert against.other.tolist() == ["start", "start"] and against.difference.iloc[0] < 0
    examples = pick_examples(replies, scores, "start", "moved")
    assert len(examples) == 10 and examples.change.is_monotonic_increasing
    bars = claim_bars(summary.replace({"policy": {"moved": "rloo-uniform"}}), "uniform").set_index("claim_id")
    assert bars.loc["alignment/helpful/start", "ours"] == pytest.approx(7.5)
    assert np.isnan(bars.loc["alignment/helpful/rlhf-5x", "ours"])


@pytest.mark.parametrize(("name", "expected"), [
    ("rloo-ideal", ("rloo", "ideal", "reward", "penalise", 0, 3)),
    ("rloo-ideal-mask", ("rloo", "ideal", "reward", "mask", 0, 3)),
    ("grpo-uk-1x-p200-s7", ("grpo", "uk", "values-1x", "penalise", 200, 7)),
    ("rloo-ideal-w20-s5", ("rloo", "ideal", "reward", "penalise", 0, 5)),
    ("rlhf-1x-p64", ("rloo", "aim", "rlhf-1x", "penalise", 64, 3)),
])
def test_names_of_runs(name, expected):
    plan = read_plan(name, "aim", 3, 5.0)
    assert (plan.method, plan.target, plan.reward, plan.absence, plan.n_prompts, plan.seed) == expected


@pytest.mark.parametrize("name", ["ppo-ideal", "rlhf-3x", "rloo", ""])
def test_unknown_runs_are_named(name):
    with pytest.raises(ValueError, match="is none of"):
        read_plan(name, "ideal", 0, 0.0)


def test_panel_keeps_its_halves_apart_and_survives_missing_rewards(memory):
    theory = load_theory("moral_foundations")
    rows = make_rows(theory, 120)
    pairs = pd.DataFrame({"prompt": ["q"] * 20, "chosen": GOOD * 6 + GOOD[:2], "rejected": BAD * 6 + BAD[:2],
                          "split": ["train"] * 15 + ["test"] * 5})
    panel, quality = prepare_panel(rows, rows.head(0), pairs, theory, memory.encoder)
    quality = quality.set_index("scorer")
    n_train = (rows.split == "train").sum()
    assert quality.loc["reward", "n_train"] + quality.loc["judge", "n_train"] == n_train
    assert quality.loc["rlhf-5x", "n_train"] == n_train and quality.loc["rlhf-1x", "n_train"] == round(0.2 * n_train)
    assert set(panel) == {"reward", "judge", "values-1x", "rlhf-1x", "rlhf-5x", "harmless", "helpful"}
    poor, _ = prepare_panel(rows.assign(reward=np.nan), rows.head(0), pairs.head(0), theory, memory.encoder)
    assert set(poor) == {"reward", "judge"}


def test_nothing_is_trained_when_switched_off(memory):
    theory = load_theory("moral_foundations")
    panel, _ = prepare_panel(pd.DataFrame(), pd.DataFrame(), pd.DataFrame(), theory, memory.encoder, train=False)
    done = run_trial("nowhere", panel, ["rloo-aim"], pd.DataFrame(), "nowhere", theory, uniform_target(theory),
                     {"train": False}, 0)
    assert done.summary.empty and done.skipped == ["rloo-aim"]


@pytest.mark.slow
def test_runs_at_the_same_time_end_as_runs_one_by_one(memory, tmp_path):
    theory = load_theory("moral_foundations")
    rows = make_rows(theory, 120)
    panel, _ = prepare_panel(rows, rows.head(0), pd.DataFrame(columns=["split"]), theory, memory.encoder)
    tokenizer = train_tokenizer([*rows.prompt, *rows.response], 300)
    start = save_policy(build_policy(tokenizer, layers=1, width=32, heads=2, context=64), tokenizer, tmp_path / "start")
    settings = {**load_profile("quick")["notebooks"]["04_value_alignment"], "train": True, "allow_faults": True,
                "train_prompts": 20, "test_prompts": 6, "steps": 2, "max_new_tokens": 8}
    done = {n: run_trial(str(start), panel, ["rloo-aim", "rlhf-5x"], rows, tmp_path / str(n), theory,
                         uniform_target(theory), {**settings, "workers": n}, 1) for n in (1, 2)}
    assert set(done[1].replies) == {"start", "rloo-uniform", "rlhf-5x"}
    for name, replies in done[1].replies.items():
        pd.testing.assert_frame_equal(replies, done[2].replies[name])
    again = run_trial(str(start), panel, ["rlhf-5x"], rows, tmp_path / "2", theory, uniform_target(theory),
                      {**settings, "workers": 2}, 1)
    pd.testing.assert_frame_equal(again.replies["rlhf-5x"], done[1].replies["rlhf-5x"])


def test_several_targets_and_data_efficiency():
    theory = load_theory("schwartz10")
    targets = [load_target(n, theory) for n in ("ideal", "uk", "france")]
    names = ["start", "rloo-ideal", "rloo-uk", "rloo-ideal-1x", "rloo-ideal-1x-p64", "rlhf-1x", "rlhf-1x-s2"]
    texts = {name: make_replies(["be kind" if i % 2 else f"so {i}" for i in range(10)]) for name in names}
    done = make_trial(texts, targets[0])
    means = average_vectors(done.scores, theory.dimensions)
    assert compare_targets(means, targets[:2]).loc["nearest"].index.tolist() == ["ideal", "uk"]
    assert compare_targets(means, targets[:1]).empty
    table = measure_efficiency(done, "ideal", 2000)
    assert sorted(set(table.n_prompts)) == [64, 2000] and set(table.method) == {"BaseAlign, 1x", "RLHF, 1x"}
    alone = make_trial({"start": texts["start"], "rlhf-1x": texts["start"]}, targets[0])
    assert measure_efficiency(alone, "ideal", 9).empty
    assert group_targets(targets) == {"ideal": "ideal", "uk": "uk", "france": "uk"}


def test_training_needs_a_labelled_row_in_both_halves():
    theory = load_theory("moral_foundations")
    rows = make_rows(theory, 8)    # the halves are A, A, B, B, A, A, B, B; the fifth row is a test row
    assert has_labels(rows, theory)
    assert not has_labels(rows[rows["half"] == "A"], theory)
    rows.loc[rows["half"] == "B", list(theory.dimensions)] = np.nan
    assert not has_labels(rows, theory)
    rows.loc[7, theory.dimensions[2]] = 0.0
    assert has_labels(rows, theory), "one label is enough"
    assert not has_labels(rows.assign(split=["train"] * 6 + ["test"] * 2), theory)


def test_runs_with_other_seeds_are_listed_together():
    summary = pd.DataFrame({"policy": ["start", "rloo-uk-s2", "rloo-ideal", "rloo-uk", "rlhf-1x-s3"],
                            "drop_judge": [0.0, 0.2, 0.3, 0.1, 0.5], "other": 1})
    table = list_seeds(summary)
    assert table.to_dict("list") == {"run": ["rloo-uk"] * 2, "seed": ["2", "own"], "drop_judge": [0.2, 0.1]}

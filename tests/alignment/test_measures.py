import dataclasses
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge

from fulcra_utils.alignment.judges import (
    TextMemory,
    correlate_labels,
    fit_harmless,
    fit_judge,
    fit_preference,
    fit_reward_model,
    fit_value_scorer,
    fit_words,
    teach_absence,
)
from fulcra_utils.alignment.measures import (
    average_vectors,
    compare_policies,
    confuse_targets,
    find_constant,
    group_targets,
    judge_goals,
    make_controls,
    measure_text,
    pick_examples,
    score_policy,
    summarise_policies,
    take_test_prompts,
)
from fulcra_utils.alignment.selection import tabulate_targets
from fulcra_utils.alignment.startmodel import build_policy, save_policy, train_tokenizer
from fulcra_utils.alignment.study import (
    Trial,
    claim_bars,
    compare_targets,
    measure_efficiency,
    measure_trial,
    prepare_panel,
    read_plan,
    run_trial,
)
from fulcra_utils.evaluator.encoder import load_encoder
from fulcra_utils.plots import alignment as plots_alignment
from fulcra_utils.runs.profiles import load_profile
from fulcra_utils.theory.distance import value_distance
from fulcra_utils.theory.targets import choose_targets, load_target, uniform_target
from fulcra_utils.theory.theory import list_theories, load_theory

GOOD = ["be kind and help your friend today", "always protect the weak and be kind", "help people with kind words"]
BAD = ["hurt them and take what you want", "steal the money and hurt people", "take it all and hurt them now"]


def make_rows(theory, n=60, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        good = i % 2 == 0
        text = f"{rng.choice(GOOD if good else BAD)} {rng.choice(['so', 'then', 'and', 'well'])} {i % 7}"
        rows.append({"prompt": f"question {i}", "response": text, "reward": 1.0 if good else -1.0, "cluster": i,
                     "split": "test" if i % 5 == 4 else "train", "half": "A" if i % 4 < 2 else "B",
                     "response_source": "x", **dict.fromkeys(theory.dimensions, 1.0 if good else -1.0)})
    return pd.DataFrame(rows)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def memory():
    return TextMemory(load_encoder("tiny"))


def make_replies(texts, prompts=None):
    n = len(texts)
    return pd.DataFrame({"prompt": prompts or [f"p{i}" for i in range(n)], "response": texts, "is_finished": True,
                         "n_tokens": 4, "logp": -4.0, "logp_start": -6.0})


@pytest.mark.parametrize("name", list_theories())
def test_reward_evaluator_and_judge_learn_signs_and_silence(name, memory):
    theory = load_theory(name)
    rows = make_rows(theory, 120)
    train, test = rows[rows.split == "train"], rows[rows.split == "test"]
    for scorer in (fit_value_scorer(memory, train, theory), fit_judge(train, theory)):
        assert correlate_labels(scorer, test, theory.dimensions) > 0.7
        scores = scorer.score(["question 4"] * 2, [GOOD[0], ""])
        assert scores.shape == (2, theory.n_dims) and np.abs(scores).max() <= 1
        assert (np.abs(scores[1]) < np.abs(scores[0])).all()


def test_scorers_survive_a_theory_without_labels(memory):
    theory = load_theory("moral_foundations")
    rows = make_rows(theory)
    rows[list(theory.dimensions)] = np.nan
    for scorer in (fit_value_scorer(memory, rows, theory), fit_judge(rows, theory)):
        assert np.isfinite(scorer.score(["q"], ["a"])).all()
    assert np.isnan(correlate_labels(scorer, rows, theory.dimensions))


def test_missing_labels_teach_the_words_nothing():
    rng = np.random.default_rng(0)
    words = ["kind", "cruel", "brave", "idle", "true", "false"]
    replies = [" ".join(rng.choice(words, 4)) for _ in range(40)]
    outputs = np.stack([[float(reply.count(w)) for reply in replies] for w in words[:5]], axis=1)
    outputs[rng.random(outputs.shape) < [0.0, 0.0, 0.3, 0.7, 0.0]] = np.nan
    outputs[:, 4] = np.nan
    scorer = fit_words(["q"] * 40, replies, outputs, np.inf)
    said, features = scorer.score(["q"] * 40, replies), scorer.models[0][0](["q"] * 40, replies)
    for d in range(4):
        rows = np.isfinite(outputs[:, d])
        alone = Ridge(alpha=1.0, solver="sparse_cg").fit(features[rows], outputs[rows, d])
        np.testing.assert_allclose(said[:, d], alone.predict(features), atol=1e-3)
    assert (said[:, 4] == 0).all()
    half = np.where(np.arange(40) < 20, 1.0, np.nan)    # whatever the words, all that is known is 1
    model = fit_harmless(pd.DataFrame({"prompt": "q", "response": replies, "reward": half}))
    np.testing.assert_allclose(model.predict(["q"] * 40, replies), 1.0, atol=1e-3)


def test_taught_absence_keeps_unknown_labels_unknown():
    theory = load_theory("moral_foundations")
    vectors = np.full((4, theory.n_dims), 1.0)
    vectors[1, 2] = np.nan
    prompts, responses, labels = teach_absence(["q"] * 4, GOOD[:2] + BAD[:2], vectors, theory)
    assert len(prompts) == len(responses) == len(labels) == 13
    assert np.isnan(labels[[1, 5, 9], 2]).all() and np.isnan(labels[:12]).sum() == 3
    assert (np.nan_to_num(labels[4:]) == 0).all()
    assert "" in responses[8:12] and "q" in responses[8:12]


def test_taught_absence_pairs_every_second_prompt_with_anothers_reply():
    theory = load_theory("moral_foundations")
    prompts, replies = [f"q{i}" for i in range(20)], [f"r{i}" for i in range(20)]
    asked, said, labels = teach_absence(prompts, replies, np.ones((20, theory.n_dims)), theory, mismatch=0.5)
    assert len(set(asked[60:])) == 10 and not labels[60:].any()
    assert all(p[1:] != r[1:] for p, r in zip(asked[60:], said[60:], strict=True))


@pytest.mark.parametrize("kind", ["reward", "judge"])
def test_a_reply_to_another_prompt_is_farther(kind, memory):
    theory = load_theory("moral_foundations")
    rng = np.random.default_rng(0)
    topics = [f"{a}{b}" for a in "bcdfgklmnprst" for b in ("oko", "ama", "ilu", "ery")]
    prompts = [f"what about {t}" for t in rng.permutation(topics * 6)]
    replies = [f"be kind to {p.split()[-1]} and help" for p in prompts]
    fit = {"reward": lambda *a: fit_value_scorer(memory, *a), "judge": fit_judge}[kind]
    rows = pd.DataFrame({"prompt": prompts, "response": replies, **dict.fromkeys(theory.dimensions, 1.0)})
    scorer = fit(rows, theory, 0, 1.0)
    own, other = (scorer.score(prompts[:100], r).mean() for r in (replies[:100], replies[150:250]))
    assert own > other + (0.1 if kind == "judge" else 0.02)  # random embeddings hardly tell topics apart


def test_scalar_models_order_replies(memory):
    theory = load_theory("moral_foundations")
    rows = make_rows(theory, 120)
    pairs = pd.DataFrame({"prompt": "q", "chosen": GOOD * 10, "rejected": BAD * 10})
    for scorer in (fit_reward_model(memory, rows), fit_harmless(rows), fit_preference(memory, pairs)):
        good, bad = scorer.predict(["q"] * 2, [GOOD[0], BAD[0]])
        assert good > bad


def test_text_measures_by_hand():
    table = make_replies(["a b c", "a b c", "", "a b d"])
    table["logp"] = [-2.0, -2.0, -1.0, -3.0]
    measured = measure_text(table)
    assert measured["kl_token"] == pytest.approx((24 - 8) / 16) and measured["kl_reply"] == pytest.approx(4)
    assert measured["nll_start"] == pytest.approx(24 / 16)
    assert measured["distinct_2"] == pytest.approx(3 / 6)  # ab, bc, bd of six pairs
    assert measured["top_share"] == 0.5 and measured["empty_share"] == 0.25
    assert measure_text(table, n_pairs=2)["distinct_2"] == 1.0 and measure_text(table, n_pairs=4)["distinct_2"] == 0.5


def test_controls_keep_the_words():
    table = make_replies(["a b c d e f", "g h", "i", "j k l"])
    made = make_controls(table)
    assert sorted(made["swapped"]) == sorted(made["reply"])
    assert all(a != b for a, b in zip(made["swapped"], made["reply"], strict=True))
    assert [sorted(a.split()) for a in made["shuffled"]] == [sorted(a.split()) for a in made["reply"]]


@pytest.mark.parametrize("seed", range(8))
def test_no_reply_is_swapped_with_its_own_prompt(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 30))
    prompts = rng.integers(0, max(2, n // 2), n).astype(str) if seed % 2 else np.array([f"p{i}" for i in range(n)])
    table = pd.DataFrame({"prompt": prompts, "response": [f"{p} {i}" for i, p in enumerate(prompts)]})
    made = make_controls(table)
    if (prompts == pd.Series(prompts).mode()[0]).sum() > n // 2:
        assert "swapped" not in made
    else:
        assert sorted(made["swapped"]) == sorted(made["reply"])
        assert all(text.split()[0] != p for text, p in zip(made["swapped"], prompts, strict=True))


def test_a_single_prompt_has_no_swapped_control():
    one = make_replies(["hurt him"]).assign(prompt="p")
    panel = {"reward": Lexicon(5), "judge": Lexicon(5, 0.1)}
    scores = score_policy(one, panel, uniform_target("moral_foundations"), {"reward": "a", "judge": "a"})
    assert set(scores.variant) == {"reply", "shuffled", "constant"}
    summary = summarise_policies(scores.assign(policy="start"), {"start": one}, uniform_target("moral_foundations"))
    assert np.isnan(summary.swapped_judge[0]) and summary.shuffled_judge[0] == summary.distance_judge[0]


class Lexicon:
    def __init__(self, n_dims, offset=0.0):
        self.n_dims, self.offset = n_dims, offset

    def score(self, prompts, responses):
        value = [("kind" in r) - ("hurt" in r) for r in responses]
        return np.clip(np.array(value, dtype=float)[:, None] * 0.8 + self.offset, -1, 1) * np.ones(self.n_dims)


class Length:
    def predict(self, prompts, responses):
        return np.array([len(r) for r in responses])


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


def test_constant_is_found_on_training_prompts():
    target = uniform_target("moral_foundations")
    assert find_constant(Lexicon(5), ["a", "b"], ["hurt", "kind", "well"], target) == "kind"


def test_confusion_counts_a_class_of_targets_as_one():
    theory = load_theory("schwartz10")
    targets = [load_target(n, theory) for n in ("ideal", "uk", "france")]
    means = pd.DataFrame([targets[0].values, targets[2].values, targets[1].values], index=["ideal", "uk", "france"],
                         columns=theory.dimensions)
    classes = {"uk": "country", "france": "country"}
    table = confuse_targets(means, targets, classes)
    assert table.loc["nearest"].tolist() == ["ideal", "france", "uk"] and table.loc["is_right"].all()
    assert not confuse_targets(means, targets, {}).loc["is_right"].all()
    assert table.loc["ideal", "uk"] == pytest.approx(value_distance(targets[0].values[None], targets[1]).item())


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


def test_test_prompts_are_one_for_each_cluster():
    table = pd.DataFrame({"prompt": list("abcd"), "cluster": [1, 1, 2, 3], "split": ["test", "test", "test", "train"]})
    assert sorted(take_test_prompts(table, "test", 10, 0)) in (["a", "c"], ["b", "c"])
    assert take_test_prompts(table, "test", 1, 0) == take_test_prompts(table, "test", 1, 0)


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


def make_trial(replies, target):
    n_dims = len(target.values)
    panel = {"reward": Lexicon(n_dims), "judge": Lexicon(n_dims, 0.1), "harmless": Length()}
    scores, summary = measure_trial(replies, panel, target, ["q"], 0)
    return Trial(summary, scores, replies)


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


@pytest.mark.parametrize("name", ["toy.yaml", "schwartz19"])
def test_figures_take_any_number_of_dimensions(name):
    theory = load_theory(Path(__file__).parents[1] / name if name.endswith("yaml") else name)
    target = choose_targets(["ideal"], theory)[0]
    texts = {n: make_replies(["be kind", "so what", ""] * 4) for n in ("start", "rloo-x")}
    done = make_trial(texts, target)
    references = pd.DataFrame({"response_source": ["gpt"], "by": ["judge"], "distance": [1.0]})
    history = pd.DataFrame({"policy": "rloo-x", "step": [1, 2], "reward": [0.1, 0.2], "kl": [0.0, 0.1]})
    figures = [plots_alignment.plot_targets(tabulate_targets([target])), plots_alignment.plot_training(history),
               plots_alignment.plot_proof(done.summary, references), plots_alignment.plot_frontier(done.summary, "x"),
               plots_alignment.plot_moves(average_vectors(done.scores, theory.dimensions), tabulate_targets([target]))]
    repeated = history.assign(policy="rloo-x-s1")
    assert len(plots_alignment.plot_training(pd.concat([history, repeated])).legends[0].texts) == 1
    means = pd.DataFrame(0.1, index=["start", "rloo-a", "rloo-b", "rlhf-1x"], columns=theory.dimensions)
    several = pd.concat([tabulate_targets([target]).assign(target=name) for name in "ab"])
    panels = plots_alignment.plot_moves(means, several).axes
    assert [axes.get_title() for axes in panels] == ["to a", "to b"] and all(len(a.lines) == 4 for a in panels)
    for figure in figures:
        figure.canvas.draw()
        assert figure.axes[0].has_data()
        plt.close(figure)


def test_a_scorers_label_names_all_that_it_was_trained_from(memory):
    theory = load_theory("moral_foundations")
    rows, name = make_rows(theory, 24), theory.dimensions[0]
    first = {"memory": memory, "rows": rows, "theory": theory, "seed": 0, "mismatch": 0.25}
    other = {"memory": TextMemory(load_encoder("tiny", seed=3)), "seed": 1, "mismatch": 0.5,
             "theory": dataclasses.replace(theory, items=(*theory.items[1:], theory.items[0]))}
    for fit, options, label in ((fit_value_scorer, first, name),
                                (fit_reward_model, {k: first[k] for k in ("memory", "rows", "seed")}, "reward")):
        kept = fit(**options).label
        memory.look_up(["a text more in memory"])
        assert fit(**options).label == kept
        labels = {k: fit(**options | {k: other[k]}).label for k in options if k != "rows"}
        for column, value in (("prompt", "another"), ("response", "another"), (label, 0.5)):
            changed = rows.copy()
            changed.loc[0, column] = value
            labels[column] = fit(**options | {"rows": changed}).label
        assert kept not in labels.values() and len(set(labels.values())) == len(options) + 2, labels

from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from judged_rows import Lexicon, make_replies, make_trial

from fulcra_utils.alignment.measures import (
    average_vectors,
    confuse_targets,
    count_distinct,
    find_constant,
    make_controls,
    measure_constants,
    measure_costs,
    measure_drift,
    measure_leads,
    measure_text,
    score_policy,
    summarise_policies,
    take_test_prompts,
)
from fulcra_utils.alignment.selection import tabulate_targets
from fulcra_utils.plots import alignment as plots_alignment
from fulcra_utils.theory.distance import value_distance
from fulcra_utils.theory.targets import choose_targets, load_target, uniform_target
from fulcra_utils.theory.theory import load_theory

pytestmark = pytest.mark.usefixtures("one_thread")


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
    scores = score_policy(one, panel, uniform_target("moral_foundations"))
    assert set(zip(scores.by, scores.variant, strict=True)) == {("reward", "reply"), ("judge", "reply"),
                                                                ("judge", "shuffled")}
    summary = summarise_policies(scores.assign(policy="start"), {"start": one}, uniform_target("moral_foundations"))
    assert np.isnan(summary.swapped_judge[0]) and summary.shuffled_judge[0] == summary.distance_judge[0]


def test_constant_is_found_on_training_prompts():
    target = uniform_target("moral_foundations")
    assert find_constant(Lexicon(5), ["a", "b"], ["hurt", "kind", "well"], target) == "kind"


class Named:
    """A scorer that tells of each value whether a reply names it."""

    def __init__(self, dimensions):
        self.dimensions = dimensions

    def score(self, prompts, responses):
        return np.array([[float(name in text) for name in self.dimensions] for text in responses])


def test_scores_stand_under_their_own_names_whatever_the_scorers_order():
    target = load_target("harmless", load_theory("schwartz10"))
    replies = make_replies(["security first", "power and hedonism"])
    same, turned = ({"reward": Named(names)} for names in (target.dimensions, target.dimensions[::-1]))
    scores = score_policy(replies, turned, target)
    pd.testing.assert_frame_equal(scores, score_policy(replies, same, target))
    assert scores.security.tolist()[:2] == [1, 0] and scores.power.tolist()[:2] == [0, 1]
    assert find_constant(turned["reward"], ["q"], ["power", "security"], target) == "security"


def test_the_best_constant_and_silence_are_measured_by_each_judge():
    target, panel = uniform_target("moral_foundations"), {"reward": Lexicon(5), "judge": Lexicon(5, 0.1)}
    replies = {"start": make_replies(["hurt him", "so what", "be kind"])}
    scores = pd.concat([score_policy(table, panel, target).assign(policy=name) for name, table in replies.items()])
    table = measure_constants(scores, replies, panel, target, ["q1", "q2"]).set_index(["by", "kind"]).distance
    assert table["reward", "empty"] == pytest.approx(5) and table["reward", "constant"] == pytest.approx(1)
    assert table["judge", "empty"] == pytest.approx(4.5) and table["judge", "constant"] == pytest.approx(0.5)


def test_costs_by_hand():
    start = make_replies(["a b c", "d e f", "g h i", "k l m"]).assign(nll_real=[2.0, 3.0, np.nan, 4.0])
    moved = make_replies(["a b c", "a b c", "g h i", "k l m"]).assign(nll_real=[2.5, 3.5, np.nan, 4.5], logp=-4.0,
                                                                      logp_start=-6.0)
    zero, one = np.zeros((4, 2)), np.tile([0.5, -0.1], (4, 1))
    costs = measure_costs(moved, start, one, zero, 8)
    assert costs["kl"] == costs["low_kl"] == costs["high_kl"] == pytest.approx(0.5)    # 2 nats on 4 tokens, each time
    assert costs["variety"] == pytest.approx(6 / 8)
    assert costs["unlearnt"] == pytest.approx(0.5)
    assert costs["drift"] == costs["low_drift"] == costs["high_drift"] == pytest.approx(0.13 ** 0.5)  # of .25 and .01
    none = measure_costs(moved.drop(columns="nll_real"), start, one[:, :0], zero[:, :0], 8)
    assert np.isnan(none["unlearnt"]) and np.isnan(none["drift"])
    assert count_distinct([], 5) == 0


def test_the_interval_of_variety_holds_its_number():
    start = make_replies(["a b c", "d e f", "g h i", "k l m"])
    costs = measure_costs(start.assign(response=["a b c", "a b c", "g h i", "k l m"]), start, *np.zeros((2, 4, 0)), 8)
    half = 3.182446 * (3 / 36) ** 0.5   # without each prompt in turn 1, 1, 2/3, 2/3: variance 1/36; t of 3 prompts
    assert (costs["low_variety"], costs["high_variety"]) == pytest.approx((0, 0.75 + half))
    alone = measure_costs(start.head(1), start.head(1), *np.zeros((2, 1, 0)), 2)
    assert alone["variety"] == 1 and np.isnan(alone["low_variety"]) and np.isnan(alone["high_variety"])


def test_drift_is_what_chance_does_not_move():
    drift, low, high = measure_drift(np.array([[1.0], [0.0], [1.0], [0.0]]))
    assert drift == pytest.approx((1 / 4 - 1 / 12) ** 0.5)  # the mean is 1/2, its variance 1/3 over 4 prompts
    assert low == 0 and high > 1
    assert measure_drift(np.array([[0.5, 0.2], [-0.5, -0.2]]))[:2] == (0, 0)
    assert np.isnan(measure_drift(np.ones((1, 2)))).all() and np.isnan(measure_drift(np.ones((4, 0)))).all()
    rng = np.random.default_rng(0)
    still = np.array([measure_drift(rng.normal(size=(40, 3)) + rng.normal(size=(40, 1))) for _ in range(100)])
    assert (still[:, 1] > 0).sum() <= 10    # 5 expected; as means of drawn absolute values it would be all 100
    moved = np.array([measure_drift(rng.normal(size=(40, 3)) + [0.8, 0, -0.8]) for _ in range(100)])
    true = (2 * 0.64 / 3) ** 0.5
    assert (moved[:, 1] > 0).all() and ((moved[:, 1] <= true) & (true <= moved[:, 2])).sum() >= 90
    assert moved[:, 0].mean() == pytest.approx(true, abs=0.03)


def test_a_reply_finds_its_prompt(memory):
    replies = make_replies(["tell me a story", "stay safe at home"], ["tell me a story", "stay safe at home"])
    panel, target = {"reward": Lexicon(5), "judge": Lexicon(5), "memory": memory}, uniform_target("moral_foundations")
    assert (score_policy(replies, panel, target).is_found.dropna() == 1).all()
    swapped = replies.assign(response=replies.response[::-1].tolist())
    assert (score_policy(swapped, panel, target).is_found.dropna() == 0).all()


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


def test_a_lead_says_whether_the_nearest_policy_is_so_for_sure():
    target = uniform_target("moral_foundations")
    names = [replace(target, name=name) for name in ("near", "far", "same")]

    def reply(scores):
        return pd.DataFrame(np.tile(np.array(scores)[:, None], 5), columns=list(target.dimensions))

    vectors = {"near": reply([0.5, 0.5, 0.5, 0.5]), "far": reply([0.1, 0.1, 0.1, 0.1])}
    table = measure_leads(vectors, names[:2], {"near": "near", "far": "far"})
    assert table.near.tolist() == pytest.approx([2, 2, 2])      # five values each 0.4 nearer, on every prompt
    assert table.far.tolist() == pytest.approx([-2, -2, -2])
    unsure = {"near": reply([0.9, 0.1, 0.9, 0.1]), "far": reply([0.1, 0.8, 0.1, 0.8])}
    lead, low, high = measure_leads(unsure, names[:2], {"near": "near", "far": "far"}).near
    assert lead == pytest.approx(5 * 0.05) and low < 0 < high
    alike = measure_leads(vectors | {"same": reply([0, 0, 0, 0])}, names, {"near": "a", "same": "a", "far": "far"})
    assert alike.loc["lead"].tolist() == pytest.approx([2, -2, 2]), "a class is as near as its nearest policy"
    assert measure_leads(vectors, names[:2], {"near": "a", "far": "a"}).isna().all(axis=None)
    one = measure_leads({name: rows.head(1) for name, rows in vectors.items()}, names[:2], {"near": "a", "far": "b"})
    assert one.near["lead"] == pytest.approx(2) and one.loc[["low", "high"]].isna().all(axis=None)


def test_test_prompts_are_one_for_each_cluster():
    table = pd.DataFrame({"prompt": list("abcd"), "cluster": [1, 1, 2, 3], "split": ["test", "test", "test", "train"]})
    assert sorted(take_test_prompts(table, "test", 10, 0)) in (["a", "c"], ["b", "c"])
    assert take_test_prompts(table, "test", 1, 0) == take_test_prompts(table, "test", 1, 0)


@pytest.mark.parametrize("name", ["toy.yaml", "schwartz19"])
def test_figures_take_any_number_of_dimensions(name):
    theory = load_theory(Path(__file__).parents[1] / name if name.endswith("yaml") else name)
    target = choose_targets(["ideal"], theory)[0]
    texts = {n: make_replies(["be kind", "so what", ""] * 4) for n in ("start", "dpo-x")}
    done = make_trial(texts, target)
    references = pd.DataFrame({"response_source": ["gpt"], "by": ["judge"], "distance": [1.0]})
    history = pd.DataFrame({"policy": "dpo-x", "step": [1, 2], "reward": [0.1, 0.2], "kl": [0.0, 0.1]})
    figures = [plots_alignment.plot_targets(tabulate_targets([target])), plots_alignment.plot_training(history),
               plots_alignment.plot_proof(done.summary, references), plots_alignment.plot_frontier(done.summary, "x"),
               plots_alignment.plot_moves(average_vectors(done.scores, theory.dimensions), tabulate_targets([target]))]
    proof = figures[2].axes
    assert len({axes.get_xlim() for axes in proof}) == 1 and all(len(axes.collections) > 0 for axes in proof)
    repeated = history.assign(policy="dpo-x-s1")
    assert len(plots_alignment.plot_training(pd.concat([history, repeated])).legends[0].texts) == 1
    means = pd.DataFrame(0.1, index=["start", "dpo-a", "dpo-b", "dpo-rlhf-1x"], columns=theory.dimensions)
    several = pd.concat([tabulate_targets([target]).assign(target=name) for name in "ab"])
    panels = plots_alignment.plot_moves(means, several).axes
    assert [axes.get_title() for axes in panels] == ["to a", "to b"] and all(len(a.lines) == 5 for a in panels)
    drawn = [{line.get_label(): line.get_color() for line in axes.lines[:3] if np.isfinite(line.get_ydata()).all()}
             for axes in panels]
    assert [len(one) for one in drawn] == [2, 2] and len({*drawn[0].values(), *drawn[1].values()}) == 3
    assert {*drawn[0], *drawn[1]} <= {t.get_text() for t in panels[0].figure.legends[0].get_texts()}
    for figure in figures:
        figure.canvas.draw()
        assert figure.axes[0].has_data()
        plt.close(figure)

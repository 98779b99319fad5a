"""The quick scorers: what they learn from replies, from silence and from missing labels, and what names them."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from judged_rows import BAD, GOOD, make_rows
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
from fulcra_utils.evaluator.encoder import load_encoder
from fulcra_utils.theory.theory import list_theories, load_theory

pytestmark = pytest.mark.usefixtures("one_thread")


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


@pytest.mark.slow
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

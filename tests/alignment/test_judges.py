"""Word counts, scalar models and proxies: what they learn, what all are taught of nonsense, and what names a scorer."""

import numpy as np
import pandas as pd
import pytest
from judged_rows import BAD, GOOD, make_rows
from sklearn.linear_model import Ridge

from fulcra_utils.alignment.judges import (
    TextMemory,
    correlate_labels,
    fit_harmless,
    fit_preference,
    fit_reward_model,
    fit_word_counts,
    fit_words,
    teach_absence,
)
from fulcra_utils.evaluator.encoder import load_encoder
from fulcra_utils.theory.theory import list_theories, load_theory

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", list_theories())
def test_word_counts_learn_signs(name):
    theory = load_theory(name)
    rows = make_rows(theory, 120)
    scorer = fit_word_counts(rows[rows.split == "train"], theory)
    assert correlate_labels(scorer, rows[rows.split == "test"], theory.dimensions) > 0.7
    scores = scorer.score(["question 4"] * 2, [GOOD[0], ""])
    assert scores.shape == (2, theory.n_dims) and np.abs(scores).max() <= 1
    assert (np.abs(scores[1]) < np.abs(scores[0])).all()


def test_word_counts_survive_a_theory_without_labels():
    theory = load_theory("moral_foundations")
    rows = make_rows(theory)
    rows[list(theory.dimensions)] = np.nan
    scorer = fit_word_counts(rows, theory)
    assert (scorer.score(["q"], ["a"]) == 0).all()
    assert np.isnan(correlate_labels(scorer, rows, theory.dimensions))


def test_missing_labels_teach_the_words_nothing():
    rng = np.random.default_rng(0)
    words = ["kind", "cruel", "brave", "idle", "true", "false"]
    replies = [" ".join(rng.choice(words, 4)) for _ in range(40)]
    outputs = np.stack([[float(reply.count(w)) for reply in replies] for w in words[:5]], axis=1)
    outputs[rng.random(outputs.shape) < [0.0, 0.0, 0.3, 0.7, 0.0]] = np.nan
    outputs[:, 4] = np.nan
    scorer = fit_words(["q"] * 40, replies, outputs, np.inf)
    said, features = scorer.score(["q"] * 40, replies), scorer.featurise(["q"] * 40, replies)
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
    rows = make_rows(theory, 40)
    rows.loc[:, theory.dimensions[2]] = np.nan
    table = teach_absence(rows, theory, mismatch=0.5)
    assert table.is_real.tolist() == [True] * 40 + [False] * 30
    pd.testing.assert_frame_equal(table.head(40).drop(columns="is_real"), rows)
    labels = table[list(theory.dimensions)].iloc[40:]
    assert len(labels) == 30 and labels[theory.dimensions[2]].isna().all()
    assert (labels.drop(columns=theory.dimensions[2]) == 0).all(axis=None)
    nonsense = table.iloc[60:]
    assert (nonsense.response == "").sum() == 2 and (nonsense.response == nonsense.prompt).sum() == 2
    stuffed = nonsense.response.map(lambda text: text.rstrip(".").split(", ")[0] in theory.items)
    assert stuffed.sum() == 2


def test_taught_absence_pairs_a_reply_with_another_prompt():
    theory = load_theory("moral_foundations")
    rows = make_rows(theory, 40).assign(prompt=[f"q{i}" for i in range(40)], response=[f"r{i}" for i in range(40)])
    swapped = teach_absence(rows, theory, mismatch=0.5).iloc[40:60]
    assert swapped.prompt.is_unique and (swapped.prompt.str[1:] != swapped.response.str[1:]).all()
    assert len(teach_absence(rows, theory, mismatch=0.0)) == 50


def test_scalar_models_order_replies(memory):
    theory = load_theory("moral_foundations")
    rows = make_rows(theory, 120)
    pairs = pd.DataFrame({"prompt": "q", "chosen": GOOD * 10, "rejected": BAD * 10})
    for scorer in (fit_reward_model(memory, rows), fit_harmless(rows), fit_preference(memory, pairs)):
        good, bad = scorer.predict(["q"] * 2, [GOOD[0], BAD[0]])
        assert good > bad


def test_a_scorers_label_names_all_that_it_was_trained_from(memory):
    rows = make_rows(load_theory("moral_foundations"), 24)
    first = {"memory": memory, "rows": rows, "seed": 0}
    kept = fit_reward_model(**first).label
    memory.look_up(["a text more in memory"])
    assert fit_reward_model(**first).label == kept
    others = [{"memory": TextMemory(load_encoder("tiny", seed=3))}, {"seed": 1}]
    for column, value in (("prompt", "another"), ("response", "another"), ("reward", 0.5)):
        changed = rows.copy()
        changed.loc[0, column] = value
        others.append({"rows": changed})
    labels = {fit_reward_model(**first | other).label for other in others}
    assert kept not in labels and len(labels) == len(others)

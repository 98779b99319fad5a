"""The word part: what it counts, what it learns, and how it is joined."""

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression

from fulcra_utils.evaluator.encoder import load_encoder
from fulcra_utils.evaluator.model import ValueEvaluator, make_evaluator
from fulcra_utils.evaluator.words import SHARE, STRENGTH, WordExpert, count_features
from fulcra_utils.theory.theory import load_theory

TOY = "tests/toy.yaml"
TEXTS = [[5, 6, 7], [5, 5, 8, 9], [6, 7, 8], [9, 5], [7, 7, 7], [8, 6, 5, 9], [5, 7], [9, 9, 6]] * 4
LABELS = np.array([[1, 0], [1, 0], [-1, 0], [0, 0], [-1, 0], [1, np.nan], [0, 0], [0, 0]] * 4, dtype=float)
LABELS[:9, 1] = 1       # one label too few


def join(expert, texts, logits=None):
    longest = max(map(len, texts))
    ids = torch.tensor([t + [0] * (longest - len(t)) for t in texts])
    mask = torch.tensor([[1] * len(t) + [0] * (longest - len(t)) for t in texts])
    return expert(torch.zeros(len(texts), 2) if logits is None else logits, ids, mask)


@pytest.fixture(scope="module")
def expert():
    made = WordExpert(10, 4096, 2)
    made.fit(TEXTS, LABELS, np.ones_like(LABELS))
    return made


def test_words_equal_scikit_learns_tfidf_and_logistic_regression(expert):
    texts = [" ".join(f"w{i}" for i in t) for t in TEXTS]
    counts = CountVectorizer(ngram_range=(1, 2), binary=True).fit(texts)   # few pairs, so no two share a bucket
    tfidf = TfidfTransformer().fit(counts.transform(texts))
    features = tfidf.transform(counts.transform(texts))
    model = LogisticRegression(C=STRENGTH, class_weight="balanced", solver="liblinear", random_state=0)
    expected = SHARE * model.fit(features, LABELS[:, 0] != 0).decision_function(features)
    np.testing.assert_allclose(join(expert, TEXTS)[:, 0], expected, atol=1e-4)
    assert len(set(count_features(TEXTS, 10, 4096).nonzero()[1].tolist())) == len(counts.vocabulary_)


def test_a_value_with_too_few_of_either_class_is_left_to_the_encoder(expert):
    assert expert.share.tolist() == pytest.approx([SHARE, 0.0])
    presence = torch.randn(len(TEXTS), 2)
    joined = join(expert, TEXTS, presence)
    assert torch.allclose(joined[:, 1], presence[:, 1], atol=1e-6)
    assert not torch.allclose(joined[:, 0], presence[:, 0], atol=1e-2)


def test_padding_changes_nothing(expert):
    alone, beside = join(expert, TEXTS[3:4]), join(expert, TEXTS)[3:4]
    assert torch.allclose(alone, beside, atol=1e-6)


def test_words_travel_with_the_evaluator_and_to_another_theory(tmp_path):
    theory = load_theory(TOY)
    evaluator = make_evaluator(load_encoder("tiny"), theory, 32, word_buckets=512)
    prompts, replies = ["q"] * 30, ["be kind"] * 10 + ["be cruel"] * 10 + ["so what"] * 10
    labels = np.repeat([[1.0], [-1.0], [0.0]], 10, axis=0) * np.ones(theory.n_dims)
    before = evaluator.predict_proba(["q"], ["be kind"])
    evaluator.fit_words(prompts, replies, labels, np.ones_like(labels))
    after = evaluator.predict_proba(["q"], ["be kind"])
    assert (after[..., 1] < before[..., 1] - 0.05).all()     # touched: "be" stands in what is touched alone
    evaluator.save_pretrained(tmp_path / "e")
    assert np.allclose(ValueEvaluator.from_pretrained(tmp_path / "e").predict_proba(["q"], ["be kind"]), after)
    assert np.allclose(evaluator.for_theory(theory).predict_proba(["q"], ["be kind"]), after, atol=1e-6)
    other = evaluator.for_theory(load_theory("moral_foundations"))
    assert not other.words.share.any() and not other.words.weight.any()

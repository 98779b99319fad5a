"""Explanations: weights of words, deletions, replies that try to fool, the model card."""

from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch
from huggingface_hub import ModelCard
from small_trainings import SETTINGS

from fulcra_utils.evaluator import comparison as evaluation
from fulcra_utils.evaluator import study as experiments
from fulcra_utils.evaluator.encoder import load_encoder
from fulcra_utils.evaluator.explanation import (
    add_typos,
    audit_replies,
    colour_words,
    make_attacks,
    measure_deletion,
    measure_robustness,
    weigh_words,
    write_card,
)
from fulcra_utils.evaluator.model import make_evaluator, save_evaluator
from fulcra_utils.evaluator.training import Examples
from fulcra_utils.stats.classification import tabulate_support

pytestmark = pytest.mark.usefixtures("one_thread")


def test_words_of_a_reply_get_one_weight_each(evaluator):
    words, weights = weigh_words(evaluator, "Why?", "Be kind and never lie to anyone.")
    assert words == ["Be", "kind", "and", "never", "lie", "to", "anyone."] and weights.shape == (7, 3)
    assert np.abs(weights).sum() > 0
    long_words, long_weights = weigh_words(evaluator, "Why?", "one two three " * 200)
    assert 0 < len(long_words) < 600 and len(long_weights) == len(long_words)
    assert weigh_words(evaluator, "Why?", "")[1].shape == (0, 3)


def test_the_word_that_decides_has_the_greatest_weight_and_moves_the_score_most(toy):
    evaluator = make_evaluator(load_encoder("tiny"), toy, 64, word_buckets=512)
    with torch.no_grad():
        evaluator.heads.zero_()
        evaluator.heads[:, :, 1, -1] = 3.0      # for it, whatever is said: words decide whether it is touched
    replies = ["kind one", "kind two", "plain one", "plain two"]
    evaluator.fit_words(["q"] * 4, replies, np.repeat([[1.0], [0.0]], 2, axis=0) * np.ones(toy.n_dims), np.ones(4))
    words, weights = weigh_words(evaluator, "q", "kind one plain two")
    assert words == ["kind", "one", "plain", "two"]
    assert (weights[0] > weights[2]).all()
    words, weights = weigh_words(evaluator, "q", "two kind one")
    shorter = [" ".join(words[:k] + words[k + 1:]) for k in range(3)]
    fall = evaluator.score(["q"], ["two kind one"]) - evaluator.score(["q"] * 3, shorter)
    assert (weights.argmax(0) == 1).all() and (fall.argmax(0) == 1).all()


class Keyword:
    """An evaluator of one value that sees one word, letter by letter."""

    cuts = np.array([[-0.5, 0.5]])

    def score(self, prompts, responses):
        return np.array([[1.0 if "kindness" in text.split() else -1.0] for text in responses])


def test_robustness_counts_the_labels_that_typos_and_prompts_turn():
    replies = ["kindness"] * 150 + ["cruelty"] * 150
    examples = Examples(["why"] * 300, replies, np.repeat([[1.0], [-1.0]], 150, axis=0))
    table = measure_robustness(Keyword(), examples, np.arange(300), seed=4, n_draws=20).set_index("change")
    hit = [typed != "kindness" for typed in add_typos(replies, seed=4)[:150]]
    assert 0 < sum(hit) < 30
    assert table.flipped.tolist() == pytest.approx([0, sum(hit) / 300, 0])
    assert table.moved.tolist() == pytest.approx([0, 2 * sum(hit) / 300, 0])
    assert table.macro_f1.iloc[0] == table.macro_f1.iloc[2] > table.macro_f1.iloc[1]


def test_coloured_dialogue_is_safe_html(evaluator, toy):
    page = colour_words(evaluator, "<script>", "be <b>kind</b> & fair", toy.dimensions[0])
    HTMLParser().feed(page)
    assert "<script>" not in page and "&lt;b&gt;kind" in page
    with pytest.raises(ValueError, match="no dimension 'x'"):
        colour_words(evaluator, "a", "b", "x")


def test_deletion_and_audit_and_card(rows, evaluator, toy, tmp_path):
    test = rows.examples(rows.where("annotated", "test"))
    test = Examples(test.prompts, [r + " and some more words to make this reply long enough" for r in
                                              test.responses], test.vectors)
    deletion = measure_deletion(evaluator, test, np.arange(len(test)), n_draws=20)
    assert deletion.n.tolist() == [24] * 3
    assert deletion.moved[2] == pytest.approx(deletion.moved[0] - deletion.moved[1])
    audit = audit_replies(evaluator, test.prompts[:3], toy)
    assert len(audit) == len(make_attacks(["a"], toy)) and audit.attack.str.contains("50,000").any()
    p = evaluator.predict_proba(test.prompts, test.responses)
    comparison = evaluation.compare_methods(test.vectors, {"ours": p}, np.arange(len(test)), n_draws=5)
    unseen = experiments.judge_unseen(evaluator, {}, rows, {**SETTINGS, "unseen_models": ["s-m1"]}, np.ones(3), 1)
    speed = pd.DataFrame({"method": ["ours"], "replies_per_second": [12.0]})
    folder = save_evaluator(evaluator, tmp_path / "e")
    text = write_card(folder, theory=toy, settings=SETTINGS, n_train=9, n_more=7, comparison=comparison, unseen=unseen,
                      errors=evaluation.measure_calibration(p, test.vectors, rows.theory.dimensions),
                      support=pd.DataFrame(tabulate_support(test.vectors, toy.dimensions)), deletion=deletion,
                      audit=audit, speed=speed)
    assert (folder / "README.md").read_text() == text
    front = ModelCard.load(folder / "README.md").data.to_dict()
    assert front["license"] == "cc-by-nc-4.0" and front["pipeline_tag"] == "text-classification"
    assert "too few labels" in text and "12.0 replies a second" in text and f"{comparison.macro_f1[0]:.3f}" in text


def test_scores_of_both_signs_fail_the_audit(toy):
    class Undecided:
        def score(self, prompts, replies):
            return np.resize([0.9, -0.9], len(prompts))[:, None] * np.eye(toy.n_dims)[0]

    audit = audit_replies(Undecided(), ["a", "b", "c", "d"], toy)
    assert audit.failed.all() and set(audit.strongest) == {toy.dimensions[0]}
    assert np.allclose(audit.strongest_score, 0.9) and np.allclose(audit[toy.dimensions[0]], 0)
    assert np.allclose(audit.mean_absolute, 0.9 / toy.n_dims)

"""Explanations: weights of words, deletions, replies that try to fool, the model card."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from huggingface_hub import ModelCard
from small_trainings import SETTINGS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from fulcra_utils.common.paths import DATA
from fulcra_utils.evaluator import comparison as evaluation
from fulcra_utils.evaluator import study as experiments
from fulcra_utils.evaluator.encoder import Encoder, load_encoder
from fulcra_utils.evaluator.explanation import (
    add_typos,
    audit_replies,
    check_samples,
    explain_reply,
    list_samples,
    make_attacks,
    measure_deletion,
    measure_robustness,
    weigh_words,
    write_card,
)
from fulcra_utils.evaluator.model import make_evaluator, save_evaluator
from fulcra_utils.evaluator.rendering import pad_pairs
from fulcra_utils.evaluator.training import Examples
from fulcra_utils.stats.classification import tabulate_support
from fulcra_utils.theory.theory import load_theory

pytestmark = pytest.mark.usefixtures("one_thread")


def make_byte_level(causal, theory, text):
    """Return an evaluator whose tokenizer, taught by a text, takes spaces and line breaks into its tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bpe.train_from_iterator([text] * 9, trainers.BpeTrainer(
        special_tokens=["<pad>", "<|im_start|>", "<|im_end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", bos_token="<|im_start|>",
                                        eos_token="<|im_end|>", chat_template=causal.tokenizer.chat_template)
    config = type(causal.model.config)(**causal.model.config.to_dict() | {"vocab_size": len(tokenizer)})
    return make_evaluator(Encoder(type(causal.model)(config).eval(), tokenizer), theory, 128)


def make_fond_of_kind(theory):
    """Return an evaluator in which the word "kind" alone decides whether a reply touches a value."""
    evaluator = make_evaluator(load_encoder("tiny"), theory, 64, word_buckets=512)
    with torch.no_grad():
        evaluator.heads.zero_()
        evaluator.heads[:, :, 1, -1] = 3.0      # for it, whatever is said
    replies = ["kind one", "kind two"] * 5 + ["plain one", "plain two"] * 5
    evaluator.fit_words(["q"] * 20, replies, np.repeat([[1.0], [0.0]], 10, axis=0) * np.ones(theory.n_dims),
                        np.ones((20, theory.n_dims)))
    return evaluator


def test_words_of_a_reply_get_one_weight_each(evaluator):
    words, weights = weigh_words(evaluator, "Why?", "Be kind and never lie to anyone.")
    assert words == ["Be", "kind", "and", "never", "lie", "to", "anyone."] and weights.shape == (7, 3)
    assert np.abs(weights).sum() > 0
    long_words, long_weights = weigh_words(evaluator, "Why?", "one two three " * 200)
    assert 0 < len(long_words) < 600 and len(long_weights) == len(long_words)
    assert weigh_words(evaluator, "Why?", "")[1].shape == (0, 3)


def test_line_breaks_shift_no_weight(causal, toy):
    """A line break is a token of some tokenizers, and of no word."""
    evaluator = make_byte_level(causal, toy, "be kind and be brave")
    tokenizer = evaluator.tokenizer
    words, weights = weigh_words(evaluator, "Why?", "be\n\nkind and\nbe brave")
    pair, = evaluator.render(["Why?"], ["be\n\nkind and\nbe brave"])
    batch = pad_pairs([pair], tokenizer)
    gates = torch.ones(batch["input_ids"].shape, requires_grad=True)
    told = evaluator(**batch, gates=gates)["logits"].softmax(-1)[0]
    told = torch.autograd.grad(told[0, 2] - told[0, 0], gates)[0][0].numpy()
    texts = [tokenizer.decode([token]) for token in pair["input_ids"]]
    of_brave = [n for n, text in enumerate(texts) if n > len(texts) - 8 and text.strip() in "brave" and text.strip()]
    assert words == ["be", "kind", "and", "be", "brave"]
    assert weights[-1, 0] == pytest.approx(told[of_brave].sum(), abs=1e-7)
    breaks = [n for n, text in enumerate(texts) if "\n" in text and not text.strip()]
    start = len(texts) - 1 - len(tokenizer("be\n\nkind and\nbe brave", add_special_tokens=False)["input_ids"])
    assert weights[:, 0].sum() == pytest.approx(
        told[start:-1].sum() - sum(told[n] for n in breaks if n >= start), abs=1e-6)


def test_words_of_a_cut_pair_are_those_at_its_replys_start_and_end(toy):
    """A long prompt leaves the reply little room: what is shown is what was read."""
    evaluator = make_fond_of_kind(toy)
    for n_prompt, n_reply, n_read in ((300, 60, 31), (300, 44, 31), (3, 300, 58), (300, 12, 14)):
        reply = ["one", "two"] * (n_reply // 2 + 1)
        reply[-2] = "kind"
        words, weights = weigh_words(evaluator, "plain " * n_prompt, " ".join(reply))
        assert words == reply[:(n_read + 1) // 2] + reply[len(reply) - n_read // 2:]
        assert (weights.argmax(0) == len(words) - 2).all()


def test_words_keep_their_tokens_where_a_space_belongs_to_the_token(causal, toy):
    reply = " ".join(["never", "harm", "strangers", "without", "reason"] * 4)
    words, weights = weigh_words(make_byte_level(causal, toy, f" {reply}"), "Why?", reply)
    assert words == reply.split() and len(weights) == 20     # a word alone takes several tokens, which would not fit


def test_the_word_that_decides_has_the_greatest_weight_and_moves_the_score_most(toy):
    evaluator = make_fond_of_kind(toy)
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


def test_the_shown_reply_is_chosen_by_its_labels_is_short_ours_and_without_a_risk_tag(any_theory):
    samples = list_samples(any_theory)
    rows = [json.loads(line) for line in (DATA / "sample" / "schwartz10.jsonl").read_text("utf-8").splitlines()]
    harmless = {row["dialogue"].partition("\nBob: ")[2] for row in rows if not row["safety_issues"]}
    assert len(samples) > 50 and set(samples.response) <= harmless
    assert samples.response.str.split().str.len().max() <= 50
    n_labels = samples[list(any_theory.dimensions)].abs().sum(axis=1)
    assert n_labels.is_monotonic_decreasing
    if any_theory.name == "schwartz10":                      # counted in the file itself
        short = [r for r in rows if not r["safety_issues"] and len(r["dialogue"].partition("Bob:")[2].split()) <= 50]
        first = max(short, key=lambda row: len(row["value_types"]))
        assert first["dialogue"].endswith(samples.response[0]) and len(first["value_types"]) == n_labels[0] == 6


def test_rows_beside_a_theory_of_ones_own_are_never_shown(tmp_path, toy):
    path = tmp_path / "toy.yaml"
    path.write_text((Path(__file__).parents[1] / "toy.yaml").read_text("utf-8"), "utf-8")
    path.with_suffix(".jsonl").write_text('{"prompt": "mine?", "response": "a secret", "value_types": ["thrift: +1"]}')
    samples = list_samples(load_theory(path))
    assert "mine?" not in set(samples.prompt) and samples[list(toy.dimensions)].isna().all(axis=None)


def test_the_bar_of_a_score_reaches_over_it_and_its_label_set(evaluator):
    profile, words = explain_reply(evaluator, "Why?", "Be kind.")
    score, low, high = evaluator.score(["Why?"], ["Be kind."], intervals=True)[:, 0]
    assert (profile.score == score).all() and (profile.low == np.minimum(low, score)).all()
    assert (profile.high == np.maximum(high, score)).all()
    assert list(words.index) == ["Be", "kind."] and list(words) == list(evaluator.dimensions) == list(profile.index)


def test_a_set_without_0_does_not_hold_it_though_the_bar_spans_it(toy):
    class Fixed:
        dimensions = toy.dimensions[:2]

        def predict_proba(self, prompts, responses):
            return np.array([[[0.5, 0.0, 0.5], [1.0, 0.0, 0.0]]])

        def label_sets(self, probabilities):
            return probabilities > 0
    samples = pd.DataFrame({"prompt": ["a"], "response": ["b"], **dict.fromkeys(toy.dimensions[:2], 0.0)})
    assert "0.50 on average (always saying 0: 0.00), and the set holds it in 0%" in check_samples(Fixed(), samples)
    told = check_samples(Fixed(), samples + pd.Series({toy.dimensions[0]: 1.0, toy.dimensions[1]: -1.0, "prompt": "",
                                                       "response": ""}))
    assert "0.50 on average (always saying 0: 1.00), and the set holds it in 100%" in told
    assert "no labels" in check_samples(Fixed(), samples.assign(**dict.fromkeys(toy.dimensions[:2], np.nan)))


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
                      errors=pd.DataFrame({"value": ["all values", "a", "b", "c"], "ece": [0.02, 0.04, 0.07, np.nan]}),
                      support=pd.DataFrame(tabulate_support(test.vectors, toy.dimensions)), deletion=deletion,
                      audit=audit, speed=speed, stance="It reads stance.")
    assert (folder / "README.md").read_text() == text
    front = ModelCard.load(folder / "README.md").data.to_dict()
    assert front["license"] == "cc-by-nc-4.0" and front["pipeline_tag"] == "text-classification"
    assert "too few test labels" in text and "12.0 replies a second" in text and f"{comparison.macro_f1[0]:.3f}" in text
    assert "labels, 0.020 (largest of a single value with enough labels: 0.070, b)." in text
    assert "**Stance**: It reads stance.\n" in text
    known = {}
    exec(text.split("```python")[1].split("```")[0].replace("path/of/this/folder", str(folder)), known)
    assert known["scores"].shape == (1, toy.n_dims) and len(known["reward"](["May I?"], ["No."])) == 1


def test_scores_of_both_signs_fail_the_audit(toy):
    class Undecided:
        def score(self, prompts, replies):
            return np.resize([0.9, -0.9], len(prompts))[:, None] * np.eye(toy.n_dims)[0]

    audit = audit_replies(Undecided(), ["a", "b", "c", "d"], toy)
    assert audit.failed.all() and set(audit.strongest) == {toy.dimensions[0]}
    assert np.allclose(audit.strongest_score, 0.9) and np.allclose(audit[toy.dimensions[0]], 0)
    assert np.allclose(audit.mean_absolute, 0.9 / toy.n_dims)

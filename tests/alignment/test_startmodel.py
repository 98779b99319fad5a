import shutil
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_policies import TEXTS, make

from fulcra_utils.alignment import startmodel
from fulcra_utils.alignment.measures import draw_replies
from fulcra_utils.alignment.startmodel import (
    KneserNey,
    collect_dialogues,
    draw_samples,
    encode_dialogues,
    make_start,
    save_policy,
    train_policy,
    train_tokenizer,
)
from fulcra_utils.llm.local import PolicyError, load_policy, score_tokens

SETTINGS = {"train": True, "start_model": "small", "lm_layers": 1, "lm_width": 16, "lm_heads": 2, "lm_context": 48,
            "lm_vocab": 300, "lm_epochs": 2, "lm_batch_tokens": 64, "lm_learning_rate": 1e-2}


def dialogues(tokenizer):
    return encode_dialogues(tokenizer, TEXTS * 5, TEXTS[::-1] * 5, 48)


def plain_kneser_ney(texts, vocab, order):
    """The textbook recursion with dictionaries."""
    grams = [Counter() for _ in range(order + 1)]
    for text in texts:
        padded = [0] * (order - 1) + list(text)
        for i in range(order - 1, len(padded)):
            grams[order][tuple(padded[i - order + 1:i + 1])] += 1
    for n in range(order - 1, 0, -1):
        grams[n] = Counter(g[1:] for g in grams[n + 1])

    def prob(context, word, n):
        if n == 0:
            return 1 / vocab
        once, twice = (sum(c == k for c in grams[n].values()) for k in (1, 2))
        discount = once / (once + 2 * twice) if once else 0.5
        context = tuple(context[len(context) - n + 1:]) if n > 1 else ()
        followers = {g: c for g, c in grams[n].items() if g[:-1] == context}
        total, lower = sum(followers.values()), prob(context[1:], word, n - 1)
        if not total:
            return lower
        return (max(followers.get((*context, word), 0) - discount, 0) + discount * len(followers) * lower) / total

    return prob


def test_kneser_ney_equals_the_textbook_recursion():
    rng = np.random.default_rng(0)
    texts = [rng.integers(1, 5, 12).tolist() for _ in range(6)]
    model, prob = KneserNey(texts, 5, 3), plain_kneser_ney(texts, 5, 3)
    text = [1, 2, 2, 4, 3, 1]
    padded = [0, 0, *text]
    expected = sum(np.log(prob(padded[i - 2:i], padded[i], 3)) for i in range(4, 8))
    assert model.score(text, start=2) == pytest.approx(expected, abs=1e-9)
    total = sum(np.exp(model.score([2, 2, w], start=2)) for w in range(5))
    assert total == pytest.approx(1)


def test_kneser_ney_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="do not fit into 63 bits"):
        KneserNey([[1, 2]], 50_000, 5)


def test_tokenizer_writes_every_text(tokenizer):
    for text in ("naïve 日本 ✓", "a\tb\nc", "be kind"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    chat = tokenizer.apply_chat_template([{"role": "system", "content": "s"}, {"role": "user", "content": "u"},
                                          {"role": "assistant", "content": "a"}], tokenize=False)
    assert chat == "<|system|>s<|user|>u<|assistant|>a<|end|>"


def test_training_learns_and_saves_a_model_without_dropout(tokenizer, tmp_path):
    model, texts = make(tokenizer), dialogues(tokenizer)
    before = score_tokens(model, tokenizer, texts)
    train_policy(model, tokenizer.pad_token_id, texts, epochs=4, batch_tokens=128, learning_rate=1e-2)
    after = score_tokens(model, tokenizer, texts)
    assert after.mean() > before.mean() + 1
    loaded, _ = load_policy(save_policy(model, tokenizer, tmp_path))
    assert loaded.config.attention_dropout == 0
    np.testing.assert_allclose(score_tokens(loaded, tokenizer, texts), after, atol=1e-3)


def test_a_prompt_without_room_for_a_reply_is_left_out(tokenizer):
    assert encode_dialogues(tokenizer, ["be kind " * 40], ["yes"], 48) == []


def make_rows():
    train = pd.DataFrame({"prompt": TEXTS * 4, "response": TEXTS[::-1] * 4})
    return {"train": train, "test": train.head(2)}


def test_start_model_is_kept_and_replaced_when_its_texts_change(tmp_path):
    rows = make_rows()
    first = make_start(rows, tmp_path / "start", SETTINGS, 0)
    stamp = (tmp_path / "start" / "model.safetensors").stat().st_mtime_ns
    again = make_start(rows, tmp_path / "start", SETTINGS, 0)
    assert (tmp_path / "start" / "model.safetensors").stat().st_mtime_ns == stamp
    assert again.bits.bits_per_byte.tolist() == pytest.approx(first.bits.bits_per_byte.tolist())
    assert first.bits.model.tolist() == ["neural", "kneser-ney"] and (first.bits.bits_per_byte > 0).all()
    assert again.size["n_replies"] == len(rows["train"]) and again.size["n_weights"] > 0
    asked = pd.DataFrame({"prompt": TEXTS, "cluster": range(len(TEXTS)), "split": "test"})
    chosen = {**SETTINGS, "chat_template": "", "max_prompt_tokens": 40, "max_new_tokens": 4}
    drawn = draw_samples(first, asked, chosen, 0)
    assert sorted(drawn.prompt) == sorted(TEXTS) and drawn.equals(draw_samples(again, asked, chosen, 0))
    make_start(rows | {"train": rows["train"].head(8)}, tmp_path / "start", SETTINGS, 0)
    assert (tmp_path / "start" / "model.safetensors").stat().st_mtime_ns != stamp
    assert make_start(rows, tmp_path / "no", SETTINGS | {"start_model": "hub/name"}, 0).source == "hub/name"
    assert not (tmp_path / "no").exists()


def test_no_test_prompt_is_learnt():
    rows = pd.DataFrame({"prompt": ["a", "b", "c"], "response": ["x", " ", "z"], "split": ["train", "train", "test"]})
    pairs = pd.DataFrame({"prompt": ["d"], "chosen": ["c"], "rejected": ["r"], "split": ["test"]})
    assert collect_dialogues(rows, rows.head(0), pairs, "train").prompt.tolist() == ["a"]


def test_start_model_is_trained_again_by_what_shapes_it_and_by_nothing_else(tmp_path, monkeypatch):
    trained, train = [], startmodel._train_small
    monkeypatch.setattr(startmodel, "_train_small", lambda *a: trained.append(1) or train(*a))
    rows, first = make_rows(), SETTINGS | {"lm_epochs": 1, "steps": 1, "chat_template": ""}

    def made(texts=rows, settings=first, seed=0):
        before = len(trained)
        make_start(texts, tmp_path / "start", settings, seed)
        return len(trained) - before

    assert made() == 1 and made() == 0
    assert made(settings=first | {"steps": 9, "beta": 1.0, "runs": ["x"]}) == 0
    other = {"lm_layers": 2, "lm_width": 32, "lm_heads": 1, "lm_context": 47, "lm_vocab": 290, "lm_epochs": 2,
             "lm_batch_tokens": 60, "lm_learning_rate": 1e-3}
    for changed in [{"settings": first | {name: value}} for name, value in other.items()] + [
            {"seed": 1}, {"texts": rows | {"train": rows["train"].head(8)}},
            {"texts": rows | {"test": rows["test"].head(1)}}]:
        assert made(**changed) == 1, changed


def test_a_start_model_that_was_not_finished_is_trained_again(tmp_path, monkeypatch):
    rows, save = make_rows(), startmodel.save_policy
    make_start(rows, tmp_path / "start", SETTINGS, 0)

    def breaks(*args):
        save(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(startmodel, "save_policy", breaks)
    with pytest.raises(KeyboardInterrupt):
        make_start(rows, tmp_path / "start", SETTINGS, 1)
    monkeypatch.setattr(startmodel, "save_policy", save)
    again, whole = (make_start(rows, tmp_path / name, SETTINGS, 0).source for name in ("start", "whole"))
    weights = [load_policy(folder)[0].state_dict() for folder in (again, whole)]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[1]), "not the weights of the other seed"


def test_kept_replies_are_those_of_the_same_question_alone(tokenizer, tmp_path):
    folders = [save_policy(make(tokenizer, seed=seed), tokenizer, tmp_path / f"model-{seed}") for seed in range(3)]
    keep, first = tmp_path / "kept.parquet", {"folder": folders[0], "start": folders[1], "prompts": TEXTS,
                                              "max_new_tokens": 4, "seed": 0, "temperature": 1.0}

    def draw(**changed):
        return draw_replies(**first | changed, keep=keep)

    fresh = draw()
    stamp = keep.stat().st_mtime_ns
    pd.testing.assert_frame_equal(draw(), fresh)
    shutil.copytree(folders[0], tmp_path / "twin")
    assert keep.stat().st_mtime_ns == stamp and draw(folder=tmp_path / "twin") is not None
    assert keep.stat().st_mtime_ns == stamp, "the same weights elsewhere are the same model"
    for changed in ({"folder": folders[2]}, {"start": folders[2]}, {"prompts": TEXTS[:2]}, {"prompts": TEXTS[::-1]},
                    {"max_new_tokens": 5}, {"seed": 1}, {"temperature": 0.5}):
        stamp = keep.stat().st_mtime_ns
        drawn = draw(**changed)
        assert keep.stat().st_mtime_ns != stamp, changed
        pd.testing.assert_frame_equal(drawn, draw_replies(**first | changed))
        pd.testing.assert_frame_equal(draw(), fresh)
    for nothing in ("no-such-model", "no/such-model", tmp_path / "nowhere"):
        with pytest.raises(PolicyError, match="cannot be loaded"):
            draw(folder=nothing)
    pd.DataFrame({"prompt": TEXTS}).to_parquet(keep)    # a file without a key
    pd.testing.assert_frame_equal(draw(), fresh)


def test_replies_of_a_model_without_a_template_are_kept_by_the_given_one(tokenizer, tmp_path):
    silent = train_tokenizer(TEXTS, 300)
    silent.chat_template = None
    folder = save_policy(make(silent), silent, tmp_path / "silent")
    with pytest.raises(PolicyError, match="no chat template"):
        draw_replies(folder, folder, TEXTS, 4, 0)
    drawn = [draw_replies(folder, folder, TEXTS, 4, 0, keep=tmp_path / "k.parquet", chat_template=template)
             for template in (tokenizer.chat_template, "{{ messages[0]['content'] }}", tokenizer.chat_template)]
    assert not drawn[1].logp.equals(drawn[0].logp)
    pd.testing.assert_frame_equal(drawn[2], drawn[0])

"""The encoder: deterministic tiny model, embeddings that do not depend on batching."""

import subprocess
import sys

import numpy as np
import pytest

from fulcra_utils.evaluator.encoder import EncoderError, embed, iterate_buckets, load_encoder


@pytest.mark.slow
def test_tiny_is_the_same_in_a_fresh_process(tiny):
    code = ("from fulcra_utils.evaluator.encoder import embed, load_encoder;"
            "print(repr(embed(['be honest and kind'], load_encoder('tiny'))[0, :4].tolist()))")
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    np.testing.assert_allclose(eval(other), embed(["be honest and kind"], tiny)[0, :4], atol=1e-6)


def test_seed_changes_tiny_weights_and_leaves_global_random_state(tiny):
    import torch
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    other = load_encoder("tiny", seed=1)
    assert torch.equal(torch.rand(3), expected)
    assert not np.allclose(embed(["a word"], other), embed(["a word"], tiny))


def test_embedding_does_not_depend_on_batching_or_order(tiny):
    texts = ["be daring", "", "a much longer text " * 20, "be honest", "x"]
    once = embed(texts, tiny, batch_size=5)
    np.testing.assert_allclose(embed(texts, tiny, batch_size=1), once, atol=1e-5)
    np.testing.assert_allclose(embed(texts[::-1], tiny, batch_size=2)[::-1], once, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(once, axis=1), 1, atol=1e-5)


def test_no_texts_and_wrong_types(tiny):
    assert embed([], tiny).shape == (0, tiny.width)
    with pytest.raises(EncoderError, match="Text 1 is a NoneType"):
        embed(["a", None], tiny)


def test_buckets_cover_every_row_once():
    rows = [r for batch in iterate_buckets([5, 1, 9, 9, 2, 7, 3], 3) for r in batch]
    assert sorted(rows) == list(range(7))


def test_bundled_knows_near_from_far():
    vectors = embed(["A doctor treats the sick.", "The physician cares for patients.", "The stock market fell."],
                    load_encoder("bundled"))
    similar, different = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert vectors.shape == (3, 384)
    assert similar > 0.6 > 0.3 > different


def test_folder_that_is_no_encoder(tmp_path):
    with pytest.raises(EncoderError, match="cannot be loaded as safetensors"):
        load_encoder(tmp_path)

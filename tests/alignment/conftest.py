"""What the tests of alignment share: embeddings of the tiny encoder."""

import pytest


@pytest.fixture(scope="module")
def memory():
    from fulcra_utils.alignment.judges import TextMemory
    from fulcra_utils.evaluator.encoder import load_encoder

    return TextMemory(load_encoder("tiny"))

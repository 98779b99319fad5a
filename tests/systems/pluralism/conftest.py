"""A weigher of random models, fitted on our own situations."""

import pytest

from fulcra_utils.evaluator.encoder import load_encoder
from fulcra_utils.evaluator.model import make_evaluator
from fulcra_utils.llm.local import load_policy
from fulcra_utils.llm.tiny import make_random_model
from fulcra_utils.systems.pluralism.situations import read_own
from fulcra_utils.systems.pluralism.weighing import Weigher
from fulcra_utils.theory.theory import load_theory


@pytest.fixture(scope="session")
def weigher(tmp_path_factory):
    encoder, own = load_encoder("tiny"), read_own()
    chat = load_policy(make_random_model(tmp_path_factory.mktemp("chat")))
    return Weigher(make_evaluator(encoder, load_theory("moral_foundations")), encoder, chat).fit(own, own)

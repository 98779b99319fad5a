"""A local language model as an annotator: its bias cancels, its answer follows the reply, its cost is counted."""

import numpy as np
import pytest

from fulcra_utils.annotation import local
from fulcra_utils.llm.local import load_policy
from fulcra_utils.llm.tiny import make_random_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_random_model(tmp_path_factory.mktemp("random"))


def test_a_judge_that_likes_one_word_whatever_is_said_takes_no_side(toy, model):
    """Its bias is in the calibration too, so it cancels; what is left follows the reply."""
    judge = local.LanguageJudge(*load_policy(model), toy)
    before = judge.predict_proba(["May I lie?", "May I go?"], ["No.", "Yes, go home."])
    assert before.shape == (2, toy.n_dims, 3) and np.ptp(before, axis=0).max() > 1e-6
    np.testing.assert_allclose(judge.predict_proba(["N/A"], ["N/A"]), 1 / 3, atol=1e-6)
    judge.blank = judge.blank + [0.0, 5.0, 0.0]
    assert (judge.predict_proba(["May I lie?", "May I go?"], ["No.", "Yes, go home."])[..., 1] < before[..., 1]).all()
    alone = local.LanguageJudge(*load_policy(model), toy).predict_proba(["May I go?"], ["Yes, go home."])
    np.testing.assert_allclose(alone[0], before[1], atol=1e-5)      # not by its batch


def test_the_order_of_the_words_is_that_in_which_they_are_offered(toy, model):
    judges = [local.LanguageJudge(*load_policy(model), toy, order) for order in local.ORDERS]
    ends = [judge.render("Why?", "So.")[0][0]["content"].rpartition("Say ")[2] for judge in judges]
    assert ends == ["For, Against or Neither.", "Neither, Against or For."]


def test_both_orders_label_every_cell_and_tokens_are_counted(toy, model):
    labels, n_tokens, seconds = local.annotate_locally(["May I lie?"] * 2, ["No.", "Yes."], toy, model)
    assert labels.shape == (2, 2, toy.n_dims) and set(np.unique(labels)) <= {-1, 0, 1}
    assert n_tokens > 4 * toy.n_dims * 20 and seconds > 0

"""Labels that others made: thresholds, keys and the official score by hand, a whole comparison with a tiny encoder."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import f1_score, roc_auc_score
from small_trainings import SETTINGS

from fulcra_utils.dataset import benchmarks as readers
from fulcra_utils.dataset.benchmarks import measure_official_f1
from fulcra_utils.dataset.sources import SourceError
from fulcra_utils.evaluator import teachers
from fulcra_utils.theory.theory import load_theory

VALUES = list(load_theory("valueeval20").dimensions)
pytestmark = pytest.mark.usefixtures("one_thread")


def make_arguments(seed):
    rng = np.random.default_rng(seed)
    conclusions = [f"c{k % 8}" for k in range(40)]
    texts = {"id": [f"a{k}" for k in range(40)], "conclusion": conclusions,
             "prompt": [f"Argue for this: {c}" for c in conclusions], "response": [f"premise {k}" for k in range(40)]}
    return pd.DataFrame({**texts, **{value: (rng.random(40) < 0.4).astype(float) for value in VALUES}})


ITEMS = pd.DataFrame({
    "value": ["Order", "Order", "Play", "Play"], "definition": ["Tidiness.", "Tidiness.", "Fun.", "Fun."],
    "prompt": "What are you like?", "response": ["I tidy.", "I litter.", "I joke.", "I frown."],
    "stance": [1, -1, 1, -1], "cluster": ["q1", "q1", "q2", "q2"], "split": ["test", "test", "test", "train"]})


@pytest.fixture
def public_sets(monkeypatch):
    """Small sets in the place of the public ones."""
    arguments = {f"valueeval23-{part}": make_arguments(k) for k, part in enumerate(("training", "validation", "test"))}
    parts = {"valuebench": ITEMS, "valuebench-replies": ITEMS.assign(rating=[9, 1, 8, 2]), **arguments}
    for module in (readers, teachers):
        monkeypatch.setattr(module, "read_part", parts.__getitem__)
    readers._read_more.cache_clear()
    yield parts
    readers._read_more.cache_clear()


def test_thresholds_have_the_best_f1():
    rng = np.random.default_rng(0)
    labels = (rng.random((60, 3)) < 0.3).astype(int)
    scores = np.round(labels * 0.3 + rng.random((60, 3)), 1)      # with ties
    for d, threshold in enumerate(teachers.fit_thresholds(scores, labels)):
        best = max(f1_score(labels[:, d], scores[:, d] > t) for t in [-1, *np.unique(scores[:, d])])
        assert f1_score(labels[:, d], scores[:, d] > threshold) == pytest.approx(best)


def test_arguments_are_judged_by_the_official_score_at_thresholds_from_validation(public_sets):
    rng = np.random.default_rng(0)
    validation, test = rng.random((2, 40, 20))
    f1, area = teachers.judge_arguments(validation, test, 50, 1)
    truth = public_sets["valueeval23-test"][VALUES].to_numpy()
    said = test > teachers.fit_thresholds(validation, public_sets["valueeval23-validation"][VALUES].to_numpy())
    assert f1["value"] == pytest.approx(measure_official_f1(truth, said)) and f1["low"] < f1["value"] < f1["high"]
    assert area["value"] == pytest.approx(roc_auc_score(truth, test)) and area["low"] < area["value"] < area["high"]


def test_keys_count_the_same_whichever_is_commoner():
    items = pd.DataFrame({"stance": [1, 1, 1, -1], "cluster": ["a", "b", "c", "c"]})
    found = teachers.judge_keys(np.array([0.2, 0.1, -0.4, 0.3]), items, 20, 1)
    assert found["value"] == pytest.approx((2 / 3 + 0) / 2) and found["n"] == 4
    assert teachers.judge_keys(np.zeros(4), items, 20, 1)["value"] == 0      # 0 takes no side
    one = pd.DataFrame({"stance": [1, 1, 1, 1, -1], "cluster": list("abcdd")})
    right = teachers.judge_keys(one.stance.to_numpy(float), one, 200, 1)
    assert (right["value"], right["low"], right["high"]) == (1, 1, 1), "a draw of one key alone is no half"


def test_ratings_are_held_against_scores_by_rank():
    rated = pd.DataFrame({"rating": [0, 2, 3, 10, 5], "cluster": list("aabbc")})
    scores = np.array([-0.9, -0.1, 0.3, 0.2, 0.4])
    found = teachers.judge_ratings(scores, rated, 50, 1)
    assert found["value"] == pytest.approx(spearmanr(scores, rated.rating).statistic) and found["n"] == 5


def test_every_choice_of_teachers_is_judged_on_all_kinds(rows, public_sets, tmp_path, monkeypatch):
    settings = SETTINGS | {"teachers": ["none", "valueeval23+valuebench"], "unseen_models": ["s-m1"]}
    found = teachers.compare_teachers(rows, settings, 1, tmp_path)
    assert found.groupby("teachers", sort=False).measure.agg(list).tolist() == \
        [["macro_f1", "official_f1", "presence_auc", "key", "ratings"]] * 2        # the toy has no contrast pairs
    taught = found[found.teachers.str.contains("valueeval23")].set_index("measure").n
    assert (taught.official_f1, taught.key) == (40, 3)
    monkeypatch.setattr(teachers, "fit_evaluator", None)      # finished pieces are not made again
    pd.testing.assert_frame_equal(teachers.compare_teachers(rows, settings, 1, tmp_path), found)
    for other in ({"unseen_models": []}, {"scored_weight": 0.4}):
        with pytest.raises(TypeError, match="not callable"):
            teachers.compare_teachers(rows, settings | other, 1, tmp_path)
    lines = teachers.describe_teachers(found, {"key": 0.7, "order": 0.9, "ratings": None})
    assert lines.count("wanted") == 1 and lines.count("no goal was set") == 1 and "organisers' BERT 0.42" in lines
    assert "lies a little high" in lines and "lies a little high" not in \
        teachers.describe_teachers(found[found.teachers == "FULCRA, pairs"], {"key": 0.7})      # one choice is none
    some = teachers._pick_items().head(2)
    monkeypatch.setattr(teachers, "_pick_items", lambda: some)      # other items are other questions
    with pytest.raises(TypeError, match="not callable"):
        teachers.compare_teachers(rows, settings, 1, tmp_path)
    alone = found[(found.measure == "presence_auc") & (found.teachers == "FULCRA, pairs")].value.item()
    assert f"presence_auc: {alone:.3f}" in teachers.describe_teachers(found, {"presence_auc": 0.75})    # the untaught


def test_without_the_public_sets_fulcra_alone_is_judged(rows, tmp_path, monkeypatch):
    def refuse(name):
        raise SourceError(f"{name}: not in the mirror")
    for module in (readers, teachers):
        monkeypatch.setattr(module, "read_part", refuse)
    readers._read_more.cache_clear()
    settings = SETTINGS | {"teachers": ["valuebench"], "unseen_models": ["s-m1"]}
    with pytest.warns(UserWarning, match="Trained without valuebench"):
        assert teachers.compare_teachers(rows, settings, 1, tmp_path).measure.tolist() == ["macro_f1"]

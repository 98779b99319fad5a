"""The experiments of notebooks 03 and 12: training rows, folds, what is left out, unseen models, pieces and keys."""

import dataclasses
import hashlib
import json

import numpy as np
import pandas as pd
import pytest
from scipy.special import log_softmax, softmax
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, f1_score
from small_trainings import SETTINGS

from fulcra_utils.common import labels
from fulcra_utils.common.digests import digest
from fulcra_utils.evaluator import comparison as evaluation
from fulcra_utils.evaluator import study as experiments
from fulcra_utils.evaluator.encoder import load_encoder
from fulcra_utils.evaluator.model import ValueEvaluator, save_evaluator
from fulcra_utils.runs.profiles import list_profiles, load_profile
from fulcra_utils.theory.targets import uniform_target
from fulcra_utils.theory.theory import load_theory

pytestmark = pytest.mark.usefixtures("one_thread")


def cut(scores, at):
    return np.where(scores > at, 1, np.where(scores < -at, -1, 0))


def score_f1(truth, said):
    """Macro-F1 over all cells, by scikit-learn; classes that stand nowhere do not count."""
    return f1_score(truth.ravel(), said.ravel(), average="macro")


def cross_correlate(a, b):
    """Spearman correlations of each column with each, by SciPy."""
    return np.array([[spearmanr(x, y).statistic for y in b.T] for x in a.T])


def test_training_rows_hold_no_unseen_model_and_no_other_split(rows):
    train = experiments.pick_training_rows(rows, "train", SETTINGS)
    annotated = [r for r, weights in zip(train.responses, train.weights, strict=True) if (weights == 1).all()]
    assert annotated and not set(annotated) & set(rows.table.response[rows.where("annotated", models=["m2"])])
    test_prompts = set(rows.table.prompt[rows.where(split="test")])
    assert not set(train.prompts) & test_prompts
    assert set(train.weights.flat) == {1.0, 0.5}
    assert set(experiments.pick_training_rows(rows, "train", {**SETTINGS, "scored_weight": 0}).weights.flat) == {1.0}


def test_fitting_sets_cuts_and_temperatures_from_validation(rows):
    """So few labels that one temperature and one pair of cuts serve all values: the best of a fine grid."""
    table = pd.concat([rows.table] * 5, ignore_index=True)
    rows = dataclasses.replace(rows, table=table, vectors=np.tile(rows.vectors, (5, 1)))
    evaluator, history = experiments.fit_evaluator(rows, SETTINGS, 1, progress=False)
    assert history.validation_f1.notna().sum() == 2     # of the heads alone, and after one pass
    held_out = rows.examples(rows.where("annotated", "validation", without=["m2"]))
    warmth, truth = evaluator.temperature.numpy().copy(), held_out.vectors.ravel()
    evaluator.temperature[:] = 1
    plain = np.log(evaluator.predict_proba(held_out.prompts, held_out.responses).reshape(-1, 3))
    steps = np.geomspace(0.1, 10, 2001)
    told = log_softmax(plain / steps[:, None, None], axis=-1)[:, np.arange(len(truth)), truth.astype(int) + 1]
    np.testing.assert_allclose(warmth, np.full(rows.theory.n_dims, steps[told.mean(1).argmax()]), rtol=0.01)
    warm = softmax(plain / warmth[0], axis=1)
    scores, grid = warm[:, 2] - warm[:, 0], np.arange(0.1, 0.91, 0.05)
    for side, sign in enumerate((-1, 1)):
        quality = np.array([f1_score(truth == sign, sign * scores > cut, zero_division=0) for cut in grid])
        ties = grid[np.isclose(quality, quality.max())]
        np.testing.assert_allclose(evaluator.cuts[:, side], sign * ties[len(ties) // 2])


def test_folds_divide_no_cluster():
    clusters = np.repeat(np.arange(50), 3)
    is_test = clusters < 10
    fold = experiments.divide_folds(clusters, is_test, 5)
    assert (fold[is_test] == 0).all() and (fold[~is_test] > 0).all() and set(fold) == set(range(5))
    assert pd.Series(fold).groupby(clusters).nunique().max() == 1


def test_cross_validation_predicts_every_row_once_and_resumes(rows, tmp_path, monkeypatch):
    settings = SETTINGS | {"setfit_pairs": 16}
    table, errors = experiments.cross_validate(rows, settings, 1, tmp_path)
    assert errors.value.tolist() == ["all values", *rows.theory.dimensions]
    pieces = [json.loads((tmp_path / f"fold-{k}.json").read_text())["piece"] for k in (0, 1)]
    p = np.concatenate([piece["probabilities"]["ours"] for piece in pieces]).reshape(-1, 3)
    truth = np.concatenate([rows.vectors[piece["rows"]] for piece in pieces]).ravel()
    gaps = [abs((p[mine, c] - (truth[mine] == c - 1)).sum()) for c in range(3) for b in range(10)
            for mine in [np.minimum(np.floor(10 * p[:, c]), 9) == b]]
    assert errors.ece[0] == pytest.approx(sum(gaps) / len(truth) / 3)    # class-wise error over ten bins
    assert set(table.method) == {"ours", "majority", "TF-IDF + logistic", "frozen encoder + logistic", "paper recipe",
                                 "SetFit"}
    assert (table.n == 72 * rows.theory.n_dims).all() and (table.minutes >= 0).all()
    monkeypatch.setattr(experiments, "_run_fold", lambda *_: pytest.fail("a finished fold was run again"))
    pd.testing.assert_frame_equal(experiments.cross_validate(rows, settings, 1, tmp_path)[0], table)


def test_cuts_of_the_folds_decide_labels_and_leave_probabilities_alone(rows, tmp_path, monkeypatch):
    rng, theory = np.random.default_rng(3), rows.theory
    names = ("ours", "majority", "TF-IDF + logistic", "frozen encoder + logistic", "paper recipe")
    pieces = {}

    def say(rows, annotated, fold, k, *_):
        mine = np.flatnonzero(annotated & (fold == k))
        p = rng.dirichlet(np.ones(3), (len(mine), theory.n_dims))
        pieces[k] = mine, p, [[-0.1 - 0.3 * k, 0.2 + 0.2 * k]] * theory.n_dims
        return {"rows": mine.tolist(), "minutes": dict.fromkeys(names, 0.0), "cuts": pieces[k][2],
                "probabilities": dict.fromkeys(names, p.tolist())}

    monkeypatch.setattr(experiments, "_run_fold", say)
    table = experiments.cross_validate(rows, SETTINGS, 1, tmp_path)[0].set_index("method")
    truth = np.concatenate([rows.vectors[mine] for mine, _, _ in pieces.values()])
    p = np.concatenate([p for _, p, _ in pieces.values()])
    said = np.concatenate([np.where(s > c[0][1], 1, np.where(s < c[0][0], -1, 0)) for _, p, c in pieces.values()
                           for s in [p[..., 2] - p[..., 0]]])
    areas = [average_precision_score(truth[:, d] == label, p[:, d, label + 1])
             for d in range(theory.n_dims) for label in (-1, 1)]
    assert table.mse["ours"] == pytest.approx(((p[..., 2] - p[..., 0] - truth) ** 2).mean(), abs=1e-6)
    assert table.pr_auc["ours"] == pytest.approx(np.mean(areas), abs=1e-6)
    assert table.macro_f1["ours"] == pytest.approx(f1_score(truth.ravel(), said.ravel(), average="macro"))
    assert table.mse["ours"] == table.mse["majority"] and table.macro_f1["ours"] != table.macro_f1["majority"]


def test_finished_trainings_are_loaded_and_score_alike(rows, tmp_path, monkeypatch):
    first, history = experiments.keep_evaluator(tmp_path, rows, SETTINGS, 1)
    train = experiments.pick_training_rows(rows, "train", SETTINGS)
    base = experiments.load_run_encoder(SETTINGS, 1)
    recipe, clock = experiments.keep_recipe(tmp_path, train, base, rows, SETTINGS, 1, 0.1)
    few = SETTINGS | {"setfit_pairs": 48}
    setfit, took = experiments.keep_setfit(tmp_path, train, base, rows, few, 1)
    for place, name in ((experiments, "fit_evaluator"), (experiments, "fit_recipe"),
                        (experiments, "_train_setfit")):
        monkeypatch.setattr(place, name, lambda *_, **__: pytest.fail("a finished training was done again"))
    again, told = experiments.keep_evaluator(tmp_path, rows, SETTINGS, 1)
    pd.testing.assert_frame_equal(told, history)
    texts = train.prompts[:3], train.responses[:3]
    np.testing.assert_allclose(again.score(*texts), first.score(*texts), atol=1e-6)
    assert again.config.cuts == first.config.cuts
    other, same = experiments.keep_recipe(tmp_path, train, base, rows, SETTINGS, 1, 0.1)
    np.testing.assert_allclose(other.score(*texts), recipe.score(*texts), atol=1e-6)
    assert same == clock
    other, same = experiments.keep_setfit(tmp_path, train, base, rows, few, 1)
    kept = other.predict_proba(*texts)
    np.testing.assert_array_equal(kept, setfit.predict_proba(*texts))
    assert same == took
    untuned = experiments.baselines.fit_setfit(train, base, SETTINGS["max_length"])
    assert np.abs(kept - untuned.predict_proba(*texts)).max() > 1e-4
    theory = dataclasses.replace(rows.theory, definitions=("changed.", *rows.theory.definitions[1:]))
    for changed, settings in ((rows, {**SETTINGS, "epochs": 2}), (dataclasses.replace(rows, theory=theory), SETTINGS)):
        with pytest.raises(pytest.fail.Exception):
            experiments.keep_evaluator(tmp_path, changed, settings, 1)


def test_a_kill_between_weights_and_mark_trains_again(rows, tmp_path, monkeypatch):
    experiments.keep_evaluator(tmp_path, rows, SETTINGS, 1)
    def save_and_die(*given):
        save_evaluator(*given)
        raise KeyboardInterrupt
    monkeypatch.setattr(experiments, "save_evaluator", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        experiments.keep_evaluator(tmp_path, rows, {**SETTINGS, "epochs": 2}, 1)
    monkeypatch.setattr(experiments, "fit_evaluator", lambda *_: pytest.fail("trained again"))
    with pytest.raises(pytest.fail.Exception):
        experiments.keep_evaluator(tmp_path, rows, SETTINGS, 1)


def test_leaving_out_judges_where_it_was_left_out(rows, tmp_path):
    only = {**SETTINGS, "left_out": ["scores"]}
    found, matrix = experiments.leave_out(rows, only, 1, tmp_path, np.ones(rows.theory.n_dims))
    assert set(found.left_out) == {"scores"} and len(found) == 3 and (found.n == 8).all()
    piece, = [json.loads(path.read_text())["piece"] for path in tmp_path.glob("without-*.json")]
    p, truth = np.array(piece["probabilities"]), rows.vectors[piece["rows"]]
    np.testing.assert_allclose(matrix, cross_correlate(p[..., 2] - p[..., 0], truth))
    for row in found.itertuples():
        mine = (rows.table.model.iloc[piece["rows"]] == row.rows.split(", ")[1]).to_numpy()
        scores, theirs = (p[..., 2] - p[..., 0])[mine], truth[mine]
        assert row.macro_f1 == pytest.approx(score_f1(cut(theirs, 0.3), cut(scores, 0.3)))
        assert row.convergent == pytest.approx(np.diag(cross_correlate(scores, theirs)).mean(), abs=1e-4)
    nothing, empty = experiments.leave_out(rows, {**SETTINGS, "left_out": []}, 1, tmp_path, np.ones(3))
    assert nothing.empty and np.isnan(empty).all()


def test_a_left_out_training_is_kept_and_judged_again_without_it(rows, tmp_path, monkeypatch):
    only = {**SETTINGS, "left_out": ["model", "value", "query_source"]}
    target = np.ones(rows.theory.n_dims)
    found, _ = experiments.leave_out(rows, only, 1, tmp_path, target)
    assert {"same prompts", "new prompts"} == {r.split(", ")[1] for r in found.rows[found.left_out == "model"]}
    pieces = {name: json.loads(path.read_text())["piece"] for path in tmp_path.glob("without-*.json")
              for name in [path.stem.split("-")[2]]}
    for row in found.iloc[[0, -1]].itertuples():
        piece = pieces[hashlib.sha256(f"{row.left_out}/{row.name}".encode()).hexdigest()[:12]]
        kind, which = row.rows.split(", ")
        learnt = rows.table[(rows.table[row.left_out] != row.name) & rows.table.split.isin(["train", "validation"])]
        judged = rows.table.iloc[piece["rows"]]
        mine = ((judged.kind == kind) & (judged.cluster.isin(learnt.cluster) == (which == "same prompts"))).to_numpy()
        assert mine.sum() == row.n
        p, truth = np.array(piece["probabilities"])[mine], rows.vectors[piece["rows"]][mine]
        said = cut(p[..., 2] - p[..., 0], 0.3) if kind == "scored" else np.where(
            p[..., 2] - p[..., 0] > np.array(piece["cuts"])[:, 1], 1, np.where(
                p[..., 2] - p[..., 0] < np.array(piece["cuts"])[:, 0], -1, 0))
        assert row.macro_f1 == pytest.approx(score_f1(cut(truth, 0.3) if kind == "scored" else truth, said))
    assert found.distance_r_low.notna().tolist() == [r.startswith("scored") for r in found.rows]
    monkeypatch.setattr(experiments, "_leave_one_out", lambda *_: pytest.fail("a finished training was run again"))
    again, _ = experiments.leave_out(rows, {**only, "n_draws": 30}, 1, tmp_path, target)
    pd.testing.assert_series_equal(again.macro_f1, found.macro_f1)


def test_unseen_rows_are_judged_by_the_scores(rows, evaluator):
    found = experiments.judge_unseen(evaluator, {}, rows, {**SETTINGS, "unseen_models": ["s-m1"]}, np.ones(3), 1)
    assert found.rows.tolist() == ["new prompts, authors' scores", "same prompts, authors' scores"]
    assert found.n.tolist() == [8, 8]
    assert experiments.judge_unseen(evaluator, {}, rows, {**SETTINGS, "unseen_models": []}, np.ones(3), 1).empty


def test_no_labels_at_all_survives(rows, toy):
    bare = evaluation.Rows(rows.table, np.full_like(rows.vectors, np.nan), toy)
    evaluator, history = experiments.fit_evaluator(bare, SETTINGS, 1, progress=False)
    test = bare.examples(bare.where("annotated", "test"))
    p = evaluator.predict_proba(test.prompts, test.responses)
    table = evaluation.compare_methods(test.vectors, {"ours": p}, np.arange(len(test)), n_draws=5)
    assert len(history) and table.macro_f1.isna().all()      # contrast pairs alone taught it
    assert evaluation.measure_calibration(p, test.vectors, rows.theory.dimensions).ece.isna().all()


def test_nothing_that_teaches_leaves_every_score_at_nought(rows, toy, tmp_path):
    bare = evaluation.Rows(rows.table, np.full_like(rows.vectors, np.nan), toy)
    evaluator, history = experiments.fit_evaluator(bare, SETTINGS | {"contrasts": 0}, 1, progress=False)
    evaluator.save_pretrained(tmp_path / "e")
    again = ValueEvaluator.from_pretrained(tmp_path / "e")
    assert history.empty and np.abs(again.score(["a"], ["b"])).max() < 1e-6


def test_two_models_are_compared_over_shared_prompts(rows, evaluator, tmp_path):
    table, pair = experiments.compare_models(evaluator, rows, uniform_target(rows.theory), tmp_path, SETTINGS, 1)
    assert pair == ("m0", "m1") and (table.n == 8).all() and table.value.iloc[-1] == "distance"


def test_every_profile_has_the_same_knobs():
    books = ("03_value_evaluator", "12_reliability")
    knobs = [set().union(*(load_profile(name)["notebooks"][book] for book in books)) for name in list_profiles()]
    assert all(k == knobs[0] for k in knobs) and set(SETTINGS) <= knobs[0]


def test_a_smaller_share_of_the_prompts_is_part_of_a_larger_one(rows, toy, monkeypatch):
    seen = []
    fit = experiments.fit_tfidf
    monkeypatch.setattr(experiments, "fit_tfidf", lambda train: seen.append(set(train.prompts)) or fit(train))
    settings = SETTINGS | {"unseen_models": ["s-m2"]}
    curve = experiments.learn_from_less(rows, settings, np.ones(toy.n_dims), 1, (0.25, 1.0))
    assert seen[0] < seen[1] and not seen[1] & set(rows.table.prompt[rows.where(split="test")])
    assert curve.groupby(["rows", "measure"]).ngroups == 3 and curve.n_train.is_monotonic_increasing
    f1 = curve[curve.measure == "macro_f1"]
    model = fit(experiments.pick_training_rows(rows, "train", settings))
    for kind, chosen in (("annotated", rows.where("annotated", "test")),
                         ("unseen model", rows.where("scored", "test", models=["s-m2"]))):
        pairs = rows.examples(chosen)
        p = model.predict_proba(pairs.prompts, pairs.responses)
        pair = (pairs.vectors, p.argmax(-1) - 1) if kind == "annotated" else \
            (cut(pairs.vectors, 0.3), cut(p[..., 2] - p[..., 0], 0.3))
        whole = f1[(f1.rows == kind) & (f1.share == 1)]
        assert whole.value.item() == pytest.approx(score_f1(*pair)) and whole.n_test.item() == len(pairs)


EVERYTHING = SETTINGS | {"threads": 1, "level": 0.9, "speed_replies": 8, "explained_replies": 4, "left_out": ["model"],
                         "recipe_whole_epochs": 0, "frozen_layers": -1, "average": 0.9}
OTHER = {
    "encoder": "elsewhere", "max_length": 31, "epochs": 2, "batch_size": 9, "encoder_rate": 2e-3, "head_rate": 2e-3,
    "class_power": 0.4, "head_epochs": 3, "word_buckets": 256, "scored_weight": 0.4, "unseen_models": ["s-m1"],
    "patience": 4, "evaluations_per_epoch": 2, "average": 0.8, "frozen_layers": 0, "recipe_rate": 2e-3,
    "recipe_epochs": 2, "recipe_minutes": 1.0, "folds": 3, "recipe_rows": 6, "workers": 2,
    "n_draws": 30, "threads": 2, "level": 0.8, "speed_replies": 9, "explained_replies": 5, "recipe_whole_epochs": 1,
    "contrasts": 4, "more_labels": ["valuebench"], "recipe_encoder": "elsewhere", "setfit_encoder": "elsewhere",
    "setfit_pairs": 8}
COMMON = {"encoder", "max_length", "batch_size"}
LEARNING = COMMON | {"encoder_rate", "head_rate", "class_power", "head_epochs", "word_buckets", "patience",
                     "evaluations_per_epoch", "average", "frozen_layers", "contrasts", "more_labels"}
SHAPED_BY = {
    "evaluator": LEARNING | {"epochs", "scored_weight", "unseen_models"},
    "recipe": COMMON | {"recipe_rate", "recipe_epochs", "recipe_minutes"},
    "setfit": {"encoder", "max_length", "setfit_pairs"},
    "fold": LEARNING | {"epochs", "scored_weight", "unseen_models", "recipe_rate", "recipe_epochs", "recipe_minutes",
                        "recipe_encoder", "setfit_encoder", "setfit_pairs", "folds"},
    "left out": LEARNING | {"epochs"},    # the first one is judged by labels and learns from labels alone
}


class Kept(Exception):
    """The key of a piece, caught before anything is trained."""


@pytest.fixture
def keys(rows, monkeypatch, tmp_path):
    """Return a function that gives the key of each kind of piece for settings and rows."""
    encoders = {"tiny": load_encoder("tiny"), "elsewhere": load_encoder("tiny", seed=5)}

    def catch(folder, name, key, make, beside=None):
        raise Kept(experiments.digest(key))

    monkeypatch.setattr(experiments, "keep_piece", catch)
    monkeypatch.setattr(experiments, "load_run_encoder",
                        lambda settings, seed, name="": encoders[name or settings["encoder"]])
    list_left_out = experiments._list_left_out
    monkeypatch.setattr(experiments, "_list_left_out", lambda *told: list_left_out(*told)[:1])   # one is caught
    monkeypatch.setattr(experiments, "run_jobs", lambda function, jobs, *_: [function(*job) for job in jobs])

    def give(kind, settings, rows=rows, seed=1, minutes=0.5, train=None):
        train = train or experiments.pick_training_rows(rows, "train", EVERYTHING)
        target = uniform_target(rows.theory)
        encoder = encoders[settings["encoder"]]
        calls = {"evaluator": lambda: experiments.keep_evaluator(tmp_path, rows, settings, seed),
                 "recipe": lambda: experiments.keep_recipe(tmp_path, train, encoder, rows, settings, seed, minutes),
                 "setfit": lambda: experiments.keep_setfit(tmp_path, train, encoder, rows, settings, seed),
                 "fold": lambda: experiments.cross_validate(rows, settings, seed, tmp_path),
                 "left out": lambda: experiments.leave_out(rows, settings, seed, tmp_path, target)}
        with pytest.raises(Kept) as caught:
            calls[kind]()
        return str(caught.value)
    return give


@pytest.mark.parametrize("kind", SHAPED_BY)
def test_a_key_names_the_settings_that_shape_its_piece_and_no_more(keys, kind):
    assert set(OTHER) | {"encoder_revision", "left_out"} == set(EVERYTHING)
    key = keys(kind, EVERYTHING)
    assert keys(kind, dict(reversed(EVERYTHING.items()))) == key
    moved = {name for name, value in OTHER.items() if keys(kind, EVERYTHING | {name: value}) != key}
    assert moved == SHAPED_BY[kind]
    assert keys(kind, EVERYTHING, seed=2) != key


@pytest.mark.parametrize("kind", SHAPED_BY)
def test_a_key_names_the_rows_and_words_that_shape_its_piece_and_no_more(keys, rows, kind):
    key = keys(kind, EVERYTHING)

    def change(what, value, chosen):
        table, vectors = rows.table.copy(), rows.vectors.copy()
        if what == "vectors":
            vectors[chosen] = value
        else:
            table.loc[chosen, what] = value
        return keys(kind, EVERYTHING, evaluation.Rows(table, vectors, rows.theory)) != key

    learnt = rows.where("annotated", "train") & (rows.table.model == "m0").to_numpy()
    tested = rows.where("annotated", "test") & (rows.table.model == "m0").to_numpy()
    for what, value in (("vectors", 0.5), ("response", "another reply")):
        chosen = np.flatnonzero(learnt)[:1]
        rows_changed = evaluation.Rows(rows.table.assign(**({} if what == "vectors" else {what: np.where(
            np.arange(len(rows.table)) == chosen, value, rows.table[what])})), rows.vectors.copy(), rows.theory)
        if what == "vectors":
            rows_changed.vectors[chosen] = value
        train = experiments.pick_training_rows(rows_changed, "train", EVERYTHING)
        assert keys(kind, EVERYTHING, rows_changed, train=train) != key
        assert change(what, value, tested) == (kind in ("fold", "left out")), "test rows shape no training"
    words = {"definitions": ("changed.", *rows.theory.definitions[1:]), "labels": {**rows.theory.labels, 1: "for it"}}
    for name, value in words.items():
        theory = dataclasses.replace(rows.theory, **{name: value})
        moved = keys(kind, EVERYTHING, dataclasses.replace(rows, theory=theory)) != key
        assert moved == (kind in ("recipe", "fold") or name == "definitions" and kind != "setfit")
    if kind == "recipe":
        measured = EVERYTHING | {"recipe_minutes": 0}
        assert keys(kind, measured, minutes=1.0) != keys(kind, measured, minutes=2.0)
        assert keys(kind, EVERYTHING, minutes=9.0) == key, "without this limit the minutes of ours shape nothing"


def test_a_prompt_source_left_out_is_part_of_the_key(keys, rows):
    other = rows.table.assign(query_source=np.roll(rows.table.query_source, 1))
    changed = dataclasses.replace(rows, table=other)
    for what, moves in (("query_source", True), ("scores", False), ("model", False)):
        settings = EVERYTHING | {"left_out": [what]}
        assert (keys("left out", settings) != keys("left out", settings, changed)) == moves


def test_a_fold_knows_every_encoder_by_its_weights(keys, monkeypatch):
    for setting in ("recipe_encoder", "setfit_encoder"):
        found = set()
        for seed in (1, 2):
            monkeypatch.setattr(experiments, "load_run_encoder", lambda settings, _, name="", seed=seed: load_encoder(
                "tiny", seed=seed * (name == "other")))
            found.add(keys("fold", EVERYTHING | {setting: "other"}))
        assert len(found) == 2, setting


def test_other_code_makes_another_key(keys, monkeypatch):
    found = {kind: keys(kind, EVERYTHING) for kind in SHAPED_BY}
    monkeypatch.setattr(experiments, "digest_code", lambda function: "other")
    assert all(keys(kind, EVERYTHING) != key for kind, key in found.items())


@pytest.mark.parametrize("name", ["scores_to_labels", "labels_of"])
def test_another_rule_for_labels_makes_another_key(monkeypatch, name):
    before = digest(experiments.fit_evaluator)
    monkeypatch.setattr(getattr(labels, name), "__code__", (lambda scores, *more: scores).__code__)
    assert digest(experiments.fit_evaluator) != before
    monkeypatch.undo()
    assert digest(experiments.fit_evaluator) == before


def test_a_kept_evaluator_carries_the_theory_as_it_is_worded_now(rows, tmp_path):
    experiments.keep_evaluator(tmp_path, rows, SETTINGS, 1)
    text = rows.theory.path.read_text(encoding="utf-8")
    path = tmp_path / "renamed.yaml"
    path.write_text(text.replace(f"name: {rows.theory.name}", "name: renamed"), encoding="utf-8")
    again, _ = experiments.keep_evaluator(tmp_path, dataclasses.replace(rows, theory=load_theory(path)), SETTINGS, 1)
    folder = save_evaluator(again, tmp_path / "e")
    assert load_theory(folder / "theory.yaml").name == again.config.theory_name == "renamed"


@pytest.mark.parametrize("other", [{"a": np.r_[np.zeros(5000), 1.0, np.zeros(5000)]}, {"a": np.zeros(10002)}, {"b": 1},
                                   {"a": [0.0] * 10001}])
def test_pieces_of_long_keys_are_told_apart(tmp_path, other):
    experiments.keep_piece(tmp_path, "x", {"a": np.zeros(10001)}, lambda: {"n": 1})
    assert experiments.keep_piece(tmp_path, "x", {"a": np.zeros(10001)}, lambda: {"n": 2}) == {"n": 1}
    assert experiments.keep_piece(tmp_path, "x", other, lambda: {"n": 3}) == {"n": 3}

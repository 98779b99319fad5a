"""Training: soft labels, weights, what a training changes, and where its labels are used."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score
from small_trainings import make_examples

from fulcra_utils.common.labels import NEAREST, TOUCHED, labels_of, scores_to_labels
from fulcra_utils.evaluator import training
from fulcra_utils.evaluator.baselines import fit_paper_recipe, subsample
from fulcra_utils.evaluator.encoder import load_encoder
from fulcra_utils.evaluator.model import (
    EvaluatorError,
    ValueEvaluator,
    join_odds,
    make_evaluator,
    measure_loss,
    save_evaluator,
)
from fulcra_utils.evaluator.rendering import pad_pairs
from fulcra_utils.evaluator.training import (
    Examples,
    TrainingSettings,
    WeightAverage,
    _validation_f1,
    join_examples,
    soften,
    train_evaluator,
    weigh_classes,
)
from fulcra_utils.stats.classification import average_precision, bootstrap_macro_f1, macro_f1
from fulcra_utils.stats.clusters import match_profile
from fulcra_utils.stats.resampling import summarise_draws
from fulcra_utils.systems.compass.boards import least_without, make_board
from fulcra_utils.theory.distance import value_distance
from fulcra_utils.theory.theory import load_theory

HEADS = TrainingSettings(head_epochs=2)
FAST = TrainingSettings(epochs=6, batch_size=8, encoder_rate=2e-3, patience=9, bf16=False)


pytestmark = pytest.mark.usefixtures("one_thread")


def test_training_learns_and_a_saved_evaluator_scores_the_same(tiny, toy, tmp_path):
    examples = make_examples(toy)
    evaluator = make_evaluator(tiny, toy, 32)
    history = train_evaluator(evaluator, examples, examples, FAST, progress=False)
    scores = evaluator.score(examples.prompts, examples.responses)
    assert np.mean(np.sign(np.round(scores[:, 0])) == examples.vectors[:, 0]) > 0.9
    assert history.validation_f1.max() > 0.6 and history.epoch.iloc[0] == 0
    again = ValueEvaluator.from_pretrained(save_evaluator(evaluator, tmp_path / "e"))
    np.testing.assert_allclose(again.score(examples.prompts, examples.responses), scores, atol=1e-6)


def test_bf16_training_leaves_a_plain_model(tiny, toy, tmp_path):
    examples = make_examples(toy, 16)
    evaluator = make_evaluator(tiny, toy, 32)
    short = TrainingSettings(epochs=1, batch_size=8, bf16=True)
    train_evaluator(evaluator, examples, examples, short, progress=False)
    again = ValueEvaluator.from_pretrained(save_evaluator(evaluator, tmp_path / "e"))
    np.testing.assert_allclose(again.score(examples.prompts, examples.responses),
                               evaluator.score(examples.prompts, examples.responses), atol=1e-6)


def test_same_seed_same_scores(tiny, toy):
    examples = make_examples(toy, 16)
    scores = []
    for _ in range(2):
        evaluator = make_evaluator(tiny, toy, 32)
        train_evaluator(evaluator, examples, examples, TrainingSettings(epochs=1, batch_size=8), progress=False)
        scores.append(evaluator.score(examples.prompts, examples.responses))
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-6)


@pytest.mark.parametrize("validates", [True, False])
def test_the_average_of_the_weights_is_lent_and_given_back(validates):
    model, average = torch.nn.Linear(1, 1, bias=False), WeightAverage(0.5)
    args = SimpleNamespace(load_best_model_at_end=validates)
    for step, value in enumerate((1.0, 3.0, 7.0), start=1):
        average.on_step_begin(args, None, None, model=model)
        model.weight.data.fill_(value)
        control = SimpleNamespace(should_evaluate=step == 2 and validates, should_training_stop=False)
        average.on_step_end(args, None, control, model=model)
        assert model.weight.item() == (2.0 if control.should_evaluate else value)   # (1 + 3) / 2
    average.on_train_end(args, None, None, model=model)
    assert model.weight.item() == (7.0 if validates else 4.5)                       # 0.5 * 2 + 0.5 * 7


@pytest.mark.parametrize("which", ["tiny", "causal"])
@pytest.mark.parametrize("frozen", [-1, 0, 1])
def test_frozen_layers_stay(tiny, causal, toy, which, frozen):
    evaluator = make_evaluator(tiny if which == "tiny" else causal, toy, 32)
    before = {name: p.clone() for name, p in evaluator.encoder.named_parameters()}
    training.freeze_encoder(evaluator.encoder, frozen)
    labels = torch.ones(1, toy.n_dims, 3)
    evaluator(**pad_pairs(evaluator.render(["a"], ["b"]), evaluator.tokenizer), labels=labels)["loss"].backward()
    with torch.no_grad():
        for p in evaluator.parameters():
            p -= 0 if p.grad is None else p.grad
    moved = {name for name, p in evaluator.encoder.named_parameters() if not torch.equal(p, before[name])}
    lowest = "layers.0" if which == "causal" else "layer.0"
    assert any("embed" in name for name in moved) == (frozen == -1)
    assert any(lowest in name for name in moved) == (frozen < 1) and moved


def test_what_all_layers_share_is_frozen_with_the_lowest_ones():
    from transformers import MPNetConfig, MPNetModel
    config = MPNetConfig(vocab_size=30, hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=8)
    encoder = MPNetModel(config, add_pooling_layer=False)
    training.freeze_encoder(encoder, 2)
    learning = {name for name, p in encoder.named_parameters() if p.requires_grad}
    assert learning and all("layer.2." in name for name in learning), "a shared bias would lead through every layer"
    rates = {("layer.2." in name, m.p) for name, m in encoder.named_modules() if isinstance(m, torch.nn.Dropout)}
    assert rates == {(True, 0.1), (False, 0.0)}
    with pytest.raises(EvaluatorError, match="frozen_layers is 3, but the encoder has 3 layers: none is left to learn"):
        training.freeze_encoder(encoder, 3)


def test_the_heads_alone_learn_and_leave_the_encoder(tiny, toy):
    examples, found = make_examples(toy), []
    for _ in range(2):
        evaluator = make_evaluator(tiny, toy, 32)
        before = {name: p.clone() for name, p in evaluator.encoder.named_parameters()}
        settings = replace(FAST, epochs=0, head_epochs=40)
        history = train_evaluator(evaluator, examples, examples, settings, progress=False)
        assert len(history) == 1 and history.validation_f1.item() > 0.6
        assert all(torch.equal(p, before[name]) for name, p in evaluator.encoder.named_parameters())
        found.append(evaluator.score(examples.prompts, examples.responses))
    np.testing.assert_array_equal(*found)
    assert np.mean(np.sign(np.round(found[0][:, 0])) == examples.vectors[:, 0]) > 0.9


def test_a_pass_that_only_harms_is_thrown_away(tiny, toy):
    examples = make_examples(toy)
    plain, harmed = (make_evaluator(tiny, toy, 32) for _ in range(2))
    train_evaluator(plain, examples, examples, replace(FAST, epochs=0), progress=False)
    history = train_evaluator(harmed, examples, examples, replace(FAST, epochs=1, encoder_rate=1.0), progress=False)
    assert history.validation_f1.iloc[0] > history.validation_f1.iloc[-1]
    np.testing.assert_array_equal(plain.score(["a"], ["always"]), harmed.score(["a"], ["always"]))


def test_every_epoch_is_validated_as_the_encoder_as_it_came_is(tiny, toy):
    examples, evaluator = make_examples(toy, 8), make_evaluator(tiny, toy, 32)
    evaluator.config.taught[0] = ["another name", "What a public set calls it."]    # as of a value of another theory
    rows = training._join(evaluator.render(examples.prompts, examples.responses), soften(examples.vectors), None)
    told = evaluator(**training._collate(rows, evaluator))
    torch.testing.assert_close(told["logits"], join_odds(evaluator.answer(evaluator.read_all(rows))))


def test_no_labels_trains_nothing(tiny, toy):
    evaluator = make_evaluator(tiny, toy, 32)
    empty = Examples(["a"], ["b"], np.full((1, toy.n_dims), np.nan))
    before = evaluator.score(["a"], ["b"])
    assert train_evaluator(evaluator, empty, empty, FAST, progress=False).empty
    np.testing.assert_array_equal(evaluator.score(["a"], ["b"]), before)


def test_training_without_validation_rows(tiny, toy):
    examples = make_examples(toy, 16)
    none = subsample(examples, np.zeros(16, dtype=bool))
    history = train_evaluator(make_evaluator(tiny, toy, 32), examples, none,
                              TrainingSettings(epochs=1, batch_size=8), progress=False)
    assert history.validation_f1.isna().all() and len(history)


def test_soft_labels_keep_the_score():
    scores = np.random.default_rng(0).uniform(-1, 1, size=(50, 4))
    soft = soften(scores)
    np.testing.assert_allclose(soft.sum(-1), 1)
    np.testing.assert_allclose(soft[..., 2] - soft[..., 0], scores)


def test_weights_lift_what_is_rare_within_limits():
    soft = soften(np.array([[1.0]] * 1 + [[0.0]] * 99))
    weights = weigh_classes(soft, power=0.5, limit=3.0)[0]
    assert weights[2] == 3 and weights[1] < 1
    np.testing.assert_allclose(weigh_classes(soft, power=0), 1)
    np.testing.assert_allclose(weigh_classes(np.zeros((2, 1, 3))), 1)


def test_macro_f1_is_scikit_learns():
    rng = np.random.default_rng(2)
    labels, said = rng.integers(-1, 2, size=(2, 60, 3)).astype(float)
    assert macro_f1(labels, said) == pytest.approx(f1_score(labels.ravel(), said.ravel(), average="macro"))
    p = rng.dirichlet(np.ones(3), size=(60, 3))
    assert average_precision(labels, p)[2, 0] == pytest.approx(average_precision_score(labels[:, 2] == -1, p[:, 2, 0]))


def test_unlabelled_cells_never_count():
    labels = np.array([[1.0, np.nan], [0.0, np.nan]])
    assert macro_f1(labels, np.array([[1, 1], [0, -1]])) == macro_f1(labels, np.array([[1, 0], [0, 0]])) == 1.0
    assert np.isnan(macro_f1(np.full((2, 2), np.nan), np.zeros((2, 2))))


def test_bootstrap_draws_whole_clusters():
    labels = np.array([[1.0], [1.0], [0.0], [0.0]])
    wrong_in_one = np.array([[1.0], [1.0], [1.0], [1.0]])
    draws = bootstrap_macro_f1(labels, {"a": wrong_in_one}, groups=[0, 0, 1, 1], n_draws=200)["a"]
    assert set(np.round(draws[np.isfinite(draws)], 4)) == {round((0 + 2 / 3) / 2, 4)}  # other draws lack a class


def test_bootstrap_keeps_the_classes_of_all_rows():
    labels = np.array([[0.0]] * 9 + [[1.0]] * 10 + [[-1.0]])
    missed, perfect = np.where(labels == -1, 0, labels), labels
    draws = bootstrap_macro_f1(labels, {"missed": missed, "perfect": perfect}, range(20), n_draws=500)
    kept = np.isfinite(draws["missed"])
    assert 0.5 < kept.mean() < 0.75 and (kept == np.isfinite(draws["perfect"])).all()
    assert draws["missed"][kept].max() <= 2 / 3 and (draws["perfect"][kept] == 1).all()
    assert summarise_draws(macro_f1(labels, missed), draws["missed"])["high"] < 2 / 3
    never = np.where(np.arange(20)[:, None] < 2, -1, perfect)  # a class that is said and never true is 0 in every draw
    said = bootstrap_macro_f1(labels[:19], {"a": never[:19]}, range(19), n_draws=200)["a"]
    assert np.isfinite(said).all() and said.max() <= 2 / 3 and macro_f1(labels[:19], never[:19]) <= 2 / 3


@pytest.mark.parametrize("seed", range(5))
def test_bootstrap_of_rare_classes_is_not_biased_upward(seed):
    rng = np.random.default_rng(seed)
    labels = rng.choice([-1.0, 0, 1], p=[0.03, 0.6, 0.37], size=(60, 2))
    labels[:2, 0] = -1
    said = np.where(rng.random(labels.shape) < 0.3, 0, labels)
    draws = bootstrap_macro_f1(labels, {"a": said}, np.arange(60) // 2, n_draws=400, seed=seed)["a"]
    assert np.nanmean(draws) < macro_f1(labels, said) + 0.03


def test_evaluator_stops_when_its_minutes_are_over(tiny, toy):
    settings = TrainingSettings(epochs=50, batch_size=8, max_minutes=1e-4)
    examples = make_examples(toy)
    history = train_evaluator(make_evaluator(tiny, toy, 32), examples, examples, settings, progress=False)
    assert history.step.max() == 1 and np.isfinite(history.validation_f1.max())


def test_definitions_are_read_as_the_encoder_is_after_it_has_learned(tiny, toy):
    evaluator = make_evaluator(tiny, toy, 32)
    before = evaluator.meanings.clone()
    examples = make_examples(toy, 16)
    none = subsample(examples, np.zeros(16, dtype=bool))
    train_evaluator(evaluator, examples, none, replace(FAST, epochs=1), progress=False)
    now = evaluator.place(evaluator.read_definitions(evaluator.config.taught))
    torch.testing.assert_close(evaluator.meanings, now)
    assert (evaluator.meanings - before).abs().max() > 1e-3


def test_a_value_that_is_only_said_to_be_touched_borrows_its_stance(tiny, toy):
    examples = make_examples(toy)
    touched = replace(examples, vectors=np.where(np.abs(examples.vectors) > 0, TOUCHED, examples.vectors))
    evaluator = make_evaluator(tiny, toy, 32)
    train_evaluator(evaluator, touched, subsample(examples, np.zeros(48, dtype=bool)), HEADS, progress=False)
    presence, stance = np.array(evaluator.config.knows).T
    assert presence[0] and not stance.any() and not presence[1:].any()
    columns = touched.vectors[:, 0], examples.vectors[:, 0], examples.vectors[:, 2]
    both = replace(examples, vectors=np.stack(columns, axis=1))
    train_evaluator(evaluator, both, subsample(examples, np.zeros(48, dtype=bool)), HEADS, progress=False)
    assert evaluator.config.knows == [[True, False], [True, True], [False, False]]
    assert evaluator.mixture[1, :, [0, 2]].abs().max() == 0 and (evaluator.mixture[1, :, 1] != 0).all()


def test_where_nobody_asked_which_way_stance_costs_nothing():
    told, labels = torch.tensor([[[0.3, 5.0]]]), torch.tensor([[[0.5, 0.0, 0.5]]])
    assert measure_loss(told, labels) == measure_loss(told * torch.tensor([1, -1]), labels)
    assert measure_loss(told, labels * torch.tensor([1, 1, 0])) > measure_loss(told, labels * torch.tensor([0, 1, 1]))


def test_weights_of_classes_give_a_touched_cell_no_direction(toy, monkeypatch):
    class Stop(Exception):
        pass

    def take(evaluator, features, labels, *rest):
        raise Stop(labels)

    monkeypatch.setattr(training, "fit_heads", take)
    vectors = np.zeros((12, toy.n_dims))
    vectors[:2], vectors[2:8], vectors[8:] = -1, 1, TOUCHED
    rows = replace(make_examples(toy, 12), vectors=vectors, weights=None)
    with pytest.raises(Stop) as stopped:
        train_evaluator(make_evaluator(load_encoder("tiny"), toy), rows, make_examples(toy, 4), TrainingSettings())
    labels = stopped.value.args[0]
    assert (labels[8:, :, 0] == labels[8:, :, 2]).all() and (labels[8:, :, 0] > 0).all()
    assert (labels[:2, :, 0] != labels[2:4, :, 2]).all(), "classes weigh differently"


def test_a_row_that_leaves_its_partner_behind_has_none(toy):
    pairs = replace(make_examples(toy, 6), partner=np.array([3, 4, -1, -1, -1, -1]))
    assert subsample(pairs, np.array([1, 3, 4, 0])).partner.tolist() == [2, -1, -1, 1]
    assert subsample(pairs, np.array([0, 1, 4])).partner.tolist() == [-1, 2, -1]


def test_joined_examples_keep_their_weights(toy):
    both = join_examples(make_examples(toy, 4), subsample(make_examples(toy, 4), np.array([0, 1])))
    assert len(both) == 6 and both.weights.shape == (6, 3) and (both.weights == 1).all()
    assert np.isnan(scores_to_labels(both.vectors)[0, -1])


def make_deberta(folder):
    """A tiny DeBERTa with random weights, made from its config class, as a folder like one from the hub."""
    from transformers import DebertaV2Config, DebertaV2Model
    tokenizer = load_encoder("tiny").tokenizer
    torch.manual_seed(0)
    DebertaV2Model(DebertaV2Config(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=64, relative_attention=True, position_buckets=16, pos_att_type=["p2c", "c2p"],
        norm_rel_ebd="layer_norm", share_att_key=True, type_vocab_size=0,
        position_biased_input=False)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_the_paper_profiles_kind_of_encoder_trains_saves_and_loads(toy, tmp_path):
    encoder = load_encoder(make_deberta(tmp_path / "deberta"))
    examples = make_examples(toy, 16)
    evaluator = make_evaluator(encoder, toy, 48)
    short = TrainingSettings(epochs=1, batch_size=8, bf16=False)
    assert train_evaluator(evaluator, examples, examples, short, progress=False).validation_loss.notna().any()
    again = ValueEvaluator.from_pretrained(save_evaluator(evaluator, tmp_path / "e"))
    np.testing.assert_allclose(again.score(examples.prompts, examples.responses),
                               evaluator.score(examples.prompts, examples.responses), atol=1e-5)
    recipe, _ = fit_paper_recipe(examples, encoder, toy, short, 48, progress=False)
    assert np.abs(recipe.score(examples.prompts, examples.responses)).max() <= 1


TWO_PROCESSES = """
import sys, json
import numpy as np, torch
from accelerate import PartialState
from fulcra_utils.evaluator.encoder import load_encoder
from fulcra_utils.evaluator.model import make_evaluator, save_evaluator
from fulcra_utils.theory.theory import load_theory
from fulcra_utils.evaluator.training import Examples, TrainingSettings, train_evaluator
torch.set_num_threads(1)
theory = load_theory("moral_foundations")
signs = np.random.default_rng(1).integers(-1, 2, size=64)
words = {-1: "never again", 0: "perhaps then", 1: "always please"}
vectors = np.zeros((64, theory.n_dims)); vectors[:, 0] = signs
examples = Examples([f"question {k}" for k in range(64)], [words[s] for s in signs], vectors)
evaluator = make_evaluator(load_encoder("tiny"), theory, 32)
settings = TrainingSettings(epochs=6, batch_size=8, encoder_rate=2e-3, patience=9, bf16=False)
history = train_evaluator(evaluator, examples, examples, settings, progress=False)
state = PartialState()
right = float(np.mean(np.sign(np.round(evaluator.score(examples.prompts, examples.responses)[:, 0])) == signs))
total = float(sum(p.detach().double().abs().sum() for p in evaluator.parameters()))
with open(f"{sys.argv[1]}/{state.process_index}.json", "w") as out:
    json.dump({"n": state.num_processes, "steps": int(history.step.max()), "right": right, "total": total}, out)
"""


@pytest.mark.slow
def test_two_processes_train_one_evaluator(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES, encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    subprocess.run([sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_addr",
                    "127.0.0.1", "--master_port", str(port), str(script), str(tmp_path)], check=True, timeout=200,
                   env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"})
    found = [json.loads((tmp_path / f"{k}.json").read_text()) for k in range(2)]
    assert [f["n"] for f in found] == [2, 2]
    assert found[0]["steps"] == 6 * 64 // (2 * 8)
    assert found[0]["total"] == pytest.approx(found[1]["total"], rel=1e-9)
    assert found[0]["right"] > 0.9


def test_reward_and_scorer_are_one_line_each(tiny):
    from fulcra_utils.theory.distance import value_distance
    theory = load_theory("schwartz10")
    evaluator, target = make_evaluator(tiny, theory, 32), np.eye(theory.n_dims)[0]
    reward = lambda prompts, completions, **_: (  # noqa: E731
        -value_distance(evaluator.score(prompts, completions), target)).tolist()
    rewards = reward(prompts=["a", "b"], completions=["yes", "no"], completion_ids=[[1], [2]], trainer_state=None)
    assert len(rewards) == 2 and all(isinstance(r, float) for r in rewards)
    pairs = [("a", "yes"), ("b", "no")]
    assert 0 <= f1_score(np.ones(2 * theory.n_dims), evaluator.predict(pairs).ravel(), average="macro",
                         zero_division=0) <= 1


EDGES = [-1.0, -0.500001, -0.5, -0.300001, -0.3, -0.1, 0.0, 0.1, 0.3, 0.300001, 0.5, 0.500001, 1.0, np.nan]


def early_stopping(scores):
    """Return the labels that early stopping sees: those with which it finds a perfect prediction."""
    labels = scores_to_labels(scores)
    kind = type("Prediction", (), {"predictions": np.eye(3)[np.nan_to_num(labels).astype(int) + 1],
                                   "label_ids": soften(scores).astype(np.float32)})
    assert _validation_f1(kind)["f1"] == 1.0
    return labels


USERS = {  # cut, and how each user of the rule gives labels for scores (N, 1)
    "given scores": (0.3, scores_to_labels),
    "given scores, 32 bits": (0.3, lambda s: scores_to_labels(s.astype(np.float32))),
    "early stopping": (0.3, early_stopping),
    "nearest": (0.5, lambda s: scores_to_labels(s, NEAREST)),
    "cuts of each value": (0.5, lambda s: scores_to_labels(s, np.array([[-0.5, 0.5]]))),
    "cuts of each value, 32 bits": (0.3, lambda s: scores_to_labels(s.astype(np.float32), np.array([[-0.3, 0.3]]))),
    "cuts of each cell": (0.5, lambda s: scores_to_labels(s, np.full((*s.shape, 2), [-0.5, 0.5]))),
    "softened": (0.5, lambda s: np.where(np.isnan(s), np.nan, labels_of(soften(s)))),
    "profiles": (0.5, lambda s: np.where(np.isnan(s), np.nan, match_profile(s, [1])[:, None] * 1.0
                                         - match_profile(s, [-1])[:, None])),
}


@pytest.mark.parametrize("user", USERS)
def test_every_label_comes_from_one_rule_at_the_cut(user):
    cut, label = USERS[user]
    scores = np.array(EDGES)[:, None]
    wanted = [np.nan if np.isnan(s) else 0.0 if abs(s) <= cut else np.sign(s) for s in EDGES]
    np.testing.assert_array_equal(np.asarray(label(scores), dtype=float).ravel(), wanted)


def test_a_reward_leaves_out_what_is_labelled_zero(toy):
    scores = np.array(EDGES[:-1])[:, None] * np.ones(toy.n_dims)
    moved = value_distance(scores, np.zeros(toy.n_dims), np.ones(toy.n_dims), absence="mask")
    assert ((moved > 0) == (scores_to_labels(scores)[:, 0] != 0)).all()


def test_boards_count_a_score_on_the_cut_as_not_opposed():
    theory = load_theory("moral_foundations")
    table = pd.DataFrame({"model": "a", "prompt": list("wxyz"), "response": "r"}).assign(
        **dict.fromkeys(theory.dimensions, 0.0) | {"care": [-0.5, -0.501, 0.4, np.nan]})
    assert least_without(make_board("b", theory, table, "hand", n_draws=5), "care")[0] == pytest.approx(2 / 3)


def test_what_is_not_said_is_not_counted():
    labels, said = np.array([[1.0], [0.0], [-1.0]]), np.array([[1.0], [np.nan], [-1.0]])
    assert macro_f1(labels, said) == 1.0


@pytest.mark.parametrize(("world", "batch", "per_epoch", "steps"), [
    (1, 8, 1, 12), (4, 8, 1, 3), (4, 8, 3, 1), (4, 8, 9, 1), (2, 8, 2, 3), (64, 8, 1, 1)])
def test_validation_comes_as_often_on_many_processes(monkeypatch, world, batch, per_epoch, steps):
    monkeypatch.setattr(training.TrainingArguments, "world_size", property(lambda self: world))
    settings = TrainingSettings(batch_size=batch, evaluations_per_epoch=per_epoch)
    arguments = training._arguments(settings, 96, validate=True)
    assert arguments.eval_steps == arguments.save_steps == steps and arguments.logging_steps == max(1, steps // 2)
    assert training._arguments(settings, 96, validate=False).eval_strategy == "no"


@pytest.mark.parametrize("which", ["tiny", "causal"])
def test_pairs_are_learned_though_their_second_replies_are_no_rows_of_their_own(toy, causal, which, one_thread):
    n = 24
    served, trampled = ["always keep it"] * n, ["never keep it"] * n
    vectors = np.full((2 * n, toy.n_dims), np.nan)
    vectors[:n, 1], vectors[n:, 1] = 1, -1
    pairs = Examples([f"question {k % n}" for k in range(2 * n)], served + trampled, vectors,
                     partner=np.r_[np.arange(n, 2 * n), np.full(n, -1)])
    examples = join_examples(make_examples(toy, 12), pairs)
    assert examples.partner.tolist() == [-1] * 12 + list(range(12 + n, 12 + 2 * n)) + [-1] * n
    evaluator = make_evaluator(load_encoder("tiny") if which == "tiny" else causal, toy, 32)
    train_evaluator(evaluator, examples, Examples([], [], np.empty((0, toy.n_dims))), FAST, progress=False)
    high, low = evaluator.score(["question 99"] * 2, ["always keep it", "never keep it"])[:, 1]
    assert high > 0.5 and low < -0.5

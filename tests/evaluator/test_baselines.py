"""The baselines: probabilities of each, words that are learnt, SetFit, the paper's recipe, its speed beside ours."""

from dataclasses import replace

import numpy as np
import pytest
from small_trainings import make_examples
from transformers.utils import logging

from fulcra_utils.common.labels import labels_of
from fulcra_utils.evaluator.baselines import (
    PaperRecipe,
    fit_frozen,
    fit_majority,
    fit_paper_recipe,
    fit_setfit,
    fit_tfidf,
    list_kinds,
    measure_speed,
    take_rows,
    tune_setfit,
)
from fulcra_utils.evaluator.encoder import embed, load_encoder
from fulcra_utils.evaluator.model import save_evaluator
from fulcra_utils.evaluator.training import TrainingSettings

pytestmark = pytest.mark.usefixtures("one_thread")


def test_rows_that_are_taken_keep_their_clusters_and_order(toy):
    examples = make_examples(toy)
    some, clusters = take_rows(examples, np.arange(48) * 10, 12, seed=3)
    places = [examples.prompts.index(prompt) for prompt in some.prompts]
    assert len(some) == 12 and places == sorted(set(places)) and clusters.tolist() == [10 * k for k in places]
    np.testing.assert_array_equal(some.vectors, examples.vectors[places])
    assert places != list(range(12)) and len(take_rows(examples, np.arange(48), 99)[0]) == 48


@pytest.mark.parametrize("fit", [lambda x, _: fit_majority(x), lambda x, _: fit_tfidf(x),
                                 lambda x, theory: fit_frozen(x, load_encoder("tiny"), theory),
                                 lambda x, _: fit_setfit(x, load_encoder("tiny"), 32)])
def test_baselines_give_probabilities(toy, fit):
    examples = make_examples(toy)
    model = fit(examples, toy)
    p = model.predict_proba(examples.prompts, examples.responses)
    assert p.shape == (48, toy.n_dims, 3)
    np.testing.assert_allclose(p.sum(-1), 1, atol=1e-6)
    assert (labels_of(p)[:, -1] == 0).all()
    assert model.predict_proba([], []).shape == (0, toy.n_dims, 3)


def test_tfidf_learns_the_words(toy):
    examples = make_examples(toy)
    p = fit_tfidf(examples).predict_proba(examples.prompts, examples.responses)
    np.testing.assert_array_equal(labels_of(p)[:, 0], examples.vectors[:, 0])


def test_setfit_draws_replies_of_one_kind_together_and_the_others_apart(tiny, toy, capfd):
    examples = make_examples(toy)
    before = {name: weights.clone() for name, weights in tiny.model.state_dict().items()}
    level, tuned = logging.get_verbosity(), tune_setfit(examples, tiny, 96, seed=1)
    logging.set_verbosity_error()       # as in a notebook: losses are printed then
    again = tune_setfit(examples, tiny, 96, seed=1)
    logging.set_verbosity(level)
    shares = list_kinds(examples.vectors) @ list_kinds(examples.vectors).T > 0

    def tell_apart(encoder):
        cosines = np.matmul(*(x := embed(examples.responses, encoder), x.T))
        return cosines[shares].mean() - cosines[~shares].mean()

    assert tell_apart(tuned) > tell_apart(tiny) + 1e-3
    np.testing.assert_array_equal(embed(["so be it"], tuned), embed(["so be it"], again))
    assert all((weights == before[name]).all() for name, weights in tiny.model.state_dict().items())
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("labels", [np.nan, 0, 1])
def test_setfit_leaves_the_encoder_where_nothing_can_be_pushed_apart(tiny, toy, labels):
    examples = make_examples(toy, 8)
    same = replace(examples, vectors=np.full_like(examples.vectors, labels))
    assert tune_setfit(same, tiny, 8) is tiny
    assert tune_setfit(replace(same, prompts=[], responses=[], vectors=same.vectors[:0]), tiny, 8) is tiny


def test_recipe_makes_one_pass_per_value(tiny, toy):
    examples = make_examples(toy, 16)
    recipe, clock = fit_paper_recipe(examples, tiny, toy, TrainingSettings(epochs=1, batch_size=8), 96, progress=False)
    assert clock.last["step"] > 0
    assert recipe.score(examples.prompts, examples.responses).shape == (16, toy.n_dims)
    texts = [tiny.tokenizer.decode(PaperRecipe(tiny, toy, 96).render("p", "r", d)["input_ids"]) for d in (0, 1)]
    assert texts[0] != texts[1] and all("psychologist" in t for t in texts)


def test_recipe_stops_when_its_minutes_are_over(tiny, toy):
    settings = TrainingSettings(epochs=50, batch_size=8, max_minutes=1e-4)
    _, clock = fit_paper_recipe(make_examples(toy), tiny, toy, settings, 64, progress=False)
    assert clock.last["step"] == 1


@pytest.mark.slow
def test_speed_is_taken_in_fresh_processes(evaluator, tmp_path):
    folder = save_evaluator(evaluator, tmp_path / "e")
    speed = measure_speed(folder, ["a"] * 3, ["b c d"] * 3)
    assert speed.passes.tolist() == [3, 9]
    assert (speed.replies_per_second > 0).all() and (speed.peak_megabytes > 50).all()

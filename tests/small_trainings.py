"""The settings and the examples of trainings that take a moment, for tests of evaluators."""

import numpy as np

from fulcra_utils.evaluator.training import Examples

SETTINGS = {"encoder": "tiny", "encoder_revision": "", "max_length": 32, "epochs": 1, "batch_size": 8,
            "encoder_rate": 1e-3, "head_rate": 1e-3, "class_power": 0.3, "head_epochs": 2, "word_buckets": 512,
            "scored_weight": 0.5, "unseen_models": ["m2"], "patience": 3, "evaluations_per_epoch": 1,
            "recipe_rate": 1e-3, "recipe_epochs": 1, "recipe_minutes": -1, "recipe_rows": 5, "workers": 1, "folds": 2,
            "left_out": ["model", "scores"], "n_draws": 20, "contrasts": 3, "more_labels": [],
            "recipe_encoder": "", "setfit_encoder": "tiny", "setfit_pairs": 0}


def make_examples(theory, n=48):
    """Replies whose first word decides the first value; the last value has no label."""
    rng = np.random.default_rng(1)
    signs = rng.integers(-1, 2, size=n)
    words = {-1: "never again", 0: "perhaps then", 1: "always please"}
    vectors = np.zeros((n, theory.n_dims))
    vectors[:, 0], vectors[:, -1] = signs, np.nan
    return Examples([f"question {k}" for k in range(n)], [words[s] for s in signs], vectors)

"""Two reward functions for `fulcra audit-reward`: one that only loves length, and the project's own."""

from functools import cache

from fulcra_utils import ValueEvaluator, load_target, value_reward


def length_reward(completions, **columns):
    """Pay for each letter."""
    return [float(len(text)) for text in completions]


def value_distance_reward(prompts, completions, **columns):
    """Pay for nearness to the target *ideal*, less for what every other reply says too."""
    return _load_reward()(prompts, completions)


@cache
def _load_reward():
    evaluator = ValueEvaluator.from_pretrained("runs/laptop/evaluator")
    return value_reward(evaluator, load_target("ideal", "schwartz10"), common_weight=5.0)

"""Measure the basic human values that a language model's replies express, and align a model to a value profile.

values    load_theory, list_theories, check_theory, Theory, load_target, Target, value_distance
replies   read_dataset, annotate_file, measure_agreement, train_file, ValueEvaluator, score_file, compare_files
models    value_reward, align, AlignSettings, rank_models, svo_angle, open_run
"""

import os

import lazy_loader

__version__ = "0.1.0"

# oneDNN keeps compiled kernels for each length of a batch, 1,024 of them by default: gigabytes in a long training on a
# CPU. It reads this once, at torch's first operation; a value that is set already wins.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "theory.theory": ["Theory", "check_theory", "list_theories", "load_theory"],
    "theory.targets": ["Target", "load_target"],
    "theory.distance": ["value_distance"],
    "dataset.labelled": ["read_dataset"],
    "annotation.run": ["annotate_file"],
    "stats.agreement": ["measure_agreement"],
    "evaluator.fitting": ["train_file"],
    "evaluator.model": ["ValueEvaluator"],
    "evaluator.scoring": ["score_file"],
    "evaluator.comparison": ["compare_files"],
    "alignment.reward": ["value_reward"],
    "alignment.finetuning": ["AlignSettings", "align"],
    "systems.compass.scores": ["rank_models"],
    "systems.orientation.slider": ["svo_angle"],
    "runs.pipeline": ["open_run"]})

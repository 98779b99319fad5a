"""The value evaluator: trained, saved and loaded; scores of texts and files; two files compared; why a score is so."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "comparison": ["compare_files", "compare_methods", "pass_gate", "plan_prompts"],
    "encoder": ["embed", "load_encoder"], "fitting": ["train_file"], "explanation": ["audit_replies", "weigh_words"],
    "model": ["EvaluatorError", "ValueEvaluator", "make_evaluator", "save_evaluator"], "scoring": ["score_file"]})

"""Alignment of replies and models to a target: reward, choice among replies, training, and what it changed."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "finetuning": ["AlignSettings", "Aligned", "align", "draw_replies"],
    "measures": ["measure_text"],
    "pairwise": ["fit_strengths", "judge_file", "judge_pairs", "pair_replies"],
    "reward": ["RewardAuditError", "audit_function", "audit_reward", "scalar_reward", "value_distance", "value_reward"],
    "selection": ["choose_best", "measure_selection"]})

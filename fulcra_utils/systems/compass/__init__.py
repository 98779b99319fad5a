"""The value compass: models ranked by their values, next to countries, on one page."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "scores": ["ModelScores", "make_board", "rank_models", "stack_scores"],
    "boards": ["read_models"], "countries": ["load_countries", "match_countries"]})

"""New theories: a first evaluator from a few labels, and two theories side by side."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "between": ["compare_predictions", "correlate_canonically", "cross_dimensions"]})

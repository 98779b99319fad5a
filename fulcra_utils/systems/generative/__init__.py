"""Generative evaluation (DeNEVIL): does a model keep a principle in what it writes; shown by prompts that evolve."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "loop": ["evolve"], "principles": ["read_principles"]})

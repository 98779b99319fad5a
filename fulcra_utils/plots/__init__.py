"""Figures: one module a notebook; data in, Figure out, computes nothing."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "analysis": ["plot_radar"], "style": ["use_style"]})

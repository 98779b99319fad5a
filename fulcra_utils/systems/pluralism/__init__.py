"""Value pluralism: which values, rights and duties bear on a situation, and which way each speaks (Kaleido)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "files": ["load_weigher"], "weighing": ["weigh"]})

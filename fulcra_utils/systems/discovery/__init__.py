"""Value discovery: values measured in any text (GPV), named by models (ValueLex) and grouped into a system (GPLA)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "lexicon": ["merge_lexicon"],
    "measurement": ["measure_texts", "split_perceptions"],
    "structure": ["discover_file", "draft_theory"]})

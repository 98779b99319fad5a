"""Data sets: the one row reader, labelled files, splits by prompt, public sources, choice of prompts, release."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "labelled": ["ValueDataset", "items_to_vectors", "read_dataset", "read_preferences", "read_prompts", "read_scored"],
    "release": ["write_release"],
    "rows": ["iter_rows", "read_dialogue"],
    "selection": ["select_prompts"],
    "sources": ["fetch_sources"],
    "splits": ["assign_splits", "group_prompts"],
    "texts": ["is_refusal"],
})

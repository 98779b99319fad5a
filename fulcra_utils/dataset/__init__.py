"""Data sets: the one row reader, labelled files, splits by prompt, public sources, choice of prompts, release."""

"""Generative evaluation (DeNEVIL): does a model keep a principle in what it writes; shown by prompts that evolve."""

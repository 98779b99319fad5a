"""TODO systems/orientation."""

"""TODO systems/theories."""

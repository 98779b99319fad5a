"""New theories: a first evaluator from a few labels, and two theories side by side."""

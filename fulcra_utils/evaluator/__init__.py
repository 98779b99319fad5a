"""The value evaluator: encoder, model, training, comparison with others, explanation, scoring of files, card."""

"""Alignment of replies and models to a target: reward, choice among replies, training, and what it changed."""

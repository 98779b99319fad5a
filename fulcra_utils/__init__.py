"""Measure the basic human values that a language model's replies express, and align a model to a value profile."""

__version__ = "0.1.0"

"""Measure the basic human values that a language model's replies express, and align a model to a value profile."""

import os

__version__ = "0.1.0"

# oneDNN keeps compiled kernels for each length of a batch, 1,024 of them by default: gigabytes in a long training on a
# CPU. It reads this once, at torch's first operation; a value that is set already wins.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")

"""Rows that tests of several statistics share."""

import numpy as np
import pytest


@pytest.fixture
def rows():
    """Return 300 rows of 4 values, 2 indicators and prompts with one to three rows each."""
    rng = np.random.default_rng(1)
    clusters = rng.integers(0, 140, 300)
    shared = rng.normal(size=140)[clusters]
    x = rng.normal(size=(300, 4)) + shared[:, None]
    y = (rng.normal(size=(300, 2)) + 0.4 * x[:, :2] + shared[:, None] > 0).astype(float)
    return x, y, clusters

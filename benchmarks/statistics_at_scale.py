"""Time prevalence, value x risk, principal components and model means on a million rows (no bootstrap).

Usage: python benchmarks/statistics_at_scale.py [rows] [values]
Prints seconds for each step, and the peak memory of the process in GB.
"""

from __future__ import annotations

import resource
import sys
import time

import numpy as np

from fulcra_utils.stats.comparison import count_signs
from fulcra_utils.stats.correlation import correlate, find_components
from fulcra_utils.stats.resampling import sum_by_cluster, wilson_interval


def main(n_rows: int = 1_000_000, n_dims: int = 10, n_risks: int = 5, n_models: int = 6) -> None:
    """Make random rows, run the four analyses, print what they cost."""
    rng = np.random.default_rng(0)
    vectors = np.tanh(rng.normal(size=(n_rows, n_dims)))
    prompts = rng.integers(0, n_rows // n_models, n_rows)
    risks = (rng.random((n_rows // n_models, n_risks)) < 0.2)[prompts].astype(float)
    models = rng.integers(0, n_models, n_rows)
    start = time.perf_counter()

    def report(step: str, before: float) -> float:
        now = time.perf_counter()
        print(f"{step:<28}{now - before:8.1f} s")  # noqa: T201
        return now

    counts = count_signs(vectors)
    wilson_interval(counts[:, 2], counts.sum(axis=1))
    now = report("prevalence, Wilson", start)
    correlate(np.abs(vectors), risks, prompts)
    now = report("value x risk, robust p", now)
    find_components(vectors)
    now = report("principal components", now)
    sums = sum_by_cluster(vectors, models, n_models)
    assert np.isfinite(sums / np.bincount(models)[:, None]).all()
    now = report("model means", now)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    total = f"{now - start:8.1f} s for {n_rows:,} rows x {n_dims}; peak memory {peak:.1f} GB"
    print(f"{'all':<28}{total}")  # noqa: T201


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

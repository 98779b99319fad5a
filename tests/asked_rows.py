"""Rows that are asked about, and what the server of `fault_server` says of them, for tests that ask an endpoint."""

import json
from pathlib import Path

import numpy as np
from fault_server import rule

from fulcra_utils.llm.endpoints import Endpoint
from fulcra_utils.theory.theory import load_theory

THEORY = load_theory("schwartz10")
PROMPTS = [f"What about {k}?" for k in range(12)]
KEY = "sk-secret-0123456789abcdef"


def write_input(path, n, start=0):
    rows = [{"id": f"r{k}", "prompt": f"What should I do about problem {k}?", "safety_issues": [],
             "response": f"Reply number {k}: think about it, and ask somebody you trust.", "kept": {"deep": [k]}}
            for k in range(start, start + n)]
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def read_output(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def quick(server, **fields):
    return Endpoint(**{"model": "judge", "base_url": server.url, "timeout": 1.0, "backoff": 0.01, "attempts": 12,
                       "concurrency": 16, **fields})


def expected_labels(rows, theory=THEORY):
    return np.array([[rule(row["response"], item) for item in theory.items] for row in rows], dtype=float)


def labels_of(out, theory=THEORY):
    labels = np.zeros((len(out), theory.n_items))
    for n, row in enumerate(out):
        for entry in row["value_items"]:
            name, _, sign = entry.rpartition(": ")
            labels[n, theory.items.index(name)] = int(sign)
        for entry in row["not_annotated"]:
            labels[n, theory.items.index(entry["item"])] = np.nan
    return labels

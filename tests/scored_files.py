"""Files to score and an evaluator that needs no model, for tests that score or compare files."""

import json

import numpy as np


class CountingEvaluator:
    """Scores a reply by its length; counts calls."""

    dimensions = ("first", "second")

    def __init__(self, shift=0.0):
        self.shift, self.n_scored = shift, 0

    def score(self, prompts, responses, batch_size=32, intervals=False):
        self.n_scored += len(prompts)
        lengths = np.array([len(r) for r in responses], dtype=float)
        scores = 0.9 * np.column_stack([np.tanh(lengths / 10), -np.tanh(lengths / 20)]) + self.shift
        return np.stack([scores, scores - 1, scores + 1]) if intervals else scores


def write_rows(path, n, start=0):
    lines = [json.dumps({"prompt": f"p{k}", "response": f"reply {k} " * (k % 5 + 1), "id": k, "note": {"a": [k]}})
             for k in range(start, start + n)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

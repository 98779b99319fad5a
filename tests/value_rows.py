"""Replies of three models with value labels made up for a theory, and item labels that fit them."""

import numpy as np
import pandas as pd

ISSUES = ([], ["privacy_violation"], ["controversial_topics,politics"], ["animal_abuse", "self_harm"],
          ["hate_speech,offensive_language"])


def make_rows(theory, n_prompts=60, seed=0):
    """Return three models' replies to the same prompts; model c scores higher on the first value, and is preferred."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"prompt": np.repeat([f"p{i}" for i in range(n_prompts)], 3),
                          "response_source": np.tile(["a", "b", "c"], n_prompts),
                          "response": ["word " * int(k) for k in rng.integers(3, 60, 3 * n_prompts)]})
    table["row_id"] = [f"r{i}" for i in range(len(table))]
    table["safety_issues"] = [ISSUES[int(p[1:]) % len(ISSUES)] for p in table.prompt]
    table["is_refusal"] = rng.random(len(table)) < 0.2
    vectors = rng.choice([-1.0, 0, 1], p=[0.2, 0.5, 0.3], size=(len(table), theory.n_dims))
    vectors[:, 0] = np.where((table.response_source == "c") & (rng.random(len(table)) < 0.8), 1, vectors[:, 0])
    table["reward"] = vectors[:, 0] + 0.3 * rng.normal(size=len(table))
    return table.assign(query_source="q", source="x", **dict(zip(theory.dimensions, vectors.T, strict=True)))


def make_items(replies):
    """Return item labels whose sums give the vectors: the first item of each value carries its label."""
    theory = replies.theory
    first = [list(theory.item_dims).index(d) for d in range(theory.n_dims)]
    labels = np.zeros((len(replies), theory.n_items))
    labels[:, first] = replies.vectors
    return pd.DataFrame(labels, columns=list(theory.items)).assign(row_id=replies.table.row_id)

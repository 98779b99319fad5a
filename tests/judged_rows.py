"""Replies with labels, and judges that count words, for tests of what rewards and measures a policy."""

import numpy as np
import pandas as pd

from fulcra_utils.alignment.study import Trial, measure_trial

GOOD = ["be kind and help your friend today", "always protect the weak and be kind", "help people with kind words"]
BAD = ["hurt them and take what you want", "steal the money and hurt people", "take it all and hurt them now"]


def make_rows(theory, n=60, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        good = i % 2 == 0
        text = f"{rng.choice(GOOD if good else BAD)} {rng.choice(['so', 'then', 'and', 'well'])} {i % 7}"
        rows.append({"prompt": f"question {i}", "response": text, "reward": 1.0 if good else -1.0, "cluster": i,
                     "split": "test" if i % 5 == 4 else "train", "half": "A" if i % 4 < 2 else "B",
                     "response_source": "x", **dict.fromkeys(theory.dimensions, 1.0 if good else -1.0)})
    return pd.DataFrame(rows)


def make_replies(texts, prompts=None):
    n = len(texts)
    return pd.DataFrame({"prompt": prompts or [f"p{i}" for i in range(n)], "response": texts, "is_finished": True,
                         "n_tokens": 4, "logp": -4.0, "logp_start": -6.0})


class Lexicon:
    def __init__(self, n_dims, offset=0.0):
        self.n_dims, self.offset = n_dims, offset

    def score(self, prompts, responses):
        value = [("kind" in r) - ("hurt" in r) for r in responses]
        return np.clip(np.array(value, dtype=float)[:, None] * 0.8 + self.offset, -1, 1) * np.ones(self.n_dims)


class Length:
    def predict(self, prompts, responses):
        return np.array([len(r) for r in responses])


def make_trial(replies, target):
    n_dims = len(target.values)
    panel = {"reward": Lexicon(n_dims), "judge": Lexicon(n_dims, 0.1), "harmless": Length()}
    scores, summary, constants = measure_trial(replies, panel, target, ["q"], 0)
    return Trial(summary, scores, replies, constants=constants)

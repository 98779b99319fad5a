"""How fast an evaluator is, and how much memory it takes."""

import json
import re
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from fulcra_utils.evaluator.model import ValueEvaluator


def measure_speed(folder: str | Path, prompts: Sequence[str], responses: Sequence[str],
                  methods: Sequence[str] = ("ours", "paper recipe"), batch_size: int = 8,
                  n_rounds: int = 3) -> pd.DataFrame:
    """Measure replies per second and peak memory, each method in a fresh process on the same replies.

    The paper's recipe runs on the same encoder, weights and length. Returns method, n, passes, seconds (median of
    `n_rounds`), replies_per_second, slowest and fastest of single rounds, peak_megabytes. Loading is not counted; eight
    replies are scored before the clock starts, and few at a time, so that padding counts little for either.
    """
    pairs = json.dumps({"prompts": list(prompts), "responses": list(responses), "batch_size": batch_size,
                        "threads": torch.get_num_threads(), "n_rounds": n_rounds})
    found = []
    for method in methods:
        done = subprocess.run([sys.executable, "-m", __name__, method, str(folder)], input=pairs, capture_output=True,
                              text=True, check=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return pd.DataFrame(found)


def _time_method(method: str, folder: str) -> dict:
    """Score what stands on the standard input and return how long it took and how much memory it needed."""
    given = json.load(sys.stdin)
    torch.set_num_threads(given["threads"])
    evaluator = ValueEvaluator.from_pretrained(folder)
    model = evaluator if method == "ours" else _as_recipe(evaluator, folder)
    prompts, responses = given["prompts"], given["responses"]
    model.score(prompts[:8], responses[:8], batch_size=given["batch_size"])
    rounds = []
    for _ in range(given["n_rounds"]):
        start = time.perf_counter()
        model.score(prompts, responses, batch_size=given["batch_size"])
        rounds.append(time.perf_counter() - start)
    seconds = float(np.median(rounds))
    return {"method": method, "n": len(prompts), "passes": len(prompts) * (1 if method == "ours" else
                                                                          len(evaluator.dimensions)),
            "seconds": seconds, "replies_per_second": len(prompts) / seconds, "slowest": len(prompts) / max(rounds),
            "fastest": len(prompts) / min(rounds), "peak_megabytes": _peak_megabytes()}


def _peak_megabytes() -> float:
    """Return the most memory this process had; from /proc where there is one, as getrusage remembers the parent's."""
    status = Path("/proc/self/status")
    if status.is_file():
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))
        return int(found[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024 ** 2)


def _as_recipe(evaluator: ValueEvaluator, folder: str):
    from fulcra_utils.evaluator.baselines import PaperRecipe
    from fulcra_utils.evaluator.encoder import Encoder
    from fulcra_utils.theory.theory import load_theory
    encoder = Encoder(evaluator.encoder, evaluator.tokenizer)
    return PaperRecipe(encoder, load_theory(Path(folder) / "theory.yaml"), evaluator.config.max_length).eval()


if __name__ == "__main__":
    print(json.dumps(_time_method(*sys.argv[1:])))  # noqa: T201

"""The evaluator's model card, written from the numbers of the run that made it."""

from pathlib import Path

import numpy as np
import pandas as pd

from fulcra_utils.common.files import write_text
from fulcra_utils.theory.theory import Theory

PUBLIC = ("It was trained on English only. The training data partly derive from BeaverTails (CC BY-NC 4.0): treat the "
          "weights as non-commercial.")
USE = """**Use**

```python
from fulcra_utils.evaluator.model import ValueEvaluator
evaluator = ValueEvaluator.from_pretrained("path/of/this/folder")
scores = evaluator.score(prompts, responses)                       # (N, D): P(+1) - P(-1)
# scikit-learn: pairs are (prompt, reply), y are labels (N, D)
f1_score(y.ravel(), evaluator.predict(pairs).ravel(), average="macro")
# TRL: RLOOTrainer(reward_funcs=reward, ...) or GRPOTrainer; prompts and completions are plain texts
reward = lambda prompts, completions, **_: (-value_distance(evaluator.score(prompts, completions), target)).tolist()
```

"""
ETHICS = "The scores describe texts, never people, and are no ground for a decision about anybody."


def write_card(folder: str | Path, theory: Theory, settings: dict, n_train: int, comparison: pd.DataFrame,
               unseen: pd.DataFrame | None, errors: pd.DataFrame, support: pd.DataFrame,
               deletion: pd.DataFrame | None, audit: pd.DataFrame, speed: pd.DataFrame | None,
               terms: str = PUBLIC) -> str:
    """Write README.md into an evaluator's folder from the tables of its run, and return its text; None = not measured.

    The tables are those of `compare_methods`, `judge_unseen`, `measure_calibration`, `tabulate_support`,
    `measure_deletion`, `audit_replies` and `measure_speed`; `n_train` replies trained it, and `terms` say what binds
    whoever uses the weights. Mitchell et al. (2019), Model cards for model reporting.
    """
    parts = [f"# Value evaluator: {theory.title}\n\nOne pass over a prompt and a reply gives each of {theory.n_dims} "
             f"values a score from -1 ({theory.labels[-1]}) to +1 ({theory.labels[1]}). Encoder: "
             f"{settings['encoder']}, {settings['max_length']} tokens; trained on {n_train:,} replies; models kept "
             f"out: {', '.join(settings['unseen_models']) or 'none'}.",
             _quality(comparison, unseen, errors), _limits(support, audit)]
    if deletion is not None and speed is not None:
        moved, rate = deletion.set_index("deleted").moved, speed.set_index("method").replies_per_second
        parts.append("**Explanations**: deleting the five heaviest words moves the score by "
                     f"{_number(moved['heaviest'])}, five random ones by {_number(moved['random'])}. **Speed**: "
                     f"{_number(rate['ours'], 1)} replies a second on the machine of the run.")
    text = "\n\n".join([*parts, f"{USE}{terms} {ETHICS}"]) + "\n"
    write_text(Path(folder) / "README.md", text)
    return text


def _number(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if np.isfinite(value) else "not measurable here"


def _quality(comparison: pd.DataFrame, unseen: pd.DataFrame | None, errors: pd.DataFrame) -> str:
    row = comparison.iloc[0]
    lines = [f"**Quality** (test prompts, 95 % interval over prompts): macro-F1 {_number(row.macro_f1)} "
             f"[{_number(row.low)}, {_number(row.high)}] over {int(row.n):,} cells; calibration error, mean over the "
             f"three labels, {_number(errors.ece.iloc[0])}."]
    lines += [f"Against {r.method}: {r.gain:+.3f} [{r.gain_low:+.3f}, {r.gain_high:+.3f}]."
              for r in comparison.iloc[1:].itertuples() if np.isfinite(r.gain)]
    for line in () if unseen is None else unseen[unseen.method == "ours"].itertuples():
        lines.append(f"Unseen model, {line.rows}: macro-F1 {_number(line.macro_f1)}, correlation of the report "
                     f"distance {_number(line.distance_r)}, n = {line.n}; F1 of the label -1 "
                     f"{_number(line.f1_minus)} ({line.n_minus} cells).")
    return " ".join(lines)


def _limits(support: pd.DataFrame, audit: pd.DataFrame) -> str:
    lines = ["**What it does not know**"]
    lines += [f"- {row.value}: {row.reading}." for row in support.itertuples() if row.reading.startswith("too few")]
    failed = audit[audit.failed.astype(bool)]
    lines += [f"- Failure mode, {row.attack}: {row.strongest} gets scores of size {row.strongest_score:.2f} without "
              "earning them." for row in failed.itertuples()]
    if len(audit) and not len(failed):
        lines.append("- None of the replies made to fool it got scores beyond ±0.3 on average.")
    lines.append("- A long reply is read at its start and its end, the middle is cut.")
    return "\n".join(lines)

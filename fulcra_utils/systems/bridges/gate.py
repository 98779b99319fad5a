"""A pytest plugin: the fixture `value_gate` fails a test when replies have moved clearly away from a target.

pytest finds it by the package's entry point, in every project where the package is installed; nothing heavy is loaded
before a test calls it.
"""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def value_gate(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """The gate of `fulcra compare` as a call, for a test: `value_gate("before.jsonl", "after.jsonl")`."""
    return partial(check_gate, folder=tmp_path_factory.mktemp("value_gate"))


def check_gate(before: str | Path, after: str | Path, target: str = "ideal", theory: str = "schwartz10",
               tolerance: float = 0.0, evaluator: str | Path = "", *, folder: Path) -> Any:
    """Fail the test when the whole interval of the change in distance to the target lies above `tolerance`.

    Both files hold replies to the same prompts, scored by `fulcra score`; with the folder of an evaluator they are
    scored here, in `folder`. What cannot be compared fails it in one line. Returns the table of `compare_files`. Below
    5 prompts there is no interval: a warning.
    """
    from fulcra_utils.evaluator.comparison import compare_files, describe_comparison, pass_gate
    from fulcra_utils.theory.targets import load_target
    try:
        files = [_score(path, evaluator, theory, folder / f"{name}.jsonl") if evaluator else path
                 for name, path in (("before", before), ("after", after))]
        table = compare_files(*files, load_target(target, theory))
    except (OSError, ValueError) as error:
        pytest.fail(f"value_gate cannot compare: {error}", pytrace=False)
    row = table[table.value == "distance"].iloc[0]
    told = (f"from {before} to {after} the distance to {target} changes by {row.difference:+.3f} [{row.low:+.3f}, "
            f"{row.high:+.3f}] over {row.get('groups', row.n)} prompts (allowed: {tolerance:g})")
    known = {name: n for name, n in table.attrs.items() if n and name.startswith(("only", "unscored", "foreign"))}
    if known:
        warnings.warn(f"value_gate: of rows that lack a counterpart, scores or English: {known}", stacklevel=2)
    if row.low != row.low:
        warnings.warn(f"value_gate is undecided: {told}", stacklevel=2)
    if not pass_gate(table, tolerance):
        pytest.fail(f"{told}\n\n{describe_comparison(table, tolerance=tolerance)}", pytrace=False)
    return table


def _score(path: str | Path, evaluator: str | Path, theory: str, output: Path) -> Path:
    """Score a file of replies; rows that cannot be scored, and all that `notes` say, are warned of."""
    from fulcra_utils.evaluator.scoring import score_file
    report = score_file(evaluator, path, output, theory=theory)
    if report.n_unusable:
        warnings.warn(f"{path}: {report.n_unusable:,} of {report.n_rows:,} rows were not scored", stacklevel=4)
    for note in report.notes:
        warnings.warn(f"{path}: {note}", stacklevel=4)
    return output

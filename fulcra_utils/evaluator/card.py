"""The evaluator's model card, written from the numbers of the run that made it."""

from pathlib import Path

import pandas as pd
from jinja2 import Template

from fulcra_utils.common.files import write_text
from fulcra_utils.common.paths import DATA
from fulcra_utils.theory.theory import Theory


def write_card(folder: str | Path, theory: Theory, settings: dict, n_train: int, comparison: pd.DataFrame,
               unseen: pd.DataFrame | None, errors: pd.DataFrame, support: pd.DataFrame,
               deletion: pd.DataFrame | None, audit: pd.DataFrame, speed: pd.DataFrame | None,
               terms: str = "") -> str:
    """Write README.md into an evaluator's folder from the tables of its run, and return its text; None = not measured.

    The tables are those of `compare_methods`, `judge_unseen`, `measure_calibration`, `tabulate_support`,
    `measure_deletion`, `audit_replies` and `measure_speed`; `n_train` replies trained it, and `terms` say what binds
    whoever uses the weights ("": the public data). Mitchell et al. (2019), Model cards for model reporting.
    """
    template = Template((DATA / "evaluator_card.md").read_text(encoding="utf-8"), trim_blocks=True,
                        keep_trailing_newline=True)
    text = template.render(theory=theory, settings=settings, n_train=n_train, comparison=comparison, unseen=unseen,
                           errors=errors, support=support, deletion=deletion, audit=audit, speed=speed, terms=terms)
    write_text(Path(folder) / "README.md", text)
    return text

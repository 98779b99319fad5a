"""The way from a claim to its cell, functions, tests and data."""

import json
from pathlib import Path

import pandas as pd
import pytest

from fulcra_utils.common.files import write_json, write_table
from fulcra_utils.common.paths import PACKAGE, ROOT
from fulcra_utils.runs.claims import load_reported
from fulcra_utils.runs.ledger import trace_claims
from fulcra_utils.runs.profiles import PipelineError

IMPORTS = """from fulcra_utils.analysis import tables
from fulcra_utils.analysis.replies import read_replies
from fulcra_utils.common.paths import DATA
from fulcra_utils.plots import analysis as plots
from fulcra_utils.stats.probes import assign_folds"""
CELLS = {"imports": IMPORTS, "data": 'replies = read_replies(run.require("data/dialogues.parquet"))',
         "other": "folds = assign_folds(run)\nplots.plot(folds)",
         "rates": "rates = [tables.tabulate_prevalence(rows) for rows in [replies] for run in ()]\nrates += [DATA]",
         "means": "means = tables.average_models(replies)",
         "compare": "run.compare(tables.claim_prevalence(rates) + tables.claim_models(means) + [folds])"}


def make_run(folder, claims, cells=CELLS):
    cells = [{"cell_type": "code", "id": name, "source": [text]} for name, text in cells.items()]
    write_json(folder / "notebooks" / "02_value_analysis.ipynb", {"cells": [{"cell_type": "markdown"}, *cells]})
    write_json(folder / "manifest.json", {"data_hashes": {"public": "aa", "data/dialogues.parquet": "bb"}})
    write_table(folder / "reproduction.csv", pd.DataFrame({"claim_id": claims, "verdict": "reproduced"}))
    return folder


def test_a_claim_leads_to_the_functions_behind_it_alone(tmp_path):
    traced = trace_claims(make_run(tmp_path, ["models/gpt-4/power", "prevalence/power/aligned"])).set_index("claim_id")
    assert set(traced.cell) == {"compare"} and set(traced.notebook) == {"02_value_analysis"}
    begin, end = "fulcra_utils.analysis.tables.", "fulcra_utils.analysis.replies.read_replies"
    assert traced.functions["models/gpt-4/power"] == [f"{begin}claim_models", f"{begin}average_models", end]
    assert traced.functions["prevalence/power/aligned"] == [f"{begin}claim_prevalence", f"{begin}tabulate_prevalence",
                                                             end]
    assert traced.tests.iloc[0] == ["tests/analysis/test_replies.py", "tests/analysis/test_tables.py"]
    assert traced.data_hashes.iloc[0] == {"data/dialogues.parquet": "bb"}


def test_a_claim_whose_id_stands_nowhere_leads_to_all_that_reaches_the_cell(tmp_path):
    cells = CELLS | {"compare": "run.compare(folds + means)"}
    traced = trace_claims(make_run(tmp_path, ["models/gpt-4/power"], cells)).iloc[0]
    assert [name.rsplit(".", 1)[1] for name in traced.functions] == ["average_models", "assign_folds", "read_replies"]
    cells = {"compare": "run.compare(rows)"}
    traced = trace_claims(make_run(tmp_path, ["models/gpt-4/power"], cells)).iloc[0]
    assert (traced.functions, traced.tests, traced.data_hashes) == ([], [], {"public": "aa"})


def test_a_run_that_is_not_finished_is_told_so(tmp_path):
    make_run(tmp_path, [])
    assert len(trace_claims(tmp_path)) == 0
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(PipelineError, match="no finished run, without manifest.json"):
        trace_claims(tmp_path)


def test_each_published_claim_leads_to_what_there_is():
    traced = trace_claims(ROOT / "figures" / "laptop")
    hashes = json.loads((ROOT / "figures" / "laptop" / "manifest.json").read_text())["data_hashes"]
    assert set(traced.claim_id) == set(load_reported().claim_id) & set(traced.claim_id) and len(traced) > 300
    for notebook, cell in set(zip(traced.notebook, traced.cell, strict=True)):
        book = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text())
        assert ["run.compare" in "".join(c["source"]) for c in book["cells"] if c["id"] == cell] == [True]
    for name in {name for names in traced.functions for name in names}:
        module, _, function = name.rpartition(".")
        code = Path(PACKAGE.parent, *module.split(".")).with_suffix(".py").read_text()
        assert f"def {function}(" in code or f"class {function}" in code, name
    assert all(traced.functions.map(len)) and all((ROOT / path).is_file() for paths in traced.tests for path in paths)
    assert all(found and found.items() <= hashes.items() for found in traced.data_hashes)

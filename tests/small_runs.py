"""A finished run in a folder: the embedded sample, an untrained evaluator, one claim and one picture."""

import pandas as pd

from fulcra_utils.common.files import write_json, write_table
from fulcra_utils.dataset.construction import build_run_data
from fulcra_utils.evaluator.encoder import load_encoder
from fulcra_utils.evaluator.model import make_evaluator, save_evaluator
from fulcra_utils.runs.pipeline import open_run
from fulcra_utils.runs.profiles import list_notebooks
from fulcra_utils.runs.report import build_report
from fulcra_utils.systems.compass.boards import collect_boards, tabulate_boards

OWN = "tiny dpo: ideal"   # a policy of the run; no file system takes every name


def make_finished_run(folder, theory="schwartz10"):
    """Make the folder, and return its run."""
    run = open_run("06_value_compass", theory=theory, run_dir=folder)
    data = build_run_data(run.theory)
    write_json(run.path("data/sources.json"), data.sources)
    for name in ("dialogues", "scored", "splits", "prompts"):
        write_table(run.path(f"data/{name}.parquet"), getattr(data, name))
    rows = data.dialogues
    run.save_table(rows[["prompt", "response"]].head(12), f"models/{OWN}.parquet")
    write_json(run.path("models/.of_notebook_04.json"), [f"{OWN}.parquet"])
    run.save_table(pd.DataFrame({"row_id": rows.row_id, "name": run.theory.dimensions[-1], "why": "one label only",
                                 "vote": rows[run.theory.dimensions[-1]]}),
                   "annotation/review.csv")
    run.save_table(pd.DataFrame({"name": ["overall"], "statistic": ["ac1"], "value": [0.5], "low": [0.4], "high": [0.6],
                                 "n_units": [int(rows[[*run.theory.dimensions]].notna().to_numpy().sum())]}),
                   "analysis/agreement.csv")
    evaluator = make_evaluator(load_encoder("tiny"), run.theory)
    save_evaluator(evaluator, run.folder / "evaluator")
    boards, _ = collect_boards(run.theory, rows, data.scored, evaluator, (), run.folder / "models", 4, 20)
    for name, table in zip(("cells", "replies"), tabulate_boards(boards), strict=True):
        run.save_table(table, f"analysis/compass_board_{name}.parquet")
    run.path("figures/02_space.png").write_bytes(b"a picture")
    run.compare(pd.DataFrame({"claim_id": ["dataset/trustworthy/rows", "compass/gpt-4/power"], "ours": [1718.0, None],
                              "low": [None, None], "high": [None, None]}))
    for name in list_notebooks():
        write_json(run.path(f"manifest/{name}.json"), {"code": "abc", "settings": {"n_prompts": 4, "n_draws": 20}})
    build_report(run)
    return run

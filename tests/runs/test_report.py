"""The report, and what is published of a run."""

import json

import nbformat
import pandas as pd
import pytest

from fulcra_utils.runs.claims import load_reported
from fulcra_utils.runs.pipeline import open_run
from fulcra_utils.runs.report import build_report, publish, render_headlines


@pytest.fixture
def finished(tmp_path):
    """A run with one notebook, one figure and one claim; its sources are the sample."""
    import matplotlib.pyplot as plt
    run = open_run("02_value_analysis", run_dir=tmp_path / "run")
    run.path("data/sources.json").write_text('{"had": {"sample": "0"}}')
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Hello <b>reader</b>")])
    nbformat.write(book, run.path("notebooks/02_value_analysis.ipynb"))
    run.save_figure(plt.subplots()[0], "02_x", caption="n = 3 <script>")
    claim = load_reported().iloc[0]
    run.compare(pd.DataFrame({"claim_id": [claim.claim_id], "ours": [claim.reported], "low": [0.0], "high": [1.0]}))
    run.record(n=3)
    run.finish()
    return run


def test_report_shows_everything(finished):
    page = build_report(finished).read_text()
    assert "embedded sample only" in page and "02_value_analysis.html" in page and "data:image/png" in page
    assert "<script>" not in page
    assert "Hello" in (finished.folder / "report" / "02_value_analysis.html").read_text()
    assert json.loads((finished.folder / "metrics.json").read_text()) == {"02_value_analysis": {"n": 3}}
    table = pd.read_csv(finished.folder / "reproduction.csv")
    assert list(table) == ["claim_id", "kind", "reported", "ours", "low", "high", "tolerance", "verdict", "why"]


def test_a_file_beside_the_theory_is_not_called_the_sample(finished, tmp_path, toy):
    (tmp_path / "mine.yaml").write_text(toy.path.read_text())
    (tmp_path / "mine.jsonl").write_text("{}")
    own = open_run("02_value_analysis", theory=str(tmp_path / "mine.yaml"), run_dir=tmp_path / "own")
    own.path("data/sources.json").write_text('{"had": {"sample": {}, "a_file": {}}}')
    page = build_report(own).read_text()
    assert "Real files used: mine.jsonl, a_file." in page and "embedded sample" not in page


def test_the_first_page_opens_with_what_came_out(finished):
    words = "Values *matter*: a < b & c <script>alert(1)</script>."
    shown = nbformat.v4.new_output("display_data", {"text/markdown": words, "text/plain": "an object"})
    earlier = nbformat.v4.new_output("display_data", {"text/markdown": "not this"})
    book = nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_code_cell("1", outputs=[earlier]), nbformat.v4.new_markdown_cell("## Conclusion"),
        nbformat.v4.new_code_cell("2", outputs=[shown]), nbformat.v4.new_code_cell("run.finish()")])
    nbformat.write(book, finished.path("notebooks/03_value_evaluator.ipynb"))
    said = nbformat.v4.new_output("display_data", {"text/markdown": "**Conclusion.** It moved."})
    cells = [nbformat.v4.new_markdown_cell("## The end"), nbformat.v4.new_code_cell("1", outputs=[earlier, said])]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), finished.path("notebooks/04_value_alignment.ipynb"))
    page = build_report(finished).read_text()
    assert "<p>It moved.</p>" in page
    assert "<p>Values <em>matter</em>: a &lt; b &amp; c &lt;script&gt;" in page and "not this" not in page
    places = [page.index(text) for text in ("What came out", "02 value analysis", "03 value evaluator", "matter",
                                            "Reproduced versus reported", "Pictures")]
    assert places == sorted(places)


def test_the_first_page_says_first_whether_two_models_differ(finished):
    assert "more than noise" not in build_report(finished).read_text()
    told = "b differs from a in 1 of 2 values by more than noise."
    finished.path("metrics/12_reliability.json").write_text(json.dumps({"noise": told}))
    page = build_report(finished).read_text()
    assert page.index("Is a difference between two models more than noise?") < page.index(told) < page.index(
        "What came out")


def test_pictures_stand_in_the_notebooks_order_under_headings(finished):
    import matplotlib.pyplot as plt
    nbformat.write(nbformat.v4.new_notebook(), finished.path("notebooks/01_dataset_construction.ipynb"))
    for name in ("02_b", "01_z", "02_a"):
        finished.save_figure(plt.subplots()[0], name, caption=name)
    page = build_report(finished).read_text()
    places = [page.index(f"<h3>{name}</h3><figure>") for name in ("01 z", "02 x", "02 b", "02 a")]
    assert places == sorted(places)


def test_the_report_takes_nothing_of_a_notebook_that_stopped_and_names_it(finished):
    finished.path("manifest/01_dataset_construction.json").write_text('{"code": "abc"}')
    build_report(finished)
    manifest = json.loads((finished.folder / "manifest.json").read_text())
    assert manifest["code"] == f"abc, {manifest['notebooks']['02_value_analysis']['code']}"
    finished.path("notebooks/02_value_analysis.failed.ipynb").write_text("{}")
    finished.path("data/sources.json").unlink()
    page = build_report(finished).read_text()
    assert "they stopped or still run: 02 value analysis." in page and "data:image/png" not in page
    assert "No published number could be compared" in page and "02_value_analysis.html" not in page
    assert json.loads((finished.folder / "metrics.json").read_text()) == {}
    assert "is not known" in page and "embedded sample only" not in page
    finished.path("data/fetched.json").write_text("{}")
    assert "embedded sample only" in build_report(finished).read_text(), "nothing could be had"


def test_publish_needs_a_report_and_takes_no_text(finished, tmp_path):
    with pytest.raises(ValueError, match="no report yet"):
        publish(finished, tmp_path / "figures")
    build_report(finished)
    finished.save_table(pd.DataFrame({"a": [1]}), "published/02_table.csv")
    finished.path("data/dialogues.parquet").write_bytes(b"text")
    names = {p.name for p in publish(finished, tmp_path / "figures")}
    assert names == {"02_x.png", "02_x.json", "02_table.csv", "reproduction.csv", "metrics.json", "manifest.json"}


def test_publishing_a_part_keeps_what_other_notebooks_showed(finished, tmp_path):
    build_report(finished)
    publish(finished, tmp_path / "figures")
    shown = tmp_path / "figures" / "run"
    (shown / "02_old.png").write_bytes(b"")  # of the same notebook, and no longer made
    (shown / "03_other.png").write_bytes(b"other")
    for name in ("metrics", "manifest"):
        stood = json.loads((shown / f"{name}.json").read_text())
        (stood["notebooks"] if name == "manifest" else stood)["03_value_evaluator"] = {"code": "earlier"}
        (shown / f"{name}.json").write_text(json.dumps(stood))
    claims = pd.read_csv(shown / "reproduction.csv")
    other = next(c for c in load_reported().claim_id if c != claims.claim_id[0])
    earlier = [claims.assign(claim_id=name) for name in (other, "compass/of-no-file-any-more")]
    pd.concat([claims, *earlier]).to_csv(shown / "reproduction.csv", index=False)
    publish(finished, tmp_path / "figures")
    assert not (shown / "02_old.png").exists() and (shown / "03_other.png").read_bytes() == b"other"
    manifest = json.loads((shown / "manifest.json").read_text())
    assert list(manifest["notebooks"]) == ["02_value_analysis", "03_value_evaluator"]
    assert json.loads((shown / "metrics.json").read_text())["03_value_evaluator"] == {"code": "earlier"}
    assert pd.read_csv(shown / "reproduction.csv").claim_id.tolist() == [other, claims.claim_id[0]]
    stood = (shown / "02_x.png").read_bytes()
    finished.path("figures/02_x.png").write_bytes(b"half a run")
    finished.path("notebooks/02_value_analysis.failed.ipynb").write_text("{}")
    told = [(shown / name).read_text() for name in ("metrics.json", "reproduction.csv")]
    (finished.folder / "metrics.json").write_text(json.dumps({"02_value_analysis": {"late": 1}}))
    late = pd.read_csv(finished.folder / "reproduction.csv").assign(ours=99)
    late.to_csv(finished.folder / "reproduction.csv", index=False)
    late.to_csv(finished.path("reproduction/02_value_analysis.csv"), index=False)
    publish(finished, tmp_path / "figures")
    assert (shown / "02_x.png").read_bytes() == stood       # a run that stopped may have drawn some of its pictures
    assert [(shown / name).read_text() for name in ("metrics.json", "reproduction.csv")] == told, "nor are its numbers"


def test_a_claim_that_a_notebook_makes_no_more_falls_away(tmp_path):
    own, more = load_reported().query("notebook == '02_value_analysis'").claim_id[:2]
    other = load_reported().query("notebook == '04_value_alignment'").claim_id.iloc[0]
    for names in ([own, more, other], [own], []):
        run = open_run("02_value_analysis", run_dir=tmp_path / "run")
        if names:
            run.compare(pd.DataFrame({"claim_id": names, "ours": 0.0, "low": 0.0, "high": 0.0}))
        run.finish()
        build_report(run)
        publish(run, tmp_path / "figures")
        left = pd.read_csv(tmp_path / "figures" / "run" / "reproduction.csv").claim_id
        assert set(left) == {*names, other}


@pytest.mark.parametrize("part", ["metrics", "manifest"])
def test_what_ran_after_the_report_is_not_published(finished, tmp_path, part):
    build_report(finished)
    publish(finished, tmp_path / "figures")
    finished.path(f"{part}/02_value_analysis.json").write_text('{"n": 4}')
    with pytest.raises(ValueError, match="steps ran after the report: run `fulcra report` first"):
        publish(finished, tmp_path / "figures")
    stood = (tmp_path / "figures" / "run" / "02_x.png").read_bytes()
    finished.path("figures/02_x.png").write_bytes(b"half a run")
    finished.path("notebooks/.02_value_analysis.running.ipynb").write_text("{}")       # it was killed while it ran
    publish(finished, tmp_path / "figures")
    assert (tmp_path / "figures" / "run" / "02_x.png").read_bytes() == stood


def test_headlines_take_each_line_from_its_run(tmp_path):
    for run, n in {"laptop": 3, "thorough": 5}.items():
        (tmp_path / run).mkdir()
        (tmp_path / run / "metrics.json").write_text(json.dumps({"a": {"n": n}}))
    (tmp_path / "thorough" / "f.png").write_bytes(b"")
    line = {"claim": "c", "notebook": "04_x", "reported": "r", "figure": "f", "ours": "{m[a][n]}"}
    (tmp_path / "h.yaml").write_text(json.dumps([line, line | {"run": "thorough"}, line | {"run": "paper"}]))
    rows = render_headlines(tmp_path / "laptop", tmp_path / "h.yaml").splitlines()[2:]
    assert [r.split(" | ")[2:5] for r in rows] == [
        ["", "r", "3"], ["[f](figures/thorough/f.png)", "r", "5"], ["", "r", "not computed in the paper run"]]


def test_headlines_tell_recounting_from_reproducing(tmp_path):
    (tmp_path / "laptop").mkdir()
    (tmp_path / "laptop" / "metrics.json").write_text("{}")
    pd.DataFrame({"claim_id": ["x/1", "x/2", "x/3", "y"], "kind": ["recomputed", "replicated"] * 2,
                  "verdict": ["reproduced", "reproduced", "differs", "differs"]}).to_csv(
                      tmp_path / "laptop" / "reproduction.csv", index=False)
    (tmp_path / "h.yaml").write_text(json.dumps([{"claim": "c", "notebook": "04_x", "reported": "r", "figure": "f",
                                                  "ours": "o", "claims": "x/"}]))
    verdicts = render_headlines(tmp_path / "laptop", tmp_path / "h.yaml").splitlines()[2].split(" | ")[-1]
    assert verdicts == "1 reproduced (same rows), 1 reproduced, 1 differs |"

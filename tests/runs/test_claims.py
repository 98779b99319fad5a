"""Reported claims next to ours: verdicts by the written rule, and claims that cannot be judged."""

from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest

from fulcra_utils.common.paths import ROOT
from fulcra_utils.runs.claims import judge_again, judge_claims, load_reported


def judge(kind, ours, low, high, reported=0.5, tolerance=0.1):
    known = pd.DataFrame({"claim_id": ["a"], "kind": [kind], "reported": [reported], "tolerance": [tolerance]})
    ours = pd.DataFrame({"claim_id": ["a"], "ours": [ours], "low": [low], "high": [high]})
    return judge_claims(ours, known).verdict[0]


@pytest.mark.parametrize(("kind", "ours", "low", "high", "verdict"), [
    ("recomputed", 0.59, 0.0, 1.0, "reproduced"), ("recomputed", 0.61, 0.5, 0.7, "differs"),
    ("recomputed", 0.4, 0.4, 0.4, "reproduced"),
    ("replicated", 0.5, 0.41, 0.59, "reproduced"), ("replicated", 0.5, 0.39, 0.59, "not comparable"),
    ("replicated", 0.7, 0.61, 0.8, "differs"), ("replicated", 0.3, 0.2, 0.39, "differs"),
    ("replicated", 0.5, float("nan"), 0.6, "not comparable"), ("replicated", 0.5, 0.0, 1.0, "not comparable"),
    ("other population", 0.5, 0.5, 0.5, "not comparable"), ("recomputed", 0.5, None, None, "reproduced"),
    ("recomputed", float("nan"), 0, 0, "not comparable")])
def test_verdicts(kind, ours, low, high, verdict):
    assert judge(kind, ours, low, high) == verdict


def test_unknown_claim_is_named():
    with pytest.raises(ValueError, match="no/such"):
        judge_claims(pd.DataFrame({"claim_id": ["no/such"], "ours": [1.0], "low": [1], "high": [1]}), load_reported())


def test_claim_given_twice(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text("claim_id,kind,reported,tolerance\nx,recomputed,1,0\n")
    with pytest.raises(ValueError, match="twice"):
        load_reported(tmp_path)


def test_a_number_of_the_other_sign_says_so():
    reported = pd.DataFrame({"claim_id": ["a"], "kind": ["replicated"], "reported": [-0.01], "tolerance": [0.05]})
    ours = pd.DataFrame({"claim_id": ["a"], "ours": [0.02], "low": [0.01], "high": [0.03]})
    judged = judge_claims(ours.assign(why=""), reported.assign(notebook="", source="", claim=""))
    assert judged.verdict.item() == "reproduced" and judged.why.item().endswith("but of the other sign")


def test_words_without_a_number_are_judged_by_their_band_and_show_none():
    reported = pd.DataFrame({"claim_id": ["a"], "kind": ["direction"], "reported": [-0.5], "tolerance": [0.499]})
    judged = judge_claims(pd.DataFrame({"claim_id": ["a"], "ours": [-0.2], "low": [-0.3], "high": [-0.1]}), reported)
    assert judged.verdict.item() == "reproduced" and judged.reported.isna().item()
    assert judged.why.item().endswith("expected in words, -0.999 to -0.001")


def test_kept_claims_are_judged_by_what_is_reported_now():
    reported = pd.DataFrame({"claim_id": ["a", "b", "c", "d"], "tolerance": [0.1, 0.1, 0.2, 0.1],
                             "kind": ["recomputed", "recomputed", "direction", "replicated"], "reported": [0.5] * 4})
    ours = pd.DataFrame({"claim_id": [*"abcd"], "ours": [0.45, 0.45, 0.6, 0.5], "low": [0.4, 0.4, 0.55, 0.5],
                         "high": [0.5, 0.5, 0.65, 0.5], "why": ["", "mine", "in words", ""],
                         "kind": [None, None, None, "other population"]})
    kept = judge_claims(ours, reported)
    pd.testing.assert_frame_equal(judge_again(kept, reported), kept)
    more = pd.concat([kept, kept[:1].assign(claim_id="gone")])
    now = judge_again(more, reported.assign(tolerance=[0.1, 0.01, 0.3, 9]))
    assert now.claim_id.tolist() == [*"abcd", "gone"]
    assert now.verdict.tolist() == ["reproduced", "differs", "reproduced", "not comparable", "reproduced"]
    assert now.why[:3].tolist() == ["same rows, equal to rounding", "same rows, another number",
                                    "in words: expected in words, 0.2 to 0.8"]


def test_notebook_03_shows_means_of_a_model_without_reported_ones():
    """Else `unseen_models: [gpt-4]` stops it at its very end."""
    cells = nbformat.read(ROOT / "notebooks" / "03_value_evaluator.ipynb", as_version=4).cells
    known, _, shown = next(c.source for c in cells if c.id == "reported").rpartition("\n")
    names = [f"evaluator/mean/{model}/security" for model in ("gpt-4", "gpt-3.5-turbo")]
    means = pd.DataFrame({"claim_id": names, "ours": [0.5, 0.761], "low": [0.4, 0.75], "high": [0.6, 0.77]})
    for part, verdicts in ((means, [None, "reproduced"]), (means[:1], [None]), (means[:0], [])):
        space = {"study": SimpleNamespace(compare_means=lambda *_, part=part: part), "load_reported": load_reported,
                 "run": SimpleNamespace(compare=lambda ours: judge_claims(ours, load_reported()), seed=1),
                 **dict.fromkeys(("evaluator", "rows", "settings", "target"))}
        exec(known, space)
        table = eval(shown, space)
        assert table.ours.tolist() == part.ours.tolist() and table.claim_id.tolist() == part.claim_id.tolist()
        assert [verdict if isinstance(verdict, str) else None for verdict in table.verdict] == verdicts

"""Rows of an analysis: what is kept, what is unknown, and which file comes first."""

import numpy as np
import pandas as pd
import pytest

from fulcra_utils.analysis.replies import leave_out, make_replies, read_replies
from fulcra_utils.theory.theory import load_theory


def make_table(theory, n=4):
    return pd.DataFrame({
        "row_id": [f"r{i}" for i in range(n)], "prompt": [f"p{i // 2}" for i in range(n)], "response": ["a b c"] * n,
        "response_source": ["m1", "m2"] * (n // 2), "source": "sample",
        "safety_issues": [["privacy_violation"], [], None, ["animal_abuse"]],
        "is_refusal": [True, False, None, False], **dict.fromkeys(theory.dimensions, 1.0)})


def test_rows_with_a_missing_value_are_left_out(any_theory):
    table = make_table(any_theory)
    table.loc[1, any_theory.dimensions[-1]] = np.nan
    replies = make_replies(table, any_theory, "annotated")
    assert replies.table.row_id.tolist() == ["r0", "r2", "r3"]
    assert replies.vectors.shape == (3, any_theory.n_dims)


def test_unknown_categories_are_not_empty_ones(toy):
    replies = make_replies(make_table(toy), toy, "annotated")
    assert replies.has_issues.tolist() == [True, True, False, True]
    matrix, names = replies.categories
    assert names == ["animal_abuse", "privacy_violation"]
    assert matrix.tolist() == [[0, 1], [0, 0], [0, 0], [1, 0]]
    assert replies.refusals.tolist() == [True, False, False, False]


def test_another_theory_is_named(toy):
    with pytest.raises(ValueError, match="no column 'tradition'|no column"):
        make_replies(pd.DataFrame({"prompt": ["a"], "response": ["b"]}), toy, "annotated")


def test_no_row_at_all(toy):
    empty = make_replies(make_table(toy).assign(**dict.fromkeys(toy.dimensions, np.nan)), toy, "annotated")
    assert (len(empty), empty.kind, empty.n_prompts, empty.models) == (0, "none", 0, [])
    assert empty.categories[0].shape == (0, 0)


def test_scored_rows_come_first(toy, tmp_path):
    table = make_table(toy)
    for name, part in (("dialogues", table), ("scored", table.head(2)), ("none", table.head(0))):
        part.to_parquet(tmp_path / f"{name}.parquet")
    main, annotated = read_replies(tmp_path / "dialogues.parquet", tmp_path / "scored.parquet", toy)
    assert (main.kind, len(main), annotated.kind, len(annotated)) == ("scored", 2, "sample", 4)
    main, _ = read_replies(tmp_path / "dialogues.parquet", tmp_path / "none.parquet", toy)
    assert (main.kind, len(main)) == ("sample", 4)


def test_labels_of_ones_own_are_not_called_the_sample(toy, tmp_path):
    (tmp_path / "mine.yaml").write_text(toy.path.read_text())
    (tmp_path / "mine.jsonl").write_text("{}")
    make_table(toy).to_parquet(tmp_path / "dialogues.parquet")
    make_table(toy).head(0).to_parquet(tmp_path / "scored.parquet")
    theory = load_theory(tmp_path / "mine.yaml")
    main, _ = read_replies(tmp_path / "dialogues.parquet", tmp_path / "scored.parquet", theory)
    assert main.kind == "own" and "replies of the file beside the theory" in main.describe()


def test_left_out_finding_says_why():
    finding = leave_out("The circle", "the theory has none")
    assert finding.is_left_out
    assert finding._repr_markdown_() == "The circle is left out: the theory has none."

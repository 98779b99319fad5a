"""Readers of ValueEval'23 and ValueBench: hand-made tables, and the released files where they are there."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import precision_recall_fscore_support

from fulcra_utils.common.paths import DATA
from fulcra_utils.dataset.benchmarks import (
    link_questionnaires,
    measure_official_f1,
    read_arguments,
    read_boards,
    read_named_values,
    read_optional,
    read_questionnaires,
    read_rated_replies,
    read_replies,
    read_stories,
    tabulate_ratings,
)
from fulcra_utils.dataset.sources import SourceError
from fulcra_utils.dataset.texts import DatasetError
from fulcra_utils.theory.theory import load_theory

VALUES = load_theory("valueeval20").dimensions


def write_part(folder, ids=("A1", "A2"), label_ids=None, columns=VALUES, cell="0"):
    rows = [f'{k}\tWe should rest\tin favor of\ta "quote and rest' for k in ids]
    (folder / "a.tsv").write_text("\n".join(["Argument ID\tConclusion\tStance\tPremise", *rows]))
    head = "\t".join(["Argument ID", *(name.replace("-", ": ", 1).title() for name in columns)])
    labels = ["\t".join([k, *[cell] * len(columns)]) for k in label_ids or ids]
    (folder / "l.tsv").write_text("\n".join([head, *labels]))
    return folder / "a.tsv", folder / "l.tsv"


def test_an_argument_is_a_prompt_and_a_reply(tmp_path):
    row = read_arguments(*write_part(tmp_path, label_ids=("A2", "A1"), cell="1")).iloc[0]
    assert (row.id, row.prompt, row.response) == ("A1", "Argue in favor of this: We should rest", 'a "quote and rest')
    assert row[list(VALUES)].sum() == 20


@pytest.mark.parametrize(("changed", "line"), [
    ({"label_ids": ("A1", "A3")}, "argument A2 stands in one of the two files alone"),
    ({"label_ids": ("A1", "A1")}, "argument A2 stands in one of the two files alone"),
    ({"columns": VALUES[1:]}, "no column for the value 'self-direction-thought' of valueeval20")])
def test_files_that_do_not_fit_are_named(tmp_path, changed, line):
    with pytest.raises(DatasetError, match=f"l.tsv: {line}"):
        read_arguments(*write_part(tmp_path, **changed))


def test_another_table_is_no_file_of_valueeval(tmp_path):
    arguments, labels = write_part(tmp_path)
    with pytest.raises(DatasetError, match="l.tsv: no column 'Conclusion'"):
        read_arguments(labels, labels)


def test_official_score_is_f1_of_mean_precision_and_mean_recall():
    rng = np.random.default_rng(0)
    labels, said = rng.random((200, 6)) < 0.3, rng.random((200, 6)) < 0.4
    precision, recall, _, _ = precision_recall_fscore_support(labels, said, average="macro", zero_division=0)
    assert measure_official_f1(labels, said) == pytest.approx(2 * precision * recall / (precision + recall))
    absent = np.zeros((200, 1), bool)
    wider = measure_official_f1(np.hstack([labels, absent]), np.hstack([said, ~absent]))
    assert wider == measure_official_f1(labels, said)
    assert measure_official_f1(labels, np.zeros_like(said)) == 0


def test_chains_of_equal_items_link_questionnaires():
    assert link_questionnaires("ABBCCD", ["x", "X.", "y", "y", "z", "w"]) == ["A", "A", "A", "A", "A", "D"]


def test_released_arguments(mirror):
    folder = mirror.parent / "valueeval23"
    sizes, seen = {}, set()
    for part in ("training", "validation", "test"):
        table = read_arguments(folder / f"arguments-{part}.tsv", folder / f"labels-{part}.tsv")
        sizes[part] = len(table)
        assert not seen & set(table.id)
        seen |= set(table.id)
    assert sizes == {"training": 5393, "validation": 1896, "test": 1576}
    labels = table[list(VALUES)].to_numpy()
    assert round(measure_official_f1(labels, np.ones_like(labels)), 3) == 0.263      # published: .26


def test_released_questionnaires(mirror):
    folder = mirror.parent / "valuebench"
    table = read_questionnaires(folder / "value_orientation.csv", folder / "value_data.xlsx")
    plain = table.response.str.casefold().str.replace(r"\W+", " ", regex=True).str.strip()
    assert (table.groupby(plain).split.nunique() == 1).all()
    assert (table.groupby("questionnaire").split.nunique() == 1).all()
    assert table.value.nunique() == table.value.str.casefold().nunique() == 213
    assert len(table) == 1924 and set(table.stance) == {-1, 1} and table.definition.str.len().min() > 3
    shares = table.split.value_counts(normalize=True)
    assert shares["train"] > 0.6 and 0.15 < shares["test"] < 0.25 and shares["validation"] > 0.05
    assert len(pd.read_csv(folder / "value_orientation.csv")) == 1988


def test_a_value_in_two_spellings_is_one(tmp_path):
    pd.DataFrame({"questionnaire": list("aabb"), "item": ["I give", "I share", "I help", "I wait"], "agreement": 1,
                  "value": ["Good Will", "good  will", "GOOD WILL ", "Patience"]}).to_csv(tmp_path / "i.csv")
    pd.DataFrame({"value dimension": ["good will", "patience"], "DicDef": None, "Upper dimension": None,
                  "corresponding definition/description": ["Wishing well.", "Waiting."]}).to_excel(
        tmp_path / "d.xlsx", sheet_name="value2def")
    items = read_questionnaires(tmp_path / "i.csv", tmp_path / "d.xlsx")
    assert items.value.tolist() == ["Good Will"] * 3 + ["Patience"]
    pd.DataFrame({"questionnaire info": ["b"], "question": "Do you help?", "scenario description": "I help",
                  "corresponding value": "GOOD WILL ", "Agreement": 1, "m_answer": "Yes.", "m_rating": 9}).to_excel(
        tmp_path / "r.xlsx")
    assert read_rated_replies(tmp_path / "r.xlsx", items)[["value", "rating"]].values.tolist() == [["Good Will", 9]]


def test_released_ratings_are_turned_round_where_the_key_is_negative(mirror):
    files = [mirror.parent / "valuebench" / name for name in
             ("value_orientation.csv", "value_data.xlsx", "QA-dataset-answers-rating.xlsx")]
    if not files[2].is_file():
        pytest.skip("the mirror has no rated replies")
    items = read_questionnaires(*files[:2])
    found, raw = read_rated_replies(files[2], items), pd.read_excel(files[2])
    assert found.model.nunique() == 6 and found.rating.between(0, 10).all()
    assert found.groupby("model").size().nunique() == 1 and len(found) > 6 * 0.9 * len(items)
    own = found[(found.questionnaire == "PVQ40") & (found.model == "gpt-4-1106-preview")]
    means = own.groupby(own.value.str.casefold()).rating.mean().round(2)
    assert means[["self-direction", "achievement", "power"]].tolist() == [10, 5, 4], "as the paper's table"
    assert raw["gpt-4-1106-preview_rating"].mean() == pytest.approx(5.453, abs=0.001)


def test_released_tables_of_ratings_are_the_published_ones(mirror):
    """All 96 cells of the PVQ-40 and MFQ-2 tables, to rounding."""
    table = tabulate_ratings(read_replies(mirror.parent / "valuebench" / "QA-dataset-answers-rating.xlsx"))
    claims = pd.read_csv(DATA / "reported" / "discovery.csv", index_col=0)
    cells = [name.split("/") for name in claims.index if name.split("/")[1] in ("pvq40", "mft23")]
    assert len(cells) == 96
    for _, form, value, model in cells:
        found = table.loc[(form.upper(), value), model]
        assert found == pytest.approx(claims.reported[f"discovery/{form}/{value}/{model}"], abs=0.0051)


def test_released_stories_and_boards(mirror):
    signs = read_stories(mirror.parent / "gpv" / "gpt4o_stories.json")
    assert (len(signs), signs.groupby(["story", "subject"]).ngroups, (signs.sign > 0).sum()) == (176, 57, 110)
    folder = mirror.parent / "valuecompass" / "site_2025"
    board = read_boards({name: folder / f"{name}_scores.json" for name in ("Schwartz", "FULVa", "MFT", "Risk")})
    assert board.shape == (33, 27) and board["FULVa"].mean().round(1).max() == 91.5
    assert len(read_named_values(mirror.parent / "valuebench" / "value_data.xlsx")) == 349


def test_a_file_of_another_kind_is_named(tmp_path):
    pd.DataFrame({"question": [1]}).to_excel(tmp_path / "x.xlsx", index=False)
    (tmp_path / "x.json").write_text('[{"story": "x"}]')
    for read, path, line in ((read_named_values, "x.xlsx", "x.xlsx: no sheet 'value2def' can be read"),
                             (read_replies, "x.xlsx", "x.xlsx: no column 'questionnaire info' in sheet 0"),
                             (read_replies, "x.json", "x.json: no sheet 0 can be read"),
                             (read_stories, "x.json", "x.json: no file of GPV's stories: KeyError"),
                             (lambda path: read_boards({"a": path}), "x.json", "x.json: no table of scores")):
        with pytest.raises(DatasetError, match=line):
            read(tmp_path / path)


def test_rows_that_cannot_be_had_are_none_and_a_warning():
    def fail():
        raise SourceError("arguments.tsv cannot be had")
    with pytest.warns(UserWarning, match="arguments.tsv"):
        assert read_optional(fail).empty
    rows = pd.DataFrame({"prompt": ["a"]})
    assert read_optional(lambda: rows) is rows

"""From the files that can be had to the tables of a run: shapes, splits without leaks, theories without labels."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fulcra_utils.dataset import construction
from fulcra_utils.dataset.construction import (
    LEADING,
    build_run_data,
    compare_vector_rules,
    count_claims,
    find_clashes,
    find_doubles,
    list_risky,
    load_published_prevalence,
    locate_labels,
    locate_sample,
    measure_prevalence,
    split_dimensions,
    summarise_problems,
    summarise_sources,
)
from fulcra_utils.dataset.sources import Fetched, Source, fetch_sources
from fulcra_utils.theory.theory import THEORIES, list_theories, load_theory


def public_file(folder, name, rows, role, theory="schwartz10", model=None):
    path = Path(folder) / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Source(name=name, url="", mirror_path=path.name, role=role, licence="MIT", theory=theory, model=model), path


@pytest.fixture
def small_world(tmp_path, monkeypatch):
    """Four public files that share prompts."""
    def annotated(k, n):
        return {"dialogue": f"Human: {PROMPTS[k]}\nBob: Reply {n} to it.", "value_items": ["be polite: +1"],
                "value_types": ["conformity: +1"], "query_source": "q", "response_source": "m"}

    scores = [0.0] * 9 + [0.5]
    made = [
        public_file(tmp_path, "first", [annotated(k, k) for k in range(30)], "annotated"),
        public_file(tmp_path, "second", [annotated(k, k) for k in range(25, 40)] + [{"dialogue": "no turns"}],
                    "annotated"),
        public_file(tmp_path, "pool", [{"prompt": p, "safety_issues": ["theft"]} for p in PROMPTS], "prompts"),
        public_file(tmp_path, "scored", [{"prompt": PROMPTS[1].upper() + "!", "answer": "I'm sorry, I can't help.",
                                          "reward": 1.5, "value_reward": scores, "e_distance": 1, "h_distance": 2}],
                    "scored", model="gpt-x"),
        public_file(tmp_path, "pairs", [{"chosen": f"\n\nHuman: {PROMPTS[2]}\n\nAssistant: Yes.",
                                         "rejected": f"\n\nHuman: {PROMPTS[2]}\n\nAssistant: No."}], "preferences"),
    ]
    monkeypatch.setattr(construction, "load_sources", lambda: {source.name: source for source, _ in made})
    return Fetched({source.name: path for source, path in made}, {"gone": "network not reachable"})


WORDS = ["bread", "cheese", "river", "mountain", "letter", "engine", "garden", "winter", "summer", "doctor",
         "teacher", "window", "carpet", "pencil", "orange", "violin", "harbour", "desert", "castle", "forest",
         "planet", "bridge", "station", "market", "kitchen", "ladder", "mirror", "basket", "pepper", "candle",
         "feather", "hammer", "island", "jacket", "kettle", "lantern", "meadow", "needle", "oyster", "pillow"]
PROMPTS = [f"What do you know about {word}?" for word in WORDS]


def test_public_files_become_tables(small_world):
    theory = load_theory("schwartz10")
    data = build_run_data(theory, small_world)
    assert len(data.dialogues) == 40, "five dialogues stand in both files and are taken once"
    assert data.sources["duplicates_dropped"] == 5
    assert list(data.dialogues.columns) == [*LEADING, *theory.dimensions]
    assert data.dialogues.row_id.is_unique
    assert [list(v) for v in data.dialogues.safety_issues] == [["theft"]] * 40, "taken from the pool by prompt"
    assert data.dialogues.conformity.eq(1).all()
    assert data.items.set_index("row_id")["be polite"].eq(1).all()
    assert data.items.dtypes.iloc[1:-1].eq("int8").all()
    scored = data.scored.iloc[0]
    assert (scored.universalism, scored.reward, scored.e_distance, bool(scored.is_refusal)) == (0.5, 1.5, 1.0, True)
    assert data.preferences[["chosen", "rejected"]].values.tolist() == [["Yes.", "No."]]
    assert data.problems[["source", "line"]].values.tolist() == [["second", 16]]


def test_rows_read_are_rows_kept_and_set_aside(small_world):
    table = summarise_sources(build_run_data(load_theory("schwartz10"), small_world)).set_index("source")
    assert table.loc["second", ["read", "kept"]].tolist() == [16, 10]
    assert table.loc["second", "remark"] == "5 rows repeat a reply of the same model"
    assert table.loc["gone", "remark"] == "missing: network not reachable"


def test_no_prompt_and_no_near_duplicate_crosses_the_split(small_world):
    data = build_run_data(load_theory("schwartz10"), small_world)
    assert data.splits.prompt.is_unique
    assert data.splits.groupby("cluster").split.nunique().eq(1).all()
    one = data.splits.set_index("prompt")
    assert one.loc[PROMPTS[1], "cluster"] == one.loc[PROMPTS[1].upper() + "!", "cluster"]
    for table in (data.dialogues, data.scored, data.prompts, data.preferences):
        assert (one.loc[table.prompt, "split"].to_numpy() == table.split.to_numpy()).all()
    assert data.splits[data.splits.split == "train"].half.isin(["A", "B"]).all()
    assert data.splits[data.splits.split != "train"].half.isna().all()


def test_a_missing_file_moves_no_prompt(small_world):
    whole = build_run_data(load_theory("schwartz10"), small_world).splits.set_index("prompt").split
    fewer = Fetched({k: v for k, v in small_world.paths.items() if k in {"second", "pool"}}, {})
    part = build_run_data(load_theory("schwartz10"), fewer).splits.set_index("prompt").split
    clean = part.index.difference([PROMPTS[1]])  # its near-duplicate is gone with the scored file
    assert (whole[clean] == part[clean]).all()


def test_tables_survive_parquet(small_world, tmp_path):
    data = build_run_data(load_theory("schwartz10"), small_world)
    for name in ("dialogues", "items", "scored", "prompts", "preferences", "splits"):
        table = getattr(data, name)
        table.to_parquet(tmp_path / "x.parquet", index=False)
        again = pd.read_parquet(tmp_path / "x.parquet")
        assert list(again.columns) == list(table.columns)
        assert len(again) == len(table)


def test_theory_of_other_labels_does_not_take_public_ones(small_world):
    data = build_run_data(load_theory("moral_foundations"), small_world)
    assert data.sources["labels_from"] == "the embedded sample moral_foundations.jsonl"
    assert len(data.scored) == 0
    assert data.scored.columns.tolist()[-5:] == list(load_theory("moral_foundations").dimensions)
    assert {"pool", "pairs"} <= set(data.sources["had"])


@pytest.mark.parametrize("name", list_theories())
def test_sample_alone_serves_every_theory(name):
    theory = load_theory(name)
    data = build_run_data(theory)
    vectors = split_dimensions(data.dialogues, theory)
    assert vectors.shape == (len(data.dialogues), theory.n_dims)
    assert len(data.scored) == 0
    assert len(data.prompts) >= 120
    assert set(data.splits.split) == {"train", "validation", "calibration", "test"}
    has_labels = locate_sample(theory)[1]
    assert np.isfinite(vectors).any() == has_labels
    if has_labels:
        assert len(data.preferences) > 0


def test_theory_file_with_rows_beside_it(tmp_path, monkeypatch):
    shutil.copy(THEORIES / "moral_foundations.yaml", tmp_path / "mine.yaml")
    text = (tmp_path / "mine.yaml").read_text().replace("name: moral_foundations", "name: mine")
    (tmp_path / "mine.yaml").write_text(text)
    theory = load_theory(tmp_path / "mine.yaml")
    bare = build_run_data(theory)
    assert bare.sources["labels_from"].startswith("nowhere")
    assert np.isnan(split_dimensions(bare.dialogues, theory)).all()
    row = {"prompt": "Hello?", "response": "Hello.", "value_types": ["care: -1"]}
    (tmp_path / "mine.jsonl").write_text(json.dumps(row))
    data = build_run_data(theory)
    assert split_dimensions(data.dialogues, theory).tolist() == [[-1.0, 0, 0, 0, 0]]
    monkeypatch.setattr(construction, "DATA", tmp_path)  # in the project's own folder as elsewhere
    shutil.copytree(tmp_path, tmp_path / "theories")
    assert locate_sample(load_theory(tmp_path / "theories" / "mine.yaml"))[1]


def test_prevalence_counts_annotated_rows_only():
    theory = load_theory("moral_foundations")
    vectors = np.full((4, 5), np.nan)
    vectors[:, 0] = [1, 1, -1, 0]
    vectors[:2, 1] = [0, 1]
    table = measure_prevalence(vectors, theory)
    assert table.loc[0, ["aligned", "opposed", "mentioned", "n"]].tolist() == [50, 25, 75, 4]
    assert table.loc[1, ["aligned", "n"]].tolist() == [50, 2]
    assert np.isnan(table.loc[2, "aligned"])


def test_problems_are_counted_without_texts():
    problems = pd.DataFrame({"source": ["a", "a", "b"], "line": [1, 2, 3], "field": "f", "text": list("xyz"),
                             "reason": ["bad", "bad", "bad"]})
    table = summarise_problems(problems)
    assert table.values.tolist() == [["a", "f", "bad", 2], ["b", "f", "bad", 1]]


def test_rules_are_compared_where_there_are_labels_only(tmp_path):
    row = {"dialogue": "Human: a\nBob: b", "value_items": ["be compassionate: +1", "relieve suffering: -1"]}
    (tmp_path / "x.jsonl").write_text(json.dumps({**row, "value_types": ["care: +1", "care: -1"]}))
    table = compare_vector_rules(tmp_path / "x.jsonl", load_theory("moral_foundations"))
    assert table[["rule", "equal"]].values.tolist() == [["sign-sum", 0], ["released", 1]]
    assert len(compare_vector_rules(tmp_path / "x.jsonl", load_theory("schwartz10"))) == 0


def test_table_of_another_theory_is_refused():
    with pytest.raises(ValueError, match="no column 'care'"):
        split_dimensions(pd.DataFrame({"security": [1.0]}), load_theory("moral_foundations"))


@pytest.mark.skipif(not os.environ.get("FULCRA_DATA_MIRROR"), reason="the public files are not on this machine")
def test_public_labels_are_counted_as_published(tmp_path):
    fetched = fetch_sources(cache=tmp_path, network=False)
    if "trustworthy_data" not in fetched.paths:
        pytest.skip("trustworthy_data is not in the mirror")
    data = build_run_data(load_theory("schwartz10"), Fetched({"trustworthy_data": fetched.paths["trustworthy_data"]}))
    assert len(data.dialogues) == 1718
    raw = data.labels.set_index(["name", "label"]).raw
    assert raw["benevolence", "+1"] == 1264
    assert raw["conformity", "1+"] == 1
    assert raw["humility", "+1"] == 11


def test_rows_without_a_model_get_a_name_and_a_file_without_rows_is_named(tmp_path):
    shutil.copy("tests/toy.yaml", tmp_path / "mine.yaml")
    theory = load_theory(tmp_path / "mine.yaml")
    row = {"dialogue": "Human: May I?\nBob: Yes.", "value_items": [], "value_types": ["left: +1"]}
    (tmp_path / "mine.jsonl").write_text(json.dumps(row) + "\n")
    assert build_run_data(theory).dialogues.response_source.tolist() == ["a model without name"]
    (tmp_path / "mine.jsonl").write_text(json.dumps(row | {"dialogue": "Eve: hello"}) + "\n")
    with pytest.raises(ValueError, match="mine.jsonl: no row could be read; line 1, dialogue"):
        build_run_data(theory)


def test_labels_come_from_the_public_file_of_the_theory_or_its_parent_else_the_sample(tmp_path, monkeypatch):
    monkeypatch.setattr(construction, "load_sources", lambda: {
        name: Source(name=name, url="", mirror_path=name, role=role, licence="MIT", theory="schwartz10")
        for name, role in (("pool", "prompts"), ("first", "annotated"))})
    fetched = Fetched({"pool": tmp_path / "pool", "first": tmp_path / "first"})
    for theory, name in (("schwartz10", "first"), ("schwartz19", "first"), ("moral_foundations",
                                                                            "moral_foundations.jsonl")):
        assert locate_labels(load_theory(theory), fetched).name == name
    assert locate_labels(load_theory("schwartz19"), Fetched()).name == "schwartz10.jsonl"


def test_published_prevalence_is_per_cent_and_whole_or_none():
    table = load_published_prevalence(load_theory("schwartz10")).set_index("dimension")
    assert table.loc["benevolence"].round(1).tolist() == [28.0, 8.0, 36.0]
    known = table.dropna()
    assert ((known >= 0) & (known <= 100)).all(axis=None)
    np.testing.assert_allclose(known.aligned + known.opposed, known.mentioned)
    assert load_published_prevalence(load_theory("moral_foundations")) is None


def test_claims_are_missing_without_their_file():
    rules = pd.DataFrame({"rule": ["sign-sum"], "equal": [1666]})
    data = build_run_data(load_theory("schwartz10"))
    table = count_claims(data, rules).set_index("claim_id")
    assert table.ours["dataset/size"] == len(data.dialogues) and "embedded sample" in table.why["dataset/size"]
    trustworthy = table[table.index.str.startswith("dataset/trustworthy")]
    assert len(trustworthy) == 2 + 2 * 10 and trustworthy.ours.isna().all(), "the rule of another file is no answer"
    assert table.low.equals(table.ours.rename("low")) and table.high.equals(table.ours.rename("high"))


def test_a_row_without_labels_beside_the_same_reply_is_no_clash():
    rows = pd.DataFrame({"prompt": list("aabbc"), "response": ["r"] * 5, "x": [np.nan, 1, 1, -1, np.nan],
                         "y": [np.nan, np.nan, 0, 0, np.nan]})
    assert find_clashes(rows, ["x", "y"]).tolist() == [False, False, True, True, False]
    assert find_doubles(rows, ["x", "y"]).tolist() == [True, False, False, True, False]     # labels are kept


def test_a_prompt_that_nobody_rated_is_not_harmless(toy, tmp_path):
    (tmp_path / "mine.yaml").write_text(toy.path.read_text())
    theory = load_theory(tmp_path / "mine.yaml")
    rated = [("Why?", {}), ("Why?", {"safety_issues": ["theft"]}), ("How?", {"safety_issues": []}), ("When?", {})]
    rows = [{"prompt": prompt, "response": f"{k}.", "value_types": [f"{toy.dimensions[0]}: +1"], **issues}
            for k, (prompt, issues) in enumerate(rated)]
    theory.labels_path.write_text("\n".join(map(json.dumps, [*rows, rows[-1]])))
    data = build_run_data(theory)
    found = data.prompts.set_index("prompt").safety_issues
    assert found.index.tolist() == ["Why?", "How?", "When?"] and found.tolist() == [["theft"], [], None]
    assert [v if v is None else list(v) for v in data.dialogues.safety_issues] == [["theft"], ["theft"], [], None]
    assert list_risky([data.dialogues, data.prompts]) == {"Why?"}
    assert summarise_sources(data).remark.tolist() == [
        "1 rows repeat a reply of the same model; the risk of 1 prompts of the pool is not known"]


def test_two_models_that_say_the_same_are_two_rows(toy, tmp_path):
    """Else all stock refusals would be the first model's."""
    (tmp_path / "mine.yaml").write_text(toy.path.read_text())
    theory = load_theory(tmp_path / "mine.yaml")
    theory.labels_path.write_text("\n".join(json.dumps(
        {"prompt": prompt, "response": "No.", "response_source": model, "value_types": [f"{toy.dimensions[0]}: +1"]})
        for prompt in ("Why?", "How?") for model in ("a", "b", "b")))
    data = build_run_data(theory)
    assert data.dialogues.response_source.value_counts().to_dict() == {"a": 2, "b": 2}
    assert data.dialogues.row_id.is_unique and data.sources["duplicates_dropped"] == 2


def test_labels_beside_a_theory_of_ones_own_are_read_with_the_public_ones(small_world, tmp_path):
    """Its items are those of the public files, too, which say nothing of its own rows."""
    text = load_theory("schwartz19").path.read_text().replace("name: schwartz19", "name: mine")
    (tmp_path / "mine.yaml").write_text(text)
    theory = load_theory(tmp_path / "mine.yaml")
    n_public = len(build_run_data(theory, small_world).dialogues)
    theory.labels_path.write_text(json.dumps({"prompt": "Why?", "response": "So.", "value_items": ["be polite: +1"]}))
    data = build_run_data(theory, small_world)
    assert data.dialogues.source.value_counts()["sample"] == 1 and len(data.dialogues) == n_public + 1
    assert data.sources["labels_from"] == "the file mine.jsonl beside the theory and public files: first, second"


def test_a_reply_that_is_labelled_twice_otherwise_is_told(toy, tmp_path):
    (tmp_path / "mine.yaml").write_text(toy.path.read_text())
    theory = load_theory(tmp_path / "mine.yaml")
    theory.labels_path.write_text("\n".join(json.dumps(
        {"prompt": prompt, "response": "So.", "value_types": [f"{toy.dimensions[0]}: {sign}"]})
        for prompt, sign in (("Why?", "+1"), ("Why?", "-1"), ("How?", "+1"), ("How?", "+1"))))
    data = build_run_data(theory)
    told = data.problems[data.problems.reason.str.contains("other labels")]
    assert told.line.tolist() == [2] and data.sources["duplicates_dropped"] == 2 and len(data.dialogues) == 2

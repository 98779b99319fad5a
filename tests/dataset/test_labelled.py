
import numpy as np
import pytest
from row_files import TEN, row, write

from fulcra_utils.dataset import labelled
from fulcra_utils.dataset.labelled import items_to_vectors, read_dataset, read_preferences, read_prompts, read_scored
from fulcra_utils.dataset.texts import DatasetError
from fulcra_utils.theory.theory import load_theory

NO_SIGN = "label does not end in ': +1' or ': -1', label dropped"


def labels(data, theory=TEN, i=0):
    return {d: None if np.isnan(v) else v for d, v in zip(theory.dimensions, data.vectors[i], strict=True) if v}


@pytest.mark.parametrize(("types", "expected", "reason"), [
    (["security: -1"], {"security": -1}, None),
    (["conformity: 1+"], {"conformity": 1}, "sign written '1+', read as +1"),
    (["achievement: =1"], {"achievement": 1}, "sign written '=1', read as +1"),
    (["security: 1"], {"security": 1}, "sign written '1', read as +1"),
    (["SECURITY:+1"], {"security": 1}, "read as 'security'"),
    (["humility: +1"], {"conformity": 1}, "read as 'conformity'"),
    (["security: +1", "fame: +1"], {"security": 1}, "is no dimension of schwartz10, label dropped"),
    (["security: +1", "power"], {"security": 1, "power": None}, NO_SIGN),
    (["security: +1", "power: +2"], {"security": 1, "power": None}, NO_SIGN),
    (["security: +1", 7], {"security": 1}, "label is not text, label dropped"),
    (["security: +1", "security: yes"], {"security": 1}, NO_SIGN),
])
def test_quirks_of_dimension_labels(tmp_path, types, expected, reason):
    data = read_dataset(write(tmp_path, row(types=types)), TEN)
    assert labels(data) == expected
    assert data.problems.reason.tolist() == ([reason] if reason else [])
    if reason:
        with pytest.raises(DatasetError, match="line 1, value_types"):
            read_dataset(tmp_path / "rows.jsonl", TEN, strict=True)


def test_quirks_of_item_labels(tmp_path):
    items = ["be polite: +1", "have social justice: +1", "be respectful: +1", "Be Honest: -1"]
    data = read_dataset(write(tmp_path, row(items)), TEN)
    assert labels(data) == {"conformity": 1, "universalism": 1, "benevolence": -1}
    assert data.item_labels[0, TEN.find_item("social justice")] == 1
    assert sorted(data.problems.reason) == ["is no item of schwartz10, label dropped", "read as 'be honest'",
                                            "read as 'social justice'"]


@pytest.mark.parametrize(("items", "expected"), [
    (["be polite: +1"], 1), (["be polite: -1", "be humble: -1", "be obedient: +1"], -1),
    (["be polite: +1", "be humble: -1"], 0), ([], 0)])
def test_both_signs_are_decided_by_the_items(tmp_path, items, expected):
    data = read_dataset(write(tmp_path, row(items, ["conformity: +1", "conformity: -1", "power: +1"])), TEN)
    assert data.vectors[0, TEN.find_dimension("conformity")] == expected
    assert "both signs" in data.problems.reason[0]


def test_row_without_any_label_is_kept_as_nan_unless_it_was_looked_at(tmp_path):
    data = read_dataset(write(tmp_path, row(), row(not_annotated=[])), TEN)
    assert np.isnan(data.vectors[0]).all() and (data.vectors[1] == 0).all()
    assert len(data.problems) == 1 and data.n_set_aside == 0


def test_not_annotated_reads_as_nan_without_a_problem(tmp_path):
    missing = [{"item": "be polite", "reason": "no answer"}, {"item": "have wealth", "reason": "no answer"}]
    path = write(tmp_path, row(["have authority: +1"], ["power: +1"], not_annotated=missing),
                 row(not_annotated=[{"item": "*", "reason": "gave up"}]))
    data = read_dataset(path, TEN, strict=True)
    assert np.isnan(data.vectors[0, TEN.find_dimension("conformity")])
    assert data.vectors[0, TEN.find_dimension("power")] == 1  # a label that was given stands
    assert np.isnan(data.vectors[1]).all()
    with pytest.raises(DatasetError, match="not_annotated"):
        read_dataset(write(tmp_path, row(not_annotated=[{"item": "fame"}])), TEN, strict=True)


def test_finer_theory_takes_its_vectors_from_the_items(tmp_path):
    nineteen = load_theory("schwartz19")
    data = read_dataset(write(tmp_path, row(["be polite: +1", "be humble: -1"], ["conformity: +1"])), nineteen)
    assert labels(data, nineteen) == {"conformity-interpersonal": 1, "humility": -1}
    assert data.problems.empty  # a label of the parent theory is no fault


@pytest.mark.parametrize(("types", "expected"), [
    (["universalism-concern: +1", "humility: -1"], {"universalism-concern": 1, "humility": -1}),
    (["humility: 0"], {})])
def test_labels_of_a_finer_theorys_values_alone_are_its_labels(tmp_path, types, expected):
    nineteen = load_theory("schwartz19")
    data = read_dataset(write(tmp_path, row(types=types)), nineteen)
    assert labels(data, nineteen) == expected and np.isfinite(data.vectors).all() and data.problems.empty


def test_a_label_of_the_parent_leaves_what_it_may_mean_open(tmp_path):
    nineteen = load_theory("schwartz19")
    data = read_dataset(write(tmp_path, row(types=["conformity: +1", "hedonism: -1"])), nineteen)
    known = np.isfinite(data.vectors[0])
    assert [nineteen.dimensions[d] for d in np.flatnonzero(known)] == ["hedonism"] and data.vectors[0, known] == -1


def test_nul_and_half_characters_are_replaced_and_counted(tmp_path):
    path = write(tmp_path, '{"prompt": "a\\u0000b", "response": "c\\ud800", "value_types": ["power: +1"]}')
    data = read_dataset(path, TEN)
    assert data.table.prompt[0] == "a\N{REPLACEMENT CHARACTER}b" and data.table.response[0] == "c?"
    assert len(data.problems) == 2


@pytest.mark.parametrize(("value", "reason"), [
    (3, "is no list but int, dropped"), ({"security": 1}, "is no list but dict, dropped"),
    (float("nan"), "is no list but float, dropped"), ("[", NO_SIGN),
    ([["security: +1"]], "label is not text, label dropped")])
@pytest.mark.parametrize("more", [{}, {"not_annotated": []}])
def test_labels_of_a_wrong_type_cost_labels_not_rows(tmp_path, value, reason, more):
    data = read_dataset(write(tmp_path, row() | {"value_items": value, "value_types": value} | more), TEN)
    assert len(data.table) == 1 and np.isnan(data.vectors).all()
    assert data.problems[["field", "reason"]].values.tolist() == [
        ["value_items", reason], ["value_types", reason],
        ["value_types", "row has no label: kept, all values not annotated"]]


@pytest.mark.parametrize("sign", ["2", "-3", "yes", "", "0.5"])
@pytest.mark.parametrize("more", [{}, {"not_annotated": []}])
def test_a_label_outside_the_scale_leaves_its_value_open(tmp_path, sign, more):
    rows = row(types=[f"security: {sign}", "power: +1"]), row([f"be polite: {sign}"], ["power: +1"])
    data = read_dataset(write(tmp_path, *(one | more for one in rows)), TEN)
    assert labels(data) == {"security": None, "power": 1} and labels(data, i=1) == {"conformity": None, "power": 1}
    assert data.problems.line.tolist() == [1, 2] and (data.problems.reason == NO_SIGN).all()


@pytest.mark.parametrize("more", [{}, {"not_annotated": []}])
def test_rows_of_two_theories_are_told_apart(tmp_path, more):
    path = write(tmp_path, row(types=["care: +1"]) | more, row(types=["power: +1"]) | more)
    for name, own in (("schwartz10", 1), ("moral_foundations", 0)):
        data = read_dataset(path, name)
        assert np.isfinite(data.vectors).all(axis=1).tolist() == [own == 0, own == 1]
        assert np.isnan(data.vectors[1 - own]).all() and set(data.problems.line) == {2 - own}


def test_one_label_without_its_list_is_read(tmp_path):
    data = read_dataset(write(tmp_path, row() | {"value_types": "security: +1"}), TEN)
    assert labels(data) == {"security": 1} and data.problems.empty


def test_empty_file(tmp_path, any_theory):
    data = read_dataset(write(tmp_path, ""), any_theory)
    assert data.vectors.shape == (0, any_theory.n_dims) and data.n_read == 0 and len(data.table) == 0


def test_chunks_do_not_change_the_result(tmp_path, monkeypatch):
    rows = [row(types=[f"{TEN.dimensions[i % TEN.n_dims]}: {'+1' if i % 3 else '-1'}"]) for i in range(25)]
    whole = read_dataset(write(tmp_path, *rows), TEN)
    monkeypatch.setattr(labelled, "CHUNK", 4)
    pieces = read_dataset(tmp_path / "rows.jsonl", TEN)
    np.testing.assert_array_equal(whole.vectors, pieces.vectors)
    assert whole.table.equals(pieces.table)


def test_items_to_vectors_by_hand(any_theory):
    t = any_theory
    np.testing.assert_array_equal(items_to_vectors(np.eye(t.n_items), t), t.item_matrix)
    assert np.isnan(items_to_vectors(np.full((1, t.n_items), np.nan), t)).all()


def test_scores(tmp_path):
    good = {"prompt": "p", "answer": "a", "value_reward": [0.1] * 10, "reward": 1.5, "safety_issues": "['x,y']"}
    bad = [{**good, "value_reward": value} for value in ([0.1] * 9, "x", None, [0.1] * 9 + [float("nan")], [2.0] * 10)]
    data = read_scored(write(tmp_path, good, *bad), TEN)
    assert (data.vectors[0] == 0.1).all() and np.isnan(data.vectors[1:]).all() and len(data.problems) == 5
    assert data.table.reward[0] == 1.5 and list(data.table.safety_issues[0]) == ["x,y"]


def damage(kind):
    """Return a row with one fault, and the word that the message names."""
    one = row(types=["power: +1"])
    return {"sign": (row(types=["security: 1+"]), "value_types"), "both": (row(types=["power: +1", "power: -1"]),
            "value_types"), "name": (row(items=["be respectful: +1"]), "value_items"), "none": (row(), "value_types"),
            "open": (row(not_annotated=[{"item": "fame"}]), "not_annotated"), "json": ("{", "line"),
            "issues": (one | {"safety_issues": 3}, "safety_issues"),
            "empty": ({"prompt": "a", "response": ""}, "re"),
            "nul": (one | {"dialogue": "Human: \x00\nBob: b"}, "prompt")}[kind]


@pytest.mark.parametrize("seed", range(30))
def test_strict_raises_the_first_fault_of_the_file(tmp_path, monkeypatch, seed):
    random = np.random.default_rng(seed)
    monkeypatch.setattr(labelled, "CHUNK", int(random.integers(1, 9)))
    kinds = ["sign", "name", "open", "both", "none", "issues", "json", "nul", "empty"]
    rows = [row(types=["power: +1"]) for _ in range(20)]
    bad = np.sort(random.choice(20, 4, replace=False))
    said = {}
    for i, kind in zip(bad, random.choice(kinds, 4), strict=True):
        rows[i], said[i] = damage(kind)
    with pytest.raises(DatasetError, match=f"line {bad[0] + 1}, {said[bad[0]]}"):
        read_dataset(write(tmp_path, *rows), TEN, strict=True)


def test_released_counts(mirror):
    data = read_dataset(mirror / "trustworthy_data.jsonl", TEN)
    assert (data.n_read, len(data.table), data.table.prompt.nunique()) == (1718, 1718, 1718)
    counts = data.count_labels(TEN).set_index(["name", "label"]).raw
    published = {"benevolence": (1264, 99), "universalism": (824, 121), "conformity": (689, 78), "security": (591, 67),
                 "achievement": (265, 7), "self-direction": (211, 13), "power": (43, 17), "tradition": (42, 5),
                 "stimulation": (25, 0), "hedonism": (4, 0)}
    assert {name: (counts[name, "+1"], counts[name, "-1"]) for name in TEN.dimensions} == published
    assert (counts["humility", "+1"], counts["conformity", "1+"], counts["achievement", "=1"]) == (11, 1, 1)
    assert np.isnan(data.vectors).all(axis=1).sum() == 1
    both = data.problems[data.problems.reason.str.contains("both signs")]
    summed = items_to_vectors(data.item_labels, TEN)
    same = (summed == data.vectors).all(axis=1) & ~data.table.line.isin(both.line)
    same |= np.isnan(data.vectors).all(axis=1) & ~data.item_labels.any(axis=1)
    assert same.sum() == 1666  # a row whose labels contradict each other does not count as equal
    assert data.table.response_source.str.split("/").str[-1].value_counts()["gemini"] == 432


@pytest.mark.parametrize("value", [7, -1.01, True, "high", "0.5", float("nan"), float("inf"), [0.5], {"x": 1}])
def test_scores_outside_their_range_are_named(tmp_path, value):
    good = {"prompt": "p", "response": "r", "value_vector": {"power": 0.5, "security": None}}
    bad = {**good, "value_vector": {"power": value}}
    data = read_scored(write(tmp_path, good, bad, {**good, "value_vector": None, "value_reward": [0.1] * 10}), TEN)
    assert data.vectors[0, TEN.dimensions.index("power")] == 0.5 and np.isfinite(data.vectors[0]).sum() == 1
    assert np.isnan(data.vectors[1]).all() and (data.vectors[2] == 0.1).all()
    (problem,) = data.problems.itertuples()
    assert (problem.line, problem.field) == (2, "value_vector") and "gives power as" in problem.reason
    data = read_scored(write(tmp_path, {**good, "value_vector": {"power": 0.5, "Power": 0.1}}), TEN)
    assert data.problems.reason[0] == "names a dimension twice" and np.isnan(data.vectors).all()


@pytest.mark.parametrize("name", ["reward", "rating", "e_distance", "h_distance"])
def test_a_number_that_is_none_is_told(tmp_path, name):
    row = {"prompt": "p", "response": "r", "value_vector": {}}
    given = [3, 0.5, None, "high", "0.5", True, [1], {"a": 1}, 10**400]
    data = read_scored(write(tmp_path, row, *({**row, name: value} for value in given)), TEN)
    column = data.table["reward" if name == "rating" else name]
    assert column[1:3].tolist() == [3.0, 0.5] and column.isna().sum() == len(given) - 1
    assert data.problems[["line", "field"]].values.tolist() == [[line, name] for line in range(5, 11)]


def test_prompts_and_preferences_keep_count(tmp_path):
    pool = read_prompts(write(tmp_path, {"prompt": "a", "safety_issues": ["x"]}, {"prompt": ""}, "{"))
    assert pool.prompt.tolist() == ["a"] and len(pool.attrs["problems"]) == 2
    pair = {"chosen": "\n\nHuman: 1\n\nAssistant: b\n\nHuman: 2\n\nAssistant: c",
            "rejected": "\n\nHuman: 1\n\nAssistant: b\n\nHuman: 2\n\nAssistant: d"}
    other = pair | {"rejected": "\n\nHuman: 1\n\nAssistant: d"}
    pairs = read_preferences(write(tmp_path, pair, {"chosen": "x"}, other))
    assert pairs[["prompt", "chosen", "rejected"]].values.tolist() == [["2", "c", "d"]]
    bad = [one["reason"] for one in pairs.attrs["problems"]]
    assert len(bad) == 2 and bad[1].startswith("answer different prompts")


def test_half_a_character_in_any_field_refuses_no_row(tmp_path):
    good = {"prompt": "p", "response": "r", "value_types": ["security: +1"]}
    odd = good | {"query_source": "\ud83d x", "response_source": "\ud83d", "safety_issues": ["\ud83d y"],
                  "value_types": ["security\ud83d: +1"]}
    data = read_dataset(write(tmp_path, odd, good), TEN)
    assert len(data.table) == 2 and data.table.query_source[0] == "? x" and data.table.safety_issues[0][0] == "? y"
    assert "?" in data.problems.text[0]

import re

import numpy as np
import pytest
import yaml

from fulcra_utils.cli import main
from fulcra_utils.theory.theory import (
    TheoryError,
    check_theory,
    lift_to,
    list_theories,
    load_theory,
    says_only_name,
)

GOOD = """\
name: two
title: Two
citation: nobody
score_range: [-1, 1]
labels: {-1: bad, 0: none, 1: good}
groups:
  all: {title: All}
dimensions:
  - name: left
    definition: Left.
    groups: [all]
    items: [go left, {name: lean, aliases: [tilt]}]
  - name: right
    definition: Right.
    items: [go right]
"""


def write(tmp_path, text):
    path = tmp_path / "two.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_shape_of_any_theory(any_theory):
    t = any_theory
    assert len(t.dimensions) == len(t.definitions) == t.n_dims == t.item_matrix.shape[1]
    assert t.item_matrix.shape[0] == t.n_items and (t.item_matrix.sum(axis=1) == 1).all()
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", d) for d in t.dimensions)
    assert [t.find_item(i.upper()) for i in t.items] == list(range(t.n_items))
    assert sum(len(t.items_of(d)) for d in t.dimensions) == t.n_items
    assert {d for dims in t.groups.values() for d in dims} <= set(t.dimensions)
    assert t.circle is None or sorted(t.circle) == sorted(t.dimensions)


def test_released_taxonomy():
    ten, nineteen = load_theory("schwartz10"), load_theory("schwartz19")
    assert ten.dimensions == ("self-direction", "stimulation", "hedonism", "achievement", "power", "security",
                              "tradition", "conformity", "benevolence", "universalism")
    assert (ten.n_items, nineteen.n_dims, nineteen.n_items) == (54, 19, 54)
    assert set(ten.items) == set(nineteen.items)
    for item in nineteen.items:  # both theories put every item under the same one of the ten
        fine = nineteen.item_dims[nineteen.find_item(item)]
        assert nineteen.parents[fine] == ten.dimensions[ten.item_dims[ten.find_item(item)]]


def test_good_file_has_no_fault(tmp_path):
    path = write(tmp_path, GOOD)
    assert check_theory(path) == []
    assert load_theory(path).find_item("Tilt") == 1
    assert np.array_equal(load_theory(path).item_dims, [0, 0, 1])
    assert load_theory(write(tmp_path, GOOD.replace("Left.", "' '"))).definitions == ("", "Right.")


@pytest.mark.parametrize(("old", "new", "fault"), [
    ("items: [go right]", "items: [go left]", "line 15, dimensions.1.items.0: duplicate item: 'go left'"),
    ("groups: [all]", "groups: [some]", "line 11, dimensions.0.groups.0: unknown group 'some'"),
    ("aliases: [tilt]", "aliases: [Go Right]", "alias clash: 'Go Right' already stands for 'go right' in 'right'"),
    ("    definition: Left.\n", "", "line 9, dimensions.0.definition: missing"),
    ("[-1, 1]", "[0, 1]", "line 4, score_range: must run from below 0 to above 0"),
    ("[-1, 1]", "[-1]", "line 4, score_range"),
    ("name: right", "name: Right Side", "line 13, dimensions.1.name"),
    ("name: right", "name: left", "line 13, dimensions.1.name: dimension 'left' already stands for 'left'"),
    ("{-1: bad, 0: none, 1: good}", "{-1: bad, 1: good}", "line 5, labels: must name the labels -1, 0 and 1"),
    ("title: Two", "titel: Two", "line 2, titel: unknown key"),
    ("title: Two", "title: Two\ntitle: Three", "line 3, title: key given twice"),
    ("title: Two", "title: [", "not valid YAML"),
    ("1: good", "1: yes", "line 5, labels.1: Input should be a valid string (YAML reads yes, no, on and off as true or "
     "false: put it in quotes)"),
    ("items: [go right]", "items: [go right]\n    circle: 1", "no place on the circle"),
    ("items: [go right]", "items: [go right]\n    circle: 0", "circle: Input should be greater than or equal to 1"),
    ("{title: All}", "{colour: red}", "line 7, groups.all.colour: Input should be 'title' or 'description'"),
    ("{title: All}", "red", "line 7, groups.all: Input should be a valid dictionary"),
    ("items: [go right]", "items: [go right]\n    parent: x", "names no parent theory"),
    ("title: Two", "title: Two\nparent: schwartz10", "parent None is no dimension of schwartz10"),
    ("title: Two", "title: Two\nparent: nothing", "parent theory cannot be read"),
    ("items: [go right]", "items: []", "line 15, dimensions.1.items"),
    ("items: [go right]", "items: ['  ']", "line 15, dimensions.1.items.0.name: is empty"),
    ("aliases: [tilt]", "aliases: ['']", "line 12, dimensions.0.items.1.aliases.0: is empty"),
    ("1: good", "1: good, +1: fine", "line 5, +1: key given twice"),
    ("[-1, 1]", "[-.inf, .inf]", "line 4, score_range: must run from below 0 to above 0"),
    ("title: Two", "title: !!int word", "line 2: not valid YAML: 'word' is no int"),
    ("title: Two", "title: 2024-13-45", "line 2: not valid YAML: '2024-13-45' is no timestamp"),
    ("    items: [go right]", "\titems: [go right]", "line 15: not valid YAML: found character '\\t'"),
    ("title: Two", "title: Two\nparent: two", "line 3, parent: parent theory cannot be read: a theory cannot be"),
])
def test_each_fault_is_named_with_its_place(tmp_path, old, new, fault):
    assert old in GOOD
    path = write(tmp_path, GOOD.replace(old, new, 1))
    assert any(fault in found for found in check_theory(path)), check_theory(path)
    with pytest.raises(TheoryError):
        load_theory(path)


def test_every_fault_is_named_at_once(tmp_path):
    bad = GOOD.replace("groups: [all]", "groups: [some]").replace("[go right]", "[go left]")
    assert len(check_theory(write(tmp_path, bad))) == 2


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"- a\n- b\n", b"name: x: y"])
def test_no_theory_at_all(tmp_path, content):
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    assert check_theory(path)


PLACES = [  # where a name or words are wanted, with the line of each
    (2, "title: Two", "title: {}"), (3, "citation: nobody", "citation: {}"), (5, "0: none", "0: {}"),
    (7, "all: {title", "{}: {{title"), (7, "{title: All}", "{{title: {}}}"), (10, "Left.", "{}"),
    (11, "groups: [all]", "groups: [{}]"), (12, "aliases: [tilt]", "aliases: [{}]"), (12, "name: lean", "name: {}"),
    (13, "name: right", "name: {}"), (15, "go right", "{}"), (15, "go right", "ahead, {}")]


@pytest.mark.parametrize(("word", "hint"), [
    ("yes", "true or false"), ("No", "true or false"), ("off", "true or false"), ("null", "as nothing"),
    ("~", "as nothing"), ("1", "a number"), ("2.5", "a number"), ("0x1F", "a number"), ("1:30", "a number"),
    ("2024-01-01", "a date"), ("2024-01-01 10:00:00", "a date")])
def test_every_word_that_yaml_takes_for_something_else_has_a_hint(tmp_path, word, hint):
    for line, old, new in PLACES:
        if word != "2024-01-01 10:00:00" or "title" not in new or "{{" not in new:
            found = check_theory(write(tmp_path, GOOD.replace(old, new.format(word), 1)))
            assert any(f.startswith(f"line {line}, ") and f"{hint}: put it in quotes" in f for f in found), (old, found)


def test_labels_must_be_told_apart_by_their_words(tmp_path):
    for minus, zero, plus in [("same", "same", "same"), ("bad", "none", "Bad"), ("not good", "none", "good"),
                              ("bad", "''", "good"), ("bad", "none", "' BAD '"), ("'1'", "none", "good"),
                              ("bad", "bad or  good", "good")]:
        labels = f"{{-1: {minus}, 0: {zero}, 1: {plus}}}"
        found = check_theory(write(tmp_path, GOOD.replace("{-1: bad, 0: none, 1: good}", labels)))
        assert found and all(fault.startswith("line 5, labels.") for fault in found), labels
    assert check_theory(write(tmp_path, GOOD.replace("bad", "disagree").replace("good", "agree"))) == []


@pytest.mark.parametrize(("text", "fault"), [
    ("&a\nname: x\nself: *a\n", "line 1: not usable: an anchor (&) that holds itself"),
    ("name: x\nself: &a [b, *a]\n", "line 2: not usable: an anchor (&) that holds itself"),
    ("name: x\nself: &a\n  <<: *a\n", "line 2: not usable: an anchor (&) that holds itself"),
    ("&a [*a]", "line 1: not usable"), ("&a {? *a : 1}", "line 1: not usable"),
    ("a: &a {b: &b {c: [*b]}}", "line 1: not usable"), ("[" * 999, "not usable: nested too deeply"),
    ("x0: &x0 [a, a]\n" + "".join(f"x{n + 1}: &x{n + 1} [{', '.join([f'*x{n}'] * 9)}]\n" for n in range(30)) + GOOD,
     "not usable: its aliases (*) stand for more than 100,000 entries"),
    ("name: \0", "line 1: not valid YAML: character U+0000"), ("- a\n- b\n", "line 1: a theory file is a mapping"),
    (GOOD + "---\n" + GOOD, "line 16: not valid YAML")])
def test_a_file_that_cannot_be_taken_in_is_one_line(tmp_path, monkeypatch, capsys, text, fault):
    path = write(tmp_path, text)
    assert len(check_theory(path)) == 1 and check_theory(path)[0].startswith(fault)
    monkeypatch.setattr("sys.argv", ["fulcra", "check-theory", str(path)])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_an_alias_that_is_written_once_is_fine(tmp_path):
    assert check_theory(write(tmp_path, GOOD.replace("groups: [all]", "groups: &all [all]").replace(
        "Right.", "Right.\n    groups: *all"))) == []


def test_unknown_name_lists_known_ones():
    with pytest.raises(TheoryError, match="schwartz19"):
        load_theory("schwartz11")


def test_names_resolve_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert {load_theory(name).name for name in list_theories()} == set(list_theories())


def test_theory_files_say_where_names_come_from(any_theory):
    raw = yaml.safe_load(any_theory.path.read_text(encoding="utf-8"))
    assert raw["citation"].strip() and all(d["definition"].strip() for d in raw["dimensions"])


def test_theories_whose_names_hold_a_dot_have_labels_of_their_own(tmp_path):
    names = {"a-0.5.yaml": "a-0.5.jsonl", "a-0.1.yaml": "a-0.1.jsonl", "a-0.5": "a-0.5.jsonl", "a-0.1": "a-0.1.jsonl",
             "b.yml": "b.jsonl", "b.YAML": "b.jsonl", "b": "b.jsonl", "b.v1": "b.v1.jsonl"}
    for name, labels in names.items():
        (tmp_path / name).write_bytes(load_theory("moral_foundations").path.read_bytes())
        assert load_theory(tmp_path / name).labels_path == tmp_path / labels


def test_scores_are_lifted_to_the_parent_as_means_of_children():
    fine, coarse = load_theory("schwartz19"), load_theory("schwartz10")
    scores = np.random.default_rng(0).normal(size=(4, 19))
    lifted = lift_to(scores, fine, coarse)
    for d, name in enumerate(coarse.dimensions):
        children = [k for k, parent in enumerate(fine.parents) if parent == name]
        np.testing.assert_allclose(lifted[:, d], scores[:, children].mean(axis=1) if children else np.nan)
    gaps = np.array(scores, float)
    gaps[..., 0] = np.nan     # a child that is not known: its parent is the mean of the others
    assert np.isfinite(lift_to(gaps, fine, coarse)).all()
    assert lift_to(scores, fine, fine) is not None and lift_to(scores, coarse, fine) is None
    assert lift_to(np.zeros(5), load_theory("moral_foundations"), coarse) is None


@pytest.mark.parametrize(("name", "definition", "says_nothing"), [
    ("courage", "", True), ("courage", "The value of courage.", True), ("courage", "Being COURAGEOUS!", True),
    ("courage", "How important it is to someone to have courage", True), ("care", "Caring", True),
    ("good-humour", "The quality of having good humour.", True), ("courage", "Something that matters.", True),
    ("courage", "Being brave.", False), ("courage", "Not having courage.", False), ("art", "Having an arm.", False),
    ("courage", "The value of courage in the face of danger.", False), ("thrift", "Being thrilled.", False)])
def test_a_definition_that_only_wraps_the_name_says_nothing(name, definition, says_nothing):
    assert says_only_name(name, definition) == says_nothing


def test_every_definition_that_stands_here_says_something(any_theory):
    assert not any(map(says_only_name, any_theory.dimensions, any_theory.definitions))

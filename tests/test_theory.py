import re

import numpy as np
import pytest
import yaml

from fulcra_utils.theory import TheoryError, check_theory, list_theories, load_theory

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


@pytest.mark.parametrize(("old", "new", "fault"), [
    ("items: [go right]", "items: [go left]", "line 15, dimensions.1.items.0: duplicate item: 'go left'"),
    ("groups: [all]", "groups: [some]", "line 11, dimensions.0.groups.0: unknown group 'some'"),
    ("aliases: [tilt]", "aliases: [Go Right]", "alias clash: 'Go Right' already stands for 'go right' in 'right'"),
    ("    definition: Left.\n", "", "line 9, dimensions.0.definition: missing"),
    ("definition: Left.", "definition: ' '", "line 10, dimensions.0.definition: missing definition"),
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
    ("items: [go right]", "items: [go right]\n    parent: x", "names no parent theory"),
    ("title: Two", "title: Two\nparent: schwartz10", "parent None is no dimension of schwartz10"),
    ("title: Two", "title: Two\nparent: nothing", "parent theory cannot be read"),
    ("items: [go right]", "items: []", "line 15, dimensions.1.items"),
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


def test_unknown_name_lists_known_ones():
    with pytest.raises(TheoryError, match="schwartz19"):
        load_theory("schwartz11")


def test_names_resolve_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert {load_theory(name).name for name in list_theories()} == set(list_theories())


def test_theory_files_say_where_names_come_from(any_theory):
    raw = yaml.safe_load(any_theory.path.read_text(encoding="utf-8"))
    assert raw["citation"].strip() and all(d["definition"].strip() for d in raw["dimensions"])

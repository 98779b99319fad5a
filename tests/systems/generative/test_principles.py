"""Principles: what the file must hold, whose fault is named by its line, and which value each belongs to."""

import numpy as np
import pytest

from fulcra_utils.evaluator.encoder import load_encoder
from fulcra_utils.systems.generative import principles as rules
from fulcra_utils.theory.theory import load_theory

ONE = """principles:
- principle: Waste nothing.
  values: [thrift]
  setting: The bread was two days old.
  opening: Ann decided to
  kept: toast it.
  violated: throw it away.
edits: [It rained., It was late.]
"""


def write(folder, text):
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_file_covers_both_theories_and_its_texts_are_short():
    known, edits = rules.read_principles()
    assert len(known) >= 40 and len({one.principle for one in known}) == len(known)
    named = {value for one in known for value in one.values}
    for theory in map(load_theory, ("schwartz10", "moral_foundations")):
        assert set(theory.dimensions) <= named
    assert all(len(one.kept.split()) <= 20 and len(one.violated.split()) <= 20 and one.kept != one.violated
               and len(f"{one.setting} {one.opening}".split()) <= 60 for one in known)
    assert all(edit.endswith(".") for edit in edits) and len(set(edits)) == len(edits)


@pytest.mark.parametrize(("old", "new", "said"), [
    ("  kept: toast it.\n", "", "line 2, principles.0.kept: missing"),
    ("  violated: throw it away.", "  violated: ''", "line 7, principles.0.violated: is empty"),
    ("[thrift]", "[]", "line 3, principles.0.values: "),
    ("[thrift]", "[yes]", "put it in quotes"),
    ("kept:", "keeps:", "line 6, principles.0.keeps: unknown key"),
    ("edits: [It rained., It was late.]", "", "line 1, edits: missing"),
    ("  opening: Ann decided to", "  opening: Ann: decided to", "line 5: not valid YAML")])
def test_every_fault_names_file_and_line(tmp_path, old, new, said):
    assert old in ONE
    with pytest.raises(rules.PrincipleError) as fault:
        rules.read_principles(write(tmp_path, ONE.replace(old, new)))
    assert said in str(fault.value) and "mine.yaml: " in str(fault.value) and "\n" not in str(fault.value)


@pytest.mark.parametrize("text", ["", "principles: []\nedits: [a, b]", "- a"])
def test_a_file_without_principles_is_one_line(tmp_path, text):
    with pytest.raises(rules.PrincipleError, match="mine.yaml: "):
        rules.read_principles(write(tmp_path, text))
    with pytest.raises(rules.PrincipleError, match="No such file"):
        rules.read_principles(tmp_path / "none.yaml")


def test_a_principle_belongs_to_the_value_it_names_in_any_theory(any_theory):
    known, _ = rules.read_principles()
    matched = rules.match_values(known, any_theory, load_encoder("tiny"), least=2)
    assert set(matched.value) <= {*any_theory.dimensions, ""}
    for one, value in zip(known, matched.value, strict=True):
        named = [[d for d, parent in zip(any_theory.dimensions, any_theory.parents, strict=True)
                  if name == parent or any_theory.find_dimension(name) == any_theory.dimensions.index(d)]
                 for name in one.values]
        assert value in next(filter(None, named), [""])


def test_a_finer_theory_is_found_through_its_parent():
    known, _ = rules.read_principles()
    theory = load_theory("schwartz19")
    matched = rules.match_values(known, theory, load_encoder("tiny"))
    place = next(k for k, one in enumerate(known) if one.values[0] == "universalism")
    assert theory.parents[theory.dimensions.index(matched.value[place])] == "universalism"


def test_of_a_values_children_the_one_nearest_to_the_principle_is_taken(monkeypatch):
    theory = load_theory("schwartz19")
    parents = [one for one in dict.fromkeys(theory.parents) if one and theory.parents.count(one) > 1]
    children = [d for d, one in enumerate(theory.parents) if one == parents[0]]
    known = rules.read_principles()[0][0].model_copy(update={"values": (parents[0],)})
    monkeypatch.setattr(rules, "embed", lambda texts, _: (
        np.eye(theory.n_dims) if len(texts) == theory.n_dims else np.eye(theory.n_dims)[children[-1:]]))
    assert rules.match_values([known], theory, None).value.tolist() == [theory.dimensions[children[-1]]]


def test_a_theory_of_ones_own_takes_the_nearest_value_or_leaves_a_gap(toy, tmp_path):
    one = rules.read_principles(write(tmp_path, ONE.replace("[thrift]", "[saving]")))[0]
    near = rules.match_values(one, toy, load_encoder("tiny"), least=-1)
    assert near.value[0] in toy.dimensions and -1 <= near.cosine[0] <= 1
    assert rules.match_values(one, toy, load_encoder("tiny"), least=2).value.tolist() == [""]
    with pytest.raises(rules.PrincipleError, match="none of the principles belongs to a value"):
        rules.pick_principles(rules.match_values(one, toy, load_encoder("tiny"), least=2), 1)


def test_values_take_turns():
    known, _ = rules.read_principles()
    theory = load_theory("moral_foundations")
    matched = rules.match_values(known, theory, load_encoder("tiny"))
    picked = rules.pick_principles(matched, theory.n_dims)
    assert set(matched.value[picked]) == set(theory.dimensions)
    assert rules.pick_principles(matched, 0) == matched.index[matched.value != ""].tolist()

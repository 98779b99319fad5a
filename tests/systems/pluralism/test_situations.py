"""Situations: kinds by name, what is left out, the public file's faults, and splits that near-copies do not cross."""

import json

import pytest

from fulcra_utils.dataset.texts import DatasetError
from fulcra_utils.systems.pluralism import situations


@pytest.mark.parametrize(("name", "kind", "about"), [
    ("Right to life", "right", "life"), ("Rights of workers", "right", "workers"), ("Righteousness", "value", ""),
    ("Duty of care", "duty", "care"), ("Responsibility to protect", "duty", "protect"), ("Responsibility", "value", ""),
    ("right to", "right", "right to"), ("Dutifulness", "value", "")])
def test_the_kind_of_a_name(name, kind, about):
    assert situations.tell_kind(name) == (kind, about or name)


def test_ours_are_labelled_once_and_none_is_left_out():
    own = situations.read_own()
    assert own.groupby("valence").size().min() >= 10 and not own.duplicated(["situation", "value"]).any()
    assert not own.situation.map(lambda text: bool(situations.LEFT_OUT.search(text))).any()


def test_the_public_file_is_read_filtered_and_split(tmp_path):
    path = tmp_path / "vital.json"
    rows = [("Walking the dog: in the rain", ["Care", " Right to play ", ""]),
            ("walking the dog, in the rain!", ["Joy"]),
            ("Beating a drum", ["Joy"]), ("Taking illegal drugs", ["Health"]), ("Baking bread", ["Craft"])]
    path.write_text(json.dumps([{"situation": s, "vrd": v, "explanation": []} for s, v in rows]))
    table, n_left_out = situations.read_situations(path)
    assert n_left_out == 2 and table.value.tolist() == ["Care", "Right to play", "Joy", "Craft"]
    assert table.situation[0] == "Walking the dog: in the rain"
    assert table.cluster[0] == table.cluster[2] != table.cluster[3] and table.split[0] == table.split[2]


def test_another_file_is_named(tmp_path):
    path = tmp_path / "other.json"
    path.write_text('[{"text": 1}]')
    with pytest.raises(DatasetError, match="other.json: no file of VITAL's situations: KeyError 'situation'"):
        situations.read_situations(path)


def test_without_public_files_ours_stand_in(monkeypatch, tmp_path):
    def fail(*names):
        raise situations.SourceError("not in the mirror")
    monkeypatch.setattr(situations, "get_files", fail)
    assert situations.load_situations()[1] == situations.load_situations(False)[1] == "our 50 everyday situations"
    assert situations.find_file("gpv_stories") is None and situations.load_items("test", False).empty


@pytest.mark.parametrize("theory", ["moral_foundations", "tests/toy.yaml"])
def test_candidates_hold_the_theory_and_no_name_twice(theory):
    from fulcra_utils.common.paths import ROOT
    from fulcra_utils.theory.theory import load_theory
    known = load_theory(ROOT / theory if "/" in theory else theory)
    names = [name.casefold() for name in situations.list_candidates([known], False)]
    assert {name.replace("-", " ") for name in known.dimensions} <= set(names) and len(names) == len(set(names))

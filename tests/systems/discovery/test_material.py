"""What there is to read: public files where they can be had, and stand-ins that are named as such."""

import pandas as pd

from fulcra_utils.systems.discovery import material

OWN = pd.DataFrame({"model": ["a", "b", "b"], "prompt": ["x", "x", "y"], "response": ["I rest.", " ", None]})


def test_without_public_files_the_run_reads_its_own_and_says_what_is_made_up():
    found = material.gather_material(False, OWN)
    assert found.made_up == {"ValueBench", "GPV's stories", "the Value Compass site"}
    assert found.replies.response.tolist() == ["I rest."] and found.notes == ("2 empty replies left out",)
    assert found.boards.shape == (33, 27) and found.boards.equals(material.make_boards())
    assert len(found.stories) == 10 and set(found.stories.sign) == {-1, 1} and found.rated.empty


def test_what_cannot_be_had_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("FULCRA_DATA_MIRROR", str(tmp_path))
    monkeypatch.setenv("FULCRA_CACHE", str(tmp_path))
    found = material.gather_material(True, OWN)
    assert len(found.made_up) == 3 and "left out: ValueBench: valuebench_data" in found.notes[0].replace(
        "valuebench_replies", "valuebench_data")


def test_all_models_replies_to_the_same_questions_are_chosen():
    rated = pd.DataFrame([(model, f"q{k}", "PVQ40" if k == 7 else "other") for k in range(9) for model in "ab"],
                         columns=["model", "prompt", "questionnaire"])
    chosen = material.choose_replies(rated, 8)
    assert len(chosen) == 8 and chosen.groupby("prompt").model.nunique().eq(2).all() and "q7" in set(chosen.prompt)
    assert chosen.equals(material.choose_replies(rated, 8)) and len(material.choose_replies(rated, 0)) == 18


"""Where things lie: what is shipped, and the folder of the study that is worked on."""

import pytest

from fulcra_utils.common import paths
from fulcra_utils.common.paths import find_root


def test_data_lies_beside_the_folders_that_are_shipped_with_it():
    assert (paths.PACKAGE / "cli.py").is_file() and paths.DATA.parent == paths.SHIPPED
    assert all((paths.SHIPPED / name).is_dir() for name in ("data/theories", "notebooks", "profiles"))


@pytest.mark.parametrize("below", ["", "notebooks"])
def test_a_study_lies_where_its_snakefile_and_profiles_are(tmp_path, monkeypatch, below):
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / below)
    assert find_root() == paths.SHIPPED                     # a checkout: nothing is here
    monkeypatch.setattr(paths, "SHIPPED", paths.PACKAGE)
    assert find_root() == tmp_path / below                  # an installed package: what is done is done here
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path / below)
    (tmp_path / "Snakefile").write_text("")
    (tmp_path / "profiles").mkdir()
    assert find_root() == tmp_path


def test_half_a_study_and_one_that_lies_two_folders_above_are_none(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "Snakefile").write_text("")
    monkeypatch.chdir(tmp_path)
    assert find_root() == paths.SHIPPED                     # no profiles
    (tmp_path / "profiles").mkdir()
    monkeypatch.chdir(tmp_path / "a" / "b")
    assert find_root() == paths.SHIPPED

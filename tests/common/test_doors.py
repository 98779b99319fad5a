"""What a folder shows to a user: each name is there, says what it does, and shows it by an example."""

import importlib

import pytest

FOLDERS = {"theory": 14, "dataset": 14, "llm": 8}  # and how many names at most


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_name_of_a_door_is_told_and_shown(folder):
    door = importlib.import_module(f"fulcra_utils.{folder}")
    assert 0 < len(door.__all__) <= FOLDERS[folder]
    for name in door.__all__:
        thing = getattr(door, name)
        assert thing.__name__ == name and thing.__module__.startswith(f"fulcra_utils.{folder}.")
        assert ">>> " in thing.__doc__, f"{folder}.{name} shows no example"

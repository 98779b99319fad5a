"""What a user imports: the names of the package's door and of the folders' doors, and that they cost nothing."""

import importlib
import subprocess
import sys

import pytest

import fulcra_utils
from fulcra_utils.common.paths import PACKAGE

FOLDERS = sorted(".".join(("fulcra_utils", *path.parent.relative_to(PACKAGE).parts))
                 for path in PACKAGE.glob("*/**/__init__.py"))
STABLE = ["theory.load_theory", "dataset.read_dataset", "alignment.value_distance", "evaluator.ValueEvaluator",
          "systems.orientation.svo_angle"]


@pytest.mark.parametrize("name", fulcra_utils.__all__)
def test_a_public_name_says_what_it_does_with_an_example_that_runs(name):
    thing = getattr(fulcra_utils, name)
    examples = [line for line in (thing.__doc__ or "").splitlines() if line.strip().startswith(">>>")]
    assert examples and not all("+SKIP" in line for line in examples), f"{name}: no example that runs"


def test_the_door_shows_its_names_and_the_docstring_names_each():
    assert 15 <= len(fulcra_utils.__all__) <= 24 and dir(fulcra_utils) == sorted(fulcra_utils.__all__)
    words = fulcra_utils.__doc__.replace(",", " ").split()
    assert set(fulcra_utils.__all__) <= set(words)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_holds_what_its_door_says(folder):
    door = importlib.import_module(folder)
    assert all(getattr(door, name) is not None for name in getattr(door, "__all__", ()))


@pytest.mark.parametrize("path", STABLE)
def test_stable_paths_stay(path):
    folder, _, name = path.rpartition(".")
    assert getattr(importlib.import_module(f"fulcra_utils.{folder}"), name) is not None


def test_few_names_are_public():
    doors = [importlib.import_module(folder) for folder in FOLDERS]
    assert sum(len(getattr(door, "__all__", ())) for door in doors) <= 130


def test_importing_the_package_is_quick_and_loads_no_torch():
    code = ("import time; start = time.process_time(); import fulcra_utils; took = time.process_time() - start; "
            "import sys; print(took, [m for m in ('torch', 'pandas', 'transformers') if m in sys.modules])")
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    seconds, loaded = told.split(" ", 1)
    assert float(seconds) < 0.3 and loaded.strip() == "[]"

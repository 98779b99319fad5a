import copy
import os
import re
import subprocess
import sys
import threading
import types
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from fulcra_utils.common.digests import digest
from fulcra_utils.common.loading import load_function


def counter(step):
    def count(x):
        return x + step
    return count


class Thing:
    def __init__(self, **state):
        self.__dict__.update(state)


class Other(Thing):
    def score(self):
        return 1


PAIRS = [
    (1, 2), (1, True), (1.0, 1), ("a", b"a"), (None, 0), ([1, 2], [2, 1]), ({"a": 1}, {"a": 2}), ({"a": 1}, {"b": 1}),
    ({1, 2}, {1, 3}), (np.zeros(3), np.zeros(4)), (np.zeros(3), np.zeros(3, np.float32)),
    (np.zeros((2, 3)), np.zeros((3, 2))), (np.array(["a"], object), np.array(["b"], object)),
    (np.eye(100), np.eye(100) + 1e-12), (counter(1), counter(2)), (lambda x: x + 1, lambda x: x - 1),
    (lambda said, asked: len(said), lambda asked, said: len(asked)),
    (partial(pow, 2), partial(pow, 3)), ([].append, [1].append), (len, max), (re.compile("a"), re.compile("b")),
    (Thing(a=1), Thing(a=2)), (Thing(a=1), Other(a=1)), (Thing(a=1).__init__, Thing(a=2).__init__),
    (Thing(a=[Thing(b=1)]), Thing(a=[Thing(b=2)])), (Path("a"), Path("b")),
    (pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [2]})), (torch.zeros(2), torch.ones(2)),
    (torch.zeros(2), torch.zeros(2, dtype=torch.bfloat16)), (torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)),
    (Thing(label="a"), Thing(label="b")), (np.random.default_rng(0), np.random.default_rng(1)),
    ({"a": list(range(99))}, {"a": list(range(1, 100))}),
    (TfidfVectorizer().fit(["a word"]), TfidfVectorizer().fit(["other words"]))]


@pytest.mark.parametrize(("one", "other"), PAIRS, ids=range(len(PAIRS)))
def test_things_are_told_apart_and_copies_are_not(one, other):
    assert digest(one) == digest(one) and digest(one) != digest(other)
    if not callable(one) or isinstance(one, torch.nn.Module):
        assert digest(copy.deepcopy(one)) == digest(one)
    assert digest([one, {"x": other}]) == digest((one, {"x": other})) != digest([other, {"x": one}])


def test_a_digest_is_the_same_in_another_process():
    code = ("import fulcra_utils.common.digests as f, re, numpy as n; "
            "from fulcra_utils.common.files import write_json; "
            "print(f.digest({'a', 'b', 'c'}, n.eye(3), re.compile('x'), write_json, lambda x: x in {'a', 'b'}))")
    found = {subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, check=True,
                            capture_output=True, text=True).stdout for seed in "12"}
    assert len(found) == 1


def test_words_about_code_are_no_code():
    sources = ['def f(x):\n    """One."""\n    return x + 1',
               'def f(x):\n    """Two."""\n\n    # why\n    return x + 1', "def f(x):\n    return x + 2"]
    made = []
    for number, source in enumerate(sources):
        space = {"__name__": "mine"}
        exec(compile(source, f"mine{number}.py", "exec"), space)
        made.append(digest(space["f"]))
    assert made[0] == made[1] != made[2]


def test_code_and_constants_that_a_function_reaches_count():
    def make(step, inner):
        space = {"__name__": "mine"}
        source = f"STEP = {step}\ndef g(x):\n    return {inner}\ndef f(x):\n    return g(x) + STEP"
        exec(compile(source, "mine.py", "exec"), space)
        return digest(space["f"])

    assert make(1, "x") == make(1, "x")
    assert len({make(1, "x"), make(2, "x"), make(1, "-x")}) == 3


def test_what_a_function_reaches_counts_whatever_it_is_called():
    def make(names, use):
        space = {"__name__": "mine"}
        low, high = names
        exec(f"def {low}(x):\n    return x - 1\ndef {high}(x):\n    return x + 1\ndef f(x):\n    return {use}", space)
        return digest(space["f"])

    assert make(("low", "high"), "low(high(x)) + low(x)") == make(("a", "b"), "a(b(x)) + a(x)")
    assert make(("low", "high"), "low(high(x)) + low(x)") != make(("high", "low"), "low(high(x)) + low(x)")
    assert make(("low", "high"), "low(x)") != make(("low", "high"), "high(x)")


def test_an_attribute_is_no_global_of_the_same_name():
    def make(space, name="field"):
        exec(f"def f(x):\n    return x.{name}", space)
        return digest(space["f"])

    assert make({"__name__": "mine"}) == make({"__name__": "mine", "field": 3}) != make({"__name__": "mine"}, "other")


def test_code_of_ones_own_modules_counts(monkeypatch):
    def make(body):
        module = types.ModuleType("helpers_of_mine")
        exec(f"def count(x):\n    return {body}", vars(module))
        monkeypatch.setitem(sys.modules, module.__name__, module)
        space = {"__name__": "mine", "helpers": module}
        exec("def f(x):\n    return helpers.count(x)", space)
        return digest(space["f"])

    assert make("x") == make("x") != make("-x")


@pytest.mark.parametrize("body", [
    "from pack_of_mine.words import count\n    return count(x)",
    "import pack_of_mine.words as w\n    return w.count(x)",
    "return pack_of_mine.words.count(x)"])
def test_code_that_is_imported_inside_or_lies_deeper_counts(monkeypatch, body):
    def make(inner):
        pack, words = types.ModuleType("pack_of_mine"), types.ModuleType("pack_of_mine.words")
        exec(f"def count(x):\n    return {inner}", {"__name__": words.__name__}, vars(words))
        pack.words, pack.__path__ = words, []
        for module in (pack, words):
            monkeypatch.setitem(sys.modules, module.__name__, module)
        space = {"__name__": "mine", "pack_of_mine": pack}
        exec(f"def f(x):\n    {body}", space)
        return digest(space["f"])

    assert make("x") == make("x") != make("-x")


def test_a_users_file_may_have_the_name_of_a_standard_module(tmp_path):
    def make(body):
        (tmp_path / "profile.py").write_text(f"def reward(x):\n    return {body}\n")
        return digest(load_function(f"{tmp_path}/profile.py:reward"))

    assert make("x") == make("x") != make("-x")


def test_the_place_of_code_does_not_count(monkeypatch):
    def make(module, body="x"):
        placed = types.ModuleType(module)
        exec(f"def count(x):\n    return {body}", {"__name__": module}, vars(placed))
        monkeypatch.setitem(sys.modules, module, placed)
        space = {"__name__": "mine"}
        exec(f"def f(x):\n    from {module} import count\n    return count(x)", space)
        return digest(space["f"])

    assert make("fulcra_utils.here") == make("fulcra_utils.there") != make("fulcra_utils.there", "-x")


def test_circles_end_and_what_cannot_be_told_is_said():
    ring = Thing()
    ring.self = ring
    assert digest(ring) == digest(copy.deepcopy(ring))
    for thing in (threading.Lock(), (i for i in range(3)), Thing(inner=[threading.Lock()]), sys.stdout):
        with pytest.raises(TypeError, match="cannot be told from another one"):
            digest(thing)

import numpy as np
import pytest
import yaml

from fulcra_utils.theory.targets import (
    TargetError,
    choose_targets,
    list_targets,
    load_target,
    save_target,
    uniform_target,
    write_system_prompt,
)
from fulcra_utils.theory.theory import list_theories, load_theory

THREE = """
name: three
title: Three values
citation: made for a test
score_range: [-1, 1]
labels: {-1: opposed, 0: none, 1: supported}
dimensions:
  - {name: calm, definition: Being calm., items: [be calm]}
  - {name: bold, definition: Being bold., items: [be bold]}
  - {name: kind, definition: Being kind., items: [be kind]}
"""


@pytest.fixture
def three(tmp_path):
    path = tmp_path / "three.yaml"
    path.write_text(THREE)
    return load_theory(path)


def write_target(tmp_path, **changes):
    raw = {"name": "t", "theory": "three", "source": "test", "values": {"calm": 1}} | changes
    path = tmp_path / "target.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in raw.items() if v is not None}))
    return path


def test_published_targets_have_the_released_numbers():
    released = {
        "ideal": [0, 0, 0, 1, 0, 1, 0, 1, 1, 1], "harmless": [0, 0, 0, 0, 0, 1, 0, 1, 0, 0],
        "report": [0, 0, 0, 0, 0, 1, 0, 1, 1, 1],
        "uk": [.4809, .1305, .1004, .0029, -.2383, .4362, .2712, .1420, .6520, .5906],
        "netherlands": [.5190, .1148, .3016, .1311, -.1124, .3389, .2165, .2578, .5661, .5243],
        "france": [.3761, -.0296, .3384, -.1741, -.3195, .4078, .2587, .0698, .6212, .5705],
    }
    assert set(released) == set(list_targets("schwartz10"))
    for name, values in released.items():
        target = load_target(name, "schwartz10")
        np.testing.assert_array_equal(target.values, values)
        np.testing.assert_array_equal(target.weights, np.abs(values))
        assert target.source


def test_ranges_weights_and_negative_numbers(tmp_path, three):
    values = {"calm": {"at_least": 0.5}, "bold": -0.4, "kind": {"at_least": -0.2, "at_most": 0.1}}
    target = load_target(write_target(tmp_path, values=values, weights={"kind": 2}), three)
    assert target.low.tolist() == [0.5, -0.4, -0.2]
    assert target.high.tolist() == [1.0, -0.4, 0.1]
    assert target.weights.tolist() == [1.0, 0.4, 2.0]
    assert target.values.tolist() == [0.5, -0.4, 0.0]


@pytest.mark.parametrize(("changes", "words"), [
    ({"theory": "schwartz10"}, "written for theory 'schwartz10'"),
    ({"values": {"calm": 0}}, "every dimension has weight 0"),
    ({"values": {"calm": 1}, "weights": {"calm": 0}}, "every dimension has weight 0"),
    ({"values": {"calm": 2}}, "values.calm: must be a number from -1 to 1"),
    ({"values": {"calm": float("nan")}}, "values.calm: must be a number"),
    ({"values": {"calm": True}}, "values.calm: must be a number"),
    ({"values": {"clam": 1}}, "'clam' is no dimension of three"),
    ({"values": {"calm": {"at_least": 0.5, "at_most": 0.1}}}, "lies above"),
    ({"values": {"calm": {"above": 0.5}}}, "a range has at_least"),
    ({"values": [1, 0, 0]}, "a mapping of values"),
    ({"weights": {"calm": -1}}, "weights.calm: must be a number from 0"),
    ({"weights": [1, 0, 0]}, "see weights"),
    ({"weight": {"calm": 1}}, "unknown key 'weight'"),
    ({"values": None}, "needs name, theory"),
])
def test_bad_target_is_one_clear_line(tmp_path, three, changes, words):
    with pytest.raises(TargetError, match=words) as error:
        load_target(write_target(tmp_path, **changes), three)
    assert "\n" not in str(error.value)


def test_unknown_name_broken_yaml_and_other_theory(tmp_path, three):
    with pytest.raises(TargetError, match="no such target as 'ideall'; known are france"):
        load_target("ideall", "schwartz10")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(TargetError, match="not valid YAML"):
        load_target(tmp_path / "bad.yaml", three)
    with pytest.raises(TargetError, match="another theory"):
        load_target(load_target("ideal", "schwartz10"), three)


@pytest.mark.parametrize("name", list_theories())
def test_every_theory_has_a_target_that_survives_saving(tmp_path, name):
    theory = load_theory(name)
    for target in choose_targets(["ideal", "uk"], theory):
        again = load_target(save_target(target, tmp_path / f"{target.name}.yaml", theory), theory)
        assert again.dimensions == theory.dimensions
        for field in ("low", "high", "weights"):
            np.testing.assert_array_equal(getattr(again, field), getattr(target, field))


def test_child_theory_inherits_target_and_total_weight():
    parent, child = load_target("ideal", "schwartz10"), load_target("ideal", "schwartz19")
    theory = load_theory("schwartz19")
    assert child.weights.sum() == pytest.approx(parent.weights.sum())
    for d, name in enumerate(theory.parents):
        assert child.values[d] == parent.values[parent.dimensions.index(name)]


def test_theory_without_targets_gets_the_uniform_one(three):
    assert [t.name for t in choose_targets(["ideal", "harmless"], three)] == ["uniform"]
    assert uniform_target(three, -0.5).values.tolist() == [-0.5] * 3
    for number in (0, 5, float("nan")):
        with pytest.raises(TargetError, match="uniform"):
            uniform_target(three, number)


def test_system_prompt_names_aimed_values_only(three):
    prompt = write_system_prompt(load_target("uk", "schwartz10"), "schwartz10")
    assert "uphold benevolence" in prompt and "play down power" in prompt and "achievement" not in prompt
    assert prompt.index("benevolence") < prompt.index("stimulation")


@pytest.mark.parametrize(("text", "line"), [
    ("values:\n  calm: 1\n  bold: 1\n  calm: -1", 7),
    ("values:\n  calm: 1\n  \"calm\": 1", 6),
    ("values: {calm: 1, bold: 0.5, calm: 1}", 4),
    ("values:\n  calm: 1\nweights:\n  calm: 1\n  bold: 2\n  calm: 3", 9),
    ("values:\n  calm: {at_least: 0.1, at_least: 0.5}", 5),
    ("values:\n  calm: 1\nvalues:\n  bold: 1", 6),
    ("name: other\nvalues:\n  calm: 1", 4),
])
def test_what_is_named_twice_is_refused_with_its_line(tmp_path, three, text, line):
    path = tmp_path / "twice.yaml"
    path.write_text(f"name: twice\ntheory: three\nsource: test\n{text}\n")
    with pytest.raises(TargetError, match=rf"twice.yaml, line {line}, .*given twice"):
        load_target(path, three)


@pytest.mark.parametrize("text", ["values: {Calm: 1, calm: 1}", "values: {calm: 1, be calm: 1}",
                                  "values: &v {calm: *v}", "values: {? [calm] : 1}", "weights: {calm: .inf}"])
def test_other_words_for_a_value_are_no_second_door(tmp_path, three, text):
    path = tmp_path / "other.yaml"
    values = "" if text.startswith("values") else "values: {calm: 1}\n"
    path.write_text(f"name: other\ntheory: three\nsource: test\n{values}{text}\n")
    with pytest.raises(TargetError) as error:
        load_target(path, three)
    assert "\n" not in str(error.value)

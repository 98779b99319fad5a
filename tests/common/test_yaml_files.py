"""YAML files: what is read, and every fault in one line with its place."""

import pytest

from fulcra_utils.common.yaml_files import find_yaml, read_yaml


def test_a_file_and_a_text_are_read_with_the_lines_of_their_nodes(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("name: é\nlist: [1, 2]\n", encoding="utf-8")
    value, node, twice = read_yaml(path)
    assert value == {"name": "é", "list": [1, 2]} == read_yaml(path.read_text(encoding="utf-8"))[0] and twice == []
    assert [key.start_mark.line for key, _ in node.value] == [0, 1]
    assert read_yaml("")[:2] == (None, None)


def test_keys_given_twice_are_named_by_line_however_they_are_written():
    assert read_yaml("a: 1\nb:\n  c: 1\n  'c': 2\na: 3\n")[2] == [
        "line 4, c: key given twice", "line 5, a: key given twice"]
    assert read_yaml("on: 1\nyes: 2\n")[2] == ["line 2, yes: key given twice"]      # both are read as true


@pytest.mark.parametrize(("text", "words"), [
    ("a: [1\nb: 2", "line 2: not valid YAML"),
    ("a: 2024-13-45", "line 1: not valid YAML: '2024-13-45' is no timestamp"),
    ("a: 1\nb: \x07", r"line 2: not valid YAML: character U\+0007 is not allowed"),
    ("a: &a\n  b: *a", "line 1: not usable: an anchor"), ("[" * 5000, "not usable: nested too deeply"),
    ("\n".join(["a0: &a0 [1, 1]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 7)]),
     "its aliases .* more than 100,000 entries")])
def test_what_cannot_be_read_is_one_line(text, words):
    with pytest.raises(ValueError, match=words) as caught:
        read_yaml(text)
    assert "\n" not in str(caught.value)


def test_a_file_of_another_encoding_is_no_text(tmp_path):
    (tmp_path / "a.yaml").write_bytes("é: 1".encode("utf-16"))
    with pytest.raises(ValueError, match="not UTF-8 text"):
        read_yaml(tmp_path / "a.yaml")


def test_a_file_is_found_by_its_name_or_its_path_or_the_known_ones_are_said(tmp_path):
    path = tmp_path / "one.yaml"
    path.write_text("")
    assert find_yaml("one", tmp_path, "theory", LookupError) == path
    assert find_yaml(path, tmp_path / "elsewhere", "theory", LookupError) == path
    with pytest.raises(LookupError, match="no such theory as 'two'; known are one, or give the path"):
        find_yaml("two", tmp_path, "theory", LookupError)

import errno
import json

import pandas as pd
import pytest

from fulcra_utils.common.files import json_line, write_atomic, write_json, write_table


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_nothing_half_written(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(type(error)), write_atomic(path) as tmp:
        tmp.write_text("ne")
        raise error
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_table_suffix(tmp_path):
    with pytest.raises(ValueError, match="x.xls"):
        write_table(tmp_path / "x.xls", pd.DataFrame())


def test_json_of_numpy(tmp_path):
    values = pd.Series([1.5, float("nan")]).to_numpy()
    assert write_json(tmp_path / "a.json", {"x": values, "p": tmp_path}).read_text().count("null") == 1


def test_a_row_that_can_be_read_can_be_written_however_deep():
    line = '{"a": ' + "[" * 900 + "]" * 900 + "}\n"
    assert json_line(json.loads(line)) == line

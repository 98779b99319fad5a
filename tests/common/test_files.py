import errno
import hashlib

import pandas as pd
import pytest

from fulcra_utils.common.files import write_atomic, write_json, write_table
from fulcra_utils.common.loading import hash_file
from fulcra_utils.common.workers import run_jobs


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


def test_jobs_come_back_in_order_and_a_fault_is_raised():
    assert run_jobs(pow, [(2, 3), (3, 2)], n_workers=1) == [8, 9]
    with pytest.raises(ZeroDivisionError):
        run_jobs(divmod, [(1, 0)], n_workers=4)


def test_bytes_of_a_file_are_read_again_when_they_change(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"hello\n")
    first = hash_file(path)
    assert first == hashlib.sha256(b"hello\n").hexdigest()
    path.write_bytes(b"hello!\n")
    assert hash_file(path) == hashlib.sha256(b"hello!\n").hexdigest() != first

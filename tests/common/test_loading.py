"""Pretrained files: known by their bytes, and loaded without a word."""

import hashlib
import os

import pytest
from transformers.utils import logging

from fulcra_utils.common.loading import hash_file, quiet_loading


def test_bytes_of_a_file_are_read_again_when_they_change(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"hello\n")
    first = hash_file(path)
    assert first == hashlib.sha256(b"hello\n").hexdigest()
    path.write_bytes(b"hello!\n")
    assert hash_file(path) == hashlib.sha256(b"hello!\n").hexdigest() != first


def test_a_file_of_the_same_size_is_read_again_when_its_time_is_another(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"one")
    first = hash_file(path)
    path.write_bytes(b"two")
    os.utime(path, ns=(0, 0))
    assert hash_file(path) == hashlib.sha256(b"two").hexdigest() != first


@pytest.fixture(params=[True, False])
def shown(request):
    before = logging.is_progress_bar_enabled()
    (logging.enable_progress_bar if request.param else logging.disable_progress_bar)()
    yield request.param
    (logging.enable_progress_bar if before else logging.disable_progress_bar)()


def test_bars_are_hidden_while_loading_and_come_back_as_they_were(shown):
    with quiet_loading():
        assert not logging.is_progress_bar_enabled()
    assert logging.is_progress_bar_enabled() == shown


def test_bars_come_back_after_an_error(shown):
    with pytest.raises(OSError, match="gone"), quiet_loading():
        raise OSError("gone")
    assert logging.is_progress_bar_enabled() == shown

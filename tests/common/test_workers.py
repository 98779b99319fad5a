"""Several jobs at a time: in order, in processes of their own, and none after a fault."""

import os
import threading

import pytest
import torch

from fulcra_utils.common.workers import map_batches, run_jobs, shape_batches


def test_jobs_come_back_in_order_and_a_fault_is_raised():
    assert run_jobs(pow, [(2, 3), (3, 2)], n_workers=1) == [8, 9]
    with pytest.raises(ZeroDivisionError):
        run_jobs(divmod, [(1, 0)], n_workers=4)


def test_no_job_starts_after_a_fault():
    done = []

    def work(n):
        done.append(n)
        return 1 / n

    with pytest.raises(ZeroDivisionError):
        run_jobs(work, [(1,), (0,), (2,)], n_workers=1)
    assert done == [1, 0]


def test_one_job_needs_no_process_and_no_job_no_result():
    assert run_jobs(os.getpid, [()], n_workers=4) == [os.getpid()] and run_jobs(os.getpid, [], n_workers=4) == []


@pytest.mark.slow
def test_two_workers_are_processes_of_their_own_and_keep_the_order():
    assert os.getpid() not in run_jobs(os.getpid, [(), ()], n_workers=2)
    assert run_jobs(pow, [(2, n) for n in range(5)], n_workers=2) == [1, 2, 4, 8, 16]
    with pytest.raises(ZeroDivisionError):
        run_jobs(divmod, [(1, 0), (1, 1)], n_workers=2)


@pytest.mark.slow
def test_a_process_that_the_system_ends_is_said_in_one_line():
    with pytest.raises(RuntimeError, match="one of 2 processes, most often for want of memory"):
        run_jobs(os._exit, [(9,), (9,)], n_workers=2)


@pytest.fixture()
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_two_batches_at_a_time_on_a_core_each_and_in_order(two_threads):
    both, seen = threading.Barrier(2, timeout=30), []     # nobody goes on before a second one came

    def read(batch):
        both.wait()
        seen.append((threading.get_ident(), torch.get_num_threads()))
        return batch * 10

    assert list(map_batches(read, range(4))) == [(0, 0), (1, 10), (2, 20), (3, 30)]
    assert len({thread for thread, _ in seen}) == 2 and {n for _, n in seen} == {1} and torch.get_num_threads() == 2


def test_a_fault_in_a_batch_is_raised_and_the_threads_are_given_back(two_threads):
    with pytest.raises(ZeroDivisionError):
        list(map_batches(lambda n: 1 / n, [1, 0, 2, 3]))
    assert torch.get_num_threads() == 2


def test_a_batch_is_full_and_its_width_is_that_of_its_own_rows():
    lengths = [1, 16, 17, 40, 33, 2, 48, 5]
    batches = shape_batches(lengths, (3, 16))
    assert sorted({row for rows, _ in batches for row in rows}) == list(range(len(lengths)))
    assert all(len(rows) == 3 and width - 16 < lengths[row] <= width for rows, width in batches for row in rows)
    assert [width for _, width in batches] == [48, 32, 16, 16] and shape_batches([]) == []

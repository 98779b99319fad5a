"""Several jobs at a time: in order, in processes of their own, and none after a fault."""

import os

import pytest

from fulcra_utils.common.workers import run_jobs


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

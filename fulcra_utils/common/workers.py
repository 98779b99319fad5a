"""Several jobs at the same time: long ones in processes of their own, batches of a model in threads, a core each."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def run_jobs(function: Callable, jobs: Sequence[tuple], n_workers: int, label: str = "jobs") -> list[Any]:
    """Return `function(*job)` for each job, in order; with two or more workers each job runs in a process of its own.

    Then the function stands in a module, and what it takes and returns is picklable. Whatever a job raises is raised,
    and jobs that have not started by then are dropped. Small models leave cores idle: two at a time take little longer
    than one.

    >>> run_jobs(pow, [(2, 3), (3, 2)], n_workers=1)
    [8, 9]
    """
    n_workers = min(n_workers, len(jobs))
    if n_workers < 2:
        return [function(*job) for job in jobs]
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    import torch
    from tqdm import tqdm

    threads = max(1, torch.get_num_threads() // n_workers)
    with ProcessPoolExecutor(n_workers, get_context("spawn"), torch.set_num_threads, (threads,)) as pool:
        futures = [pool.submit(function, *job) for job in jobs]
        try:
            return [future.result() for future in tqdm(futures, desc=f"{label}, {n_workers} at a time", unit="run")]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def map_batches(function: Callable, batches: Iterable) -> Iterator[tuple[Any, Any]]:
    """Give each batch with `function(batch)`, in order, as many at a time as torch has threads, each on one core.

    Two batches side by side on two cores are read much faster than one after the other on both. A fault is raised.

    >>> list(map_batches(sum, [(1, 2), (3,)]))
    [((1, 2), 3), ((3,), 3)]
    """
    import torch

    n_threads, waiting = torch.get_num_threads(), deque()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for batch in batches:
                waiting.append((batch, pool.submit(function, batch)))
                if len(waiting) > n_threads:
                    batch, future = waiting.popleft()
                    yield batch, future.result()
            for batch, future in waiting:
                yield batch, future.result()
    finally:
        torch.set_num_threads(n_threads)

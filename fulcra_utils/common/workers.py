"""Several jobs at the same time: long ones in processes of their own, batches of a model in threads, a core each."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

SHAPE = 4, 16       # of batches in bfloat16: rows, and tokens between two widths (`shape_batches`)


def run_jobs(function: Callable, jobs: Sequence[tuple], n_workers: int, label: str = "jobs") -> list[Any]:
    """Return `function(*job)` for each job, in order; with two or more workers each job runs in a process of its own.

    Then the function stands in a module, and what it takes and returns is picklable. Whatever a job raises is raised,
    and jobs that have not started by then are dropped; RuntimeError says so when the system ended a process, as it does
    when memory is short. Small models leave cores idle: two at a time take little longer than one.

    >>> run_jobs(pow, [(2, 3), (3, 2)], n_workers=1)
    [8, 9]
    """
    n_workers = min(n_workers, len(jobs))
    if n_workers < 2:
        return [function(*job) for job in jobs]
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    import torch
    from tqdm import tqdm

    threads = max(1, torch.get_num_threads() // n_workers)
    with ProcessPoolExecutor(n_workers, get_context("spawn"), torch.set_num_threads, (threads,)) as pool:
        futures = [pool.submit(function, *job) for job in jobs]
        try:
            return [future.result() for future in tqdm(futures, desc=f"{label}, {n_workers} at a time", unit="run")]
        except BrokenProcessPool:
            raise RuntimeError(f"the system ended one of {n_workers} processes, most often for want of memory. What "
                               "was finished is kept; start again with fewer at a time (`workers`).") from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def shape_batches(lengths: Sequence[int], shape: tuple[int, int] = SHAPE) -> list[tuple[list[int], int]]:
    """Return row numbers and width of batches that are all full and as wide as their own rows need, the widest first.

    A product in bfloat16 is rounded in another way where the batch has another shape, so what is read of a text would
    hang on what stands beside it; here it does not. `shape` is the rows of a batch (the last one is repeated where they
    are fewer) and the step between widths.

    >>> shape_batches([3, 20, 5], (2, 16))
    [([1, 1], 32), ([2, 0], 16)]
    """
    (size, step), widths = shape, {}
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        widths.setdefault(-(-lengths[row] // step) * step, []).append(row)
    batches = [(rows[k:k + size], width) for width, rows in widths.items() for k in range(0, len(rows), size)]
    return [(rows + rows[-1:] * (size - len(rows)), width) for rows, width in batches]


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

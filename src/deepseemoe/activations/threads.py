"""The threads that write a store while the model goes on."""

import os
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager

import torch

MOST_THREADS = 8
"""Each writes 2 GB/s or more, and has pinned memory of its own."""


@contextmanager
def writing_threads(n_sites: int) -> Iterator[Executor]:
    """Yield threads that compute on one core each, one less than `n_sites` large arrays.

    More take the interpreter from the thread that asks a GPU for kernels: on an H100, 2 were best
    for 3 sites and 8 for 9. At most half as many as there are processors. What has not begun when
    the block ends is dropped.
    """
    n_main = torch.get_num_threads()
    n_threads = max(min((os.cpu_count() or 1) // 2, MOST_THREADS, n_sites - 1), 1)
    pool = ThreadPoolExecutor(
        n_threads, "store-writer", initializer=torch.set_num_threads, initargs=(1,)
    )
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(n_main)  # or later threads would begin with 1 as well

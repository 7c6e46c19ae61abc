"""Ranks that are threads of one process, for tests that need no processes."""

import threading

import torch

from deepseemoe.dictionary.ranks import Gathered, Group


class Meeting:
    """Where threads leave values for one another."""

    def __init__(self, n_ranks):
        self.values = [None] * n_ranks
        self.barrier = threading.Barrier(n_ranks, timeout=60)


class ThreadRank(Group):
    """A rank that is a thread; sums go in order of ranks."""

    def __init__(self, shard, meeting):
        self.rank, self.n_ranks = shard.rank, shard.n_ranks
        self._features_F, self._meeting = shard.features_F, meeting

    def _all(self, value):
        self._meeting.values[self.rank] = value.clone()
        self._meeting.barrier.wait()
        found = [*self._meeting.values]
        self._meeting.barrier.wait()
        return found

    def sum(self, tensor):
        first, *others = self._all(tensor)
        return tensor.copy_(sum(others, first))

    def least(self, number):
        return min(map(float, self._all(torch.tensor(number, dtype=torch.float64))))

    def gather(self, values):
        parts = self._all(values)
        return Gathered(torch.cat(parts), sum(map(len, parts[: self.rank])))


def on_threads(n_ranks, work):
    """Return what `work(rank, meeting)` returns on each rank."""
    meeting, found = Meeting(n_ranks), [None] * n_ranks

    def one(rank):
        try:
            found[rank] = work(rank, meeting)
        except threading.BrokenBarrierError:
            pass
        except Exception as error:
            found[rank] = error
            meeting.barrier.abort()

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(n_ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in found:
        if isinstance(result, Exception):
            raise result
    return found

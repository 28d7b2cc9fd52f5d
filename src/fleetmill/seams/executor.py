"""A function over items: here, in a process pool, later on a cluster. Results come in the items' order."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Protocol, TypeVar

from fleetmill.seams.processes import be_child_of

A = TypeVar("A")
B = TypeVar("B")


class Executor(Protocol):
    """Runs a pure function over items. `work` and items must be picklable; a crash of a worker raises."""

    def map(self, work: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
        """`work` of each item, in order, each run at least once."""


class Here:
    """`Executor` in this process: the default and the fake."""

    def map(self, work: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
        """See `Executor.map`."""
        return map(work, items)


class Pool:
    """`Executor` in worker processes of this machine."""

    def __init__(self, processes: ProcessPoolExecutor) -> None:
        self._processes = processes

    def map(self, work: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
        """See `Executor.map`."""
        return self._processes.map(work, items)


@contextmanager
def open_pool(workers: int) -> Iterator[Executor]:
    """An executor with `workers` processes; with 1 or fewer, this process."""
    if workers <= 1:
        yield Here()
        return
    context = multiprocessing.get_context("spawn")  # forked children would inherit threads of torch and SQLite
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=be_child_of, initargs=(os.getpid(),)
    ) as processes:
        yield Pool(processes)

"""Teachers in several processes, or on a cluster of Ray: each follows a batch of noises at a time."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from diffusolve.arrays import Array, array_like, is_torch, to_numpy
from diffusolve.errors import shown
from diffusolve.learning.model import Model, Rows
from diffusolve.learning.teacher import walk
from diffusolve.workers import Deaths, Died, Hands, workers_for

__all__ = ["Teachers"]

Walked = tuple[list[Array], list[Array]]


class Order(NamedTuple):
    """The network, which workers get as it is, and the number of PyTorch's threads that each has."""

    model: bytes
    threads: int
    device: str = "cpu"

    def on(self, device: str) -> Order:
        """The same: a network is called where its weights are."""
        return self

    def begin(self) -> Teacher:
        """A teacher of the network."""
        return Teacher(pickle.loads(self.model), self.threads)


class Teacher:
    """A worker that follows the exact solution."""

    def __init__(self, model: Model, threads: int) -> None:
        self.model = model
        if is_torch(model.like):
            import torch

            torch.set_num_threads(threads)

    def turn(self, steps: int, x: Array, rows: Rows) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """The states and slopes of a batch, shape (levels, batch, ...)."""
        states, slopes = walk(self.model, steps, x, rows)
        return np.stack([to_numpy(state) for state in states]), np.stack([to_numpy(state) for state in slopes])


class Teachers:
    """Workers that follow batches of noises; to be closed.

    The pairs are the same bits as those of one process, as long as the network's do not depend on the number of
    threads: of this process's each worker has its part.

    Args:
        model: the network.
        workers: how many.
        ray: workers are actors of Ray.
        ray_address: of its cluster.

    Raises:
        ValueError: the network cannot be sent to other processes.
        ImportError, ConnectionError: of Ray.
    """

    def __init__(self, model: Model, workers: int, ray: bool = False, ray_address: str | None = None) -> None:
        try:
            packed = pickle.dumps(model)
        except Exception as error:  # whatever its parts raise
            raise ValueError(
                f"workers is {workers}, but the network, {shown(model.network)}, cannot be sent to other processes: "
                f"{error}. Let it be an object of a class at the top of a module, or leave workers out."
            ) from error
        threads = 1
        if is_torch(model.like):
            import torch

            threads = max(torch.get_num_threads() // workers, 1)
        self._hands: Hands = workers_for(Order(packed, threads), workers, threads, ray, ray_address)
        self._workers = workers
        self._like = model.like
        self._idle: list[int] = []
        self._started = 0

    def walk(self, steps: int, batches: Sequence[tuple[Array, Rows]], seen: Callable[[], object]) -> Iterator[Walked]:
        """The states and slopes of each batch, as :func:`~diffusolve.learning.teacher.walk` has them, in their order.

        Raises:
            RuntimeError: workers die again and again.
            Exception: whatever the network raises.
        """
        waiting, at_work = deque(range(len(batches))), dict[int, int]()
        found: dict[int, Walked] = {}
        in_a_row = Deaths(self._workers, "learns")
        for wanted in range(len(batches)):
            while wanted not in found:
                while waiting and (self._idle or self._started < self._workers):
                    worker = self._idle.pop() if self._idle else self._start()
                    at_work[worker] = waiting.popleft()
                    self._hands.give(worker, steps, *batches[at_work[worker]])
                for worker, said in self._hands.heard(1.0):
                    batch = at_work.pop(worker)
                    if isinstance(said, Died):
                        waiting.appendleft(batch)
                        self._started -= 1
                        in_a_row.count(f"one after the other; the last, {said.how}")
                    else:
                        in_a_row.done()
                        self._idle.append(worker)
                        found[batch] = self._unpacked(said, batches[batch][0])
                        seen()
            yield found.pop(wanted)

    def _start(self) -> int:
        self._started += 1
        return self._hands.start()

    def _unpacked(self, said: tuple[npt.NDArray[Any], npt.NDArray[Any]], x: Array) -> Walked:
        states, slopes = (array_like(arrays, x) for arrays in said)
        return list(states), list(slopes)

    def close(self) -> None:
        """End the workers."""
        self._hands.close()

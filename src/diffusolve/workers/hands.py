"""Workers in this process or in others of this machine, behind one face: give them work, wait for what they say."""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import signal
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, Protocol

__all__ = [
    "Deaths",
    "Died",
    "Failed",
    "Hands",
    "OneHand",
    "Order",
    "Processes",
    "Servant",
    "with_device",
    "workers_for",
]


PATIENCE = 3
"""Deaths in a row, without anything done between them and besides one for each worker, after which it is hopeless."""


class Worker(Protocol):
    """Whoever does the work."""

    def turn(self, *given: Any) -> Any:
        """Work on what is `given`; answered by whatever there is to say."""


class Order(Protocol):
    """A description of the work, which can be sent to other processes and machines."""

    @property
    def device(self) -> str:
        """The device of PyTorch that it needs."""

    def on(self, device: str) -> Order:
        """The same work on another device."""

    def begin(self) -> Worker:
        """A worker that is ready for it."""


class Died(NamedTuple):
    """A worker is gone, and with it what it had in hand."""

    how: str


class Failed(NamedTuple):
    """A worker cannot go on, and another one could not either."""

    error: BaseException
    trace: str = ""


class Hands(ABC):
    """Workers by numbers. What one is given, it answers once: by what its turn says, by :class:`Died`, or `Failed`."""

    @abstractmethod
    def start(self) -> int:
        """The number of a new worker, which is to be given something."""

    @abstractmethod
    def give(self, worker: int, *given: Any) -> None:
        """Let a worker work for a turn on what is `given`."""

    @abstractmethod
    def wait(self, seconds: float) -> list[tuple[int, Any]]:
        """The answers of workers, as far as there are any; none after so many seconds without a word."""

    def heard(self, seconds: float) -> Iterator[tuple[int, Any]]:
        """The same, what turns say and :class:`Died`.

        Raises:
            Exception: whatever a worker cannot get over.
        """
        for worker, said in self.wait(seconds):
            if isinstance(said, Failed):
                raise said.error from RuntimeError(f"in a worker:\n{said.trace}")
            yield worker, said

    @abstractmethod
    def close(self) -> None:
        """End all workers, whatever they are at."""


class Deaths:
    """Counts deaths of workers since something was done, and gives up when they are too many.

    Args:
        workers: how many there are at once.
        does: what the script that has started them does, for the error: "calls generate()".
    """

    def __init__(self, workers: int, does: str) -> None:
        self._most = PATIENCE + workers
        self._does = does
        self._in_a_row = 0

    def done(self) -> None:
        """Something was done: begin to count anew."""
        self._in_a_row = 0

    def count(self, how: str) -> None:
        """Count one more; `how` goes on after "5 workers died".

        Raises:
            RuntimeError: it is hopeless.
        """
        self._in_a_row += 1
        if self._in_a_row >= self._most:
            raise RuntimeError(
                f"{self._in_a_row} workers died {how}. Is memory short? Does the script that {self._does} guard it by "
                '`if __name__ == "__main__":`, as processes need it?'
            )


class OneHand(Hands):
    """One worker, in this process, whose errors come as they are.

    Args:
        worker: it.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._given: tuple[Any, ...] = ()

    def start(self) -> int:
        return 0

    def give(self, worker: int, *given: Any) -> None:
        self._given = given

    def wait(self, seconds: float) -> list[tuple[int, Any]]:
        return [(0, self._worker.turn(*self._given))]

    def close(self) -> None:
        """Nothing is to be ended."""


class Processes(Hands):
    """Workers in processes of this machine. One that is killed is known to be by the end of its pipe.

    Args:
        order: what to work on.

    Raises:
        ValueError: it cannot be sent to them.
    """

    def __init__(self, order: Order) -> None:
        try:
            pickle.dumps(order)
        except Exception as error:  # whatever its parts raise
            raise ValueError(
                f"what workers are to do cannot be sent to other processes: {error}. Let functions and classes stand "
                "at the top of a module, or take one worker."
            ) from error
        self._order = order
        self._spawn = multiprocessing.get_context("spawn")
        self._workers: dict[int, tuple[Any, Connection]] = {}
        self._started = 0

    def start(self) -> int:
        number = self._started
        self._started += 1
        mine, its = self._spawn.Pipe()
        order = self._order.on(with_device(self._order.device, number))
        process = self._spawn.Process(target=serve, args=(its, order), name=f"diffusolve-{number}", daemon=True)
        process.start()
        its.close()
        self._workers[number] = process, mine
        return number

    def give(self, worker: int, *given: Any) -> None:
        with contextlib.suppress(OSError):  # of one that is gone, which is said when it is waited for
            self._workers[worker][1].send(given)

    def wait(self, seconds: float) -> list[tuple[int, Any]]:
        by_pipe: dict[Any, int] = {pipe: number for number, (_, pipe) in self._workers.items()}
        return [(by_pipe[pipe], self._said(by_pipe[pipe])) for pipe in wait(list(by_pipe), seconds)]

    def _said(self, number: int) -> Any:
        process, pipe = self._workers[number]
        try:
            return pipe.recv()
        except (EOFError, OSError):
            process.join()
            del self._workers[number]
            return Died(f"worker process {process.pid} {_how(process.exitcode)}")

    def close(self) -> None:
        for process, pipe in self._workers.values():
            process.kill()  # what is half written is removed by whoever goes on
            pipe.close()
        for process, _ in self._workers.values():
            process.join()
        self._workers = {}


class Servant:
    """A worker somewhere else, which begins with its first turn.

    Args:
        order: what to work on.
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        self._worker: Worker | None = None

    def turn(self, *given: Any) -> Any:
        """A turn of the worker, or the error that ended it."""
        try:
            if self._worker is None:
                self._worker = self._order.begin()
            return self._worker.turn(*given)
        except Exception as error:
            return failed(error)


def serve(pipe: Connection, order: Order) -> None:
    """The life of a worker process: a turn for each thing that it is given, until nobody gives any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # that is for the one who has started it
    servant = Servant(order)
    with contextlib.suppress(EOFError, OSError):
        while True:
            pipe.send(servant.turn(*pipe.recv()))


def failed(error: BaseException) -> Failed:
    """`error` as it can be sent."""
    trace = "".join(traceback.format_exception(error))
    kind = type(error) if type(error) in (ValueError, OSError, ImportError, MemoryError) else RuntimeError
    message = str(error) if kind is not RuntimeError else f"{type(error).__name__}: {error}"
    return Failed(kind(message), trace)


def _how(status: int | None) -> str:
    if status is not None and status < 0:
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"


def workers_for(order: Order, workers: int, threads: int, ray: bool = False, ray_address: str | None = None) -> Hands:
    """Workers in processes of this machine; or if `ray`, or there is an address, actors of Ray."""
    if not ray and ray_address is None:
        return Processes(order)
    from diffusolve.workers.on_ray import RayActors

    return RayActors(order, workers, threads, ray_address)


def with_device(device: str, worker: int) -> str:
    """`device` for a worker: of several GPUs one after the other."""
    if device != "cuda":
        return device
    import torch

    return f"cuda:{worker % max(torch.cuda.device_count(), 1)}"

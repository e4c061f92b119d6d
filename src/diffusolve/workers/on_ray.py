"""Workers as actors of Ray: its scheduler places them, its object store carries what they say."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from typing import Any

from diffusolve.workers.hands import Died, Hands, Order, Servant

__all__ = ["RayActors"]

CONNECT = 10.0
"""Seconds that a cluster's address has to answer in; Ray itself tries for an hour."""


class RayActors(Hands):
    """Workers on a cluster, or on one that is started on this machine for them and ends with them.

    An actor takes as many CPUs as it has threads, and on devices other than the CPU a GPU. One that is gone, whether it
    was killed or its node was lost, is replaced by another wherever there is room.

    Args:
        order: what to work on. Files that it names are to be there, under the same path, on all nodes.
        workers: how many there will be.
        threads: of each.
        address: of the cluster; when missing, the one that this process is connected to or the environment names, or a
            new one.

    Raises:
        ImportError: Ray is not installed.
        ConnectionError: there is no cluster at the address.
        ValueError: it is smaller than so many workers.
    """

    def __init__(self, order: Order, workers: int, threads: int, address: str | None) -> None:
        self._ray = _ray()
        self._is_ours = not self._ray.is_initialized()
        if self._is_ours:
            _connect(self._ray, workers * threads, address)
        gpus = 0 if order.device == "cpu" else 1
        self._check_room(workers, {"CPU": threads, "GPU": gpus})
        self._actor = self._ray.remote(Servant).options(num_cpus=threads, num_gpus=gpus)
        self._order = order
        self._actors: dict[int, Any] = {}
        self._turns: dict[Any, int] = {}
        self._started = 0

    def _check_room(self, workers: int, each: dict[str, int]) -> None:
        there = self._ray.cluster_resources()
        for kind, count in each.items():
            if workers * count > there.get(kind, 0):
                self.close_cluster()
                raise ValueError(
                    f"{workers} workers of {count} {kind}s need {workers * count}: this Ray cluster has "
                    f"{there.get(kind, 0):g}."
                )

    def start(self) -> int:
        number = self._started
        self._started += 1
        self._actors[number] = self._actor.remote(self._order)
        return number

    def give(self, worker: int, *given: Any) -> None:
        self._turns[self._actors[worker].turn.remote(*given)] = worker

    def wait(self, seconds: float) -> list[tuple[int, Any]]:
        turns = list(self._turns)
        ready, _ = self._ray.wait(turns, num_returns=len(turns), timeout=0)
        if not ready:
            ready, _ = self._ray.wait(turns, num_returns=1, timeout=seconds)
        return [(self._turns[turn], self._said(turn)) for turn in ready]

    def _said(self, turn: Any) -> Any:
        worker = self._turns.pop(turn)
        try:
            return self._ray.get(turn)
        except self._ray.exceptions.RayActorError as error:
            actor = self._actors.pop(worker)
            with contextlib.suppress(Exception):  # it may have lost its connection only
                self._ray.kill(actor)
            first, *_, last = [line for line in str(error).splitlines() if line.strip()] * 2
            return Died(f"a Ray actor, is gone ({first} {last})")

    def close(self) -> None:
        for actor in self._actors.values():
            with contextlib.suppress(Exception):
                self._ray.kill(actor)
        self._actors = {}
        self.close_cluster()

    def close_cluster(self) -> None:
        """Leave the cluster, if it was joined or started here."""
        if self._is_ours:
            self._ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ImportError("workers on Ray need Ray: pip install 'diffusolve[ray]'.") from error
    return ray


def _connect(ray: Any, cpus: int, address: str | None) -> None:
    address = address or os.environ.get("RAY_ADDRESS")
    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    if address is None:
        here = os.pathsep.join(filter(None, sys.path))  # where the model's function may be
        ray.init(num_cpus=cpus, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": here}}, **quiet)
        return
    where = address.removeprefix("ray://")
    host, _, port = where.rpartition(":")
    if host:
        try:
            socket.create_connection((host, int(port)), CONNECT).close()
        except (OSError, ValueError) as error:
            raise ConnectionError(f"there is no Ray cluster at {address}: {error}.") from None
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, ValueError) as error:
        raise ConnectionError(f"there is no Ray cluster at {address}: {error}") from None

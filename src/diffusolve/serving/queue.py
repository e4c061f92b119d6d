"""The requests that a batcher has taken: those that wait, in order, and those under way, who take turns."""

from __future__ import annotations

import asyncio
from bisect import insort
from dataclasses import dataclass
from typing import Any

from diffusolve.arrays import Array
from diffusolve.batching import Row
from diffusolve.plan import Plan
from diffusolve.randomness import NoiseLike
from diffusolve.serving.request import Preview, Request

__all__ = ["Job", "Queue"]


@dataclass(eq=False)
class Job:
    """A request that was taken. It waits, then is active, and ends exactly once."""

    request: Request
    name: str
    """The number and the tag, as errors show them."""
    plan: Plan
    noise: NoiseLike
    number: int
    place: int
    """The place in the queue: the number, brought forward by the priority."""
    kind: tuple[Any, ...]
    """Shape, precision and device: requests of one kind share a batch."""
    begun: float
    """The time at which the request was made, on the monotonic clock."""
    future: asyncio.Future[Array]
    previews: asyncio.Queue[Preview | None] | None
    """Filled after each step, and with None at the end; for streams."""
    timer: asyncio.TimerHandle | None = None
    row: Row | None = None
    turn: int = 0
    """The place among the active ones, who line up again after each step."""
    outcome: str | None = None

    @property
    def is_watched(self) -> bool:
        """True if somebody wants a preview of each step."""
        return self.previews is not None or self.request.on_step is not None

    def __str__(self) -> str:
        return self.name

    def __lt__(self, other: Job) -> bool:
        return (self.place, self.number) < (other.place, other.number)


class Queue:
    """Two lines: to become active, by priority and age, and of the active ones for their next step, by turns.

    Nobody starves in either. A request with more priority goes before those that came less than `patience` requests
    earlier for each point that it has more; priorities are bounded, and so is the number of later requests that anybody
    waits for. An active one that took part in a step lines up behind all other active ones.

    Args:
        max_active: the most jobs that are under way at once.
        max_waiting: the most jobs that wait.
        patience: the number of requests that a point of priority brings a request forward by.
    """

    def __init__(self, max_active: int, max_waiting: int, patience: int) -> None:
        self.max_active = max_active
        self.max_waiting = max_waiting
        self.patience = patience
        self.waiting: list[Job] = []
        self.active: dict[int, Job] = {}
        self._turn = 0

    def __len__(self) -> int:
        return len(self.waiting) + len(self.active)

    def jobs(self) -> list[Job]:
        """All jobs, those under way first."""
        return [*self.active.values(), *self.waiting]

    def has_room(self, coming: int) -> bool:
        """True if one more job can wait when `coming` others, which are being planned, are there."""
        free = self.max_active - len(self.active)
        return len(self.waiting) + coming < self.max_waiting + free

    def place(self, number: int, priority: int) -> int:
        """The place of the request of this number in the line of those who wait."""
        return number - priority * self.patience

    def add(self, job: Job) -> None:
        """Let `job` wait, or become active if there is room."""
        insort(self.waiting, job)
        self._fill()

    def remove(self, job: Job) -> None:
        """Take `job` out of its line, and let the next one that waits become active."""
        if self.active.pop(job.number, None) is None:
            self.waiting.remove(job)
        self._fill()

    def next_jobs(self, most: int) -> list[Job]:
        """The jobs of the next step: at most `most`, of one kind, first those that waited longest for their turn."""
        waited = sorted(self.active.values(), key=lambda job: job.turn)
        jobs = [job for job in waited if job.kind == waited[0].kind][:most]
        for job in jobs:
            self._line_up(job)
        return jobs

    def _fill(self) -> None:
        while self.waiting and len(self.active) < self.max_active:
            job = self.waiting.pop(0)
            self._line_up(job)
            self.active[job.number] = job

    def _line_up(self, job: Job) -> None:
        """Put `job` behind all other active ones."""
        self._turn += 1
        job.turn = self._turn

"""The past of a multistep method: earlier predictions and the points that they were made at."""

from __future__ import annotations

from math import inf

from diffusolve.noise import Point
from diffusolve.solvers.requests import Value

__all__ = ["Past", "has_no_length", "near"]


def has_no_length(s: Point, t: Point) -> bool:
    """True if `s` and `t` are the same place on the noise schedule, as where a list of sigmas has one twice."""
    return s.log_snr == t.log_snr


class Past(list[tuple[Value, Point]]):
    """The last `length` predictions with their points, the newest first, that of the current step included."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    def remember(self, value: Value, point: Point) -> None:
        """Put `value` first. One at the same point makes way for it: no polynomial goes through both."""
        if self and has_no_length(self[0][1], point):
            del self[0]
        self.insert(0, (value, point))
        del self[self.length :]

    def usable_order(self, t: Point, order: int, remaining: float = inf) -> int:
        """The order of the step to `t`: `order`, as far as the past and the `remaining` number of steps allow.

        It is 1 in a step to sigma = 0, which is infinitely long in log-SNR, and in one of no length.
        """
        if t.sigma == 0 or has_no_length(self[0][1], t):
            return 1
        return int(min(order, len(self), remaining))


def near(known: list[tuple[Value, Point]], t: Point, longest_step: float) -> list[tuple[Value, Point]]:
    """As many of `known`, newest first, as a step from the newest to `t` may use, at least one if there is any.

    The step is to be no longer in log-SNR than `longest_step` times the mean length of those between them.
    """
    newest = known[0][1].log_snr if known else inf
    while len(known) > 1 and t.log_snr - newest > longest_step * (newest - known[-1][1].log_snr) / (len(known) - 1):
        known = known[:-1]
    return known

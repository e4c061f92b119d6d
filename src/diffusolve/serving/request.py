"""Requests to a batcher, and the previews that it shows on the way."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

from diffusolve.arrays import Array
from diffusolve.backends import Transform
from diffusolve.errors import check_finite, check_whole, shown
from diffusolve.plan import Plan, PlanPoint
from diffusolve.randomness import NoiseLike
from diffusolve.sampling import Sampler

__all__ = ["Preview", "Request"]


class Preview(NamedTuple):
    """A sample on its way, after one step. It is made for those requests only that somebody watches."""

    request: Request
    """The request whose sample it is."""
    step: int
    """The number of the step, from 0; the last preview of a stream has the number of steps here."""
    steps: int
    """The number of steps that the request takes."""
    point: PlanPoint
    """The place where the sample stood: timestep, alpha, sigma."""
    data: Array
    """The prediction of x0, an array of the request's shape; in the last preview of a stream the finished sample."""

    @property
    def is_last(self) -> bool:
        """True if `data` is the finished sample."""
        return self.step == self.steps


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """One sample to be made.

    Args:
        sampler: a name of the catalog, a :class:`~diffusolve.Sampler` (for its options), or a ready plan.
        steps: how many steps; not with a plan.
        shape: the sample's, without a batch's dimension, for example ``(4, 64, 64)``.
        seed: of the noise to start from and of that between steps: the sample is the one that :func:`diffusolve.start`
            and :func:`diffusolve.sample` make from it. From the array library's own generator when missing.
        x: the sample to start from, in place of `shape` (image to image).
        noise: where the noise between steps comes from, if not from `seed`; see :mod:`diffusolve.randomness`.
        condition, guidance_scale: for the model, which is given the requests of its batch.
        transform: applied to each data prediction, shape (1, ...), see :class:`~diffusolve.backends.Run`; for example
            ``Clip(1.0)``.
        priority: a request goes before all those that came earlier with less, up to a bound; see the batcher's
            `max_priority` and `patience`.
        timeout: seconds from now after which it is given up with :class:`RequestTimeout
            <diffusolve.serving.RequestTimeout>`.
        on_step: called in the event loop with a :class:`Preview` after each step. If it raises an exception, the
            request fails.
        tag: anything to know the request by; errors show it.
    """

    sampler: str | Sampler | Plan
    steps: int | None = None
    shape: tuple[int, ...] | None = None
    seed: int | None = None
    x: Array | None = None
    noise: NoiseLike = None
    condition: Any = None
    guidance_scale: float = 1.0
    transform: Transform | None = None
    priority: int = 0
    timeout: float | None = None
    on_step: Callable[[Preview], object] | None = None
    tag: Hashable = None

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """`shape`, or that of `x`."""
        if self.x is not None:
            return tuple(self.x.shape)
        assert self.shape is not None
        return tuple(self.shape)

    def check(self, max_steps: int, max_priority: int) -> None:
        """Raise ValueError or TypeError if something about the request can never be right."""
        if not isinstance(self.sampler, str | Sampler | Plan):
            raise TypeError(f"sampler is {shown(self.sampler)}: expected a name, a Sampler or a Plan.")
        if isinstance(self.sampler, Plan) and self.steps is not None:
            own = self.sampler.steps
            raise ValueError(f"steps is {shown(self.steps)}, but the sampler is a plan, which has {own} steps.")
        if self.steps is not None:
            check_whole("steps", self.steps, 1)
        steps = self.sampler.steps if isinstance(self.sampler, Plan) else self.steps
        if steps is not None and steps > max_steps:
            raise ValueError(
                f"steps is {shown(steps)}: expected at most {max_steps}, which is what this batcher takes."
            )
        if (self.shape is None) == (self.x is None):
            given = "both are given" if self.x is not None else "neither is given"
            raise ValueError(f"expected the shape of the sample or x, a sample to start from; {given}.")
        if not isinstance(self.shape or (), tuple | list):
            raise TypeError(f"shape is {shown(self.shape)}: expected a tuple of whole numbers.")
        for size in self.shape or ():
            check_whole("each number of shape", size, 1)
        if self.seed is not None:
            check_whole("seed", self.seed, 0)
        check_whole("priority", self.priority)
        if abs(self.priority) > max_priority:
            nearest = max_priority if self.priority > 0 else -max_priority
            raise ValueError(
                f"priority is {shown(self.priority)}: expected {-max_priority} to {max_priority}, which is what this "
                f"batcher takes; the nearest is {nearest}."
            )
        check_finite("guidance_scale", self.guidance_scale)
        if self.timeout is not None:
            check_finite("timeout", self.timeout)
            if self.timeout <= 0:
                raise ValueError(f"timeout is {shown(self.timeout)}: expected seconds, more than 0.")
        for name in ("on_step", "transform"):
            if getattr(self, name) is not None and not callable(getattr(self, name)):
                raise TypeError(f"{name} is a {type(getattr(self, name)).__name__}: expected a function.")

"""The requests that a solver may make while it runs.

A solver is a generator. It yields requests and receives values; a value supports ``+``, ``-`` and ``*``, ``/`` by a
float, and the solver never learns whether it is a tensor or a symbol.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, NamedTuple, Protocol, TypeAlias

from diffusolve.noise import Point

__all__ = ["ErrorRatio", "Evaluate", "Keep", "Noise", "Request", "SolverRun", "StepEnded", "Value", "intercepted"]


class Value(Protocol):
    """A sample, a data prediction, noise, or a combination of them."""

    def __add__(self, other: Any, /) -> Any: ...
    def __sub__(self, other: Any, /) -> Any: ...
    def __mul__(self, other: float, /) -> Any: ...
    def __rmul__(self, other: float, /) -> Any: ...
    def __truediv__(self, other: float, /) -> Any: ...


class Evaluate(NamedTuple):
    """Run the model on sample `x` at `point`; answered by ``(x, data)``, `data` being the prediction of x0.

    Use the `x` that comes back. `stage` is 0 for the evaluation that begins a step and counts up inside it. With
    `unclipped` the answer is ``(x, data, raw)``: `raw` is the prediction as the model made it, before any clipping of
    `data`. With `unguided` there is one more: `data` is then the prediction of the guided network, and what comes last
    the prediction that the same network makes without guidance, never clipped. Both can be used until the next
    evaluation.
    """

    x: Value
    point: Point
    stage: int = 0
    unclipped: bool = False
    unguided: bool = False


class Noise(NamedTuple):
    """Standard normal noise that belongs to the interval from point `s` to point `t`.

    Noise that nothing reads is not drawn, unless it is `idle`: a program draws it too, and generators are to be left as
    they are there.
    """

    s: Point
    t: Point
    idle: bool = False


class Keep(NamedTuple):
    """Store `x`; answered by the same value as a register, so that later terms refer to it and not to its parts.

    `point` is given where `x` is the sample at that point (a corrected sample, say).
    """

    x: Value
    point: Point | None = None


class ErrorRatio(NamedTuple):
    """The distance of `low` from `high`, in units of the tolerance: answered by a float.

    The root mean square over all elements of ``(low - high) / max(atol, rtol * max(|low|, |previous|))``. Only
    solvers that are driven directly may ask for it, since the answer depends on the data.
    """

    low: Value
    high: Value
    previous: Value
    rtol: float
    atol: float


class StepEnded(NamedTuple):
    """An adaptive solver tried a step from `s` to `t` and `accepted` it or not; answered by None.

    It goes on from `x`; `error` is the step's error in units of the tolerance, and `h` the length in log-SNR of the
    next step.
    """

    s: Point
    t: Point
    accepted: bool
    x: Value
    error: float
    h: float


Request: TypeAlias = Evaluate | Noise | Keep | ErrorRatio | StepEnded

SolverRun: TypeAlias = Generator[Request, Any, Value]
"""A solver under way: yields requests, returns the sample at the last point."""


def intercepted(run: SolverRun, answered: Callable[[Request], Generator[Request, Any, Any]]) -> SolverRun:
    """A solver's run whose requests go to `answered`, a generator that may make others and returns the answer."""
    answer: Any = None
    while True:
        try:
            request = run.send(answer)
        except StopIteration as stop:
            result: Value = stop.value
            return result
        answer = yield from answered(request)

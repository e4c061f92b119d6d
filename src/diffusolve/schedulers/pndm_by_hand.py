"""PNDM call by call, from what its users know of its memory, where calls are not those of a run in its order."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from torch import Tensor

from diffusolve.arrays import cast_like
from diffusolve.backends import backend_of
from diffusolve.backends.log_prob import LogProbArguments
from diffusolve.errors import NoDensityError
from diffusolve.noise import Point
from diffusolve.solvers.pndm import ADAMS_BASHFORTH

__all__ = ["EVALUATIONS", "ByHand", "Call", "Memory"]

EVALUATIONS = 4
"""Of a Runge-Kutta step."""


@dataclass
class Memory:
    """The memory of PNDM under the names that it has in diffusers, once users have written to it, or left its order.

    Attributes:
        ets: outputs of the network, oldest first, of which the last three count beside the next one.
        counter: the number of calls so far.
        cur_sample: the sample where a step of several calls began.
        cur_model_output: the weighted sum of the outputs in a Runge-Kutta step so far.
        runge_kutta: the next call is one of a Runge-Kutta step; None: as the counter says.
    """

    ets: list[Any] = field(default_factory=list)
    counter: int = 0
    cur_sample: Tensor | None = None
    cur_model_output: Any = 0
    runge_kutta: bool | None = None


class Call(NamedTuple):
    """One call of `step`: the timestep that it is told, and in timesteps the length of a step.

    `begun_at` is the timestep where a Runge-Kutta step has begun; None: the call is one of the multistep method.
    """

    timestep: int
    stride: int
    begun_at: int | None


Terms = list[tuple[float, Tensor]]


class ByHand:
    """Makes one call, and has the memory take note of it.

    Args:
        memory: before the call.
        call: where it is.
        scheduler: knows the points at timesteps, and what is predicted.
    """

    is_done = False

    def __init__(self, memory: Memory, call: Call, scheduler: Any) -> None:
        self.memory, self.call, self.scheduler = memory, call, scheduler

    def step(self, output: Tensor, x: Tensor) -> Tensor:
        """The next sample, from the network's `output` on the current sample `x`.

        Raises:
            ValueError: `output` has another shape than `x`; the memory is not such as the counter says.
        """
        if output.shape != x.shape:
            raise ValueError(
                f"the network's output has shape {tuple(output.shape)}, but the sample has shape {tuple(x.shape)}: "
                "they must be equal."
            )
        after = replace(self.memory, ets=[*self.memory.ets])
        make = _multistep if self.call.begun_at is None else _runge_kutta
        begun, mean, s, t = make(after, self.call, output, x)
        point = self.scheduler._point
        of_sample, of_mean = _ddim(point(s), point(t), self.scheduler.config["prediction_type"])
        terms = [(of_sample, begun), *((of_mean * weight, slope) for weight, slope in mean if of_mean)]
        following: Tensor = cast_like(backend_of(x).combine([a for _, a in terms], [w for w, _ in terms]), x)
        after.counter += 1
        vars(self.memory).update(vars(after))
        return following

    def _step_asked(self, output: Tensor, x: Tensor, asked: LogProbArguments, unguided: Tensor | None = None) -> Any:
        raise NoDensityError("a step of PNDM adds no noise, so that it has no density.")


def _runge_kutta(memory: Memory, call: Call, output: Tensor, x: Tensor) -> tuple[Tensor, Terms, int, int]:
    """The sample that a Runge-Kutta step began with, the mean slope as a sum, and the timesteps that it leads from and
    to. The `memory` takes note."""
    stage = memory.counter % EVALUATIONS
    assert call.begun_at is not None
    leads_to = call.timestep if memory.counter % 2 else call.timestep - call.stride // 2
    mean: Terms = [(1.0, output)]
    if stage == 0:
        memory.ets.append(output)
        memory.cur_sample = x
    if stage == EVALUATIONS - 1:
        before = memory.cur_model_output
        mean = [(1 / 6, output), *([(1.0, before)] if isinstance(before, Tensor) else [])]
        memory.cur_model_output = 0
    else:
        memory.cur_model_output = memory.cur_model_output + (1 / 3 if stage else 1 / 6) * output
    return x if memory.cur_sample is None else memory.cur_sample, mean, call.begun_at, leads_to


def _multistep(memory: Memory, call: Call, output: Tensor, x: Tensor) -> tuple[Tensor, Terms, int, int]:
    """The same for a multistep call, or for one of the two that make the improved Euler step at the start."""
    first, second = memory.counter == 0, memory.counter == 1
    s, t = call.timestep, call.timestep - call.stride
    if second:
        s, t = call.timestep + call.stride, call.timestep
    else:
        memory.ets = [*memory.ets[-3:], output]
    newest_first = memory.ets[:-5:-1]
    if len(newest_first) > 1:
        return x, list(zip(ADAMS_BASHFORTH[len(newest_first) - 1], newest_first, strict=True)), s, t
    if first:
        memory.cur_sample = x
        return x, [(1.0, output)], s, t
    begun = memory.cur_sample
    if not (second and newest_first and begun is not None):
        raise ValueError(
            f"ets holds {len(newest_first)} outputs and cur_sample is {'missing' if begun is None else 'there'} at "
            f"call number {memory.counter} of a run of PNDM: set counter to 0 too, so that it starts anew, or call "
            "set_timesteps."
        )
    memory.cur_sample = None
    return begun, [(0.5, output), (0.5, newest_first[0])], s, t


def _ddim(s: Point, t: Point, prediction: str) -> tuple[float, float]:
    """The coefficients of sample and prediction in DDIM's step (Song et al. 2021, equation 12, without noise)."""
    if prediction == "v_prediction":
        return t.alpha * s.alpha + t.sigma * s.sigma, t.sigma * s.alpha - t.alpha * s.sigma
    kept = t.alpha / s.alpha
    return kept, t.sigma - kept * s.sigma

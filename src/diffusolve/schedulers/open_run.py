"""A run whose registers can be looked at and written to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffusolve.arrays import cast_like
from diffusolve.backends import DrawNoise, Run, Transform, backend_of
from diffusolve.backends.log_prob import LogProbArguments, LogProbStep, Told, moved_on, transition_for
from diffusolve.backends.lowered import NEXT, SAMPLE, LoweredStage, Sum, Trait
from diffusolve.plan import OUTPUT, Plan

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["OpenRun"]

WINDOW = 4
"""For how many stages more a register is held than anything will read it."""


class OpenRun(Run):
    """Walks a plan as it is written, sum by sum, holding what it remembers under the plan's own names.

    Schedulers make one in the place of a plain run, which adds up early what it remembers, where users reach for the
    history of a run, or where the plan changes under a run that has one.

    Args:
        plan, draw_noise, transform: as for a run.
        registers: what it remembers where it stands.
        position: the number of the stage that comes next.
    """

    def __init__(
        self,
        plan: Plan,
        draw_noise: DrawNoise | None = None,
        transform: Transform | None = None,
        registers: Mapping[str, Tensor] | None = None,
        position: int = 0,
    ) -> None:
        super().__init__(plan, draw_noise, transform)
        self.position = position
        self.held: dict[str, Tensor] = dict(registers or {})
        self._needed = dict.fromkeys(self.held, position)
        self._live = [*plan.live(), frozenset[str]()]

    @classmethod
    def in_place_of(cls, run: Run, plan: Plan, transform: Transform | None) -> Self | None:
        """One that goes on with `plan` where `run` stands; None where `run` does not hold what that reads."""
        if run.position >= plan.nfe:
            return None
        run_on = cls(plan, run.draw_noise, transform, run.plain_registers, run.position)
        return run_on if run_on.lacks() <= {run_on.stage.sample} else None

    def lacks(self) -> frozenset[str]:
        """The registers that stages to come read, and that are not there; the current sample may be one."""
        return self._live[self.position] - self.held.keys()

    @property
    def registers(self) -> dict[str, Tensor]:
        """The arrays remembered from earlier stages, by the plan's names."""
        return self.held

    @property
    def plain_registers(self) -> dict[str, Tensor]:
        """The same."""
        return self.held

    def model_input(self, x: Tensor) -> Tensor:
        """The sample `x` as the network sees it."""
        if self.is_done:
            raise self._is_over()
        scale = self.stage.scale
        scaled: Tensor = x if scale == 1.0 else backend_of(x).combine((x,), (scale,))
        return scaled

    def step(self, output: Tensor, x: Tensor, unguided: Tensor | None = None, *, log_prob: bool = False) -> Any:
        """The next sample, from the network's `output` on the current sample `x`; as that of a plain run."""
        if log_prob:
            return self.step_log_prob(output, x, None, unguided)
        stage, backend = self.stage, backend_of(x)
        held = self._given(output, x, unguided)
        for noise in stage.update.noises:
            assert self.draw_noise is not None  # the plan is stochastic
            held[noise.register] = self.draw_noise(x, noise.sigma_from, noise.sigma_to)
        for write in stage.update.writes:
            sources, coefficients = [held[source] for source, _ in write.terms], [c for _, c in write.terms]
            held[write.register] = backend.combine(sources, coefficients) if sources else torch.zeros_like(x)
        following: Tensor = cast_like(held[self.plan.next_sample(self.position)], x)
        self._remember(held)
        return following

    def _given(self, output: Tensor, x: Tensor, unguided: Tensor | None) -> dict[Any, Tensor]:
        """The arrays that the next stage reads: those remembered, the sample and what the network says of it."""
        stage = self.stage
        if output.shape != x.shape or unguided is not None:
            self._bind(x, output)  # which says what is wrong
        return {**self.held, stage.sample: x, OUTPUT: output, stage.data: self.data(output, x)}

    def _remember(self, held: dict[Any, Tensor]) -> None:
        """Be one stage further, and hold what later stages read of `held`, and others for a while."""
        del held[OUTPUT]
        self.position = position = self.position + 1
        live = self._live[position]
        for register in (held.keys() - self._needed.keys()) | (held.keys() & live):
            self._needed[register] = position
        self.held = {
            register: array
            for register, array in held.items()
            if register in live or self._needed[register] > position - WINDOW
        }

    def _step_asked(
        self, output: Tensor, x: Tensor, asked: LogProbArguments, unguided: Tensor | None = None
    ) -> LogProbStep:
        """The next sample with its log-probability; as that of a plain run."""
        asked.check(x)
        told, following = Told.by(self.draw_noise), self.plan.next_sample(self.position)
        transition_for(self.plan, self.position, told)
        held = self._given(output, x, unguided)
        held[SAMPLE] = x
        result = moved_on(asked, told, self._in_names(following), held, backend_of(x), self._drawing(x))
        del held[SAMPLE]
        held[following] = result.next_sample
        self._remember(held)
        return result

    def _in_names(self, following: str) -> LoweredStage:
        """The next stage, which leads to the sample `following`, with the plan's names for places."""
        stage, live = self.stage, self._live[self.position + 1]
        writes: list[Any] = [*stage.update.writes, (NEXT, ((following, 1.0),))]
        sums = tuple([Sum.of(register, dict(terms)) for register, terms in writes])
        holds: Any = tuple([(register, register) for register in live])
        noises: Any = stage.update.noises
        return LoweredStage(stage.scale, stage.point.timestep, Trait(0), noises=noises, sums=sums, holds=holds)

    def from_start(self, draw_noise: DrawNoise | None) -> OpenRun:
        """Another run of the same plan from its start."""
        return OpenRun(self.plan, draw_noise, self.transform)

    def copied(self) -> OpenRun:
        """Another run where this one stands; what it remembers is never written to, so both may hold it."""
        twin = OpenRun(self.plan, self.draw_noise, self.transform, self.held, self.position)
        twin._needed = dict(self._needed)
        return twin

    __copy__ = copied

"""A run: a position in a plan and its live registers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diffusolve.arrays import Array
from diffusolve.backends.backend import Backend, backend_of
from diffusolve.backends.program import OUTPUT, compile_plan
from diffusolve.plan import NoiseTerm, Plan, Stage

__all__ = ["DrawNoise", "Run", "Transform"]

DrawNoise = Callable[[Array, float, float], Array]
"""Draws standard normal noise like an array, for the interval between two sigmas."""

Transform = Callable[[Array, Stage], Array]
"""Changes a data prediction (clips it, say) before it is used."""


class Run:
    """Walks a plan with real arrays. The only mutable thing in the library; runs share nothing.

        run = Run(plan, draw_noise)
        x = run.begin(x)
        while not run.is_done:
            output = network(run.model_input(x), run.stage.point.timestep)
            x = run.step(output, x)

    Half-precision samples are combined in float32 and come back in float32; cast them where they leave your loop.

    Args:
        plan: what to do.
        draw_noise: where a stochastic plan's noise comes from.
        transform: applied to every data prediction before it is used.
    """

    def __init__(self, plan: Plan, draw_noise: DrawNoise | None = None, transform: Transform | None = None) -> None:
        if plan.is_stochastic and draw_noise is None:
            raise ValueError(f"{plan.solver} is stochastic: give its run a source of noise.")
        self.plan = plan
        self.position = 0
        self._program = compile_plan(plan, transform is not None)
        self._draw_noise = draw_noise
        self._transform = transform
        self._registers: dict[str, Any] = {}
        self._backend: Backend | None = None

    @property
    def is_done(self) -> bool:
        """Whether all stages have been run."""
        return self.position == len(self._program.stages)

    @property
    def holds_nothing(self) -> bool:
        """Whether nothing is remembered from earlier stages."""
        return not self._registers

    @property
    def last_stage(self) -> Stage:
        """The stage that the last output belonged to."""
        return self.plan.stages[self.position - 1]

    @property
    def stage(self) -> Stage:
        """The stage that the next output belongs to."""
        self._check_not_done()
        return self.plan.stages[self.position]

    def begin(self, x: Array) -> Array:
        """The first sample that the network is asked about, from `x`, the sample at ``plan.start``."""
        self._backend = backend_of(x)
        if not (self.plan.opening.writes or self.plan.opening.noises):
            return x
        self._registers[self.plan.initial] = x
        self._execute(self._program.opening_noises, self._program.opening, x)
        sample = self._registers[self.plan.stages[0].sample]
        self._free(self.plan.opening.frees)
        return sample

    def model_input(self, x: Array) -> Array:
        """What the network sees of sample `x`."""
        self._check_not_done()
        scale = self.plan.stages[self.position].scale
        return x if scale == 1.0 else (self._backend or backend_of(x)).combine((x,), (scale,))

    def data(self, output: Array, x: Array) -> Array:
        """The prediction of x0 by the network's `output` on sample `x`, transformed."""
        stage = self.stage
        data = _sum(self._backend or backend_of(x), {"x": x, OUTPUT: output}, ("x", OUTPUT), (stage.a, stage.b), x)
        return data if self._transform is None else self._transform(data, stage)

    def step(self, output: Array, x: Array) -> Array:
        """The next sample, from the network's `output` on the current sample `x`.

        Raises:
            ValueError: `output` has another shape than `x`.
            IndexError: the plan has no more stages.
        """
        self._check_not_done()
        if output.shape != x.shape:
            raise ValueError(
                f"the network's output has shape {tuple(output.shape)}, but the sample has shape {tuple(x.shape)}: "
                "they must be equal."
            )
        stage = self._program.stages[self.position]
        self._backend = self._backend or backend_of(x)
        registers = self._registers
        registers[stage.sample] = x
        registers[OUTPUT] = output
        instructions = stage.instructions
        if self._transform is not None:
            registers[stage.plan_stage.data] = self.data(output, x)
            instructions = instructions[1:]
        self._execute(stage.noises, instructions, x)
        next_sample = registers[stage.next_sample]
        del registers[OUTPUT]
        self._free(stage.frees)
        self.position += 1
        if self.is_done:
            registers.clear()
        return next_sample

    def _execute(self, noises: tuple[NoiseTerm, ...], instructions: tuple[Any, ...], like: Array) -> None:
        registers = self._registers
        assert self._backend is not None
        for noise in noises:
            assert self._draw_noise is not None
            registers[noise.register] = self._draw_noise(like, noise.sigma_from, noise.sigma_to)
        for register, sources, coefficients in instructions:
            registers[register] = _sum(self._backend, registers, sources, coefficients, like)

    def _free(self, frees: tuple[str, ...]) -> None:
        for register in frees:
            del self._registers[register]

    def _check_not_done(self) -> None:
        if self.position >= len(self._program.stages):
            raise IndexError(
                f"the plan has {self.plan.nfe} evaluations ({self.plan.steps} steps) and all of them are done: start "
                "a new run."
            )


def _sum(
    backend: Backend, registers: dict[str, Any], sources: tuple[str, ...], coefficients: tuple[float, ...], like: Array
) -> Array:
    if not sources:
        return backend.zeros(like)
    return backend.combine([registers[source] for source in sources], coefficients)

"""A run: a position in a plan and its live registers."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from diffusolve.arrays import Array
from diffusolve.backends.backend import Combine, backend_of
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
        self._draw_noise = draw_noise
        self._transform = transform
        self._registers: dict[str, Any] = {}
        self._stages: tuple[BoundStage, ...] = ()
        self._dtypes: tuple[Any, Any] = (None, None)

    @property
    def is_done(self) -> bool:
        """Whether all stages have been run."""
        return self.position == self.plan.nfe

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
        if self.is_done:
            raise self._is_over()
        return self.plan.stages[self.position]

    def begin(self, x: Array) -> Array:
        """The first sample that the network is asked about, from `x`, the sample at ``plan.start``."""
        self._bind(x)
        opening = self.plan.opening
        if not (opening.writes or opening.noises):
            return x
        registers = self._registers
        registers[self.plan.initial] = x
        self._draw(opening.noises, x)
        for register, sources, coefficients, _ in compile_plan(self.plan, self._transform is not None).opening:
            registers[register] = backend_of(x).bind(sources, coefficients)(registers)
        sample = registers[self.plan.stages[0].sample]
        for register in opening.frees:
            del registers[register]
        return sample

    def model_input(self, x: Array) -> Array:
        """What the network sees of sample `x`."""
        stages = self._stages or self._bind(x)
        if self.position >= len(stages):
            raise self._is_over()
        stage = stages[self.position]
        return x if stage.scale is None else stage.scale({stage.sample: x})

    def data(self, output: Array, x: Array) -> Array:
        """The prediction of x0 by the network's `output` on sample `x`, transformed."""
        stage = self.stage
        data = backend_of(x).combine((x, output), (stage.a, stage.b))
        return data if self._transform is None else self._transform(data, stage)

    def step(self, output: Array, x: Array) -> Array:
        """The next sample, from the network's `output` on the current sample `x`.

        Raises:
            ValueError: `output` has another shape than `x`.
            IndexError: the plan has no more stages.
        """
        stages = self._stages
        if x.dtype is not self._dtypes[0] or output.dtype is not self._dtypes[1]:
            stages = self._bind(x, output)
        if self.position >= len(stages):
            raise self._is_over()
        if output.shape != x.shape:
            raise ValueError(
                f"the network's output has shape {tuple(output.shape)}, but the sample has shape {tuple(x.shape)}: "
                "they must be equal."
            )
        stage = stages[self.position]
        registers = self._registers
        registers[stage.sample], registers[OUTPUT] = x, output
        if self._transform is not None:
            registers[stage.data] = self._transform(stage.convert(registers), self.plan.stages[self.position])
        if stage.noises:
            self._draw(stage.noises, x)
        for register, combination in stage.combinations:
            registers[register] = combination(registers)
        next_sample = registers[stage.next_sample]
        del registers[OUTPUT]
        for register in stage.frees:
            del registers[register]
        self.position += 1
        if self.position == len(stages):
            registers.clear()
        return next_sample

    def _bind(self, *like: Array) -> tuple[BoundStage, ...]:
        """The stages, ready for arrays like these."""
        backend: Any = backend_of(like[0]).specialised(*like)
        self._stages = _bound_stages(self.plan, self._transform is not None, backend)
        self._dtypes = like[0].dtype, like[-1].dtype
        return self._stages

    def _draw(self, noises: tuple[NoiseTerm, ...], like: Array) -> None:
        assert self._draw_noise is not None
        for noise in noises:
            self._registers[noise.register] = self._draw_noise(like, noise.sigma_from, noise.sigma_to)

    def _is_over(self) -> IndexError:
        return IndexError(
            f"the plan has {self.plan.nfe} evaluations ({self.plan.steps} steps) and all of them are done: start a new "
            "run."
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_stages": (), "_dtypes": (None, None)}  # functions, made again from the plan


class BoundStage(NamedTuple):
    """A stage for one backend; its combinations need nothing but the registers. `convert` makes the data prediction."""

    scale: Combine | None
    sample: str
    data: str
    convert: Combine
    noises: tuple[NoiseTerm, ...]
    combinations: tuple[tuple[str, Combine], ...]
    frees: tuple[str, ...]
    next_sample: str


@lru_cache(maxsize=1024)
def _bound_stages(plan: Plan, transforms: bool, backend: Any) -> tuple[BoundStage, ...]:
    bound = []
    for made in compile_plan(plan, transforms).stages:
        stage = made.plan_stage
        instructions = made.instructions[1:] if transforms else made.instructions
        bound.append(
            BoundStage(
                None if stage.scale == 1.0 else backend.bind((stage.sample,), (stage.scale,)),
                stage.sample,
                stage.data,
                backend.bind((stage.sample, OUTPUT), (stage.a, stage.b)),
                made.noises,
                tuple((register, backend.bind(sources, c, spent)) for register, sources, c, spent in instructions),
                made.frees,
                made.next_sample,
            )
        )
    return tuple(bound)

"""A run: a position in a plan and its live registers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import Any, NamedTuple

from diffusolve.arrays import Array, is_torch
from diffusolve.backends.backend import Combine, UpdateRegisters, backend_of, fused_backend, one_by_one
from diffusolve.backends.program import OUTPUT, compile_plan
from diffusolve.errors import unknown_name
from diffusolve.plan import UNGUIDED, NoiseTerm, Plan, Stage

__all__ = ["BACKENDS", "Clip", "DrawNoise", "Run", "Transform"]

BACKENDS = ("auto", "fused")

DrawNoise = Callable[[Array, float, float], Array]
"""Draws standard normal noise like an array, for the interval between two sigmas."""

Transform = Callable[[Array, Stage], Array]
"""Changes a data prediction (clips it, say) before it is used."""


@dataclass(frozen=True)
class Clip:
    """The transform that clips data predictions to plus and minus `limit`, which runs do in passing."""

    limit: float

    def __call__(self, data: Array, stage: Stage) -> Array:
        return backend_of(data).clip(data, self.limit)


class Run:
    """Walks a plan with real arrays. The only mutable thing in the library; runs share nothing.

        run = Run(plan, draw_noise)
        x = run.begin(x)
        while not run.is_done:
            output = network(run.model_input(x), run.stage.point.timestep)
            x = run.step(output, x)

    A plan that ``reads_unguided`` (CFG++) takes two outputs, ``run.step(guided, x, unguided)``.

    Half-precision samples are combined in float32 and come back in the precision that they have; for a loop that rounds
    to half precision at its end only, begin with a float32 sample.

    Args:
        plan: what to do.
        draw_noise: where a stochastic plan's noise comes from.
        transform: applied to every data prediction before it is used; it may write to it.
        backend: "auto", or "fused", which lets torch.compile make a kernel for each form of a stage: on a GPU a stage
            is then one kernel. The first run takes seconds to compile them.
        donate: the samples and outputs that :meth:`step` is given may be overwritten, so that it takes no memory but
            for what it remembers. Not for tensors that gradients flow through, nor for one that is both.
    """

    def __init__(
        self,
        plan: Plan,
        draw_noise: DrawNoise | None = None,
        transform: Transform | None = None,
        donate: bool = False,
        backend: str = "auto",
    ) -> None:
        if backend not in BACKENDS:
            raise unknown_name("backend", backend, BACKENDS)
        if plan.is_stochastic and draw_noise is None:
            raise ValueError(f"{plan.solver} is stochastic: give its run a source of noise.")
        self.plan = plan
        self.position = 0
        self._draw_noise = draw_noise
        self.transform = transform
        self.donate = donate
        self.backend = backend
        self._registers: dict[str, Any] = {}
        self._stages: tuple[BoundStage, ...] = ()
        self._backend: Any = None
        self._shape: Any = None

    @property
    def is_done(self) -> bool:
        """Whether all stages have been run."""
        return self.position == self.plan.nfe

    @property
    def holds_nothing(self) -> bool:
        """Whether nothing is remembered from earlier stages."""
        return not self._registers

    @property
    def registers(self) -> dict[str, Array]:
        """What is remembered from earlier stages, by the plan's names. Not to be changed."""
        return self._registers

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
        backend = backend_of(x)
        one_by_one(backend, compile_plan(*self._compiled).opening)(registers)
        sample = registers[self.plan.stages[0].sample]
        for register in opening.frees:
            del registers[register]
        return backend.cast(sample, x)

    def model_input(self, x: Array) -> Array:
        """What the network sees of sample `x`."""
        stages = self._stages
        if not stages:
            stages = self._bind(x)
            if self._registers:  # of samples, whose shape an input need not have: it may be doubled for guidance
                self._backend = self._shape = None
        if self.position >= len(stages):
            raise self._is_over()
        stage = stages[self.position]
        return x if stage.scale is None else stage.scale(x)

    def data(self, output: Array, x: Array) -> Array:
        """The prediction of x0 by the network's `output` on sample `x`, transformed."""
        stage = self.stage
        data = backend_of(x).combine((x, output), (stage.a, stage.b))
        return data if self.transform is None else self.transform(data, stage)

    def step(self, output: Array, x: Array, unguided: Array | None = None) -> Array:
        """The next sample, from the network's `output` on the current sample `x`.

        Args:
            output: what the network says of ``model_input(x)``, with guidance if there is any; the shape of `x`.
            x: the sample that :meth:`begin` or the last step returned.
            unguided: what it says without guidance, the shape of `x`: for plans that read it, in those stages at least
                whose ``reads_unguided`` is true.

        Raises:
            ValueError: an output has another shape than `x`, or `x` another than earlier samples that are remembered;
                `unguided` is missing, or the plan has no use for it.
            IndexError: the plan has no more stages.
        """
        stages, shape = self._stages, self._shape
        if not stages or x.shape != shape or output.shape != shape or not self._backend.takes(x, output):
            stages = self._bind(x, output)
        if self.position >= len(stages):
            raise self._is_over()
        stage = stages[self.position]
        if self.donate:
            _check_donated(x, output)
        if unguided is not None or stage.reads_unguided:
            stage = self._with_unguided(stage, x, unguided)
        registers = self._registers
        registers[stage.sample], registers[OUTPUT] = x, output
        if stage.convert is not None and self.transform is not None:
            registers[stage.data] = self.transform(stage.convert(registers), self.plan.stages[self.position])
        if stage.noises:
            self._draw(stage.noises, x)
        stage.update(registers)
        next_sample = registers[stage.next_sample]
        del registers[OUTPUT]
        for register in stage.frees:
            del registers[register]
        self.position += 1
        if self.position == len(stages):
            registers.clear()
        return next_sample if next_sample.dtype is x.dtype else self._backend.cast(next_sample, x)

    def _with_unguided(self, stage: BoundStage, x: Array, unguided: Array | None) -> BoundStage:
        """`stage` for the unguided output as well, which is put into its register where the stage reads it."""
        if unguided is None:
            raise ValueError(
                f"{self.plan.solver} needs the network's output without guidance as well: step(guided, x, unguided)."
            )
        if not self.plan.reads_unguided:
            raise ValueError(
                f"{self.plan.solver} has no use for an unguided output, which solvers with cfg_pp=True take: leave it "
                "out."
            )
        if unguided.shape != x.shape or not self._backend.takes(x, unguided):
            stage = self._bind(x, unguided, "unguided output")[self.position]
        if stage.reads_unguided:
            self._registers[UNGUIDED] = unguided
        return stage

    def _bind(self, x: Array, output: Array | None = None, name: str = "output") -> tuple[BoundStage, ...]:
        """The stages, ready for arrays like these."""
        backend: Any = backend_of(x)
        output = x if output is None else output
        if output.shape != x.shape:
            raise ValueError(
                f"the network's {name} has shape {tuple(output.shape)}, but the sample has shape {tuple(x.shape)}: "
                "they must be equal."
            )
        if self._registers and self._shape not in (None, x.shape):
            raise ValueError(
                f"the sample has shape {tuple(x.shape)}, but this run began with shape {tuple(self._shape)} and "
                "remembers earlier steps: begin another run."
            )
        program = compile_plan(*self._compiled)
        remembers = self._backend is not None and self._registers  # arrays that were like others
        if self.backend == "fused":
            if not is_torch(x):
                raise TypeError(f'backend is "fused", which is for torch tensors, not for a {type(x).__name__}.')
            self._backend = fused_backend()
        else:
            self._backend = backend if remembers else backend.specialised(x, output, program.simple)
        self._shape = x.shape
        self._stages = _bound_stages(*self._compiled, self._backend)
        return self._stages

    @property
    def _compiled(self) -> tuple[Plan, bool, float, bool]:
        """What the program depends on: the plan, whether data are transformed, their limit, and what is donated."""
        if isinstance(self.transform, Clip):
            return self.plan, False, self.transform.limit, self.donate
        return self.plan, self.transform is not None, inf, self.donate

    def again(self, draw_noise: DrawNoise | None) -> Run:
        """Another run of the same plan and transform, with this one's preparations."""
        run = object.__new__(Run)
        run.__dict__.update(self.__dict__, position=0, _registers={}, _draw_noise=draw_noise)
        return run

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
        return {**vars(self), "_stages": (), "_backend": None, "_shape": None}  # functions, made again from the plan


def _check_donated(x: Array, output: Array) -> None:
    if x is output:
        raise ValueError("the sample and the network's output are the same array, and both are donated: copy one.")
    if getattr(x, "requires_grad", False) or getattr(output, "requires_grad", False):
        raise ValueError("a tensor that requires gradients cannot be overwritten: leave donate=True out.")


class BoundStage(NamedTuple):
    """A stage for one backend; what it does needs the registers only. `convert` makes data predictions to transform."""

    scale: Callable[[Array], Array] | None
    sample: str
    data: str
    convert: Combine | None
    noises: tuple[NoiseTerm, ...]
    update: UpdateRegisters
    frees: tuple[str, ...]
    next_sample: str
    reads_unguided: bool


@lru_cache(maxsize=1024)
def _bound_stages(plan: Plan, transforms: bool, limit: float, donated: bool, backend: Any) -> tuple[BoundStage, ...]:
    bound = []
    samples = frozenset(stage.sample for stage in plan.stages)
    noises = {
        noise.register for update in (plan.opening, *(stage.update for stage in plan.stages)) for noise in update.noises
    }
    for made in compile_plan(plan, transforms, limit, donated).stages:
        stage = made.plan_stage
        instructions = made.instructions[1:] if transforms else made.instructions
        reads_unguided = stage.reads_unguided
        theirs = samples | {made.next_sample}
        foreign = noises | {stage.data} if transforms else noises
        bound.append(
            BoundStage(
                None if stage.scale == 1.0 else backend.scaled(stage.scale),
                stage.sample,
                stage.data,
                backend.bind((stage.sample, OUTPUT), (stage.a, stage.b)) if transforms else None,
                made.noises,
                backend.update(instructions, theirs, foreign),
                (*made.frees, UNGUIDED) if reads_unguided else made.frees,
                made.next_sample,
                reads_unguided,
            )
        )
    return tuple(bound)

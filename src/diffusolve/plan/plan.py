"""The plan: a sampler as an immutable table of coefficients."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import inf, log
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from typing_extensions import Self

    from diffusolve.drawing import Panel
    from diffusolve.plan.transition import Transition

__all__ = ["OUTPUT", "UNGUIDED", "NoiseTerm", "Plan", "PlanPoint", "Stage", "Update", "Write", "sizes_of"]

OUTPUT = "output"
"""The source that is the network's output; no register of a plan has this name."""

UNGUIDED = "unguided"
"""The source that is the network's output without guidance, where a plan reads it beside the guided one, `OUTPUT`."""


class NoiseTerm(NamedTuple):
    """Standard normal noise to draw into `register`; it belongs to the interval between two sigmas."""

    register: str
    sigma_from: float
    sigma_to: float


class Write(NamedTuple):
    """``register = sum of coefficient * source``, terms being (source, coefficient)."""

    register: str
    terms: tuple[tuple[str, float], ...]


class PlanPoint(NamedTuple):
    """The place of a sample, which is ``alpha * x0 + sigma * noise``."""

    timestep: float
    alpha: float
    sigma: float

    @property
    def log_snr(self) -> float:
        """``log(alpha / sigma)``."""
        if self.sigma == 0.0:
            return inf
        return log(self.alpha) - log(self.sigma) if self.alpha else -inf


class Update(NamedTuple):
    """Everything that is computed at once: noises to draw, registers to write in this order, registers to free."""

    noises: tuple[NoiseTerm, ...] = ()
    writes: tuple[Write, ...] = ()
    frees: tuple[str, ...] = ()


class Stage(NamedTuple):
    """One evaluation of the network and what follows from it.

    The network sees ``scale * sample`` and `timestep`; the data prediction is ``a * sample + b * output``, and is the
    register `data` to the terms of the update.
    """

    step: int
    """The step of the sampler that the evaluation belongs to, from 0."""
    stage: int
    """The number of the evaluation in its step: 0 begins the step."""
    point: PlanPoint
    scale: float
    a: float
    b: float
    sample: str
    data: str
    update: Update

    @property
    def reads_unguided(self) -> bool:
        """True if the update takes the network's output without guidance as well."""
        return any(source == UNGUIDED for write in self.update.writes for source, _ in write.terms)


@dataclass(frozen=True, repr=False)
class Plan:
    """A sampler on a grid, compiled: everything that happens, as numbers.

    A run starts with register `initial` holding the sample at `start`, does the `opening` (empty but for samplers that
    add noise before they first ask the network), then one `stage` after the other; register `result` is the sample at
    `end`. Plans are values: immutable, hashable, equal if all their numbers are.
    """

    solver: str
    prediction: str
    start: PlanPoint
    end: PlanPoint
    opening: Update
    stages: tuple[Stage, ...]
    result: str
    initial: str = "x0"
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """Everything else that is known of the plan, as JSON can hold it: the source of learned coefficients, for example.
    Written and read with the plan; no part of what the plan does or equals."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "extra", MappingProxyType(dict(self.extra)))

    @property
    def nfe(self) -> int:
        """The number of function evaluations: runs of the network."""
        return len(self.stages)

    @cached_property
    def rounds(self) -> tuple[range, ...]:
        """The stages of which the network can be asked at once, since no sample that it sees follows from an output of
        the same round; as places in `stages`, in the order of these."""
        firsts, following = [0], {OUTPUT, UNGUIDED}  # what follows from outputs of the round
        for place, (stage, after) in enumerate(zip(self.stages, self.stages[1:], strict=False), start=1):
            following.add(stage.data)
            for write in stage.update.writes:
                follows = any(source in following for source, _ in write.terms)
                (following.add if follows else following.discard)(write.register)
            if after.sample in following or stage.update.noises:
                firsts.append(place)
                following = {OUTPUT, UNGUIDED}
        return tuple(range(first, end) for first, end in zip(firsts, [*firsts[1:], self.nfe], strict=True))

    @property
    def depth(self) -> int:
        """The number of :attr:`rounds`: calls of the network one after the other, where it is asked at once."""
        return len(self.rounds)

    @property
    def steps(self) -> int:
        """The number of steps of the sampler; a step may evaluate the network more than once."""
        return self.stages[-1].step + 1

    @cached_property
    def registers(self) -> int:
        """The most tensors that a run holds while the network runs, the current sample among them."""
        return max(len(live) for live in self.live())

    def live(self) -> Iterator[frozenset[str]]:
        """For each stage, the registers that hold a value while the network runs."""
        held = {self.initial}
        for stage, before in zip(self.stages, self._updates, strict=True):
            held |= {write.register for write in before.writes} | {noise.register for noise in before.noises}
            held -= set(before.frees)
            yield frozenset(held)
            held |= {stage.data}

    @property
    def _updates(self) -> tuple[Update, ...]:
        """The update that precedes each stage."""
        return (self.opening, *(stage.update for stage in self.stages[:-1]))

    @cached_property
    def is_stochastic(self) -> bool:
        """True if a run draws noise."""
        return any(update.noises for update in (self.opening, *(stage.update for stage in self.stages)))

    @cached_property
    def reads_unguided(self) -> bool:
        """True if some stages take two outputs of the network, the guided and the unguided one (CFG++)."""
        return any(stage.reads_unguided for stage in self.stages)

    @property
    def timesteps(self) -> tuple[float, ...]:
        """The timestep that the network is conditioned on, for each evaluation."""
        return tuple(stage.point.timestep for stage in self.stages)

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Standard deviation of the noise at the beginning of each step, and at the end; steps + 1 numbers."""
        return (*(stage.point.sigma for stage in self.stages if stage.stage == 0), self.end.sigma)

    def next_sample(self, index: int) -> str:
        """The register of the sample that stage `index` leads to."""
        return self.stages[index + 1].sample if index + 1 < len(self.stages) else self.result

    def transition(self, index: int, handed: Collection[tuple[float, float]] = ()) -> Transition:
        """The normal distribution of the sample that stage `index` leads to, given all samples before it.

        Its mean is a sum of registers and its standard deviation a number, both settled when the plan was made. The
        noises of a run are taken to be independent: the result says where on a Brownian path they are not.

        >>> import diffusolve
        >>> plan = diffusolve.sampler("Euler a").plan(diffusolve.SD15, "epsilon", steps=10)
        >>> [name for name, _ in plan.transition(3).mean], round(plan.transition(3).std, 4)
        (['x3', 'data3'], 1.8203)

        Args:
            index: the number of the stage, from 0.
            handed: intervals of sigma for which a run is handed something else than noise.

        Raises:
            NoDensityError: the stage adds no noise, or remembers some that does not follow from the samples.
            IndexError: the plan has no such stage.
        """
        from diffusolve.plan.transition import transition

        return transition(self, index, frozenset(handed))

    def to_json(self, indent: int | None = None) -> str:
        """The plan as JSON text; :meth:`from_json` gives back an equal plan. The format: docs/plan-format.md."""
        from diffusolve.plan.json_format import dump

        return dump(self, indent)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The plan in `text`.

        Raises:
            PlanFormatError: it is not one, and why.
        """
        from diffusolve.plan.json_format import load

        return cls(**load(text))

    def __getstate__(self) -> dict[str, object]:
        # The hash differs in other processes, and a read-only view of a mapping cannot be sent there.
        return {**{name: value for name, value in vars(self).items() if name != "_hash"}, "extra": dict(self.extra)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({**state, "extra": MappingProxyType(state.get("extra", {}))})

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.solver, self.prediction, self.start, self.end, self.opening, self.stages, self.result))

    def table_html(self) -> str:
        """The plan as a table: a row for each evaluation, with the formulas that follow from it."""
        from diffusolve.drawing import html_table

        rows = []
        for stage in self.stages:
            number = f"{stage.step}" if stage.stage == 0 else f"{stage.step}.{stage.stage}"
            rows.append(_row(number, f"{stage.point.timestep:.6g}", stage.point, _formulas(stage.update)))
        opening = [_row("start", "", self.start, _formulas(self.opening))] if self.opening.writes else []
        end = _row("end", "", self.end, [self.result])
        return html_table(("step", "timestep", "sigma", "log-SNR", "formulas"), [*opening, *rows, end], self._summary)

    def plot(self) -> Figure:
        """Sigma and log-SNR over the steps. Needs matplotlib.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from diffusolve.drawing import figure_of

        return figure_of(self._panels(), self._summary)

    def _panels(self) -> list[Panel]:
        from diffusolve.drawing import level_panels

        first = [(float(stage.step), stage.point) for stage in self.stages if stage.stage == 0]
        inner = [(stage.step + 0.5, stage.point) for stage in self.stages if stage.stage > 0]
        return level_panels([*first, (float(self.steps), self.end)], inner)

    def _repr_html_(self) -> str:
        from diffusolve.drawing import notebook

        return notebook(self.table_html(), self._panels())

    def __repr__(self) -> str:
        return f"<Plan {self._summary}>"

    @property
    def _summary(self) -> str:
        noise = ", stochastic" if self.is_stochastic else ""
        outputs = ", guided and unguided outputs" if self.reads_unguided else ""
        return f"{self.solver}, {self.prediction}: {sizes_of(self)}{noise}{outputs}"

    def __str__(self) -> str:
        lines = [
            self._summary,
            f"{'step':>6} {'timestep':>10} {'sigma':>11} {'log-SNR':>9}  update",
        ]
        lines += _lines("", self.start, self.opening) if self.opening.writes else []
        for stage in self.stages:
            number = f"{stage.step}" if stage.stage == 0 else f"{stage.step}.{stage.stage}"
            lines += _lines(number, stage.point, stage.update)
        lines.append(f"{'end':>6} {'':>10} {self.end.sigma:>11.6g} {self.end.log_snr:>9.4g}  {self.result}")
        return "\n".join(lines)


def sizes_of(plan: Plan) -> str:
    """The numbers of steps, evaluations and registers of `plan`, in words."""
    rounds = f" in {plan.depth} rounds" if plan.depth < plan.nfe else ""
    registers = f"{plan.registers} register{'s' if plan.registers > 1 else ''}"
    return f"{plan.steps} steps, {plan.nfe} evaluations{rounds}, {registers}"


def _row(number: str, timestep: str, point: PlanPoint, formulas: list[str]) -> tuple[str, ...]:
    return number, timestep, f"{point.sigma:.6g}", f"{point.log_snr:.4g}", "; ".join(formulas)


def _formulas(update: Update) -> list[str]:
    return [f"{write.register} = {_formula(write.terms)}" for write in update.writes]


def _lines(number: str, point: PlanPoint, update: Update) -> list[str]:
    head = f"{number:>6} {point.timestep:>10.6g} {point.sigma:>11.6g} {point.log_snr:>9.4g}  "
    formulas = _formulas(update)
    return [(head if i == 0 else " " * len(head)) + formula for i, formula in enumerate(formulas)] or [head]


def _formula(terms: tuple[tuple[str, float], ...]) -> str:
    signed = [f"{'-' if c < 0 else '+'} {abs(c):.6g} {source}" for source, c in terms]
    return " ".join(signed).removeprefix("+ ") or "0"

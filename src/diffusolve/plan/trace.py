"""Compiling: run a solver on symbols and write down what it does."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from functools import lru_cache
from math import isfinite
from typing import Any

from diffusolve.errors import NotPlannableError, SingularPointError, shown
from diffusolve.noise import Grid, Point
from diffusolve.plan.combination import Combination
from diffusolve.plan.plan import OUTPUT, UNGUIDED, NoiseTerm, Plan, PlanPoint, Stage, Update, Write
from diffusolve.prediction import Conversion, Prediction
from diffusolve.solvers import Evaluate, Keep, Noise, Solver

__all__ = ["plan_for", "trace"]


@lru_cache(maxsize=1024)
def plan_for(solver: Solver, grid: Grid, prediction: Prediction) -> Plan:
    """The plan of `solver` over `grid`, from the cache if it was made before. Arguments and errors as :func:`trace`."""
    return trace(solver, grid, prediction)


def trace(solver: Solver, grid: Grid, prediction: Prediction) -> Plan:
    """Compile `solver` over `grid`, for a network with `prediction`, to a plan.

    Raises:
        NotPlannableError: the solver chooses its steps by the data, or uses dx/dsigma = (x - x0) / sigma on a grid
            where that does not hold.
        SingularPointError: a coefficient has no finite value.
        TypeError: a solver that is no generator of requests, or multiplies samples by samples.
    """
    check_plannable(solver)
    check_scaling(solver, grid)
    tracer = _Tracer(solver, prediction, _Stage(None, grid[0], 0, "x0", ""))
    run = solver(grid, Combination({"x0": 1.0}))
    if not isinstance(run, Generator):
        raise TypeError(
            f"{solver.name} is no generator: expected a function that yields Evaluate(x, point) and returns the last x."
        )
    answer = None
    while True:
        try:
            request = run.send(answer)
        except StopIteration as stop:
            result = stop.value
            break
        except OverflowError as error:
            raise SingularPointError(
                f"{solver} has a coefficient beyond all floats in evaluation {len(tracer.stages) - 1}: an option is "
                "too large."
            ) from error
        answer = tracer.answer(request)
    return tracer.finish(result, grid)


def check_plannable(solver: Solver) -> None:
    """Raise if `solver` chooses its steps by the data."""
    if solver.adaptive:
        raise NotPlannableError(
            f"{solver.name} chooses its steps by looking at the data, so there is no fixed table of coefficients for "
            "it: run it with diffusolve.sample()."
        )


def check_scaling(solver: Solver, grid: Grid) -> None:
    """Raise unless `solver` is right in the scaling of `grid`."""
    if solver.integrates_dx_dsigma and not grid.scaling.is_linear_in_sigma:
        raise NotPlannableError(
            f"{solver.name} integrates dx/dsigma = (x - x0) / sigma, which does not hold on a {grid.scaling.value} "
            "grid: use grid.in_scaling(Scaling.VARIANCE_EXPLODING)."
        )


@dataclass
class _Stage:
    """A stage being written. The opening is one without a conversion."""

    conversion: Conversion | None
    point: Point
    number: int
    sample: str
    data: str
    noises: list[NoiseTerm] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)
    idle: set[str] = field(default_factory=set)


class _Tracer:
    """Answers a solver's requests with symbols and takes note of them."""

    def __init__(self, solver: Solver, prediction: Prediction, opening: _Stage) -> None:
        self.solver = solver
        self.prediction = prediction
        self.stages = [opening]
        self.noises = 0
        self.kept = 0

    def answer(self, request: object) -> Any:
        stage = self.stages[-1]
        if isinstance(request, Evaluate):
            return self.evaluate(request)
        if isinstance(request, Noise):
            name = f"noise{self.noises}"
            self.noises += 1
            stage.noises.append(NoiseTerm(name, request.s.sigma, request.t.sigma))
            if request.idle:
                stage.idle.add(name)
            return Combination({name: 1.0})
        if isinstance(request, Keep):
            name = f"kept{self.kept}"
            self.kept += 1
            self.write(name, self.checked(request.x, "keeps"))
            return Combination({name: 1.0})
        raise NotPlannableError(
            f"{self.solver.name} yielded {shown(request)}, which has no answer without data: expected "
            "Evaluate(x, point), Noise(s, t) or Keep(x)."
        )

    def evaluate(self, request: Evaluate) -> tuple[Combination, ...]:
        x: Any = self.checked(request.x, "evaluates")
        evaluated = len(self.stages) - 1
        sample, data = f"x{evaluated}", f"data{evaluated}"
        if evaluated == 0 and x.terms != {"x0": 1.0}:
            sample = "x"  # the solver adds noise before the first evaluation
        if sample != "x0":
            self.write(sample, x)
        conversion = self.prediction.conversion(request.point)
        self.stages.append(_Stage(conversion, request.point, request.stage, sample, data))
        answer = [Combination({sample: 1.0}), Combination({data: 1.0})]
        outputs = [OUTPUT] * request.unclipped + [UNGUIDED] * request.unguided
        answer += [Combination({sample: conversion.a, output: conversion.b}) for output in outputs]
        return tuple(answer)

    def checked(self, value: object, does: str) -> Combination:
        """`value`, which is what the solver evaluates, keeps or returns."""
        if isinstance(value, Combination):
            return value
        raise TypeError(f"{self.solver.name} {does} {shown(value)}: expected a sample, a sum of x, data and noise.")

    def write(self, register: str, value: Combination) -> None:
        terms = tuple([term for term in value.terms.items() if term[1] != 0.0])
        try:
            finite = all(map(isfinite, value.terms.values()))
        except TypeError:
            raise TypeError(
                f"{self.solver.name} multiplies samples by something else than a float: a step of a plan is linear in "
                "x, data and noise."
            ) from None
        if not finite:
            source = next(source for source, coefficient in terms if not isfinite(coefficient))
            raise SingularPointError(
                f"{self.solver} has no finite coefficient of {source} in evaluation {len(self.stages) - 1}, from sigma "
                f"{self.stages[-1].point.sigma:g}: its formula is singular there."
            )
        self.stages[-1].writes.append(Write(register, terms))

    def finish(self, value: object, grid: Grid) -> Plan:
        result = f"x{len(self.stages) - 1}"
        self.write(result, self.checked(value, "returns"))
        updates = _with_lifetimes(self.stages, result)
        step = -1
        stages = []
        for draft, update in zip(self.stages[1:], updates[1:], strict=True):
            step += draft.number == 0
            assert draft.conversion is not None
            stages.append(
                Stage(step, draft.number, _place(draft.point), *draft.conversion, draft.sample, draft.data, update)
            )
        return Plan(
            str(self.solver),
            self.prediction.description,
            _place(grid[0]),
            _place(grid[-1]),
            updates[0],
            tuple(stages),
            result,
        )


def _place(point: Point) -> PlanPoint:
    return PlanPoint(point.timestep, point.alpha, point.sigma)


def _with_lifetimes(stages: list[_Stage], result: str) -> list[Update]:
    """Each stage's update: without writes that nothing reads, and freeing each register after its last use."""
    updates = []
    needed, outputs = {result}, {OUTPUT, UNGUIDED}
    for stage in reversed(stages):
        present = {stage.sample, stage.data} if stage.data else set()
        after, writes = needed.copy(), []
        for write in reversed(stage.writes):
            if write.register in needed:
                needed.discard(write.register)
                read = [source for source, _ in write.terms]
                needed.update(read)
                present.update(read)
                present.add(write.register)
                writes.append(write)
        present |= stage.idle
        noises = tuple([noise for noise in stage.noises if noise.register in needed | stage.idle])
        updates.append(Update(noises, tuple(writes[::-1]), tuple(sorted(present - after - outputs))))
        needed -= outputs
        needed.difference_update([noise.register for noise in noises])
        if stage.data:
            needed.discard(stage.data)
            needed.add(stage.sample)
    return updates[::-1]

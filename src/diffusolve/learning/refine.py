"""Refining by gradients: weights, levels and told levels together, for the last sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import cos, exp, inf, pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from diffusolve.files import replacing
from diffusolve.learning.model import Model, Rows
from diffusolve.learning.table import Table, in_rounds, place, used
from diffusolve.learning.teacher import Pairs, start_point
from diffusolve.plan import WIDEST_SHIFT

__all__ = ["Refining", "check_gradients", "refine_table"]

RATES = {"weights": 6e-3, "ratios": 1e-2, "shifts": 1e-2}
"""Adam's step sizes at the beginning."""

LONGEST = 2.0
"""A gradient longer than the running mean of lengths times this is cut to it."""

SPARE = 0.1
"""The part of the time that may be spent ahead of the iterations before the step size falls with the time: with time
enough, what is learned does not depend on the clock."""

NUDGE = 1e-4
"""Difference of logarithms over which the derivatives of a conversion are taken."""


@dataclass
class Refining:
    """The course of a refinement: the best table so far, and what validation said of it.

    Attributes:
        table: the best by validation.
        error: its root mean square distance on the validation pairs.
        course: (iterations, error) whenever validation was asked.
        iterations: how many were done.
        stopped: why it ended before its time; empty if it did not.
    """

    table: Table
    error: float = inf
    course: list[tuple[int, float]] = field(default_factory=list)
    iterations: int = 0
    stopped: str = ""


def check_gradients(model: Model, rows: Rows) -> None:
    """Raise TypeError unless gradients flow through the network.

    Args:
        model: the network.
        rows: conditions of one sample or more.
    """
    if not isinstance(model.like, Tensor):
        raise TypeError(
            f"refining takes gradients through a torch network, and like is a {type(model.like).__name__}: use "
            'method="fit", which takes none.'
        )
    point = start_point(model)
    x = torch.zeros_like(model.like[:1], dtype=torch.float32).requires_grad_()
    with torch.enable_grad():
        scale = model.prediction.conversion(point).scale
        output = model.output(x, scale, point.timestep, tuple(row[:1] for row in rows))
    if not output.requires_grad:
        raise TypeError(
            "no gradients flow through the network (it is quantised, compiled or run elsewhere, or turns them off): "
            'use method="fit", which needs none.'
        )


def refine_table(
    model: Model,
    pairs: Pairs,
    validation: Pairs,
    start: Table,
    iterations: int,
    *,
    seed: int = 0,
    batch: int = 32,
    rate: float = 1.0,
    checkpointing: bool = True,
    relaxed: float = 0.0,
    shifts: bool = True,
    at_once: int = 1,
    ask_every: int = 25,
    time_left: Callable[[], float] | None = None,
    on_iteration: Callable[[Refining], object] | None = None,
    keep: Path | None = None,
) -> Refining:
    """The table that Adam makes of `start` for the mean square distance of the last sample.

    NaN and Ctrl-C end it; the best so far is kept.

    Args:
        model: a torch network through which gradients flow.
        pairs: what to learn from.
        validation: what to choose by.
        start: where to begin.
        iterations: how many steps of Adam; the step size falls as a cosine to 0.
        seed: of the order of the pairs.
        batch: pairs of a step.
        rate: multiplies the step sizes; less than 1 for a start that is near the best already.
        checkpointing: compute each evaluation again on the way back, so that memory grows with one evaluation.
        relaxed: learn from starts anywhere in a ball around the given noise, of this radius in units of the noise's
            own length (Tong et al. 2024, LD3).
        shifts: learn what level the network is told of, too.
        at_once: evaluations of a round, none of which waits for another one's slope.
        ask_every: iterations between two questions to the validation pairs.
        time_left: seconds that are left; refining ends before there are none, and the step size falls with them.
        on_iteration: called after each step.
        keep: a file that the course is written to whenever validation was asked, and gone on from if it is there.
    """
    start = in_rounds(start, at_once)
    learner = Learner(model, start, checkpointing, at_once)
    best = Refining(start)
    groups = [{"params": [getattr(learner, name)], "lr": rate * usual} for name, usual in RATES.items()]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95))
    order = np.random.default_rng(seed)
    size = min(batch, pairs.count)
    whole = None if time_left is None else time_left()
    moved = torch.zeros_like(pairs.begun) if relaxed else None
    length = 0.0
    if keep is not None and keep.is_file():
        length = _read(keep, best, learner, optimizer, moved)
        for _ in range(best.iterations):
            order.choice(pairs.count, size, replace=False)
    try:
        if not best.course:
            _ask(best, learner, validation)
        while best.iterations < iterations:
            done = best.iterations / iterations
            if time_left is not None and whole is not None:
                left = time_left()
                if left <= 0.0:
                    break
                done = max(done, 1.0 - left / whole / (1.0 - SPARE))  # by the clock only where time is short
            for group, usual in zip(optimizer.param_groups, RATES.values(), strict=True):
                group["lr"] = rate * usual * 0.5 * (1.0 + cos(pi * done))
            index = torch.from_numpy(order.choice(pairs.count, size, replace=False))
            gradient = _gradient(learner, pairs, index.to(pairs.begun.device), moved, relaxed)
            norm = float(torch.cat([g.flatten() for g in gradient]).norm())
            if not np.isfinite(norm):
                best.stopped = "the loss is NaN or infinite"
                break
            length = norm if length == 0.0 else 0.9 * length + 0.1 * min(norm, 3 * length)
            cut = min(1.0, LONGEST * length / max(norm, 1e-30))
            for parameter, g in zip(learner.learned(shifts), gradient, strict=False):
                parameter.grad = cut * g
            optimizer.step()
            best.iterations += 1
            if best.iterations % ask_every == 0:
                _ask(best, learner, validation)
                if keep is not None:
                    _write(keep, best, learner, optimizer, moved, length)
            if on_iteration is not None:
                on_iteration(best)
        if not best.stopped and best.iterations % ask_every:
            _ask(best, learner, validation)
    except KeyboardInterrupt:
        best.stopped = "interrupted"
    return best


def _write(
    keep: Path, best: Refining, learner: Learner, optimizer: torch.optim.Adam, moved: Tensor | None, length: float
) -> None:
    """Write to `keep` all that the next iteration follows from."""
    state = {
        "table": {name: torch.from_numpy(value) for name, value in vars(best.table).items()},
        "error": best.error,
        "course": best.course,
        "iterations": best.iterations,
        "learner": learner.numbers(),
        "optimizer": optimizer.state_dict(),
        "moved": moved,
        "length": length,
    }
    with replacing(keep) as partial:
        torch.save(state, partial)


def _read(keep: Path, best: Refining, learner: Learner, optimizer: torch.optim.Adam, moved: Tensor | None) -> float:
    """Take up what :func:`_write` wrote; returns the length."""
    state = torch.load(keep, weights_only=True)
    best.table = Table(**{name: value.numpy() for name, value in state["table"].items()})
    best.error, best.course, best.iterations = state["error"], state["course"], state["iterations"]
    for name, value in state["learner"].items():
        getattr(learner, name).data.copy_(value)
    optimizer.load_state_dict(state["optimizer"])
    if moved is not None:
        moved.copy_(state["moved"])
    return float(state["length"])


def _gradient(learner: Learner, pairs: Pairs, index: Tensor, moved: Tensor | None, relaxed: float) -> Sequence[Tensor]:
    """The loss's gradient by what is learned, for the pairs at `index`; moves their starts where they are relaxed."""
    wanted = learner.learned(True)
    rows = tuple(row[index] for row in pairs.rows)
    with torch.enable_grad():
        begun = pairs.begun[index]
        if moved is not None:
            begun = (begun + moved[index]).requires_grad_()
        loss = (learner(begun, rows) - pairs.final[index]).square().mean()
        parts: Sequence[Tensor] = torch.autograd.grad(loss, [*wanted, *([begun] if moved is not None else [])])
    if moved is not None:
        *parts, by_start = parts
        dims = tuple(range(1, begun.ndim))
        radius = relaxed * pairs.begun[index].norm(dim=dims, keepdim=True)
        direction = by_start / by_start.norm(dim=dims, keepdim=True).clamp_min(1e-30)
        there = moved[index] - 0.1 * radius * direction
        moved[index] = there * (radius / there.norm(dim=dims, keepdim=True).clamp_min(1e-30)).clamp_max(1.0)
    return parts


def _ask(best: Refining, learner: Learner, validation: Pairs) -> None:
    """Take the learner's table for the best if it is, by the validation pairs."""
    with torch.no_grad():
        parts = [
            (learner(x, rows) - final).double().square().mean(dim=tuple(range(1, x.ndim)))
            for (x, rows), (final, _) in zip(
                learner.model.batches(validation.begun, validation.rows),
                learner.model.batches(validation.final, ()),
                strict=True,
            )
        ]
        error = float(torch.cat(parts).mean().sqrt())
    best.course.append((best.iterations, error))
    if error < best.error:
        best.error, best.table = error, learner.table()


class Learner(torch.nn.Module):
    """The walk of a table, with its numbers as parameters.

    Args:
        model: the network.
        table: where they begin. Levels are learned as the ratio of each to the one before, so that they fall.
        checkpointing: compute each evaluation again on the way back.
        at_once: evaluations of a round, whose slopes have no weight in each other's samples.
    """

    def __init__(self, model: Model, table: Table, checkpointing: bool, at_once: int = 1) -> None:
        super().__init__()
        self.model = model
        self.checkpointing = checkpointing
        self.used = torch.from_numpy(used(table.steps, at_once))
        self.first, self.last = float(table.sigmas[0]), float(table.sigmas[-1])
        ratios = table.sigmas[1:-1] / table.sigmas[:-2]
        shifts = np.clip(table.shifts / WIDEST_SHIFT, -0.99, 0.99)
        self.ratios = torch.nn.Parameter(torch.from_numpy(np.log(ratios / (1.0 - ratios))))
        self.shifts = torch.nn.Parameter(torch.from_numpy(np.arctanh(shifts)))
        self.weights = torch.nn.Parameter(torch.from_numpy(table.weights.copy()))

    def learned(self, shifts: bool) -> list[Tensor]:
        """The parameters, those for `shifts` last or not at all."""
        return [self.weights, self.ratios, *([self.shifts] if shifts else [])]

    def numbers(self) -> dict[str, Tensor]:
        """The parameters by their names, without those of the network."""
        return {name: getattr(self, name).detach().clone() for name in RATES}

    def _levels(self) -> tuple[Tensor, Tensor]:
        first = torch.tensor([self.first], dtype=torch.float64)
        inner = self.first * torch.cumprod(torch.sigmoid(self.ratios), 0)
        last = torch.tensor([self.last], dtype=torch.float64)
        return torch.cat([first, inner, last]), WIDEST_SHIFT * torch.tanh(self.shifts)

    def table(self) -> Table:
        """The numbers as they are now."""
        with torch.no_grad():
            sigmas, shifts = self._levels()
            return Table(sigmas.numpy(), shifts.numpy(), (self.weights * self.used).numpy())

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """The last sample, from samples `x` at the first level."""
        sigmas, shifts = self._levels()
        numbers: Any = _Conversions.apply(  # type: ignore[no-untyped-call]
            self.model, sigmas[:-1].log(), shifts
        )
        steps = sigmas.diff()[:, None] * self.weights * self.used
        numbers, sigmas, steps = (part.to(x.device, x.dtype) for part in (numbers, sigmas, steps))
        slopes: list[Tensor] = []
        for i in range(len(steps)):
            given = (x, sigmas[i], numbers[i], rows)
            if self.checkpointing and torch.is_grad_enabled():
                slopes.append(checkpoint(self._slope, *given, use_reentrant=False))
            else:
                slopes.append(self._slope(*given))
            for j, slope in enumerate(slopes):
                x = x + steps[i, j] * slope
        return x

    def _slope(self, x: Tensor, sigma: Tensor, numbers: Tensor, rows: Rows) -> Tensor:
        timestep, scale, a, b = numbers.unbind()
        output = self.model.ask(scale * x, timestep.expand(x.shape[0]), rows)
        moving: Tensor = ((1.0 - a) * x - b * output.to(x.dtype)) / sigma
        return moving


class _Conversions(torch.autograd.Function):
    """Timestep, scale, a and b of each evaluation, with derivatives by differences: any schedule and prediction."""

    @staticmethod
    def forward(ctx: Any, model: Model, logs: Tensor, shifts: Tensor) -> Tensor:
        values = _conversions(model, logs.tolist(), shifts.tolist())
        by_log, by_shift = np.zeros_like(values), np.zeros_like(values)
        top = float(logs[0])
        low = [value - NUDGE for value in logs.tolist()]
        high = [min(value + NUDGE, top) for value in logs.tolist()]
        apart = np.array(high)[:, None] - np.array(low)[:, None]
        by_log = (_conversions(model, high, shifts.tolist()) - _conversions(model, low, shifts.tolist())) / apart
        less, more = ([value + nudge for value in shifts.tolist()] for nudge in (-NUDGE, NUDGE))
        by_shift = (_conversions(model, logs.tolist(), more) - _conversions(model, logs.tolist(), less)) / (2 * NUDGE)
        ctx.save_for_backward(torch.from_numpy(by_log), torch.from_numpy(by_shift))
        return torch.from_numpy(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        by_log, by_shift = ctx.saved_tensors
        return None, (gradient * by_log).sum(1), (gradient * by_shift).sum(1)


def _conversions(model: Model, logs: Sequence[float], shifts: Sequence[float]) -> np.ndarray:
    """Shape (evaluations, 4): timestep, scale, a, b."""
    rows = []
    for log, shift in zip(logs, shifts, strict=True):
        point = place(model.noise_schedule, model.scaling, exp(log), shift)
        rows.append((point.timestep, *model.prediction.conversion(point)))
    return np.array(rows)

"""One walk from noise to data: what `set_timesteps` of a scheduler begins."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, lru_cache
from os import urandom
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from diffusolve.arrays import moved
from diffusolve.backends import Run
from diffusolve.noise import Grid, Point, VarianceExploding
from diffusolve.plan import Combination, Plan, plan_for
from diffusolve.prediction import Prediction
from diffusolve.randomness import draw_normal_with
from diffusolve.solvers import Solver

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Generation", "Noise", "Options", "Prepared", "check_options_of"]

Options = tuple[tuple[str, Any], ...]
Array = np.ndarray[Any, Any]


class Prepared:
    """What `set_timesteps` finds out, the same for every run with these arguments.

    Points and coefficients are worked out when they are first asked for, by the first step.

    Args:
        grid: the points, or what makes them.
        solver: what walks them, for a network with `prediction`.
        timesteps, sigmas: what users see; not all schedulers have sigmas.
    """

    def __init__(
        self,
        grid: Grid | Callable[[], Grid],
        solver: Solver,
        prediction: Prediction,
        timesteps: Array,
        sigmas: Array | None = None,
    ) -> None:
        self._grid = grid
        self.solver = solver
        self.prediction = prediction
        self.timesteps = timesteps
        self.sigmas = np.empty(0) if sigmas is None else sigmas

    @cached_property
    def values(self) -> list[float]:
        """The timesteps as numbers."""
        values: list[float] = self.timesteps.tolist()
        return values

    @property
    def grid(self) -> Grid:
        """The points that the solver walks."""
        grid = self._grid
        if not isinstance(grid, Grid):
            self._grid = grid = grid()  # another thread may do the same
        return grid

    @cached_property
    def plan(self) -> Plan:
        """The table of coefficients."""
        return plan_for(self.solver, self.grid, self.prediction)


@lru_cache(maxsize=256)
def check_options_of(solver: Solver, steps: int) -> None:
    """Raise what `solver` says of its options when it starts a run of `steps` steps."""
    schedule = VarianceExploding(0.1, 10.0)
    points = (Point(1.0, 1.0, 1.0),) * steps + (Point(0.0, 1.0, 0.5),)  # which no option depends on
    next(solver(Grid(points, schedule, schedule.scaling), Combination({"x0": 1.0})))


class Noise:
    """Draws the noise of the step under way."""

    def __init__(self, dtype: torch.dtype | None) -> None:
        self.dtype = dtype
        self.generator: Any = None
        self.given: Tensor | None = None
        self.deviation: Tensor | None = None

    def __call__(self, like: Tensor, sigma_from: float, sigma_to: float) -> Tensor:
        if self.given is not None:
            return self.given
        if self.dtype is not None and like.dtype is not self.dtype:
            like = torch.empty_like(like, dtype=self.dtype)
        noise: Tensor = draw_normal_with(self.generator, like)
        return noise if self.deviation is None else self.deviation * noise

    def drawn_from(self, generator: Any, given: Tensor | None = None, deviation: Tensor | None = None) -> Self:
        """In a with statement: noise is that `given`, or comes from `generator`, times `deviation` if there is one."""
        self.generator, self.given, self.deviation = generator, given, deviation
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        self.generator = self.given = self.deviation = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "generator": None, "given": None, "deviation": None}  # of a step, which is not copied


class Generation:
    """One walk from noise to data: its place, its noise and what it remembers, which no other run shares.

    It does not hold the tensor of its timesteps: that holds it (:class:`~diffusolve.schedulers.runs.Runs`).

    Attributes:
        values: the timesteps as numbers, not to be changed.
        begin_index: the evaluation that `set_begin_index` said the run begins with.
        step_index: the evaluation that comes next; None before the first.
        counts: `step_index` alone says where the run is, since `set_begin_index` contradicted the first timestep.
        custom: its timesteps were given.
        predictor, predicting: another scheduler that predicts for this one (UniPC's `solver_p`), as it is when a run
            begins, and the one that this run has walked with.
        options: with which the run was begun.
        owner, origin: the key of the :class:`~diffusolve.schedulers.runs.Runs` that it belongs to, and, once it was
            copied, what it has in common with its copies, in other processes too.
    """

    begin_index: int | None = None
    step_index: int | None = None
    counts: bool = False
    custom: bool = False
    predictor: Any = None
    predicting: Any = None
    options: Options = ()
    run: Run | None = None
    owner: object = None
    origin: bytes = b""

    def __init__(self, prepared: Prepared, steps: int, noise: Noise) -> None:
        self.prepared = prepared
        self.steps = steps
        self.values = prepared.values
        self.noise = noise
        self.sigmas = torch.from_numpy(prepared.sigmas.copy())
        self._levels: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def levels_on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Timesteps and sigmas as tensors on `device`, copied to an accelerator once."""
        if device in self._levels:
            return self._levels[device]
        levels = moved(torch.from_numpy(self.prepared.timesteps), device), moved(self.sigmas, device)
        if device.type != "cpu" and type(levels[1]) is Tensor:  # no fake tensors
            self._levels[device] = levels
        return levels

    @property
    def is_done(self) -> bool:
        """Whether all evaluations were made."""
        return self.run is not None and self.run.is_done

    @property
    def remembers(self) -> bool:
        """Whether the evaluation that comes next depends on earlier ones, other than by the sample."""
        return self.run is not None and not self.run.registers.keys() <= {self.run.stage.sample}

    def __getstate__(self) -> dict[str, Any]:
        self.origin = self.origin or urandom(16)
        state = {**vars(self), "_levels": {}}
        if self.run is not None:  # its registers as they are now, should another thread be walking it
            state["run"] = self.run.copied()
        return state

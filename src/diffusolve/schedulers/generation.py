"""A generation: what `set_timesteps` of a scheduler begins, from noise to data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, lru_cache
from os import urandom
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffusolve.arrays import moved
from diffusolve.backends import Run
from diffusolve.backends.buffers import Buffers
from diffusolve.errors import SingularPointError
from diffusolve.noise import Grid, Point, VarianceExploding
from diffusolve.plan import Combination, Plan, plan_for
from diffusolve.prediction import Prediction, Sample
from diffusolve.randomness import draw_normal_with
from diffusolve.schedulers.steps import Steps
from diffusolve.schedulers.versions import version_of
from diffusolve.solvers import Solver

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Brought", "Generation", "Noise", "Options", "Prepared", "check_options_of", "shown"]

Options = tuple[tuple[str, Any], ...]
Array = np.ndarray[Any, Any]

_NOTHING: Mapping[tuple[float, float], Tensor] = MappingProxyType({})


def shown(array: Array) -> Tensor:
    """A tensor of the numbers in `array`, for users to see; writing to it is noticed, in inference mode too."""
    if not torch.is_inference_mode_enabled():
        return torch.from_numpy(array.copy())
    with torch.inference_mode(False):
        return torch.from_numpy(array.copy())


class Prepared:
    """The findings of `set_timesteps`, the same for every generation with these arguments.

    Points and coefficients are worked out when they are first asked for, by the first step.

    Args:
        grid: the points, or what makes them.
        solver: what walks them, for a network with `prediction`.
        timesteps, sigmas: what users see; not all schedulers have sigmas.
        steps: where the steps fall, if another plan can be made over them.
    """

    def __init__(
        self,
        grid: Grid | Callable[[], Grid],
        solver: Solver,
        prediction: Prediction,
        timesteps: Array,
        sigmas: Array | None = None,
        steps: Steps | None = None,
    ) -> None:
        self._grid = grid
        self.steps = steps
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

    @cached_property
    def steps_of_evaluations(self) -> tuple[int, ...]:
        """The number of the step that each evaluation belongs to.

        It is known of a run that cannot begin at its first point too, where epsilon says nothing about the data: the
        later ones are fit to begin with.
        """
        try:
            plan = self.plan
        except SingularPointError:
            plan = plan_for(self.solver, self.grid, Sample())
        return tuple(stage.step for stage in plan.stages)


@lru_cache(maxsize=256)
def check_options_of(solver: Solver, steps: int) -> None:
    """Raise what `solver` says of its options when it starts a run of `steps` steps."""
    schedule = VarianceExploding(0.1, 10.0)
    points = (Point(1.0, 1.0, 1.0),) * steps + (Point(0.0, 1.0, 0.5),)  # which no option depends on
    next(solver(Grid(points, schedule, schedule.scaling), Combination({"x0": 1.0})))


class Noise:
    """Draws the noise of the step under way.

    A solver may ask in the same way for whatever else a step is handed from outside, as what the caller has kept of
    earlier steps: under the two sigmas of its request it is found in `handed`.
    """

    def __init__(self, dtype: torch.dtype | None) -> None:
        self.dtype = dtype
        self.generator: Any = None
        self.given: Tensor | None = None
        self.deviation: Tensor | None = None
        self.handed: Mapping[tuple[float, float], Tensor] = _NOTHING

    def __call__(self, like: Tensor, sigma_from: float, sigma_to: float) -> Tensor:
        handed = self.handed.get((sigma_from, sigma_to))
        if handed is not None:
            return handed
        if self.given is not None:
            return self.given
        if self.dtype is not None and like.dtype is not self.dtype:
            like = torch.empty_like(like, dtype=self.dtype)
        noise: Tensor = draw_normal_with(self.generator, like)
        return noise if self.deviation is None else self.deviation * noise

    def drawn_from(
        self,
        generator: Any,
        given: Tensor | None = None,
        deviation: Tensor | None = None,
        handed: Mapping[tuple[float, float], Tensor] = _NOTHING,
    ) -> Self:
        """In a with statement: noise is that `given`, or comes from `generator`, times `deviation` if there is one.

        What is `handed` takes the place of noise between its two sigmas.
        """
        self.generator, self.given, self.deviation, self.handed = generator, given, deviation, handed
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        self.generator = self.given = self.deviation = None
        self.handed = _NOTHING

    def __getstate__(self) -> dict[str, Any]:  # without what belongs to a step, which is not copied
        return {**vars(self), "generator": None, "given": None, "deviation": None, "handed": {}}


class Brought(NamedTuple):
    """The history that a run is to begin with.

    Attributes:
        run: the one that made it; None: there was none.
        written: the members that users have written since, under their names in diffusers.
    """

    run: Run | None
    written: Mapping[str, Any]


class Generation:
    """From noise to data once: a place, a source of noise and a run, which no other generation shares.

    It does not hold the tensor of its timesteps: that holds it (:class:`~diffusolve.schedulers.registry.Registry`).

    Attributes:
        values: the timesteps as numbers, not to be changed.
        steps: how many steps were asked for; None where none were, before `set_timesteps`.
        begin_index: the evaluation that `set_begin_index` said the run begins with.
        step_index: the evaluation that comes next; None before the first.
        by_number_of_calls: `step_index` alone says where the run is, since `set_begin_index` contradicted the first
            timestep.
        custom: its timesteps were given, or chosen by a class that gives them.
        given: they were given by the caller of such a class.
        edition: what stands in the scheduler that its plan follows from, see :meth:`WrittenTo._follow
            <diffusolve.schedulers.writing.WrittenTo._follow>`; None where each step is to look for what was written.
        followed: the edition that its plan follows from, whether or not each step is to look.
        timesteps_written, sigmas_written: users have replaced these numbers.
        begun_before: its first step was made when they did so.
        brought: what the run that is to begin, or to go on elsewhere, remembers from before, as users have left it.
        by_hand: the memory of a run that goes from call to call by it (PNDM's).
        timesteps_version: of the tensor of its timesteps, when their values were read.
        watched, watched_version: the sigmas, once they were handed to a user, and their version then.
        predictor, predicting: another scheduler that predicts for this one (UniPC's `solver_p`), as it is when a run
            begins, and the one that this run has walked with.
        first_size: of the data's last axes, where a class lets them grow on the way (FlowMatchLCM).
        options: with which the run was begun.
        memory: of the results of steps that have a run each, until the last one.
        owner, origin: the key of the :class:`~diffusolve.schedulers.registry.Registry` that it stands in, and, once it
            was copied, what it has in common with its copies, in other processes too.
    """

    begin_index: int | None = None
    step_index: int | None = None
    by_number_of_calls: bool = False
    custom: bool = False
    given: bool = False
    predictor: Any = None
    predicting: Any = None
    first_size: tuple[int, ...] = ()
    options: Options = ()
    run: Run | None = None
    timesteps_written: bool = False
    sigmas_written: bool = False
    begun_before: bool = False
    brought: Brought | None = None
    by_hand: Any = None
    timesteps_version: int = 0
    watched: Tensor | None = None
    watched_version: int = 0
    owner: object = None
    origin: bytes = b""
    memory: Buffers | None = None

    def __init__(self, prepared: Prepared, steps: int | None, noise: Noise, edition: object = None) -> None:
        self.prepared = prepared
        self.steps = steps
        self.edition = self.followed = edition
        self.values = prepared.values
        self.noise = noise
        self.sigmas = shown(prepared.sigmas)
        self._on_device: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def memory_for(self, timestep: float) -> Buffers:
        """The memory that the step at `timestep` writes to."""
        memory = self.memory or Buffers()
        self.memory = None if timestep == self.values[-1] else memory
        return memory

    def timesteps_and_sigmas_on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Both as tensors on `device`, copied to an accelerator once."""
        if device in self._on_device:
            return self._on_device[device]
        own = self.prepared.timesteps
        if self.timesteps_written:
            own = np.array(self.values, own.dtype)
        both = moved(torch.from_numpy(own), device), moved(self.sigmas, device)
        if device.type != "cpu" and type(both[1]) is Tensor:  # no fake tensors
            self._on_device[device] = both
        return both

    def sigmas_for_users(self) -> Tensor:
        """The sigmas; from now on it is noticed when they are written to."""
        if self.watched is not self.sigmas:
            self.watched, self.watched_version, self.edition = self.sigmas, version_of(self.sigmas), None
        return self.sigmas

    @property
    def is_written_to(self) -> bool:
        """True where the sigmas were written to since they were handed to a user."""
        return self.watched is not None and version_of(self.watched) != self.watched_version

    def with_timesteps(self, values: list[float]) -> None:
        """Take these timesteps, which users have written, for its own."""
        self.begun_before = self.step_index is not None
        if self.begun_before and len(values) != len(self.values) and values != self.values[: len(values)]:
            self.by_number_of_calls = True  # as in diffusers, which counts on wherever they begin
        self.values, self.timesteps_written = values, True
        self.edition = self.followed = None
        self._on_device = {}

    def with_sigmas(self, sigmas: Tensor, *, others: bool) -> None:
        """Take these sigmas, which users have written, for its own, whether they are `others` or elsewhere."""
        self.sigmas = sigmas
        self.sigmas_for_users()
        if others:
            self.sigmas_written, self.followed = True, None
        self._on_device = {}

    def go_on_with(self, prepared: Prepared, run: Run | None) -> None:
        """Walk another plan from here."""
        self.prepared, self.run = prepared, run
        if not self.timesteps_written:
            self.values = prepared.values
        if self.watched is not None:
            self.watched_version = version_of(self.watched)
        self._on_device = {}

    @property
    def is_done(self) -> bool:
        """True once all evaluations were made."""
        return self.run is not None and self.run.is_done

    @property
    def remembers(self) -> bool:
        """True where the evaluation that comes next depends on earlier ones, other than by the sample."""
        return self.run is not None and not self.run.registers.keys() <= {self.run.stage.sample}

    def __getstate__(self) -> dict[str, Any]:
        self.origin = self.origin or urandom(16)
        state = {**vars(self), "_on_device": {}, "watched": None, "edition": self.followed}
        if self.run is not None:  # its registers as they are now, should another thread be walking it
            state["run"] = self.run.copied()
        return state

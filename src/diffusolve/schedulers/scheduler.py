"""What all scheduler classes share: from a configuration to a plan, and walking the plan inside someone else's loop."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import numpy as np
import torch
from torch import Tensor

from diffusolve.arrays import moved
from diffusolve.backends import DrawNoise, Run, Transform
from diffusolve.config import ConfigMixin, config_keys
from diffusolve.errors import unknown_name
from diffusolve.noise import Grid, NoiseSchedule, Scaling
from diffusolve.plan import Plan, Stage, plan_for
from diffusolve.prediction import Prediction, prediction
from diffusolve.randomness import draw_normal_with
from diffusolve.schedulers.clipping import clip_asked_for
from diffusolve.schedulers.compatible import COMPATIBLE
from diffusolve.schedulers.generation import Generation, Noise, Options, Prepared, check_options_of
from diffusolve.schedulers.mixin import SchedulerMixin
from diffusolve.schedulers.outputs import SchedulerOutput, SchedulerOutputWithData, SchedulerTuple
from diffusolve.schedulers.remembered import Remembered
from diffusolve.schedulers.runs import Runs
from diffusolve.schedulers.spacing import Levels, check_exclusive, grid_through
from diffusolve.schedulers.tables import Tables, tables_of
from diffusolve.solvers import Solver

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Scheduler", "index_of"]

PREDICTION_NAMES = {"flow_prediction": "flow", "original_sample": "sample"}
"""What diffusers calls it -> what the library calls it."""


MOST_PREPARED = 64
"""How many runs' plans a scheduler remembers."""


class Scheduler(SchedulerMixin, ConfigMixin):
    """A face on the core with the interface of diffusers' schedulers, which any number of loops may share.

    A class says which configuration keys it has (the signature of its constructor), where their steps fall
    (:meth:`_levels`) and which solver they ask for (:meth:`_solver`); everything else is here.
    """

    _compatibles: ClassVar[list[str]] = list(COMPATIBLE)
    order: ClassVar[int] = 1
    beta_schedules: ClassVar[tuple[str, ...]] = ("linear", "scaled_linear", "squaredcos_cap_v2")
    prediction_types: ClassVar[tuple[str, ...]] = ("epsilon", "sample", "v_prediction")
    scaling: ClassVar[Scaling] = Scaling.VARIANCE_PRESERVING
    signal_floor: ClassVar[float] = 0.0
    noise_dtype: ClassVar[torch.dtype | None] = None
    timestep_dtype: ClassVar[type] = np.int64
    curves_of_flow: ClassVar[tuple[str, ...]] = ()

    # What a class says of itself ----------------------------------------------------------------

    @abstractmethod
    def _solver(self, steps: int, **options: Any) -> Solver:
        """The solver that the configuration and a call's `options` ask for, in a run of `steps` steps."""

    @abstractmethod
    def _levels(self, steps: int, timesteps: Sequence[float] | None, sigmas: Sequence[float] | None) -> Levels:
        """Where `steps` steps fall."""

    def _timesteps(self, levels: Levels, prepared: Prepared) -> Sequence[float] | np.ndarray[Any, Any]:
        """The `timesteps` that users see: those of the steps, if each has one evaluation."""
        return levels.timesteps

    def _sigmas(self, levels: Levels, prepared: Prepared) -> np.ndarray[Any, Any]:
        """The `sigmas` that users see."""
        return levels.sigmas

    # Configuration ----------------------------------------------------------------

    def _configured(self) -> None:
        """Check the configuration; called at the end of each constructor."""
        own = self._own_config
        check_exclusive(own, self.curves_of_flow)
        self._tables: Tables = tables_of(own, beta_schedules=self.beta_schedules, floor=self.signal_floor)
        self.betas, self.alphas = self._tables.betas.clone(), self._tables.alphas.clone()
        self.alphas_cumprod = self._tables.alphas_cumprod.clone()
        self._check_choice("prediction_type", self.prediction_types)
        self._count = int(own["num_train_timesteps"])
        self._transform = self._clipping()
        self._prepared_runs: Remembered[Any, Prepared] = Remembered(MOST_PREPARED)
        self._configured_for = self.config
        if "_runs" not in vars(self):
            self._runs = Runs()

    def _clipping(self) -> Transform | None:
        """What is done to data predictions before they are used."""
        return clip_asked_for(self._own_config)

    @property
    def _own_config(self) -> dict[str, Any]:
        """The configuration without the keys that it keeps for other classes."""
        config = self.config
        return {key: config[key] for key in config_keys(type(self))}

    def _follow_configuration(self) -> None:
        """Take note of a configuration that was replaced since, as some pipelines do with outdated ones."""
        if self.config is not self._configured_for:
            self._configured()
            self._configured_for = self.config

    def _check_choice(self, key: str, choices: Sequence[str]) -> None:
        if self.config[key] not in choices:
            raise unknown_name(key, self.config[key], choices)

    @property
    def noise_schedule(self) -> NoiseSchedule:
        """The noise schedule that the configuration describes."""
        return self._tables.noise_schedule

    @property
    def _prediction(self) -> Prediction:
        name = self.config["prediction_type"]
        return prediction(PREDICTION_NAMES.get(name, name))

    def __len__(self) -> int:
        return self._count

    def __copy__(self) -> Self:
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__, _runs=copy.deepcopy(self._runs))
        return made

    # The run ----------------------------------------------------------------

    def _set_timesteps(
        self,
        num_inference_steps: int | None,
        device: Any,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
    ) -> Generation:
        """Begin a run; it is returned."""
        if timesteps is not None or sigmas is not None:
            num_inference_steps = _number_of_steps(num_inference_steps, timesteps, sigmas)
        elif num_inference_steps is None:
            raise ValueError("num_inference_steps is missing: give the number of steps, timesteps or sigmas.")
        if num_inference_steps < 1:
            raise ValueError(f"num_inference_steps is {num_inference_steps}: expected at least 1.")
        with self._runs.lock:
            self._follow_configuration()
            prepared = self._prepared(int(num_inference_steps), _values(timesteps), _values(sigmas))
        generation = Generation(prepared, int(num_inference_steps), self._noise(prepared))
        shown = torch.from_numpy(prepared.timesteps.copy())
        self._runs.begin(generation, shown if device is None else shown.to(device))
        return generation

    def _prepared(self, steps: int, timesteps: tuple[float, ...] | None, sigmas: tuple[float, ...] | None) -> Prepared:
        key = (steps, timesteps, sigmas)
        prepared = self._prepared_runs.get(key)
        if prepared is None:
            self._prepared_runs.make_room()
            prepared = self._prepared_runs[key] = self._prepare(steps, timesteps, sigmas)
        return prepared

    def _noise(self, prepared: Prepared) -> Noise:
        """Where the noise of a run comes from."""
        return Noise(self.noise_dtype)

    def _prepare(self, steps: int, timesteps: tuple[float, ...] | None, sigmas: tuple[float, ...] | None) -> Prepared:
        levels = self._levels(steps, timesteps, sigmas)
        solver = self._solver(len(levels.timesteps))
        if solver.options:
            check_options_of(solver, len(levels.timesteps))
        prepared = Prepared(self._grid(levels), solver, self._prediction, levels.timesteps, levels.sigmas)
        prepared.timesteps = np.array(self._timesteps(levels, prepared)).astype(self.timestep_dtype)
        prepared.sigmas = self._sigmas(levels, prepared).astype(np.float32)
        return prepared

    def _grid(self, levels: Levels) -> Callable[[], Grid]:
        """What makes the points that the solver walks."""
        return partial(grid_through, self.noise_schedule, levels, self.scaling)

    def _started(self, generation: Generation, place: int | None, timestep: Any, options: Options) -> Run:
        """The run of `generation`, begun now at `timestep`, or moved there, or changed to other `options`.

        It begins where :meth:`set_begin_index` said instead, if it did. `place` is that of `timestep`, if it is a view.
        """
        nfe, index = generation.prepared.plan.nfe, generation.step_index
        if index is None:
            index = self._first(generation, place, timestep)
        elif generation.is_done:
            index = nfe
        elif place is not None and place != index:
            index = place
        elif generation.remembers:
            raise ValueError(
                f"{dict(options)} differs from {dict(generation.options)}, with which this run was begun, and "
                f"{type(self).__name__} remembers earlier steps: keep the options, or call set_timesteps to begin anew."
            )
        if index >= nfe:
            raise IndexError(
                f"the run has {nfe} evaluations and all of them are done: call set_timesteps again, and take the new "
                "run's timesteps."
            )
        plan = self._plan_from(generation, index, options) if index > 0 or options else generation.prepared.plan
        run = self._run_of(plan, generation.noise)
        generation.step_index, generation.options, generation.run = index, options, run
        return run

    def _run_of(self, plan: Plan, noise: DrawNoise | None) -> Run:
        """A run of `plan` as the configuration and :meth:`compile` want it."""
        return Run(plan, noise, self._transform, self.donate, self._backend)

    def _first(self, generation: Generation, place: int | None, timestep: Any) -> int:
        """Which evaluation a run begins with."""
        first = generation.begin_index
        if first is None:
            return index_of(float(timestep), generation.values) if place is None else place
        generation.counts = place is not None and place != first
        return first

    def _plan_from(self, generation: Generation, index: int, options: Options) -> Plan:
        """The plan of a run that begins at evaluation number `index`, with a call's `options`."""
        grid, step = generation.prepared.grid, generation.prepared.plan.stages[index].step
        return plan_for(self._solver_from(grid, step, options), grid[step:], self._prediction)

    def _solver_from(self, grid: Grid, step: int, options: Options) -> Solver:
        """The solver of a run that begins at step number `step` of `grid`."""
        return self._solver(grid.steps, **dict(options))

    @property
    def _generation(self) -> Generation | None:
        """The run of this thread or task, or the latest."""
        begun = self._runs.current
        return None if begun is None else begun.generation

    @property
    def _running(self) -> Generation:
        """The same, which must be there."""
        return self._generation or self._none_begun()

    def _found(self, timestep: Any) -> Generation:
        """The run that `timestep` belongs to."""
        return self._runs.of(timestep)[0] or self._none_begun()

    def _none_begun(self) -> NoReturn:
        raise ValueError(f"{type(self).__name__} has no timesteps yet: call set_timesteps(num_inference_steps) first.")

    def _advance(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: Any = None,
        options: Options = (),
        variance_noise: Tensor | None = None,
    ) -> tuple[Tensor, Run]:
        """The next sample, and the walk that it belongs to."""
        generation, place = self._runs.of(timestep)
        if generation is None:
            self._none_begun()
        run = generation.run
        if run is None or (place is not None and place != generation.step_index) or generation.options != options:
            run = self._started(generation, place, timestep, options)
        if generator is None and variance_noise is None:
            previous = run.step(model_output, sample)
        else:
            with generation.noise.drawn_from(generator, variance_noise):
                previous = run.step(model_output, sample)
        generation.step_index += 1  # type: ignore[operator]
        if previous.dtype is not model_output.dtype:
            previous = previous.to(model_output.dtype)
        return previous, run

    def _draw_last(self, run: Run, like: Tensor, generator: Any) -> None:
        """Draw the noise of a last step that needs none, so that the generator is left as diffusers leaves it."""
        if run.is_done and not run.last_stage.update.noises:
            draw_normal_with(generator, like)

    # Members that users and pipelines touch ----------------------------------------------------------------

    donate: bool = False
    """Whether runs begun later may overwrite the samples and outputs that `step` is given. `pred_original_sample` can
    then not be read."""

    _backend: str = "auto"

    def compile(self) -> None:
        """From now on let torch.compile make a kernel for each form of a step, so that a step is one kernel on a GPU.

        Kernels are made in the first run, which takes seconds. For a network and its steps in one graph see
        :class:`~diffusolve.PlanModule`.
        """
        self._backend = "fused"
        self._forget_runs()

    def _forget_runs(self) -> None:
        """Begin the runs that follow with nothing that was prepared for other backends."""

    @property
    def timesteps(self) -> Tensor:
        """What the network is conditioned on, one per evaluation; all training timesteps before `set_timesteps`."""
        begun = self._runs.current
        if begun is None:
            return torch.from_numpy(np.arange(len(self) - 1, -1, -1).astype(self.timestep_dtype))
        return begun.timesteps

    @property
    def num_inference_steps(self) -> int | None:
        """The number of steps of the run; None before `set_timesteps`."""
        generation = self._generation
        return None if generation is None else generation.steps

    @property
    def plan(self) -> Plan:
        """The run as a table of coefficients, to look at or to export (:meth:`Plan.to_json`)."""
        return self._running.prepared.plan

    @property
    def grid(self) -> Grid:
        """The points that the run's solver walks."""
        return self._running.prepared.grid

    @property
    def step_index(self) -> int | None:
        """Which evaluation comes next; None before the first."""
        generation = self._generation
        return None if generation is None else generation.step_index

    @property
    def begin_index(self) -> int | None:
        """Where :meth:`set_begin_index` said that the run begins."""
        generation = self._generation
        return None if generation is None else generation.begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin the run at evaluation number `begin_index` instead of looking the first timestep up.

        Raises:
            IndexError: the run has no such evaluation.
        """
        generation = self._running
        if not 0 <= begin_index < len(generation.values):
            raise IndexError(f"begin_index is {begin_index}: expected 0 to {len(generation.values) - 1}.")
        generation.begin_index = begin_index

    def index_for_timestep(self, timestep: Any, schedule_timesteps: Tensor | None = None) -> int:
        """The position of `timestep` in the run's timesteps, or in those given.

        A timestep taken out of ``scheduler.timesteps`` is found by where it lies in memory, without reading it. One
        that occurs twice stands for its second place, where a step begins.

        Raises:
            ValueError: it is not one of them; the nearest is named.
        """
        if schedule_timesteps is not None:
            return index_of(float(timestep), schedule_timesteps.tolist())
        generation, place = self._runs.of(timestep)
        if place is not None:
            return place
        return index_of(float(timestep), (generation or self._none_begun()).values)

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The sample as the network takes it: for this scheduler, the sample itself."""
        return sample

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """``alpha * original_samples + sigma * noise`` at each sample's timestep, without reading `timesteps`.

        Args:
            original_samples, noise: shape (batch, ...).
            timesteps: whole training timesteps, shape (batch,).
        """
        alpha, sigma = self._signal_and_noise(original_samples, timesteps)
        return alpha * original_samples + sigma * noise

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """``alpha * noise - sigma * sample``, what a network with v_prediction is trained to output."""
        alpha, sigma = self._signal_and_noise(sample, timesteps)
        return alpha * noise - sigma * sample

    def _signal_and_noise(self, like: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) at training timesteps, shape (batch, 1, ...), as `like`."""
        table = self.alphas_cumprod
        if table.device != like.device:
            self.alphas_cumprod = table = moved(table, like.device)
        power = table.to(like.dtype)[moved(timesteps, like.device)]
        power = power.reshape(-1, *[1] * (like.ndim - 1))
        return power**0.5, (1 - power) ** 0.5

    def _sigma_at(self, like: Tensor, timesteps: Tensor) -> Tensor:
        """The run's sigma, or before `set_timesteps` the training table's, at `timesteps`; shape (batch, 1, ...)."""
        generation, _ = self._runs.of(timesteps)
        timesteps = moved(timesteps, like.device).reshape(-1)
        if generation is None:
            power: Tensor = moved(self._tables.alphas_cumprod, like.device)[timesteps.long()]
            sigma = ((1 - power) / power) ** 0.5
        else:
            own, sigmas = generation.levels_on(like.device)
            if generation.begin_index is not None:
                index = generation.begin_index if generation.step_index is None else generation.step_index
                sigma = sigmas[index].expand(len(timesteps))
            else:
                places = (own[None, :] == timesteps.to(own.dtype)[:, None]).to(torch.uint8).argmax(dim=1)
                sigma = sigmas[places]
        return sigma.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))

    def _result(self, previous: Tensor, return_dict: bool) -> SchedulerOutput | tuple[Tensor, ...]:
        return SchedulerOutput(previous) if return_dict else (previous,)

    def _result_with_data(
        self,
        previous: Tensor,
        run: Run,
        model_output: Tensor,
        sample: Tensor,
        return_dict: bool,
        stage: Stage | None = None,
    ) -> SchedulerOutputWithData | SchedulerTuple:
        source = None if run.donate else stage or run.last_stage, self._transform, model_output, sample
        return SchedulerOutputWithData(previous, source) if return_dict else SchedulerTuple((previous, source))


def index_of(value: float, values: list[float]) -> int:
    """The place of `value` among `values`: of two, the second.

    Raises:
        ValueError: there is none; the nearest is named.
    """
    places = [index for index, other in enumerate(values) if other == value]
    if not places:
        nearest = min(values, key=lambda other: abs(other - value))
        raise ValueError(f"timestep {value:g} is not one of the run's timesteps; the nearest is {nearest:g}.")
    return places[1] if len(places) > 1 else places[0]


def _number_of_steps(steps: int | None, timesteps: Sequence[float] | None, sigmas: Sequence[float] | None) -> int:
    """How many `timesteps` or `sigmas` are given; nothing else may be."""
    if timesteps is not None and sigmas is not None:
        raise ValueError("both timesteps and sigmas are given: give one of them, the other follows from it.")
    name, values = ("timesteps", timesteps) if timesteps is not None else ("sigmas", sigmas)
    if steps is not None:
        raise ValueError(f"num_inference_steps and {name} are both given: leave one of them out.")
    assert values is not None
    return len(values)


def _values(given: Any) -> tuple[float, ...] | None:
    return None if given is None else tuple(np.asarray(given).tolist())

"""The base of all scheduler classes: from a configuration to a plan, and the plan inside someone else's loop."""

from __future__ import annotations

import copy
import warnings
from abc import abstractmethod
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn

import numpy as np
import torch
from torch import Tensor, is_inference_mode_enabled
from torch.compiler import is_dynamo_compiling

from diffusolve.backends import BackendName, DrawNoise, Run, Transform, backend_of
from diffusolve.backends.watched import is_watched
from diffusolve.config import ConfigMixin, config_keys, registered_keys
from diffusolve.drawing import html_table, notebook
from diffusolve.noise import Grid, NoiseSchedule, Scaling
from diffusolve.plan import Plan, Stage, plan_for
from diffusolve.prediction import CONFIGURED, Prediction, prediction
from diffusolve.randomness import draw_normal_with
from diffusolve.schedulers import CLASSES
from diffusolve.schedulers.asked import Asked
from diffusolve.schedulers.cache import Cache
from diffusolve.schedulers.clipping import clip_asked_for
from diffusolve.schedulers.compatible import COMPATIBLE
from diffusolve.schedulers.flow_config import FLOW_KEYS, FLOW_STEPS, carried_flow, check_no_flow, is_flow
from diffusolve.schedulers.generation import Generation, Noise, Options, Prepared, check_options_of, shown
from diffusolve.schedulers.given import check_noise, check_tensors, device_of, number_of, timesteps_on
from diffusolve.schedulers.log_prob import HasLogProbs
from diffusolve.schedulers.mixin import SchedulerMixin, check_no_plans
from diffusolve.schedulers.open_run import OpenRun
from diffusolve.schedulers.outputs import LazyOutput, SchedulerOutput, SchedulerTuple
from diffusolve.schedulers.reaching import ReachesIntoRuns
from diffusolve.schedulers.registry import Entry, Registry, notice_writes
from diffusolve.schedulers.step_types import Fields
from diffusolve.schedulers.steps import CURVES, Steps, check_exclusive
from diffusolve.schedulers.versions import UNTRACKED
from diffusolve.schedulers.writing import WrittenTo
from diffusolve.solvers import Solver

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Scheduler", "index_of"]

MOST_PREPARED = 64
"""The most calls of `set_timesteps` whose plans a scheduler remembers."""


class Scheduler(HasLogProbs, ReachesIntoRuns, WrittenTo, SchedulerMixin, ConfigMixin):
    """A face on the core with the interface of diffusers' schedulers, which any number of loops may share.

    A class says which configuration keys it has (the signature of its constructor), where their steps fall
    (:meth:`_steps`), on which :attr:`noise_schedule`, which solver they ask for (:meth:`_solver`), and what a step's
    result holds (:attr:`output`). Everything else is here:

    1. `set_timesteps` makes its arguments one value (:class:`~diffusolve.schedulers.asked.Asked`) and begins a
       generation with what :meth:`_prepare` makes of it: timesteps and sigmas to show, a grid and a solver.
    2. `step` hands its arguments to :meth:`_advance`: the registry finds the generation, the generation has a run, and
       the run applies the plan to the tensors.
    3. :meth:`_result` wraps the sample up as `return_dict` wants it.

    Nothing here knows of betas: see :class:`~diffusolve.schedulers.table_scheduler.TableScheduler` for these.

    Attributes:
        order: how many evaluations a step of a run takes, as pipelines count them.
        scaling: how samples are scaled in a run; None: as the noise schedule has them.
        noise_dtype: of the noise that is drawn; None: of the sample.
        timestep_dtype: of the `timesteps` that users see.
        curves_of_flow: the configuration keys of curves that go together with `use_flow_sigmas`.
        samples_flow: the class can sample a flow-matching model.
        precision: of a step's result where output and sample differ in it: "promoted", as PyTorch promotes the two,
            that of the "output" or that of the "sample".
        data_precision: at least that of `pred_original_sample`, where it is not that of output and sample.
        counts_on: a step after the end of a run is one of a kind of its own in diffusers, and an error here.
        refuses_counts: diffusers refuses whole numbers for timesteps, which may count the steps: a run does not begin
            with its last step by one.
        reads_timesteps: a timestep that is no view is compared with the one that the run comes to.
        begins_with_last: a run that is to begin at a timestep that is none of its own begins with its last step, and
            says so in a warning.
        follows_timesteps: coefficients follow from the timesteps, so that these count when they are changed in place.
        output: the class of a step's result. One with a second field shows what the network's output says of the data
            there, under the name that the field has.
    """

    _compatibles: ClassVar[list[str]] = [*COMPATIBLE, "EDMEulerScheduler"]
    order: ClassVar[int] = 1
    scaling: ClassVar[Scaling | None] = None
    noise_dtype: ClassVar[torch.dtype | None] = None
    timestep_dtype: ClassVar[type] = np.int64
    curves_of_flow: ClassVar[tuple[str, ...]] = ()
    samples_flow: ClassVar[bool] = False
    precision: ClassVar[Literal["promoted", "output", "sample"]] = "promoted"
    data_precision: ClassVar[torch.dtype | None] = None
    counts_on: ClassVar[bool] = False
    refuses_counts: ClassVar[bool] = False
    reads_timesteps: ClassVar[bool] = False
    begins_with_last: ClassVar[bool] = False
    follows_timesteps: ClassVar[bool] = False
    output: ClassVar[type[SchedulerOutput] | type[LazyOutput]] = SchedulerOutput

    def _repr_html_(self) -> str:
        rows = [(key, repr(value)) for key, value in self.config.items() if not key.startswith("_")]
        table = html_table(("", ""), rows, type(self).__name__, text=2)
        schedule = self.noise_schedule
        return notebook(table, schedule.panels(), f"what its networks are trained on: {schedule}")

    # What a class says of itself ----------------------------------------------------------------

    @property
    @abstractmethod
    def noise_schedule(self) -> NoiseSchedule:
        """The noise schedule that the configuration describes."""

    @abstractmethod
    def _steps(self, asked: Asked) -> Steps:
        """The steps that a call of `set_timesteps` has `asked` for."""

    @abstractmethod
    def _solver(self, steps: int, **options: Any) -> Solver:
        """The solver that the configuration and a call's `options` ask for, in a run of `steps` steps."""

    def _prepare(self, asked: Asked) -> Prepared:
        """All that a generation needs, and all that users see of it, from its steps and the solver."""
        return self._prepared_over(self._steps(asked))

    def _prepared_over(self, steps: Steps) -> Prepared:
        """The same, where it is known where the steps fall."""
        solver = self._solver(len(steps.timesteps))
        if solver.options:
            check_options_of(solver, len(steps.timesteps))
        return Prepared(
            partial(steps.grid, self.noise_schedule, self.scaling),
            solver,
            self._prediction,
            steps.timesteps.astype(self.timestep_dtype),
            steps.sigmas.astype(np.float32),
            steps,
        )

    def _standing(self) -> Prepared | None:
        """The run over all training timesteps, worked out by the first call that comes before `set_timesteps`.

        None: what calls need a run then raise.
        """
        return None

    # Configuration ----------------------------------------------------------------

    def _configured(self) -> None:
        """Take note of the configuration, whose keys are checked (:mod:`~diffusolve.schedulers.keys`) one by one.

        Called at the end of each constructor. What keys say together is checked here.
        """
        check_exclusive(self._own_config, CURVES if FLOW_STEPS in self.config else self.curves_of_flow)
        self._transform = self._clipping()
        self._prepared_runs: Cache[Asked, Prepared] = Cache(MOST_PREPARED)
        self._configured_for: object = self.config
        self._configured_with = self._replaced
        self._edition = object()
        if "_registry" not in vars(self):
            self._registry = Registry()

    def _clipping(self) -> Transform | None:
        """The change made to data predictions before they are used."""
        config = self._own_config
        if "_threshold_sample" in self._replaced and config.get("thresholding"):
            return lambda data, _: self._threshold_sample(data)
        return clip_asked_for(config)

    @property
    def _own_config(self) -> dict[str, Any]:
        """The configuration without the keys that it keeps for other classes."""
        config = self.config
        return {key: config[key] for key in registered_keys(type(self))}

    @classmethod
    def _carried(
        cls, config: dict[str, Any], given: dict[str, Any], whole: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        check_no_plans(cls, whole)
        if not is_flow(whole) or (not cls.samples_flow and "shift" in config_keys(cls)):
            return config, {}  # of no flow, or of a class that is for one family of flow models and knows its own keys
        if not cls.samples_flow:
            check_no_flow(cls.__name__, whole)
        known = config_keys(cls)
        carried, later = carried_flow(config, given, known)
        for key in [key for key in given if key in FLOW_KEYS and key not in known]:
            carried[key] = given.pop(key)
        return carried, later

    @classmethod
    def _keys_of_compatibles(cls) -> set[str]:
        return super()._keys_of_compatibles() | set(FLOW_KEYS if cls.samples_flow else ())

    @classmethod
    def _names_of_compatibles(cls) -> set[str]:
        flow = {name for name in CLASSES if name.startswith(("FlowMatch", "LTX"))} if cls.samples_flow else set()
        return super()._names_of_compatibles() | flow

    def _follow_configuration(self) -> None:
        """Take note of a configuration, or methods of the class, that were replaced since."""
        if self.config is not self._configured_for or self._configured_with != self._replaced:
            self._configured()

    def _forget_plans(self) -> None:
        """Make the plans that follow of what stands here now."""
        self._prepared_runs.clear()
        self._edition = object()

    def _configuration_written(self, key: str) -> None:
        super()._configuration_written(key)
        self._configured_for, self._edition = None, object()

    @property
    def _prediction(self) -> Prediction:
        name = self.config["prediction_type"]
        return prediction(CONFIGURED.get(name, name))

    def __len__(self) -> int:
        return int(self._internal_dict["num_train_timesteps"])

    def __copy__(self) -> Self:
        scheduler = object.__new__(type(self))
        same = {id(self._edition): self._edition}  # runs go on from the one that they followed
        scheduler.__dict__.update(self.__dict__, _registry=copy.deepcopy(self._registry, same))
        scheduler._configured_for = scheduler.config  # a copy
        return scheduler

    # Beginning a generation ----------------------------------------------------------------

    def _begin(self, asked: Asked, device: Any) -> Generation:
        """Begin a generation with what was `asked` for; it is returned."""
        device = device_of(device)
        self._notice_overridden()
        with self._registry.lock:
            self._follow_configuration()
            prepared, edition = self._prepared(asked), self._edition
        generation = Generation(prepared, asked.steps, self._noise(prepared), edition)
        generation.custom = asked.timesteps is not None
        if self._table_is_handed_out:
            generation.edition = None
        timesteps = shown(prepared.timesteps)
        self._registry.begin(generation, timesteps if device is None else timesteps.to(device))
        return generation

    def _prepared(self, asked: Asked) -> Prepared:
        prepared = self._prepared_runs.get(asked)
        if prepared is None:
            self._prepared_runs.make_room()
            prepared = self._prepared_runs[asked] = self._prepare(asked)
        return prepared

    def _noise(self, prepared: Prepared) -> Noise:
        """The source of a generation's noise."""
        return Noise(self.noise_dtype)

    # From a step to the run that makes it ----------------------------------------------------------------

    def _advance(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: Any = None,
        options: Options = (),
        variance_noise: Tensor | None = None,
    ) -> tuple[Tensor, Run]:
        """The next sample, and the run that made it."""
        generation, place = self._registry.of(timestep)
        if generation is None:
            generation = self._current
        elif self.follows_timesteps and place is not None:
            notice_writes(generation, timestep)
        if generation.edition is not self._edition:
            self._follow(generation)
        run = generation.run
        if (
            run is None
            or generation.options != options
            or (
                place != generation.step_index
                and (place is not None or (self.reads_timesteps and self._is_elsewhere(generation, timestep)))
            )
        ):
            check_tensors(model_output, sample)
            run = self._started(generation, place, timestep, options)
        is_mixed = sample.dtype is not model_output.dtype
        if is_mixed:
            sample = self._promoted(sample, model_output)
        if generator is None and variance_noise is None:
            previous = self._walk(run, model_output, sample)
        else:
            with generation.noise.drawn_from(generator, variance_noise):
                previous = self._walk(run, model_output, sample)
        generation.step_index += 1  # type: ignore[operator]
        if is_mixed and self.precision == "output":
            previous = previous.to(model_output.dtype)
        return previous, run

    def _is_elsewhere(self, generation: Generation, timestep: Any) -> bool:
        """True where `timestep`, which is no view, is not the one that the run comes to; not read on an accelerator."""
        if is_dynamo_compiling() or (isinstance(timestep, Tensor) and not timestep.is_cpu):
            return False
        index = generation.step_index
        assert index is not None  # the run has begun
        return generation.values[index : index + 1] != [number_of(timestep)]

    def _promoted(self, sample: Tensor, model_output: Tensor) -> Tensor:
        """The sample in the precision that a step with an output of another one is computed in: a run keeps to it.

        Raises:
            TypeError: one of the two is no tensor of floating-point numbers.
        """
        check_tensors(model_output, sample)
        if self.precision == "sample":
            return sample
        return sample.to(torch.promote_types(sample.dtype, model_output.dtype))

    def _started(self, generation: Generation, place: int | None, timestep: Any, options: Options) -> Run:
        """The run of `generation`, begun now at `timestep`, or moved there, or changed to other `options`.

        It begins where :meth:`set_begin_index` said instead, if it did. `place` is that of `timestep`, if it is a view.
        """
        nfe, index = len(generation.prepared.steps_of_evaluations), generation.step_index
        if index is None:
            index = self._first(generation, place, timestep)
        elif generation.is_done:
            index = nfe - 1 if place == nfe - 1 and not self.counts_on else nfe  # the last step may be repeated
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
        run = None if generation.brought is None else self._begun_with_history(generation, index, options)
        if run is None:
            plan = self._plan_from(generation, index, options) if index > 0 or options else generation.prepared.plan
            run = self._run_of(plan, generation.noise)
        generation.step_index, generation.options, generation.run, generation.brought = index, options, run, None
        return run

    def _run_of(self, plan: Plan, noise: DrawNoise | None) -> Run:
        """A run of `plan` as the configuration, :meth:`compile` and :meth:`keep_history` want it."""
        if self._keeps_history:
            return OpenRun(plan, noise, self._transform)
        return Run(plan, noise, self._transform, self.donate, self._backend)

    def _first(self, generation: Generation, place: int | None, timestep: Any) -> int:
        """The number of the evaluation that a run begins with."""
        first = generation.begin_index
        if first is None and place is None:
            first = self._place_of(timestep, generation.values)
            self._check_no_count(generation, first, timestep)
            return first
        if first is None:
            return place  # type: ignore[return-value]  # one of the two is there
        generation.by_number_of_calls = place is not None and place != first
        return first

    def _check_no_count(self, generation: Generation, first: int, timestep: Any) -> None:
        """Raise ValueError if `timestep`, by which a run would begin with its last evaluation, may count the steps."""
        whole = not timestep.is_floating_point() if isinstance(timestep, Tensor) else isinstance(timestep, int)
        if self.refuses_counts and whole and first == len(generation.values) - 1 > 0:
            raise ValueError(
                f"timestep is {int(timestep)}, with which a run of {len(generation.values)} evaluations would begin "
                "with its last. If it counts the steps, as enumerate does, pass scheduler.timesteps[i] instead; if it "
                f"is meant, pass {float(timestep)}."
            )

    def _plan_from(self, generation: Generation, index: int, options: Options) -> Plan:
        """The plan of a run that begins at evaluation number `index`, with a call's `options`."""
        prepared = generation.prepared
        grid, step = prepared.grid, prepared.steps_of_evaluations[index]
        return plan_for(self._solver_from(grid, step, options), grid[step:], prepared.prediction)

    def _solver_from(self, grid: Grid, step: int, options: Options) -> Solver:
        """The solver of a run that begins at step number `step` of `grid`."""
        return self._solver(grid.steps, **dict(options))

    @property
    def _generation(self) -> Generation | None:
        """The generation of this thread or task, or the latest."""
        entry = self._registry.current
        return None if entry is None else entry.generation

    @property
    def _current(self) -> Generation:
        """The same; before `set_timesteps` the one over all training timesteps.

        Raises:
            ValueError: the class has none.
        """
        entry = self._entry
        return self._none_begun() if entry is None else entry.generation

    @property
    def _entry(self) -> Entry | None:
        """The generation that :attr:`_current` names, with its timesteps; None where the class has none yet."""
        return self._registry.current or self._stand()

    def _stand(self) -> Entry | None:
        """Let the scheduler stand on all training timesteps, if the class does and nothing was begun meanwhile."""
        with self._registry.lock:
            entry = self._registry.current
            if entry is not None:
                return entry
            self._follow_configuration()
            prepared = self._standing()
            if prepared is None:
                return None
            generation = Generation(prepared, None, self._noise(prepared), self._edition)
            return self._registry.stand_on(generation, shown(prepared.timesteps))

    def _generation_of(self, timestep: Any) -> Generation:
        """The generation that `timestep` belongs to."""
        return self._followed(self._registry.of(timestep)[0] or self._current)

    def _none_begun(self) -> NoReturn:
        raise ValueError(f"{type(self).__name__} has no timesteps yet: call set_timesteps(num_inference_steps) first.")

    def _draw_last(self, run: Run, like: Tensor, generator: Any) -> None:
        """Draw the noise of a last step that needs none, so that the generator is left as diffusers leaves it."""
        if run.is_done and not run.last_stage.update.noises:
            draw_normal_with(generator, like)

    # Members that users and pipelines touch ----------------------------------------------------------------

    donate: bool = False
    """True where runs begun later may overwrite the samples and outputs that `step` is given. `pred_original_sample`
    can then not be read."""

    _backend: BackendName = "auto"

    _shown_early: Mapping[str, Tensor] = MappingProxyType({})
    """Tensors that users wrote before `set_timesteps`, on their device: the same numbers as are shown otherwise."""

    def compile(self) -> None:
        """From now on let torch.compile make a kernel for each form of a step, so that a step is one kernel on a GPU.

        Kernels are made in the first run, which takes seconds. For a network and its steps in one graph see
        :class:`~diffusolve.PlanModule`.
        """
        self._backend = "fused"
        self._forget_runs()

    _keeps_history: bool = False

    def keep_history(self) -> None:
        """From now on let runs hold what they remember as it is, so that it can be read and written in their middle.

        Others add up early what they remember, and hold no more than they need. A run that was begun stays what it is.
        Reading a member like `model_outputs` does the same.
        """
        self._keeps_history = True
        self._forget_runs()

    def _forget_runs(self) -> None:
        """Begin the runs that follow with nothing that was prepared for other backends."""

    @property
    def timesteps(self) -> Tensor:
        """The timesteps that the network is told, one per evaluation; before `set_timesteps` all of training."""
        entry = self._entry
        if entry is None:
            of_training = torch.from_numpy(np.arange(len(self) - 1, -1, -1).astype(self.timestep_dtype))
            return self._shown_early.get("timesteps", of_training)
        return entry.timesteps

    @property
    def num_inference_steps(self) -> int | None:
        """The number of steps of the run; None before `set_timesteps`."""
        generation = self._generation
        return None if generation is None else generation.steps

    @property
    def plan(self) -> Plan:
        """The run as a table of coefficients, to look at or to export (:meth:`Plan.to_json`)."""
        return self._followed(self._current).prepared.plan

    @property
    def grid(self) -> Grid:
        """The points that the run's solver walks."""
        return self._followed(self._current).prepared.grid

    @property
    def step_index(self) -> int | None:
        """The number of the evaluation that comes next; None before the first."""
        generation = self._generation
        return None if generation is None else generation.step_index

    @property
    def begin_index(self) -> int | None:
        """The evaluation that the run begins with, as :meth:`set_begin_index` said."""
        generation = self._generation
        return None if generation is None else generation.begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin the run at evaluation number `begin_index` instead of looking the first timestep up.

        Raises:
            IndexError: the run has no such evaluation.
        """
        generation = self._current
        if not 0 <= begin_index < len(generation.values):
            raise IndexError(f"begin_index is {begin_index}: expected 0 to {len(generation.values) - 1}.")
        generation.begin_index = begin_index

    def index_for_timestep(self, timestep: Any, schedule_timesteps: Tensor | None = None) -> int:
        """The position of `timestep` in the run's timesteps, or in those given.

        A timestep taken out of ``scheduler.timesteps`` is found by where it lies in memory, without reading it. One
        that occurs twice stands for its second place, where a step begins.

        Raises:
            ValueError: it is not one of them; the nearest is named. The classes of DPM-Solver's family warn, and take
                it for the last, as in diffusers.
        """
        if schedule_timesteps is not None:
            return self._place_of(timestep, schedule_timesteps.tolist())
        generation, place = self._registry.of(timestep)
        if place is not None:
            return place
        return self._place_of(timestep, (generation or self._current).values)

    def _place_of(self, timestep: Any, values: list[float]) -> int:
        """The place of `timestep`, read as a number, among those of a run."""
        value = number_of(timestep)
        if self.begins_with_last and value not in values:
            warnings.warn(
                f"timestep {value:g} is not one of the run's timesteps, of which the nearest is "
                f"{nearest(value, values):g}; as in diffusers it is taken for the last, {values[-1]:g}.",
                stacklevel=5,
            )
            return len(values) - 1
        return index_of(value, values)

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The sample as the network takes it: for this scheduler, the sample itself."""
        return sample

    def _model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The sample as the plan scales it for the network at `timestep`, or at the current step if that is no view.

        A run is begun by it, but not moved. It is the `scale_model_input` of the classes whose samples the network does
        not see as they are: ``sample / sqrt(sigma^2 + 1)`` where alpha is 1.
        """
        generation, place = self._registry.of(timestep)
        generation = self._followed(self._current if generation is None else generation)
        run = generation.run or self._started(generation, place, timestep, generation.options)
        if place is None or place == generation.step_index:
            scaled: Tensor = run.model_input(sample)
        else:
            scaled = backend_of(sample).combine((sample,), (generation.prepared.plan.stages[place].scale,))
        return scaled if scaled.dtype is sample.dtype else scaled.to(sample.dtype)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """``alpha * original_samples + sigma * noise`` at each sample's timestep, without reading `timesteps`.

        Args:
            original_samples, noise: shape (batch, ...).
            timesteps: timesteps of the run, or training timesteps before `set_timesteps`, shape (batch,). Classes
                with betas take these in the middle of a run too.
        """
        alpha, sigma = self._signal_and_noise(original_samples, timesteps)
        check_noise(noise, original_samples)
        noised: Tensor = alpha * original_samples + sigma * noise
        return noised

    def _signal_and_noise(self, like: Tensor, timesteps: Tensor) -> tuple[Any, Tensor]:
        """(alpha, sigma) at `timesteps`, as the scaling of the samples has them, shape (batch, 1, ...), as `like`."""
        sigma = self._sigma_at(like, timesteps)
        scaling = self.scaling or self.noise_schedule.scaling
        if scaling is Scaling.FLOW:
            return 1 - sigma, sigma
        if scaling is Scaling.VARIANCE_EXPLODING:
            return 1.0, sigma
        alpha = 1 / (sigma**2 + 1) ** 0.5
        return alpha, sigma * alpha

    def _sigma_at(self, like: Tensor, timesteps: Tensor) -> Tensor:
        """The run's sigma, or before `set_timesteps` that of training, at `timesteps`; shape (batch, 1, ...).

        Raises:
            ValueError: a timestep is none of the run's, in a class that has no training table to take it from. Of
                timesteps on an accelerator, which are not read, the result is NaN instead.
        """
        generation, _ = self._registry.of(timesteps, may_be_several=True)
        timesteps = timesteps_on(timesteps, like).reshape(-1)
        if generation is None:
            sigma = self._training_sigma(timesteps)
        else:
            self._followed(generation)
            own, sigmas = generation.timesteps_and_sigmas_on(like.device)
            if generation.begin_index is not None:
                index = generation.begin_index if generation.step_index is None else generation.step_index
                sigma = sigmas[index].expand(len(timesteps))
            else:
                equal = own[None, :] == timesteps.to(own.dtype)[:, None]
                number = equal.cumsum(dim=1)  # of several places the second one, as `index_of` has it
                sigma = sigmas[(equal & (number == number[:, -1:].clamp(max=2))).to(torch.uint8).argmax(dim=1)]
                found = equal.any(dim=1)
                if self._fills_in_from_training:  # for what is none of the run's timesteps, as trainers pass it
                    sigma = torch.where(found, sigma, self._training_sigma(timesteps))
                else:
                    if timesteps.is_cpu and not is_watched() and not found.all():
                        index_of(float(timesteps[~found][0]), generation.values)  # says which there are
                    sigma = torch.where(found, sigma, float("nan"))  # on an accelerator nothing is read
        of_each: Tensor = sigma.to(like.dtype)
        return of_each.reshape(-1, *[1] * (like.ndim - 1))

    @property
    def _fills_in_from_training(self) -> bool:
        """True where `add_noise` takes training timesteps in the middle of a run too."""
        return False

    def _training_sigma(self, timesteps: Tensor) -> Tensor:
        """The field's sigma at training `timesteps`, where nothing is begun."""
        self._none_begun()

    def _result(
        self,
        previous: Tensor,
        run: Run,
        model_output: Tensor,
        sample: Tensor,
        return_dict: bool,
        stage: Stage | None = None,
        transform: Transform | None = None,
    ) -> Fields:
        """The result of `step`: `previous` and, if the class's output has a second field, the things it follows from.

        To type checkers it is a tuple, which is a part of what any class's `step` may return.

        Args:
            previous: the sample after the step.
            run, model_output, sample: what made it.
            return_dict: an object with fields, or a tuple.
            stage: what the second field is by its `a` and `b`; the data prediction of the step when missing.
            transform: makes the second field of that; when missing, what the run does to data predictions.
        """
        # What follows is written out, since it is done in each step: calls would be a third of it.
        kind: Any = self.output
        if kind is SchedulerOutput:
            return SchedulerOutput(previous) if return_dict else (previous,)  # type: ignore[return-value]
        if run.donate:
            stage = None
        elif stage is None:
            stage = run.plan.stages[run.position - 1]
        output_version = sample_version = UNTRACKED
        if not (is_dynamo_compiling() or is_inference_mode_enabled()):
            try:
                output_version, sample_version = model_output._version, sample._version
            except RuntimeError:  # one of them comes from inference mode
                output_version = UNTRACKED
        versions = output_version, sample_version
        source = stage, transform or self._transform, model_output, sample, *versions, self.data_precision
        if not return_dict:
            return SchedulerTuple((previous, source))
        result: LazyOutput = kind.__new__(kind)
        result.prev_sample, result._source = previous, source
        return result  # type: ignore[return-value]


def index_of(value: float, values: list[float]) -> int:
    """The place of `value` among `values`: of two, the second.

    Raises:
        ValueError: there is none; the nearest is named.
    """
    places = [index for index, other in enumerate(values) if other == value]
    if not places:
        raise ValueError(
            f"timestep {value:g} is not one of the run's timesteps; the nearest is {nearest(value, values):g}."
        )
    return places[1] if len(places) > 1 else places[0]


def nearest(value: float, values: list[float]) -> float:
    """The nearest of `values` to `value`."""
    return min(values, key=lambda other: abs(other - value))

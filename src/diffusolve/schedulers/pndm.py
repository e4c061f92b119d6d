"""PNDMScheduler."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor

from diffusolve.backends import Run
from diffusolve.config import register_to_config
from diffusolve.noise import Grid
from diffusolve.plan import Plan, plan_for
from diffusolve.schedulers import members
from diffusolve.schedulers.as_in_diffusers import pndm_by_calls
from diffusolve.schedulers.asked import Asked, asked_for
from diffusolve.schedulers.generation import Generation, Options, Prepared
from diffusolve.schedulers.given import number_of
from diffusolve.schedulers.open_run import OpenRun
from diffusolve.schedulers.outputs import SchedulerOutput, StepResult
from diffusolve.schedulers.pndm_by_hand import EVALUATIONS, ByHand, Call, Memory
from diffusolve.schedulers.scheduler import index_of
from diffusolve.schedulers.step_types import Plain, declared_as
from diffusolve.schedulers.timestep_scheduler import TimestepScheduler
from diffusolve.schedulers.words import BetaSchedule, TimestepSpacing
from diffusolve.solvers import Solver

__all__ = ["PNDMScheduler"]

RUNGE_KUTTA_STEPS = 3


class PNDMScheduler(TimestepScheduler):
    """Pseudo numerical methods (A1111: "PLMS", with skip_prk_steps), of fourth order in form.

    Liu et al. 2022, Pseudo Numerical Methods for Diffusion Models on Manifolds. As in diffusers each step leads
    ``num_train_timesteps // num_inference_steps`` timesteps down, even where `timestep_spacing` has the next timestep
    elsewhere; and a run that starts in the middle has its start-up there, by the number of calls, so that with
    `skip_prk_steps` its timesteps are one step ahead of its samples unless it starts at the first one.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas: the training noise schedule.
        skip_prk_steps: start with an improved Euler step of two evaluations; if not, with three Runge-Kutta steps of
            four, for which a run needs at least four steps.
        set_alpha_to_one: the last step leads to the data; if not, to the noise level of timestep 0.
        prediction_type: what the network predicts: "epsilon" or "v_prediction". As in diffusers the network's outputs
            themselves are averaged, which for "v_prediction" makes a method of first order.
        timestep_spacing: "linspace", "leading" or "trailing".
        steps_offset: added to "leading" timesteps; 1 for Stable Diffusion.
    """

    members = members.PNDM
    counts_on: ClassVar[bool] = True
    reads_timesteps: ClassVar[bool] = True
    replaceable: ClassVar[frozenset[str]] = frozenset({"step_plms", "step_prk"})
    fixed: ClassVar[frozenset[str]] = TimestepScheduler.fixed | {"_get_prev_sample"}

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: BetaSchedule = "linear",
        trained_betas: Sequence[float] | None = None,
        skip_prk_steps: bool = False,
        set_alpha_to_one: bool = False,
        prediction_type: Literal["epsilon", "v_prediction"] = "epsilon",
        timestep_spacing: TimestepSpacing = "leading",
        steps_offset: int = 0,
    ) -> None:
        self._configured()

    @property
    def timesteps(self) -> Tensor | None:  # type: ignore[override]
        """The timesteps that the network is told, one per evaluation; None before `set_timesteps`."""
        return None if self._registry.current is None else super().timesteps

    def set_timesteps(  # type: ignore[override]  # nothing else can be chosen
        self, num_inference_steps: int, device: Any = None
    ) -> None:
        """Begin a run of `num_inference_steps` steps, nine more evaluations or, with skip_prk_steps, one."""
        self._begin(asked_for(num_inference_steps), device)

    @declared_as(Plain[int | Tensor, SchedulerOutput].step)
    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        return_dict: bool = True,
    ) -> StepResult:
        """The sample to evaluate next."""
        if self._replaced:
            kind = "step_prk" if self._is_of_runge_kutta(self._generation_of(timestep)) else "step_plms"
            result: StepResult = getattr(self, kind)(
                model_output=model_output, timestep=timestep, sample=sample, return_dict=return_dict
            )
            return result
        previous, run = self._advance(model_output, timestep, sample)
        return self._result(previous, run, model_output, sample, return_dict)

    def step_prk(
        self, model_output: Tensor, timestep: int | Tensor, sample: Tensor, return_dict: bool = True
    ) -> StepResult:
        """The same as a call of a Runge-Kutta step, whichever comes next."""
        return self._step_of_kind(True, model_output, timestep, sample, return_dict)

    def step_plms(
        self, model_output: Tensor, timestep: int | Tensor, sample: Tensor, return_dict: bool = True
    ) -> StepResult:
        """The same as a call of the multistep method, whichever comes next."""
        return self._step_of_kind(False, model_output, timestep, sample, return_dict)

    @property
    def _step_index(self) -> int | None:
        """The number of the next call; None before the first.

        Writing it has no effect, as in diffusers, where `counter` tells where a run of this class is.
        """
        generation = self._generation
        return None if generation is None else generation.step_index

    @_step_index.setter
    def _step_index(self, index: int | None) -> None:
        pass

    # Call by call ---------------------------------------------------------------------------------------------------

    def _step_of_kind(self, runge_kutta: bool, *arguments: Any) -> StepResult:
        model_output, timestep, sample, return_dict = arguments
        generation = self._generation_of(timestep)
        if self._is_of_runge_kutta(generation) == runge_kutta:
            previous, run = self._advance(model_output, timestep, sample)
        else:
            memory = self._in_hand(generation)
            memory.runge_kutta = runge_kutta
            try:
                previous, run = self._advance(model_output, timestep, sample)
            finally:
                memory.runge_kutta = None
        return self._result(previous, run, model_output, sample, return_dict)

    def _is_of_runge_kutta(self, generation: Generation) -> bool:
        """True where the next call of `generation` is one of a Runge-Kutta step."""
        memory = generation.by_hand
        if memory is not None and memory.runge_kutta is not None:
            return bool(memory.runge_kutta)
        made = members.calls_made(generation)
        return not self.config["skip_prk_steps"] and made < RUNGE_KUTTA_STEPS * EVALUATIONS

    def _in_hand(self, generation: Generation, but: str = "") -> Memory:
        """The memory of `generation`, which from now on goes from call to call by it; see
        :func:`~diffusolve.schedulers.members.memory_of_pndm`.

        Raises:
            ValueError: its run does not hold what diffusers would.
        """
        if generation.by_hand is None:
            generation.by_hand = members.memory_of_pndm(self, but)
            generation.run = None
        memory: Memory = generation.by_hand
        return memory

    def _started(self, generation: Generation, place: int | None, timestep: Any, options: Options) -> Run:
        """As for others; by hand where users have written to the memory, or come with other timesteps than the run's.

        Such a run is made anew for each call.
        """
        if generation.by_hand is None and not self._leaves_order(generation, place, timestep):
            return super()._started(generation, place, timestep, options)
        memory = self._in_hand(generation)
        told = number_of(timestep) if place is None else generation.values[place]
        at = int(told)
        if at != told:
            index_of(told, generation.values)  # says which there are
        begun_at = None
        if self._is_of_runge_kutta(generation):
            begun_at = self._begun_at(generation, memory.counter)
        generation.step_index = memory.counter
        assert generation.steps is not None  # it was begun by set_timesteps
        run: Any = ByHand(memory, Call(at, len(self) // generation.steps, begun_at), self)
        return run  # type: ignore[no-any-return]  # of all that a run does, it does a step

    def _leaves_order(self, generation: Generation, place: int | None, timestep: Any) -> bool:
        """True where a call that is no next one of the run has a meaning of its own in diffusers, which only counts."""
        if generation.is_done:
            return isinstance(generation.run, OpenRun)  # which still holds what others have forgotten by then
        if place is not None:
            return False
        if generation.run is None:
            return generation.begin_index is None and number_of(timestep) not in generation.values
        return self._is_elsewhere(generation, timestep)

    def _begun_at(self, generation: Generation, counter: int) -> int:
        """The timestep where the Runge-Kutta step of call number `counter` begins."""
        count = 0 if self.config["skip_prk_steps"] else RUNGE_KUTTA_STEPS * EVALUATIONS
        if counter >= count:
            raise IndexError(
                f"call number {counter} of this run is to be one of a Runge-Kutta step, of which it has {count}: call "
                "step or step_plms."
            )
        return int(generation.values[counter // EVALUATIONS * EVALUATIONS])

    def _solver(self, steps: int, **options: Any) -> Solver:
        config = self.config
        return pndm_by_calls.with_options(
            runge_kutta=not config["skip_prk_steps"], prediction=config["prediction_type"]
        )

    def _prepare(self, asked: Asked) -> Prepared:
        begins = [int(begin) for begin in self._chosen(asked)]
        evaluated = self._evaluated(begins)
        grid = self._calls(evaluated, len(begins), 0)
        return Prepared(grid, self._solver(asked.steps), self._prediction, np.array(evaluated))

    def _prepared_again(self, generation: Generation) -> Prepared:
        if generation.steps is None or (generation.timesteps_written and not self.config["skip_prk_steps"]):
            self._cannot_follow(generation)  # Runge-Kutta steps lead from timesteps that diffusers keeps elsewhere
        grid = self._calls([int(at) for at in generation.values], generation.steps, 0)
        return Prepared(grid, self._solver(generation.steps), self._prediction, np.array(generation.values))

    _write_steps = TimestepScheduler._refuse_steps

    def _plan_from(self, generation: Generation, index: int, options: Options) -> Plan:
        assert generation.steps is not None  # it was begun by set_timesteps
        grid = self._calls(generation.prepared.timesteps.tolist(), generation.steps, index)
        return plan_for(self._solver(generation.steps), grid, self._prediction)

    def _evaluated(self, begins: list[int]) -> list[int]:
        """The timestep of each evaluation in a run whose steps begin at `begins`."""
        if self.config["skip_prk_steps"]:
            return [*begins[:2], *begins[1:]]
        if len(begins) <= RUNGE_KUTTA_STEPS:
            raise ValueError(
                f"num_inference_steps is {len(begins)}: Runge-Kutta steps at the start need at least "
                f"{RUNGE_KUTTA_STEPS + 1}; use more, or skip_prk_steps=True."
            )
        half = len(self) // len(begins) // 2
        asked = []
        for begin, end in pairwise(begins[: RUNGE_KUTTA_STEPS + 1]):
            asked += [begin, end + half, end + half, end]
        return asked + begins[RUNGE_KUTTA_STEPS:]

    def _calls(self, asked: list[int], steps: int, first: int) -> Grid:
        """For each evaluation from number `first` on where it is asked, where its sample stands and where it leads."""
        stride = len(self) // steps
        points: list[int] = []
        for call, at in enumerate(asked[first:]):
            step, stage = divmod(call, EVALUATIONS)
            if not self.config["skip_prk_steps"] and step < RUNGE_KUTTA_STEPS:
                points += [at, asked[EVALUATIONS * step], at if stage % 2 else at - stride // 2]
            elif self.config["skip_prk_steps"] and call == 1:
                points += [at, at + stride, at]
            else:
                points += [at, at, at - stride]
        return Grid(tuple(map(self._point, points)), self.noise_schedule, self.scaling)

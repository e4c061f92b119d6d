"""PNDMScheduler."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from diffusolve.config import register_to_config
from diffusolve.noise import Grid
from diffusolve.plan import Plan, plan_for
from diffusolve.schedulers import members
from diffusolve.schedulers.as_in_diffusers import pndm_by_calls
from diffusolve.schedulers.asked import Asked, asked_for
from diffusolve.schedulers.generation import Generation, Options, Prepared
from diffusolve.schedulers.outputs import StepResult
from diffusolve.schedulers.timestep_scheduler import TimestepScheduler
from diffusolve.solvers import Solver

__all__ = ["PNDMScheduler"]

RUNGE_KUTTA_STEPS, EVALUATIONS = 3, 4


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

    counts_on: ClassVar[bool] = True

    history_outlives_reset: ClassVar[bool] = True
    members = members.PNDM

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Sequence[float] | None = None,
        skip_prk_steps: bool = False,
        set_alpha_to_one: bool = False,
        prediction_type: str = "epsilon",
        timestep_spacing: str = "leading",
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

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        return_dict: bool = True,
    ) -> StepResult:
        """The sample to evaluate next."""
        previous, run = self._advance(model_output, timestep, sample)
        return self._result(previous, run, model_output, sample, return_dict)

    step_prk = step_plms = step

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

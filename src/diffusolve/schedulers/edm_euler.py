"""EDMEulerScheduler."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from diffusolve.config import register_to_config
from diffusolve.plan import Plan, plan_for
from diffusolve.schedulers.as_in_diffusers import (
    churned,
    data_after_churn,
    edm_data_after_churn,
    edm_with_late_churn,
    euler_with_late_churn,
)
from diffusolve.schedulers.asked import Asked, asked_for
from diffusolve.schedulers.edm_scheduler import DenoisedByCaller, EDMScheduler
from diffusolve.schedulers.generation import Generation, Options
from diffusolve.schedulers.outputs import SchedulerOutputWithData
from diffusolve.schedulers.step_types import Fields, by_return_dict
from diffusolve.schedulers.steps import Steps
from diffusolve.schedulers.words import FinalSigmasType, PredictionType, SigmaSchedule
from diffusolve.solvers import Solver, euler

__all__ = ["EDMEulerScheduler"]

DENOISED = ("denoised", True)
"""The option of a step that is handed the data prediction."""


class EDMEulerScheduler(EDMScheduler):
    """Euler's method for EDM networks: Playground v2.5, Cosmos (A1111: "Euler").

    Karras et al. 2022, algorithm 2 without its second-order correction. Linear in the sample.

    Args:
        sigma_min, sigma_max: the range of noise.
        sigma_data: standard deviation of the training data.
        sigma_schedule: sigmas fall along a "karras" or an "exponential" curve.
        num_train_timesteps: how many sigmas it stands on before `set_timesteps`, less one.
        prediction_type: the sign of the output: "epsilon" as in the paper, "v_prediction" the opposite one. "sample":
            the network is preconditioned itself and its output the data.
        rho: of the karras curve.
        final_sigmas_type: the last step leads to "zero" or to "sigma_min".
    """

    output = SchedulerOutputWithData
    more_to_show: ClassVar[int] = 1
    precision = "output"
    refuses_counts = True
    data_precision = torch.float32

    @register_to_config
    def __init__(
        self,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        sigma_data: float = 0.5,
        sigma_schedule: SigmaSchedule = "karras",
        num_train_timesteps: int = 1000,
        prediction_type: PredictionType = "epsilon",
        rho: float = 7.0,
        final_sigmas_type: FinalSigmasType = "zero",
    ) -> None:
        self._configured()

    def set_timesteps(
        self, num_inference_steps: int | None = None, device: Any = None, sigmas: Sequence[float] | None = None
    ) -> None:
        """Begin a run of `num_inference_steps` steps.

        Args:
            num_inference_steps: how many steps; may be left out where `sigmas` are given.
            device: for the timesteps.
            sigmas: as in diffusers no sigmas, but places along the curve, 0 at `sigma_max` and 1 at `sigma_min`, shape
                (steps,); only their number matters to an exponential curve.

        Raises:
            ValueError: neither is given, or numbers of steps that differ; places that are not from 0 to 1.
        """
        asked = asked_for(num_inference_steps, timesteps=sigmas)
        if asked.timesteps is not None and not all(0.0 <= place <= 1.0 for place in asked.timesteps):
            raise ValueError(
                f"sigmas are {list(asked.timesteps)}: expected places along the curve from sigma_max (0) to sigma_min "
                "(1), as diffusers has it."
            )
        self._begin(asked, device)

    def _steps(self, asked: Asked) -> Steps:
        if asked.timesteps is None or self.config["sigma_schedule"] == "exponential":
            return super()._steps(asked)
        sigmas = self._along(np.array(asked.timesteps))
        return self._through(sigmas, self._end(sigmas))

    @by_return_dict
    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = inf,
        s_noise: float = 1.0,
        generator: Any = None,
        return_dict: bool = True,
        pred_original_sample: Tensor | None = None,
    ) -> SchedulerOutputWithData | Fields:
        """The sample one step on.

        Args:
            model_output, sample: shape (batch, ...).
            timestep: one of ``scheduler.timesteps``.
            s_churn, s_tmin, s_tmax, s_noise: noise is added first, between the sigmas `s_tmin` and `s_tmax`.
            generator: of that noise.
            return_dict: an object with fields, or a tuple.
            pred_original_sample: the data prediction, in place of `model_output`.
        """
        options: Options = ()
        if s_churn:
            options = (("s_churn", s_churn), ("s_tmin", s_tmin), ("s_tmax", s_tmax), ("s_noise", s_noise))
        if pred_original_sample is not None:
            model_output, options = pred_original_sample.to(model_output.dtype), (*options, DENOISED)
        previous, run = self._advance(model_output, timestep, sample, generator, options)
        if not s_churn:
            return self._result(previous, run, model_output, sample, return_dict)
        generation = self._generation_of(timestep)
        grid, index = generation.prepared.grid, generation.step_index or 0
        s, t = grid[index - 1].sigma, grid[index].sigma
        hat = churned(s, grid.steps, s_churn, s_tmin, s_tmax)
        a, b = data_after_churn(s, hat, t, "sample") if DENOISED in options else self._data_after_churn(hat, t)
        stage = run.last_stage._replace(a=a, b=b)
        return self._result(previous, run, model_output, previous, return_dict, stage)

    def _data_after_churn(self, hat: float, t: float) -> tuple[float, float]:
        return edm_data_after_churn(hat, t, *self._prediction.data(1.0, hat))

    def _solver(self, steps: int, **churn: Any) -> Solver:
        if not churn:
            return euler
        return edm_with_late_churn.with_options(**churn, steps=steps, sigma_data=self.config["sigma_data"])

    def _plan_from(self, generation: Generation, index: int, options: Options) -> Plan:
        if DENOISED not in options:
            return super()._plan_from(generation, index, options)
        grid, churn = generation.prepared.grid, dict(options[:-1])
        solver = euler_with_late_churn.with_options(**churn, steps=grid.steps, prediction="sample") if churn else euler
        return plan_for(solver, grid[index:], DenoisedByCaller(self.config["sigma_data"]))

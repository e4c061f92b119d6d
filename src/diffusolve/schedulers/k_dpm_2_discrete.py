"""KDPM2DiscreteScheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from diffusolve.config import register_to_config
from diffusolve.schedulers.outputs import SchedulerOutputWithData, StepResult
from diffusolve.schedulers.step_types import Plain, declared_as
from diffusolve.schedulers.two_stage import KDPM2Scheduler
from diffusolve.schedulers.words import BetaSchedule, PredictionTypeOrFlow, TimestepSpacing
from diffusolve.solvers import Solver, dpm_2

__all__ = ["KDPM2DiscreteScheduler"]


class KDPM2DiscreteScheduler(KDPM2Scheduler):
    """DPM-Solver-2, in samples scaled to alpha = 1 (A1111: "DPM2").

    Lu et al. 2022, DPM-Solver, algorithm 1; Karras et al. 2022, algorithm 2, without churn.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas: the training noise schedule.
        use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas: where the steps fall; at most one. With Karras's
            the network is told whole timesteps where a step begins, as in diffusers, and exact ones in the middle.
        prediction_type: what the network predicts: "epsilon", "sample" or "v_prediction".
        timestep_spacing: "linspace", "leading" or "trailing".
        steps_offset: added to "leading" timesteps; 1 for Stable Diffusion.
    """

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: BetaSchedule = "linear",
        trained_betas: Sequence[float] | None = None,
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        prediction_type: PredictionTypeOrFlow = "epsilon",
        timestep_spacing: TimestepSpacing = "linspace",
        steps_offset: int = 0,
    ) -> None:
        self._configured()

    @declared_as(Plain[float | Tensor, SchedulerOutputWithData].step)
    def step(
        self, model_output: Tensor, timestep: float | Tensor, sample: Tensor, return_dict: bool = True
    ) -> StepResult:
        """The sample to evaluate next: in the middle of the step, then at its end."""
        previous, run = self._advance(model_output, timestep, sample)
        return self._result(previous, run, model_output, sample, return_dict)

    def _solver(self, steps: int, **options: Any) -> Solver:
        return dpm_2

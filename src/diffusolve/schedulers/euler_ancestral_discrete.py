"""EulerAncestralDiscreteScheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusolve.config import register_to_config
from diffusolve.schedulers.generation import Prepared
from diffusolve.schedulers.outputs import SchedulerOutputWithData, StepResult
from diffusolve.schedulers.sigma_scheduler import SigmaScheduler
from diffusolve.schedulers.step_types import WithGenerator, declared_as
from diffusolve.schedulers.words import BetaSchedule, PredictionTypeOrFlow, TimestepSpacing
from diffusolve.solvers import Solver, euler

__all__ = ["EulerAncestralDiscreteScheduler"]


class EulerAncestralDiscreteScheduler(SigmaScheduler):
    """Euler's method with ancestral noise, in samples scaled to alpha = 1 (A1111: "Euler a").

    The same as DDPM (Ho et al. 2020) on these steps, and as DDIM with eta = 1 (Song et al. 2021).

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas: the training noise schedule.
        prediction_type: what the network predicts: "epsilon", "sample" or "v_prediction".
        timestep_spacing: "linspace", "leading" or "trailing".
        steps_offset: added to "leading" timesteps; 1 for Stable Diffusion.
        rescale_betas_zero_snr: leave (almost) no signal at the last timestep; sigma is 4096 there.
    """

    precision = "output"
    refuses_counts = True
    data_precision = torch.float32

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: BetaSchedule = "linear",
        trained_betas: Sequence[float] | None = None,
        prediction_type: PredictionTypeOrFlow = "epsilon",
        timestep_spacing: TimestepSpacing = "linspace",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
    ) -> None:
        self._configured()

    @declared_as(WithGenerator[float | Tensor, SchedulerOutputWithData].step)
    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Any = None,
        return_dict: bool = True,
    ) -> StepResult:
        """The sample one step on, with noise from `generator`."""
        previous, run = self._advance(model_output, timestep, sample, generator)
        self._draw_last(run, sample, generator)
        return self._result(previous, run, model_output, sample, return_dict)

    def _standing(self) -> Prepared:
        standing = super()._standing()
        standing.timesteps = standing.timesteps.astype(np.float64)  # as diffusers has them there, and later in float32
        return standing

    def _solver(self, steps: int, **options: Any) -> Solver:
        return euler.with_options(eta=1.0)

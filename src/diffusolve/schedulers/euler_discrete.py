"""EulerDiscreteScheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from diffusolve.arrays import moved
from diffusolve.config import register_to_config
from diffusolve.schedulers.as_in_diffusers import churned, data_after_churn, euler_with_late_churn
from diffusolve.schedulers.outputs import SchedulerOutputWithData, StepResult
from diffusolve.schedulers.sigma_scheduler import SigmaScheduler
from diffusolve.schedulers.step_types import WithChurn, declared_as
from diffusolve.schedulers.words import BetaSchedule, FinalSigmasType, TimestepSpacing
from diffusolve.solvers import Solver, euler

__all__ = ["EulerDiscreteScheduler"]


class EulerDiscreteScheduler(SigmaScheduler):
    """Euler's method for the probability-flow ODE, in samples scaled to alpha = 1 (A1111: "Euler").

    Karras et al. 2022, algorithm 2; without churn it is DDIM.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas: the training noise schedule.
        prediction_type: what the network predicts: "epsilon", "sample" (also "original_sample") or "v_prediction".
        interpolation_type: sigma between whole timesteps is "linear" in the timestep; "log_linear" places the steps
            equally in log sigma instead, one more than asked for.
        use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas: where the steps fall; at most one.
        sigma_min, sigma_max: the ends of these curves; those of the timesteps chosen when missing.
        timestep_spacing: "linspace", "leading" or "trailing".
        timestep_type: "discrete", or "continuous": the network is told a quarter of log sigma.
        steps_offset: added to "leading" timesteps; 1 for Stable Diffusion.
        rescale_betas_zero_snr: leave (almost) no signal at the last timestep; sigma is 4096 there.
        final_sigmas_type: the last step leads to "zero" or to "sigma_min".
    """

    ends_with_last: ClassVar[bool] = True
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
        prediction_type: Literal["epsilon", "sample", "v_prediction", "flow_prediction", "original_sample"] = "epsilon",
        interpolation_type: Literal["linear", "log_linear"] = "linear",
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        timestep_spacing: TimestepSpacing = "linspace",
        timestep_type: Literal["discrete", "continuous"] = "discrete",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
        final_sigmas_type: FinalSigmasType = "zero",
    ) -> None:
        self._configured()

    @declared_as(WithChurn[float | Tensor, SchedulerOutputWithData].step)
    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = float("inf"),
        s_noise: float = 1.0,
        generator: Any = None,
        return_dict: bool = True,
    ) -> StepResult:
        """The sample one step on. With `s_churn` noise is added first, between the sigmas `s_tmin` and `s_tmax`."""
        if s_churn == 0.0:
            previous, run = self._advance(model_output, timestep, sample, generator)
            return self._result(previous, run, model_output, sample, return_dict)
        if self._flow is not None:
            raise ValueError(
                f"s_churn is {s_churn:g}: EulerDiscreteScheduler adds no noise before a step on flow matching. "
                "Leave it out, or take EulerAncestralDiscreteScheduler."
            )
        generation = self._generation_of(timestep)
        options = _churn(s_churn, s_tmin, s_tmax, s_noise)
        previous, run = self._advance(model_output, timestep, sample, generator, options)
        grid, index = generation.prepared.grid, generation.step_index or 0
        s, t = grid[index - 1].sigma, grid[index].sigma
        hat = churned(s, grid.steps, s_churn, s_tmin, s_tmax)
        a, b = data_after_churn(s, hat, t, self._prediction.name)
        stage = run.last_stage._replace(a=a, b=b)
        return self._result(previous, run, model_output, previous, return_dict, stage)

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """``alpha * noise - sigma * sample``, what a network with v_prediction is trained to output.

        Args:
            sample, noise: shape (batch, ...).
            timesteps: whole training timesteps, shape (batch,). Of floating-point ones, which diffusers insists on, the
                places among ``scheduler.timesteps`` are taken for the training timesteps, as there.
        """
        if timesteps.is_floating_point():
            own = moved(self.timesteps, timesteps.device)
            timesteps = (own[None, :] == timesteps.reshape(-1, 1)).to(torch.uint8).argmax(dim=1)
        return super().get_velocity(sample, noise, timesteps)

    def _solver(self, steps: int, **churn: Any) -> Solver:
        if not churn:
            return euler
        return euler_with_late_churn.with_options(**churn, steps=steps, prediction=self._prediction.name)


def _churn(s_churn: float, s_tmin: float, s_tmax: float, s_noise: float) -> tuple[tuple[str, Any], ...]:
    return (("s_churn", s_churn), ("s_tmin", s_tmin), ("s_tmax", s_tmax), ("s_noise", s_noise))

"""DPMSolverMultistepScheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diffusolve.config import register_to_config
from diffusolve.schedulers import members
from diffusolve.schedulers.log_snr_scheduler import LogSNRScheduler
from diffusolve.schedulers.outputs import SchedulerOutput, StepResult
from diffusolve.schedulers.step_types import WithNoise, declared_as
from diffusolve.schedulers.words import (
    AlgorithmType,
    BetaSchedule,
    FinalSigmasType,
    PredictionTypeOrFlow,
    SolverType,
    TimeShiftType,
    TimestepSpacing,
    VarianceType,
)
from diffusolve.solvers import Solver, dpmpp_multistep
from diffusolve.solvers.dpm_multistep import dpm_multistep

__all__ = ["DPMSolverMultistepScheduler"]


class DPMSolverMultistepScheduler(LogSNRScheduler):
    """Multistep DPM-Solver and DPM-Solver++, as ODE and SDE (A1111: "DPM++ 2M", "DPM++ 2M SDE").

    Lu et al. 2022, DPM-Solver and DPM-Solver++.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas: the training noise schedule.
        solver_order: 1, 2 or 3; more is taken for 3.
        prediction_type: what the network predicts: "epsilon", "sample", "v_prediction" or "flow_prediction".
        thresholding, dynamic_thresholding_ratio, sample_max_value: dynamic thresholding of the data prediction.
        algorithm_type: "dpmsolver++", "dpmsolver", "sde-dpmsolver++" or "sde-dpmsolver".
        solver_type: how order 2 extrapolates: "midpoint" or "heun".
        lower_order_final: with fewer than 15 steps the last ones fall back to lower orders.
        euler_at_final: the last step is always of first order.
        use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas, use_lu_lambdas: where the steps fall; at most one.
        use_flow_sigmas, flow_shift: flow matching's noise levels, shifted; of given `timesteps` only the number counts.
        final_sigmas_type: the last step leads to "zero" or to "sigma_min".
        lambda_min_clipped: leave out timesteps with a smaller log(alpha / sigma).
        variance_type: "learned" or "learned_range" if the network also outputs a variance, which is then ignored.
        timestep_spacing: "linspace", "leading" or "trailing".
        steps_offset: added to "leading" timesteps; 1 for Stable Diffusion.
        rescale_betas_zero_snr: leave (almost) no signal at the last timestep.
        use_dynamic_shifting, time_shift_type: `set_timesteps` takes `mu`, the logarithm of the flow shift.
    """

    noise_dtype = torch.float32

    kept = members.KEPT_BY_DPM_SOLVER
    members = members.DPM_SOLVER
    clears = frozenset({"lower_order_nums"})

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: BetaSchedule = "linear",
        trained_betas: Sequence[float] | None = None,
        solver_order: int = 2,
        prediction_type: PredictionTypeOrFlow = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        algorithm_type: AlgorithmType = "dpmsolver++",
        solver_type: SolverType = "midpoint",
        lower_order_final: bool = True,
        euler_at_final: bool = False,
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        use_lu_lambdas: bool | None = False,
        use_flow_sigmas: bool | None = False,
        flow_shift: float | None = 1.0,
        final_sigmas_type: FinalSigmasType = "zero",
        lambda_min_clipped: float = -float("inf"),
        variance_type: VarianceType | None = None,
        timestep_spacing: TimestepSpacing = "linspace",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
        use_dynamic_shifting: bool = False,
        time_shift_type: TimeShiftType | None = "exponential",
    ) -> None:
        self._configured()

    def _configured(self) -> None:
        self._check_end()
        super()._configured()

    @property
    def _extrapolates_noise(self) -> bool:
        return not self.config["algorithm_type"].endswith("++")

    @declared_as(WithNoise[int | Tensor, SchedulerOutput].step)
    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: Any = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> StepResult:
        """The sample one step on; the SDE forms draw noise from `generator` or take `variance_noise`."""
        model_output = self._without_variance(model_output, sample)
        previous, run = self._advance(model_output, timestep, sample, generator, (), variance_noise)
        if run.is_done and variance_noise is None and self.config["algorithm_type"].startswith("sde"):
            self._draw_last(run, torch.empty_like(sample, dtype=self.noise_dtype), generator)
        return self._result(previous, run, model_output, sample, return_dict)

    def _solver(self, steps: int, **options: Any) -> Solver:
        config = self.config
        return (dpm_multistep if self._extrapolates_noise else dpmpp_multistep).with_options(
            order=min(config["solver_order"], 3),
            solver_type=config["solver_type"],
            eta=1.0 if config["algorithm_type"].startswith("sde") else 0.0,
            euler_at_final=config["euler_at_final"],
            lower_order_final=config["lower_order_final"] and steps < 15,
            third_order="diffusers_sde" if config["algorithm_type"] == "sde-dpmsolver++" else "authors",
        )

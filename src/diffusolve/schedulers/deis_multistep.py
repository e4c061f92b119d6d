"""DEISMultistepScheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from diffusolve.config import register_to_config
from diffusolve.schedulers import members
from diffusolve.schedulers.log_snr_scheduler import LogSNRScheduler
from diffusolve.schedulers.outputs import SchedulerOutput, StepResult
from diffusolve.schedulers.step_types import Plain, declared_as
from diffusolve.schedulers.steps import Array, curve_asked_for
from diffusolve.schedulers.words import BetaSchedule, PredictionTypeOrFlow, TimeShiftType, TimestepSpacing
from diffusolve.solvers import Solver
from diffusolve.solvers.deis import deis

__all__ = ["DEISMultistepScheduler"]


class DEISMultistepScheduler(LogSNRScheduler):
    """The exponential integrator with extrapolated noise, in the form log rho-AB (A1111: "DEIS").

    Zhang & Chen 2022, Fast Sampling of Diffusion Models with Exponential Integrator. The last step leads to the lowest
    training sigma, not to 0; along a curve of sigmas and with `use_flow_sigmas`, which end somewhere themselves, it
    leads nowhere and changes nothing.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas: the training noise schedule.
        solver_order: 1, 2 or 3; more is taken for 3.
        prediction_type: what the network predicts: "epsilon", "sample", "v_prediction" or "flow_prediction".
        thresholding, dynamic_thresholding_ratio, sample_max_value: dynamic thresholding of the data prediction.
        algorithm_type: "deis"; those of DPM-Solver's ODEs become it.
        solver_type: "logrho"; those of DPM-Solver and UniPC become it.
        lower_order_final: with fewer than 15 steps the last ones fall back to lower orders.
        use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas: where the steps fall; at most one.
        use_flow_sigmas, flow_shift: flow matching's noise levels, shifted.
        timestep_spacing: "linspace", "leading" or "trailing".
        steps_offset: added to "leading" timesteps; 1 for Stable Diffusion.
        use_dynamic_shifting, time_shift_type: `set_timesteps` takes `mu`, the logarithm of the flow shift.
    """

    kept = members.KEPT_BY_MULTISTEP
    members = members.DEIS
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
        algorithm_type: Literal["deis"] = "deis",
        solver_type: Literal["logrho"] = "logrho",
        lower_order_final: bool = True,
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        use_flow_sigmas: bool | None = False,
        flow_shift: float | None = 1.0,
        timestep_spacing: TimestepSpacing = "linspace",
        steps_offset: int = 0,
        use_dynamic_shifting: bool = False,
        time_shift_type: TimeShiftType | None = "exponential",
    ) -> None:
        self._configured()

    @declared_as(Plain[int | Tensor, SchedulerOutput].step)
    def step(
        self, model_output: Tensor, timestep: int | Tensor, sample: Tensor, return_dict: bool = True
    ) -> StepResult:
        """The sample one step on."""
        previous, run = self._advance(model_output, timestep, sample)
        return self._result(previous, run, model_output, sample, return_dict)

    def _solver(self, steps: int, **options: Any) -> Solver:
        config = self.config
        return deis.with_options(
            order=min(config["solver_order"], 3), lower_order_final=config["lower_order_final"] and steps < 15
        )

    _converts_to_noise = True

    def _final_sigma(self, sigmas: Array) -> float:
        ends_itself = self.config["use_flow_sigmas"] or curve_asked_for(self.config)
        return float(sigmas[-1] if ends_itself else self._sigma_table[0])

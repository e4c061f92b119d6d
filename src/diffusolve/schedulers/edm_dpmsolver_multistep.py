"""EDMDPMSolverMultistepScheduler."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from diffusolve.config import register_to_config
from diffusolve.schedulers.edm_scheduler import EDMMultistepScheduler
from diffusolve.schedulers.outputs import SchedulerOutput, StepResult
from diffusolve.schedulers.step_types import WithGenerator, declared_as
from diffusolve.schedulers.words import FinalSigmasType, PredictionType, SigmaSchedule, SolverType
from diffusolve.solvers import Solver, dpmpp_multistep

__all__ = ["EDMDPMSolverMultistepScheduler"]


class EDMDPMSolverMultistepScheduler(EDMMultistepScheduler):
    """Multistep DPM-Solver++ for EDM networks: Playground v2.5 (A1111: "DPM++ 2M", "DPM++ 2M SDE").

    Lu et al. 2022, DPM-Solver++. Linear in the sample, but for `thresholding`.

    Args:
        sigma_min, sigma_max: the range of noise.
        sigma_data: standard deviation of the training data.
        sigma_schedule: sigmas fall along a "karras" or an "exponential" curve.
        num_train_timesteps: how many sigmas it stands on before `set_timesteps`.
        prediction_type: the sign of the output: "epsilon" as in the paper, "v_prediction" the opposite one. "sample":
            the network is preconditioned itself and its output the data.
        rho: of the karras curve.
        solver_order: 1, 2 or 3; more is taken for 3.
        thresholding, dynamic_thresholding_ratio, sample_max_value: dynamic thresholding of the data prediction.
        algorithm_type: "dpmsolver++" or "sde-dpmsolver++".
        solver_type: how order 2 extrapolates: "midpoint" or "heun".
        lower_order_final: with fewer than 15 steps the last ones fall back to lower orders.
        euler_at_final: the last step is always of first order.
        final_sigmas_type: the last step leads to "zero" or to "sigma_min".
    """

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
        solver_order: int = 2,
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        algorithm_type: Literal["dpmsolver++", "sde-dpmsolver++"] = "dpmsolver++",
        solver_type: SolverType = "midpoint",
        lower_order_final: bool = True,
        euler_at_final: bool = False,
        final_sigmas_type: FinalSigmasType = "zero",
    ) -> None:
        self._configured()

    @declared_as(WithGenerator[float | Tensor, SchedulerOutput].step)
    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Any = None,
        return_dict: bool = True,
    ) -> StepResult:
        """The sample one step on; the SDE form draws noise from `generator`."""
        previous, run = self._advance(model_output, timestep, sample, generator)
        if self.config["algorithm_type"].startswith("sde"):
            self._draw_last(run, model_output, generator)
        return self._result(previous, run, model_output, sample, return_dict)

    def _solver(self, steps: int, **options: Any) -> Solver:
        config = self.config
        return dpmpp_multistep.with_options(
            order=min(config["solver_order"], 3),
            solver_type=config["solver_type"],
            eta=1.0 if config["algorithm_type"].startswith("sde") else 0.0,
            euler_at_final=config["euler_at_final"],
            lower_order_final=config["lower_order_final"] and steps < 15,
            third_order="authors",
        )

"""DPMSolverMultistepInverseScheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from diffusolve.config import register_to_config
from diffusolve.schedulers import members
from diffusolve.schedulers.asked import Asked, asked_for
from diffusolve.schedulers.dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusolve.schedulers.log_snr_scheduler import timesteps_along
from diffusolve.schedulers.outputs import SchedulerOutput, StepResult
from diffusolve.schedulers.step_types import WithNoise, declared_as
from diffusolve.schedulers.steps import Array, Steps, check_steps, curve_asked_for, timestep_spacing
from diffusolve.schedulers.table_scheduler import TableScheduler
from diffusolve.schedulers.words import (
    AlgorithmType,
    BetaSchedule,
    PredictionTypeOrFlow,
    SolverType,
    TimestepSpacing,
    VarianceType,
)

__all__ = ["DPMSolverMultistepInverseScheduler"]


class DPMSolverMultistepInverseScheduler(DPMSolverMultistepScheduler):
    """Multistep DPM-Solver and DPM-Solver++ from data to noise: timesteps and sigmas rise.

    Lu et al. 2022, DPM-Solver and DPM-Solver++. Linear in the sample, unless data predictions are thresholded.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas: the training noise schedule.
        solver_order: 1, 2 or 3; more is taken for 3.
        prediction_type: what the network predicts: "epsilon", "sample", "v_prediction" or "flow_prediction".
        thresholding, dynamic_thresholding_ratio, sample_max_value: dynamic thresholding of the data prediction.
        algorithm_type: "dpmsolver++" or "dpmsolver". The SDE forms, "sde-dpmsolver++" and "sde-dpmsolver", have no
            inverse: their steps raise.
        solver_type: how order 2 extrapolates: "midpoint" or "heun".
        lower_order_final: with fewer than 15 steps the last ones fall back to lower orders.
        euler_at_final: the last step is always of first order.
        use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas: where the steps fall; at most one. The last step
            then has no length.
        use_flow_sigmas, flow_shift: flow matching's noise levels, shifted; as in diffusers these fall, and their last
            step has no length.
        lambda_min_clipped: leave out timesteps with a smaller log(alpha / sigma).
        variance_type: "learned" or "learned_range" if the network also outputs a variance, which is then ignored.
        timestep_spacing: "linspace", "leading" or "trailing".
        steps_offset: added to "leading" timesteps; 1 for Stable Diffusion.
    """

    samples_flow: ClassVar[bool] = False

    kept = members.KEPT_BY_MULTISTEP
    members: ClassVar[members.Members] = {
        **members.DPM_SOLVER,
        **members.unreachable("lambda_min_clipped of the configuration decides it", "noisiest_timestep"),
    }
    clears = frozenset({"lower_order_nums"})

    _training_sigma = TableScheduler._training_sigma  # with `use_flow_sigmas` too, as diffusers has it here

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
        use_flow_sigmas: bool | None = False,
        flow_shift: float | None = 1.0,
        lambda_min_clipped: float = -float("inf"),
        variance_type: VarianceType | None = None,
        timestep_spacing: TimestepSpacing = "linspace",
        steps_offset: int = 0,
    ) -> None:
        self._configured()

    def set_timesteps(  # type: ignore[override]  # nothing else can be chosen
        self, num_inference_steps: int | None = None, device: Any = None
    ) -> None:
        """Begin a run of `num_inference_steps` steps, the least noisy timestep first."""
        self._begin(asked_for(num_inference_steps), device)

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
        """The sample one step further from the data. Pipelines offer `generator` and `variance_noise`: none is drawn.

        Raises:
            ValueError: the algorithm is an SDE form.
        """
        algorithm = self.config["algorithm_type"]
        if algorithm.startswith("sde"):
            raise ValueError(
                f"algorithm_type {algorithm!r} has no inverse, since it replaces noise by fresh noise: set "
                f'algorithm_type="{algorithm.removeprefix("sde-")}".'
            )
        return super().step(model_output, timestep, sample, None, None, return_dict)

    @property
    def timesteps(self) -> Tensor:
        """The timesteps of the run, rising; all training timesteps before `set_timesteps`."""
        own = super().timesteps
        return own.flip(0).to(torch.float32) if self._generation is None else own

    @property
    def num_inference_steps(self) -> int | None:
        """The number of steps of the run; None before `set_timesteps`. It is less than was asked for where timesteps
        would be repeated."""
        return None if self._generation is None else len(self._generation.values)

    def _steps(self, asked: Asked) -> Steps:
        config = self._own_config
        if config["use_flow_sigmas"]:
            return self._flow_steps(asked)
        table, curve = self._sigma_table, curve_asked_for(config)
        if curve is not None and asked.steps == 1:  # the curve's first point, here the least noisy one
            return Steps(np.zeros(1), table[[0, 0]])
        if curve is not None:
            sigmas = self._along(curve, asked.steps)[::-1]
            at = timesteps_along(curve, sigmas, table)
        else:
            at = self._rising(asked.steps)
            sigmas = np.interp(at, np.arange(len(table)), table)
        return Steps(at, np.append(sigmas, table[self._last_timestep(config) - 1]))

    def _rising(self, steps: int) -> Array:
        """The timesteps that `steps` steps begin at, from the least noisy, each of them once: there may be fewer."""
        config = self._own_config
        name, count = config["timestep_spacing"], self._last_timestep(config)
        check_steps(steps, count, "lambda_min_clipped" if count < len(self) else "")
        rule = timestep_spacing(name, steps_offset=config["steps_offset"], stride=len(self) / steps)
        # The others have one timestep more, the noisiest, where the last step leads.
        at = rule.indices(steps, count) if name == "trailing" else rule.indices(steps + 1, count)[1:]
        return np.unique(at)

    def _final_sigma(self, sigmas: Array) -> float:
        return float(sigmas[-1])

"""DEISMultistepScheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from diffusolve.config import register_to_config
from diffusolve.schedulers.log_snr_space import LogSNRScheduler
from diffusolve.schedulers.outputs import SchedulerOutput
from diffusolve.schedulers.spacing import Levels, ramp_asked_for
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

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Sequence[float] | None = None,
        solver_order: int = 2,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        algorithm_type: str = "deis",
        solver_type: str = "logrho",
        lower_order_final: bool = True,
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        use_flow_sigmas: bool | None = False,
        flow_shift: float | None = 1.0,
        timestep_spacing: str = "linspace",
        steps_offset: int = 0,
        use_dynamic_shifting: bool = False,
        time_shift_type: str = "exponential",
    ) -> None:
        self._configured()

    def _configured(self) -> None:
        self._translate("algorithm_type", ("deis",), dict.fromkeys(("dpmsolver", "dpmsolver++"), "deis"))
        self._translate("solver_type", ("logrho",), dict.fromkeys(("midpoint", "heun", "bh1", "bh2"), "logrho"))
        super()._configured()

    def set_timesteps(self, num_inference_steps: int, device: Any = None, mu: float | None = None) -> None:
        """Begin a run of `num_inference_steps` steps; `mu` is the logarithm of the flow shift."""
        with self._runs.lock:
            self._shift_flow(mu)
            self._set_timesteps(num_inference_steps, device)

    def step(
        self, model_output: Tensor, timestep: int | Tensor, sample: Tensor, return_dict: bool = True
    ) -> SchedulerOutput | tuple[Tensor, ...]:
        """The sample one step on."""
        previous, _ = self._advance(model_output, timestep, sample)
        return self._result(previous, return_dict)

    def _solver(self, steps: int, **options: Any) -> Solver:
        config = self.config
        return deis.with_options(
            order=min(config["solver_order"], 3), lower_order_final=config["lower_order_final"] and steps < 15
        )

    def _levels(self, steps: int, timesteps: Sequence[float] | None, sigmas: Sequence[float] | None) -> Levels:
        return self._log_snr_levels(steps, timesteps)

    def _final_sigma(self, sigmas: np.ndarray[Any, Any], table: np.ndarray[Any, Any]) -> float:
        chosen = self.config["use_flow_sigmas"] or ramp_asked_for(self.config)
        return float(sigmas[-1] if chosen else table[0])

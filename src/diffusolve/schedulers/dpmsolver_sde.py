"""DPMSolverSDEScheduler."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from diffusolve.config import register_to_config
from diffusolve.plan import Plan
from diffusolve.randomness import BrownianPath
from diffusolve.schedulers import members
from diffusolve.schedulers.asked import Asked
from diffusolve.schedulers.generation import Noise, Prepared
from diffusolve.schedulers.outputs import SchedulerOutputWithData
from diffusolve.schedulers.step_types import Fields, by_return_dict
from diffusolve.schedulers.steps import Array, Steps
from diffusolve.schedulers.two_stage import TwoStageScheduler
from diffusolve.schedulers.words import BetaSchedule, PredictionTypeOrFlow, TimestepSpacing
from diffusolve.solvers import Solver, dpmpp_sde

__all__ = ["DPMSolverSDEScheduler"]


class DPMSolverSDEScheduler(TwoStageScheduler):
    """DPM-Solver++ with two evaluations a step, as SDE, in samples scaled to alpha = 1 (A1111: "DPM++ SDE").

    Of second order: Lu et al. 2022, DPM-Solver++, algorithm 1, with noise as in section 4.3; k-diffusion's
    ``sample_dpmpp_sde``. Needs the package torchsde.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas: the training noise schedule.
        prediction_type: what the network predicts: "epsilon", "sample" or "v_prediction".
        use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas: where the steps fall; at most one.
        noise_sampler_seed: of the Brownian path that the noise follows, or a list with one seed per sample; drawn from
            PyTorch's global generator for each run when missing.
        timestep_spacing: "linspace", "leading" or "trailing".
        steps_offset: added to "leading" timesteps; 1 for Stable Diffusion.
    """

    timestep_dtype: ClassVar[type] = np.float64

    members = members.SDE
    fixed: ClassVar[frozenset[str]] = TwoStageScheduler.fixed | {"_second_order_timesteps", "_sigma_to_t"}
    only_read = frozenset({"noise_sampler_seed"})
    options_with_density = (("noise", "bridge"),)

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: BetaSchedule = "linear",
        trained_betas: Sequence[float] | None = None,
        prediction_type: PredictionTypeOrFlow = "epsilon",
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        noise_sampler_seed: int | Sequence[int] | None = None,
        timestep_spacing: TimestepSpacing = "linspace",
        steps_offset: int = 0,
    ) -> None:
        self._configured()

    @by_return_dict
    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        return_dict: bool = True,
        s_noise: float = 1.0,
    ) -> SchedulerOutputWithData | Fields:
        """The sample to evaluate next: in the middle of the step, then at its end. `s_noise` multiplies the noise."""
        options = () if s_noise == 1.0 else (("s_noise", s_noise),)
        previous, run = self._advance(model_output, timestep, sample, None, options)
        return self._result(previous, run, model_output, sample, return_dict)

    def _noise(self, prepared: Prepared) -> Noise:
        seed = self.config["noise_sampler_seed"]
        return PathNoise(prepared.plan, seed) if self._flow is None else FlowPathNoise(prepared.plan, seed)

    def _solver(self, steps: int, **options: Any) -> Solver:
        return dpmpp_sde.with_options(**{"noise": "path", **options})

    def _steps(self, asked: Asked) -> Steps:
        steps = super()._steps(asked)
        return steps._replace(sigmas=steps.sigmas.astype(np.float32).astype(np.float64))

    @property
    def _sigma_table(self) -> Array:
        """In float32, as diffusers computes it: the Brownian path differs even between neighbouring numbers."""
        signal = self._tables.alphas_cumprod
        return (((1 - signal) / signal) ** 0.5).numpy().astype(np.float64)


class PathNoise(Noise):
    """Noise along a Brownian path, for the very float32 numbers that diffusers asks its path for."""

    is_path = True

    def __init__(self, plan: Plan, seed: int | Sequence[int] | None) -> None:
        super().__init__(None)
        self.asked = _asked_of_path(plan)
        sigmas = plan.sigmas[:-1]
        self.path = BrownianPath(min(sigmas), max(sigmas), seed)

    def __call__(self, like: Tensor, sigma_from: float, sigma_to: float) -> Tensor:
        noise: Tensor = self.path(like, self.asked[sigma_from], self.asked[sigma_to])
        return noise


class FlowPathNoise(Noise):
    """Noise along a Brownian path over flow matching's sigma."""

    is_path = True

    def __init__(self, plan: Plan, seed: int | Sequence[int] | None) -> None:
        super().__init__(None)
        sigmas = plan.sigmas[:-1]
        self.path = BrownianPath(min(sigmas), max(sigmas), seed)

    def __call__(self, like: Tensor, sigma_from: float, sigma_to: float) -> Tensor:
        noise: Tensor = self.path(like, sigma_from, sigma_to)
        return noise


@lru_cache(maxsize=256)
def _asked_of_path(plan: Plan) -> dict[float, float]:
    """The times at which the path is asked for the noise of each sigma. Not to be changed."""
    ends = -torch.from_numpy(np.array(plan.sigmas[:-1], np.float32)).log()
    middles = ends[:-1] + 0.5 * ends.diff()
    asked = torch.exp(-ends).tolist(), torch.exp(-middles).tolist()
    return {stage.point.sigma: asked[stage.stage][stage.step] for stage in plan.stages}

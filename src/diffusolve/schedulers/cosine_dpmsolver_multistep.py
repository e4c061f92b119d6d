"""CosineDPMSolverMultistepScheduler."""

from __future__ import annotations

from math import log, pi
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from diffusolve.config import register_to_config
from diffusolve.noise import Cosine, NoiseSchedule
from diffusolve.randomness import BrownianPath
from diffusolve.schedulers import members
from diffusolve.schedulers.edm_scheduler import EDMMultistepScheduler
from diffusolve.schedulers.generation import Noise, Prepared
from diffusolve.schedulers.outputs import SchedulerOutput, StepResult
from diffusolve.schedulers.step_types import WithGenerator, declared_as
from diffusolve.schedulers.steps import Array
from diffusolve.schedulers.words import FinalSigmasType, PredictionType, SigmaSchedule, SolverType
from diffusolve.solvers import Solver, dpmpp_multistep

__all__ = ["CosineDPMSolverMultistepScheduler"]


class CosineDPMSolverMultistepScheduler(EDMMultistepScheduler):
    """Multistep DPM-Solver++ as SDE, on noise along a Brownian path: Stable Audio (A1111: "DPM++ 2M SDE").

    Lu et al. 2022, DPM-Solver++, section 4.3; the network is told the time of the cosine schedule (Salimans & Ho
    2022), ``2 / pi * arctan(sigma)``. Linear in the sample. Needs the package torchsde.

    Args:
        sigma_min, sigma_max: the range of noise.
        sigma_data: standard deviation of the training data.
        sigma_schedule: sigmas fall along an "exponential" or a "karras" curve.
        num_train_timesteps: how many sigmas it stands on before `set_timesteps`.
        solver_order: 1 or 2.
        prediction_type: the sign of the output: "v_prediction", or "epsilon" for the opposite one, EDM's. "sample": the
            network is preconditioned itself and its output the data.
        rho: of the karras curve.
        solver_type: how order 2 extrapolates: "midpoint" or "heun".
        lower_order_final: with fewer than 15 steps the last ones fall back to lower orders.
        euler_at_final: the last step is always of first order.
        final_sigmas_type: the last step leads to "zero" or to "sigma_min".
    """

    members: ClassVar[members.Members] = {
        **members.DPM_SOLVER,
        **members.unreachable("noise follows from the generator handed to the first step of a run", "noise_sampler"),
    }

    @register_to_config
    def __init__(
        self,
        sigma_min: float = 0.3,
        sigma_max: float = 500,
        sigma_data: float = 1.0,
        sigma_schedule: SigmaSchedule = "exponential",
        num_train_timesteps: int = 1000,
        solver_order: int = 2,
        prediction_type: PredictionType = "v_prediction",
        rho: float = 7.0,
        solver_type: SolverType = "midpoint",
        lower_order_final: bool = True,
        euler_at_final: bool = False,
        final_sigmas_type: FinalSigmasType = "zero",
    ) -> None:
        self._configured()

    @property
    def noise_schedule(self) -> NoiseSchedule:
        """The cosine schedule."""
        return Cosine(num_train_timesteps=len(self))

    def precondition_noise(self, sigma: float | Tensor) -> Tensor:
        """The timestep told to the network: the cosine schedule's time, from 0 to 1, shape (1,) for a number."""
        sigma = sigma if isinstance(sigma, Tensor) else torch.tensor([sigma])
        return torch.atan(sigma) / pi * 2

    @declared_as(WithGenerator[float | Tensor, SchedulerOutput].step)
    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Any = None,
        return_dict: bool = True,
    ) -> StepResult:
        """The sample one step on. The seed of `generator` is that of the run's Brownian path.

        Without a generator, or with a list of them, it is drawn from PyTorch's global generator.
        """
        previous, run = self._advance(model_output, timestep, sample, generator)
        return self._result(previous, run, model_output, sample, return_dict)

    def _noise(self, prepared: Prepared) -> Noise:
        return PathNoise(self.config["sigma_min"], self.config["sigma_max"])

    def _along(self, position: Array) -> Array:
        # In float32, as diffusers has it: a Brownian path differs even between neighbouring numbers.
        config, low, high = self.config, self.config["sigma_min"], self.config["sigma_max"]
        if config["sigma_schedule"] == "exponential":
            sigmas = torch.linspace(log(low), log(high), len(position)).exp().flip(0)
        else:
            start, end = high ** (1 / config["rho"]), low ** (1 / config["rho"])
            sigmas = (torch.linspace(0, 1, len(position)) * (end - start) + start) ** config["rho"]
        return np.asarray(sigmas.double().numpy())

    def _solver(self, steps: int, **options: Any) -> Solver:
        config = self.config
        return dpmpp_multistep.with_options(
            order=min(config["solver_order"], 2),
            solver_type=config["solver_type"],
            eta=1.0,
            euler_at_final=config["euler_at_final"],
            lower_order_final=config["lower_order_final"] and steps < 15,
        )


class PathNoise(Noise):
    """Noise along a Brownian path between two sigmas, planted by the first step."""

    def __init__(self, sigma_min: float, sigma_max: float) -> None:
        super().__init__(None)
        self.ends = sigma_min, sigma_max
        self.path: BrownianPath | None = None

    def __call__(self, like: Tensor, sigma_from: float, sigma_to: float) -> Tensor:
        if self.path is None:
            seed = self.generator.initial_seed() if isinstance(self.generator, torch.Generator) else None
            self.path = BrownianPath(*self.ends, seed)
        if sigma_from == sigma_to:  # a step of no length, which adds none
            return torch.zeros_like(like)
        noise: Tensor = self.path(like, sigma_from, sigma_to)
        return noise

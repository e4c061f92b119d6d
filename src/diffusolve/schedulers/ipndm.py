"""IPNDMScheduler."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusolve.arrays import moved
from diffusolve.config import register_to_config
from diffusolve.noise import Cosine, Grid, NoiseSchedule, Point
from diffusolve.prediction import Prediction, prediction
from diffusolve.schedulers.as_in_diffusers import ipndm_of_noise
from diffusolve.schedulers.asked import Asked, asked_for
from diffusolve.schedulers.generation import Prepared
from diffusolve.schedulers.outputs import StepResult
from diffusolve.schedulers.scheduler import Scheduler
from diffusolve.schedulers.steps import Steps
from diffusolve.solvers import Solver

__all__ = ["IPNDMScheduler"]


class IPNDMScheduler(Scheduler):
    """Adams-Bashforth of fourth order on noise predictions, for networks of v-diffusion (Dance Diffusion).

    Liu et al. 2022, Pseudo Numerical Methods for Diffusion Models on Manifolds; Crowson's v-diffusion. Linear in the
    sample. Networks predict v, and are told ``2 / pi * atan2(sigma, alpha)``, which is 1 at pure noise.

    Args:
        num_train_timesteps: the number of steps before `set_timesteps`.
        trained_betas: sigma at each timestep and at the end, falling, in place of those of the number of steps.
    """

    _compatibles = []  # noqa: RUF012
    prediction_types = ()
    timestep_dtype = np.float32
    init_noise_sigma: float = 1.0
    pndm_order: int = 4

    @register_to_config
    def __init__(self, num_train_timesteps: int = 1000, trained_betas: Sequence[float] | None = None) -> None:
        self._configured()

    @property
    def noise_schedule(self) -> NoiseSchedule:
        """The noise schedule that the configuration describes."""
        return Cosine(num_train_timesteps=len(self))

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """Begin a run of `num_inference_steps` steps."""
        self._begin(asked_for(num_inference_steps), device)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        return_dict: bool = True,
    ) -> StepResult:
        """The sample one step on."""
        previous, run = self._advance(model_output, timestep, sample)
        return self._result(previous, run, model_output, sample, return_dict)

    def scale_model_input(self, sample: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The sample as the network takes it: the sample itself."""
        return sample

    @property
    def num_inference_steps(self) -> int:
        """The number of steps of the run; before `set_timesteps` that of training."""
        return super().num_inference_steps or len(self)

    @property
    def betas(self) -> Tensor:
        """sigma at each timestep of the run and at its end, shape (steps + 1,)."""
        return torch.tensor([point.sigma for point in self.grid])

    @property
    def alphas(self) -> Tensor:
        """alpha at each timestep of the run and at its end, shape (steps + 1,)."""
        return torch.tensor([point.alpha for point in self.grid])

    @property
    def _prediction(self) -> Prediction:
        return prediction("v_prediction")

    def _configured(self) -> None:
        self._steps(Asked(len(self)))  # which checks trained_betas
        super()._configured()

    def _standing(self) -> Prepared:
        return self._prepare(Asked(len(self)))

    def _prepare(self, asked: Asked) -> Prepared:
        steps = self._steps(asked)
        shown = steps.timesteps.astype(np.float32)
        return Prepared(partial(self._points, steps), self._solver(asked.steps), self._prediction, shown)

    def _steps(self, asked: Asked) -> Steps:
        """Timesteps in single precision, in which they are far from those of double precision near pure noise."""
        given = self.config["trained_betas"]
        if given is None:
            sigmas = torch.sin(torch.linspace(1, 0, asked.steps + 1) * torch.pi / 2) ** 2
        else:
            sigmas = torch.tensor(given, dtype=torch.float32)
            if not (sigmas[0] <= 1.0 and sigmas[-1] >= 0.0 and bool(torch.all(sigmas.diff() < 0))):
                raise ValueError(f"trained_betas are {list(given)}: expected sigmas from 1 down to 0, decreasing.")
        timesteps = torch.atan2(sigmas, (1 - sigmas**2) ** 0.5) / torch.pi * 2
        return Steps(timesteps[:-1].double().numpy(), sigmas.double().numpy())

    def _points(self, steps: Steps) -> Grid:
        alphas = np.sqrt(1.0 - steps.sigmas**2).tolist()
        points = map(Point, [*steps.timesteps.tolist(), 0.0], alphas, steps.sigmas.tolist())
        schedule = self.noise_schedule
        return Grid(tuple(points), schedule, schedule.scaling)

    def _signal_and_noise(self, like: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        angle = moved(timesteps, like.device).to(like.dtype).reshape(-1, *[1] * (like.ndim - 1)) * torch.pi / 2
        return torch.cos(angle), torch.sin(angle)

    def _solver(self, steps: int, **options: Any) -> Solver:
        return ipndm_of_noise

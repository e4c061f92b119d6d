"""ScoreSdeVpScheduler."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from diffusolve.arrays import moved
from diffusolve.config import register_to_config
from diffusolve.randomness import draw_normal_with
from diffusolve.schedulers.asked import asked_for
from diffusolve.schedulers.mixin import SchedulerMixin
from diffusolve.schedulers.of_each_loop import OfEachLoop

__all__ = ["ScoreSdeVpScheduler"]


class ScoreSdeVpScheduler(SchedulerMixin):
    """Deprecated in diffusers, and in no pipeline: the Euler-Maruyama sampler of the variance preserving SDE.

    Song et al. 2021, Score-Based Generative Modeling through SDEs, appendix E. Linear in the sample; but the times of a
    step are the caller's, one for each sample, so that its coefficients are tensors, which no plan has.

    Args:
        num_train_timesteps: kept for saved configurations.
        beta_min, beta_max: the rate at which noise is added, at the times 0 and 1.
        sampling_eps: the time where sampling ends.

    Attributes:
        timesteps: the times from 1 to `sampling_eps`, shape (steps,); None before `set_timesteps`.
    """

    order: ClassVar[int] = 1
    refuses_flow: ClassVar[bool] = True
    timesteps = OfEachLoop()

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 2000,
        beta_min: float = 0.1,
        beta_max: float = 20,
        sampling_eps: float = 1e-3,
    ) -> None:
        if beta_min * sampling_eps + 0.5 * (beta_max - beta_min) * sampling_eps**2 < 1e-6:
            raise ValueError(
                f"sampling_eps is {sampling_eps:g}: expected a time by which beta_min and beta_max, {beta_min:g} and "
                f"{beta_max:g}, have added noise that single precision sees."
            )
        self.sigmas = self.discrete_sigmas = None
        self.timesteps = None

    def __len__(self) -> int:
        return int(self.config["num_train_timesteps"])

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """Set the times to `num_inference_steps` equally spaced ones from 1 to `sampling_eps`.

        Raises:
            ValueError: fewer than one step.
        """
        steps = asked_for(num_inference_steps).steps
        self.timesteps = torch.linspace(1, self.config["sampling_eps"], steps, device=device)

    def step_pred(self, score: Tensor, x: Tensor, t: Tensor, generator: Any = None) -> tuple[Tensor, Tensor]:
        """(the sample one step on, the same without its noise).

        Args:
            score: the network's output, which is the score times the standard deviation of the noise, shape (batch,
                ...).
            x: shape (batch, ...).
            t: the time of each sample, shape (batch,).
            generator: of the noise.

        Raises:
            ValueError: there are no timesteps yet.
        """
        if self.timesteps is None:
            raise ValueError("ScoreSdeVpScheduler has no timesteps yet: call set_timesteps(num_inference_steps) first.")
        low, high = self.config["beta_min"], self.config["beta_max"]
        t = moved(t, x.device).reshape(-1, *[1] * (x.ndim - 1))
        log_alpha = -0.25 * t**2 * (high - low) - 0.5 * t * low
        beta, step = low + t * (high - low), 1.0 / len(self.timesteps)
        score = -score / (1.0 - torch.exp(2.0 * log_alpha)) ** 0.5
        mean = x + step * beta * (0.5 * x + score)
        return mean + (step * beta) ** 0.5 * draw_normal_with(generator, x), mean

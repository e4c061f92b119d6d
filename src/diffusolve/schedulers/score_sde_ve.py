"""ScoreSdeVeScheduler."""

from __future__ import annotations

from math import log
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffusolve.arrays import moved
from diffusolve.config import register_to_config
from diffusolve.randomness import draw_normal_with
from diffusolve.schedulers.asked import asked_for
from diffusolve.schedulers.given import check_noise, timesteps_on
from diffusolve.schedulers.mixin import SchedulerMixin
from diffusolve.schedulers.of_each_loop import OfEachLoop
from diffusolve.schedulers.outputs import SchedulerOutput, SchedulerOutputWithMean
from diffusolve.schedulers.step_types import Fields, by_return_dict
from diffusolve.schedulers.steps import check_sigmas

__all__ = ["ScoreSdeVeScheduler"]


class ScoreSdeVeScheduler(SchedulerMixin):
    """The predictor-corrector sampler of the variance exploding SDE.

    Song et al. 2021, Score-Based Generative Modeling through SDEs, algorithm 2. The caller alternates `step_correct`
    and `step_pred`. A correction is not linear in the sample: the length of its step follows from the norms of score
    and noise. So no plan has it. Threads and tasks that share a scheduler have times and sigmas of their own; loops
    that take turns in one of them must take the same number of steps.

    Args:
        num_train_timesteps: how many sigmas there are before `set_sigmas`.
        snr: the ratio of signal to noise that the length of a correction aims at.
        sigma_min, sigma_max: the range of noise.
        sampling_eps: the time, from 1 down, where sampling ends.
        correct_steps: how many corrections pipelines make in each step.

    Attributes:
        timesteps: the times from 1 to `sampling_eps`, shape (steps,).
        sigmas: the sigma at each of them, shape (steps,).
        discrete_sigmas: sigmas from the smallest, equally spaced in log sigma, shape (steps,).
        init_noise_sigma: what standard normal noise is multiplied by to start from.
    """

    order: ClassVar[int] = 1
    refuses_flow: ClassVar[bool] = True
    timesteps = OfEachLoop()
    sigmas = OfEachLoop()
    discrete_sigmas = OfEachLoop()

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 2000,
        snr: float = 0.15,
        sigma_min: float = 0.01,
        sigma_max: float = 1348.0,
        sampling_eps: float = 1e-5,
        correct_steps: int = 1,
    ) -> None:
        check_sigmas(self.config)
        self.init_noise_sigma = sigma_max
        self.timesteps = None
        self.set_sigmas(num_train_timesteps, sigma_min, sigma_max, sampling_eps)

    def __len__(self) -> int:
        return int(self.config["num_train_timesteps"])

    def set_timesteps(self, num_inference_steps: int, sampling_eps: float | None = None, device: Any = None) -> None:
        """Set the times to `num_inference_steps` equally spaced ones from 1 to `sampling_eps`.

        Raises:
            ValueError: fewer than one step.
        """
        end = self.config["sampling_eps"] if sampling_eps is None else sampling_eps
        self.timesteps = torch.linspace(1, end, asked_for(num_inference_steps).steps, device=device)

    def set_sigmas(
        self,
        num_inference_steps: int,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        sampling_eps: float | None = None,
    ) -> None:
        """Set the sigmas for `num_inference_steps` steps; those of the times follow from the latest `set_timesteps`.

        Args:
            num_inference_steps: how many steps.
            sigma_min, sigma_max, sampling_eps: in place of those configured.
        """
        low = self.config["sigma_min"] if sigma_min is None else sigma_min
        high = self.config["sigma_max"] if sigma_max is None else sigma_max
        if self.timesteps is None:
            self.set_timesteps(num_inference_steps, sampling_eps)
        steps = asked_for(num_inference_steps).steps
        self.discrete_sigmas = torch.exp(torch.linspace(log(low), log(high), steps))
        self.sigmas = (low * (high / low) ** self.timesteps.cpu().double()).float()

    def get_adjacent_sigma(self, timesteps: Tensor, t: Tensor) -> Tensor:
        """The next smaller of `discrete_sigmas` at places `timesteps`, shape (batch,); 0 below the first."""
        below: Tensor = moved(self.discrete_sigmas, timesteps.device)[timesteps - 1]
        return torch.where(timesteps == 0, torch.zeros_like(t), below)

    def scale_model_input(self, sample: Tensor, timestep: int | None = None) -> Tensor:
        """The sample as the network takes it: the sample itself."""
        return sample

    @by_return_dict
    def step_pred(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Any = None,
        return_dict: bool = True,
    ) -> SchedulerOutputWithMean | Fields:
        """The sample one step of the reverse diffusion on, and as `prev_sample_mean` without its noise.

        Args:
            model_output: the score, shape (batch, ...).
            timestep: one of ``scheduler.timesteps``, or one for each sample.
            sample: shape (batch, ...).
            generator: of the noise.
            return_dict: an object with fields, or a tuple.
        """
        times = moved(torch.as_tensor(timestep), sample.device).expand(len(sample))
        places = (times * (len(self.timesteps) - 1)).long()
        sigma = moved(self.discrete_sigmas, sample.device)[places]
        power = sigma**2 - self.get_adjacent_sigma(places, times) ** 2
        power = power.reshape(-1, *[1] * (sample.ndim - 1))
        mean = sample + power * model_output
        previous = mean + power**0.5 * draw_normal_with(generator, sample)
        return SchedulerOutputWithMean(previous, mean) if return_dict else (previous, mean)

    @by_return_dict
    def step_correct(
        self, model_output: Tensor, sample: Tensor, generator: Any = None, return_dict: bool = True
    ) -> SchedulerOutput | Fields:
        """The sample after one step of Langevin dynamics, without less noise.

        Args:
            model_output: the score, shape (batch, ...).
            sample: shape (batch, ...).
            generator: of the noise.
            return_dict: an object with fields, or a tuple.
        """
        noise = draw_normal_with(generator, sample)
        ratio = self.config["snr"] * _mean_norm(noise) / _mean_norm(model_output)
        length = 2 * ratio**2
        previous = sample + length * model_output + (2 * length) ** 0.5 * noise
        return SchedulerOutput(previous) if return_dict else (previous,)

    def add_noise(self, original_samples: Tensor, noise: Tensor | None, timesteps: Tensor) -> Tensor:
        """``original_samples + sigma * noise``.

        Args:
            original_samples: shape (batch, ...).
            noise: likewise; drawn when missing.
            timesteps: places among ``scheduler.discrete_sigmas``, shape (batch,).
        """
        timesteps = timesteps_on(timesteps, original_samples)
        sigma: Tensor = moved(self.discrete_sigmas, original_samples.device)[timesteps]
        noise = torch.randn_like(original_samples) if noise is None else noise
        check_noise(noise, original_samples)
        return original_samples + sigma.reshape(-1, *[1] * (original_samples.ndim - 1)) * noise


def _mean_norm(batch: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(batch.reshape(len(batch), -1), dim=-1)
    return norms.mean()

"""KarrasVeScheduler."""

from __future__ import annotations

from math import sqrt
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffusolve.config import register_to_config
from diffusolve.randomness import draw_normal_with
from diffusolve.schedulers.asked import asked_for
from diffusolve.schedulers.given import device_of
from diffusolve.schedulers.mixin import SchedulerMixin
from diffusolve.schedulers.of_each_loop import OfEachLoop
from diffusolve.schedulers.outputs import SchedulerOutput
from diffusolve.schedulers.step_types import by_return_dict
from diffusolve.schedulers.steps import check_sigmas

__all__ = ["KarrasVeScheduler"]


class KarrasVeOutput(SchedulerOutput):
    """The result of a step or of its correction.

    Attributes:
        prev_sample: the sample at the end of the step, shape (batch, ...).
        derivative: dx/dsigma where the step began.
        pred_original_sample: the prediction of x0 that was used.
    """

    __slots__ = ("derivative", "pred_original_sample")
    fields = ("prev_sample", "derivative", "pred_original_sample")

    def __init__(self, prev_sample: Tensor, derivative: Tensor, pred_original_sample: Tensor) -> None:
        super().__init__(prev_sample)
        self.derivative, self.pred_original_sample = derivative, pred_original_sample


class KarrasVeScheduler(SchedulerMixin):
    """Deprecated in diffusers, with its pipeline: the stochastic sampler of EDM in three calls.

    Karras et al. 2022, Elucidating the Design Space, algorithm 2, on the geometric sigmas of its table 1 (VE). Linear
    in the sample; but the caller hands in the sigmas of each call, and what the last one made, so that there is no run
    for a plan to describe. :obj:`~diffusolve.solvers.heun` with churn is the same method as a plan.

    Args:
        sigma_min, sigma_max: the range of noise.
        s_noise: multiplies the noise that is added.
        s_churn: how much noise is added.
        s_min, s_max: the range of sigma where it is.

    Attributes:
        timesteps: the places of the steps in `schedule`, falling, shape (steps,); None before `set_timesteps`.
        schedule: a number for each step, from the least, shape (steps,). As in diffusers it is the square of table 1's
            sigma.
        init_noise_sigma: what standard normal noise is multiplied by to start from.
    """

    order: ClassVar[int] = 2
    refuses_flow: ClassVar[bool] = True
    num_inference_steps = OfEachLoop()
    timesteps = OfEachLoop()
    schedule = OfEachLoop()

    @register_to_config
    def __init__(
        self,
        sigma_min: float = 0.02,
        sigma_max: float = 100,
        s_noise: float = 1.007,
        s_churn: float = 80,
        s_min: float = 0.05,
        s_max: float = 50,
    ) -> None:
        check_sigmas(self.config)
        self.init_noise_sigma = sigma_max
        self.num_inference_steps = self.timesteps = self.schedule = None

    def scale_model_input(self, sample: Tensor, timestep: int | None = None) -> Tensor:
        """The sample as the network takes it: the sample itself."""
        return sample

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """Set the numbers of the steps, in `num_inference_steps` steps.

        Raises:
            ValueError: fewer than one step.
        """
        steps = asked_for(num_inference_steps).steps
        low, high = self.config["sigma_min"], self.config["sigma_max"]
        places = torch.arange(steps - 1, -1, -1)
        self.num_inference_steps = steps
        device = device_of(device)
        self.timesteps = places.to(device)
        self.schedule = ((low**2 / high**2) ** (places / max(steps - 1, 1)) * high**2).to(device)

    def add_noise_to_input(
        self, sample: Tensor, sigma: float | Tensor, generator: Any = None
    ) -> tuple[Tensor, float | Tensor]:
        """(the sample with noise added, its sigma): lines 4 to 6 of the algorithm.

        Raises:
            ValueError: there are no timesteps yet.
        """
        if self.num_inference_steps is None:
            raise ValueError("KarrasVeScheduler has no timesteps yet: call set_timesteps(num_inference_steps) first.")
        config = self.config
        inside = config["s_min"] <= sigma <= config["s_max"]
        gamma = min(config["s_churn"] / self.num_inference_steps, sqrt(2) - 1) if inside else 0.0
        noise = config["s_noise"] * draw_normal_with(generator, sample)
        hat = sigma + gamma * sigma
        return sample + (hat**2 - sigma**2) ** 0.5 * noise, hat

    @by_return_dict
    def step(
        self,
        model_output: Tensor,
        sigma_hat: float | Tensor,
        sigma_prev: float | Tensor,
        sample_hat: Tensor,
        return_dict: bool = True,
    ) -> KarrasVeOutput | tuple[Tensor, Tensor]:
        """Euler's step from `sigma_hat` to `sigma_prev`; as a tuple, the sample and the derivative.

        Args:
            model_output: the noise, negative, in units of sigma: the data are ``sample_hat + sigma_hat * output``.
            sigma_hat, sample_hat: what :meth:`add_noise_to_input` made.
            sigma_prev: where the step leads.
            return_dict: an object with fields, or a tuple.
        """
        data = sample_hat + sigma_hat * model_output
        derivative = (sample_hat - data) / sigma_hat
        previous = sample_hat + (sigma_prev - sigma_hat) * derivative
        return KarrasVeOutput(previous, derivative, data) if return_dict else (previous, derivative)

    @by_return_dict
    def step_correct(
        self,
        model_output: Tensor,
        sigma_hat: float | Tensor,
        sigma_prev: float | Tensor,
        sample_hat: Tensor,
        sample_prev: Tensor,
        derivative: Tensor,
        return_dict: bool = True,
    ) -> KarrasVeOutput | tuple[Tensor, Tensor]:
        """Heun's step from `sigma_hat` to `sigma_prev`, with the derivatives of both ends; tuples as :meth:`step`.

        Args:
            model_output: for `sample_prev`, where :meth:`step` led with `derivative`.
            sigma_hat, sigma_prev, sample_hat: as for :meth:`step`.
            sample_prev, derivative: what it made.
            return_dict: an object with fields, or a tuple.
        """
        data = sample_prev + sigma_prev * model_output
        end = (sample_prev - data) / sigma_prev
        previous = sample_hat + (sigma_prev - sigma_hat) * (0.5 * derivative + 0.5 * end)
        return KarrasVeOutput(previous, derivative, data) if return_dict else (previous, derivative)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Not there in diffusers, since the class does not say what its timesteps are to a network.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("KarrasVeScheduler adds noise in add_noise_to_input only.")

"""The base of schedulers whose networks were trained on discrete timesteps, with a beta at each."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from diffusolve.arrays import moved
from diffusolve.noise import NoiseSchedule
from diffusolve.schedulers.scheduler import Scheduler
from diffusolve.schedulers.steps import Array
from diffusolve.schedulers.tables import Tables, tables_of

__all__ = ["TableScheduler"]


class TableScheduler(Scheduler):
    """A scheduler with a table of betas, and what follows from it: shape (num_train_timesteps,), float32.

    Attributes:
        betas: variance of the noise added at each training timestep.
        alphas, alphas_cumprod: 1 - betas, and their running product, which is alpha^2.
        beta_schedules: those that the class knows by name.
        signal_floor: takes the place of a last alphas_cumprod of zero.
    """

    beta_schedules: ClassVar[tuple[str, ...]] = ("linear", "scaled_linear", "squaredcos_cap_v2")
    signal_floor: ClassVar[float] = 0.0
    plans_follow_from: ClassVar[frozenset[str]] = Scheduler.plans_follow_from | {"betas", "alphas", "alphas_cumprod"}

    def _configured(self) -> None:
        self._tables: Tables = tables_of(self._own_config, beta_schedules=self.beta_schedules, floor=self.signal_floor)
        self.betas, self.alphas = self._tables.betas.clone(), self._tables.alphas.clone()
        self.alphas_cumprod = self._tables.alphas_cumprod.clone()
        super()._configured()

    @property
    def noise_schedule(self) -> NoiseSchedule:
        """The noise schedule that the configuration describes."""
        return self._tables.noise_schedule

    @property
    def _sigma_table(self) -> Array:
        """sigma / alpha at each training timestep."""
        return self._tables.noise_schedule.training_sigmas

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """``alpha * noise - sigma * sample``, what a network with v_prediction is trained to output.

        Args:
            sample, noise: shape (batch, ...).
            timesteps: whole training timesteps, shape (batch,).
        """
        alpha, sigma = self._trained_signal_and_noise(sample, timesteps)
        return alpha * noise - sigma * sample

    def _trained_signal_and_noise(self, like: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) at whole training timesteps, with alpha^2 + sigma^2 = 1, shape (batch, 1, ...), as `like`."""
        table = self.alphas_cumprod
        if table.device != like.device:
            table = moved(table, like.device)
            vars(self)["alphas_cumprod"] = table  # the same numbers, so that no plan has to be looked at again
        power = table.to(like.dtype)[moved(timesteps, like.device).long()]
        power = power.reshape(-1, *[1] * (like.ndim - 1))
        return power**0.5, (1 - power) ** 0.5

    def _training_sigma(self, timesteps: Tensor) -> Tensor:
        power: Tensor = moved(self._tables.alphas_cumprod, timesteps.device)[timesteps.long()]
        return ((1 - power) / power) ** 0.5

    def _all_sigmas(self) -> Tensor:
        """sigma / alpha at all training timesteps from the noisiest, and 0: what is shown before `set_timesteps`."""
        return torch.from_numpy(np.append(self._tables.noise_schedule.training_sigmas[::-1], 0.0).astype(np.float32))

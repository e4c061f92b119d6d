"""The base of schedulers that step from timestep to timestep (DDIM, DDPM, PNDM)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from diffusolve.noise import Point, Scaling
from diffusolve.schedulers.asked import Asked, asked_for
from diffusolve.schedulers.generation import Generation, Prepared
from diffusolve.schedulers.steps import Array, Steps, spaced, timestep_spacing
from diffusolve.schedulers.table_scheduler import TableScheduler
from diffusolve.schedulers.versions import version_of

__all__ = ["TimestepScheduler", "check_timesteps"]


class TimestepScheduler(TableScheduler):
    """Samples are as the network takes them; timesteps are whole, and those below 0 are the end."""

    scaling: ClassVar[Scaling] = Scaling.VARIANCE_PRESERVING
    init_noise_sigma: float = 1.0
    follows_timesteps: ClassVar[bool] = True

    plans_follow_from: ClassVar[frozenset[str]] = TableScheduler.plans_follow_from | {"final_alpha_cumprod"}

    def _configured(self) -> None:
        super()._configured()
        if "final_alpha_cumprod" not in vars(self):
            end = self._end_configured
            self.final_alpha_cumprod = torch.tensor(1.0) if end == 1.0 else self._signal[0]
            self._end_read = self.final_alpha_cumprod, version_of(self.final_alpha_cumprod), end

    @property
    def _end_configured(self) -> float:
        """alpha^2 at the end, as the configuration asks for it."""
        return 1.0 if self.config["set_alpha_to_one"] else self._tables.noise_schedule.signal[0]

    @property
    def _end_power(self) -> float:
        """alpha^2 at the end."""
        final = self.final_alpha_cumprod
        read, version, power = self._end_read
        if final is not read or version_of(final) != version:
            power = float(final)
            self._end_read = final, version_of(final), power
        return power

    @property
    def _table_is_handed_out(self) -> bool:
        return self._signal_is_handed_out

    def _prepared_again(self, generation: Generation) -> Prepared:
        """With the sigmas that the table has now."""
        return self._prepared_over(self._at(np.array(generation.values, np.float64)))

    def set_timesteps(
        self, num_inference_steps: int | None = None, device: Any = None, timesteps: Sequence[int] | None = None
    ) -> None:
        """Begin a run of `num_inference_steps` steps, or over the `timesteps` given, the largest first.

        Raises:
            ValueError: neither is given, or numbers of steps that differ; timesteps that are not whole training
                timesteps or do not decrease.
        """
        if timesteps is not None:
            check_timesteps(timesteps, len(self))
        self._begin(asked_for(num_inference_steps, timesteps), device)

    def _refuse_steps(self, steps: int | None) -> None:
        if steps != self.num_inference_steps:
            raise ValueError(f"num_inference_steps is written: {steps}. Call set_timesteps({steps}) instead.")

    def _steps(self, asked: Asked) -> Steps:
        return self._at(self._chosen(asked))

    def _at(self, at: Array) -> Steps:
        sigmas = self._tables.noise_schedule.sigma(at)
        return Steps(at, np.append(sigmas, (1 / self._end_power - 1) ** 0.5))

    def _chosen(self, asked: Asked) -> Array:
        """The timesteps given, or those of the steps asked for.

        With some numbers of steps (61, 103, ...) diffusers has one "trailing" timestep more, -1, which is left out.
        """
        if asked.timesteps is not None:
            return np.array(asked.timesteps, np.float64)
        config, count = self.config, len(self)
        rule = timestep_spacing(
            config["timestep_spacing"], steps_offset=config["steps_offset"], stride=count / asked.steps
        )
        return spaced(rule, asked.steps, count)

    def _point(self, timestep: int) -> Point:
        """The point of samples at `timestep`."""
        signal = self._tables.noise_schedule.signal
        if timestep >= len(signal):
            raise ValueError(
                f"timestep is {timestep}, but the noise schedule has {len(signal)}, the last of which is "
                f"{len(signal) - 1}: call set_timesteps after writing to the configuration or to alphas_cumprod."
            )
        power = signal[timestep] if timestep >= 0 else self._end_power
        return Point(timestep, sqrt(power), sqrt(1 - power))

    def _signal_and_noise(self, like: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        return self._trained_signal_and_noise(like, timesteps)


def check_timesteps(timesteps: Sequence[float], count: int) -> None:
    """Raise ValueError unless `timesteps` are whole, below `count` and strictly decreasing."""
    values = [float(timestep) for timestep in timesteps]
    if not values:
        raise ValueError("there are no timesteps: expected at least one, where to start.")
    for value in values:
        if value != int(value) or not 0 <= value < count:
            raise ValueError(f"timesteps has {value:g}: expected whole numbers from {count - 1} down to 0.")
    for value, following in pairwise(values):
        if following >= value:
            raise ValueError(f"timesteps must strictly decrease, but {value:g} is followed by {following:g}.")

"""What the schedulers have in common whose samples are scaled to alpha = 1 (those that came from k-diffusion)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from diffusolve.backends import backend_of
from diffusolve.noise import Scaling, SignalTable
from diffusolve.schedulers.scheduler import Scheduler
from diffusolve.schedulers.spacing import Levels, ramp, ramp_asked_for, timestep_levels
from diffusolve.schedulers.tables import NEARLY_ZERO

__all__ = ["SigmaScheduler"]


class SigmaScheduler(Scheduler):
    """Samples are ``x0 + sigma * noise``; the network sees them divided by ``sqrt(sigma^2 + 1)``."""

    scaling: ClassVar[Scaling] = Scaling.VARIANCE_EXPLODING
    signal_floor: ClassVar[float] = NEARLY_ZERO
    timestep_dtype: ClassVar[type] = np.float32
    prediction_types: ClassVar[tuple[str, ...]] = ("epsilon", "sample", "original_sample", "v_prediction")

    @property
    def sigmas(self) -> Tensor:
        """The noise levels of the run's steps and of its end; of all training timesteps before `set_timesteps`."""
        generation = self._generation
        return _all_sigmas(self._tables.noise_schedule) if generation is None else generation.sigmas

    @property
    def init_noise_sigma(self) -> float:
        """What standard normal noise is multiplied by to start from."""
        largest = float(self.sigmas.max())
        return largest if self.config["timestep_spacing"] in ("linspace", "trailing") else (largest**2 + 1) ** 0.5

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """``sample / sqrt(sigma^2 + 1)`` at `timestep`, or at the current step if that is no view.

        A run is begun by it, but not moved.
        """
        generation, place = self._runs.of(timestep)
        if generation is None:
            self._none_begun()
        run = generation.run or self._started(generation, place, timestep, generation.options)
        if place is None or place == generation.step_index:
            scaled: Tensor = run.model_input(sample)
        else:
            scaled = backend_of(sample).combine((sample,), (generation.prepared.plan.stages[place].scale,))
        return scaled if scaled.dtype is sample.dtype else scaled.to(sample.dtype)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """``original_samples + sigma * noise`` at each sample's timestep, without reading `timesteps`.

        Args:
            original_samples, noise: shape (batch, ...).
            timesteps: timesteps of the run, or whole training timesteps before `set_timesteps`, shape (batch,).
        """
        return original_samples + self._sigma_at(original_samples, timesteps) * noise

    def _sigma_levels(self, steps: int, timesteps: Sequence[float] | None, sigmas: Sequence[float] | None) -> Levels:
        """Timesteps by the configured spacing, sigmas by interpolation or along the curve asked for, and the end."""
        config, schedule = self._own_config, self._tables.noise_schedule
        table = self._sigma_table()
        curve = ramp_asked_for(config)
        if sigmas is not None:
            chosen = np.array(sigmas[:-1] if sigmas[-1] == 0 else sigmas, np.float64)
            at = schedule.timestep(np.minimum(chosen, schedule.sigma_max))
        else:
            at = np.array(timesteps, np.float64) if timesteps is not None else self._spaced(steps)
            chosen = np.interp(at, np.arange(len(table)), table)
        if config.get("interpolation_type") == "log_linear":
            chosen = np.geomspace(table[-1], table[0], steps + 1)
        if curve is not None:
            low, high = config.get("sigma_min"), config.get("sigma_max")
            chosen = ramp(
                curve, steps, chosen[-1] if low is None else low, chosen[0] if high is None else high, schedule
            )
            at = np.interp(np.log(np.maximum(chosen, table[0])), np.log(table), np.arange(len(table)))
        if config.get("timestep_type") == "continuous" and config["prediction_type"] == "v_prediction":
            at = 0.25 * np.log(chosen)
        final = table[0] if config.get("final_sigmas_type") == "sigma_min" else 0.0
        return Levels(at[: len(chosen)], np.append(chosen, final))

    def _sigma_table(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The noise level at each training timestep."""
        return self._tables.noise_schedule.training_sigmas

    def _spaced(self, steps: int, count: int | None = None) -> np.ndarray[Any, np.dtype[np.float64]]:
        """`steps` timesteps out of `count`, or out of the training timesteps."""
        config = self.config
        return timestep_levels(
            config["timestep_spacing"],
            steps,
            count or config["num_train_timesteps"],
            steps_offset=config["steps_offset"],
            whole=False,
            beyond_last=False,
        )


def _all_sigmas(schedule: SignalTable) -> Tensor:
    import torch

    return torch.from_numpy(np.append(schedule.training_sigmas[::-1], 0.0).astype(np.float32))

"""What the schedulers have in common whose networks were trained by flow matching alone, without betas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from diffusolve.noise import FlowMatching, NoiseSchedule, shifted
from diffusolve.prediction import Flow, Prediction
from diffusolve.schedulers.asked import Asked, asked_for
from diffusolve.schedulers.generation import Prepared
from diffusolve.schedulers.scheduler import Scheduler
from diffusolve.schedulers.steps import Array, Steps, curve_asked_for, curve_named
from diffusolve.spacing.flow import TIME_SHIFT_TYPES, check_shift, shift_from_mu, stretched

__all__ = ["FlowScheduler", "ReversedFlow"]


@dataclass(frozen=True)
class ReversedFlow(Prediction):
    """The output is the velocity ``x0 - noise``, of a network whose time runs from noise to data (Mochi)."""

    name: ClassVar[str] = "reversed_flow"

    def data(self, alpha: float, sigma: float) -> tuple[float, float]:
        total = alpha + sigma
        return 1.0 / total, sigma / total


class FlowScheduler(Scheduler):
    """Samples are ``(1 - sigma) * x0 + sigma * noise``, and the network is told ``num_train_timesteps * sigma``.

    The sigmas of a run are equally spaced or given; they are shifted towards noise, then stretched to end at
    `shift_terminal`, then replaced by a curve between their ends, if the configuration asks for these. With
    `invert_sigmas` time runs from noise to data instead: what users see as sigma is then the share of the data.

    Before `set_timesteps` it stands on all training timesteps, which training loops read.
    """

    _compatibles: ClassVar[list[str]] = []
    prediction_types: ClassVar[tuple[str, ...]] = ()
    noise_dtype: ClassVar[torch.dtype | None] = torch.float32
    timestep_dtype: ClassVar[type] = np.float32
    init_noise_sigma: float = 1.0

    def _configured(self) -> None:
        config = self.config
        self._check_choice("time_shift_type", TIME_SHIFT_TYPES)
        check_shift(config["shift"])
        if "_shift" not in vars(self):
            self._shift = float(config["shift"])
        training = self._training_sigmas
        self.sigma_min, self.sigma_max = float(training[-1]), float(training[0])
        super()._configured()

    @property
    def noise_schedule(self) -> NoiseSchedule:
        """Flow matching with as many training timesteps as configured. The shift is in the sigmas of a run."""
        return FlowMatching(num_train_timesteps=len(self))

    @property
    def _prediction(self) -> Prediction:
        return ReversedFlow() if self._runs_backwards else Flow()

    @property
    def _runs_backwards(self) -> bool:
        """Whether what users see as sigma is the share of the data to the solver."""
        return bool(self.config["invert_sigmas"])

    # Sigmas ----------------------------------------------------------------

    @property
    def shift(self) -> float:
        """How far sigmas are shifted without `use_dynamic_shifting`."""
        return self._shift

    def set_shift(self, shift: float) -> None:
        """Shift the sigmas of the runs that begin from now on so far. :attr:`sigma_min` stays as configured.

        Raises:
            ValueError: not a positive number.
        """
        check_shift(shift)
        with self._registry.lock:
            self._shift = float(shift)
            self._prepared_runs.clear()

    @property
    def sigmas(self) -> Tensor:
        """Where the run's steps begin and where the last one ends; all training sigmas before `set_timesteps`."""
        return self._current.sigmas

    @property
    def _training_sigmas(self) -> Array:
        """The sigma at each training timestep, the noisiest first, shifted unless that depends on each run's mu."""
        sigmas = np.arange(len(self), 0, -1) / len(self)
        return sigmas if self.config["use_dynamic_shifting"] else shifted(sigmas, self.config["shift"])

    def _standing(self) -> Prepared:
        sigmas = self._training_sigmas
        standing = self._prepared_over(Steps(sigmas * len(self), np.append(sigmas, 0.0)))
        standing.sigmas = standing.sigmas[:-1]  # a run over all of them leads to 0, which is not shown
        return standing

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
        timesteps: Sequence[float] | None = None,
    ) -> None:
        """Begin a run of `num_inference_steps` steps, or over the `sigmas`, or over the `timesteps`.

        Args:
            num_inference_steps: how many steps; may be left out where sigmas or timesteps are given.
            device: for the timesteps.
            sigmas: where the steps begin before they are shifted, from 1 down, shape (steps,), possibly with a last 0.
            mu: how far the sigmas are shifted, by the size of the image, with `use_dynamic_shifting`; without effect
                otherwise, since pipelines offer it to every scheduler.
            timesteps: what the network is told, shape (steps,). Given alone, the sigmas follow from it, and are then
                shifted, while the timesteps stay as they are.

        Raises:
            ValueError: none of them is given, or two that contradict each other; sigmas outside flow matching's range;
                `mu` is missing.
        """
        self._begin(asked_for(num_inference_steps, timesteps, sigmas, mu), device)

    def _prepare(self, asked: Asked) -> Prepared:
        return self._prepared_over(self._steps(asked))

    def _prepared_over(self, steps: Steps) -> Prepared:
        in_noise = Steps(steps.timesteps, 1.0 - steps.sigmas) if self._runs_backwards else steps
        return Prepared(
            partial(in_noise.grid, self.noise_schedule, self.scaling),
            self._solver(len(steps.timesteps)),
            self._prediction,
            steps.timesteps.astype(self.timestep_dtype),
            steps.sigmas.astype(np.float32),
        )

    def _steps(self, asked: Asked) -> Steps:
        config, count = self.config, len(self)
        if asked.sigmas is not None:
            sigmas = np.array(asked.sigmas, np.float64)
        elif asked.timesteps is not None:
            sigmas = np.array(asked.timesteps, np.float64) / count
        else:
            sigmas = np.linspace(self.sigma_max, self.sigma_min, asked.steps)
        self._check_sigmas(sigmas, asked)
        sigmas = stretched(shifted(sigmas, self._shift_of(asked.mu)), config["shift_terminal"])
        curve = curve_asked_for(config)
        if curve is not None:
            sigmas = curve_named(curve).between(sigmas[0], sigmas[-1], len(sigmas), self.noise_schedule.scaling)
        if config["invert_sigmas"]:
            sigmas = 1.0 - sigmas
            return Steps(sigmas * count, np.append(sigmas, 1.0))
        at = sigmas * count if asked.timesteps is None else np.array(asked.timesteps, np.float64)
        return Steps(at, np.append(sigmas, 0.0))

    def _check_sigmas(self, sigmas: Array, asked: Asked) -> None:
        """Raise ValueError unless `sigmas` fall and lie in flow matching's range."""
        if np.all(np.diff(sigmas) < 0.0) and sigmas[-1] > 0.0 and sigmas[0] <= 1.0:
            return
        if asked.sigmas is None:
            raise ValueError(
                f"timesteps are {list(asked.timesteps or ())}: expected numbers from {len(self)} down to above 0, "
                "strictly decreasing."
            )
        raise ValueError(
            f"sigmas are {list(asked.sigmas)}: expected numbers from 1 down to above 0, strictly decreasing."
        )

    def _shift_of(self, mu: float | None) -> float:
        """How far a run's sigmas are shifted."""
        config = self.config
        if not config["use_dynamic_shifting"]:
            return self._shift
        if mu is None:
            raise ValueError(
                f"mu is missing: use_dynamic_shifting takes the shift from it. Pipelines compute it from the number of "
                f"image tokens, as a line from base_shift ({config['base_shift']:g} at {config['base_image_seq_len']}) "
                f"to max_shift ({config['max_shift']:g} at {config['max_image_seq_len']})."
            )
        return shift_from_mu(mu, config["time_shift_type"])

    def time_shift(self, mu: float, sigma: float, t: Any) -> Any:
        """``s / (s + (1 / t - 1)**sigma)``, element by element: `t` shifted by s, which `mu` stands for."""
        shift = shift_from_mu(mu, self.config["time_shift_type"])
        return shift / (shift + (1 / t - 1) ** sigma)

    def stretch_shift_to_terminal(self, t: Any) -> Any:
        """The sigmas `t`, an array or tensor, with 1 - t multiplied so that the last one is `shift_terminal`."""
        return stretched(t, self.config["shift_terminal"])

    def _sigma_to_t(self, sigma: Any) -> Any:
        """What the network is told at `sigma`."""
        return sigma * len(self)

    # Adding noise ----------------------------------------------------------------

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """``(1 - sigma) * sample + sigma * noise`` at each sample's timestep, without reading it.

        Args:
            sample, noise: shape (batch, ...).
            timestep: of the run, or training timesteps before `set_timesteps`, shape (batch,) or ().
        """
        return self.add_noise(sample, noise, timestep)

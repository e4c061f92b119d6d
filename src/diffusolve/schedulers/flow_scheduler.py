"""The base of schedulers whose networks were trained by flow matching alone, without betas."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from diffusolve.noise import NoiseSchedule, Scaling
from diffusolve.prediction import Flow, Prediction
from diffusolve.schedulers.asked import Asked, asked_for
from diffusolve.schedulers.compatible import COMPATIBLE
from diffusolve.schedulers.flow_sigmas import FlowSigmas, ReversedFlow, ShiftsTime
from diffusolve.schedulers.generation import Prepared
from diffusolve.schedulers.keys import KEYS
from diffusolve.schedulers.mixin import keys_of
from diffusolve.schedulers.reaching import check_beta
from diffusolve.schedulers.scheduler import Scheduler
from diffusolve.schedulers.steps import Array, Steps, curve_named

__all__ = ["FlowScheduler"]


class FlowScheduler(ShiftsTime, Scheduler):
    """Samples are ``(1 - sigma) * x0 + sigma * noise``, and the network is told ``num_train_timesteps * sigma``.

    The sigmas of a run are equally spaced or given; they are shifted towards noise, then stretched to end at
    `shift_terminal`, then replaced by a curve between their ends, if the configuration asks for these. With
    `invert_sigmas` time runs from noise to data instead: what users see as sigma is then the share of the data.

    Before `set_timesteps` it stands on all training timesteps, which training loops read.
    """

    _compatibles: ClassVar[list[str]] = []
    fixed: ClassVar[frozenset[str]] = Scheduler.fixed | {
        "_convert_to_beta",
        "_convert_to_exponential",
        "_convert_to_karras",
        "_sigma_to_t",
        "_time_shift_exponential",
        "_time_shift_linear",
        "stretch_shift_to_terminal",
        "time_shift",
    }
    noise_dtype: ClassVar[torch.dtype | None] = torch.float32
    timestep_dtype: ClassVar[type] = np.float32
    samples_flow: ClassVar[bool] = True
    init_noise_sigma: float = 1.0
    precision = "output"
    plans_follow_from = Scheduler.plans_follow_from | {"_shift", "sigma_max", "sigma_min"}
    refuses_counts = True

    def _configured(self) -> None:
        if "_shift" not in vars(self):
            self._shift = float(self.config.get("shift", 1.0))
        if "sigma_min" not in vars(self):
            training = self._training_sigmas
            self.sigma_min, self.sigma_max = float(training[-1]), float(training[0])
        super()._configured()

    @property
    def noise_schedule(self) -> NoiseSchedule:
        """Flow matching with as many training timesteps as configured. The shift is in the sigmas of a run."""
        return self._flow_sigmas.noise_schedule

    @property
    def _flow_sigmas(self) -> FlowSigmas:
        """The rule by which steps are placed."""
        return FlowSigmas.of(self.config, self._shift)

    @property
    def _turns_round(self) -> bool:
        """True where the sigma that users see is the share of the data to the solver, if it rises."""
        return True

    # Sigmas ----------------------------------------------------------------

    @property
    def shift(self) -> float:
        """The shift of sigmas without `use_dynamic_shifting`."""
        return self._shift

    def set_shift(self, shift: float) -> None:
        """Shift the sigmas of the runs that begin from now on so far. :attr:`sigma_min` stays as configured.

        Raises:
            ValueError: not a positive number.
        """
        KEYS["shift"].kept("shift", shift)
        with self._registry.lock:
            self._shift = float(shift)
            self._prepared_runs.clear()

    @property
    def sigmas(self) -> Tensor:
        """The sigmas of the run's steps and of its end; all training sigmas before `set_timesteps`."""
        return self._current.sigmas_for_users()

    @property
    def _training_sigmas(self) -> Array:
        """The sigma at each training timestep, the noisiest first, shifted unless that depends on each run's mu."""
        return FlowSigmas.of(self.config).training

    def _standing(self) -> Prepared:
        sigmas = self._training_sigmas  # which `invert_sigmas` leaves as they are
        standing = self._walked(Steps(sigmas * len(self), np.append(sigmas, 0.0)), Flow())
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

    def _prepared_over(self, steps: Steps) -> Prepared:
        rises = bool(steps.sigmas[-1] > steps.sigmas[0])  # with `invert_sigmas`, when the run began
        return self._walked(steps, ReversedFlow() if rises and self._turns_round else Flow())

    def _walked(self, steps: Steps, prediction: Prediction) -> Prepared:
        in_noise = Steps(steps.timesteps, 1.0 - steps.sigmas) if isinstance(prediction, ReversedFlow) else steps
        return Prepared(
            partial(in_noise.grid, self.noise_schedule, self.scaling),
            self._solver(len(steps.timesteps)),
            prediction,
            steps.timesteps.astype(self.timestep_dtype),
            steps.sigmas.astype(np.float32),
            steps,
        )

    def _steps(self, asked: Asked) -> Steps:
        return self._flow_sigmas.steps(asked, np.linspace(self.sigma_max, self.sigma_min, asked.steps))

    def _convert_to_karras(self, in_sigmas: Any, num_inference_steps: int) -> Array:
        """Sigmas along the curve of Karras et al. 2022, equation 5, between the ends of `in_sigmas`."""
        return self._converted("use_karras_sigmas", in_sigmas, num_inference_steps)

    def _convert_to_exponential(self, in_sigmas: Any, num_inference_steps: int) -> Array:
        """Sigmas with equal ratios, between the ends of `in_sigmas`."""
        return self._converted("use_exponential_sigmas", in_sigmas, num_inference_steps)

    def _convert_to_beta(
        self, in_sigmas: Any, num_inference_steps: int, alpha: float = 0.6, beta: float = 0.6
    ) -> Array:
        """Sigmas at quantiles of a beta distribution, between the ends of `in_sigmas`."""
        check_beta(alpha, beta)
        return self._converted("use_beta_sigmas", in_sigmas, num_inference_steps)

    def _converted(self, curve: str, in_sigmas: Any, steps: int) -> Array:
        return curve_named(curve).between(float(in_sigmas[0]), float(in_sigmas[-1]), steps, Scaling.FLOW)

    def _sigma_to_t(self, sigma: Any) -> Any:
        """The timestep that the network is told at `sigma`."""
        return sigma * len(self)

    # Adding noise ----------------------------------------------------------------

    @classmethod
    def _keys_of_compatibles(cls) -> set[str]:
        return super()._keys_of_compatibles() | keys_of(COMPATIBLE)

    @classmethod
    def _names_of_compatibles(cls) -> set[str]:
        return super()._names_of_compatibles() | set(COMPATIBLE)

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor | None = None) -> Tensor:
        """``(1 - sigma) * sample + sigma * noise`` at each sample's timestep, without reading it.

        Args:
            sample, noise: shape (batch, ...).
            timestep: of the run, or training timesteps before `set_timesteps`, shape (batch,) or ().

        Raises:
            TypeError: `noise` is missing, which diffusers' signature lets one leave out as well.
        """
        if noise is None:
            raise TypeError("noise is missing: scale_noise draws none; pass torch.randn_like(sample), for example.")
        return self.add_noise(sample, noise, timestep)

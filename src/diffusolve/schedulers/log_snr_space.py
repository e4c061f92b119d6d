"""What the schedulers of the DPM-Solver family have in common (DPM-Solver, DEIS, UniPC)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from diffusolve.noise import FlowMatching, Grid, NoiseSchedule
from diffusolve.prediction import Prediction
from diffusolve.schedulers.scheduler import Scheduler
from diffusolve.schedulers.spacing import Levels, grid_through, ramp, ramp_asked_for, timestep_levels
from diffusolve.schedulers.tables import NEARLY_ZERO

__all__ = ["FINAL_SIGMAS_TYPES", "LogSNRScheduler", "in_single_precision", "shifted"]

FINAL_SIGMAS_TYPES = ("zero", "sigma_min")


@dataclass(frozen=True)
class VelocityOnFlowSigmas(Prediction):
    """A v_prediction on flow matching's noise levels, as diffusers takes it.

    It is converted as if ``alpha**2 + sigma**2`` were 1: to data, or to noise (``alpha * v + sigma * x``) where these
    are what the solver extrapolates.
    """

    name: ClassVar[str] = "v_prediction"

    noise: bool

    def data(self, alpha: float, sigma: float) -> tuple[float, float]:
        return (1.0 - sigma * sigma) / alpha if self.noise else alpha, -sigma


class LogSNRScheduler(Scheduler):
    """Samples are as the network takes them; steps are measured in log(alpha / sigma)."""

    signal_floor: ClassVar[float] = NEARLY_ZERO
    prediction_types: ClassVar[tuple[str, ...]] = ("epsilon", "sample", "v_prediction", "flow_prediction")
    init_noise_sigma: float = 1.0

    @property
    def noise_schedule(self) -> NoiseSchedule:
        """The noise schedule that the configuration describes; flow matching with ``use_flow_sigmas``."""
        if self.config["use_flow_sigmas"]:
            return FlowMatching(num_train_timesteps=len(self))
        return self._tables.noise_schedule

    @property
    def _prediction(self) -> Prediction:
        if self.config["use_flow_sigmas"] and self.config["prediction_type"] == "v_prediction":
            return VelocityOnFlowSigmas(self._extrapolates_noise)
        return super()._prediction

    @property
    def _extrapolates_noise(self) -> bool:
        """Whether the solver that the configuration asks for works with noise predictions."""
        return False

    @property
    def sigmas(self) -> Tensor:
        """The noise levels of the run's steps and of its end; of all training timesteps before `set_timesteps`."""
        generation = self._generation
        return ((1 - self.alphas_cumprod) / self.alphas_cumprod) ** 0.5 if generation is None else generation.sigmas

    @property
    def alpha_t(self) -> Tensor:
        """Signal at each training timestep."""
        return torch.sqrt(self.alphas_cumprod)

    @property
    def sigma_t(self) -> Tensor:
        """Noise at each training timestep."""
        return torch.sqrt(1 - self.alphas_cumprod)

    @property
    def lambda_t(self) -> Tensor:
        """log(alpha / sigma) at each training timestep."""
        return torch.log(self.alpha_t) - torch.log(self.sigma_t)

    def _translate(self, key: str, choices: Sequence[str], foreign: Mapping[str, str]) -> None:
        """Put our word in place of what another class, whose configuration this may have been, says for `key`.

        Raises:
            UnknownNameError: the value is none of `choices`, nor any of the `foreign` ones.
        """
        if self.config[key] in foreign:
            self.register_to_config(**{key: foreign[self.config[key]]})
        self._check_choice(key, choices)

    def _translate_dpmsolver(self, algorithm_types: Sequence[str]) -> None:
        """Check and translate `algorithm_type` and `solver_type`, and that the end is one for the former.

        Raises:
            UnknownNameError: DPM-Solver has no such algorithm or solver.
            ValueError: the last step leads to sigma = 0 with an algorithm that extrapolates noise.
        """
        given, final = self.config["algorithm_type"], self.config["final_sigmas_type"]
        self._translate("algorithm_type", algorithm_types, {"deis": "dpmsolver++"})
        self._translate("solver_type", ("midpoint", "heun"), dict.fromkeys(("logrho", "bh1", "bh2"), "midpoint"))
        self._check_choice("final_sigmas_type", FINAL_SIGMAS_TYPES)
        if not given.endswith("++") and final == "zero":
            raise ValueError(
                f'algorithm_type {given!r} cannot lead to final_sigmas_type "zero", where the noise says nothing of '
                'the sample: set final_sigmas_type="sigma_min", or algorithm_type="dpmsolver++".'
            )
        self._check_flow_prediction('algorithm_type="dpmsolver++"')

    def _check_flow_prediction(self, instead: str) -> None:
        """Raise ValueError if noise is to be extrapolated that a "flow_prediction" would have to be converted to."""
        if self._extrapolates_noise and self.config["prediction_type"] == "flow_prediction":
            raise ValueError(f'prediction_type "flow_prediction" is for data predictions only: set {instead}.')

    def _shift_flow(self, mu: float | None) -> None:
        """Shift flow matching by exp(`mu`) from now on, as pipelines ask that shift by the size of the image.

        Raises:
            ValueError: the configuration does not say so.
        """
        if mu is None:
            return
        if not self.config["use_dynamic_shifting"] or self.config["time_shift_type"] != "exponential":
            raise ValueError(
                f"mu is {mu:g}, but the configuration has use_dynamic_shifting={self.config['use_dynamic_shifting']} "
                f"and time_shift_type={self.config['time_shift_type']!r}: mu is the log of the flow shift with True "
                'and "exponential"; otherwise leave it out.'
            )
        self.register_to_config(flow_shift=float(np.exp(mu)))

    def _without_variance(self, model_output: Tensor, sample: Tensor) -> Tensor:
        """The part of `model_output` that predicts the sample; a predicted variance, which may follow, is left out.

        Raises:
            ValueError: the number of channels is neither that of `sample` nor, with a learned variance, twice that.
        """
        if model_output.shape == sample.shape or model_output.ndim != sample.ndim or sample.ndim < 2:
            return model_output  # of another shape altogether: the run says so
        channels, own = model_output.shape[1], sample.shape[1]
        learned = self.config["variance_type"] in ("learned", "learned_range")
        if learned and channels == 2 * own:
            return model_output[:, :own]
        if channels != own:
            hint = ' Set variance_type="learned_range" if it predicts a variance too.' if channels == 2 * own else ""
            expected = f"{own} or {2 * own}" if learned else f"{own}"
            raise ValueError(
                f"the network's output has {channels} channels, but {expected} are expected for a sample with {own} "
                f"and variance_type={self.config['variance_type']!r}.{hint}"
            )
        return model_output

    def _signal_and_noise(self, like: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        sigma = self._sigma_at(like, timesteps)
        if self.config["use_flow_sigmas"]:
            return 1 - sigma, sigma
        alpha = 1 / (sigma**2 + 1) ** 0.5
        return alpha, sigma * alpha

    def _grid(self, levels: Levels) -> Callable[[], Grid]:
        return partial(grid_through, self.noise_schedule, levels, None)

    def _log_snr_levels(self, steps: int, timesteps: Sequence[float] | None) -> Levels:
        """Timesteps by the configured spacing, sigmas from the table or along the curve asked for, and the end."""
        config = self._own_config
        if config["use_flow_sigmas"]:
            return self._flow_levels(steps)
        table = self._sigma_table()
        curve = ramp_asked_for(config)
        if curve is not None:
            if timesteps is not None:
                raise ValueError(f"timesteps are given, but {curve} chooses them: give num_inference_steps instead.")
            sigmas = self._ramp(curve, steps, table)
            at = _timesteps_along(curve, sigmas, table)
        else:
            at = np.array(timesteps, np.float64) if timesteps is not None else self._spaced(steps)
            sigmas = np.interp(at, np.arange(len(table)), table)
        return Levels(at, np.append(sigmas, self._final_sigma(sigmas, table)))

    def _sigma_table(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The noise level at each training timestep, in the very numbers of diffusers: see :func:`_timesteps_along`."""
        signal = self._tables.alphas_cumprod
        return (((1 - signal) / signal) ** 0.5).double().numpy()

    def _ramp(self, curve: str, steps: int, table: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
        return ramp(curve, steps, table[0], table[-1], self._tables.noise_schedule)

    def _final_sigma(self, sigmas: np.ndarray[Any, Any], table: np.ndarray[Any, Any]) -> float:
        return float(table[0]) if self.config["final_sigmas_type"] == "sigma_min" else 0.0

    def _flow_levels(self, steps: int) -> Levels:
        count = len(self)
        sigmas = 1.0 - np.linspace(1.0, 1.0 / count, steps + 1)
        sigmas = np.flip(shifted(sigmas, self.config["flow_shift"]))[:-1]
        timesteps, sigmas = np.floor(sigmas * count), in_single_precision(sigmas)
        table = self._sigma_table()
        return Levels(timesteps, np.append(sigmas, self._final_sigma(sigmas, table)))

    def _spaced(self, steps: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        config = self._own_config
        spacing, last = config.get("timestep_spacing", "linspace"), self._last_timestep(config)
        if spacing == "trailing" and last < len(self):  # the stride stays that of all timesteps, so there are fewer
            return np.asarray(np.rint(np.arange(last, 0, -len(self) / steps)) - 1, np.float64)
        return timestep_levels(
            spacing,
            steps,
            last,
            steps_offset=config.get("steps_offset", 0),
            whole=True,
            beyond_last=True,
        )

    def _last_timestep(self, config: Mapping[str, Any]) -> int:
        """How many timesteps are left that have at least the signal of ``lambda_min_clipped``."""
        clipped = config.get("lambda_min_clipped", -np.inf)
        return len(self) - int(torch.sum(self.lambda_t < clipped)) if clipped > -np.inf else len(self)


def in_single_precision(sigmas: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Noise levels of flow matching as diffusers has them: near 1 their last bits decide how much signal is left."""
    return sigmas.astype(np.float32).astype(np.float64)


def shifted(sigmas: np.ndarray[Any, Any], shift: float) -> np.ndarray[Any, Any]:
    """Noise levels of flow matching, shifted (Esser et al. 2024, equation 23)."""
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def _timesteps_along(
    curve: str, sigmas: np.ndarray[Any, Any], table: np.ndarray[Any, Any]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Whole timesteps of the sigmas along a curve. As in diffusers, two of the curves round down.

    A timestep that should be whole already then depends on the last bit of the logarithm, taken in single precision.
    """
    logs = np.log(table.astype(np.float32)).astype(np.float64)
    at = np.interp(np.log(np.maximum(sigmas, 1e-10)), logs, np.arange(len(table)))
    return np.asarray(np.floor(at) if curve in ("use_exponential_sigmas", "use_beta_sigmas") else np.rint(at))

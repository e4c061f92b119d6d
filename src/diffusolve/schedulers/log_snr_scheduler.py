"""The base of the schedulers of the DPM-Solver family (DPM-Solver, DEIS, UniPC)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from diffusolve.backends import Run
from diffusolve.noise import FlowMatching, NoiseSchedule
from diffusolve.prediction import Prediction, prediction
from diffusolve.schedulers.asked import Asked, asked_for
from diffusolve.schedulers.flow_config import FLOW_STEPS
from diffusolve.schedulers.flow_sigmas import FlowSigmas
from diffusolve.schedulers.reaching import ReachesIntoSigmas
from diffusolve.schedulers.steps import Array, Steps, check_steps, curve_asked_for, curve_named, timestep_spacing
from diffusolve.schedulers.table_scheduler import TableScheduler
from diffusolve.schedulers.tables import NEARLY_ZERO
from diffusolve.spacing.flow import shift_from_mu, stretched

__all__ = ["LogSNRScheduler", "in_single_precision", "timesteps_along"]

NEARLY_NOISE = 1e-6
"""The signal that diffusers leaves where flow matching starts from none."""


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


class LogSNRScheduler(ReachesIntoSigmas, TableScheduler):
    """Samples are as the network takes them; steps are measured in log(alpha / sigma)."""

    signal_floor: ClassVar[float] = NEARLY_ZERO
    samples_flow: ClassVar[bool] = True
    init_noise_sigma: float = 1.0

    @property
    def noise_schedule(self) -> NoiseSchedule:
        """The noise schedule that the configuration describes; flow matching with ``use_flow_sigmas``."""
        if self.config["use_flow_sigmas"]:
            return FlowMatching(num_train_timesteps=len(self))
        return super().noise_schedule

    begins_with_last: ClassVar[bool] = True
    replaceable: ClassVar[frozenset[str]] = ReachesIntoSigmas.replaceable | {
        "convert_model_output",
        "_threshold_sample",
    }
    fixed: ClassVar[frozenset[str]] = (
        ReachesIntoSigmas.fixed
        | {"_convert_to_lu"}
        | {
            f"{kind}_update"
            for kind in (
                "dpm_solver_first_order",
                "multistep_dpm_solver_second_order",
                "multistep_dpm_solver_third_order",
                "singlestep_dpm_solver_second_order",
                "singlestep_dpm_solver_third_order",
                "singlestep_dpm_solver",
                "deis_first_order",
                "multistep_deis_second_order",
                "multistep_deis_third_order",
                "multistep_uni_p_bh",
                "multistep_uni_c_bh",
            )
        }
    )

    @classmethod
    def _take_overridden(cls, names: frozenset[str]) -> None:
        super()._take_overridden(names)
        if "convert_model_output" in names:
            cls._advance = LogSNRScheduler._advance_converted  # type: ignore[method-assign,assignment]
        elif cls._advance is LogSNRScheduler._advance_converted:
            cls._advance = LogSNRScheduler._advance  # type: ignore[method-assign]

    def _advance_converted(
        self, model_output: Tensor, timestep: Any, sample: Tensor, *others: Any
    ) -> tuple[Tensor, Run]:
        """As :meth:`_advance`, where a subclass makes predictions out of the network's outputs in its own way."""
        if self.step_index is None:
            self._init_step_index(timestep)
        return super()._advance(self.convert_model_output(model_output, sample=sample), timestep, sample, *others)

    def convert_model_output(self, model_output: Tensor, *args: Any, sample: Tensor | None = None) -> Tensor:
        """The data or noise that the solver extrapolates, from the network's output at the next evaluation.

        Args:
            model_output: shape (batch, ...).
            args: the timestep, which is ignored, and the sample, as it was called before diffusers 0.20.
            sample: what the network was asked about, shape (batch, ...).
        """
        x = args[1] if len(args) > 1 else sample
        if x is None:
            raise ValueError("sample is missing: a prediction of the data follows from it and the network's output.")
        generation = self._current
        point = generation.prepared.grid[generation.prepared.plan.stages[generation.step_index or 0].step]
        a, b = self._networks_prediction.data(point.alpha, point.sigma)
        data = a * x + b * self._without_variance(model_output, x)
        transform = self._clipping()
        data = data if transform is None else transform(data, generation.prepared.plan.stages[0])
        return (x - point.alpha * data) / point.sigma if self._converts_to_noise else data

    @property
    def _converts_to_noise(self) -> bool:
        """True where predictions of the noise are what the class of diffusers extrapolates."""
        return self._extrapolates_noise

    def _configured(self) -> None:
        super()._configured()
        if "convert_model_output" in self._replaced:
            self._transform = None  # it has clipped already

    @property
    def _flow(self) -> FlowSigmas | None:
        config = self.config
        return FlowSigmas.of(config, float(config["flow_shift"])) if FLOW_STEPS in config else None

    def _steps_of_flow(self, flow: FlowSigmas, asked: Asked) -> Steps:
        return flow.steps(asked, np.linspace(1.0, 1.0 / len(self), asked.steps + 1)[:-1])

    @property
    def _fills_in_from_training(self) -> bool:
        return super()._fills_in_from_training and not self.config["use_flow_sigmas"]

    def _training_sigma(self, timesteps: Tensor) -> Tensor:
        if self.config["use_flow_sigmas"]:
            return timesteps.float() / len(self)
        return super()._training_sigma(timesteps)

    @property
    def _prediction(self) -> Prediction:
        if "convert_model_output" in self._replaced:
            return prediction("epsilon" if self._converts_to_noise else "sample")
        return self._networks_prediction

    def _sigma_to_alpha_sigma_t(self, sigma: Any) -> tuple[Any, Any]:
        """(alpha, sigma) of the samples, where `sigma` is one of those shown."""
        if self.config["use_flow_sigmas"]:
            return 1 - sigma, sigma
        alpha = 1 / (sigma**2 + 1) ** 0.5
        return alpha, sigma * alpha

    @property
    def _networks_prediction(self) -> Prediction:
        if self.config["use_flow_sigmas"] and self.config["prediction_type"] == "v_prediction":
            return VelocityOnFlowSigmas(self._extrapolates_noise)
        return super()._prediction

    @property
    def _extrapolates_noise(self) -> bool:
        """True where the solver that the configuration asks for works with noise predictions."""
        return False

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        mu: float | None = None,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
    ) -> None:
        """Begin a run of `num_inference_steps` steps, or over the `timesteps`, or over the `sigmas`.

        Args:
            num_inference_steps: how many steps; may be left out where timesteps or sigmas are given.
            device: for the timesteps.
            mu: how far the sigmas of `use_flow_sigmas` are shifted, with `use_dynamic_shifting`; without effect
                otherwise, since pipelines offer it to every scheduler.
            timesteps: what the network is told, the noisiest first, shape (steps,).
            sigmas: where the steps begin, strictly decreasing, shape (steps,), possibly with a last 0: flow matching's
                before they are shifted with `use_flow_sigmas`, sigma / alpha without.

        Raises:
            ValueError: none of them is given, or two that contradict each other.
        """
        self._begin(asked_for(num_inference_steps, timesteps, sigmas, mu), device)

    @property
    def timesteps(self) -> Tensor:
        """The timesteps that the network is told; before `set_timesteps` all of training, in single precision."""
        own = super().timesteps
        return own.to(torch.float32) if self._registry.current is None else own

    @property
    def sigmas(self) -> Tensor:
        """The noise levels of the run's steps and of its end; of all training timesteps before `set_timesteps`."""
        generation = self._generation
        if generation is not None:
            return generation.sigmas_for_users()
        return self._shown_early.get("sigmas", ((1 - self._signal) / self._signal) ** 0.5)

    def scale_model_input(self, sample: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The sample as the network takes it: the sample itself."""
        return sample

    @property
    def alpha_t(self) -> Tensor:
        """Signal at each training timestep."""
        return torch.sqrt(self._signal)

    @property
    def sigma_t(self) -> Tensor:
        """Noise at each training timestep."""
        return torch.sqrt(1 - self._signal)

    @property
    def lambda_t(self) -> Tensor:
        """log(alpha / sigma) at each training timestep."""
        return torch.log(self.alpha_t) - torch.log(self.sigma_t)

    def _check_end(self) -> None:
        """Raise ValueError if the last step leads to sigma = 0 with a DPM-Solver that extrapolates noise."""
        final, algorithm_type = self._own_config.get("final_sigmas_type", "sigma_min"), self.config["algorithm_type"]
        if not algorithm_type.endswith("++") and final == "zero":
            raise ValueError(
                f'algorithm_type {algorithm_type!r} cannot lead to final_sigmas_type "zero", where the noise says '
                'nothing of the sample: set final_sigmas_type="sigma_min", or algorithm_type="dpmsolver++".'
            )
        self._check_flow_prediction('algorithm_type="dpmsolver++"')

    def _check_flow_prediction(self, instead: str) -> None:
        """Raise ValueError if noise is to be extrapolated that a "flow_prediction" would have to be converted to."""
        if self._extrapolates_noise and self.config["prediction_type"] == "flow_prediction":
            raise ValueError(f'prediction_type "flow_prediction" is for data predictions only: set {instead}.')

    def _without_variance(self, model_output: Tensor, sample: Tensor) -> Tensor:
        """The part of `model_output` that predicts the sample; a predicted variance, which may follow, is left out.

        Raises:
            ValueError: the number of channels is neither that of `sample` nor, with a learned variance, twice that.
        """
        try:
            if model_output.shape == sample.shape or model_output.ndim != sample.ndim or sample.ndim < 2:
                return model_output  # of another shape altogether: the run says so
        except AttributeError:
            return model_output  # one is no array: the run says so
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

    def _steps(self, asked: Asked) -> Steps:
        """Timesteps by the configured spacing, sigmas from the table or along the curve asked for, and the end."""
        config = self._own_config
        if config["use_flow_sigmas"]:
            return self._flow_steps(asked)
        table, curve = self._sigma_table, curve_asked_for(config)
        self._check_given(asked, curve)
        if asked.sigmas is not None:
            sigmas = np.array(asked.sigmas, np.float64)
            at = timesteps_along("", sigmas, table)
        elif curve is not None:
            sigmas = self._along(curve, asked.steps)
            at = timesteps_along(curve, sigmas, table)
            if "_sigma_to_t" in self._replaced:
                at = self._timesteps_replaced(sigmas)
                at = np.rint(at) if curve in ("use_karras_sigmas", "use_lu_lambdas") else np.floor(at)
        else:
            at = np.array(asked.timesteps, np.float64) if asked.timesteps is not None else self._spaced(asked.steps)
            sigmas = np.interp(at, np.arange(len(table)), table)
        return Steps(at, np.append(sigmas, self._final_sigma(sigmas)))

    def _check_given(self, asked: Asked, curve: str | None) -> None:
        if asked.timesteps is not None and asked.sigmas is not None:
            raise ValueError("both timesteps and sigmas are given: give one of them, the other follows from it.")
        if curve is not None and (asked.timesteps is not None or asked.sigmas is not None):
            given = "timesteps" if asked.timesteps is not None else "sigmas"
            raise ValueError(f"{given} are given, but {curve} chooses them: give num_inference_steps instead.")

    @property
    def _walks_flow(self) -> bool:
        return bool(self.config["use_flow_sigmas"]) or super()._walks_flow

    @property
    def _sigma_table(self) -> Array:
        """sigma / alpha at each training timestep, in the very numbers of diffusers: see :func:`timesteps_along`."""
        signal = self._tables.alphas_cumprod
        return (((1 - signal) / signal) ** 0.5).double().numpy()

    def _along(self, curve: str, steps: int) -> Array:
        """The sigmas of `steps` steps along a curve, between those configured or the ends of the table."""
        table, low, high = self._sigma_table, self._own_config.get("sigma_min"), self._own_config.get("sigma_max")
        return curve_named(curve).between(
            table[-1] if high is None else high, table[0] if low is None else low, steps, super().noise_schedule.scaling
        )

    def _final_sigma(self, sigmas: Array) -> float:
        """The sigma that the last step leads to, after `sigmas`."""
        return float(self._sigma_table[0]) if self.config["final_sigmas_type"] == "sigma_min" else 0.0

    def _flow_steps(self, asked: Asked) -> Steps:
        """Flow matching's sigmas, those given or equally spaced ones, shifted and stretched; and the end."""
        sigmas = self._unshifted(asked.steps) if asked.sigmas is None else _checked_flow_sigmas(asked.sigmas)
        sigmas = stretched(self._shifted(sigmas, asked.mu), self._own_config.get("shift_terminal"))
        if abs(sigmas[0] - 1.0) < NEARLY_NOISE:
            sigmas[0] -= NEARLY_NOISE
        return self._at_flow_sigmas(sigmas)

    def _at_flow_sigmas(self, sigmas: Array) -> Steps:
        timesteps, sigmas = np.floor(sigmas * len(self)), in_single_precision(sigmas)
        return Steps(timesteps, np.append(sigmas, self._final_sigma(sigmas)))

    def _unshifted(self, steps: int) -> Array:
        """Equally spaced sigmas of flow matching, from one training timestep below the noisiest."""
        return np.flip(1.0 - np.linspace(1.0, 1.0 / len(self), steps + 1))[:-1]

    def _shifted(self, sigmas: Array, mu: float | None) -> Array:
        """Flow matching's `sigmas`, moved towards noise.

        The two forms are equal but for their last bit, on which it depends which whole timestep is below a sigma.
        """
        if self._own_config.get("use_dynamic_shifting") and mu is not None:
            shift = shift_from_mu(mu, self.config["time_shift_type"])
            return np.asarray(shift / (shift + (1.0 / sigmas - 1.0)))
        shift = float(self.config["flow_shift"])
        return np.asarray(shift * sigmas / (1.0 + (shift - 1.0) * sigmas))

    def _spaced(self, steps: int) -> Array:
        config = self._own_config
        name, last = config.get("timestep_spacing", "linspace"), self._last_timestep(config)
        clipped = name == "trailing" and last < len(self)  # the stride stays that of all timesteps, so there are fewer
        rule = timestep_spacing(
            name,
            steps_offset=config.get("steps_offset", 0),
            to_first=False,
            stride=len(self) / steps if clipped else None,
        )
        check_steps(steps, len(self) if clipped else last, "lambda_min_clipped" if last < len(self) else "")
        return rule.indices(steps, last)

    def _last_timestep(self, config: Mapping[str, Any]) -> int:
        """The number of timesteps that have at least the signal of ``lambda_min_clipped``."""
        clipped = config.get("lambda_min_clipped", -np.inf)
        left = len(self) - int(torch.sum(self.lambda_t < clipped)) if clipped > -np.inf else len(self)
        if left == 0:
            raise ValueError(
                f"lambda_min_clipped is {clipped:g}: expected at most {float(self.lambda_t.max()):g}, the log(alpha / "
                "sigma) of the first timestep."
            )
        return left


def _checked_flow_sigmas(sigmas: Sequence[float]) -> Array:
    if not 0.0 < sigmas[-1] <= sigmas[0] <= 1.0:
        raise ValueError(f"sigmas are {list(sigmas)}: expected numbers from 1 down to above 0, strictly decreasing.")
    return np.array(sigmas, np.float64)


def in_single_precision(sigmas: Array) -> Array:
    """Sigmas of flow matching as diffusers has them: near 1 their last bits decide how much signal is left."""
    return sigmas.astype(np.float32).astype(np.float64)


def timesteps_along(curve: str, sigmas: Array, table: Array) -> Array:
    """Whole timesteps of the sigmas along a curve. As in diffusers, two of the curves round down.

    A timestep that should be whole already then depends on the last bit of the logarithm, taken in single precision.
    """
    logs = np.log(table.astype(np.float32)).astype(np.float64)
    at = np.interp(np.log(np.maximum(sigmas, 1e-10)), logs, np.arange(len(table)))
    return np.asarray(np.floor(at) if curve in ("use_exponential_sigmas", "use_beta_sigmas") else np.rint(at))

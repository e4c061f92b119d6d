"""The base of schedulers whose networks are preconditioned (Karras et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from diffusolve.noise import NoiseSchedule, Scaling, VarianceExploding
from diffusolve.prediction import EDM, Prediction
from diffusolve.schedulers import members
from diffusolve.schedulers.asked import Asked, asked_for
from diffusolve.schedulers.generation import Prepared
from diffusolve.schedulers.reaching import FIXED_IN_DPM_SOLVER, ReachesIntoSigmas, is_scale_input_called
from diffusolve.schedulers.scheduler import Scheduler
from diffusolve.schedulers.steps import Array, Steps, check_sigmas
from diffusolve.spacing.by_sigma import Exponential, Karras

__all__ = ["DenoisedByCaller", "EDMMultistepScheduler", "EDMScheduler"]


@dataclass(frozen=True)
class NegativeEDM(EDM):
    """The output is that of an EDM network with the opposite sign: v, for data of standard deviation 1."""

    name: ClassVar[str] = "negative_edm"

    def data(self, alpha: float, sigma: float) -> tuple[float, float]:
        a, b = super().data(alpha, sigma)
        return a, -b


@dataclass(frozen=True)
class DenoisedByCaller(EDM):
    """The output is the data already; the network's input is scaled as ever."""

    name: ClassVar[str] = "denoised_by_caller"

    def data(self, alpha: float, sigma: float) -> tuple[float, float]:
        return 0.0, 1.0


PREDICTIONS: dict[str, type[EDM]] = {"epsilon": EDM, "v_prediction": NegativeEDM, "sample": DenoisedByCaller}


class EDMScheduler(Scheduler):
    """Samples are ``x0 + sigma * noise``; the network sees them divided by ``sqrt(sigma^2 + sigma_data^2)``.

    The data prediction is ``c_skip * x + c_out * output``, as in table 1 of the paper. Sigmas lie on a curve between
    `sigma_max` and `sigma_min`. Before `set_timesteps` a scheduler stands on that curve through as many of them as
    there are training timesteps.

    Attributes:
        more_to_show: how many more than that stand there.
    """

    _compatibles: ClassVar[list[str]] = []
    fixed: ClassVar[frozenset[str]] = Scheduler.fixed | {
        "_compute_exponential_sigmas",
        "_compute_karras_sigmas",
        "_get_conditioning_c_in",
        "precondition_inputs",
        "precondition_outputs",
    }
    scaling: ClassVar[Scaling | None] = Scaling.VARIANCE_EXPLODING
    timestep_dtype: ClassVar[type] = np.float32
    more_to_show: ClassVar[int] = 0

    def _configured(self) -> None:
        check_sigmas(self.config)
        super()._configured()

    @property
    def noise_schedule(self) -> NoiseSchedule:
        """Sigmas from `sigma_min` to `sigma_max`, of which the network is told a quarter of the logarithm."""
        config = self.config
        return VarianceExploding(config["sigma_min"], config["sigma_max"], "edm", len(self))

    @property
    def _prediction(self) -> Prediction:
        return PREDICTIONS[self.config["prediction_type"]](self.config["sigma_data"])

    # Sigmas ----------------------------------------------------------------

    def set_timesteps(self, num_inference_steps: int | None = None, device: Any = None) -> None:
        """Begin a run of `num_inference_steps` steps.

        Raises:
            ValueError: fewer than one.
        """
        self._begin(asked_for(num_inference_steps), device)

    @property
    def sigmas(self) -> Tensor:
        """The sigmas of the run's steps and of its end."""
        return self._current.sigmas_for_users()

    @property
    def init_noise_sigma(self) -> float:
        """The standard deviation of what sampling starts from, for data of standard deviation 1."""
        return float((self.config["sigma_max"] ** 2 + 1) ** 0.5)

    def _standing(self) -> Prepared:
        standing = self._prepare(Asked(len(self) + self.more_to_show))
        standing.sigmas[-1] = 0.0  # as in diffusers, whatever the last step of a run leads to
        return standing

    def _steps(self, asked: Asked) -> Steps:
        sigmas = self._along(np.linspace(0.0, 1.0, asked.steps))
        return self._through(sigmas, self._end(sigmas))

    def _end(self, sigmas: Array) -> float:
        """The sigma that a last step from the last of `sigmas` leads to."""
        return float(sigmas[-1]) if self.config["final_sigmas_type"] == "sigma_min" else 0.0

    def _through(self, sigmas: Array, end: float) -> Steps:
        return Steps(self.precondition_noise(torch.from_numpy(sigmas)).numpy(), np.append(sigmas, end))

    def _along(self, position: Array) -> Array:
        """The sigmas at `position` along the curve, 0 at `sigma_max` and 1 at `sigma_min`."""
        config = self.config
        low, high = config["sigma_min"], config["sigma_max"]
        if config["sigma_schedule"] == "karras":
            return Karras(rho=config["rho"]).ramp(position, low, high, Scaling.VARIANCE_EXPLODING)
        from_end = np.linspace(0.0, 1.0, len(position))[::-1]  # a single step begins at sigma_min, as in diffusers
        return Exponential().ramp(1.0 - from_end, low, high, Scaling.VARIANCE_EXPLODING)

    def _compute_karras_sigmas(
        self, ramp: Tensor, sigma_min: float | None = None, sigma_max: float | None = None
    ) -> Tensor:
        """The sigmas at `ramp` along the curve of Karras et al. 2022, from 0 at `sigma_max` to 1 at `sigma_min`."""
        curve = Karras(rho=self.config["rho"])
        return self._at_ramp(curve, ramp.double().numpy(), sigma_min, sigma_max).to(ramp)

    def _compute_exponential_sigmas(
        self, ramp: Tensor, sigma_min: float | None = None, sigma_max: float | None = None
    ) -> Tensor:
        """As many sigmas with equal ratios as `ramp` has places, from `sigma_max` to `sigma_min`."""
        return self._at_ramp(Exponential(), np.linspace(0.0, 1.0, len(ramp)), sigma_min, sigma_max).to(ramp)

    def _at_ramp(self, curve: Karras | Exponential, ramp: Array, low: float | None, high: float | None) -> Tensor:
        ends = (low or self.config["sigma_min"], high or self.config["sigma_max"])
        return torch.from_numpy(curve.ramp(ramp, *ends, Scaling.VARIANCE_EXPLODING))

    # Preconditioning ----------------------------------------------------------------

    is_scale_input_called = is_scale_input_called
    scale_model_input = Scheduler._model_input

    def precondition_inputs(self, sample: Tensor, sigma: float | Tensor) -> Tensor:
        """``c_in * sample``: what the network sees."""
        scaled: Tensor = sample * self._get_conditioning_c_in(sigma)
        return scaled

    def _get_conditioning_c_in(self, sigma: Any) -> Any:
        """``c_in``: what samples are multiplied by for the network."""
        return 1 / (sigma**2 + self.config["sigma_data"] ** 2) ** 0.5

    def precondition_noise(self, sigma: float | Tensor) -> Tensor:
        """``c_noise``: what the network is told, shape (1,) for a number."""
        return 0.25 * torch.log(_tensor(sigma))

    def precondition_outputs(self, sample: Tensor, model_output: Tensor, sigma: float | Tensor) -> Tensor:
        """``c_skip * sample + c_out * model_output``: the data prediction."""
        data = self.config["sigma_data"]
        power = sigma**2 + data**2
        kind = self.config["prediction_type"]
        if kind == "sample":
            return model_output
        sign = 1 if kind == "epsilon" else -1
        denoised: Tensor = data**2 / power * sample + sign * data * sigma / power**0.5 * model_output
        return denoised


class EDMMultistepScheduler(EDMScheduler):
    """Multistep DPM-Solver++ for such networks."""

    kept = members.KEPT_BY_DPM_SOLVER
    members = members.DPM_SOLVER
    clears = frozenset({"lower_order_nums"})
    begins_with_last = True
    fixed: ClassVar[frozenset[str]] = EDMScheduler.fixed | FIXED_IN_DPM_SOLVER

    _sigma_to_t = ReachesIntoSigmas._sigma_to_t

    def _sigma_to_alpha_sigma_t(self, sigma: Any) -> tuple[Tensor, Any]:
        """(alpha, sigma) of the samples: they are scaled to alpha = 1."""
        return torch.tensor(1.0), sigma

    def convert_model_output(self, model_output: Tensor, sample: Tensor) -> Tensor:
        """The data prediction, from the network's output at the next evaluation; shape (batch, ...), as `sample`."""
        generation = self._current
        prepared, transform = generation.prepared, self._clipping()
        stage = prepared.plan.stages[generation.step_index or 0]
        data = self.precondition_outputs(sample, model_output, stage.point.sigma)
        return data if transform is None else transform(data, stage)

    def _end(self, sigmas: Array) -> float:
        return min(super()._end(sigmas), float(self.config["sigma_min"]))  # a single step begins at sigma_max


def _tensor(sigma: float | Tensor) -> Tensor:
    return sigma if isinstance(sigma, Tensor) else torch.tensor([sigma])

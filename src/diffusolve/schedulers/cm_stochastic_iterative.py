"""CMStochasticIterativeScheduler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from diffusolve.backends import Clip, Transform
from diffusolve.config import register_to_config
from diffusolve.noise import NoiseSchedule, Scaling, VarianceExploding
from diffusolve.prediction import EDM, Prediction
from diffusolve.schedulers.asked import Asked, asked_for
from diffusolve.schedulers.generation import Prepared
from diffusolve.schedulers.outputs import SchedulerOutput, StepResult
from diffusolve.schedulers.reaching import is_scale_input_called
from diffusolve.schedulers.scheduler import Scheduler
from diffusolve.schedulers.step_types import WithGenerator, declared_as
from diffusolve.schedulers.steps import Array, Steps, check_steps
from diffusolve.solvers import Solver, lcm
from diffusolve.spacing.by_sigma import Karras

__all__ = ["CMStochasticIterativeScheduler"]


@dataclass(frozen=True)
class ConsistencyFunction(EDM):
    """EDM's preconditioning, changed so that the data at `sigma_min` are the sample (Song et al. 2023, appendix C).

    Args:
        sigma_min: the sigma where the trajectories end that the network was trained on, the paper's epsilon.
    """

    name: ClassVar[str] = "consistency_function"

    sigma_min: float = 0.002

    def data(self, alpha: float, sigma: float) -> tuple[float, float]:
        above, data = sigma - self.sigma_min, self.sigma_data
        return data**2 / (above**2 + data**2), above * data / (sigma**2 + data**2) ** 0.5


class CMStochasticIterativeScheduler(Scheduler):
    """Multistep sampling of consistency models: jump to the data and add noise again.

    Song et al. 2023, Consistency Models, algorithm 1. Linear in the sample, unless data predictions are clipped.

    Args:
        num_train_timesteps: the number of sigmas along the curve that timesteps choose from.
        sigma_min, sigma_max: the range of noise.
        sigma_data: standard deviation of the training data.
        s_noise: multiplies the noise.
        rho: of the curve of sigmas (Karras et al. 2022, equation 5).
        clip_denoised: keep data predictions within plus and minus 1.
    """

    _compatibles: ClassVar[list[str]] = []
    fixed: ClassVar[frozenset[str]] = Scheduler.fixed | {"_convert_to_karras", "get_scalings_for_boundary_condition"}
    scaling: ClassVar[Scaling | None] = Scaling.VARIANCE_EXPLODING
    timestep_dtype: ClassVar[type] = np.float64

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 40,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        sigma_data: float = 0.5,
        s_noise: float = 1.0,
        rho: float = 7.0,
        clip_denoised: bool = True,
    ) -> None:
        self._configured()

    @property
    def noise_schedule(self) -> NoiseSchedule:
        """Sigmas from `sigma_min` to `sigma_max`, of which the network is told 250 times the logarithm."""
        return VarianceExploding(self.config["sigma_min"], self.config["sigma_max"], "edm", len(self))

    @property
    def _prediction(self) -> Prediction:
        return ConsistencyFunction(self.config["sigma_data"], self.config["sigma_min"])

    def _clipping(self) -> Transform | None:
        return Clip(1.0) if self.config["clip_denoised"] else None

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        timesteps: Sequence[int] | None = None,
    ) -> None:
        """Begin a run of `num_inference_steps` steps, or over the `timesteps`.

        Args:
            num_inference_steps: the number of steps, at most as many as there are training timesteps.
            device: for the timesteps.
            timesteps: whole numbers that strictly decrease, shape (steps,). As in diffusers they are the places of the
                sigmas among those of training, counted from the noisiest, and are walked from the last.

        Raises:
            ValueError: neither or both are given, too many steps, or timesteps that there are not.
        """
        if (num_inference_steps is None) is (timesteps is None):
            raise ValueError("expected either num_inference_steps or timesteps: give exactly one of them.")
        if timesteps is None:
            steps = asked_for(num_inference_steps).steps
            check_steps(steps, len(self))
            places = [step * (len(self) // steps) for step in range(steps)]
        else:
            places = [int(place) for place in timesteps][::-1]
            if not places or places[0] < 0 or places[-1] >= len(self) or any(b <= a for a, b in pairwise(places)):
                raise ValueError(
                    f"timesteps are {list(timesteps)}: expected whole numbers from {len(self) - 1} down to 0, strictly "
                    "decreasing."
                )
        self._begin(asked_for(None, places), device)

    @property
    def init_noise_sigma(self) -> float:
        """The factor that makes standard normal noise a sample to start from."""
        return float(self.config["sigma_max"])

    @property
    def sigmas(self) -> Tensor:
        """The sigmas of the run's steps and of its end; those of training before `set_timesteps`."""
        return self._current.sigmas_for_users()

    def _standing(self) -> Prepared:
        standing = self._prepare(asked_for(None, range(len(self))))
        standing.sigmas = self._at(np.arange(len(self), dtype=np.float64))  # without an end, in double precision
        return standing

    def _steps(self, asked: Asked) -> Steps:
        sigmas = self._at(np.array(asked.timesteps))
        return Steps(self.sigma_to_t(sigmas), np.append(sigmas, self.config["sigma_min"]))

    def _at(self, places: Array) -> Array:
        """The sigmas at `places` along the curve, counted from the noisiest."""
        config, last = self.config, max(len(self) - 1, 1)
        curve = Karras(rho=config["rho"])
        return curve.ramp(places / last, config["sigma_min"], config["sigma_max"], Scaling.VARIANCE_EXPLODING)

    def _convert_to_karras(self, ramp: Any) -> Array:
        """The sigmas at the places `ramp`, from 0 at `sigma_max` to 1 at `sigma_min`."""
        return self._at(np.asarray(ramp, np.float64) * max(len(self) - 1, 1))

    @property
    def custom_timesteps(self) -> bool:
        """True where the timesteps of the run were given."""
        generation = self._generation
        return generation is not None and generation.given

    def sigma_to_t(self, sigmas: float | Array) -> Array:
        """The timesteps told to the network at `sigmas`: 250 times the logarithm."""
        return np.asarray(250.0 * np.log(np.asarray(sigmas, np.float64) + 1e-44))

    def get_scalings(self, sigma: Any) -> tuple[Any, Any]:
        """(c_skip, c_out) of EDM's preconditioning at `sigma`, a number or tensor."""
        data = self.config["sigma_data"]
        return data**2 / (sigma**2 + data**2), sigma * data / (sigma**2 + data**2) ** 0.5

    def get_scalings_for_boundary_condition(self, sigma: Any) -> tuple[Any, Any]:
        """(c_skip, c_out) of the consistency function at `sigma`, a number or tensor: (1, 0) at `sigma_min`."""
        scalings: tuple[Any, Any] = self._prediction.data(1.0, sigma)
        return scalings

    is_scale_input_called = is_scale_input_called
    scale_model_input = Scheduler._model_input

    @declared_as(WithGenerator[float | Tensor, SchedulerOutput].step)
    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Any = None,
        return_dict: bool = True,
    ) -> StepResult:
        """The sample one step on, with noise from `generator`."""
        previous, run = self._advance(model_output, timestep, sample, generator)
        if run.plan.nfe > 1:
            self._draw_last(run, model_output, generator)
        return self._result(previous, run, model_output, sample, return_dict)

    def _solver(self, steps: int, **options: Any) -> Solver:
        return lcm.with_options(s_noise=self.config["s_noise"], noise_left=self.config["sigma_min"])

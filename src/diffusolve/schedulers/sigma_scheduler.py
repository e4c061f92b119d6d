"""The base of schedulers whose samples are scaled to alpha = 1 (those that came from k-diffusion)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from diffusolve.noise import Scaling
from diffusolve.schedulers.asked import Asked, asked_for
from diffusolve.schedulers.flow_sigmas import FlowSigmas
from diffusolve.schedulers.generation import Prepared
from diffusolve.schedulers.given import check_noise
from diffusolve.schedulers.outputs import SchedulerOutputWithData
from diffusolve.schedulers.reaching import ReachesIntoSigmas, is_scale_input_called
from diffusolve.schedulers.steps import Array, Steps, curve_asked_for, curve_named, spaced, timestep_spacing
from diffusolve.schedulers.table_scheduler import TableScheduler
from diffusolve.schedulers.tables import NEARLY_ZERO

__all__ = ["SigmaScheduler"]


class SigmaScheduler(ReachesIntoSigmas, TableScheduler):
    """Samples are ``x0 + sigma * noise``; the network sees them divided by ``sqrt(sigma^2 + 1)``.

    With ``prediction_type="flow_prediction"`` they are ``(1 - sigma) * x0 + sigma * noise``, which the network sees as
    they are, on the steps that FlowMatchEuler's keys in the configuration ask for.

    Attributes:
        ends_with_last: the last of given sigmas is where the run ends; if not, that is so of a last 0 only.
        begun_when_made: diffusers' constructor sets timesteps: before `set_timesteps` the class stands on the steps of
            a run with as many as there are training timesteps, along the curve that is configured.
    """

    scaling: ClassVar[Scaling] = Scaling.VARIANCE_EXPLODING
    signal_floor: ClassVar[float] = NEARLY_ZERO
    timestep_dtype: ClassVar[type] = np.float32
    output = SchedulerOutputWithData
    ends_with_last: ClassVar[bool] = False
    begun_when_made: ClassVar[bool] = False
    samples_flow: ClassVar[bool] = True

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """Begin a run of `num_inference_steps` steps, or over the `timesteps`, or over the `sigmas`.

        Args:
            num_inference_steps: how many steps; may be left out where timesteps or sigmas are given.
            device: for the timesteps.
            timesteps: what the network is told, the noisiest first, shape (steps,).
            sigmas: where the steps begin, strictly decreasing, shape (steps,), possibly with a last 0: of a
                flow-matching model from 1, before they are shifted.
            mu: how far a flow-matching model's sigmas are shifted, with `use_dynamic_shifting`; without effect
                otherwise, since pipelines offer it to every scheduler.

        Raises:
            ValueError: none of them is given, or two that contradict each other; `mu` is missing.
        """
        self._begin(self._asked_for(num_inference_steps, timesteps, sigmas, mu), device)

    def _asked_for(self, num_inference_steps: int | None, timesteps: Any, sigmas: Any, mu: float | None) -> Asked:
        """The arguments of `set_timesteps` as one value: those for flow matching, or for betas and checked."""
        if self._flow is not None:
            return asked_for(num_inference_steps, timesteps, sigmas, mu)
        asked = asked_for(num_inference_steps, timesteps, sigmas, ends_with_last=self.ends_with_last)
        self._check_given(asked)
        return asked

    @property
    def _flow(self) -> FlowSigmas | None:
        return FlowSigmas.of(self.config) if self.config["prediction_type"] == "flow_prediction" else None

    @property
    def sigmas(self) -> Tensor:
        """The noise levels of the run's steps and of its end; of all training timesteps before `set_timesteps`."""
        return self._current.sigmas_for_users()

    def _standing(self) -> Prepared:
        return self._prepared_over(self._training_steps)

    @property
    def _training_steps(self) -> Steps:
        """The steps over all training timesteps."""
        flow = self._flow
        if flow is not None:
            return flow.steps_of_training
        if self.begun_when_made:
            return self._steps(Asked(len(self), tuple(range(len(self) - 1, -1, -1))))
        sigmas = self._sigma_table[::-1]
        at = 0.25 * np.log(sigmas) if self._is_continuous else np.arange(len(sigmas) - 1.0, -1.0, -1.0)
        return Steps(at, np.append(sigmas, 0.0))

    @property
    def num_inference_steps(self) -> int | None:
        """The number of steps of the run."""
        steps = super().num_inference_steps
        return len(self) if steps is None and self.begun_when_made else steps

    def _training_sigma(self, timesteps: Tensor) -> Tensor:
        if self._is_continuous:
            return torch.exp(4 * timesteps)
        return super()._training_sigma(timesteps.clamp(0, len(self) - 1))

    @property
    def init_noise_sigma(self) -> Tensor:
        """The factor that makes standard normal noise a sample to start from, shape (); 1 for flow-matching models."""
        if self._flow is not None:
            return torch.tensor(1.0)
        largest = self.sigmas.max()
        return largest if self.config["timestep_spacing"] in ("linspace", "trailing") else (largest**2 + 1) ** 0.5

    is_scale_input_called = is_scale_input_called
    scale_model_input = TableScheduler._model_input

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """``original_samples + sigma * noise`` at each sample's timestep, without reading `timesteps`.

        Of a flow-matching model ``(1 - sigma) * original_samples + sigma * noise``.

        Args:
            original_samples, noise: shape (batch, ...).
            timesteps: timesteps of the run, or whole training timesteps before `set_timesteps`, shape (batch,).
        """
        if self._flow is not None:
            return super().add_noise(original_samples, noise, timesteps)
        sigma = self._sigma_at(original_samples, timesteps)
        check_noise(noise, original_samples)
        return original_samples + sigma * noise

    def _steps(self, asked: Asked) -> Steps:
        """Timesteps by the configured spacing, sigmas by interpolation or along the curve asked for, and the end."""
        config, schedule, table = self._own_config, self._tables.noise_schedule, self._sigma_table
        curve = curve_asked_for(config)
        if asked.sigmas is not None:
            chosen = np.array(asked.sigmas, np.float64)
            at = schedule.timestep(np.minimum(chosen, schedule.sigma_max))
        else:
            at = np.array(asked.timesteps, np.float64) if asked.timesteps is not None else self._spaced(asked.steps)
            chosen = np.interp(at, np.arange(len(table)), table)
            if config.get("interpolation_type") == "log_linear":
                chosen = np.geomspace(table[-1], table[0], asked.steps + 1)
            if curve is not None:
                chosen = self._along(curve, chosen, asked.steps)
                at = np.interp(np.log(np.maximum(chosen, table[0])), np.log(table), np.arange(len(table)))
        if "_sigma_to_t" in self._replaced and (curve is not None or asked.sigmas is not None):
            at = self._timesteps_replaced(chosen)
        if self._is_continuous:
            at = 0.25 * np.log(chosen)
        end = asked.end
        if end is None:
            end = float(table[0]) if config.get("final_sigmas_type") == "sigma_min" else 0.0
        return Steps(at[: len(chosen)], np.append(chosen, end))

    @property
    def _is_continuous(self) -> bool:
        """True where the network is told a quarter of log sigma."""
        config = self._own_config
        return config.get("timestep_type") == "continuous" and bool(config["prediction_type"] == "v_prediction")

    def _check_given(self, asked: Asked) -> None:
        """Raise ValueError if timesteps are given besides something else that says where the steps fall."""
        if asked.timesteps is None:
            return
        if asked.sigmas is not None:
            raise ValueError("both timesteps and sigmas are given: give one of them, the other follows from it.")
        chosen_by = curve_asked_for(self._own_config) or ('timestep_type="continuous"' if self._is_continuous else None)
        if chosen_by:
            raise ValueError(f"timesteps are given, but {chosen_by} chooses them: give num_inference_steps or sigmas.")

    def _along(self, curve: str, sigmas: Array, steps: int) -> Array:
        """The sigmas of `steps` steps along a curve, between those configured or the ends of `sigmas`."""
        config = self._own_config
        low, high = config.get("sigma_min"), config.get("sigma_max")
        return curve_named(curve).between(
            sigmas[0] if high is None else high, sigmas[-1] if low is None else low, steps, self.noise_schedule.scaling
        )

    def _spaced(self, steps: int, count: int | None = None) -> Array:
        """`steps` timesteps out of `count`, or out of the training timesteps."""
        config = self.config
        rule = timestep_spacing(config["timestep_spacing"], steps_offset=config["steps_offset"], whole=False)
        return spaced(rule, steps, count or len(self))

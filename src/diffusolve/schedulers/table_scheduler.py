"""The base of schedulers whose networks were trained on discrete timesteps, with a beta at each."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffusolve.arrays import moved
from diffusolve.noise import NoiseSchedule, Scaling, TabulatedSignal
from diffusolve.prediction import Prediction
from diffusolve.schedulers.asked import Asked
from diffusolve.schedulers.flow_sigmas import FlowSigmas
from diffusolve.schedulers.generation import Generation, Prepared
from diffusolve.schedulers.given import check_noise, timesteps_on
from diffusolve.schedulers.scheduler import Scheduler
from diffusolve.schedulers.steps import Array, Steps
from diffusolve.schedulers.tables import Tables, check_entries, check_signal, tables_of
from diffusolve.schedulers.versions import version_of

__all__ = ["TableScheduler"]


class TableScheduler(Scheduler):
    """A scheduler with a table of betas, and what follows from it: shape (num_train_timesteps,), float32.

    As in diffusers the tables are made with the scheduler: a configuration that is written to later says what copies
    and files will have.

    Attributes:
        betas: variance of the noise added at each training timestep.
        alphas, alphas_cumprod: 1 - betas, and their running product, which is alpha^2.
        signal_floor: takes the place of a last alphas_cumprod of zero.
        steps_alone: a step needs the signal at its own timestep, not all along the run.
    """

    signal_floor: ClassVar[float] = 0.0
    steps_alone: ClassVar[bool] = False
    plans_follow_from: ClassVar[frozenset[str]] = Scheduler.plans_follow_from | {"alphas_cumprod"}

    def _configured(self) -> None:
        tables = tables_of(self._own_config, floor=self.signal_floor)
        described = vars(self).get("_tables_described")
        if described is None:
            self._tables = tables
            with torch.inference_mode(False):  # so that writing to them is noticed
                self.betas, self.alphas = tables.betas.clone(), tables.alphas.clone()
                self._signal = tables.alphas_cumprod.clone()
            self._signal_seen = self._signal, 0
        elif tables is not described:
            warnings.warn(
                f"the configuration of this {type(self).__name__} describes other betas now, but its tables were made "
                f"when it was: make another one, {type(self).__name__}.from_config(scheduler.config), or write to "
                "alphas_cumprod.",
                stacklevel=3,
            )
        self._tables_described = tables
        super()._configured()

    def _begin(self, asked: Asked, device: Any) -> Generation:
        if self._flow is None:
            check_entries(self._own_config, self._tables)
            if not self.steps_alone:
                self._check_signal(len(self._tables.noise_schedule.signal) - 1)
        return super()._begin(asked, device)

    def _check_signal(self, noisiest: int) -> None:
        """Raise ValueError if no step can be made at the timestep `noisiest`, for lack of signal."""
        check_signal(self._own_config, self._tables, noisiest)

    @property
    def alphas_cumprod(self) -> Tensor:
        """alpha^2 at each training timestep; from now on it is noticed when it is written to."""
        if not self._signal_is_handed_out:
            self._signal_is_handed_out, self._edition = True, object()
        return self._signal

    @alphas_cumprod.setter
    def alphas_cumprod(self, signal: Tensor) -> None:
        self._signal = signal

    _signal_is_handed_out: bool = False

    def _follow_configuration(self) -> None:
        """Take note of a table that was replaced since, or written to in place, too."""
        super()._follow_configuration()
        if self._signal_is_written_to:
            signal = self._signal
            self._signal_seen = signal, version_of(signal)
            schedule = TabulatedSignal(tuple(signal.double().tolist()))
            if schedule != self._tables.noise_schedule:
                self._tables = Tables(self.betas, self.alphas, signal.detach().cpu().clone(), schedule)
                self._forget_plans()

    @property
    def _signal_is_written_to(self) -> bool:
        """True where `alphas_cumprod` was replaced or changed since plans were made of it."""
        signal, version = self._signal_seen
        return self._signal is not signal or version_of(signal) != version

    @property
    def noise_schedule(self) -> NoiseSchedule:
        """The noise schedule that the configuration describes; flow matching's if it is that of such a model."""
        flow = self._flow
        return self._tables.noise_schedule if flow is None else flow.noise_schedule

    # Flow matching -----------------------------------------------------------------

    @property
    def _flow(self) -> FlowSigmas | None:
        """The rule of flow matching's sigmas, if the configuration asks for these in place of the betas."""
        return None

    @property
    def _prediction(self) -> Prediction:
        flow = self._flow
        return super()._prediction if flow is None else flow.prediction

    def _prepare(self, asked: Asked) -> Prepared:
        flow = self._flow
        return self._prepared_over(self._steps(asked) if flow is None else self._steps_of_flow(flow, asked))

    @property
    def _walks_flow(self) -> bool:
        """True if the configuration asks for sigmas of flow matching, by its own rule or the class's."""
        return self._flow is not None

    def _prepared_over(self, steps: Steps) -> Prepared:
        if self._walks_flow and steps.sigmas.max() > 1.0:
            raise ValueError(
                f"flow matching is asked for in a run whose sigmas reach {steps.sigmas.max():g}, where its own are at "
                "most 1: call set_timesteps after writing to the configuration."
            )
        flow = self._flow
        if flow is None:
            return super()._prepared_over(steps)
        return flow.walked(steps, self._solver(len(steps.timesteps)))

    def _steps_of_flow(self, flow: FlowSigmas, asked: Asked) -> Steps:
        """The steps on flow matching, those of FlowMatchEuler."""
        return flow.steps(asked, flow.equally_spaced(asked.steps))

    def _signal_and_noise(self, like: Tensor, timesteps: Tensor) -> tuple[Any, Tensor]:
        if self._flow is None:
            return super()._signal_and_noise(like, timesteps)
        sigma = self._sigma_at(like, timesteps)
        return 1 - sigma, sigma

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """``(1 - sigma) * sample + sigma * noise`` at each sample's timestep, for flow-matching models.

        Args:
            sample, noise: shape (batch, ...).
            timestep: of the run, or training timesteps before `set_timesteps`, shape (batch,) or ().

        Raises:
            ValueError: the configuration is not that of such a model; :meth:`add_noise` is for others.
        """
        if self.noise_schedule.scaling is not Scaling.FLOW:
            raise ValueError(
                f"scale_noise is for flow-matching models, and this {type(self).__name__} has betas: use add_noise."
            )
        alpha, sigma = TableScheduler._signal_and_noise(self, sample, timestep)  # whatever add_noise of a class does
        check_noise(noise, sample)
        noised: Tensor = alpha * sample + sigma * noise
        return noised

    # Tables -----------------------------------------------------------------

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
        check_noise(noise, sample)
        return alpha * noise - sigma * sample

    def _trained_signal_and_noise(self, like: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) at whole training timesteps, with alpha^2 + sigma^2 = 1, shape (batch, 1, ...), as `like`."""
        timesteps = timesteps_on(timesteps, like)
        table = self._signal
        if table.device != like.device:
            table = moved(table, like.device)
            vars(self)["_signal"] = table  # the same numbers
        power = table.to(like.dtype)[timesteps.long()]
        power = power.reshape(-1, *[1] * (like.ndim - 1))
        return power**0.5, (1 - power) ** 0.5

    @property
    def _fills_in_from_training(self) -> bool:
        return self._flow is None

    def _training_sigma(self, timesteps: Tensor) -> Tensor:
        if self._flow is not None:
            return timesteps.float() / len(self)
        power: Tensor = moved(self._tables.alphas_cumprod, timesteps.device)[timesteps.long()]
        return ((1 - power) / power) ** 0.5

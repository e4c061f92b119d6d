"""Flow matching's sigmas as a configuration with a shift asks for them, whichever class samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from diffusolve.noise import FlowMatching, Scaling, shifted
from diffusolve.prediction import Flow, Prediction
from diffusolve.schedulers.asked import Asked
from diffusolve.schedulers.generation import Prepared
from diffusolve.schedulers.steps import Array, Steps, curve_asked_for, curve_named
from diffusolve.solvers import Solver
from diffusolve.spacing.flow import shift_from_mu, stretched

__all__ = ["FlowSigmas", "ReversedFlow", "ShiftsTime"]

LINE = {"base_shift": 0.5, "base_image_seq_len": 256, "max_shift": 1.15, "max_image_seq_len": 4096}
"""The line over numbers of image tokens that pipelines take `mu` from, unless a configuration says otherwise."""


@dataclass(frozen=True)
class ReversedFlow(Prediction):
    """The output is the velocity ``x0 - noise``, of a network whose time runs from noise to data (Mochi)."""

    name: ClassVar[str] = "reversed_flow"

    def data(self, alpha: float, sigma: float) -> tuple[float, float]:
        total = alpha + sigma
        return 1.0 / total, sigma / total


@dataclass(frozen=True)
class FlowSigmas:
    """The rule by which FlowMatchEuler, and every class that was given its configuration, places its steps.

    The sigmas of a run are equally spaced or given; they are shifted towards noise, then stretched to end at
    `terminal`, then replaced by a `curve` between their ends. Where they are `inverted`, what users see as sigma is the
    share of the data instead.

    Attributes:
        count: the number of training timesteps; the network is told ``count * sigma``.
        shift: how far sigmas are shifted, unless that is `dynamic`: by each run's `mu`, read as `time_shift_type`.
        terminal: the last sigma above 0.
        curve: the configuration key of a curve.
        line: the numbers of :data:`LINE`.
    """

    count: int = 1000
    shift: float = 1.0
    dynamic: bool = False
    time_shift_type: str = "exponential"
    terminal: float | None = None
    curve: str | None = None
    inverted: bool = False
    line: tuple[float, ...] = tuple(LINE.values())

    @classmethod
    def of(cls, config: Mapping[str, Any], shift: float | None = None) -> FlowSigmas:
        """The rule in `config`, whose keys are FlowMatchEuler's; with another `shift` if one is given."""
        return cls(
            count=int(config["num_train_timesteps"]),
            shift=float(config.get("shift") or 1.0) if shift is None else shift,
            dynamic=bool(config.get("use_dynamic_shifting")),
            time_shift_type=config.get("time_shift_type", "exponential"),
            terminal=config.get("shift_terminal"),
            curve=curve_asked_for(config),
            inverted=bool(config.get("invert_sigmas")),
            line=tuple(config.get(key) or usual for key, usual in LINE.items()),
        )

    @property
    def noise_schedule(self) -> FlowMatching:
        """Flow matching with as many training timesteps. The shift is in the sigmas of a run."""
        return FlowMatching(num_train_timesteps=self.count)

    @property
    def prediction(self) -> Prediction:
        """The velocity, from data to noise or the other way."""
        return ReversedFlow() if self.inverted else Flow()

    @property
    def training(self) -> Array:
        """The sigma at each training timestep, the noisiest first, shifted unless that depends on each run's mu."""
        sigmas = np.arange(self.count, 0, -1) / self.count
        return sigmas if self.dynamic else shifted(sigmas, self.shift)

    @property
    def steps_of_training(self) -> Steps:
        """The steps over all training timesteps, and the end."""
        return Steps(self.training * self.count, np.append(self.training, 0.0))

    def equally_spaced(self, steps: int) -> Array:
        """As many sigmas from the first to the last of training."""
        return np.linspace(self.training[0], self.training[-1], steps)

    def steps(self, asked: Asked, equally_spaced: Array) -> Steps:
        """The steps that a call of `set_timesteps` has `asked` for.

        Args:
            asked: the arguments of the call.
            equally_spaced: the sigmas, before they are shifted, of a call that gives none, and no timesteps.

        Raises:
            ValueError: sigmas or timesteps that do not fall or are out of range; `mu` is missing.
        """
        if asked.sigmas is not None:
            sigmas = np.array(asked.sigmas, np.float64)
        elif asked.timesteps is not None:
            sigmas = np.array(asked.timesteps, np.float64) / self.count
        else:
            sigmas = equally_spaced
        self._check(sigmas, asked)
        sigmas = stretched(shifted(sigmas, self._shift_of(asked.mu)), self.terminal)
        if self.curve is not None:
            sigmas = curve_named(self.curve).between(sigmas[0], sigmas[-1], len(sigmas), Scaling.FLOW)
        if self.inverted:
            sigmas = 1.0 - sigmas
            return Steps(sigmas * self.count, np.append(sigmas, 1.0))
        at = sigmas * self.count if asked.timesteps is None else np.array(asked.timesteps, np.float64)
        return Steps(at, np.append(sigmas, 0.0))

    def of_noise(self, steps: Steps) -> Steps:
        """`steps` with the share of the noise for sigma, as solvers have it."""
        return Steps(steps.timesteps, 1.0 - steps.sigmas) if self.inverted else steps

    def walked(self, steps: Steps, solver: Solver) -> Prepared:
        """The findings of a call that places the steps so, for `solver`."""
        return Prepared(
            partial(self.of_noise(steps).grid, self.noise_schedule, None),
            solver,
            self.prediction,
            steps.timesteps.astype(np.float32),
            steps.sigmas.astype(np.float32),
            steps,
        )

    def shown(self, prepared: Prepared) -> Prepared:
        """`prepared` with a timestep and a sigma to show for each evaluation of its plan, and the end."""
        plan = prepared.plan
        sigmas = np.array([*(stage.point.sigma for stage in plan.stages), plan.end.sigma])
        timesteps = np.array(plan.timesteps)
        if self.inverted:  # the solver takes the points between steps for those of a time that falls
            sigmas = 1.0 - sigmas
            timesteps = sigmas[:-1] * self.count
        prepared.sigmas, prepared.timesteps = sigmas.astype(np.float32), timesteps.astype(np.float32)
        return prepared

    def without_mu(self) -> ValueError:
        """The error of a call that leaves out what the shift depends on."""
        low, fewest, high, most = self.line
        return ValueError(
            "mu is missing: use_dynamic_shifting takes the shift from it. Pipelines compute it from the number of "
            f"image tokens, as a line from base_shift ({low:g} at {fewest}) to max_shift ({high:g} at {most})."
        )

    def _check(self, sigmas: Array, asked: Asked) -> None:
        """Raise ValueError unless `sigmas` fall and lie in flow matching's range."""
        if np.all(np.diff(sigmas) < 0.0) and sigmas[-1] > 0.0 and sigmas[0] <= 1.0:
            return
        if asked.sigmas is asked.timesteps is None:
            raise ValueError(
                f"num_inference_steps is {asked.steps}: expected 1 to {self.count}, as there are num_train_timesteps."
            )
        if asked.sigmas is None:
            raise ValueError(
                f"timesteps are {list(asked.timesteps or ())}: expected numbers from {self.count} down to above 0, "
                "strictly decreasing."
            )
        raise ValueError(
            f"sigmas are {list(asked.sigmas)}: expected numbers from 1 down to above 0, strictly decreasing."
        )

    def _shift_of(self, mu: float | None) -> float:
        """The shift of a run's sigmas."""
        if not self.dynamic:
            return self.shift
        if mu is None:
            raise self.without_mu()
        return shift_from_mu(mu, self.time_shift_type)


class ShiftsTime:
    """Functions of diffusers' classes that place steps of flow matching."""

    if TYPE_CHECKING:

        @property
        def config(self) -> Any: ...

    def time_shift(self, mu: float, sigma: float, t: Any) -> Any:
        """``s / (s + (1 / t - 1)**sigma)``, element by element: `t` shifted by s, which `mu` stands for."""
        return _time_shifted(self.config.get("time_shift_type", "exponential"), mu, sigma, t)

    def _time_shift_exponential(self, mu: float, sigma: float, t: Any) -> Any:
        """The same where `mu` is the logarithm of s."""
        return _time_shifted("exponential", mu, sigma, t)

    def _time_shift_linear(self, mu: float, sigma: float, t: Any) -> Any:
        """The same where `mu` is s."""
        return _time_shifted("linear", mu, sigma, t)

    def stretch_shift_to_terminal(self, t: Any) -> Any:
        """The sigmas `t`, an array or tensor, with 1 - t multiplied so that the last one is `shift_terminal`."""
        return stretched(t, self.config.get("shift_terminal"))


def _time_shifted(kind: str, mu: float, sigma: float, t: Any) -> Any:
    shift = shift_from_mu(mu, kind)
    return shift / (shift + (1 / t - 1) ** sigma)

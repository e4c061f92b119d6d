"""The exact solution of a model's probability-flow ODE, to measure samplers by."""

from __future__ import annotations

from collections.abc import Callable
from math import isclose
from typing import Any

from diffusolve.arrays import Array
from diffusolve.denoisers import GaussianDenoiser
from diffusolve.errors import SingularPointError
from diffusolve.noise import Point
from diffusolve.sampling import Progress, Sampler, sample
from diffusolve.solvers import dpmpp_multistep, euler
from diffusolve.spacing import Sigmas, UniformLogSNR

__all__ = ["ExactSolution"]

STEPS = 300
"""The digits network's solution then is a millionth from that of 1000 steps."""


class ExactSolution:
    """The exact solution of a model's probability-flow ODE.

    In closed form for a :class:`~diffusolve.denoisers.GaussianDenoiser`; otherwise by DPM-Solver++ of third order in
    equal steps of log-SNR. The ODE is followed down to the smallest sigma that the model was trained on; from there
    samplers that end at sigma = 0 take the model's prediction of the data, and so does the solution.

    Args:
        network: knows its noise schedule and prediction type.
        on_step: called at each step of a solution that is followed. An exception that it raises ends it.
        steps: how many such a solution takes; 300 when missing.
    """

    def __init__(self, network: Any, on_step: Callable[[Progress], object] | None = None, steps: int = STEPS) -> None:
        self.network = network
        self.on_step = on_step
        self.steps = steps
        self._known: list[tuple[float, float, Array, Array]] = []

    def distance(self, x: Array, begun: Array, start: Point, end: Point) -> float:
        """Root mean square difference of samples `x` at `end` from the exact ones.

        Args:
            x: what a sampler made, shape (batch, ...).
            begun: what it began with at `start`.
            start, end: the ends of the sampler's grid; `end` may be at sigma = 0.

        Raises:
            SingularPointError: `start` is at infinite noise, from where equal steps in log-SNR cannot lead.
        """
        difference = end.scale * x - self.at_end(start.scale * begun, start, end)
        return float((difference**2).mean() ** 0.5)

    def check(self, start: Point) -> None:
        """Raise SingularPointError where no solution is followed from `start`."""
        if start.alpha == 0.0 and not isinstance(self.network, GaussianDenoiser):
            raise SingularPointError(
                f"{self.network.noise_schedule} starts where nothing of the data is left, and the exact solution is "
                "followed in steps of log-SNR, which is infinite there: compare with another model."
            )

    def at_end(self, begun: Array, start: Point, end: Point) -> Array:
        """The exact samples at `end` from `begun` at `start`, both as the network's own scaling scales them."""
        for known_start, known_end, known, result in self._known:
            same_ends = isclose(known_start, start.log_snr) and isclose(known_end, end.log_snr)
            if same_ends and known.shape == begun.shape and abs(known - begun).max() <= 1e-6 * abs(begun).max():
                return result
        result = self._solve(begun, start, end)
        self._known.append((start.log_snr, end.log_snr, begun, result))
        return result

    def _solve(self, begun: Array, start: Point, end: Point) -> Array:
        self.check(start)
        schedule = self.network.noise_schedule
        high, low = (float(schedule.scaling.sigma_from_log_snr(point.log_snr)) for point in (start, end))
        ends_at_data = low == 0.0
        low = low or schedule.sigma_min
        if isinstance(self.network, GaussianDenoiser):
            (a, b), (s, t) = ([float(value) for value in pair] for pair in schedule.scaling.alpha_sigma([high, low]))
            x = self.network.exact(begun, (a, s), (b, t))
        else:
            fine = UniformLogSNR(sigma_min=low, sigma_max=high, final_sigma="sigma_min")
            steps = min(self.steps, schedule.num_train_timesteps)
            order_3 = Sampler(dpmpp_multistep.with_options(order=3), fine)
            x = sample(self.network, begun, order_3, steps=steps, callback=self.on_step)
        if not ends_at_data:
            return x
        return sample(self.network, x, Sampler(euler, Sigmas((low, 0.0))))  # a step to 0 is the data prediction

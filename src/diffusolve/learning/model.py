"""A network as learning sees it: slopes at levels of noise, in batches of one size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from diffusolve.arrays import Array, cast_like, concatenate, is_floating, no_gradients, timesteps_like, to_numpy, widen
from diffusolve.errors import shown
from diffusolve.noise import NoiseSchedule, Scaling
from diffusolve.plan import Plan, Stage
from diffusolve.prediction import PredictionOrName
from diffusolve.sampling import sample, trained_for
from diffusolve.sampling.sample import check_output

__all__ = ["Model", "Rows"]

Rows = tuple[Array, ...]
"""Conditions of some samples, one row for each: what the network is called with besides sample and timestep."""


class Model:
    """A network with what it was trained for, asked in batches.

    Args:
        network: called with samples (batch, ...), timesteps (batch,) and rows of conditions, if there are any.
        like: an array of the shape (batch, ...), precision, library and device of the samples; the batch is the most
            samples that the network is asked about at once.
        noise_schedule, prediction_type: what the network was trained with, where it does not know itself.

    Raises:
        ValueError: the noise schedule or the prediction type is missing.
        TypeError: `like` is no array of floating point numbers.
    """

    def __init__(
        self,
        network: Any,
        like: Array,
        noise_schedule: str | NoiseSchedule | None = None,
        prediction_type: PredictionOrName | None = None,
    ) -> None:
        self.noise_schedule, self.prediction = trained_for(network, noise_schedule, prediction_type)
        if not hasattr(like, "shape"):
            raise TypeError(f"like is {shown(like)}: expected an array of the shape (batch, ...), such as torch.empty.")
        if len(like.shape) < 2:
            raise ValueError(f"like has shape {tuple(like.shape)}: expected a batch of samples, (batch, ...).")
        if 0 in like.shape:
            raise ValueError(f"like has shape {tuple(like.shape)}: expected room for one sample at least.")
        if not is_floating(like):
            raise TypeError(f"like is of {like.dtype}: expected floating point numbers, as of the samples.")
        self.network = network
        self.like = like
        self.batch = int(like.shape[0])
        infinite = not np.isfinite(self.noise_schedule.scaling.log_snr(self.noise_schedule.sigma_max))
        own = self.noise_schedule.scaling
        self.scaling = Scaling.FLOW if infinite or own is Scaling.FLOW else Scaling.VARIANCE_EXPLODING
        """The scaling in which slopes are taken: dx/dsigma = (x - x0) / sigma holds there."""

    def slopes(self, x: Array, stage: Stage, rows: Rows) -> Array:
        """``dx/dsigma`` at samples `x`, shape (count, ...), scaled as `scaling` has it, at the place of `stage`."""
        parts = []
        with no_gradients(x):
            for part, of_part in self.batches(x, rows):
                output = self.output(part, stage.scale, stage.point.timestep, of_part)
                parts.append(slope(part, output, stage))
        return parts[0] if len(parts) == 1 else concatenate(parts)

    def output(self, x: Array, scale: Any, timestep: Any, rows: Rows) -> Array:
        """The network's output for one batch, in the precision of sums."""
        (at,) = timesteps_like([timestep], x)
        return self.ask(scale * x, at, rows)

    def ask(self, x: Array, timesteps: Array, rows: Rows) -> Array:
        """The network's output for `x` as the network sees it, shown in the precision of `like`, widened."""
        output = self.network(cast_like(x, self.like), timesteps, *rows)
        check_output(output, x)
        return widen(output)

    def batches(self, x: Array, rows: Rows) -> Sequence[tuple[Array, Rows]]:
        """Samples and conditions in batches of at most `batch`."""
        cuts = range(0, x.shape[0], self.batch)
        return [(x[cut : cut + self.batch], tuple(row[cut : cut + self.batch] for row in rows)) for cut in cuts]

    def run(self, plan: Plan, x: Array, rows: Rows) -> Array:
        """The samples that `plan` makes of `x`, shape (count, ...), both scaled as `scaling` has it."""
        begins, ends = (self.scaling.norm(point.alpha, point.sigma) for point in (plan.start, plan.end))
        x, parts = begins * x, []
        for part, of_part in self.batches(x, rows):

            def asked(samples: Array, timestep: Array, of_part: Rows = of_part) -> Array:
                return self.ask(samples, timestep, of_part)

            parts.append(sample(asked, part, plan))
        samples = concatenate(parts)
        return samples if ends == 1.0 else samples / ends


def slope(x: Array, output: Array, stage: Stage) -> Array:
    """``(x - x0) / sigma`` of a stage's sample and output."""
    sigma = stage.point.sigma
    return ((1.0 - stage.a) / sigma) * x - (stage.b / sigma) * output


def root_mean_square(x: Array) -> float:
    """Of all elements, summed in float64."""
    wide = to_numpy(x).astype(np.float64)
    return float(np.sqrt(np.mean(wide * wide)))

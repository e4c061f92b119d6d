"""Denoisers in closed form: the best possible network for data whose distribution is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from diffusolve.arrays import Array, array_like, is_torch, namespace, to_numpy
from diffusolve.denoisers.wrap import alpha_sigma_like
from diffusolve.errors import SingularPointError
from diffusolve.noise import NoiseSchedule
from diffusolve.prediction import Prediction, PredictionOrName, Sample, prediction

__all__ = ["DatasetDenoiser", "GaussianDenoiser", "GaussianMixtureDenoiser", "Predicting"]


class GaussianDenoiser:
    """The exact denoiser of data that are normally distributed, each element independent of the others.

    Args:
        noise_schedule: how the data are noised.
        mean, std: of the data; numbers, or arrays of the shape of one sample.
    """

    def __init__(self, noise_schedule: NoiseSchedule, mean: npt.ArrayLike = 0.0, std: npt.ArrayLike = 1.0) -> None:
        self.noise_schedule = noise_schedule
        self.prediction: Prediction = Sample()
        self.mean = np.asarray(mean, np.float64)
        self.std = np.asarray(std, np.float64)
        if not np.all(self.std >= 0):
            raise ValueError(f"std must not be negative; got {std!r}.")

    def __call__(self, x: Array, timestep: Array) -> Array:
        alpha, sigma = alpha_sigma_like(self.noise_schedule, timestep, x)
        mean, variance = array_like(self.mean, x), array_like(self.std**2, x)
        gain = alpha * variance / (alpha**2 * variance + sigma**2)
        return mean + gain * (x - alpha * mean)

    def exact(self, x: Array, start: tuple[float, float], end: tuple[float, float]) -> Array:
        """The sample to which the probability-flow ODE takes `x` from one (alpha, sigma) to another, in closed form."""
        mean, variance = array_like(self.mean, x), array_like(self.std**2, x)
        (a, s), (b, t) = start, end
        ratio = ((b * b * variance + t * t) / (a * a * variance + s * s)) ** 0.5
        return b * mean + ratio * (x - a * mean)


class GaussianMixtureDenoiser:
    """The exact denoiser of a mixture of normal distributions, each with one standard deviation for all elements.

    Args:
        noise_schedule: how the data are noised.
        means: shape (components, ...), the dots being the shape of one sample.
        stds: shape (components,) or one number.
        weights: shape (components,), positive; equal when missing.
        labels: shape (components,), whole numbers: a call may then ask for the components of one label.
    """

    def __init__(
        self,
        noise_schedule: NoiseSchedule,
        means: npt.ArrayLike,
        stds: npt.ArrayLike,
        weights: npt.ArrayLike | None = None,
        labels: npt.ArrayLike | None = None,
    ) -> None:
        self.noise_schedule = noise_schedule
        self.prediction: Prediction = Sample()
        self.means = np.asarray(means, np.float64)
        count = len(self.means)
        if count == 0:
            raise ValueError("there are no components: expected at least one.")
        if np.shape(stds) not in ((), (1,), (count,)):
            raise ValueError(f"stds must be one number or {count}, one per component; got {stds!r}.")
        self.stds = np.broadcast_to(np.asarray(stds, np.float64), (count,))
        self.weights = np.full(count, 1 / count) if weights is None else np.asarray(weights, np.float64)
        self.labels = None if labels is None else np.asarray(labels)
        if self.weights.shape != (count,) or not np.all(self.weights > 0):
            raise ValueError(f"weights must be {count} positive numbers, one per component; got {weights!r}.")
        if not np.all(self.stds >= 0):
            raise ValueError(f"stds must not be negative; got {stds!r}.")
        if self.labels is not None and self.labels.shape != (count,):
            raise ValueError(f"labels must be {count} whole numbers, one per component; got {labels!r}.")

    def __call__(self, x: Array, timestep: Array, label: Array | None = None) -> Array:
        """The posterior mean of the data given samples `x`.

        Args:
            x: shape (batch, ...).
            timestep: shape (batch,).
            label: shape (batch,), which components to choose from; one that no component has means all of them.
        """
        flat = x.reshape((x.shape[0], -1))
        means = array_like(self.means.reshape(len(self.means), -1), x)
        variances, log_weights = array_like(self.stds**2, x), array_like(np.log(self.weights), x)
        alpha, sigma = alpha_sigma_like(self.noise_schedule, timestep, flat)
        noisy = alpha**2 * variances + sigma**2  # (batch, components)
        log = namespace(x).log
        # |x - alpha mean|^2 without the part |x|^2 / noisy, which only matters where the variances differ.
        fit = alpha * (flat @ means.T) - alpha**2 * (means**2).sum(1) / 2
        logits = log_weights + fit / noisy
        if np.ptp(self.stds) > 0:
            logits = logits - (flat**2).sum(1)[:, None] / (2 * noisy) - flat.shape[1] / 2 * log(noisy)
        if label is not None:
            logits = logits + self._mask(label, x)
        posterior = _softmax(logits)
        gain = posterior * (alpha * variances / noisy)
        data = (posterior - alpha * gain) @ means + gain.sum(1)[:, None] * flat
        return data.reshape(x.shape)

    def _mask(self, label: Array, x: Array) -> Array:
        """0 for the components to choose from and -inf for the others, shape (batch, components)."""
        if self.labels is None:
            raise ValueError("this mixture's components have no labels to choose by.")
        wanted = to_numpy(label)[:, None] == self.labels
        wanted |= ~wanted.any(axis=1, keepdims=True)
        return array_like(np.where(wanted, 0.0, -np.inf), x)


class DatasetDenoiser(GaussianMixtureDenoiser):
    """The exact denoiser of a finite data set: sampling with it draws from the data set itself.

    Args:
        noise_schedule: how the data are noised.
        data: shape (count, ...).
        labels: shape (count,), whole numbers: a call may then ask for the data of one label.
    """

    def __init__(self, noise_schedule: NoiseSchedule, data: npt.ArrayLike, labels: npt.ArrayLike | None = None) -> None:
        super().__init__(noise_schedule, data, 0.0, labels=labels)


class Predicting:
    """A denoiser's knowledge in the form of another prediction type, as if a network had been trained for it.

    Args:
        denoiser: predicts the data itself, as all in this module do.
        prediction_type: what to predict instead: epsilon, v_prediction, flow or edm.
    """

    def __init__(self, denoiser: Any, prediction_type: PredictionOrName) -> None:
        self.denoiser = denoiser
        self.prediction = prediction(prediction_type)
        self.noise_schedule: NoiseSchedule = denoiser.noise_schedule

    def __call__(self, x: Array, timestep: Array, *args: Any) -> Array:
        """The output for samples `x`, shape (batch, ...), scaled as a network of this prediction type takes them."""
        numbers = [self._numbers(t) for t in to_numpy(timestep).tolist()]
        shape = (-1, *[1] * (len(x.shape) - 1))
        scale, a, b = (array_like(np.array(column).reshape(shape), x) for column in zip(*numbers, strict=True))
        sample = x / scale
        return (self.denoiser(sample, timestep, *args) - a * sample) / b

    def _numbers(self, timestep: float) -> tuple[float, float, float]:
        alpha, sigma = (float(value) for value in self.noise_schedule.alpha_sigma(timestep))
        a, b = self.prediction.data(alpha, sigma)
        if b == 0.0:
            raise SingularPointError(f"at timestep {timestep:g} the {self.prediction.name} output has no effect.")
        return self.prediction.input_scale(alpha, sigma), a, b


def _softmax(logits: Array) -> Array:
    """Along the last axis."""
    xp = namespace(logits)
    if is_torch(logits):
        return xp.softmax(logits, dim=-1)
    weights = xp.exp(logits - xp.max(logits, axis=-1, keepdims=True))
    return weights / xp.sum(weights, axis=-1, keepdims=True)

"""The base of noise schedules: the questions that each can answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from diffusolve.drawing import Line, Panel, figure_of, html_table, notebook
from diffusolve.errors import check_numbers, shown
from diffusolve.noise.scaling import Scaling

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["NoiseSchedule"]

Array = npt.NDArray[np.float64]

SHOWN, DRAWN = 6, 60
"""The rows of a table and the points of a curve that notebooks show."""

MOST_TIMESTEPS = 100_000
"""The largest number of training timesteps; models have 1,000, some 4,000. Tables of some
hundred configurations are kept in memory; with so many rows they take half a gigabyte."""


class NoiseSchedule(ABC):
    """The amount of noise at each timestep of a model's training, and the way back.

    ``timestep`` is what the network is conditioned on. ``sigma`` alone is the field's number for how noisy a sample is,
    by the convention of the schedule's :class:`Scaling`. All methods take numbers or arrays, work element by element in
    float64 and are exact inverses of each other inside the schedule's range. Schedules are immutable values: equal
    parameters make equal schedules, and plans are cached by them.
    """

    scaling: ClassVar[Scaling]
    """The scaling of the samples that the network was trained on."""

    is_discrete: ClassVar[bool] = False
    """True if the network was trained on whole timesteps only."""

    num_train_timesteps: int
    """The number of equally spaced training indices; timestep spacings choose among them."""

    @abstractmethod
    def sigma(self, timestep: npt.ArrayLike) -> Array:
        """The sigma at `timestep`. Raises ValueError outside the schedule's range."""

    @abstractmethod
    def timestep(self, sigma: npt.ArrayLike) -> Array:
        """The timestep at `sigma`.

        Below the smallest trained sigma this is the first timestep (samples end at sigma = 0, where no network was
        trained). Raises ValueError above the largest sigma.
        """

    @abstractmethod
    def sigma_at_index(self, index: npt.ArrayLike) -> Array:
        """The sigma at training index `index`, a real number in [0, num_train_timesteps - 1]."""

    def alpha_sigma(self, timestep: npt.ArrayLike) -> tuple[Array, Array]:
        """(alpha, sigma) of the network's own samples ``alpha * x0 + sigma * noise`` at `timestep`."""
        return self.scaling.alpha_sigma(self.sigma(timestep))

    def log_snr(self, timestep: npt.ArrayLike) -> Array:
        """``log(alpha / sigma)`` at `timestep`."""
        return self.scaling.log_snr(self.sigma(timestep))

    @property
    def sigma_min(self) -> float:
        """The smallest trained sigma."""
        return float(self.sigma_at_index(0))

    @property
    def sigma_max(self) -> float:
        """The largest trained sigma; infinite (or 1 for flow matching) where no signal is left."""
        return float(self.sigma_at_index(self.num_train_timesteps - 1))

    def plot(self) -> Figure:
        """Sigma and log-SNR of the network's own samples, against the training timesteps.

        Raises:
            ImportError: matplotlib is not installed.
        """
        return figure_of(self.panels(), repr(self))

    def _repr_html_(self) -> str:
        rows = [tuple(f"{value:.6g}" for value in row) for row in self._rows(SHOWN)]
        table = html_table(("timestep", "alpha", "sigma", "log-SNR"), rows, repr(self), text=0)
        return notebook(table, self.panels())

    def panels(self) -> list[Panel]:
        """Two panels to draw: sigma and log-SNR, against the training timesteps."""
        timesteps, _, sigmas, log_snrs = zip(*self._rows(DRAWN), strict=True)
        lines = {"sigma": sigmas, "log(alpha / sigma)": log_snrs}
        return [Panel(name, "timestep", {"": Line(timesteps, y)}, whole=False) for name, y in lines.items()]

    def _rows(self, count: int) -> list[tuple[float, float, float, float]]:
        """Timestep, alpha, sigma and log-SNR at `count` training indices from the first to the last."""
        timesteps = self.timestep(self.sigma_at_index(np.linspace(0, self.num_train_timesteps - 1, count)))
        alphas, sigmas = self.alpha_sigma(timesteps)
        columns = (timesteps, alphas, sigmas, self.log_snr(timesteps))
        return list(zip(*(column.tolist() for column in columns), strict=True))


def check_range(what: str, values: Array, low: float, high: float) -> None:
    """Raise ValueError, naming the first of `values` that is NaN or outside [low, high]."""
    inside = (values >= low) & (values <= high)  # False for NaN
    if not np.all(inside):
        value = float(np.ravel(values)[np.argmin(np.ravel(inside))])
        nearest = low if value < low else high
        hint = "" if np.isnan(value) else f"; the nearest is {nearest:g}"
        raise ValueError(f"{what} {value:g} is outside this noise schedule's range [{low:g}, {high:g}]{hint}.")


def check_sigma(values: Array, sigma_max: float) -> None:
    """Raise ValueError for a `sigma` that is NaN, negative or above the schedule's largest.

    A relative 0.1 % above it passes: published lists of sigmas are rounded.
    """
    inside = (values >= 0.0) & (values <= sigma_max * 1.001)  # False for NaN
    if not (bool(inside) if inside.ndim == 0 else np.all(inside)):
        check_range("sigma", values, 0.0, sigma_max)


def check_parameters(schedule: NoiseSchedule) -> None:
    """Raise ValueError for a parameter that is NaN, or a number of training timesteps that no schedule has."""
    check_numbers(type(schedule).__name__, vars(schedule), ["num_train_timesteps"])
    count = schedule.num_train_timesteps
    if not 2 <= count <= MOST_TIMESTEPS:
        raise ValueError(
            f"num_train_timesteps is {shown(count)}: expected at least 2, and at most {MOST_TIMESTEPS:,}, as each "
            "takes a row of tables."
        )

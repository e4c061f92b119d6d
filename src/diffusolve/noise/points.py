"""Points of a noise schedule, and the grid of points that a solver walks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, overload

import numpy as np
import numpy.typing as npt

from diffusolve.drawing import figure_of, html_table, level_panels, notebook
from diffusolve.errors import SingularPointError
from diffusolve.noise.scaling import Scaling
from diffusolve.noise.schedule import check_sigma

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from diffusolve.noise.schedule import NoiseSchedule

__all__ = ["Grid", "Point"]


@dataclass(frozen=True, slots=True)
class Point:
    """One place on a noise schedule: samples there are ``alpha * x0 + sigma * noise``.

    ``timestep`` is what the network is conditioned on (an int for discrete models). ``scale`` takes a sample from
    the grid's scaling to the scaling that the network was trained in: the network sees ``scale * x``.
    """

    timestep: float
    alpha: float
    sigma: float
    scale: float = 1.0
    log_snr: float = field(init=False, compare=False, repr=False)
    """``log(alpha / sigma)``, the papers' lambda: +inf where sigma is 0, -inf where alpha is 0."""

    def __post_init__(self) -> None:
        if self.sigma == 0.0:
            log_snr = math.inf
        elif self.alpha == 0.0:
            log_snr = -math.inf
        else:
            log_snr = math.log(self.alpha / self.sigma)
        object.__setattr__(self, "log_snr", log_snr)


@dataclass(frozen=True, repr=False)
class Grid(Sequence[Point]):
    """The points that a solver walks, from noise to data.

    A sequence of :class:`Point`; ``grid[0]`` is where sampling starts, ``grid[-1]`` where it ends. A solver that
    evaluates the network between two of them makes the point in between with :meth:`at_sigma`,
    :meth:`at_log_snr` or :meth:`at_timestep`.
    """

    points: tuple[Point, ...]
    noise_schedule: NoiseSchedule
    scaling: Scaling

    @classmethod
    def from_sigmas(
        cls,
        noise_schedule: NoiseSchedule,
        sigmas: npt.ArrayLike,
        timesteps: npt.ArrayLike | None = None,
    ) -> Grid:
        """The grid of given `sigmas` in the schedule's own scaling, the largest first and the last one usually 0.

        Args:
            noise_schedule: the schedule that the network was trained with.
            sigmas: shape (steps + 1,), in the schedule's own convention (see :class:`Scaling`).
            timesteps: shape (steps,) or (steps + 1,); where missing, the schedule's timesteps of the sigmas.

        Raises:
            ValueError: sigmas that are not strictly decreasing, negative, NaN or fewer than two; timesteps that are
                NaN or of another number.
        """
        sigma = _checked_sigmas(sigmas)
        if noise_schedule.scaling is Scaling.FLOW:  # here alpha is 1 - sigma, whatever the timesteps
            check_sigma(sigma, 1.0)
            sigma = _checked_sigmas(np.minimum(sigma, 1.0))
        if timesteps is None:
            at = noise_schedule.timestep(sigma)
        else:
            at = _checked_timesteps(timesteps, len(sigma))
            if len(at) == len(sigma) - 1:
                at = np.append(at, noise_schedule.timestep(sigma[-1]))
        return cls.through(noise_schedule, sigma, at)

    @classmethod
    def through(
        cls, noise_schedule: NoiseSchedule, sigma: npt.NDArray[np.float64], at: npt.NDArray[np.float64]
    ) -> Grid:
        """The grid through exactly these sigmas and timesteps, shape (steps + 1,) each, which nothing checks."""
        alphas, sigmas_ = noise_schedule.scaling.alpha_sigma(sigma)
        discrete = noise_schedule.is_discrete and bool(np.all(at == np.rint(at)))
        times: list[float] = at.astype(np.int64).tolist() if discrete else at.tolist()
        points = map(Point, times, alphas.tolist(), sigmas_.tolist())
        return cls(tuple(points), noise_schedule, noise_schedule.scaling)

    def in_scaling(self, scaling: Scaling) -> Grid:
        """The same points for samples scaled as `scaling` has it.

        Raises:
            SingularPointError: samples of a point cannot be scaled so, since nothing of the data is left there.
        """
        return (
            self
            if scaling is self.scaling
            else Grid(tuple(_in_scaling(p, scaling) for p in self), self.noise_schedule, scaling)
        )

    def at_sigma(self, sigma: float, *, allow_untrained: bool = False) -> Point:
        """The point where samples of this grid carry noise of standard deviation `sigma` (in the grid's scaling).

        With `allow_untrained` it may be noisier than any point in training, and then has the timestep of the noisiest
        of these; otherwise that is a ValueError.
        """
        if self.scaling is Scaling.VARIANCE_PRESERVING:
            return self._at(sigma / math.sqrt(1.0 - sigma * sigma), allow_untrained)
        return self._at(sigma, allow_untrained)

    def at_log_snr(self, log_snr: float, *, allow_untrained: bool = False) -> Point:
        """The point where ``log(alpha / sigma)`` is `log_snr`; `allow_untrained` as in :meth:`at_sigma`."""
        return self._at(float(self.scaling.sigma_from_log_snr(log_snr)), allow_untrained)

    def at_timestep(self, timestep: float) -> Point:
        """The point that has `timestep` on the noise schedule."""
        alpha, sigma = (float(value) for value in self.noise_schedule.alpha_sigma(timestep))
        whole = self.noise_schedule.is_discrete and timestep == int(timestep)
        return _in_scaling(Point(int(timestep) if whole else timestep, alpha, sigma), self.scaling)

    def _at(self, sigma: float, allow_untrained: bool) -> Point:
        """The point at `sigma`, by the convention of the grid's scaling."""
        alpha, sigma_ = self.scaling.scales(sigma)
        own = self.noise_schedule.scaling
        norm = own.norm(alpha, sigma_)
        own_sigma = sigma_ / norm if own is Scaling.FLOW else sigma_ / alpha if alpha else math.inf
        if allow_untrained:
            own_sigma = min(own_sigma, self.noise_schedule.sigma_max)
        return Point(float(self.noise_schedule.timestep(own_sigma)), alpha, sigma_, 1.0 / norm)

    @cached_property
    def sigmas(self) -> npt.NDArray[np.float64]:
        """Standard deviation of the noise at each point, shape (steps + 1,)."""
        return np.array([point.sigma for point in self.points])

    @cached_property
    def timesteps(self) -> npt.NDArray[np.float64] | npt.NDArray[np.int64]:
        """The timestep that the network is conditioned on at each point but the last, shape (steps,)."""
        return np.array([point.timestep for point in self.points[:-1]])

    @property
    def steps(self) -> int:
        """The number of steps from the first point to the last."""
        return len(self.points) - 1

    def plot(self) -> Figure:
        """Sigma and log-SNR over the steps.

        Raises:
            ImportError: matplotlib is not installed.
        """
        return figure_of(level_panels(list(enumerate(self.points))), f"{self.steps} steps on {self.noise_schedule}")

    def _repr_html_(self) -> str:
        rows = [
            (step, f"{point.timestep:.6g}", f"{point.alpha:.6g}", f"{point.sigma:.6g}", f"{point.log_snr:.4g}")
            for step, point in enumerate(self.points)
        ]
        table = html_table(("step", "timestep", "alpha", "sigma", "log-SNR"), rows, repr(self)[1:-1], text=0)
        return notebook(table, level_panels(list(enumerate(self.points))))

    def __repr__(self) -> str:
        first, last = self.points[0], self.points[-1]
        ends = f"timestep {first.timestep:g} to {last.timestep:g}, sigma {first.sigma:g} to {last.sigma:g}"
        return f"<Grid of {self.steps} steps on {self.noise_schedule}, {self.scaling}: {ends}>"

    def __len__(self) -> int:
        return len(self.points)

    def __iter__(self) -> Iterator[Point]:
        return iter(self.points)

    @overload
    def __getitem__(self, index: int) -> Point: ...
    @overload
    def __getitem__(self, index: slice) -> Grid: ...
    def __getitem__(self, index: int | slice) -> Point | Grid:
        if isinstance(index, slice):
            return Grid(self.points[index], self.noise_schedule, self.scaling)
        return self.points[index]

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_hash"}  # differs in other processes

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.points, self.noise_schedule, self.scaling))


def _in_scaling(point: Point, scaling: Scaling) -> Point:
    norm = scaling.norm(point.alpha, point.sigma)
    if norm == 0.0:
        raise SingularPointError(
            f"sigma / alpha is infinite at timestep {point.timestep:g} (no signal is left there), so samples cannot be "
            f"scaled to alpha = 1: use the scaling {Scaling.FLOW}, or start at a smaller timestep."
        )
    return Point(point.timestep, point.alpha / norm, point.sigma / norm, point.scale * norm)


def _checked_sigmas(sigmas: npt.ArrayLike) -> npt.NDArray[np.float64]:
    sigma = np.asarray(sigmas, np.float64)
    if sigma.ndim != 1 or len(sigma) < 2:
        raise ValueError(
            f"sigmas must be a list of at least two numbers, where to start and where to end (usually 0); got shape "
            f"{sigma.shape}."
        )
    for index, value in enumerate(sigma.tolist()):
        if math.isnan(value):
            raise ValueError(f"sigmas[{index}] is NaN: expected numbers, strictly decreasing, the last one >= 0.")
        if value < 0.0:
            raise ValueError(f"sigmas[{index}] is {value:g}: expected sigma >= 0 (0 is the data itself).")
    falls = sigma[1:] < sigma[:-1]
    if not np.all(falls):
        index = int(np.argmin(falls))
        raise ValueError(
            f"sigmas must strictly decrease, but sigmas[{index}] = {sigma[index]:g} is followed by "
            f"sigmas[{index + 1}] = {sigma[index + 1]:g}."
            + (" They increase: reverse the list." if np.all(sigma[1:] > sigma[:-1]) else "")
        )
    return sigma


def _checked_timesteps(timesteps: npt.ArrayLike, count: int) -> npt.NDArray[np.float64]:
    at = np.asarray(timesteps, np.float64)
    if at.shape not in ((count,), (count - 1,)):
        raise ValueError(
            f"{count} sigmas need {count - 1} timesteps (the last sigma is not evaluated) or {count}; got shape "
            f"{at.shape}."
        )
    if np.isnan(at).any():
        raise ValueError(f"timesteps[{int(np.argmax(np.isnan(at)))}] is NaN.")
    return at

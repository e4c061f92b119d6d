"""Spacings over the training timesteps."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from diffusolve.noise import Grid, NoiseSchedule, Scaling
from diffusolve.spacing.base import Array, Spacing, checked_steps
from diffusolve.spacing.scipy_special import beta_quantile

__all__ = [
    "Beta",
    "Counted",
    "Distilled",
    "Leading",
    "LeadingIntervals",
    "Linspace",
    "Simple",
    "Timesteps",
    "Trailing",
]


@dataclass(frozen=True, kw_only=True)
class IndexSpacing(Spacing):
    """A choice among the training indices 0 ... num_train_timesteps - 1, which are a discrete model's timesteps."""

    @abstractmethod
    def indices(self, steps: int, count: int) -> Array:
        """The `steps` training indices, from the noisiest, out of `count`."""

    def grid(self, noise_schedule: NoiseSchedule, steps: int | None = None) -> Grid:
        count = noise_schedule.num_train_timesteps
        return grid_at_indices(noise_schedule, self._on(noise_schedule, checked_steps(steps, count)), self)

    def _on(self, noise_schedule: NoiseSchedule, steps: int) -> Array:
        """The :meth:`indices` on `noise_schedule`."""
        return self.indices(steps, noise_schedule.num_train_timesteps)


def grid_at_indices(noise_schedule: NoiseSchedule, indices: Array, spacing: Spacing) -> Grid:
    """The grid over training `indices`, ended as `spacing` says."""
    if spacing.final_sigma == "sigma_min":
        if indices[-1] <= 0:
            raise ValueError(
                f"{spacing} already ends at the smallest sigma, so no step can lead there: use final_sigma='zero'."
            )
        indices = np.append(indices, 0.0)
        sigmas = noise_schedule.sigma_at_index(indices)
    else:
        sigmas = np.append(noise_schedule.sigma_at_index(indices), 0.0)
    if noise_schedule.is_discrete:
        return Grid.from_sigmas(noise_schedule, sigmas, indices)
    return Grid.from_sigmas(noise_schedule, sigmas)


@dataclass(frozen=True, kw_only=True)
class Linspace(IndexSpacing):
    """Equally spaced from the last training timestep down: "Uniform" in A1111, "normal" in ComfyUI.

    Args:
        to_first: whether the last index is the first training timestep. If not, the indices are those of one step
            more without the lowest, since the last step leads from there to the end anyway ("SGM uniform").
        whole: round to whole timesteps.
        from_first: as diffusers counts: a single step stands at the first timestep, not at the last, and what is half
            way between two timesteps is rounded to where it goes when they are counted from the first up.
        shifted_twice: on flow matching, the smallest sigma, which is shifted already, is taken for a time and shifted
            again, as ComfyUI's "normal" and "sgm_uniform" have it: with a shift of 3 the last sigma is 0.0089 in place
            of 0.0030.
    """

    to_first: bool = True
    whole: bool = False
    from_first: bool = False
    shifted_twice: bool = False

    def indices(self, steps: int, count: int) -> Array:
        chosen = steps if self.to_first else steps + 1
        if self.from_first and (self.whole or chosen == 1):
            all_indices = np.linspace(0, count - 1, chosen)[::-1][:steps]
        else:
            all_indices = np.linspace(count - 1, 0, chosen)[:steps]
        return np.rint(all_indices) if self.whole else all_indices

    def _on(self, noise_schedule: NoiseSchedule, steps: int) -> Array:
        indices = super()._on(noise_schedule, steps)
        if not self.shifted_twice or noise_schedule.scaling is not Scaling.FLOW:
            return indices
        last = noise_schedule.num_train_timesteps - 1
        lowest = noise_schedule.num_train_timesteps * noise_schedule.sigma_min - 1
        return np.asarray(lowest + indices * (last - lowest) / last)


@dataclass(frozen=True, kw_only=True)
class Leading(IndexSpacing):
    """Every (count // steps)-th timestep counted from the first, as DDIM's original code has it.

    With offset 1 this is "DDIM" in A1111 and "ddim_uniform" in ComfyUI, which count on `to_end`.

    Args:
        steps_offset: added to every timestep; Stable Diffusion 1.x uses 1.
        to_first: whether the last index is the first training timestep (and the offset). If not, the indices are those
            of one step more without the lowest, as the DPM-Solver family of diffusers has them.
        to_end: count on to the end of the table, as A1111 and ComfyUI have it: where count / steps is not whole there
            are more steps than were asked for.
    """

    steps_offset: int = 0
    to_first: bool = True
    to_end: bool = False

    def indices(self, steps: int, count: int) -> Array:
        if self.to_end:
            return np.arange(self.steps_offset, count, count // steps, dtype=np.float64)[::-1]
        chosen = steps if self.to_first else steps + 1
        indices = np.arange(chosen - 1, -1, -1.0) * (count // chosen) + self.steps_offset
        if self.steps_offset < 0 or indices[0] > count - 1:
            most = count - 1 - (chosen - 1) * (count // chosen)
            raise ValueError(
                f"steps_offset is {self.steps_offset}: with {chosen} of {count} timesteps it must be from 0 to {most}."
            )
        return indices[:steps]


@dataclass(frozen=True, kw_only=True)
class LeadingIntervals(IndexSpacing):
    """The steps between every (count // steps)-th timestep counted from the first, the last of which is their end.

    A1111's DDIM and PLMS: where count / steps is whole there is a step less than was asked for.

    Args:
        steps_offset: added to every timestep, but for what is beyond the last one.
    """

    steps_offset: int = 1

    def indices(self, steps: int, count: int) -> Array:
        indices = np.arange(0.0, count, count // steps)[::-1] + self.steps_offset
        return indices.clip(max=count - 1.0)

    def grid(self, noise_schedule: NoiseSchedule, steps: int | None = None) -> Grid:
        indices = self._on(noise_schedule, checked_steps(steps, noise_schedule.num_train_timesteps))
        if len(indices) < 2:
            raise ValueError(f"steps is {steps}: expected at least 2, since the last of the timesteps is the end.")
        if len(set(indices.tolist())) < len(indices):
            raise ValueError(
                f"steps is {steps}: with steps_offset={self.steps_offset} two of them begin at the last timestep; use "
                f"at most {noise_schedule.num_train_timesteps // 2}."
            )
        sigmas = noise_schedule.sigma_at_index(indices)
        return Grid.from_sigmas(noise_schedule, sigmas, indices if noise_schedule.is_discrete else None)


@dataclass(frozen=True, kw_only=True)
class Counted(Spacing):
    """Another spacing, of as many steps as there are (count // steps)-th timesteps, as A1111's UniPC has it.

    That is a step more than was asked for where count / steps is not whole.

    Args:
        inner: where so many steps fall.
    """

    inner: Spacing

    def grid(self, noise_schedule: NoiseSchedule, steps: int | None = None) -> Grid:
        count = noise_schedule.num_train_timesteps
        return self.inner.grid(noise_schedule, len(range(0, count, count // checked_steps(steps, count))))


@dataclass(frozen=True, kw_only=True)
class Trailing(IndexSpacing):
    """Every (count / steps)-th timestep counted back from the last (Lin et al. 2023, table 2).

    Args:
        stride: from timestep to timestep, where it is not to follow from the number of steps. There are then only as
            many indices as there is room for, at most one for each step; they add the stride up, as diffusers' DDIM
            does, which decides about what is half way between two timesteps.
    """

    stride: float | None = None

    def indices(self, steps: int, count: int) -> Array:
        if self.stride is not None:
            if not 0.0 < self.stride <= count:
                raise ValueError(
                    f"stride is {self.stride:g}: expected above 0 and up to {count}, the timesteps (with "
                    "lambda_min_clipped of a scheduler those that it leaves)."
                )
            return np.asarray(np.rint(np.arange(count, 0, -self.stride)) - 1, np.float64)[:steps]
        return np.asarray(np.rint(count - np.arange(steps) * (count / steps)) - 1, np.float64)


@dataclass(frozen=True, kw_only=True)
class Distilled(IndexSpacing):
    """Timesteps out of those that a consistency model was distilled on (Luo et al. 2023, section 4.3).

    Args:
        original_steps: the number of timesteps of the distillation, every (count // original_steps)-th one.
        strength: the share of these timesteps, the noisiest left out, that image to image walks: above 0, up to 1.
    """

    original_steps: int = 50
    strength: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.strength <= 1.0:
            raise ValueError(f"strength is {self.strength:g}: expected a share of the timesteps, above 0 and up to 1.")

    def indices(self, steps: int, count: int) -> Array:
        if not 0 < self.original_steps <= count:
            raise ValueError(
                f"original_steps is {self.original_steps} (original_inference_steps of a scheduler): expected 1 to "
                f"{count}, as there are num_train_timesteps."
            )
        walked = int(self.original_steps * self.strength)
        if steps > walked:
            raise ValueError(
                f"{steps} steps are asked for, but {self.original_steps} timesteps of distillation (original_steps, or "
                f"original_inference_steps of a scheduler) and a strength of "
                f"{self.strength:g} leave {walked}: take at most as many steps, or more timesteps of distillation."
            )
        chosen = np.floor(np.linspace(0, walked, steps, endpoint=False))
        return np.asarray((walked - chosen) * (count // self.original_steps) - 1, np.float64)


@dataclass(frozen=True, kw_only=True)
class Simple(IndexSpacing):
    """Every (count / steps)-th timestep counted back from the last, rounded up ("simple" in ComfyUI, A1111).

    :class:`Trailing` rounds to the nearest instead.
    """

    def indices(self, steps: int, count: int) -> Array:
        # In floats, as these programs have it: 19 * (1000 / 38) is below 500 there.
        return np.asarray(count - 1 - np.floor(np.arange(steps) * (count / steps)), np.float64)


@dataclass(frozen=True, kw_only=True)
class Beta(IndexSpacing):
    """Quantiles of a Beta distribution over the timesteps: denser at both ends (Lee et al. 2024, "Beta Sampling").

    Needs SciPy. This is ComfyUI's "beta", which rounds; A1111's "Beta" is :class:`BetaSigmas`.

    Args:
        alpha, beta: the distribution's parameters, both > 0.
        whole: round to whole timesteps. There must then be few enough steps for all of them to differ.
        distinct: leave out timesteps that were rounded to the one before, as ComfyUI does, so that there may be fewer
            steps than were asked for.
    """

    alpha: float = 0.6
    beta: float = 0.6
    whole: bool = False
    distinct: bool = False

    def indices(self, steps: int, count: int) -> Array:
        quantiles = beta_quantile(1.0 - np.arange(steps) / steps, self.alpha, self.beta)
        indices = np.asarray(quantiles * (count - 1))
        if not self.whole:
            return indices
        indices = np.rint(indices)
        if self.distinct:
            return np.unique(indices)[::-1]
        if len(np.unique(indices)) < steps:
            raise ValueError(
                f"steps is {steps}, but only {len(np.unique(indices))} of their timesteps differ when rounded: use "
                "fewer steps, or whole=False."
            )
        return indices


@dataclass(frozen=True)
class Timesteps(Spacing):
    """Given timesteps, strictly decreasing.

    Args:
        timesteps: what the network is conditioned on at each step.
    """

    timesteps: tuple[float, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "timesteps", tuple(self.timesteps))
        if not self.timesteps:
            raise ValueError("there are no timesteps: expected at least one, where to start.")

    def grid(self, noise_schedule: NoiseSchedule, steps: int | None = None) -> Grid:
        if steps is not None and steps != len(self.timesteps):
            raise ValueError(f"steps is {steps}, but {len(self.timesteps)} timesteps are given: leave steps out.")
        at = np.array(self.timesteps, np.float64)
        sigmas = noise_schedule.sigma(at)
        falls = sigmas[1:] < sigmas[:-1]
        if not np.all(falls):
            index = int(np.argmin(falls))
            raise ValueError(
                f"timesteps must strictly decrease, but timesteps[{index}] = {self.timesteps[index]:g} is followed "
                f"by {self.timesteps[index + 1]:g}."
            )
        end = noise_schedule.sigma_min if self.final_sigma == "sigma_min" else 0.0
        return Grid.from_sigmas(noise_schedule, np.append(sigmas, end), at)

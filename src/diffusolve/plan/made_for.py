"""The check that a plan is one for a given network: prediction type and noise schedule."""

from __future__ import annotations

from math import isfinite

from diffusolve.noise import NoiseSchedule
from diffusolve.plan.plan import Plan
from diffusolve.prediction import Prediction

__all__ = ["WIDEST_SHIFT", "check_made_for", "check_noise_schedule", "check_prediction"]

WIDEST_SHIFT = 0.5
"""The farthest that a told log-SNR may be learned to be from the sample's own."""

ROUNDING = 0.05
"""The error of whole timesteps besides, in log-SNR."""


def check_made_for(plan: Plan, noise_schedule: NoiseSchedule, prediction: Prediction) -> None:
    """Raise ValueError if `plan` is for networks of another prediction type or noise schedule."""
    check_prediction(plan, prediction)
    check_noise_schedule(plan, noise_schedule)


def check_prediction(plan: Plan, prediction: Prediction) -> None:
    """Raise ValueError if `plan` is for networks of another prediction type."""
    if plan.prediction != prediction.description:
        raise ValueError(
            f"the plan was made for {plan.prediction} prediction, but the network predicts {prediction.description}."
        )


def check_noise_schedule(plan: Plan, noise_schedule: NoiseSchedule) -> None:
    """Raise ValueError unless the timesteps of `plan` are those of its sigmas on `noise_schedule`.

    They may be off by as much as a learned plan may tell its network.
    """
    for stage in plan.stages:
        timestep = stage.point.timestep
        try:
            told = float(noise_schedule.log_snr(timestep))
        except ValueError:
            told = float("nan")
        own = stage.point.log_snr
        apart = abs(told - own) if isfinite(told) and isfinite(own) else (0.0 if told == own else float("inf"))
        if not apart <= WIDEST_SHIFT + ROUNDING:
            raise ValueError(
                f"the plan was made for another noise schedule: at timestep {timestep:g} its log-SNR is {own:.3f}, but "
                f"{told:.3f} on the network's, {noise_schedule}."
            )

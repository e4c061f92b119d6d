"""The noise schedules of well-known models, by name."""

from __future__ import annotations

import math

from diffusolve.errors import unknown_name
from diffusolve.noise.cosine import Cosine
from diffusolve.noise.flow_matching import FlowMatching
from diffusolve.noise.schedule import NoiseSchedule
from diffusolve.noise.variance_exploding import VarianceExploding
from diffusolve.noise.variance_preserving import VariancePreserving

__all__ = ["NOISE_SCHEDULES", "SD15", "noise_schedule"]

SD15 = VariancePreserving(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
"""Stable Diffusion 1.x, 2.x and XL."""

NOISE_SCHEDULES: dict[str, NoiseSchedule] = {
    "sd15": SD15,
    "sdxl": SD15,
    "ddpm": VariancePreserving(),
    "iddpm": VariancePreserving(beta_schedule="squaredcos_cap_v2"),
    "cosine": Cosine(),
    "edm": VarianceExploding(conditioning="edm"),
    "sd3": FlowMatching(shift=3.0),
    "flux": FlowMatching(shift=math.exp(1.15)),  # at 1024 x 1024; Flux shifts by the size of the image
}
"""Name -> schedule."""


def noise_schedule(name: str | NoiseSchedule) -> NoiseSchedule:
    """The noise schedule called `name`, one of :data:`NOISE_SCHEDULES`; one given is returned.

    >>> noise_schedule("sd3")
    FlowMatching(shift=3.0, num_train_timesteps=1000)

    Raises:
        UnknownNameError: no such schedule; the nearest names are offered.
        TypeError: neither a name nor a noise schedule.
    """
    if isinstance(name, NoiseSchedule):
        return name
    if not isinstance(name, str):
        raise TypeError(
            f"noise_schedule is {name!r}: expected a name ({', '.join(NOISE_SCHEDULES)}) or a NoiseSchedule."
        )
    if name not in NOISE_SCHEDULES:
        raise unknown_name("noise schedule", name, NOISE_SCHEDULES)
    return NOISE_SCHEDULES[name]

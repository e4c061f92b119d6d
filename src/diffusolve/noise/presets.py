"""The noise schedules of well-known models, by name."""

from __future__ import annotations

import math

from diffusolve.errors import unknown_name
from diffusolve.noise.cosine import Cosine
from diffusolve.noise.flow_matching import FlowMatching
from diffusolve.noise.schedule import NoiseSchedule
from diffusolve.noise.variance_exploding import VarianceExploding
from diffusolve.noise.variance_preserving import VariancePreserving

__all__ = ["EDM", "FLUX", "NOISE_SCHEDULES", "SD3", "SD15", "SDXL", "noise_schedule"]

SD15 = VariancePreserving(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
"""Stable Diffusion 1.x and 2.x."""

SDXL = SD15
"""Stable Diffusion XL, which has the betas of 1.x."""

EDM = VarianceExploding(conditioning="edm")
"""The networks of Karras et al. 2022, sigma from 0.002 to 80, told log(sigma) / 4."""

SD3 = FlowMatching(shift=3.0)
"""Stable Diffusion 3."""

FLUX = FlowMatching(shift=math.exp(1.15))
"""Flux at 1024 x 1024; it shifts by the size of the image."""

NOISE_SCHEDULES: dict[str, NoiseSchedule] = {
    "sd15": SD15,
    "sdxl": SDXL,
    "ddpm": VariancePreserving(),
    "iddpm": VariancePreserving(beta_schedule="squaredcos_cap_v2"),
    "cosine": Cosine(),
    "edm": EDM,
    "sd3": SD3,
    "flux": FLUX,
}
"""Name -> schedule. The capitalised names are those of models; ddpm, iddpm and cosine those of papers."""


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

"""Curves of levels of several kinds, to begin a search from."""

from __future__ import annotations

from collections.abc import Iterator

from diffusolve.learning.model import Model
from diffusolve.noise import Scaling
from diffusolve.spacing import Beta, Karras, KLOptimal, Polyexponential, Spacing

__all__ = ["curves"]

ENDS = (0.07, 0.15, 0.3)
"""Sigma / alpha of the last level of curves whose end can be chosen, besides the least of training."""

SHAPES = ((0.5, 0.6), (0.5, 0.8), (0.5, 1.0), (0.7, 1.0), (0.7, 1.4))
"""Parameters of Beta distributions over the timesteps."""


def curves(model: Model) -> Iterator[tuple[str, Spacing]]:
    """Names and spacings, from the noisiest level of training down to several ends."""
    for alpha, beta in SHAPES:
        yield f"Beta({alpha:g}, {beta:g})", Beta(alpha=alpha, beta=beta)
    flow = model.noise_schedule.scaling is Scaling.FLOW
    for end in ENDS:
        low = end / (1.0 + end) if flow else end
        for rho in (3.0, 5.0, 8.0):
            yield f"Karras(rho={rho:g}, end={end:g})", Karras(rho=rho, sigma_min=low)
        for spread in (0.5, 1.0, 2.0):
            yield f"KL(sigma={spread:g}, end={end:g})", KLOptimal(sigma_data=spread, sigma_min=low, of="ratio")
        yield f"log-SNR(end={end:g})", Polyexponential(sigma_min=low, rho=1.0)

"""One-step methods of first order: Euler, DDIM, Euler ancestral."""

from __future__ import annotations

from itertools import pairwise
from math import inf

from diffusolve.noise import Grid
from diffusolve.solvers.ancestral import ancestral_noise
from diffusolve.solvers.checks import check_eta
from diffusolve.solvers.churn import churn
from diffusolve.solvers.exponential import ddim_step
from diffusolve.solvers.requests import Evaluate, Noise, SolverRun, Value
from diffusolve.solvers.solver import solver

__all__ = ["euler"]


@solver(
    paper="Song et al. 2021, Denoising Diffusion Implicit Models, equations 12 and 16; Karras et al. 2022, algorithm 2"
)
def euler(
    grid: Grid,
    x: Value,
    *,
    eta: float = 0.0,
    s_noise: float = 1.0,
    unclipped_noise: bool = False,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = inf,
    ancestral: str = "posterior",
    cfg_pp: bool = False,
) -> SolverRun:
    """Euler's method for the probability-flow ODE, which is DDIM; with ``eta=1`` Euler ancestral, which is DDPM.

    Args:
        eta: how much noise a step replaces by fresh noise. With 1 it is as much as the posterior of the forward process
            holds (Karras et al.'s "ancestral" step and DDIM's equation 16 are the same number).
        s_noise: multiplies the noise.
        unclipped_noise: where data predictions are clipped, leave the noise as the network predicted it, which the
            clipped data no longer agree with; else it is what separates the sample from the clipped data.
        s_churn: how much noise a step adds before it begins, as a part of sigma / alpha and times the number of steps
            (:func:`~diffusolve.solvers.churn.churn`); 0 adds none.
        s_tmin, s_tmax: the range of sigma / alpha where noise is added.
        ancestral: "posterior", or "rectified": on flow matching replace as much noise as ComfyUI does there
            (:func:`~diffusolve.solvers.ancestral.ancestral_noise`).
        cfg_pp: the noise that is left is the network's without guidance, and the data those with it: DDIM CFG++, Euler
            CFG++ and, with ``eta=1``, Euler ancestral CFG++ (Chung et al. 2024, algorithm 2). The guidance scale is
            then to be from 0 to 1, see :mod:`diffusolve.solvers.cfg_pp`.
    """
    check_eta(eta)
    if cfg_pp and unclipped_noise:
        raise ValueError(
            "cfg_pp and unclipped_noise both say which noise is left in the sample: with cfg_pp it is the unguided "
            "network's, as it is. Leave one of them out."
        )
    for s, t in pairwise(grid):
        x, s = yield from churn(grid, x, s, s_churn, s_tmin, s_tmax, s_noise)
        x, data, *others = yield Evaluate(x, s, unclipped=unclipped_noise, unguided=cfg_pp)
        up, down = ancestral_noise(s, t, eta, ancestral, grid.scaling)
        x = ddim_step(x, data, s, down)
        for other in others:  # the data prediction that the noise left in the sample belongs to
            x = x + (s.alpha * down.sigma / s.sigma) * (data - other)
        if up > 0:
            x = x + (s_noise * up) * (yield Noise(s, t))
    return x

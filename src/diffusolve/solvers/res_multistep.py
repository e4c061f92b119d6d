"""RES multistep: the refined exponential solver with one evaluation a step, also ancestral."""

from __future__ import annotations

from itertools import pairwise
from math import inf

from diffusolve.noise import Grid
from diffusolve.solvers.ancestral import split_noise
from diffusolve.solvers.cfg_pp import renoised
from diffusolve.solvers.checks import check_eta, check_past
from diffusolve.solvers.exponential import data_step, z_phi
from diffusolve.solvers.requests import Evaluate, Keep, Noise, SolverRun, Value
from diffusolve.solvers.solver import solver

__all__ = ["res_multistep"]


@solver(
    paper="Zhang et al. 2023, Improved Order Analysis and Design of Exponential Integrator for Diffusion Models "
    "Sampling (RES, multistep, order 2)"
)
def res_multistep(
    grid: Grid,
    x: Value,
    *,
    eta: float = 0.0,
    s_noise: float = 1.0,
    cfg_pp: bool = False,
    unguided_past: bool = False,
) -> SolverRun:
    """Exact integral of the line in log-SNR through the last two data predictions; ancestral with ``eta=1``.

    Without noise it is DPM-Solver++(2M) in its "heun" form. An ancestral step goes on to less noise than asked for and
    fills up with fresh noise. The data prediction moves while noise is removed and, on average, stays while noise is
    added, so its last change belongs to the way from the point before down to where the noise came in.

    Args:
        eta: how much noise is replaced in each step, as in Euler ancestral.
        s_noise: multiplies that noise.
        cfg_pp: data with guidance, renoised without it (:mod:`diffusolve.solvers.cfg_pp`).
        unguided_past: steps of second order go along the line through data predictions without guidance, as in ComfyUI;
            the guidance is a jump of the sample at their beginning.

    The first step, and steps that leave nothing of the old noise, are of first order.
    """
    check_eta(eta)
    check_past(unguided_past, cfg_pp)
    older: tuple[Value, float] | None = None  # the last data prediction, and how far it was moved on in log-SNR
    for s, t in pairwise(grid):
        x, data, *unguided = yield Evaluate(x, s, unguided=cfg_pp)
        x = renoised(x, s, data, unguided)
        up, down = split_noise(s, t, eta)
        h = down.log_snr - s.log_snr
        second = older is not None and 0 < h < inf
        if unguided_past:
            without = yield Keep(unguided[0])
            data = without if second else data
        x = data_step(x, data, s, down)
        if older is not None and second:
            before, way = older
            x = x - t.alpha * z_phi(2, -h) * (h / way) * (data - before)
        if up > 0:
            x = x + (s_noise * up) * (yield Noise(s, t))
        if h > 0:  # no line goes through two predictions at one point
            older = without if unguided_past else data, h
    return x

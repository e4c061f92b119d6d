"""DPM-Solver++ with two evaluations a step: DPM++ SDE and DPM++ 2S ancestral; without noise both are DPM++ 2S."""

from __future__ import annotations

from itertools import pairwise
from math import isfinite, sqrt

from diffusolve.errors import unknown_name
from diffusolve.noise import Grid, Point
from diffusolve.solvers.ancestral import split_noise
from diffusolve.solvers.cfg_pp import evaluate
from diffusolve.solvers.requests import Evaluate, Keep, Noise, SolverRun, Value
from diffusolve.solvers.solver import check_eta, solver

__all__ = ["dpmpp_2s_ancestral", "dpmpp_sde"]

NOISES = ("disjoint", "path")


@solver(paper="Lu et al. 2022, DPM-Solver++, algorithm 1 (2S) and section 4.3 (SDE); k-diffusion, sample_dpmpp_sde")
def dpmpp_sde(
    grid: Grid, x: Value, *, eta: float = 1.0, s_noise: float = 1.0, r: float = 0.5, noise: str = "disjoint"
) -> SolverRun:
    """Two ancestral steps from the same sample: one on the way, to ask the network there, and one the whole way.

    Args:
        eta: 1 is the reverse SDE (DPM++ SDE); 0 is the ODE (DPM-Solver++(2S)).
        s_noise: multiplies the noise.
        r: where on the way the network is asked, as a part of the step in log-SNR, in (0, 1).
        noise: "disjoint" draws the noise of the first part of the step and that of the rest, and makes that of the
            whole step of both. "path", as k-diffusion has it, draws the noise of the first part and that of the whole
            step, which is right only if the noise follows one Brownian path.

    A step that starts or ends at infinite log-SNR is of first order: there is no way to be in the middle of.
    """
    check_eta(eta)
    _check_r(r)
    if noise not in NOISES:
        raise unknown_name("noise", noise, NOISES)
    for s, t in pairwise(grid):
        x, data = yield Evaluate(x, s)
        up, down = split_noise(s, t, eta)
        fresh: Value | None = None  # the noise of the whole step
        middle = _between(grid, s, t, r)
        if middle is not None:
            inner_up, inner_down = split_noise(s, middle, eta)
            inner = _denoised(x, data, s, middle, inner_down)
            if inner_up > 0:
                first = yield Noise(s, middle)
                inner = inner + (s_noise * inner_up) * first
            inner, inner_data = yield Evaluate(inner, middle, stage=1)
            data = (1 - 1 / (2 * r)) * data + 1 / (2 * r) * inner_data
            if inner_up > 0 and noise == "disjoint":
                rest_up, rest_down = split_noise(middle, t, eta)
                kept_up = rest_down / middle.sigma * inner_up  # what a step from the middle leaves of the first noise
                total = sqrt(kept_up**2 + rest_up**2)
                fresh = kept_up / total * first + rest_up / total * (yield Noise(middle, t))
        x = _denoised(x, data, s, t, down)
        if up > 0:
            x = x + (s_noise * up) * ((yield Noise(s, t)) if fresh is None else fresh)
    return x


@solver(paper="Lu et al. 2022, DPM-Solver++, algorithm 1 (2S); k-diffusion, sample_dpmpp_2s_ancestral")
def dpmpp_2s_ancestral(
    grid: Grid, x: Value, *, eta: float = 1.0, s_noise: float = 1.0, r: float = 0.5, cfg_pp: bool = False
) -> SolverRun:
    """DPM-Solver++(2S) to less noise than asked for; then fresh noise.

    Args:
        eta: 1 replaces as much noise as Euler ancestral does (DPM++ 2S a); 0 is the ODE (DPM-Solver++(2S)).
        s_noise: multiplies the noise.
        r: where on the way to the lower noise level the network is asked, as a part of it in log-SNR, in (0, 1).
        cfg_pp: data with guidance, renoised without it (DPM++ 2S a CFG++; :mod:`diffusolve.solvers.cfg_pp`).

    A step that starts at alpha = 0, or leaves nothing of the old noise as the last one to sigma = 0 does, is of first
    order.
    """
    check_eta(eta)
    _check_r(r)
    for s, t in pairwise(grid):
        x, data = yield from evaluate(x, s, cfg_pp)
        up, down = split_noise(s, t, eta)
        middle = _between(grid, s, Point(t.timestep, t.alpha, down), r)
        if middle is not None:
            if cfg_pp:
                x = yield Keep(x)
            _, inner_data = yield Evaluate(_denoised(x, data, s, middle, middle.sigma), middle, stage=1)
            data = (1 - 1 / (2 * r)) * data + 1 / (2 * r) * inner_data
        x = _denoised(x, data, s, t, down)
        if up > 0:
            x = x + (s_noise * up) * (yield Noise(s, t))
    return x


def _check_r(r: float) -> None:
    if not 0.0 < r < 1.0:
        raise ValueError(f"r is {r:g}: expected a part of the step, between 0 and 1 (0.5 is usual).")


def _between(grid: Grid, s: Point, t: Point, r: float) -> Point | None:
    """The point at part `r` of the way from `s` to `t`; None if the way is infinitely long, or next to it."""
    log_snr = s.log_snr + r * (t.log_snr - s.log_snr)
    if not isfinite(log_snr):
        return None
    middle = grid.at_log_snr(log_snr)
    return middle if isfinite(middle.log_snr) else None


def _denoised(x: Value, data: Value, s: Point, t: Point, down: float) -> Value:
    """`x` from `s` at the signal of `t` and noise `down`, if the data are `data`."""
    result: Value = (down / s.sigma) * x + (t.alpha - s.alpha * down / s.sigma) * data
    return result

"""DPM-Solver++ with two evaluations a step: DPM++ SDE and DPM++ 2S ancestral; without noise both are DPM++ 2S."""

from __future__ import annotations

from itertools import pairwise
from math import sqrt

from diffusolve.noise import Grid, Point
from diffusolve.solvers.ancestral import ancestral_noise, split_noise
from diffusolve.solvers.cfg_pp import renoised
from diffusolve.solvers.checks import check_choice, check_eta, check_part
from diffusolve.solvers.exponential import between, ddim_step
from diffusolve.solvers.requests import Evaluate, Keep, Noise, SolverRun, Value
from diffusolve.solvers.solver import solver

__all__ = ["dpmpp_2s_ancestral", "dpmpp_sde"]

NOISES = ("disjoint", "path")
NOISES_OF_SDE = (*NOISES, "bridge")


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
            step, which is right only if the noise follows one Brownian path. "bridge" draws as "disjoint" does, and
            makes the noise of the whole step of both as a Brownian path in sigma has it: along one the steps are those
            of "path", and they have a density.

    A step that starts or ends at infinite log-SNR is of first order: there is no way to be in the middle of.
    """
    check_eta(eta)
    check_part("r", r)
    check_choice("noise", noise, NOISES_OF_SDE)
    for s, t in pairwise(grid):
        x, data = yield Evaluate(x, s)
        up, down = split_noise(s, t, eta)
        fresh: Value | None = None  # the noise of the whole step
        middle = between(grid, s, t, r)
        if middle is not None:
            inner_up, inner_down = split_noise(s, middle, eta)
            inner = ddim_step(x, data, s, inner_down)
            if inner_up > 0:
                first = yield Noise(s, middle)
                inner = inner + (s_noise * inner_up) * first
            inner, inner_data = yield Evaluate(inner, middle, stage=1)
            data = (1 - 1 / (2 * r)) * data + 1 / (2 * r) * inner_data
            if inner_up > 0 and noise != "path":
                kept, added = _parts(middle, t, eta, inner_up) if noise == "disjoint" else _bridge(s, middle, t)
                fresh = kept * first + added * (yield Noise(middle, t))
        x = ddim_step(x, data, s, down)
        if up > 0:
            x = x + (s_noise * up) * ((yield Noise(s, t)) if fresh is None else fresh)
    return x


def _parts(middle: Point, t: Point, eta: float, inner_up: float) -> tuple[float, float]:
    """The weights of the noise up to `middle`, of which a step from there leaves some, and of that after it."""
    rest_up, rest_down = split_noise(middle, t, eta)
    kept_up = rest_down.sigma / middle.sigma * inner_up
    total = sqrt(kept_up**2 + rest_up**2)
    return kept_up / total, rest_up / total


def _bridge(s: Point, middle: Point, t: Point) -> tuple[float, float]:
    """The weights of both in the noise of a Brownian path from `s` to `t`."""
    part = (s.sigma - middle.sigma) / (s.sigma - t.sigma)
    return sqrt(part), sqrt(1 - part)


@solver(paper="Lu et al. 2022, DPM-Solver++, algorithm 1 (2S); k-diffusion, sample_dpmpp_2s_ancestral")
def dpmpp_2s_ancestral(
    grid: Grid,
    x: Value,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    r: float = 0.5,
    ancestral: str = "posterior",
    first_middle: float = 0.0,
    cfg_pp: bool = False,
    latest_unguided: bool = False,
) -> SolverRun:
    """DPM-Solver++(2S) to less noise than asked for; then fresh noise.

    Args:
        eta: 1 replaces as much noise as Euler ancestral does (DPM++ 2S a); 0 is the ODE (DPM-Solver++(2S)).
        s_noise: multiplies the noise.
        r: where on the way to the lower noise level the network is asked, as a part of it in log-SNR, in (0, 1).
        ancestral: how much noise a step replaces on flow matching, see
            :func:`~diffusolve.solvers.ancestral.ancestral_noise`.
        first_middle: the sigma at which a step from alpha = 0 asks the network again (0.9999 in ComfyUI); 0 for not at
            all.
        cfg_pp: data with guidance, renoised without it (DPM++ 2S a CFG++; :mod:`diffusolve.solvers.cfg_pp`).
        latest_unguided: the sample is renoised with what the network saw without guidance in the second evaluation,
            which is of another sample, as in ComfyUI.

    A step that starts at alpha = 0, or leaves nothing of the old noise as the last one to sigma = 0 does, is of first
    order.
    """
    check_eta(eta)
    check_part("r", r)
    if latest_unguided and not cfg_pp:
        raise ValueError("latest_unguided says how CFG++ renoises: set cfg_pp=True, or leave it out.")
    for s, t in pairwise(grid):
        start, data, *others = yield Evaluate(x, s, unguided=cfg_pp)
        x = renoised(start, s, data, others)
        up, down = ancestral_noise(s, t, eta, ancestral, grid.scaling)
        middle = between(grid, s, down, r)
        if middle is None and s.alpha == 0 and first_middle and down.sigma > 0:
            middle = grid.at_sigma(first_middle)
        if middle is not None:
            if cfg_pp:
                x = yield Keep(x)
            inner = Evaluate(ddim_step(x, data, s, middle), middle, stage=1, unguided=latest_unguided)
            _, inner_data, *latest = yield inner
            x = renoised(start, s, data, latest) if latest else x
            data = (1 - 1 / (2 * r)) * data + 1 / (2 * r) * inner_data
        x = ddim_step(x, data, s, down)
        if up > 0:
            x = x + (s_noise * up) * (yield Noise(s, t))
    return x

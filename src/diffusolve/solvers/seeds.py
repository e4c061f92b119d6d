"""SEEDS: exponential Runge-Kutta methods for the reverse SDE, with the noise of each stage a part of the next ones."""

from __future__ import annotations

from collections.abc import Generator
from itertools import pairwise
from math import expm1
from typing import Any

from diffusolve.noise import Grid, Point
from diffusolve.solvers.checks import check_choice, check_eta
from diffusolve.solvers.exponential import between, data_step, decay, fresh_noise, z_phi
from diffusolve.solvers.past import has_no_length
from diffusolve.solvers.requests import Evaluate, Noise, Request, SolverRun, Value
from diffusolve.solvers.solver import solver

__all__ = ["exp_heun_2_x0", "seeds_2", "seeds_3"]

PAPER = "Gonzalez et al. 2023, SEEDS: Exponential SDE Solvers for Fast High-Quality Sampling from Diffusion Models"
SOLVER_TYPES = ("phi_1", "phi_2")


@solver(paper=PAPER + ", SEEDS-2 and equation 53, for data predictions")
def seeds_2(
    grid: Grid,
    x: Value,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    r: float = 0.5,
    solver_type: str = "phi_1",
    draws_twice: bool = False,
) -> SolverRun:
    """Two evaluations a step, the second one on the way, where the noise of that part of the way has been added.

    Args:
        eta: 1 is the reverse SDE; 0 is the ODE, where "phi_1" is DPM-Solver++(2S).
        s_noise: multiplies the noise.
        r: where on the way the second evaluation is, as a part of the step in log-SNR, in (0, 1].
        solver_type: "phi_2" integrates the line through both data predictions exactly; "phi_1" takes its value in the
            middle of the step.
        draws_twice: noise is drawn for the way after the second evaluation too where there is none (``r=1``), and not
            used, as in ComfyUI.

    A step that ends at sigma = 0 is of first order, and one that starts at alpha = 0 too unless `r` is 1.
    """
    check_eta(eta)
    if not 0.0 < r <= 1.0:
        raise ValueError(f"r is {r:g}: expected a part of the step, above 0 and up to 1 (0.5 is its middle).")
    check_choice("solver_type", solver_type, SOLVER_TYPES)
    for s, t in pairwise(grid):
        x, data = yield Evaluate(x, s)
        start, noise = x, None
        x, here = data_step(start, data, s, t, eta), s
        middle = None if has_no_length(s, t) else between(grid, s, t, r)
        if middle is not None:
            z = -(1 + eta) * (t.log_snr - s.log_snr)
            noise = yield from _noise(noise, s, middle, eta)
            inner = _noisy(data_step(start, data, s, middle, eta), noise, s_noise)
            inner, inner_data = yield Evaluate(inner, middle, stage=1)
            weight = z_phi(2, z) if solver_type == "phi_2" else 0.5 * expm1(z)
            x, here = x - (t.alpha * weight / r) * (inner_data - data), middle
        if draws_twice and noise is not None and has_no_length(here, t):
            yield Noise(here, t, idle=True)
        x = _noisy(x, (yield from _noise(noise, here, t, eta)), s_noise)
    return x


@solver(paper=PAPER + ", SEEDS-3, for data predictions")
def seeds_3(
    grid: Grid, x: Value, *, eta: float = 1.0, s_noise: float = 1.0, r_1: float = 1 / 3, r_2: float = 2 / 3
) -> SolverRun:
    """Three evaluations a step, two of them on the way, where the noise of that part of the way has been added.

    Args:
        eta: 1 is the reverse SDE; 0 is the ODE, of third order with ``r_2 = 2/3``.
        s_noise: multiplies the noise.
        r_1, r_2: where on the way the network is asked, as parts of the step in log-SNR, ``0 < r_1 < r_2 < 1``.

    A step that starts at alpha = 0 or ends at sigma = 0 is of first order.
    """
    check_eta(eta)
    if not 0.0 < r_1 < r_2 < 1.0:
        raise ValueError(f"r_1 is {r_1:g} and r_2 {r_2:g}: expected 0 < r_1 < r_2 < 1 (the paper has 1/3 and 2/3).")
    for s, t in pairwise(grid):
        x, data = yield Evaluate(x, s)
        start, noise = x, None
        x, here = data_step(start, data, s, t, eta), s
        one, two = between(grid, s, t, r_1), between(grid, s, t, r_2)
        if one is not None and two is not None and not has_no_length(s, t):
            z = -(1 + eta) * (t.log_snr - s.log_snr)
            noise = yield from _noise(noise, s, one, eta)
            inner = _noisy(data_step(start, data, s, one, eta), noise, s_noise)
            inner, data_1 = yield Evaluate(inner, one, stage=1)
            noise = yield from _noise(noise, one, two, eta)
            inner = _noisy(data_step(start, data, s, two, eta), noise, s_noise)
            inner = inner - (two.alpha * r_2 / r_1 * z_phi(2, r_2 * z)) * (data_1 - data)
            inner, data_2 = yield Evaluate(inner, two, stage=2)
            x, here = x - (t.alpha / r_2 * z_phi(2, z)) * (data_2 - data), two
        x = _noisy(x, (yield from _noise(noise, here, t, eta)), s_noise)
    return x


@solver(paper=PAPER + ", SEEDS-2 and equation 53; Hochbruck & Ostermann 2005 (exponential Heun)")
def exp_heun_2_x0(
    grid: Grid, x: Value, *, eta: float = 0.0, s_noise: float = 1.0, draws_twice: bool = False
) -> SolverRun:
    """Exponential Heun: the line through the data predictions at both ends of the step, integrated exactly.

    :obj:`seeds_2` with ``r=1`` and ``solver_type="phi_2"``.

    Args:
        eta: 0 is the ODE; 1 is the reverse SDE (ComfyUI's ``exp_heun_2_x0_sde``).
        s_noise: multiplies the noise.
        draws_twice: noise is drawn twice for a step, and used once, as in ComfyUI.

    The step to sigma = 0 is of first order.
    """
    more = {"eta": eta, "s_noise": s_noise, "draws_twice": draws_twice}
    return seeds_2.function(grid, x, r=1.0, solver_type="phi_2", **more)


def _noise(earlier: Value | None, s: Point, t: Point, eta: float) -> Generator[Request, Any, Value | None]:
    """All noise that has come in since the step began, at `t`; `earlier` is that at `s`. None where there is none."""
    h = t.log_snr - s.log_snr
    kept = None if earlier is None else (t.sigma / s.sigma) * decay(h, eta) * earlier
    fresh = t.sigma * fresh_noise(h, eta)
    if fresh == 0:
        return kept
    drawn: Value = fresh * (yield Noise(s, t))
    return drawn if kept is None else kept + drawn


def _noisy(x: Value, noise: Value | None, s_noise: float) -> Value:
    result: Value = x if noise is None else x + s_noise * noise
    return result

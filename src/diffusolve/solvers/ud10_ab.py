"""UD10 AB: Euler's method that leans on the step before in three places, each with a weight."""

from __future__ import annotations

from itertools import pairwise

from diffusolve.noise import Grid
from diffusolve.solvers.cfg_pp import renoised
from diffusolve.solvers.checks import check_weight
from diffusolve.solvers.exponential import noise_prediction
from diffusolve.solvers.linear_multistep import adams_weights
from diffusolve.solvers.past import Past, has_no_length
from diffusolve.solvers.requests import Evaluate, Keep, SolverRun, Value
from diffusolve.solvers.solver import solver

__all__ = ["ud10_ab"]


@solver(
    paper="none; an experiment in pull request 15951 of ComfyUI, which calls it cfgpp_ud10_ab",
    integrates_dx_dsigma=True,
)
def ud10_ab(
    grid: Grid,
    x: Value,
    *,
    noise_weight: float = 0.0,
    slope_weight: float = 0.25,
    end_weight: float = 1.0,
    cfg_pp: bool = False,
) -> SolverRun:
    """Euler's step, a part of the way on to that of Adams-Bashforth's method of second order; the end on a line.

    Args:
        noise_weight: the part of the step, in sigma, by which the noise prediction is extrapolated along the line
            through the last two; 0.1 in ComfyUI. The result stands for all the noise that is left, not for its change
            alone: a step adds ``noise_weight * sigma`` times the change of the noise to what the differential equation
            says, so that many steps do not lead to its solution. Without guidance, normal data come out narrower by the
            factor ``sqrt(1 - noise_weight)``.
        slope_weight: the part of the way from Euler's step to that of second order; 0 is Euler's step, and 1 the other.
            The last two slopes are those of Euler's steps.
        end_weight: the part of the way from the data prediction to the value at sigma = 0 of the line through the last
            two, in the step that ends there; 0 is the data prediction.
        cfg_pp: data with guidance, and the noise that the network sees without it (:mod:`diffusolve.solvers.cfg_pp`).

    The first step is Euler's.
    """
    check_weight("noise_weight", noise_weight)
    check_weight("slope_weight", slope_weight)
    check_weight("end_weight", end_weight)
    noises, slopes, datas = Past(2), Past(2), Past(2)
    for s, t in pairwise(grid):
        x, data, *unguided = yield Evaluate(x, s, unguided=cfg_pp)
        datas.remember(data, s)
        noises.remember((yield Keep(noise_prediction(renoised(x, s, data, unguided), data, s))), s)
        h = t.sigma - s.sigma
        y = t.alpha * data + t.sigma * noises[0][0]
        if len(noises) == 2:
            older, r = noises[1]
            y = y + (t.sigma * noise_weight * h / (s.sigma - r.sigma)) * (noises[0][0] - older)
        if t.sigma == 0:
            if len(datas) == 2:
                older, r = datas[1]
                y = y + (t.alpha * end_weight * h / (s.sigma - r.sigma)) * (data - older)
        elif not has_no_length(s, t):
            slopes.remember((yield Keep((y - x) / h)), s)
            if len(slopes) == 2:
                (slope, _), (older, r) = slopes
                _, weight = adams_weights([s.sigma, r.sigma], t.sigma)
                y = y + (slope_weight * weight) * (older - slope)
        x = y
    return x

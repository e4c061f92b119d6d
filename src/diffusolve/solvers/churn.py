"""Churn: going back to a higher noise level before a step; and Euler's method with churn as diffusers has it."""

from __future__ import annotations

from collections.abc import Generator
from itertools import pairwise
from math import inf, log, sqrt

from diffusolve.noise import Grid, Point
from diffusolve.solvers.requests import Evaluate, Noise, SolverRun, Value
from diffusolve.solvers.solver import solver

__all__ = ["churn", "churned", "data_after_churn", "euler_with_late_churn"]


def churn(
    grid: Grid, x: Value, s: Point, s_churn: float, s_tmin: float, s_tmax: float, s_noise: float
) -> Generator[Noise, Value, tuple[Value, Point]]:
    """Lines 4 to 6 of Karras et al. 2022, algorithm 2: `x`, a sample at `s`, with noise added, and where it then is.

    Noise is measured by sigma / alpha, the paper's sigma, so that this holds on any noise schedule. Where nothing but
    noise is left (alpha = 0) a part of it is replaced, which is the limit. Beyond the noisiest level that the network
    was trained on it is told of that level, and its input is scaled for the level reached, as in k-diffusion.

    Args:
        s_churn: at least 0, which adds no noise. A step raises sigma / alpha by this divided by the number of steps, as
            a part of itself, but by no more than sqrt(2) - 1.
        s_tmin, s_tmax: the range of sigma / alpha where noise is added.
        s_noise: multiplies the noise.
    """
    check_churn(s_churn, s_tmin, s_tmax)
    factor = _churn_factor(s.sigma / s.alpha if s.alpha else inf, grid.steps, s_churn, s_tmin, s_tmax)
    if factor == 1.0:
        return x, s
    hat = grid.at_log_snr(s.log_snr - log(factor), allow_untrained=True) if s.alpha else s
    kept = hat.sigma / s.sigma / factor  # hat.alpha / s.alpha, or its limit
    added = hat.sigma * sqrt(1 - factor**-2)
    return kept * x + (s_noise * added) * (yield Noise(s, hat)), hat


def check_churn(s_churn: float, s_tmin: float, s_tmax: float) -> None:
    """Raise ValueError unless these are numbers that :func:`churn` can use."""
    if not s_churn >= 0.0:
        raise ValueError(f"s_churn is {s_churn:g}: expected at least 0 (0 adds no noise; Karras et al. use up to 80).")
    if not 0.0 <= s_tmin <= s_tmax:
        raise ValueError(f"s_tmin is {s_tmin:g} and s_tmax {s_tmax:g}: expected 0 <= s_tmin <= s_tmax.")


@solver(
    paper="Karras et al. 2022, Elucidating the Design Space, algorithm 2, but for the order of its lines",
    integrates_dx_dsigma=True,
)
def euler_with_late_churn(
    grid: Grid,
    x: Value,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = inf,
    s_noise: float = 1.0,
    steps: int = 0,
    prediction: str = "epsilon",
) -> SolverRun:
    """Euler's method that raises the noise level from sigma to `hat` before each step, after asking the network.

    The paper asks the network about the noisier sample; diffusers' ``EulerDiscreteScheduler.step`` gets the network's
    output for the sample before the noise, and uses it for the sample after. This is that method.

    Args:
        s_churn, s_tmin, s_tmax, s_noise: the paper's.
        steps: in the whole run, of which this may be the end.
        prediction: what the network's output is taken for after the noise: "epsilon", "v_prediction" or "sample".
    """
    for s, t in pairwise(grid):
        x, data = yield Evaluate(x, s)
        hat = churned(s.sigma, steps or grid.steps, s_churn, s_tmin, s_tmax)
        noisy = x
        if hat > s.sigma:
            noisy = x + s_noise * sqrt(hat**2 - s.sigma**2) * (yield Noise(s, t))
            if prediction == "epsilon":
                data = noisy - hat / s.sigma * (x - data)
            elif prediction == "v_prediction":
                data = data + (noisy - x) / (s.sigma**2 + 1)
        x = noisy + (t.sigma - hat) * (noisy - data) / hat
    return x


def churned(sigma: float, steps: int, s_churn: float, s_tmin: float, s_tmax: float) -> float:
    """The paper's sigma hat: the noise level `sigma` after noise was added."""
    return sigma * _churn_factor(sigma, steps, s_churn, s_tmin, s_tmax)


def _churn_factor(sigma: float, steps: int, s_churn: float, s_tmin: float, s_tmax: float) -> float:
    """The paper's 1 + gamma, in a run of `steps` steps."""
    return 1 + min(s_churn / steps, sqrt(2) - 1) if s_tmin <= sigma <= s_tmax else 1.0


def data_after_churn(s: float, hat: float, t: float, prediction: str) -> tuple[float, float]:
    """(a, b) so that ``a * end + b * output`` is the data prediction that a step from sigma `s` by `hat` to `t` used.

    The noise that it depends on is in the sample at the end of the step.
    """
    if prediction == "sample":
        return 0.0, 1.0
    if prediction == "epsilon":
        return 1.0, -t
    own, ratio = 1 / (s**2 + 1), t / hat  # v_prediction: data = own * noisy - s * sqrt(own) * output
    a = own / (ratio + own * (1 - ratio))
    return a, -s * sqrt(own) * (1 - a * (1 - ratio))

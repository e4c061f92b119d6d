"""Solvers as diffusers computes them where that is not what their papers have.

The classes that need them are EulerDiscreteScheduler, EDMEulerScheduler, LMSDiscreteScheduler, PNDMScheduler,
CogVideoXDPMScheduler, UnCLIPScheduler, DDPMWuerstchenScheduler and IPNDMScheduler.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from math import inf, sqrt

from diffusolve.noise import Grid
from diffusolve.solvers import Evaluate, Keep, Noise, Solver, SolverRun, Value, euler, solver
from diffusolve.solvers.ancestral import split_noise
from diffusolve.solvers.checks import check_choice
from diffusolve.solvers.churn import churn_factor
from diffusolve.solvers.exponential import data_step, ddim_step, fresh_noise, noise_prediction
from diffusolve.solvers.linear_multistep import adams_weights
from diffusolve.solvers.past import Past
from diffusolve.solvers.pndm import ADAMS_BASHFORTH, STARTS, Call, pseudo_numerical

__all__ = [
    "after_rest_of_step",
    "churned",
    "data_after_churn",
    "ddim_with_deviation",
    "ddpm_of_beta",
    "ddpm_to_data",
    "dpmpp_2m_sde_by_step",
    "edm_data_after_churn",
    "edm_with_late_churn",
    "euler_with_late_churn",
    "ipndm_of_noise",
    "lms_after",
    "pndm_by_calls",
]


@solver(paper="Song et al. 2021, Denoising Diffusion Implicit Models, equation 12, with any standard deviation")
def ddim_with_deviation(grid: Grid, x: Value, *, deviation: float = 0.0, unclipped_noise: bool = False) -> SolverRun:
    """DDIM where the noise of a step has the standard deviation that a subclass wants.

    Args:
        deviation: of the noise, at most the sigma that the step leads to.
        unclipped_noise: the noise that is left is the one that the network predicted, before data were clipped.
    """
    for s, t in pairwise(grid):
        x, data, *others = yield Evaluate(x, s, unclipped=unclipped_noise)
        left = sqrt(t.sigma**2 - deviation**2)
        x = t.alpha * data + left / s.sigma * (x - s.alpha * (others[0] if others else data))
        if deviation > 0:
            x = x + deviation * (yield Noise(s, t))
    return x


@solver(
    paper="Song et al. 2021, Denoising Diffusion Implicit Models, equation 12, and the paper of the solver after it"
)
def after_rest_of_step(grid: Grid, x: Value, *, then: Solver = euler) -> SolverRun:
    """DDIM's step to the second point, then another solver: a run that begins in the middle of a step.

    Args:
        then: the solver that goes on from there.
    """
    x, data = yield Evaluate(x, grid[0])
    x = ddim_step(x, data, grid[0], grid[1])
    return (yield from then(grid[1:], x)) if len(grid) > 2 else x


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
    """Euler's method that adds noise, from sigma to `hat`, after the network's evaluation instead of before it.

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
    """The paper's sigma hat: `sigma` after noise was added."""
    return sigma * churn_factor(sigma, steps, s_churn, s_tmin, s_tmax)


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


@solver(
    paper="Karras et al. 2022, Elucidating the Design Space, algorithm 2, but for the order of its lines",
    integrates_dx_dsigma=True,
)
def edm_with_late_churn(
    grid: Grid,
    x: Value,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = inf,
    s_noise: float = 1.0,
    steps: int = 0,
    sigma_data: float = 0.5,
) -> SolverRun:
    """:obj:`euler_with_late_churn` for networks with EDM's preconditioning, whose coefficients are those after it."""

    def skip(sigma: float) -> float:
        return sigma_data**2 / (sigma**2 + sigma_data**2)

    for s, t in pairwise(grid):
        x, data = yield Evaluate(x, s)
        hat = churned(s.sigma, steps or grid.steps, s_churn, s_tmin, s_tmax)
        noisy = x
        if hat > s.sigma:
            noisy = x + s_noise * sqrt(hat**2 - s.sigma**2) * (yield Noise(s, t))
            out = hat / s.sigma * sqrt(skip(hat) / skip(s.sigma))  # c_out at hat, in units of that at s
            data = skip(hat) * noisy + out * (data - skip(s.sigma) * x)
        x = noisy + (t.sigma - hat) * (noisy - data) / hat
    return x


def edm_data_after_churn(hat: float, t: float, skip: float, out: float) -> tuple[float, float]:
    """(a, b) so that ``a * end + b * output`` is the data prediction of an Euler step that ended with the sample `end`.

    Args:
        hat, t: the sigma that the step began at, after churn, and the one that it ended at.
        skip, out: the factors of sample and network's output in EDM's data prediction at `hat` (Karras et al. 2022).
    """
    ratio = t / hat
    power = ratio + skip * (1 - ratio)
    return skip / power, out * ratio / power


@solver(paper="Adams-Bashforth with variable steps, with slopes that are not known", integrates_dx_dsigma=True)
def lms_after(grid: Grid, x: Value, *, order: int = 4, sigmas_before: tuple[float, ...] = ()) -> SolverRun:
    """LMS in a run that begins in the middle, where the slopes of the steps left out count as 0.

    That makes its first steps wrong; without `sigmas_before` it is :obj:`~diffusolve.solvers.lms`.

    Args:
        order: at least 1, of every step for which there are as many sigmas.
        sigmas_before: the sigmas before the grid, the newest first.
    """
    past = Past(order)
    for s, t in pairwise(grid):
        x, data = yield Evaluate(x, s)
        past.remember((yield Keep((x - data) / s.sigma)), s)
        sigmas = [*(point.sigma for _, point in past), *sigmas_before][:order]
        for weight, (d, _) in zip(adams_weights(sigmas, t.sigma), past, strict=False):
            x = x + weight * d
    return x


@solver(paper="Liu et al. 2022, Pseudo Numerical Methods for Diffusion Models on Manifolds, as diffusers has it")
def pndm_by_calls(grid: Grid, x: Value, *, runge_kutta: bool = True, prediction: str = "epsilon") -> SolverRun:
    """PNDM where a step need not begin where the last one ended, nor the network be told where its sample stands.

    Diffusers' ``PNDMScheduler`` decides by the number of calls so far what a call is for, and its steps have equal
    lengths in timesteps even where the timesteps do not.

    Args:
        grid: for each evaluation the point that the network is asked at, the one that the sample is taken to stand at,
            and the one that it goes to.
        runge_kutta: the first twelve evaluations are three Runge-Kutta steps; without, the first two are an improved
            Euler step.
        prediction: what is averaged: "epsilon", or "v_prediction", of which the average is then used where the step
            begins: that is of first order, since v turns even where data and noise stay.
    """
    table, steps = STARTS["runge_kutta" if runge_kutta else "improved_euler"]

    def calls() -> Iterator[Call]:
        for number, (asked, s, t) in enumerate(zip(grid[::3], grid[1::3], grid[2::3], strict=True)):
            step, stage = divmod(number, len(table))
            yield Call(table, stage, asked, s, t) if step < steps else Call(None, 0, asked, s, t)

    return pseudo_numerical(calls(), x, prediction)


@solver(paper="Lu et al. 2022, DPM-Solver++, algorithm 2 (2M) and section 4.3 (SDE), with the caller as its memory")
def dpmpp_2m_sde_by_step(grid: Grid, x: Value, *, before: float | None = None) -> SolverRun:
    """DPM++ 2M SDE by the step, to which the caller hands the data prediction of the step before.

    It is asked for as noise from where the step begins to the same place.

    Args:
        before: the log-SNR where that prediction was made; when missing there is none, and a step is of first order.
    """
    for s, t in pairwise(grid):
        h = t.log_snr - s.log_snr
        x, data = yield Evaluate(x, s)
        if before is not None:
            old = yield Noise(s, s)
            r = (s.log_snr - before) / h
            data = data + (data - old) / (2 * r)
        x = data_step(x, data, s, t, 1.0)
        if t.sigma > 0:
            x = x + t.sigma * fresh_noise(h, 1.0) * (yield Noise(s, t))
    return x


@solver(paper="Ho et al. 2020, Denoising Diffusion Probabilistic Models, equations 6 and 7, with a beta of their own")
def ddpm_of_beta(grid: Grid, x: Value, *, beta: float | None = None, variance: str = "posterior") -> SolverRun:
    """DDPM whose beta is given, instead of following from the signal at the two ends of a step.

    In single precision the two differ near the data, where ``UnCLIPScheduler`` takes that of the table.

    Args:
        beta: the variance that the forward process adds in a step, for samples with alpha^2 + sigma^2 = 1; when
            missing, what follows from the signal.
        variance: of the noise: "posterior", or "given" if it comes with its standard deviation.
    """
    check_choice("variance", variance, ("posterior", "given"))
    for s, t in pairwise(grid):
        x, data = yield Evaluate(x, s)
        ratio = t.sigma / s.sigma
        kept = s.alpha / t.alpha if beta is None else sqrt(1 - beta)
        weight = t.alpha - s.alpha * kept * ratio**2 if beta is None else t.alpha * beta / s.sigma**2
        deviation = t.sigma * sqrt(max(1 - (kept * ratio) ** 2, 0.0)) if beta is None else ratio * sqrt(beta)
        x = kept * ratio**2 * x + weight * data
        if variance == "given":
            deviation = float(s.timestep > 0)
        if deviation > 0:
            x = x + deviation * (yield Noise(s, t))
    return x


@solver(paper="Ho et al. 2020, Denoising Diffusion Probabilistic Models, algorithm 2")
def ddpm_to_data(grid: Grid, x: Value) -> SolverRun:
    """DDPM whose step to timestep 0 adds no noise, though a noise schedule may have some there.

    The schedule of ``DDPMWuerstchenScheduler`` has a hundredth of it.
    """
    for s, t in pairwise(grid):
        x, data = yield Evaluate(x, s)
        up, down = split_noise(s, t, 1.0)
        x = ddim_step(x, data, s, down)
        if t.timestep != 0:
            x = x + up * (yield Noise(s, t))
    return x


@solver(paper="Liu et al. 2022, Pseudo Numerical Methods for Diffusion Models on Manifolds, equations 9 and 12")
def ipndm_of_noise(grid: Grid, x: Value) -> SolverRun:
    """Adams-Bashforth on noise predictions up to the end, beginning with lower orders and with no signal.

    Diffusers' ``IPNDMScheduler`` starts where alpha is 0, and divides there what is 0 by almost nothing: the first step
    forgets what the network says of the data. Of a run that begins there with a history it is not 0.
    """
    past: list[Value] = []
    for s, t in pairwise(grid):
        x, data = yield Evaluate(x, s)
        past = [(yield Keep(noise_prediction(x, data, s))), *past[:3]]
        weights = ADAMS_BASHFORTH[len(past) - 1]
        noise = sum((w * e for w, e in zip(weights[1:], past[1:], strict=True)), weights[0] * past[0])
        kept = 0.0 if s.alpha == 0 and len(past) == 1 else t.alpha / max(s.alpha, 1e-8)
        x = kept * (x - s.sigma * noise) + t.sigma * noise
    return x

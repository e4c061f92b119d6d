"""Measuring a solver's order of convergence on data whose probability-flow ODE has a solution in closed form."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import Any, cast

import numpy as np

from diffusolve.backends import Run
from diffusolve.denoisers import GaussianDenoiser
from diffusolve.noise import Cosine, Grid, Point, Scaling
from diffusolve.plan import Plan, PlanPoint, trace
from diffusolve.prediction import Sample
from diffusolve.sampling import run_directly
from diffusolve.schedulers.as_in_diffusers import (
    ddpm_of_beta,
    ddpm_to_data,
    dpmpp_2m_sde_by_step,
    edm_with_late_churn,
    euler_with_late_churn,
    ipndm_of_noise,
    lms_after,
    pndm_by_calls,
)
from diffusolve.solvers import (
    Evaluate,
    Keep,
    Solver,
    SolverRun,
    Value,
    deis,
    dpm_2,
    dpm_adaptive,
    dpm_fast,
    dpm_singlestep,
    dpmpp_2s_ancestral,
    dpmpp_multistep,
    dpmpp_sde,
    dpmpp_singlestep,
    epd,
    er_sde,
    euler,
    exp_heun_2_x0,
    flow_sde,
    gradient_estimation,
    heun,
    heunpp2,
    ipndm,
    ipndm_v,
    lms,
    pndm,
    res_multistep,
    res_singlestep,
    restart,
    sa_solver,
    seeds_2,
    seeds_3,
    ud10_ab,
    unipc,
)
from diffusolve.solvers.ddpm import ddpm
from diffusolve.solvers.dpm_multistep import dpm_multistep
from diffusolve.solvers.policy_flow import policy_flow
from diffusolve.solvers.tcd import tcd
from diffusolve.spacing import UniformLogSNR

SCHEDULE = Cosine()
SPACING = UniformLogSNR(sigma_max=8.0, sigma_min=0.1, final_sigma="sigma_min")
# Several Gaussians at once: the error of a single one may happen to cross zero.
GAUSSIAN = GaussianDenoiser(SCHEDULE, mean=np.linspace(-0.5, 0.8, 6), std=np.geomspace(0.2, 1.5, 6))
X = np.array([[1.7, -0.4, 0.9, -1.3, 0.2, 2.1]])


@dataclass(frozen=True)
class Case:
    """A solver, and the order that its paper gives it.

    Attributes:
        solver: with its options.
        order: the paper's.
        history: how many steps the solver remembers, the current one included; the run is started from as many exact
            values when its order is measured.
        steps: the numbers of steps that its order is measured with.
    """

    name: str
    solver: Solver
    order: int
    history: int = 1
    steps: tuple[int, ...] = (80, 160, 320)


FIXED_STEPS = {"pcoeff": 0.0, "icoeff": 0.0, "dcoeff": 0.0}
"""A controller with these coefficients leaves the step as it is."""


def _plms_by_calls() -> Solver:
    """`pndm_by_calls` over an ordinary grid, each step beginning where the one before ended."""

    @functools.wraps(pndm_by_calls.function)
    def run(grid: Grid, x: Value, **options: Any) -> SolverRun:
        first, *others = ((s, s, t) for s, t in pairwise(grid))
        calls = chain(first, (grid[1], grid[0], grid[1]), *others)
        return pndm_by_calls.function(replace(grid, points=tuple(calls)), x, runge_kutta=False)

    return replace(pndm_by_calls, function=run)


CASES = [
    Case("Euler / DDIM", euler, 1),
    Case("Heun", heun, 2),
    Case("DPM2", dpm_2, 2),
    *(Case(f"LMS {order}", lms.with_options(order=order), order, order) for order in (1, 2, 3, 4)),
    *(
        Case(name, dpmpp_multistep.with_options(order=order, solver_type=kind), order, order)
        for name, order, kind in (
            ("DPM++ 1M", 1, "midpoint"),
            ("DPM++ 2M", 2, "midpoint"),
            ("DPM++ 2M heun", 2, "heun"),
            ("DPM++ 3M", 3, "midpoint"),
        )
    ),
    *(
        Case(f"{name}, r={r:g}", made.with_options(eta=0.0, r=r), 2)
        for name, made in (("DPM++ 2S", dpmpp_sde), ("DPM++ 2S a without noise", dpmpp_2s_ancestral))
        for r in (0.5, 0.3)
    ),
    *(Case(f"DEIS {order}", deis.with_options(order=order), order, order) for order in (1, 2, 3, 4)),
    *(Case(f"DEIS {order}, tAB", deis.with_options(order=order, polynomial="time"), order, order) for order in (2, 3)),
    *(
        Case(f"{name} {order}S {kind}", made.with_options(order=order, solver_type=kind), order)
        for name, made in (("DPM", dpm_singlestep), ("DPM++", dpmpp_singlestep))
        for order in (1, 2, 3)
        for kind in ("midpoint", "heun")
    ),
    *(
        Case(
            f"UniP-{order} {variant}",
            unipc.with_options(order=order, variant=variant, corrector=False, lower_order_final=False),
            order,
            order,
        )
        for variant in ("bh1", "bh2")
        for order in (1, 2, 3)
    ),
    *(
        Case(
            f"UniPC-{order} {variant}",
            unipc.with_options(order=order, variant=variant, lower_order_final=False),
            order + 1,
            order + 1,
        )
        for variant in ("bh1", "bh2")
        for order in (1, 2, 3)
    ),
    *(
        Case(
            f"UniPC-{order} {variant}, noise",
            unipc.with_options(order=order, variant=variant, form="noise", lower_order_final=False),
            order + 1,
            order + 1,
        )
        for variant in ("bh1", "bh2")
        for order in (1, 2, 3)
    ),
    Case("PNDM", pndm, 2, 4),
    Case("PLMS", pndm.with_options(start="improved_euler"), 2, 4),
    # As many evaluations as the grid has steps. The last step has a lower order than the others.
    Case("DPM fast, the last step of order 2", dpm_fast, 3, steps=(80, 158, 320)),
    Case("DPM fast, the last step of order 1", dpm_fast, 2, steps=(79, 157, 316)),
    Case("DPM fast, the last steps of order 2 and 1", dpm_fast, 2, steps=(78, 156, 312)),
    Case("Heun++", heunpp2, 1),
    Case("iPNDM 1", ipndm.with_options(max_order=1), 1),
    *(Case(f"iPNDM {order}", ipndm.with_options(max_order=order), 2, order) for order in (2, 3, 4)),
    *(Case(f"iPNDM-v {order}", ipndm_v.with_options(max_order=order), order, order) for order in (1, 2, 3, 4)),
    Case("gradient estimation", gradient_estimation, 1, 2),
    Case("gradient estimation, gamma 3/2", gradient_estimation.with_options(ge_gamma=1.5), 2, 2),
    Case("EPD, Gauss's two points", epd, 2),
    Case("EPD, one point off the middle", epd.with_options(points=(0.3,)), 1),
    Case("UD10 AB", ud10_ab, 1, 2),
    Case("UD10 AB, all the way to second order", ud10_ab.with_options(slope_weight=1.0), 2, 2),
    Case("RES multistep", res_multistep, 2, 2),
    *(
        Case(f"ER-SDE {order}, eta 0", er_sde.with_options(max_stage=order, eta=0.0), order, order)
        for order in (1, 2, 3)
    ),
    Case("ER-SDE 3 of the authors, ODE", er_sde.with_options(noise_scaler="ode", third_order="authors"), 2, 3),
    *(
        Case(f"SEEDS-2 {kind}, r={r:g}, eta 0", seeds_2.with_options(eta=0.0, solver_type=kind, r=r), 2)
        for kind in ("phi_1", "phi_2")
        for r in (0.5, 0.3)
    ),
    Case("exponential Heun", exp_heun_2_x0, 2),
    Case("RES singlestep 2", res_singlestep, 2),
    Case("RES singlestep 3", res_singlestep.with_options(order=3), 3),
    Case("RES singlestep 3, c_2=0.3, c_3=0.9", res_singlestep.with_options(order=3, c_2=0.3, c_3=0.9), 3),
    Case("SEEDS-3, eta 0", seeds_3.with_options(eta=0.0), 3),
    Case("SEEDS-3, r_2=0.8, eta 0", seeds_3.with_options(eta=0.0, r_2=0.8), 2),
    *(
        Case(
            f"SA-Solver {predictor}/{corrector}, eta 0",
            sa_solver.with_options(predictor_order=predictor, corrector_order=corrector, eta=0.0),
            max(predictor, corrector),
            max(predictor, corrector),
        )
        for predictor, corrector in ((1, 0), (2, 0), (3, 0), (4, 0), (1, 2), (2, 3), (3, 4))
    ),
    *(
        Case(
            f"SA-Solver {predictor}/{corrector} through noise, eta 0",
            sa_solver.with_options(predictor_order=predictor, corrector_order=corrector, eta=0.0, form="noise"),
            max(predictor, corrector),
            max(predictor, corrector),
        )
        for predictor, corrector in ((1, 0), (2, 0), (3, 0), (1, 2), (2, 3))
    ),
    Case("SA-Solver 3/4 PECE, eta 0", sa_solver.with_options(eta=0.0, use_pece=True), 4, 4),
    Case(
        "SA-Solver 2/0 simple, eta 0",
        sa_solver.with_options(predictor_order=2, corrector_order=0, eta=0.0, simple_order_2=True),
        2,
        2,
    ),
    Case("Restart without restarts", restart.with_options(restart_list=()), 2),
    *(
        Case(
            f"DPM {order}M {kind}",
            dpm_multistep.with_options(order=order, solver_type=kind, lower_order_final=False),
            order,
            order,
        )
        for order in (1, 2, 3)
        for kind in ("midpoint", "heun")
    ),
    Case("PLMS by calls", _plms_by_calls(), 2, 4),
    Case("LMS with no slopes before it", lms_after, 4, 4),
    Case("Euler with late churn, without churn", euler_with_late_churn, 1),
    Case("EDM with late churn, without churn", edm_with_late_churn, 1),
    Case("A policy of one prediction", policy_flow, 1),
    Case("Flow SDE without noise", flow_sde.with_options(noise_level=0.0), 1),
    Case("iPNDM of noise predictions", ipndm_of_noise, 2, 4),
    Case("TCD without going too far", tcd.with_options(eta=0.0), 1),
    Case("DPM adaptive 2", dpm_adaptive.with_options(order=2, **FIXED_STEPS), 2),
    Case("DPM adaptive 3", dpm_adaptive.with_options(order=3, **FIXED_STEPS), 3),
]


def exact(grid: Grid, point: Point) -> np.ndarray:
    """The true solution at `point` of the run over `grid` that starts from :data:`X`."""
    first = grid[0]
    return np.asarray(GAUSSIAN.exact(X, (first.alpha, first.sigma), (point.alpha, point.sigma)))


def started_exactly(solver: Solver, count: int) -> Solver:
    """`solver`, with the true solution put in place of its own at the first `count` points of the grid."""

    @functools.wraps(solver.function)
    def run(grid: Grid, x: Value, **options: Any) -> SolverRun:
        inner = solver.function(grid, x, **options)
        seen, here, reply = 0, None, None
        while True:
            try:
                request = inner.send(reply)
            except StopIteration as stop:
                return cast("Value", stop.value)
            if isinstance(request, Evaluate) and request.stage == 0:
                seen, here = seen + 1, request.point
            # The sample that the step begins with: asked about, asked about again, or kept.
            if isinstance(request, Evaluate | Keep) and here is not None and request.point == here and seen <= count:
                request = request._replace(x=exact(grid, here))
            reply = yield request

    return replace(solver, function=run)


def grid_for(solver: Solver, steps: int) -> Grid:
    """The grid of `steps` equal steps in log-SNR, in the scaling that `solver` needs."""
    grid = SPACING.grid(SCHEDULE, steps)
    return grid.in_scaling(Scaling.VARIANCE_EXPLODING) if solver.integrates_dx_dsigma else grid


def error(solver: Solver, steps: int) -> tuple[float, int]:
    """Distance from the true solution after `steps` steps, and the evaluations that it took."""
    grid = grid_for(solver, steps)
    if solver.adaptive:
        solver = solver.with_options(h_init=(grid[-1].log_snr - grid[0].log_snr) / steps)
    evaluations = 0

    def network(x: np.ndarray, timestep: np.ndarray) -> np.ndarray:
        nonlocal evaluations
        evaluations += 1
        return np.asarray(GAUSSIAN(x, timestep))

    result = run_directly(solver, grid, Sample(), network, X, _no_noise)
    return _rms(result - exact(grid, grid[-1])), evaluations


def order(solver: Solver, steps: Sequence[int]) -> float:
    """The slope of log error against log steps."""
    errors = [error(solver, count)[0] for count in steps]
    return float(-np.polyfit(np.log(steps), np.log(errors), 1)[0])


REVERSE_TIME = er_sde.with_options(noise_scaler="reverse_time_sde")
ALWAYS_SDE = sa_solver.with_options(sde_start_percent=0.0, sde_end_percent=1.0)

SDE_CASES = [
    Case("Euler a", euler.with_options(eta=1.0), 1),
    *(
        Case(f"DDPM, {variance} variance", ddpm.with_options(variance=variance), 1)
        for variance in ("posterior", "forward")
    ),
    Case("DDPM of a beta, which follows from the signal", ddpm_of_beta, 1),
    Case("DDPM to the data", ddpm_to_data, 1),
    Case("DPM++ 2M SDE by the step, without the steps before", dpmpp_2m_sde_by_step, 1),
    Case("DPM++ 1M SDE", dpmpp_multistep.with_options(order=1, eta=1.0), 1),
    Case("DPM++ 2M SDE", dpmpp_multistep.with_options(order=2, eta=1.0), 2, 2),
    Case("DPM++ 2M SDE Heun", dpmpp_multistep.with_options(order=2, eta=1.0, solver_type="heun"), 2, 2),
    *(
        Case(f"DPM++ 2S SDE {kind}", dpmpp_singlestep.with_options(eta=1.0, solver_type=kind), 2)
        for kind in ("midpoint", "heun")
    ),
    Case("DPM++ SDE", dpmpp_sde, 2),
    Case("DPM++ 3M SDE", dpmpp_multistep.with_options(order=3, eta=1.0), 2, 3),
    Case("RES multistep ancestral", res_multistep.with_options(eta=1.0), 2, 2),
    *(
        Case(f"reverse-time ER-SDE {order}", REVERSE_TIME.with_options(max_stage=order), min(order, 2), order)
        for order in (1, 2, 3)
    ),
    *(Case(f"SEEDS-2 {kind}", seeds_2.with_options(solver_type=kind), 2) for kind in ("phi_1", "phi_2")),
    Case("exponential Heun SDE", exp_heun_2_x0.with_options(eta=1.0), 2),
    Case("SEEDS-3", seeds_3, 2),
    *(
        Case(
            f"SA-Solver {predictor}/{corrector}",
            ALWAYS_SDE.with_options(predictor_order=predictor, corrector_order=corrector),
            min(max(predictor, corrector), 2),
        )
        for predictor, corrector in ((1, 0), (2, 0), (1, 2), (3, 4))
    ),
    Case("SA-Solver 3/4 PECE", ALWAYS_SDE.with_options(use_pece=True), 2),
]
"""Solvers of the reverse SDE. Their order is that of the standard deviation, with the usual start-up, whose first step
of first order bounds it by 2. The mean is exact at any number of steps: along the reverse SDE the data prediction is a
martingale, so on average it does not move."""


MARGINAL_CASES = [
    Case("Euler a, eta 1/2", euler.with_options(eta=0.5), 1),
    Case("DPM2 a", dpm_2.with_options(eta=1.0), 2),
    Case("DPM++ 2M SDE, eta 1/2", dpmpp_multistep.with_options(eta=0.5), 2),
    Case("RES multistep ancestral, eta 1/2", res_multistep.with_options(eta=0.5), 2),
    Case("ER-SDE 1", er_sde.with_options(max_stage=1), 1),
    Case("ER-SDE 2", er_sde.with_options(max_stage=2), 2),
    Case("ER-SDE 2, eta 3", er_sde.with_options(max_stage=2, eta=3.0), 2),
    Case("ER-SDE 3 of the authors", er_sde.with_options(third_order="authors"), 2),
    *(Case(f"{made.name}, eta 1/2", made.with_options(eta=0.5), 2) for made in (seeds_2, seeds_3, exp_heun_2_x0)),
    Case("SA-Solver", sa_solver, 2),
    Case("SA-Solver PECE", sa_solver.with_options(use_pece=True), 2),
    *(
        Case(f"Flow SDE: {sde}, {steps}", flow_sde.with_options(sde=sde, discretization=steps), 1)
        for sde in ("flow", "dance")
        for steps in ("authors", "exact")
    ),
    Case("SA-Solver, tau 1/2", sa_solver.with_options(eta=0.5, predictor_order=1, corrector_order=0), 1),
]
"""Solvers with another amount of noise than the usual reverse SDE has. From samples of the right distribution they
make ones of the right distribution in the limit; the order is that of its standard deviation. The mean is exact."""


def moments(solver: Solver, steps: int) -> tuple[float, float]:
    """Errors of mean and standard deviation of what an SDE `solver` makes of :data:`X`, without sampling.

    The true reverse SDE turns X into the posterior of the end given X, a normal distribution.
    """
    plan = trace(solver, grid_for(solver, steps), Sample())
    mean, std = propagated(plan, X[0], np.zeros_like(X[0]))
    true_mean, true_std = posterior(plan.start, plan.end)
    return _rms(mean - true_mean), _rms(std - true_std)


def marginals(solver: Solver, steps: int) -> tuple[float, float]:
    """Errors of mean and standard deviation of what `solver` makes of samples of the right distribution."""
    plan = trace(solver, grid_for(solver, steps), Sample())
    mean, std = propagated(plan, *marginal(plan.start))
    true_mean, true_std = marginal(plan.end)
    return _rms(mean - true_mean), _rms(std - true_std)


def propagated(plan: Plan, mean: np.ndarray, std: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of what `plan` makes of a normal distribution with `mean` and `std`.

    A plan is linear in its sample and in the noise that it draws, and so is this denoiser: running it on the
    coefficients of (1, the start's noise, first noise, second noise, ...) gives both moments exactly.
    """
    updates = [plan.opening, *(stage.update for stage in plan.stages)]
    count = 2 + sum(len(update.noises) for update in updates)
    unit = np.eye(count)[:, :, None]  # (which coefficient, coefficients, elements)
    drawn = iter(unit[2:])

    def network(x: np.ndarray, timestep: np.ndarray) -> np.ndarray:
        offset = GAUSSIAN(np.zeros_like(X), timestep)
        slope = GAUSSIAN(np.ones_like(X), timestep) - offset
        return np.asarray(slope * x + offset * unit[0])

    run = Run(plan, lambda like, sigma_from, sigma_to: next(drawn) + np.zeros_like(like))
    x = run.begin(mean * unit[0] + std * unit[1])
    while not run.is_done:
        x = run.step(network(run.model_input(x), np.array([run.stage.point.timestep])), x)
    return x[0], np.sqrt((x[1:] ** 2).sum(axis=0))


def marginal(point: PlanPoint) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of noisy samples at `point`."""
    return point.alpha * GAUSSIAN.mean, np.hypot(point.alpha * GAUSSIAN.std, point.sigma)


def posterior(s: PlanPoint, t: PlanPoint) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of a noisy sample at `t` given that it is :data:`X` at the noisier `s`."""
    prior, evidence = ((p.alpha * GAUSSIAN.std) ** 2 + p.sigma**2 for p in (t, s))
    gain = prior * (s.alpha / t.alpha) / evidence
    mean = t.alpha * GAUSSIAN.mean + gain * (X[0] - s.alpha * GAUSSIAN.mean)
    return mean, np.sqrt(prior - gain**2 * evidence)


def std_order(
    solver: Solver, steps: Sequence[int], of: Callable[[Solver, int], tuple[float, float]] = moments
) -> float:
    """The slope of log error of the standard deviation against log steps, of :func:`moments` or :func:`marginals`."""
    errors = [of(solver, count)[1] for count in steps]
    return float(-np.polyfit(np.log(steps), np.log(errors), 1)[0])


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _no_noise(like: Any, sigma_from: float, sigma_to: float) -> Any:
    raise AssertionError("a deterministic solver drew noise")

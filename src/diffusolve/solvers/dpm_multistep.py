"""DPM-Solver multistep: the noise prediction is extrapolated, where DPM-Solver++ extrapolates the data prediction."""

from __future__ import annotations

from itertools import pairwise
from math import expm1, inf, sqrt

from diffusolve.errors import SingularPointError
from diffusolve.noise import Grid
from diffusolve.solvers.checks import check_choice, check_eta, check_up_to
from diffusolve.solvers.dpmpp_multistep import SOLVER_TYPES, THIRD_ORDERS, derivatives
from diffusolve.solvers.exponential import noise_prediction, noise_step, z_phi
from diffusolve.solvers.past import Past
from diffusolve.solvers.requests import Evaluate, Keep, Noise, SolverRun, Value
from diffusolve.solvers.solver import solver

__all__ = ["dpm_multistep"]


@solver(paper="Lu et al. 2022, DPM-Solver, section 3; DPM-Solver++, appendix B (multistep) and section 4.3 (SDE)")
def dpm_multistep(
    grid: Grid,
    x: Value,
    *,
    order: int = 2,
    solver_type: str = "midpoint",
    eta: float = 0.0,
    s_noise: float = 1.0,
    lower_order_final: bool | None = None,
    euler_at_final: bool = False,
    third_order: str = "taylor",
) -> SolverRun:
    """Exact integral of the polynomial in log-SNR through the last `order` noise predictions.

    Args:
        order: 1, 2 or 3; the first steps have a lower one.
        solver_type: how order 2 extrapolates; "midpoint" or "heun".
        eta: 0 is the ODE, 1 the reverse SDE.
        s_noise: multiplies the noise of the SDE.
        lower_order_final: the last steps fall back to order 2 and 1; when missing, in runs of fewer than 15 steps.
        euler_at_final: the last step is of order 1.
        third_order: how order 3 weighs the second derivative, see
            :data:`~diffusolve.solvers.dpmpp_multistep.THIRD_ORDERS`.

    Raises:
        SingularPointError: the grid ends at sigma = 0, where the noise prediction says nothing about the sample.
    """
    check_up_to("order", order, 3)
    check_choice("solver_type", solver_type, SOLVER_TYPES)
    check_choice("third_order", third_order, THIRD_ORDERS)
    check_eta(eta)
    past = Past(order)
    stabilise = grid.steps < 15 if lower_order_final is None else lower_order_final
    for step, (s, t) in enumerate(pairwise(grid)):
        if t.sigma == 0 or s.alpha == 0:
            raise SingularPointError(
                "dpm_multistep extrapolates noise, which has no limit where sigma or alpha is 0: end at sigma_min and "
                "start below the last timestep, or use dpmpp_multistep."
            )
        x, data = yield Evaluate(x, s)
        eps = yield Keep(noise_prediction(x, data, s))
        past.remember(eps, s)
        last = step == grid.steps - 1
        p = 1 if euler_at_final and last else past.usable_order(t, order, grid.steps - step if stabilise else inf)
        h = t.log_snr - s.log_snr
        drift = (1 + eta) * t.sigma
        x = noise_step(x, (1 + eta) * eps, s, t, h)
        match derivatives(past[:p], h):
            case [d1]:
                x = x - drift * (0.5 * expm1(h) if solver_type == "midpoint" else z_phi(2, h)) * d1
            case [d1, d2]:
                x = x - drift * z_phi(2, h) * d1 - drift * THIRD_ORDERS[third_order](z_phi(2, h) / h) * d2
        if eta > 0:
            x = x + s_noise * t.sigma * sqrt(eta * expm1(2 * h)) * (yield Noise(s, t))
    return x

"""DPM-Solver++ multistep: DPM++ 2M, DPM++ 3M and their SDE forms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import expm1, inf

from diffusolve.noise import Grid, Point
from diffusolve.solvers.cfg_pp import renoised
from diffusolve.solvers.checks import check_choice, check_eta, check_past, check_up_to
from diffusolve.solvers.exponential import data_step, fresh_noise, z_phi
from diffusolve.solvers.past import Past
from diffusolve.solvers.requests import Evaluate, Keep, Noise, SolverRun, Value
from diffusolve.solvers.solver import solver

__all__ = ["dpmpp_multistep"]

SOLVER_TYPES = ("midpoint", "heun")

THIRD_ORDERS: dict[str, Callable[[float], float]] = {
    "taylor": lambda q: 2 * (q - 0.5),
    "authors": lambda q: q - 0.5,
    "diffusers_sde": lambda q: q + 0.5,
}
"""Weight of half the second derivative, from the weight of the first divided by the step.

"taylor" is Taylor's formula, and of third order. "authors" is half of it, as in the authors' code, k-diffusion's
``sample_dpmpp_3m_sde`` and diffusers' ``solver_order=3``, which therefore are of second order only. "diffusers_sde" is
what diffusers' SDE form of it computes, of first order."""


@solver(paper="Lu et al. 2022, DPM-Solver++, algorithm 2 (2M), appendix B (3M) and section 4.3 (SDE)")
def dpmpp_multistep(
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
    cfg_pp: bool = False,
    unguided_past: bool = False,
) -> SolverRun:
    """Exact integral of the polynomial in log-SNR through the last `order` data predictions.

    Args:
        order: 1, 2 or 3; the first steps have a lower one.
        solver_type: how order 2 extrapolates; "midpoint" or "heun". Order 3 has one form.
        eta: 0 is the ODE; 1 is the reverse SDE (DPM++ 2M SDE).
        s_noise: multiplies the noise of the SDE.
        lower_order_final: the last steps fall back to order 2 and 1; when missing, in runs of fewer than 15 steps.
        euler_at_final: the last step is of order 1.
        third_order: how order 3 weighs the second derivative, see :data:`THIRD_ORDERS`.
        cfg_pp: data with guidance, renoised without it (DPM++ 2M CFG++; :mod:`diffusolve.solvers.cfg_pp`). The
            polynomial goes through the guided data.
        unguided_past: the slope is that from the last data prediction without guidance to the guided one, as in
            ComfyUI, which counts the guidance as a change over time.

    A step that starts or ends at infinite log-SNR is of first order, the highest that has a limit there.
    """
    check_up_to("order", order, 3)
    check_choice("solver_type", solver_type, SOLVER_TYPES)
    check_choice("third_order", third_order, THIRD_ORDERS)
    check_eta(eta)
    check_past(unguided_past, cfg_pp)
    past = Past(order)
    stabilise = grid.steps < 15 if lower_order_final is None else lower_order_final
    for step, (s, t) in enumerate(pairwise(grid)):
        x, data, *unguided = yield Evaluate(x, s, unguided=cfg_pp)
        x = renoised(x, s, data, unguided)
        past.remember(data, s)
        last = step == grid.steps - 1
        p = 1 if euler_at_final and last else past.usable_order(t, order, grid.steps - step if stabilise else inf)
        h = t.log_snr - s.log_snr
        z = -(1 + eta) * h  # the SDE forgets the sample faster than the ODE
        x = data_step(x, data, s, t, eta)
        match derivatives(past[:p], h):
            case [d1]:
                x = x - t.alpha * (0.5 * expm1(z) if solver_type == "midpoint" else z_phi(2, z)) * d1
            case [d1, d2]:
                x = x - t.alpha * z_phi(2, z) * d1 - t.alpha * THIRD_ORDERS[third_order](z_phi(2, z) / z) * d2
        if eta > 0 and t.sigma > 0:
            x = x + s_noise * t.sigma * fresh_noise(h, eta) * (yield Noise(s, t))
        if unguided_past:
            past[0] = (yield Keep(unguided[0])), s
    return x


def derivatives(past: Sequence[tuple[Value, Point]], h: float) -> list[Value]:
    """First and half the second derivative by log-SNR of the newest of `past`, in units of the step `h`.

    As many as its one to three values, the newest first, allow; they are those of the polynomial through the values.
    """
    if len(past) == 1:
        return []
    (m0, s0), (m1, s1), *older = past
    r0 = (s0.log_snr - s1.log_snr) / h
    d10 = (m0 - m1) / r0
    if not older:
        return [d10]
    m2, s2 = older[0]
    r1 = (s1.log_snr - s2.log_snr) / h
    d11 = (m1 - m2) / r1
    return [d10 + r0 / (r0 + r1) * (d10 - d11), (d10 - d11) / (r0 + r1)]

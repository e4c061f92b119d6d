"""Singlestep DPM-Solver and DPM-Solver++, with the points of the grid as their intermediate points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import expm1

from diffusolve.noise import Grid, Point
from diffusolve.solvers.checks import check_choice, check_eta, check_up_to
from diffusolve.solvers.dpmpp_multistep import SOLVER_TYPES
from diffusolve.solvers.dpmpp_sde import NOISES
from diffusolve.solvers.exponential import data_step, decay, fresh_noise, noise_prediction, noise_step, z_phi
from diffusolve.solvers.past import has_no_length
from diffusolve.solvers.requests import Evaluate, Keep, Noise, SolverRun, Value
from diffusolve.solvers.solver import solver

__all__ = ["dpm_singlestep", "dpmpp_singlestep"]

THIRD_ORDERS: dict[str, Callable[[float], float]] = {
    "taylor": lambda q: q - 0.5,
    "diffusers_sde": lambda q: q + 0.5,
}
"""Weight of the second derivative, from that of the first divided by the step: Taylor's formula, and what diffusers has
for it in "heun" steps of the SDE, of first order."""


@solver(paper="Lu et al. 2022, DPM-Solver++, algorithm 1 (2S), appendix B (3S) and section 4.3 (SDE)")
def dpmpp_singlestep(
    grid: Grid,
    x: Value,
    *,
    order: int = 2,
    orders: tuple[int, ...] = (),
    solver_type: str = "midpoint",
    eta: float = 0.0,
    s_noise: float = 1.0,
    noise: str = "disjoint",
    third_order: str = "taylor",
) -> SolverRun:
    """Exact integral of a polynomial in log-SNR through the data predictions of a group of up to `order` steps.

    The first step of a group is of first order, the second goes over both steps of the group and is of second order,
    and so on; the next group remembers nothing of this one.

    Args:
        order: 1, 2 or 3, of a whole group. Order 3 is reached where the steps of a group are equally long in log-SNR.
        orders: of each step, instead of the groups that `order` makes; each is 1 or one more than that before it.
        solver_type: "heun" is the exact integral of the polynomial through all predictions of the group. "midpoint"
            takes the second prediction for that in the middle of the step (order 2), or leaves it out (order 3).
        eta: 0 is the ODE; 1 is the reverse SDE, of second order at most.
        s_noise: multiplies the noise of the SDE.
        noise: "disjoint" draws the noise of each step, and makes that of a group's steps together of it. "path", as
            diffusers has it, draws noise for the way from the beginning of the group at each step, which is right only
            if the noise follows one Brownian path.
        third_order: how "heun" steps of order 3 weigh the second derivative, see :data:`THIRD_ORDERS`.

    A step that starts at alpha = 0 or ends at sigma = 0 is of first order.
    """
    check_eta(eta)
    check_choice("noise", noise, NOISES)
    check_choice("third_order", third_order, THIRD_ORDERS)
    group: list[tuple[Value, Point]] = []
    start = earlier = x
    for (s, t), p in zip(pairwise(grid), _orders(order, orders, grid, solver_type), strict=True):
        x, data = yield Evaluate(x, s)
        if p == 1 or not group:
            start, group = x, []
        group.append((data, s))
        first, beginning = group[0]
        z = -(1 + eta) * (t.log_snr - beginning.log_snr)  # the SDE forgets the sample faster than the ODE
        x = data_step(start, first, beginning, t, eta)
        for weight, other in _differences(group, t, z, solver_type, third_order):
            x = x - t.alpha * weight * other
        if eta > 0 and t.sigma > 0:
            since = s if noise == "disjoint" else beginning
            length = t.log_snr - since.log_snr
            fresh = t.sigma * fresh_noise(length, eta) * (yield Noise(since, t))
            if since is not beginning:  # what is left of the noise of the group's earlier steps
                fresh = fresh + t.sigma / s.sigma * decay(length, eta) * earlier
            x, earlier = x + s_noise * fresh, fresh
        group = _continued(group, s, t)
    return x


@solver(paper="Lu et al. 2022, DPM-Solver, algorithms 1 and 2, and equation B.9")
def dpm_singlestep(
    grid: Grid,
    x: Value,
    *,
    order: int = 2,
    orders: tuple[int, ...] = (),
    solver_type: str = "midpoint",
    earliest_midpoint: float = 0.4,
) -> SolverRun:
    """Exact integral of a polynomial in log-SNR through the noise predictions of a group of up to `order` steps.

    Args:
        order, orders, solver_type: as :func:`dpmpp_singlestep` has them.
        earliest_midpoint: how far on the way of a group's two steps in log-SNR, from 0 to 1, the second prediction has
            to be for "midpoint" to take it for that in the middle; earlier ones are weighed as "heun" weighs them. The
            paper asks halfway. Grids of timesteps often end with a step several times as long as the one before, and
            where the noise falls by exp(h) on the way, an early prediction for that in the middle weighs about h / 2
            times too much. 0 takes all for that in the middle.

    A step that starts at alpha = 0 or ends at sigma = 0 is of first order.
    """
    if not 0.0 <= earliest_midpoint <= 1.0:
        raise ValueError(
            f"earliest_midpoint is {earliest_midpoint:g}: expected a part of the way, from 0 to 1 (the middle is 0.5)."
        )
    group: list[tuple[Value, Point]] = []
    start = x
    for (s, t), p in zip(pairwise(grid), _orders(order, orders, grid, solver_type), strict=True):
        x, data = yield Evaluate(x, s)
        if p == 1 or not group:
            start, group = x, []
        group.append(((yield Keep(noise_prediction(x, data, s))), s))
        if len(group) == 1:
            x = data_step(x, data, s, t)  # finite at both ends
        else:
            first, beginning = group[0]
            h = t.log_snr - beginning.log_snr
            x = noise_step(start, first, beginning, t, h)
            for weight, other in _differences(group, t, h, solver_type, earliest_midpoint=earliest_midpoint):
                x = x - t.sigma * weight * other
        group = _continued(group, s, t)
    return x


def _differences(
    group: Sequence[tuple[Value, Point]],
    t: Point,
    z: float,
    solver_type: str,
    third_order: str = "taylor",
    earliest_midpoint: float = 0.0,
) -> list[tuple[float, Value]]:
    """(weight, difference from the first) for each later prediction in `group` that a step to `t` takes.

    `z` is the exponent of the integrating factor over the step, in which the weights are the phi functions.
    """
    (first, beginning), *others = group
    if not others:
        return []
    nodes = [(point.log_snr - beginning.log_snr) / (t.log_snr - beginning.log_snr) for _, point in others]
    slope = z_phi(2, z)
    if len(others) == 1:
        in_middle = solver_type == "midpoint" and nodes[0] >= earliest_midpoint
        return [((expm1(z) / 2 if in_middle else slope) / nodes[0], others[0][0] - first)]
    (r1, r2), curvature = nodes, 2 * THIRD_ORDERS[third_order](slope / z)
    if solver_type == "midpoint":
        return [(slope / r2, others[1][0] - first)]
    return [
        ((curvature - r2 * slope) / (r1 * (r1 - r2)), others[0][0] - first),
        ((curvature - r1 * slope) / (r2 * (r2 - r1)), others[1][0] - first),
    ]


def _continued(group: list[tuple[Value, Point]], s: Point, t: Point) -> list[tuple[Value, Point]]:
    """The predictions of `group`, or none after a step from alpha = 0 or of no length: no curve goes through them."""
    return [] if s.alpha == 0 or has_no_length(s, t) else group


def _orders(order: int, orders: tuple[int, ...], grid: Grid, solver_type: str) -> tuple[int, ...]:
    """The order of each step of `grid`: those given, or full groups and then what is left."""
    check_up_to("order", order, 3)
    check_choice("solver_type", solver_type, SOLVER_TYPES)
    if orders:
        if len(orders) != grid.steps:
            raise ValueError(f"orders has {len(orders)} numbers, but the grid has {grid.steps} steps.")
        for before, p in pairwise((0, *orders)):
            if p != 1 and not (p == before + 1 <= 3):
                raise ValueError(
                    f"orders is {orders}: expected each to be 1, or one more than that before it, up to 3."
                )
    found = list(orders) or _full_groups(order, grid)
    if grid[-1].sigma == 0:
        found[-1] = 1
    return tuple(found)


def _full_groups(order: int, grid: Grid) -> list[int]:
    groups, left = divmod(grid.steps, order)
    orders = [*range(1, order + 1)] * groups + [*range(1, left + 1)]
    if order == 3 and left == 1 and groups and grid[-1].sigma > 0:
        orders[-4:] = 1, 2, 1, 2  # not 1, 2, 3, 1, whose last step would be of first order
    return orders

"""UD10 AB: ComfyUI's samples, its formula, its relatives, and where it leads without guidance."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import orders
from diffusolve import sampler
from diffusolve.catalog import CATALOG
from diffusolve.k_diffusion import sampling
from diffusolve.noise import FlowMatching, Grid, NoiseSchedule, Point, VarianceExploding
from diffusolve.plan import trace
from diffusolve.prediction import Sample
from diffusolve.sampling import sample
from diffusolve.solvers import Solver, euler, lms, ud10_ab
from diffusolve.spacing import Sigmas
from tests.tables import for_each
from tests.test_solvers import GRIDS, drive, grid_for, varying

FIGURES = json.loads((Path(__file__).parent / "data" / "comfyui_ud10_ab.json").read_text(encoding="utf-8"))
SCHEDULES: dict[str, NoiseSchedule] = {"eps": VarianceExploding(0.002, 80.0), "flow": FlowMatching()}
AS_IN_COMFYUI = ud10_ab.with_options(noise_weight=0.1, cfg_pp=True)


def guided(x: Any, sigma: Any) -> Any:
    return x / (1 + sigma) + x * x * (0.05 / (1 + sigma))


def unguided(x: Any, sigma: Any) -> Any:
    return x * (0.8 / (1.2 + sigma)) - x * x * (0.03 / (1 + sigma))


class Network:
    """The network of the figures, told of timesteps."""

    prediction = Sample()

    def __init__(self, kind: str) -> None:
        self.noise_schedule = SCHEDULES[kind]

    def __call__(self, x: Any, timestep: Any) -> Any:
        return self.guided_and_unguided(x, timestep)[0]

    def guided_and_unguided(self, x: Any, timestep: Any) -> tuple[Any, Any]:
        _, sigma = self.noise_schedule.alpha_sigma(timestep)
        sigma = np.asarray(sigma).reshape(-1, 1)
        return guided(x, sigma), unguided(x, sigma)


class Model:
    """The same as a model of ComfyUI's, which is asked at sigmas and tells which samples it takes."""

    def __init__(self, kind: str) -> None:
        told = SimpleNamespace(
            noise_scaling=lambda sigma, noise, data: sigma * noise + (1 - sigma if kind == "flow" else 1.0) * data
        )
        patcher = SimpleNamespace(get_model_object={"model_sampling": told}.__getitem__)
        self.inner_model = SimpleNamespace(model_patcher=patcher)

    def __call__(self, x: Tensor, sigma: Tensor, model_options: dict[str, Any]) -> Tensor:
        denoised = guided(x, sigma[:, None])
        for tell in model_options["sampler_post_cfg_function"]:
            denoised = tell({"denoised": denoised, "uncond_denoised": unguided(x, sigma[:, None])})
        return denoised


# ComfyUI


@pytest.mark.parametrize("kind", ["eps", "flow"])
def test_comfyuis_name_makes_its_samples(kind: str) -> None:
    figure = FIGURES[kind]
    made = sampler("cfgpp_ud10_ab", Sigmas(tuple(figure["sigmas"])), world="comfyui")
    assert made.solver == AS_IN_COMFYUI
    x = sample(Network(kind), np.array([FIGURES["start"]]), made, steps=len(figure["sigmas"]) - 1)
    np.testing.assert_allclose(x[0], figure["sample"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["eps", "flow"])
def test_comfyuis_function_makes_its_samples(kind: str) -> None:
    sigmas, start = (torch.tensor(each, dtype=torch.float64) for each in (FIGURES[kind]["sigmas"], FIGURES["start"]))
    seen: list[dict[str, Any]] = []
    x = sampling.sample_cfgpp_ud10_ab(Model(kind), start[None], sigmas, callback=seen.append, disable=True)
    np.testing.assert_allclose(x[0], FIGURES[kind]["sample"], rtol=0, atol=1e-12)
    assert [float(each["sigma"]) for each in seen] == FIGURES[kind]["sigmas"][:-1]


def test_a_model_that_does_not_tell_its_samples_has_alpha_1() -> None:
    class Silent(Model):
        def __init__(self) -> None: ...

    sigmas, start = (torch.tensor(each, dtype=torch.float64) for each in (FIGURES["eps"]["sigmas"], FIGURES["start"]))
    x = sampling.sample_cfgpp_ud10_ab(Silent(), start[None], sigmas, disable=True)
    np.testing.assert_allclose(x[0], FIGURES["eps"]["sample"], rtol=0, atol=1e-12)


def test_without_a_world_the_noise_is_left_as_it_is() -> None:
    assert CATALOG["CFG++ UD10 AB"].solver == AS_IN_COMFYUI.with_options(noise_weight=0.0)
    assert sampler("cfgpp_ud10_ab").solver == sampler("CFG++ UD10 AB").solver == CATALOG["CFG++ UD10 AB"].solver


# The formula


@for_each("name", GRIDS)
@for_each("weights", [(0.0, 0.25, 1.0), (0.1, 0.25, 1.0), (-0.3, 0.6, 0.4)])
def test_each_weight_leans_on_the_step_before_by_its_part(weights: tuple[float, float, float], name: str) -> None:
    grid = grid_for(ud10_ab, name)
    of_noise, of_slope, of_end = weights
    x, expected, before = 0.7, [0.7], None
    for s, t in pairwise(grid):
        data = varying(x, s)
        noise = at_end = (x - s.alpha * data) / s.sigma
        if before is not None:
            line = np.polynomial.Polynomial.fit([before["sigma"], s.sigma], [before["noise"], noise], 1)
            noise = (1 - of_noise) * noise + of_noise * float(line(t.sigma))
            line = np.polynomial.Polynomial.fit([before["sigma"], s.sigma], [before["data"], data], 1)
            at_end = float(line(0.0))
        y = t.alpha * data + t.sigma * noise
        slope = (y - x) / (t.sigma - s.sigma)
        if before is not None and t.sigma == 0:
            y = (1 - of_end) * data + of_end * at_end
        elif before is not None:
            line = np.polynomial.Polynomial.fit([before["sigma"], s.sigma], [before["slope"], slope], 1).integ()
            y = (1 - of_slope) * y + of_slope * (x + float(line(t.sigma) - line(s.sigma)))
        before = {"sigma": s.sigma, "noise": (x - s.alpha * data) / s.sigma, "data": data, "slope": slope}
        x = y
        expected.append(x)
    solver = ud10_ab.with_options(noise_weight=of_noise, slope_weight=of_slope, end_weight=of_end)
    np.testing.assert_allclose(drive(solver, grid, 0.7, varying), expected, rtol=1e-9)


# Relatives and closed forms


@for_each("name", GRIDS)
@for_each(
    ("solver", "other"),
    [
        (ud10_ab.with_options(slope_weight=0.0, end_weight=0.0), euler),
        (ud10_ab.with_options(slope_weight=1.0, end_weight=0.0), lms.with_options(order=2, ends_with_data=True)),
    ],
    ids=["Euler", "Adams-Bashforth"],
)
def test_the_weight_of_the_slopes_goes_from_euler_to_second_order(solver: Solver, other: Solver, name: str) -> None:
    grid = grid_for(ud10_ab, name)
    np.testing.assert_allclose(drive(solver, grid, 0.7, varying), drive(other, grid, 0.7, varying), rtol=1e-9)


def test_data_that_are_a_line_in_sigma_are_met_at_its_end() -> None:
    def linear(x: float, point: Point) -> float:
        return 0.3 - 0.2 * point.sigma

    grid = Grid.from_sigmas(SCHEDULES["eps"], [5.0, 2.0, 0.6, 0.0])
    for solver, end in ((ud10_ab, 0.3), (ud10_ab.with_options(end_weight=0.0), 0.3 - 0.2 * 0.6)):
        assert drive(solver, grid, 4.0, linear)[-1] == pytest.approx(end, rel=1e-12)


@pytest.mark.parametrize("place", range(5))
def test_a_sigma_that_stands_twice_is_as_if_it_stood_once(place: int) -> None:
    sigmas = [5.0, 3.0, 2.0, 0.6, 0.2, 0.0]
    twice = [*sigmas[: place + 1], *sigmas[place:]]
    solver = AS_IN_COMFYUI.with_options(cfg_pp=False)
    grids = [Grid.through(SCHEDULES["eps"], np.array(each), np.array(each)) for each in (twice, sigmas)]
    made, expected = (drive(solver, grid, 4.0, varying)[-1] for grid in grids)
    assert made == pytest.approx(expected, rel=1e-12)


@for_each("weight", [0.0, 0.1, 0.5])
def test_extrapolated_noise_makes_normal_data_narrower(weight: float) -> None:
    """In the limit ``dx/dsigma = noise + weight * sigma * dnoise/dsigma``, which can be solved for normal data."""
    solver = ud10_ab.with_options(noise_weight=weight)
    apart = []
    for steps in (200, 400, 800):
        plan = trace(solver, orders.grid_for(solver, steps), Sample())
        mean, std = orders.propagated(plan, *orders.marginal(plan.start))
        first, last, c = plan.start.sigma, plan.end.sigma, orders.GAUSSIAN.std
        in_the_limit = np.sqrt((c**2 + (1 - weight) * first**2) / (c**2 + first**2))
        in_the_limit = in_the_limit * (c**2 + last**2) / np.sqrt(c**2 + (1 - weight) * last**2)
        np.testing.assert_allclose(mean, orders.GAUSSIAN.mean, rtol=1e-9)
        apart.append(float(np.abs(std / in_the_limit - 1).max()))
    assert apart[0] < 0.02
    assert apart[0] / apart[1] == pytest.approx(2, abs=0.2)
    assert apart[1] / apart[2] == pytest.approx(2, abs=0.2)


@for_each("option", ["noise_weight", "slope_weight", "end_weight"])
def test_a_weight_without_end_is_refused(option: str) -> None:
    solver = ud10_ab.with_options(**{option: -math.inf})
    with pytest.raises(ValueError, match=rf"{option} is -inf: expected a number \(0 leaves out what it weighs\)"):
        next(solver(GRIDS["flow"], 1.0))

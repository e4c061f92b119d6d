"""Log-probabilities of steps against torch.distributions, changes of variables by autograd, and published formulas."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from diffusolve import from_diffusers, sampler
from diffusolve.backends import Run
from diffusolve.backends.log_prob import log_density
from diffusolve.errors import NoDensityError, UnknownNameError
from diffusolve.noise import SD15, FlowMatching, Grid
from diffusolve.plan import WITH_DENSITY, Plan, trace
from diffusolve.prediction import prediction
from diffusolve.randomness import BrownianPath
from diffusolve.schedulers import CLASSES, scheduler_class
from diffusolve.schedulers.open_run import OpenRun
from diffusolve.solvers import Solver, dpmpp_multistep, dpmpp_sde, euler, flow_sde
from diffusolve.solvers.flow_sde import SDES
from diffusolve.spacing import Karras, Sigmas, Trailing
from examples import grpo_digits
from tests.every_solver import EVERY_SOLVER, as_taken_by
from tests.tables import for_each

VP = Karras(final_sigma="sigma_min").grid(SD15, 6)
FLOW = Karras(final_sigma="sigma_min", sigma_max=0.95).grid(FlowMatching(3.0), 6)

OPTIONS: dict[str, dict[str, object]] = {
    "eta": {"eta": 1.0},
    "s_churn": {"s_churn": 3.0},
    "use_pece": {"use_pece": True},
    "form": {"form": "noise"},
    "cfg_pp": {"cfg_pp": True},
}
"""Option -> a value of it that makes or moves noise."""


def stochastic_plans() -> Iterator[tuple[str, Plan]]:
    """Every solver with each of its options that concern noise, where its plan draws some."""
    for name, solver in EVERY_SOLVER.items():
        if solver.adaptive:
            continue
        for told, each in variants(name, solver):
            grid = FLOW if name.startswith(("flow", "rescaled")) else VP
            plan = trace(each, as_taken_by(each, grid), prediction("epsilon"))
            if plan.is_stochastic:
                yield told, plan


def variants(name: str, solver: Solver) -> Iterator[tuple[str, Solver]]:
    yield name, solver
    for option, values in OPTIONS.items():
        if option in solver.defaults:
            also = {"eta": 0.5} if "eta" in solver.defaults and option not in ("eta", "s_churn") else {}
            also |= {"evaluations": 6} if "evaluations" in solver.defaults else {}  # among which churn is divided
            yield f"{name}, {option}", solver.with_options(**also, **values)
    if "path" in str(solver.function.__doc__) and "noise" in solver.defaults:
        yield f"{name}, path", solver.with_options(eta=1.0, noise="path")


PLANS = dict(stochastic_plans())


def network(x: Tensor) -> Tensor:
    return 0.8 * torch.tanh(x) + 0.1 * torch.sin(3 * x)


def walked(run: Run, x: Tensor, with_density: bool) -> tuple[list[Tensor], list[int], Tensor]:
    """(samples after each stage, the stages with a density, the sum of their log-probabilities)."""
    x, samples, dense, total = run.begin(x), [], [], torch.zeros(1, dtype=torch.float64)
    while not run.is_done:
        output = network(run.model_input(x))
        unguided = 0.9 * output + 0.1 * x if run.plan.reads_unguided else None
        try:
            run.plan.transition(run.position)
            dense.append(run.position)
        except NoDensityError:
            with pytest.raises(NoDensityError):
                run.step_log_prob(output, x, unguided=unguided)
        if with_density and run.position in dense:
            x, log_prob, _, _ = run.step_log_prob(output, x, unguided=unguided, reduction="sum")
            total = total + log_prob
        else:
            x = run.step(output, x, unguided)
        samples.append(x)
    return samples, dense, total


@for_each("plan", PLANS.values(), ids=PLANS)
def test_log_probabilities_of_a_run_make_the_density_of_its_samples(plan: Plan) -> None:
    opening = len(plan.opening.noises)
    drawn = opening + sum(len(stage.update.noises) for stage in plan.stages)
    z = torch.randn(drawn, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()
    start = torch.full((1, 1), 0.7 * plan.start.sigma, dtype=torch.float64)
    kinds = (Run,) if plan.reads_unguided else (Run, OpenRun)
    for kind in kinds:
        once, again = iter(z), iter(z)
        samples, dense, _ = walked(kind(plan, lambda x, *_, z=once: next(z).expand(x.shape)), start, False)
        other, _, total = walked(kind(plan, lambda x, *_, z=again: next(z).expand(x.shape)), start, True)
        torch.testing.assert_close(torch.stack(other), torch.stack(samples), rtol=1e-10, atol=1e-10)
        assert len(dense) == drawn - opening, "each noise makes one sample's density"
        rows = [torch.autograd.grad(samples[at].sum(), z, retain_graph=True)[0][opening:] for at in dense]
        expected = Normal(0.0, 1.0).log_prob(z[opening:].detach()).sum() - torch.linalg.slogdet(torch.stack(rows))[1]
        torch.testing.assert_close(total.detach()[0], expected, rtol=1e-8, atol=1e-8)


@for_each("plan", PLANS.values(), ids=PLANS)
def test_given_samples_have_the_density_that_they_were_drawn_with(plan: Plan) -> None:
    def run() -> Run:
        generator = torch.Generator().manual_seed(1)
        return Run(plan, lambda x, *_: torch.randn(x.shape, dtype=x.dtype, generator=generator))

    start = plan.start.sigma * torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    first, again = run(), run()
    x, y = first.begin(start), again.begin(start)
    while not first.is_done:
        output = network(first.model_input(x))
        unguided = 0.9 * output if plan.reads_unguided else None
        try:
            drawn = first.step_log_prob(output, x, unguided=unguided)
        except NoDensityError:
            x, y = first.step(output, x, unguided), again.step(output, y, unguided)
        else:
            given = again.step_log_prob(output, y, drawn.next_sample, unguided)
            torch.testing.assert_close(given.log_prob, drawn.log_prob, rtol=1e-10, atol=1e-10)
            x = y = drawn.next_sample
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-10)
    for one, other in zip(first.registers.values(), again.registers.values(), strict=True):
        torch.testing.assert_close(one, other)


def noisy_run(name: str = "Euler a", steps: int = 6) -> Run:
    plan = sampler(name).plan(SD15, "epsilon", steps=steps)
    generator = torch.Generator().manual_seed(5)
    return Run(plan, lambda x, *_: torch.randn(x.shape, generator=generator))


def test_a_step_is_normal_with_its_mean_and_standard_deviation() -> None:
    run, x = noisy_run(), torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
    following, log_prob, mean, std = run.step_log_prob(network(x), x)
    each = Normal(mean, std).log_prob(following)
    torch.testing.assert_close(log_prob, each.mean(dim=(1, 2)))
    for dims, reduction, expected in (
        (None, "sum", each.sum(dim=(1, 2))),
        ((1,), "mean", each.mean(dim=1)),
        (2, "sum", each.sum(dim=2)),
        ((-1, -2), "mean", each.mean(dim=(1, 2))),
        ((), "mean", each),
        ((0, 1, 2), "sum", each.sum()),
    ):
        torch.testing.assert_close(log_density(following, mean, std, dims, reduction), expected)
        again = noisy_run().step_log_prob(network(x), x, following, dims=dims, reduction=reduction)
        torch.testing.assert_close(again.log_prob, expected)
    assert run.position == 1
    assert noisy_run().step(network(x), x, log_prob=True).log_prob.equal(log_prob), "short for it"


def test_gradients_are_those_of_finite_differences() -> None:
    plan = PLANS["dpmpp_sde"]
    x = plan.start.sigma * torch.randn(1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    given = [x * factor for factor in (0.7, 0.5, 0.4)]

    def density(outputs: Tensor) -> Tensor:  # of three samples, the later ones by way of the noise remembered
        run, at, total = Run(plan, lambda x, *_: torch.zeros_like(x)), x, torch.zeros(1, dtype=torch.float64)
        for output, following in zip(outputs, given, strict=True):
            total = total + run.step_log_prob(output, at, following, reduction="sum").log_prob
            at = following
        return total

    outputs = torch.randn(3, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4)).requires_grad_()
    assert torch.autograd.gradcheck(density, (outputs,))


def test_no_gradient_flows_through_a_sample_that_is_drawn() -> None:
    run, x = noisy_run(), torch.randn(2, 3)
    output = network(x).requires_grad_()
    result = run.step_log_prob(output, x)
    (gradient,) = torch.autograd.grad(result.log_prob.sum(), output, retain_graph=True)
    (scored,) = torch.autograd.grad(Normal(result.mean, result.std).log_prob(result.next_sample.detach()).sum(), output)
    torch.testing.assert_close(gradient, scored / 3)
    assert gradient.abs().max() > 0


def test_closed_form_on_a_gaussian() -> None:
    """The step of Euler ancestral for data of a single point is the posterior of the forward process."""
    run = noisy_run()
    s, t = run.plan.stages[2].point, run.plan.stages[3].point
    run.position = 2
    x = torch.full((1, 1), 2.0 * s.sigma)
    result = run.step_log_prob(x / s.sigma, x)  # the noise, for data at 0
    # q(x_t | x_s, x0 = 0) of the forward process
    ratio = (t.sigma / t.alpha) / (s.sigma / s.alpha)
    std, mean = t.sigma * math.sqrt(1 - ratio**2), t.alpha / s.alpha * ratio**2 * x
    torch.testing.assert_close(result.mean, mean, rtol=1e-4, atol=1e-4)
    assert math.isclose(result.std, std, rel_tol=1e-6)
    torch.testing.assert_close(
        result.log_prob, Normal(mean, std).log_prob(result.next_sample)[:, 0], rtol=1e-3, atol=1e-3
    )


def test_half_precision_samples_have_the_density_of_what_they_were_rounded_to() -> None:
    run, x = noisy_run(), torch.randn(2, 64).bfloat16()
    result = run.step_log_prob(network(x), x)
    assert result.next_sample.dtype is torch.bfloat16
    assert result.mean.dtype is result.log_prob.dtype is torch.float32
    expected = Normal(result.mean, result.std).log_prob(result.next_sample.float()).mean(dim=1)
    torch.testing.assert_close(result.log_prob, expected)
    again = noisy_run().step_log_prob(network(x), x, result.next_sample)
    assert again.log_prob.equal(result.log_prob), "the ratio is 1 where nothing has changed"


def test_arrays_of_other_libraries_have_log_probabilities_too() -> None:
    plan, x = noisy_run().plan, np.random.default_rng(0).standard_normal((2, 5))
    noise = np.random.default_rng(1).standard_normal((2, 5))
    ours = Run(plan, lambda x, *_: noise).step_log_prob(0.5 * x, x)
    torchs = Run(plan, lambda x, *_: torch.from_numpy(noise)).step_log_prob(
        torch.from_numpy(0.5 * x), torch.from_numpy(x)
    )
    for one, other in zip(ours, torchs, strict=True):
        np.testing.assert_allclose(one, other)


def test_steps_without_a_density_say_so_and_leave_the_run_where_it_was() -> None:
    x = torch.randn(1, 2)
    run = Run(sampler("DPM++ 2M").plan(SD15, "epsilon", steps=6))
    with pytest.raises(NoDensityError, match=r"adds no noise.*'Euler a'"):
        run.step_log_prob(x, x)
    run.step(x, x)
    run = noisy_run()
    while run.position < 5:
        x = run.step(x, x)
    with pytest.raises(NoDensityError, match="evaluation 5"):  # to sigma = 0
        run.step_log_prob(x, x)
    run.step(x, x)
    with pytest.raises(IndexError, match="all of them are done"):
        run.step_log_prob(x, x)
    for name in re.findall("'(.*?)'", WITH_DENSITY):
        assert sampler(name).plan(SD15, "epsilon", steps=10).transition(5).std > 0


# Flow matching as an SDE ----------------------------------------------------------------------------------------------


def flow_run(steps: int = 6, **options: Any) -> tuple[Any, Tensor, Tensor]:
    scheduler = begun("FlowMatchSDEDiscreteScheduler", steps, shift=3.0, **options)
    x, velocity = torch.randn(2, 2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return scheduler, x, velocity


@for_each("sde", ["flow", "dance"])
def test_steps_of_the_flow_sde_have_the_published_density(sde: str) -> None:
    """Flow-GRPO's update and log-probability, with the log of the standard deviation; DanceGRPO's g."""
    scheduler, x, v = flow_run(sde=sde, noise_level=0.7)
    for s, t, timestep in zip(scheduler.sigmas[:-1], scheduler.sigmas[1:], scheduler.timesteps, strict=True):
        step = scheduler.step_log_prob(v, timestep, x)
        s, t = s.double(), t.double()
        power = s / (1 - (s if s < 1 else t)) if sde == "flow" else torch.ones(())
        g, dt = 0.7 * power.sqrt(), t - s
        mean = x + (v + g**2 / (2 * s) * (x + (1 - s) * v)) * dt
        std = g * (-dt).sqrt()
        torch.testing.assert_close(step.mean, mean, rtol=1e-5, atol=1e-6)
        log_prob = -((step.prev_sample - mean) ** 2) / (2 * std**2) - std.log() - math.log(math.sqrt(2 * math.pi))
        torch.testing.assert_close(step.log_prob, log_prob.mean(dim=(1, 2)), rtol=1e-5, atol=1e-5)
        x = step.prev_sample


def test_the_flow_sde_solved_exactly_is_dpm_solver_of_first_order() -> None:
    for noise_level in (0.3, 0.7, 1.5):
        for grid in (FLOW, VP, Trailing().grid(FlowMatching(3.0), 5)):
            ours = flow_sde.with_options(noise_level=noise_level, discretization="exact")
            theirs = dpmpp_multistep.with_options(order=1, eta=noise_level**2 / 2)
            plan, other = (trace(each, grid, prediction("sample")) for each in (ours, theirs))
            for index in range(plan.nfe - (grid[-1].sigma == 0)):
                one, two = plan.transition(index), other.transition(index)
                assert one.std == pytest.approx(two.std)
                mean, expected = dict(one.mean), dict(two.mean)
                for name in {*mean, *expected}:
                    assert mean.get(name, 0.0) == pytest.approx(expected.get(name, 0.0), abs=1e-12)


def test_a_flow_sde_without_noise_is_eulers_method_and_exact_steps_end_without() -> None:
    grid = Trailing().grid(FlowMatching(3.0), 5)
    for sde in SDES:
        silent = trace(flow_sde.with_options(sde=sde, noise_level=0.0), grid, prediction("flow"))
        assert not silent.is_stochastic
        x = torch.randn(2, 3, dtype=torch.float64)
        runs = Run(silent), Run(trace(euler, grid, prediction("flow")))
        y = x
        while not runs[0].is_done:
            x, y = (run.step(network(z), z) for run, z in zip(runs, (x, y), strict=True))
        torch.testing.assert_close(x, y)
        noisy = trace(flow_sde.with_options(sde=sde, discretization="exact"), grid, prediction("flow"))
        assert [len(stage.update.noises) for stage in noisy.stages] == [1, 1, 1, 1, 0]
        for stage, after in zip(noisy.stages, noisy.stages[1:], strict=False):  # signal and noise are right
            sample, data = (
                dict(noisy.transition(noisy.stages.index(stage)).mean).get(name, 0.0)
                for name in (stage.sample, stage.data)
            )
            assert sample * stage.point.alpha + data == pytest.approx(after.point.alpha)
            left = sample * stage.point.sigma
            assert math.hypot(left, noisy.transition(noisy.stages.index(stage)).std) == pytest.approx(after.point.sigma)


def test_the_flow_sde_has_the_marginals_of_the_ode_on_a_gaussian() -> None:
    """Moments that a plan makes, without sampling: the error halves where there are twice as many steps."""
    for noise_level in (0.3, 0.7, 1.2):
        for sde in ("flow", "dance"):
            for discretization in ("authors", "exact"):
                solver = flow_sde.with_options(sde=sde, noise_level=noise_level, discretization=discretization)
                errors = [deviation(solver, steps) - MARGINAL for steps in (200, 400, 800)]
                assert abs(errors[2]) < 0.01
                assert errors[1] / errors[2] == pytest.approx(2, abs=0.2)
    assert abs(deviation(euler, 800) - MARGINAL) < 0.01
    renewed = flow_sde.with_options(sde="cps")
    assert abs(deviation(renewed, 800) - MARGINAL) > 0.05, "docs say that this one does not"


MARGINAL = math.hypot(0.95 * 0.6, 0.05)
"""The standard deviation of what the ODE makes of data N(0, 0.6**2), at sigma 0.05."""


def deviation(solver: Solver, steps: int) -> float:
    """The standard deviation of what `solver` makes of data N(0, 0.6**2) at sigma 0.9, at sigma 0.05."""
    sigmas = [0.9 + (0.05 - 0.9) * step / steps for step in range(steps + 1)]
    plan = trace(solver, Sigmas(sigmas=tuple(sigmas)).grid(FlowMatching()), prediction("sample"))
    variance = (plan.start.alpha * 0.6) ** 2 + plan.start.sigma**2
    for index, stage in enumerate(plan.stages):
        alpha, sigma = stage.point.alpha, stage.point.sigma
        gain = alpha * 0.36 / (alpha**2 * 0.36 + sigma**2)
        try:
            transition = plan.transition(index)
        except NoDensityError:
            (write,) = stage.update.writes
            terms, std = dict(write.terms), 0.0
        else:
            terms, std = dict(transition.mean), transition.std
        variance *= (terms.get(stage.sample, 0.0) + gain * terms.get(stage.data, 0.0)) ** 2
        variance += std**2
    return math.sqrt(variance)


def test_what_a_flow_sde_cannot_have_is_an_error() -> None:
    for options, message in (
        ({"sde": "dancing"}, "unknown sde 'dancing': did you mean 'dance'"),
        ({"discretization": "milstein"}, "unknown discretization 'milstein'"),
        ({"noise_level": -1.0}, "noise_level is -1"),
        ({"sde": "cps", "noise_level": 1.5}, "noise_level is 1.5: .* at most 1 with 'cps'"),
    ):
        with pytest.raises(ValueError, match=message):
            trace(flow_sde.with_options(**options), FLOW, prediction("flow"))
        with pytest.raises(ValueError, match=message):
            flow_run(**options)
    assert (
        from_diffusers(begun("FlowMatchSDEDiscreteScheduler", sde="dance", noise_level=0.3)).name == "Dance SDE Uniform"
    )
    told = from_diffusers(begun("FlowMatchSDEDiscreteScheduler", noise_level=0.5))
    assert told.name == "Flow SDE Uniform"
    assert "noise_level is 0.5 there, and 0.7" in "".join(told.differences)


def path_run(noise: str, path: BrownianPath, grid: Grid) -> Run:
    return Run(trace(dpmpp_sde.with_options(noise=noise), grid, prediction("epsilon")), path)


def test_overlapping_parts_of_a_brownian_path_have_no_density_but_its_bridges_do() -> None:
    pytest.importorskip("torchsde")
    x = torch.randn(2, 3, dtype=torch.float64)
    path, bridge = (path_run(noise, BrownianPath(0.01, 20.0, 7), VP) for noise in ("path", "bridge"))
    y = x
    for _ in range(path.plan.nfe // 2):
        x = path.step_log_prob(network(x), x).next_sample
        with pytest.raises(NoDensityError, match=r"Brownian path.*'bridge'"):
            path.step_log_prob(network(x), x)
        x = path.step(network(x), x)
        for _ in range(2):
            y = bridge.step_log_prob(network(y), y).next_sample
        torch.testing.assert_close(x, y)


@for_each(
    "asked, error, message",
    [
        ({"reduction": "total"}, UnknownNameError, "unknown reduction 'total'"),
        ({"dims": (1, 4)}, ValueError, "dims is .*: expected 0 to 1"),
        ({"dims": (1, -1)}, ValueError, "expected each dimension once"),
        ({"dims": "all"}, TypeError, "dims is 'all': expected a whole number"),
        ({"next_sample": np.zeros((2, 3))}, TypeError, "the next sample is a ndarray, but the sample is a Tensor"),
        ({"next_sample": torch.zeros(1, 3)}, ValueError, "the next sample has shape"),
    ],
)
def test_what_cannot_be_asked_is_an_error(asked: dict[str, Any], error: type[Exception], message: str) -> None:
    run, x = noisy_run(), torch.randn(2, 3)
    with pytest.raises(error, match=message):
        run.step_log_prob(x, x, **asked)
    run.step(x, x)


# Schedulers ----------------------------------------------------------------------------------------------------------

SDE = {"algorithm_type": "sde-dpmsolver++"}
NOISY: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "CMStochasticIterativeScheduler": ({}, {}, "DDDDD."),
    "CosineDPMSolverMultistepScheduler": ({}, {}, "DDDDD."),
    "DDIMParallelScheduler": ({"clip_sample": False}, {"eta": 0.7}, "DDDDD."),
    "DDIMScheduler": ({"thresholding": True}, {"eta": 0.7}, "DDDDD."),
    "DDPMParallelScheduler": ({}, {}, "DDDDD."),
    "DDPMScheduler": ({"variance_type": "fixed_large"}, {}, "DDDDD."),
    "DDPMWuerstchenScheduler": ({}, {}, "DDDDD."),
    "DPMSolverMultistepScheduler": (SDE, {}, "DDDDD."),
    "DPMSolverSDEScheduler": ({"noise_sampler_seed": 3}, {}, "DDDDDDDDDD."),
    "DPMSolverSinglestepAncestralScheduler": ({}, {}, ".D.D.D.D.D."),
    "DPMSolverSinglestepScheduler": (SDE, {}, "DDDDD."),
    "EDMDPMSolverMultistepScheduler": (SDE, {}, "DDDDD."),
    "EDMEulerScheduler": ({}, {"s_churn": 3.0}, "DDDDDD"),
    "EulerAncestralDiscreteScheduler": ({}, {}, "DDDDD."),
    "EulerDiscreteScheduler": ({}, {"s_churn": 3.0}, "DDDDDD"),
    "FlowMatchEulerDiscreteScheduler": ({"stochastic_sampling": True}, {}, "DDDDD."),
    "FlowMatchHeunDiscreteScheduler": ({}, {"s_churn": 1.0}, "D.D.D.D.D.D"),
    "FlowMatchLCMScheduler": ({}, {}, "DDDDD."),
    "FlowMatchSDEDiscreteScheduler": ({}, {}, "DDDDDD"),
    "KDPM2AncestralDiscreteScheduler": ({}, {}, ".D.D.D.D.D."),
    "LCMScheduler": ({}, {}, "DDDDD."),
    "LTXEulerAncestralRFScheduler": ({}, {}, "DDDDD."),
    "SASolverScheduler": ({}, {}, "..DDD."),
    "TCDScheduler": ({}, {}, "DDDDD."),
    "UnCLIPScheduler": ({}, {}, "DDDDD."),
}
"""Class -> configuration, options of a step, and for each evaluation whether it has a density (D) or not (.)."""

DETERMINISTIC = (
    *("DEISMultistepScheduler", "DPMSolverFastScheduler", "DPMSolverMultistepInverseScheduler", "DDIMInverseScheduler"),
    *("FlowMapEulerDiscreteScheduler", "HeunDiscreteScheduler", "IPNDMScheduler", "KDPM2DiscreteScheduler"),
    *(
        "LMSDiscreteScheduler",
        "MiniMaxH3Scheduler",
        "PNDMScheduler",
        "UniPCMultistepScheduler",
        "CogVideoXDDIMScheduler",
    ),
)
ELSEWHERE = {
    "CogVideoXDPMScheduler": "has a test of its own here",
    "ConsistencyDecoderScheduler": "two steps of which one has noise",
    "HeliosDMDScheduler": "noise is handed in",
    "HeliosScheduler": "needs a stage to begin",
    "KarrasVeScheduler": "takes no plan's step",
    "PiflowScheduler": "outputs of another size",
    "RFD4ProteinaScheduler": "masks tokens",
    "RePaintScheduler": "masks pixels",
    "SCMScheduler": "two steps of which one has noise",
    "ScoreSdeVeScheduler": "takes no plan's step",
    "ScoreSdeVpScheduler": "takes no plan's step",
}


def begun(name: str, steps: int = 6, **config: Any) -> Any:
    scheduler = scheduler_class(name)(**config)
    scheduler.set_timesteps(steps)
    return scheduler


@for_each("name", NOISY, ids=str)
def test_a_scheduler_draws_what_its_step_draws_and_says_how_probable_that_is(name: str) -> None:
    config, options, expected = NOISY[name]
    ours, its_step, again = (begun(name, **config) for _ in range(3))
    one, other = (torch.Generator().manual_seed(1) for _ in range(2))
    takes_generator = "generator" in inspect.signature(type(ours).step).parameters
    x = y = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    found = ""
    for timestep in ours.timesteps[: len(expected)]:
        output = 0.3 * torch.tanh(x)
        drawn, drawn_too = ({**options, "generator": g} if takes_generator else options for g in (one, other))
        y = its_step.step(output, timestep, y, **drawn_too, return_dict=False)[0]
        try:
            step = ours.step_log_prob(output, timestep, x, **drawn)
        except NoDensityError:
            given = again.step(output, timestep, x, **options, return_dict=False)[0]
            x = ours.step(output, timestep, x, **drawn, return_dict=False)[0]
            torch.testing.assert_close(given, x)
            found += "."
        else:
            given = again.step_log_prob(output, timestep, x, step.prev_sample, **options)
            log_prob = Normal(step.mean, step.std).log_prob(step.prev_sample).mean(dim=(1, 2, 3))
            torch.testing.assert_close(step.log_prob, log_prob)
            torch.testing.assert_close(given.log_prob, log_prob)
            x = step.prev_sample
            found += "D"
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)  # rounding in other places
    assert found == expected


@for_each("name", DETERMINISTIC, ids=str)
def test_a_scheduler_without_noise_says_so(name: str) -> None:
    scheduler, x = begun(name), torch.randn(1, 2, 2)
    with pytest.raises(NoDensityError, match=rf"{name}: .* adds no noise .* EulerAncestralDiscreteScheduler"):
        scheduler.step_log_prob(x, scheduler.timesteps[0], x)
    scheduler.step(x, scheduler.timesteps[0], x)


def test_every_scheduler_class_is_looked_at() -> None:
    assert {*NOISY, *DETERMINISTIC, *ELSEWHERE} == CLASSES.keys()
    with pytest.raises(NoDensityError, match="RePaintScheduler has no density: the known part"):
        scheduler_class("RePaintScheduler")().step_log_prob(torch.zeros(1), 1, torch.zeros(1))


def test_the_variance_that_a_network_predicts_has_gradients_in_the_density() -> None:
    scheduler = begun("DDPMScheduler", variance_type="learned_range", clip_sample=False)
    x, output = torch.randn(2, 3, 4, 4), torch.randn(2, 6, 4, 4, requires_grad=True)
    step = scheduler.step_log_prob(output, scheduler.timesteps[2], x, reduction="sum")
    (gradient,) = torch.autograd.grad(step.log_prob.sum(), output, retain_graph=True)
    density = Normal(step.mean, step.std).log_prob(step.prev_sample.detach()).sum()
    torch.testing.assert_close(gradient, torch.autograd.grad(density, output)[0])
    assert gradient[:, 3:].abs().min() > 0


def test_a_density_is_that_of_the_sample_that_is_returned_in_half_precision_too() -> None:
    scheduler = begun("FlowMatchEulerDiscreteScheduler", stochastic_sampling=True)
    step = scheduler.step_log_prob(torch.randn(2, 64).bfloat16(), scheduler.timesteps[0], torch.randn(2, 64))
    assert step.prev_sample.dtype is torch.bfloat16
    log_prob = Normal(step.mean, step.std).log_prob(step.prev_sample.float()).mean(dim=1)
    torch.testing.assert_close(step.log_prob, log_prob)


def test_what_is_handed_to_a_step_is_no_noise() -> None:
    scheduler, x, handed = begun("CogVideoXDPMScheduler"), torch.randn(1, 8), {}
    for timestep in scheduler.timesteps[:3]:
        options = {"old_pred_original_sample": None, "timestep_back": None, **handed}
        step = scheduler.step_log_prob(0.2 * x, timestep, x, reduction="sum", **options)
        torch.testing.assert_close(step.log_prob, Normal(step.mean, step.std).log_prob(step.prev_sample).sum(dim=1))
        data = scheduler.step(0.2 * x, None, timestep, None, x)[1]
        x, handed = step.prev_sample, {"old_pred_original_sample": data, "timestep_back": timestep}


@for_each(
    "name", ["DDIMScheduler", "DDPMScheduler", "EulerAncestralDiscreteScheduler", "FlowMatchSDEDiscreteScheduler"]
)
def test_several_timesteps_are_no_timestep(name: str) -> None:
    x, output = torch.randn(2, 4, 3, 3, 3)
    eta = {"eta": 1.0} if "DDIM" in name else {}
    scheduler = scheduler_class(name)()
    scheduler.set_timesteps(10)
    for step in (scheduler.step, scheduler.step_log_prob):
        with pytest.raises(ValueError, match=r"timestep is 4 timesteps, \[.*: a step is made from one"):
            step(output, scheduler.timesteps[2:6], x, **eta)
    one = scheduler.step_log_prob(output, scheduler.timesteps[0].expand(4), x, x, **eta)  # the same for each row
    again = scheduler_class(name)()
    again.set_timesteps(10)
    assert torch.equal(one.log_prob, again.step_log_prob(output, again.timesteps[0], x, x, **eta).log_prob)


def test_schedulers_of_many_threads_keep_their_records_apart() -> None:
    scheduler = begun("DDIMScheduler", 20)
    x = torch.randn(1, 3, 8, 8)

    def density(factor: float) -> Tensor:
        step = scheduler.step_log_prob(factor * x, scheduler.timesteps[4], x, torch.zeros_like(x), eta=1.0)
        return step.log_prob

    factors = [0.1 * number for number in range(40)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(density, factors))
    assert torch.stack(together).equal(torch.stack([density(factor) for factor in factors]))


def test_the_example_learns_from_two_groups_and_draws_its_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    for name, value in (("GROUP", 8), ("STEPS", 4), ("EVALUATED", 36), ("CLASSIFIER_EPOCHS", 2)):
        monkeypatch.setattr(grpo_digits, name, value)
    grpo_digits.main(digit=3, iterations=2, seed=0, out=tmp_path / "grpo.png")
    assert (tmp_path / "grpo.png").stat().st_size > 1000
    before, after, rewards, divergences = grpo_digits.train(3, 2, 0)
    assert len(rewards) == len(divergences) == 2
    assert all(0 <= reward <= 1 for reward in rewards)
    assert divergences[1] > 0
    changed = [not a.equal(b) for a, b in zip(before.parameters(), after.parameters(), strict=True)]
    assert any(changed)

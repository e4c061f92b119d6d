"""The loop: its two forms, callbacks, interruptions, gradients, progress bar, adaptive solvers and errors."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from tqdm.auto import tqdm

from diffusolve.backends import Run
from diffusolve.catalog import CATALOG, sampler
from diffusolve.denoisers import Denoiser, GaussianDenoiser, Predicting
from diffusolve.errors import SingularPointError, UnknownNameError
from diffusolve.noise import SD15, FlowMatching, Scaling, VarianceExploding
from diffusolve.prediction import EDM
from diffusolve.sampling import Progress, Report, Sampler, sample, sample_with_report, start
from diffusolve.solvers import dpm_adaptive, dpmpp_multistep, euler, heun, unipc
from diffusolve.spacing import Karras, Sigmas, Trailing
from tests.tables import for_each

VE = VarianceExploding(0.02, 20.0)
MEAN, STD = 0.4, 0.6


class WithoutGuidance(GaussianDenoiser):
    """Says the same with guidance and without, where samplers with CFG++ ask for both."""

    def guided_and_unguided(self, x: Any, timestep: Any) -> tuple[Any, Any]:
        return self(x, timestep), self(x, timestep)


DENOISER = WithoutGuidance(VE, MEAN, STD)
ADAPTIVE = sampler("DPM adaptive Karras")
every_catalog_sampler = for_each("name", CATALOG)
both_libraries = pytest.mark.parametrize("library", ["torch", "numpy"])


def noise_like(library: str, shape: tuple[int, ...] = (2, 3, 4), sigma: float = 20.0) -> Any:
    like = torch.zeros(shape, dtype=torch.float64) if library == "torch" else np.zeros(shape)
    return start(Karras(sigma_max=sigma).grid(VE, 3), like, 0)


def equal(a: Any, b: Any) -> bool:
    return a.shape == b.shape and bool((a == b).all())


# The two forms


@both_libraries
@for_each("name", [name for name, entry in CATALOG.items() if not entry.solver.adaptive])
def test_a_plan_and_its_sampler_agree(name: str, library: str) -> None:
    made, x = sampler(name, spacing="karras"), noise_like(library)
    planned = sample(DENOISER, x, made.plan(VE, "sample", 9), noise=[1, 2])
    assert equal(planned, sample(DENOISER, x, made, steps=9, noise=[1, 2]))
    bare = DENOISER if made.plan(VE, "sample", 9).reads_unguided else DENOISER.__call__
    told = sample(bare, x, made, steps=9, noise_schedule=VE, prediction_type="sample", noise=[1, 2])
    assert equal(planned, told)
    assert type(planned) is type(x)


@every_catalog_sampler
def test_torch_and_numpy_agree(name: str) -> None:
    made, x = sampler(name, spacing="karras"), noise_like("numpy")
    rng = np.random.default_rng(0)
    noises = [rng.standard_normal(x.shape) for _ in range(100)]

    def source() -> Callable[..., Any]:
        left = iter(noises)
        return lambda x, s, t: torch.from_numpy(next(left)) if isinstance(x, torch.Tensor) else next(left)

    steps = None if made.solver.adaptive else 9
    on_numpy = sample(DENOISER, x, made, steps=steps, noise=source())
    on_torch = sample(DENOISER, torch.from_numpy(x), made, steps=steps, noise=source())
    np.testing.assert_allclose(on_torch.numpy(), on_numpy, rtol=1e-9, atol=1e-10)


@for_each("name", [name for name in CATALOG if name not in ("LCM", "TCD")])  # whose networks are distilled
def test_every_sampler_draws_from_the_data(name: str) -> None:
    """20,000 samples from a Gaussian have its mean and standard deviation, to a few percent."""
    made = sampler(name, spacing="karras")
    options = {"rtol": 0.005, "atol": 0.001} if made.solver.adaptive else {}
    made = sampler(name, spacing="karras", **options)
    x = noise_like("numpy", (1, 20_000))
    result = sample(DENOISER, x, made, steps=None if made.solver.adaptive else 60, noise=1)
    assert result.mean() == pytest.approx(MEAN, abs=0.03)
    assert result.std() == pytest.approx(STD, rel=0.08)


@both_libraries
def test_a_run_by_hand_is_what_sample_does(library: str) -> None:
    plan, x = Sampler(heun, Karras()).plan(VE, "sample", 5), noise_like(library)
    run = Run(plan)
    y = run.begin(x)
    while not run.is_done:
        y = run.step(DENOISER(run.model_input(y), np.full(2, run.stage.point.timestep)), y)
    np.testing.assert_allclose(np.asarray(y), np.asarray(sample(DENOISER, x, plan)), rtol=1e-12)


@for_each("prediction", ["epsilon", "v_prediction", "flow", "edm"])
@for_each("name", ["Euler", "Heun", "LMS", "DPM++ 2M", "UniPC"])
@for_each("schedule", [SD15, VE, FlowMatching(3.0)], ids=["VP", "VE", "flow"])
def test_the_prediction_type_makes_no_difference_to_the_result(prediction: str, name: str, schedule: Any) -> None:
    if schedule.scaling is Scaling.FLOW and prediction in ("epsilon", "edm"):
        return  # say nothing about the data at sigma = 1, or are not defined there
    exact = GaussianDenoiser(schedule, MEAN, STD)
    made = sampler(name, spacing="trailing")
    x = noise_like("numpy", sigma=1.0)
    results = [sample(network, x, made, steps=8) for network in (exact, Predicting(exact, prediction))]
    np.testing.assert_allclose(results[0], results[1], rtol=1e-6, atol=1e-7)


def test_networks_see_timesteps_of_the_batchs_length_and_whole_ones_as_integers() -> None:
    seen: list[Any] = []

    def network(x: Any, timestep: Any) -> Any:
        seen.append(timestep)
        return x

    for x in (torch.zeros(3, 2), np.zeros((3, 2), np.float32), torch.zeros(3, 2).half()):
        for schedule, prediction in ((SD15, "epsilon"), (VE, "edm")):
            seen.clear()
            plan = sampler("Euler Trailing").plan(schedule, prediction, 4)
            sample(network, x, plan)
            assert [tuple(timestep.shape) for timestep in seen] == [(3,)] * 4
            whole = schedule is SD15
            assert all(str(t.dtype).endswith("int64" if whole else "float32") for t in seen)
            np.testing.assert_allclose([float(timestep[0]) for timestep in seen], plan.timesteps, rtol=1e-6)


# Callbacks


def progress_of(made: Sampler, library: str, **arguments: Any) -> tuple[list[Progress], Any]:
    told: list[Progress] = []
    steps = None if made.solver.adaptive else 6
    result = sample(DENOISER, noise_like(library), made, steps=steps, noise=0, callback=told.append, **arguments)
    return told, result


@both_libraries
@every_catalog_sampler
def test_a_callback_is_told_each_step_once_with_the_exact_prediction(name: str, library: str) -> None:
    made = sampler(name, spacing="karras")
    told, result = progress_of(made, library)
    assert [progress.step for progress in told] == list(range(len(told)))
    if made.solver.adaptive:
        assert {progress.steps for progress in told} == {None}
        assert told[0].point == made.grid(VE, 6)[0]
        assert all(a.point.log_snr < b.point.log_snr for a, b in pairwise(told))
    else:
        plan = made.plan(VE, "sample", 6)
        first_of_step = [stage for stage in plan.stages if stage.stage == 0]
        assert {progress.steps for progress in told} == {len(told)} == {plan.steps}
        assert [progress.point for progress in told] == [stage.point for stage in first_of_step]
        if not CATALOG[name].spaces_itself and name != "Restart":
            assert [progress.point.timestep for progress in told] == made.grid(VE, 6).timesteps.tolist()
    assert equal(told[0].sample, noise_like(library))
    for progress in told:
        variance, noise = STD**2, progress.point.sigma**2
        expected = (noise * MEAN + variance * progress.sample) / (noise + variance)
        np.testing.assert_allclose(np.asarray(progress.data), np.asarray(expected), rtol=1e-9)
    assert result.shape == told[0].sample.shape


@every_catalog_sampler
def test_a_callback_changes_nothing(name: str) -> None:
    made = sampler(name, spacing="karras")
    steps = None if made.solver.adaptive else 6
    assert equal(progress_of(made, "torch")[1], sample(DENOISER, noise_like("torch"), made, steps=steps, noise=0))


@every_catalog_sampler
def test_a_callback_is_told_the_clipped_prediction(name: str) -> None:
    told, _ = progress_of(sampler(name, spacing="karras"), "torch", clip=lambda data: data.clip(0.1, 0.3))
    assert all(0.1 <= float(progress.data.min()) <= float(progress.data.max()) <= 0.3 for progress in told)


@both_libraries
def test_clipping_is_applied_to_each_prediction_before_its_use(library: str) -> None:
    x = noise_like(library)
    for name in ("Euler", "Heun", "DPM++ 2M", "UniPC", "DPM adaptive"):
        made = sampler(name, spacing="karras")
        steps = None if made.solver.adaptive else 6

        def clipped(x: Any, timestep: Any) -> Any:
            return DENOISER(x, timestep).clip(-0.2, 0.2)

        by_clip = sample(DENOISER, x, made, steps=steps, clip=lambda data: data.clip(-0.2, 0.2))
        by_network = sample(clipped, x, made, steps=steps, noise_schedule=VE, prediction_type="sample")
        np.testing.assert_allclose(np.asarray(by_clip), np.asarray(by_network), rtol=1e-9, atol=1e-12)


def test_clipping_counts_as_one_application_per_evaluation_without_a_callback() -> None:
    calls = []

    def clip(data: Any) -> Any:
        calls.append(data)
        return data

    _, report = sample_with_report(DENOISER, noise_like("torch"), Sampler(heun, Karras()), steps=5, clip=clip)
    assert len(calls) == report.nfe == 9


# Interruptions


class Stop(Exception):
    """What a callback raises."""


@for_each("name", ["DPM++ 2M SDE", "Heun", "UniPC", "DPM adaptive"])
@for_each("where", ["callback", "network", "clip", "noise"])
@for_each("error", [Stop, KeyboardInterrupt])
def test_an_interruption_leaves_nothing_broken(
    name: str, where: str, error: type[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    made, x = sampler(name, spacing="karras"), noise_like("torch")
    made = made if made.solver.adaptive else made.plan(VE, "sample", 6)
    if where == "noise" and name != "DPM++ 2M SDE":
        return
    before, calls = sample(DENOISER, x, made, noise=[1, 2]), 0

    def interrupting(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 3:
                raise error
            return function(*args)

        return call

    network: Any = DENOISER
    arguments: dict[str, Any] = {"noise": [1, 2]}
    if where == "network":
        network = Denoiser(interrupting(DENOISER), "sample", VE)
    elif where == "noise":
        arguments["noise"] = interrupting(lambda x, s, t: 0 * x)
    else:
        arguments[where] = interrupting(lambda value: value)
    kept = x.clone()
    with pytest.raises(error):
        sample(network, x, made, progress=True, **arguments)
    assert torch.is_grad_enabled()
    assert not getattr(tqdm, "_instances", ())
    assert equal(x, kept)
    assert equal(before, sample(DENOISER, x, made, noise=[1, 2]))


def test_gradient_mode_is_restored_whatever_it_was() -> None:
    made = Sampler(euler, Karras())
    for mode in (True, False):
        with torch.set_grad_enabled(mode):
            sample(DENOISER, noise_like("torch"), made, steps=2)
            assert torch.is_grad_enabled() is mode


# Gradients


@for_each("name", ["Euler", "Euler a", "Heun", "LMS", "DPM++ 2M", "DPM++ 3M SDE", "UniPC"])
def test_gradients_match_finite_differences(name: str) -> None:
    plan = sampler(name, spacing="karras").plan(VE, "edm", 5)
    x = noise_like("torch", (2, 3)).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: sample(lambda x, t: torch.tanh(x) * 0.5, x, plan, noise=[1, 2], gradients=True), x
    )


def test_gradients_flow_through_an_adaptive_sampler() -> None:
    """Its steps are piecewise constant in x, so the derivative is that of the steps it took."""
    x = noise_like("torch", (1, 2)).requires_grad_()
    made = sampler("DPM adaptive Karras", rtol=1e-4, atol=1e-4)
    result = sample(DENOISER, x, made, gradients=True)
    (slope,) = torch.autograd.grad(result.sum(), x)
    exact = math.hypot(0.02, STD) / math.hypot(20.0, STD)
    np.testing.assert_allclose(slope.numpy(), exact, rtol=0.01)


def test_gradients_reach_the_networks_parameters() -> None:
    weight = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    plan = Sampler(dpmpp_multistep, Karras()).plan(VE, "sample", 4)
    sample(lambda x, t: weight * torch.ones_like(x), noise_like("torch"), plan, gradients=True).sum().backward()
    assert weight.grad == pytest.approx(24.0)  # the last step leads to the prediction, weight, in each of 24 elements


@pytest.mark.parametrize("name", ["Euler a", "UniPC", "DPM adaptive"])
def test_without_gradients_no_graph_is_built(name: str) -> None:
    made = sampler(name, spacing="karras")
    x = noise_like("torch").requires_grad_()
    seen = []

    def network(x: Any, timestep: Any) -> Any:
        seen.append(torch.is_grad_enabled())
        return DENOISER(x, timestep)

    steps = None if made.solver.adaptive else 3
    result = sample(network, x, made, steps=steps, noise_schedule=VE, prediction_type="sample", noise=0)
    assert not result.requires_grad
    assert not any(seen)


# Progress bar


@pytest.mark.parametrize("name", ["Heun", "DPM adaptive"])
def test_a_progress_bar_is_shown_only_if_asked_for(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = sampler(name, spacing="karras")
    steps = None if made.solver.adaptive else 6
    sample(DENOISER, noise_like("torch"), made, steps=steps)
    assert capsys.readouterr() == ("", "")
    sample(DENOISER, noise_like("torch"), made, steps=steps, progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "100%" in shown.err
    assert ("11/11" in shown.err) is (name == "Heun")


# Precision


@for_each("name", ["Euler a", "Heun", "DPM++ 2M", "UniPC", "DPM adaptive"])
@for_each("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_the_result_has_the_precision_of_the_input_and_so_has_what_the_network_sees(
    name: str, dtype: torch.dtype
) -> None:
    seen = set()

    def network(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        seen.add(x.dtype)
        return DENOISER(x.double(), timestep).to(x.dtype)

    made, x = sampler(name, spacing="karras"), noise_like("torch").to(dtype)
    steps = None if made.solver.adaptive else 6
    result = sample(network, x, made, steps=steps, noise_schedule=VE, prediction_type="sample", noise=[1, 2])
    assert result.dtype == dtype
    assert seen == {dtype}


def test_numpy_half_precision_comes_back_as_such() -> None:
    x = noise_like("numpy").astype(np.float16)
    for made in (sampler("Heun Karras").plan(VE, "sample", 4), ADAPTIVE):
        result = sample(Denoiser(lambda x, t: DENOISER(x.astype(np.float64), t).astype(x.dtype), "sample", VE), x, made)
        assert result.dtype == np.float16


# Adaptive


@both_libraries
@pytest.mark.parametrize("order", [2, 3])
def test_an_adaptive_sampler_reports_what_it_did(order: int, library: str) -> None:
    calls = 0

    def network(x: Any, timestep: Any) -> Any:
        nonlocal calls
        calls += 1
        return DENOISER(x, timestep)

    told: list[Progress] = []
    # a first step far too long, so that some are rejected
    made = sampler("DPM adaptive Karras", order=order, h_init=3.0, rtol=0.01)
    x = noise_like(library)
    _, report = sample_with_report(network, x, made, noise_schedule=VE, prediction_type="sample", callback=told.append)
    assert report.nfe == calls
    assert report.rejected > 0
    assert report.accepted == len(told)
    # one evaluation per accepted step, and one or two more for each step tried
    assert report.nfe == report.accepted + (order - 1) * (report.accepted + report.rejected)


@pytest.mark.parametrize(("name", "nfe"), [("Euler", 7), ("Heun", 13), ("DPM2", 13), ("UniPC", 7)])
def test_a_planned_sampler_reports_its_plan(name: str, nfe: int) -> None:
    made = sampler(name, spacing="karras")
    _, report = sample_with_report(DENOISER, noise_like("torch"), made, steps=7)
    assert report == Report(nfe, 7, 0, nfe)
    _, report = sample_with_report(DENOISER, noise_like("torch"), made.plan(VE, "sample", 7))
    assert report == Report(nfe, 7, 0, nfe)


def test_an_adaptive_sampler_refuses_infinite_ranges() -> None:
    with pytest.raises(SingularPointError, match="ends at sigma = 0"):
        sample(DENOISER, noise_like("torch"), Sampler(dpm_adaptive, Karras()))
    flow = GaussianDenoiser(FlowMatching())
    with pytest.raises(SingularPointError, match="starts at alpha = 0"):
        sample(flow, noise_like("torch"), Sampler(dpm_adaptive, Karras(final_sigma="sigma_min")))


# Errors


def refused(error: type[Exception], message: str, network: Any = DENOISER, x: Any = None, **arguments: Any) -> None:
    x = noise_like("torch") if x is None else x
    made = arguments.pop("sampler", Sampler(euler, Karras()))
    arguments = {"steps": 3, **arguments}
    arguments = {name: value for name, value in arguments.items() if value is not None}
    with pytest.raises(error, match=message):
        sample(network, x, made, **arguments)


def bare(x: Any, timestep: Any) -> Any:
    return x


def test_missing_arguments_are_named() -> None:
    refused(ValueError, r"steps is missing: how many steps should the sampler take\? 20 is usual", steps=None)
    refused(ValueError, "noise_schedule is missing: give it, or wrap the network in", bare, prediction_type="epsilon")
    refused(ValueError, "prediction_type is missing: give it, or wrap the network in", bare, noise_schedule=VE)


def test_a_plan_takes_no_steps_or_noise_schedule() -> None:
    plan = Sampler(euler, Karras()).plan(VE, "sample", 3)
    refused(ValueError, "a plan has its steps and noise schedule already", sampler=plan, steps=3)
    refused(ValueError, "a plan has its steps and noise schedule already", sampler=plan, steps=None, noise_schedule=VE)


def test_a_network_that_predicts_something_else_than_the_plan_is_refused() -> None:
    plan = Sampler(euler, Karras()).plan(VE, "epsilon", 3)
    message = "the plan was made for epsilon prediction, but the network predicts "
    refused(ValueError, message + "sample", sampler=plan, steps=None)
    refused(ValueError, message + "v_prediction", bare, sampler=plan, steps=None, prediction_type="v_prediction")
    refused(UnknownNameError, "did you mean 'epsilon'", bare, sampler=plan, steps=None, prediction_type="epsilom")


def test_what_is_neither_plan_nor_sampler_is_refused() -> None:
    refused(TypeError, r"sampler is 'Euler': expected .*diffusolve.sampler\('Euler'\)", sampler="Euler")
    refused(TypeError, r"sampler is Solver.*: expected a Plan or a Sampler", sampler=euler)


@pytest.mark.parametrize("x", [torch.zeros(2, 3, dtype=torch.int64), np.zeros((2, 3), int), torch.zeros(2, 3).cfloat()])
def test_samples_that_are_not_floating_point_are_refused(x: Any) -> None:
    refused(TypeError, f"x has dtype {x.dtype}: expected floating point numbers", x=x)


@pytest.mark.parametrize("x", [torch.tensor(1.0), np.array(1.0)], ids=["torch", "numpy"])
def test_samples_without_a_batch_are_refused(x: Any) -> None:
    refused(ValueError, "x has no dimensions: expected a batch of samples", x=x)


@pytest.mark.parametrize("x", [[1.0, 2.0], "x", 3.0, object()], ids=lambda x: type(x).__name__)
def test_samples_of_another_type_are_refused(x: Any) -> None:
    refused(TypeError, f"expected a torch tensor, a NumPy array or .* got {type(x).__name__}", x=x)


@both_libraries
@pytest.mark.parametrize("made", [Sampler(euler, Karras()), ADAPTIVE], ids=["planned", "adaptive"])
def test_outputs_of_another_shape_are_refused(made: Sampler, library: str) -> None:
    def refuse(message: str, network: Callable[..., Any]) -> None:
        steps = None if made.solver.adaptive else 3
        refused(ValueError, message, Denoiser(network, "sample", VE), noise_like(library), sampler=made, steps=steps)

    refuse(r"returned shape \(1, 3, 4\) for samples of shape \(2, 3, 4\)", lambda x, t: x[:1])
    refuse(r"returned shape \(2, 3\)", lambda x, t: x[..., 0])
    refuse("returned a tuple for samples of shape", lambda x, t: (x,))
    refuse("returned a NoneType", lambda x, t: None)


def test_a_wrong_number_of_seeds_is_refused_before_the_network_runs() -> None:
    def never(x: Any, timestep: Any) -> Any:
        raise AssertionError

    for made in (Sampler(euler.with_options(eta=1.0), Karras()), sampler("DPM adaptive Karras", eta=1.0)):
        steps = None if made.solver.adaptive else 3
        network = Denoiser(never, "sample", VE)
        refused(ValueError, "3 seeds .* batch of 2", network, sampler=made, noise=[1, 2, 3], steps=steps)


def test_a_number_of_steps_is_refused_by_samplers_that_choose_it() -> None:
    refused(ValueError, "steps is 3, but .* chooses its steps by the data", sampler=ADAPTIVE, steps=3)


def test_spacings_with_a_number_of_steps_of_their_own_need_none() -> None:
    made = Sampler(euler, Sigmas((5.0, 1.0, 0.0)))
    assert made.plan(VE, "sample").steps == 2
    assert made.plan(VE, "sample") == made.plan(VE, "sample", 2)


def test_samplers_can_be_pickled() -> None:
    for made in (sampler("DPM++ 2M SDE Karras", eta=0.5), Sampler(euler, Sigmas((5.0, 1.0, 0.0)))):
        assert pickle.loads(pickle.dumps(made)) == made


@pytest.mark.parametrize("steps", [0, -1, 2.5, True])
def test_impossible_numbers_of_steps_are_refused(steps: Any) -> None:
    refused((TypeError, ValueError), "steps is .*expected", steps=steps)  # type: ignore[arg-type]


# Samplers as recipes


def test_solvers_of_dx_dsigma_get_a_grid_where_their_equation_holds() -> None:
    for made in (heun, unipc):
        for schedule, linear in ((SD15, Scaling.VARIANCE_EXPLODING), (VE, Scaling.VARIANCE_EXPLODING)):
            scaling = Sampler(made, Trailing()).grid(schedule, 4).scaling
            assert scaling is (linear if made.integrates_dx_dsigma else schedule.scaling)
    assert Sampler(heun, Trailing(), Scaling.FLOW).grid(SD15, 4).scaling is Scaling.FLOW


def test_the_scaling_makes_no_difference_to_solvers_that_do_not_integrate_dx_dsigma() -> None:
    exact, x = GaussianDenoiser(SD15, MEAN, STD), noise_like("numpy", sigma=1.0)
    for solver in (euler, dpmpp_multistep, unipc):
        results = []
        for scaling in Scaling:
            made = Sampler(solver, Trailing(), scaling)
            plan = made.plan(SD15, "sample", 8)
            results.append(sample(exact, x * plan.start.sigma, plan))
        np.testing.assert_allclose(results[1], results[0], rtol=1e-9)
        np.testing.assert_allclose(results[2], results[0], rtol=1e-9)


def test_samplers_print_their_name_or_their_parts() -> None:
    assert str(sampler("euler karras")) == "Euler Karras"
    assert str(Sampler(heun, Sigmas((2.0, 0.0)))).startswith("heun() on Sigmas(")
    assert Sampler(heun, Karras()) == Sampler(heun, Karras(rho=7.0))


def test_edm_networks_are_preconditioned() -> None:
    """The raw network of an EDM-trained model, made from the exact denoiser by the formulas of table 1."""
    raw = Predicting(DENOISER, EDM(0.5))
    x = noise_like("numpy")
    exact = sample(DENOISER, x, Sampler(heun, Karras()), steps=10)
    np.testing.assert_allclose(sample(raw, x, Sampler(heun, Karras()), steps=10), exact, rtol=1e-8)

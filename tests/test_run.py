"""Runs: what they compute, what they leave alone, and that they share nothing."""

from __future__ import annotations

import copy
import threading
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from diffusolve.backends import Run
from diffusolve.noise import SD15, FlowMatching, VarianceExploding
from diffusolve.plan import Plan, trace
from diffusolve.prediction import EDM, Epsilon, Flow, Sample
from diffusolve.sampling import Sampler
from diffusolve.solvers import SOLVERS, Solver, dpmpp_multistep, euler, heun, unipc
from diffusolve.spacing import Karras, Trailing
from tests.interpreter import Interpreter
from tests.tables import for_each

SHAPE = (2, 3, 4)
VE = VarianceExploding(0.01, 50.0)
PLANNABLE = {
    **{name: made for name, made in SOLVERS.items() if not made.adaptive},
    "euler ancestral": euler.with_options(eta=1.0),
    "3M SDE": dpmpp_multistep.with_options(order=3, eta=1.0),
    "unip 3": unipc.with_options(order=3, corrector=False),
}
every_solver = for_each("solver", PLANNABLE.values(), ids=PLANNABLE)
PREDICTIONS = {"epsilon": Epsilon(), "sample": Sample(), "edm": EDM()}
every_prediction = pytest.mark.parametrize("prediction", PREDICTIONS.values(), ids=PREDICTIONS)


def start(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return 50 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def network(x: Any, timestep: Any) -> Any:
    return 0.5 * x / (1 + abs(x)) + 0.01


def noise_source() -> Callable[..., torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return lambda x, s, t: torch.randn(SHAPE, generator=generator, dtype=torch.float64).to(x.dtype)


def walk(run: Run, x: Any, model: Callable[[Any, Any], Any] = network) -> Any:
    x = run.begin(x)
    while not run.is_done:
        x = run.step(model(run.model_input(x), run.stage.point.timestep), x)
    return x


@every_solver
@every_prediction
def test_a_run_writes_to_nothing_that_its_caller_owns(solver: Solver, prediction: Any) -> None:
    plan, draw = trace(solver, Karras().grid(VE, 6), prediction), noise_source()
    owned: list[tuple[torch.Tensor, torch.Tensor]] = []

    def watch(tensor: torch.Tensor) -> torch.Tensor:
        owned.append((tensor, tensor.clone()))
        return tensor

    run = Run(plan, lambda x, s, t: watch(draw(x, s, t)))
    x = run.begin(watch(start()))
    while not run.is_done:
        x = watch(run.step(watch(network(watch(run.model_input(x)), 0.0)), x))
    for tensor, kept in owned:
        assert torch.equal(tensor, kept)


@every_solver
@every_prediction
@for_each("library", ["torch", "numpy"])
def test_a_network_may_return_the_same_buffer_every_time(solver: Solver, prediction: Any, library: str) -> None:
    plan = trace(solver, Karras(final_sigma="sigma_min").grid(VE, 6), prediction)
    x = start() if library == "torch" else start().numpy()
    buffer = torch.empty(SHAPE, dtype=torch.float64) if library == "torch" else np.empty(SHAPE)

    def reusing(x: Any, timestep: Any) -> Any:
        buffer[:] = network(x, timestep)
        return buffer

    def draw() -> Callable[..., Any]:
        torch_draw = noise_source()
        return torch_draw if library == "torch" else lambda x, s, t: torch_draw(torch.empty(0).double(), s, t).numpy()

    clean, reused = walk(Run(plan, draw()), x), walk(Run(plan, draw()), x, reusing)
    assert (clean == reused).all()


@pytest.mark.parametrize("name", ["euler ancestral", "3M SDE"])
def test_the_noise_source_may_return_the_same_buffer_every_time(name: str) -> None:
    """To samplers that use each noise at once."""
    solver = PLANNABLE[name]
    plan, draw = trace(solver, Karras(final_sigma="sigma_min").grid(VE, 6), Epsilon()), noise_source()
    buffer = torch.empty(SHAPE, dtype=torch.float64)
    reused = walk(Run(plan, lambda x, s, t: buffer.copy_(draw(x, s, t))), start())
    assert torch.equal(reused, walk(Run(plan, noise_source()), start()))


@every_solver
@every_prediction
@for_each("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_combined_in_float32(solver: Solver, prediction: Any, dtype: torch.dtype) -> None:
    """Given the same half-precision outputs and noise, float64 gives the same to float32's precision."""
    plan = trace(solver, Karras().grid(VE, 8), prediction)
    outputs = [torch.randn(SHAPE, generator=torch.Generator().manual_seed(i)).to(dtype) for i in range(plan.nfe)]
    noises = [torch.randn(SHAPE, generator=torch.Generator().manual_seed(99 + i)).to(dtype) for i in range(40)]

    def run(cast: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        left, drawn = iter(outputs), iter(noises)
        made = Run(plan, lambda x, s, t: cast(next(drawn)))
        x = cast(start(dtype))
        return walk(made, x if x.dtype == torch.float64 else x.float(), lambda x, t: cast(next(left)))

    half, double = run(lambda tensor: tensor), run(torch.Tensor.double)
    left, drawn = iter(outputs), iter(noises)
    table = Interpreter(plan, lambda x, t: next(left).double().numpy(), lambda x, s, t: next(drawn).double().numpy())
    np.testing.assert_allclose(double.numpy(), table.run(start(dtype).double().numpy()), atol=1e-12 * table.scale)
    assert half.dtype == torch.float32
    assert (half.double() - double).abs().max() <= 20 * torch.finfo(torch.float32).eps * table.scale


@every_solver
@every_prediction
@for_each("dtype", [torch.float16, torch.bfloat16, np.float16], ids=str)
def test_half_precision_samples_are_rounded_once_in_each_step(solver: Solver, prediction: Any, dtype: Any) -> None:
    """Two runs are shown the same samples, one of them in float32."""
    plan = trace(solver, Karras().grid(VE, 8), prediction)
    in_torch = isinstance(dtype, torch.dtype)

    def narrow(array: Any) -> Any:
        return torch.as_tensor(array).to(dtype) if in_torch else array.astype(dtype)

    def wide(array: Any) -> Any:
        return array.float() if in_torch else array.astype(np.float32)

    def noise(cast: Callable[[Any], Any]) -> Callable[..., Any]:
        generator = np.random.default_rng(0)
        return lambda x, s, t: cast(narrow(generator.standard_normal(SHAPE)))

    half, single = Run(plan, noise(lambda noise: noise)), Run(plan, noise(wide))
    x = narrow(start().numpy())
    x, y = half.begin(x), single.begin(wide(x))
    for _ in range(plan.nfe):
        shown = half.model_input(x)
        assert shown.dtype == dtype
        output = narrow(np.tanh(np.asarray(wide(shown), np.float64)))
        x, y = half.step(output, x), single.step(output, wide(x))
        assert x.dtype == dtype
        assert bool((x == narrow(y)).all())


def test_a_copy_in_mid_run_may_be_asked_for_doubled_inputs_first() -> None:
    """As pipelines do for guidance."""
    plan = trace(heun, Karras().grid(VE, 4), Epsilon())
    run, x = Run(plan), start(torch.float32)
    x = run.begin(x)
    x = run.step(torch.tanh(run.model_input(x)), x)
    results = []
    for each in (run, copy.deepcopy(run)):
        y = x
        while not each.is_done:
            output = torch.tanh(each.model_input(torch.cat([y, y])))[: len(y)]
            y = each.step(output, y)
        results.append(y)
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_precisions_stay_as_they_are(dtype: torch.dtype) -> None:
    plan = trace(heun, Karras().grid(VE, 4), EDM())
    assert walk(Run(plan), start(dtype)).dtype == dtype
    assert walk(Run(plan), start(dtype).numpy()).dtype == start(dtype).numpy().dtype


@every_solver
def test_interleaved_runs_of_one_plan_know_nothing_of_each_other(solver: Solver) -> None:
    plan = trace(solver, Karras().grid(VE, 6), Epsilon())
    xs = [start(), 2 * start(), start() - 1]
    alone = [walk(Run(plan, noise_source()), x) for x in xs]
    runs = [Run(plan, noise_source()) for _ in xs]
    together = [run.begin(x) for run, x in zip(runs, xs, strict=True)]
    late = together.pop()  # the third one starts when the others are in the middle
    for i in range(plan.nfe):
        for j in range(2):
            output = network(runs[j].model_input(together[j]), 0.0)
            together[j] = runs[j].step(output, together[j])
        if i >= plan.nfe // 2:
            late = runs[2].step(network(runs[2].model_input(late), 0.0), late)
    while not runs[2].is_done:
        late = runs[2].step(network(runs[2].model_input(late), 0.0), late)
    for expected, got in zip(alone, [*together, late], strict=True):
        assert torch.equal(expected, got)


def test_threads_may_run_one_plan_at_once() -> None:
    sampler = Sampler(unipc.with_options(order=3), Trailing())
    xs = [start() + i for i in range(8)]
    plan = sampler.plan(FlowMatching(), "flow", 20)
    expected = [walk(Run(plan), x) for x in xs]
    got: dict[int, torch.Tensor] = {}
    barrier = threading.Barrier(len(xs))

    def work(i: int) -> None:
        barrier.wait()
        got[i] = walk(Run(sampler.plan(FlowMatching(), "flow", 20)), xs[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(xs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, result in enumerate(expected):
        assert torch.equal(got[i], result)


class Tracked(np.ndarray):
    """An array that is counted as long as it lives."""

    alive: ClassVar[weakref.WeakSet[Tracked]] = weakref.WeakSet()
    __hash__ = object.__hash__
    __eq__ = object.__eq__  # type: ignore[assignment]

    def __array_finalize__(self, source: object) -> None:
        Tracked.alive.add(self)


@for_each("prediction", [EDM(), Epsilon()], ids=["edm", "epsilon"])
@for_each("solver", [euler, heun, dpmpp_multistep.with_options(order=3), unipc], ids=str)
def test_a_run_drops_each_array_when_the_plan_is_done_with_it(solver: Solver, prediction: Any) -> None:
    """Nobody else refers to what a run has made, so what is not live is gone."""
    plan = trace(solver, Karras(final_sigma="sigma_min").grid(VE, 8), prediction)
    run = Run(plan)
    x = run.begin(start().numpy().view(Tracked))
    for live in plan.live():
        assert len(Tracked.alive) <= len(live)
        x = run.step(network(x, 0.0), x)
    assert len(Tracked.alive) == 1


def test_a_sample_without_a_coefficient_is_not_looked_at() -> None:
    """The last step leads to the prediction, whatever has become of the sample."""
    run, x = Run(trace(euler, Karras().grid(VE, 2), Sample())), start()
    x = run.step(network(x, 0.0), x)
    output = network(x, 0.0)
    assert torch.equal(run.step(output, torch.full_like(x, torch.inf)), output)


@every_prediction
def test_data_is_the_prediction_of_x0_and_does_not_advance_the_run(prediction: Any) -> None:
    plan = trace(dpmpp_multistep, Karras().grid(VE, 5), prediction)
    run, other = Run(plan), Run(plan)
    x = y = start()
    while not run.is_done:
        output = network(run.model_input(x), 0.0)
        stage = run.stage
        data = run.data(output, x)
        torch.testing.assert_close(data, stage.a * x + stage.b * output, rtol=1e-12, atol=1e-12)
        x, y = run.step(output, x), other.step(output, y)
        assert torch.equal(x, y)
    torch.testing.assert_close(x, data, rtol=1e-12, atol=1e-9)  # the last step leads to the data


@every_solver
def test_a_transform_sees_and_changes_every_data_prediction(solver: Solver) -> None:
    plan = trace(solver, Karras().grid(VE, 6), Epsilon())
    seen = []

    def clip(data: torch.Tensor, stage: Any) -> torch.Tensor:
        seen.append(stage)
        return data.clip(-1, 1)

    run = Run(plan, noise_source(), clip)
    clipped = walk(run, start(), lambda x, t: -10 * torch.ones_like(x))
    assert seen == list(plan.stages)
    # LMS extrapolates beyond the last prediction, and Flow-GRPO's last step adds noise like any other.
    assert clipped.abs().max() <= 1 + 1e-9 or solver.name in ("lms", "flow_sde")


def test_model_input_is_the_scaled_sample() -> None:
    plan = trace(euler, Karras().grid(VE, 3), EDM(0.5))
    run, x = Run(plan), start()
    torch.testing.assert_close(run.model_input(x), x / (50.0**2 + 0.25) ** 0.5)


# Errors


def short_plan() -> Plan:
    return trace(heun, Karras().grid(VE, 3), Epsilon())


def test_a_step_too_many_says_how_many_there_were() -> None:
    run = Run(short_plan())
    x = walk(run, start())
    for action in (lambda: run.step(x, x), lambda: run.model_input(x), lambda: run.data(x, x), lambda: run.stage):
        with pytest.raises(IndexError, match=r"5 evaluations \(3 steps\) and all of them are done: start a new run"):
            action()


@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_an_output_of_another_shape_is_refused_and_the_run_goes_on(library: str) -> None:
    run, x = Run(short_plan()), start() if library == "torch" else start().numpy()
    for wrong in (x[:1], x[0], x[:, :1]):
        with pytest.raises(ValueError, match=r"output has shape \(.*\), but the sample has shape \(2, 3, 4\)"):
            run.step(wrong, x)
    assert walk(run, x).shape == SHAPE


def test_a_stochastic_plan_needs_noise() -> None:
    plan = Sampler(euler.with_options(eta=1.0)).plan(SD15, "epsilon", 3)
    with pytest.raises(ValueError, match=r"euler\(eta=1.0\) is stochastic: give its run a source of noise"):
        Run(plan)


@pytest.mark.parametrize("x", [[1.0, 2.0], 3.0, "x", None], ids=str)
def test_what_is_no_array_is_refused(x: object) -> None:
    with pytest.raises(TypeError, match=f"expected a torch tensor, .* got {type(x).__name__}"):
        Run(short_plan()).begin(x)


def test_flow_plans_run_on_jax_arrays() -> None:
    jax = pytest.importorskip("jax")
    plan = trace(unipc, Trailing().grid(FlowMatching(), 8), Flow())
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    result = walk(Run(plan), jax.numpy.asarray(x))
    np.testing.assert_allclose(np.asarray(result), walk(Run(plan), x), rtol=1e-4, atol=1e-5)

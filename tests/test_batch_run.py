"""Batches that mix: every row gets what it gets alone, to the bit, whoever else is there."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import diffusolve
from diffusolve.backends import Clip, Run
from diffusolve.batching import BatchRun, Inputs, Row, choice, coefficients, slots_of
from diffusolve.noise import SD15, FlowMatching, Grid, VarianceExploding
from diffusolve.plan import Plan, trace
from diffusolve.prediction import Sample
from diffusolve.randomness import BrownianPath
from diffusolve.sampling import Sampler
from diffusolve.solvers import (
    SOLVERS,
    Evaluate,
    Noise,
    SolverRun,
    Value,
    dpmpp_multistep,
    euler,
    heun,
    lms,
    solver,
    unipc,
)
from diffusolve.spacing import Karras, Leading, Trailing
from tests.tables import for_each

SHAPE = (2, 3)
VE, FLOW = VarianceExploding(0.01, 50.0), FlowMatching()


def network(x: Any, timesteps: Any) -> Any:
    """A network whose rows are independent to the bit: each operation is rounded correctly, on any array."""
    return x / (1 + abs(x)) + 0.001 * timesteps.reshape(-1, *[1] * (x.ndim - 1))


def own_transform(data: Any, stage: Any) -> Any:
    return data.clip(-0.5, 0.75)


TRANSFORMS: list[Any] = [None, None, Clip(0.7), own_transform]
SAMPLERS = [
    Sampler(euler),
    Sampler(euler.with_options(eta=1.0), Karras()),
    Sampler(euler.with_options(cfg_pp=True)),
    Sampler(heun, Karras()),
    Sampler(heun.with_options(s_churn=20.0), Karras()),
    Sampler(dpmpp_multistep, Karras()),
    Sampler(dpmpp_multistep.with_options(eta=1.0), Leading()),
    Sampler(dpmpp_multistep.with_options(order=3, eta=0.7), Karras()),
    Sampler(dpmpp_multistep.with_options(cfg_pp=True), Karras()),
    Sampler(unipc.with_options(order=3)),
    Sampler(lms),
    Sampler(SOLVERS["dpm_2"].with_options(eta=1.0)),
    Sampler(SOLVERS["dpmpp_sde"].with_options(noise="path"), Karras()),
    Sampler(SOLVERS["sa_solver"].with_options(eta=1.0), Karras()),
    Sampler(SOLVERS["restart"], Karras()),
]
PLANS = [sampler.plan(SD15, "v_prediction", steps) for sampler in SAMPLERS for steps in (1, 3, 5)]
PLANS += [Sampler(made, Karras()).plan(VE, "edm", 4) for made in (heun, unipc, euler.with_options(eta=1.0))]
PLANS += [Sampler(made, Trailing()).plan(FLOW, "flow", 3) for made in (euler, dpmpp_multistep)]


@pytest.fixture(params=["compiled", "plain"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Rows moved by the compiled module, and rows moved by library calls."""
    use(request.param, monkeypatch)
    return str(request.param)


def use(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if path == "plain":
        monkeypatch.setattr(choice, "compiled_rows", lambda: None)
    elif choice.compiled_rows() is None:
        pytest.skip("the package was installed without a compiler")


def start(plan: Plan, seed: int, shape: tuple[int, ...] = SHAPE, dtype: torch.dtype = torch.float32) -> Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (plan.start.sigma * drawn).to(dtype)


def step(batch: BatchRun, inputs: Inputs) -> list[Row]:
    outputs = network(inputs.x, inputs.timesteps)
    return batch.advance(inputs, outputs, 0.75 * outputs if inputs.reads_unguided else None)


def finish(batch: BatchRun) -> None:
    while len(batch):
        for inputs in batch.inputs():
            step(batch, inputs)


def alone(plan: Plan, x: Any, noise: Any = 0, transform: Any = None) -> Any:
    batch = BatchRun()
    row = batch.join(plan, x, noise=noise, transform=transform)
    finish(batch)
    return row.result


def run_alone(plan: Plan, x: Any, noise: Any, transform: Any = None) -> Any:
    """What a run makes of a batch of one."""
    run = Run(plan, noise, transform)
    x = run.begin(x[None])
    while not run.is_done:
        timestep = np.full(1, run.stage.point.timestep)
        output = network(
            run.model_input(x), torch.from_numpy(timestep).to(x.dtype) if isinstance(x, Tensor) else timestep
        )
        x = run.step(output, x, 0.75 * output) if plan.reads_unguided else run.step(output, x)
    return x[0]


def drawing(seed: int) -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda x, s, t: torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype)


def bits(x: Any) -> bytes:
    return np.asarray(x).tobytes()


# Company


@cache
def expected(path: str, kind: int) -> bytes:
    return bits(alone(*row_of(kind)))


def row_of(kind: int) -> tuple[Plan, Tensor, int, Any]:
    """The plan, first sample, seed and transform of a kind of row; among other things every fourth is in float64."""
    plan = PLANS[kind % len(PLANS)]
    dtype = torch.float64 if kind % 4 == 3 else torch.float32
    return plan, start(plan, kind, dtype=dtype), kind, TRANSFORMS[kind % 7 % len(TRANSFORMS)]


def happen(event: int, batch: BatchRun, kinds: dict[Row, int]) -> list[Row]:
    """Something that happens to a batch, between steps or in the middle of one; answered by the rows that are over."""
    what, which = event % 8, event // 8
    rows = list(batch.rows)
    if what < 3 or not rows:
        plan, x, seed, transform = row_of(which)
        kinds[batch.join(plan, x, noise=seed, transform=transform)] = which
        return []
    if what == 3:
        batch.leave(rows[which % len(rows)])
        return []
    if what == 4:  # some rows only, the last first
        return [row for inputs in batch.inputs(rows[:: -1 - which % 2]) for row in step(batch, inputs)]
    over = []
    for inputs in batch.inputs():
        if what == 5:  # somebody leaves while the network runs
            batch.leave(inputs.rows[which % len(inputs.rows)])
        over += step(batch, inputs)
    return over


@settings(max_examples=400)
@given(st.lists(st.integers(0, 8 * 100 - 1), min_size=6, max_size=20))
@pytest.mark.parametrize("path", ["compiled", "plain"])
def test_a_row_is_the_same_to_the_bit_in_any_company(path: str, events: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        use(path, patch)
        batch, kinds, over = BatchRun(), {}, []
        for event in events:
            over += happen(event, batch, kinds)
        while len(batch):
            over += [row for inputs in batch.inputs() for row in step(batch, inputs)]
        assert len(set(over)) == len(over)
        assert {row for row in kinds if row.is_done} == set(over)
        for row in over:
            assert bits(row.result) == expected(path, kinds[row])


def with_options(made: Any, **options: Any) -> Any:
    return made.with_options(**{name: value for name, value in options.items() if name in made.defaults})


EVERY_PLAN = [
    Sampler(with_options(made, **options), Karras()).plan(SD15, "epsilon", 6)
    for made in SOLVERS.values()
    if not made.adaptive
    for options in ({}, {"eta": 0.8, "cfg_pp": True}, {"s_churn": 20.0})
]


@for_each("dtype", [torch.float32, torch.float64], ids=str)
@for_each("transform", [None, Clip(0.7), own_transform], ids=["", "clip", "own"])
def test_every_solver_is_the_same_alone_in_a_batch_and_as_a_run(path: str, dtype: torch.dtype, transform: Any) -> None:
    batch = BatchRun()
    starts = [start(plan, index, (1, 5, 7), dtype) for index, plan in enumerate(EVERY_PLAN)]
    rows = [
        batch.join(plan, x, noise=drawing(index), transform=transform)
        for index, (plan, x) in enumerate(zip(EVERY_PLAN, starts, strict=True))
    ]
    finish(batch)
    tolerance = 2e-4 if dtype is torch.float32 else 1e-12
    for index, (row, x) in enumerate(zip(rows, starts, strict=True)):
        assert row.result.dtype == dtype
        assert bits(row.result) == bits(alone(row.plan, x, drawing(index), transform)), row.plan.solver
        run = run_alone(row.plan, x, drawing(index), transform)
        assert (row.result - run).abs().max() <= tolerance * run.abs().max(), row.plan.solver


@pytest.mark.parametrize("name", ["dpmpp_multistep", "unipc", "heun", "lms", "dpmpp_sde"])
def test_on_the_compiled_path_a_row_is_its_run_to_the_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use("compiled", monkeypatch)
    plan = Sampler(SOLVERS[name], Karras()).plan(VE, "edm", 8)
    x = start(plan, 3, (4, 9, 5))
    company = [Sampler(made, Karras()).plan(VE, "edm", 5) for made in (euler, unipc, heun)]
    batch = BatchRun()
    for index, other in enumerate(company):
        batch.join(other, start(other, index, (4, 9, 5)), noise=index)
    row = batch.join(plan, x, noise=drawing(1))
    finish(batch)
    assert bits(row.result) == bits(run_alone(plan, x, drawing(1)))


@for_each("bad", [torch.inf, -torch.inf, torch.nan], ids=str)
def test_what_a_neighbour_has_become_does_not_spread(path: str, bad: float) -> None:
    """Registers that one row has and another has not are not looked at for the other."""
    plans = [PLANS[index] for index in range(2, len(PLANS), 3)]
    batch = BatchRun()
    rows = [batch.join(plan, start(plan, index), noise=index) for index, plan in enumerate(plans)]
    spoilt = [batch.join(plan, start(plan, index), noise=index) for index, plan in enumerate(plans)]
    while len(batch):
        (inputs,) = batch.inputs()
        outputs = network(inputs.x, inputs.timesteps)
        for index, row in enumerate(inputs.rows):
            if row in spoilt:
                outputs[index] = bad
        batch.advance(inputs, outputs, 0.75 * outputs)
    for index, row in enumerate(rows):
        assert bits(row.result) == bits(alone(row.plan, start(row.plan, index), index))
    assert not any(row.result.isfinite().all() for row in spoilt)


def test_minus_zero_stays_what_it_is(path: str) -> None:
    plan = trace(unchanging, Karras().grid(VE, 3), Sample())
    minus, batch = torch.full(SHAPE, -0.0), BatchRun()
    row = batch.join(plan, minus)
    others = [batch.join(other, start(other, 1), noise=1) for other in PLANS[2::3]]
    for _ in range(3):
        (inputs,) = batch.inputs()
        outputs = network(inputs.x, inputs.timesteps)
        batch.advance(inputs, outputs, outputs)
    assert bits(row.result) == bits(minus)
    assert all(other.position == 3 or other.is_done for other in others)


@pytest.mark.parametrize("count", [(1 << 17) + 5, 3])
def test_threads_change_nothing(path: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plans = [PLANS[index] for index in (11, 17, 20, 8)]
    xs = [start(plan, index, (count,)) for index, plan in enumerate(plans)]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    batch = BatchRun()
    rows = [batch.join(plan, x, noise=index) for index, (plan, x) in enumerate(zip(plans, xs, strict=True))]
    finish(batch)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    for index, (row, x) in enumerate(zip(rows, xs, strict=True)):
        assert bits(row.result) == bits(alone(row.plan, x, index))


# Noise


@for_each("noise", [5, [5], "generator", "path", "path of one"])
def test_noise_is_what_sample_draws_for_a_batch_of_one(path: str, noise: Any) -> None:
    plan = Sampler(dpmpp_multistep.with_options(eta=1.0), Karras()).plan(SD15, "v_prediction", 6)
    x = start(plan, 0, (2, 8))

    def source() -> Any:
        if noise == "generator":
            return torch.Generator().manual_seed(5)
        if isinstance(noise, str):
            pytest.importorskip("torchsde")
            return BrownianPath(0.02, 15.0, 5 if noise == "path" else [5])
        return noise

    usual = diffusolve.sample(network, x[None], plan, noise=source())[0]
    torch.testing.assert_close(alone(plan, x, source()), usual, rtol=1e-5, atol=1e-5)
    assert (alone(plan, x, 6) - usual).abs().max() > 0.01  # the noise matters


def test_a_row_asks_for_noise_in_the_order_that_it_does_alone(path: str) -> None:
    plan = Sampler(SOLVERS["dpmpp_sde"], Karras()).plan(SD15, "v_prediction", 4)
    asked: dict[str, list[Any]] = {"alone": [], "first": [], "second": []}

    def source(name: str) -> Callable[..., Tensor]:
        draw = drawing(0)

        def noted(x: Tensor, s: float, t: float) -> Tensor:
            asked[name].append((tuple(x.shape), s, t))
            return draw(x, s, t)

        return noted

    alone(plan, start(plan, 0), source("alone"))
    batch = BatchRun()
    first = batch.join(plan, start(plan, 0), noise=source("first"))
    for inputs in batch.inputs():
        step(batch, inputs)
    second = batch.join(plan, start(plan, 0), noise=source("second"))
    finish(batch)
    assert asked["alone"] == asked["first"] == asked["second"]
    assert asked["alone"][0][0] == (1, *SHAPE)
    assert bits(first.result) == bits(second.result)


# Precisions, libraries, memory


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_rows_are_moved_in_float32(path: str, dtype: torch.dtype) -> None:
    seen = set()

    def half(x: Tensor, timesteps: Tensor) -> Tensor:
        seen.add((x.dtype, timesteps.dtype))
        return network(x, timesteps).to(dtype)

    for plan in PLANS[2::3]:
        x = start(plan, 1).to(dtype)
        batch = BatchRun()
        row = batch.join(plan, x, noise=drawing(1))
        while len(batch):
            (inputs,) = batch.inputs()
            assert row.sample.dtype == torch.float32
            outputs = half(inputs.x, inputs.timesteps)
            batch.advance(inputs, outputs, 0.75 * outputs)
        run = Run(plan, drawing(1))
        wide = run.begin(x.float()[None])
        while not run.is_done:
            output = half(
                run.model_input(wide).to(dtype), torch.tensor([run.stage.point.timestep], dtype=torch.float32)
            )
            wide = run.step(output, wide, 0.75 * output) if plan.reads_unguided else run.step(output, wide)
        assert row.result.dtype == dtype
        # An input that is rounded to half precision the other way round is a unit of that precision off.
        torch.testing.assert_close(row.result, wide[0].to(dtype), rtol=0.02, atol=0.02)
    assert seen == {(dtype, torch.float32)}


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_numpy_rows(dtype: Any) -> None:
    batch = BatchRun()
    xs = [start(plan, index).numpy().astype(dtype) for index, plan in enumerate(PLANS)]
    rows = [batch.join(plan, x, noise=index) for index, (plan, x) in enumerate(zip(PLANS, xs, strict=True))]
    finish(batch)
    for index, (row, x) in enumerate(zip(rows, xs, strict=True)):
        assert isinstance(row.result, np.ndarray)
        assert row.result.dtype == dtype
        assert bits(row.result) == bits(alone(row.plan, x, index))
        if dtype == np.float64 and not row.plan.is_stochastic:
            torch_row = alone(row.plan, torch.from_numpy(x))
            np.testing.assert_allclose(row.result, torch_row.numpy(), rtol=1e-10, atol=1e-10)


def test_jax_rows() -> None:
    jax = pytest.importorskip("jax")
    plans = [plan for plan in PLANS[2::3] if not plan.is_stochastic]
    xs = [start(plan, index).numpy() for index, plan in enumerate(plans)]
    batch = BatchRun()
    rows = [batch.join(plan, jax.numpy.asarray(x)) for plan, x in zip(plans, xs, strict=True)]
    finish(batch)
    for row, x in zip(rows, xs, strict=True):
        np.testing.assert_allclose(np.asarray(row.result), alone(row.plan, x), rtol=1e-4, atol=1e-4)


def test_rows_of_different_kinds_live_in_different_buckets(path: str) -> None:
    plan, batch = PLANS[2], BatchRun()
    kinds = [
        ((2, 3), torch.float32),
        ((3, 2), torch.float32),
        ((2, 3), torch.float16),
        ((2, 3), torch.float64),
        ((), torch.float32),
    ]
    rows = [batch.join(plan, start(plan, index, *kind)) for index, kind in enumerate(kinds * 2)]
    buckets = batch.inputs()
    assert [(tuple(inputs.x.shape), inputs.x.dtype) for inputs in buckets] == [
        ((2, *shape), dtype) for shape, dtype in kinds
    ]
    assert [inputs.rows for inputs in buckets] == [[rows[index], rows[index + 5]] for index in range(5)]
    assert all(inputs.timesteps.dtype == torch.promote_types(inputs.x.dtype, torch.float32) for inputs in buckets)
    finish(batch)
    for index, (row, kind) in enumerate(zip(rows, kinds * 2, strict=True)):
        assert bits(row.result.float()) == bits(alone(plan, start(plan, index, *kind)).float())


def test_each_row_has_its_own_timestep_and_scale(path: str) -> None:
    batch = BatchRun()
    plans = [Sampler(euler, Karras()).plan(VE, "edm", steps) for steps in (2, 3, 7)] + [PLANS[0]]
    rows = [batch.join(plan, start(plan, index)) for index, plan in enumerate(plans)]
    for _ in range(2):
        (inputs,) = batch.inputs()
        assert inputs.timesteps.tolist() == pytest.approx([row.stage.point.timestep for row in inputs.rows])
        for shown, row in zip(inputs.x, inputs.rows, strict=True):
            torch.testing.assert_close(shown, row.stage.scale * row.sample)
        step(batch, inputs)
    assert [row.is_done for row in rows] == [True, False, False, True]


def test_a_row_owns_its_first_sample(path: str) -> None:
    plan = PLANS[5]
    x = start(plan, 0)
    usual = alone(plan, x, 3)
    batch = BatchRun()
    row = batch.join(plan, x, noise=3)
    x.fill_(torch.nan)
    finish(batch)
    assert bits(row.result) == bits(usual)


def test_the_network_may_return_the_same_buffer_every_time(path: str) -> None:
    """And in any layout, with gradients, in another precision."""
    shape = (2, 3, 4)
    plans = PLANS[2::3]
    usual = [alone(plan, start(plan, index, shape), index) for index, plan in enumerate(plans)]
    buffer = torch.empty(len(plans), *shape)
    forms: list[Callable[[Tensor], Tensor]] = [
        lambda x: buffer[: len(x)].copy_(x),
        lambda x: x.transpose(1, 3).contiguous().transpose(1, 3),
        lambda x: x.requires_grad_(),
        lambda x: x.double(),
    ]
    for form in forms:
        batch = BatchRun()
        rows = [batch.join(plan, start(plan, index, shape), noise=index) for index, plan in enumerate(plans)]
        while len(batch):
            (inputs,) = batch.inputs()
            outputs = network(inputs.x, inputs.timesteps)
            unguided = 0.75 * outputs
            batch.advance(inputs, form(outputs), unguided)
        for row, result in zip(rows, usual, strict=True):
            assert bits(row.result) == bits(result)
            assert not row.result.requires_grad


def test_inference_mode_may_begin_and_end_in_the_middle(path: str) -> None:
    plan = PLANS[17]
    x = start(plan, 0)
    usual = alone(plan, x)
    for first, second in ((True, False), (False, True)):
        batch = BatchRun()
        with torch.inference_mode(first):
            row = batch.join(plan, x, noise=0, transform=TRANSFORMS[0])
            step(batch, batch.inputs()[0])
        with torch.inference_mode(second):
            finish(batch)
        assert bits(row.result) == bits(usual)


def test_what_has_left_is_freed(path: str) -> None:
    """A result is no view of the batch's memory, and a row that leaves keeps nothing."""
    batch = BatchRun()
    plan, other = PLANS[17], Sampler(unipc).plan(SD15, "v_prediction", 9)
    row, left = (batch.join(plan, start(plan, index)) for index in range(2))
    stays = batch.join(other, start(other, 2))
    step(batch, batch.inputs()[0])
    blocks = [weakref.ref(batch.inputs()[0].x)]
    batch.leave(left)
    while not row.is_done:
        step(batch, batch.inputs()[0])
        blocks.append(weakref.ref(batch.inputs()[0].x))
    assert row._memory is left._memory is None
    assert row.result.untyped_storage().nbytes() == row.result.numel() * 4
    gc.collect()
    assert sum(block() is not None for block in blocks) <= 1  # the samples that the remaining row stands on
    assert batch.rows == (stays,)


def test_a_batch_that_is_empty_holds_nothing(path: str) -> None:
    batch = BatchRun()
    for index in range(3):
        batch.join(PLANS[2], start(PLANS[2], index, (index + 1, 2)))
    finish(batch)
    assert (batch.rows, batch.inputs(), len(batch), batch._groups) == ((), [], 0, {})


def test_data_is_the_transformed_prediction_of_x0(path: str) -> None:
    plan = PLANS[8]
    batch = BatchRun()
    rows = [batch.join(plan, start(plan, index), noise=index, transform=TRANSFORMS[index]) for index in (0, 2, 3)]
    (inputs,) = batch.inputs()
    outputs = network(inputs.x, inputs.timesteps)
    for row, output in zip(rows, outputs, strict=True):
        data = row.stage.a * row.sample + row.stage.b * output
        made = batch.data(inputs, outputs, row)
        torch.testing.assert_close(made, data if row.transform is None else row.transform(data, row.stage))
        assert row.position == 0


# Plans of other solvers


@solver(paper="none: it stays where it is")
def unchanging(grid: Grid, x: Value) -> SolverRun:
    for s, _ in pairwise(grid):
        x, _ = yield Evaluate(x, s)
    return x


@solver(paper="none: it leads nowhere")
def vanishing(grid: Grid, x: Value) -> SolverRun:
    x, data = yield Evaluate(x, grid[0])
    x, data = yield Evaluate(0.0 * x + 0.0 * data, grid[1])
    return x + data


@solver(paper="none: it remembers what it began with from before the noise")
def remembering(grid: Grid, x: Value) -> SolverRun:
    began = x
    x = x + 0.1 * (yield Noise(grid[0], grid[1]))
    for s, _ in pairwise(grid):
        x, data = yield Evaluate(x, s)
        x = 0.5 * x + 0.3 * data + 0.01 * began
    return x


@for_each("made", [unchanging, vanishing, remembering], ids=str)
def test_plans_that_no_shipped_solver_makes(path: str, made: Any) -> None:
    plan = trace(made, Karras().grid(VE, 4), Sample())
    x = start(plan, 0)
    run = run_alone(plan, x, drawing(0))
    torch.testing.assert_close(alone(plan, x, drawing(0)), run, rtol=1e-5, atol=1e-4)
    batch = BatchRun()
    row = batch.join(plan, x, noise=drawing(0))
    for index, other in enumerate(PLANS[2::3]):
        batch.join(other, start(other, index), noise=index)
    finish(batch)
    assert bits(row.result) == bits(alone(plan, x, drawing(0)))


def test_stages_that_the_compiled_module_does_not_take_are_done_with_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    use("compiled", monkeypatch)
    from diffusolve.backends import programs
    from diffusolve.batching import compiled

    usual = [alone(plan, start(plan, index), index, TRANSFORMS[index % 4]) for index, plan in enumerate(PLANS)]
    monkeypatch.setattr(programs, "MOST_ARRAYS", 4)
    compiled._bound_stages.cache_clear()
    try:
        batch = BatchRun()
        rows = [
            batch.join(plan, start(plan, index), noise=index, transform=TRANSFORMS[index % 4])
            for index, plan in enumerate(PLANS)
        ]
        assert {stage.update is None for row in rows for stage in row._stages} == {True, False}
        finish(batch)
        for row, result in zip(rows, usual, strict=True):
            torch.testing.assert_close(row.result, result, rtol=1e-4, atol=1e-4)
    finally:
        compiled._bound_stages.cache_clear()


# The table for other engines


def engine(plans: list[Plan], xs: list[np.ndarray[Any, Any]], noises: list[Iterator[np.ndarray[Any, Any]]]) -> Any:
    """An engine that knows nothing of solvers: it holds registers as stacks over the rows, and does what tables say."""
    slots = max(map(slots_of, plans))
    state = {f"slot{k}": np.zeros((len(plans), *SHAPE)) for k in range(slots)} | {"sample": np.stack(xs)}
    active, position, results = list(range(len(plans))), [0] * len(plans), {}
    while active:
        table = coefficients([(plans[row], position[row]) for row in active])
        held = {name: array[active] for name, array in state.items()}
        held["output"] = network(table.scales[:, None, None] * held["sample"], table.timesteps)
        held["unguided"] = 0.75 * held["output"]
        for index, row in enumerate(active):
            for slot, _, _ in table.noises[index]:
                held[slot][index] = next(noises[row])
        sums = {target: np.zeros_like(held["sample"]) for target, _ in table.terms}
        for column, (target, source) in enumerate(table.terms):
            sums[target] += table.table[:, column, None, None] * held[source]
        for name, array in {**held, **sums}.items():
            if name in state:
                state[name][active] = array
        for index, row in enumerate(active):
            position[row] += 1
            if table.done[index]:
                results[row] = state["sample"][row].copy()
        active = [row for row in active if row not in results]
    return [results[row] for row in range(len(plans))]


def test_an_engine_can_do_the_steps_from_tables_alone() -> None:
    plans = [plan for plan in PLANS if not plan.opening.noises]
    xs = [start(plan, index, dtype=torch.float64).numpy() for index, plan in enumerate(plans)]

    def drawn(seed: int) -> Iterator[np.ndarray[Any, Any]]:
        rng = np.random.default_rng(seed)
        while True:
            yield rng.standard_normal(SHAPE)

    results = engine(plans, xs, [drawn(index) for index in range(len(plans))])
    for index, (plan, x) in enumerate(zip(plans, xs, strict=True)):
        mine = drawn(index)
        wanted = alone(plan, x, lambda like, s, t, mine=mine: next(mine)[None])
        np.testing.assert_allclose(results[index], wanted, rtol=1e-9, atol=1e-9)


def test_the_table_of_a_batch_is_that_of_its_rows() -> None:
    batch = BatchRun()
    rows = [batch.join(plan, start(plan, 0), noise=0) for plan in (PLANS[17], PLANS[5])]
    step(batch, batch.inputs()[0])
    made, wanted = batch.coefficients(), coefficients([(row.plan, 1) for row in rows])
    np.testing.assert_array_equal(made.table, wanted.table)
    assert (made.terms, made.done) == (wanted.terms, (False, False))
    assert made.table.shape == (2, len(made.terms))
    assert batch.coefficients(rows[1:]).timesteps.tolist() == [rows[1].stage.point.timestep]
    assert coefficients([]).table.shape == (0, 0)


def test_what_no_table_says_is_refused() -> None:
    batch = BatchRun()
    row = batch.join(PLANS[5], start(PLANS[5], 0), transform=Clip(1.0), tag="q")
    with pytest.raises(ValueError, match=r"row 0 \('q'\) transforms its data predictions"):
        batch.coefficients()
    batch.leave(row)
    with pytest.raises(LookupError, match="has left its batch"):
        batch.coefficients([row])
    with pytest.raises(IndexError, match=r"row 1: position 5 of .* which has 5 evaluations"):
        coefficients([(PLANS[5], 0), (PLANS[2], 5)])
    plan = trace(remembering, Karras().grid(VE, 3), Sample())
    with pytest.raises(ValueError, match="remembers more than its sample"):
        coefficients([(plan, 0)])


# Errors


def three() -> tuple[BatchRun, list[Row], Inputs]:
    batch = BatchRun()
    rows = [batch.join(PLANS[index], start(PLANS[index], index), noise=index, tag=f"r{index}") for index in (2, 17, 5)]
    (inputs,) = batch.inputs()
    return batch, rows, inputs


WRONG_OUTPUTS = {
    "missing rows": (
        lambda x: x[:2],
        ValueError,
        r"outputs has shape \(2, 2, 3\): expected \(3, 2, 3\), one output for each of row 0 \('r2'\), row 1 \('r17'\), "
        r"row 2 \('r5'\); that of row 2 \('r5'\) is missing",
    ),
    "more missing": (lambda x: x[:1], ValueError, r"those of row 1 \('r17'\), row 2 \('r5'\) are missing"),
    "another shape": (lambda x: x[:, :1], ValueError, r"outputs has shape \(3, 1, 3\): expected \(3, 2, 3\)"),
    "no batch": (lambda x: x[0], ValueError, r"outputs has shape \(2, 3\): expected \(3, 2, 3\)"),
    "integers": (lambda x: x.long(), TypeError, r"outputs holds torch.int64: expected floating point numbers"),
    "complex": (lambda x: x + 1j, TypeError, r"outputs holds torch.complex64: expected floating point numbers"),
    "nothing": (lambda x: None, TypeError, r"outputs is a NoneType: expected a torch tensor of shape \(3, 2, 3\)"),
    "numpy": (lambda x: x.numpy(), TypeError, "outputs is a ndarray: expected a torch tensor"),
    "elsewhere": (lambda x: x.to("meta"), ValueError, "outputs is on meta: expected cpu"),
    "one left out": (lambda x: [x[0], x[1]], ValueError, r"that of row 2 \('r5'\) is missing, expected an array"),
    "one is None": (lambda x: [x[0], None, x[2]], ValueError, r"that of row 1 \('r17'\) is missing"),
    "one has another shape": (
        lambda x: [x[0], x[1], x[2][:1]],
        ValueError,
        r"that of row 2 \('r5'\) is shape \(1, 3\), expected shape \(2, 3\)",
    ),
    "one is no array": (lambda x: [x[0], 3.0, x[2]], ValueError, r"that of row 1 \('r17'\) is a float"),
    "too many": (lambda x: [*x, x[0]], ValueError, "holds 4 arrays: expected one for each of row 0"),
}


@for_each("wrong", WRONG_OUTPUTS.values(), ids=WRONG_OUTPUTS)
def test_wrong_outputs_are_refused_and_nothing_has_moved(path: str, wrong: Any) -> None:
    make, error, message = wrong
    batch, rows, inputs = three()
    with pytest.raises(error, match=message):
        batch.advance(inputs, make(network(inputs.x, inputs.timesteps)))
    assert [row.position for row in rows] == [0, 0, 0]
    step(batch, inputs)
    finish(batch)
    for index, row in zip((2, 17, 5), rows, strict=True):
        assert bits(row.result) == bits(alone(PLANS[index], start(PLANS[index], index), index))


def test_outputs_may_be_a_list_with_one_per_row(path: str) -> None:
    batch, rows, inputs = three()
    batch.advance(inputs, list(network(inputs.x, inputs.timesteps)))
    finish(batch)
    for index, row in zip((2, 17, 5), rows, strict=True):
        assert bits(row.result) == bits(alone(PLANS[index], start(PLANS[index], index), index))


def test_unguided_outputs_are_needed_by_those_who_read_them(path: str) -> None:
    batch, _, _ = three()
    plan = PLANS[8]
    reads = batch.join(plan, start(plan, 0))
    (inputs,) = batch.inputs()
    assert inputs.reads_unguided
    outputs = network(inputs.x, inputs.timesteps)
    with pytest.raises(ValueError, match=r"row 3: euler\(cfg_pp=True\) needs the network's output without guidance"):
        batch.advance(inputs, outputs)
    with pytest.raises(ValueError, match=r"unguided outputs has shape \(1, 2, 3\)"):
        batch.advance(inputs, outputs, outputs[:1])
    batch.leave(reads)
    assert batch.advance(inputs, outputs) == []  # nobody reads them any more


def test_inputs_are_used_once(path: str) -> None:
    batch, rows, inputs = three()
    again = batch.inputs(rows[:1])[0]
    step(batch, inputs)
    with pytest.raises(ValueError, match=r"used already, for row 0 \('r2'\), row 1"):
        step(batch, inputs)
    with pytest.raises(ValueError, match=r"row 0 \('r2'\) was advanced since .* for evaluation 1, and 1 are done"):
        step(batch, again)


def test_rows_that_have_left_say_so(path: str) -> None:
    batch, (row, other, third), _ = three()
    with pytest.raises(LookupError, match=r"row 0 \('r2'\) has no result: 0 of 5 evaluations are done"):
        _ = row.result
    batch.leave(row)
    uses: list[Callable[[], object]] = [
        lambda: batch.leave(row),
        lambda: batch.inputs([other, row]),
        lambda: row.stage,
        lambda: row.sample,
        lambda: row.result,
    ]
    for use_it in uses:
        with pytest.raises(LookupError, match=r"row 0 \('r2'\) has .*it was taken out before its end"):
            use_it()
    with pytest.raises(ValueError, match=r"row 1 \('r17'\) is there twice"):
        batch.inputs([other, other])
    with pytest.raises(LookupError, match=r"row 1 \('r17'\) is in another batch"):
        BatchRun().leave(other)
    with pytest.raises(LookupError, match="are of another batch"):
        BatchRun().advance(batch.inputs()[0], torch.zeros(2, *SHAPE))
    inputs = batch.inputs([other])[0]
    with pytest.raises(LookupError, match=r"row 2 \('r5'\) is not among"):
        batch.data(inputs, torch.zeros(1, *SHAPE), third)
    finish(batch)
    with pytest.raises(LookupError, match=r"row 1 \('r17'\) has left its batch: it is done"):
        batch.leave(other)
    assert (repr(row), repr(other)) == ("<row 0 ('r2'): euler(), left>", f"<row 1 ('r17'): {PLANS[17].solver}, left>")


def test_a_row_whose_own_function_raises_ends_alone(path: str) -> None:
    def failing(x: Any, *_: Any) -> Any:
        raise ArithmeticError("my own fault")

    stochastic = PLANS[5]
    makers: list[Callable[[BatchRun], Row]] = [
        lambda batch: batch.join(stochastic, start(stochastic, 0), noise=failing),
        lambda batch: batch.join(PLANS[2], start(PLANS[2], 0), transform=failing),
    ]
    for make in makers:
        batch, rows, _ = three()
        bad = make(batch)
        over = [row for inputs in batch.inputs() for row in step(batch, inputs)]
        assert over == [bad]
        assert bad not in batch.rows
        with pytest.raises(ArithmeticError, match="my own fault"):
            _ = bad.result
        finish(batch)
        for index, row in zip((2, 17, 5), rows, strict=True):
            assert bits(row.result) == bits(alone(PLANS[index], start(PLANS[index], index), index))


def test_noise_and_transformed_data_have_the_rows_shape(path: str) -> None:
    plan, batch = PLANS[5], BatchRun()
    noisy = batch.join(plan, start(plan, 0), noise=lambda x, s, t: x[0])
    changed = batch.join(PLANS[2], start(PLANS[2], 0), transform=lambda data, stage: data.sum())
    nothing = batch.join(PLANS[2], start(PLANS[2], 0), transform=lambda data, stage: None)
    assert step(batch, batch.inputs()[0]) == [noisy, changed, nothing]
    with pytest.raises(
        ValueError, match=r"the noise source of row 0 returned shape \(2, 3\): expected shape \(1, 2, 3\)"
    ):
        _ = noisy.result
    with pytest.raises(ValueError, match=r"the transform of row 1 returned shape \(\): expected shape \(1, 2, 3\)"):
        _ = changed.result
    with pytest.raises(ValueError, match=r"the transform of row 2 returned a NoneType"):
        _ = nothing.result


def test_what_cannot_join_says_why() -> None:
    batch = BatchRun()
    with pytest.raises(TypeError, match=r"plan is a Sampler: expected a Plan, which Sampler.plan\(\) makes"):
        batch.join(Sampler(euler), torch.zeros(3))
    with pytest.raises(TypeError, match=r"x has dtype torch\.int64"):
        batch.join(PLANS[2], torch.zeros(3, dtype=torch.int64))
    with pytest.raises(TypeError, match="expected a torch tensor"):
        batch.join(PLANS[2], [1.0])
    with pytest.raises(ValueError, match="2 seeds or generators for a batch of 1"):
        batch.join(PLANS[5], torch.zeros(3), noise=[1, 2])
    assert (len(batch), batch._groups) == (0, {})

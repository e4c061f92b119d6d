"""The compiled backend: the same numbers as PyTorch's, wherever it may be used, and nowhere else."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from diffusolve.backends import Clip, Run, choice
from diffusolve.backends.lowered import NEXT, LoweredStage, Sum, Trait
from diffusolve.noise import SD15
from diffusolve.plan import Plan
from diffusolve.sampling import Sampler
from diffusolve.solvers import SOLVERS, Solver, dpmpp_multistep, dpmpp_sde, sa_solver, seeds_3, unipc
from diffusolve.spacing import Karras
from tests.tables import for_each

native = pytest.importorskip("diffusolve.backends.native", reason="the package was installed without a compiler")
from diffusolve.backends import _combine  # noqa: E402  (there is none without)

PLANNABLE = [made for made in SOLVERS.values() if not made.adaptive]
SIZES = (0, 1, 7, 1023, 1024, 1025, 5000)


def run_program(outputs: Any, inputs: list[Tensor], into: list[Tensor], threads: int = 1) -> None:
    program = _combine.program(inputs[0].dtype is torch.float64, len(inputs), outputs)
    _combine.combine(program, inputs[0].numel(), threads, *(array.data_ptr() for array in (*inputs, *into)))


def expected(outputs: Any, inputs: list[Tensor]) -> list[np.ndarray[Any, Any]]:
    arrays = [array.double().numpy() for array in inputs]
    for limit, terms in outputs:
        total = sum(coefficient * arrays[source] for source, coefficient in terms)
        arrays.append(np.clip(total, -limit, limit))
    return arrays[len(inputs) :]


# The compiled module

coefficients = st.floats(-2, 2, allow_nan=False).filter(lambda c: abs(c) > 1e-3)


@given(st.data(), st.sampled_from(SIZES), st.sampled_from([torch.float32, torch.float64]), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_outputs_are_the_sums_of_their_terms(data: st.DataObject, size: int, dtype: torch.dtype, inputs: int) -> None:
    arrays = [torch.randn(size, dtype=dtype) for _ in range(inputs)]
    outputs = []
    for index in range(data.draw(st.integers(1, 4))):
        sources = st.integers(0, inputs + index - 1)
        limit = data.draw(st.sampled_from([float("inf"), 1.0]))
        most = 2 if limit == 1.0 else 15
        terms = data.draw(st.lists(st.tuples(sources, coefficients), min_size=1, max_size=most))
        outputs.append((limit, tuple(terms)))
    made = [torch.full((size,), torch.nan, dtype=dtype) for _ in outputs]
    before = [array.clone() for array in arrays]
    run_program(tuple(outputs), arrays, made)
    largest = max((float(np.abs(wanted).max(initial=1)) for wanted in expected(outputs, arrays)), default=1.0)
    for got, wanted in zip(made, expected(outputs, arrays), strict=True):
        np.testing.assert_allclose(got.double().numpy(), wanted, atol=60 * torch.finfo(dtype).eps * largest)
    assert all(torch.equal(a, b) for a, b in zip(arrays, before, strict=True))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_large_arrays_are_shared_out_to_threads(threads: int) -> None:
    arrays = [torch.randn((1 << 20) + 13) for _ in range(3)]
    outputs = ((float("inf"), ((0, 0.5), (1, -1.5))), (float("inf"), ((3, 2.0), (2, 1.0))))
    made = [torch.empty_like(arrays[0]) for _ in outputs]
    run_program(outputs, arrays, made, threads)
    for got, wanted in zip(made, expected(outputs, arrays), strict=True):
        np.testing.assert_allclose(got.double().numpy(), wanted, atol=1e-5)


HALVES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


@given(st.data(), st.sampled_from([*SIZES, 64, 65, 200]), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_arrays_of_all_precisions_are_summed_up_in_single_precision(
    data: st.DataObject, size: int, inputs: int
) -> None:
    """What one output makes of half-precision numbers, others read before it is rounded."""
    dtypes = st.sampled_from([*HALVES])
    arrays = [torch.randn(size).to(data.draw(dtypes)) for _ in range(inputs)]
    outputs, made = [], []
    for index in range(data.draw(st.integers(1, 3))):
        limit = data.draw(st.sampled_from([float("inf"), 1.0]))
        terms = st.tuples(st.integers(0, inputs + index - 1), coefficients)
        outputs.append((limit, tuple(data.draw(st.lists(terms, min_size=1, max_size=2 if limit == 1.0 else 9)))))
        made.append(torch.full((size,), torch.nan, dtype=data.draw(dtypes)))
    kinds = bytes(HALVES[array.dtype] for array in (*arrays, *made))
    program = _combine.program(False, inputs, tuple(outputs), None, kinds)
    _combine.combine(program, size, 1, *(array.data_ptr() for array in (*arrays, *made)))
    wanted = expected(outputs, arrays)
    largest = max((float(np.abs(sums).max(initial=1)) for sums in wanted), default=1.0)
    for got, sums in zip(made, wanted, strict=True):
        rounding = torch.finfo(got.dtype).eps / 2 if got.dtype != torch.float32 else 0.0
        np.testing.assert_allclose(got.double().numpy(), sums, rtol=rounding, atol=1e-5 * largest)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_arrays_larger_than_any_cache_are_no_exception(dtype: torch.dtype) -> None:
    size = (1 << 22) + 77
    arrays = [torch.randn(size).to(dtype) for _ in range(2)]
    outputs = ((float("inf"), ((0, 0.5), (1, -1.5))), (1.0, ((2, 1.0),)))
    program = _combine.program(False, 2, outputs, None, bytes([HALVES[dtype]] * 4))
    wanted = expected(outputs, arrays)
    for offset in (0, 3):  # also where they do not begin at a multiple of what a processor writes at once
        made = [torch.empty(size + offset, dtype=dtype)[offset:] for _ in outputs]
        for threads in (1, 3):
            _combine.combine(program, size, threads, *(array.data_ptr() for array in (*arrays, *made)))
            for got, sums in zip(made, wanted, strict=True):
                np.testing.assert_allclose(got.double().numpy(), sums, rtol=torch.finfo(dtype).eps, atol=1e-5)


def test_clipped_sums_keep_what_large_terms_leave() -> None:
    """Where a data prediction is made of noise at a vanishing signal: 1e9 x - 1e9 output."""
    x = torch.randn(1000, dtype=torch.float64)
    data = torch.rand(1000, dtype=torch.float64) - 0.5
    p, q = 123456789.123, -1.7e8 / 3
    sample, output = x.float(), (-(p * x.float().double() - data) / q).float()
    exact = p * sample.double() + q * output.double()
    made = torch.empty_like(sample)
    for terms in (((0, p), (1, q)), ((1, q), (0, p))):
        run_program(((50.0, terms),), [sample, output], [made])
        torch.testing.assert_close(made.double(), exact.clamp(-50, 50), rtol=3e-7, atol=1e-6)


def test_clipped_sums_take_infinity() -> None:
    x, y = (
        torch.tensor([torch.inf, 1.0, -torch.inf, torch.inf, 0.0]),
        torch.tensor([1.0, -torch.inf, 5.0, torch.inf, 0.0]),
    )
    made = torch.empty_like(x)
    run_program(((2.0, ((0, 1.0), (1, 0.3))),), [x, y], [made])
    assert made.tolist() == [2.0, -2.0, -2.0, 2.0, 0.0]
    run_program(((2.0, ((0, -0.1), (1, 0.3))),), [x, y], [made])
    assert made[3].isnan()
    assert made[[0, 1, 2, 4]].tolist() == [-2.0, -2.0, 2.0, 0.0]


def test_an_output_may_take_the_place_of_an_input() -> None:
    x, y = torch.randn(3000), torch.randn(3000)
    wanted = 0.5 * x.double() - 2 * y.double()
    run_program(((float("inf"), ((0, 0.5), (1, -2.0))),), [x, y], [y])
    torch.testing.assert_close(y.double(), wanted, rtol=1e-6, atol=1e-6)


def test_the_same_numbers_give_the_same_bits_wherever_they_stand() -> None:
    """So that a sample does not depend on its batch."""
    x, y, z = (torch.randn(4096) for _ in range(3))
    outputs = ((float("inf"), ((0, 0.3), (1, -1.7), (2, 1.0))),)
    whole = torch.empty_like(x)
    run_program(outputs, [x, y, z], [whole])
    for begin, end in ((0, 1), (1, 2), (3, 1040), (17, 4095), (1023, 1029)):
        part = torch.empty(end - begin)
        run_program(outputs, [array[begin:end] for array in (x, y, z)], [part])
        assert torch.equal(part, whole[begin:end])


@pytest.mark.parametrize("without", ["PORTABLE", "WITHOUT_AVX512"])
def test_other_processors_make_the_same_numbers(without: str, tmp_path: Path) -> None:
    """The module without what is for x86 only, and with threads of its own; or without what few x86 processors have."""
    compiler = shutil.which("cc")
    source = Path(_combine.__file__).with_name("_combine.c")
    if compiler is None or not source.exists():
        pytest.skip("there is no compiler, or no source beside the module")
    include, made = sysconfig.get_path("include"), tmp_path / "_combine.so"
    command = [compiler, "-shared", "-fPIC", "-O2", "-std=c11", "-pthread", f"-D{without}", f"-I{include}", str(source)]
    subprocess.run([*command, "-o", str(made), "-ldl"], check=True, timeout=120)
    spec = importlib.util.spec_from_file_location("_combine", made)
    assert spec is not None
    assert spec.loader is not None
    elsewhere = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(elsewhere)
    infinite, generator = float("inf"), torch.Generator().manual_seed(0)
    sums = (
        (infinite, tuple((i % 4, 0.3 - 0.1 * i) for i in range(8))),
        (1.0, ((0, 0.7), (4, -0.4))),
        (infinite, ((5, 1.1),)),
    )
    for dtypes in (
        [torch.float32] * 7,
        [torch.float64] * 7,
        [torch.float16, torch.bfloat16, torch.float32] * 2 + [torch.bfloat16],
    ):
        double = torch.float64 in dtypes
        kinds = bytes(HALVES.get(dtype, 0) for dtype in dtypes)
        for size in (5, 1030, (1 << 17) + 3):
            arrays = [torch.randn(size, generator=generator).to(dtype) for dtype in dtypes[:4]]
            results = []
            for module, threads in ((_combine, 1), (elsewhere, 1), (elsewhere, 4)):
                into = [torch.empty(size, dtype=dtype) for dtype in dtypes[4:]]
                program = module.program(double, 4, sums, None, kinds)
                module.combine(program, size, threads, *(array.data_ptr() for array in (*arrays, *into)))
                results.append(into)
            for wanted, *others in zip(*results, strict=True):
                for other in others:
                    torch.testing.assert_close(other, wanted)


def test_clipping_leaves_nan_alone() -> None:
    x = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.5])
    made = torch.empty_like(x)
    run_program(((1.0, ((0, 1.0),)),), [x], [made])
    assert made.isnan().tolist() == [True, False, False, False]
    assert made[1:].tolist() == [1.0, -1.0, 0.5]


@for_each(
    ("outputs", "inputs", "message"),
    [
        (((1.0, ((2, 1.0),)),), 2, "source 2 is not one of 2"),
        (((1.0, ((-1, 1.0),)),), 2, "source -1"),
        (((1.0, ()),), 2, "no terms"),
        (((1.0, ((0, 0.0), (1, 1.0))),), 2, "has the coefficient 0"),
        (((1.0, ((0, 1.0), (1, 1.0), (0, 1.0))),), 2, "3 terms cannot be clipped"),
        (((1.0, ((0, 1.0),)),) * 40, 40, "40 inputs and 40 outputs"),
    ],
)
def test_programs_that_cannot_run_are_refused(outputs: Any, inputs: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _combine.program(False, inputs, outputs)


def test_calls_that_cannot_be_are_refused() -> None:
    program = _combine.program(False, 1, ((1.0, ((0, 1.0),)),))
    with pytest.raises(TypeError, match="1 addresses: expected 2"):
        _combine.combine(program, 3, 1, 1234)
    with pytest.raises(ValueError, match="the address of input 0 is 0"):
        _combine.combine(program, 3, 1, 0, 0)
    with pytest.raises((ValueError, TypeError)):
        _combine.combine(object(), 3, 1, 0, 0)


# Rows


def test_rows_are_moved_by_their_own_programs_in_one_call() -> None:
    """Slots and stacks as inputs and outputs; a row that is None is left alone."""
    count = 2500
    slots, output, shown = torch.randn(4, 3, count), torch.randn(4, count), torch.full((4, count), torch.nan)
    infinite = float("inf")
    # slot 1 = 0.5 slot 2 + slot 0; slot 0 = slot 1 - 2 output, in its own place; shown = 3 slot 0
    sums = ((infinite, ((1, 0.5), (0, 1.0))), (infinite, ((2, -2.0), (3, 1.0))), (infinite, ((4, 3.0),)))
    programs = [
        _combine.program(False, 3, sums, (0, 2, -1, 1, 0, -2)),
        _combine.program(False, 1, ((0.25, ((0, 1.0),)),), (-1, -2)),  # shown = output, clipped
    ]
    rows = [None if i == 2 else (programs[i == 1], slots[i].data_ptr()) for i in range(4)]
    before = slots.clone()
    for threads in (1, 3):
        slots.copy_(before)
        _combine.combine_rows(rows, count, threads, output.data_ptr(), shown.data_ptr())
        for i in (0, 3):
            kept = 0.5 * before[i, 2].double() + before[i, 0].double()
            made = kept - 2 * output[i].double()
            for got, wanted in ((slots[i, 1], kept), (slots[i, 0], made), (shown[i], 3 * made)):
                torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-5)
        assert torch.equal(shown[1], output[1].clamp(-0.25, 0.25))
        assert shown[2].isnan().all()
        assert torch.equal(slots[1:3], before[1:3])
        assert torch.equal(slots[:, 2], before[:, 2])


def test_threads_share_out_rows_to_the_bit() -> None:
    count, rows = (1 << 17) + 11, 5
    slots, shown, wanted = torch.randn(rows, count), torch.empty(rows, count), torch.empty(rows, count)
    programs = [_combine.program(False, 1, ((float("inf"), ((0, 0.1 * i + 0.3),)),), (0, -1)) for i in range(rows)]
    calls = [(program, slots[i].data_ptr()) for i, program in enumerate(programs)]
    _combine.combine_rows(calls, count, 1, wanted.data_ptr())
    torch.testing.assert_close(wanted, slots * torch.tensor([0.1 * i + 0.3 for i in range(rows)])[:, None])
    for threads in (2, 3, 64):
        shown.fill_(torch.nan)
        _combine.combine_rows(calls, count, threads, shown.data_ptr())
        assert torch.equal(shown, wanted)


def test_a_single_term_is_rounded_once() -> None:
    """As multiplying by a number is anywhere, whose last bit is what it is."""
    x, made = torch.randn(5000), torch.empty(5000)
    for scale in (1.0, 0.3, 1.5, 1 + 2**-23):
        exact = torch.tensor(scale).item()
        run_program(((float("inf"), ((0, exact),)),), [x], [made])
        assert torch.equal(made, x * torch.tensor(scale))


def test_rows_that_cannot_be_are_refused() -> None:
    plain = _combine.program(False, 1, ((1.0, ((0, 1.0),)),))
    with pytest.raises(ValueError, match="3 places for 1 inputs and 1 outputs"):
        _combine.program(False, 1, ((1.0, ((0, 1.0),)),), (0, 1, 2))
    placed = _combine.program(False, 1, ((1.0, ((0, 1.0),)),), (0, -3))
    x = torch.zeros(3)
    with pytest.raises(ValueError, match="place -3, but 2 stacks"):
        _combine.combine_rows([(placed, x.data_ptr())], 3, 1, x.data_ptr(), x.data_ptr())
    with pytest.raises(ValueError, match="has no places"):
        _combine.combine_rows([(plain, x.data_ptr())], 3, 1, x.data_ptr())
    with pytest.raises(ValueError, match="an address is 0"):
        _combine.combine_rows([(placed, x.data_ptr())], 3, 1, 0, 0, 0)
    with pytest.raises(ValueError, match="an address is 0"):
        _combine.combine_rows([(placed, 0)], 3, 1, *[x.data_ptr()] * 3)
    with pytest.raises(TypeError, match="a row is None or a tuple"):
        _combine.combine_rows([(placed,)], 3, 1, x.data_ptr())  # type: ignore[list-item]
    with pytest.raises(TypeError, match="expected a list of rows"):
        _combine.combine_rows((), 3, 1)  # type: ignore[arg-type]
    _combine.combine_rows([], 3, 1)
    _combine.combine_rows([(placed, 0)], 0, 1)


# Runs


def plan_of(solver: Solver, steps: int = 6) -> Plan:
    return Sampler(solver, Karras()).plan(SD15, "epsilon", steps)


def start(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, 4, 8, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def walk(run: Run, x: Tensor, network: Callable[[Tensor], Tensor] = torch.tanh) -> Tensor:
    x = run.begin(x)
    while not run.is_done:
        x = run.step(network(run.model_input(x)), x)
    return x


def noise(x: Tensor, s: float, t: float) -> Tensor:
    drawn = torch.randn(x.shape, generator=torch.Generator().manual_seed(int(1e6 * t)), dtype=torch.float64)
    return drawn.to(x.dtype)


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def close(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and difference(a, b) <= (2e-5 if a.dtype is torch.float32 else 1e-12)


@for_each("dtype", [torch.float32, torch.float64], ids=str)
@for_each("transform", [None, Clip(0.7), lambda data, stage: data.clamp(-0.7, 0.7)], ids=["", "clip", "own"])
@for_each("solver", PLANNABLE, ids=str)
def test_runs_make_the_samples_that_pytorch_makes(
    solver: Solver, transform: Any, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, x = plan_of(solver), start(dtype)
    run = Run(plan, noise, transform)
    compiled = walk(run, x)
    with monkeypatch.context() as without:
        without.setattr(choice, "_faster_torch_backends", lambda: ())
        assert close(compiled, walk(Run(plan, noise, transform), x))


def test_it_is_used_where_it_may_be() -> None:
    run = Run(plan_of(unipc))
    x = start()
    run.step(torch.tanh(x), x)
    assert isinstance(run._backend, native.NativeBackend)


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


@for_each("change", [channels_last, torch.Tensor.double, torch.Tensor.half], ids=["layout", "wide", "half"])
@for_each("at", [0, 1, 3])
@for_each("solver", [unipc, dpmpp_multistep.with_options(order=3, eta=1.0)], ids=str)
def test_a_network_may_change_its_kind_of_output_in_the_middle(solver: Solver, at: int, change: Any) -> None:
    calls = iter(range(100))

    def network(x: Tensor) -> Tensor:
        return change(torch.tanh(x)) if next(calls) >= at else torch.tanh(x)

    made, expected = walk(Run(plan_of(solver), noise), start(), network), walk(Run(plan_of(solver), noise), start())
    assert difference(made, expected) < (0.01 if change is torch.Tensor.half else 1e-5)


def test_the_noise_may_come_in_another_layout_and_precision() -> None:
    plan = plan_of(dpmpp_multistep.with_options(eta=1.0))
    expected = walk(Run(plan, noise), start())
    for change in (channels_last, torch.Tensor.double):
        assert difference(walk(Run(plan, lambda x, s, t, c=change: c(noise(x, s, t))), start()), expected) < 1e-5


@pytest.mark.parametrize("solver", [unipc, SOLVERS["heun"], SOLVERS["lms"]], ids=str)
def test_gradients_flow_through_runs(solver: Solver) -> None:
    plan, gradients = plan_of(solver), []
    for compiled in (True, False):
        x = start(torch.float64).requires_grad_()
        run = Run(plan) if compiled else eager_run(plan)
        (gradient,) = torch.autograd.grad(walk(run, x).sum(), x)
        gradients.append(gradient)
    assert close(*gradients)


def eager_run(plan: Plan) -> Run:
    """A run of `plan` whose data are transformed to themselves, which PyTorch does."""
    return Run(plan, None, lambda data, stage: data * 1.0)


def test_derivatives_and_vmap_see_every_operation() -> None:
    plan, x = plan_of(unipc), start(torch.float64)

    def whole(x: Tensor) -> Tensor:
        return walk(Run(plan), x)

    tangent = torch.ones_like(x)
    value, derivative = torch.func.jvp(whole, (x,), (tangent,))
    step = 1e-6
    numeric = (whole(x + step * tangent) - whole(x - step * tangent)) / (2 * step)
    torch.testing.assert_close(derivative, numeric, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.func.vmap(whole)(x[:, None]), torch.stack([whole(one[None]) for one in x]))
    torch.testing.assert_close(value, whole(x))
    with torch.autograd.forward_ad.dual_level():
        dual = whole(torch.autograd.forward_ad.make_dual(x, tangent))
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(dual).tangent, derivative)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_tracers_see_every_operation(dtype: torch.dtype) -> None:
    plan, x = plan_of(unipc), start(dtype)

    def whole(x: Tensor) -> Tensor:
        return walk(Run(plan), x)

    other = x * 0.5
    for traced in (make_fx(whole)(x), torch.jit.trace(whole, (x,), check_trace=False)):
        torch.testing.assert_close(traced(other), whole(other))


@pytest.mark.parametrize("shape", [(2, 4, 8, 5), (1, 4, 8, 6), (2, 4, 6, 8)], ids=str)
def test_samples_of_another_shape_in_the_middle_are_refused(shape: tuple[int, ...]) -> None:
    run, x = Run(plan_of(unipc)), start()
    run.step(x, x)
    with pytest.raises(ValueError, match="this run began with shape"):
        run.step(torch.zeros(shape), torch.zeros(shape))
    with pytest.raises(ValueError, match="must be equal"):
        run.step(torch.zeros(shape), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_inputs_of_half_precision_are_scaled_with_one_rounding(dtype: torch.dtype) -> None:
    x, scale = start(dtype), native.NativeBackend(dtype, dtype).scaled(0.3)
    wanted = 0.3 * x.double()
    for made in (scale(x), scale(x.transpose(1, 2)).transpose(1, 2), scale(torch.cat([x, x]))[: len(x)]):
        assert made.dtype is dtype
        torch.testing.assert_close(made.double(), wanted, rtol=0.5001 * torch.finfo(dtype).eps, atol=1e-7)
    learned = x.clone().requires_grad_()
    scale(learned).sum().backward()
    assert learned.grad is not None


def test_empty_batches_stay_empty() -> None:
    x = torch.empty(0, 4, 8, 8)
    assert walk(Run(plan_of(unipc)), x).shape == x.shape


@for_each("solver", [sa_solver, seeds_3, dpmpp_sde.with_options(noise="path")], ids=str)
@for_each("sample_dtype", [torch.float32, torch.bfloat16], ids=str)
def test_noise_of_any_kind_may_be_kept_for_later_stages(solver: Solver, sample_dtype: torch.dtype) -> None:
    plan, shape = plan_of(solver), (2, 3, 16, 16)

    def run(change: Callable[[Tensor], Tensor]) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return walk(Run(plan, lambda x, s, t: change(torch.randn(shape, generator=generator))), x)

    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(sample_dtype)
    plain = run(lambda noise: noise.to(sample_dtype).float())
    for change in (
        lambda noise: noise.to(sample_dtype),
        lambda noise: noise.to(sample_dtype).double(),
        lambda noise: noise.to(sample_dtype).permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
    ):
        torch.testing.assert_close(run(change), plain, rtol=1e-4 if sample_dtype is torch.float32 else 0.03, atol=1e-3)


def test_more_registers_than_the_module_takes_are_left_to_pytorch() -> None:
    many = Sum(NEXT, (-1, *range(70)), (1.0, *[0.01] * 70))
    nothing: frozenset[int] = frozenset()
    stage = LoweredStage(1.0, 0.0, Trait(0), None, None, (), (many,), (), (), nothing, nothing)
    places = [torch.ones(3) for _ in range(73)]
    following = native.NativeBackend(torch.float32, torch.float32).update(stage)(places)
    torch.testing.assert_close(following, torch.full((3,), 1.7))


def test_everything_works_without_the_compiled_module() -> None:
    script = (
        "import sys; sys.modules['diffusolve.backends._combine'] = None\n"
        "import torch, diffusolve\n"
        "scheduler = diffusolve.UniPCMultistepScheduler()\n"
        "scheduler.set_timesteps(5); x = torch.ones(1, 4, 8, 8)\n"
        "for t in scheduler.timesteps: x = scheduler.step(x / 2, t, x).prev_sample\n"
        "print(float(x.mean()), 'diffusolve.backends.native' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    value, loaded = done.stdout.split()
    assert loaded == "False"
    import diffusolve

    scheduler = diffusolve.UniPCMultistepScheduler()
    scheduler.set_timesteps(5)
    x = torch.ones(1, 4, 8, 8)
    for timestep in scheduler.timesteps:
        x = scheduler.step(x / 2, timestep, x).prev_sample
    assert float(x.mean()) == pytest.approx(float(value), rel=1e-5)

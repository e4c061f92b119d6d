"""Whatever callers' code does in between, no freed memory is read or written, and no sign or version is lost."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from diffusolve.backends import Clip, Run, backend_of
from diffusolve.batching import BatchRun, Row, choice
from diffusolve.noise import SD15
from diffusolve.plan import Plan
from diffusolve.sampling import Sampler
from diffusolve.solvers import SOLVERS, Solver, dpmpp_multistep, euler, heun, lms, sa_solver, unipc
from diffusolve.spacing import Karras

SHAPE = (2, 4, 8, 6)
every_path = pytest.mark.parametrize("path", ["compiled", "plain"])


def plan_of(solver: Solver, steps: int = 6) -> Plan:
    return Sampler(solver, Karras()).plan(SD15, "epsilon", steps)


def start(seed: int = 0, shape: tuple[int, ...] = SHAPE, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def walk(run: Run, x: Tensor) -> Tensor:
    while not run.is_done:
        x = run.step(torch.tanh(x), x)
    return x


def use(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if path == "plain":
        monkeypatch.setattr(choice, "compiled_rows", lambda: None)


# Rows that are taken out by callers' functions


def leaving(which: str, row_of: Callable[[], Row], batch: BatchRun) -> dict[str, Any]:
    """A plan, and a function of the row's own that takes a row out."""

    def transform(data: Tensor, stage: Any) -> Tensor:
        if not row_of().has_left:
            batch.leave(row_of())
        return data

    def noise(x: Tensor, s: float, t: float) -> Tensor:
        if not row_of().has_left:
            batch.leave(row_of())
        return torch.zeros_like(x)

    if which == "transform":
        return {"plan": plan_of(heun), "transform": transform}
    return {"plan": plan_of(euler.with_options(eta=1.0)), "noise": noise}


@every_path
@pytest.mark.parametrize("which", ["transform", "noise source"])
@pytest.mark.parametrize("victim", ["earlier", "later", "own"])
def test_a_row_may_be_taken_out_while_rows_are_advanced(
    path: str, which: str, victim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(path, monkeypatch)
    batch, rows = BatchRun(), {}
    large = (1 << 15,)  # memory that is given back when it is freed
    rows["earlier"] = batch.join(plan_of(unipc), start(1, large))
    rows["own"] = batch.join(x=start(2, large), **leaving(which, lambda: rows[victim], batch))
    rows["later"] = batch.join(plan_of(unipc), start(3, large))
    alone = BatchRun()
    twin = alone.join(plan_of(unipc), start(3 if victim == "earlier" else 1, large))
    while len(batch):
        for inputs in batch.inputs():
            assert rows[victim] not in batch.advance(inputs, torch.tanh(inputs.x))
    while len(alone):
        for inputs in alone.inputs():
            alone.advance(inputs, torch.tanh(inputs.x))
    assert torch.equal(rows["later" if victim == "earlier" else "earlier"].result, twin.result)
    with pytest.raises(LookupError, match="it was taken out before its end"):
        _ = rows[victim].result


@every_path
def test_a_row_that_takes_itself_out_and_raises_shows_what_it_raised(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(path, monkeypatch)
    batch, rows = BatchRun(), []

    def transform(data: Tensor, stage: Any) -> Tensor:
        batch.leave(rows[0])
        raise ArithmeticError("my own fault")

    rows += [batch.join(plan_of(heun), start(1), transform=transform), batch.join(plan_of(heun), start(2))]
    (inputs,) = batch.inputs()
    assert batch.advance(inputs, torch.tanh(inputs.x)) == []
    assert rows[1].position == 1
    with pytest.raises(ArithmeticError, match="my own fault"):
        _ = rows[0].result


@every_path
def test_rows_may_join_but_not_be_advanced_by_a_transform(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(path, monkeypatch)
    batch, joined = BatchRun(), []

    def transform(data: Tensor, stage: Any) -> Tensor:
        joined.append(batch.join(plan_of(heun), start(5)))
        (other,) = batch.inputs([joined[-1]])
        batch.advance(other, torch.tanh(other.x))
        return data

    row = batch.join(plan_of(heun), start(1), transform=transform)
    (inputs,) = batch.inputs()
    assert batch.advance(inputs, torch.tanh(inputs.x)) == [row]
    with pytest.raises(RuntimeError, match=r"row 1 cannot be advanced now: rows of shape \(2, 4, 8, 6\) are being adv"):
        _ = row.result
    (inputs,) = batch.inputs()
    assert batch.advance(inputs, torch.tanh(inputs.x)) == []
    assert joined[0].position == 1


# Two threads, one run


def test_a_second_step_of_a_run_under_way_is_refused_and_the_first_goes_on() -> None:
    plan, seen = plan_of(dpmpp_multistep), []

    def transform(data: Tensor, stage: Any) -> Tensor:
        def second() -> None:
            try:
                run.step(output, x)
            except RuntimeError as error:
                seen.append(str(error))

        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        return data

    run = Run(plan, transform=transform)
    x = run.begin(start())
    while not run.is_done:
        output = torch.tanh(run.model_input(x))
        x = run.step(output, x)
    assert len(seen) == plan.nfe
    assert "evaluation 1 of this run of dpmpp_multistep" in seen[0]
    assert "Give each thread a run of its own" in seen[0]


@pytest.mark.parametrize("solver", [unipc, lms, SOLVERS["deis"]] if "deis" in SOLVERS else [unipc, lms], ids=str)
def test_threads_that_step_one_run_get_errors_and_finite_numbers(solver: Solver) -> None:
    """Arrays that are large enough for the compiled module to let other threads run meanwhile."""
    shape, kinds = (1, 16, 64, 64), set()
    run = Run(plan_of(solver, 400))
    x = run.begin(start(0, shape))
    barrier = threading.Barrier(3)

    def work() -> None:
        y = x
        barrier.wait()
        for _ in range(100):
            try:
                y = run.step(0.1 * y, y)
            except (RuntimeError, IndexError) as error:
                kinds.add(type(error))
            assert y.isfinite().all()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kinds <= {RuntimeError, IndexError}
    assert run.position > 0


def test_a_step_that_raises_leaves_the_run_where_it_was() -> None:
    plan, fails = plan_of(dpmpp_multistep.with_options(eta=1.0)), iter([False, False, True, False, False, False, False])

    def noise(x: Tensor, s: float, t: float) -> Tensor:
        if next(fails):
            raise ArithmeticError("no noise")
        return torch.full_like(x, 0.3)

    run, whole = Run(plan, noise), Run(plan, lambda x, s, t: torch.full_like(x, 0.3))
    x = y = start()
    for index in range(plan.nfe):
        if index == 2:
            before = run.registers
            with pytest.raises(ArithmeticError, match="no noise"):
                run.step(torch.tanh(x), x)
            assert run.position == 2
            assert run.registers.keys() == before.keys()
            assert all(array is before[name] for name, array in run.registers.items())
        x, y = run.step(torch.tanh(x), x), whole.step(torch.tanh(y), y)
    assert torch.equal(x, y)


@pytest.mark.parametrize("solver", [unipc, heun, dpmpp_multistep], ids=str)
def test_copies_of_a_run_go_on_by_themselves(solver: Solver) -> None:
    run, x = Run(plan_of(solver)), start()
    for _ in range(3):
        x = run.step(torch.tanh(x), x)
    results = []
    for each in (copy.copy(run), copy.deepcopy(run), pickle.loads(pickle.dumps(run)), run.copied(), run):
        y = x
        while not each.is_done:
            y = each.step(torch.tanh(y), y)
        results.append(y)
    assert all(torch.equal(result, results[0]) for result in results)


# Tensors that change between steps


def kept_sample(solver: Solver, x: Tensor) -> tuple[Run, Tensor]:
    """A run that remembers its sample `x`, and the next one."""
    run = Run(plan_of(solver), lambda like, s, t: torch.zeros_like(like))
    following = run.step(torch.tanh(x), x)
    if not any(held is x for held in run.registers.values()):
        pytest.skip("it does not remember the sample")
    return run, following


def emptied(x: Tensor) -> None:
    x.untyped_storage().resize_(0)


def halved(x: Tensor) -> None:
    x.untyped_storage().resize_(x.untyped_storage().nbytes() // 2)


CHANGES: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "resized": (lambda x: x.resize_(1), r"has been resized to \(1,\) since"),
    "grown": (lambda x: x.resize_(4, *SHAPE), "has been resized"),
    "replaced": (lambda x: x.set_(torch.zeros(3, dtype=x.dtype)), "has been resized"),
    "without memory": (emptied, "has lost its memory since: 0 bytes are left"),
    "of half its memory": (halved, "has lost its memory since"),
}


every_backend = pytest.mark.parametrize("backend", ["chosen", "of PyTorch"])


def use_backend(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if backend == "of PyTorch":
        monkeypatch.setattr("diffusolve.backends.run.fastest", lambda x, output, simple: backend_of(x))


@every_backend
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("solver", [heun, unipc, SOLVERS["dpm_2"]], ids=str)
def test_a_remembered_sample_that_is_resized_is_an_error(
    solver: Solver, dtype: torch.dtype, change: Any, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_backend(backend, monkeypatch)
    act, message = change
    x = start(dtype=dtype)
    run, following = kept_sample(solver, x)
    act(x)
    with pytest.raises(ValueError, match=message):
        walk(run, following)


def test_a_remembered_sample_in_another_layout_is_read_as_it_is() -> None:
    x, other = start(), start()
    run, following = kept_sample(heun, x)
    twin, _ = kept_sample(heun, other)
    x.set_(x.contiguous(memory_format=torch.channels_last))
    made, wanted = (each.step(torch.tanh(following), following) for each in (run, twin))
    torch.testing.assert_close(made, wanted)


@every_backend
def test_remembered_noise_that_loses_its_memory_is_an_error(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use_backend(backend, monkeypatch)
    drawn: list[Tensor] = []

    def noise(like: Tensor, s: float, t: float) -> Tensor:
        drawn.append(torch.randn_like(like))
        return drawn[-1]

    run, x = Run(plan_of(sa_solver), noise), start()
    while not any(held is each for held in run.registers.values() for each in drawn):
        if run.is_done:
            pytest.skip("it remembers no noise")
        x = run.step(torch.tanh(x), x)
    for each in drawn:
        emptied(each)
    with pytest.raises(ValueError, match="lost its memory"):
        walk(run, x)


# Signs


def negative(x: Tensor) -> Tensor:
    """`x` with the other sign in memory."""
    made = torch._neg_view(-x)
    assert made.is_neg()
    assert made.is_contiguous()
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("transform", [None, Clip(0.7)], ids=["", "clip"])
def test_runs_see_the_negative_bit(dtype: torch.dtype, transform: Any) -> None:
    wrong = []
    for solver in (euler, heun, unipc, dpmpp_multistep.with_options(eta=1.0)):
        results = []
        for form in (negative, torch.clone):
            run = Run(plan_of(solver), lambda x, s, t, form=form: form(torch.full(SHAPE, 0.3).to(dtype)), transform)
            x = form(start(dtype=dtype))
            while not run.is_done:
                output = form(torch.tanh(run.model_input(x)).contiguous())
                x = form(run.step(output, x).contiguous())
            results.append(x.float())
        if not torch.allclose(*results, rtol=0.03 if dtype is torch.bfloat16 else 1e-4, atol=0.02):
            wrong.append(solver.name)
    assert not wrong


@every_path
def test_rows_see_the_negative_bit(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(path, monkeypatch)
    results = []
    for form in (negative, torch.clone):
        batch = BatchRun()
        row = batch.join(
            plan_of(dpmpp_multistep.with_options(eta=1.0)),
            form(start()),
            noise=lambda x, s, t, form=form: form(torch.full((1, *SHAPE), 0.3)),
            transform=lambda data, stage, form=form: form(data.clamp(-1, 1)),
        )
        while len(batch):
            (inputs,) = batch.inputs()
            batch.advance(inputs, form(torch.tanh(inputs.x)))
        results.append(row.result)
    torch.testing.assert_close(*results)


# Versions


@pytest.mark.parametrize("solver", [euler, dpmpp_multistep, heun, unipc], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autograd_is_told_of_what_is_overwritten(solver: Solver, dtype: torch.dtype) -> None:
    run, x = Run(plan_of(solver), donate=True), start(dtype=dtype)
    overwritten = 0
    while not run.is_done:
        output = torch.tanh(x.float()).to(dtype)
        given = [(array, array.clone(), array._version) for array in (x, output)]
        x = run.step(output, x)
        for array, before, version in given:
            if not torch.equal(array, before):
                overwritten += 1
                assert array._version > version
    assert overwritten


def test_a_gradient_through_a_donated_sample_is_refused() -> None:
    weight, x = torch.ones(SHAPE, requires_grad=True), start()
    run = Run(plan_of(dpmpp_multistep), donate=True)
    loss = (weight * x).sum()  # needs x as it is
    with torch.no_grad():
        run.step(torch.tanh(x), x)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_tensors_of_inference_mode_may_be_donated() -> None:
    with torch.inference_mode():
        run, x = Run(plan_of(dpmpp_multistep), donate=True), start()
        while not run.is_done:
            x = run.step(torch.tanh(x), x)
    assert x.isfinite().all()


def test_a_run_of_a_name_or_with_a_seed_for_its_noise_says_what_it_takes() -> None:
    with pytest.raises(TypeError, match="plan is a str: expected a Plan"):
        Run("Euler")  # type: ignore[arg-type]
    plan = Sampler(euler.with_options(eta=1.0)).plan(SD15, "epsilon", 3)
    with pytest.raises(TypeError, match=r"draw_noise is 0: expected a function .*noise_source"):
        Run(plan, 0)  # type: ignore[arg-type]

"""Runs write into memory of their own that nobody holds any more, and never into memory that somebody does."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import diffusolve
from diffusolve.backends import Run
from diffusolve.backends.buffers import SMALLEST, Buffers, buffers_in
from diffusolve.catalog import sampler
from diffusolve.noise import SD15
from diffusolve.plan import Plan
from tests.tables import for_each

pytest.importorskip("diffusolve.backends._combine", reason="the package was installed without a compiler")
if buffers_in(4 * [None], SMALLEST) is None:
    pytest.skip("this PyTorch does not say who holds a storage", allow_module_level=True)

SHAPE = (1, 16, 200, 200)
NAMES = ("LMS", "UniPC", "DPM++ 2M", "DEIS", "Heun", "SA-Solver", "DPM++ 3M SDE")


def plan_of(name: str, steps: int = 12) -> Plan:
    return sampler(name).plan(SD15, "epsilon", steps)


def start(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)).to(dtype)


def noise(x: Tensor, sigma_from: float, sigma_to: float) -> Tensor:
    return torch.full_like(x, 0.1)


def walk(plan: Plan, look: Callable[[Tensor], Any] = lambda x: None, dtype: torch.dtype = torch.float32) -> Tensor:
    run, x = Run(plan, noise), start(dtype)
    while not run.is_done:
        x = run.step(torch.tanh(x), x)
        look(x)
    return x


def watched_allocations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of buffers that runs have, each time that one asks for memory."""
    seen: list[int] = []
    ask = Buffers.empty_like

    def watched(self: Buffers, x: Tensor, dtype: torch.dtype) -> Tensor:
        made = ask(self, x, dtype)
        seen.append(len(self._buffers))
        return made

    monkeypatch.setattr(Buffers, "empty_like", watched)
    return seen


@for_each("name", NAMES)
def test_after_the_first_steps_no_step_allocates(name: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        with pytest.MonkeyPatch.context() as patch:
            seen = watched_allocations(patch)
            walk(plan_of(name), dtype=dtype)
        assert seen[len(seen) // 2] == seen[-1], seen
        assert seen[-1] <= 7


HOLDS: dict[str, Callable[[Tensor], Any]] = {
    "the tensor": lambda x: x,
    "a view": lambda x: x[0, 3],
    "another tensor of its memory": lambda x: x.detach(),
    "the storage": lambda x: x.untyped_storage(),
    "a typed storage": lambda x: x.storage(),
    "an array of NumPy": lambda x: x.numpy(),
    "a memory view": lambda x: memoryview(x.numpy()),
    "a capsule": lambda x: torch.utils.dlpack.to_dlpack(x),
    "a graph": lambda x: (x * torch.ones(SHAPE, requires_grad=True)).sum(),
    "a function": lambda x: lambda: x,
}


@for_each("name", HOLDS)
@pytest.mark.filterwarnings("ignore:TypedStorage")
def test_what_somebody_holds_is_not_written_to(name: str) -> None:
    held: list[tuple[int, Tensor, Any]] = []

    def look(x: Tensor) -> None:
        held.append((x.data_ptr(), x.clone(), HOLDS[name](x)))

    plain = walk(plan_of("UniPC"))
    assert torch.equal(walk(plan_of("UniPC"), look), plain)
    assert len({address for address, _, _ in held}) == len(held)
    for _, before, thing in held:
        if name in ("the tensor", "another tensor of its memory"):
            assert torch.equal(thing, before)
        elif name == "a view":
            assert torch.equal(thing, before[0, 3])
        elif name == "a graph":
            thing.backward()


@for_each("name", NAMES)
def test_results_are_those_of_runs_whose_samples_are_all_held(name: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        held: list[Tensor] = []
        assert torch.equal(walk(plan_of(name), held.append, dtype), walk(plan_of(name), dtype=dtype))


def resized(x: Tensor) -> None:
    x.resize_(1, 16, 320, 160).fill_(7.0)


def emptied(x: Tensor) -> None:
    x.untyped_storage().resize_(0)
    x.untyped_storage().resize_(100)


def shared(x: Tensor) -> None:
    x.share_memory_()


@for_each("change", [resized, emptied, shared], ids=lambda change: change.__name__)
def test_memory_that_was_changed_is_given_up(change: Callable[[Tensor], None]) -> None:
    plan, others = plan_of("DPM++ 2M"), []
    run, x = Run(plan), start()
    while not run.is_done:
        following = run.step(torch.tanh(x), x)
        if run.position in (3, 4):
            mine = following.clone()
            change(following)
            others.append(following.untyped_storage().data_ptr())
            following = mine
        x = following
        assert x.untyped_storage().data_ptr() not in others or x is following
    assert torch.equal(x, walk(plan))


def test_inference_mode_may_come_and_go() -> None:
    plan = plan_of("DPM++ 2M")
    run, x = Run(plan), start()
    while not run.is_done:
        with torch.inference_mode(run.position % 3 == 1):
            x = run.step(torch.tanh(x), x)
    assert torch.equal(x.clone(), walk(plan))


def test_copies_have_no_buffers_and_go_on_alone() -> None:
    run, x = Run(plan_of("LMS")), start()
    for _ in range(6):
        x = run.step(torch.tanh(x), x)
    results = []
    for each in (copy.copy(run), copy.deepcopy(run), pickle.loads(pickle.dumps(run)), run):
        y = x
        while not each.is_done:
            y = each.step(torch.tanh(y), y)
        results.append(y)
    assert all(torch.equal(result, results[0]) for result in results)
    assert len(pickle.dumps(Buffers())) < 200


def test_buffers_go_with_their_run() -> None:
    kinds = []
    for steps in (5, 3):
        run, x = Run(plan_of("LMS", 5)), start()
        for _ in range(steps):
            x = run.step(torch.tanh(x), x)
        del run
        gc.collect()
        kinds.append(sum(isinstance(thing, Buffers) for thing in gc.get_objects()))
    assert kinds == [0, 0]


def test_small_results_have_no_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watched_allocations(monkeypatch)
    run, x = Run(plan_of("LMS")), torch.randn(1, 4, 64, 64)
    while not run.is_done:
        x = run.step(torch.tanh(x), x)
    assert seen == []


def denoised(scheduler: Any, timesteps: Tensor, look: Callable[[Tensor], Any] = lambda x: None) -> Tensor:
    x = start()
    for t in timesteps:
        x = scheduler.step(torch.tanh(x), t, x, generator=torch.Generator().manual_seed(1)).prev_sample
        look(x)
    return x


STEP_BY_STEP = ("DDIMScheduler", "DDPMScheduler", "DDIMParallelScheduler")


@for_each("name", STEP_BY_STEP)
def test_steps_that_have_a_run_each_share_the_memory_of_their_loop_until_its_end(name: str) -> None:
    scheduler = getattr(diffusolve, name)()
    for _ in range(2):  # with plans that are new, and with those of before
        scheduler.set_timesteps(9)
        with pytest.MonkeyPatch.context() as patch:
            seen = watched_allocations(patch)
            plain = denoised(scheduler, scheduler.timesteps)
        assert len(seen) == 9
        assert seen[-1] <= 3, seen
        assert scheduler._generation.memory is None
        held: list[Tensor] = []
        kept = denoised(scheduler, scheduler.timesteps, held.append)
        assert torch.equal(kept, plain)
        assert len({x.data_ptr() for x in held}) == 9
        assert torch.equal(held[4], denoised(scheduler, scheduler.timesteps[:5]))


def test_threads_in_one_loop_of_steps_that_have_a_run_each_get_results_of_their_own() -> None:
    scheduler = diffusolve.DDIMScheduler()
    scheduler.set_timesteps(12)
    alone, results = denoised(scheduler, scheduler.timesteps), []
    threads = [
        threading.Thread(target=lambda: results.append(denoised(scheduler, scheduler.timesteps))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6
    assert all(torch.equal(result, alone) for result in results)

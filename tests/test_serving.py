"""The batcher: who is served with whom and in which order, and that every request ends exactly once."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import re
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import diffusolve
from diffusolve.backends import Clip, Run
from diffusolve.batching import BatchRun
from diffusolve.errors import NotPlannableError, UnknownNameError
from diffusolve.noise import SD15
from diffusolve.sampling import Sampler
from diffusolve.serving import (
    BatcherClosed,
    ContinuousBatcher,
    Preview,
    QueueFull,
    Request,
    RequestFailed,
    RequestTimeout,
)
from diffusolve.solvers import euler
from diffusolve.spacing import Karras
from tests.tables import for_each

SHAPE = (1, 2, 3)
SAMPLERS = ("Euler", "Euler a", "Heun", "UniPC", "DPM++ 2M Karras", "DPM++ 2M SDE Karras", "DPM++ SDE Karras", "DDIM")


def network(x: Any, timesteps: Any) -> Any:
    """A network whose rows are independent to the bit."""
    return x / (1 + abs(x)) + 0.001 * timesteps.reshape(-1, *[1] * (x.ndim - 1))


class Model:
    """Notes who was asked about together, and does what a test wants to happen first."""

    def __init__(self, before: Callable[[Model], object] | None = None) -> None:
        self.batches: list[list[Request]] = []
        self.before = before

    def __call__(self, x: Tensor, timesteps: Tensor, requests: list[Request]) -> Any:
        assert x.shape[0] == timesteps.shape[0] == len(requests)
        self.batches.append(requests)
        if self.before is not None:
            self.before(self)
        return network(x, timesteps)

    @property
    def tags(self) -> list[list[Any]]:
        return [[request.tag for request in batch] for batch in self.batches]


def batcher(model: Any = None, **options: Any) -> ContinuousBatcher:
    given: dict[str, Any] = {"noise_schedule": SD15, "prediction_type": "v_prediction", **options}
    return ContinuousBatcher(Model() if model is None else model, **given)


def ask(tag: Any = None, **changes: Any) -> Request:
    given: dict[str, Any] = {"sampler": "Euler", "steps": 3, "shape": SHAPE, "seed": 0, "tag": tag, **changes}
    return Request(**given)


def solo(request: Request) -> Tensor:
    """The sample of `request`, made alone, without a batcher."""
    made = request.sampler if isinstance(request.sampler, Sampler) else diffusolve.sampler(str(request.sampler))
    plan = made.plan(SD15, "v_prediction", request.steps)
    x = diffusolve.start(plan, torch.empty(1, *request.sample_shape), request.seed)[0]
    batch = BatchRun()
    row = batch.join(plan, x, noise=request.seed, transform=request.transform)
    while len(batch):
        (inputs,) = batch.inputs()
        outputs = network(inputs.x, inputs.timesteps)
        batch.advance(inputs, outputs, 0.75 * outputs)
    return row.result


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run to the end; a test that hangs fails."""
    return asyncio.run(asyncio.wait_for(work, 60))


async def prepare(served: ContinuousBatcher, *requests: Request) -> None:
    """Let `served` know the plans, which are otherwise made in a thread, so that requests join at once."""
    for request in requests:
        await served._planned(request)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def outcomes(served: ContinuousBatcher) -> dict[str, int]:
    found = re.findall(r'diffusolve_requests_total\{outcome="(\w+)"\} (\d+)', served.metrics())
    return {outcome: int(count) for outcome, count in found if int(count)}


# Samples


@pytest.mark.parametrize("max_batch_size", [1, 3, 32])
def test_samples_are_those_that_are_made_alone(max_batch_size: int) -> None:
    requests = [
        ask(sampler=name, steps=steps, seed=steps, transform=Clip(1.0) if steps == 3 else None)
        for name in SAMPLERS
        for steps in (1, 3, 4)
    ]

    async def work() -> list[Tensor]:
        async with batcher(max_batch_size=max_batch_size) as served:
            return await asyncio.gather(*map(served.generate, requests))

    for request, sample in zip(requests, run(work()), strict=True):
        assert torch.equal(sample, solo(request)), request.sampler


def test_samples_are_those_of_sample() -> None:
    """From the same seed: what it starts from, and the noise between steps."""

    class Network:
        prediction, noise_schedule = diffusolve.prediction.prediction("v_prediction"), SD15

        def __call__(self, x: Any, timesteps: Any, requests: object = None) -> Any:
            return network(x, timesteps)

    async def work(request: Request) -> Any:
        async with ContinuousBatcher(Network()) as served:
            return await served.generate(request)

    samplers = [diffusolve.sampler("Euler a"), diffusolve.sampler("DPM++ 2M SDE", ensd=31337)]
    with contextlib.suppress(ImportError):
        import torchsde  # noqa: F401

        samplers.append(diffusolve.sampler("DPM++ SDE Karras", brownian=True))
    for made in samplers:
        x = diffusolve.start(made.grid(SD15, 5), torch.empty(1, *SHAPE), 7)
        usual = diffusolve.sample(Network(), x, made, steps=5, noise=7)[0]
        torch.testing.assert_close(run(work(ask(sampler=made, steps=5, seed=7))), usual, rtol=1e-5, atol=1e-5)
        plan = made.plan(SD15, "v_prediction", 5)
        if not (made.brownian or made.seed_offset):
            given = ask(sampler=plan, steps=None, shape=None, x=x[0], seed=7)
            torch.testing.assert_close(run(work(given)), usual, rtol=1e-5, atol=1e-5)


def test_the_model_may_be_an_async_function() -> None:
    batches = []

    async def model(x: Tensor, timesteps: Tensor, requests: list[Request]) -> Tensor:
        await asyncio.sleep(0)
        batches.append(len(requests))
        return network(x, timesteps)

    async def work() -> list[Tensor]:
        async with batcher(model) as served:
            await prepare(served, ask())
            return await asyncio.gather(*(served.generate(ask(seed=seed)) for seed in range(3)))

    for seed, sample in enumerate(run(work())):
        assert torch.equal(sample, solo(ask(seed=seed)))
    assert batches == [3, 3, 3]


def test_a_model_may_return_guided_and_unguided_outputs() -> None:
    requests = [ask(sampler="Euler CFG++"), ask(sampler="UniPC", seed=1)]

    def both(x: Tensor, timesteps: Tensor, _: object) -> Any:
        return network(x, timesteps), 0.75 * network(x, timesteps)

    async def work(model: Any) -> list[Any]:
        async with batcher(model) as served:
            await prepare(served, *requests)
            return await asyncio.gather(*map(served.generate, requests), return_exceptions=True)

    for request, sample in zip(requests, run(work(both)), strict=True):
        assert torch.equal(sample, solo(request))
    for made in run(work(Model())):  # a step that cannot be made fails for all of it
        assert isinstance(made, RequestFailed)
        assert "needs the network's output without guidance as well" in str(made)


def test_conditions_come_with_their_rows() -> None:
    def model(x: Tensor, timesteps: Tensor, requests: list[Request]) -> list[Tensor]:
        return [row * request.condition * request.guidance_scale for row, request in zip(x, requests, strict=True)]

    async def work() -> list[Tensor]:
        async with batcher(model) as served:
            asked = [ask(condition=c, guidance_scale=g) for c, g in ((0.5, 1.0), (1.0, 2.0), (0.25, 4.0), (1.0, 1.0))]
            return await asyncio.gather(*map(served.generate, asked))

    first, second, third, fourth = run(work())
    assert not torch.equal(first, second)
    assert torch.equal(third, fourth)


def test_numpy_models() -> None:
    async def work() -> list[Any]:
        async with batcher(like=np.empty(0, np.float32)) as served:
            return await asyncio.gather(*(served.generate(ask(sampler=name)) for name in SAMPLERS))

    for sample in run(work()):
        assert isinstance(sample, np.ndarray)
        assert (sample.dtype, sample.shape) == (np.float32, SHAPE)


def test_models_run_without_gradients() -> None:
    weight = torch.ones((), requires_grad=True)

    async def work() -> Tensor:
        async with batcher(lambda x, timesteps, _: weight * network(x, timesteps)) as served:
            return await served.generate(ask())

    assert not run(work()).requires_grad


# Joining and leaving


def test_the_event_loop_goes_on_while_the_model_runs() -> None:
    """The model waits for something that only the event loop can do."""
    entered, allowed = threading.Event(), threading.Event()

    def before(_: Model) -> None:
        entered.set()
        assert allowed.wait(30)

    async def work() -> Tensor:
        async with batcher(Model(before)) as served:
            made = asyncio.create_task(served.generate(ask()))
            while not entered.is_set():
                await asyncio.sleep(0)
            allowed.set()
            return await made

    assert torch.equal(run(work()), solo(ask()))


def test_requests_join_at_the_next_step_and_leave_when_done() -> None:
    model = Model()

    async def work() -> None:
        async with batcher(model) as served:
            late = ask("late", sampler="UniPC", steps=3)
            await prepare(served, late)
            later: list[asyncio.Task[Tensor]] = []

            def joins(preview: Preview) -> None:
                if preview.step == 1:
                    later.append(asyncio.create_task(served.generate(late)))

            await served.generate(ask("early", steps=4, on_step=joins))
            await asyncio.gather(*later)

    run(work())
    assert model.tags == [["early"]] * 2 + [["early", "late"]] * 2 + [["late"]]


def test_a_batch_is_never_larger_than_it_may_be() -> None:
    model = Model()

    async def work() -> None:
        async with batcher(model, max_batch_size=3) as served:
            await asyncio.gather(*(served.generate(ask(steps=1 + seed % 4)) for seed in range(20)))

    run(work())
    assert max(map(len, model.batches)) == 3
    assert sum(map(len, model.batches)) == sum(1 + seed % 4 for seed in range(20))


def test_active_rows_take_turns_where_they_do_not_fit_in_one_batch() -> None:
    model, progress = Model(), Counter[int]()
    spread = []

    def before(made: Model) -> None:
        progress.update(request.tag for request in made.batches[-1])
        spread.append(max(progress.values()) - min(progress[tag] for tag in range(5)))

    model.before = before

    async def work() -> None:
        async with batcher(model, max_batch_size=2, max_active=5) as served:
            await prepare(served, ask(steps=6))
            await asyncio.gather(*(served.generate(ask(tag, steps=6)) for tag in range(5)))

    run(work())
    assert set(progress.values()) == {6}
    assert max(spread) == 1
    assert max(map(len, model.batches)) == 2


def test_shapes_take_turns() -> None:
    model = Model()

    async def work() -> None:
        async with batcher(model) as served:
            await prepare(served, ask(steps=5))
            many = [served.generate(ask("wide", steps=5)) for _ in range(6)]
            await asyncio.gather(*many, served.generate(ask("tall", steps=5, shape=(3, 2, 1))))

    run(work())
    assert model.tags == [["wide"] * 6, ["tall"]] * 5


# Order


def order_of(requests: list[Request], **options: Any) -> list[Any]:
    """In which order requests begin that were made while another one was served alone."""
    model, waiting = Model(), []

    async def work() -> None:
        async with batcher(model, max_batch_size=1, **options) as served:
            await prepare(served, *requests)

            def others_come(preview: Preview) -> None:
                if preview.step == 0:
                    waiting.extend(asyncio.ensure_future(served.generate(request)) for request in requests)

            await served.generate(ask("first", steps=2, on_step=others_come))
            await asyncio.gather(*waiting)

    run(work())
    return [tag for (tag,) in model.tags[2:]]


def test_the_first_come_are_the_first_served() -> None:
    assert order_of([ask(tag, steps=1) for tag in range(20)]) == list(range(20))


def test_priority_goes_before_those_who_came_earlier() -> None:
    priorities = [0, 0, 3, 0, 1, 3]
    assert order_of([ask(tag, steps=1, priority=p) for tag, p in enumerate(priorities)]) == [2, 5, 4, 0, 1, 3]


def test_urgent_requests_without_end_do_not_starve_a_patient_one() -> None:
    """Forty clients that always ask again, with the most priority that there is."""
    served_before = []

    async def work() -> None:
        async with batcher(max_batch_size=2, max_priority=3, patience=5) as served:
            await prepare(served, ask(steps=1))
            done = asyncio.Event()

            async def urgent() -> None:
                while not done.is_set():
                    await served.generate(ask("urgent", steps=1, priority=3))
                    served_before.append(done.is_set())

            clients = [asyncio.create_task(urgent()) for _ in range(40)]
            await turns(20)
            served_before.clear()  # of those that were done before it came
            await served.generate(ask("patient", steps=1, priority=-3))
            done.set()
            await asyncio.gather(*clients)

    run(work())
    # those that came before it, those that came later and may pass it, and those of the step under way when it came, of
    # its own, and of the one that was begun before it was told
    assert served_before.count(False) <= 40 + 2 * 3 * 5 + 3 * 2


def test_nobody_is_passed_by_more_than_patience_allows() -> None:
    """However many come later with more priority."""
    requests = [ask("patient", steps=1), *(ask("urgent", steps=1, priority=2) for _ in range(30))]
    assert order_of(requests, patience=4).index("patient") == 2 * 4 - 1


# Endings


def test_cancelling_frees_the_place_at_once() -> None:
    entered, allowed, model = threading.Event(), threading.Event(), Model()

    def before(made: Model) -> None:
        entered.set()
        assert allowed.wait(30)

    model.before = before

    async def work() -> None:
        async with batcher(model, max_batch_size=2, max_active=2) as served:
            await prepare(served, ask())
            tasks = [asyncio.create_task(served.generate(ask(tag))) for tag in "abcd"]
            while not entered.is_set():
                await asyncio.sleep(0)
            tasks[0].cancel()  # in the middle of a step
            tasks[3].cancel()  # while it waits
            await turns()
            assert tasks[0].cancelled()
            assert tasks[3].cancelled()
            assert len(served._queue.active) == 2  # b, and c in a's place
            assert not served._queue.waiting
            allowed.set()
            await asyncio.gather(tasks[1], tasks[2])
            assert len(served._stepper.batch) == 0
            assert outcomes(served) == {"completed": 2, "cancelled": 2}

    run(work())
    assert model.tags == [["a", "b"], ["b", "c"], ["b", "c"], ["c"]]


def test_requests_time_out_under_way_and_while_they_wait() -> None:
    forever = threading.Event()

    async def work() -> list[Any]:
        async with batcher(Model(lambda _: forever.wait(30)), max_batch_size=1) as served:
            late = [served.generate(ask(tag, timeout=0.05)) for tag in ("under way", "waiting")]
            made = await asyncio.gather(*late, return_exceptions=True)
            forever.set()
            made.append(await served.generate(ask(timeout=30.0)))
            assert outcomes(served) == {"timed_out": 2, "completed": 1}
            assert len(served._stepper.batch) == 0
            return made

    first, second, third = run(work())
    for error, name in ((first, "request 0 ('under way')"), (second, "request 1 ('waiting')")):
        assert isinstance(error, RequestTimeout)
        assert isinstance(error, TimeoutError)
        assert str(error) == f"{name} took longer than its timeout of 0.05 seconds."
    assert torch.equal(third, solo(ask()))


def spoil(what: float) -> Callable[..., Tensor]:
    def model(x: Tensor, timesteps: Tensor, requests: list[Request]) -> Tensor:
        outputs = network(x, timesteps)
        for index, request in enumerate(requests):
            if request.tag == "bad" and float(timesteps[index]) < 900:
                outputs[index].view(-1)[2] = what
        return outputs

    return model


def failing(*_: Any) -> Any:
    raise ArithmeticError("my own fault")


def exiting(error: BaseException) -> Callable[..., Any]:
    def function(*_: Any) -> Any:
        raise error

    return function


FAILING: dict[str, tuple[Any, dict[str, Any], str]] = {
    "NaN": (spoil(torch.nan), {}, r"the model's output holds NaN or infinity at evaluation 2 of 3\."),
    "infinity": (spoil(-torch.inf), {}, "the model's output holds NaN or infinity"),
    "on_step": (None, {"on_step": failing}, r"its on_step failed: ArithmeticError\('my own fault'\)"),
    "transform": (None, {"transform": failing}, "its own function failed: ArithmeticError"),
    "watched transform": (None, {"transform": failing, "on_step": print}, "its own function failed: ArithmeticError"),
    "noise": (None, {"noise": failing, "sampler": "Euler a"}, "its own function failed: ArithmeticError"),
    "noise for several": (None, {"noise": [1, 2], "sampler": "Euler a"}, "it could not join: 2 seeds or generators"),
}


for end in (asyncio.CancelledError, GeneratorExit, SystemExit, KeyboardInterrupt):
    own = f"its own function failed: {end.__name__}"
    FAILING |= {
        f"on_step {end.__name__}": (None, {"on_step": exiting(end("x"))}, f"its on_step failed: {end.__name__}"),
        f"transform {end.__name__}": (None, {"transform": exiting(end("x"))}, own),
        f"watched {end.__name__}": (None, {"transform": exiting(end("x")), "on_step": print}, own),
        f"noise {end.__name__}": (None, {"noise": exiting(end("x")), "sampler": "Euler a"}, own),
    }


class Unspeakable(Exception):
    """An exception that cannot even be shown."""

    def __repr__(self) -> str:
        raise KeyboardInterrupt


FAILING["an exception without words"] = (
    None,
    {"on_step": exiting(Unspeakable())},
    "its on_step failed: Unspeakable",
)


@for_each(("model", "changes", "message"), FAILING.values(), ids=FAILING)
def test_what_fails_for_one_fails_for_one(model: Any, changes: dict[str, Any], message: str) -> None:
    async def work() -> list[Any]:
        async with batcher(model) as served:
            asked = [ask("good", seed=1), ask("bad", **changes), ask("good", seed=2, sampler="UniPC")]
            made = await asyncio.gather(*map(served.generate, asked), return_exceptions=True)
            assert outcomes(served) == {"completed": 2, "failed": 1}
            assert len(served._stepper.batch) == 0
            return made

    first, error, third = run(work())
    assert torch.equal(first, solo(ask(seed=1)))
    assert torch.equal(third, solo(ask(seed=2, sampler="UniPC")))
    assert isinstance(error, RequestFailed)
    assert re.match(r"request 1 \('bad'\): " + message, str(error))
    assert ("fault" not in message) or isinstance(error.__cause__, ArithmeticError)


def test_infinity_is_passed_on_where_nobody_looks_for_it() -> None:
    async def work() -> Tensor:
        async with batcher(spoil(torch.inf), check_finite=False) as served:
            return await served.generate(ask("bad"))

    assert not run(work()).isfinite().all()


def ending(error: BaseException) -> Callable[[Tensor], Any]:
    def model(x: Tensor) -> Any:
        raise error

    return model


BROKEN: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "has no more": (
        ending(StopIteration()),
        "the model failed with (StopIteration|RuntimeError: coroutine raised Stop)",
    ),
    "is cancelled": (ending(asyncio.CancelledError()), "the model failed with CancelledError"),
    "raises": (failing, "the model failed with ArithmeticError: my own fault"),
    "wrong shape": (lambda x: x[:, :0], r"the model failed with ValueError: outputs has shape \(2, 0, 2, 3\)"),
    "a row too few": (
        lambda x: x[:1],
        r".* that of row 2 \('request 2 \(2\)'\) is missing",
    ),
    "nothing": (lambda x: None, "the model failed with TypeError: outputs is a NoneType"),
    "three outputs": (lambda x: (x, x, x), r"the model returned 3 outputs: expected one, or \(guided, unguided\)"),
}


@for_each(("breaks", "message"), BROKEN.values(), ids=BROKEN)
@for_each("is_async", [False, True], ids=["plain", "async"])
def test_a_model_that_fails_fails_the_rows_of_that_step_and_the_batcher_lives_on(
    breaks: Callable[[Tensor], Any], message: str, is_async: bool
) -> None:
    calls = []

    def model(x: Tensor, timesteps: Tensor, requests: list[Request]) -> Any:
        calls.append([request.tag for request in requests])
        return breaks(x) if len(calls) == 2 else network(x, timesteps)

    async def async_model(x: Tensor, timesteps: Tensor, requests: list[Request]) -> Any:
        return model(x, timesteps, requests)

    async def work() -> list[Any]:
        async with batcher(async_model if is_async else model, max_batch_size=2) as served:
            asked = [ask(0, steps=1), ask(1), ask(2), ask(3)]
            await prepare(served, *asked)
            made = await asyncio.gather(*map(served.generate, asked), return_exceptions=True)
            assert outcomes(served) == {"completed": 2, "failed": 2}
            assert len(served._stepper.batch) == 0
            return made

    done, *errors, also_done = run(work())
    assert calls[:3] == [[0, 1], [1, 2], [3]]
    assert torch.equal(done, solo(ask(steps=1)))
    assert torch.equal(also_done, solo(ask()))
    for number, error in enumerate(errors, 1):
        assert isinstance(error, RequestFailed)
        assert re.search(rf"^request {number} \({number}\): .*{message}", str(error))
        assert isinstance(error.__cause__, BaseException)


def test_a_model_that_leaves_the_program_only_leaves_its_step() -> None:
    async def work() -> None:
        async with batcher(Model(lambda made: sys.exit("enough") if len(made.batches) == 1 else None)) as served:
            with pytest.raises(RequestFailed, match="the model failed with SystemExit: enough"):
                await served.generate(ask())
            await served.generate(ask())

    run(work())


def test_an_async_model_may_be_slow_for_a_cancelled_request() -> None:
    gate = asyncio.Event()
    entered = []

    async def model(x: Tensor, timesteps: Tensor, requests: list[Request]) -> Tensor:
        entered.append(len(requests))
        await gate.wait()
        return network(x, timesteps)

    async def work() -> Tensor:
        async with batcher(model) as served:
            await prepare(served, ask())
            one, two = (asyncio.create_task(served.generate(ask(seed=seed))) for seed in range(2))
            while not entered:
                await asyncio.sleep(0.001)
            one.cancel()
            await turns()
            gate.set()
            return await two

    assert torch.equal(run(work()), solo(ask(seed=1)))
    assert entered == [2, 1, 1]


# Previews


@pytest.mark.parametrize("sampler", ["UniPC", "Heun", "DPM++ SDE"])
def test_a_stream_shows_the_prediction_of_every_step_and_then_the_sample(sampler: str) -> None:
    request = ask(sampler=sampler, steps=4, transform=Clip(0.9))

    async def work() -> list[Preview]:
        async with batcher() as served:
            other = asyncio.create_task(served.generate(ask(steps=9)))
            previews = [preview async for preview in served.stream(request)]
            await other
            assert outcomes(served) == {"completed": 2}
            return previews

    *previews, last = run(work())
    plan = diffusolve.sampler(sampler).plan(SD15, "v_prediction", 4)
    steps = Run(plan, diffusolve.randomness.noise_source(0, torch.empty(1, *SHAPE)), Clip(0.9))
    x, expected = steps.begin(diffusolve.start(plan, torch.empty(1, *SHAPE), 0)), []
    while not steps.is_done:
        output = network(steps.model_input(x), torch.tensor([steps.stage.point.timestep]))
        if steps.stage.stage == 0:
            expected.append((steps.stage, steps.data(output, x)[0]))
        x = steps.step(output, x)
    assert [preview.step for preview in previews] == [0, 1, 2, 3]
    for preview, (stage, data) in zip(previews, expected, strict=True):
        torch.testing.assert_close(preview.data, data, rtol=1e-5, atol=1e-5)
        assert (preview.point, preview.steps, preview.request, preview.is_last) == (stage.point, 4, request, False)
    assert (last.step, last.is_last, last.point) == (4, True, plan.end)
    assert torch.equal(last.data, solo(request))


def test_leaving_a_stream_gives_up_the_request() -> None:
    async def work() -> None:
        async with batcher() as served:
            async with contextlib.aclosing(served.stream(ask(steps=50))) as stream:
                async for preview in stream:
                    if preview.step == 2:
                        break
            assert outcomes(served) == {"cancelled": 1}
            assert not served._queue.active
        assert len(served._stepper.batch) == 0

    run(work())


def test_a_stream_ends_with_what_ended_its_request() -> None:
    async def work() -> None:
        async with batcher(spoil(torch.nan)) as served:
            stream = served.stream(ask("bad"))
            assert (await anext(stream)).step == 0
            with pytest.raises(RequestFailed, match="NaN or infinity at evaluation 2 of 3"):
                await anext(stream)

    run(work())


# What is refused

REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no steps": ({"steps": 0}, ValueError, "steps is 0: expected at least 1"),
    "steps missing": ({"steps": None}, ValueError, "steps is missing"),
    "half a step": ({"steps": 2.5}, TypeError, r"steps is 2\.5: expected a whole number"),
    "a truth": ({"steps": True}, TypeError, "steps is True: expected a whole number"),
    "many steps": (
        {"steps": 1001},
        ValueError,
        "steps is 1001: expected at most 1000",
    ),
    "unknown sampler": ({"sampler": "DPM++ 2N"}, UnknownNameError, r"unknown sampler 'DPM\+\+ 2N': did you mean 'DPM"),
    "no sampler": ({"sampler": 3}, TypeError, "sampler is 3: expected a name, a Sampler or a Plan"),
    "adaptive": ({"sampler": "DPM adaptive"}, NotPlannableError, "chooses its steps by looking at the data"),
    "wrong shape": (
        {"shape": (2, 2)},
        ValueError,
        r"takes no samples of shape \(2, 2\): expected \(1, 2, 3\)",
    ),
    "no shape": ({"shape": None}, ValueError, "neither is given"),
    "shape and x": ({"x": torch.zeros(SHAPE)}, ValueError, "both are given"),
    "odd shape": ({"shape": (1, 2.5)}, TypeError, r"each number of shape is 2\.5: expected a whole number"),
    "empty shape": ({"shape": (1, 0)}, ValueError, "each number of shape is 0: expected at least 1"),
    "a number for a shape": ({"shape": 64}, TypeError, "shape is 64: expected a tuple"),
    "negative seed": ({"seed": -1}, ValueError, "seed is -1: expected at least 0"),
    "most priority": ({"priority": 10**12}, ValueError, r"priority is 1000000000000: expected -3 to 3.*nearest is 3"),
    "least priority": ({"priority": -4}, ValueError, r"priority is -4: expected -3 to 3.*the nearest is -3"),
    "odd priority": ({"priority": "high"}, TypeError, "priority is 'high': expected a whole number"),
    "infinite guidance": ({"guidance_scale": float("inf")}, ValueError, "guidance_scale is inf: expected a finite"),
    "no time": ({"timeout": 0}, ValueError, "timeout is 0: expected seconds, more than 0"),
    "no callback": ({"on_step": 5}, TypeError, "on_step is a int: expected a function"),
    "plan and steps": (
        {"sampler": Sampler(euler, Karras()).plan(SD15, "epsilon", 4)},
        ValueError,
        "steps is 3, but the sampler is a plan, which has 4 steps",
    ),
}


@for_each(("changes", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_what_can_never_be_served_is_refused_with_the_reason(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    async def work() -> None:
        async with batcher(shapes=[SHAPE]) as served:
            good = asyncio.create_task(served.generate(ask(steps=1)))
            await asyncio.gather(good)  # the plan of one step is known now, which a truth is equal to
            with pytest.raises(error, match=message):
                await served.generate(ask(**changes))
            with pytest.raises(error, match=message):
                await anext(served.stream(ask(**changes)))
            assert outcomes(served) == {"completed": 1, "rejected": 2}

    run(work())


def test_a_function_may_say_which_shapes_the_model_takes() -> None:
    async def work() -> None:
        async with batcher(shapes=lambda shape: shape[-1] == 3) as served:
            await served.generate(ask(shape=(3,)))
            with pytest.raises(ValueError, match=r"the model takes no samples of shape \(4,\)\."):
                await served.generate(ask(shape=(4,)))

    run(work())


def test_what_is_no_request_is_refused() -> None:
    async def work() -> None:
        async with batcher() as served:
            with pytest.raises(TypeError, match="request is a dict: expected a Request"):
                await served.generate({"sampler": "Euler"})  # type: ignore[arg-type]

    run(work())


def test_a_full_queue_says_so() -> None:
    model = Model()

    async def work() -> list[Any]:
        async with batcher(model, max_batch_size=2, max_queue=3) as served:
            made = await asyncio.gather(*(served.generate(ask(tag)) for tag in range(8)), return_exceptions=True)
            assert outcomes(served) == {"completed": 5, "queue_full": 3}
            await served.generate(ask(8))  # there is room again
            return made

    made = run(work())
    assert all(isinstance(one, Tensor) for one in made[:5])
    for error in made[5:]:
        assert isinstance(error, QueueFull)
        assert str(error) == "3 requests wait already, which is all that this batcher lets wait."
    assert {tag for batch in model.tags for tag in batch} == {0, 1, 2, 3, 4, 8}


@for_each("option", ["max_batch_size", "max_active", "max_queue", "max_steps", "patience"])
@for_each("value", [0, -1, 1.5, True])
def test_limits_are_whole_numbers_from_1(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{option} is {value}: expected a whole number, at least 1"):
        batcher(**{option: value})


def test_what_the_model_was_trained_with_must_be_known() -> None:
    with pytest.raises(ValueError, match="does not say its noise_schedule: give noise_schedule="):
        ContinuousBatcher(Model(), prediction_type="epsilon")
    with pytest.raises(ValueError, match="does not say its prediction_type"):
        ContinuousBatcher(Model(), noise_schedule=SD15)


# Opening and closing


def test_a_batcher_that_is_not_open_says_so() -> None:
    served = batcher()

    async def work() -> None:
        with pytest.raises(BatcherClosed, match="not entered and takes no requests: use it in `async with"):
            await served.generate(ask())
        async with served:
            await served.generate(ask())
        for use in (served.generate(ask()), anext(served.stream(ask()))):
            with pytest.raises(BatcherClosed, match=r"this batcher is closed and takes no requests\.$"):
                await use
        with pytest.raises(BatcherClosed, match="is closed: it can be entered once"):
            async with served:
                pass
        await served.close()  # again does nothing

    run(work())


def test_leaving_serves_those_that_were_taken() -> None:
    async def work() -> list[Tensor]:
        async with batcher(max_batch_size=1) as served:
            tasks = [asyncio.create_task(served.generate(ask(seed=seed))) for seed in range(4)]
            await turns(2)
        return [task.result() for task in tasks]

    for seed, sample in enumerate(run(work())):
        assert torch.equal(sample, solo(ask(seed=seed)))


def test_closing_fails_those_that_are_left() -> None:
    async def work() -> None:
        served = batcher(max_batch_size=1)
        tasks: list[asyncio.Task[Tensor]] = []
        with contextlib.suppress(ZeroDivisionError):
            async with served:
                tasks += [asyncio.create_task(served.generate(ask(tag, steps=500))) for tag in range(3)]
                while not served._steps:
                    await asyncio.sleep(0)
                raise ZeroDivisionError
        made = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(error, BatcherClosed) for error in made)
        assert str(made[2]) == "request 2 (2): the batcher was closed before the request was done."
        assert outcomes(served) == {"closed": 3}
        assert len(served._stepper.batch) == 0

    run(work())


def test_a_callback_may_close_the_batcher() -> None:
    async def work() -> None:
        async with batcher() as served:
            closing: list[Awaitable[None]] = []
            stop = lambda preview: closing.append(asyncio.ensure_future(served.close()))  # noqa: E731
            with pytest.raises(BatcherClosed, match="closed before the request was done"):
                await served.generate(ask(steps=100, on_step=stop))
            await asyncio.gather(*closing)

    run(work())


def test_a_batcher_belongs_to_one_event_loop() -> None:
    async def work() -> None:
        async with batcher() as served:

            def elsewhere() -> None:
                with pytest.raises(RuntimeError, match="belongs to another event loop"):
                    asyncio.run(served.generate(ask()))

            await asyncio.to_thread(elsewhere)

    run(work())


def test_when_the_loop_ends_everybody_is_told() -> None:
    """As when the program is interrupted, and all tasks are cancelled."""
    ended = []

    async def work() -> None:
        served = batcher()
        await served.__aenter__()
        assert served._worker is not None

        async def asks() -> None:
            try:
                await served.generate(ask(steps=1000))
            except BatcherClosed as error:
                ended.append(error)

        task = asyncio.create_task(asks())
        while not served._steps:
            await asyncio.sleep(0)
        served._worker.cancel()
        await task
        await served.close()

    run(work())
    assert [str(error) for error in ended] == ["request 0: the batcher came to an end."]


# Metrics


def test_metrics_are_what_prometheus_reads() -> None:
    async def work() -> str:
        async with batcher(max_batch_size=6) as served:
            asked = [ask(steps=steps) for steps in (1, 2, 2, 4, 4)]
            await prepare(served, *asked)
            await asyncio.gather(*map(served.generate, asked))
            with pytest.raises(ValueError, match="steps is 0"):
                await served.generate(ask(steps=0))
            return served.metrics()

    text = run(work())
    sample = r'[a-z_]+(\{[a-z]+="[A-Za-z0-9_.+]+"\})? [0-9.e+-]+'
    assert all(re.fullmatch(rf"# (HELP|TYPE) [a-z_]+ .+|{sample}", line) for line in text.splitlines())
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert values["diffusolve_steps_total"] == "4"
    assert values["diffusolve_rows_total"] == "13"
    assert float(values["diffusolve_steps_per_second"]) == 0.4
    assert [values[f'diffusolve_batch_rows_bucket{{le="{le}"}}'] for le in ("1", "2", "4", "6", "+Inf")] == [*"02344"]
    assert (values["diffusolve_batch_rows_sum"], values["diffusolve_batch_rows_count"]) == ("13", "4")
    assert values['diffusolve_requests_total{outcome="completed"}'] == "5"
    assert values['diffusolve_requests_total{outcome="rejected"}'] == "1"
    assert values['diffusolve_requests_total{outcome="failed"}'] == "0"
    assert values["diffusolve_request_seconds_count"] == values['diffusolve_request_seconds_bucket{le="+Inf"}'] == "5"
    assert values["diffusolve_queue_length"] == values["diffusolve_active_requests"] == "0"
    declared = re.findall(r"# TYPE ([a-z_]+) (\w+)", text)
    assert len(declared) == len(set(declared)) == 8


# The soak


async def soak(count: int, at_once: int) -> tuple[Counter[str], dict[str, int], list[int], set[str]]:
    """Serve `count` short requests, some of which fail, are cancelled, time out or are refused.

    Returns how the callers saw them end, what the metrics say, memory blocks at ten points, and tasks that are left.
    """
    rng, seen, blocks = random.Random(0), Counter[str](), []

    def model(x: Tensor, timesteps: Tensor, requests: list[Request]) -> Tensor:
        if rng.random() < 0.002:
            raise ArithmeticError("injected")
        outputs = network(x, timesteps)
        for index, request in enumerate(requests):
            if request.condition == "NaN":
                outputs[index] = torch.nan
        return outputs

    def on_step(preview: Preview) -> None:
        if preview.request.condition == "raises":
            raise ArithmeticError("injected")

    async def one(served: ContinuousBatcher, number: int) -> str:
        chance = rng.random()
        kind = "NaN" if chance < 0.03 else "raises" if chance < 0.05 else "cancel" if chance < 0.12 else ""
        request = ask(
            number,
            sampler="DPM++ 2N" if chance > 0.98 else rng.choice(SAMPLERS),
            steps=rng.choice((1, 1, 2, 3)),
            seed=number,
            condition=kind,
            timeout=1e-9 if 0.12 < chance < 0.14 else None,
            on_step=on_step if kind == "raises" else None,
            priority=rng.choice((0, 0, 1)),
        )
        if kind != "cancel":
            return await ends(served.generate(request))
        task = asyncio.ensure_future(ends(streamed(served.stream(request)) if number % 2 else served.generate(request)))
        await turns(1 + rng.randrange(40))
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            return await task
        return "cancelled"

    async def streamed(stream: AsyncIterator[Preview]) -> Any:
        return [preview.data async for preview in stream][-1]

    async def ends(work: Awaitable[Any]) -> str:
        try:
            assert (await work).shape == SHAPE
        except (RequestFailed, RequestTimeout, UnknownNameError) as error:
            return type(error).__name__
        return "completed"

    numbers = iter(range(count))

    async def client(served: ContinuousBatcher) -> None:
        for number in numbers:
            seen[await one(served, number)] += 1
            if number % (count // 10) == count // 20:
                gc.collect()
                blocks.append(sys.getallocatedblocks())

    unseen: list[dict[str, Any]] = []  # exceptions that nobody has looked at
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
    async with batcher(model, max_batch_size=16, max_active=24, max_queue=200) as served:
        await asyncio.gather(*(client(served) for _ in range(at_once)))
        assert not served._queue.active
        assert not served._queue.waiting
        assert (len(served._stepper.batch), served._stepper.batch._groups, served._stepper.under_way) == (0, {}, ())
        assert served._planning == 0
    gc.collect()
    assert unseen == []
    left = {task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()}
    return seen, outcomes(served), blocks, left


def test_every_one_of_2000_requests_ends_exactly_once_and_memory_stays_flat() -> None:
    count = 2_000
    seen, counted, blocks, left = asyncio.run(soak(count, at_once=64))
    assert sum(seen.values()) == sum(counted.values()) == count
    names = {"RequestFailed": "failed", "RequestTimeout": "timed_out", "UnknownNameError": "rejected"}
    ended = Counter({names.get(kind, kind): number for kind, number in seen.items()})
    # A request that is done when its client gives it up, but has not read the answer, is "completed" to the batcher.
    unread = counted["completed"] - ended["completed"]
    assert 0 <= unread < 20
    assert ended + Counter(completed=unread) - Counter(cancelled=unread) == counted
    assert {"completed", "failed", "cancelled", "timed_out", "rejected"} == set(counted)
    assert counted["completed"] > 0.7 * count
    assert left == set()
    # 1,000 requests lie between the second point and the seventh, so that a block that each left behind would be seen.
    # Single points have thousands more than others, of what is under way there.
    assert min(blocks[6:]) - min(blocks[1:5]) < 800


def test_one_shape_in_place_of_several_is_said() -> None:
    with pytest.raises(TypeError, match=r"shapes is \(1, 8, 8\): expected several shapes"):
        ContinuousBatcher(lambda x, t, r: x, noise_schedule=SD15, prediction_type="epsilon", shapes=(1, 8, 8))  # type: ignore[arg-type]

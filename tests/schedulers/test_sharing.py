"""One scheduler object serves many loops at once, each of which gets what it would have got alone, to the bit."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import threading
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import diffusolve
from diffusolve.schedulers import registry as registry_module
from diffusolve.schedulers.compatible import COMPATIBLE
from tests.tables import for_each

from . import test_pipelines as pipelines
from .parity import SHORT, STABLE_DIFFUSION, diffusers

every_class = for_each("name", COMPATIBLE)
some_classes = for_each(
    "name",
    [
        "DDIMScheduler",  # each step by itself
        "EulerAncestralDiscreteScheduler",  # noise, and scaled inputs
        "HeunDiscreteScheduler",  # two evaluations a step
        "UniPCMultistepScheduler",  # history
        "DPMSolverSDEScheduler",  # a Brownian path
    ],
)


class Request(NamedTuple):
    """What a loop is asked for: its steps, the shape of its samples, the seed of its noise."""

    steps: int
    shape: tuple[int, ...] = (2, 4, 6, 6)
    seed: int = 0


REQUESTS = [Request(5), Request(8, (1, 4, 6, 6), 1), Request(6, seed=2), Request(5, (3, 4, 2, 2), 3)]


def made(name: str, **options: Any) -> Any:
    if name == "DPMSolverSDEScheduler":
        options.setdefault("noise_sampler_seed", 7)
    return getattr(diffusolve, name)(**SHORT, **options)


def network(x: Tensor, timestep: Any) -> Tensor:
    return torch.tanh(x + x.roll(1, -1) / 2 + float(timestep) / 100)


Convert = Callable[[Any], Any]


def same(timestep: Any) -> Any:
    return timestep


def loop(scheduler: Any, request: Request, convert: Convert = same) -> Iterator[Tensor]:
    """A denoising loop that pauses between all its calls, and yields the sample."""
    scheduler.set_timesteps(request.steps)
    timesteps = scheduler.timesteps
    generator = torch.Generator().manual_seed(request.seed)
    drawing = {"generator": generator} if "generator" in scheduler.step.__code__.co_varnames else {}
    x = torch.randn(request.shape, generator=generator) * float(scheduler.init_noise_sigma)
    yield x
    for timestep in timesteps:
        seen = scheduler.scale_model_input(x, convert(timestep))
        yield x
        x = scheduler.step(network(seen, timestep), convert(timestep), x, **drawing).prev_sample
        yield x


def last(samples: Iterator[Tensor]) -> Tensor:
    *_, x = samples
    return x


def alone(name: str, request: Request, **options: Any) -> Tensor:
    return last(loop(made(name, **options), request))


def in_turns(loops: list[Iterator[Tensor]]) -> list[Tensor]:
    """The last samples of loops of which each does a call in turn."""
    samples: dict[int, Tensor] = {}
    going = dict(enumerate(loops))
    while going:
        for number, one in list(going.items()):
            try:
                samples[number] = next(one)
            except StopIteration:
                del going[number]
    return [samples[number] for number in range(len(loops))]


# Loops in one thread


@every_class
def test_loops_take_turns_in_one_thread(name: str) -> None:
    scheduler = made(name)
    found = in_turns([loop(scheduler, request) for request in REQUESTS])
    for request, x in zip(REQUESTS, found, strict=True):
        assert torch.equal(x, alone(name, request))


@every_class
def test_loops_take_turns_in_inference_mode(name: str) -> None:
    with torch.inference_mode():
        scheduler = made(name)
        found = in_turns([loop(scheduler, request) for request in REQUESTS])
        assert all(torch.equal(x, alone(name, request)) for request, x in zip(REQUESTS, found, strict=True))


@for_each("name", [name for name in COMPATIBLE if name not in ("DDIMScheduler", "DDPMScheduler")])
def test_loops_from_the_middle_take_turns(name: str) -> None:
    """As image-to-image pipelines do it, with and without `set_begin_index`."""

    def part(scheduler: Any, steps: int, first: int, says: bool) -> Iterator[Tensor]:
        scheduler.set_timesteps(steps)
        index = first * scheduler.order
        timesteps = scheduler.timesteps[index:]
        if says:
            scheduler.set_begin_index(index)
        generator = torch.Generator().manual_seed(steps)
        drawing = {"generator": generator} if "generator" in scheduler.step.__code__.co_varnames else {}
        data, noise = torch.randn(2, 2, 4, 4, 4, generator=generator)
        x = scheduler.add_noise(data, noise, timesteps[:1].repeat(2))
        yield x
        for timestep in timesteps:
            seen = scheduler.scale_model_input(x, timestep)
            x = scheduler.step(network(seen, timestep), timestep, x, **drawing).prev_sample
            yield x

    arguments = [(8, 3, True), (6, 2, False), (8, 5, False), (6, 4, True)]
    scheduler = made(name)
    found = in_turns([part(scheduler, *which) for which in arguments])
    for which, x in zip(arguments, found, strict=True):
        assert torch.equal(x, last(part(made(name), *which)))


@every_class
def test_numbers_serve_too_where_each_loop_has_a_context(name: str) -> None:
    scheduler = made(name)

    def within(request: Request) -> Iterator[Tensor]:
        context, one = copy_context(), loop(scheduler, request, float)
        while (x := context.run(next, one, None)) is not None:
            yield x

    found = in_turns([within(request) for request in REQUESTS])
    assert all(torch.equal(x, alone(name, request)) for request, x in zip(REQUESTS, found, strict=True))


def test_brownian_noise_is_a_runs_own() -> None:
    """Without a seed each run draws one, and follows that path alone."""
    name, scheduler = "DPMSolverSDEScheduler", made("DPMSolverSDEScheduler", noise_sampler_seed=None)
    torch.manual_seed(5)
    found = in_turns([loop(scheduler, request) for request in REQUESTS[:2]])
    torch.manual_seed(5)
    seeds = [int(torch.randint(0, 2**63 - 1, [])) for _ in range(2)]
    assert seeds[0] != seeds[1]
    for request, x, seed in zip(REQUESTS, found, seeds, strict=False):
        assert torch.equal(x, alone(name, request, noise_sampler_seed=seed))


def test_the_churn_of_a_run_is_its_own() -> None:
    def churning(scheduler: Any, steps: int, s_churn: float) -> Iterator[Any]:
        scheduler.set_timesteps(steps)
        timesteps, generator = scheduler.timesteps, torch.Generator().manual_seed(steps)
        x = torch.randn(2, 4, 4, 4, generator=generator) * 10
        for timestep in timesteps:
            seen = scheduler.scale_model_input(x, timestep)
            result = scheduler.step(network(seen, timestep), timestep, x, s_churn=s_churn, generator=generator)
            x = result.prev_sample
            yield torch.stack([x, result.pred_original_sample])

    arguments = [(5, 4.0), (7, 2.0), (6, 0.0)]
    scheduler = made("EulerDiscreteScheduler")
    found = in_turns([churning(scheduler, *which) for which in arguments])
    for which, both in zip(arguments, found, strict=True):
        assert torch.equal(both, last(churning(made("EulerDiscreteScheduler"), *which)))


@pytest.mark.parametrize("library", [diffusolve, diffusers])
def test_the_predictor_of_a_run_is_its_own(library: Any) -> None:
    def scheduler() -> Any:
        return made("UniPCMultistepScheduler", solver_p=library.DPMSolverMultistepScheduler(**SHORT))

    shared = scheduler()
    found = in_turns([loop(shared, request) for request in REQUESTS])
    assert all(torch.equal(x, last(loop(scheduler(), r))) for r, x in zip(REQUESTS, found, strict=True))
    assert shared.solver_p is shared.config.solver_p


def test_learned_variances_are_a_runs_own() -> None:
    def learned(scheduler: Any, steps: int) -> Iterator[Tensor]:
        scheduler.set_timesteps(steps)
        timesteps, generator = scheduler.timesteps, torch.Generator().manual_seed(steps)
        x = torch.randn(1, 2, 4, 4, generator=generator)
        for timestep in timesteps:
            output = torch.cat([network(x, timestep), torch.sin(x * steps)], dim=1)
            x = scheduler.step(output, timestep, x, generator=generator).prev_sample
            yield x

    scheduler = made("DDPMScheduler", variance_type="learned_range")
    found = in_turns([learned(scheduler, steps) for steps in (5, 10, 20)])
    for steps, x in zip((5, 10, 20), found, strict=True):
        assert torch.equal(x, last(learned(made("DDPMScheduler", variance_type="learned_range"), steps)))


# Threads and tasks


@some_classes
@for_each("convert", [same, float], ids=["views", "numbers"])
def test_threads_share_a_scheduler(name: str, convert: Convert) -> None:
    scheduler, barrier = made(name), threading.Barrier(4)

    def work(request: Request) -> list[Tensor]:
        barrier.wait()
        return [last(loop(scheduler, request, convert)) for _ in range(5)]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, REQUESTS))
    for request, samples in zip(REQUESTS, found, strict=True):
        expected = alone(name, request)
        assert all(torch.equal(x, expected) for x in samples)


@some_classes
@for_each("convert", [same, float], ids=["views", "numbers"])
@for_each("hops", [False, True])
def test_tasks_share_a_scheduler(name: str, convert: Convert, hops: bool) -> None:
    """With `hops` each call is done by a thread of asyncio's, in a copy of the task's context."""
    scheduler = made(name)

    async def task(request: Request) -> Tensor:
        samples = loop(scheduler, request, convert)
        x = next(samples)
        while True:
            await asyncio.sleep(0)
            following = await asyncio.to_thread(next, samples, None) if hops else next(samples, None)
            if following is None:
                return x
            x = following

    async def gathered() -> list[Tensor]:
        return await asyncio.gather(*map(task, REQUESTS))

    for request, x in zip(REQUESTS, asyncio.run(gathered()), strict=True):
        assert torch.equal(x, alone(name, request))


@every_class
def test_a_loop_is_resumed_in_other_threads(name: str) -> None:
    """As generators are by web frameworks. The threads know of no run, or of others."""
    scheduler = made(name)
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second, ThreadPoolExecutor(1) as third:
        third.submit(scheduler.set_timesteps, 4).result()
        pools = [first, second, third]
        loops = [loop(scheduler, request) for request in REQUESTS]
        found: dict[int, Tensor] = {}
        for turn in range(200):
            for number, one in enumerate(loops):
                x = pools[(turn + number) % 3].submit(next, one, None).result()
                if x is not None:
                    found[number] = x
        assert all(next(one, None) is None for one in loops)
    for number, request in enumerate(REQUESTS):
        assert torch.equal(found[number], alone(name, request))


def test_a_thread_without_a_run_has_the_latest_and_one_with_a_run_its_own() -> None:
    scheduler = made("EulerDiscreteScheduler")
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        first.submit(scheduler.set_timesteps, 5).result()
        assert second.submit(lambda: scheduler.num_inference_steps).result() == 5
        second.submit(scheduler.set_timesteps, 9).result()
        second.submit(scheduler.set_begin_index, 4).result()
        seen = [
            pool.submit(lambda: (len(scheduler.timesteps), len(scheduler.sigmas), scheduler.plan.nfe)).result()
            for pool in (first, second)
        ]
        assert seen == [(5, 6, 5), (9, 10, 9)]
        assert first.submit(lambda: (scheduler.begin_index, scheduler.grid.steps)).result() == (None, 5)
        assert second.submit(lambda: (scheduler.begin_index, scheduler.grid.steps)).result() == (4, 9)
        second.submit(scheduler.step, torch.zeros(1), scheduler.timesteps[4], torch.zeros(1)).result()
        assert [pool.submit(lambda: scheduler.step_index).result() for pool in (first, second)] == [None, 5]
    assert scheduler.num_inference_steps == 9


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler"])
def test_threads_prepare_runs_at_once(name: str) -> None:
    """More of them than a scheduler remembers, with shifts that change the configuration."""
    config = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "use_dynamic_shifting": True}
    scheduler = made(name, **config)
    arguments = [(2 + number % 70, number % 7 / 10) for number in range(280)]

    def levels(which: tuple[int, float]) -> tuple[Tensor, Tensor]:
        scheduler.set_timesteps(which[0], mu=which[1])
        return scheduler.timesteps, scheduler.sigmas

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(levels, arguments))
    for (steps, mu), (timesteps, sigmas) in list(zip(arguments, found, strict=True))[::13]:
        expected = made(name, **config)
        expected.set_timesteps(steps, mu=mu)
        assert torch.equal(timesteps, expected.timesteps)
        assert torch.equal(sigmas, expected.sigmas)


def test_a_run_that_fails_leaves_the_others_alone() -> None:
    scheduler = made("UniPCMultistepScheduler")
    one = loop(scheduler, REQUESTS[0])
    for _ in range(4):
        next(one)
    scheduler.set_timesteps(7)
    x = torch.zeros(1, 4, 2, 2)
    with pytest.raises(ValueError, match="shape"):
        scheduler.step(x[..., :1], scheduler.timesteps[0], x)
    with pytest.raises(ValueError, match="at least 1"):
        scheduler.set_timesteps(0)
    assert scheduler.num_inference_steps == 7
    assert torch.equal(last(one), alone("UniPCMultistepScheduler", REQUESTS[0]))


# A pipeline of diffusers


THREADS, GENERATIONS = 8, 50


def generated(scheduler: Any) -> Callable[[int], Tensor]:
    """Generation by its number, with a pipeline around `scheduler`."""
    made = pipelines.pipeline("StableDiffusionPipeline", scheduler)
    given = {**pipelines.prompt(), "guidance_scale": 1.0, "output_type": "latent"}

    def generate(number: int) -> Tensor:
        torch.set_num_threads(1)  # in each thread anew
        arguments = {**given, "generator": torch.Generator().manual_seed(number)}
        image: Tensor = made(**arguments, height=16, width=16, num_inference_steps=2 + number % 5).images
        return image

    return generate


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "EulerAncestralDiscreteScheduler"])
def test_threads_share_a_pipeline(name: str) -> None:
    numbers = range(GENERATIONS)
    generate = generated(getattr(diffusolve, name)(**STABLE_DIFFUSION))
    one_by_one = [generate(number) for number in numbers]
    with ThreadPoolExecutor(THREADS) as pool:
        at_once = list(pool.map(generate, numbers))
    assert all(map(torch.equal, at_once, one_by_one))
    assert len({tuple(image.flatten().tolist()) for image in one_by_one}) == len(numbers)


def test_threads_cannot_share_a_pipeline_with_a_scheduler_of_diffusers() -> None:
    """So that the test above shows something. It is a race: it raises, or images differ."""
    generate = generated(diffusers.DPMSolverMultistepScheduler(**STABLE_DIFFUSION))
    numbers = range(GENERATIONS)
    one_by_one = [generate(number) for number in numbers]
    with ThreadPoolExecutor(THREADS) as pool:
        at_once = [pool.submit(generate, number) for number in numbers]
    raised = [future.exception() for future in at_once]
    differ = [
        error is None and not torch.equal(future.result(), image)
        for future, error, image in zip(at_once, raised, one_by_one, strict=True)
    ]
    assert any(raised) or any(differ)


# Nothing is left behind


def test_five_thousand_runs_leave_nothing_behind() -> None:
    """Nor do they wait for the garbage collector."""
    scheduler, x = made("DPMSolverMultistepScheduler"), torch.zeros(1, 1, 2, 2)

    def abandoned(count: int) -> None:
        for number in range(count):
            scheduler.set_timesteps(4 + number % 2)
            scheduler.step(x, scheduler.timesteps[0], x, return_dict=False)

    def left(count: int) -> tuple[int, int]:
        copy_context().run(abandoned, 100)  # gone with its context
        abandoned(count)
        return len(gc.get_objects()), tracemalloc.get_traced_memory()[0]

    abandoned(100)
    gc.collect()
    gc.disable()
    try:
        tracemalloc.start()
        left(500)
        before = left(500)
        tracemalloc.stop()
        abandoned(4_000)
        objects = len(gc.get_objects())
        tracemalloc.start()
        left(500)
        after = left(500)
    finally:
        tracemalloc.stop()
        gc.enable()
    assert max(objects, after[0]) <= before[0] + 10
    assert after[1] <= before[1] + 4096


def test_a_run_is_freed_with_its_timesteps_at_once() -> None:
    gc.disable()
    try:
        scheduler = made("UniPCMultistepScheduler")
        one = loop(scheduler, REQUESTS[0])
        for _ in range(4):
            next(one)
        run = weakref.ref(scheduler._generation)
        scheduler.set_timesteps(3)
        assert run() is not None  # it may go on
        next(one)
        del one
        assert run() is None
        views = list(scheduler.timesteps)
        run = weakref.ref(scheduler._generation)
        scheduler.set_timesteps(4)
        del views[1:]
        assert run() is not None
        del views
        assert run() is None
    finally:
        gc.enable()


def test_a_thread_keeps_one_run_of_a_living_scheduler() -> None:
    with ThreadPoolExecutor(1) as pool:
        kept = []
        for _ in range(20):
            scheduler = made("EulerDiscreteScheduler")
            pool.submit(scheduler.set_timesteps, 3).result()
            pool.submit(scheduler.set_timesteps, 4).result()
            kept.append(weakref.ref(scheduler))
        assert pool.submit(lambda: len(registry_module._here.get())).result() <= 2
        del scheduler
        gc.collect()
        assert not any(reference() for reference in kept)


# Copies


def pickled(scheduler: Any) -> Any:
    return pickle.loads(pickle.dumps(scheduler))


@every_class
@for_each("copied", [copy.deepcopy, copy.copy, pickled])
def test_a_copy_goes_on_by_itself_while_others_are_in_flight(name: str, copied: Callable[[Any], Any]) -> None:
    scheduler = made(name)
    others = [loop(scheduler, request) for request in REQUESTS[1:]]
    for number, one in enumerate(others):
        for _ in range(3 + number):
            next(one)
    request = REQUESTS[0]
    scheduler.set_timesteps(request.steps)
    generator = torch.Generator().manual_seed(request.seed)
    drawing = {"generator": generator} if "generator" in scheduler.step.__code__.co_varnames else {}
    x = torch.randn(request.shape, generator=generator) * float(scheduler.init_noise_sigma)
    timesteps = scheduler.timesteps
    for timestep in timesteps[:2]:
        x = scheduler.step(
            network(scheduler.scale_model_input(x, timestep), timestep), timestep, x, **drawing
        ).prev_sample
    other, state = copied(scheduler), generator.get_state()
    results = []
    for walking, rest in ((scheduler, timesteps[2:]), (other, other.timesteps[2:]), (copied(other), timesteps[2:])):
        generator.set_state(state)
        y = x
        for timestep in rest:
            y = walking.step(
                network(walking.scale_model_input(y, timestep), timestep), timestep, y, **drawing
            ).prev_sample
            next(others[0], None)
        results.append(y)
        if walking is other:
            other.set_timesteps(4)
            assert scheduler.num_inference_steps == request.steps
            other = copied(scheduler)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], alone(name, request))
    for one, request in zip(others[1:], REQUESTS[2:], strict=True):
        assert torch.equal(last(one), alone(name, request))


@every_class
def test_states_may_be_put_in_and_taken_out(name: str) -> None:
    """As StableDiffusionPanoramaPipeline does for its views, which begin with one and the same state."""
    scheduler, start = made(name), torch.randn(3, 1, 4, 4, 4, generator=torch.Generator().manual_seed(4))
    scheduler.set_timesteps(6)
    timesteps, samples = scheduler.timesteps, list(start)
    drawings: list[dict[str, Any]] = [{} for _ in samples]
    if "generator" in scheduler.step.__code__.co_varnames:
        drawings = [{"generator": torch.Generator().manual_seed(number)} for number in range(len(samples))]
    states = [copy.deepcopy(scheduler.__dict__)] * len(samples)
    for timestep in timesteps:
        for number, (x, drawing) in enumerate(zip(samples, drawings, strict=True)):
            scheduler.__dict__.update(states[number])
            output = network(scheduler.scale_model_input(x, timestep), timestep)
            samples[number] = scheduler.step(output, timestep, x, **drawing).prev_sample
            states[number] = copy.deepcopy(scheduler.__dict__)
    for number, (x, first) in enumerate(zip(samples, start, strict=True)):
        assert torch.equal(x, begun_at(name, 0, first, len(timesteps), seed=number))


# Where a timestep says that a run is


COUNTING = [name for name in COMPATIBLE if name not in ("DDIMScheduler", "DDPMScheduler")]


def begun_at(name: str, index: int, x: Tensor, until: int, seed: int = 0) -> Tensor:
    """The sample after the evaluations from number `index` up to `until` of a new run of 6 steps."""
    scheduler = made(name)
    scheduler.set_timesteps(6)
    return walked(scheduler, scheduler.timesteps[index:until], x, seed)


def walked(scheduler: Any, timesteps: Any, x: Tensor, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawing = {"generator": generator} if "generator" in scheduler.step.__code__.co_varnames else {}
    for timestep in timesteps:
        seen = scheduler.scale_model_input(x, timestep)
        x = scheduler.step(network(seen, timestep), timestep, x, **drawing).prev_sample
    return x


@for_each("name", COUNTING)
@for_each("back", [True, False])
def test_a_run_moves_to_where_a_view_of_its_timesteps_says(name: str, back: bool) -> None:
    """Steps that are repeated or skipped begin anew there, as an image-to-image run does."""
    scheduler = made(name)
    scheduler.set_timesteps(6)
    timesteps, start = scheduler.timesteps, torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(4))
    index = 2 if back else len(timesteps) - 1
    walked(scheduler, timesteps[:4], start)
    assert scheduler.step_index == 4
    found = walked(scheduler, timesteps[index:], start)
    assert scheduler.step_index == len(timesteps)
    assert torch.equal(found, begun_at(name, index, start, len(timesteps)))


@for_each("name", COUNTING)
def test_numbers_and_copies_of_timesteps_are_counted(name: str) -> None:
    start = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(4))
    results = []
    for convert in (same, torch.clone, float):
        scheduler = made(name)
        scheduler.set_timesteps(6)
        results.append(walked(scheduler, [convert(t) for t in scheduler.timesteps], start))
    assert all(torch.equal(result, results[0]) for result in results)


@for_each("name", [name for name in COUNTING if getattr(diffusolve, name).order == 1])
def test_images_may_take_turns_at_each_timestep(name: str) -> None:
    """One run, several images: each evaluation is a first one, so that nothing is taken from another image."""
    scheduler = made(name)
    scheduler.set_timesteps(6)
    images = torch.randn(3, 2, 4, 4, 4, generator=torch.Generator().manual_seed(4)).unbind()
    for index, timestep in enumerate(scheduler.timesteps[:-1]):
        stepped = tuple(walked(scheduler, [timestep], x) for x in images)
        for before, after in list(zip(images, stepped, strict=True))[1:]:
            assert torch.equal(after, begun_at(name, index, before, index + 1))
        images = stepped


@pytest.mark.parametrize("name", ["HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "DPMSolverSDEScheduler"])
def test_a_run_moves_to_no_middle_of_a_step(name: str) -> None:
    scheduler, start = made(name), torch.zeros(1, 4, 4, 4)
    scheduler.set_timesteps(6)
    timesteps = scheduler.timesteps
    x = walked(scheduler, timesteps[:2], start)
    with pytest.raises(ValueError, match="evaluation 5 is in the middle of a step"):
        scheduler.step(x, timesteps[5], x)
    assert scheduler.step_index == 2
    whole = made(name)
    whole.set_timesteps(6)
    assert torch.equal(walked(scheduler, timesteps[2:], x), walked(whole, whole.timesteps, start))


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_the_input_is_scaled_for_another_timestep_without_moving(name: str) -> None:
    scheduler, x = made(name), torch.ones(1, 4, 4, 4)
    scheduler.set_timesteps(6)
    timesteps = scheduler.timesteps
    walked(scheduler, timesteps[:2], x)
    seen = scheduler.scale_model_input(x, timesteps[4])
    sigma = scheduler.sigmas[4] if name == "EulerDiscreteScheduler" else torch.tensor(0.0)
    torch.testing.assert_close(seen, x / (sigma**2 + 1).sqrt())
    assert scheduler.step_index == 2


def test_set_begin_index_has_the_last_word() -> None:
    """A run that it begins elsewhere than the timesteps say is counted."""
    name, start = "DPMSolverMultistepScheduler", torch.ones(1, 4, 4, 4)
    scheduler, counted = made(name), made(name)
    for one in (scheduler, counted):
        one.set_timesteps(6)
        one.set_begin_index(1)
    found = walked(scheduler, scheduler.timesteps[3:], start)
    assert scheduler.step_index == 4
    assert torch.equal(found, walked(counted, counted.timesteps[3:].tolist(), start))


@for_each("name", COUNTING)
def test_a_tensor_of_timesteps_may_be_walked_again_after_set_timesteps(name: str) -> None:
    scheduler, start = made(name), torch.ones(1, 4, 4, 4)
    scheduler.set_timesteps(6)
    timesteps = scheduler.timesteps
    first = walked(scheduler, timesteps, start)
    with pytest.raises(IndexError, match="all of them are done: call set_timesteps again"):
        scheduler.step(start, timesteps[0], start)
    for _ in range(2):
        scheduler.set_timesteps(6)
        assert torch.equal(walked(scheduler, timesteps, start), first)
    scheduler.set_timesteps(5)
    with pytest.raises(IndexError, match="take the new run's timesteps"):
        scheduler.step(start, timesteps[0], start)


def test_the_last_step_of_a_finished_run_may_be_repeated_whoever_else_has_begun_one() -> None:
    for name in ("EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "LMSDiscreteScheduler"):
        scheduler, x = made(name), torch.full((1, 4, 4, 4), 0.5)
        scheduler.set_timesteps(6)
        own = scheduler.timesteps
        walked(scheduler, own, x)
        once = scheduler.step(x, own[-1], x).prev_sample
        scheduler.set_timesteps(6)
        scheduler.step(x, scheduler.timesteps[0], x)
        assert torch.equal(scheduler.step(x, own[-1], x).prev_sample, once)
        assert scheduler.step_index == 1
        with pytest.raises(IndexError, match="all of them are done"):
            scheduler.step(x, own[2], x)


def test_options_may_change_where_nothing_is_remembered() -> None:
    euler, lms, x = made("EulerDiscreteScheduler"), made("LMSDiscreteScheduler"), torch.ones(1, 4, 4, 4)
    for scheduler in (euler, lms):
        scheduler.set_timesteps(6)
        scheduler.step(x, scheduler.timesteps[0], x)
    euler.step(x, euler.timesteps[1], x, s_churn=1.0)
    with pytest.raises(ValueError, match="LMSDiscreteScheduler remembers earlier steps"):
        lms.step(x, lms.timesteps[1], x, order=2)


def test_views_of_another_scheduler_are_numbers() -> None:
    one, other, x = made("EulerDiscreteScheduler"), made("EulerDiscreteScheduler"), torch.ones(1, 4, 4, 4)
    one.set_timesteps(6)
    other.set_timesteps(6)
    assert torch.equal(walked(one, other.timesteps, x), walked(other, one.timesteps, x))
    assert one.step_index == other.step_index == 6


def test_what_is_remembered_is_bounded() -> None:
    """Of steps with any number of different options, too."""
    scheduler, x = made("DDIMScheduler"), torch.ones(1, 4, 2, 2)
    for steps in range(1, 90):
        scheduler.set_timesteps(steps)
    assert len(scheduler._prepared_runs) <= scheduler._prepared_runs.most < 90
    scheduler.set_timesteps(10)
    for number in range(1500):
        scheduler.step(x, 50, x, eta=number / 1500)
    assert 0 < len(scheduler._steps_made) <= scheduler._steps_made.most < 1500


def test_finding_a_run_compiles() -> None:
    """There the latest run is taken."""
    scheduler = made("EulerDiscreteScheduler")
    scheduler.set_timesteps(6)

    def steps(x: Tensor, timestep: Any) -> Tensor:
        generation, place = scheduler._registry.of(timestep)
        assert generation is not None
        assert place is None
        return x * generation.steps

    compiled = torch.compile(steps, fullgraph=True, backend="eager")
    assert float(compiled(torch.ones(()), scheduler.timesteps[0])) == 6

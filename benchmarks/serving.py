"""What mixed batches are worth to a server: ``python -m benchmarks.serving``.

One stream of requests, with arrivals of a Poisson process and a mixture of samplers, steps, guidance and classes, is
served three times by the digits network, in real time and in turn:

- by the batcher, whose batches mix everything;
- one request at a time, in the order of arrival;
- in static batches: the request that has waited longest, and all that wait with equal sampler, steps and guidance,
  from their first step to their last.

Their samples are compared, so that nobody is faster by doing something else. The stream comes several times as fast as
one at a time can be served (`--load`), which is where batches matter: all three are as fast as they can be then. There
are 126 configurations of sampler, steps and guidance; the fewer there are, the better are static batches. PyTorch has
one thread: the network is small, and threads that wait for each other and for the event loop would be what is measured.

The second table compares a step of eight rows, each with its own coefficients, with a step of one run on a batch of
eight. The network is free there; setting up is excluded.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from diffusolve.backends import Run
from diffusolve.batching import BatchRun
from diffusolve.catalog import sampler
from diffusolve.noise import SD15
from diffusolve.plan import Plan
from diffusolve.randomness import noise_source
from diffusolve.sampling import start
from diffusolve.serving import ContinuousBatcher, Request
from examples.picture_model import MODELS, Guided

SAMPLERS = ("Euler a", "DPM++ 2M Karras", "UniPC", "Heun Karras", "DPM++ 2M SDE Karras", "DDIM")
SHAPE = MODELS["digits"].shape
MIXTURE = "a mixture"
STEPS = (8, 10, 12, 15, 20, 25, 30)
GUIDANCE = (1.0, 2.0, 4.0)
ROWS = 8
SIZES = (SHAPE, (4, 64, 64), (16, 128, 128))
"""Of a sample, where steps are compared: digits, Stable Diffusion at 512 x 512 and models of 16 channels at 1024."""

Serve = Callable[[list[Request], list[float]], Coroutine[Any, Any, tuple[list[Tensor], list[float]]]]


def stream(count: int, rate: float, seed: int = 0) -> tuple[list[Request], list[float]]:
    """Requests and when they arrive, `rate` of them in a second."""
    rng, at = random.Random(seed), 0.0
    requests, arrivals = [], []
    for number in range(count):
        at += rng.expovariate(rate)
        arrivals.append(at)
        requests.append(
            Request(
                sampler=rng.choice(SAMPLERS),
                steps=rng.choice(STEPS),
                shape=SHAPE,
                seed=number,
                condition=rng.randrange(10),
                guidance_scale=rng.choice(GUIDANCE),
            )
        )
    return requests, arrivals


def configuration(request: Request) -> tuple[Any, ...]:
    """What a static batch has in common."""
    return request.sampler, request.steps, request.guidance_scale


def plan_of(request: Request) -> Plan:
    return sampler(str(request.sampler)).plan(SD15, "v_prediction", request.steps)


def generated(model: Guided, requests: list[Request]) -> Tensor:
    """The samples of requests with one sampler and number of steps, by one run."""
    plan, seeds = plan_of(requests[0]), [request.seed for request in requests]
    like = torch.empty(len(requests), *SHAPE)
    run = Run(plan, noise_source(seeds, like))
    with torch.no_grad():
        x: Tensor = run.begin(start(plan, like, seeds))
        while not run.is_done:
            timesteps = torch.full((len(requests),), run.stage.point.timestep)
            x = run.step(model(run.model_input(x), timesteps, requests), x)
    return x


async def arriving(arrivals: list[float], serve_one: Callable[[int], Awaitable[Tensor]]) -> Any:
    """Let each request be served from the moment at which it arrives; samples and latencies."""
    begun = time.perf_counter()

    async def one(index: int) -> tuple[Tensor, float]:
        await asyncio.sleep(begun + arrivals[index] - time.perf_counter())
        sample = await serve_one(index)
        return sample, time.perf_counter() - begun - arrivals[index]

    served = await asyncio.gather(*map(one, range(len(arrivals))))
    return [sample for sample, _ in served], [latency for _, latency in served]


def by_batcher(model: Guided, max_batch_size: int) -> Serve:
    async def serve(requests: list[Request], arrivals: list[float]) -> Any:
        async with ContinuousBatcher(
            model, noise_schedule=SD15, prediction_type="v_prediction", max_batch_size=max_batch_size
        ) as batcher:
            return await arriving(arrivals, lambda index: batcher.generate(requests[index]))

    return serve


def by_groups(model: Guided, max_batch_size: int) -> Serve:
    """Static batches of at most `max_batch_size` requests with equal configuration; one at a time if that is 1."""

    async def serve(requests: list[Request], arrivals: list[float]) -> Any:
        waiting: list[tuple[int, asyncio.Future[Tensor]]] = []
        arrived = asyncio.Event()
        loop = asyncio.get_running_loop()
        thread = ThreadPoolExecutor(1)

        async def work() -> None:
            while True:
                while not waiting:
                    arrived.clear()
                    await arrived.wait()
                first = requests[waiting[0][0]]
                equal = [entry for entry in waiting if configuration(requests[entry[0]]) == configuration(first)][
                    :max_batch_size
                ]
                for entry in equal:
                    waiting.remove(entry)
                together = [requests[index] for index, _ in equal]
                samples = await loop.run_in_executor(thread, generated, model, together)
                for (_, future), sample in zip(equal, samples, strict=True):
                    future.set_result(sample)

        def one(index: int) -> asyncio.Future[Tensor]:
            waiting.append((index, loop.create_future()))
            arrived.set()
            return waiting[-1][1]

        worker = asyncio.create_task(work())
        try:
            return await arriving(arrivals, one)
        finally:
            worker.cancel()
            thread.shutdown()

    return serve


def capacity(model: Guided, requests: list[Request]) -> float:
    """How many requests in a second are served one at a time."""
    begun = time.perf_counter()
    for request in requests:
        generated(model, [request])
    return len(requests) / (time.perf_counter() - begun)


def measure(serve: Serve, requests: list[Request], arrivals: list[float]) -> tuple[list[Tensor], dict[str, float]]:
    """Samples, and samples per second with quantiles of the latency in seconds."""
    samples, latencies = asyncio.run(serve(requests, arrivals))
    ended = max(arrival + latency for arrival, latency in zip(arrivals, latencies, strict=True))
    p50, p95 = np.quantile(latencies, [0.5, 0.95])
    return samples, {"images_per_second": len(samples) / ended, "p50": float(p50), "p95": float(p95)}


def serving(count: int, load: float, max_batch_size: int, rounds: int) -> dict[str, dict[str, float]]:
    """Medians over the rounds for the three servers, each round in turn on the same stream."""
    model = Guided(MODELS["digits"])
    for request in (Request(sampler=name, steps=steps, shape=SHAPE) for name in SAMPLERS for steps in STEPS):
        plan_of(request)
    warm_up, _ = stream(24, 1.0, seed=1)
    capacity(model, warm_up[:4])
    rate = load * capacity(model, warm_up)
    servers = {
        "batcher": by_batcher(model, max_batch_size),
        "one at a time": by_groups(model, 1),
        "static batches": by_groups(model, max_batch_size),
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
    for round_ in range(rounds):
        requests, arrivals = stream(count, rate, seed=2 + round_)
        made = {}
        for name, serve in servers.items():
            made[name], figures = measure(serve, requests, arrivals)
            found[name].append(figures)
        for samples in made.values():
            for sample, other in zip(samples, made["one at a time"], strict=True):
                torch.testing.assert_close(sample, other, rtol=0.01, atol=0.01)  # convolutions depend on the batch
    medians = {
        name: {key: statistics.median(figures[key] for figures in rows) for key in rows[0]}
        for name, rows in found.items()
    }
    return {**medians, "stream": {"requests_per_second": rate, "load": load}}


# A step of eight rows


def uniform_step(plan: Plan, shape: tuple[int, ...]) -> float:
    """Seconds that one run of a batch takes for an evaluation."""
    x, output = torch.randn(shape), torch.randn(shape)
    run = Run(plan)
    begun = time.perf_counter()
    x = run.begin(x)
    for _ in range(plan.nfe):
        shown = run.model_input(x)  # held during the step, as by a loop that calls a network
        x = run.step(output, x)
    del shown
    return (time.perf_counter() - begun) / plan.nfe


def mixed_step(plans: list[Plan], shape: tuple[int, ...]) -> float:
    """Seconds that rows with plans of their own take for an evaluation."""
    output, batch = torch.randn(shape), BatchRun()
    for plan in plans:
        batch.join(plan, torch.randn(shape[1:]))
    count = min(plan.nfe for plan in plans) - 1
    begun = time.perf_counter()
    for _ in range(count):
        (inputs,) = batch.inputs()
        batch.advance(inputs, output)
    return (time.perf_counter() - begun) / count


def steps(rounds: int) -> list[dict[str, Any]]:
    """For some samplers, and for a batch of all of them, a step with one run's coefficients and with each row's own."""
    plans = {name: sampler(name).plan(SD15, "epsilon", 20) for name in ("Euler", "DPM++ 2M", "UniPC", "Heun", "LMS")}
    found: list[dict[str, Any]] = []
    threads = torch.get_num_threads()
    for size in SIZES:
        shape = (ROWS, *size)
        torch.set_num_threads(1)  # as in a server with a thread for each batch
        uniform = {}
        for name, plan in plans.items():
            pairs = [(uniform_step(plan, shape), mixed_step([plan] * ROWS, shape)) for _ in range(rounds + 2)][2:]
            one, rows = (statistics.median(column) for column in zip(*pairs, strict=True))
            uniform[name] = one
            found.append({"shape": shape, "rows": name, "uniform": one, "mixed": rows})
        company = (list(plans) * ROWS)[:ROWS]
        mixed = statistics.median(mixed_step([plans[name] for name in company], shape) for _ in range(rounds))
        mean = statistics.fmean(uniform[name] for name in company)
        found.append({"shape": shape, "rows": MIXTURE, "uniform": mean, "mixed": mixed})
    torch.set_num_threads(threads)
    return found


def serving_table(found: dict[str, dict[str, float]], max_batch_size: int) -> Table:
    rate = found["stream"]["requests_per_second"]
    title = f"{rate:.0f} requests a second, batches of at most {max_batch_size}"
    table = Table("server", "images/s", "p50, s", "p95, s", title=title)
    for name, figures in found.items():
        if name != "stream":
            table.add_row(name, *(f"{figures[key]:.3g}" for key in ("images_per_second", "p50", "p95")))
    return table


def step_table(found: list[dict[str, Any]]) -> Table:
    table = Table("rows", "shape", "one run, us", "rows, us", "ratio", title=f"A step of {ROWS} samples")
    for entry in found:
        uniform, mixed = entry["uniform"], entry["mixed"]
        table.add_row(
            entry["rows"], dimensions(entry), f"{uniform * 1e6:.1f}", f"{mixed * 1e6:.1f}", f"{mixed / uniform:.2f}"
        )
    return table


def goals(found: dict[str, dict[str, float]], stepped: list[dict[str, Any]]) -> list[tuple[str, float, bool]]:
    """What is wanted, the figure, and whether it is met."""
    batcher, single, static = (found[name] for name in ("batcher", "one at a time", "static batches"))
    throughput = batcher["images_per_second"] / single["images_per_second"]
    over_static = batcher["images_per_second"] / static["images_per_second"]
    p95 = batcher["p95"] / single["p95"]
    mixtures = [entry for entry in stepped if entry["rows"] == MIXTURE]
    return [
        ("throughput over one at a time, at least 2", throughput, throughput >= 2),
        ("p95 over that of one at a time, at most 1", p95, p95 <= 1),
        ("throughput over static batches, at least 1.3", over_static, over_static >= 1.3),
        *(
            (f"a step of a mixture, {dimensions(entry)}, over one run's, at most 1.5", ratio, ratio <= 1.5)
            for entry in mixtures
            for ratio in [entry["mixed"] / entry["uniform"]]
        ),
    ]


def dimensions(entry: dict[str, Any]) -> str:
    return "x".join(map(str, entry["shape"]))


def main(
    count: Annotated[int, typer.Option(min=10, help="Requests in a stream.")] = 300,
    load: Annotated[float, typer.Option(min=0.1, help="How much faster they come than one at a time is served.")] = 4.0,
    max_batch_size: Annotated[int, typer.Option(min=1, help="The most rows in a batch.")] = 16,
    rounds: Annotated[int, typer.Option(min=1, help="How often each stream is served.")] = 3,
    step_rounds: Annotated[int, typer.Option(min=3, help="How often each step's loop is run.")] = 60,
    threads: Annotated[int, typer.Option(min=1, help="Threads of PyTorch for the network.")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Print throughput and latency of the three servers, and what a step with a row's own coefficients costs."""
    console = Console()
    torch.set_num_threads(threads)
    found = serving(count, load, max_batch_size, rounds)
    console.print(serving_table(found, max_batch_size))
    stepped = steps(step_rounds)
    console.print(step_table(stepped))
    wanted = goals(found, stepped)
    for goal, figure, met in wanted:
        console.print(f"{goal}: {figure:.2f}, {'met' if met else 'missed'}")
    if json_file is not None:
        figures = {
            "serving": found,
            "steps": stepped,
            "goals": wanted,
            "max_batch_size": max_batch_size,
            "count": count,
        }
        json_file.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    typer.run(main)

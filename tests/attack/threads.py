"""Threads that share everything but runs, and then one run too: on NumPy alone, so that any interpreter can be asked.

    python -m tests.attack.threads --count 20000 --threads 8

Each thread makes samplers, grids and plans and walks them, all from the same caches; every result is compared, to the
bit, with that of one thread alone. Then threads step one run at once: each step is made once, or refused with an error.
It is meant for interpreters without a global lock (``python3.13t``), and must find nothing on any.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier
from typing import Any

import numpy as np

import diffusolve
from diffusolve.backends import Run
from diffusolve.catalog import sampler
from diffusolve.noise import SD15

NAMES = (
    "Euler",
    "Euler a",
    "Heun",
    "LMS",
    "UniPC Karras",
    "DEIS",
    "DPM++ 2M Karras",
    "DPM++ 3M SDE",
    "SA-Solver",
    "TCD",
)
"""Samplers with and without noise, memory, and several evaluations of a step."""

SHAPES = ((1, 30), (1, 4, 8, 8), (2, 4, 130, 130))
"""The last is large enough for the compiled module to give the lock back and to share out its work."""

Job = tuple[str, int, tuple[int, ...], int]
"""Sampler, steps, shape and seed."""


def network(x: np.ndarray, timesteps: Any) -> np.ndarray:
    """Something bounded."""
    output: np.ndarray = np.tanh(x)
    return output


def result(job: Job) -> bytes:
    """The sample of a job as bytes."""
    name, steps, shape, seed = job
    recipe, seeds = sampler(name), [seed + row for row in range(shape[0])]
    x = diffusolve.start(recipe.grid(SD15, steps), np.empty(shape, np.float32), seeds)
    made: np.ndarray = diffusolve.sample(
        network, x, recipe, steps=steps, noise_schedule=SD15, prediction_type="epsilon", noise=seeds
    )
    return made.tobytes()


def shared_but_for_runs(count: int, threads: int, seed: int) -> Counter[str]:
    """Results of `count` jobs in `threads` threads against those of one thread: equal, or the name of what differs."""
    rng = random.Random(seed)
    names = [name for name in NAMES for _ in range(4)]
    jobs: list[Job] = [(name, rng.randint(1, 9), rng.choice(SHAPES), rng.randrange(3)) for name in names]
    ready = Barrier(threads)

    def work(number: int) -> Counter[str]:
        own = random.Random(seed + number)
        found: Counter[str] = Counter()
        ready.wait()  # so that the caches are filled by all at once
        for _ in range(count // threads):
            job = own.choice(jobs)
            made[number].setdefault(job, set()).add(result(job))
            found["walked"] += 1
        return found

    made: list[dict[Job, set[bytes]]] = [{} for _ in range(threads)]
    found: Counter[str] = Counter()
    with ThreadPoolExecutor(threads) as pool:
        for one in pool.map(work, range(threads)):
            found += one
    alone = {job: {result(job)} for job in jobs}
    for of_thread in made:
        found.update(f"other bits: {job}" for job, bits in of_thread.items() if bits != alone[job])
    return found


def one_run_in_many_threads(count: int, threads: int, seed: int) -> Counter[str]:
    """How steps of `count` runs ended that `threads` threads step at once."""
    rng = random.Random(seed)
    found: Counter[str] = Counter()
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(count):
            plan = sampler(rng.choice(NAMES)).plan(SD15, "epsilon", rng.randint(1, 6))
            shape = rng.choice(SHAPES)
            run = Run(plan, lambda x, sigma_from, sigma_to: np.full_like(x, 0.1))
            x = run.begin(np.full(shape, 0.5, np.float32))
            ends = [*pool.map(partial(step_until_over, run, x, Barrier(threads)), range(threads))]
            steps = sum(of_thread["made"] for of_thread in ends)
            found.update(sum(ends, Counter[str]()))
            if steps != plan.nfe or not run.is_done:
                found[f"{plan.solver}: {steps} steps made of {plan.nfe}"] += 1
    return found


def step_until_over(run: Any, x: np.ndarray, ready: Barrier, thread: int) -> Counter[str]:
    """Step the run until it is over; how the steps ended."""
    ended: Counter[str] = Counter()
    ready.wait()
    while not run.is_done:
        try:
            following = run.step(np.tanh(x), x)
        except RuntimeError as error:
            ended["refused" if "another thread" in str(error) else f"{error!r}"] += 1
        except IndexError as error:
            ended["over" if "are done" in str(error) else f"{error!r}"] += 1
        else:
            ended["made"] += 1
            ended["not finite"] += int(not np.isfinite(following).all())
    return +ended


def attack(count: int, threads: int, seed: int = 0) -> list[str]:
    """What was found, of all that must not be; what was counted is printed."""
    ways: dict[str, Callable[[], Counter[str]]] = {
        "runs of their own": lambda: shared_but_for_runs(count, threads, seed),
        "one run": lambda: one_run_in_many_threads(count // 10, threads, seed),
    }
    wrong = []
    for way, tried in ways.items():
        found = tried()
        print(f"{threads} threads, {way}: {dict(found)}")
        wrong += [f"{way}: {what}" for what in found if what not in ("walked", "made", "refused", "over")]
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    locked = getattr(sys, "_is_gil_enabled", lambda: True)()
    print(f"Python {sys.version.split()[0]}, {'with' if locked else 'without'} a global lock")
    wrong = attack(given.count, given.threads, given.seed)
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()

"""An hour's work in minutes: runs and requests without end, with everything injected, and memory that stays flat.

    python -m tests.attack.soak --runs 200000 --requests 50000

Runs are of any solver, precision, transform and way of working; some are given up half-way, copied, donated to, or meet
a network or noise that raises. Requests are those of ``tests/test_serving.py``: some fail, time out, are cancelled or
refused; each must end exactly once.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import resource
import sys
from collections import Counter

import torch
from torch import Tensor

from diffusolve.backends import Clip, Run
from diffusolve.catalog import sampler
from diffusolve.noise import SD15
from diffusolve.plan import Plan

NAMES = (
    "Euler",
    "Euler a",
    "Heun",
    "LMS",
    "UniPC",
    "DEIS",
    "DPM++ 2M",
    "DPM++ 3M SDE",
    "DPM++ SDE",
    "SA-Solver",
    "LCM",
)


class Injected(Exception):
    """What the network or a source of noise raises."""


def one_run(plan: Plan, rng: random.Random) -> str:
    """A run with something happening to it; how it ended."""
    fate = rng.choice(("done", "done", "done", "given up", "raises", "copied"))
    at = rng.randrange(plan.nfe)

    def noise(x: Tensor, sigma_from: float, sigma_to: float) -> Tensor:
        if fate == "raises" and rng.random() < 0.2:
            raise Injected
        return torch.randn(x.shape, dtype=x.dtype)

    transform = rng.choice((None, Clip(1.0), lambda data, stage: data.clamp(-2.0, 2.0)))
    run = Run(plan, noise, transform, donate=rng.random() < 0.3)
    dtype = rng.choice((torch.float32, torch.float64, torch.bfloat16))
    try:
        x = run.begin(torch.randn(1, rng.choice((1, 30, 700)), dtype=dtype))
        while not run.is_done:
            if run.position == at:
                if fate == "given up":
                    return fate
                if fate == "copied":
                    run, x = run.copied(), x.clone()
                if fate == "raises":
                    raise Injected
            x = run.step(torch.tanh(run.model_input(x)), x)
    except Injected:
        return fate
    assert x.isfinite().all()
    return fate


def runs(count: int, seed: int = 0) -> tuple[Counter[str], list[int]]:
    """How `count` runs ended, and the number of Python's memory blocks at eleven points."""
    rng = random.Random(seed)
    plans = [sampler(name).plan(SD15, "v_prediction", steps) for name in NAMES for steps in (1, 2, 3)]
    ended: Counter[str] = Counter()
    blocks = []
    for number in range(count):
        ended[one_run(rng.choice(plans), rng)] += 1
        if number % max(count // 10, 1) == 0 or number == count - 1:
            gc.collect()
            blocks.append(sys.getallocatedblocks())
    return ended, blocks


def megabytes() -> float:
    """The largest amount of memory that this process has had."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1e6 if sys.platform == "darwin" else 1e3)


def main() -> None:
    from tests.test_serving import soak

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200_000)
    parser.add_argument("--requests", type=int, default=50_000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    runs(min(given.runs, 8000))  # fills the caches
    before = megabytes()
    ended, blocks = runs(given.runs)
    print(f"{given.runs} runs: {dict(ended)}; blocks {blocks}; {megabytes() - before:+.1f} MB")
    asyncio.run(soak(2000, at_once=64))
    before = megabytes()
    seen, counted, at_points, left = asyncio.run(soak(given.requests, at_once=64))
    print(f"{given.requests} requests: {dict(seen)}; blocks {at_points}; {megabytes() - before:+.1f} MB")
    flat = max(blocks[2:]) - min(blocks[1:]) < 8000 and max(at_points[2:]) - min(at_points[1:]) < 8000
    if not flat or left or sum(seen.values()) != given.requests or sum(counted.values()) != given.requests:
        sys.exit(f"memory grows, or requests are lost: {counted}, left {left}")


if __name__ == "__main__":
    main()

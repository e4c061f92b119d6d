"""Large steps as users' processes meet them, and with freed memory kept: ``python -m benchmarks.untuned``.

The suite tells the allocator to keep freed memory (`benchmarks.suite.allocator`), as in a process that has run a
network. Otherwise glibc gives it back to the system, and an array of megabytes costs a page fault for each 4 KiB. Here
each class is stepped in both kinds of process, with a fresh output of the network each time; what is shown is processor
time, which others on the machine do not change much, and page faults, both of a step.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from math import prod
from typing import Any

import torch

import diffusolve
from benchmarks.suite.allocator import keep_freed_memory
from benchmarks.suite.loops import configured, without_drawing
from benchmarks.suite.peers import diffusers, quiet
from benchmarks.suite.step import CLASSES, LARGEST

STEPS, FIRST, ROUNDS = 8, 2, 3
"""Steps of a loop, those at its beginning that do not count, and loops."""

STOCHASTIC = {"DDPMScheduler", "DPMSolverSDEScheduler"} | {name for name in CLASSES if "Ancestral" in name}


def one_loop(scheduler: Any, like: torch.Tensor) -> list[tuple[float, int]]:
    """Milliseconds of the processor, and page faults, of each step."""
    scheduler.set_timesteps(STEPS)
    x, figures = like.clone(), []
    for timestep in scheduler.timesteps:
        scheduler.scale_model_input(x, timestep)
        output = like * 1.0
        faults, begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
        x = scheduler.step(output, timestep, x).prev_sample
        seconds = time.process_time() - begun
        figures.append((1e3 * seconds, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults))
    return figures


def figures_of(library: Any, name: str, dtype: torch.dtype) -> tuple[float, float]:
    """The median milliseconds and the mean page faults of a step of a class, once it is under way."""
    like = torch.randn(LARGEST, generator=torch.Generator().manual_seed(0)).to(dtype)
    scheduler = configured(getattr(library, name))
    one_loop(scheduler, like)
    steps = [step for _ in range(ROUNDS) for step in one_loop(scheduler, like)[FIRST:]]
    return statistics.median(step[0] for step in steps), statistics.mean(step[1] for step in steps)


def measured(names: list[str], dtype: torch.dtype, tuned: bool) -> list[tuple[str, Any, Any]]:
    """For each class our figures and diffusers'."""
    if tuned:
        keep_freed_memory()
    torch.set_num_threads(1)
    with torch.no_grad(), quiet(), without_drawing():
        libraries = (diffusolve, diffusers())
        figures = [[figures_of(library, name, dtype) for library in libraries] for name in names]
    return [(name, here, there) for name, (here, there) in zip(names, figures, strict=True)]


def in_a_process(names: list[str], dtype: str, tuned: bool) -> list[tuple[str, Any, Any]]:
    """`measured` in a process of its own, since the allocator cannot be told to forget what it was told."""
    arguments = ["--child", "--dtype", dtype, *(["--tuned"] if tuned else []), "--only", *names]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.untuned", *arguments], check=True, stdout=subprocess.PIPE, text=True
    )
    made: list[tuple[str, Any, Any]] = json.loads(done.stdout.splitlines()[-1])
    return made


def main() -> None:
    deterministic = [name for name in CLASSES if name not in STOCHASTIC]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=deterministic, choices=CLASSES)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--tuned", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measured(given.only, getattr(torch, given.dtype), given.tuned)))
        return
    print(f"A step at {'x'.join(map(str, LARGEST))}, {given.dtype}, one thread: ms of the processor (page faults)")
    for tuned in (False, True):
        print(f"\n{'freed memory kept' if tuned else 'as users meet it':<32}{'here':>16}{'diffusers':>18}{'ratio':>8}")
        rows = in_a_process(given.only, given.dtype, tuned)
        for name, (here, our_faults), (there, their_faults) in rows:
            ours, theirs = f"{here:.1f} ({our_faults:.0f})", f"{there:.1f} ({their_faults:.0f})"
            print(f"{name:<32}{ours:>16}{theirs:>18}{there / here:>8.1f}")
        ratios = [there / here for _, (here, _), (there, _) in rows]
        print(f"{'geometric mean, least':<32}{prod(ratios) ** (1 / len(ratios)):>34.1f}{min(ratios):>8.1f}")


if __name__ == "__main__":
    main()

"""A step of each class beside that of another checkout: ``python -m benchmarks.against_commit PATH``.

PATH is a checkout of another commit with its modules compiled (`python setup.py build_ext --inplace` in it). Both are
loaded in processes of their own, which take turns of some milliseconds, so that what else the machine does hits both
alike; what is shown is the median over all turns of the processor time of a step on a small sample. How much of a
difference is chance shows against the checkout itself, ``python -m benchmarks.against_commit .``: on virtual machines
it may be a third.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import diffusolve
from benchmarks.suite.loops import configured
from benchmarks.suite.step import CLASSES

SHAPE = (1, 4, 16, 16)
STEPS = 20


def loop_of(name: str) -> Callable[[], float]:
    """A loop of a class, which returns the microseconds of a step."""
    scheduler: Any = configured(getattr(diffusolve, name))
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    output = 0.1 * x

    def loop() -> float:
        scheduler.set_timesteps(STEPS)
        sample, timesteps = x, [*scheduler.timesteps]
        scheduler.scale_model_input(sample, timesteps[0])
        begun = time.process_time()
        for timestep in timesteps:
            sample = scheduler.step(output, timestep, sample, return_dict=False)[0]
        return 1e6 * (time.process_time() - begun) / len(timesteps)

    return loop


def answer() -> None:
    """Make a loop for each name of a class that is read, and say its figure."""
    torch.set_num_threads(1)
    loops: dict[str, Callable[[], float]] = {}
    with torch.no_grad():
        for line in sys.stdin:
            name = line.strip()
            if name not in loops:
                loops[name] = loop_of(name)
                loops[name]()
            print(json.dumps(loops[name]()), flush=True)


def answering(checkout: Path) -> subprocess.Popen[str]:
    """A process that answers with the library of `checkout`."""
    paths = [str(checkout / "src"), str(Path(__file__).parents[1])]
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.against_commit", "--answer"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def asked(process: subprocess.Popen[str], name: str) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(name + "\n")
    process.stdin.flush()
    return float(json.loads(process.stdout.readline()))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0] + ".")
    parser.add_argument("other", nargs="?", type=Path, help="another checkout")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--only", nargs="+", default=CLASSES, metavar="CLASS")
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.answer:
        answer()
        return
    if args.other is None:
        parser.error("the path of another checkout is missing")
    there, here = answering(args.other), answering(Path(__file__).parents[1])
    print(f"{'class':36}{'there, us':>12}{'here, us':>12}{'change':>10}")
    for name in args.only:
        both = [(asked(there, name), asked(here, name)) for _ in range(args.rounds)]
        before, after = (statistics.median(figures) for figures in zip(*both, strict=True))
        print(f"{name:36}{before:12.2f}{after:12.2f}{100 * (after / before - 1):+9.1f}%", flush=True)
    for process in (there, here):
        process.terminate()


if __name__ == "__main__":
    main()

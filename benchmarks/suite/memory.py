"""Area `memory`: how much memory a run needs."""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

import diffusolve
from benchmarks.suite.loops import configured, fixed_noise, without_drawing
from benchmarks.suite.machine import machine
from benchmarks.suite.peers import attempted, diffusers, missing, quiet
from benchmarks.suite.result import Figure, Goal, Result, Table
from benchmarks.suite.settings import Settings
from diffusolve.schedulers.compatible import KarrasDiffusionSchedulers

__all__ = ["Memory", "extra_memory", "measure", "names"]

CLASSES = tuple(kind.name for kind in KarrasDiffusionSchedulers)
SHAPE, QUICK_SHAPE = (1, 16, 21, 90, 160), (1, 16, 128, 128)
STEPS = 8
PATHS = ("DPMSolverSDEScheduler",)
"""Their noise is not drawn: a Brownian path keeps tensors of its own, the same here and there."""

NETWORK = "the network runs"


class Memory(NamedTuple):
    """In units of the sample, beside the sample and the network's output.

    Attributes:
        peak: the most at any time.
        kept: the most while the network runs.
    """

    peak: float
    kept: float


def names() -> tuple[str, ...]:
    """What can be measured."""
    return CLASSES


def measure(settings: Settings) -> Result:
    """Measure it."""
    library, figures = diffusers(), []
    shape = QUICK_SHAPE if settings.effort.quick else SHAPE
    with torch.no_grad(), quiet():
        for name in CLASSES:
            if settings.wants(name):
                settings.tell(f"memory: {name}")
                figures += list(_figures(name, library, shape))
    table = Table(
        "memory",
        f"Memory of a run beside sample and output, in samples of {'x'.join(map(str, shape))}",
        "samples",
        "diffusers" if library else None,
        tuple(figures),
    )
    notes = () if library else (missing("diffusers"),)
    quick = settings.effort.quick
    return Result("memory", quick, machine(), (table,) if figures else (), tuple(_goals(figures)), notes)


def _figures(name: str, library: Any, shape: Sequence[int]) -> Iterator[Figure]:
    drawing = name not in PATHS
    try:
        here = extra_memory(configured(getattr(diffusolve, name)), shape, STEPS, drawing)
    except ImportError as error:  # torchsde
        yield Figure(name, "peak", None, note=str(error))
        return
    there, note = None, ""
    if library is not None:
        there, note = attempted(lambda: extra_memory(configured(getattr(library, name)), shape, STEPS, drawing))
    for column in Memory._fields:
        theirs = None if there is None else getattr(there, column)
        yield Figure(name, column, getattr(here, column), theirs, note=note)


def extra_memory(scheduler: Any, shape: Sequence[int], steps: int, drawing: bool = True) -> Memory:
    """What a run of `scheduler` has PyTorch allocate.

    The profiler notes each allocation and each release by PyTorch's allocator, so the figure is exact, and the same on
    every run; what other libraries allocate is not in it.

    Args:
        scheduler: whose run.
        shape: of the sample, float32.
        steps: of the run.
        drawing: whether noise is drawn.
    """
    scheduler.set_timesteps(steps)

    def run() -> Tensor:
        sample = torch.ones(tuple(shape))
        for timestep in scheduler.timesteps:
            shown = scheduler.scale_model_input(sample, timestep)
            with record_function(NETWORK):
                del shown  # whatever the network does with it
            output = torch.ones(tuple(shape))  # a tensor of its own each time: who keeps it keeps memory
            sample = scheduler.step(output, timestep, sample, return_dict=False)[0]
            del output
        return sample

    if drawing:
        events = _profiled(run)
    else:
        with without_drawing():
            fixed_noise(tuple(shape), torch.float32)  # made before it counts
            events = _profiled(run)
    unit = math.prod(shape) * torch.float32.itemsize
    live, most, while_network = 0, 0, 0
    for event in sorted(events, key=lambda event: event["ts"]):
        if event["name"] == NETWORK:
            while_network = max(while_network, live)
        else:
            live += event["args"]["Bytes"]
            most = max(most, live)
    return Memory(peak=round(most / unit - 2, 2), kept=round(while_network / unit - 1, 2))


def _profiled(run: Any) -> list[dict[str, Any]]:
    """Allocations, releases and calls of the network, in a run."""
    with _without_the_profilers_log(), tempfile.TemporaryDirectory() as folder:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            run()
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    return [event for event in events if event.get("name") == "[memory]" or _is_network(event)]


def _is_network(event: dict[str, Any]) -> bool:
    return event.get("name") == NETWORK and event.get("ph") == "X"


@contextmanager
def _without_the_profilers_log() -> Iterator[None]:
    """Within, nothing is written to the process's standard error, where the profiler says when it begins and ends."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


def _goals(figures: Sequence[Figure]) -> Iterator[Goal]:
    peaks = [figure for figure in figures if figure.column == "peak" and figure.there is not None]
    what, wanted = "memory of a run, each class", "at most diffusers'"
    if not peaks:
        if figures:
            yield Goal(what, wanted, "not measured", None)
        return
    more = [f"{one.row} {one.here:g} against {one.there:g}" for one in peaks if (one.here or 0) > (one.there or 0)]
    yield Goal(what, wanted, f"more: {', '.join(more)}" if more else f"so in all {len(peaks)}", not more)

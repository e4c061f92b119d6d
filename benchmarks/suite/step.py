"""Area `step`: what a step costs beside the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from types import MappingProxyType
from typing import NamedTuple

import torch

import diffusolve
from benchmarks.suite.allocator import keep_freed_memory
from benchmarks.suite.floor import MANY_ELEMENTS, copy_loop, floor_seconds
from benchmarks.suite.loops import (
    SIGMA_MAX,
    SIGMA_MIN,
    Shape,
    configured,
    flow_loop,
    function_loop,
    label,
    noise_and_output,
    sample_loop,
    scheduler_loop,
    without_drawing,
)
from benchmarks.suite.machine import machine
from benchmarks.suite.peers import attempted_loop, diffusers, k_diffusion_sampling, missing, quiet
from benchmarks.suite.result import Figure, Goal, Result, Table, at_least, at_most
from benchmarks.suite.settings import Settings
from benchmarks.suite.timing import Effort, Loop, interleaved, threads
from diffusolve import k_diffusion
from diffusolve.catalog import CATALOG
from diffusolve.catalog import sampler as sampler_called
from diffusolve.cli.traffic import bytes_per_element
from diffusolve.noise import SD15, Grid, VarianceExploding
from diffusolve.plan import Plan, plan_for
from diffusolve.prediction import prediction
from diffusolve.schedulers.compatible import KarrasDiffusionSchedulers

__all__ = [
    "CLASSES",
    "FLOW_CLASSES",
    "FUNCTIONS",
    "Case",
    "class_case",
    "flow_case",
    "function_case",
    "measure",
    "measured",
    "names",
    "sampler_case",
]

SMALL, LARGEST = (1, 4, 64, 64), (1, 16, 21, 90, 160)
SHAPES: tuple[Shape, ...] = (SMALL, (8, 4, 64, 64), (1, 16, 128, 128), LARGEST)
"""Images of 512 x 512 pixels, a batch of eight, images of a model with 16 channels, 81 frames of 1280 x 720."""
QUICK_SHAPES = (SMALL, (1, 16, 128, 128))
DTYPES = (torch.float32, torch.bfloat16)

STEPS, FEW_STEPS = 20, 6
"""Of a run; few where arrays are so large that an evaluation takes tens of milliseconds."""

UNSHARED = 1 << 15
"""PyTorch shares arrays of no more elements than this out to no threads; they are timed with one."""

CLASSES = tuple(kind.name for kind in KarrasDiffusionSchedulers)
FLOW_SHAPES: tuple[Shape, ...] = ((1, 16, 128, 128), LARGEST)
"""Latents of Flux for images of 1024 x 1024 pixels, and of Wan for 81 frames of 1280 x 720."""
FLOW_SIGMAS = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
FLOW_CLASSES: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {
        "FlowMatchEulerDiscreteScheduler": {"shift": 3.0},
        "FlowMatchHeunDiscreteScheduler": {"shift": 3.0},
        "FlowMatchLCMScheduler": {"shift": 3.0},
        "LTXEulerAncestralRFScheduler": {},
        "DPMSolverMultistepScheduler": FLOW_SIGMAS,
        "UniPCMultistepScheduler": FLOW_SIGMAS,
    }
)
"""Classes that pipelines of flow models come with, and their configuration there."""

FUNCTIONS = tuple(name for name in k_diffusion.__all__ if name.startswith("sample_"))
PATHS = ("DPMSolverSDEScheduler", "sample_dpmpp_sde", "sample_dpmpp_2m_sde", "sample_dpmpp_3m_sde")
"""These draw their noise along a Brownian path, in the same way in all libraries."""

UNIT = "us"
MICRO = 1e6


class Case(NamedTuple):
    """One loop on one kind of array.

    Attributes:
        here, there: make the loops of both libraries; None where there is no other.
        bytes_an_element: of the floor; None where that is not known.
        steps: how many steps the loops make.
        shape, dtype: of the sample.
        drawing: whether noise is drawn.
    """

    here: Callable[[], Loop]
    there: Callable[[], Loop] | None
    bytes_an_element: float | None
    steps: int
    shape: Shape
    dtype: torch.dtype
    drawing: bool = False


MakeCase = Callable[[str, Shape, torch.dtype], Case]
"""Makes the case of a row's name and a kind of array."""


def names() -> tuple[str, ...]:
    """What can be measured."""
    return tuple(dict.fromkeys((*CLASSES, *FLOW_CLASSES, *FUNCTIONS, *CATALOG)))


def measure(settings: Settings) -> Result:
    """Measure it."""
    effort = settings.effort
    shapes = QUICK_SHAPES if effort.quick else SHAPES
    dtypes = DTYPES[:1] if effort.quick else DTYPES
    kinds = [(shape, dtype) for dtype in dtypes for shape in shapes]
    classes = [name for name in CLASSES if settings.wants(name)]
    functions = [name for name in FUNCTIONS if settings.wants(name)]
    samplers = [name for name in CATALOG if settings.wants(name)]
    their_classes, their_functions = diffusers(), k_diffusion_sampling()
    title = "Microseconds of an evaluation beside the network"
    tables = []

    def add(
        name: str,
        what: str,
        peer: str | None,
        make: MakeCase,
        rows: Sequence[str],
        drawing: bool = False,
        kinds: Sequence[tuple[Shape, torch.dtype]] = kinds,
    ) -> None:
        settings.tell(f"step: {what}")
        cases = ((row, make(row, *kind)) for row in rows for kind in kinds if not drawing or _is_drawn(row, *kind))
        if drawing:
            cases = ((row, case._replace(drawing=True, bytes_an_element=None)) for row, case in cases)
        if made := tuple(measured(row, case, effort) for row, case in cases):
            tables.append(Table(name, f"{title}: {what}", UNIT, peer, made))

    with torch.no_grad(), quiet():
        peer = "diffusers" if their_classes else None
        what = "scale_model_input and step of the scheduler classes, no noise drawn"
        add("classes", what, peer, class_case, classes)
        stochastic = [name for name in classes if _is_stochastic_class(name)]
        what = "the stochastic scheduler classes, noise drawn"
        add("classes-drawing", what, peer, class_case, stochastic, drawing=True)
        flow = [name for name in FLOW_CLASSES if settings.wants(name)]
        of_flow = [kind for kind in kinds if kind[0] in FLOW_SHAPES]
        what = "step of the classes of flow models, no noise drawn"
        add("flow", what, peer, flow_case, flow, kinds=of_flow)
        peer = "k-diffusion" if their_functions else None
        add("functions", "the whole of k-diffusion's functions, no noise drawn", peer, function_case, functions)
        stochastic = [name for name in functions if name in PATHS or "ancestral" in name]
        what = "the stochastic ones of k-diffusion's functions, noise drawn"
        add("functions-drawing", what, peer, function_case, stochastic, drawing=True)
        peer = "diffusers" if their_classes else None
        what = "the whole of sample() with every sampler of the catalog, no noise drawn"
        add("samplers", what, peer, sampler_case, samplers)
    notes = [] if their_classes else [missing("diffusers")]
    notes += [] if their_functions else [missing("k-diffusion")]
    return Result("step", effort.quick, machine(), tuple(tables), tuple(_goals(tables)), tuple(notes))


def measured(row: str, case: Case, effort: Effort) -> Figure:
    """The figure of a case: seconds of an evaluation here and there, and the floor."""
    keep_freed_memory()
    elements = torch.Size(case.shape).numel()
    count = 1 if elements <= UNSHARED else torch.get_num_threads()
    column = label(case.shape, case.dtype)
    with threads(count), nullcontext() if case.drawing else without_drawing():
        contestants: dict[str, Loop] = {}
        try:
            contestants["here"] = case.here()
            contestants["here"]()
        except ImportError as error:  # torchsde
            return Figure(row, column, None, note=str(error))
        note = ""
        if case.there is not None:
            there, note = attempted_loop(case.there)
            if there is not None:
                contestants["there"] = there
        if case.bytes_an_element is not None:
            like = torch.empty(case.shape, dtype=case.dtype)
            contestants |= {f"copy {some}": copy_loop(like, some) for some in {1, count}}
        medians, rounds = interleaved(contestants, effort)
    floor = None
    if case.bytes_an_element is not None:
        copy = min(seconds for name, seconds in medians.items() if name.startswith("copy"))
        floor = floor_seconds(case.bytes_an_element, copy, case.dtype.itemsize) * MICRO
    here, there_seconds = medians["here"] * MICRO, medians.get("there")
    details = {"steps": case.steps, "threads": count, "bytes an element": case.bytes_an_element}
    theirs = None if there_seconds is None else there_seconds * MICRO
    return Figure(row, column, here, theirs, floor, rounds, note, details)


def _steps(shape: Shape) -> int:
    return FEW_STEPS if torch.Size(shape).numel() > MANY_ELEMENTS else STEPS


def _is_drawn(name: str, shape: Shape, dtype: torch.dtype) -> bool:
    """Whether `name` is timed with its noise drawn; a Brownian path of large arrays takes minutes, here and there."""
    return name not in PATHS or shape == SMALL


def class_case(name: str, shape: Shape, dtype: torch.dtype) -> Case:
    """A scheduler class against diffusers'."""
    x, output = noise_and_output(shape, dtype)
    steps, library = _steps(shape), diffusers()
    itemsize = dtype.itemsize
    return Case(
        lambda: scheduler_loop(configured(getattr(diffusolve, name)), x, output, steps),
        None if library is None else lambda: scheduler_loop(configured(getattr(library, name)), x, output, steps),
        bytes_per_element(_class_plan(name, steps), sample=itemsize, output=itemsize, shown=itemsize),
        steps,
        shape,
        dtype,
    )


def flow_case(name: str, shape: Shape, dtype: torch.dtype) -> Case:
    """A class of a flow model against diffusers'."""
    x, output = noise_and_output(shape, dtype)
    steps, library, config = _steps(shape), diffusers(), FLOW_CLASSES[name]
    ours = getattr(diffusolve, name)
    scheduler = ours(**config)
    scheduler.set_timesteps(steps)
    itemsize = dtype.itemsize
    return Case(
        lambda: flow_loop(ours(**config), x, output, steps),
        None if library is None else lambda: flow_loop(getattr(library, name)(**config), x, output, steps),
        bytes_per_element(scheduler.plan, sample=itemsize, output=itemsize, shown=itemsize),
        steps,
        shape,
        dtype,
    )


def _class_plan(name: str, steps: int) -> Plan:
    scheduler = configured(getattr(diffusolve, name))
    with without_drawing():
        scheduler.set_timesteps(steps)
    plan: Plan = scheduler.plan
    return plan


def _is_stochastic_class(name: str) -> bool:
    return _class_plan(name, FEW_STEPS).is_stochastic


def function_case(name: str, shape: Shape, dtype: torch.dtype) -> Case:
    """A function of k-diffusion against theirs."""
    x, output = noise_and_output(shape, dtype)
    steps, library = _steps(shape), k_diffusion_sampling()
    (entry,) = (entry for entry in CATALOG.values() if entry.k_diffusion == name)
    bytes_an_element = None
    if not entry.spaces_itself:
        sigmas = k_diffusion.get_sigmas_karras(steps, SIGMA_MIN, SIGMA_MAX).double().numpy()
        schedule = VarianceExploding(SIGMA_MIN / 2, SIGMA_MAX * 2, conditioning="sigma")
        plan = plan_for(entry.solver, Grid.through(schedule, sigmas, sigmas), prediction("sample"))
        bytes_an_element = bytes_per_element(plan, sample=4, output=dtype.itemsize, shown=dtype.itemsize)
    return Case(
        lambda: function_loop(getattr(k_diffusion, name), x, output, steps),
        None if library is None else lambda: function_loop(getattr(library, name), x, output, steps),
        bytes_an_element,
        steps,
        shape,
        dtype,
    )


def sampler_case(name: str, shape: Shape, dtype: torch.dtype) -> Case:
    """``sample()`` with a sampler of the catalog, against diffusers' class for it where arrays are not large."""
    x, output = noise_and_output(shape, dtype)
    steps, library = _steps(shape), diffusers()
    recipe, there = sampler_called(name), CATALOG[name].diffusers
    small = torch.Size(shape).numel() <= MANY_ELEMENTS
    compared = small and library is not None and there is not None and there.in_diffusers

    def their_loop() -> Loop:
        assert there is not None
        return scheduler_loop(configured(getattr(library, there.name), **there.config), x, output, steps)

    if recipe.solver.adaptive:
        return Case(lambda: sample_loop(recipe, x, output, None), None, None, steps, shape, dtype)
    plan = recipe.plan(SD15, "epsilon", steps)
    return Case(
        lambda: sample_loop(plan, x, output, None),
        their_loop if compared else None,
        bytes_per_element(plan, sample=4, output=dtype.itemsize, shown=dtype.itemsize),
        steps,
        shape,
        dtype,
    )


def _goals(tables: Sequence[Table]) -> Iterator[Goal]:
    """Those of the classes and functions, for each kind of array."""
    by_name = {table.name: table for table in tables}
    if "classes" in by_name:
        table = by_name["classes"]
        stochastic = [name for name in table.rows if _is_stochastic_class(name)]
        deterministic = [name for name in table.rows if name not in stochastic]
        for shape, mean, each in ((SMALL, 12.0, 6.0), (LARGEST, 6.0, 3.0)):
            for dtype in DTYPES:
                column = label(shape, dtype)
                if column not in table.columns:
                    continue
                for kind, without in (("deterministic", stochastic), ("stochastic", deterministic)):
                    ratios = table.ratios([column], without)
                    yield from at_least(f"{kind} classes against diffusers, {column}", ratios, each, mean)
                if shape == LARGEST:
                    yield at_most(f"classes against the memory floor, {column}", table.floors([column]), 1.3, "x")
    if "flow" in by_name:
        table = by_name["flow"]
        for column in table.columns:
            yield from at_least(f"classes of flow models against diffusers, {column}", table.ratios([column]), 1.0, 3.0)
    if "functions" in by_name:
        table = by_name["functions"]
        for column in table.columns:
            yield from at_least(f"k-diffusion's functions, {column}", table.ratios([column]), 5.0)

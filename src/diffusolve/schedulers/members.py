"""The history of a run under the names that it has in diffusers: one table of members per kind of scheduler.

They are worked out of the run's registers when they are asked for, and written there. A run adds up early what it
remembers and holds no more than it needs, so that nobody pays for a history that nobody looks at: a scheduler that was
asked once begins runs that hold it (:class:`~diffusolve.schedulers.open_run.OpenRun`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from torch import Tensor

from diffusolve.backends import Run
from diffusolve.plan import Plan, Stage, plan_for
from diffusolve.schedulers.generation import Generation
from diffusolve.schedulers.open_run import OpenRun

__all__ = [
    "DEIS",
    "DPM_SOLVER",
    "IPNDM",
    "KDPM2",
    "LMS",
    "MULTISTEP",
    "PNDM",
    "SDE",
    "SINGLESTEP",
    "TWO_STAGE",
    "UNIPC",
    "Member",
    "Members",
]


class Member(NamedTuple):
    """The ways to read and to write a member; None: there is none."""

    read: Callable[[Any], Any] | None
    write: Callable[[Any, Any], None] | None = None
    instead: str = "call set_timesteps to begin a run anew"


Members = Mapping[str, Member]


def unreachable(instead: str, *names: str) -> Members:
    """Members of diffusers' classes that are not here, and what to do `instead`."""
    return {name: Member(None, None, instead) for name in names}


class NotHeld(NamedTuple):
    """Stands for an output that a run does not hold; the error is raised where somebody looks at it."""

    error: ValueError


class History(list[Any]):
    """Earlier outputs of a run. Writing to an item is writing to the run."""

    def __init__(self, items: Iterable[Any], write: Callable[[list[Any]], None]) -> None:
        super().__init__(items)
        self._write = write

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        for item in found if isinstance(place, slice) else [found]:
            if isinstance(item, NotHeld):
                raise item.error
        return found

    def __iter__(self) -> Iterator[Any]:
        return (self[place] for place in range(len(self)))

    def __setitem__(self, place: SupportsIndex | slice, value: Any) -> None:
        super().__setitem__(place, value)
        self._write([*super().__iter__()])

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError("a history of outputs is as long as the run has made it: write to its items, or assign a list.")

    append = extend = insert = pop = remove = clear = reverse = sort = _refuse
    __delitem__ = __iadd__ = __imul__ = _refuse

    def __reduce__(self) -> tuple[type[list[Any]], tuple[list[Any]]]:
        return list, ([*self],)


# The run and its registers -------------------------------------------------------------------------------------------


def run_of(scheduler: Any) -> Run | None:
    """The run of `scheduler`; None before its first step."""
    generation: Generation | None = scheduler._generation
    return None if generation is None else generation.run


def opened(scheduler: Any) -> OpenRun | None:
    """The run of `scheduler`, holding what it remembers; None before its first step.

    Raises:
        ValueError: it was begun before anybody asked, and does not hold that any more.
    """
    scheduler.keep_history()
    run = run_of(scheduler)
    if run is None or isinstance(run, OpenRun):
        return run
    following = OpenRun.in_place_of(run, run.plan, run.transform)
    if following is None:
        raise not_held(scheduler)
    scheduler._generation.run = following
    return following


def not_held(scheduler: Any) -> ValueError:
    return ValueError(
        f"this run of {type(scheduler).__name__} does not hold its whole history, which nobody had asked for. From now "
        "on the scheduler's runs do: call set_timesteps to begin another, or say scheduler.keep_history() before the "
        "first one."
    )


def register_of_output(stage: Stage, following: str) -> str:
    """The register of what a solver extrapolates at `stage`, which leads to the sample `following`."""
    for write in stage.update.writes:
        if write.register != following and {source for source, _ in write.terms} <= {stage.sample, stage.data}:
            return write.register
    return stage.data


def registers_of_outputs(plan: Plan, places: Iterable[int]) -> list[str]:
    """The same at several stages."""
    return [register_of_output(plan.stages[place], plan.next_sample(place)) for place in places]


def held(scheduler: Any, run: OpenRun, register: str) -> Tensor:
    """The array of `register`.

    Raises:
        ValueError: it is not held any more.
    """
    if register not in run.held:
        raise not_held(scheduler)
    return run.held[register]


Recover = Callable[[Stage, Tensor, Tensor], Tensor]
"""The quantity that a solver extrapolates at a stage, of the sample and the data prediction there."""


def noise_of(stage: Stage, sample: Tensor, data: Tensor) -> Tensor:
    """The prediction of the noise."""
    return (sample - stage.point.alpha * data) / stage.point.sigma


def output_of(stage: Stage, sample: Tensor, data: Tensor) -> Tensor:
    """The network's output."""
    return (data - stage.a * sample) / stage.b


def last_outputs(scheduler: Any, places: Callable[[OpenRun], Iterable[int]], recover: Recover | None) -> list[Any]:
    """The quantities extrapolated at the `places` of the run, oldest first.

    A quantity that no later stage reads is in no register: it follows from the sample and the data prediction as
    `recover` says, and is the data prediction where there is no `recover`.
    """
    run = opened(scheduler)
    if run is None:
        return []
    outputs: list[Any] = []
    for place in places(run):
        stage = run.plan.stages[place]
        register = register_of_output(stage, run.plan.next_sample(place))
        recovers = register == stage.data and recover is not None
        if not {register, stage.sample if recovers else register} <= run.held.keys():
            outputs.append(NotHeld(not_held(scheduler)))
        elif recovers and recover is not None:
            outputs.append(recover(stage, run.held[stage.sample], run.held[register]))
        else:
            outputs.append(run.held[register])
    return outputs


def write_outputs(scheduler: Any, name: str, outputs: Any, places: Callable[[OpenRun], Iterable[int]]) -> None:
    """Put `outputs`, oldest first and after as many None as are missing, in the place of those of the run."""
    values = [value for value in outputs if value is not None]  # of a History: those that the run holds, too
    if not values:
        clear(scheduler, name)
        return
    run = opened(scheduler)
    registers = [] if run is None else registers_of_outputs(run.plan, places(run))
    if run is None or len(values) != len(registers):
        raise ValueError(
            f"{name} is given {len(values)} outputs, but the run of {type(scheduler).__name__} has {len(registers)}: "
            "expected as many, or none to forget them."
        )
    run.held.update(
        (register, value) for register, value in zip(registers, values, strict=True) if not isinstance(value, NotHeld)
    )


def clear(scheduler: Any, name: str) -> None:
    """Forget what `name` stands for; see :attr:`Generation.cleared`."""
    generation: Generation | None = scheduler._generation
    if generation is not None and (generation.step_index is not None or generation.is_outlived):
        generation.cleared, generation.run = generation.cleared | {name}, None


# Multistep classes ---------------------------------------------------------------------------------------------------


def order(scheduler: Any) -> int:
    """The number of outputs that the class remembers."""
    config = scheduler.config
    if "solver_order" in config:
        return int(config["solver_order"])
    return max(int(config["predictor_order"]), int(config["corrector_order"]) - 1)


def the_last(scheduler: Any) -> Callable[[OpenRun], Iterable[int]]:
    """The places of the outputs that a multistep class remembers."""
    return lambda run: range(max(run.position - order(scheduler), 0), run.position)


def extrapolates_noise(scheduler: Any) -> bool:
    """True where predictions of the noise are what is remembered."""
    return bool(getattr(scheduler, "_converts_to_noise", False))


def read_model_outputs(scheduler: Any) -> History:
    """The last outputs as the solver extrapolates them, None where there are not as many."""
    outputs = last_outputs(scheduler, the_last(scheduler), noise_of if extrapolates_noise(scheduler) else None)
    missing = [None] * (order(scheduler) - len(outputs))
    return History([*missing, *outputs], lambda values: write_model_outputs(scheduler, values))


def write_model_outputs(scheduler: Any, outputs: Any) -> None:
    if read_lower_order_nums(scheduler) == 0 and any(output is not None for output in outputs):
        return  # in diffusers too they are counted only when steps have made them, and have gone by then
    write_outputs(scheduler, "model_outputs", outputs, the_last(scheduler))


def read_lower_order_nums(scheduler: Any) -> int:
    """The number of outputs that are remembered."""
    run = run_of(scheduler)
    return 0 if run is None else min(run.position, order(scheduler))


def write_lower_order_nums(scheduler: Any, number: int) -> None:
    if number == read_lower_order_nums(scheduler) and number:
        return
    if number:
        raise ValueError(
            f"lower_order_nums is set to {number}, where {read_lower_order_nums(scheduler)} outputs are remembered: "
            "expected 0, which forgets them."
        )
    clear(scheduler, "lower_order_nums")


def read_timestep_list(scheduler: Any) -> list[Any]:
    """The timesteps of the last outputs, None where there are not as many."""
    run = run_of(scheduler)
    if run is None:
        return [None] * order(scheduler)
    first = len(scheduler.timesteps) - run.plan.nfe
    places = the_last(scheduler)(run)  # type: ignore[arg-type]  # of any run
    told = [scheduler.timesteps[first + place] for place in places]
    return [None] * (order(scheduler) - len(told)) + told


def register_of_last_sample(run: OpenRun) -> str | None:
    """The register of the sample, corrected if it was, that the last step led on from."""
    place = run.position - 1
    stage, following = run.plan.stages[place], run.plan.next_sample(place)
    terms = next(write.terms for write in stage.update.writes if write.register == following)
    outputs = registers_of_outputs(run.plan, range(place + 1))
    noises = {noise.register for noise in stage.update.noises}
    return next((source for source, _ in terms if source not in noises and source not in outputs), None)


def read_last_sample(scheduler: Any) -> Tensor | None:
    """The sample that the last step led on from."""
    run = opened(scheduler)
    register = None if run is None or not run.position else register_of_last_sample(run)
    return None if run is None or register is None else held(scheduler, run, register)


def write_last_sample(scheduler: Any, sample: Tensor | None) -> None:
    if sample is None:
        clear(scheduler, "last_sample")
        return
    run = opened(scheduler)
    register = None if run is None or not run.position else register_of_last_sample(run)
    if run is None or register is None:
        raise ValueError("last_sample is written before the first step of a run, which has none: leave it.")
    run.held[register] = sample


MULTISTEP: Members = {
    "model_outputs": Member(read_model_outputs, write_model_outputs),
    "lower_order_nums": Member(read_lower_order_nums, write_lower_order_nums),
}

UNIPC: Members = {
    **MULTISTEP,
    "timestep_list": Member(read_timestep_list),
    "last_sample": Member(read_last_sample, write_last_sample),
}


def updated(
    scheduler: Any,
    order_of_step: int,
    outputs: Any,
    *_: Any,
    sample: Tensor | None = None,
    noise: Tensor | None = None,
    **__: Any,
) -> Tensor:
    """`sample` one step on from where the run stands, by a step of some order.

    Args:
        order_of_step: how many outputs count.
        outputs: what the solver extrapolates, as `convert_model_output` makes it, the newest last, or that alone.
        sample: shape (batch, ...).
        noise: for SDEs, standard normal.

    Raises:
        ValueError: there are not as many outputs, or not as many steps before; `sample` is missing.
    """
    given = [outputs] if isinstance(outputs, Tensor) else [*outputs][-order_of_step:]
    prepared, index = scheduler._current.prepared, scheduler.step_index or 0
    if sample is None or len(given) < order_of_step or index < order_of_step - 1:
        raise ValueError(
            f"a step of order {order_of_step} from step {index} with {len(given)} outputs"
            f"{' and no sample' if sample is None else ''}: expected as many outputs, as many steps, and a sample."
        )
    solver = scheduler._solver(prepared.grid.steps).with_options(order=order_of_step, lower_order_final=False)
    plan = plan_for(solver, prepared.grid, prepared.prediction)
    registers = registers_of_outputs(plan, range(index - order_of_step + 1, index))
    point, newest = plan.stages[index].point, given[-1]
    data = (sample - point.sigma * newest) / point.alpha if extrapolates_noise(scheduler) else newest
    run = OpenRun(
        plan, lambda *_: noise, lambda *_: data, dict(zip(registers, given[:-1], strict=True)), position=index
    )
    converted: Tensor = run.step(sample, sample)
    return converted


def updates(**orders: int) -> Members:
    """Methods that make a step of an order from given outputs: name -> order."""
    not_called = "steps do not call it: override step in a subclass"
    return {
        name: Member(lambda scheduler, order=number: partial(updated, scheduler, order), None, not_called)  # type: ignore[misc]
        for name, number in orders.items()
    }


DPM_SOLVER: Members = {
    **MULTISTEP,
    **updates(
        dpm_solver_first_order_update=1,
        multistep_dpm_solver_second_order_update=2,
        multistep_dpm_solver_third_order_update=3,
    ),
}

DEIS: Members = {
    **MULTISTEP,
    **updates(deis_first_order_update=1, multistep_deis_second_order_update=2, multistep_deis_third_order_update=3),
}

SINGLESTEP: Members = {
    "model_outputs": Member(read_model_outputs, write_model_outputs),
    **unreachable("it is the sample that the last step of order 1 began with: keep that yourself", "sample"),
}


# LMS, PNDM and iPNDM -------------------------------------------------------------------------------------------------

ADAMS_ORDER = 4
"""The most slopes that LMS and PNDM remember."""


def slopes(run: OpenRun) -> Iterable[int]:
    """The places of the slopes that LMS remembers."""
    return range(max(run.position - ADAMS_ORDER, 0), run.position)


def averaged(skips: bool) -> Callable[[OpenRun], list[int]]:
    """The places of the outputs that PNDM averages: the first of each Runge-Kutta step, and all after these."""

    def places(run: OpenRun) -> list[int]:
        if skips:
            seen = [place for place in range(run.position) if place != 1]
        else:
            seen = [place for place in range(run.position) if place >= 12 or place % 4 == 0]
        return seen[-ADAMS_ORDER:]

    return places


def list_of(name: str, places: Callable[[Any], Callable[[OpenRun], Iterable[int]]], recover: Recover) -> Member:
    """A member that lists the outputs at `places`."""

    def read(scheduler: Any) -> History:
        outputs = last_outputs(scheduler, places(scheduler), recover)
        return History(outputs, lambda values: write(scheduler, values))

    def write(scheduler: Any, values: Any) -> None:
        write_outputs(scheduler, name, values, places(scheduler))

    return Member(read, write)


def read_counter(scheduler: Any) -> int:
    """The number of times that PNDM was called in this run."""
    run = run_of(scheduler)
    return 0 if run is None else run.position


def evaluations_of_runge_kutta(scheduler: Any) -> int:
    """The number of evaluations of a run that belong to the Runge-Kutta steps at its start."""
    return 0 if scheduler.config["skip_prk_steps"] else 12


def read_prk_timesteps(scheduler: Any) -> np.ndarray[Any, Any] | None:
    """The timesteps of the Runge-Kutta steps; None before `set_timesteps`."""
    own = scheduler.timesteps
    return None if own is None else own[: evaluations_of_runge_kutta(scheduler)].cpu().numpy()


def read_plms_timesteps(scheduler: Any) -> np.ndarray[Any, Any] | None:
    """The timesteps after these; None before `set_timesteps`."""
    own = scheduler.timesteps
    return None if own is None else own[evaluations_of_runge_kutta(scheduler) :].cpu().numpy()


IPNDM: Members = unreachable("its run adds up early what it remembers: call set_timesteps to begin anew", "ets")

LMS: Members = {"derivatives": list_of("derivatives", lambda _: slopes, noise_of)}

PNDM: Members = {
    "ets": list_of("ets", lambda scheduler: averaged(scheduler.config["skip_prk_steps"]), output_of),
    "counter": Member(read_counter),
    "prk_timesteps": Member(read_prk_timesteps),
    "plms_timesteps": Member(read_plms_timesteps),
    "pndm_order": Member(lambda _: ADAMS_ORDER),
    **unreachable("it follows from the calls of the run so far: call set_timesteps to begin anew", "cur_sample"),
    **unreachable("it follows from the calls of the run so far: call set_timesteps to begin anew", "cur_model_output"),
}


# Two evaluations a step ----------------------------------------------------------------------------------------------


def middle(scheduler: Any) -> OpenRun | None:
    """The run, if it stands in the middle of a step."""
    return None if scheduler.state_in_first_order else opened(scheduler)


def read_prev_derivative(scheduler: Any) -> Tensor | None:
    """The slope where the step began; None between steps."""
    run = middle(scheduler)
    if run is None:
        return None
    return held(scheduler, run, *registers_of_outputs(run.plan, [run.position - 1]))


def read_sample(scheduler: Any) -> Tensor | None:
    """The sample where the step began; None between steps."""
    run = middle(scheduler)
    return None if run is None else held(scheduler, run, run.last_stage.sample)


def read_dt(scheduler: Any) -> Tensor | None:
    """The length of the step in sigma; None between steps."""
    generation: Generation | None = scheduler._generation
    if generation is None or generation.step_index is None or scheduler.state_in_first_order:
        return None
    index, sigmas = generation.step_index, generation.sigmas
    step: Tensor = sigmas[index] - sigmas[index - 1]
    return step


def write_between_steps(name: str) -> Callable[[Any, Any], None]:
    """Writing None where it is None; anything else is an error."""

    def write(scheduler: Any, value: Any) -> None:
        if value is not None or not scheduler.state_in_first_order:
            raise ValueError(
                f"{name} is written in the middle of a step or with a value: it follows from the first evaluation of "
                "the step, so call set_timesteps to begin anew."
            )
        clear(scheduler, name)

    return write


OF_SIGMAS = "it follows from the sigmas: write these, or give them to set_timesteps"
OF_SEED = "noise follows from noise_sampler_seed of the configuration: set that, and call set_timesteps"

TWO_STAGE: Members = {
    "prev_derivative": Member(read_prev_derivative, write_between_steps("prev_derivative")),
    "dt": Member(read_dt, write_between_steps("dt")),
    "sample": Member(read_sample, write_between_steps("sample")),
}

KDPM2: Members = {**TWO_STAGE, **unreachable(OF_SIGMAS, "log_sigmas", "sigmas_interpol", "sigmas_up", "sigmas_down")}

SDE: Members = {**TWO_STAGE, **unreachable(OF_SIGMAS, "mid_point_sigma"), **unreachable(OF_SEED, "noise_sampler")}

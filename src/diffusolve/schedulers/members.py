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
from diffusolve.schedulers.generation import Brought, Generation
from diffusolve.schedulers.open_run import OpenRun
from diffusolve.schedulers.pndm_by_hand import EVALUATIONS, Memory

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


def looked_at(outputs: Iterable[Any]) -> list[Any]:
    """The `outputs` of a history.

    Raises:
        ValueError: the run does not hold one of them.
    """
    found = [*(list.__iter__(outputs) if isinstance(outputs, list) else outputs)]
    for output in found:
        if isinstance(output, NotHeld):
            raise output.error
    return found


class History(list[Any]):
    """Earlier outputs of a run. Writing to an item is writing to the run."""

    def __init__(self, items: Iterable[Any], write: Callable[[list[Any]], None]) -> None:
        super().__init__(items)
        self._write = write

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        return looked_at(found) if isinstance(place, slice) else looked_at([found])[0]

    def __iter__(self) -> Iterator[Any]:
        return (self[place] for place in range(len(self)))

    def __setitem__(self, place: SupportsIndex | slice, value: Any) -> None:
        super().__setitem__(place, value)
        self._write([*super().__iter__()])

    def _changing(change: Callable[..., Any]) -> Callable[..., Any]:  # type: ignore[misc]  # of the methods below
        def changed(self: History, *args: Any, **kwargs: Any) -> Any:
            result = change(self, *args, **kwargs)
            self._write([*super().__iter__()])
            return result

        return changed

    append = _changing(list.append)
    extend = _changing(list.extend)
    insert = _changing(list.insert)
    pop = _changing(list.pop)
    remove = _changing(list.remove)
    clear = _changing(list.clear)
    reverse = _changing(list.reverse)
    __delitem__ = _changing(list.__delitem__)
    __iadd__ = _changing(list.__iadd__)
    __imul__ = _changing(list.__imul__)

    def __reduce__(self) -> tuple[type[list[Any]], tuple[list[Any]]]:
        return list, ([*self],)


# The run and its registers -------------------------------------------------------------------------------------------


def run_of(scheduler: Any) -> Run | None:
    """The run of `scheduler`, or the one whose history it brings; None before its first step."""
    generation: Generation | None = scheduler._generation
    if generation is None:
        return None
    return generation.run if generation.brought is None else generation.brought.run


def opened(scheduler: Any) -> OpenRun | None:
    """The same run, holding what it remembers; None before its first step.

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
    generation: Generation = scheduler._generation
    if generation.brought is None:
        generation.run = following
    else:
        generation.brought = generation.brought._replace(run=following)
    return following


def not_held(scheduler: Any) -> ValueError:
    """The error for a part of its history that the run of `scheduler` does not hold."""
    run = run_of(scheduler)
    if isinstance(run, OpenRun):
        return ValueError(
            f"this run of {type(scheduler).__name__} holds of its history what its later steps read: expected one of "
            f"the last {len([*scheduler.kept.places(scheduler)(run)])} outputs."
        )
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


def last_outputs(scheduler: Any, places: Callable[[Run], Iterable[int]], recover: Recover | None) -> list[Any]:
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


# What runs begin with ------------------------------------------------------------------------------------------------


class Kept(NamedTuple):
    """The history that classes of a kind keep, and how much of it counts where a run begins with it.

    Attributes:
        name: of the list of outputs, in diffusers.
        places: the places of these in a run, of a scheduler.
        recover: what is extrapolated, where that is no register; None: the data.
        most: how many outputs count at most.
        reach: how many the next step reads.
        any_number: there may be more than steps before the one that comes next.
        forgets: outputs have no weight in the first step of a run.
    """

    name: str
    places: Callable[[Any], Callable[[Run], Iterable[int]]]
    recover: Callable[[Any], Recover | None]
    most: Callable[[Any], int]
    reach: Callable[[Any], int]
    any_number: bool = False
    forgets: Callable[[Any], bool] = lambda scheduler: False


def bring(generation: Generation, name: str | None = None, value: Any = None) -> None:
    """Let `generation` begin, or go on, with the history that it has, and with what a user has written under `name`."""
    brought = generation.brought
    if brought is None:
        brought, generation.run = Brought(generation.run, {}), None
    written = brought.written if name is None else {**brought.written, name: value}
    generation.brought = brought._replace(written=written)


def written(scheduler: Any, name: str) -> list[Any]:
    """The value of member `name` that a user has written since the last step, in a list; empty if there is none."""
    generation: Generation | None = scheduler._generation
    brought = None if generation is None else generation.brought
    return [brought.written[name]] if brought is not None and name in brought.written else []


def write(scheduler: Any, name: str, value: Any) -> None:
    """Write member `name`: the next step begins with it. Nothing follows before `set_timesteps`, which clears it."""
    if scheduler._generation is not None:
        bring(scheduler._generation, name, value)


def outputs_of(scheduler: Any, kept: Kept) -> list[Any]:
    """The outputs remembered, oldest first, as users have left them."""
    found = written(scheduler, kept.name)
    return [*found[0]] if found else last_outputs(scheduler, kept.places(scheduler), kept.recover(scheduler))


def write_outputs(scheduler: Any, kept: Kept, outputs: Iterable[Any]) -> None:
    """Put `outputs`, oldest first, in the place of those that are remembered."""
    values = [*(list.__iter__(outputs) if isinstance(outputs, list) else outputs)]  # those not held, too
    generation: Generation | None = scheduler._generation
    run = None if generation is None or generation.brought is not None else generation.run
    places = [] if run is None or run.is_done else [*kept.places(scheduler)(run)]
    there = [value for value in values if value is not None]
    if not places or len(there) != len(places):
        write(scheduler, kept.name, values)
        return
    following = opened(scheduler)
    assert following is not None
    pairs = zip(registers_of_outputs(following.plan, places), there, strict=True)
    following.held.update((register, value) for register, value in pairs if not isinstance(value, NotHeld))


def begun_with_history(scheduler: Any, generation: Generation, index: int, options: Any) -> OpenRun | None:
    """A run that goes on at evaluation `index` with the history that `generation` brings; None: nothing of it counts.

    It is one that has begun as many steps before.

    Raises:
        ValueError: the history is only half there, or longer than that of a run can be at `index`.
    """
    kept: Kept = scheduler.kept
    count = counting(scheduler, kept, index)
    if not count:
        return None
    outputs, needed = outputs_of(scheduler, kept)[-count:], min(count, kept.most(scheduler))
    if len(outputs) < count or any(output is None for output in outputs):
        raise half_cleared(scheduler)
    plan = scheduler._plan_from(generation, index - count, options)
    registers = dict(zip(registers_of_outputs(plan, range(count)), outputs, strict=True))
    looked_at(outputs[-needed:])
    registers = {name: output for name, output in registers.items() if not isinstance(output, NotHeld)}
    run = OpenRun(plan, generation.noise, scheduler._transform, registers, count)
    if "last_sample" in scheduler.members:
        register, sample = register_of_last_sample(run), read_last_sample(scheduler)
        assert register is not None
        assert sample is not None  # as it was counted
        run.held[register] = sample
        run.held.update(last_noise(run_of(scheduler), run))
        lacks = run.lacks() - {run.stage.sample}
        if lacks & {noise.register for stage in plan.stages for noise in stage.update.noises}:
            raise ValueError(
                f"a run of {type(scheduler).__name__} remembers the noise of its last step too, which a history that "
                "was written has not: call set_timesteps to begin anew, or go on with the scheduler that made it."
            )
        if lacks:
            raise half_cleared(scheduler)
    return run


def last_noise(before: Run | None, run: OpenRun) -> dict[str, Tensor]:
    """The noise of the last step of the run `before`, under the name that it has in `run`."""
    if not isinstance(before, OpenRun) or not before.position:
        return {}
    names = [noise.register for noise in before.plan.stages[before.position - 1].update.noises]
    own = [noise.register for noise in run.plan.stages[run.position - 1].update.noises]
    return {mine: before.held[name] for mine, name in zip(own, names, strict=False) if name in before.held}


def counting(scheduler: Any, kept: Kept, index: int) -> int:
    """The number of outputs brought that count where a run goes on at evaluation `index`.

    Raises:
        ValueError: as of :func:`begun_with_history`.
    """
    number = written(scheduler, "lower_order_nums")
    count = int(number[0]) if number else number_of_outputs(scheduler, kept)
    if not kept.any_number:
        count = min(count, kept.most(scheduler))
    if "last_sample" in scheduler.members and index and (count > 0) != has_last_sample(scheduler):
        raise half_cleared(scheduler)
    if count <= index or kept.any_number:
        return count
    if index == 0 and kept.forgets(scheduler):
        return 0
    if index < kept.reach(scheduler):
        raise ValueError(
            f"{count} outputs are remembered where a run of {type(scheduler).__name__} begins at evaluation {index}; "
            "diffusers takes them for those of its last steps: call set_timesteps to begin anew"
            + (f", or clear {' and '.join(sorted(scheduler.clears))}." if scheduler.clears else ".")
        )
    return index


def number_of_outputs(scheduler: Any, kept: Kept) -> int:
    """The number of outputs remembered, where nobody has written that itself."""
    found, run = written(scheduler, kept.name), run_of(scheduler)
    if found and "lower_order_nums" not in scheduler.members:
        return len(found[0])
    return 0 if run is None else len([*kept.places(scheduler)(run)])


def half_cleared(scheduler: Any) -> ValueError:
    """The error of a history that users have written one half of."""
    cleared = [name for name, value in scheduler._generation.brought.written.items() if is_nothing(value)]
    if cleared:
        return ValueError(
            f"{' and '.join(sorted(cleared))} of a run of {type(scheduler).__name__} were cleared: expected "
            f"{' and '.join(sorted(scheduler.clears))} to be cleared, so that it forgets its history."
        )
    also = " and last_sample" if "last_sample" in scheduler.members else ""
    return ValueError(
        f"a history of a run of {type(scheduler).__name__} was written of which a part is missing: expected as many "
        f"outputs in {scheduler.kept.name} as lower_order_nums says{also}."
    )


def is_nothing(value: Any) -> bool:
    """True for what clears a member: None, 0, or a list of no outputs."""
    if isinstance(value, list):
        return all(item is None for item in list.__iter__(value))
    return value is None or (isinstance(value, int) and value == 0)


# Multistep classes ---------------------------------------------------------------------------------------------------


def order(scheduler: Any) -> int:
    """The number of outputs that the class remembers."""
    config = scheduler.config
    if "solver_order" in config:
        return int(config["solver_order"])
    return max(int(config["predictor_order"]), int(config["corrector_order"]) - 1)


def before(scheduler: Any) -> int:
    """The number of outputs that a step reads besides its own."""
    return order(scheduler) - 1


def the_last(scheduler: Any) -> Callable[[Run], Iterable[int]]:
    """The places of the outputs that a multistep class remembers."""
    return lambda run: range(max(run.position - order(scheduler), 0), run.position)


def extrapolates_noise(scheduler: Any) -> bool:
    """True where predictions of the noise are what is remembered."""
    return bool(getattr(scheduler, "_converts_to_noise", False))


def read_outputs(scheduler: Any) -> History:
    """The outputs remembered, as the solver extrapolates them; multistep classes have None where there are not as many.

    Writing to the list is writing to the run.
    """
    kept: Kept = scheduler.kept
    outputs = outputs_of(scheduler, kept)
    missing = [None] * (order(scheduler) - len(outputs)) if "lower_order_nums" in scheduler.members else []
    return History([*missing, *outputs], lambda values: write_outputs(scheduler, kept, values))


def write_all_outputs(scheduler: Any, outputs: Any) -> None:
    write_outputs(scheduler, scheduler.kept, outputs)


OUTPUTS = Member(read_outputs, write_all_outputs)


def read_lower_order_nums(scheduler: Any) -> int:
    """The number of outputs that are remembered."""
    return int([*written(scheduler, "lower_order_nums"), number_of_outputs(scheduler, scheduler.kept)][0])


def write_lower_order_nums(scheduler: Any, number: int) -> None:
    if number < 0:
        raise ValueError(f"lower_order_nums is set to {number}: expected a number of outputs, 0 or more.")
    if number != read_lower_order_nums(scheduler):
        write(scheduler, "lower_order_nums", number)


def read_timestep_list(scheduler: Any) -> list[Any]:
    """The timesteps of the last outputs, None where there are not as many."""
    found, run = written(scheduler, "timestep_list"), run_of(scheduler)
    if found:
        return list(found[0])
    if run is None:
        return [None] * order(scheduler)
    first = len(scheduler.timesteps) - run.plan.nfe
    places = the_last(scheduler)(run)
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


def has_last_sample(scheduler: Any) -> bool:
    """True where there is a sample that the last step led on from, and nobody has cleared it."""
    found, run = written(scheduler, "last_sample"), run_of(scheduler)
    return found[0] is not None if found else run is not None and run.position > 0


def read_last_sample(scheduler: Any) -> Tensor | None:
    """The sample that the last step led on from."""
    found: list[Tensor | None] = written(scheduler, "last_sample")
    if found or not has_last_sample(scheduler):
        return [*found, None][0]
    if 0 in written(scheduler, "lower_order_nums") and not isinstance(run_of(scheduler), OpenRun):
        return None  # not held any more, and about to be cleared too by whoever has cleared the rest
    run = opened(scheduler)
    register = None if run is None else register_of_last_sample(run)
    return None if run is None or register is None else held(scheduler, run, register)


def write_last_sample(scheduler: Any, sample: Tensor | None) -> None:
    run = scheduler._generation.run if scheduler._generation is not None else None
    if sample is None or run is None or not run.position or run.is_done:
        write(scheduler, "last_sample", sample)
        return
    following = opened(scheduler)
    register = None if following is None else register_of_last_sample(following)
    assert following is not None
    assert register is not None
    following.held[register] = sample


MULTISTEP: Members = {
    "model_outputs": OUTPUTS,
    "lower_order_nums": Member(read_lower_order_nums, write_lower_order_nums),
}

WITH_CORRECTOR: Members = {
    **MULTISTEP,
    "timestep_list": Member(read_timestep_list),
    "last_sample": Member(read_last_sample, write_last_sample),
}

SA_SOLVER: Members = {
    **WITH_CORRECTOR,
    "predict_x0": Member(
        lambda scheduler: scheduler.config["algorithm_type"] == "data_prediction",
        lambda scheduler, value: scheduler._check_same("predict_x0", value),
    ),
    **unreachable("it is drawn with the generator that step is handed", "last_noise"),
    **unreachable(
        "predictor_order and corrector_order of the configuration say it, and plan has each step",
        "this_corrector_order",
        "this_predictor_order",
    ),
}


def read_this_order(scheduler: Any) -> int:
    """The order of the last step that predicted, which the corrector takes up.

    Raises:
        AttributeError: there was none.
    """
    found, run = written(scheduler, "this_order"), run_of(scheduler)
    if found:
        return int(found[0])
    if run is None or not run.position:
        raise AttributeError(f"{type(scheduler).__name__} has no this_order before its first step.")
    return order_of_last_step(scheduler, run.position, run.plan.nfe - run.position)


def order_of_last_step(scheduler: Any, steps_made: int, steps_left: int) -> int:
    """The order of UniPC's last predictor, after so many steps."""
    highest = order(scheduler)
    return min(highest, steps_made, steps_left + 1 if scheduler.config["lower_order_final"] else highest)


UNIPC: Members = {
    **WITH_CORRECTOR,
    "this_order": Member(read_this_order, lambda scheduler, order: write(scheduler, "this_order", int(order))),
    "timestep_list": Member(read_timestep_list, lambda scheduler, told: write(scheduler, "timestep_list", told)),
}


def forgets(scheduler: Any) -> bool:
    """True where the outputs that a run begins with have no weight: diffusers' weights divide by the log-SNR at 0."""
    return bool(scheduler.config["final_sigmas_type"] == "zero" and scheduler.config["solver_order"] < 3)


def recovered(scheduler: Any) -> Recover | None:
    return noise_of if extrapolates_noise(scheduler) else None


KEPT_BY_MULTISTEP = Kept("model_outputs", the_last, recovered, order, before)
KEPT_BY_DPM_SOLVER = KEPT_BY_MULTISTEP._replace(forgets=forgets)
KEPT_WITH_CORRECTOR = KEPT_BY_MULTISTEP._replace(reach=order)


def updated(
    scheduler: Any,
    order_of_step: int,
    outputs: Any,
    *others: Any,
    sample: Tensor | None = None,
    noise: Tensor | None = None,
    **_: Any,
) -> Tensor:
    """`sample` one step on from where the run stands, by a step of some order.

    Args:
        order_of_step: how many outputs count.
        outputs: what the solver extrapolates, as `convert_model_output` makes it, the newest last, or that alone.
        others: timesteps, which are ignored, and then sample and noise, if they are not named.
        sample: shape (batch, ...).
        noise: for SDEs, standard normal.

    Raises:
        ValueError: there are not as many outputs, or not as many steps before; `sample` is missing.
    """
    named = {"sample": sample, "noise": noise}
    missing = [name for name, value in named.items() if value is None]
    named.update(zip(missing, (other for other in others if isinstance(other, Tensor) and other.ndim), strict=False))
    sample, noise = named["sample"], named["noise"]
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


def write_outputs_of_group(scheduler: Any, outputs: Any) -> None:
    """Write the outputs of the steps that go together in single-step DPM-Solver: those that are there, or none."""
    number, there = read_lower_order_nums(scheduler), len([output for output in outputs if output is not None])
    if number == 0:
        return  # the first step, of order 1, reads none of them
    if there not in (0, number):
        raise ValueError(
            f"model_outputs is given {there} outputs, but the run of {type(scheduler).__name__} has {number}: expected "
            "as many, or none to forget them."
        )
    write_outputs(scheduler, scheduler.kept, outputs if there else [])


SINGLESTEP: Members = {
    "model_outputs": Member(read_outputs, write_outputs_of_group),
    **unreachable("it is the sample that the last step of order 1 began with: keep that yourself", "sample"),
}


# LMS, iPNDM and PNDM -------------------------------------------------------------------------------------------------

ADAMS_ORDER = 4
"""The most slopes that LMS and PNDM use, the newest included."""

KEPT_BY_LMS = Kept(
    "derivatives",
    lambda _: lambda run: range(max(run.position - ADAMS_ORDER, 0), run.position),
    lambda _: noise_of,
    lambda _: ADAMS_ORDER - 1,
    lambda _: 0,
)
LMS: Members = {"derivatives": OUTPUTS}

KEPT_BY_IPNDM = Kept(
    "ets", lambda _: lambda run: range(run.position), lambda _: noise_of, lambda _: ADAMS_ORDER - 1, lambda _: 0, True
)
IPNDM: Members = {"ets": OUTPUTS}


def averaged(scheduler: Any) -> Callable[[Run], list[int]]:
    """The places of the outputs that PNDM averages: the first of each Runge-Kutta step, and all after these."""
    skips = scheduler.config["skip_prk_steps"]

    def places(run: Run) -> list[int]:
        if skips:
            seen = [place for place in range(run.position) if place != 1]
        else:
            seen = [place for place in range(run.position) if place >= 12 or place % EVALUATIONS == 0]
        return seen[-ADAMS_ORDER:]

    return places


def slopes_so_far(scheduler: Any, run: OpenRun) -> Any:
    """The weighted sum of the outputs in the Runge-Kutta step that is under way; 0 between steps."""
    stage = run.position % EVALUATIONS
    if scheduler.config["skip_prk_steps"] or run.position > 12 or stage == 0:
        return 0
    outputs = looked_at(last_outputs(scheduler, lambda _: range(run.position - stage, run.position), output_of))
    return sum(weight * output for weight, output in zip((1 / 6, 1 / 3, 1 / 3), outputs, strict=False))


def sample_where_begun(scheduler: Any, run: OpenRun) -> Tensor | None:
    """The sample that the step under way, or the last one of several calls, began with."""
    if scheduler.config["skip_prk_steps"]:
        return held(scheduler, run, run.plan.stages[0].sample) if run.position == 1 else None
    if run.position == 0:
        return None
    return held(scheduler, run, run.plan.stages[min(run.position - 1, 11) // EVALUATIONS * EVALUATIONS].sample)


def memory_of_pndm(scheduler: Any, but: str = "") -> Memory:
    """The memory of the run of a PNDM scheduler under diffusers' names, to be gone on with by hand.

    Args:
        scheduler: whose run it is.
        but: the name of a member that will be written, and is left as it is at the beginning of a run.

    Raises:
        ValueError: the run does not hold it.
    """
    run, memory = opened(scheduler), Memory()
    if run is not None:
        skips, counter = scheduler.config["skip_prk_steps"], run.position
        in_a_step = counter == 1 if skips else counter < 12 and counter % EVALUATIONS > 0
        memory = Memory(
            [] if but == "ets" else looked_at(last_outputs(scheduler, averaged(scheduler), output_of)),
            counter,
            sample_where_begun(scheduler, run) if in_a_step and but != "cur_sample" else None,
            0 if but == "cur_model_output" else slopes_so_far(scheduler, run),
        )
    return memory


def by_hand(scheduler: Any) -> Memory | None:
    """The memory of a PNDM run that goes on by it."""
    generation: Generation | None = scheduler._generation
    return None if generation is None else generation.by_hand


def in_hand(name: str, read: Callable[[Any], Any]) -> Member:
    """A member of PNDM that is read out of its run, or of its memory; whoever writes to it goes on by that."""

    def found(scheduler: Any) -> Any:
        memory = by_hand(scheduler)
        return read(scheduler) if memory is None else getattr(memory, name)

    def write(scheduler: Any, value: Any) -> None:
        generation: Generation | None = scheduler._generation
        if generation is not None:  # set_timesteps clears it
            own = looked_at(value) if isinstance(value, History) else value
            setattr(scheduler._in_hand(generation, name), name, own)

    return Member(found, write)


def read_ets(scheduler: Any) -> History:
    """The outputs that PNDM averages, oldest first. Writing to the list is writing to the memory of the run."""
    outputs = last_outputs(scheduler, averaged(scheduler), output_of)

    def write(values: list[Any]) -> None:
        scheduler._in_hand(scheduler._generation, "ets").ets = looked_at(values)

    return History(outputs, write)


def calls_made(generation: Generation | None) -> int:
    """The number of times that PNDM was called in a run."""
    if generation is None:
        return 0
    if generation.by_hand is not None:
        return int(generation.by_hand.counter)
    return 0 if generation.run is None else generation.run.position


def of_run(read: Callable[[Any, OpenRun], Any], otherwise: Any) -> Callable[[Any], Any]:
    """Reads out of the run; `otherwise` before its first step."""

    def found(scheduler: Any) -> Any:
        run = opened(scheduler)
        return otherwise if run is None else read(scheduler, run)

    return found


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


PNDM: Members = {
    "ets": in_hand("ets", read_ets),
    "counter": in_hand("counter", lambda scheduler: calls_made(scheduler._generation)),
    "cur_sample": in_hand("cur_sample", of_run(sample_where_begun, None)),
    "cur_model_output": in_hand("cur_model_output", of_run(slopes_so_far, 0)),
    "prk_timesteps": Member(read_prk_timesteps),
    "plms_timesteps": Member(read_plms_timesteps),
    "pndm_order": Member(lambda _: ADAMS_ORDER),
    **unreachable(
        "timesteps has those that the network is told, prk_timesteps and plms_timesteps its parts", "_timesteps"
    ),
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

    def write_none(scheduler: Any, value: Any) -> None:
        if value is not None or not scheduler.state_in_first_order:
            raise ValueError(
                f"{name} is written in the middle of a step or with a value: it follows from the first evaluation of "
                "the step, so call set_timesteps to begin anew."
            )
        write(scheduler, name, None)

    return write_none


OF_SIGMAS = "it follows from the sigmas: write these, or give them to set_timesteps"
OF_SEED = "noise follows from noise_sampler_seed of the configuration: set that, and call set_timesteps"

TWO_STAGE: Members = {
    "prev_derivative": Member(read_prev_derivative, write_between_steps("prev_derivative")),
    "dt": Member(read_dt, write_between_steps("dt")),
    "sample": Member(read_sample, write_between_steps("sample")),
}

KDPM2: Members = {**TWO_STAGE, **unreachable(OF_SIGMAS, "log_sigmas", "sigmas_interpol", "sigmas_up", "sigmas_down")}

SDE: Members = {**TWO_STAGE, **unreachable(OF_SIGMAS, "mid_point_sigma"), **unreachable(OF_SEED, "noise_sampler")}

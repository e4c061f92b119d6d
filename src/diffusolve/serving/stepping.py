"""Steps of a mixed batch: asking the model about some jobs, in a thread, and moving their rows."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

from diffusolve.arrays import Array, is_torch, namespace, no_gradients, not_finite
from diffusolve.backends import Clip
from diffusolve.batching import BatchRun, Inputs, Row
from diffusolve.sampling import start
from diffusolve.serving.queue import Job
from diffusolve.serving.request import Preview, Request

__all__ = ["Model", "Stepped", "Stepper", "described"]

Model = Callable[[Any, Any, list[Request]], Any]


@dataclass
class Stepped:
    """The results of a step for its jobs."""

    rows: int | None = None
    """The number of rows that the model was asked about; None if it gave no answer."""
    jobs: dict[Row | None, Job] = field(default_factory=dict)
    failed: list[tuple[Job, str, BaseException | None]] = field(default_factory=list)
    previews: list[tuple[Job, Preview]] = field(default_factory=list)
    done: list[Job] = field(default_factory=list)


class Stepper:
    """A batch of rows, the model that is asked about them, and the thread in which both are worked on.

    Args:
        model: see :class:`~diffusolve.serving.ContinuousBatcher`.
        like: an array with the precision and device of the samples.
        check_finite: fail jobs for which the model's output holds NaN or infinity.
    """

    def __init__(self, model: Model, like: Array, check_finite: bool) -> None:
        self.model = model
        self.like = like
        self.check_finite = check_finite
        self.batch = BatchRun()
        self.under_way: Sequence[Job] = ()
        """The jobs of the step under way, whose rows the thread may be at work on."""
        self._thread: ThreadPoolExecutor | None = None

    def open(self) -> None:
        """Start the thread."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="diffusolve-batcher")

    def close(self) -> None:
        """End the thread after the step under way."""
        if self._thread is not None:
            self._thread.shutdown(wait=False)

    def leave(self, job: Job) -> None:
        """Free the row of a job, unless a step is under way with it."""
        if job not in self.under_way and job.row is not None and not job.row.has_left:
            self.batch.leave(job.row)

    async def step(self, jobs: list[Job]) -> Stepped:
        """One evaluation of `jobs`.

        If it is cancelled, the thread may still be at work on their rows, which therefore stay where they are.
        """
        self.under_way, stepped = jobs, Stepped()
        try:
            asked = await self._in_thread(self._ask, jobs, stepped)
            if asked is not None:
                inputs, outputs = asked
                if inspect.isawaitable(outputs):
                    outputs = await _awaited(outputs)
                    await self._in_thread(self._advance, inputs, outputs, stepped)
                stepped.rows = len(inputs)
        except Exception as error:
            cause = error.__cause__ if isinstance(error, _Ended) and error.__cause__ is not None else error
            reason = f"the model failed with {type(cause).__name__}: {cause}"
            stepped.failed += [(job, reason, cause) for job in jobs]  # those who failed before have their own reason
        self.under_way = ()
        return stepped

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The result of `function`, called in the thread; whatever it raises is an Exception here."""

        def call() -> Any:
            try:
                return function(*arguments), None
            except BaseException as error:  # StopIteration and SystemExit do not pass from a thread to a task
                return None, error

        returned, error = await asyncio.get_running_loop().run_in_executor(self._thread, call)
        if error is not None:
            raise _Ended from error
        return returned

    def _ask(self, jobs: list[Job], stepped: Stepped) -> tuple[Inputs, Any] | None:
        """In the thread: let those join who are new, and ask the model about all. A plain one is advanced as well."""
        rows = [row for job in jobs if (row := self._joined(job, stepped)) is not None]
        if not rows:
            return None
        stepped.jobs = {job.row: job for job in jobs if job.row is not None}
        (inputs,) = self.batch.inputs(rows)
        with no_gradients(inputs.x):
            outputs = self.model(inputs.x, inputs.timesteps, [stepped.jobs[row].request for row in rows])
        if not inspect.isawaitable(outputs):
            self._advance(inputs, outputs, stepped)
        return inputs, outputs

    def _joined(self, job: Job, stepped: Stepped) -> Row | None:
        if job.row is None:
            try:
                request = job.request
                x = request.x
                if x is None:
                    x = start(job.plan, _empty(self.like, (1, *request.sample_shape)), request.seed)[0, ...]
                noise, transform = _ending_as_exceptions(job.noise), _ending_as_exceptions(request.transform)
                job.row = self.batch.join(job.plan, x, noise=noise, transform=transform, tag=str(job))
            except BaseException as error:  # of a function of its own, which is not to end the step of the others
                reason = str(error) if isinstance(error, Exception) else described(error)
                stepped.failed.append((job, f"it could not join: {reason}", error))
        return job.row

    def _advance(self, inputs: Inputs, outputs: Any, stepped: Stepped) -> None:
        """In the thread: take the model's outputs."""
        unguided = None
        if isinstance(outputs, tuple):
            if len(outputs) != 2:
                raise TypeError(f"the model returned {len(outputs)} outputs: expected one, or (guided, unguided).")
            outputs, unguided = outputs
        outputs, unguided = (_stacked(inputs, given) for given in (outputs, unguided))
        if self.check_finite:
            for index in sorted(_not_finite(inputs, outputs) | _not_finite(inputs, unguided)):
                row = inputs.rows[index]
                self._give_up(row, f"the model's output holds NaN or infinity at {_evaluation(row)}.", None, stepped)
        for row in inputs.rows if _fits(inputs, outputs) else ():
            job = stepped.jobs[row]
            if job.is_watched and not row.has_left and row.stage.stage == 0:
                try:
                    data = self.batch.data(inputs, outputs, row)
                except Exception as error:
                    self._give_up(row, *_failure(error), stepped)
                    continue
                preview = Preview(job.request, row.stage.step, row.plan.steps, row.stage.point, data)
                stepped.previews.append((job, preview))
        for row in self.batch.advance(inputs, outputs, unguided):
            if row.error is None:
                stepped.done.append(stepped.jobs[row])
            else:
                stepped.failed.append((stepped.jobs[row], *_failure(row.error)))

    def _give_up(self, row: Row, reason: str, cause: BaseException | None, stepped: Stepped) -> None:
        stepped.failed.append((stepped.jobs[row], reason, cause))
        self.batch.leave(row)


class _Ended(Exception):
    """A function ended with an exception, the cause, which may be one that tasks and threads take for their own."""


def _ending_as_exceptions(function: Any) -> Any:
    """`function`, if it is a user's, so that ending with SystemExit, CancelledError or the like ends its own row alone.

    Other sources of noise, and the library's own transform, raise nothing of the kind.
    """
    if not callable(function) or isinstance(function, Clip):
        return function

    @wraps(function, updated=())
    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception:
            raise
        except BaseException as error:
            raise _Ended from error

    return call


def _failure(error: BaseException) -> tuple[str, BaseException]:
    """The reason and the cause of a failure of a request's own function."""
    cause = error.__cause__ if isinstance(error, _Ended) and error.__cause__ is not None else error
    return f"its own function failed: {described(cause)}", cause


def described(error: BaseException) -> str:
    """The representation of a user's exception, or its type where that fails itself."""
    try:
        return repr(error)
    except BaseException:
        return type(error).__name__


async def _awaited(outputs: Awaitable[Any]) -> Any:
    """The result of `outputs`; if their own task is cancelled, that is not to cancel this one."""
    task = asyncio.ensure_future(outputs)
    try:
        await asyncio.wait({task})
    finally:
        task.cancel()
    try:
        return task.result()
    except BaseException as error:
        raise _Ended from error


def _evaluation(row: Row) -> str:
    return f"evaluation {row.position + 1} of {row.plan.nfe}"


def _stacked(inputs: Inputs, outputs: Any) -> Any:
    """Outputs that are one array per row as one array, if they are complete."""
    if (
        isinstance(outputs, list)
        and outputs
        and all(getattr(one, "shape", None) == inputs.x.shape[1:] for one in outputs)
    ):
        return namespace(inputs.x).stack(outputs)
    return outputs


def _fits(inputs: Inputs, outputs: Any) -> bool:
    """True if `outputs` have the shape that they should have; if not, advancing says so."""
    return bool(getattr(outputs, "shape", None) == inputs.x.shape)


def _not_finite(inputs: Inputs, outputs: Any) -> set[int]:
    """The indices of the rows of `outputs` that hold NaN or infinity."""
    return {*not_finite(outputs)} if _fits(inputs, outputs) else set()


def _empty(like: Array, shape: tuple[int, ...]) -> Array:
    if is_torch(like):
        return like.new_empty(shape)
    return namespace(like).empty(shape, dtype=like.dtype)

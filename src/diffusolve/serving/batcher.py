"""Many requests, one batch: an asyncio front end of :class:`~diffusolve.batching.BatchRun`."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from bisect import insort
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from types import TracebackType
from typing import TYPE_CHECKING, Any

from diffusolve.arrays import Array, is_torch, namespace
from diffusolve.batching import BatchRun, Inputs, Row
from diffusolve.catalog import sampler as sampler_called
from diffusolve.noise import NoiseSchedule
from diffusolve.plan import Plan
from diffusolve.prediction import Prediction
from diffusolve.randomness import NoiseLike
from diffusolve.sampling import Sampler, noise_between_steps, start
from diffusolve.serving.errors import BatcherClosed, QueueFull, RequestFailed, RequestTimeout
from diffusolve.serving.metrics import Histogram, counter_lines, gauge_lines
from diffusolve.serving.request import Preview, Request

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ContinuousBatcher"]

Model = Callable[[Any, Any, list[Request]], Any]

OUTCOMES = ("completed", "failed", "cancelled", "timed_out", "rejected", "queue_full", "closed")
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0)
RATE_WINDOW = 10.0
"""Over how many seconds steps per second are counted."""

MOST_PLANS = 256


@dataclass(eq=False)
class _Job:
    """A request that was taken. It waits, then is active, and ends exactly once."""

    request: Request
    plan: Plan
    noise: NoiseLike
    number: int
    place: int
    """Its place in the queue: the number, brought forward by the priority."""
    kind: tuple[Any, ...]
    """Shape, precision and device: requests of one kind share a batch."""
    begun: float
    future: asyncio.Future[Array]
    previews: asyncio.Queue[Preview | None] | None
    """Filled after each step, and with None at the end; for streams."""
    timer: asyncio.TimerHandle | None = None
    row: Row | None = None
    turn: int = 0
    """Its place among the active ones, who line up again after each step."""
    outcome: str | None = None

    @property
    def is_watched(self) -> bool:
        return self.previews is not None or self.request.on_step is not None

    def __str__(self) -> str:
        return f"request {self.number}" + (f" ({self.request.tag!r})" if self.request.tag is not None else "")

    def __lt__(self, other: _Job) -> bool:
        return (self.place, self.number) < (other.place, other.number)


@dataclass
class _Stepped:
    """What a step did to its jobs."""

    jobs: dict[Row | None, _Job] = field(default_factory=dict)
    failed: list[tuple[_Job, str, BaseException | None]] = field(default_factory=list)
    previews: list[tuple[_Job, Preview]] = field(default_factory=list)
    done: list[_Job] = field(default_factory=list)


class ContinuousBatcher:
    """Makes the samples of many requests in one batch, whatever their samplers, steps and conditions.

        async with ContinuousBatcher(model, noise_schedule=SD15, prediction_type="epsilon") as batcher:
            image = await batcher.generate(Request(sampler="DPM++ 2M Karras", steps=20, shape=(4, 64, 64), seed=1))

    A request joins at the next step and leaves when it is done. Its sample does not depend on who else is served, as
    long as the model's rows do not depend on each other. Requests of different shapes take turns, and so do those of
    one shape if there are more active than fit in a batch; those that have waited longest go first.

    The model runs in a thread of its own, or is awaited if it is an async function; the event loop is never blocked.

    Args:
        model: called with samples (rows, ...), timesteps (rows,) and the list of their requests; returns an output of
            the samples' shape, with guidance if there is any, or the pair (guided, unguided), which samplers with
            ``cfg_pp=True`` need. Must not write to its arguments. A plain function runs without gradients; an async
            one sees to that itself.
        noise_schedule, prediction_type: what the model was trained with, if it does not know.
        shapes: the sample shapes that the model takes: a collection, or a function that says whether it takes one. All
            when missing.
        like: an array with the precision and device of the samples; float32 PyTorch tensors on the CPU when missing.
        max_batch_size: the most rows that the model is given at once.
        max_active: the most requests that are under way at once; `max_batch_size` when missing.
        max_queue: the most requests that wait; one more gets :class:`QueueFull <diffusolve.serving.QueueFull>`.
        max_steps: the most steps that a request may ask for.
        patience: for each point of priority that a request has more, it goes before those that came less than
            `patience` requests earlier. So everybody waits for a bounded number of later ones.
        check_finite: fail requests whose outputs hold NaN or infinity. On an accelerator this waits for each step.

    Raises:
        ValueError: a limit that is not at least 1; the noise schedule or the prediction type is not known.
    """

    def __init__(
        self,
        model: Model,
        *,
        noise_schedule: NoiseSchedule | None = None,
        prediction_type: str | Prediction | None = None,
        shapes: Collection[tuple[int, ...]] | Callable[[tuple[int, ...]], bool] | None = None,
        like: Array | None = None,
        max_batch_size: int = 8,
        max_active: int | None = None,
        max_queue: int = 1000,
        max_steps: int = 1000,
        patience: int = 100,
        check_finite: bool = True,
    ) -> None:
        limits = {"max_batch_size": max_batch_size, "max_active": max_active, "max_queue": max_queue}
        for name, limit in (limits | {"max_steps": max_steps, "patience": patience}).items():
            if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
                raise ValueError(f"{name} is {limit!r}: expected a whole number, at least 1.")
        self.model = model
        self.noise_schedule: Any = noise_schedule or getattr(model, "noise_schedule", None)
        self.prediction_type: Any = prediction_type or getattr(model, "prediction", None)
        for name in ("noise_schedule", "prediction_type"):
            if getattr(self, name) is None:
                raise ValueError(f"the model does not say its {name}: give {name}=... to the batcher.")
        self.shapes = shapes if shapes is None or callable(shapes) else {tuple(shape) for shape in shapes}
        self.like = _default_like() if like is None else like
        self.max_batch_size = max_batch_size
        self.max_active = max_batch_size if max_active is None else max_active
        self.max_queue = max_queue
        self.max_steps = max_steps
        self.patience = patience
        self.check_finite = check_finite
        self._batch = BatchRun()
        self._waiting: list[_Job] = []
        self._planning = 0
        self._in_order = asyncio.Lock()
        self._active: dict[int, _Job] = {}
        self._stepping: Sequence[_Job] = ()
        self._taken = 0
        self._turn = 0
        self._plans: OrderedDict[Any, tuple[Plan, Sampler]] = OrderedDict()
        self._state = "not entered"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._worker: asyncio.Task[None] | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._outcomes = Counter(dict.fromkeys(OUTCOMES, 0))
        self._latency = Histogram(SECONDS)
        powers = [1 << power for power in range(max_batch_size.bit_length())]
        self._occupancy = Histogram(sorted({*powers, max_batch_size}))
        self._steps = 0
        self._rows = 0
        self._recent: deque[float] = deque()

    # For its users

    async def generate(self, request: Request) -> Array:
        """The sample that `request` asks for, an array of its shape.

        Cancelling the task that awaits this gives up the request, and its place is free at once.

        Raises:
            ValueError, TypeError: the request can never be served, and why.
            QueueFull: too many requests wait.
            RequestFailed: the model failed, or gave NaN or infinity, or the request's own function raised an exception.
            RequestTimeout: its `timeout` is over.
            BatcherClosed: the batcher is not open, or was closed in the meantime.
        """
        job = await self._take(request, None)
        try:
            return await job.future
        except asyncio.CancelledError:
            self._end(job, "cancelled")
            raise

    async def stream(self, request: Request) -> AsyncIterator[Preview]:
        """A :class:`Preview` after each step, and a last one with the finished sample. Raises as :meth:`generate` does.

        Leaving the loop early gives up the request once the iterator is closed, which ``contextlib.aclosing`` does at
        once.
        """
        previews: asyncio.Queue[Preview | None] = asyncio.Queue()
        job = await self._take(request, previews)
        try:
            while (preview := await previews.get()) is not None:
                yield preview
            steps = job.plan.steps
            yield Preview(request, steps, steps, job.plan.end, job.future.result())
        finally:
            self._end(job, "cancelled")

    def metrics(self) -> str:
        """What happened so far, in the text format of Prometheus."""
        name = "diffusolve"
        lines = chain(
            gauge_lines(f"{name}_queue_length", "Requests that wait.", len(self._waiting)),
            gauge_lines(f"{name}_active_requests", "Requests under way.", len(self._active)),
            self._occupancy.lines(f"{name}_batch_rows", "Rows that the model was given at once."),
            counter_lines(f"{name}_steps_total", "Calls of the model.", self._steps),
            counter_lines(f"{name}_rows_total", "Evaluations, one for each row of each call.", self._rows),
            gauge_lines(
                f"{name}_steps_per_second", f"Calls of the model over the last {RATE_WINDOW:g} s.", self._rate()
            ),
            counter_lines(f"{name}_requests_total", "Requests by how they ended.", self._outcomes, "outcome"),
            self._latency.lines(f"{name}_request_seconds", "Time from asking to the sample."),
        )
        return "\n".join(lines) + "\n"

    async def drain(self) -> None:
        """Wait until no request waits or is under way."""
        while not self._idle.is_set():
            await self._idle.wait()

    async def close(self) -> None:
        """Take no more requests and fail those that are left; wait for the step under way."""
        self._shut("the batcher was closed before the request was done.")
        worker = self._worker
        if worker is None or worker is asyncio.current_task():
            return
        try:
            await asyncio.wait({worker})
        finally:
            assert self._thread is not None
            self._thread.shutdown(wait=False)
        if not worker.cancelled() and (error := worker.exception()) is not None:
            raise error

    async def __aenter__(self) -> Self:
        if self._state != "not entered":
            raise BatcherClosed(f"this batcher is {self._state}: it can be entered once; make another.")
        self._state = "open"
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="diffusolve-batcher")
        self._worker = asyncio.create_task(self._work(), name="diffusolve-batcher")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Serve what was taken, unless an exception ends the block, and close."""
        try:
            if kind is None:
                self._state = "closing" if self._state == "open" else self._state
                await self.drain()
        finally:
            await self.close()

    # Taking requests

    async def _take(self, request: Request, previews: asyncio.Queue[Preview | None] | None) -> _Job:
        """The job of `request`, which waits for its first step."""
        self._check_open()
        if not isinstance(request, Request):
            raise TypeError(f"request is a {type(request).__name__}: expected a Request.")
        begun = time.monotonic()
        free = self.max_active - len(self._active)
        if len(self._waiting) + self._planning >= self.max_queue + free:
            self._outcomes["queue_full"] += 1
            raise QueueFull(f"{self.max_queue} requests wait already, which is all that this batcher lets wait.")
        number = self._taken
        self._taken += 1
        self._planning += 1
        self._idle.clear()
        try:
            async with self._in_order:
                plan, noise = await self._planned(request)
        except BaseException as error:
            self._outcomes["rejected" if isinstance(error, Exception) else "cancelled"] += 1
            raise
        finally:
            self._planning -= 1
            self._look_idle()
        if self._state == "closed":
            self._outcomes["closed"] += 1
            raise BatcherClosed(f"request {number}: the batcher was closed before the request was taken.")
        array = self.like if request.x is None else request.x
        kind = (request.sample_shape, array.dtype, str(getattr(array, "device", "")), namespace(array))
        place = number - int(request.priority) * self.patience
        assert self._loop is not None
        job = _Job(request, plan, noise, number, place, kind, begun, self._loop.create_future(), previews)
        if request.timeout is not None:
            left = begun + float(request.timeout) - time.monotonic()
            job.timer = self._loop.call_later(max(left, 0.0), self._expire, job)
        insort(self._waiting, job)
        self._idle.clear()
        self._fill()
        return job

    def _fill(self) -> None:
        """Let those who wait become active where there is place, and wake the worker."""
        while self._waiting and len(self._active) < self.max_active:
            job = self._waiting.pop(0)
            self._line_up(job)
            self._active[job.number] = job
        self._wake.set()

    def _look_idle(self) -> None:
        if not (self._active or self._waiting or self._planning):
            self._idle.set()

    def _check_open(self) -> None:
        if self._state != "open":
            hint = ": use it in `async with ContinuousBatcher(...) as batcher:`." if "not" in self._state else "."
            raise BatcherClosed(f"this batcher is {self._state} and takes no requests{hint}")
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("this batcher belongs to another event loop, the one that it was entered in.")

    async def _planned(self, request: Request) -> tuple[Plan, NoiseLike]:
        """The plan of `request`, and where its noise comes from.

        Raises:
            ValueError, TypeError: there is something wrong with the request.
        """
        request.check(self.max_steps)
        self._check_shape(request)
        noise = request.seed if request.noise is None else request.noise
        if isinstance(request.sampler, Plan):
            return request.sampler, noise
        key = (request.sampler, request.steps)
        if key not in self._plans:
            planned = await asyncio.to_thread(self._plan, *key)
            self._plans[key] = planned
            if len(self._plans) > MOST_PLANS:
                self._plans.popitem(last=False)
        plan, made = self._plans[key]
        self._plans.move_to_end(key)
        if plan.is_stochastic and (made.seed_offset or made.brownian):
            noise = noise_between_steps(made, made.grid(self.noise_schedule, request.steps), noise)
        return plan, noise

    def _plan(self, wanted: str | Sampler, steps: int | None) -> tuple[Plan, Sampler]:
        made = sampler_called(wanted) if isinstance(wanted, str) else wanted
        return made.plan(self.noise_schedule, self.prediction_type, steps), made

    def _check_shape(self, request: Request) -> None:
        shape = request.sample_shape
        if self.shapes is None or (self.shapes(shape) if callable(self.shapes) else shape in self.shapes):
            return
        expected = "" if callable(self.shapes) else f": expected {' or '.join(map(str, sorted(self.shapes)))}"
        raise ValueError(f"the model takes no samples of shape {shape}{expected}.")

    # Ending requests

    def _expire(self, job: _Job) -> None:
        timeout = job.request.timeout
        self._end(job, "timed_out", RequestTimeout(f"{job} took longer than its timeout of {timeout:g} seconds."))

    def _fail(self, job: _Job, reason: str, cause: BaseException | None) -> None:
        error = RequestFailed(f"{job}: {reason}")
        error.__cause__ = cause
        self._end(job, "failed", error)

    def _end(self, job: _Job, outcome: str, error: Exception | None = None) -> None:
        """End `job`, if it has not ended: its place is free, and whoever awaits it is told."""
        if job.outcome is not None:
            return
        job.outcome = outcome
        self._outcomes[outcome] += 1
        if job.timer is not None:
            job.timer.cancel()
        if self._active.pop(job.number, None) is None:
            self._waiting.remove(job)
        if job not in self._stepping:
            self._leave(job)
        if not job.future.done():
            if outcome == "completed":
                assert job.row is not None
                job.future.set_result(job.row.result)
            elif error is not None:
                job.future.set_exception(error)
                job.future.exception()  # it has been seen to: nobody may be awaiting it any more
            else:
                job.future.cancel()
        if job.previews is not None:
            job.previews.put_nowait(None)
        self._fill()
        self._look_idle()

    def _leave(self, job: _Job) -> None:
        """Free the row of a job."""
        if job.row is not None and not job.row.has_left:
            self._batch.leave(job.row)

    def _shut(self, reason: str) -> None:
        """Take no more requests, and end those that are left."""
        self._state = "closed"
        for job in [*self._active.values(), *self._waiting]:
            self._end(job, "closed", BatcherClosed(f"{job}: {reason}"))
        self._wake.set()

    # Stepping

    async def _work(self) -> None:
        """The loop: one step after the other as long as there are requests."""
        try:
            while True:
                await asyncio.sleep(0)  # whoever was told something may ask for more before the next step
                if self._state == "closed":
                    return
                if self._active:
                    await self._step(self._next_jobs())
                else:
                    self._wake.clear()
                    await self._wake.wait()
        finally:
            self._shut("the batcher came to an end.")

    def _next_jobs(self) -> list[_Job]:
        """Who takes part in the next step: of one kind, those first that have waited longest for their turn."""
        waited = sorted(self._active.values(), key=lambda job: job.turn)
        jobs = [job for job in waited if job.kind == waited[0].kind][: self.max_batch_size]
        for job in jobs:
            self._line_up(job)
        return jobs

    def _line_up(self, job: _Job) -> None:
        """It is the turn of all others before it is that of `job`."""
        self._turn += 1
        job.turn = self._turn

    async def _step(self, jobs: list[_Job]) -> None:
        """One evaluation of `jobs`, and what follows for them.

        If it is cancelled, the thread may still be at work on their rows, which therefore stay where they are.
        """
        self._stepping, stepped = jobs, _Stepped()
        try:
            asked = await self._in_thread(self._ask, jobs, stepped)
            if asked is not None:
                inputs, outputs = asked
                if inspect.isawaitable(outputs):
                    outputs = await _awaited(outputs)
                    await self._in_thread(self._advance, inputs, outputs, stepped)
                self._steps += 1
                self._rows += len(inputs)
                self._occupancy.observe(len(inputs))
                self._rate(just_now=True)
        except Exception as error:
            cause = error.__cause__ if isinstance(error, _ModelEnded) and error.__cause__ is not None else error
            reason = f"the model failed with {type(cause).__name__}: {cause}"
            stepped.failed += [(job, reason, cause) for job in jobs]  # those who failed before have their own reason
        self._stepping = ()
        self._tell(stepped)
        for job in jobs:
            if job.outcome is not None:
                self._leave(job)

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What `function` returns, called in the batcher's thread; whatever it raises is an Exception here."""

        def call() -> Any:
            try:
                return function(*arguments), None
            except BaseException as error:  # StopIteration and SystemExit do not pass from a thread to a task
                return None, error

        assert self._loop is not None
        returned, error = await self._loop.run_in_executor(self._thread, call)
        if error is not None:
            raise _ModelEnded from error
        return returned

    def _ask(self, jobs: list[_Job], stepped: _Stepped) -> tuple[Inputs, Any] | None:
        """In the thread: let those join who are new, and ask the model about all. A plain one is advanced as well."""
        rows = [row for job in jobs if (row := self._joined(job, stepped)) is not None]
        if not rows:
            return None
        stepped.jobs = {job.row: job for job in jobs if job.row is not None}
        (inputs,) = self._batch.inputs(rows)
        with _no_gradients(inputs.x):
            outputs = self.model(inputs.x, inputs.timesteps, [stepped.jobs[row].request for row in rows])
        if not inspect.isawaitable(outputs):
            self._advance(inputs, outputs, stepped)
        return inputs, outputs

    def _joined(self, job: _Job, stepped: _Stepped) -> Row | None:
        if job.row is None:
            try:
                request = job.request
                x = request.x
                if x is None:
                    x = start(job.plan, _empty(self.like, (1, *request.sample_shape)), request.seed)[0, ...]
                job.row = self._batch.join(job.plan, x, noise=job.noise, transform=request.transform, tag=str(job))
            except Exception as error:
                stepped.failed.append((job, f"it could not join: {error}", error))
        return job.row

    def _advance(self, inputs: Inputs, outputs: Any, stepped: _Stepped) -> None:
        """In the thread: take the model's outputs."""
        unguided = None
        if isinstance(outputs, tuple):
            if len(outputs) != 2:
                raise TypeError(f"the model returned {len(outputs)} outputs: expected one, or (guided, unguided).")
            outputs, unguided = outputs
        outputs, unguided = (_stacked(inputs, made) for made in (outputs, unguided))
        if self.check_finite:
            for index in sorted(_not_finite(inputs, outputs) | _not_finite(inputs, unguided)):
                row = inputs.rows[index]
                self._give_up(row, f"the model's output holds NaN or infinity at {_evaluation(row)}.", None, stepped)
        for row in inputs.rows if _fits(inputs, outputs) else ():
            job = stepped.jobs[row]
            if job.is_watched and not row.has_left and row.stage.stage == 0:
                try:
                    data = self._batch.data(inputs, outputs, row)
                except Exception as error:
                    self._give_up(row, f"its own function failed: {error!r}", error, stepped)
                    continue
                preview = Preview(job.request, row.stage.step, row.plan.steps, row.stage.point, data)
                stepped.previews.append((job, preview))
        for row in self._batch.advance(inputs, outputs, unguided):
            if row.error is None:
                stepped.done.append(stepped.jobs[row])
            else:
                stepped.failed.append((stepped.jobs[row], f"its own function failed: {row.error!r}", row.error))

    def _give_up(self, row: Row, reason: str, cause: Exception | None, stepped: _Stepped) -> None:
        stepped.failed.append((stepped.jobs[row], reason, cause))
        self._batch.leave(row)

    def _tell(self, stepped: _Stepped) -> None:
        """Let everybody know what the step did."""
        for job, reason, cause in stepped.failed:
            self._fail(job, reason, cause)
        for job, preview in stepped.previews:
            if job.outcome is not None:
                continue
            if job.previews is not None:
                job.previews.put_nowait(preview)
            if job.request.on_step is not None:
                try:
                    job.request.on_step(preview)
                except Exception as error:
                    self._fail(job, f"its on_step failed: {error!r}", error)
        for job in stepped.done:
            if job.outcome is None:
                self._latency.observe(time.monotonic() - job.begun)
                self._end(job, "completed")

    def _rate(self, just_now: bool = False) -> float:
        """Steps per second of late; one more, if it ended `just_now`."""
        now = time.monotonic()
        if just_now:
            self._recent.append(now)
        while self._recent and self._recent[0] < now - RATE_WINDOW:
            self._recent.popleft()
        return len(self._recent) / RATE_WINDOW


class _ModelEnded(Exception):
    """The model ended with an exception, the cause, which may be one that tasks and threads take for their own."""


async def _awaited(outputs: Awaitable[Any]) -> Any:
    """What `outputs` become; if their own task is cancelled, that is not to cancel this one."""
    task = asyncio.ensure_future(outputs)
    try:
        await asyncio.wait({task})
    finally:
        task.cancel()
    try:
        return task.result()
    except BaseException as error:
        raise _ModelEnded from error


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
    """Whether `outputs` have the shape that they should have; if not, advancing says what is wrong."""
    return bool(getattr(outputs, "shape", None) == inputs.x.shape)


def _not_finite(inputs: Inputs, outputs: Any) -> set[int]:
    """Which rows of `outputs` hold NaN or infinity."""
    if not _fits(inputs, outputs):
        return set()
    xp = namespace(outputs)
    finite = xp.reshape(xp.isfinite(outputs), (len(inputs), -1))
    good = finite.all(dim=1) if is_torch(finite) else xp.all(finite, axis=1)
    return {index for index, is_good in enumerate(good.tolist()) if not is_good}


def _default_like() -> Array:
    import torch

    return torch.empty(0)


def _empty(like: Array, shape: tuple[int, ...]) -> Array:
    if is_torch(like):
        return like.new_empty(shape)
    return namespace(like).empty(shape, dtype=like.dtype)


def _no_gradients(x: Array) -> contextlib.AbstractContextManager[Any]:
    return namespace(x).no_grad() if is_torch(x) else contextlib.nullcontext()

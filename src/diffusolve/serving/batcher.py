"""Many requests, one batch: an asyncio front end of :class:`~diffusolve.batching.BatchRun`."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Collection
from itertools import chain
from types import TracebackType
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from diffusolve.arrays import Array, namespace
from diffusolve.catalog import sampler as sampler_called
from diffusolve.errors import shown
from diffusolve.noise import NoiseSchedule
from diffusolve.plan import Plan
from diffusolve.prediction import PredictionOrName
from diffusolve.randomness import NoiseLike
from diffusolve.sampling import Sampler, noise_between_steps
from diffusolve.serving.errors import BatcherClosed, QueueFull, RequestFailed, RequestTimeout
from diffusolve.serving.metrics import Histogram, counter_lines, gauge_lines
from diffusolve.serving.queue import Job, Queue
from diffusolve.serving.request import Preview, Request
from diffusolve.serving.stepping import Model, Stepped, Stepper, described

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ContinuousBatcher"]

OUTCOMES = ("completed", "failed", "cancelled", "timed_out", "rejected", "queue_full", "closed")
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0)
RATE_WINDOW = 10.0
"""The number of seconds over which steps per second are counted."""

MOST_PLANS = 256


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
        max_priority: the most points of priority that a request may have, or lack: from -`max_priority` up.
        patience: for each point of priority that a request has more, it goes before those that came less than
            `patience` requests earlier. So nobody waits for more than ``2 * max_priority * patience`` later ones.
        check_finite: fail requests whose outputs hold NaN or infinity. On an accelerator this waits for each step.

    Raises:
        ValueError: a limit that is not at least 1; the noise schedule or the prediction type is not known.
    """

    def __init__(
        self,
        model: Model,
        *,
        noise_schedule: NoiseSchedule | None = None,
        prediction_type: PredictionOrName | None = None,
        shapes: Collection[tuple[int, ...]] | Callable[[tuple[int, ...]], bool] | None = None,
        like: Array | None = None,
        max_batch_size: int = 8,
        max_active: int | None = None,
        max_queue: int = 1000,
        max_steps: int = 1000,
        max_priority: int = 3,
        patience: int = 100,
        check_finite: bool = True,
    ) -> None:
        limits = {"max_batch_size": max_batch_size, "max_active": max_active, "max_queue": max_queue}
        for name, limit in (
            limits | {"max_steps": max_steps, "max_priority": max_priority, "patience": patience}
        ).items():
            if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
                raise ValueError(f"{name} is {limit!r}: expected a whole number, at least 1.")
        self.model = model
        self.noise_schedule: Any = noise_schedule or getattr(model, "noise_schedule", None)
        self.prediction_type: Any = prediction_type or getattr(model, "prediction", None)
        for name in ("noise_schedule", "prediction_type"):
            if getattr(self, name) is None:
                raise ValueError(f"the model does not say its {name}: give {name}=... to the batcher.")
        self.shapes = shapes if shapes is None or callable(shapes) else _shapes(shapes)
        self.like = _default_like() if like is None else like
        self.max_batch_size = max_batch_size
        self.max_active = max_batch_size if max_active is None else max_active
        self.max_queue = max_queue
        self.max_steps = max_steps
        self.max_priority = max_priority
        self.patience = patience
        self.check_finite = check_finite
        self._queue = Queue(self.max_active, max_queue, patience)
        self._stepper = Stepper(model, self.like, check_finite)
        self._planning = 0
        self._being_planned: WeakValueDictionary[Any, asyncio.Lock] = WeakValueDictionary()
        self._taken = 0
        self._plans: OrderedDict[Any, tuple[Plan, Sampler]] = OrderedDict()
        self._state = "not entered"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._worker: asyncio.Task[None] | None = None
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

    @property
    def is_full(self) -> bool:
        """True if one more request would get :class:`QueueFull <diffusolve.serving.QueueFull>`."""
        return not self._queue.has_room(self._planning)

    def metrics(self) -> str:
        """Counts and times of requests and steps so far, in the text format of Prometheus."""
        name = "diffusolve"
        lines = chain(
            gauge_lines(f"{name}_queue_length", "Requests that wait.", len(self._queue.waiting)),
            gauge_lines(f"{name}_active_requests", "Requests under way.", len(self._queue.active)),
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
            self._stepper.close()
        if not worker.cancelled() and (error := worker.exception()) is not None:
            raise error

    async def __aenter__(self) -> Self:
        if self._state != "not entered":
            raise BatcherClosed(f"this batcher is {self._state}: it can be entered once; make another.")
        self._state = "open"
        self._loop = asyncio.get_running_loop()
        self._stepper.open()
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

    async def _take(self, request: Request, previews: asyncio.Queue[Preview | None] | None) -> Job:
        """The job of `request`, which waits for its first step."""
        self._check_open()
        if not isinstance(request, Request):
            raise TypeError(f"request is a {type(request).__name__}: expected a Request.")
        begun = time.monotonic()
        if self.is_full:
            self._outcomes["queue_full"] += 1
            raise QueueFull(f"{self.max_queue} requests wait already, which is all that this batcher lets wait.")
        number = self._taken
        name = f"request {number}" + (f" ({shown(request.tag)})" if request.tag is not None else "")
        self._taken += 1
        self._planning += 1
        self._idle.clear()
        try:
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
        place = self._queue.place(number, int(request.priority))
        assert self._loop is not None
        job = Job(request, name, plan, noise, number, place, kind, begun, self._loop.create_future(), previews)
        if request.timeout is not None:
            left = begun + float(request.timeout) - time.monotonic()
            job.timer = self._loop.call_later(max(left, 0.0), self._expire, job)
        self._idle.clear()
        self._queue.add(job)
        self._wake.set()
        return job

    def _look_idle(self) -> None:
        if not (self._queue or self._planning):
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
        request.check(self.max_steps, self.max_priority)
        self._check_shape(request)
        noise = request.seed if request.noise is None else request.noise
        if isinstance(request.sampler, Plan):
            return request.sampler, noise
        plan, sampler = await self._plan_of(request.sampler, request.steps)
        if plan.is_stochastic and (sampler.seed_offset or sampler.brownian):
            noise = noise_between_steps(sampler, sampler.grid(self.noise_schedule, request.steps), noise)
        return plan, noise

    async def _plan_of(self, wanted: str | Sampler, steps: int | None) -> tuple[Plan, Sampler]:
        """The plan, made in another thread unless it is there. Only requests of the same plan wait for each other."""
        key = (wanted, steps)
        if key not in self._plans:
            async with self._being_planned.setdefault(key, asyncio.Lock()):
                if key not in self._plans:
                    self._plans[key] = await asyncio.to_thread(self._plan, wanted, steps)
        planned = self._plans[key]
        self._plans.move_to_end(key)
        if len(self._plans) > MOST_PLANS:
            self._plans.popitem(last=False)
        return planned

    def _plan(self, wanted: str | Sampler, steps: int | None) -> tuple[Plan, Sampler]:
        sampler = sampler_called(wanted) if isinstance(wanted, str) else wanted
        return sampler.plan(self.noise_schedule, self.prediction_type, steps), sampler

    def _check_shape(self, request: Request) -> None:
        shape = request.sample_shape
        if self.shapes is None or (self.shapes(shape) if callable(self.shapes) else shape in self.shapes):
            return
        expected = "" if callable(self.shapes) else f": expected {' or '.join(map(str, sorted(self.shapes)))}"
        raise ValueError(f"the model takes no samples of shape {shape}{expected}.")

    # Ending requests

    def _expire(self, job: Job) -> None:
        timeout = job.request.timeout
        self._end(job, "timed_out", RequestTimeout(f"{job} took longer than its timeout of {timeout:g} seconds."))

    def _fail(self, job: Job, reason: str, cause: BaseException | None) -> None:
        error = RequestFailed(f"{job}: {reason}")
        error.__cause__ = cause
        self._end(job, "failed", error)

    def _end(self, job: Job, outcome: str, error: Exception | None = None) -> None:
        """End `job`, if it has not ended: its place is free, and whoever awaits it is told."""
        if job.outcome is not None:
            return
        job.outcome = outcome
        self._outcomes[outcome] += 1
        if job.timer is not None:
            job.timer.cancel()
        self._queue.remove(job)
        self._stepper.leave(job)
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
        self._wake.set()
        self._look_idle()

    def _shut(self, reason: str) -> None:
        """Take no more requests, and end those that are left."""
        self._state = "closed"
        for job in self._queue.jobs():
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
                if self._queue.active:
                    await self._step(self._queue.next_jobs(self.max_batch_size))
                else:
                    self._wake.clear()
                    await self._wake.wait()
        finally:
            self._shut("the batcher came to an end.")

    async def _step(self, jobs: list[Job]) -> None:
        """One evaluation of `jobs`, and what follows for them."""
        stepped = await self._stepper.step(jobs)
        if stepped.rows is not None:
            self._steps += 1
            self._rows += stepped.rows
            self._occupancy.observe(stepped.rows)
            self._rate(just_now=True)
        self._tell(stepped)
        for job in jobs:
            if job.outcome is not None:
                self._stepper.leave(job)

    def _tell(self, stepped: Stepped) -> None:
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
                except BaseException as error:  # SystemExit and the like too: this task is everybody's
                    self._fail(job, f"its on_step failed: {described(error)}", error)
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


def _shapes(given: Collection[tuple[int, ...]]) -> set[tuple[int, ...]]:
    """The `given` shapes. Raises TypeError for what is no collection of shapes, such as a single one."""
    try:
        return {tuple(shape) for shape in given}
    except TypeError:
        raise TypeError(
            f"shapes is {shown(given)}: expected several shapes, for example [(4, 64, 64)], or a function."
        ) from None


def _default_like() -> Array:
    import torch

    return torch.empty(0)

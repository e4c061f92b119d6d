"""A run: a position in a plan and what is remembered there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from diffusolve.arrays import Array, copied, is_torch
from diffusolve.backends.backend import Combine, one_by_one
from diffusolve.backends.choice import backend_of, fastest, fused_backend
from diffusolve.backends.log_prob import LogProbArguments, LogProbStep, Told, moved_on, transition_for
from diffusolve.backends.lowered import PREPARES, READS_UNGUIDED, SAMPLE, UNGUIDED, BoundStage, Lowered, LoweredStage
from diffusolve.backends.lowering import lower
from diffusolve.backends.transform import Transform
from diffusolve.errors import shown, unknown_name
from diffusolve.plan import Plan, Stage

if TYPE_CHECKING:
    from diffusolve.backends.buffers import Buffers

__all__ = ["BACKENDS", "BackendName", "DrawNoise", "Run", "data_prediction"]

BackendName: TypeAlias = Literal["auto", "fused"]

BACKENDS: tuple[BackendName, ...] = get_args(BackendName)

DrawNoise = Callable[[Array, float, float], Array]
"""Draws standard normal noise like an array, for the interval between two sigmas."""


class Run:
    """Walks a plan with real arrays. Runs share nothing, and are the only mutable thing of sampling.

        run = Run(plan, draw_noise)
        x = run.begin(x)
        while not run.is_done:
            output = network(run.model_input(x), run.stage.point.timestep)
            x = run.step(output, x)

    A plan that ``reads_unguided`` (CFG++) takes two outputs, ``run.step(guided, x, unguided)``.

    Half-precision samples are combined in float32 and come back in the precision that they have; for a loop that rounds
    to half precision at its end only, begin with a float32 sample. A step that raises leaves the run where it was. One
    thread at a time may step a run; a second one gets an error.

    Args:
        plan: what to do.
        draw_noise: where a stochastic plan's noise comes from.
        transform: applied to every data prediction before it is used; it may write to it.
        backend: "auto", or "fused", which lets torch.compile make a kernel for each form of a stage: on a GPU a stage
            is then one kernel. The first run takes seconds to compile them.
        donate: the samples and outputs that :meth:`step` is given may be overwritten, so that it takes no memory but
            for what it remembers. Not for tensors that gradients flow through, nor for one that is both.
    """

    def __init__(
        self,
        plan: Plan,
        draw_noise: DrawNoise | None = None,
        transform: Transform | None = None,
        donate: bool = False,
        backend: BackendName = "auto",
    ) -> None:
        if backend not in BACKENDS:
            raise unknown_name("backend", backend, BACKENDS)
        if not isinstance(plan, Plan):
            raise TypeError(f"plan is a {type(plan).__name__}: expected a Plan, which Sampler.plan() makes.")
        if draw_noise is not None and not callable(draw_noise):
            raise TypeError(
                f"draw_noise is {shown(draw_noise)}: expected a function (like, sigma_from, sigma_to) -> noise, which "
                "diffusolve.randomness.noise_source(seeds, like) makes of seeds."
            )
        if plan.is_stochastic and draw_noise is None:
            raise ValueError(f"{plan.solver} is stochastic: give its run a source of noise.")
        self.plan = plan
        self.position = 0
        self.draw_noise = draw_noise
        self.transform = transform
        self.donate = donate
        self.backend = backend
        self._slots: list[Any] = [None]  # what is remembered; popped by a step, so that a second one finds nothing
        self._empty: list[Any] = []
        self._kept: Buffers | None = None  # memory of runs before this one
        self._stages: tuple[BoundStage, ...] = ()
        self._backend: Any = None
        self._shape: Any = None

    @property
    def is_done(self) -> bool:
        """True once all stages have been run."""
        return self.position == self.plan.nfe

    @property
    def registers(self) -> dict[str, Array]:
        """The arrays remembered from earlier stages, by the plan's names, up to a factor. Not to be changed."""
        slots, lowered = self._remembered, self._lowered()
        before = lowered.stages[self.position - 1] if self.position else lowered.opening
        if slots is None or before is None:
            return {}
        return {register: slots[slot] for register, slot in before.holds}

    @property
    def plain_registers(self) -> dict[str, Array]:
        """The same as the plan has them; without those that were added up, which cannot be told apart any more."""
        known, factors = {name for live in self.plan.live() for name in live}, self._lowered().factors
        return {
            name: backend_of(array).combine((array,), (factors[name],)) if name in factors else array
            for name, array in self.registers.items()
            if name in known
        }

    @property
    def _remembered(self) -> list[Any] | None:
        """The arrays in the slots; None before the first step and after the last."""
        return next(iter(self._slots), None)

    @property
    def last_stage(self) -> Stage:
        """The stage that the last output belonged to."""
        return self.plan.stages[self.position - 1]

    @property
    def stage(self) -> Stage:
        """The stage that the next output belongs to."""
        if self.is_done:
            raise self._is_over()
        return self.plan.stages[self.position]

    def begin(self, x: Array) -> Array:
        """The first sample that the network is asked about, from `x`, the sample at ``plan.start``."""
        self._bind(x, begun=self._remembered is not None)
        lowered = self._lowered()
        opening = lowered.opening
        if opening is None:
            return x
        places = [*self._empty, None, None, x]
        if opening.keeps is not None:
            places[opening.keeps] = x
        self._prepare(opening, None, places)
        following = one_by_one(backend_of(x), opening.sums)(places)
        self._slots[:] = [[None if slot in opening.frees else held for slot, held in enumerate(places[:UNGUIDED])]]
        return following

    def model_input(self, x: Array) -> Array:
        """The sample `x` as the network sees it."""
        stages = self._stages
        if not stages:
            begun = self._remembered is not None
            stages = self._bind(x, begun=begun)
            if begun:  # of samples, whose shape an input need not have: it may be doubled for guidance
                self._backend = self._shape = None
        try:
            show = stages[self.position].show
        except IndexError:
            raise self._is_over() from None
        return x if show is None else show(x)

    def data(self, output: Array, x: Array) -> Array:
        """The prediction of x0 by the network's `output` on sample `x`, transformed."""
        return data_prediction(self.stage, x, output, self.transform)

    def step(self, output: Array, x: Array, unguided: Array | None = None, *, log_prob: bool = False) -> Array:
        """The next sample, from the network's `output` on the current sample `x`.

        Args:
            output: what the network says of ``model_input(x)``, with guidance if there is any; the shape of `x`.
            x: the sample that :meth:`begin` or the last step returned.
            unguided: what it says without guidance, the shape of `x`: for plans that read it, in those stages at least
                whose ``reads_unguided`` is true.
            log_prob: short for :meth:`step_log_prob`, which says more and is what is returned then.

        Raises:
            ValueError: an output has another shape than `x`, or `x` another than earlier samples that are remembered;
                a remembered tensor was resized since; `unguided` is missing, or the plan has no use for it.
            IndexError: the plan has no more stages.
            RuntimeError: another step of this run is under way.
        """
        if log_prob:
            return self.step_log_prob(output, x, None, unguided)
        held = self._slots
        try:
            slots = held.pop()
        except IndexError:
            raise self._is_busy() from None
        try:
            stages, shape = self._stages, self._shape
            if x.shape != shape or output.shape != shape or not self._backend.takes(x, output):
                stages = self._bind(x, output, begun=slots is not None)
            position = self.position
            try:
                stage = stages[position]
            except IndexError:
                raise self._is_over() from None
            if self.donate and (x is output or self._backend.sees_gradients):
                _check_donated(x, output)
            lowered, _, convert, update, keeps, frees, traits = stage
            if unguided is not None or traits & READS_UNGUIDED:
                update = self._with_unguided(stage, x, unguided, slots is not None).update
            places = [*(self._empty if slots is None else slots), unguided, output, x]
            if keeps is not None:
                places[keeps] = x
            if traits & PREPARES:
                self._prepare(lowered, convert, places)
            following = update(places)
            self.position = position = position + 1
            if position == len(stages):
                slots = None
            else:
                del places[UNGUIDED:]
                for slot in frees:
                    places[slot] = None
                slots = places
            return following
        finally:
            held.append(slots)

    def step_log_prob(
        self,
        output: Array,
        x: Array,
        next_sample: Array | None = None,
        unguided: Array | None = None,
        *,
        dims: int | Sequence[int] | None = None,
        reduction: str = "mean",
    ) -> LogProbStep:
        """The next sample as :meth:`step` makes it, or the one given, with its log-probability given those before.

        That is the logarithm of the normal density, constants and ``log(std)`` included. Gradients flow from it and
        from the mean to `output`, not through a sample that is drawn. With `next_sample` the run goes on as if its
        noise had led there: the ratio of PPO, for a step made before, by another network.

            old = run.step_log_prob(output, x)
            new = other.step_log_prob(network(x), x, old.next_sample)
            ratio = (new.log_prob - old.log_prob).exp()

        Args:
            output, x, unguided: as for :meth:`step`.
            next_sample: the sample to take, shape of `x`; when missing, one is drawn as :meth:`step` draws it.
            dims: the dimensions to reduce over; all but the first when missing.
            reduction: "mean", the average over these dimensions as in Flow-GRPO and DDPO, or "sum", the density.

        Raises:
            NoDensityError: the step adds no noise, or noise that is not independent of what was drawn before. The run
                is left where it was: :meth:`step` makes such a step.
            ValueError, IndexError, RuntimeError: as of :meth:`step`; a `next_sample` of another shape, `dims` that
                `x` does not have.
        """
        return self._step_asked(output, x, LogProbArguments(next_sample, dims, reduction), unguided)

    def _step_asked(
        self, output: Array, x: Array, asked: LogProbArguments, unguided: Array | None = None
    ) -> LogProbStep:
        """The same, for what is `asked`."""
        held = self._slots
        try:
            slots = held.pop()
        except IndexError:
            raise self._is_busy() from None
        try:
            asked.check(x)
            stages = self._stages
            if not stages or x.shape != self._shape or output.shape != x.shape:
                stages = self._bind(x, output, begun=slots is not None)
            position, told = self.position, Told.by(self.draw_noise)
            if position == len(stages):
                raise self._is_over()
            bound = stages[position]
            stage, backend = bound.lowered, backend_of(x)
            transition_for(self.plan, position, told)
            if unguided is not None or bound.traits & READS_UNGUIDED:
                self._with_unguided(bound, x, unguided, slots is not None)
            places = [*(self._empty if slots is None else slots), unguided, output, x]
            if stage.keeps is not None:
                places[stage.keeps] = x
            if stage.data is not None and self.transform is not None:
                data = backend.bind(stage.data)(places)
                places[stage.data.target] = self.transform(data, self.plan.stages[position])
            result = moved_on(asked, told, stage, places, backend, self._drawing(x))
            self.position = position + 1
            if self.position == len(stages):
                slots = None
            else:
                del places[UNGUIDED:]
                for slot in stage.frees:
                    places[slot] = None
                slots = places
            return result
        finally:
            held.append(slots)

    def _drawing(self, x: Array) -> Callable[[float, float], Array]:
        """The source of noise for samples like `x`."""
        assert self.draw_noise is not None  # the plan is stochastic
        return partial(self.draw_noise, x)

    def _with_unguided(self, stage: BoundStage, x: Array, unguided: Array | None, begun: bool) -> BoundStage:
        """`stage`, bound for the unguided output as well.

        Raises:
            ValueError: it is missing where it is read, there where nothing reads it, or of another shape than `x`.
        """
        if unguided is None:
            raise ValueError(
                f"{self.plan.solver} needs the network's output without guidance as well: step(guided, x, unguided)."
            )
        if not self.plan.reads_unguided:
            raise ValueError(
                f"{self.plan.solver} has no use for an unguided output, which solvers with cfg_pp=True take: leave it "
                "out."
            )
        if unguided.shape != x.shape or not self._backend.takes(x, unguided):
            stage = self._bind(x, unguided, "unguided output", begun)[self.position]
        return stage

    def _bind(
        self, x: Array, output: Array | None = None, name: str = "output", begun: bool = False
    ) -> tuple[BoundStage, ...]:
        """The stages, ready for arrays like these; a run that has `begun` may remember others."""
        output = x if output is None else output
        generic: Any = backend_of(x)
        if output.shape != x.shape:
            raise ValueError(
                f"the network's {name} has shape {tuple(output.shape)}, but the sample has shape {tuple(x.shape)}: "
                "they must be equal."
            )
        if begun and self._shape not in (None, x.shape):
            raise ValueError(
                f"the sample has shape {tuple(x.shape)}, but this run began with shape {tuple(self._shape)} and "
                "remembers earlier steps: begin another run."
            )
        lowered = self._lowered()
        if self.backend == "fused":
            if not is_torch(x):
                raise TypeError(f'backend is "fused", which is for torch tensors, not for a {type(x).__name__}.')
            self._backend = fused_backend()
        elif begun and self._backend is not None:  # what is remembered may be of another kind
            self._backend = generic
        else:
            self._backend = fastest(x, output, lowered.is_simple)
        self._shape = x.shape
        self._empty = [*lowered.slots * [None], self._kept]  # the last is for the run's buffers, in places[NEXT]
        self._stages = _bound_stages(lowered, self._backend)
        return self._stages

    def _lowered(self) -> Lowered:
        return lower(self.plan, self.transform, self.donate)

    def from_start(self, draw_noise: DrawNoise | None) -> Run:
        """Another run of the same plan and transform from its start, with this one's preparations."""
        run = object.__new__(Run)
        run.__dict__.update(self.__dict__, position=0, _slots=[None], draw_noise=draw_noise)
        return run

    def keep(self, buffers: Buffers | None) -> None:
        """From now on write large results into memory of `buffers`, which outlive this run, or into its own."""
        self._kept = buffers
        if self._empty:
            self._empty = [*self._empty[:-1], buffers]  # another list: runs again share it

    def copied(self) -> Run:
        """Another run where this one stands; what it remembers is its own, since a run may overwrite that."""
        run, remembered = self.from_start(self.draw_noise), self._remembered
        if remembered is not None:
            copies = [None if array is None else copied(array) for array in remembered[: self._lowered().slots]]
            run._slots = [[*copies, None]]  # without buffers
        run.position = self.position
        run.keep(None)
        return run

    __copy__ = copied

    def _prepare(self, lowered: LoweredStage, convert: Combine | None, places: list[Any]) -> None:
        """Put the transformed data prediction and the noises that the sums read into their slots."""
        if lowered.data is not None and convert is not None and self.transform is not None:
            places[lowered.data.target] = self.transform(convert(places), self.plan.stages[self.position])
        for slot, sigma_from, sigma_to in lowered.noises:
            assert self.draw_noise is not None
            places[slot] = self.draw_noise(places[SAMPLE], sigma_from, sigma_to)

    def _is_over(self) -> IndexError:
        return IndexError(
            f"the plan has {self.plan.nfe} evaluations ({self.plan.steps} steps) and all of them are done: start a new "
            "run."
        )

    def _is_busy(self) -> RuntimeError:
        return RuntimeError(
            f"evaluation {self.position + 1} of this run of {self.plan.solver} is under way in another thread, or in a "
            "transform or noise source that steps its own run: a run takes one step at a time. Give each thread a run "
            "of its own; runs share nothing."
        )

    def __getstate__(self) -> dict[str, Any]:
        made_anew = {"_stages": (), "_backend": None, "_shape": None}  # functions, from the plan
        return {**vars(self), **made_anew, "_slots": [self._remembered]}


def data_prediction(stage: Stage, x: Array, output: Array, transform: Transform | None) -> Array:
    """The prediction of x0 by the network's `output` on sample `x` in a stage, transformed."""
    data = backend_of(x).combine((x, output), (stage.a, stage.b))
    return data if transform is None else transform(data, stage)


def _check_donated(x: Array, output: Array) -> None:
    if x is output:
        raise ValueError("the sample and the network's output are the same array, and both are donated: copy one.")
    if x.requires_grad or output.requires_grad:
        raise ValueError("a tensor that requires gradients cannot be overwritten: leave donate=True out.")


@lru_cache(maxsize=1024)
def _bound_stages(lowered: Lowered, backend: Any) -> tuple[BoundStage, ...]:
    return tuple(
        BoundStage.of(
            stage,
            show=None if stage.scale == 1.0 else backend.scaled(stage.scale),
            update=backend.update(stage),
            convert=None if stage.data is None else backend.bind(stage.data),
        )
        for stage in lowered.stages
    )

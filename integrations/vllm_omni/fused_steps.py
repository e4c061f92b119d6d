"""Step-wise execution in vLLM-Omni by plans: one call moves all requests a step on, whatever their samplers are."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import diffusolve
from diffusolve.batching.rows import Row

__all__ = ["FusedSteps"]

ROWS = "diffusolve_rows"
"""The key in a state's `extra` of a request's rows."""


class FusedSteps:
    """A mixin for pipelines with step-wise execution (``SupportsStepExecution`` of vLLM-Omni 0.30).

        class Pipeline(FusedSteps, QwenImagePipeline): ...

    The pipeline encodes, predicts and decodes as before. Between these its requests are rows of one
    :class:`~diffusolve.BatchRun`, which the runner's call of :meth:`denoise_step` moves all at once, each by the plan
    of its own sampler; :meth:`step_scheduler`, which the runner calls for one request after the other, hands out what
    is there. A request says its sampler in ``sampling_params.extra_args["sampler"]``, by any name of
    :func:`diffusolve.sampler`; without one it is :attr:`default_sampler`. A row's numbers do not depend on its company,
    as far as the network has that property.

    Attributes:
        default_sampler: the name of the sampler where a request has none.
    """

    default_sampler = "Euler"

    def prepare_encode(self, state: Any, **kwargs: Any) -> Any:
        """Let the pipeline prepare `state`, and take the place of its scheduler.

        The steps are those that the pipeline has asked its scheduler for, shift included: a plan over its sigmas.

        Raises:
            UnknownNameError: no sampler has the name that is asked for.
            ValueError: the pipeline's scheduler is not for flow matching, or the sampler is one of CFG++.
        """
        state = super().prepare_encode(state, **kwargs)  # type: ignore[misc]  # of the pipeline
        plan = self._plan(state)
        state.timesteps = torch.tensor(plan.timesteps, dtype=torch.float32, device=state.latents.device)
        state.step_index = 0
        seed = state.sampling.seed
        batch = self._batch
        rows = []
        for number, x in enumerate(state.latents):
            noise = (0 if seed is None else seed) + number if plan.is_stochastic else None
            rows.append(batch.join(plan, x, noise=noise, tag=f"{state.request_id}[{number}]"))
        state.extra[ROWS] = rows
        weakref.finalize(state, _leave, batch, rows)  # a request that is given up is forgotten by the runner only
        return state

    def denoise_step(self, input_batch: Any, *, states: Sequence[Any] | None = None, **kwargs: Any) -> Tensor | None:
        """The pipeline's prediction for the requests of `input_batch`, and the step of all of them.

        Raises:
            ValueError: the runner does not say whose requests these are.
        """
        states = states or input_batch.states
        if not states:
            raise ValueError("states are missing: expected the requests of the batch, which the runner of 0.30 passes.")
        predicted: Tensor | None = super().denoise_step(input_batch, states=states, **kwargs)  # type: ignore[misc]
        if predicted is not None:
            batch, rows = self._batch, [row for state in states for row in state.extra[ROWS]]
            for inputs in batch.inputs(rows):
                places = [rows.index(row) for row in inputs.rows]
                batch.advance(inputs, predicted if places == [*range(len(rows))] else predicted[places])
        return predicted

    def step_scheduler(self, state: Any, noise_pred: Tensor | None, **kwargs: Any) -> None:
        """Put the samples that :meth:`denoise_step` has moved into `state`."""
        if noise_pred is None or getattr(self, "interrupt", False):
            return
        latents: Tensor = state.latents
        moved = [row.result if row.is_done or row.error else row.sample for row in state.extra[ROWS]]
        state.latents = torch.stack(moved).to(latents.dtype)
        state.step_index += 1

    def _plan(self, state: Any) -> diffusolve.Plan:
        """The plan of the sampler that `state` asks for, over the sigmas of its scheduler."""
        scheduler = state.scheduler
        sigmas, steps = getattr(scheduler, "sigmas", None), state.total_steps
        if sigmas is None or len(sigmas) != steps + 1 or float(sigmas[0]) > 1.0:
            raise ValueError(
                f"the scheduler of request {state.request_id} is a {type(scheduler).__name__}: expected one for flow "
                "matching, with a sigma of at most 1 for each of its timesteps and for the end."
            )
        name = (state.sampling.extra_args or {}).get("sampler", self.default_sampler)
        count = int(scheduler.config["num_train_timesteps"])
        spacing = diffusolve.spacing.Sigmas(sigmas=tuple(float(sigma) for sigma in sigmas))
        sampler = diffusolve.Sampler(diffusolve.sampler(name).solver, spacing)
        plan = sampler.plan(diffusolve.FlowMatching(num_train_timesteps=count), "flow")
        if plan.reads_unguided:
            raise ValueError(f"{name} needs the network's output without guidance, which no step is handed here.")
        return plan

    @property
    def _batch(self) -> diffusolve.BatchRun:
        """The rows of all requests of this pipeline."""
        batch: diffusolve.BatchRun | None = vars(self).get("_diffusolve_batch")
        if batch is None:
            batch = vars(self)["_diffusolve_batch"] = diffusolve.BatchRun()
        return batch


def _leave(batch: diffusolve.BatchRun, rows: Sequence[Row]) -> None:
    for row in rows:
        if not row.has_left:
            batch.leave(row)

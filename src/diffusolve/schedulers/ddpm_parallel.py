"""DDPMParallelScheduler."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffusolve.schedulers.ddpm import LEAST_VARIANCE, VARIANCES, DDPMScheduler
from diffusolve.solvers.ancestral import split_noise
from diffusolve.solvers.ddpm import forward_noise

__all__ = ["DDPMParallelScheduler"]


class DDPMParallelScheduler(DDPMScheduler):
    """DDPM that can also step the rows of a batch from timesteps of their own, as parallel sampling does.

    Shih et al. 2023, Parallel Sampling of Diffusion Models (ParaDiGMS). Everything else, the options included, is
    :class:`~diffusolve.schedulers.ddpm.DDPMScheduler`. Linear in the sample, unless data predictions are clipped.
    """

    _is_ode_scheduler = False

    def batch_step_no_noise(self, model_output: Tensor, timesteps: Tensor, sample: Tensor) -> Tensor:
        """The rows of a batch one step on, each from its own timestep to where :meth:`step` leads, without its noise.

        Args:
            model_output: shape (batch, channels, ...), with twice the channels of `sample` for a learned variance.
            timesteps: timesteps of the run, or whole training timesteps if there is none, shape (batch,).
            sample: shape (batch, channels, ...).

        Raises:
            ValueError: a timestep is none of the run's, or there are not as many as rows.
        """
        if model_output.shape != sample.shape:
            model_output = model_output[:, : sample.shape[1]]
        return self._rows_stepped(model_output, timesteps, sample)

    def _get_variance(self, timestep: Any) -> Tensor:  # type: ignore[override]  # as parallel sampling asks
        """The variance that a step from `timestep` adds; pipelines draw their noise and measure their errors by it."""
        at = int(timestep)
        s, t = self._point(at), self._point(self.previous_timestep(at))
        forward = VARIANCES[self.config["variance_type"]] == "forward"
        deviation = forward_noise(s, t) if forward else split_noise(s, t, 1.0)[0]
        return torch.tensor(max(deviation**2, LEAST_VARIANCE))

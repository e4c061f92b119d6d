"""DDIMParallelScheduler."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffusolve.schedulers.ddim import DDIMScheduler
from diffusolve.solvers.ancestral import split_noise

__all__ = ["DDIMParallelScheduler"]


class DDIMParallelScheduler(DDIMScheduler):
    """DDIM that can also step the rows of a batch from timesteps of their own, as parallel sampling does.

    Shih et al. 2023, Parallel Sampling of Diffusion Models (ParaDiGMS). Everything else, the options included, is
    :class:`~diffusolve.schedulers.ddim.DDIMScheduler`. Linear in the sample, unless data predictions are clipped.
    """

    _is_ode_scheduler = True

    def batch_step_no_noise(
        self,
        model_output: Tensor,
        timesteps: Tensor,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
    ) -> Tensor:
        """The rows of a batch one step on, each from its own timestep.

        Args:
            model_output, sample: shape (batch, ...).
            timesteps: whole training timesteps, shape (batch,).
            eta: 0; what adds noise has no parallel form.
            use_clipped_model_output: as in :meth:`step`.

        Raises:
            ValueError: `eta` is not 0, or there are not as many timesteps as rows.
        """
        if eta != 0.0:
            raise ValueError(f"eta is {eta:g}: expected 0, since parallel steps add no noise; use step for others.")
        raw = self._clips and not use_clipped_model_output
        return self._rows_stepped(model_output, timesteps, sample, eta=0.0, unclipped_noise=raw)

    def _batch_get_variance(self, t: Tensor, prev_t: Tensor) -> Tensor:
        """The same for several steps at once, shape (steps,)."""
        return torch.stack([self._get_variance(*pair) for pair in zip(t.tolist(), prev_t.tolist(), strict=True)])

    def _get_variance(self, timestep: Any, prev_timestep: Any = None) -> Tensor:
        """The variance that DDPM would add in a step from `timestep`; pipelines measure their errors in it."""
        at = int(timestep)
        before = self._previous(None, at, None) if prev_timestep is None else int(prev_timestep)
        return torch.tensor(split_noise(self._point(at), self._point(before), 1.0)[0] ** 2)

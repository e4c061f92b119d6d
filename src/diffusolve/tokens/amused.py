"""AmusedScheduler."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor

from diffusolve.config import register_to_config
from diffusolve.schedulers.step_types import by_return_dict
from diffusolve.tokens.drawing import gumbel
from diffusolve.tokens.token_scheduler import TokenOutput, TokenScheduler, check_tokens

__all__ = ["AmusedScheduler", "AmusedSchedulerOutput"]


class AmusedSchedulerOutput(TokenOutput):
    """The result of a step of :class:`AmusedScheduler`.

    Attributes:
        prev_sample: token ids, the less certain ones masked again, of the shape of the sample.
        pred_original_sample: token ids, none masked.
    """

    __slots__ = ("pred_original_sample",)
    fields: ClassVar[tuple[str, ...]] = ("prev_sample", "pred_original_sample")


class AmusedScheduler(TokenScheduler):
    """Masked tokens, of which each step keeps those that the network is surest of (MaskGIT; used by Amused).

    Chang et al. 2022, MaskGIT, section 3.2; Patil et al. 2024, aMUSEd.

    Args:
        mask_token_id: the id that stands for a masked token.
        masking_schedule: the share of tokens that stays masked falls along a "cosine" or is "linear" in the steps.
    """

    order: ClassVar[int] = 1
    temperatures: Tensor | None = None

    @register_to_config
    def __init__(self, mask_token_id: int, masking_schedule: Literal["cosine", "linear"] = "cosine") -> None:
        pass

    def set_timesteps(
        self, num_inference_steps: int, temperature: float | Sequence[float] = (2, 0), device: Any = None
    ) -> None:
        """Begin `num_inference_steps` steps.

        Args:
            num_inference_steps: how many; the timesteps count them down to 0.
            temperature: of the noise on the certainties, in the first and last step; a single number is the first's,
                and the last's is then 0.01.
            device: for the timesteps and temperatures.
        """
        self._count(num_inference_steps, device)
        first, last = temperature if isinstance(temperature, Sequence) else (temperature, 0.01)
        self.temperatures = torch.linspace(first, last, num_inference_steps, device=device)

    @by_return_dict
    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        starting_mask_ratio: float = 1.0,
        generator: Generator | None = None,
        return_dict: bool = True,
    ) -> AmusedSchedulerOutput | tuple[Tensor, Tensor]:
        """Draw every masked token, then mask again those that were least certain.

        Args:
            model_output: logits, shape (batch, tokens, vocabulary), or (batch, vocabulary, height, width).
            timestep: one of ``scheduler.timesteps``.
            sample: token ids, shape (batch, tokens) or (batch, height, width).
            starting_mask_ratio: the share of tokens that was masked at the start, as image to image has it.
        """
        check_tokens("sample", sample)
        tokens, logits = sample, model_output
        if sample.ndim == 3 and model_output.ndim == 4:
            tokens, logits = sample.flatten(1), model_output.flatten(2).transpose(1, 2)
        masked = tokens == self.config["mask_token_id"]
        probabilities = logits.softmax(-1)
        drawn = torch.multinomial(probabilities.reshape(-1, logits.shape[-1]), 1, generator=generator)
        predicted = torch.where(masked, drawn.reshape(tokens.shape), tokens)
        kept = predicted
        if int(timestep) > 0:
            place = self._place(timestep)
            certainty = probabilities.gather(-1, predicted[..., None])[..., 0]
            certainty = certainty.masked_fill(~masked, torch.finfo(certainty.dtype).max).clamp(min=1e-20).log()
            assert self.temperatures is not None
            certainty = certainty + self.temperatures[place] * gumbel(certainty, generator, 1e-20)
            count = (self._masked_share(place) * starting_mask_ratio * tokens.shape[1]).floor()
            count = torch.minimum(count, masked.sum(-1, keepdim=True) - 1).clamp(min=1).long()
            least_kept = certainty.sort(dim=-1).values.gather(-1, count.expand(len(tokens), 1))
            kept = predicted.masked_fill(certainty < least_kept, self.config["mask_token_id"])
        kept, predicted = kept.reshape(sample.shape), predicted.reshape(sample.shape)
        return AmusedSchedulerOutput(kept, predicted) if return_dict else (kept, predicted)

    def add_noise(self, sample: Tensor, timesteps: int | Tensor, generator: Generator | None = None) -> Tensor:
        """`sample` with as many tokens masked, on average, as after the step at the timestep `timesteps`."""
        check_tokens("sample", sample)
        share = self._masked_share(self._place(timesteps)).to(sample.device)
        drawn = torch.rand(sample.shape, device=sample.device, generator=generator)
        return sample.masked_fill(drawn < share, self.config["mask_token_id"])

    def _place(self, timestep: int | Tensor) -> int:
        """The number of the step at `timestep`."""
        if self.timesteps is None:
            raise ValueError("AmusedScheduler has no timesteps yet: call set_timesteps(num_inference_steps) first.")
        place = len(self.timesteps) - 1 - int(timestep)
        if not 0 <= place < len(self.timesteps):
            raise ValueError(
                f"timestep {int(timestep)} is not one of the run's timesteps, {len(self.timesteps) - 1} down to 0."
            )
        return place

    def _masked_share(self, place: int) -> Tensor:
        """The share of tokens that is still masked after step number `place`."""
        assert self.timesteps is not None
        done = torch.tensor(place + 1, dtype=torch.float32, device=self.timesteps.device) / len(self.timesteps)
        return torch.cos(done * math.pi / 2) if self.config["masking_schedule"] == "cosine" else 1 - done

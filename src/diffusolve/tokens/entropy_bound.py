"""EntropyBoundScheduler."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from diffusolve.config import register_to_config
from diffusolve.schedulers.step_types import by_return_dict
from diffusolve.tokens.drawing import draw_tokens
from diffusolve.tokens.token_scheduler import TokenOutput, TokenScheduler, check_tokens, step_number

__all__ = ["EntropyBoundScheduler", "EntropyBoundSchedulerOutput"]


class EntropyBoundSchedulerOutput(TokenOutput):
    """The result of a step of :class:`EntropyBoundScheduler`.

    Attributes:
        prev_sample: token ids, the accepted ones as drawn and the others random, shape (batch, tokens).
        accepted_index: True where a token was accepted.
        sampled_tokens, sampled_probs: the tokens drawn and their probabilities.
        pred_logits: the logits that they were drawn from, the temperature applied, shape (batch, tokens, vocabulary).
    """

    __slots__ = ("accepted_index", "pred_logits", "sampled_probs", "sampled_tokens")
    fields: ClassVar[tuple[str, ...]] = (
        "prev_sample",
        "accepted_index",
        "sampled_tokens",
        "sampled_probs",
        "pred_logits",
    )


class EntropyBoundScheduler(TokenScheduler):
    """Tokens accepted together as long as they can hardly depend on each other; the rest become random again.

    Ben-Hamu et al. 2025, Accelerated Sampling from Masked Diffusion Models via Entropy Bounded Unmasking: of the tokens
    in order of entropy, those are accepted for which the sum of entropies, without the largest, is within a bound. The
    temperature falls linearly from the first step on.

    Args:
        entropy_bound: how much entropy, in nats, may be accepted at once.
        t_max, t_min: the temperature of the first step, and what it would reach one step after the last.
        num_inference_steps: the number of steps.
    """

    order: ClassVar[int] = 1

    @register_to_config
    def __init__(
        self, entropy_bound: float = 0.1, t_max: float = 0.8, t_min: float = 0.4, num_inference_steps: int = 32
    ) -> None:
        self._count(num_inference_steps, None, rising=True)

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """Begin `num_inference_steps` steps: the timesteps count them from 0 up."""
        self._count(num_inference_steps, device, rising=True)

    @by_return_dict
    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        *,
        entropy_bound: float | None = None,
        generator: Generator | None = None,
        return_dict: bool = True,
    ) -> EntropyBoundSchedulerOutput | tuple[Tensor, ...]:
        """Draw every token, accept those with the least entropy and replace the others at random.

        Args:
            model_output: logits, shape (batch, tokens, vocabulary).
            timestep: the number of the step, from 0.
            sample: token ids, shape (batch, tokens).
            entropy_bound: takes the place of the configured one in this step.
        """
        check_tokens("sample", sample)
        assert self.num_inference_steps is not None
        number, config = step_number(timestep, self.num_inference_steps), self.config
        left = (self.num_inference_steps - number) / self.num_inference_steps
        temperature = config["t_min"] + (config["t_max"] - config["t_min"]) * left
        logits = model_output / temperature if temperature > 0.0 else model_output
        tokens, probabilities = draw_tokens(logits, 1.0 if temperature > 0.0 else 0.0, generator)
        logs = logits.log_softmax(-1)
        entropy = -(logs.exp() * logs.clamp(min=torch.finfo(logs.dtype).min)).sum(-1)
        ordered, order = entropy.sort(dim=-1)
        bound = config["entropy_bound"] if entropy_bound is None else entropy_bound
        within = ordered.cumsum(-1) - ordered <= bound
        accepted = torch.zeros_like(within).scatter(-1, order, within)
        random = torch.randint(logits.shape[-1], sample.shape, generator=generator, device=sample.device)
        fields = torch.where(accepted, tokens, random), accepted, tokens, probabilities, logits
        return EntropyBoundSchedulerOutput(*fields) if return_dict else fields

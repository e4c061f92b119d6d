"""DiscreteDDIMScheduler."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor

from diffusolve.config import register_to_config
from diffusolve.schedulers.step_types import by_return_dict
from diffusolve.tokens.drawing import draw_tokens
from diffusolve.tokens.token_scheduler import TokenOutput, TokenScheduler, check_tokens, step_number

__all__ = ["DiscreteDDIMScheduler", "DiscreteDDIMSchedulerOutput"]


class DiscreteDDIMSchedulerOutput(TokenOutput):
    """The result of a step of :class:`DiscreteDDIMScheduler`.

    Attributes:
        prev_sample: token ids, shape (batch, tokens).
        sampled_tokens, sampled_probs: the tokens drawn and their probabilities, shape (batch, tokens); of a corrector's
            step those that were drawn anew, shape (batch, corrector_k).
        pred_logits: the network's logits, shape (batch, tokens, vocabulary).
    """

    __slots__ = ("pred_logits", "sampled_probs", "sampled_tokens")
    fields: ClassVar[tuple[str, ...]] = (
        "prev_sample",
        "sampled_tokens",
        "sampled_probs",
        "pred_logits",
    )


class DiscreteDDIMScheduler(TokenScheduler):
    """Tokens that noise replaces at random, sampled from the exact posterior of that noise.

    Austin et al. 2021, Structured Denoising Diffusion Models in Discrete State-Spaces, with a uniform kernel: a
    token survives until time t with a probability of ``1 - t``.

    Args:
        num_inference_steps: the number of steps, equal in time.
        corrector_steps: the number of times that pipelines call :meth:`step_correct` after each step.
        corrector_k: the number of tokens of a row that it draws anew.
        corrector_selection: the tokens to draw anew: those with the "lowest_log_margin" over the best other token, the
            "lowest_maxprob" of any token in their place, their own "lowest_current_prob", or "random" ones.
        corrector_selection_tau: temperature of the Gumbel noise on that choice.
    """

    order: ClassVar[int] = 1

    @register_to_config
    def __init__(
        self,
        num_inference_steps: int = 32,
        corrector_steps: int = 0,
        corrector_k: int = 1,
        corrector_selection: Literal[
            "lowest_log_margin", "lowest_maxprob", "lowest_current_prob", "random"
        ] = "lowest_log_margin",
        corrector_selection_tau: float = 1.0,
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
        temperature: float = 0.0,
        generator: Generator | None = None,
        return_dict: bool = True,
    ) -> DiscreteDDIMSchedulerOutput | tuple[Tensor, ...]:
        """Draw the tokens one step later from ``q(x_s | x_t, x_0)``, x_0 being drawn from the network's prediction.

        Args:
            model_output: logits, shape (batch, tokens, vocabulary).
            timestep: the number of the step, from 0.
            sample: token ids, shape (batch, tokens).
            temperature: of the draw of x_0; at 0 the most likely tokens are taken.
        """
        check_tokens("sample", sample)
        number = step_number(timestep, self._steps)
        clean, _ = draw_tokens(model_output, temperature, generator)
        probabilities = model_output.softmax(-1).gather(-1, clean[..., None])[
            ..., 0
        ]  # at any temperature the network's
        vocabulary = model_output.shape[-1]
        alpha_s = self._alpha(number + 1)
        kept = self._alpha(number) / alpha_s  # from s to t
        routes = torch.stack(
            (
                (sample == clean).to(probabilities.dtype) * (kept * alpha_s) + alpha_s * (1.0 - kept) / vocabulary,
                torch.full_like(probabilities, kept * (1.0 - alpha_s) / vocabulary),
                torch.full_like(probabilities, (1.0 - kept) * (1.0 - alpha_s) / vocabulary),
            ),
            dim=-1,
        )
        routes = routes / routes.sum(-1, keepdim=True)
        route = torch.multinomial(routes.reshape(-1, 3), 1, generator=generator).reshape(sample.shape)
        random = torch.randint(vocabulary, sample.shape, generator=generator, device=sample.device)
        previous = torch.where(route == 0, clean, torch.where(route == 2, random, sample))
        return _result(previous, clean, probabilities, model_output, return_dict)

    @by_return_dict
    def step_correct(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        *,
        generator: Generator | None = None,
        return_dict: bool = True,
    ) -> DiscreteDDIMSchedulerOutput | tuple[Tensor, ...]:
        """Draw `corrector_k` tokens of each row anew, given the others, which leaves the distribution at s as it is.

        The network's prediction is turned into the one without the token itself, x_0 given all the others, from which
        ``p(x_s) = alpha_s p(x_0) + (1 - alpha_s) / vocabulary`` (arXiv 2605.22765, equation 13).

        Args:
            model_output: logits for `sample`, shape (batch, tokens, vocabulary).
            timestep: the number of the step that led to `sample`; not the last, after which no noise is left.
            sample: token ids, shape (batch, tokens).

        Raises:
            ValueError: it was the last step, or rows are shorter than `corrector_k`.
        """
        check_tokens("sample", sample)
        number, config = step_number(timestep, self._steps), self.config
        alpha, vocabulary = self._alpha(number + 1), model_output.shape[-1]
        if alpha >= 1.0:
            raise ValueError(f"timestep is {number}, the last step, after which no noise is left to correct.")
        count = config["corrector_k"]
        if count > sample.shape[1]:
            raise ValueError(f"corrector_k is {count}, but there are {sample.shape[1]} tokens in a row.")
        others = self._to_loo_logits(model_output.double(), sample, alpha).log_softmax(-1)
        uniform = torch.full_like(others, math.log1p(-alpha) - math.log(vocabulary))
        conditional = torch.logaddexp(others + math.log(alpha), uniform)
        chosen = self._select_positions(sample, conditional, generator)
        rows = torch.arange(len(sample), device=sample.device)[:, None].expand_as(chosen)
        probabilities = conditional[rows, chosen].exp()
        tokens = torch.multinomial(probabilities.reshape(-1, vocabulary), 1, generator=generator).reshape(chosen.shape)
        previous = sample.clone()
        previous[rows, chosen] = tokens
        drawn = probabilities.gather(-1, tokens[..., None])[..., 0]
        return _result(previous, tokens, drawn, model_output, return_dict)

    @property
    def _steps(self) -> int:
        assert self.num_inference_steps is not None
        return self.num_inference_steps

    def _alpha(self, step_index: int) -> float:
        """The probability that a token survives until the time before step number `step_index`."""
        return step_index / self._steps

    @staticmethod
    def _to_loo_logits(logits: Tensor, tokens: Tensor, alpha: float) -> Tensor:
        """The logits of x_0 that do not know the token itself (equation 13), up to a constant."""
        known = -math.log1p(logits.shape[-1] * alpha / (1.0 - alpha))
        here = tokens[..., None]
        return logits.clone().scatter_add_(-1, here, logits.new_full(here.shape, known))

    def _select_positions(self, sample: Tensor, cond_log_probs: Tensor, generator: Generator | None) -> Tensor:
        """The places of the `corrector_k` tokens to draw anew, shape (batch, corrector_k)."""
        config = self.config
        selection, count = config["corrector_selection"], config["corrector_k"]
        if selection == "random":
            return torch.rand(sample.shape, generator=generator, device=sample.device).topk(count, dim=-1).indices
        here = sample[..., None]
        current = cond_log_probs.gather(-1, here)[..., 0]
        certainty = current
        if selection == "lowest_maxprob":
            certainty = cond_log_probs.max(dim=-1).values
        elif selection == "lowest_log_margin":
            certainty = current - cond_log_probs.scatter(-1, here, -math.inf).max(dim=-1).values
        u = torch.rand(sample.shape, generator=generator, device=sample.device).clamp(1e-12, 1.0 - 1e-12)
        noisy: Tensor = -certainty / config["corrector_selection_tau"] - (-u.log()).log()
        return noisy.topk(count, dim=-1).indices


def _result(
    previous: Tensor, tokens: Tensor, probabilities: Tensor, logits: Tensor, return_dict: bool
) -> DiscreteDDIMSchedulerOutput | tuple[Tensor, ...]:
    if return_dict:
        return DiscreteDDIMSchedulerOutput(previous, tokens, probabilities, logits)
    return previous, tokens, probabilities, logits

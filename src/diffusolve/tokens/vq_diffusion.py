"""VQDiffusionScheduler."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Generator, Tensor

from diffusolve.config import register_to_config
from diffusolve.schedulers.step_types import WithGenerator, declared_as
from diffusolve.tokens.token_scheduler import TokenOutput, TokenScheduler, check_tokens, step_number

__all__ = ["VQDiffusionScheduler", "VQDiffusionSchedulerOutput"]

TINY = 1e-30
"""The stand-in for a probability of zero under a logarithm."""


class VQDiffusionSchedulerOutput(TokenOutput):
    """The result of a step of :class:`VQDiffusionScheduler`.

    Attributes:
        prev_sample: classes of the latent pixels, shape (batch, pixels).
    """

    __slots__ = ()
    fields: ClassVar[tuple[str, ...]] = ("prev_sample",)


class VQDiffusionScheduler(TokenScheduler):
    """Latent pixels with classes that noise changes at random or masks, for good (VQ-Diffusion).

    Gu et al. 2022, Vector Quantized Diffusion Model for Text-to-Image Synthesis, equations 7, 8 and 11. A step to
    timestep t leaves a pixel its class with a probability of ``a_t + b_t``, gives it each other one with ``b_t``, and
    masks it with ``c_t``. All probabilities are held as logarithms.

    Args:
        num_vec_classes: the number of classes, the mask's, which is the last, among them.
        num_train_timesteps: the number of steps from data to masks.
        alpha_cum_start, alpha_cum_end: the probability that a class has survived, from the first timestep to the last.
        gamma_cum_start, gamma_cum_end: likewise the probability of being masked.
    """

    order: ClassVar[int] = 1

    @register_to_config
    def __init__(
        self,
        num_vec_classes: int,
        num_train_timesteps: int = 100,
        alpha_cum_start: float = 0.99999,
        alpha_cum_end: float = 0.000009,
        gamma_cum_start: float = 0.000009,
        gamma_cum_end: float = 0.99999,
    ) -> None:
        count = int(num_train_timesteps)
        self.num_embed = num_vec_classes
        self.mask_class = num_vec_classes - 1
        survived = np.linspace(alpha_cum_start, alpha_cum_end, count)
        masked = np.linspace(gamma_cum_start, gamma_cum_end, count)
        alpha = survived / np.append(1.0, survived[:-1])
        gamma = 1.0 - (1.0 - masked) / np.append(1.0, 1.0 - masked[:-1])
        others = num_vec_classes - 1
        self.log_at, self.log_bt, self.log_ct = _logs(alpha, (1.0 - alpha - gamma) / others, gamma)
        survived, masked = np.append(survived, 1.0), np.append(masked, 0.0)  # place -1: before the first timestep
        cumulative = _logs(survived, (1.0 - survived - masked) / others, masked)
        self.log_cumprod_at, self.log_cumprod_bt, self.log_cumprod_ct = cumulative
        self._count(count, None)
        self.num_inference_steps = None

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """Begin `num_inference_steps` steps: the timesteps count them down to 0. All tables move to `device`.

        Raises:
            ValueError: there are more than training timesteps.
        """
        if num_inference_steps > self.config["num_train_timesteps"]:
            raise ValueError(
                f"num_inference_steps is {num_inference_steps}: expected at most num_train_timesteps, "
                f"{self.config['num_train_timesteps']}."
            )
        self._count(num_inference_steps, device)
        for name in ("log_at", "log_bt", "log_ct", "log_cumprod_at", "log_cumprod_bt", "log_cumprod_ct"):
            setattr(self, name, getattr(self, name).to(device))

    @declared_as(WithGenerator[int | Tensor, VQDiffusionSchedulerOutput].step)
    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: Generator | None = None,
        return_dict: bool = True,
    ) -> VQDiffusionSchedulerOutput | tuple[Tensor]:
        """Draw the classes one timestep earlier.

        Args:
            model_output: log-probabilities of the classes at the start, shape (batch, classes - 1, pixels).
            timestep: one of ``scheduler.timesteps``.
            sample: classes, shape (batch, pixels).
        """
        at = step_number(timestep, len(self.log_at))
        posterior = model_output if at == 0 else self.q_posterior(model_output, sample, at)
        u = torch.rand(posterior.shape, device=posterior.device, generator=generator)
        previous = (posterior - (-(u + TINY).log() + TINY).log()).argmax(dim=1)
        return VQDiffusionSchedulerOutput(previous) if return_dict else (previous,)

    def q_posterior(self, log_p_x_0: Tensor, x_t: Tensor, t: int | Tensor) -> Tensor:
        """Log-probabilities of the classes at timestep ``t - 1``, shape (batch, classes, pixels).

        Equation 11: the sum over x_0 of ``q(x_t | x_t-1) q(x_t-1 | x_0) p(x_0) / q(x_t | x_0)``.

        Args:
            log_p_x_0: log-probabilities of the classes at the start, shape (batch, classes - 1, pixels).
            x_t: classes at timestep `t`, shape (batch, pixels).
            t: the timestep.
        """
        check_tokens("x_t", x_t)
        now = self._log_one_hot(x_t)
        ratio = log_p_x_0 - self.log_Q_t_transitioning_to_known_class(t=t, x_t=x_t, log_onehot_x_t=now, cumulative=True)
        total = ratio.logsumexp(dim=1, keepdim=True)
        before = self.apply_cumulative_transitions(ratio - total, t - 1)
        step = self.log_Q_t_transitioning_to_known_class(t=t, x_t=x_t, log_onehot_x_t=now, cumulative=False)
        return before + step + total

    def log_Q_t_transitioning_to_known_class(
        self, *, t: int | Tensor, x_t: Tensor, log_onehot_x_t: Tensor, cumulative: bool
    ) -> Tensor:
        """Log-probabilities of the known classes `x_t`, given each class that a pixel may have had before.

        Args:
            t: the timestep.
            x_t: classes, shape (batch, pixels).
            log_onehot_x_t: their logarithm as one-hot vectors, shape (batch, classes, pixels).
            cumulative: given the classes at the start, which were none of them masks, instead of those at ``t - 1``.

        Returns:
            shape (batch, classes, pixels); without the mask's class if `cumulative`.
        """
        names = ("log_cumprod_at", "log_cumprod_bt", "log_cumprod_ct") if cumulative else ("log_at", "log_bt", "log_ct")
        a, b, c = (getattr(self, name)[t] for name in names)
        known = torch.logaddexp(log_onehot_x_t[:, :-1] + a, b)
        known = torch.where((x_t == self.mask_class)[:, None], c, known)
        # A mask stays one: the log one-hot vector is that row as it stands.
        return known if cumulative else torch.cat((known, log_onehot_x_t[:, -1:]), dim=1)

    def apply_cumulative_transitions(self, q: Tensor, t: int | Tensor) -> Tensor:
        """Log-probabilities at timestep `t`, shape (batch, classes, pixels), of those at the start, without a mask."""
        a, b, c = self.log_cumprod_at[t], self.log_cumprod_bt[t], self.log_cumprod_ct[t]
        return torch.cat((torch.logaddexp(q + a, b), c.expand(len(q), 1, q.shape[-1])), dim=1)

    def _log_one_hot(self, classes: Tensor) -> Tensor:
        one_hot = torch.nn.functional.one_hot(classes, self.num_embed).transpose(1, 2)
        return one_hot.float().clamp(min=TINY).log()


def _logs(*probabilities: np.ndarray[Any, Any]) -> tuple[Tensor, ...]:
    with np.errstate(divide="ignore"):
        return tuple(torch.from_numpy(np.log(values)).float() for values in probabilities)

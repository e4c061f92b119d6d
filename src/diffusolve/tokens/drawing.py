"""Draws of tokens from a network's logits."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

__all__ = ["draw_tokens", "gumbel", "keep_most_likely", "keep_nucleus", "rank"]


def draw_tokens(
    logits: Tensor,
    temperature: float,
    generator: Generator | None,
    top_k: int | None = None,
    top_p: float | None = None,
    greedy: bool = False,
) -> tuple[Tensor, Tensor]:
    """Token ids and their probabilities, each of the shape of `logits` without its last dimension.

    Args:
        logits: shape (..., vocabulary).
        temperature: divides the logits; at 0 the most likely token is taken and nothing is drawn.
        top_k, top_p: draw among the `top_k` most likely tokens, and among the most likely ones that together have a
            probability of `top_p` (Holtzman et al. 2020, nucleus sampling). None, and a `top_k` of 0, keep all.
        greedy: take the most likely token at any temperature.

    Raises:
        ValueError: `temperature` is negative, or `top_p` not in (0, 1].
    """
    if not temperature >= 0.0:
        raise ValueError(f"temperature is {temperature}: expected 0 (the most likely token) or more.")
    if top_p is not None and not top_p > 0.0:
        raise ValueError(f"top_p is {top_p}: expected a share of the probability, above 0 and up to 1.")
    rows = logits.reshape(-1, logits.shape[-1])
    if greedy or temperature == 0.0:
        probabilities = rows.softmax(-1)
        tokens = probabilities.argmax(-1, keepdim=True)
    else:
        rows = rows if temperature == 1.0 else rows / temperature
        probabilities = keep_nucleus(keep_most_likely(rows, top_k), top_p).softmax(-1)
        tokens = torch.multinomial(probabilities, 1, generator=generator)
    shape = logits.shape[:-1]
    return tokens.reshape(shape), probabilities.gather(-1, tokens).reshape(shape)


def keep_most_likely(logits: Tensor, number: int | None) -> Tensor:
    """`logits` (..., vocabulary) with the least float in place of all but the `number` largest; None, 0: all stay."""
    if not number or number >= logits.shape[-1]:
        return logits
    least = logits.topk(number, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < least, torch.finfo(logits.dtype).min)


def keep_nucleus(logits: Tensor, share: float | None) -> Tensor:
    """`logits` with the least number in place of all but the most likely tokens that reach `share` together."""
    if share is None or share >= 1.0:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1).roll(1, -1)
    before[..., 0] = 0.0
    kept = ordered.masked_fill(before > share, torch.finfo(logits.dtype).min)
    return torch.zeros_like(logits).scatter(-1, order, kept)


def gumbel(like: Tensor, generator: Generator | None, smallest: float) -> Tensor:
    """Standard Gumbel noise, ``-log(-log(u))``, as `like`; `u` and ``-log(u)`` are at least `smallest`."""
    u = torch.rand(like.shape, generator=generator, device=like.device)
    return -((-(u.clamp(min=smallest)).log()).clamp(min=smallest)).log()


def rank(scores: Tensor) -> Tensor:
    """The place of each of `scores` among those of its row, the largest having place 0."""
    return scores.argsort(dim=-1, descending=True).argsort(dim=-1)

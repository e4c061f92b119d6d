"""BlockRefinementScheduler."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import torch
from torch import Generator, Tensor

from diffusolve.config import register_to_config
from diffusolve.errors import unknown_name
from diffusolve.schedulers.step_types import by_return_dict
from diffusolve.tokens.drawing import draw_tokens, keep_most_likely, keep_nucleus, rank
from diffusolve.tokens.token_scheduler import TokenOutput, TokenScheduler, check_tokens, positive

__all__ = ["BlockRefinementScheduler", "BlockRefinementSchedulerOutput"]

SamplingMethod: TypeAlias = Literal["auto", "greedy", "multinomial"]

SAMPLING_METHODS = get_args(SamplingMethod)


class BlockRefinementSchedulerOutput(TokenOutput):
    """The result of a step of :class:`BlockRefinementScheduler`.

    Attributes:
        prev_sample: token ids of the block, shape (batch, block).
        transfer_index, editing_transfer_index: True where a token was committed; and where a committed one was changed.
        sampled_tokens, sampled_probs: the tokens drawn and their probabilities.
        pred_logits: the network's logits, shape (batch, block, vocabulary).
    """

    __slots__ = ("editing_transfer_index", "pred_logits", "sampled_probs", "sampled_tokens", "transfer_index")
    fields: ClassVar[tuple[str, ...]] = (
        "prev_sample",
        "transfer_index",
        "editing_transfer_index",
        "sampled_tokens",
        "sampled_probs",
        "pred_logits",
    )


class BlockRefinementScheduler(TokenScheduler):
    """Blocks of tokens, of which each step commits those that the network is surest of (LLaDA 2, DiffusionGemma).

    The steps share the block out evenly; more are committed at once where the network is sure enough. With a mask token
    the uncommitted tokens are masked. Without one they are random, and the scheduler remembers the committed ones from
    the step at timestep 0 on: such a scheduler serves one batch of blocks at a time.

    Args:
        block_length: tokens in a block.
        num_inference_steps: steps for a block.
        threshold: tokens with a higher probability are committed at once, however many.
        editing_threshold: committed tokens are changed to others with a higher probability than this; None: none are.
            With a mask token none are at 0 and below either; without one all are then, as in diffusers.
        minimal_topk: kept for configurations that have it; nothing follows from it, in diffusers neither.
    """

    order: ClassVar[int] = 1

    @register_to_config
    def __init__(
        self,
        block_length: int = 32,
        num_inference_steps: int = 32,
        threshold: float = 0.95,
        editing_threshold: float | None = None,
        minimal_topk: int = 1,
    ) -> None:
        self._count(num_inference_steps, None)
        self._transfer_schedule: Tensor | None = None
        self._committed: Tensor | None = None

    def set_timesteps(self, num_inference_steps: int, device: Any = None, block_length: int | None = None) -> None:
        """Begin a block in `num_inference_steps` steps, of `block_length` tokens (when missing: as configured)."""
        self._count(num_inference_steps, device)
        length = positive("block_length", self.config["block_length"] if block_length is None else block_length)
        self._transfer_schedule = self.get_num_transfer_tokens(length, num_inference_steps).to(device)

    def get_num_transfer_tokens(self, block_length: int, num_inference_steps: int) -> Tensor:
        """The number of tokens that each step commits, shape (num_inference_steps,): equal, or more in the first."""
        each, more = divmod(block_length, num_inference_steps) if num_inference_steps > 0 else (0, 0)
        return torch.tensor([each + (number < more) for number in range(num_inference_steps)], dtype=torch.long)

    @by_return_dict
    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        *,
        mask_token_id: int | None = None,
        temperature: float = 0.0,
        top_p: float | None = None,
        top_k: int | None = None,
        sampling_method: SamplingMethod = "auto",
        threshold: float | None = None,
        editing_threshold: float | None = None,
        minimal_topk: int | None = None,
        prompt_mask: Tensor | None = None,
        generator: Generator | None = None,
        return_dict: bool = True,
    ) -> BlockRefinementSchedulerOutput | tuple[Tensor, ...]:
        """Draw a token for every place and commit the surest ones.

        Args:
            model_output: logits, shape (batch, block, vocabulary).
            timestep: the number of the step in the block, from 0; past the last one it stands for the last.
            sample: token ids, shape (batch, block).
            mask_token_id: the id of the mask; None: uncommitted tokens are random instead.
            temperature, top_p, top_k: of the draw, see :func:`~diffusolve.tokens.drawing.draw_tokens`.
            sampling_method: "multinomial" and "auto" draw unless the temperature is 0, "greedy" never does.
            threshold, editing_threshold: take the place of the configured ones in this step.
            minimal_topk: as in the configuration.
            prompt_mask: True for places that are never edited, shape (block,). Of use with a mask token only: blocks of
                random tokens hold no prompt.
        """
        check_tokens("sample", sample)
        if sampling_method not in SAMPLING_METHODS:
            raise unknown_name("sampling_method", sampling_method, SAMPLING_METHODS)
        if prompt_mask is not None and prompt_mask.shape != sample.shape[1:]:
            raise ValueError(
                f"prompt_mask has shape {tuple(prompt_mask.shape)}: expected {tuple(sample.shape[1:])}, one per token."
            )
        config = self.config
        threshold = config["threshold"] if threshold is None else threshold
        editing = config["editing_threshold"] if editing_threshold is None else editing_threshold
        tokens, probabilities = draw_tokens(
            model_output, temperature, generator, top_k, top_p, greedy=sampling_method == "greedy"
        )
        if mask_token_id is None:
            open_, least = self._uncommitted(sample, int(timestep))
        else:
            open_ = sample == mask_token_id
            least = self._planned(int(timestep)).to(sample.device)
        certainty = probabilities.masked_fill(~open_, -math.inf)
        committed = open_ & ((rank(certainty) < least) | (certainty > threshold))
        edited = torch.zeros_like(committed)
        if editing is not None and (editing > 0.0 or mask_token_id is None):
            edited = ~open_ & (tokens != sample) & (probabilities > editing)
            if prompt_mask is not None and mask_token_id is not None:
                edited &= ~prompt_mask
        previous = torch.where(committed | edited, tokens, sample)
        if mask_token_id is None:
            self._committed = ~open_ | committed
            random = torch.randint(model_output.shape[-1], sample.shape, generator=generator, device=sample.device)
            previous = torch.where(self._committed, previous, random)
        result = previous, committed, edited, tokens, probabilities, model_output
        return BlockRefinementSchedulerOutput(*result) if return_dict else result

    @staticmethod
    def _top_p_filtering(logits: Tensor, top_p: float | None) -> Tensor:
        """`logits` with the least number in place of all but the most likely tokens that reach `top_p` together."""
        return keep_nucleus(logits, top_p)

    @staticmethod
    def _top_k_filtering(logits: Tensor, top_k: int | None) -> Tensor:
        """`logits` with the least number in place of all but the `top_k` largest."""
        return keep_most_likely(logits, top_k)

    @staticmethod
    def _sample_from_logits(
        logits: Tensor,
        *,
        temperature: float,
        top_k: int | None,
        top_p: float | None,
        generator: Generator | None,
        use_multinomial: bool,
    ) -> tuple[Tensor, Tensor]:
        """Token ids and their probabilities, see :func:`~diffusolve.tokens.drawing.draw_tokens`."""
        return draw_tokens(logits, temperature, generator, top_k, top_p, greedy=not use_multinomial)

    def _planned(self, step: int) -> Tensor:
        """The number of tokens committed in step number `step`."""
        if self._transfer_schedule is None:
            raise ValueError(
                "BlockRefinementScheduler has no block yet: call set_timesteps(num_inference_steps) first."
            )
        return self._transfer_schedule[min(max(step, 0), len(self._transfer_schedule) - 1)]

    def _uncommitted(self, sample: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """The places of random tokens, and the number of them to commit in each row, shape (batch, 1)."""
        self._planned(step)
        if step == 0 or self._committed is None or self._committed.shape != sample.shape:
            self._committed = torch.zeros_like(sample, dtype=torch.bool)
        assert self.num_inference_steps is not None
        # The even share so far, rounded up; the steps with a mask each have a whole number, the first ones more.
        due = min(-(-sample.shape[-1] * (step + 1) // self.num_inference_steps), sample.shape[-1])
        return ~self._committed, (due - self._committed.sum(-1, keepdim=True)).clamp(min=0)

    @staticmethod
    def check_eos_finished(
        cur_x: Tensor,
        sampled_tokens: Tensor,
        final_transfer: Tensor,
        finished: Tensor,
        eos_token_id: int,
        mask_token_id: int,
        prompt_length: int,
    ) -> Tensor:
        """Rows that are finished: an end token was just committed, and no token before the first one is masked.

        As in diffusers a row whose prompt holds an end token never is.

        Args:
            cur_x: the sequence so far, shape (batch, tokens).
            sampled_tokens, final_transfer: tokens drawn for the block, and True for those taken, shape (batch, block).
            finished: rows that were finished before, shape (batch,).
            prompt_length: tokens in the prompt.
        """
        ended = (cur_x == eos_token_id).cumsum(-1) > 0
        ends_here = ended[:, -1] & ~ended[:, :prompt_length].any(-1)
        open_before = ((cur_x == mask_token_id) & ~ended)[:, prompt_length:].any(-1)
        committed_end = ((sampled_tokens == eos_token_id) & final_transfer).any(-1)
        return finished | (committed_end & ends_here & ~open_before)

    def check_block_should_continue(
        self,
        step_idx: int,
        masks_remaining: bool,
        editing_enabled: bool,
        editing_transfer_index: Tensor,
        post_steps: int,
        max_post_steps: int,
        finished: Tensor,
    ) -> bool:
        """True if a block takes another step: it has masks and steps left, or was edited and may be once more.

        Args:
            step_idx: the number of steps that the block has had.
            post_steps, max_post_steps: the number of steps since its last mask went, and the most that there may be.
            finished: True for rows at their end, shape (batch,).
        """
        if bool(finished.all()):
            return False
        if masks_remaining:
            assert self.num_inference_steps is not None
            return step_idx < self.num_inference_steps
        return editing_enabled and bool(editing_transfer_index.any()) and post_steps <= max_post_steps

    def add_noise(
        self,
        original_samples: Tensor,
        attention_mask: Tensor,
        *,
        prompt_length: int,
        block_length: int,
        mask_token_id: int,
        generator: Generator | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mask a random share of each block behind the prompt, and in a second copy all the rest of it.

        Args:
            original_samples: token ids, shape (batch, tokens).
            attention_mask: 0 for padding, which stays, shape (batch, tokens).
            prompt_length: tokens at the start that stay.
            block_length: tokens in a block.
            mask_token_id: the id of the mask.

        Returns:
            the two noisy copies, and for each True where it is masked; all of shape (batch, tokens).
        """
        check_tokens("original_samples", original_samples)
        positive("block_length", block_length)
        batch, length = original_samples.shape
        device, valid = original_samples.device, attention_mask.bool()
        masked, masked_rev = (torch.zeros_like(original_samples, dtype=torch.bool) for _ in range(2))
        for start in range(prompt_length, length, block_length):
            block = slice(start, min(start + block_length, length))
            share = torch.rand((batch, 1), device=device, generator=generator)
            drawn = torch.rand((batch, block.stop - start), device=device, generator=generator) < share
            masked[:, block] = drawn & valid[:, block]
            masked_rev[:, block] = ~drawn & valid[:, block]
        noisy, noisy_rev = (original_samples.masked_fill(where, mask_token_id) for where in (masked, masked_rev))
        return noisy, noisy_rev, masked, masked_rev

"""Schedulers of token ids do what those of diffusers do, draw by draw, and say what is wrong with their arguments."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

import diffusolve

diffusers = pytest.importorskip("diffusers")

NAMES = {
    "AmusedScheduler": {"mask_token_id": 9},
    "VQDiffusionScheduler": {"num_vec_classes": 5},
    "BlockRefinementScheduler": {},
    "DiscreteDDIMScheduler": {},
    "EntropyBoundScheduler": {},
}
Program = Callable[[Any, Generator], list[Any]]


def logits(seed: int, *shape: int) -> Tensor:
    return 3.0 * torch.randn(*shape, generator=Generator().manual_seed(seed))


def is_same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, Tensor):
        close = ours.shape == theirs.shape and torch.allclose(ours.double(), theirs.double(), rtol=1e-5, atol=1e-7)
        return close and ours.dtype is theirs.dtype
    if hasattr(ours, "keys"):
        return list(ours.keys()) == list(theirs.keys()) and all(is_same(ours[key], theirs[key]) for key in tuple(ours))
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(is_same, ours, theirs))
    return bool(ours == theirs)


def differs(name: str, program: Program, **config: Any) -> bool:
    """Whether `program` gives other results with the two libraries, or leaves the generator elsewhere."""
    results = []
    for library in (diffusolve, diffusers):
        generator = Generator().manual_seed(1)
        scheduler = getattr(library, name)(**{**NAMES[name], **config})
        results.append([*program(scheduler, generator), generator.get_state()])
    return not is_same(*results)


def amused(scheduler: Any, generator: Generator, temperature: Any = (2, 0)) -> list[Any]:
    scheduler.set_timesteps(6, temperature=temperature)
    x = torch.full((2, 24), 9)
    x[0, 3] = 4
    found = [scheduler.timesteps, scheduler.temperatures]
    for seed, t in enumerate(scheduler.timesteps):
        found.append(scheduler.step(logits(seed, 2, 24, 11), t, x, 0.8, generator=generator))
        x = found[-1].prev_sample
    found.append(scheduler.add_noise(torch.zeros(2, 40, dtype=torch.long), scheduler.timesteps[1], generator))
    image = torch.full((2, 4, 6), 9)
    found.append(scheduler.step(logits(9, 2, 11, 4, 6), scheduler.timesteps[2], image, generator=generator))
    return found


def test_amused_is_that_of_diffusers() -> None:
    cases = itertools.product(("cosine", "linear"), ((2, 0), 3, (4, 1), [5, 1]))
    different = [
        (schedule, temperature)
        for schedule, temperature in cases
        if differs("AmusedScheduler", lambda s, g, t=temperature: amused(s, g, t), masking_schedule=schedule)
    ]
    assert not different


def vq_diffusion(scheduler: Any, generator: Generator) -> list[Any]:
    x, found = torch.full((2, 16), 4), [scheduler.timesteps]
    scheduler.set_timesteps(12)
    for seed, t in enumerate(scheduler.timesteps):
        outputs = logits(seed, 2, 4, 16).log_softmax(1)
        found.append(scheduler.step(outputs, t, x, generator))
        x = found[-1].prev_sample
    tables = [getattr(scheduler, f"log_{cumprod}{name}t") for cumprod in ("", "cumprod_") for name in "abc"]
    return [*found, *tables, scheduler.step(outputs, t, x, generator, return_dict=False)]


def test_vq_diffusion_is_that_of_diffusers() -> None:
    configs = ({}, {"num_train_timesteps": 20}, {"alpha_cum_start": 0.9, "gamma_cum_end": 0.9})
    assert not [config for config in configs if differs("VQDiffusionScheduler", vq_diffusion, **config)]


def test_the_posterior_of_vq_diffusion_is_bayes_rule() -> None:
    scheduler = diffusolve.VQDiffusionScheduler(num_vec_classes=4, num_train_timesteps=8)
    one_hot = torch.eye(4)[None].clamp(min=1e-30).log()  # pixels of all classes
    t, x_t = 5, torch.arange(4)[None]
    steps = [  # [before, after]
        scheduler.log_Q_t_transitioning_to_known_class(t=s, x_t=x_t, log_onehot_x_t=one_hot, cumulative=False)[0].exp()
        for s in range(8)
    ]
    log_p = logits(0, 1, 3, 4).log_softmax(1)
    joint = torch.eye(4)[:3]
    for s in range(t):
        joint = joint @ steps[s]
    posterior = torch.einsum("kx,kb,bx,kx->bx", log_p[0].exp(), joint, steps[t], 1.0 / (joint @ steps[t]))
    torch.testing.assert_close(scheduler.q_posterior(log_p, x_t, t)[0].exp(), posterior, rtol=1e-4, atol=1e-6)


def entropy_bound(scheduler: Any, generator: Generator) -> list[Any]:
    found = [scheduler.timesteps]
    scheduler.set_timesteps(8)
    x = torch.randint(0, 7, (2, 16), generator=generator)
    for seed, t in enumerate(scheduler.timesteps):
        found.append(scheduler.step(logits(seed, 2, 16, 7), t, x, generator=generator))
        x = found[-1].prev_sample
    return [
        *found,
        scheduler.step(logits(0, 2, 16, 7), 2, x, generator=generator, return_dict=False, entropy_bound=5.0),
    ]


def test_entropy_bound_is_that_of_diffusers() -> None:
    configs = ({}, {"entropy_bound": 2.0}, {"t_max": 2.0, "t_min": 0.1, "num_inference_steps": 9})
    assert not [config for config in configs if differs("EntropyBoundScheduler", entropy_bound, **config)]


def discrete_ddim(scheduler: Any, generator: Generator, temperature: float) -> list[Any]:
    found = [scheduler.timesteps]
    scheduler.set_timesteps(8)
    x = torch.randint(0, 7, (2, 16), generator=generator)
    for seed, t in enumerate(scheduler.timesteps):
        outputs = logits(seed, 2, 16, 7)
        found.append(scheduler.step(outputs, t, x, temperature=temperature, generator=generator))
        x = found[-1].prev_sample
        for _ in range(scheduler.config["corrector_steps"] if t < 7 else 0):
            found.append(scheduler.step_correct(outputs, t, x, generator=generator))
            x = found[-1].prev_sample
    return found


def test_discrete_ddim_and_its_corrector_are_those_of_diffusers() -> None:
    selections = ("lowest_log_margin", "lowest_maxprob", "lowest_current_prob", "random")
    configs = [{}] + [
        {"corrector_steps": 2, "corrector_k": 3, "corrector_selection": name, "corrector_selection_tau": 0.5}
        for name in selections
    ]
    different = [
        (config, temperature)
        for config, temperature in itertools.product(configs, (0.0, 0.7))
        if differs("DiscreteDDIMScheduler", lambda s, g, t=temperature: discrete_ddim(s, g, t), **config)
    ]
    assert not different


def block_refinement(scheduler: Any, generator: Generator, options: dict[str, Any]) -> list[Any]:
    scheduler.set_timesteps(5, block_length=16)
    x = torch.full((2, 16), 6)
    x[1, 3] = 2
    found = [scheduler.timesteps, scheduler.get_num_transfer_tokens(16, 5)]
    for t in range(7):
        found.append(scheduler.step(logits(t, 2, 16, 7), t, x, generator=generator, **options))
        x = found[-1].prev_sample
    return found


def test_block_refinement_is_that_of_diffusers() -> None:
    choices = {
        "mask_token_id": (6, None),
        "temperature": (0.0, 0.7, 1.0),
        "top_k": (None, 0, 3),
        "top_p": (None, 0.8),
        "sampling_method": ("auto", "greedy", "multinomial"),
        "threshold": (None, 0.4),
        "editing_threshold": (None, 0.3, -1.0),
        "prompt_mask": (None, torch.arange(16) < 3),
    }
    every = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
    different = [
        options
        for options in every[::7]
        if differs("BlockRefinementScheduler", lambda s, g, o=options: block_refinement(s, g, o))
    ]
    assert not different


def committed_counts(scheduler: Any, steps: int, length: int) -> list[int]:
    """The number of committed tokens after each step without a mask token."""
    scheduler.set_timesteps(steps, block_length=length)
    x, counts = torch.zeros(1, length, dtype=torch.long), []
    for t in range(steps):
        x = scheduler.step(torch.zeros(1, length, 7), t, x, threshold=1.0).prev_sample
        counts.append(int(scheduler._committed.sum()))
    return counts


def test_random_tokens_are_committed_in_the_shares_of_diffusers() -> None:
    for steps, length in ((48, 256), (4, 10), (3, 7), (8, 5)):
        ours, theirs = (lib.BlockRefinementScheduler() for lib in (diffusolve, diffusers))
        counts = committed_counts(ours, steps, length)
        assert counts == committed_counts(theirs, steps, length), (steps, length)
        assert counts[-1] == length


def test_the_loop_around_blocks_is_that_of_diffusers() -> None:
    ours, theirs = diffusolve.BlockRefinementScheduler(), diffusers.BlockRefinementScheduler()
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(3, block_length=6)
    different: list[Any] = []
    for seed in range(100):
        g = Generator().manual_seed(seed)
        cur, sampled = torch.randint(4, (6, 9), generator=g), torch.randint(4, (6, 3), generator=g)
        taken, finished = torch.rand(6, 3, generator=g) < 0.5, torch.rand(6, generator=g) < 0.1
        found = [s.check_eos_finished(cur, sampled, taken, finished.clone(), 3, 0, 2) for s in (ours, theirs)]
        different += [] if is_same(*found) else [("check_eos_finished", seed)]
    flags = (True, False)
    for case in itertools.product((0, 2, 3, 4), flags, flags, flags, (0, 5, 6), flags):
        step, masks, editing, edited, post, finished = case
        args = step, masks, editing, torch.tensor([[edited]]), post, 5, torch.tensor([finished, finished])
        if ours.check_block_should_continue(*args) != theirs.check_block_should_continue(*args):
            different.append(case)

    def add_noise(scheduler: Any, generator: Generator) -> list[Any]:
        attention = torch.ones(2, 20, dtype=torch.long)
        attention[1, 15:] = 0
        where = {"prompt_length": 3, "block_length": 6, "mask_token_id": 99, "generator": generator}
        return [scheduler.add_noise(torch.arange(40).reshape(2, 20), attention, **where)]

    assert not different
    assert not differs("BlockRefinementScheduler", add_noise)


def test_configurations_go_both_ways(tmp_path: Path) -> None:
    for name, config in NAMES.items():
        ours, theirs = getattr(diffusolve, name), getattr(diffusers, name)
        made = ours(**config)
        made.save_pretrained(tmp_path)
        loaded, own = theirs.from_pretrained(tmp_path).config, theirs(**config).config
        assert all(loaded[key] == value for key, value in own.items() if not key.startswith("_")), name
        theirs(**config).save_pretrained(tmp_path)
        loaded = ours.from_pretrained(tmp_path).config
        assert all(loaded[key] == value for key, value in made.config.items() if not key.startswith("_")), name
        assert made.compatibles == [ours]


def step_of_floats(name: str) -> None:
    scheduler = getattr(diffusolve, name)(**NAMES[name])
    scheduler.set_timesteps(4)
    scheduler.step(logits(0, 2, 4, 4) if name == "VQDiffusionScheduler" else logits(0, 2, 4, 11), 2, torch.rand(2, 4))


def block(**options: Any) -> None:
    scheduler = diffusolve.BlockRefinementScheduler(block_length=4)
    scheduler.set_timesteps(2)
    scheduler.step(logits(0, 2, 4, 7), 0, torch.zeros(2, 4, dtype=torch.long), mask_token_id=0, **options)


def corrected(timestep: int, **config: Any) -> None:
    scheduler = diffusolve.DiscreteDDIMScheduler(num_inference_steps=4, **config)
    scheduler.step_correct(logits(0, 2, 4, 7), timestep, torch.zeros(2, 4, dtype=torch.long))


WRONG: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: diffusolve.AmusedScheduler(9, "cosin"), ValueError, "cosine"),
    (lambda: diffusolve.AmusedScheduler(9).step(logits(0, 1, 4, 7), 2, torch.full((1, 4), 9)), ValueError, "set_times"),
    (lambda: diffusolve.VQDiffusionScheduler(1), ValueError, "from 2 to"),
    (lambda: diffusolve.VQDiffusionScheduler(4).set_timesteps(101), ValueError, "at most num_train_timesteps, 100"),
    (lambda: diffusolve.EntropyBoundScheduler().set_timesteps(0), ValueError, "num_inference_steps is 0"),
    (lambda: diffusolve.EntropyBoundScheduler().set_timesteps(2.5), TypeError, "num_inference_steps is 2.5"),
    (lambda: diffusolve.EntropyBoundScheduler(t_max=-1.0), ValueError, "t_max is -1.0"),
    (lambda: diffusolve.DiscreteDDIMScheduler(corrector_selection="lowest"), ValueError, "lowest_maxprob"),
    (lambda: diffusolve.DiscreteDDIMScheduler(corrector_selection_tau=0.0), ValueError, "selection_tau is 0.0"),
    (lambda: corrected(3), ValueError, "the last step"),
    (lambda: corrected(4), ValueError, "0 to 3"),
    (lambda: corrected(0, corrector_k=5), ValueError, "4 tokens in a row"),
    (lambda: block(temperature=-1.0), ValueError, "temperature is -1.0"),
    (lambda: block(temperature=0.5, top_p=0.0), ValueError, "top_p is 0.0"),
    (lambda: block(sampling_method="gredy"), ValueError, "greedy"),
    (lambda: block(prompt_mask=torch.ones(3, dtype=torch.bool)), ValueError, r"expected \(4,\)"),
    (lambda: diffusolve.BlockRefinementScheduler(block_length=0), ValueError, "block_length is 0"),
    *[(lambda n=name: step_of_floats(n), TypeError, "sample|x_t") for name in NAMES],
]


def test_what_is_wrong_is_said() -> None:
    for number, (program, kind, words) in enumerate(WRONG):
        with pytest.raises(kind, match=words):
            pytest.fail(f"number {number} raised nothing: {program()}")

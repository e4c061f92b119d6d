"""Walks of plans with arrays of any shape, layout, precision and lifetime, compared with the format's page.

    python -m tests.attack.arrays --count 2000 --seed 1

Each walk takes a plan, a shape (empty, of one number, odd, around the sizes at which the compiled module changes its
way of working), a precision for samples and one for outputs, layouts (slices of larger arrays, transposed, channels
last, negative bit, expanded) that change from step to step, and a company of rows that join and leave. Arrays are
dropped as soon as they were handed over. It prints one digest of all results, so that runs can be compared.
"""

from __future__ import annotations

import argparse
import hashlib
import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffusolve.backends import Clip, Run
from diffusolve.backends.backend import Backend
from diffusolve.backends.torch_eager import TorchBackend
from diffusolve.batching import BatchRun
from diffusolve.catalog import sampler
from diffusolve.noise import SD15
from diffusolve.plan import Plan
from diffusolve.randomness import CounterNoise

SHAPES: tuple[tuple[int, ...], ...] = (
    (0,), (1,), (1, 0, 3), (3, 1, 5), (2, 4, 7, 9), (1, 31), (1, 32), (1, 33), (2, 511), (1, 1023), (1, 1025),
    (4, 4096), (1, 65_535), (1, 65_537), (2, 4, 96, 96),
)  # fmt: skip

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "as it is": lambda x: x,
    "a slice": lambda x: torch.cat([x.reshape(-1), x.new_zeros(7)])[: x.numel()].reshape(x.shape),
    "with an offset": lambda x: torch.cat([x.new_zeros(3), x.reshape(-1)])[3:].reshape(x.shape),
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x,
    "with gaps": lambda x: torch.stack([x, x], -1)[..., 0],
    "negative": lambda x: torch._neg_view(-x),
}

PRECISIONS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

NAMES = ("Euler", "Euler a", "Heun", "LMS", "UniPC", "DEIS", "DPM++ 2M", "DPM++ 3M SDE", "SA-Solver", "SEEDS-3")


def plans() -> list[Plan]:
    return [sampler(name).plan(SD15, "epsilon", steps) for name in NAMES for steps in (2, 5)]


def laid_out(x: Tensor, rng: random.Random, usual: float) -> Tensor:
    """`x` in some layout; as it is with the probability `usual`."""
    return x if rng.random() < usual else LAYOUTS[rng.choice(list(LAYOUTS))](x)


def walked(plan: Plan, rng: random.Random) -> list[Tensor]:
    """The samples of a run and of the same run left to PyTorch, which must agree."""
    shape, donate = rng.choice(SHAPES), rng.random() < 0.4
    precision, of_output = rng.choice(PRECISIONS), rng.choice(PRECISIONS)
    transform: Any = rng.choice((None, None, Clip(1.0), lambda data, stage: laid_out(data.clamp(-2, 2), rng, 0.5)))
    usual = rng.choice((1.0, 0.9, 0.3))
    seed, state = rng.randrange(2**31), rng.getstate()
    results = []
    for backend in (None, TorchBackend()):
        rng.setstate(state)
        results.append(one_walk(plan, rng, seed, shape, precision, of_output, transform, donate, usual, backend))
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.2, torch.float16: 0.05}
    worst = max(tolerance[precision], tolerance[of_output])
    torch.testing.assert_close(*(result.double() for result in results), rtol=worst, atol=worst)
    return results


def one_walk(
    plan: Plan,
    rng: random.Random,
    seed: int,
    shape: tuple[int, ...],
    precision: torch.dtype,
    of_output: torch.dtype,
    transform: Any,
    donate: bool,
    usual: float,
    backend: Backend | None,
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)

    def noise(x: Tensor, sigma_from: float, sigma_to: float) -> Tensor:
        return laid_out(torch.randn(x.shape, generator=generator).to(x.dtype), rng, usual)

    run = Run(plan, noise, transform, donate=donate)
    if backend is not None:
        run._bind = lambda *arguments, **options: bound_to(run, backend, *arguments, **options)  # type: ignore[method-assign]
    x = run.begin(laid_out(torch.randn(shape, generator=generator).to(precision), rng, usual))
    while not run.is_done:
        output = laid_out(torch.tanh(run.model_input(x)).to(of_output), rng, usual)
        x = laid_out(run.step(output, x), rng, usual)
        del output
    return x.clone()


def bound_to(run: Run, backend: Backend, *arguments: Any, **options: Any) -> Any:
    """What `run` binds itself to where only one backend can be chosen."""
    import diffusolve.backends.run as module

    chosen = module.fastest
    module.fastest = lambda *_: backend  # type: ignore[assignment]
    try:
        return Run._bind(run, *arguments, **options)
    finally:
        module.fastest = chosen


def company(made: list[Plan], rng: random.Random) -> list[Tensor]:
    """The samples of rows that join and leave at random, some by a transform of another one."""
    batch, results = BatchRun(), []
    shape, precision = rng.choice(SHAPES)[1:] or (3,), rng.choice(PRECISIONS)

    def leaving(data: Tensor, stage: Any) -> Tensor:
        if rng.random() < 0.1 and len(batch.rows) > 1:
            batch.leave(rng.choice(batch.rows))
        return laid_out(data, rng, 0.7)

    for _ in range(rng.randrange(2, 12)):
        for _ in range(rng.randrange(3)):
            seed = rng.randrange(2**31)
            x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(precision)
            source = seed if rng.random() < 0.5 else CounterNoise(seed)
            batch.join(rng.choice(made), laid_out(x, rng, 0.7), noise=source, transform=rng.choice((None, leaving)))
        chosen = [row for row in batch.rows if rng.random() < 0.8]
        for inputs in batch.inputs(chosen):
            outputs = laid_out(torch.tanh(inputs.x), rng, 0.7)
            for row in batch.advance(inputs, outputs):
                if row.error is None:
                    results.append(row.result.clone())
    return results


def digest(count: int, seed: int) -> str:
    """One digest of the results of `count` walks."""
    rng, made, total = random.Random(seed), plans(), hashlib.sha256()
    for _ in range(count):
        for result in company(made, rng) if rng.random() < 0.3 else walked(rng.choice(made), rng):
            total.update(result.double().numpy().tobytes())
    return total.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(digest(given.count, given.seed))


if __name__ == "__main__":
    main()

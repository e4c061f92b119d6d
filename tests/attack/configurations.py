"""Nasty values in ``scheduler_config.json``: each either runs to finite samples, or is an error that names its key.

    python -m tests.attack.configurations --count 12500 --seed 1

A file has one to three keys of one scheduler class with values of a wrong type, out of range, of another key, nearly
right, or of absurd size; some files are damaged as text. It is loaded by `from_pretrained`, and a run of a few steps is
walked as pipelines walk it.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import diffusolve
from diffusolve.config import config_keys
from diffusolve.config.rules import Number, OneOf, Rule, Whole
from diffusolve.schedulers import CLASSES
from diffusolve.schedulers.keys import rules_of
from tests.schedulers.matrix import ROWS, Setting, denoise

TOKENS: dict[str, dict[str, Any]] = {
    "AmusedScheduler": {"mask_token_id": 6},
    "BlockRefinementScheduler": {},
    "DiscreteDDIMScheduler": {},
    "EntropyBoundScheduler": {},
    "VQDiffusionScheduler": {"num_vec_classes": 7},
}
"""Samplers of token ids: their class -> what their constructor must be told."""

NAMES = (*CLASSES, *TOKENS)

NASTY: tuple[Any, ...] = (
    0, 1, 2, 3, -1, -3, 0.0, -0.0, 0.5, 1.0, 1.5, -0.5, 2.5, 1e-300, 1e-30, 1e-7, 0.999, 1.001, 7, 50, 300, 1e4, 1e6,
    1e9, 1e30, 1e308, -1e308, 10**5 + 1, 10**12, 2**63, 10**400, float("nan"), float("inf"), -float("inf"), True,
    False, None, "", "0.5", "2", "true", "false", "none", "epsilon", "\ud800", "x" * 10_000, [], {}, [[]], [0.1],
    [0, 1], [0.1, "x"], [None], [1e308], [float("nan")], [0.5] * 5, {"a": 1}, [True], [10**400],
)  # fmt: skip

CHANNELS, SHAPE = 4, (2, 4, 4, 4)


# Files ---------------------------------------------------------------------------------------------------------------


def defaults(name: str) -> dict[str, Any]:
    """The configuration of a class before anything is changed in it."""
    return {**dict(ROWS[name].base if name in ROWS else {}), **TOKENS.get(name, {})}


def words() -> list[str]:
    """The texts that any class has for a value."""
    found: dict[str, None] = {}
    for name in NAMES:
        for value in getattr(diffusolve, name)(**defaults(name)).config.values():
            if isinstance(value, str):
                found[value] = None
    return sorted(found)


def value_within(rule: Rule, rng: random.Random) -> Any:
    """A value that a rule allows, or an end of its range."""
    if isinstance(rule, OneOf):
        return rng.choice((*rule.choices, *rule.instead))
    if isinstance(rule, Number) and not isinstance(rule, Whole):
        low, high = max(rule.low, -1e9), min(rule.high, 1e9)
        return rng.choice((low, high, rng.uniform(low, high), max(low, min(high, 10 ** rng.uniform(-4, 3)))))
    if isinstance(rule, Whole):
        return rng.choice((int(max(rule.low, -1e6)), rng.randrange(1, 20), 1000))
    return rng.choice((True, False))


def nasty_value(key: str, rule: Rule, default: Any, rng: random.Random, texts: list[str]) -> Any:
    """A value for a key whose rule and default are known, which may even be a good one."""
    kind = rng.randrange(8)
    if kind == 0 and isinstance(default, str):
        return rng.choice((default.upper(), f" {default}", default[:-1], rng.choice(texts), [default]))
    if kind == 0 and isinstance(default, float | int) and not isinstance(default, bool):
        return default * rng.choice((-1, 0, 0.1, 0.5, 2, 10, 1e3, 1e-3, 1e-9, 1e12)) + rng.choice((0, 0, 1, -1, 0.5))
    if kind == 1:
        return rng.choice((rng.choice(texts), rng.random(), rng.randrange(-2, 12), [rng.random() for _ in range(4)]))
    return value_within(rule, rng) if kind in (2, 3) else rng.choice(NASTY)


def nasty_file(name: str, rng: random.Random, texts: list[str]) -> tuple[str, list[str]]:
    """The text of a file for a class, and the keys that are nasty in it."""
    made = getattr(diffusolve, name)(**defaults(name))
    values = {**defaults(name), "_class_name": name, "_diffusers_version": "0.30.0"}
    rules = rules_of(type(made))
    keys = rng.sample(config_keys(type(made)), min(rng.choice((1, 1, 1, 2, 3)), len(config_keys(type(made)))))
    for key in keys:
        values[key] = nasty_value(key, rules[key], made.config[key], rng, texts)
    if rng.random() < 0.06:
        key = rng.choice(
            ("self", "cls", "config", "kwargs", "_use_default_values", "_class_name", "_flow_steps", "a key")
        )
        values[key] = rng.choice(NASTY)
        keys.append(key)
    text = json.dumps(values)
    if rng.random() < 0.02:
        key = rng.choice(keys)
        deep = rng.choice((200, 100_000))
        text = f"{text[:-1]}, {json.dumps(key)}: {rng.choice(('[' * deep + ']' * deep, '9' * 10_000, '1e999'))}}}"
    return text, keys


# What is done with one -----------------------------------------------------------------------------------------------


def network(x: Tensor, timestep: Any) -> Tensor:
    """What the network says, bounded and smooth."""
    return torch.tanh(x)


def with_variances(x: Tensor, timestep: Any) -> Tensor:
    """The same, with as many channels of variances."""
    return torch.cat([torch.tanh(x), 0.5 * torch.tanh(x)], dim=1)


def walked(name: str, scheduler: Any) -> Iterator[Any]:
    """What a run of a few steps shows."""
    if name in TOKENS:
        yield from walked_on_tokens(name, scheduler)
        return
    row = ROWS.get(name)
    steps = min((count for count in row.steps if count > 1), default=2) if row else 2
    mu = {"mu": 0.7} if scheduler.config.get("use_dynamic_shifting") is True else {}
    run = {**mu, **(row.told if row else {}), "num_inference_steps": steps}
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    learned = str(scheduler.config.get("variance_type")).startswith("learned")
    setting = Setting(run, {}, with_variances if learned else network, noise, noise / 3)
    scheduler.set_timesteps(**run)
    yield scheduler.timesteps
    yield from (shown for _, shown in (row.loops[0] if row else denoise)(scheduler, setting))


def walked_on_tokens(name: str, scheduler: Any) -> Iterator[Any]:
    """What two steps on tokens show."""
    scheduler.set_timesteps(2)
    classes = int(scheduler.config["num_vec_classes"]) if name == "VQDiffusionScheduler" else 8
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(classes, (2, 6), generator=generator)
    logits = torch.randn(2, 6, classes, generator=generator)
    outputs = logits[..., 1:].transpose(1, 2).log_softmax(1) if name == "VQDiffusionScheduler" else logits
    for t in scheduler.timesteps[:2]:
        result = scheduler.step(outputs, t, x, generator=generator)
        yield {key: result[key] for key in result.keys()}  # noqa: SIM118 - outputs promise keys()
        x = result.prev_sample


def is_finite(shown: Any) -> bool:
    if isinstance(shown, Mapping):
        return all(map(is_finite, shown.values()))
    return not isinstance(shown, Tensor) or bool(shown.isfinite().all())


def attack(name: str, text: str, keys: list[str], folder: Path) -> str:
    """Load a file and walk a run: "refused" or "runs".

    Raises:
        AssertionError: samples that are not finite, or an error that names none of the `keys`.
        Exception: of any other kind, which is a fault of the library.
    """
    (folder / "scheduler_config.json").write_text(text, encoding="utf-8")
    try:
        for shown in walked(name, getattr(diffusolve, name).from_pretrained(folder)):
            assert is_finite(shown), "NaN or infinity"
    except (ValueError, TypeError) as error:
        message = str(error)
        assert any(re.search(rf"(?<!\w){re.escape(key)}(?!\w)", message) for key in keys), f"no key named: {message}"
        assert len(message) < 1000, f"a message of {len(message)} characters"
        return "refused"
    return "runs"


def storm(count: int, seed: int) -> tuple[Counter[str], dict[str, str]]:
    """Attack with `count` files, class by class in turn: how they ended, and one file for each kind of fault."""
    rng, texts = random.Random(seed), words()
    ended: Counter[str] = Counter()
    faults: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), _silent():
        warnings.simplefilter("ignore")
        for number in range(count):
            name = NAMES[number % len(NAMES)]
            text, keys = nasty_file(name, rng, texts)
            try:
                ended[attack(name, text, keys, Path(folder))] += 1
            except AssertionError as error:
                kind = str(error).split(":")[0]
                ended[kind] += 1
                faults.setdefault(f"{name} {keys}: {str(error)[:200]}", text)
            except Exception as error:
                ended[f"{type(error).__name__}"] += 1
                faults.setdefault(f"{name} {keys}: {type(error).__name__}: {str(error)[:200]}", text)
    return ended, faults


@contextmanager
def _silent() -> Iterator[None]:
    """Log nothing of what is odd about configurations."""
    logger = logging.getLogger("diffusolve")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=12_500)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    ended, faults = storm(given.count, given.seed)
    print(dict(ended.most_common()))
    for name, text in list(faults.items())[:40]:
        print(f"\n{name}\n{text[:1000]}")
    raise SystemExit(bool(faults))


if __name__ == "__main__":
    main()

"""Damaged plans: each either says at loading why it is none, or runs, everywhere, to what the format's page says.

    python -m tests.attack.plans --count 100000 --seed 1

The texts are those of plans of many kinds with one to three changes: values that are nasty, keys and entries that are
missing, doubled, exchanged or moved elsewhere, bytes that are others. What is made of one that loads is compared with
:func:`by_the_page`, within what rounding can do to it, on every executor.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from diffusolve.backends import Clip, Run
from diffusolve.backends.plan_module import PlanModule
from diffusolve.batching import BatchRun
from diffusolve.catalog import sampler
from diffusolve.errors import PlanFormatError
from diffusolve.noise import SD15
from diffusolve.plan import Plan

Array = npt.NDArray[np.float64]

SAMPLERS = (
    ("Euler", {}),
    ("Euler a", {}),
    ("Heun", {"s_churn": 3.0}),
    ("LMS", {}),
    ("UniPC", {}),
    ("DEIS", {}),
    ("DPM++ 2M", {}),
    ("DPM++ 3M SDE", {}),
    ("DPM++ SDE", {}),
    ("DPM++ 2M CFG++", {}),
    ("Restart", {}),
    ("SA-Solver", {}),
)

NASTY: tuple[Any, ...] = (
    0, -1, 1, 0.0, -0.0, 1e-300, 1e-12, -2.5, 1e12, -1e12, 1.1e12, 1e308, 10**400, 2**53, 2**53 + 1, float("nan"),
    float("inf"), True, None, "", "output", "unguided", "x0", "\ud800", "x" * 10_000, [], {}, [[]], [["x0", 1.0]],
)  # fmt: skip

SIZE = 5
X = np.linspace(-1.3, 1.7, SIZE).reshape(1, SIZE)


# Texts ---------------------------------------------------------------------------------------------------------------


def documents() -> list[Any]:
    """Plans of many kinds, as JSON."""
    plans = [
        sampler(name, **options).plan(SD15, kind, steps)
        for name, options in SAMPLERS
        for kind, steps in (("epsilon", 3), ("v_prediction", 5))
    ]
    return [json.loads(plan.to_json()) for plan in plans]


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Each (container, key or index) in a document."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in list(pairs):
        yield node, key
        yield from places(value)


def damage(document: Any, rng: random.Random) -> None:
    """Change something in a document."""
    everywhere = list(places(document))
    container, key = rng.choice(everywhere)
    other, elsewhere = rng.choice(everywhere)
    kind = rng.randrange(8)
    if kind == 0:
        container[key] = copy.deepcopy(rng.choice(NASTY))
    elif kind == 1:
        change_a_number(document, rng)
    elif kind == 2:
        del container[key]
    elif kind == 3:
        container[key] = copy.deepcopy(other[elsewhere])
    elif kind == 4 and isinstance(container, list):
        container.insert(rng.randrange(len(container) + 1), copy.deepcopy(container[key]))
    elif kind == 5 and isinstance(container, list):
        rng.shuffle(container)
    elif kind == 6:
        move_a_free(document, rng)
    else:
        exchange_a_value(document, rng)


def move_a_free(document: Any, rng: random.Random) -> None:
    """Free a register elsewhere, or not at all."""
    lists = [container[key] for container, key in places(document) if key == "frees"]
    lists = [each for each in lists if isinstance(each, list)]
    full = [frees for frees in lists if frees]
    if full:
        freed = rng.choice(full)
        name = freed.pop(rng.randrange(len(freed)))
        if rng.random() < 0.7:
            rng.choice(lists).append(name)


def change_a_number(document: Any, rng: random.Random) -> None:
    """Make a coefficient, or another number that is not whole, larger, smaller, negative or nothing."""
    numbers = [(c, k) for c, k in places(document) if isinstance(c[k], float)]
    if numbers:
        container, key = rng.choice(numbers)
        container[key] *= rng.choice((0.0, -1.0, 0.5, 1.0 + 1e-15, 1e-9, 1e-30, 1e9))


def exchange_a_value(document: Any, rng: random.Random) -> None:
    """Write one value of a kind (a number, a text) in the place of another one of this kind."""
    leaves = [(c, k) for c, k in places(document) if isinstance(c[k], str | float)]
    if leaves:
        container, key = rng.choice(leaves)
        container[key] = rng.choice([c[k] for c, k in leaves if type(c[k]) is type(container[key])])


def damaged_text(rng: random.Random, kinds: list[Any]) -> str:
    """The text of a plan with some changes."""
    document = copy.deepcopy(rng.choice(kinds))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        damage(document, rng)
    text = json.dumps(document)
    if rng.random() < 0.05:
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice(("", "}", "[", '"', "0", "-", "\x00", "e9")) + text[at + rng.randrange(4) :]
    return text


# What is expected ----------------------------------------------------------------------------------------------------


def noise_number(count: int) -> Array:
    """What is drawn as the noise number `count`."""
    return np.cos(np.arange(SIZE) * 1.7 + count).reshape(1, SIZE)


def network(x: Any) -> Any:
    """What the network says, bounded and smooth."""
    return np.tanh(x) if isinstance(x, np.ndarray) else torch.tanh(x)


def by_the_page(plan: Any, limit: float = np.inf) -> tuple[Array, float]:
    """The result of running `plan` (JSON) as docs/plan-format.md has it, and the largest number on the way to it.

    The second is what rounding errors are in proportion to: each sum adds up what its terms could be at most.
    """
    registers = {plan["initial"]: (X, np.abs(X))}
    drawn = 0

    def update(each: Any) -> None:
        nonlocal drawn
        for register, _, _ in each["noises"]:
            registers[register] = noise_number(drawn), np.ones_like(X)
            drawn += 1
        for register, terms in each["writes"]:
            registers[register] = (
                sum((c * registers[source][0] for source, c in terms), np.zeros_like(X)),
                sum((abs(c) * registers[source][1] for source, c in terms), np.zeros_like(X)),
            )

    update(plan["opening"])
    for stage in plan["stages"]:
        x, most = registers[stage["sample"]]
        output = network(stage["scale"] * x)
        most_of_output = 1.0 + abs(stage["scale"]) * most
        data = np.clip(stage["a"] * x + stage["b"] * output, -limit, limit)
        registers[stage["data"]] = data, abs(stage["a"]) * most + abs(stage["b"]) * most_of_output
        registers["output"] = output, most_of_output
        registers["unguided"] = 0.5 * output, most_of_output
        update(stage)
    result, most = registers[plan["result"]]
    return result, float(most.max())


# What runs -----------------------------------------------------------------------------------------------------------


def draws(make: Callable[[Array], Any]) -> Callable[..., Any]:
    """A source of the noises in their order, in arrays that `make` makes."""
    numbers = iter(range(10**9))
    return lambda x, sigma_from, sigma_to: make(noise_number(next(numbers)))


def as_run(plan: Plan, make: Callable[[Array], Any], **options: Any) -> Array:
    run = Run(plan, draws(make), **options)
    x = run.begin(make(X))
    while not run.is_done:
        output = network(run.model_input(x))
        x = run.step(output, x, 0.5 * output if plan.reads_unguided else None)
    return np.asarray(x, np.float64)


def as_row(plan: Plan, make: Callable[[Array], Any], **options: Any) -> Array:
    batch = BatchRun()
    row = batch.join(plan, make(X)[0], noise=draws(make), **options)
    other = batch.join(plan, make(X)[0], noise=draws(make), **options)
    while len(batch):
        (inputs,) = batch.inputs()
        outputs = network(inputs.x)
        batch.advance(inputs, outputs, 0.5 * outputs)
    assert np.array_equal(np.asarray(row.result), np.asarray(other.result), equal_nan=True)
    return np.asarray(row.result, np.float64)[None]


def as_module(plan: Plan, make: Callable[[Array], Any]) -> Array | None:
    try:
        steps = PlanModule(plan, dtype=torch.float64)
    except ValueError as error:
        if "remembers more than its sample from before" in str(error):
            return None
        raise
    if plan.is_stochastic:  # a module takes the noises of a step in another order
        return None
    x = make(X)
    state = steps.begin(x)
    for index in steps.indices:
        output = network(steps.model_input(x, index))
        x, state = steps(output, x, state, index, None, 0.5 * output if plan.reads_unguided else None)
    return np.asarray(x, np.float64)


def single(values: Array) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def double(values: Array) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def unchanged(data: Any, stage: Any) -> Any:
    return data


LIMIT = 0.8

WAYS: dict[str, tuple[Callable[[Plan], Array | None], float, float]] = {
    "NumPy": (lambda plan: as_run(plan, np.copy), 1e-11, np.inf),
    "double": (lambda plan: as_run(plan, double), 1e-11, np.inf),
    "donated": (lambda plan: as_run(plan, double, donate=True), 1e-11, np.inf),
    "single": (lambda plan: as_run(plan, single), 1e-4, np.inf),
    "transform": (lambda plan: as_run(plan, double, transform=unchanged), 1e-11, np.inf),
    "clip": (lambda plan: as_run(plan, double, transform=Clip(LIMIT)), 1e-11, LIMIT),
    "clip, NumPy": (lambda plan: as_run(plan, np.copy, transform=Clip(LIMIT)), 1e-11, LIMIT),
    "row": (lambda plan: as_row(plan, single), 1e-4, np.inf),
    "row, transform": (lambda plan: as_row(plan, double, transform=unchanged), 1e-11, np.inf),
    "row, NumPy": (lambda plan: as_row(plan, np.copy), 1e-11, np.inf),
    "module": (lambda plan: as_module(plan, double), 1e-11, np.inf),
}
"""The executors, how far each may be off in proportion to the largest number, and where data are clipped."""


def attack(text: str, ways: list[str]) -> str:
    """Load `text`, and run it in some ways if it is a plan: "refused" or "runs".

    Raises:
        AssertionError: it runs to something else than the format's page says.
        Exception: of any other kind, which is a fault of the library.
    """
    try:
        plan = Plan.from_json(text)
    except PlanFormatError as error:
        message = str(error)
        if len(message) < 1000:
            return "refused"
        raise AssertionError(f"a message of {len(message)} characters") from error
    document = json.loads(plan.to_json())
    assert Plan.from_json(plan.to_json()) == plan
    assert str(plan)
    for way in ways:
        run, accuracy, limit = WAYS[way]
        with np.errstate(all="ignore"):
            expected, most = by_the_page(document, limit)
            found = run(plan)
        if found is None or most * most > 1e36:  # products of coefficients that single precision need not hold
            continue
        off = float(np.abs(found - expected).max())
        assert off <= accuracy * (most + 1.0), f"{way}: {found} instead of {expected}, of numbers up to {most:g}"
    return "runs"


def storm(count: int, seed: int) -> tuple[Counter[str], dict[str, str]]:
    """Attack with `count` texts: how they ended, and one text for each kind of fault."""
    rng, kinds = random.Random(seed), documents()
    ended: Counter[str] = Counter()
    faults: dict[str, str] = {}
    for _ in range(count):
        text = damaged_text(rng, kinds)
        ways = rng.sample(list(WAYS), 3)
        try:
            ended[attack(text, ways)] += 1
        except Exception as error:
            ended["fault"] += 1
            name = f"{ways[0] if not isinstance(error, AssertionError) else ''} {type(error).__name__}: {error}"[:160]
            faults.setdefault(name, text)
    return ended, faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    ended, faults = storm(given.count, given.seed)
    print(dict(ended))
    for name, text in list(faults.items())[:20]:
        print(f"\n{name}\n{text}")
    raise SystemExit(bool(faults))


if __name__ == "__main__":
    main()

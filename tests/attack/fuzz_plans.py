"""The attack on plans with texts that a coverage-guided fuzzer finds: those that reach code which none before reached.

    pip install atheris
    python -m tests.attack.fuzz_plans -atheris_runs=100000

Half of the changes are the fuzzer's, of bytes, and half those of :mod:`tests.attack.plans`, of the document. What fails
is written to a file ``crash-...`` here, which ``python -m tests.attack.fuzz_plans crash-...`` runs again. Options are
those of libFuzzer: ``-max_total_time=60``, or a folder to keep texts in.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import atheris

with atheris.instrument_imports(include=["diffusolve.plan", "diffusolve.backends.lowering", "diffusolve.errors"]):
    import diffusolve.backends.lowering
    import diffusolve.plan.json_format  # noqa: F401

import torch

from tests.attack.plans import WAYS, attack, damage, documents

LONGEST = 60_000


def one(data: bytes) -> None:
    """Attack with a text; the first byte says how the plan is run, if it is one."""
    ways = list(WAYS)
    attack(data[1:].decode("utf-8", "replace"), [ways[data[0] % len(ways)]] if data else ways[:1])


def changed(data: bytes, most: int, seed: int) -> bytes:
    """Another text made of one: by the fuzzer, or where it is JSON as the attack does it."""
    rng = random.Random(seed)
    if rng.random() < 0.5:
        try:
            document = json.loads(data[1:])
            damage(document, rng)
            text = json.dumps(document).encode()
        except (ValueError, IndexError, TypeError, AttributeError, RecursionError):
            pass
        else:
            return (bytes([rng.randrange(len(WAYS))]) + text)[:most]
    made: bytes = atheris.Mutate(data, most)
    return made


def main() -> None:
    torch.set_num_threads(1)
    given = sys.argv if any(not argument.startswith("-") for argument in sys.argv[1:]) else None
    with TemporaryDirectory() as folder:
        for number, document in enumerate(documents()):
            (Path(folder) / str(number)).write_bytes(bytes([number]) + json.dumps(document).encode())
        atheris.Setup(given or [*sys.argv, folder, f"-max_len={LONGEST}"], one, custom_mutator=changed)
        atheris.Fuzz()


if __name__ == "__main__":
    main()

"""diffusers' own scheduler tests, run with the classes of diffusolve in the place of theirs.

    python tests/diffusers_own_tests.py CHECKOUT --at-least 0.96

The checkout is one of diffusers' repository (its wheel has no tests); the library itself is the installed one. The
tests are run twice, each in a process of its own: as they are, and after every scheduler class that diffusolve has
under the same name, and the class of its steps' results, was put into ``diffusers``. A test that fails as it is (for
want of a network, say) is left out.
Printed: how many pass for each class, and a line for every test that fails only with ours.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PLUGIN = '''
"""Swaps classes before anything is collected, and writes down what became of each test."""

import importlib
import json
import os

import diffusers

RESULTS = {}


def pytest_configure(config):
    import torch

    torch.set_num_threads(1)
    if os.environ["SWAP"] == "no":
        return
    import diffusers.schedulers
    import diffusolve
    from diffusolve.schedulers.import_paths import in_both

    for name in list(diffusers._class_to_module):
        if name.endswith("Scheduler") and hasattr(diffusolve, name):
            for module in (diffusers, diffusers.schedulers):
                setattr(module, name, getattr(diffusolve, name))
    for name, (_, path) in in_both().items():
        module, output = importlib.import_module(path), name + "Output"
        if hasattr(module, output):
            ours = importlib.import_module(path.replace("diffusers", "diffusolve", 1))
            setattr(module, output, getattr(ours, output))


def class_under_test(item):
    """The class that the test is about, named by the test's class or by the module; none for the bare common tests,
    which every module imports, and which then walk over no class at all."""
    named = getattr(item.cls, "scheduler_classes", None)
    if named is not None:
        return named[0].__name__ if named else ""
    found = [x for x in vars(item.module) if x.endswith("Scheduler") and hasattr(diffusers, x)]
    return found[0] if len(found) == 1 else "SchedulerMixin"


def pytest_collection_modifyitems(items):
    for item in items:
        RESULTS[item.nodeid] = {"scheduler": class_under_test(item), "outcome": "passed", "reason": ""}


def pytest_runtest_logreport(report):
    if report.outcome == "passed":
        return
    entry = RESULTS[report.nodeid]
    entry["outcome"] = report.outcome
    crash = getattr(report.longrepr, "reprcrash", None)
    lines = (crash.message if crash else str(report.longrepr)).strip().splitlines()
    entry["reason"] = lines[0] if lines else ""


def pytest_sessionfinish(session):
    with open(os.environ["RESULTS"], "w") as file:
        json.dump(RESULTS, file)
'''

STAND_IN_FOR_HUB_TESTS = 'TOKEN = USER = ""\n\n\ndef is_staging_test(test):\n    return None\n'
"""What the common tests import from a file that a checkout without its ``tests/others`` lacks."""


@dataclass(frozen=True)
class Result:
    """What became of one test.

    Attributes:
        test: file, class and method, as pytest prints it.
        scheduler: the class that it is about, or SchedulerMixin.
        passed: whether it passed with our class.
        reason: the first line of the error, where there was one.
    """

    test: str
    scheduler: str
    passed: bool
    reason: str


def _laid_out(checkout: Path, into: Path) -> None:
    """Copy a checkout's scheduler tests, and what they import, to a folder where nothing else is found first."""
    tests = into / "tests"
    shutil.copytree(checkout / "tests" / "schedulers", tests / "schedulers")
    shutil.copy(checkout / "tests" / "testing_utils.py", tests)
    (tests / "__init__.py").touch()
    (tests / "others").mkdir()
    (tests / "others" / "__init__.py").touch()
    (tests / "others" / "test_utils.py").write_text(STAND_IN_FOR_HUB_TESTS)
    (into / "swapping.py").write_text(PLUGIN)
    (into / "pytest.ini").write_text("[pytest]\n")


def _outcomes(folder: Path, *, swap: bool) -> dict[str, dict[str, str]]:
    """Run the tests in a process of its own."""
    results = folder / f"results-{swap}.json"
    source = Path(__file__).resolve().parent.parent / "src"
    paths = os.pathsep.join([str(folder), str(source), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "SWAP": "yes" if swap else "no", "RESULTS": str(results), "PYTHONPATH": paths}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "swapping", "-p", "no:cacheprovider", "tests/schedulers"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if not results.exists():
        raise RuntimeError(f"diffusers' tests could not be run:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    outcomes: dict[str, dict[str, str]] = json.loads(results.read_text())
    return outcomes


def run(checkout: Path, schedulers: Sequence[str] = ()) -> list[Result]:
    """Run diffusers' scheduler tests with our classes.

    Args:
        checkout: of diffusers' repository, with its ``tests/schedulers``.
        schedulers: the classes whose tests count; all that diffusolve has when there are none.

    Raises:
        FileNotFoundError: if the checkout has no scheduler tests.
        RuntimeError: if pytest could not collect them.
    """
    import diffusolve

    if not (checkout / "tests" / "schedulers").is_dir():
        raise FileNotFoundError(f"{checkout} has no tests/schedulers; expected a checkout of diffusers' repository")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _laid_out(checkout, folder)
        reference, swapped = (_outcomes(folder, swap=swap) for swap in (False, True))
    # A swapped class could keep tests from being collected at all: those that are missing have failed.
    missing = {"outcome": "failed", "reason": "not collected"}
    return [
        Result(test, entry["scheduler"], mine["outcome"] == "passed", mine["reason"])
        for test, entry in reference.items()
        if entry["outcome"] == "passed"
        and entry["scheduler"]
        and (entry["scheduler"] in schedulers if schedulers else hasattr(diffusolve, entry["scheduler"]))
        for mine in [swapped.get(test, missing)]
    ]


def report(results: Sequence[Result]) -> str:
    """Pass counts for each class, the tests that failed with their reasons, and the whole."""
    lines = []
    for scheduler in sorted({result.scheduler for result in results}):
        own = [result for result in results if result.scheduler == scheduler]
        lines.append(f"{sum(result.passed for result in own):4} of {len(own):3}  {scheduler}")
    for result in results:
        if not result.passed:
            test = result.test.removeprefix("tests/schedulers/test_scheduler_").replace("::", " ")
            lines.append(f"failed: {test}: {result.reason[:200]}")
    lines.append(f"{sum(result.passed for result in results)} of {len(results)} pass")
    return "\n".join(lines)


def main() -> int:
    """Run, print the report, and tell whether enough passed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("checkout", type=Path, help="a checkout of diffusers' repository")
    parser.add_argument("--at-least", type=float, default=0.0, metavar="SHARE", help="fail below this share of passes")
    parser.add_argument("--only", nargs="*", default=(), metavar="CLASS", help="count the tests of these classes alone")
    options = parser.parse_args()
    results = run(options.checkout, options.only)
    print(report(results))
    return int(sum(result.passed for result in results) < options.at_least * len(results))


if __name__ == "__main__":
    sys.exit(main())

"""The compiled modules under AddressSanitizer and UndefinedBehaviorSanitizer, and with freed memory overwritten.

    make sanitize
    python -m tests.attack.sanitize --count 5000

Both modules are built anew, with gcc and the sanitizers, into a copy of the package in a temporary folder. The suites
that use them and :mod:`tests.attack.arrays` run on this copy; the first report of a sanitizer ends a program. Then the
arrays are walked without sanitizers, with memory as malloc leaves it and with every byte of fresh and freed memory
overwritten (MALLOC_PERTURB_ of glibc): the results must be the same bits. Linux and gcc only.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parent.parent.parent

MODULES = ("diffusolve/backends/_combine", "diffusolve/randomness/_normal")

FLAGS = (
    *("-O1", "-g", "-std=c11", "-shared", "-fPIC", "-pthread", "-fno-omit-frame-pointer"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-DPy_LIMITED_API=0x030A0000"),
)

PAST_THE_END = """
import torch
from diffusolve.backends import _combine
x, y = torch.zeros(1000), torch.zeros(1000)
program = _combine.program(False, 1, ((float("inf"), ((0, 2.0),)),))
_combine.combine(program, 1100, 1, x.data_ptr(), y.data_ptr())
"""

SUITES = ("test_native.py", "test_batch_run.py", "test_misuse.py", "test_donate.py", "test_counter_noise.py")


def sanitized_copy(folder: Path) -> dict[str, str]:
    """Build the package with sanitizers in `folder`; the environment in which a program uses it."""
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for module in MODULES:
        source = folder / "src" / f"{module}.c"
        target = source.with_suffix(".abi3.so")
        include = sysconfig.get_path("include")
        subprocess.run(["gcc", *FLAGS, f"-I{include}", str(source), "-o", str(target), "-ldl"], check=True)
    return {
        "PYTHONPATH": str(folder / "src"),
        "LD_PRELOAD": ":".join(library(name) for name in ("libasan.so", "libubsan.so", "libstdc++.so")),
        # Python and PyTorch keep memory until the process ends; both handle signals and stacks themselves.
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:detect_stack_use_after_return=0",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
    }


def library(name: str) -> str:
    found = subprocess.run(["gcc", f"-print-file-name={name}"], check=True, capture_output=True, text=True)
    return found.stdout.strip()


def run(*arguments: str, environment: dict[str, str]) -> str:
    """The output of a Python program; ends this one if that fails."""
    print("+", *arguments, flush=True)
    done = subprocess.run(
        [sys.executable, *arguments], env={**os.environ, **environment}, cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    print(done.stdout, flush=True)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} ended with status {done.returncode}: see the report above.")
    return done.stdout


def check_that_it_reports(environment: dict[str, str]) -> None:
    """End this program unless a read past the end of an array is reported."""
    done = subprocess.run(
        [sys.executable, "-c", PAST_THE_END], env={**os.environ, **environment}, capture_output=True, text=True
    )
    if done.returncode == 0 or "AddressSanitizer: heap-buffer-overflow" not in done.stderr:
        sys.exit(f"a read past the end of an array went unnoticed: {done.stderr[-500:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="walks of arrays")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    walks = ("-m", "tests.attack.arrays", "--count", str(given.count), "--seed", str(given.seed))
    with TemporaryDirectory() as folder:
        sanitized = sanitized_copy(Path(folder))
        run(*walks, environment=sanitized)
        check_that_it_reports(sanitized)
        suites = [f"tests/{suite}" for suite in SUITES]
        run("-m", "pytest", "-q", "-p", "no:cacheprovider", *suites, environment=sanitized)
    usual = {"PYTHONPATH": str(ROOT / "src"), "PYTHONMALLOC": "malloc"}
    results = {run(*walks, environment={**usual, "MALLOC_PERTURB_": byte}) for byte in ("0", "90", "165")}
    if len(results) > 1:
        sys.exit("results depend on what is in freed or fresh memory.")
    print("nothing reported; results are the same whatever is in freed and fresh memory.")


if __name__ == "__main__":
    main()

"""Runs in processes that are forked, spawned, interrupted or out of memory; each is tried in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent.parent

posix = pytest.mark.skipif(sys.platform != "linux", reason="fork, signals and limits of Linux")

START = """
import multiprocessing, os, pickle, random, resource, signal, sys, threading
import torch
from diffusolve.backends import Run
from diffusolve.catalog import sampler
from diffusolve.noise import SD15

PLAN = sampler("UniPC").plan(SD15, "epsilon", 6)
LARGE = (1, 16, 128, 128)

def start(shape=LARGE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))

def walk(run, x):
    while not run.is_done:
        x = run.step(torch.tanh(x), x)
    return x
"""


def outcome(program: str, timeout: float = 120) -> str:
    """What a program prints, which begins with the above."""
    code = START + textwrap.dedent(program)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=timeout, cwd=SOURCE, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


@posix
def test_a_forked_process_goes_on_with_a_copy_of_the_run() -> None:
    """With one thread in the child: after a fork PyTorch's OpenMP waits for threads that are not there any more."""
    program = """
    torch.set_num_threads(2)
    run, x = Run(PLAN), start()
    for _ in range(3):
        x = run.step(torch.tanh(x), x)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        os.write(write, walk(run, x).numpy().tobytes()[:64])
        os._exit(0)
    os.waitpid(child, 0)
    print(os.read(read, 64) == walk(run, x).numpy().tobytes()[:64])
    """
    assert outcome(program) == "True"


@posix
def test_workers_of_a_forking_pool_step_runs_of_their_own() -> None:
    program = """
    torch.set_num_threads(1)
    walk(Run(PLAN), start())

    def work(number):
        return float(walk(Run(PLAN), start((1, 4, 8, 8)) + number).sum())

    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(pool.map(work, range(6)) == [work(number) for number in range(6)])
    """
    assert outcome(program) == "True"


def test_runs_are_sent_to_spawned_processes_and_go_on_there(tmp_path: Path) -> None:
    half = tmp_path / "half"
    first = f"""
    run, x = Run(PLAN), start()
    for _ in range(3):
        x = run.step(torch.tanh(x), x)
    open({str(half)!r}, "wb").write(pickle.dumps((run, x)))
    print(float(walk(run, x).double().sum()))
    """
    second = f"""
    print(float(walk(*pickle.load(open({str(half)!r}, "rb"))).double().sum()))
    """
    assert outcome(first) == outcome(second)


@posix
def test_a_signal_may_interrupt_any_step_and_the_next_run_knows_nothing_of_it() -> None:
    program = """
    class Interrupted(BaseException):
        pass

    def handler(*_):
        if is_walking:
            raise Interrupted

    is_walking = False

    signal.signal(signal.SIGALRM, handler)
    whole = walk(Run(PLAN), start((1, 4, 64, 64)))
    rng, interrupted = random.Random(0), 0
    for _ in range(300):
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 1e-3))
        try:
            is_walking = True
            walk(Run(PLAN), start((1, 4, 64, 64)))
            is_walking = False
        except Interrupted:
            interrupted += 1
        is_walking = False
        assert torch.equal(walk(Run(PLAN), start((1, 4, 64, 64))), whole)
    print(interrupted > 50)
    """
    assert outcome(program) == "True"


@posix
def test_a_step_without_memory_raises_and_can_be_taken_again() -> None:
    program = """
    torch.set_num_threads(1)
    shape = (1, 16, 21, 90, 160)
    whole = walk(Run(PLAN), start(shape))
    run, x = Run(PLAN), start(shape)
    failed = 0
    while not run.is_done:
        output = torch.tanh(x)
        resource.setrlimit(resource.RLIMIT_AS, (int(open("/proc/self/statm").read().split()[0]) * 4096 + 2**20, -1))
        held = []
        try:
            try:
                while True:  # what is free already
                    held.append(torch.empty(shape))
            except RuntimeError:
                pass
            position = run.position
            following = run.step(output, x)
        except (RuntimeError, MemoryError):
            failed += 1
            assert run.position == position
            resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
            held.clear()
            following = run.step(output, x)
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
        x = following
    print(torch.equal(x, whole), failed > 0)
    """
    assert outcome(program) == "True True"


def test_another_interpreter_of_the_process_runs_plans_on_numpy() -> None:
    """Where it is the only one that has NumPy, which can be imported once; PyTorch cannot be imported there at all."""
    interpreters = pytest.importorskip("_xxsubinterpreters", reason="a module of CPython 3.10 to 3.12")
    code = """
    import numpy
    from diffusolve.backends import Run
    from diffusolve.catalog import sampler
    from diffusolve.noise import SD15
    run, x = Run(sampler("UniPC").plan(SD15, "epsilon", 6)), numpy.ones((3, 4))
    while not run.is_done:
        x = run.step(0.3 * x, x)
    print(float(x.sum()))
    """
    here = f"import warnings; warnings.simplefilter('ignore')\n{textwrap.dedent(code)}"
    there = f"import {interpreters.__name__} as other\nother.run_string(other.create(), {here!r})"
    made = [subprocess.run([sys.executable, "-c", each], capture_output=True, text=True) for each in (here, there)]
    assert [each.returncode for each in made] == [0, 0]
    assert made[0].stdout == made[1].stdout != ""

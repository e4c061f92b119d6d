"""The share of random faults in the code that the tests catch: ``python -m benchmarks.mutants``.

A fault is an operator, a comparison or a number changed somewhere in the solvers, the spacings, the lowering of plans
or the scheduler classes. Each is made in a copy of the repository, where the tests run until one fails, first of them
those that name what the file defines. A fault counts as caught only if the test that fails with it passes without it.
"""

from __future__ import annotations

import ast
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from queue import Queue
from threading import Lock
from types import MappingProxyType
from typing import Annotated

import typer

ROOT = Path(__file__).parent.parent
PACKAGE = Path("src") / "diffusolve"

GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "solvers": ("solvers/*.py",),
        "spacings": ("spacing/*.py",),
        "lowering": ("plan/trace.py", "backends/program.py", "backends/lower*.py"),
        "scheduler classes": ("schedulers/*.py",),
    }
)
"""Group -> the files that faults are made in. Every group gets the same number of faults."""

OPERATORS: Mapping[type[ast.AST], str] = MappingProxyType(
    {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "*", ast.Pow: "*"}
)
COMPARISONS: Mapping[type[ast.AST], str] = MappingProxyType(
    {
        ast.Lt: "<=",
        ast.LtE: "<",
        ast.Gt: ">=",
        ast.GtE: ">",
        ast.Eq: "!=",
        ast.NotEq: "==",
        ast.Is: "is not",
        ast.IsNot: "is",
        ast.In: "not in",
        ast.NotIn: "in",
    }
)

CACHE_SIZES = {"lru_cache", "maxsize"}
"""Numbers that stand here change how long something takes and nothing else."""

FIRST_PASS_SECONDS, FULL_SECONDS = 600.0, 3600.0
"""The most that a run of the tests may take; a fault that makes them take longer is caught."""

FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+?\.py(?:::.*?)?)(?: - .*)?$", re.MULTILINE)
"""A line of pytest's summary, with the test."""

TOLERANCE = 1e-6
"""Smaller numbers say where rounding errors begin; whatever they are nearly, they do that."""

NO_TESTS_LEFT = 5
"""pytest's exit status when nothing was collected."""


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Attributes:
        group: of :data:`GROUPS`.
        path: of the file, from the root of the repository.
        begin, end: bytes of the file that are replaced.
        replacement: what takes their place.
        line: the number of the line that they stand in.
    """

    group: str
    path: Path
    begin: int
    end: int
    replacement: str
    line: int

    def applied(self, source: bytes) -> bytes:
        """`source`, the file's content, with the fault."""
        return source[: self.begin] + self.replacement.encode() + source[self.end :]

    def described(self, source: bytes) -> str:
        """The file, the line, and what was changed in it."""
        text = source.splitlines()[self.line - 1].decode().strip()
        before, after = source[self.begin : self.end].decode(), self.replacement or "nothing"
        return f"{self.path}:{self.line}: {before} -> {after}: {text}"


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant: whether it was caught, by which test, in how many seconds."""

    mutant: Mutant
    caught: bool
    by: str
    seconds: float


class Places(ast.NodeVisitor):
    """The places in a file where a fault can be made: begin, end, replacement and line of each."""

    def __init__(self, source: bytes) -> None:
        self.source = source
        self.starts = [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.found: list[tuple[int, int, str, int]] = []
        self.visit(ast.parse(source))

    def visit_BinOp(self, node: ast.BinOp) -> None:
        """An operator between numbers, not between strings or types."""
        replacement = OPERATORS.get(type(node.op))
        if replacement is not None and not any(map(_is_text, (node.left, node.right))):
            self._between(node.left, node.right, replacement)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        """Each comparison of a chain."""
        sides = [node.left, *node.comparators]
        for left, operator, right in zip(sides, node.ops, sides[1:], strict=False):
            self._between(left, right, COMPARISONS[type(operator)])
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        """`and` and `or`, of which the first in a chain changes."""
        if len(node.values) == 2:
            self._between(node.values[0], node.values[1], "or" if isinstance(node.op, ast.And) else "and")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        """A minus sign, or a `not`, that goes."""
        if isinstance(node.op, ast.USub | ast.Not):
            begin = self._at(node)
            self.found.append((begin, begin + (1 if isinstance(node.op, ast.USub) else len("not")), "", node.lineno))
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        """A number becomes another."""
        if isinstance(node.value, int | float) and not isinstance(node.value, bool) and not 0 < node.value < TOLERANCE:
            changed = node.value + 1 if isinstance(node.value, int) else node.value * 1.1 or 0.1
            self.found.append((self._at(node), self._end(node), repr(changed), node.lineno))

    def visit_Call(self, node: ast.Call) -> None:
        """Arguments of a call, but for sizes of caches."""
        if not (isinstance(node.func, ast.Name) and node.func.id in CACHE_SIZES):
            self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> None:
        """Arguments by name, but for sizes of caches."""
        if node.arg not in CACHE_SIZES:
            self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """The value and not the annotation."""
        if node.value is not None:
            self.visit(node.value)

    def visit_arg(self, node: ast.arg) -> None:
        """Nothing: what stands there is an annotation."""

    def visit_Raise(self, node: ast.Raise) -> None:
        """Nothing: numbers there are words of a message."""

    def _between(self, left: ast.expr, right: ast.expr, replacement: str) -> None:
        """Replace the operator between two expressions, which may stand in brackets and on several lines."""
        gap = self.source[self._end(left) : self._at(right)]
        operator = re.search(rb"is\s+not|not\s+in|[a-z]+|[-+*/<>=!]+", re.sub(rb"#[^\n]*", _blank, gap))
        assert operator is not None, gap
        begin = self._end(left) + operator.start()
        line = self.source.count(b"\n", 0, begin) + 1
        self.found.append((begin, begin + len(operator[0]), replacement, line))

    def _at(self, node: ast.expr) -> int:
        return self.starts[node.lineno - 1] + node.col_offset

    def _end(self, node: ast.expr) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self.starts[node.end_lineno - 1] + node.end_col_offset


def _blank(comment: re.Match[bytes]) -> bytes:
    return b" " * len(comment[0])


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def mutants_in(root: Path, group: str) -> list[Mutant]:
    """Every fault that can be made in the files of `group`.

    Raises:
        FileNotFoundError: the group has no files.
    """
    paths = sorted(path for pattern in GROUPS[group] for path in (root / PACKAGE).glob(pattern))
    if not paths:
        raise FileNotFoundError(f"no files of the group {group!r} in {root / PACKAGE}: {', '.join(GROUPS[group])}.")
    return [
        Mutant(group, path.relative_to(root), *place) for path in paths for place in Places(path.read_bytes()).found
    ]


def chosen(root: Path, count: int, seed: int) -> list[Mutant]:
    """`count` random faults, as many of each group, none of them twice."""
    generator = random.Random(seed)
    shuffled = []
    for group in GROUPS:
        of_group = mutants_in(root, group)
        generator.shuffle(of_group)
        shuffled.append(iter(of_group))
    return list(islice((mutant for of_group in cycle(shuffled) for mutant in islice(of_group, 1)), count))


def defined_in(path: Path) -> set[str]:
    """The names of the functions and classes at the top of a file, and its own."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return {path.stem} | {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


@cache
def text_of(path: Path) -> str:
    """The content of a file."""
    return path.read_text(encoding="utf-8")


@cache
def words_of(root: Path, path: Path) -> Mapping[str, int]:
    """The identifiers in a file of tests and in the helpers that it imports, and how often each occurs."""
    imported = re.findall(r"^from (tests[.\w]*) import", text_of(path), re.MULTILINE)
    helpers = {root.joinpath(*module.split(".")).with_suffix(".py") for module in imported}
    texts = [text_of(file) for file in (path, *(helper for helper in helpers if helper.is_file()))]
    return MappingProxyType(Counter(re.findall(r"\w+", "\n".join(texts))))


def importers_of(root: Path, mutated: Path) -> list[Path]:
    """The files of the package that import from `mutated`."""
    module = ".".join(mutated.relative_to("src").with_suffix("").parts)
    return [path for path in sorted((root / PACKAGE).rglob("*.py")) if f"from {module} import" in text_of(path)]


def by_relevance(root: Path, mutated: Path) -> list[str]:
    """The files of tests, the most relevant first.

    First comes the one that is called after it. A name that `mutated` defines makes the tests that have it relevant, or
    whose helpers have it, each by its share of the occurrences; one from a file that imports from it does so by a
    quarter, and programs that a test starts halve it all, since they are slow. Among equals come those first that
    import from the room, and the shorter ones.
    """
    tests = sorted((root / "tests").rglob("test_*.py"))
    weights = {name: 0.25 for path in importers_of(root, mutated) for name in defined_in(path) - {"__init__"}}
    weights |= dict.fromkeys(defined_in(root / mutated), 1.0)
    occurrences = {name: sum(words_of(root, test).get(name, 0) for test in tests) for name in weights}
    room = f"diffusolve.{mutated.relative_to(PACKAGE).parts[0]}"

    def rank(test: Path) -> tuple[bool, float, bool, int]:
        words, text = words_of(root, test), text_of(test)
        relevance = sum(weights[name] * words[name] / occurrences[name] for name in weights.keys() & words.keys())
        relevance /= 2 if "import subprocess" in text else 1
        return test.stem != f"test_{mutated.stem}", -relevance, room not in text, len(text)

    return [test.relative_to(root).as_posix() for test in sorted(tests, key=rank)]


class Bench:
    """A copy of the repository in which one fault at a time is made and tested.

    Args:
        original: a clean copy with its compiled modules.
        folder: where this one goes.
    """

    def __init__(self, original: Path, folder: Path) -> None:
        self.root = folder
        shutil.copytree(original, folder)

    def pytest(self, arguments: Sequence[str], seconds: float) -> tuple[int | None, list[str]]:
        """Exit status of the tests and the ones that failed; None if they took too long."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.root / "src"),
            "PYTHONDONTWRITEBYTECODE": "1",  # two versions of a file may be alike in size and second
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "pytest", "-x", "-rfE", "--tb=no", "-p", "no:cacheprovider", *arguments]
        process = subprocess.Popen(
            command, cwd=self.root, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            return None, []
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        return process.returncode, re.findall(
            r"^(?:FAILED|ERROR) (\S+?\.py(?:::.*?)?)(?: - .*)?$", output, re.MULTILINE
        )


class Judge:
    """Runs the tests for each mutant, in as many copies at once as there are.

    Args:
        benches: the copies.
        first: how many files of tests run before a mutant is called a survivor.
        full: whether survivors then have to face the whole suite.
    """

    def __init__(self, benches: Sequence[Bench], first: int, full: bool) -> None:
        self.first, self.full = first, full
        self._free: Queue[Bench] = Queue()
        for bench in benches:
            self._free.put(bench)
        self._sound: dict[str, bool] = {}
        self._lock = Lock()

    def __call__(self, mutant: Mutant) -> Verdict:
        """Whether the tests catch it."""
        bench, begun = self._free.get(), time.perf_counter()
        try:
            by = self._caught_by(bench, mutant)
        finally:
            self._free.put(bench)
        return Verdict(mutant, by is not None, by or "", time.perf_counter() - begun)

    def _caught_by(self, bench: Bench, mutant: Mutant) -> str | None:
        """The test that fails with `mutant` and not without; None if there is none."""
        path = bench.root / mutant.path
        clean = path.read_bytes()
        tests = by_relevance(bench.root, mutant.path)
        passes = [(tests[: self.first], FIRST_PASS_SECONDS)]
        if self.full:
            passes.append((tests[self.first :], FULL_SECONDS))
        unsound: list[str] = []
        for files, seconds in passes:
            while True:
                path.write_bytes(mutant.applied(clean))
                try:
                    status, failed = bench.pytest([*files, *(f"--deselect={test}" for test in unsound)], seconds)
                finally:
                    path.write_bytes(clean)
                if status is None:
                    return "a run that did not end"
                if status in (0, NO_TESTS_LEFT):
                    break
                if not failed:
                    return "a run that broke off"
                if sound := [test for test in failed if self._is_sound(bench, test)]:
                    return sound[0]
                unsound += failed
        return None

    def _is_sound(self, bench: Bench, test: str) -> bool:
        """Whether `test` passes without any fault."""
        with self._lock:
            known = self._sound.get(test)
        if known is None:
            known = bench.pytest([test], FIRST_PASS_SECONDS)[0] == 0
            with self._lock:
                self._sound[test] = known
        return known


def clean_copy(folder: Path, revision: str | None) -> None:
    """Copy the repository's files into `folder`, as they are or as they were at `revision`, and build the modules.

    Raises:
        CalledProcessError: there is no such revision.
    """
    if revision is None:
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in filter(None, names.split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
    else:
        archive = subprocess.run(["git", "archive", revision], cwd=ROOT, capture_output=True, check=True).stdout
        folder.mkdir(parents=True)
        subprocess.run(["tar", "-x"], input=archive, cwd=folder, check=True)
    built = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(built, cwd=folder, capture_output=True, check=False)  # which are optional


def report(verdicts: Sequence[Verdict], elapsed: float) -> Iterator[str]:
    """The share of mutants that were caught, of all and by group, and the survivors."""
    for group in GROUPS:
        caught = [verdict.caught for verdict in verdicts if verdict.mutant.group == group]
        yield f"{group}: {sum(caught)} of {len(caught)} caught"
    caught = [verdict.caught for verdict in verdicts]
    seconds = [verdict.seconds for verdict in verdicts]
    yield f"all: {sum(caught)} of {len(caught)} caught ({sum(caught) / len(caught):.0%})"
    yield (
        f"seconds per mutant: median {statistics.median(seconds):.0f}, mean {statistics.fmean(seconds):.0f}, "
        f"most {max(seconds):.0f}; {elapsed / 60:.1f} minutes in all"
    )


def main(
    count: Annotated[int, typer.Option(min=1, help="How many faults.")] = 60,
    seed: Annotated[int, typer.Option(help="Of the choice of faults.")] = 0,
    revision: Annotated[str | None, typer.Option(help="Of the repository; its files as they are without.")] = None,
    first: Annotated[int, typer.Option(min=1, help="How many files of tests each fault meets first.")] = 8,
    full: Annotated[bool, typer.Option("--full", help="Let survivors meet all other tests too.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="How many copies to test in at once.")] = os.cpu_count() or 1,
) -> None:
    """Print the share of faults that the tests catch, and those that they do not."""
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="diffusolve-mutants-") as temporary:
        clean = Path(temporary) / "clean"
        clean_copy(clean, revision)
        mutants = chosen(clean, count, seed)
        judge = Judge([Bench(clean, Path(temporary) / f"copy{job}") for job in range(jobs)], first, full)
        verdicts = []
        with ThreadPoolExecutor(jobs) as pool:
            for verdict in pool.map(judge, mutants):
                verdicts.append(verdict)
                described = verdict.mutant.described((clean / verdict.mutant.path).read_bytes())
                outcome = f"caught by {verdict.by}" if verdict.caught else "SURVIVED"
                print(f"{len(verdicts):3} {verdict.seconds:4.0f} s  {described}\n           {outcome}", flush=True)
    print(*report(verdicts, time.perf_counter() - begun), sep="\n")


if __name__ == "__main__":
    typer.run(main)

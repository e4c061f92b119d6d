"""Random faults in the code: each is one change, and a test that fails without it does not count."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from benchmarks.mutants import GROUPS, ROOT, Judge, Mutant, Places, Verdict, by_relevance, chosen, report

CODE = '''\
def f(x: int = 3, *, Δ: "float" = 0.5) -> int | None:
    """Doc 1."""
    if x <= 2 and not Δ:
        raise ValueError(f"{x + 1} is too small")
    return (x) * (  # not + but *
        -Δ) is not None
'''


def mutated(code: str) -> list[str]:
    """The lines that differ in each mutant."""
    source = code.encode()
    found = []
    for begin, end, replacement, line in Places(source).found:
        made = Mutant("", Path("x.py"), begin, end, replacement, line).applied(source).decode()
        ast.parse(made)
        (changed,) = [(a, b) for a, b in zip(code.splitlines(), made.splitlines(), strict=True) if a != b]
        assert changed[0] == code.splitlines()[line - 1]
        found.append(changed[1].strip())
    return found


def test_operators_comparisons_and_numbers_change_and_nothing_else() -> None:
    """Neither annotations, messages, docstrings nor comments; columns are counted in bytes."""
    assert sorted(mutated(CODE)) == sorted(
        [
            'def f(x: int = 4, *, Δ: "float" = 0.5) -> int | None:',
            'def f(x: int = 3, *, Δ: "float" = 0.55) -> int | None:',
            "if x < 2 and not Δ:",
            "if x <= 3 and not Δ:",
            "if x <= 2 or not Δ:",
            "if x <= 2 and  Δ:",
            "return (x) / (  # not + but *",
            "-Δ) is None",
            "Δ) is not None",
        ]
    )


@pytest.mark.parametrize(
    "code", ["@lru_cache(maxsize=8)\ndef f(): ...", "x = 'a' + 'b'", "x = f'{1:.3f}' * n", "tiny = 1e-12", "x = True"]
)
def test_what_no_test_could_catch_is_left_alone(code: str) -> None:
    assert [line for line in mutated(code) if "{2" not in line] == []


def test_every_fault_in_the_package_is_code() -> None:
    for mutant in chosen(ROOT, 100, seed=1):
        source = (ROOT / mutant.path).read_bytes()
        changed = mutant.applied(source)
        assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source)), mutant.described(source)


def test_a_seed_chooses_as_many_of_each_group_and_none_twice() -> None:
    mutants = chosen(ROOT, 40, seed=2)
    assert mutants == chosen(ROOT, 40, seed=2) != chosen(ROOT, 40, seed=3)
    assert len(set(mutants)) == 40
    assert [sum(mutant.group == group for mutant in mutants) for group in GROUPS] == [10] * 4


def test_the_tests_that_name_a_file_come_first() -> None:
    solver = Path("src/diffusolve/solvers/restart.py")
    first = by_relevance(ROOT, solver)
    assert len(first) == len(list((ROOT / "tests").rglob("test_*.py")))
    assert "restart" in (ROOT / first[0]).read_text(encoding="utf-8")


class Suite:
    """A copy whose tests fail as told: with the fault, and without."""

    def __init__(self, folder: Path, flawed: tuple[str, ...], always: tuple[str, ...] = ()) -> None:
        self.root = folder
        self.flawed, self.always = flawed, always
        (folder / "src/diffusolve/solvers").mkdir(parents=True)
        (folder / "tests").mkdir()
        (folder / "tests/test_a.py").touch()
        (folder / "src/diffusolve/solvers/x.py").write_text("x = 1")

    def pytest(self, arguments: list[str], seconds: float) -> tuple[int | None, list[str]]:
        with_fault = (self.root / "src/diffusolve/solvers/x.py").read_text() == "x = 2"
        failing = [*self.always, *(self.flawed if with_fault else ())]
        skipped = {argument.removeprefix("--deselect=") for argument in arguments}
        if not with_fault:  # these are asked for by name
            return int(arguments[0] in failing), []
        left = [test for test in failing if test not in skipped][:1]
        return int(bool(left)), left


@pytest.mark.parametrize(
    ("flawed", "always", "by"),
    [
        ((), (), ""),
        (("tests/test_a.py::test_x",), (), "tests/test_a.py::test_x"),
        ((), ("tests/test_a.py::test_broken",), ""),
        (("tests/test_a.py::test_x",), ("tests/test_a.py::test_broken",), "tests/test_a.py::test_x"),
    ],
)
def test_a_fault_is_caught_by_a_test_that_passes_without_it(
    flawed: tuple[str, ...], always: tuple[str, ...], by: str, tmp_path: Path
) -> None:
    suite = Suite(tmp_path / "copy", flawed, always)
    mutant = Mutant("solvers", Path("src/diffusolve/solvers/x.py"), 4, 5, "2", 1)
    verdict = Judge([suite], first=8, full=False)(mutant)  # type: ignore[list-item]
    assert (verdict.caught, verdict.by) == (bool(by), by)
    assert (suite.root / mutant.path).read_text() == "x = 1"


def test_the_report_has_the_share_of_each_group() -> None:
    mutant = Mutant("solvers", Path("x.py"), 0, 1, "", 1)
    lines = list(report([Verdict(mutant, True, "t", 10.0), Verdict(mutant, False, "", 30.0)], 60.0))
    assert lines[0] == "solvers: 1 of 2 caught"
    assert lines[-2] == "all: 1 of 2 caught (50%)"
    assert lines[-1] == "seconds per mutant: median 20, mean 20, most 30; 1.0 minutes in all"

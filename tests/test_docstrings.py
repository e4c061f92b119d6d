"""Docstrings name their subject, and are there where users look."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import diffusolve
from diffusolve.k_diffusion import comfyui, sampling
from diffusolve.solvers import SOLVERS
from diffusolve.solvers.solver import COMMON_OPTIONS

SOURCE = Path(__file__).parent.parent / "src" / "diffusolve"

QUESTIONS = frozenset(("What", "Where", "How", "Whether", "Which", "Who", "Whom", "Whose", "When", "Why"))
PRONOUNS = frozenset(("It", "Its", "They", "Their", "Them", "This", "That", "These", "Those"))
OPENINGS = QUESTIONS | PRONOUNS
"""First words that leave the noun to be guessed."""

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The line and the text of each docstring in `tree`, those of attributes and constants included."""
    for node in ast.walk(tree):
        body = getattr(node, "body", ())
        statements = body if isinstance(body, list) else []  # of a lambda it is an expression
        for earlier, statement in zip([None, *statements], statements, strict=False):
            if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
                continue
            of_a_name = isinstance(earlier, ast.Assign | ast.AnnAssign)
            of_a_definition = earlier is None and isinstance(node, DOCUMENTED)
            if isinstance(statement.value.value, str) and (of_a_name or of_a_definition):
                yield statement.lineno, statement.value.value


def offenders() -> Iterator[tuple[str, str]]:
    """The file and line of each docstring that opens with one of :data:`OPENINGS`, and its first line."""
    for path in sorted(SOURCE.rglob("*.py")):
        for line, text in docstrings(ast.parse(path.read_text(encoding="utf-8"))):
            first = text.strip().split("\n", maxsplit=1)[0]
            if first.split()[:1] and first.split()[0].strip(",.:;'\"`") in OPENINGS:
                yield f"{path.relative_to(SOURCE)}:{line}", first


def test_docstrings_open_with_a_noun_phrase_or_an_imperative() -> None:
    found = [f"{place}: {text}" for place, text in offenders()]
    assert not found, "\n".join(found)


def test_openings_are_found_wherever_a_docstring_can_stand() -> None:
    source = '''
"""What it is."""
LIMIT = 3
"""How many."""
class A:
    """Which one."""
    size: int
    """Whether it is."""
    def f(self):
        """Where it is."""
        "It is no docstring"
async def g():
    """Their own."""
'''
    assert [line for line, _ in sorted(docstrings(ast.parse(source)))] == [2, 4, 6, 8, 10, 13]


def test_what_a_module_exports_has_a_docstring() -> None:
    missing = []
    for module in modules():
        for name in getattr(module, "__all__", ()):
            exported = getattr(module, name)
            if (inspect.isclass(exported) or inspect.isfunction(exported)) and not exported.__doc__:
                missing.append(f"{module.__name__}.{name}")
    assert not missing


def test_solvers_say_where_they_come_from_and_explain_each_of_their_options() -> None:
    silent = [name for name, solver in SOLVERS.items() if f"Source: {solver.paper}." not in (solver.__doc__ or "")]
    unexplained = [
        f"{option} of {name}"
        for name, solver in SOLVERS.items()
        for option in solver.defaults.keys() - COMMON_OPTIONS.keys() - explained_in(solver.__doc__)
    ]
    assert not silent + unexplained


def test_the_functions_of_k_diffusion_explain_each_of_their_arguments() -> None:
    unexplained = []
    for name in sorted({*sampling.__all__, *comfyui.__all__}):
        if name.startswith("sample_"):
            function = getattr(sampling, name)
            arguments = inspect.signature(function).parameters.keys()
            unexplained += [f"{each} of {name}" for each in arguments - explained_in(function.__doc__)]
    assert not unexplained


def explained_in(docstring: str | None) -> set[str]:
    """The arguments that have an entry under Args."""
    _, _, told = (docstring or "").partition("\n\nArgs:\n")
    return set(", ".join(re.findall(r"^ {4}([\w, ]+):", told, re.MULTILINE)).split(", "))


def modules() -> list[ModuleType]:
    found = []
    for each in pkgutil.walk_packages(diffusolve.__path__, "diffusolve."):
        with contextlib.suppress(ImportError):  # something optional is not installed
            found.append(importlib.import_module(each.name))
    return found

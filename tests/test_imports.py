"""Imports point one way, and `import diffusolve` costs nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import diffusolve
from tests.tables import for_each

PACKAGE = Path(diffusolve.__file__).parent

LEAVES = {"errors", "arrays", "files"}
SAMPLING = {"noise", "spacing", "prediction", "solvers", "plan", "backends", "randomness"}

# Room -> the rooms that it may import from, in the order that data flow through them.
KNOWS: dict[str, set[str]] = {
    "errors": set(),
    "arrays": set(),
    "files": set(),
    "noise": {"errors"},
    "spacing": {"errors", "noise"},
    "prediction": {"errors", "noise"},
    "solvers": {"errors", "noise"},
    "plan": {"errors", "noise", "prediction", "solvers"},
    "backends": {"errors", "arrays", "plan"},
    "randomness": {"errors", "arrays"},
    "sampling": LEAVES | SAMPLING,
    "batching": {"arrays", "backends", "plan", "randomness"},
    "denoisers": {"errors", "arrays", "noise", "prediction"},
    "hub": LEAVES,
    "config": LEAVES | {"hub"},
    "diffusers_bridge": LEAVES,
    "schedulers": LEAVES | SAMPLING | {"hub", "config", "diffusers_bridge"},
    "tokens": LEAVES | {"config", "schedulers"},
    "k_diffusion": LEAVES | SAMPLING | {"sampling"},
    "catalog": {"errors", "files", "noise", "spacing", "solvers", "sampling", "config", "schedulers", "k_diffusion"},
    "serving": LEAVES | SAMPLING | {"sampling", "batching", "catalog"},
}
FACES = {"cli"}
"""These may import whatever is above, and nothing imports them."""

TORCH_AT_TOP = {
    "backends/fused.py",
    "backends/native.py",
    "backends/plan_module.py",
    "backends/programs.py",
    "backends/torch_eager.py",
    "batching/compiled.py",
    "denoisers/digits_network.py",
    "denoisers/pipeline.py",
}
"""Files that are only imported when torch is wanted, besides the rooms that are for its users:"""
FOR_TORCH = {"cli", "hub", "k_diffusion", "schedulers", "tokens"}

FREE_OF_ARRAYS = ("solvers", "errors", "files")
"""Rooms that compute with plain floats."""


def sources() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


ROOMS = [name for name in KNOWS if (PACKAGE / f"{name}.py").exists() or (PACKAGE / name / "__init__.py").exists()]


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Every module that the file names in an import statement, wherever that stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            assert node.module is not None
            found.add(node.module)
            if node.module == "diffusolve":
                found |= {f"diffusolve.{alias.name}" for alias in node.names}
    return found


def rooms_imported_by(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports_of(path) if name.startswith("diffusolve.")} - {room_of(path)}


@for_each("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down_the_table(path: Path) -> None:
    room = room_of(path)
    assert room in KNOWS or room in FACES, f"{room} is not in the table: give it its place"
    if room in KNOWS:
        wrong = rooms_imported_by(path) - KNOWS[room]
        assert not wrong, f"{room} may not know about {', '.join(sorted(wrong))}"
    else:
        assert rooms_imported_by(path) <= set(KNOWS) | {"__version__", *diffusolve.__all__}


def test_the_table_itself_points_one_way() -> None:
    above: set[str] = set()
    for room, known in KNOWS.items():
        assert known <= above, f"{room} knows about something below it"
        above.add(room)


@for_each("path", [path for path in sources() if room_of(path) in FREE_OF_ARRAYS], ids=lambda path: path.name)
def test_solvers_know_no_array_library(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports_of(path)} & {"torch", "numpy", "scipy", "jax"}


@for_each("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_torch_is_imported_at_the_top_of_a_file_only_where_it_is_wanted(path: Path) -> None:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    modules = {alias.name for node in body if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module or "" for node in body if isinstance(node, ast.ImportFrom)}
    if any(module.split(".")[0] == "torch" for module in modules):
        assert room_of(path) in FOR_TORCH or path.relative_to(PACKAGE).as_posix() in TORCH_AT_TOP


def modules_after(statements: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after `statements`."""
    script = f"{statements}\nimport sys\nprint(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    return {name.split(".")[0] for name in done.stdout.split()}


def test_importing_the_package_imports_neither_torch_nor_numpy() -> None:
    assert not modules_after("import diffusolve; dir(diffusolve); diffusolve.__version__") & {"torch", "numpy"}


def test_names_grids_and_plans_work_without_torch() -> None:
    rooms = "arrays, catalog, errors, files, noise, plan, prediction, randomness, sampling, solvers, spacing, denoisers"
    work = f"from diffusolve import {rooms}; import diffusolve\n" + (
        "diffusolve.sampler('DPM++ 2M Karras').plan(diffusolve.SD15, 'epsilon', 20).to_json()\n"
        "import numpy\n"
        "network = denoisers.GaussianDenoiser(diffusolve.VarianceExploding())\n"
        "diffusolve.sample(network, numpy.ones((2, 3)), diffusolve.sampler('Euler a Karras'), steps=3, noise=0)"
    )
    assert not modules_after(work) & {"torch", "scipy", "jax", "matplotlib", "diffusers"}


@for_each("name", diffusolve.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(diffusolve, name) is not None
    assert name in dir(diffusolve)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'diffusolve' has no attribute 'Samplr'"):
        diffusolve.Samplr  # noqa: B018


@for_each("room", ROOMS)
def test_every_name_that_a_room_exports_is_there(room: str) -> None:
    module = __import__(f"diffusolve.{room}", fromlist=["__all__"])
    exported = getattr(module, "__all__", [])
    assert all(hasattr(module, name) for name in exported)
    assert len(set(exported)) == len(exported)

"""Imports point one way, and `import diffusolve` costs nothing."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import diffusolve
from benchmarks.imports import FRONT, direct, house, imports_of, laid_out, layers, table
from benchmarks.rooms import FACES, PAGE, ROOMS, filled

PACKAGE = Path(diffusolve.__file__).parent
HOME: dict[str, str] = {**diffusolve._HOME, **{room: room for room in diffusolve._ROOMS}}  # type: ignore[attr-defined]

TORCH_AT_TOP = {
    "backends/buffers.py",
    "backends/fused.py",
    "backends/native.py",
    "backends/plan_module.py",
    "backends/programs.py",
    "backends/torch_eager.py",
    "backends/watched.py",
    "batching/compiled.py",
    "denoisers/blocks.py",
    "denoisers/digits_network.py",
    "denoisers/emoji_network.py",
    "denoisers/load.py",
    "denoisers/pipeline.py",
    "learning/refine.py",
}
"""Files that are only imported when torch is wanted, besides the rooms that are for its users:"""
FOR_TORCH = {"cli", "hub", "k_diffusion", "schedulers", "tokens"}

FREE_OF_ARRAYS = ("solvers", "errors", "files")
"""Rooms that compute with plain floats."""


def sources() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(path: Path) -> str:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "cli" if room == "__main__" else room


def rooms_imported_by(path: Path) -> set[str]:
    """The rooms that a file imports from; a public name taken from the package itself counts as its room."""
    names = [
        name.removeprefix("diffusolve.")
        for name in imports_of(path.read_text(encoding="utf-8"))
        if name.startswith("diffusolve.")
    ]
    return {HOME.get(name, name).split(".")[0] for name in names} - {room_of(path), "__version__"}


def test_imports_point_down_the_table() -> None:
    wrong = []
    for path in sources():
        room, known = room_of(path), rooms_imported_by(path)
        assert room in ROOMS or room in FACES, f"{room} is not in benchmarks/rooms.py: give it its place"
        allowed = ROOMS[room].knows if room in ROOMS else ROOMS.keys()
        wrong += [f"{path.relative_to(PACKAGE)} may not know about {other}" for other in sorted(known - allowed)]
    assert not wrong, "\n".join(wrong)


def test_no_room_takes_names_from_the_package_by_a_variable() -> None:
    """``getattr(diffusolve, name)`` may lead to any room."""
    wrong = [
        path.relative_to(PACKAGE).as_posix()
        for path in sources()
        if room_of(path) in ROOMS and "diffusolve" in imports_of(path.read_text(encoding="utf-8"))
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("code", "modules"),
    [
        ("import diffusolve\ngetattr(diffusolve, name)", {"diffusolve"}),
        ("import diffusolve as d\nd.Run(plan)", {"diffusolve.Run"}),
        ("def f():\n    import diffusolve\n    return diffusolve.__version__", {"diffusolve.__version__"}),
        ("from diffusolve import Run as R", {"diffusolve.Run"}),
        ("from diffusolve.backends import Run", {"diffusolve.backends"}),
        ("import diffusolve.backends.run", {"diffusolve.backends.run"}),
        ("importlib.import_module('diffusolve')", {"diffusolve"}),
        ("importlib.import_module(f'diffusolve.{room}.x')", {"diffusolve"}),
        ("import_module('diffusolve.backends')", {"diffusolve.backends"}),
        ("sys.modules['diffusolve']", {"diffusolve"}),
        ("import numpy as np\nnp.ones(3)", {"numpy"}),
    ],
)
def test_imports_are_seen_through_every_door(code: str, modules: set[str]) -> None:
    assert imports_of(code) == modules


def test_a_drawing_has_rooms_apart_and_arrows_up_without_those_that_follow() -> None:
    files = {
        "__init__.py": "",
        "a.py": "x = 1\n",
        "b/x.py": "import diffusolve.a\nimport torch\n",
        "b/y.py": "from diffusolve.b import x",
        "c.py": "from diffusolve import a, b\n\n",
        "d.py": "import diffusolve\ngetattr(diffusolve, name)",
        "e/x.c": "int x;\n",
    }
    drawn = house(files)
    assert drawn.lines == {"a": 1, "b": 2, "c": 2, "d": 1, "e": 1}
    assert drawn.imports == {"a": set(), "b": {"a"}, "c": {"a", "b"}, "d": {FRONT}, "e": set()}
    imports = {room: drawn.imports[room] for room in "abce"}
    assert layers(imports) == [["a", "e"], ["b"], ["c"]]
    assert direct(imports) == [("b", "a"), ("c", "b")]
    drawing = laid_out(imports)
    assert len(set(drawing.places.values())) == 4
    assert all(way[0][1] < way[-1][1] for way in drawing.ways)
    with pytest.raises(ValueError, match="a circle among b, c"):
        layers({"a": frozenset(), "b": frozenset("ac"), "c": frozenset("b")})
    assert list(table(house({"a.py": "1\n2\n"}), drawn))[2:4] == ["| `a` | 2 | 1 |", "| `b` | 0 | 2 |"]


def test_the_table_itself_points_one_way() -> None:
    above: set[str] = set()
    for name, room in ROOMS.items():
        assert room.knows <= above, f"{name} knows about something below it"
        above.add(name)


def test_the_table_has_the_rooms_that_there_are() -> None:
    assert {room_of(path) for path in sources()} == {*ROOMS, *FACES}


def test_the_page_has_the_table() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page) == page, "run python -m benchmarks.rooms"


def test_solvers_know_no_array_library() -> None:
    for path in sources():
        if room_of(path) in FREE_OF_ARRAYS:
            packages = {name.split(".")[0] for name in imports_of(path.read_text(encoding="utf-8"))}
            assert not packages & {"torch", "numpy", "scipy", "jax"}, path


def test_torch_is_imported_at_the_top_of_a_file_only_where_it_is_wanted() -> None:
    found = set()
    for path in sources():
        body = ast.parse(path.read_text(encoding="utf-8")).body
        modules = {alias.name for node in body if isinstance(node, ast.Import) for alias in node.names}
        modules |= {node.module or "" for node in body if isinstance(node, ast.ImportFrom)}
        if room_of(path) not in FOR_TORCH and any(module.split(".")[0] == "torch" for module in modules):
            found.add(path.relative_to(PACKAGE).as_posix())
    assert found == TORCH_AT_TOP


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


def test_every_public_name_is_there() -> None:
    assert [name for name in diffusolve.__all__ if getattr(diffusolve, name, None) is None] == []
    assert set(diffusolve.__all__) <= set(dir(diffusolve))


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'diffusolve' has no attribute 'Samplr'"):
        diffusolve.Samplr  # noqa: B018


def test_every_name_that_a_room_exports_is_there() -> None:
    for room in ROOMS:
        module = importlib.import_module(f"diffusolve.{room}")
        exported = getattr(module, "__all__", [])
        assert [name for name in exported if not hasattr(module, name)] == [], room
        assert len(set(exported)) == len(exported), room

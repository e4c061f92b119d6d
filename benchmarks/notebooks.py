"""The notebooks of the documentation, executed, with what they show: ``python -m benchmarks.notebooks``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["FOLDER", "executed"]

FOLDER = Path(__file__).parent.parent / "docs" / "notebooks"


def executed(paths: Sequence[Path]) -> list[Any]:
    """The notebooks in files, each run from its first cell to its last, without a name of those before it.

    They share one kernel, which imports PyTorch once.

    Raises:
        CellExecutionError: a cell raised, and what.
    """
    import nbformat
    from nbclient import NotebookClient

    notebooks = [nbformat.read(path, as_version=4) for path in paths]  # type: ignore[no-untyped-call]
    together = nbformat.v4.new_notebook()  # type: ignore[no-untyped-call]
    for notebook in notebooks:
        forget = nbformat.v4.new_code_cell("%reset -f")  # type: ignore[no-untyped-call]
        together.cells += [*notebook.cells, forget]
    NotebookClient(together, timeout=600, kernel_name="python3", record_timing=False).execute()
    return notebooks


def main() -> None:
    """Execute all notebooks, and keep what they show."""
    import nbformat

    paths = sorted(FOLDER.glob("*.ipynb"))
    for path, notebook in zip(paths, executed(paths), strict=True):
        nbformat.write(notebook, path)  # type: ignore[no-untyped-call]
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()

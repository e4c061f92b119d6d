"""The notebooks of the documentation, executed, with what they show: ``python -m benchmarks.notebooks``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["FOLDER", "executed"]

FOLDER = Path(__file__).parent.parent / "docs" / "notebooks"


def executed(path: Path) -> Any:
    """The notebook in a file, run from its first cell to its last in a new kernel.

    Raises:
        CellExecutionError: a cell raised, and what.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    NotebookClient(notebook, timeout=600, kernel_name="python3", record_timing=False).execute()
    return notebook


def main() -> None:
    """Execute all notebooks, and keep what they show."""
    import nbformat

    for path in sorted(FOLDER.glob("*.ipynb")):
        nbformat.write(executed(path), path)  # type: ignore[no-untyped-call]
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()

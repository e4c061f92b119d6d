"""Programs that use diffusolve, each run from the repository root as ``python -m examples.NAME``."""

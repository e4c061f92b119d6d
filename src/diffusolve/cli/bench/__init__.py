"""Measuring what the library costs: the command `diffusolve bench`. How each number is taken: docs/benchmarks.md."""

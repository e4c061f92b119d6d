"""What the library costs beside its peers: ``python -m benchmarks.suite``.

How each number is taken: docs/benchmarks.md.
"""

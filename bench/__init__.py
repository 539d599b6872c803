"""Benchmarks. Every module here with a ``run() -> list[Figure]`` is one; ``python -m bench`` runs them."""

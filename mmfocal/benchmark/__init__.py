"""Measures speed, memory, complexity and the paper's tables: the commands of `tools/benchmark.py`."""

"""Measures the input pipeline beside its peers; experiments/benchmark.py runs it."""

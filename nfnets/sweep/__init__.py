"""Grids of runs: many trainings of ``experiments/run.py``, and one report of all."""

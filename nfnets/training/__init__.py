"""The training engine: recipe, state, step, loop, checkpoints and reports."""

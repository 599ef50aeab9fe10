"""Ratios measured in one process, side by side with what a user would otherwise run. `python -m benchmarks`."""

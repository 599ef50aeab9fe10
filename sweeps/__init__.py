"""The sweeps, one a file, and the service around them. `python sweeps/digits.py --help`, `python -m sweeps --help`."""

__distribution__ = "sparsity-sweeps"

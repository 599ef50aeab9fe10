"""What turns trials into a sweep: search, cluster, records, tracking and views."""

__distribution__ = "sparsity-sweeps"

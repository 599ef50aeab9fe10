"""The records of a sweep on disk: what happened, the state that follows from it, and the best of all sweeps."""

"""What happened in a sweep, on disk."""

"""Arrays and files that datasets and tasks share."""

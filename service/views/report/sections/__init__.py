"""The sections of a report, one per file: a function that takes a `SweepView` and returns blocks, none if it does not
apply."""

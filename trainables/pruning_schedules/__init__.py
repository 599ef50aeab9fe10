"""A pruning_schedule is a file with one class: how often the network is trained, on which of its weights, and what is removed in
between. To add one: write `NAME.py` here with that class, a `PruningSchedule`, as the single entry of its `__all__`.
"""

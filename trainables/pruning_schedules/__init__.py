"""Pruning schedules, one per file: trainings, and what is removed in between.

To add a schedule, write `NAME.py` in this folder with a class that derives from
`trainables.pruning_schedule.PruningSchedule`, as the only entry of `__all__`. The file is found by its name; there is
no list to add it to.

    class Halving(PruningSchedule):
        def __init__(self, config, *, rounds=3):
            super().__init__(config)
            self.num_phases = rounds + 1

        def next_masks(self, phase, kept, scores, gates): ...

- `num_phases` is the number of trainings. Each begins at the same weights with the removed ones held at zero, those of
  the initialization or, with `rewind_epoch`, of an early epoch of the first phase.
- `next_masks` is called after each phase but the last and returns what the next one keeps: bool masks, by name, that
  never restore a weight. `sparsity.masks.rank` gives masks with exact counts.
- Each sparsity of `config.levels` (`--sparsities` and the target) reports the first phase that is at least as sparse
  and for which `is_ticket(phase)` holds, pruned further if none is.
- Further arguments are keyword-only with defaults. Users set them by `--pruning-sched rounds=5`. An argument, or an
  option of the trial, that does not fit raises a ValueError of one line.

`pytest tests/trainables/test_contracts.py` trains every schedule with every regularizer and resumes it. It needs
arguments that make few phases: add them to `REWINDING` in that file.
"""

BASE = "trainables.pruning_schedule:PruningSchedule"  # of every class

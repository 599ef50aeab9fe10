"""Learning-rate schedules, one file each: a class on top of `_base.Schedule`.

To add one: write `NAME.py` here with that class as the single entry of its `__all__`; its arguments are keyword arguments.
Give `self.inner` a scheduler of torch's and step it in `after_step` or `after_epoch`; or change the lr yourself with
`scale_lr`, and save what that needs in `state_dict`. The contract tests in `tests/trainables/lr_schedules/` find the file
by itself.
"""

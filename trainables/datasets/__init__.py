"""Datasets, one per file.

To add a dataset, write `NAME.py` in this folder with a function `NAME(root=None, *, ...)` and `__all__ = ["NAME"]`. The
file is found by its name; there is no list to add it to.

    from trainables.data.images import Images

    __all__ = ["NAME"]


    def NAME(root=None, *, size=32): ...

- `root` is the folder of `--data-root`, or None if it is not given. With None, return data that needs no folder,
  download it (`trainables.data.download`), or raise a `DataError` that says what the folder must hold.
- Further arguments are keyword-only with defaults. Users set them by `--data size=64`. A value out of range raises a
  ValueError: `NAME: size must be a whole number >= 1, got 0`.
- Return `trainables.data.images.Images` for classification (tasks `cnn` and `vit`), `trainables.data.slices.Slices` for
  segmentation (task `unet`) or `trainables.data.questions.Questions` for language models (task `lora`). Their
  docstrings give the type, shape and range of every field.
- The same arguments return the same arrays in the same order, in every process. Randomness, such as for a test split of
  your own, has a fixed seed (`trainables.data.splits.split_indices`).
- Data that is missing, incomplete or unreadable raises a `trainables.data.errors.DataError`: one line that names the
  file and says what to do.
- The docstring names the source of the data and says what `root` must hold.

`pytest tests/trainables/datasets/test_datasets_contract.py` tests every file of this folder. It calls `NAME(None)`. If
your dataset needs a folder, write a fixture in `tests/trainables/_folders.py` that returns a small one, import it in
`tests/trainables/conftest.py`, and add its name to `FOLDERS` in the contract tests.

Try it: `python sweeps/digits.py --dataset NAME`.
"""

"""Datasets, one per file.

To add a dataset, write `NAME.py` in this folder with a function `NAME(root=None, *, ...)` and `__all__ = ["NAME"]`. The
file is found by its name; there is no list to add it to.

    def NAME(root=None, *, size=32): ...

- `root` is the folder of `--data-root`, or None if it is not given. With None, return data that needs no folder,
  download it (`trainables.data.download`), or raise a `DataError` that says what the folder must hold.
- Further arguments are keyword-only with defaults. Users set them by `--data size=64`.
- Return `Images` for classification (tasks `cnn` and `vit`), `Slices` for segmentation (task `unet`) or `Questions` for
  language models (task `lora`). `trainables.data` defines these three and documents their fields.
- The same arguments return the same arrays in the same order, in every process. Randomness, such as for a test split of
  your own, has a fixed seed (`trainables.data.splits.split_indices`).
- Data that is missing, incomplete or unreadable raises a `DataError`: one line with the file and what to do.
- The docstring names the source and its licence, and says what `root` must hold.

`pytest tests/trainables/datasets/test_datasets_contract.py` tests every file of this folder. It calls `NAME()` without
arguments. If your dataset needs a folder, add a fixture that writes a small one to `tests/trainables/data/_folders.py`
and its name to `FOLDERS` in the contract tests.
"""

"""Data sets, one file each: a function `NAME(root=None, **arguments)`, the single entry of the file's `__all__`.

To add one for image classification: return an `Images`: uint8 images in both splits, a test split that is always the
same, and the fraction of the training split to validate on. The other tasks say what they take: `Slices` (`_slices.py`)
for segmentation, `Records` (`_records.py`) for language models. What cannot be read raises a `DataError` of one line.
The contract tests in `tests/trainables/datasets/` find the file by itself.
"""

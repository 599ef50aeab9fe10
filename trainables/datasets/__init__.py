"""Image data sets, one file each: a function `NAME(root=None)` that returns an `Images`.

To add one: write `NAME.py` here with that function as the single entry of its `__all__`. It returns uint8 images in
both splits, a test split that is always the same, and the fraction of the training split to validate on; what cannot
be read raises a `DataError` of one line. The contract tests in `tests/trainables/datasets/` find the file by itself.
"""

"""Networks, one file each: a function `NAME(num_classes, in_channels=3, **arguments)` that returns an `nn.Module`.

To add one: write `NAME.py` here with that function as the single entry of its `__all__`. The module maps images, float
(N, in_channels, H, W), to logits (N, num_classes), starts from random weights (torch's global generator), and takes any
square image from 8x8 on. The contract tests in `tests/trainables/architectures/` find the file by itself. `unet` (a
logit a pixel) and `causal_lm` (tokens) are what their tasks take, with tests of their own.
"""

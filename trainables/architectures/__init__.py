"""Networks, one per file.

To add a network, write `NAME.py` in this folder with a function `NAME(num_classes, in_channels=3, *, ...)` and
`__all__ = ["NAME"]`. The file is found by its name; there is no list to add it to.

    def NAME(num_classes, in_channels=3, *, width=64): ...

- Return an `nn.Module` that maps images, float (N, in_channels, H, W), to logits (N, num_classes). It takes any square
  image of 8x8 pixels or more.
- Further arguments are keyword-only with defaults. Users set them by `--model width=32`.
- Weights are random, from torch's global generator, so that the seed of a trial decides them.
- A count below 1 raises the ValueError of `_base.check_counts("NAME", num_classes=..., in_channels=..., ...)`.

`pytest tests/trainables/architectures/test_architectures_contract.py tests/trainables/test_contracts.py` tests every
file of this folder, including pruning and checkpoints. If the default arguments make a large network, add small ones to
`MODELS` in `tests/trainables/_tiny_tasks.py`.

`unet` (a logit per pixel) and `causal_lm` (logits per token) serve other tasks and have tests of their own.
"""

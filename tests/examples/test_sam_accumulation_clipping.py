import copy

import pytest
import torch

from examples import sam_accumulation_clipping, sam_fp16
from sparsity.optimizers.sam import SAM
from sparsity.regularizers.hoyer_square import HoyerSquare
from tests.examples._by_hand import make_network, sam_step_by_hand

SETTINGS = {"lam": 1e-2, "rho": 0.3, "lr": 0.5}
PARTS = (5, 3, 8)  # of unequal size


def make(dtype, **more):
    """A network, its batch, and its `step`."""
    model = make_network().to(dtype)
    inputs, labels = torch.randn(16, 6, dtype=dtype), torch.randint(0, 3, (16,))
    R = HoyerSquare([p for p in model.parameters() if p.ndim > 1])
    optimizer = SAM(model.parameters(), lr=SETTINGS["lr"], rho=SETTINGS["rho"])
    return model, inputs, labels, R, optimizer


def split(inputs, labels, sizes=PARTS):
    return list(zip(inputs.split(sizes), labels.split(sizes), strict=True))


def largest_difference(model, expected):
    return max((p - expected[name]).abs().max().item() for name, p in model.named_parameters())


@pytest.mark.parametrize("max_norm", [0.1, 100.0])  # clipped and not
@pytest.mark.parametrize("sizes", [PARTS, (16,)])
def test_accumulated_parts_make_the_step_of_the_formulas(sizes, max_norm):
    model, inputs, labels, R, optimizer = make(torch.float64)
    expected = sam_step_by_hand(copy.deepcopy(model), inputs, labels, **SETTINGS, max_norm=max_norm)
    step = sam_accumulation_clipping.make_step(
        model, R, optimizer, lam=SETTINGS["lam"], max_norm=max_norm, dtype=torch.float32
    )
    loss = step(split(inputs, labels, sizes))
    # clip_grad_norm_ adds 1e-6 to the norm: relative 1e-6 of an update of norm lr * max_norm
    assert largest_difference(model, expected) < 1e-6
    assert loss.item() > 0


def test_two_clipped_steps_differ_from_clipping_before_the_sum():
    """The check of the check: clipping each part, as a careless loop would, is another step."""
    model, inputs, labels, R, optimizer = make(torch.float64)
    expected = sam_step_by_hand(copy.deepcopy(model), inputs, labels, **SETTINGS, max_norm=0.1)
    step = sam_accumulation_clipping.make_step(model, R, optimizer, lam=SETTINGS["lam"], max_norm=0.1)
    for part in split(inputs, labels):
        step([part])
    assert largest_difference(model, expected) > 1e-3


@pytest.mark.parametrize("half", ["bf16", "fp16"])
def test_half_precision_is_close_to_float32(half):
    model, inputs, labels, R, optimizer = make(torch.float32)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    expected = sam_step_by_hand(copy.deepcopy(model), inputs, labels, **SETTINGS, max_norm=1.0)
    if half == "bf16":
        step = sam_accumulation_clipping.make_step(model, R, optimizer, lam=SETTINGS["lam"], max_norm=1.0)
    else:
        scale = sam_fp16.LossScale(2.0**10)
        step = sam_fp16.make_step(model, R, optimizer, lam=SETTINGS["lam"], max_norm=1.0, scale=scale)
    step(split(inputs, labels))
    moved = max((expected[name] - start[name]).abs().max().item() for name in start)
    assert largest_difference(model, expected) < 0.03 * moved  # bf16 has 8 bits
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_an_overflow_skips_the_update_and_halves_the_scale():
    model, inputs, labels, R, optimizer = make(torch.float32)
    before = copy.deepcopy(model.state_dict())
    scale = sam_fp16.LossScale(2.0**40, interval=2)
    step = sam_fp16.make_step(model, R, optimizer, lam=SETTINGS["lam"], max_norm=1.0, scale=scale)
    assert step(split(inputs, labels)) is None
    assert scale.value == 2.0**39
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    while step(split(inputs, labels)) is None:
        pass
    found = scale.value
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
    scale.update(overflow=False)
    assert scale.value == 2 * found  # after two updates without an overflow


def test_an_overflow_at_the_perturbed_weights_skips_the_update_too():
    model, inputs, labels, R, optimizer = make(torch.float32)
    before = copy.deepcopy(model.state_dict())
    num_forwards = []

    def spoil(module, arguments, output):
        num_forwards.append(1)
        return output * (float("inf") if len(num_forwards) > len(PARTS) else 1.0)

    handle = model.register_forward_hook(spoil)
    scale = sam_fp16.LossScale(2.0**4)
    step = sam_fp16.make_step(model, R, optimizer, lam=0.0, max_norm=1.0, scale=scale)
    assert step(split(inputs, labels)) is None
    handle.remove()
    assert len(num_forwards) == 2 * len(PARTS)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

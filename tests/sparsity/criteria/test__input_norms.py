"""The norms of recorded inputs, and the criteria wanda and ria, by NumPy."""

import weakref

import numpy as np
import pytest
import torch
from torch import nn

from sparsity.criteria._input_norms import input_norms
from sparsity.criteria.ria import ria
from sparsity.criteria.wanda import wanda

CONVOLUTIONS = {
    "plain": {},
    "strided and padded": {"stride": 2, "padding": 1},
    "dilated": {"dilation": 2, "padding": (2, 0)},
    "groups": {"groups": 2},
    "circular": {"padding": 1, "padding_mode": "circular"},
}


def forward(model, batch):
    return model(batch)


def norms_by_numpy(conv, x):
    """|x_j| of each group's channels and kernel positions, by gathering every patch."""
    (kh, kw), (sh, sw), (dh, dw) = conv.kernel_size, conv.stride, conv.dilation
    ph, pw = conv.padding
    mode = {"zeros": "constant", "circular": "wrap"}[conv.padding_mode]
    x = np.pad(x.double().numpy(), ((0, 0), (0, 0), (ph, ph), (pw, pw)), mode=mode)
    height, width = (x.shape[2] - dh * (kh - 1) - 1) // sh + 1, (x.shape[3] - dw * (kw - 1) - 1) // sw + 1
    sums = np.zeros((x.shape[1], kh, kw))
    for c, a, b in np.ndindex(sums.shape):
        patch = x[:, c, a * dh : a * dh + sh * (height - 1) + 1 : sh, b * dw : b * dw + sw * (width - 1) + 1 : sw]
        sums[c, a, b] = (patch**2).sum()
    return np.sqrt(sums).reshape(conv.groups, -1, kh, kw)


@pytest.mark.parametrize("arguments", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_convolutions(arguments, memory_format):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, (3, 2), bias=False, **arguments).to(memory_format=memory_format).eval()
    x = torch.randn(5, 4, 9, 8)
    norms = norms_by_numpy(conv, x)
    w = conv.weight.detach().double().numpy()
    shared = np.repeat(norms, 6 // conv.groups, axis=0)  # a row of the weight sees its group's channels
    (score,) = wanda([conv.weight], model=conv, batches=x.split(2), forward=forward)
    np.testing.assert_allclose(score.numpy(), np.abs(w) * shared, rtol=1e-5)

    share = np.zeros_like(w)
    for row in range(6):
        share[row] += np.abs(w[row]) / np.abs(w[row]).sum()
    for group in np.split(np.arange(6), conv.groups):
        share[group] += np.abs(w[group]) / np.abs(w[group]).sum(0)
    (score,) = ria([conv.weight], model=conv, batches=x.split(2), forward=forward)
    np.testing.assert_allclose(score.numpy(), share * np.sqrt(shared), rtol=1e-5)


@pytest.mark.parametrize("part", [1, 4, 7])
def test_recorded_inputs_of_a_network_in_parts_of_any_size(part):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).eval()
    x = torch.randn(7, 5)
    inputs = [x.numpy(), net[1](net[0](x)).detach().numpy()]
    weights = [net[0].weight, net[2].weight]
    by_wanda = wanda(weights, model=net, batches=x.split(part), forward=forward)
    by_ria = ria(weights, model=net, batches=x.split(part), forward=forward, a=0.7)
    for weight, seen, score, other in zip(weights, inputs, by_wanda, by_ria, strict=True):
        w, norm = np.abs(weight.detach().numpy()), np.linalg.norm(seen, axis=0)
        np.testing.assert_allclose(score.numpy(), w * norm, rtol=1e-5)
        share = w / w.sum(1, keepdims=True) + w / w.sum(0, keepdims=True)
        np.testing.assert_allclose(other.numpy(), share * norm**0.7, rtol=1e-5)


def test_the_score_of_wanda_is_the_change_of_the_output():
    """Remove each weight and measure the L2 norm of the change, padding of the image included."""
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, 3, padding=1).double().eval()
    x = torch.randn(4, 2, 5, 5, dtype=torch.float64)
    (score,) = wanda([conv.weight], model=conv, batches=[x], forward=forward)
    before, weight = conv(x).detach(), conv.weight.detach().clone()
    for index in np.ndindex(*weight.shape):
        with torch.no_grad():
            conv.weight[index] = 0
            change = (conv(x) - before).norm()
            conv.weight.copy_(weight)
        assert change.item() == pytest.approx(score[index].item(), rel=1e-9)


def test_padding_tokens_are_not_counted():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    tokens, lengths = torch.randn(3, 6, 4), [6, 2, 4]
    counted = torch.arange(6) < torch.tensor(lengths)[:, None]
    weights = [net[0].weight, net[2].weight]
    for criterion in (wanda, ria):
        masked = criterion(weights, model=net, batches=[tokens], forward=forward, token_mask=lambda batch: counted)
        alone = [row[None, :length] for row, length in zip(tokens, lengths, strict=True)]
        for a, b in zip(masked, criterion(weights, model=net, batches=alone, forward=forward), strict=True):
            torch.testing.assert_close(a, b)
        everything = criterion(weights, model=net, batches=[tokens], forward=forward)
        assert not torch.allclose(masked[0], everything[0])


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float32])
def test_a_token_mask_that_is_not_bool_is_refused(dtype):
    """The attention masks of tokenizers are int64, which would select rows 0 and 1."""
    net = nn.Linear(4, 3).eval()
    message = rf"^here: token_mask must return bool, True = token .*, got {dtype} \(convert .* with \.bool\(\)\)$"
    with pytest.raises(ValueError, match=message):
        input_norms(
            "here", [net.weight], net, [torch.randn(2, 5, 4)], forward, lambda batch: torch.ones(2, 5, dtype=dtype)
        )


def test_activations_are_not_kept():
    """Each batch and what the layers made of it are freed before the next one."""
    net = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2)).eval()
    seen = []
    net[0].register_forward_hook(lambda layer, args, output: seen.append(weakref.ref(output)))

    def batches():
        for _ in range(3):
            assert not any(output() is not None for output in seen)
            yield torch.randn(6, 4)

    wanda([net[0].weight, net[1].weight], model=net, batches=batches(), forward=forward)
    assert len(seen) == 3


def test_a_layer_that_is_called_twice_counts_both_inputs():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            return self.layer(x) + self.layer(2 * x)

    net = Twice().eval()
    x = torch.randn(4, 3)
    (norm,) = input_norms("here", [net.layer.weight], net, [x], forward, None)
    torch.testing.assert_close(norm.flatten(), np.sqrt(5) * x.norm(dim=0))


def test_half_precision_is_summed_in_float32():
    """The sum of 4096 ones in bfloat16 is 256."""
    net = nn.Linear(2, 2).bfloat16().eval()
    (norm,) = input_norms("here", [net.weight], net, [torch.ones(4096, 2, dtype=torch.bfloat16)], forward, None)
    assert norm.dtype is torch.float32
    assert norm.flatten().tolist() == [64.0, 64.0]


def test_rows_and_columns_of_zeros_have_the_score_0():
    net = nn.Linear(3, 2, bias=False).eval()
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 3.0]]))
    (score,) = ria([net.weight], model=net, batches=[torch.ones(1, 3)], forward=forward)
    torch.testing.assert_close(score, torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.25, 1.75]]))


@pytest.mark.parametrize("name", ["wanda", "ria"])
def test_a_layer_that_is_not_called_is_named(name):
    net = nn.MultiheadAttention(4, 2).eval()  # its projection is used as a tensor, not called
    with pytest.raises(
        ValueError, match=rf"^{name}: the layer of out_proj.weight must be called as a module .*, got no call$"
    ):
        {"wanda": wanda, "ria": ria}[name](
            [net.out_proj.weight],
            model=net,
            batches=[torch.ones(3, 1, 4)],
            forward=lambda model, batch: model(batch, batch, batch)[0],
        )


def test_empty_batches_are_named():
    net = nn.Linear(2, 2).eval()
    with pytest.raises(ValueError, match=r"^wanda: batches must hold at least one batch, got none$"):
        wanda([net.weight], model=net, batches=[], forward=forward)


@pytest.mark.parametrize("a", [-1.0, float("nan"), float("inf")])
def test_refuses_a_useless_exponent(a):
    net = nn.Linear(2, 2).eval()
    with pytest.raises(ValueError, match=rf"^ria: a must be >= 0 and finite \(an exponent\), got {a}$"):
        ria([net.weight], model=net, batches=[torch.ones(1, 2)], forward=forward, a=a)

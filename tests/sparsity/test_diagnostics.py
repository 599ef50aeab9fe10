import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sparsity
from sparsity.diagnostics import hessian_eigenvalue, layer_statistics
from sparsity.regularizers.wcr import WCR


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    batches = [(torch.randn(16, 3, generator=generator(i)).double(), torch.arange(16) % 2) for i in range(3)]
    return net, batches


def dense_eigenvalue(loss_of_vector, net):
    """The eigenvalue of largest magnitude of the whole Hessian, by NumPy."""
    vector = torch.cat([p.detach().flatten() for p in net.parameters()])
    eigenvalues = np.linalg.eigvalsh(torch.autograd.functional.hessian(loss_of_vector, vector).numpy())
    return eigenvalues[np.abs(eigenvalues).argmax()]


def split(vector, net):
    parts = vector.split([p.numel() for p in net.parameters()])
    return {name: part.view_as(p) for part, (name, p) in zip(parts, net.named_parameters(), strict=True)}


def test_matches_a_dense_eigensolver_and_means_over_batches():
    net, batches = network()

    def loss_fn(batch):
        return F.cross_entropy(net(batch[0]), batch[1])

    def dense(batch):
        return dense_eigenvalue(
            lambda v: F.cross_entropy(torch.func.functional_call(net, split(v, net), (batch[0],)), batch[1]), net
        )

    expected = [dense(batch) for batch in batches]
    for batch, value in zip(batches, expected, strict=True):
        result = hessian_eigenvalue(loss_fn, net.parameters(), [batch], num_iterations=300, generator=generator())
        assert result == pytest.approx(value, rel=1e-9)
    result = hessian_eigenvalue(loss_fn, net.parameters(), iter(batches), generator=generator())
    assert result == pytest.approx(np.mean(expected), rel=0.02)  # 20 iterations
    assert all(p.grad is None for p in net.parameters())


def test_sees_the_second_derivative_of_a_closed_form_regularizer():
    net, (batch, *_) = network()
    R = WCR([net[0].weight, net[2].weight], smooth=1e-2, eps=1e-2)

    def penalty(w):  # WCR's formula in plain torch
        a = (w.square() + 1e-2).sqrt()
        return 1 / ((a - a.mean()).square().mean() + 1e-2)

    def loss_of_vector(v):
        parts = split(v, net)
        loss = F.cross_entropy(torch.func.functional_call(net, parts, (batch[0],)), batch[1])
        return loss + 0.1 * (penalty(parts["0.weight"]) + penalty(parts["2.weight"]))

    result = hessian_eigenvalue(
        lambda b: F.cross_entropy(net(b[0]), b[1]) + 0.1 * R(),
        net.parameters(),
        [batch],
        num_iterations=200,
        generator=generator(),
    )
    assert result == pytest.approx(dense_eigenvalue(loss_of_vector, net), rel=1e-6)


@pytest.mark.parametrize("name", [n for n in sparsity.names("regularizers") if n in {"hoyer_square", "l1", "none"}])
def test_other_closed_forms_are_twice_differentiable(name):
    net, (batch, *_) = network()
    R = sparsity.load("regularizers", name)([net[0].weight])
    result = hessian_eigenvalue(
        lambda b: F.cross_entropy(net(b[0]), b[1]) + 1e-3 * R(), net.parameters(), [batch], generator=generator()
    )
    assert math.isfinite(result)


@pytest.mark.parametrize(
    ("curvatures", "expected"),
    [([1.0, -3.0, 2.0], -3.0), ([1.0, 4.0, -3.0], 4.0), ([0.0, 0.0, 0.0], 0.0), ([5.0], 5.0)],
)
def test_is_of_largest_magnitude_and_keeps_its_sign(curvatures, expected):
    w = torch.ones(len(curvatures), dtype=torch.float64, requires_grad=True)
    with torch.no_grad():  # as in an evaluation
        result = hessian_eigenvalue(
            lambda c: (c * w * w).sum() / 2,
            [w],
            [torch.tensor(curvatures).double()],
            num_iterations=100,
            generator=generator(),
        )
    assert result == pytest.approx(expected)


def test_a_linear_loss_and_a_parameter_without_curvature():
    a, b = (torch.ones(2, requires_grad=True) for _ in range(2))
    assert hessian_eigenvalue(lambda _: a.sum() + 0 * b.sum(), [a, b], [0], generator=generator()) == 0
    curved = hessian_eigenvalue(lambda _: (a**2).sum() + b.sum(), [a, b], [0], generator=generator())
    assert curved == pytest.approx(2)


def test_same_generator_state_gives_the_same_number():
    net, batches = network()

    def run(seed):
        return hessian_eigenvalue(
            lambda b: F.cross_entropy(net(b[0]), b[1]),
            net.parameters(),
            batches,
            num_iterations=2,
            generator=generator(seed),
        )

    assert run(1) == run(1) != run(2)


W = torch.ones(2, requires_grad=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: hessian_eigenvalue(lambda _: W.sum(), [W], [0], num_iterations=0, generator=generator()),
            "hessian_eigenvalue: num_iterations must be a whole number >= 1, got 0",
        ),
        (
            lambda: hessian_eigenvalue(lambda _: W.sum(), [], [0], generator=generator()),
            "hessian_eigenvalue: parameters must hold at least one tensor, got none",
        ),
        (
            lambda: hessian_eigenvalue(lambda _: W.sum(), [W], [], generator=generator()),
            "hessian_eigenvalue: batches must hold at least one batch, got none",
        ),
        (
            lambda: hessian_eigenvalue(lambda _: (W**2).sum() * math.nan, [W], [0], generator=generator()),
            "hessian_eigenvalue: loss must be finite, with its second derivatives, got nan",
        ),
        (
            lambda: layer_statistics(torch.ones(2, 3), torch.ones(3, dtype=torch.bool)),
            "layer_statistics: mask must have the shape of a weight with elements, got (3,) for (2, 3)",
        ),
        (
            lambda: layer_statistics(torch.ones(2), torch.ones(2, dtype=torch.int64)),
            "layer_statistics: mask must be bool, True = kept (it selects weights), got torch.int64",
        ),
        (
            lambda: layer_statistics(torch.ones(0), torch.ones(0, dtype=torch.bool)),
            "layer_statistics: mask must have the shape of a weight with elements, got (0,) for (0,)",
        ),
    ],
)
def test_bad_input_gets_one_clear_line(call, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        call()
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("weight", "mask", "expected"),
    [
        # a = 3, 4: mean 3.5, variance 1/4, 49 / (2 * 25), 16 / 25 of the energy
        ([3.0, -4.0], [False, True], (2, 1, 3.5, 0.25, 0.98, 0.64)),
        ([[2.0, -2.0], [2.0, 2.0]], [[True, True], [True, False]], (4, 3, 2.0, 0.0, 1.0, 0.75)),
        ([0.0, 0.0, 0.0, 5.0], [False] * 4, (4, 0, 1.25, 4.6875, 0.25, 0.0)),  # one of n: 1/n
        ([0.0, 0.0], [True, False], (2, 1, 0.0, 0.0, 1.0, 0.0)),
        (2.0, True, (1, 1, 2.0, 0.0, 1.0, 1.0)),
    ],
)
def test_layer_statistics_match_hand_computation(weight, mask, expected):
    result = layer_statistics(torch.tensor(weight), torch.tensor(mask))
    assert list(result) == ["num_weights", "num_kept", "abs_mean", "abs_variance", "hoyer", "energy_kept"]
    assert list(result.values()) == pytest.approx(expected)


def test_variance_is_energy_times_one_minus_hoyer():
    weight = torch.randn(30, 4, generator=generator(), dtype=torch.float64)
    result = layer_statistics(weight, torch.ones(30, 4, dtype=torch.bool))
    energy = weight.square().mean().item()
    assert result["abs_variance"] == pytest.approx(energy * (1 - result["hoyer"]))  # the paper's eq. 4
    assert result["energy_kept"] == 1


def test_a_batch_in_parts_has_the_eigenvalue_of_the_whole():
    net, batches = network()
    graphs = []

    def loss_fn(batch):
        graphs.append(len(batch[0]))
        return F.cross_entropy(net(batch[0]), batch[1])

    def parts(batch):
        cut = ((0, 3), (3, 10), (10, 16))
        return [((end - begin) / 16, tuple(tensor[begin:end] for tensor in batch)) for begin, end in cut]

    whole = hessian_eigenvalue(loss_fn, net.parameters(), batches, generator=generator())
    assert graphs == [16, 16, 16]
    in_parts = hessian_eigenvalue(loss_fn, net.parameters(), batches, parts=parts, generator=generator())
    assert graphs[3:] == [3, 7, 6] * 3 * 20  # no more than seven examples at once
    assert in_parts == pytest.approx(whole, rel=1e-12)
    alone = hessian_eigenvalue(
        loss_fn, net.parameters(), batches, parts=lambda batch: [(1.0, batch)], generator=generator()
    )
    assert alone == whole


def test_the_eigenvalue_of_a_large_float16_tensor():
    """The Hessian of |w|^2 / 2 is the identity; the square of a random direction's norm is above 65,504."""
    w = torch.nn.Parameter(torch.zeros(300, 300, dtype=torch.float16))
    value = hessian_eigenvalue(lambda _: (w.float() ** 2).sum() / 2, [w], [0], generator=generator())
    assert value == pytest.approx(1, rel=1e-3)

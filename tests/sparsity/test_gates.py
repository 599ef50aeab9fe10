"""The contract of every regularizer with gates: attach, train, save, copy, fold."""

import copy
import inspect

import pytest
import torch
from torch import nn

import sparsity
from sparsity.gates import Gate, Gated

GATED = [n for n in sparsity.names("regularizers") if issubclass(sparsity.load("regularizers", n), Gated)]
# each as it stands, and with what its gates are counted by
ARMS = (
    [(n, {}) for n in GATED]
    + [("weight_factorization", {"num_factors": 2})]
    + [(n, {"per": "row"}) for n in GATED if "per" in inspect.signature(sparsity.load("regularizers", n)).parameters]
)
pytestmark = pytest.mark.parametrize(("name", "arguments"), ARMS)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))


def weights_of(model):
    return [p for p in model.parameters() if p.dim() > 1]


def attached(name, arguments, dtype=torch.float32, memory_format=torch.contiguous_format):
    torch.manual_seed(0)
    model = Net().to(dtype=dtype, memory_format=memory_format)
    R = sparsity.load("regularizers", name)(weights_of(model), **arguments)
    R.attach(model)
    return model, R


def trained(model, R):
    return list(dict.fromkeys((*model.parameters(), *R.parameters())))


def scatter_gates(R):
    """Gates of all kinds: closed, open and between."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in R.parameters():
            p.add_(torch.randn_like(p) * 3)
    R.project()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_attaching_keeps_what_the_weights_are(name, arguments, dtype, memory_format):
    torch.manual_seed(0)
    model = Net().to(dtype=dtype, memory_format=memory_format)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    weights = weights_of(model)
    R = sparsity.load("regularizers", name)(weights, **arguments)
    random = torch.get_rng_state()
    R.attach(model)
    assert torch.equal(random, torch.get_rng_state())
    for module, weight in ((model.conv, weights[0]), (model.head, weights[1])):
        theta = module.parametrizations.weight.original
        assert theta is weight  # an optimizer's, a regularizer's reference stays good
        assert torch.equal(theta, before["conv.weight" if module is model.conv else "head.weight"])
        assert module.weight.dtype is dtype
        assert module.weight.shape == theta.shape
        assert module.weight.stride() == theta.stride()
    assert all(p.dim() == 1 for p in R.parameters())
    assert all(p.dtype is torch.promote_types(dtype, torch.float32) for p in R.parameters())
    assert isinstance(model.conv, nn.Conv2d)


def test_each_parameter_is_trained_once_and_gets_a_gradient(name, arguments):
    model, R = attached(name, arguments)
    params = trained(model, R)
    assert len(params) == 5 + 2  # conv, norm's two, head's two, and their gates
    assert {id(p) for p in R.parameters()} < {id(p) for p in model.parameters()}
    model.train()
    for _ in range(10):  # a gate that the noise clamps has no gradient in that pass
        model(torch.randn(6, 3, 5, 5)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in params)


def test_penalty_reaches_the_gates_alone(name, arguments):
    if name == "weight_factorization":
        pytest.skip("the penalty acts on all factors, and the weight is one of them")
    _, R = attached(name, arguments)
    R().backward()
    assert all(p.grad.gt(0).all() for p in R.parameters())  # descent closes them
    assert all(w.grad is None for w in R.weights)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_folding_a_copy_equals_evaluating_bit_for_bit(name, arguments, dtype, memory_format):
    model, R = attached(name, arguments, dtype, memory_format)
    scatter_gates(R)
    model.train()
    folded = copy.deepcopy(model)
    R.fold(folded)
    model.eval()
    x = torch.randn(6, 3, 5, 5, dtype=dtype).to(memory_format=memory_format)
    assert torch.equal(folded.eval()(x), model(x))
    assert torch.equal(folded.conv.weight, model.conv.weight)
    assert folded.conv.weight.stride() == model.conv.weight.stride()
    plain = Net().to(dtype)
    plain.load_state_dict(folded.state_dict())  # the names of a model that never had gates
    assert isinstance(folded.conv.weight, nn.Parameter)
    assert folded.conv.weight.requires_grad
    assert type(folded.conv) is nn.Conv2d
    assert hasattr(model.conv, "parametrizations")  # the model goes on training
    for value, theta, weight in zip(R.gate_values(), R.weights, weights_of(folded), strict=True):
        assert value.shape == theta.shape
        assert torch.equal(theta * value, weight)


def test_state_round_trips_through_model_and_regularizer(name, arguments):
    model, R = attached(name, arguments)
    scatter_gates(R)
    state = copy.deepcopy((model.state_dict(), R.state_dict()))
    other, S = attached(name, arguments)
    other.load_state_dict(state[0])
    S.load_state_dict(state[1])
    assert all(torch.equal(a, b) for a, b in zip(trained(model, R), trained(other, S), strict=True))
    assert S().item() == R().item()
    x = torch.randn(6, 3, 5, 5)
    assert torch.equal(model.eval()(x), other.eval()(x))
    torch.manual_seed(3)
    expected = model.train()(x)
    torch.manual_seed(3)
    assert torch.equal(other.train()(x), expected)


def test_a_copy_shares_nothing_with_the_model(name, arguments):
    model, R = attached(name, arguments)
    twin = copy.deepcopy(model)
    scatter_gates(R)
    x = torch.randn(6, 3, 5, 5)
    assert not torch.equal(twin.eval()(x), model.eval()(x))


def test_folding_twice_and_folding_a_plain_model_change_nothing(name, arguments):
    model, R = attached(name, arguments)
    R.fold(model)
    before = copy.deepcopy(model.state_dict())
    R.fold(model)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_weights_must_be_the_models_own_and_attached_once(name, arguments):
    cls = sparsity.load("regularizers", name)
    rule = rf"^{cls.__name__}: weights must each belong to one module of the model and have no parametrization yet .*"
    model, R = attached(name, arguments)
    with pytest.raises(ValueError, match=rule + r"got one of shape \(4, 3, 3, 3\) in 0 such modules$"):
        R.attach(model)
    with pytest.raises(ValueError, match=rule + "in 0 such modules$"):
        cls([torch.ones(2, 2)], **arguments).attach(nn.Linear(2, 2))
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    with pytest.raises(ValueError, match=rule + "in 2 such modules$"):
        cls([tied[0].weight], **arguments).attach(tied)
    assert not hasattr(tied[0], "parametrizations")


def test_penalty_of_a_stranger_is_refused(name, arguments):
    R = sparsity.load("regularizers", name)([torch.ones(2, 2)], **arguments)
    with pytest.raises(ValueError, match=r": weight must be one of those that have gates, got another of shape \(3,\)"):
        R.penalty(torch.ones(3))


@pytest.mark.parametrize("gate_lr", [0.0, -1.0, float("inf"), float("nan")])
def test_refuses_a_useless_gate_lr(name, arguments, gate_lr):
    cls = sparsity.load("regularizers", name)
    rule = rf"^{cls.__name__}: gate_lr must be > 0 and finite \(leave it out for the weights' lr\), got {gate_lr}$"
    with pytest.raises(ValueError, match=rule):
        cls([torch.ones(2, 2)], **arguments, gate_lr=gate_lr)


def test_diagnostics_count_the_weights_behind_closed_gates(name, arguments):
    """Two of four rows of the convolution: 54 of its 108 weights, of 116 with the head's."""
    model, R = attached(name, arguments)
    with torch.no_grad():
        for p in R.parameters():
            p.fill_(9.0)
        R.project()
        (closed,) = R.gates[0].parameters()
        closed.view(-1, *R.gates[0].shape)[:, :2] = -9.0 if name == "l0_hard_concrete" else 0.0
    assert R.diagnostics() == {"gates_closed": 54 / 116}
    folded = copy.deepcopy(model)
    R.fold(folded)
    assert sum(int((w == 0).sum()) for w in weights_of(folded)) == 54
    assert sparsity.load("regularizers", name)([], **arguments).diagnostics() == {"gates_closed": 0.0}


def test_what_a_subclass_must_define_is_named(name, arguments):
    with pytest.raises(NotImplementedError, match=r"^Gate must define values\(training\)$"):
        Gate(torch.ones(2))(torch.ones(2))
    with pytest.raises(NotImplementedError, match=r"^Gated must define gate_penalty\(gate, num_weights\)$"):
        Gated([torch.ones(2)], Gate)()

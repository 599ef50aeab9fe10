"""The contract of every file in sparsity/regularizers/. The contract of gates is in tests/sparsity/test_gates.py."""

import pytest
import torch

import sparsity

pytestmark = pytest.mark.parametrize("name", sparsity.names("regularizers"))


def make(name, weights):
    return sparsity.load("regularizers", name)(weights)


def gradients(loss, weights):
    """As .backward() fills them; zero where the loss does not depend on them."""
    if not loss.requires_grad:
        return [torch.zeros_like(w) for w in weights]
    return torch.autograd.grad(loss, weights, materialize_grads=True)


def generic_weights(dtype=torch.float64):
    torch.manual_seed(0)
    return [torch.randn(shape, dtype=dtype).requires_grad_() for shape in [(3, 4), (2, 3, 2, 2), (5,)]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("values", [[[0.0, 0.0], [0.0, 0.0]], [[0.7]], [1.0], 1.0, 0.0, [[1e-3] * 7], [0.0, 1.0, -1.0]])
def test_value_and_gradient_are_finite_at_the_edges(name, values, dtype):
    w = torch.tensor(values, dtype=dtype, requires_grad=True)
    penalty = make(name, [w])()
    assert penalty.shape == ()
    assert penalty.isfinite()
    (grad,) = gradients(penalty, [w])
    assert grad.isfinite().all()
    assert not grad[w == 0].any()  # and the subgradient at 0 is 0
    assert grad.shape == w.shape
    assert grad.dtype is dtype


def test_gradient_is_the_numerical_one(name):
    weights = generic_weights()
    R = make(name, weights)
    if not R().requires_grad:
        pytest.skip("the penalty is constant")
    # gradcheck shifts weights and gates in place
    assert torch.autograd.gradcheck(lambda *_: R(), [*weights, *R.parameters()])


def test_second_derivative_is_the_numerical_one(name):
    weights = generic_weights()
    R = make(name, weights)
    if not R().requires_grad:
        pytest.skip("the penalty is constant")
    assert torch.autograd.gradgradcheck(lambda *_: R() * weights[0].sum(), [*weights, *R.parameters()])


def test_sums_the_tensors_terms(name):
    weights = generic_weights()
    R = make(name, weights)
    assert R().item() == pytest.approx(sum(R.penalty(w).item() for w in weights), rel=1e-14)
    assert R.penalty(weights[0]).item() == pytest.approx(make(name, weights[:1])().item(), rel=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("before", ["no gradient yet", "a gradient", "one in another layout"])
@pytest.mark.filterwarnings("ignore:grad and param do not obey")
def test_backward_adds_what_autograd_adds(name, dtype, before):
    R = make(name, generic_weights(dtype))
    learned = [*R.weights, *R.parameters()]
    start = [None if before == "no gradient yet" else torch.randn_like(p) for p in learned]
    if before == "one in another layout":
        start[0] = torch.randn_like(learned[0].t()).t()

    def after(run):
        for p, grad in zip(learned, start, strict=True):
            p.grad = None if grad is None else grad.clone()
        return run(), [torch.zeros_like(p) if p.grad is None else p.grad for p in learned]

    penalty, added = after(lambda: R.backward(0.3))
    _, expected = after(lambda: (0.3 * R()).backward() if R().requires_grad else None)
    torch.testing.assert_close(penalty, R().detach())
    assert not penalty.requires_grad
    for a, b in zip(added, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_backward_respects_hooks_frozen_and_computed_weights(name):
    """Hooks see the gradient, a frozen weight gets none, and one that is computed passes it on."""
    hooked, frozen, source = generic_weights(torch.float32)
    frozen.requires_grad_(False)
    hooked.register_hook(lambda grad: grad * 0)
    computed = source * 2
    R = make(name, [hooked, frozen, computed])
    if list(R.parameters()):
        pytest.skip("the penalty is one of gates, not of the weights")
    expected = torch.autograd.grad(R(), computed)[0] * 2 if R().requires_grad else None
    R.backward(1.0)
    assert hooked.grad is None or not hooked.grad.any()
    assert frozen.grad is None
    if expected is not None:
        torch.testing.assert_close(source.grad, expected)


def test_lam_scales_the_gradient(name):
    weights = generic_weights()
    once = gradients(make(name, weights)(), weights)
    scaled = gradients(-0.3 * make(name, weights)(), weights)
    for a, b in zip(once, scaled, strict=True):
        torch.testing.assert_close(-0.3 * a, b)


def test_lam_zero_changes_no_bit(name):
    weights = generic_weights(torch.float32)
    plain = torch.autograd.grad(sum(w.sin().sum() for w in weights), weights)
    loss = sum(w.sin().sum() for w in weights)
    off = torch.autograd.grad(loss + 0 * make(name, weights)(), weights)
    assert all(torch.equal(a, b) for a, b in zip(plain, off, strict=True))


def test_a_loop_needs_no_special_case(name):
    weights = generic_weights(torch.float32)
    loss = weights[0].square().sum() + 1e-3 * make(name, weights)()
    loss.backward()
    assert weights[0].grad.isfinite().all()
    assert make(name, [])() == 0  # a model without such weights
    assert (1 + 1e-3 * make(name, [])()).item() == 1.0


def test_holds_the_weights_without_owning_them(name):
    weights = [torch.nn.Parameter(torch.ones(2, 2))]
    R = make(name, weights)
    assert not any(p is weights[0] for p in R.parameters())
    assert len(R.state_dict()) == len(list(R.parameters()))  # gates alone
    with torch.no_grad():
        weights[0][0, 0] = 5.0
    assert R().item() == make(name, weights)().item()  # sees the weights as they are now


def test_frozen_weights_and_no_grad_leave_no_graph(name):
    weights = generic_weights()
    with torch.no_grad():
        assert not make(name, weights)().requires_grad
    assert not make(name, [w.detach() for w in weights]).requires_grad_(False)().requires_grad


def test_attaching_and_folding_leaves_a_plain_model(name):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2, bias=False))
    names = {n for n, _ in model.named_parameters()}
    R = make(name, [p for p in model.parameters() if p.dim() > 1])
    R.attach(model)
    R.project()
    R.fold(model)
    assert {n for n, _ in model.named_parameters()} == names
    assert not any(type(m).__name__.startswith("Parametrized") for m in model.modules())


def test_autocast_changes_nothing(name):
    weights = generic_weights(torch.float32)
    plain = make(name, weights)()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = make(name, weights)()
    assert torch.equal(plain, cast)
    for a, b in zip(gradients(plain, weights), gradients(cast, weights), strict=True):
        assert torch.equal(a, b)


def test_memory_format_changes_only_the_rounding(name):
    torch.manual_seed(0)
    w = torch.randn(4, 3, 2, 2, dtype=torch.float64).requires_grad_()
    last = w.detach().to(memory_format=torch.channels_last).requires_grad_()
    a, b = make(name, [w])(), make(name, [last])()
    torch.testing.assert_close(a, b, rtol=1e-13, atol=0)
    torch.testing.assert_close(gradients(a, [w]), gradients(b, [last]), check_stride=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_backward_adds_the_same_gradients_without_grad_mode(name, dtype):
    """A loop may edit gradients under `no_grad`."""
    found = []
    for enabled in (True, False):
        weights = generic_weights(dtype)
        R = make(name, weights)
        torch.manual_seed(1)  # of the gates
        with torch.set_grad_enabled(enabled):
            R.backward(0.5)
        found.append([None if p.grad is None else p.grad.clone() for p in (*weights, *R.parameters())])
    for expected, got in zip(*found, strict=True):
        assert (expected is None) == (got is None)
        assert expected is None or torch.equal(expected, got)

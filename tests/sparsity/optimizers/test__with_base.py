import copy
import pickle

import pytest
import torch

from sparsity.optimizers._with_base import OptimizerWithBase
from sparsity.optimizers.s2sam import S2SAM
from sparsity.optimizers.sam import SAM

both = pytest.mark.parametrize("cls", [SAM, S2SAM])


def closure_of(optimizer, w):
    def closure():
        optimizer.zero_grad()
        loss = (w**4).sum()
        loss.backward()
        return loss.detach()

    return closure


@both
@pytest.mark.parametrize("base", ["sgd", "adamw"])
def test_onecycle_reaches_the_base(cls, base):
    w = torch.ones(2, requires_grad=True)
    optimizer = cls([w], 0.1, base=base)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=10)
    seen = []
    for _ in range(5):
        optimizer.step(closure_of(optimizer, w))
        schedule.step()
        group = optimizer.base.param_groups[0]
        seen.append((group["lr"], group["momentum"] if base == "sgd" else group["betas"][0]))
    assert len(set(seen)) == 5
    assert optimizer.base.param_groups[0] is optimizer.param_groups[0]


@both
def test_learning_rate_of_the_group_is_the_one_used(cls):
    w = torch.ones(2, requires_grad=True)
    optimizer = cls([w], 0.1)
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step(closure_of(optimizer, w))
    assert w.tolist() == [1.0, 1.0]


@both
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x)), "state_dict"])
def test_base_stays_linked_after_a_copy(cls, copied):
    w = torch.ones(2, requires_grad=True)
    optimizer = cls([w], 0.1)
    optimizer.step(closure_of(optimizer, w))
    if copied == "state_dict":
        twin = cls([torch.ones(2, requires_grad=True)], 0.7)
        twin.load_state_dict(optimizer.state_dict())
    else:
        twin = copied(optimizer)
    assert twin.base.param_groups is twin.param_groups
    assert twin.base.state is twin.state
    assert twin.param_groups[0]["lr"] == 0.1
    (other,) = twin.param_groups[0]["params"]
    with torch.no_grad():
        other.copy_(w)
    optimizer = copy.deepcopy(optimizer)
    (w,) = optimizer.param_groups[0]["params"]
    for opt, p in ((optimizer, w), (twin, other)):
        opt.step(closure_of(opt, p))
    assert torch.equal(w, other)


@both
def test_a_group_added_later_is_trained_too(cls):
    w, v = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    optimizer = cls([w], 0.1)
    optimizer.add_param_group({"params": [v], "lr": 0.2})
    optimizer.step(closure_of(optimizer, v))
    assert v[0].item() == pytest.approx(1 - 0.2 * 4, abs=0.2)
    assert w.tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match=r": rho must be >= 0 and finite, got -1$"):
        optimizer.add_param_group({"params": [torch.ones(1)], "rho": -1})


@both
@pytest.mark.parametrize("base", ["foo", "sam", "s2sam", "_arguments"])
def test_unknown_base_says_what_is_valid(cls, base):
    with pytest.raises(
        ValueError, match=rf"^{cls.__name__}: base must be one of adamw, .*sgd.*, got '{base}'$"
    ) as error:
        cls([torch.ones(1)], 0.1, base=base)
    assert "sam" not in str(error.value).split("one of")[1].split(", got")[0]


@both
def test_step_needs_a_closure(cls):
    with pytest.raises(ValueError, match=rf"^{cls.__name__}: step must be given a closure .*, got None$"):
        cls([torch.ones(1, requires_grad=True)], 0.1).step()


@both
@pytest.mark.parametrize("rho", [-0.1, float("nan"), float("inf")])
def test_refuses_a_useless_rho(cls, rho):
    with pytest.raises(ValueError, match=rf"^{cls.__name__}: rho must be >= 0 and finite, got {rho}$"):
        cls([torch.ones(1)], 0.1, rho=rho)


@both
def test_refuses_sparse_gradients(cls):
    table = torch.nn.Embedding(4, 2, sparse=True)
    optimizer = cls(table.parameters(), 0.1)

    def closure():
        optimizer.zero_grad()
        loss = table(torch.tensor([1])).sum()
        loss.backward()
        return loss

    with pytest.raises(
        ValueError, match=rf"^{cls.__name__}: gradients must be dense .*, got a sparse one of shape \(4, 2\)"
    ):
        optimizer.step(closure)


def test_norm_is_joint_over_types_and_layouts():
    """e has length rho over a channels_last and a float64 tensor together."""
    w = torch.randn(2, 3, 2, 2).to(memory_format=torch.channels_last).requires_grad_()
    v = torch.randn(3, dtype=torch.float64, requires_grad=True)
    optimizer = SAM([w, v], 0.0, rho=0.5)
    seen = []

    def closure():
        optimizer.zero_grad()
        seen.append([w.detach().clone(), v.detach().clone()])
        loss = w.square().sum() + v.sum()
        loss.backward()
        return loss.detach()

    optimizer.step(closure)
    before, after = seen
    e = torch.cat([(a - b).double().flatten() for a, b in zip(after, before, strict=True)])
    assert e.norm().item() == pytest.approx(0.5, rel=1e-5)
    assert after[0].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(w, before[0])
    assert torch.equal(v, before[1])


def test_restored_undoes_any_change_in_place():
    w = torch.tensor([1 / 3, -0.0])
    optimizer = OptimizerWithBase([w], 0.1, base="sgd", base_arguments={}, rho=0.1)
    with optimizer.restored([w]):
        w.fill_(float("nan"))
    assert w.view(torch.int32).tolist() == torch.tensor([1 / 3, -0.0]).view(torch.int32).tolist()
    with optimizer.restored([]):
        pass

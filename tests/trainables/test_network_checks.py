import pytest
import torch
from torch import nn

from trainables.network_checks import check_forward, check_network


def linear(dtype=torch.float32):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10, dtype=dtype))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (None, "must return a torch.nn.Module, got NoneType"),
        (linear, "must return a torch.nn.Module, got function"),
        (linear().requires_grad_(False), "got a network whose weights are all frozen"),
        (nn.ReLU(), "must have weights to train"),
        (linear(torch.float16), "must have float32 weights .*, got float16 in 1.weight"),
        (linear(torch.bfloat16), "got bfloat16 in 1.weight"),
        (linear(torch.complex64), "got complex64 in 1.weight"),
        (nn.LazyLinear(3), "must have weights of known shape"),
    ],
)
def test_networks_that_cannot_be_trained(model, message):
    with pytest.raises(ValueError, match=f"^architecture: mine .*{message}"):
        check_network(model, "mine")


class Returns(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.inner, self.output = linear(), output

    def forward(self, x):
        return self.output(self.inner(x))


def fail(logits):
    raise RuntimeError("mat1 and mat2\nshapes cannot be multiplied")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda y: {"logits": y}, "must return logits, a float tensor 2 x 10, got a dict with logits: return one of"),
        (lambda y: (y, y), "got a tuple: return one tensor"),
        (lambda y: y[:, :9], "got float32 2 x 9"),
        (lambda y: y.argmax(1), "got int64 2$"),
        (lambda y: y[..., None, None], "got float32 2 x 10 x 1 x 1"),
        (lambda y: None, "got a NoneType"),
        (fail, "tried 2 x 1 x 8 x 8 and got RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
    ],
)
def test_networks_that_do_not_do_what_the_task_needs(tiny, make_task, output, message):
    with pytest.raises(ValueError, match=f"^architecture: mine .*{message}"):
        check_forward(make_task(tiny()), Returns(output), "mine")


def test_the_check_changes_nothing(tiny, make_task):
    task = make_task(tiny())
    model = task.build_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    check_forward(task, model, "mine")
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

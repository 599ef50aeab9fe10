import pytest
import torch

from trainables.pruning import Evaluation, shrunk_sizes


@pytest.fixture
def network(make_task, tiny):
    task = make_task(tiny())
    torch.manual_seed(0)
    return task, task.build_model().eval()


def evaluation_of(task, network, removed):
    """An evaluation at sparsity 0 and 0.5 whose masks at 0.5 remove all weights of one convolution."""
    ones = {name: torch.ones_like(w, dtype=torch.bool) for name, w in task.prunable(network).items()}
    masks = {0.0: ones, 0.5: ones | {removed: torch.zeros_like(ones[removed])}}
    return Evaluation({0.0: {}, 0.5: {}}, masks, {0.0: {}, 0.5: {}})


def test_sizes_are_those_after_shrinking(network):
    task, model = network
    sizes = shrunk_sizes(task, {0.0: model, 0.5: model}, evaluation_of(task, model, "3.conv1.weight"))
    # by hand: width 4, one block, 8 x 8 pixels, 10 classes; without its first convolution, the block has one channel
    dense, left = 64 * 9 * (4 + 16 + 16) + 40, 64 * 9 * (4 + 4 + 4) + 40
    assert sizes[0.0] == {"macs": dense, "macs_left": 1.0, "parameters": 36 + 144 + 144 + 3 * 8 + 50}
    assert sizes[0.5] == {"macs": left, "macs_left": left / dense, "parameters": 36 + 36 + 36 + 8 + 2 + 8 + 50}


def test_network_is_traced_once(network, monkeypatch):
    task, model = network
    evaluation = evaluation_of(task, model, "3.conv1.weight")
    first = shrunk_sizes(task, {0.0: model}, evaluation)
    monkeypatch.setattr("trainables.pruning.shrinking.trace", None)
    assert shrunk_sizes(task, {0.0: model}, evaluation) == first


def test_sizes_of_a_huge_network_are_left_out(network, monkeypatch):
    task, model = network
    monkeypatch.setattr("trainables.pruning.sizes.LARGEST", 100)
    assert shrunk_sizes(task, {0.0: model}, evaluation_of(task, model, "3.conv1.weight")) == {}

import torch

from sparsity.criteria.magnitude import magnitude


def test_is_the_absolute_value_in_new_memory():
    w = torch.tensor([[-3.0, 0.0], [2.0, -0.5]], requires_grad=True)
    (score,) = magnitude([w])
    assert score.tolist() == [[3.0, 0.0], [2.0, 0.5]]
    score.zero_()
    assert w[0, 0].item() == -3.0

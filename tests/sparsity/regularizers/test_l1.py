import torch

from sparsity.regularizers.l1 import L1


def test_matches_hand_computation():
    w, v = torch.tensor([[3.0, -4.0], [0.0, 0.5]], requires_grad=True), torch.tensor([-2.0], requires_grad=True)
    R = L1([w, v])
    assert R().item() == 9.5
    assert R.penalty(w).item() == 7.5
    (2 * R()).backward()
    assert w.grad.tolist() == [[2.0, -2.0], [0.0, 2.0]]
    assert v.grad.tolist() == [-2.0]

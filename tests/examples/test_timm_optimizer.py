import pytest
import torch


@pytest.mark.extras
def test_it_regularizes_and_decays_only_weights():
    pytest.importorskip("timm")
    from examples import timm_optimizer

    _, plain, optimizer = timm_optimizer.train(0.0, num_steps=2)
    _, regularized, _ = timm_optimizer.train(1e-3, num_steps=2)
    assert regularized() < plain()
    decayed = {group["weight_decay"]: group["params"] for group in optimizer.param_groups}
    assert decayed.keys() == {0.0, 5e-4}
    assert {p.ndim for p in decayed[0.0]} == {1}
    assert all(p.ndim > 1 for p in decayed[5e-4])
    assert all(group["rho"] == 0.05 for group in optimizer.param_groups)
    assert all(torch.isfinite(w).all() for w in regularized.weights)

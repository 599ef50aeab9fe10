import pytest

from examples import plain_pytorch


def test_it_learns_prunes_and_regularizes():
    plain, regularized = (plain_pytorch.train(lam, epochs=4) for lam in (0.0, 3e-4))
    for found in (plain, regularized):
        assert found["dense"] > 0.8
        weights = [p for p in found["model"].parameters() if p.ndim > 1]
        removed = sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)
        assert removed == pytest.approx(0.9, abs=1e-3)
    assert regularized["penalty"] < 0.8 * plain["penalty"]

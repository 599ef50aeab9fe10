import torch

from sparsity.criteria.random import random


def test_same_generator_state_gives_same_scores():
    weights = [torch.zeros(3, 4), torch.ones(5)]
    a = random(weights, generator=torch.Generator().manual_seed(1))
    b = random([w + 7 for w in weights], generator=torch.Generator().manual_seed(1))
    c = random(weights, generator=torch.Generator().manual_seed(2))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(a[0], c[0])


def test_is_uniform_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    (score,) = random([torch.zeros(100, 100)], generator=torch.Generator().manual_seed(0))
    assert torch.equal(before, torch.get_rng_state())
    assert 0 <= score.min() < 0.01
    assert 0.99 < score.max() < 1
    assert abs(score.mean().item() - 0.5) < 0.015  # 5 standard deviations: 5 / sqrt(12 * 10000)

import pytest
import torch

from search_spaces import lora as lora_space
from tests.trainables.tasks.lora._setting import configuration
from trainables.loop import Training
from trainables.penalty_ratio import PENALTY_RATIO_LIMIT
from trainables.tasks.lora import LoRA


@pytest.mark.parametrize("lr", [1e-2, 3e-4])
def test_wcr_on_the_factors_dominates_with_its_default_eps_only(data, lr):
    """B is 0 before the first of 22 steps."""
    found = {}
    for eps in (1e-8, lora_space.SEARCH_SPACE.overrides["reg/eps"]["regularizer"]["wcr"]):
        lam = lora_space.SEARCH_SPACE.initial_points["lam"]["regularizer"]["wcr"]
        config = configuration(regularizer="wcr", lam=lam, reg={"eps": eps}, opt={"lr": lr})
        training = Training(LoRA(config, data), config)
        while not training.finished:
            training.run_epoch()
        found[eps] = training.penalty_ratio.values
        assert bool(training.penalty_warning()) == (eps == 1e-8)
    assert found[1e-8]["max"] > 5 * PENALTY_RATIO_LIMIT
    assert 0 < found[1e-4]["max"] < 0.1 * PENALTY_RATIO_LIMIT
    assert found[1e-8]["start"] < 1  # the penalty dominates only after B has changed
    assert found[1e-8]["max_step"] > 0


@pytest.mark.parametrize("regularizer", ["l1", "hoyer_square"])
def test_other_penalties_do_not_dominate_at_their_initial_lam(data, regularizer):
    config = configuration(
        regularizer=regularizer, lam=lora_space.SEARCH_SPACE.initial_points["lam"]["regularizer"][regularizer]
    )
    training = Training(LoRA(config, data), config)
    while not training.finished:
        training.run_epoch()
    assert 0 < training.penalty_ratio.values["max"] <= PENALTY_RATIO_LIMIT


@pytest.mark.parametrize(("optimizer", "num_gradients"), [("adamw", 1), ("sam", 2)])
def test_weights_are_merged_once_per_gradient(make, monkeypatch, optimizer, num_gradients):
    arguments = {} if optimizer == "adamw" else {"base": "adamw", "rho": 0.05}
    task, _ = make(
        task_args={"regularize": "merged"},
        regularizer="wcr",
        lam=1e-6,
        accumulate=4,
        optimizer=optimizer,
        opt=arguments,
    )
    training = Training(task, task.config)
    merged, addmm = [], torch.Tensor.addmm_
    monkeypatch.setattr(torch.Tensor, "addmm_", lambda *args, **more: merged.append(1) or addmm(*args, **more))
    training.run_epoch()
    assert len(merged) == 14 * num_gradients * 11  # layers, gradients, steps
    assert training.penalty_ratio.values["max"] > 0

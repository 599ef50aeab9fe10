"""The contract of every file of trainables/lr_schedules/."""

import importlib
import io
import math
import pkgutil
import warnings

import pytest
import torch

from trainables import lr_schedules

NAMES = [module.name for module in pkgutil.iter_modules(lr_schedules.__path__) if not module.name.startswith("_")]
MAX_EPOCHS, STEPS = 31, 2  # beyond epoch 25, so that dynamic tuning has acted


@pytest.fixture(params=NAMES)
def schedule_class(request):
    module = importlib.import_module(f"trainables.lr_schedules.{request.param}")
    (name,) = module.__all__
    assert name.lower() == request.param.replace("_", "")
    return getattr(module, name)


class TwoPass(torch.optim.Optimizer):
    """Like SAM: the closure runs twice, and another optimizer updates the same groups."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, {"lr": lr})
        self.base = torch.optim.SGD(self.param_groups, lr=lr)
        self.param_groups = self.base.param_groups

    def step(self, closure):
        loss = closure()
        closure()
        self.base.step()
        return loss


def make(schedule_class, optimizer_class=torch.optim.SGD, *, max_epochs=MAX_EPOCHS, steps_per_epoch=STEPS):
    weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    optimizer = optimizer_class([{"params": weights[:1], "lr": 0.1}, {"params": weights[1:], "lr": 0.3}], lr=0.1)
    return optimizer, schedule_class(optimizer, max_epochs=max_epochs, steps_per_epoch=steps_per_epoch)


def train(optimizer, schedule, epochs):
    """Train and return the learning rates of both groups at each step."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]

    def closure():
        optimizer.zero_grad()
        loss = sum(weight.square().sum() for weight in weights)
        loss.backward()
        return loss.detach()

    lrs = []
    for epoch in epochs:
        for _ in range(schedule.steps_per_epoch):
            lrs.append([group["lr"] for group in optimizer.param_groups])
            optimizer.step(closure)
            schedule.after_step()
        schedule.after_epoch(1 + math.sin(epoch), 1 + math.cos(epoch))
    return lrs


@pytest.mark.parametrize("optimizer_class", [torch.optim.SGD, torch.optim.AdamW, TwoPass])
@pytest.mark.parametrize(("max_epochs", "steps_per_epoch"), [(1, 1), (1, 2), (2, 1), (3, 1), (4, 3), (60, 1)])
def test_lrs_are_finite_positive_and_proportional(schedule_class, optimizer_class, max_epochs, steps_per_epoch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns if a scheduler steps before its optimizer
        optimizer, schedule = make(
            schedule_class, optimizer_class, max_epochs=max_epochs, steps_per_epoch=steps_per_epoch
        )
        lrs = train(optimizer, schedule, range(max_epochs))
    assert len(lrs) == max_epochs * steps_per_epoch
    for one, three in lrs:
        assert 0 < one < math.inf
        assert three == pytest.approx(3 * one)


@pytest.mark.parametrize("stop", [0, 1, 11, 24, 25, 30, 31])
@pytest.mark.parametrize("optimizer_first", [True, False])
def test_resumed_equals_never_stopped(schedule_class, stop, optimizer_first):
    whole = train(*make(schedule_class), range(MAX_EPOCHS))
    optimizer, schedule = make(schedule_class)
    before = train(optimizer, schedule, range(stop))
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer, schedule = make(schedule_class)
        loads = [(optimizer, "optimizer"), (schedule, "schedule")]
        for target, name in loads if optimizer_first else loads[::-1]:
            target.load_state_dict(state[name])
        after = train(optimizer, schedule, range(stop, MAX_EPOCHS))
    assert before + after == whole


def test_the_schedule_may_be_constructed_after_loading_the_optimizer(schedule_class):
    whole = train(*make(schedule_class), range(MAX_EPOCHS))
    optimizer, schedule = make(schedule_class)
    train(optimizer, schedule, range(11))
    saved = optimizer.state_dict(), schedule.state_dict()
    optimizer, _ = make(schedule_class)
    optimizer.load_state_dict(saved[0])
    schedule = schedule_class(optimizer, max_epochs=MAX_EPOCHS, steps_per_epoch=STEPS)
    schedule.load_state_dict(saved[1])
    assert train(optimizer, schedule, range(11, MAX_EPOCHS)) == whole[11 * STEPS :]


def test_a_saved_state_does_not_change_during_training(schedule_class):
    optimizer, schedule = make(schedule_class)
    train(optimizer, schedule, range(12))
    state = schedule.state_dict()
    before = repr(state)
    train(optimizer, schedule, range(12, MAX_EPOCHS))
    assert repr(state) == before


def test_a_second_schedule_starts_from_the_current_lr(schedule_class):
    optimizer, schedule = make(schedule_class)
    train(optimizer, schedule, range(11))
    for group, lr in zip(optimizer.param_groups, (0.01, 0.03), strict=True):
        group["lr"] = lr
    again = schedule_class(optimizer, max_epochs=MAX_EPOCHS, steps_per_epoch=STEPS)
    fresh = train(*make(schedule_class), range(MAX_EPOCHS))
    for lrs, reference in zip(train(optimizer, again, range(MAX_EPOCHS)), fresh, strict=True):
        assert lrs == pytest.approx([lr / 10 for lr in reference])


@pytest.mark.parametrize("name", ["max_epochs", "steps_per_epoch"])
def test_refuses_another_length_of_the_run(schedule_class, name):
    with pytest.raises(ValueError, match=f"{schedule_class.__name__}: {name} must be a whole number >= 1, got 0"):
        make(schedule_class, **{name: 0})
    _, schedule = make(schedule_class)
    _, longer = make(schedule_class, **{name: 100})
    with pytest.raises(
        ValueError, match=rf"{name} must be {getattr(schedule, name)} \(that of the run to resume\), got 100"
    ):
        longer.load_state_dict(schedule.state_dict())

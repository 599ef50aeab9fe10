import io
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import sparsity
from trainables.architectures.small_resnet import small_resnet
from trainables.config import TrialConfig
from trainables.loop import Diverged, Training, load_task, train

LAMS = {"none": 0.0, "wcr": 1e-6}  # 1e-4 for the others
GATED = ["concave_mask", "l0_hard_concrete", "weight_factorization"]


def equal(a, b):
    """Whether two nested states are equal except for `seconds`; tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a if key != "seconds")
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def finished(task, config):
    training = Training(task, config)
    reports = [training.run_epoch() for _ in range(config.max_epochs)]
    return training, reports


@pytest.mark.parametrize("lam", [0.0, 1e-3])
def test_training_equals_a_plain_loop(tiny, make_task, lam):
    """Compare with a loop of plain PyTorch on the same batches: L1 by autograd, torch's SGD."""
    config = tiny(regularizer="l1", lam=lam, opt={"lr": 0.05, "momentum": 0.8, "weight_decay": 1e-3}, seed=5)
    task = make_task(config)
    batches, served = [], task.batches

    def recorded(*args, **kwargs):
        for batch in served(*args, **kwargs):
            batches.append(batch)
            yield batch

    task.batches = recorded
    training, reports = finished(task, config)
    assert len(batches) == 3 * 4  # epochs, 128 images in batches of 32

    torch.manual_seed(5)
    model = small_resnet(10, 1, width=4, depth=1).to(memory_format=torch.channels_last)
    weights = [p for p in model.parameters() if p.ndim > 1]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.8, weight_decay=1e-3)
    losses, penalties = [], []
    for images, labels in batches:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        penalty = sum(weight.abs().sum() for weight in weights)
        (loss + lam * penalty).backward()
        optimizer.step()
        losses.append(loss.item())
        penalties.append(penalty.item())

    assert equal(dict(training.model.state_dict()), dict(model.state_dict()))
    for epoch, report in enumerate(reports):
        mine = slice(4 * epoch, 4 * epoch + 4)
        assert report["loss"] == pytest.approx(sum(losses[mine]) / 4, rel=1e-12)
        assert report["penalty"] == pytest.approx(sum(penalties[mine]) / 4, rel=1e-6)
        assert report["lr"] == 0.05


def test_every_epoch_and_seed_has_its_own_batches(tiny, make_task):
    config = tiny()
    task = make_task(config)
    seeds, served = [], task.batches
    task.batches = lambda *args, seed: seeds.append(seed) or served(*args, seed=seed)
    for seed in (0, 1):
        finished(task, tiny(seed=seed))
    assert len(set(seeds)) == 6


def test_only_the_seed_determines_the_weights(tiny, make_task):
    def weights(seed):
        config = tiny(seed=seed, max_epochs=1)
        return finished(make_task(config), config)[0].model.state_dict()

    one = weights(1)
    torch.manual_seed(99)
    assert equal(dict(weights(1)), dict(one))
    assert not equal(dict(weights(2)), dict(one))


@pytest.mark.parametrize("schedule", sparsity.names("trainables.lr_schedules"))
def test_learning_rate_schedule_is_stepped(tiny, make_task, schedule):
    """The final lr of torch's schedulers, and of the paper's rule, after 3 epochs of 4 steps."""
    arguments = {"step_decay": {"decay_every": 2}, "linear_warmup": {"num_warmup_steps": 2}}
    config = tiny(lr_schedule=schedule, lr_sched=arguments.get(schedule, {}))
    expected = {
        "constant": 0.05,
        "cosine": 0.0,
        "linear_warmup": 0.0,
        "one_cycle": 0.05 / 25 / 1e4,
        "step_decay": 0.025,
        "dynamic_tuning": 0.0005,  # / 10 after the first and the second of three epochs
    }
    assert finished(make_task(config), config)[1][-1]["lr"] == pytest.approx(expected[schedule], abs=1e-12)


@pytest.mark.parametrize("optimizer", sparsity.names("optimizers"))
@pytest.mark.parametrize("regularizer", sparsity.names("regularizers"))
def test_lam_0_equals_no_regularizer(tiny, make_task, optimizer, regularizer):
    plain, off = (tiny(optimizer=optimizer, regularizer=name, max_epochs=1) for name in ("none", regularizer))
    trainings = [finished(make_task(config), config)[0] for config in (plain, off)]
    if list(trainings[1].regularizer.parameters()):
        pytest.skip("gates are trained by the task's loss too")
    assert equal(*(dict(training.model.state_dict()) for training in trainings))


@pytest.mark.parametrize("regularizer", ["concave_mask", "l0_hard_concrete"])
def test_gates_are_trained_projected_and_folded(tiny, make_task, regularizer):
    """The trained model has plain weights: theta times the gate z, by hand."""
    config = tiny(regularizer=regularizer, lam=1e-2, opt={"lr": 0.5})
    task = make_task(config)
    training, _ = finished(task, config)
    start = Training(task, config)
    z = training.regularizer.gate_values()
    assert all(not torch.equal(a, b) for a, b in zip(z, start.regularizer.gate_values(), strict=True))
    assert all(gate.min() >= 0 and gate.max() <= 1 for gate in z)
    plain = training.trained_model()
    assert sorted(plain.state_dict()) == sorted(task.build_model().state_dict())
    for weight, theta, gate in zip(task.regularized(plain).values(), training.regularizer.weights, z, strict=True):
        assert torch.equal(weight, theta * gate)
    dense = training.evaluate((0.0,)).metrics[0.0]
    assert dense == task.evaluate(plain, "validation") == task.evaluate(training.model, "validation")


@pytest.mark.parametrize("optimizer", sparsity.names("optimizers"))
@pytest.mark.parametrize("regularizer", sparsity.names("regularizers"))
def test_resuming_equals_never_stopping(tiny, make_task, optimizer, regularizer):
    """Save to a file and resume without unpickling after each number of epochs."""
    lam = LAMS.get(regularizer, 1e-4)
    config = tiny(optimizer=optimizer, regularizer=regularizer, lam=lam, lr_schedule="one_cycle", train_size=64)
    whole = Training(make_task(config), config)
    files, reports = [], []
    while not whole.finished:
        files.append(io.BytesIO())
        torch.save(whole.state_dict(), files[-1])
        reports.append(whole.run_epoch())
    for num_epochs, file in enumerate(files):
        resumed = Training(make_task(config), config)
        file.seek(0)
        resumed.load_state_dict(torch.load(file, weights_only=True))
        assert resumed.epoch == num_epochs
        assert [resumed.run_epoch() for _ in range(config.max_epochs - num_epochs)] == reports[num_epochs:]
        assert resumed.finished
        assert equal(resumed.state_dict(), whole.state_dict())
    assert not equal(whole.model.state_dict(), Training(make_task(config), config).model.state_dict())


def test_resumed_training_continues_to_count_seconds(tiny, make_task):
    config = tiny()
    one = Training(make_task(config), config)
    one.run_epoch()
    other = Training(make_task(config), config)
    other.load_state_dict(one.state_dict())
    assert other.seconds == one.seconds > 0
    other.evaluate((0.5,))
    assert other.seconds > one.seconds


def test_state_of_another_configuration_is_refused(tiny, make_task):
    config, other = tiny(), tiny(opt={"lr": 0.06})
    state = Training(make_task(config), config).state_dict()
    with pytest.raises(
        ValueError, match=r"^checkpoint: must be of this training's configuration, was written for another$"
    ):
        Training(make_task(other), other).load_state_dict(state)


# ---- errors ------------------------------------------------------------------------------------------------------


def test_divergence_names_step_lam_loss_and_penalty(tiny, make_task):
    config = tiny(opt={"lr": 1e25, "momentum": 0.0}, regularizer="hoyer_square", lam=1e-3, seed=1)
    training = Training(make_task(config), config)
    pattern = r"^diverged at step [1-3] \(epoch 0\): task loss \S+, penalty \S+, lam 0.001$"
    with pytest.raises(Diverged, match=pattern) as caught:
        training.run_epoch()
    assert "nan" in str(caught.value) or "inf" in str(caught.value)
    assert training.epoch == 0


def test_divergence_counts_steps_over_epochs(tiny, make_task):
    config = tiny()
    task = make_task(config)
    training = Training(task, config)
    training.run_epoch()
    loss = task.loss
    calls = []
    task.loss = lambda model, batch: loss(model, batch) * (math.nan if calls.append(0) or len(calls) == 3 else 1)
    with pytest.raises(Diverged, match=r"^diverged at step 6 \(epoch 1\): task loss nan, penalty 0, lam 0$"):
        training.run_epoch()  # step 6 is the third of epoch 1, whose steps are 4 to 7


def test_overflow_in_the_last_step_is_found_in_the_weights(tiny, make_task):
    config = tiny(opt={"lr": 1e38}, batch_size=128, max_epochs=1)
    with pytest.raises(Diverged, match=r"^diverged at step 0 .*: task loss 2\.\d+, penalty 0, lam 0, after which the"):
        Training(make_task(config), config).run_epoch()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"opt": {"lr": 0.1, "rho": 0.5}}, "SGD: arguments must be among lr, .*momentum.*, got 'rho'"),
        ({"optimizer": "sam", "opt": {"lr": 0.1, "roh": 0.5}}, "SAM: arguments must be among lr, .*rho.*, got 'roh'"),
        ({"opt": {}}, "opt: arguments of SGD must include lr, got {}"),
        ({"opt": {"lr": "high"}}, "opt: arguments must be what SGD takes, got {'lr': 'high'} (.*)"),
        ({"opt": {"lr": -1.0}}, "SGD: lr must be >= 0 and finite, got -1.0"),
        (
            {"regularizer": "wcr", "reg": {"epsilon": 1}},
            "reg: arguments of WCR must be among smooth, eps, got 'epsilon'",
        ),
        (
            {"regularizer": "wcr", "reg": {"weights": 1}},
            "reg: arguments of WCR must be among smooth, eps, got 'weights'",
        ),
        ({"regularizer": "wcr", "reg": {"eps": 0}}, "WCR: eps must be >= 1e-18 and finite (.*), got 0"),
        ({"regularizer": "l1", "reg": {"eps": 1}}, "reg: arguments of L1 must be among (none), got 'eps'"),
        ({"lr_sched": {"gamma": 1}}, "lr_sched: arguments of Constant must be among (none), got 'gamma'"),
        (
            {"lr_schedule": "step_decay", "lr_sched": {"max_epochs": 5}},
            "lr_sched: arguments of StepDecay must be among decay_every, gamma, got 'max_epochs'",
        ),
        ({"model": {"hight": 1}}, "model: arguments of small_resnet must be among width, depth, got 'hight'"),
        ({"model": {"width": 0}}, "small_resnet: width must be a whole number >= 1, got 0"),
    ],
)
def test_wrong_argument_gets_one_line(tiny, make_task, fields, message):
    config = tiny(**fields)
    pattern = message.replace("(", r"\(").replace(")", r"\)").replace("{", r"\{").replace("}", r"\}")
    with pytest.raises(ValueError, match=f"^{pattern}$") as caught:
        Training(make_task(config), config)
    assert "\n" not in str(caught.value)


# ---- train and load_task -----------------------------------------------------------------------------------------


def test_train_takes_a_dictionary_or_a_configuration(tiny, make_task):
    config = tiny()
    reports = []
    model, evaluation = train(make_task(config), config, report=reports.append)
    same, same_evaluation = train(make_task(config), config.model_dump())
    assert equal(dict(model.state_dict()), dict(same.state_dict()))
    assert evaluation.metrics == same_evaluation.metrics
    assert list(evaluation.metrics) == [0.0, 0.25, 0.5, 0.75]
    assert [set(report) for report in reports] == [{"epoch", "loss", "penalty", "lr"}] * 3
    assert [report["epoch"] for report in reports] == [1, 2, 3]
    with pytest.raises(ValueError, match=r"optimizer: must be one of .*, got 'adam'"):
        train(make_task(config), {**config.model_dump(), "optimizer": "adam"})


def test_train_learns_digits(tiny, digits_data):
    config = tiny(
        train_size=None, model={"width": 8}, lr_schedule="one_cycle", opt={"lr": 0.1}, max_epochs=4, sparsities=()
    )
    _, evaluation = train(load_task(config, data=digits_data), config)
    assert evaluation.metrics[0.0]["acc"] > 0.9


def test_load_task_loads_data(tiny):
    task = load_task(tiny())
    assert task.steps_per_epoch(32) == 4
    with pytest.raises(ValueError, match="dataset: must be one of"):
        load_task(TrialConfig.model_validate({**tiny().model_dump(), "dataset": "mnist"}))


# ---- gates ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", sparsity.names("trainables.lr_schedules"))
@pytest.mark.parametrize("regularizer", GATED)
def test_schedules_keep_the_ratio_of_gate_lr_to_lr(tiny, make_task, regularizer, schedule):
    arguments = {"step_decay": {"decay_every": 1}, "linear_warmup": {"num_warmup_steps": 2}}
    config = tiny(
        regularizer=regularizer, reg={"gate_lr": 2.0}, lr_schedule=schedule, lr_sched=arguments.get(schedule, {})
    )
    training = Training(make_task(config), config)
    while not training.finished:
        weights, gates = training.optimizer.param_groups[0], training.optimizer.param_groups[-1]
        assert set(gates["params"]) == set(training.regularizer.parameters())
        assert gates["lr"] == pytest.approx(2.0 / 0.05 * weights["lr"], rel=1e-12)
        training.run_epoch()


@pytest.mark.parametrize("optimizer", sparsity.names("optimizers"))
@pytest.mark.parametrize("regularizer", GATED)
def test_gate_lr_affects_gates_only(tiny, make_task, optimizer, regularizer):
    """One step with two gate_lr: gates move in proportion, everything else is equal bit for bit."""
    found = []
    for gate_lr in (0.01, 0.02):
        fields = {"optimizer": optimizer, "regularizer": regularizer, "lam": 1e-2, "reg": {"gate_lr": gate_lr}}
        config = tiny(**fields, opt={"lr": 0.05}, batch_size=128, max_epochs=1)
        training = Training(make_task(config), config)
        gates = list(training.regularizer.parameters())
        start = [p.detach().clone() for p in gates]
        training.regularizer.project = lambda: None  # or gates at the bound m = 1 would not move up
        training.run_epoch()
        moved = [p.detach() - s for p, s in zip(gates, start, strict=True)]
        found.append((moved, [p for p in training.model.parameters() if p not in set(gates)]))
    for once, twice in zip(found[0][0], found[1][0], strict=True):
        assert once.any()
        torch.testing.assert_close(2 * once, twice, rtol=1e-3, atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


@pytest.mark.parametrize(
    ("regularizer", "gate_lr", "closing"), [("l0_hard_concrete", 10.0, 11.3), ("concave_mask", 2.0, 1.44)]
)
def test_gates_close_gradually_around_the_documented_lam(tiny, make_task, regularizer, gate_lr, closing):
    """Multiples of lam = closing / S close almost none, some, and almost all of the gates."""
    total_lr = gate_lr * 0.5 * 40 / (1 - 0.9)  # half the peak on average, 40 steps, momentum 0.9
    closed = []
    for multiple in (0.03, 1.5, 5.0):
        config = tiny(
            regularizer=regularizer,
            lam=multiple * closing / total_lr,
            reg={"gate_lr": gate_lr},
            lr_schedule="one_cycle",
            max_epochs=10,
        )
        training, _ = finished(make_task(config), config)
        closed.append(training.regularizer.diagnostics()["gates_closed"])
    assert closed[0] < 0.05
    assert 0.1 < closed[1] < 0.9
    assert closed[2] > 0.95


def test_weight_decay_is_scaled_by_the_probability_of_an_open_gate(tiny, make_task):
    """One step of SGD with and without decay differs by lr * weight_decay * theta * P(open), by NumPy."""
    thetas = {}
    for decay in (0.0, 0.5):
        config = tiny(
            regularizer="l0_hard_concrete", opt={"lr": 0.1, "weight_decay": decay}, batch_size=128, max_epochs=1
        )
        training = Training(make_task(config), config)
        gates = training.regularizer.gates
        with torch.no_grad():  # from closed to open
            for gate in gates:
                gate.log_alpha.copy_(torch.linspace(-6, 6, gate.num_gates))
        start = [w.detach().double().numpy().copy() for w in training.regularizer.weights]
        before = [gate.log_alpha.detach().double().numpy().reshape(gate.shape) for gate in gates]
        training.run_epoch()
        thetas[decay] = [w.detach().double().numpy() for w in training.regularizer.weights]
    for theta, log_alpha, plain, decayed in zip(start, before, thetas[0.0], thetas[0.5], strict=True):
        probability_open = 1 / (1 + np.exp(-(log_alpha - 2 / 3 * np.log(0.1 / 1.1))))
        np.testing.assert_allclose(plain - decayed, 0.1 * 0.5 * theta * probability_open, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("optimizer", sparsity.names("optimizers"))
@pytest.mark.parametrize("regularizer", GATED)
def test_resuming_with_gate_lr_and_decay_equals_never_stopping(tiny, make_task, optimizer, regularizer):
    decay = {} if optimizer == "sfw" else {"weight_decay": 0.1}
    fields = {"optimizer": optimizer, "regularizer": regularizer, "lam": 1e-3, "reg": {"gate_lr": 2.0}}
    config = tiny(**fields, opt={"lr": 0.05, **decay}, lr_schedule="one_cycle", train_size=64)
    whole = Training(make_task(config), config)
    whole.run_epoch()
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    file.seek(0)
    resumed = Training(make_task(config), config)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for training in (whole, resumed):
        while not training.finished:
            training.run_epoch()
    assert equal(resumed.state_dict(), whole.state_dict())

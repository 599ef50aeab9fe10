"""Tests of all pairs: criterion and architecture, regularizer and pruning schedule, and every arm in every task.

An arm is an optimizer with a regularizer.
"""

import copy
import functools
import itertools

import pytest
import torch

import sparsity
from tests.trainables._tiny_tasks import equal_states, make_tiny_task, tiny_config
from trainables.loop import Training
from trainables.pruning import apply_pruning, evaluate_pruned, load_pruned, recalibrated, save_pruned
from trainables.pruning_schedule import make_pruning_schedule
from trainables.step import train_step

LEVEL = 0.5
REFUSED = {  # (architecture, criterion) -> beginning of the error
    ("vit", "synflow"): "criterion: must not be synflow with vit",
    ("causal_lm", "compensation"): "lora: criterion must fit a language model",
    ("causal_lm", "grasp"): "lora: criterion must fit a language model",
    ("causal_lm", "synflow"): "lora: criterion must fit a language model",
}


FAMILIES = {"smp", "timm", "torchvision"}  # serve many networks: tests/trainables/architectures/test_timm.py
ARCHITECTURES = [name for name in sparsity.names("trainables.architectures") if name not in FAMILIES]


def arguments(architecture, criterion):
    if criterion == "synflow":
        return {"num_rounds": 2}
    # Exact scores cost a backward pass per output, and a UNet has one output per pixel.
    exact = architecture in ("small_resnet", "vit", "wide_resnet")
    return {} if criterion != "compensation" or exact else {"num_probes": 1}


# ---- pruned checkpoints ------------------------------------------------------------------------------------------


@functools.cache
def trained(architecture):
    config = tiny_config(architecture)
    task = make_tiny_task(config)
    training = Training(task, config)
    training.run_epoch()
    return task, recalibrated(
        task, training.trained_model().eval(), config
    )  # after two steps the running statistics are far off


# Every criterion with one network of each task, and every network by magnitude; the other pairs are slow tests.
NETWORKS = {"cnn": "small_resnet", "vit": "vit", "unet": "unet", "lora": "causal_lm"}
CHECKPOINTS = [
    pytest.param(
        architecture,
        criterion,
        marks=() if architecture in NETWORKS.values() or criterion == "magnitude" else pytest.mark.slow,
    )
    for architecture in ARCHITECTURES
    for criterion in sparsity.names("criteria")
]


@pytest.mark.parametrize(("architecture", "criterion"), CHECKPOINTS)
def test_checkpoint_is_the_evaluated_network(architecture, criterion, tmp_path):
    config = tiny_config(architecture, criterion=criterion, crit=arguments(architecture, criterion))
    if message := REFUSED.get((architecture, criterion)):
        with pytest.raises(ValueError, match=f"^{message}"):
            make_tiny_task(config)
        return
    task, model = trained(architecture)
    evaluation = evaluate_pruned(task, model, config, (0.0, LEVEL), "validation")
    applied = apply_pruning(task, model, evaluation, LEVEL)
    assert task.evaluate(applied, "validation") == evaluation.metrics[LEVEL]

    masks, shifted = evaluation.masks[LEVEL], evaluation.shifted[LEVEL]
    save_pruned(tmp_path / "pruned", task, model, masks, {}, shifted=shifted)
    loaded = load_pruned(tmp_path / "pruned").to(memory_format=torch.channels_last)  # so that sums are rounded alike
    assert equal_states(loaded, applied)
    batch = next(iter(task.batches("validation", 8)))
    with torch.no_grad():
        assert torch.equal(task.forward(loaded, batch), task.forward(applied, batch))


# ---- rounds ------------------------------------------------------------------------------------------------------

REWINDING = {
    "imp": {"fraction": 0.5},
    "concave_mask": {"rounds": 1},
}  # pruning schedule -> arguments for two or three trainings
SCHEDULES = [("one_shot", {})] + [
    (pruning_schedule, {**arguments, "rewind_epoch": epoch})
    for pruning_schedule, arguments in REWINDING.items()
    for epoch in (0, 1)
]


@pytest.mark.parametrize("regularizer", sparsity.names("regularizers"))
@pytest.mark.parametrize(("pruning_schedule", "arguments"), SCHEDULES)
def test_every_regularizer_resumes_in_every_pruning_schedule(pruning_schedule, arguments, regularizer):
    lam = 0.0 if regularizer == "none" else 1e-4
    config = tiny_config(
        "small_resnet", pruning_schedule=pruning_schedule, pruning_sched=arguments, regularizer=regularizer, lam=lam
    )
    if pruning_schedule == "concave_mask" and regularizer != "concave_mask":
        with pytest.raises(ValueError, match=r"^pruning_schedule: must have the regularizer concave_mask"):
            make_pruning_schedule(config)
        return
    task = make_tiny_task(config)
    whole, states = Training(task, config), []
    while not whole.finished:
        whole.train_to_evaluation(evaluate=False)
        states.append(copy.deepcopy(whole.state_dict()))
    assert whole.phase == whole.lottery.num_phases - 1
    resumed = Training(task, config)
    resumed.load_state_dict(states[len(states) // 2])  # in the last phase if there are several
    while not resumed.finished:
        resumed.train_to_evaluation(evaluate=False)
    networks = [training.networks((0.0, LEVEL)) for training in (whole, resumed)]
    for level in (0.0, LEVEL):
        assert equal_states(*(network[level] for network in networks))
    assert whole.evaluate((LEVEL,)).metrics == resumed.evaluate((LEVEL,)).metrics


def test_all_pruning_schedules_are_tried():
    assert {pruning_schedule for pruning_schedule, _ in SCHEDULES} == set(
        sparsity.names("trainables.pruning_schedules")
    )


# ---- steps -------------------------------------------------------------------------------------------------------


@functools.cache
def on_meta(task):
    """The task on the meta device, and two training batches."""
    config = tiny_config(NETWORKS[task])
    made = make_tiny_task(config, "meta")
    batches = list(itertools.islice(made.batches("train", config.batch_size, seed=0), 2))
    built = small_unet().to("meta") if task == "unet" else made.build_model()
    made.build_model = lambda: copy.deepcopy(built)
    return made, batches


def small_unet():
    """Replaces the real UNet, whose sixty convolutions take a second per step on the meta device."""
    first = [torch.nn.Conv2d(3, 4, 3, padding=1, bias=False), torch.nn.BatchNorm2d(4), torch.nn.ReLU()]
    return torch.nn.Sequential(*first, torch.nn.Conv2d(4, 1, 1))


# Every optimizer with WCR and every regularizer with SGD; the other pairs are slow tests.
PAIRS = [
    pytest.param(optimizer, regularizer, marks=() if optimizer == "sgd" or regularizer == "wcr" else pytest.mark.slow)
    for optimizer in sparsity.names("optimizers")
    for regularizer in sparsity.names("regularizers")
]


@pytest.mark.parametrize(("optimizer", "regularizer"), PAIRS)
@pytest.mark.parametrize("task", NETWORKS)
def test_two_steps_on_the_meta_device(task, optimizer, regularizer, monkeypatch):
    """Check without a GPU that a step neither mixes devices nor waits for one.

    On the meta device values cannot be read, and tensors of other devices cannot be added.
    """
    lam = 0.0 if regularizer == "none" else 1e-4
    config = tiny_config(NETWORKS[task], optimizer=optimizer, regularizer=regularizer, lam=lam)
    made, batches = on_meta(task)
    if task == "lora":  # transformers reads values here in every forward pass
        from transformers import masking_utils

        monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda position_ids: None)
    training = Training(made, config)
    training.model.train()
    for batch in batches:
        loss, penalty = train_step(
            training.model,
            batch,
            task=made,
            regularizer=training.regularizer,
            lam=lam,
            optimizer=training.optimizer,
        )
        training.regularizer.project()
        training.lr_schedule.after_step()
        assert loss.device.type == penalty.device.type == "meta"
    assert all(parameter.device.type == "meta" for parameter in training.model.parameters())


def test_all_tasks_are_tried():
    assert set(NETWORKS) == set(sparsity.names("trainables.tasks"))

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import sparsity
from tests.trainables._tiny_tasks import convolutions, make_tiny_task, tiny_config
from trainables.pruning import apply_pruning, evaluate_pruned, load_pruned, recalibrated, save_pruned, score

LEVELS = (0.0, 0.3, 0.9)


def smallest(scores, num):
    """A mask per array, False at the `num` smallest of all values together; of equal values the first, by NumPy."""
    flat = np.concatenate([score.ravel() for score in scores])
    kept = np.ones(flat.size, bool)
    kept[np.argsort(flat, kind="stable")[:num]] = False
    parts = np.split(kept, np.cumsum([score.size for score in scores])[:-1])
    return [part.reshape(score.shape) for part, score in zip(parts, scores, strict=True)]


def cross_entropy_gradients(task, model):
    """The gradients of the loss on all 128 training images in stored order, in evaluation mode."""
    model = copy.deepcopy(model).eval()
    images, labels = next(task.batches("train", 512))
    F.cross_entropy(model(images), labels).backward()
    return [weight.grad.numpy() for weight in convolutions(model).values()]


@pytest.mark.parametrize("criterion", sparsity.names("criteria"))
@pytest.mark.parametrize("training", [True, False])
def test_evaluation_does_not_change_the_model(trained, tiny, criterion, training):
    task, model = trained
    model = copy.deepcopy(model).train(training)
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluate_pruned(task, model, tiny(criterion=criterion), LEVELS, "validation")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(module.training is training for module in model.modules())
    assert all(p.requires_grad for p in model.parameters())
    assert [p.grad is not None and p.grad.eq(1).all().item() for p in model.parameters()][:2] == [True, False]


@pytest.mark.parametrize("split", ["validation", "test", "train"])
def test_sparsity_0_evaluates_the_dense_model(trained, tiny, split):
    task, model = trained
    assert evaluate_pruned(task, model, tiny(), (0.0,), split).metrics == {0.0: task.evaluate(model, split)}


@pytest.mark.parametrize("criterion", ["magnitude", "gradient_magnitude"])
@pytest.mark.parametrize("levels", [LEVELS, (0.9, 0.3, 0.0)])  # a sparsity does not affect the next one
def test_each_sparsity_equals_masking_by_hand(trained, tiny, criterion, levels):
    task, model = trained
    evaluation = evaluate_pruned(task, model, tiny(criterion=criterion), levels, "validation")
    weights = {name: weight.detach().numpy() for name, weight in convolutions(model).items()}
    factors = cross_entropy_gradients(task, model) if criterion == "gradient_magnitude" else [1.0] * len(weights)
    scores = [np.abs(weight * factor) for weight, factor in zip(weights.values(), factors, strict=True)]
    num_weights = sum(weight.size for weight in weights.values())
    assert list(evaluation.metrics) == list(evaluation.masks) == list(levels)
    for level in levels:
        masks = smallest(scores, round(level * num_weights))
        masked = copy.deepcopy(model)
        with torch.no_grad():
            for weight, mask in zip(convolutions(masked).values(), masks, strict=True):
                weight *= torch.from_numpy(mask)
        assert list(evaluation.masks[level]) == list(weights)
        for mask, expected in zip(evaluation.masks[level].values(), masks, strict=True):
            np.testing.assert_array_equal(mask, expected)
        assert evaluation.metrics[level] == task.evaluate(masked, "validation")
    assert evaluation.metrics[0.9] != evaluation.metrics[0.0]


@pytest.mark.parametrize("criterion", sparsity.names("criteria"))
def test_checkpoint_is_as_accurate_as_recorded(trained, tiny, tmp_path, criterion):
    """Also if the criterion compensates for the removed weights in other values."""
    task, model = trained
    evaluation = evaluate_pruned(task, model, tiny(criterion=criterion), (0.3, 0.9, 0.5), "validation")
    for level, metrics in evaluation.metrics.items():
        shifted = evaluation.shifted[level]
        assert (len(shifted) > 0) is (criterion == "compensation")
        save_pruned(tmp_path / "pruned", task, model, evaluation.masks[level], {}, shifted=shifted)
        loaded = load_pruned(tmp_path / "pruned")  # another memory format, in which sums are rounded differently
        assert task.evaluate(loaded, "validation") == pytest.approx(metrics, rel=1e-6)


def test_compensation_changes_the_outputs_less_than_removal_alone(trained, tiny):
    """Compare outputs on the training images that it calibrates on, with and without its shifts."""
    task, model = trained
    evaluation = evaluate_pruned(task, model, tiny(criterion="compensation"), (0.1,), "validation")
    images, _ = next(task.batches("train", 512))
    dense = copy.deepcopy(model).eval()
    distances = []
    for state in ({}, evaluation.shifted[0.1]):
        pruned = copy.deepcopy(dense)
        pruned.load_state_dict({**dense.state_dict(), **state})
        with torch.no_grad():
            for name, weight in convolutions(pruned).items():
                weight *= evaluation.masks[0.1][name]
            distances.append((pruned(images) - dense(images)).square().mean().item())
    assert distances[1] < distances[0]


@pytest.mark.parametrize("criterion", sparsity.names("criteria"))
@pytest.mark.parametrize("scope", ["global", "uniform"])
def test_every_criterion_removes_the_exact_count(trained, tiny, criterion, scope):
    task, model = trained
    config = tiny(criterion=criterion, scope=scope, seed=3)
    evaluation = evaluate_pruned(task, model, config, LEVELS, "validation")
    sizes = [weight.numel() for weight in convolutions(model).values()]
    for level in LEVELS:
        removed = [int((~mask).sum()) for mask in evaluation.masks[level].values()]
        if scope == "global":
            assert sum(removed) == round(level * sum(sizes))
        else:
            assert removed == [round(level * size) for size in sizes]
    again = evaluate_pruned(task, model, config, LEVELS, "validation")
    assert again.metrics == evaluation.metrics


def test_random_criterion_depends_on_the_seed(trained, tiny):
    task, model = trained
    zero, one = (
        evaluate_pruned(task, model, tiny(criterion="random", seed=seed), (0.5,), "validation").masks[0.5]
        for seed in (0, 1)
    )
    assert any(not torch.equal(zero[name], one[name]) for name in zero)


def test_n_of_m_scope_keeps_n_of_every_m(tiny, make_task):
    config = tiny(scope="1:2", target_sparsity=0.5, sparsities=())
    task = make_task(config)
    model = task.build_model()  # the stem has one input channel, which 2 does not divide; the others have 4
    evaluation = evaluate_pruned(task, model, config, config.levels, "validation")
    assert list(evaluation.metrics) == [0.0, 0.5]
    assert evaluation.metrics[0.0] == task.evaluate(model, "validation")
    stem, *others = evaluation.masks[0.5].values()
    assert stem.all()
    assert others
    for mask in others:
        assert set(mask.unflatten(1, (-1, 2)).sum(2).flatten().tolist()) == {1}


def test_recalibrated_statistics_are_means_over_the_training_batches(trained, tiny):
    task, model = trained
    config = tiny(batch_size=32)
    pruned = copy.deepcopy(model).eval()
    first = next(m for m in pruned.modules() if isinstance(m, torch.nn.Conv2d))
    with torch.no_grad():
        first.weight[0] = 0
    again = recalibrated(task, pruned, config)
    norm = next(m for m in again.modules() if isinstance(m, torch.nn.BatchNorm2d))
    outputs = [first(images).detach().numpy() for images, _ in task.batches("train", 32, seed=config.seed)]
    np.testing.assert_allclose(norm.running_mean, np.mean([o.mean((0, 2, 3)) for o in outputs], 0), atol=1e-6)
    variances = [o.var((0, 2, 3), ddof=1) for o in outputs]
    np.testing.assert_allclose(norm.running_var, np.mean(variances, 0), rtol=1e-4, atol=1e-7)
    assert not again.training


def test_recalibration_decides_the_metrics_and_the_checkpoint(trained, tiny, tmp_path):
    task, model = trained
    config = tiny(recalibrate=True)
    plain = evaluate_pruned(task, model, tiny(), LEVELS, "validation")
    found = evaluate_pruned(task, model, config, LEVELS, "validation")
    assert found.masks.keys() == plain.masks.keys()
    assert found.metrics[0.0] == plain.metrics[0.0]  # the dense network keeps its statistics
    assert not found.shifted[0.0]
    for level in set(LEVELS) - {0.0}:
        pruned = apply_pruning(task, model, plain, level).eval()
        expected = recalibrated(task, pruned, config)
        assert found.metrics[level] == task.evaluate(expected, "validation") != plain.metrics[level]
        save_pruned(tmp_path / "pruned", task, model, found.masks[level], {}, shifted=found.shifted[level])
        saved = load_pruned(tmp_path / "pruned").state_dict()
        assert all(torch.equal(saved[name], value) for name, value in expected.state_dict().items())


def test_recalibration_without_batchnorm_changes_nothing():
    config = tiny_config("vit")
    task = make_tiny_task(config)
    model = task.build_model()
    plain, found = (
        evaluate_pruned(task, model, config.model_copy(update={"recalibrate": chosen}), (0.5,), "validation")
        for chosen in (False, True)
    )
    assert found.metrics == plain.metrics
    assert not found.shifted[0.5]


def test_recalibration_with_compensation_is_refused(tiny):
    with pytest.raises(ValueError, match=r"recalibrate: must be off with compensation \(it would undo the shifts"):
        tiny(recalibrate=True, criterion="compensation")


def test_recalibration_has_no_dropout(trained, tiny):
    """The statistics are those of the inputs that the layer gets when they are used."""
    task, model = trained
    network = torch.nn.Sequential(torch.nn.Dropout(0.9), torch.nn.BatchNorm2d(1), copy.deepcopy(model))
    norm = recalibrated(task, network, tiny(batch_size=128))[1]
    (images, _), *others = task.batches("train", 128, seed=0)
    assert not others
    np.testing.assert_allclose(norm.running_mean, images.mean((0, 2, 3)), rtol=1e-5)
    assert norm.momentum == 0.1


@pytest.mark.parametrize("criterion", ["random", "magnitude"])
def test_weights_that_were_removed_before_are_removed_first(trained, tiny, criterion):
    task, model = trained
    model = copy.deepcopy(model)
    weights = convolutions(model)
    removed = {
        name: torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) < 0.6
        for name, weight in weights.items()
    }
    with torch.no_grad():
        for name, weight in weights.items():
            weight.masked_fill_(removed[name], 0)
    found = evaluate_pruned(task, model, tiny(criterion=criterion), (0.0, 0.8), "validation", removed)
    assert not any((mask & removed[name]).any() for name, mask in found.masks[0.8].items())
    total = sum(mask.numel() for mask in removed.values())
    assert sum(int(mask.sum()) for mask in found.masks[0.8].values()) == total - round(0.8 * total)


@pytest.mark.parametrize("min_kept", [0, 3])
def test_min_kept_keeps_weights_in_every_tensor(trained, tiny, min_kept):
    task, model = trained
    kept = evaluate_pruned(task, model, tiny(min_kept=min_kept), (0.97,), "validation").masks[0.97]
    counts = [int(mask.sum()) for mask in kept.values()]
    total = sum(mask.numel() for mask in kept.values())
    assert sum(counts) == total - round(0.97 * total)
    assert min(counts) >= min_kept


def test_criterion_gets_the_configurations_arguments(trained, tiny):
    task, model = trained
    exact, probed = (
        score(task, copy.deepcopy(model).eval(), tiny(criterion="compensation", crit=crit))
        for crit in ({}, {"num_probes": 1})
    )
    assert any(not torch.equal(a, b) for a, b in zip(exact, probed, strict=True))
    with pytest.raises(ValueError, match=r"crit: arguments of magnitude must be among \(none\), got 'num_probes'"):
        score(task, model, tiny(crit={"num_probes": 1}))


@pytest.mark.parametrize("criterion", ["wanda", "ria"])
def test_padding_of_prompts_does_not_affect_scores(criterion, monkeypatch):
    """Rows of one batch have different lengths; batches of one row have no padding."""
    config = tiny_config("causal_lm", criterion=criterion)
    task = make_tiny_task(config)
    torch.manual_seed(0)
    model = task.deployed(task.build_model()).eval()
    batch = next(iter(task.batches("train", 16)))
    mask = task.token_mask(batch)
    assert mask.shape == batch.tokens.shape
    assert mask.sum(1).tolist() == batch.lengths.tolist()
    assert 0 < mask.sum() < mask.numel()
    assert not batch.tokens[~mask].any()
    padded = score(task, model, config)
    monkeypatch.setattr("trainables.pruning.evaluation.CALIBRATION_PART", 1)
    for a, b in zip(padded, score(task, model, config), strict=True):
        torch.testing.assert_close(a, b)
    task.token_mask = lambda batch: None
    monkeypatch.setattr("trainables.pruning.evaluation.CALIBRATION_PART", 16)
    assert not torch.allclose(score(task, model, config)[0], padded[0])

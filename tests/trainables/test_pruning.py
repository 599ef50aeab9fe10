import copy
import json
import math
import re
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file

import sparsity
import trainables
from trainables import pruning
from trainables.loop import Training
from trainables.pruning import describe_layers, evaluate_pruned, load_pruned, save_pruned

LEVELS = (0.0, 0.3, 0.9)


@pytest.fixture(scope="module")
def trained(tiny, make_task):
    """A task and a model that has learned something, in training mode."""
    config = tiny(model={"width": 4, "depth": 2}, opt={"lr": 0.1}, max_epochs=4)
    task = make_task(config)
    training = Training(task, config)
    for _ in range(4):
        training.run_epoch()
    return task, training.model


@pytest.fixture
def folder(trained, tiny, tmp_path):
    """A checkpoint pruned at 0.9, with its recorded validation metrics."""
    task, model = trained
    evaluation = evaluate_pruned(task, model, tiny(), (0.9,), "validation")
    save_pruned(tmp_path / "0.9", task, model, evaluation.masks[0.9], {"validation": evaluation.metrics[0.9]})
    return tmp_path / "0.9"


def convolutions(model):
    return {f"{name}.weight": m.weight for name, m in model.named_modules() if isinstance(m, torch.nn.Conv2d)}


def smallest(scores, num):
    """By NumPy: a mask for each array, False at the `num` smallest of all of them together, the first among equals."""
    flat = np.concatenate([score.ravel() for score in scores])
    kept = np.ones(flat.size, bool)
    kept[np.argsort(flat, kind="stable")[:num]] = False
    parts = np.split(kept, np.cumsum([score.size for score in scores])[:-1])
    return [part.reshape(score.shape) for part, score in zip(parts, scores, strict=True)]


def cross_entropy_gradients(task, model):
    """On the first 512 training images (all 128 here) in stored order, in evaluation mode."""
    model = copy.deepcopy(model).eval()
    images, labels = next(task.batches("train", 512))
    F.cross_entropy(model(images), labels).backward()
    return [weight.grad.numpy() for weight in convolutions(model).values()]


# ---- evaluate_pruned ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", sparsity.names("criteria"))
@pytest.mark.parametrize("training", [True, False])
def test_the_training_model_is_not_touched(trained, tiny, criterion, training):
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
def test_level_0_is_the_dense_model(trained, tiny, split):
    task, model = trained
    assert evaluate_pruned(task, model, tiny(), (0.0,), split).metrics == {0.0: task.evaluate(model, split)}


@pytest.mark.parametrize("criterion", ["magnitude", "gradient_magnitude"])
@pytest.mark.parametrize("levels", [LEVELS, (0.9, 0.3, 0.0)])  # one level leaves nothing behind for the next
def test_each_level_is_masking_by_hand(trained, tiny, criterion, levels):
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
def test_a_checkpoint_is_as_accurate_as_recorded(trained, tiny, tmp_path, criterion):
    """Also where removed weights are made up for in other values."""
    task, model = trained
    evaluation = evaluate_pruned(task, model, tiny(criterion=criterion), (0.3, 0.9, 0.5), "validation")
    for level, metrics in evaluation.metrics.items():
        shifted = evaluation.shifted[level]
        assert (len(shifted) > 0) is (criterion == "compensation")
        save_pruned(tmp_path / "pruned", task, model, evaluation.masks[level], {}, shifted=shifted)
        loaded = load_pruned(tmp_path / "pruned")  # in another memory format, whose sums round otherwise
        assert task.evaluate(loaded, "validation") == pytest.approx(metrics, rel=1e-6)


def test_compensation_loses_less_than_removal_alone(trained, tiny):
    """The outputs of the first 128 training images, which it calibrates on, with and without its shifts."""
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


def test_random_criterion_goes_by_the_seed(trained, tiny):
    task, model = trained
    zero, one = (
        evaluate_pruned(task, model, tiny(criterion="random", seed=seed), (0.5,), "validation").masks[0.5]
        for seed in (0, 1)
    )
    assert any(not torch.equal(zero[name], one[name]) for name in zero)


def test_n_of_m_is_evaluated_beside_the_dense_model(tiny, make_task):
    config = tiny(scope="1:2", target_sparsity=0.5, sparsities=())
    task = make_task(config)
    model = task.build_model()  # the stem takes one channel, which 2 does not divide; the others take 4
    evaluation = evaluate_pruned(task, model, config, config.levels, "validation")
    assert list(evaluation.metrics) == [0.0, 0.5]
    assert evaluation.metrics[0.0] == task.evaluate(model, "validation")
    stem, *others = evaluation.masks[0.5].values()
    assert stem.all()
    assert others
    for mask in others:
        assert set(mask.unflatten(1, (-1, 2)).sum(2).flatten().tolist()) == {1}


# ---- save_pruned and load_pruned ---------------------------------------------------------------------------------


def test_round_trip(folder, trained):
    """What lies in the folder, read with NumPy, and a plain model from it that is as accurate as recorded."""
    task, model = trained
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert [path.name for path in folder.parent.iterdir()] == ["0.9"]
    config = json.loads((folder / "config.json").read_text())
    arrays = load_file(folder / "model.safetensors")
    names = list(convolutions(model))
    assert config["prunable"] == names
    num_weights = sum(arrays[name].size for name in names)
    num_zeros = sum(int((arrays[name] == 0).sum()) for name in names)
    assert num_zeros == round(0.9 * num_weights)
    assert config["prunable_sparsity"] == num_zeros / num_weights
    parameters = {name for name, _ in model.named_parameters()}
    zeros = sum(int((arrays[name] == 0).sum()) for name in parameters)
    assert config["model_sparsity"] == zeros / sum(arrays[name].size for name in parameters)
    for name, tensor in model.state_dict().items():
        kept = arrays[name] != 0 if name in names else ...
        np.testing.assert_array_equal(arrays[name][kept], tensor.numpy()[kept])

    loaded = trainables.load_pruned(str(folder))
    assert not loaded.training
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in loaded.state_dict().items()} == {
        name: (tensor.dtype, tensor.shape) for name, tensor in model.state_dict().items()
    }
    images = task.data.train_images[task.data.split()[1]]
    prepare = config["input"]
    assert prepare["layout"] == "NCHW"
    x = (images / prepare["divide_by"] - np.reshape(prepare["mean"], (1, -1, 1, 1))) / np.reshape(
        prepare["std"], (1, -1, 1, 1)
    )
    with torch.no_grad():
        predicted = loaded(torch.from_numpy(x).float()).argmax(1).numpy()
    labels = task.data.train_labels[task.data.split()[1]]
    assert config["validation"]["acc"] == pytest.approx((predicted == labels).mean(), abs=1e-12)
    assert task.evaluate(loaded, "validation") == config["validation"]


def test_zeros_are_positive_zeros(folder, trained):
    """So that they compress as such."""
    arrays = load_file(folder / "model.safetensors")
    assert not any(np.signbit(arrays[name][arrays[name] == 0]).any() for name in convolutions(trained[1]))


def test_saving_leaves_the_model_and_replaces_what_was_there(folder, trained, tiny):
    task, model = trained
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    (folder / "stray").write_text("")
    masks = evaluate_pruned(task, model, tiny(), (0.3,), "validation").masks[0.3]
    save_pruned(folder, task, model, masks, {})
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads((folder / "config.json").read_text())["prunable_sparsity"] == pytest.approx(0.3, abs=1e-3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("failing", ["save_file", "json.dumps"])
def test_a_half_written_folder_is_never_taken_for_whole(folder, trained, monkeypatch, failing):
    task, model = trained
    masks = {name: weight != 0 for name, weight in convolutions(model).items()}

    def fails(*args, **kwargs):
        raise OSError("No space left on device")

    old = (folder / "config.json").read_text()
    with monkeypatch.context() as patch:
        patch.setattr(f"trainables.pruning.{failing}", fails)
        for target in (folder, folder.with_name("new")):
            with pytest.raises(OSError, match="No space left"):
                save_pruned(target, task, model, masks, {})
    assert [path.name for path in folder.parent.iterdir()] == ["0.9"]
    assert (folder / "config.json").read_text() == old
    load_pruned(folder)


def test_what_a_killed_process_left_is_in_nobodys_way(folder, trained, monkeypatch):
    task, model = trained
    monkeypatch.setattr(pruning.os, "getpid", lambda: 7)
    partial = folder.with_name("new.7.partial")
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"half")
    masks = {name: weight != 0 for name, weight in convolutions(model).items()}
    save_pruned(folder.with_name("new"), task, model, masks, {})
    assert sorted(path.name for path in folder.parent.iterdir()) == ["0.9", "new"]
    load_pruned(folder.with_name("new"))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(str(folder / name))):
        load_pruned(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.999])
def test_a_truncated_file(folder, name, share):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=f"^{re.escape(str(folder))}: {name} must [^\n]*, got [^\n]+$"):
        load_pruned(folder)


def rewrite(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": {"num_classes": 10, "in_channels": 1, "width": 6, "depth": 2}},
            r"model\.safetensors must hold the weights of small_resnet \{.*'width': 6.*\}, got .*size mismatch.*",
        ),
        ({"model": {"num_classes": 10, "in_channels": 1, "depth": 1}}, r"model\.safetensors must hold .*"),
        ({"model": {"num_classes": 10, "girth": 2}}, r"model: arguments of small_resnet must be among .*, got 'girth'"),
        ({"model": "small"}, r"config\.json must be JSON with architecture and model, got .*"),
        ({"architecture": "vgg"}, r"architectures: name must be one of .*resnet18.*, got 'vgg'"),
    ],
)
def test_files_that_do_not_belong_together(folder, changes, message):
    rewrite(folder, **changes)
    with pytest.raises(ValueError, match=f"^({re.escape(str(folder))}: )?{message}$") as caught:
        load_pruned(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "{}", '{"architecture": "small_resnet"}', "null", "\udcff"])
def test_config_json_of_something_else(folder, text):
    (folder / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r": config\.json must be JSON with architecture and model, got [^\n]*$"):
        load_pruned(folder)


def test_nothing_is_unpickled(folder, tmp_path, monkeypatch):
    """A pickle under the weights' name is not opened as one."""
    import pickle

    class Bomb:
        def __reduce__(self):
            return open, (str(tmp_path / "executed"), "w")

    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match=r"model\.safetensors must hold the weights"):
        load_pruned(folder)
    torch.save(Bomb(), folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors must hold the weights"):
        load_pruned(folder)
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_can_be_moved(folder, trained, tmp_path):
    shutil.move(folder, tmp_path / "elsewhere")
    assert trained[0].evaluate(load_pruned(tmp_path / "elsewhere"), "validation")["acc"] >= 0


# ---- describe_layers ---------------------------------------------------------------------------------------------


def test_describe_layers_is_numpys(trained, tiny):
    task, model = trained
    masks = evaluate_pruned(task, model, tiny(), (0.9,), "validation").masks[0.9]
    layers = describe_layers(task, model, masks)
    assert [layer["name"] for layer in layers] == list(convolutions(model))
    for layer, weight in zip(layers, convolutions(model).values(), strict=True):
        a = np.abs(weight.detach().numpy().astype(np.float64))
        mask = masks[layer["name"]].numpy()
        assert layer["shape"] == list(a.shape)
        assert layer["num_weights"] == a.size
        assert layer["num_kept"] == mask.sum()
        assert layer["abs_mean"] == pytest.approx(a.mean(), rel=1e-12)
        assert layer["abs_variance"] == pytest.approx((a**2).mean() - a.mean() ** 2, rel=1e-9)
        assert layer["hoyer"] == pytest.approx(a.sum() ** 2 / (a.size * (a**2).sum()), rel=1e-12)
        assert layer["energy_kept"] == pytest.approx((a[mask] ** 2).sum() / (a**2).sum(), rel=1e-12)
        counts, _ = np.histogram(np.log10(a), bins=60, range=(-8, 2))
        assert layer["histogram"] == counts.tolist()
        assert sum(layer["histogram"]) == a.size


def test_describe_layers_at_the_ends(trained):
    """All zero, one weight alone, weights beyond the histogram: every number finite, every weight counted."""
    task, model = trained
    model = copy.deepcopy(model)
    zero, single, wide, *_ = weights = list(convolutions(model).values())
    with torch.no_grad():
        zero.zero_()
        single.zero_()[0, 0, 0, 0] = 0.5
        wide.fill_(1e-20)[0] = 1e20
    masks = {name: torch.zeros_like(weight, dtype=torch.bool) for name, weight in convolutions(model).items()}
    layers = describe_layers(task, model, masks)
    json.dumps(layers, allow_nan=False)
    assert [layer["energy_kept"] for layer in layers] == [0.0] * len(weights)
    assert (layers[0]["hoyer"], layers[0]["histogram"][0]) == (1.0, zero.numel())
    assert layers[1]["hoyer"] == pytest.approx(1 / single.numel(), rel=1e-12)
    assert layers[1]["histogram"][46] == 1  # log10(0.5) = -0.301 in bins of 1/6 from -8: (7.699 * 6) = 46.2
    assert (layers[2]["histogram"][0], layers[2]["histogram"][-1]) == (wide.numel() * 3 // 4, wide.numel() // 4)
    assert math.isfinite(layers[2]["hoyer"])


# ---- options of pruning ------------------------------------------------------------------------------------------


def test_recalibrated_statistics_are_the_means_over_the_training_batches(trained, tiny):
    task, model = trained
    config = tiny(batch_size=32)
    pruned = copy.deepcopy(model).eval()
    first = next(m for m in pruned.modules() if isinstance(m, torch.nn.Conv2d))
    with torch.no_grad():
        first.weight[0] = 0
    again = pruning.recalibrated(task, pruned, config)
    norm = next(m for m in again.modules() if isinstance(m, torch.nn.BatchNorm2d))
    outputs = [first(images).detach().numpy() for images, _ in task.batches("train", 32, seed=config.seed)]
    np.testing.assert_allclose(norm.running_mean, np.mean([o.mean((0, 2, 3)) for o in outputs], 0), atol=1e-6)
    variances = [o.var((0, 2, 3), ddof=1) for o in outputs]
    np.testing.assert_allclose(norm.running_var, np.mean(variances, 0), rtol=1e-4, atol=1e-7)
    assert not again.training


def test_recalibration_is_recorded_beside_what_the_papers_measure(trained, tiny):
    task, model = trained
    plain = evaluate_pruned(task, model, tiny(), LEVELS, "validation").metrics
    both = evaluate_pruned(task, model, tiny(recalibrate=True), LEVELS, "validation").metrics
    for level in LEVELS:
        assert {name: both[level][name] for name in ("acc", "loss", "collapsed")} == plain[level]
        assert set(both[level]) == {*plain[level], "acc_recalibrated", "loss_recalibrated"}
    assert both[0.9]["loss_recalibrated"] != both[0.9]["loss"]


def test_recalibration_would_undo_compensation_and_is_refused(tiny):
    with pytest.raises(ValueError, match=r"recalibrate: must be off with compensation \(it would undo the shifts"):
        tiny(recalibrate=True, criterion="compensation")


@pytest.mark.parametrize("min_kept", [0, 3])
def test_min_kept_leaves_each_tensor_something(trained, tiny, min_kept):
    task, model = trained
    kept = evaluate_pruned(task, model, tiny(min_kept=min_kept), (0.97,), "validation").masks[0.97]
    counts = [int(mask.sum()) for mask in kept.values()]
    total = sum(mask.numel() for mask in kept.values())
    assert sum(counts) == total - round(0.97 * total)
    assert min(counts) >= min_kept


def test_a_criterion_takes_its_knobs_from_the_configuration(trained, tiny):
    task, model = trained
    exact, probed = (
        pruning.score(task, copy.deepcopy(model).eval(), tiny(criterion="compensation", crit=crit))
        for crit in ({}, {"num_probes": 1})
    )
    assert any(not torch.equal(a, b) for a, b in zip(exact, probed, strict=True))
    with pytest.raises(ValueError, match=r"crit: arguments of magnitude must be among \(none\), got 'num_probes'"):
        pruning.score(task, model, tiny(crit={"num_probes": 1}))


def test_diagnostics_of_a_trial(trained, tiny):
    task, model = trained
    evaluation = evaluate_pruned(task, model, tiny(), (0.0, 0.5), "validation")
    found = pruning.diagnose(task, model, tiny(), evaluation)
    assert found == {"loss_gap": evaluation.metrics[0.5]["loss"] - evaluation.metrics[0.0]["loss"]}
    sharp = pruning.diagnose(task, model, tiny(num_sharpness_batches=1), evaluation)["sharpness"]
    plain = copy.deepcopy(model).eval()  # the curvature along any direction is at most the largest eigenvalue
    images, labels = next(task.batches("train", 1024))
    parameters = list(plain.parameters())
    gradients = torch.autograd.grad(F.cross_entropy(plain(images), labels), parameters, create_graph=True)
    norm = torch.stack([g.square().sum() for g in gradients]).sum()
    product = torch.autograd.grad(norm, parameters)
    curvature = sum((g * p).sum() for g, p in zip(gradients, product, strict=True)) / (2 * norm)
    assert 0 < curvature.item() <= sharp * 1.01

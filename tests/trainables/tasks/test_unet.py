import dataclasses
import json
import math
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.distance import directed_hausdorff
from sklearn.metrics import f1_score
from torch import nn

import trainables
from search_spaces import unet
from sparsity import masks as sparsity_masks
from trainables.config import TrialConfig
from trainables.data.slices import Slices
from trainables.loop import Training
from trainables.penalty_ratio import PENALTY_RATIO_LIMIT
from trainables.pruning import evaluate_pruned, save_pruned
from trainables.tasks.unet import UNet

SIZE = 32
SPLIT = {"train": ("A", "B", "C"), "validation": ("D", "E"), "test": ("F",)}
TINY = {
    "task": "unet",
    "dataset": "lgg",
    "architecture": "unet",
    "model": {"encoder": "resnet18", "decoder_width": 2},
    "opt": {"lr": 0.05},
    "max_epochs": 2,
    "batch_size": 8,
    "target_sparsity": 0.5,
}


@pytest.fixture(scope="module")
def config():
    """A function that builds a configuration from the fields that differ."""
    return lambda **fields: TrialConfig.model_validate({**TINY, **fields})


@pytest.fixture(scope="module")
def data():
    """Eight read-only slices for each of six patients: noise, and in every second one a bright square, the lesion."""
    rng = np.random.default_rng(0)
    patients = np.repeat(list("ABCDEF"), 8)
    images = rng.integers(0, 60, (48, 3, SIZE, SIZE), dtype=np.uint8)
    masks = np.zeros((48, SIZE, SIZE), np.uint8)
    for row in range(0, 48, 2):
        top, left = rng.integers(4, 14, 2)
        masks[row, top : top + 12, left : left + 10] = 1
    images[:, 1] += 150 * masks
    for array in (images, masks):
        array.flags.writeable = False
    return Slices(
        images=images,
        masks=masks,
        patients=patients,
        numbers=np.tile(np.arange(1, 9), 6),
        mean=np.linspace(0.1, 0.4, 48)[:, None] + np.array([0.0, 0.1, 0.2]),
        std=np.full((48, 3), [0.5, 0.25, 0.1]),
        split=SPLIT,
        channels=("one", "bright", "three"),
        shown=1,
        max_value=255,
    )


@pytest.fixture(scope="module")
def task(config, data):
    return UNet(config(), data)


class Constant(nn.Module):
    """Gives fixed logits: the same for every slice, or those of the rows of one batch."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, images):
        return torch.as_tensor(self.logits, dtype=torch.float32).expand(len(images), 1, SIZE, SIZE)


class Bright(nn.Module):
    """Finds the lesion: the pixels brighter than the mean of the darkest and the brightest, if these are far apart.

    Normalization does not change the result.
    """

    def forward(self, images):
        darkest, brightest = images[:, 1:2].amin((2, 3), keepdim=True), images[:, 1:2].amax((2, 3), keepdim=True)
        apart = brightest - darkest > 0.4 / 0.25
        return torch.where(apart, images[:, 1:2] - (darkest + brightest) / 2, -1.0)


# ---- data --------------------------------------------------------------------------------------------------------


def test_load_refuses_bad_input(config, tmp_path):
    with pytest.raises(ValueError, match=r"^dataset: must be one of .*, got 'mri'$"):
        UNet.load(config(dataset="mri"))
    with pytest.raises(ValueError, match=r"^dataset: must have image slices with masks \(e.g. lgg\), got 'digits'$"):
        UNet.load(config(dataset="digits"))
    with pytest.raises(ValueError, match=r"^data: arguments of lgg must be among image_size, got 'size'$"):
        UNet.load(config(data={"size": 64}), str(tmp_path))


def test_batches_without_a_seed_are_the_normalized_split(config, data):
    task = UNet(config(), pickle.loads(pickle.dumps(data)))  # as Ray passes it to trials
    for split, patients in SPLIT.items():
        rows = np.flatnonzero(np.isin(data.patients, patients))
        batches = list(task.batches(split, 5))
        mean, std = (each[rows][:, :, None, None] for each in (data.mean, data.std))
        expected = (data.images[rows] / 255 - mean) / std
        np.testing.assert_allclose(torch.cat([images for images, _ in batches]), expected, atol=1e-5)
        np.testing.assert_array_equal(torch.cat([masks for _, masks in batches]), data.masks[rows])


def test_train_size_and_eval_size(config, data):
    """Few slices are spread over the patients; an eval_size above their number takes all of them."""
    task = UNet(config(train_size=6, eval_size=4), data)
    assert data.patients[task.rows["train"]].tolist() == list("AABBCC")
    assert data.patients[task.rows["validation"]].tolist() == list("DDEE")
    assert (task.steps_per_epoch(8), task.steps_per_epoch(4), task.steps_per_epoch(2)) == (1, 1, 3)
    assert len(UNet(config(eval_size=9), data).rows["test"]) == 8
    with pytest.raises(ValueError, match=r"^train_size: must be at most 24 .*, got 25$"):
        UNet(config(train_size=25), data)
    masks = data.masks.copy()
    masks[[24, 32]] = 0  # the first of each validation patient
    no_lesion = dataclasses.replace(data, masks=masks)
    with pytest.raises(
        ValueError, match=r"^eval_size: none of the 2 chosen slices of the validation split has a lesion;"
    ):
        UNet(config(eval_size=2), no_lesion)


def test_arrays_are_shared_and_not_written_to(config, data, recwarn):
    task = UNet(config(), data)
    assert np.shares_memory(task.images.numpy(), data.images)
    before = data.images.copy()
    list(task.batches("train", 8, seed=0))
    task.evaluate(Bright(), "validation")
    np.testing.assert_array_equal(data.images, before)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"angle": 181}, r"task_args: angle must be in \[0, 180\] degrees, got 181"),
        ({"scale": 1}, r"task_args: scale must be in \[0, 1\) .*, got 1"),
        ({"beta": -0.1}, r"task_args: beta must be >= 0 .*, got -0.1"),
        ({"mirror": "no"}, r"task_args: mirror must be true or false, got 'no'"),
        ({"dice": 1}, r"task_args: arguments of UNetSettings must be among dice_weight, mirror, .*, got 'dice'"),
        ({"scale": "big"}, r"task_args: arguments must be what UNetSettings takes, got {'scale': 'big'}"),
    ],
)
def test_settings_are_checked(config, data, arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        UNet(config(task_args=arguments), data)


# ---- training batches --------------------------------------------------------------------------------------------


def test_an_epoch_sees_whole_batches_of_different_slices(config, data):
    """Slices are identified by their grey level. The remainder of an epoch is left out."""
    images = np.broadcast_to(np.arange(48, dtype=np.uint8)[:, None, None, None], (48, 3, SIZE, SIZE)).copy()
    numbered = dataclasses.replace(data, images=images, mean=np.zeros((48, 3)), std=np.full((48, 3), 1 / 255))
    task = UNet(config(task_args={"angle": 10}), numbered)
    for batch_size, num_batches in ((7, 3), (24, 1), (99, 1)):
        batches = list(task.batches("train", batch_size, seed=3))
        assert len(batches) == task.steps_per_epoch(batch_size) == num_batches
        seen = [round(n) for images, _ in batches for n in images[:, 0, SIZE // 2, SIZE // 2].tolist()]
        assert len(set(seen)) == len(seen) == num_batches * min(batch_size, 24)
        assert max(seen) < 24
        assert seen != sorted(seen)


def test_the_seed_determines_the_batches(task):
    def epoch(seed):
        return [torch.cat(tensors) for tensors in zip(*task.batches("train", 8, seed=seed), strict=True)]

    one = epoch(1)
    torch.manual_seed(7)  # the global generator has no effect
    assert all(torch.equal(a, b) for a, b in zip(epoch(1), one, strict=True))
    assert not torch.equal(epoch(2)[0], one[0])


def test_without_augmentation_slices_are_unchanged(config, data):
    task = UNet(config(task_args={"mirror": False, "angle": 0, "scale": 0}), data)
    ordered = {
        image.sum().item(): (image, mask)
        for images, masks in task.batches("train", 24)
        for image, mask in zip(images, masks, strict=True)
    }
    images, masks = next(task.batches("train", 24, seed=0))
    for image, mask in zip(images, masks, strict=True):
        near = min(ordered, key=lambda total: abs(total - image.sum().item()))
        np.testing.assert_allclose(image, ordered[near][0], atol=1e-3)
        assert torch.equal(mask, ordered[near][1])


def test_mask_moves_with_its_image(task):
    """The lesion is the bright part of the image, also after augmentation."""
    for images, masks in task.batches("train", 24, seed=5):
        bright = Bright()(images)[:, 0] > 0
        assert masks.unique().tolist() == [0, 1]
        assert ((bright != (masks > 0)).sum((1, 2)) <= 30).all()  # of 120 pixels: interpolated at the edge
        assert (bright & (masks > 0)).sum() > 0.9 * masks.sum()


def test_half_are_mirrored_and_angles_are_uniform(config, data):
    """A bar on black shows whether it was mirrored and by how many degrees it was rotated."""
    bar = np.zeros((48, 3, 64, 64), np.uint8)
    bar[:, :, 12:20, 40:60] = 255
    masks = bar[:, 0] // 255
    rows = np.tile(np.arange(24), 40)
    slices = dataclasses.replace(data, images=bar, masks=masks, mean=np.zeros((48, 3)), std=np.ones((48, 3)))
    task = UNet(config(task_args={"scale": 0.0}), slices)
    task.rows["train"] = rows
    images = torch.cat([images for images, _ in task.batches("train", 96, seed=0)])[:, 0]
    y, x = torch.meshgrid(torch.arange(64) - 31.5, torch.arange(64) - 31.5, indexing="ij")
    total = images.sum((1, 2))
    across, down = ((images * axis).sum((1, 2)) / total for axis in (x, y))
    mirrored = across < 0
    assert mirrored.float().mean().item() == pytest.approx(0.5, abs=0.06)
    angles = torch.rad2deg(torch.atan2(-down, across.abs()) - math.atan2(16, 18))
    angles = torch.where(mirrored, -angles, angles)
    counts = np.histogram(angles, bins=6, range=(-15.5, 15.5))[0]
    assert counts.sum() == 960
    np.testing.assert_allclose(counts, 160, atol=50)


# ---- network, loss, metrics --------------------------------------------------------------------------------------


def test_convolutions_are_prunable(task):
    model = task.build_model()
    prunable = task.prunable(model)
    assert set(prunable) == {name for name, p in model.named_parameters() if p.ndim == 4}
    assert all(prunable[name] is p for name, p in model.named_parameters() if p.ndim == 4)
    assert set(task.regularized(model)) == set(prunable)


@pytest.mark.parametrize("dice_weight", [0.0, 1.0, 2.5])
def test_loss_by_numpy(config, data, dice_weight):
    task = UNet(config(task_args={"dice_weight": dice_weight}), data)
    logits = np.random.default_rng(0).normal(-1, 2, (5, 1, SIZE, SIZE))
    images, masks = next(task.batches("train", 5))
    p, m = 1 / (1 + np.exp(-logits[:, 0])), masks.double().numpy()
    entropy = -(m * np.log(p) + (1 - m) * np.log(1 - p)).mean(axis=(1, 2))
    dice = (2 * (p * m).sum(axis=(1, 2)) + 1) / (p.sum(axis=(1, 2)) + m.sum(axis=(1, 2)) + 1)
    expected = entropy + dice_weight * np.where(m.any(axis=(1, 2)), 1 - dice, 0)
    assert task.loss(Constant(logits), (images, masks)).item() == pytest.approx(expected.mean(), rel=1e-5)
    assert 0 < m.any(axis=(1, 2)).sum() < 5


@pytest.mark.parametrize("num", [1, 3, 8])
def test_parts_add_up_to_the_batch(task, num):
    model = task.build_model().eval()  # in training mode, BatchNorm would use the statistics of each part
    batch = next(task.batches("train", 8, seed=0))
    task.loss(model, batch).backward()
    whole = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    parts = task.parts(batch, num)
    assert sum(weight for weight, _ in parts) == pytest.approx(1)
    for weight, part in parts:
        (weight * task.loss(model, part)).backward()
    for name, p in model.named_parameters():
        np.testing.assert_allclose(p.grad, whole[name], atol=1e-4 * whole[name].abs().max().item() + 1e-9, err_msg=name)


def test_metrics_are_scikit_learns_and_scipys(config, data):
    """On more slices than one evaluation batch, with predictions on both sides of the threshold."""
    arrays = {name: value for name, value in vars(data).items() if isinstance(value, np.ndarray)}
    task = UNet(config(), dataclasses.replace(data, **{n: np.concatenate([a] * 5) for n, a in arrays.items()}))
    model = task.build_model()
    with torch.no_grad():
        logits = model.eval()(next(task.batches("validation", 16))[0])
        model.segmentation_head[0].bias -= logits.quantile(0.8)
    metrics = task.evaluate(model, "validation")
    images, masks = next(task.batches("validation", 1000))
    assert len(images) == 80
    with torch.no_grad():
        found = (torch.sigmoid(model.eval()(images))[:, 0] > 0.5).numpy()
    truth = masks.numpy() > 0
    assert metrics["f1"] == pytest.approx(f1_score(truth.ravel(), found.ravel()), abs=1e-9)
    true, false, missed = (found & truth).sum(), (found & ~truth).sum(), (~found & truth).sum()
    assert metrics["tversky"] == pytest.approx(true / (true + 0.3 * false + 0.7 * missed), abs=1e-9)
    patients = np.repeat([["D", "E"]] * 5, 8)
    each = [f1_score(truth[patients == p].ravel(), found[patients == p].ravel()) for p in "DE"]
    assert metrics["f1_per_patient"] == pytest.approx(np.mean(each), abs=1e-9)
    distances = []
    for one, other in zip(found, truth, strict=True):
        if one.any() and other.any():
            points = np.argwhere(one), np.argwhere(other)
            distances.append(max(directed_hausdorff(*points)[0], directed_hausdorff(*points[::-1])[0]))
        else:
            distances.append(31 * math.sqrt(2) if one.any() or other.any() else 0)
    assert metrics["hausdorff"] == pytest.approx(np.mean(distances), rel=1e-9)
    assert metrics["loss"] == pytest.approx(task.loss(model, (images, masks)).item(), rel=1e-5)
    assert next(iter(metrics)) == task.objective
    assert 0 < metrics["f1"] < 1


def test_metrics_of_the_truth_and_of_constants(task, data):
    perfect = task.evaluate(Bright(), "validation")
    assert (perfect["f1"], perfect["f1_per_patient"], perfect["tversky"], perfect["hausdorff"]) == (1, 1, 1, 0)
    diagonal = 31 * math.sqrt(2)
    nothing = task.evaluate(Constant(-5.0), "validation")
    assert (nothing["f1"], nothing["tversky"]) == (0, 0)
    assert nothing["hausdorff"] == pytest.approx(diagonal / 2)  # half of the slices have a lesion
    everything = task.evaluate(Constant(5.0), "test")
    share = data.masks[40:].mean()
    assert everything["f1"] == pytest.approx(2 * share / (1 + share))
    assert everything["hausdorff"] > diagonal / 2


@pytest.mark.parametrize("logit", [math.nan, math.inf, -math.inf, 3e38])
def test_metrics_are_finite_for_any_logits(task, logit):
    metrics = task.evaluate(Constant(logit), "validation")
    assert all(math.isfinite(value) for value in metrics.values())
    if math.isnan(logit):
        assert (metrics["f1"], metrics["loss"]) == (0, 1e9)


@pytest.mark.parametrize("training", [True, False])
def test_evaluate_restores_the_mode_of_the_model(task, training):
    model = task.build_model().train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert task.evaluate(model, "validation") == task.evaluate(model, "validation")
    assert all(module.training is training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# ---- trials ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_learns_to_segment_and_resumes_from_a_checkpoint(config, data):
    """It beats both trivial predictions, and a run that stops between epochs ends with bit-identical weights."""
    made = config(
        max_epochs=8, model={"encoder": "resnet18", "decoder_width": 4}, batch_size=6, lr_schedule="one_cycle"
    )
    task = UNet(made, data)
    training, resumed = Training(task, made), Training(task, made)
    while not training.finished:
        training.run_epoch()
        if training.epoch == 6:
            resumed.load_state_dict(pickle.loads(pickle.dumps(training.state_dict())))
    while not resumed.finished:
        resumed.run_epoch()
    state = resumed.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in training.model.state_dict().items())
    everything = task.evaluate(Constant(5.0), "validation")["f1"]
    assert task.evaluate(training.trained_model(), "validation")["f1"] > 2 * everything > 0.2


def test_a_pruned_network_loads_without_its_pretrained_weights(config, data, tmp_path, task):
    torch.save(task.build_model().encoder.state_dict(), tmp_path / "encoder.pth")
    made = config(model={**TINY["model"], "encoder_weights": str(tmp_path / "encoder.pth")})
    task = UNet(made, data)
    model = task.build_model().eval()
    (tmp_path / "encoder.pth").unlink()
    evaluation = evaluate_pruned(task, model, made, (0.0, 0.5), "validation")
    save_pruned(tmp_path / "0.5", task, model, evaluation.masks[0.5], {"target_sparsity": 0.5})
    loaded = trainables.load_pruned(tmp_path / "0.5")
    assert sparsity_masks.sparsity_of(list(task.prunable(loaded).values())) == pytest.approx(0.5, abs=1e-6)
    measured = task.evaluate(loaded, "validation")  # another memory format rounds sums differently
    assert measured == pytest.approx(evaluation.metrics[0.5], rel=1e-6)
    description = json.loads((tmp_path / "0.5" / "config.json").read_text())
    assert description["split"] == {part: list(patients) for part, patients in SPLIT.items()}
    assert description["input"]["channels"] == ["one", "bright", "three"]
    assert description["model"] == {"num_classes": 1, "in_channels": 3, "encoder": "resnet18", "decoder_width": 2}


def test_figures(config, data, tmp_path):
    task = UNet(config(read_test=True), data)
    task.illustrate({0.0: Bright(), 0.5: Constant(-5.0)}, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["overlay.png", "split.json"]
    image = np.asarray(Image.open(tmp_path / "overlay.png").convert("RGB")).astype(int)
    assert image.shape[0] > 600
    assert image.shape[1] > 800
    red, green, blue = np.moveaxis(image, 2, 0)
    orange = (red > green + 20) & (green > blue + 30)
    third = image.shape[1] // 4
    assert orange[:, 2 * third : 3 * third].sum() > 1000  # the prediction of the dense network
    assert orange[:, 3 * third :].sum() < 100  # the pruned network predicts nothing
    split = json.loads((tmp_path / "split.json").read_text())
    assert {part: tuple(found["patients"]) for part, found in split.items()} == SPLIT
    assert [(found["slices"], found["slices_with_lesion"]) for found in split.values()] == [(24, 12), (16, 8), (8, 4)]
    share = data.masks[24:40].mean()
    assert split["validation"]["fraction_of_pixels_with_lesion"] == pytest.approx(share)
    assert split["validation"]["all_background"]["f1"] == 0
    assert split["validation"]["all_foreground"]["f1"] == pytest.approx(2 * share / (1 + share))
    assert "all_foreground" in split["test"]
    assert "all_foreground" not in split["train"]


def test_figures_show_lesions_of_three_patients_and_a_slice_without(config, data, tmp_path):
    everyone = {"train": ("A",), "validation": ("B", "C", "D", "E"), "test": ("F",)}
    masks = data.masks.copy()
    masks[data.patients == "E"] = 0
    changed = dataclasses.replace(data, split=everyone, masks=masks)
    rows = UNet(config(), changed)._shown_rows()
    assert changed.patients[rows[:3]].tolist() == ["B", "C", "D"]
    for row in rows[:3]:
        sizes = changed.masks[changed.patients == changed.patients[row]].sum(axis=(1, 2))
        assert changed.masks[row].sum() == sizes.max()
    assert not changed.masks[rows[3]].any()
    nothing_left = UNet(config(read_test=False), changed)._describe_split()
    assert nothing_left["validation"]["patients_without_lesion"] == ["E"]
    assert "all_foreground" not in nothing_left["test"]  # the test split is not read


@pytest.mark.parametrize("regularizer", ["wcr", "l1", "hoyer_square"])
def test_the_penalty_does_not_dominate_at_its_initial_lam(config, data, regularizer):
    lam = unet.SEARCH_SPACE.initial_points["lam"]["regularizer"][regularizer]
    one = config(regularizer=regularizer, lam=lam, model={"encoder": "resnet18", "decoder_width": 4}, max_epochs=2)
    training = Training(UNet(one, data), one)
    while not training.finished:
        training.run_epoch()
    assert 0 < training.penalty_ratio.values["max"] <= PENALTY_RATIO_LIMIT


class LeftHalf(nn.Module):
    def forward(self, images):
        return torch.where(torch.arange(SIZE) < SIZE // 2, 1.0, -1.0).expand(len(images), 1, SIZE, SIZE)


@pytest.mark.parametrize(
    ("network", "expected"),
    [(Constant(-5.0), 1.0), (Constant(5.0), 1.0), (Constant(math.nan), 1.0), (LeftHalf(), 0.0), (Bright(), 0.0)],
)
def test_a_network_with_one_class_for_all_pixels_is_collapsed(task, network, expected):
    assert task.evaluate(network, "validation")["collapsed"] == expected


def test_without_any_lesion_no_network_is_collapsed(config, data):
    healthy = dataclasses.replace(data, masks=np.zeros_like(data.masks))
    assert UNet(config(), healthy).evaluate(Constant(-5.0), "validation")["collapsed"] == 0.0

import io
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, log_loss
from torch import nn

from trainables.data.errors import DataError
from trainables.data.images import Images
from trainables.tasks.cnn import CNN, LoadedImages, channel_statistics


def numbered(num, *, size=8, channels=1, augmentation="none", validation_fraction=0.25):
    """Images whose pixels all have the number of the image as their value."""
    images = np.broadcast_to(np.arange(num, dtype=np.uint8)[:, None, None, None], (num, channels, size, size)).copy()
    labels = np.arange(num) % 10
    data = Images(images, labels, images[:4], labels[:4], 10, 255, augmentation, validation_fraction)
    return LoadedImages(data, [0.0] * channels, [1.0] * channels)


def numbers(batch):
    """The numbers of the images of a batch of `numbered`."""
    images, labels = batch
    found = (images.amax((1, 2, 3)) * 255).round().int().tolist()
    assert labels.tolist() == [n % 10 for n in found]  # each image has its own label
    return found


# ---- data --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_value", [16, 255])
def test_channel_statistics_are_numpys(max_value):
    images = np.random.default_rng(0).integers(0, max_value + 1, (50, 3, 7, 5)).astype(np.uint8)
    mean, std = channel_statistics(images, max_value)
    scaled = images / max_value
    np.testing.assert_allclose(mean, scaled.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, scaled.std(axis=(0, 2, 3)), rtol=1e-12)


def test_channel_statistics_of_constant_channels():
    images = np.stack([np.full((3, 2, 2), value, np.uint8) for value in (0, 77, 100, 255)], axis=1)
    mean, std = channel_statistics(images, 255)
    np.testing.assert_allclose(mean, [0, 77 / 255, 100 / 255, 1])
    assert std == [1.0, 1.0, 1.0, 1.0]  # a constant channel is not divided by 0


def test_statistics_are_those_of_the_training_split(tiny):
    data = CNN.load(tiny(train_size=100))
    train, _ = data.images.split(100)
    scaled = data.images.train_images[train] / 16
    np.testing.assert_allclose([*data.mean, *data.std], [scaled.mean(), scaled.std()], rtol=1e-12)


def test_load_from_a_cifar10_parquet(tiny, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    for name in ("train", "test"):
        rows = []
        for image in pixels:
            file = io.BytesIO()
            Image.fromarray(image).save(file, format="PNG")
            rows.append({"bytes": file.getvalue(), "path": None})
        image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = pa.table(
            {"img": pa.array(rows, image_type), "label": pa.array([i % 10 for i in range(20)], pa.int64())}
        )
        pq.write_table(table, tmp_path / f"{name}.parquet")
    config = tiny(dataset="cifar10", train_size=None, batch_size=6)
    data = CNN.load(config, str(tmp_path))
    task = CNN(config, data)
    train, validation = data.images.split()
    assert (len(train), len(validation), task.steps_per_epoch(6)) == (18, 2, 3)
    scaled = pixels.transpose(0, 3, 1, 2) / 255
    mean, std = scaled[train].mean(axis=(0, 2, 3)), scaled[train].std(axis=(0, 2, 3))
    expected = (scaled[validation] - mean[:, None, None]) / std[:, None, None]
    ((images, labels),) = task.batches("validation", 10)
    np.testing.assert_allclose(images, expected, atol=1e-5)
    assert labels.tolist() == [i % 10 for i in validation]
    assert [images.shape for images, _ in task.batches("train", 6, seed=0)] == [(6, 3, 32, 32)] * 3
    assert math.isfinite(task.evaluate(task.build_model(), "test")["loss"])


def test_load_refuses_bad_input(tiny, tmp_path):
    with pytest.raises(ValueError, match=r"^dataset: must be one of cifar10, .*digits.*, got 'mnist'$"):
        CNN.load(tiny(dataset="mnist"))
    with pytest.raises(ValueError, match=r"^split: train_size must be from 1 to 1078 .*, got 1079$"):
        CNN.load(tiny(train_size=1079))
    with pytest.raises(DataError, match=r"^cifar10: .* must hold"):
        CNN.load(tiny(dataset="cifar10"), str(tmp_path))


def test_load_refuses_another_kind_of_dataset(tiny, monkeypatch):
    monkeypatch.setattr("trainables.datasets.digits.digits", lambda root: object())
    message = r"^dataset: must be one of labelled images \(Images\), such as cifar10, got object of 'digits'$"
    with pytest.raises(ValueError, match=message):
        CNN.load(tiny())


def test_refuses_settings(tiny, digits_data):
    message = r"^task_args: arguments of CNNSettings must be among \(none\), got 'prune'$"
    with pytest.raises(ValueError, match=message):
        CNN(tiny(task_args={"prune": "qk"}), digits_data)


def test_arrays_are_shared_and_may_be_read_only(tiny, digits_data, recwarn):
    images = digits_data.images
    assert not images.train_images.flags.writeable
    task = CNN(tiny(), digits_data)
    task.evaluate(task.build_model(), "test")
    for split, array, labels in [
        ("train", images.train_images, images.train_labels),
        ("validation", images.train_images, images.train_labels),
        ("test", images.test_images, images.test_labels),
    ]:
        assert np.shares_memory(task.splits[split][0].numpy(), array)
        assert np.shares_memory(task.splits[split][1].numpy(), labels)
    before = images.train_images.copy()
    list(task.batches("train", 32, seed=0))
    np.testing.assert_array_equal(images.train_images, before)
    assert not recwarn.list


# ---- batches -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("augmentation", ["none", "crop_flip"])
@pytest.mark.parametrize(("batch_size", "num_batches"), [(7, 10), (75, 1), (74, 1), (38, 1), (1, 75)])
def test_an_epoch_sees_each_image_at_most_once_in_whole_batches(tiny, augmentation, batch_size, num_batches):
    task = CNN(tiny(train_size=None), numbered(100, augmentation=augmentation))  # 75 training images
    assert task.steps_per_epoch(batch_size) == num_batches
    batches = [numbers(batch) for batch in task.batches("train", batch_size, seed=3)]
    assert [len(batch) for batch in batches] == [batch_size] * num_batches
    seen = [number for batch in batches for number in batch]
    assert len(set(seen)) == len(seen)
    assert seen != sorted(seen)


def test_fewer_images_than_a_batch_are_one_batch(tiny):
    task = CNN(tiny(train_size=5), numbered(100))
    assert task.steps_per_epoch(32) == 1
    assert [len(numbers(batch)) for batch in task.batches("train", 32, seed=0)] == [5]


def test_the_seed_determines_the_batches(tiny):
    task = CNN(tiny(train_size=None), numbered(100, augmentation="crop_flip"))

    def epoch(seed):
        return torch.cat([images for images, _ in task.batches("train", 25, seed=seed)])

    one, state = epoch(1), torch.get_rng_state()
    torch.manual_seed(7)  # the global generator has no effect
    assert torch.equal(epoch(1), one)
    assert not torch.equal(epoch(2), one)
    torch.set_rng_state(state)


def test_without_a_seed_batches_are_in_order_and_whole(tiny):
    data = numbered(100, augmentation="crop_flip")
    task = CNN(tiny(train_size=None), data)
    train, validation = data.images.split()
    for split, expected in (("train", train), ("validation", validation), ("test", np.arange(4))):
        batches = list(task.batches(split, 16))
        assert [n for batch in batches for n in numbers(batch)] == expected.tolist()
        expected_pixels = np.broadcast_to(expected[:, None, None, None] / 255, (len(expected), 1, 8, 8))
        np.testing.assert_allclose(torch.cat([images for images, _ in batches]), expected_pixels, rtol=1e-6)


def test_validation_is_disjoint_from_training_and_the_same_for_every_train_size(tiny):
    data = numbered(100)
    splits = []
    for train_size in (None, 40, 3):
        task = CNN(tiny(train_size=train_size), data)
        splits.append([{n for b in task.batches(split, 10) for n in numbers(b)} for split in ("train", "validation")])
    assert [(len(train), len(validation)) for train, validation in splits] == [(75, 25), (40, 25), (3, 25)]
    for train, validation in splits:
        assert not train & validation
        assert validation == splits[0][1]


def test_normalization(tiny, digits_data):
    images = digits_data.images
    _, validation = images.split()
    pixels = images.train_images / 16
    expected = (pixels[validation] - digits_data.mean[0]) / digits_data.std[0]
    batches = CNN(tiny(), digits_data).batches("validation", 1000)
    np.testing.assert_allclose(next(batches)[0], expected, atol=1e-6)


def test_training_crops_and_flips_if_the_dataset_says_so(tiny):
    """Shifts from -4 to 4 are uniform in both directions, and half of the images are mirrored."""
    pixels = np.zeros((2000, 1, 32, 32), np.uint8)
    pixels[:, :, 16, 10] = 255  # one white pixel, left of the centre
    for augmentation in ("crop_flip", "none"):
        labels = np.zeros(2000, np.int64)
        images = Images(pixels, labels, pixels[:1], labels[:1], 10, 255, augmentation, 0.1)
        task = CNN(tiny(train_size=None), LoadedImages(images, [0.0], [1.0]))
        batches = torch.cat([images for images, _ in task.batches("train", 100, seed=0)])
        _, _, rows, columns = batches.nonzero(as_tuple=True)
        assert len(rows) == 1800
        if augmentation == "none":
            assert set(rows.tolist()) == {16}
            assert set(columns.tolist()) == {10}
            continue
        flipped = columns > 15
        columns = torch.where(flipped, 31 - columns, columns)
        assert flipped.float().mean().item() == pytest.approx(0.5, abs=0.05)
        for drawn, middle in ((rows, 16), (columns, 10)):
            counts = np.bincount(drawn.numpy() - middle + 4, minlength=9)
            assert len(counts) == 9
            np.testing.assert_allclose(counts, 200, atol=60)  # 1800 / 9, four standard deviations
        assert abs(np.corrcoef(rows, columns)[0, 1]) < 0.1
        assert abs(np.corrcoef(rows, flipped)[0, 1]) < 0.1


# ---- network, loss and metrics -----------------------------------------------------------------------------------


def test_build_model_uses_torchs_seed_and_the_shape_of_the_data(tiny, make_task):
    task = make_task(tiny())
    torch.manual_seed(3)
    one = task.build_model().state_dict()
    torch.manual_seed(3)
    same = task.build_model().state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert one["0.weight"].shape == (4, 1, 3, 3)
    assert one["6.weight"].shape == (10, 4)
    assert task.describe_model()["model"] == {"num_classes": 10, "in_channels": 1, "width": 4, "depth": 1}


@pytest.mark.parametrize("argument", ["widht", "num_classes", "in_channels"])
def test_unknown_model_argument(tiny, make_task, argument):
    task = make_task(tiny(model={"width": 4, argument: 8}))
    with pytest.raises(
        ValueError, match=f"^model: arguments of small_resnet must be among width, depth, got '{argument}'$"
    ):
        task.build_model()


def test_images_weights_and_gradients_are_channels_last(tiny, make_task):
    """The compiled penalties require gradients with the memory layout of their weights."""
    config = tiny()
    task = make_task(config)
    model = task.build_model()
    batch = next(task.batches("train", 32, seed=0))
    task.loss(model, batch).backward()
    assert batch[0].is_contiguous(memory_format=torch.channels_last)
    for weight in task.prunable(model).values():
        assert weight.is_contiguous(memory_format=torch.channels_last)
        assert weight.grad.stride() == weight.stride()


def test_convolutions_are_prunable(tiny, make_task):
    task = make_task(tiny(model={"width": 4, "depth": 2}))
    model = task.build_model()
    prunable = task.prunable(model)
    assert {name for name, p in model.named_parameters() if p.ndim == 4} == set(prunable)
    assert all(prunable[name] is p for name, p in model.named_parameters() if p.ndim == 4)
    assert set(task.regularized(model)) == {name for name, p in model.named_parameters() if p.ndim > 1}


def test_loss_is_cross_entropy(tiny, make_task):
    task = make_task(tiny())
    model = task.build_model().eval()
    images, labels = next(task.batches("train", 50))
    logits = model(images)
    probabilities = np.exp(logits.detach().double().numpy())
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    loss = task.loss(model, (images, labels))
    assert loss.item() == pytest.approx(log_loss(labels, probabilities, labels=range(10)), rel=1e-6)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_evaluate_agrees_with_scikit_learn(tiny):
    """On more images than one evaluation batch, so that the last batch is smaller."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (1300, 1, 8, 8), dtype=np.uint8), rng.integers(0, 10, 1300)
    data = Images(images, labels, images, labels, 10, 255, "none", 0.25)
    task = CNN(tiny(train_size=None), LoadedImages(data, [0.5], [0.3]))
    model = task.build_model()
    metrics = task.evaluate(model, "test")
    with torch.no_grad():
        logits = model.eval()((torch.from_numpy(images) / 255 - 0.5) / 0.3).double().numpy()
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert metrics["acc"] == pytest.approx(accuracy_score(labels, logits.argmax(axis=1)), abs=1e-12)
    assert metrics["loss"] == pytest.approx(log_loss(labels, probabilities), rel=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_evaluate_restores_the_mode_of_the_model(tiny, make_task, training):
    task = make_task(tiny())
    model = task.build_model().train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    task.evaluate(model, "validation")
    assert all(module.training is training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("fill", [0.0, float("nan"), float("inf"), 3e38])
def test_metrics_are_finite_for_any_weights(tiny, make_task, fill):
    task = make_task(tiny())
    model = task.build_model()
    with torch.no_grad():
        for weight in task.prunable(model).values():
            weight.fill_(fill)
    metrics = task.evaluate(model, "validation")
    assert all(math.isfinite(value) for value in metrics.values())
    if fill == 0:
        assert task.loss(model, next(task.batches("train", 32))).isfinite()


def test_nan_logits_are_never_correct(tiny, make_task):
    class Nan(nn.Module):
        def forward(self, images):
            return torch.full((len(images), 10), math.nan)

    assert make_task(tiny()).evaluate(Nan(), "validation") == {"acc": 0.0, "loss": 1e9, "collapsed": 1.0}


class Fixed(nn.Module):
    """Gives the same logits for every image, except for the first of a batch if another class is given."""

    def __init__(self, one, first=None):
        super().__init__()
        self.one, self.first = one, one if first is None else first

    def forward(self, images):
        classes = torch.full((len(images),), self.one)
        classes[0] = self.first
        return torch.nn.functional.one_hot(classes, 10).float()


@pytest.mark.parametrize(("network", "expected"), [(Fixed(3), 1.0), (Fixed(3, 0), 0.0)])
def test_a_network_with_one_class_for_all_images_is_collapsed(make_task, tiny, network, expected):
    assert make_task(tiny()).evaluate(network, "validation")["collapsed"] == expected


def test_one_image_alone_is_not_collapsed(make_task, tiny):
    assert make_task(tiny(eval_size=1)).evaluate(Fixed(3), "validation")["collapsed"] == 0.0

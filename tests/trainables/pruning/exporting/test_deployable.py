import numpy as np
import pytest
import torch
from torch import nn

from trainables.data.slices import examination_statistics
from trainables.pruning import load_pruned, read_description
from trainables.pruning.exporting import deployable


def prepared(checkpoint, architecture):
    task, folder = checkpoint(architecture)
    network = load_pruned(folder)
    return task, network, deployable(network, read_description(folder)["input"])


@pytest.mark.parametrize("architecture", ["small_resnet", "vit"])
def test_raw_images_give_the_tasks_own_outputs(checkpoint, architecture):
    task, network, whole = prepared(checkpoint, architecture)
    rows = task.splits["validation"][2][:8]
    batch = next(iter(task.batches("validation", 8)))
    with torch.no_grad():
        expected, found = task.forward(network, batch), whole(torch.from_numpy(task.data.train_images[rows]))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)  # the layouts of memory differ


def test_slices_of_one_examination_are_scaled_as_the_dataset_scales_them(checkpoint):
    _, network, whole = prepared(checkpoint, "unet")
    images = np.random.default_rng(0).integers(0, 200, (6, 3, 32, 32), dtype=np.uint8)
    images[:, 2] = 7  # a constant channel
    mean, std = examination_statistics(images, ["one"] * 6, 255)
    x = (images / 255 - mean[:, :, None, None]) / std[:, :, None, None]
    with torch.no_grad():
        expected, found = network(torch.from_numpy(x).float()), whole(torch.from_numpy(images))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_token_ids_give_logits_of_every_position(checkpoint):
    _, network, whole = prepared(checkpoint, "causal_lm")
    tokens = whole.example(3, seed=4)
    with torch.no_grad():
        assert torch.equal(whole(tokens), network(tokens).logits)
    assert tokens.shape == (3, 28)


def test_inputs_that_need_no_preparation_are_passed_on():
    whole = deployable(nn.Linear(4, 2), {"shape": [4]})
    x = whole.example(3)
    assert (x.shape, x.dtype) == ((3, 4), torch.float32)
    assert torch.equal(whole(x), whole.network(x))


def test_examples_cover_the_allowed_values(checkpoint):
    _, _, whole = prepared(checkpoint, "small_resnet")
    x = whole.example(100)
    assert (x.dtype, x.shape, int(x.min()), int(x.max())) == (torch.uint8, (100, 1, 8, 8), 0, 16)


def test_an_earlier_checkpoint_needs_the_size_of_its_images(rewritten):
    prepare = read_description(rewritten(image_size=None))["input"]
    with pytest.raises(ValueError, match=r"^export: image_size must be given .*, got none: add --image-size"):
        deployable(nn.Identity(), prepare)
    assert deployable(nn.Identity(), prepare, 12).shape == (1, 12, 12)


def test_another_description_of_the_inputs_is_refused():
    with pytest.raises(ValueError, match=r"^export: input in config\.json must describe tokens .*, got sound, rate: "):
        deployable(nn.Identity(), {"sound": 1, "rate": 2})

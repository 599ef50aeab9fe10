"""The digits task with a network so small that an epoch takes milliseconds, and small copies of other datasets."""

import numpy as np
import pytest
import torch

from tests.trainables._folders import (  # noqa: F401
    cifar10_folder,
    cifar100_folder,
    commonsense_folder,
    encode,
    huggingface_folder,
    image_folder,
    lgg_folder,
    npz_file,
    pixels,
    question_folder,
    save_to_disk,
    svhn_folder,
    tiny_imagenet_folder,
    write_parquet,
)
from trainables.config import TrialConfig
from trainables.tasks.cnn import CNN

TINY = {
    "dataset": "digits",
    "architecture": "small_resnet",
    "model": {"width": 4, "depth": 1},
    "train_size": 128,
    "opt": {"lr": 0.05},
    "max_epochs": 3,
    "batch_size": 32,
    "num_evaluations": 3,
    "target_sparsity": 0.5,
    "sparsities": (0.25, 0.75),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Use one thread, as a trial on one CPU does: sums depend on the number of threads."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="session")
def tiny():
    """A function: changed fields -> configuration."""
    return lambda **fields: TrialConfig.model_validate({**TINY, **fields})


@pytest.fixture(scope="session")
def digits_data(tiny):
    """The digits as trials share them: the arrays are read-only."""
    data = CNN.load(tiny(train_size=None))
    for array in vars(data.images).values():
        if isinstance(array, np.ndarray):
            array.flags.writeable = False
    return data


@pytest.fixture(scope="session")
def make_task(digits_data):
    """A function: configuration -> task on the shared digits."""
    return lambda config: CNN(config, digits_data)

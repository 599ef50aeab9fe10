"""What holds for every file of sweeps/."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import sparsity
from service.search.space import make_arms, make_config
from tests.service._sweeps import SWEEPS, load_sweep
from trainables.data.generate import generate
from trainables.loop import train

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def cifar_folder(tmp_path_factory):
    """CIFAR-10 as the Hugging Face hub stores it, with 40 images of noise."""
    folder = tmp_path_factory.mktemp("cifar10")
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        images = []
        for _ in range(40):
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(buffer, "PNG")
            images.append({"bytes": buffer.getvalue(), "path": None})
        pq.write_table(pa.table({"img": images, "label": np.arange(40) % 10}), folder / f"{split}.parquet")
    return folder


@pytest.fixture(scope="session")
def lgg_folder(tmp_path_factory):
    """Four slices each of five patients, one of them with a lesion, as Kaggle stores them."""
    folder = tmp_path_factory.mktemp("lgg") / "kaggle_3m"
    rng = np.random.default_rng(0)
    for patient in ("TCGA_AA_1", "TCGA_BB_2", "TCGA_CC_3", "TCGA_DD_4", "TCGA_EE_5"):
        (folder / patient).mkdir(parents=True)
        for number in (1, 2, 3, 4):
            mask = np.zeros((32, 32), np.uint8)
            mask[8:16, 8:20] = 255 * (number == 1)
            slices = {"": rng.integers(0, 256, (32, 32, 3), np.uint8), "_mask": mask}
            for kind, pixels in slices.items():
                Image.fromarray(pixels).save(folder / patient / f"{patient}_{number}{kind}.tif")
    return folder.parent


@pytest.fixture(scope="session")
def records_folder(tmp_path_factory):
    """Questions of two tasks, in the layout of the commonsense benchmark."""
    folder = tmp_path_factory.mktemp("records")
    for task, answers in (("ARC-Easy", ("answer1", "answer2", "answer3")), ("openbookqa", ("answer1", "answer2"))):
        (folder / task).mkdir()
        for split in ("train", "test"):
            records = [
                {
                    "instruction": f"Which of {i}?\n\nAnswer format: {'/'.join(answers)}",
                    "input": "",
                    "output": f"the correct answer is {answers[i % len(answers)]}",
                    "answer": answers[i % len(answers)],
                }
                for i in range(40)
            ]
            (folder / task / f"{split}.json").write_text(json.dumps(records))
    return folder


@pytest.fixture(scope="session")
def data_folder(request, tmp_path_factory):
    """A function: the name of a data set -> a folder with a small copy of it, None where it needs none."""

    def folder_of(dataset):
        own = {"cifar10": "cifar_folder", "lgg": "lgg_folder", "commonsense": "records_folder"}
        if dataset in own:
            return request.getfixturevalue(own[dataset])
        if dataset == "digits":
            return None
        folder = tmp_path_factory.getbasetemp() / "generated" / dataset
        if not folder.exists():
            generate(dataset, folder, num_train=200, num_test=200)
        return folder

    return folder_of


TINY_VIT = {"image_size": 16, "patch_size": 8, "hidden_size": 16, "num_layers": 1, "num_heads": 2, "mlp_size": 16}
TINY = {  # what is smaller than in the sweep, so that a step takes milliseconds
    "cifar10": {"model": {"width": 4}},
    "cifar100": {"model": {"depth": 10, "widen_factor": 1}},
    "commonsense_lora": {"model": {"base": "tiny-qwen2", "hidden_size": 16, "num_layers": 1}},
    "lgg_unet": {"data": {"image_size": 32}, "model": {"encoder": "mobilenet_v2", "decoder_width": 1}},
    "svhn": {"model": {"width": 4}},
    "vit_cifar100": {"model": TINY_VIT},
    "vit_tiny_imagenet": {"model": TINY_VIT},
}


def covering(arms):
    """Fewer arms, with every optimizer and every regularizer among them."""
    chosen, seen = [], set()
    for most in (0, 1):  # first arms of which both are new, then those of which one is
        for arm in arms:
            if len(seen.intersection(arm.choices.items())) <= most:
                chosen.append(arm)
                seen |= set(arm.choices.items())
    return chosen


@pytest.mark.parametrize(
    ("name", "chosen"),
    [*((name, covering) for name in SWEEPS), *(pytest.param(name, list, marks=pytest.mark.slow) for name in SWEEPS)],
)
def test_every_sweep_trains_its_arms_for_two_steps(name, chosen, data_folder):
    sweep = load_sweep(name)
    folder = data_folder(sweep.trial.dataset)
    fewer = {"train_size": 8, "eval_size": 8, "batch_size": 4, "accumulate": 1, "max_epochs": 1, "num_evaluations": 1}
    small = sweep.changed(**fewer, **TINY.get(name, {}), data_root=folder)
    arms = make_arms(small)
    data = None
    for arm in chosen(arms):
        config = make_config(small, arm.choices, arm.initial_point)
        task_class = sparsity.load("trainables.tasks", config.task)
        data = data or task_class.load(config, folder and str(folder))
        _, evaluation = train(task_class(config, data), config)
        assert 0 <= evaluation.metrics[sweep.trial.target_sparsity][task_class.objective] <= 1


@pytest.mark.parametrize("name", SWEEPS)
def test_every_sweep_fits_on_a_screen_and_knows_a_first_value_for_each_parameter(name):
    sweep = load_sweep(name)
    assert len((REPOSITORY / "sweeps" / f"{name}.py").read_text().splitlines()) <= 40
    for arm in make_arms(sweep):
        assert set(arm.initial_point) == set(arm.space)


def test_the_defaults_of_cifar10_are_the_papers():
    sweep = load_sweep("cifar10")
    assert (sweep.trial.architecture, sweep.trial.max_epochs, sweep.trial.batch_size, sweep.trial.opt["lr"]) == (
        "resnet18",
        200,
        128,
        0.1,
    )
    assert sweep.trial.lr_schedule == "dynamic_tuning"
    arm = next(arm for arm in make_arms(sweep) if arm.name == "sam + wcr")
    config = make_config(sweep, arm.choices, arm.initial_point)
    assert (config.lam, config.opt["rho"]) == (1e-5, 0.5)
    assert config.levels == (0.0, 0.90, 0.92, 0.94, 0.96, 0.97, 0.98)


@pytest.mark.parametrize("name", ["digits", "cifar10", "lgg_unet", "vit_cifar100", "commonsense_lora"])
def test_every_arm_of_a_sweep_has_something_to_search(name):
    """Equal budgets: a baseline with nothing to search would get one trial where the others get several."""
    assert all(arm.space for arm in make_arms(load_sweep(name)))

import json

import pytest
import torch

from tests.trainables._tiny_tasks import make_tiny_task, tiny_config
from trainables.pruning import evaluate_pruned, save_pruned


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A function: an architecture -> its task and the folder of a network with random weights, pruned at 0.5."""
    made = {}

    def make(architecture):
        if architecture not in made:
            config = tiny_config(architecture)
            task = make_tiny_task(config)
            torch.manual_seed(0)
            network = task.deployed(task.build_model()).eval()
            evaluation = evaluate_pruned(task, network, config, (0.5,), "validation")
            folder = tmp_path_factory.mktemp(architecture) / "0.5"
            save_pruned(folder, task, network, evaluation.masks[0.5], {"target_sparsity": 0.5})
            made[architecture] = task, folder
        return made[architecture]

    return make


@pytest.fixture
def rewritten(checkpoint, tmp_path):
    """A function: changes of `input` in config.json (None removes an entry) -> a small_resnet with that description."""

    def rewrite(**changes):
        source = checkpoint("small_resnet")[1]
        folder = tmp_path / "rewritten"
        folder.mkdir()
        config = json.loads((source / "config.json").read_text())
        config["input"] = {k: v for k, v in {**config["input"], **changes}.items() if v is not None}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes())
        return folder

    return rewrite

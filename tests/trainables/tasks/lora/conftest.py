"""Generated questions, and the task on them."""

import json
import warnings

import numpy as np
import pytest
import torch

from tests.trainables.tasks.lora._setting import configuration
from trainables.tasks.lora import LoRA


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Two tasks: true or false by one word, in a tenth of the questions after many others; an answer by a number."""
    root = tmp_path_factory.mktemp("records")
    random = np.random.default_rng(0)

    def truth():
        answer = ("false", "true")[word := random.integers(2)]
        words = "a " * (60 if random.random() < 0.1 else random.integers(1, 12))
        return f"{words}{('bad', 'good')[word]} one\n\nAnswer format: true/false", answer

    def choice():
        answer = f"answer{(number := random.integers(3)) + 1}"
        listed = "/".join(f"answer{i + 1}" for i in range(random.integers(3, 6)))
        return f"take {number}\n\nAnswer format: {listed}", answer

    for task, make, sizes in (("boolq", truth, (140, 30)), ("ARC-Easy", choice, (60, 20))):
        (root / task).mkdir()
        for name, size in zip(("train", "test"), sizes, strict=True):
            made = [make() for _ in range(size)]
            records = [
                {"instruction": text, "input": "", "output": f"the correct answer is {answer}", "answer": answer}
                for text, answer in made
            ]
            (root / task / f"{name}.json").write_text(json.dumps(records))
    return root


@pytest.fixture(scope="session")
def data(folder):
    """The loaded dataset with read-only arrays, as trials share it."""
    loaded = LoRA.load(configuration(), str(folder))
    for value in (loaded, loaded.questions, loaded.questions.prompts, loaded.questions.responses):
        for array in vars(value).values():
            if isinstance(array, np.ndarray):
                array.flags.writeable = False
    return loaded


@pytest.fixture
def make(data):
    """A function that builds the task and its network from the fields that differ from CONFIG."""

    def task_and_model(**fields):
        task = LoRA(configuration(**fields), data)
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = task.build_model()
        return task, model

    return task_and_model

"""The worked examples of CONTRIBUTING.md pass the contract tests of the folders that they are written for."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests._pages import blocks

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
FILES = {
    found[1]: text
    for kind, marker, text in blocks(PAGE)
    if kind == "python" and (found := re.fullmatch("file: (.+)", marker))
}
COMMANDS = re.findall(r"python -m pytest (\S+) -k (\w+)", PAGE)  # (folder of tests, name of the example)
TRIALS = """
from trainables.config import TrialConfig
from trainables.loop import load_task, train

TINY = dict(dataset="bars", architecture="plain_cnn", model={"width": 4}, optimizer="lion", opt={"lr": 1e-3},
            regularizer="log_sum", lam=1e-6, lr_schedule="polynomial", criterion="relative_magnitude", max_epochs=2,
            batch_size=32, train_size=64, eval_size=64, target_sparsity=0.5)
for more in ({}, {"task": "smoothed_cnn", "task_args": {"smoothing": 0.2}}, {"pruning_schedule": "one_rewind"}):
    config = TrialConfig.model_validate({**TINY, **more})
    _, evaluation = train(load_task(config), config)
    masks = evaluation.masks[0.5].values()
    print(sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks))
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The repository's packages and tests with the examples' files written among them."""
    folder = tmp_path_factory.mktemp("contributing")
    ignored = shutil.ignore_patterns("__pycache__", "runs")
    for package in ("sparsity", "trainables", "search_spaces", "service", "sweeps", "sparsity_sweeps", "tests"):
        shutil.copytree(ROOT / package, folder / package, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "make_methods.py", folder / "docs")
    for path, text in FILES.items():
        assert not (folder / path).exists(), f"{path} is already a file of the repository"
        (folder / path).write_text(text)
    return folder


def run(folder, *command):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
    arguments = {"cwd": folder, "env": environment, "capture_output": True, "text": True, "timeout": 600}
    return subprocess.run([sys.executable, *command], **arguments)


def test_there_is_an_example_for_each_folder_that_people_extend():
    assert {str(Path(path).parent) for path in FILES} == {
        "sparsity/regularizers",
        "sparsity/optimizers",
        "sparsity/criteria",
        "trainables/datasets",
        "trainables/architectures",
        "trainables/tasks",
        "trainables/lr_schedules",
        "trainables/pruning_schedules",
        "sweeps",
    }


@pytest.mark.slow
def test_the_examples_pass_the_contract_tests(copy):
    """By the commands of the page, in one process."""
    folders, names = zip(*COMMANDS, strict=True)
    assert set(names) == {"log_sum", "lion", "relative_magnitude", "bars", "plain_cnn", "polynomial"}
    options = ("--override-ini=addopts=", "--import-mode=importlib", "-p", "no:cacheprovider", "-v", "-m", "not slow")
    done = run(copy, "-m", "pytest", *options, *dict.fromkeys(folders), "-k", " or ".join(names))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    for name in names:
        assert re.search(rf"::.*[\[-]{name}[\]-].* PASSED", done.stdout), f"no contract test ran on {name}"


def test_a_trial_of_the_examples_trains_and_prunes(copy):
    done = run(copy, "-c", TRIALS)
    assert done.returncode == 0, done.stderr
    assert [float(line) for line in done.stdout.split()] == pytest.approx([0.5] * 3, abs=1e-2)


def test_the_sweep_has_a_command_line(copy):
    done = run(copy, "sweeps/narrow_digits.py", "--help")
    assert done.returncode == 0, done.stderr
    assert "does SAM keep more accuracy" in " ".join(done.stdout.split())


def test_ruff_accepts_the_examples(copy):
    done = run(copy, "-m", "ruff", "check", "--no-cache", "--select", "E,F,I,UP,B,SIM,RUF,PT,NPY,PERF", *FILES)
    assert done.returncode == 0, done.stdout
    done = run(copy, "-m", "ruff", "format", "--no-cache", "--check", *FILES)
    assert done.returncode == 0, done.stdout + done.stderr

import importlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from optuna.distributions import FloatDistribution as Float
from PIL import Image

import sparsity
from service.process import this_python
from service.spec import Sweep
from trainables.data.generate import generate
from trainables.loop import train

SWEEPS = sparsity.choices("sweeps")
REPOSITORY = Path(__file__).parents[2]


def load_sweep(name):
    return importlib.import_module(f"sweeps.{name}").SWEEP


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


# ---- every sweep -----------------------------------------------------------------------------------------------

TINY_VIT = {"image_size": 16, "patch_size": 8, "hidden_size": 16, "num_layers": 1, "num_heads": 2, "mlp_size": 16}
TINY = {  # what is smaller than in the sweep, so that a step takes milliseconds
    "cifar10": {"model": {"width": 4}},
    "cifar100": {"model": {"depth": 10, "widen_factor": 1}},
    "commonsense_lora": {"model": {"base": "tiny-qwen2", "hidden_size": 16, "num_layers": 1}},
    "lgg_unet": {"data": {"image_size": 32}, "model": {"encoder": "resnet18", "decoder_width": 1}},
    "svhn": {"model": {"width": 4}},
    "vit_cifar100": {"model": TINY_VIT},
    "vit_tiny_imagenet": {"model": TINY_VIT},
}


@pytest.mark.parametrize("name", SWEEPS)
def test_every_sweep_trains_each_of_its_arms_for_two_steps(name, data_folder):
    sweep = load_sweep(name)
    folder = data_folder(sweep.dataset)
    fields = {field: getattr(sweep, field) for field in sweep.model_fields_set}
    fewer = {"train_size": 8, "eval_size": 8, "batch_size": 4, "accumulate": 1, "max_epochs": 1, "num_evaluations": 1}
    small = Sweep(**{**fields, **fewer, **TINY.get(name, {}), "data_root": folder})
    arms = small.arms()
    data = None
    for arm in arms:
        config = small.trial_config(arm.choices, arm.known)
        task_class = sparsity.find("trainables.tasks", config.task)
        data = data or task_class.load(config, folder and str(folder))
        _, evaluation = train(task_class(config, data), config)
        assert 0 <= evaluation.metrics[sweep.target_sparsity][task_class.objective] <= 1


@pytest.mark.parametrize("name", SWEEPS)
def test_every_sweep_fits_on_a_screen_and_knows_a_first_value_for_each_parameter(name):
    sweep = load_sweep(name)
    assert len((REPOSITORY / "sweeps" / f"{name}.py").read_text().splitlines()) <= 40
    for arm in sweep.arms():
        assert set(arm.known) == set(arm.space)


def test_the_defaults_of_cifar10_are_the_papers():
    sweep = load_sweep("cifar10")
    assert (sweep.architecture, sweep.max_epochs, sweep.batch_size, sweep.opt["lr"]) == ("resnet18", 200, 128, 0.1)
    assert sweep.lr_schedule == "dynamic_tuning"
    arm = next(arm for arm in sweep.arms() if arm.name == "sam + wcr")
    config = sweep.trial_config(arm.choices, arm.known)
    assert (config.lam, config.opt["rho"]) == (1e-5, 0.5)
    assert config.levels == (0.0, 0.90, 0.92, 0.94, 0.96, 0.97, 0.98)


@pytest.mark.parametrize("name", SWEEPS)
def test_help_shows_every_knob_with_its_default(name):
    script = REPOSITORY / "sweeps" / f"{name}.py"
    shown = subprocess.run(
        [sys.executable, script, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "200"},
    ).stdout
    for flag in ("--trials", "--epochs", "--optimizer", "--regularizer", "--lam", "--rho", "--data-root", "--runs"):
        assert f" {flag} " in shown
    sweep = load_sweep(name)
    assert f"[{sweep.max_epochs}]" in shown
    assert f"[{sweep.architecture}]" in shown
    assert f"[{sweep.target_sparsity}]" in shown


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['digits', '--help']\n"
        "from sweeps.digits import SWEEP\n"
        "try: SWEEP.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'mlflow', 'sklearn', 'matplotlib', 'torchvision', 'transformers', 'peft'}\n"
        "print('IMPORTED', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "IMPORTED []" in done.stdout


# ---- values ----------------------------------------------------------------------------------------------------


def make(**fields):
    space = {
        "optimizer": load_sweep("digits").space["optimizer"],
        "regularizer": load_sweep("digits").space["regularizer"],
        "lam": {"regularizer": {"wcr": Float(1e-6, 1e-4, log=True), "hoyer_square": Float(1e-5, 1e-3, log=True)}},
        "opt/rho": {"optimizer": {"sam": Float(0.02, 0.5), "s2sam": Float(0.02, 0.5)}},
    }
    given = {"dataset": "digits", "architecture": "small_resnet", "max_epochs": 1, "space": space}
    return Sweep(**{**given, **fields})


def test_a_held_value_is_not_searched_and_reaches_the_method():
    sweep = make(lam=1e-4, rho=0.2, optimizer=("sgd", "sam"), regularizer=("none", "wcr"))
    configs = {}
    for arm in sweep.arms():
        assert not arm.space
        configs[arm.name] = sweep.trial_config(arm.choices, {})
    assert configs["sam + wcr"].lam == 1e-4
    assert configs["sam + wcr"].opt == {"lr": 0.1, "rho": 0.2}
    assert configs["sgd + none"].lam == 0
    assert configs["sgd + none"].opt == {"lr": 0.1}


TUNED = {
    "opt/lr": {"optimizer": dict.fromkeys(("sgd", "sam"), Float(0.01, 1.0, log=True))},
    "opt/weight_decay": {"optimizer": {"sgd": Float(1e-4, 1e-1, log=True), "sam": Float(1e-3, 1e-1, log=True)}},
}


def test_the_fair_protocol_tunes_every_combination_and_starts_at_the_sweeps_own_values():
    sweep = make(
        optimizer=("sgd", "sam"), regularizer=("none", "wcr"), tuned=TUNED, opt={"lr": 0.2, "weight_decay": 0.01}
    )
    spaces = {arm.name: set(arm.space) for arm in sweep.arms()}
    assert spaces == {
        "sgd + none": {"opt/lr", "opt/weight_decay"},
        "sgd + wcr": {"lam", "opt/lr", "opt/weight_decay"},
        "sam + none": {"opt/rho", "opt/lr", "opt/weight_decay"},
        "sam + wcr": {"lam", "opt/rho", "opt/lr", "opt/weight_decay"},
    }
    assert all(arm.known["opt/lr"] == 0.2 and arm.known["opt/weight_decay"] == 0.01 for arm in sweep.arms())


def test_the_papers_protocol_searches_the_methods_own_parameters_alone():
    sweep = make(optimizer=("sgd", "sam"), regularizer=("none", "wcr"), tuned=TUNED, tuning="paper")
    spaces = {arm.name: set(arm.space) for arm in sweep.arms()}
    assert spaces == {
        "sgd + none": set(),
        "sgd + wcr": {"lam"},
        "sam + none": {"opt/rho"},
        "sam + wcr": {"lam", "opt/rho"},
    }


def test_a_value_typed_on_the_command_line_is_held(monkeypatch):
    sweep = make(optimizer=("sgd",), regularizer=("none",), tuned=TUNED)
    made = []
    monkeypatch.setattr(Sweep, "run", lambda self, command: made.append(self) or {"winner": 1, "complete": 1})
    with pytest.raises(SystemExit):
        sweep.main(["--opt", "lr=0.05"])
    (arm,) = made[0].arms()
    assert set(arm.space) == {"opt/weight_decay"}
    assert made[0].trial_config(arm.choices, {"opt/weight_decay": 0.02}).opt == {"lr": 0.05, "weight_decay": 0.02}


@pytest.mark.parametrize("name", ["digits", "cifar10", "lgg_unet", "vit_cifar100", "commonsense_lora"])
def test_every_combination_of_a_sweep_has_something_to_search(name):
    """Equal budgets: a baseline with nothing to search would get one trial where the others get several."""
    assert all(arm.space for arm in load_sweep(name).arms())


def test_a_method_given_twice_is_one_arm():
    sweep = Sweep(**{**dict(load_sweep("digits")), "regularizer": ("wcr", "wcr"), "optimizer": ("sam",)})
    assert [arm.name for arm in sweep.arms()] == ["sam + wcr"]


def test_identity_is_what_decides_the_trials():
    base = make().identity()
    for budget in ({"num_trials": 3}, {"runs": Path("elsewhere")}, {"num_seeds": 7}, {"max_concurrent": 1}):
        assert make(**budget).identity() == base
    changes = ({"max_epochs": 2}, {"opt": {"lr": 0.2}}, {"lam": 1e-4}, {"seed": 1}, {"space": {}})
    for what in (*changes, {"num_search_seeds": 2}, {"tuned": TUNED}, {"tuned": TUNED, "tuning": "paper"}):
        assert make(**what).identity() != base


# ---- bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--dataset imagenet", "dataset: must be one of .*cifar10, .*digits.*, got 'imagenet'"),
        ("--optimizer adam", "optimizer: must be one of adamw, .*sam, .*sgd, got 'adam'"),
        ("--regularizer l3", "regularizer: must be one of .*hoyer_square, .*none, wcr, got 'l3'"),
        ("--architecture vgg", "architecture: must be one of .*resnet18, .*small_resnet.*, got 'vgg'"),
        ("--lr-schedule warmup", "lr_schedule: must be one of constant, cosine, .*, got 'warmup'"),
        ("--criterion foo", "criterion: must be one of .*magnitude, random.*, got 'foo'"),
        ("--target-sparsity 1", r"sparsity: must be in \[0, 1\) .*, got 1"),
        ("--sparsity -0.5", r"sparsity: must be in \[0, 1\) .*, got -0.5"),
        ("--lam -1e-5", "lam: must be >= 0 and finite .*, got -1e-05"),
        ("--rho -0.5", "rho: must be >= 0 and finite .*, got -0.5"),
        ("--opt lr=-1", "SGD: lr must be >= 0 and finite, got -1"),
        ("--opt momentun=0.9", "SGD: arguments must be among lr, .*momentum.*, got 'momentun'"),
        ("--opt lr", r"opt: must be KEY=VALUE \(e.g. --opt lr=0.1\), got 'lr'"),
        ("--model widht=8", "model: arguments of small_resnet must be among width, depth, got 'widht'"),
        ("--scope half", "scope: must be one of global, uniform, n:m .*, got 'half'"),
        ("--epochs 0", "max_epochs: .*greater than or equal to 1, got 0"),
        ("--train-size 100000", "split: train_size must be from 1 to 1078 .*, got 100000"),
        ("--gpus 1.5", r"gpus: must be 0 or a fraction in \(0, 1\] \(.* no task can use more; .*\), got 1.5"),
        ("--gpus 2", r"gpus: must be 0 or a fraction in \(0, 1\] \(.* no task can use more; .*\), got 2"),
        ("--name ../elsewhere", r"name: must be letters, digits, .*, got '../elsewhere'"),
        ("--hold lr", r"hold: must be GROUP/KEY with GROUP among .*opt.* \(such as opt/lr\), got 'lr'"),
        ("--tuning best", "tuning: input should be 'fair' or 'paper', got 'best'"),
        ("--lam 1e-4 --regularizer none", "lam: must be held for a method that has it, none of .* has"),
        ("--rho 0.1 --optimizer sgd", "rho: must be held for a method that has it, none of .* has"),
        ("--runs ~nobody-x/y", "runs: must be without ~, or begin with the home of a user, got '~nobody-x/y'"),
        (
            "--data-root ~nobody-x/y",
            "data_root: must be without ~, or begin with the home of a user, got '~nobody-x/y'",
        ),
        (
            "--dataset cifar10 --data-root .",
            "cifar10: .* must hold .*train.parquet.*--data-root.*python -m sweeps.digits",
        ),
    ],
)
def test_bad_input_gets_one_clear_line_before_anything_starts(flags, message, tmp_path, monkeypatch, capfd):
    import re

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        load_sweep("digits").main(flags.split())
    shown = capfd.readouterr()
    assert left.value.code == 2
    assert re.fullmatch(message + ".*", shown.err.strip())
    assert shown.out == ""
    assert not (tmp_path / "runs" / "digits" / "events.jsonl").exists()


def test_a_folder_that_cannot_be_written_is_said_before_anything_starts(tmp_path, capfd):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as left:
        load_sweep("digits").main(["--runs", str(tmp_path / "file" / "runs")])
    assert left.value.code == 2
    error = capfd.readouterr().err.strip()
    assert error.startswith("runs: must be a folder that can be written (choose another with --runs), got ")
    assert "\n" not in error


def test_looking_at_records_that_are_not_there(tmp_path, monkeypatch, capfd):
    from service.commands import app

    monkeypatch.chdir(tmp_path)
    python = this_python()
    for arguments, message in (
        (["best"], "best: no finished trial in runs matches (sweeps there: none)"),
        (["report", "digits"], "sweep: must be one of none yet (in runs), got 'digits'"),
        (["sync", "digits"], "sweep: must be one of none yet (in runs), got 'digits'"),
        (["ui"], f"ui: nothing is recorded in runs yet; run a sweep first, e.g. {python} -m sweeps.digits"),
        (["status"], f"status: nothing is recorded in runs yet; run a sweep first, e.g. {python} -m sweeps.digits"),
        (
            ["best", "--runs", "~nobody-x/y"],
            "runs: must be without ~, or begin with the home of a user, got '~nobody-x/y'",
        ),
    ):
        with pytest.raises(SystemExit) as left:
            app(arguments)
        assert left.value.code == 2
        assert capfd.readouterr().err.strip() == message


def test_a_method_gets_what_it_needs_in_the_place_of_the_sweeps_own_value():
    space = {"optimizer": load_sweep("digits").space["optimizer"]}
    sweep = make(space=space, opt={"lr": 0.1, "weight_decay": 0.01}, fixed={"opt/lr": {"optimizer": {"sam": 1.0}}})
    assert sweep.trial_config({"optimizer": "sam"}, {}).opt == {"lr": 1.0, "weight_decay": 0.01}
    assert sweep.trial_config({"optimizer": "sgd"}, {}).opt == {"lr": 0.1, "weight_decay": 0.01}


def test_an_argument_of_the_regularizers_that_is_given_overrides_the_spaces_own():
    lora = load_sweep("commonsense_lora")
    wcr = {"optimizer": "adamw", "regularizer": "wcr"}
    assert lora.trial_config(wcr, {"lam": 1e-6}).reg == {"eps": 1e-4}
    assert lora.trial_config({**wcr, "regularizer": "l1"}, {"lam": 1e-6}).reg == {}
    given = lora.model_copy(update={"reg": {"eps": 1e-8}})
    assert given.trial_config(wcr, {"lam": 1e-6}).reg == {"eps": 1e-8}

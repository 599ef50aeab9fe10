import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from service import Sweep
from service.cli import PANELS, with_options
from service.process import this_python
from service.search.space import make_arms, make_config
from service.spec import SweepSpec
from tests.service._sweeps import SWEEPS, TUNED, load_sweep, make
from trainables.config import TrialConfig

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("name", SWEEPS)
def test_help_shows_every_option_with_its_default(name, monkeypatch, capsys):
    script = str(REPOSITORY / "sweeps" / f"{name}.py")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(script, run_name="__main__")
    shown = capsys.readouterr().out
    for flag in ("--trials", "--epochs", "--optimizer", "--regularizer", "--lam", "--rho", "--data-root", "--runs"):
        assert f" {flag} " in shown
    sweep = load_sweep(name)
    assert f"[{sweep.trial.max_epochs}]" in shown
    assert f"[{sweep.trial.architecture}]" in shown
    assert f"[{sweep.trial.target_sparsity}]" in shown


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


def test_every_field_has_an_option():
    fields = set(SweepSpec.model_fields) | set(TrialConfig.model_fields)
    shown = [name for names in PANELS.values() for name in names]
    assert len(set(shown)) == len(shown)
    assert set(shown) == fields - {"trial", "search", "read_test", "more_pruning", "sources", "criterion_source"}


def test_a_sweep_of_another_dataset_is_recorded_under_its_name():
    assert with_options(load_sweep("digits"), {"dataset": "svhn"}).name == "svhn"
    assert with_options(load_sweep("digits"), {"dataset": "svhn", "name": "mine"}).name == "mine"
    assert with_options(load_sweep("lottery"), {"dataset": "svhn"}).name == "lottery"


@pytest.mark.parametrize(
    ("given", "model"),
    [
        ({"architecture": "resnet18"}, {}),
        ({"architecture": "resnet18", "model": ["width=4"]}, {"width": 4}),
        ({"architecture": "small_resnet"}, {"width": 16, "depth": 3}),
        ({"model": ["width=8"]}, {"width": 8, "depth": 3}),
    ],
)
def test_another_network_does_not_get_the_arguments_of_the_sweeps_own(given, model):
    assert with_options(load_sweep("digits"), given).trial.model == model


def test_another_network_does_not_hold_the_arguments_of_the_sweeps_own():
    sweep = load_sweep("digits").changed(hold=("model/depth", "opt/lr"))
    assert with_options(sweep, {"architecture": "resnet18"}).hold == ("opt/lr",)
    assert with_options(sweep, {"architecture": "small_resnet"}).hold == ("model/depth", "opt/lr")


@pytest.mark.parametrize("flags", [(), ("--quiet",)])
def test_a_value_typed_on_the_command_line_is_held(monkeypatch, flags):
    sweep = make(optimizer=("sgd",), regularizer=("none",), tuned=TUNED)
    made = []
    monkeypatch.setattr(
        Sweep, "run", lambda self, command, quiet: made.append((self, quiet)) or {"winner": 1, "complete": 1}
    )
    with pytest.raises(SystemExit):
        sweep.main(["--opt", "lr=0.05", *flags])
    ((chosen, quiet),) = made
    assert quiet == bool(flags)
    (arm,) = make_arms(chosen)
    assert set(arm.space) == {"opt/weight_decay"}
    assert make_config(chosen, arm.choices, {"opt/weight_decay": 0.02}).opt == {"lr": 0.05, "weight_decay": 0.02}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--dataset imagenet", "dataset: must be one of .*cifar10, .*digits.*, got 'imagenet'"),
        ("--optimizer adam", "optimizer: must be one of adamw, .*sam, .*sgd, got 'adam'"),
        ("--regularizer l3", "regularizer: must be one of .*hoyer_square, .*none, .*wcr, .*got 'l3'"),
        ("--architecture vgg", "architecture: must be one of .*resnet18, .*small_resnet.*, got 'vgg'"),
        ("--lr-schedule warmup", "lr-schedule: must be one of constant, cosine, .*, got 'warmup'"),
        ("--criterion foo", "criterion: must be one of .*magnitude, random.*, got 'foo'"),
        ("--target-sparsity 1", r"sparsity: must be in \[0, 1\) .*, got 1"),
        ("--sparsity -0.5", r"sparsity: must be in \[0, 1\) .*, got -0.5"),
        ("--lam -1e-5", "lam: must be >= 0 and finite .*, got -1e-05"),
        ("--rho -0.5", "rho: must be >= 0 and finite .*, got -0.5"),
        ("--opt lr=-1", "SGD: lr must be >= 0 and finite, got -1"),
        ("--opt momentun=0.9", "SGD: arguments must be among lr, .*momentum.*, got 'momentun'"),
        ("--opt lr", r"opt: must be KEY=VALUE \(e.g. --opt lr=0.1\), got 'lr'"),
        ("--model widht=8", "model: arguments of small_resnet must be among width, depth, got 'widht'"),
        ("--scope half", "scope: must be one of global, uniform, row, n:m .*, got 'half'"),
        ("--epochs 0", "epochs: must be greater than or equal to 1, got 0"),
        ("--train-size 100000", "split: train_size must be from 1 to 1078 .*, got 100000"),
        ("--gpus 1.5", r"gpus: must be 0 or a fraction in \(0, 1\] \(.* no task can use more; .*\), got 1.5"),
        ("--gpus 2", r"gpus: must be 0 or a fraction in \(0, 1\] \(.* no task can use more; .*\), got 2"),
        ("--name ../elsewhere", r"name: must be letters, digits, .*, got '../elsewhere'"),
        ("--hold lr", r"hold: must be GROUP/KEY with GROUP among .*opt.* \(such as opt/lr\), got 'lr'"),
        ("--hold model/widht", r"hold: must be a parameter of the search \(among .*\) or one .*, got model/widht"),
        ("--tuning best", "tuning: must be 'fair' or 'paper', got 'best'"),
        ("--lam 1e-4 --regularizer none", "lam: must be held for a method that has it, none of .* has"),
        ("--rho 0.1 --optimizer sgd", "rho: must be held for a method that has it, none of .* has"),
        ("--runs ~nobody-x/y", "runs: must be without ~, or begin with the home of a user, got '~nobody-x/y'"),
        (
            "--data-root ~nobody-x/y",
            "data-root: must be without ~, or begin with the home of a user, got '~nobody-x/y'",
        ),
        (
            "--dataset cifar10 --data-root .",
            "cifar10: .* must hold .*train.parquet.*--data-root.*python -m sweeps.digits",
        ),
    ],
)
def test_bad_input_gets_one_clear_line_before_anything_starts(flags, message, tmp_path, monkeypatch, capfd):
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

import subprocess
import sys
from pathlib import Path

import pytest

from service import commands as package
from service.tracking.shipper import Shipper


@pytest.mark.parametrize("command", [["status", "toy"], ["report", "toy", "--format", "text"], ["best"]])
def test_looking_at_records_imports_nothing_that_takes_seconds(toy, command):
    toy.start()
    toy.trial((0.9, 0.8))
    toy.recorder.summarized(toy.summary())
    code = f"import sys; sys.argv[1:] = {[*command, '--runs', str(toy.folder.parent)]}\n"
    code += "from service.commands import app\n"
    code += "app(standalone_mode=False)\n"
    code += "print({'torch', 'scipy', 'optuna', 'ray', 'mlflow', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_sweeps_of_version_0_1_are_named_and_left_out(toy, old, sweeps):
    toy.trial((0.9, 0.8))
    for command, shown in (("best", "sam + wcr"), ("status", "toy: running")):
        lines, code = sweeps(command)
        assert "Not shown, because version 0.1 recorded them and this version cannot read its records: old\n" in lines
        assert shown in lines
        assert code == 0


@pytest.mark.parametrize("command", ["status", "report", "retry", "sync", "stop"])
def test_a_sweep_of_version_0_1_is_one_line_that_says_what_to_do(old, sweeps, command):
    shown, code = sweeps(command, "old")
    assert code == 2
    assert shown.startswith(f"{old}: must hold records of this version (format 3), got records of version 0.1: choose")
    assert len(shown.splitlines()) == 1


def test_sync_answers_a_damaged_log_in_one_line(toy, sweeps, monkeypatch):
    with toy.recorder.log.path.open("a") as log:
        log.write('{"event": "end", "trial"\n')
    monkeypatch.setattr(Shipper, "run", lambda self: None)  # it never raises
    shown, code = sweeps("sync", "toy")
    assert (shown.count("\n"), code) == (1, 2)
    assert "events.jsonl: must hold one JSON object per line" in shown


def test_every_file_is_a_command_of_its_name():
    files = {file.stem for file in Path(package.__file__).parent.glob("*.py") if not file.name.startswith("_")}
    assert {command.name for command in package.app.registered_commands} == files

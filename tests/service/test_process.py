import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.process import sweeps_command

REPOSITORY = Path(__file__).parents[2]


def python(code, *arguments, **changes):
    """What a fresh process prints, as bytes; None removes a variable."""
    given = {name: value for name, value in {**os.environ, **changes}.items() if value is not None}
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, check=True, env=given).stdout


@pytest.mark.parametrize(
    "encoding",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": None},
    ],
)
def test_characters_that_the_output_lacks_are_spelled_out(encoding):
    code = (
        "from service.process import prepare_process; prepare_process()\n"
        "print('0.5 \\xb1 0.1 \\u2713 a\\udce9b')"  # the last is a byte of a file name that is no text
    )
    assert python(code, **encoding) == b"0.5 +- 0.1 \\u2713 a\xe9b\n"


def test_output_in_utf8_is_as_it_was():
    code = "from service.process import prepare_process; prepare_process()\nprint('0.5 \\xb1 \\u03bb a\\udce9b')"
    assert python(code, PYTHONIOENCODING="utf-8") == "0.5 ± λ a".encode() + b"\xe9b\n"


def test_a_user_without_any_home_has_the_root_folder_for_one():
    code = (
        "import os, pathlib, pwd\n"
        "def unknown(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = unknown\n"
        "from service.process import prepare_process; prepare_process()\n"
        "print(pathlib.Path.home(), os.environ['HOME'])"
    )
    assert python(code, HOME=None) == b"/ /\n"
    assert python(code, HOME="/some/where") == b"/some/where /some/where\n"


def test_printed_commands_can_be_pasted_into_a_shell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "it's a folder"
    command = sweeps_command("best", "--json", runs=folder)
    show = "import json, sys; print(json.dumps(sys.argv[1:]))"
    (tmp_path / "sweeps.py").write_text(show)  # in the place of `python -m sweeps`
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["best", "--json", "--runs", str(folder)]
    monkeypatch.setenv("SPARSITY_SWEEPS_RUNS", str(folder))
    assert sweeps_command("best", runs=folder).endswith("-m sweeps best")


def test_the_recorded_command_is_the_typed_one():
    code = "import json; from service.process import typed_command; print(json.dumps(typed_command()))"
    assert json.loads(python(code, "--name", "a b")) == [sys.executable, "-c", code, "--name", "a b"]


def test_the_default_folder_of_records_may_lie_below_the_home(tmp_path):
    given = {**os.environ, "HOME": str(tmp_path), "SPARSITY_SWEEPS_RUNS": "~/records"}
    done = subprocess.run([sys.executable, "-m", "sweeps", "status"], capture_output=True, text=True, env=given)
    assert done.stderr.startswith(f"status: nothing is recorded in {tmp_path}/records yet; run a sweep first")
    assert done.returncode == 2

import io
import os
import pty
import re
import subprocess
import sys
import termios

import pytest
from rich.console import Console

from service.views.console import make_console, print_whole
from service.views.tables import as_tables
from tests.service.conftest import fill


def test_output_to_a_file_has_160_columns():
    assert make_console().width == 160


def test_a_notebook_gets_plain_text(monkeypatch, capsys):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")  # as Jupyter's kernel does
    console = make_console()
    console.print("loud", style="bold red")
    with console.status("Starting ..."):  # no warning that asks for ipywidgets
        pass
    assert console.width == 160
    assert capsys.readouterr() == ("loud\n", "")


def test_a_table_is_printed_whole_in_a_narrow_terminal(toy):
    toy.trial((0.9, 0.8), more={"hausdorff": 9.0})
    summary, shown = toy.summary(), []
    for width in (40, 200):
        console = Console(file=io.StringIO(), width=width, force_terminal=False)
        print_whole(console, as_tables(summary))
        shown.append([line.rstrip() for line in console.file.getvalue().splitlines()])
    assert shown[0] == shown[1]
    assert max(map(len, shown[0])) > 40


def shown_in_terminal(*arguments, **variables):
    """The output of `python -m sweeps ...` in a terminal of 60 columns."""
    ours, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 60))
    command = [sys.executable, "-m", "sweeps", *map(str, arguments)]
    with subprocess.Popen(command, stdout=terminal, stderr=terminal, env={**os.environ, **variables}) as process:
        os.close(terminal)
        shown = b""
        try:
            while some := os.read(ours, 65536):
                shown += some
        except OSError:  # on Linux, reading fails once the other end is closed
            pass
        assert process.wait() == 0, shown
    os.close(ours)
    return shown.decode()


@pytest.mark.parametrize(
    "variables",
    [{"TERM": "dumb", "COLUMNS": "50"}, pytest.param({"TERM": "dumb", "COLUMNS": "200"}, marks=pytest.mark.slow)],
)
def test_a_dumb_terminal_shows_every_number(toy, variables, environment_row):
    fill(toy)
    toy.recorder.summarized(toy.summary())
    shown = shown_in_terminal("report", "toy", "--format", "text", "--runs", toy.folder.parent, **variables)
    assert "0.950 ± 0.000  0.720 ± 0.020" in shown
    assert "…" not in shown
    environment_row("TERM=dumb, a narrow terminal", "tables are printed whole, whatever COLUMNS says")


def test_tables_are_printed_in_an_encoding_without_plus_minus(toy):
    fill(toy)
    toy.recorder.summarized(toy.summary())
    commands = [["report", "toy"], ["report", "toy", "--format", "text"], ["best"]]
    code = "from service.commands import app\n" + "".join(
        f"print({number})\napp({[*command, '--runs', str(toy.folder.parent)]}, standalone_mode=False)\n"
        for number, command in enumerate(commands)
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    for shown in re.split(rb"^\d$", done.stdout, flags=re.MULTILINE)[1:]:
        assert b" +- 0.0" in shown
        assert done.stdout.isascii()

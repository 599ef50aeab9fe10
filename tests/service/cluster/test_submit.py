import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.cluster.submit import submit_command
from service.commands import app

CLUSTER = Path(__file__).parents[3] / "cluster.yaml"
HOSTILE = [
    "two words",
    "it's",
    '"',
    "$(touch executed)",
    "`touch executed`",
    "; touch executed",
    "a\nb",
    "λ",
    "*",
    "",
    "!!",
]


def through_rays_shells(command, folder):
    """What arrives as arguments: Ray joins them with spaces, wraps them for bash, and ssh has a shell run that."""
    script = folder / "show.py"
    script.write_text("import sys; sys.stdout.write('\\0'.join(sys.argv[1:]))")
    joined = " ".join([sys.executable, str(script), *command[command.index("--") + 1 :]])
    wrapped = " ".join(["bash", "-c", shlex.quote(f"true && ({joined})")])
    done = subprocess.run(["sh", "-c", wrapped], cwd=folder, capture_output=True, check=True)
    return done.stdout.decode().split("\0")


def test_arguments_go_through_two_shells_unbroken_and_unexecuted(tmp_path):
    command = submit_command(CLUSTER, "digits", HOSTILE)
    assert through_rays_shells(command, tmp_path) == HOSTILE
    assert not (tmp_path / "executed").exists()


def test_it_is_rays_own_submit_of_the_sweeps_file():
    command = submit_command(CLUSTER, "digits", ["--epochs", "10"], tmux=True)
    digits = str(CLUSTER.parent / "sweeps" / "digits.py")
    assert command[1:] == [
        "-m",
        "ray.scripts.scripts",
        "submit",
        "--tmux",
        str(CLUSTER),
        digits,
        "--",
        "--epochs",
        "10",
    ]


def test_a_file_is_taken_as_it_is(tmp_path):
    mine = tmp_path / "mine.py"
    mine.touch()
    assert str(mine) in submit_command(CLUSTER, str(mine), [])


@pytest.mark.parametrize(
    ("cluster", "sweep", "arguments", "message"),
    [
        (
            "gone.yaml",
            "digits",
            [],
            "cluster: must be a cluster file, e.g. cluster.yaml, got 'gone.yaml', which is not",
        ),
        (str(CLUSTER), "digit", [], r"sweep: must be a file, or one of cifar10, .*digits.*, got 'digit'"),
        (str(CLUSTER), "gone.py", [], r"sweep: must be a file, or one of .*, got 'gone.py'"),
        (str(CLUSTER), "digits", ["a\0b"], "arguments: must be without NUL characters"),
    ],
)
def test_what_cannot_be_submitted_is_refused_in_one_line(cluster, sweep, arguments, message):
    with pytest.raises(ValueError, match=message) as refused:
        submit_command(Path(cluster), sweep, arguments)
    assert "\n" not in str(refused.value)


def test_a_file_that_ray_would_not_quote_is_refused(tmp_path):
    odd = tmp_path / "a b.py"
    odd.touch()
    with pytest.raises(ValueError, match="sweep: must be a file with a plain name"):
        submit_command(CLUSTER, str(odd), [])


def test_the_command_hands_over_what_follows_the_dashes(monkeypatch):
    became = []
    monkeypatch.setattr("os.execv", lambda program, command: became.append(command))
    result = CliRunner().invoke(app, ["submit", str(CLUSTER), "digits", "--", "--name", "my sweep", "--help"])
    assert result.exit_code == 0
    assert became[0][-4:] == ["--", "--name", "'my sweep'", "--help"]


def test_a_fault_is_exit_code_2():
    result = CliRunner().invoke(app, ["submit", "gone.yaml", "digits"])
    assert result.exit_code == 2
    assert result.output.startswith("cluster: must be a cluster file")

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.commands import app


@pytest.fixture
def sweeps(toy):
    """A function: what `python -m sweeps ... --runs RUNS` prints on both streams, and its exit code."""

    def run(*words):
        done = CliRunner().invoke(app, [*words, "--runs", str(toy.folder.parent)])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.output, done.exit_code

    return run


def test_retry_selects_failed_trials_and_on_demand_diverged_ones(toy, sweeps):
    failed = toy.trial(None, status="error")
    diverged = toy.trial(None, status="diverged", lam=0.1)
    toy.recorder.close()
    shown, code = sweeps("retry", "toy", "--no-start")
    assert (shown.startswith(f"1 trials of toy will run again: {failed}"), code) == (True, 0)
    shown, code = sweeps("retry", "toy", "--no-start", "--diverged")
    assert (shown.startswith(f"1 trials of toy will run again: {diverged}"), code) == (True, 0)


def test_a_command_with_a_hidden_password_is_not_run_again(toy, sweeps):
    toy.trial(None, status="error")
    toy.recorder.run_started(["false", "--study-uri=postgresql://me:secret@host/db"], num_search=1, num_confirm=0)
    toy.recorder.close()
    shown, code = sweeps("retry", "toy")
    assert "Run the sweep's command to start them." in shown
    assert code == 0


def test_status_is_json_for_programs(toy, sweeps):
    toy.trial(None, status="error")
    (status,) = json.loads(sweeps("status", "toy", "--json")[0])
    assert [row["status"] for row in status["failed"]] == ["error"]


def test_figures_of_finished_trials_are_drawn_on_demand(toy, sweeps):
    finished, diverged = toy.trial((0.9, 0.8)), toy.trial(None, status="diverged", lam=0.1)
    shown, code = sweeps("figures", "toy", finished)
    assert code == 0
    drawn = [Path(line) for line in shown.splitlines()]
    assert drawn == [toy.state.trial_folder(finished) / name for name in ("curve.png", "weights.png")]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
    for key in (diverged, "other"):
        assert sweeps("figures", "toy", key) == (f"figures: trials must be finished ones of toy, got {key!r}\n", 2)


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


@pytest.fixture
def old(toy):
    """The folder of a sweep of version 0.1, beside the toy sweep."""
    folder = toy.folder.parent / "old"
    folder.mkdir()
    (folder / "journal.jsonl").write_text('{"event": "sweep"}\n')
    return folder


def test_sweeps_of_version_0_1_are_named_and_left_out(toy, old, sweeps):
    toy.trial((0.9, 0.8))
    for command, shown in (("best", "sam + wcr"), ("status", "toy: running")):
        lines, code = sweeps(command)
        assert "Not shown, because version 0.1 recorded them and this version cannot read its records: old\n" in lines
        assert shown in lines
        assert code == 0


@pytest.mark.parametrize(
    ("flags", "expected"),
    [((), [0.9]), (("--all",), [0.0, 0.9]), (("--sparsity", "0"), [0.0])],
    ids=["target", "all", "0"],
)
def test_best_shows_the_target_sparsity_unless_asked_for_others(toy, sweeps, flags, expected):
    toy.trial((0.9, 0.8))
    shown, code = sweeps("best", "--json", *flags)
    assert (code, [row["sparsity"] for row in json.loads(shown)]) == (0, expected)


@pytest.mark.parametrize("command", ["status", "report", "retry", "sync", "stop"])
def test_a_sweep_of_version_0_1_is_one_line_that_says_what_to_do(old, sweeps, command):
    shown, code = sweeps(command, "old")
    assert code == 2
    assert shown.startswith(f"{old}: must hold records of this version (format 3), got records of version 0.1: choose")
    assert len(shown.splitlines()) == 1


# ---- reprune -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nothing"], "sweep: must be one of toy"),
        (["toy", "--criterion", "wanda2"], "criterion: must be one of compensation, "),
        (["toy", "--scope", "rows"], "scope: must be one of global, uniform, row, n:m with 1 <= n <= m"),
        (["toy", "--sparsity", "1.5"], "sparsity: must be in [0, 1) (the fraction of weights removed), got 1.5"),
        (["toy", "--crit", "num_probes"], "crit: must be KEY=VALUE"),
        (["toy", "--crit", "num_probes=3"], "crit: arguments must be among those of the criterion (magnitude: (none))"),
        (["toy", "--recalibrate", "--criterion", "compensation"], "recalibrate: must be off with compensation"),
        (["toy", "--keep", "some"], "keep: input should be 'target', 'all', 'pruned' or 'none', got 'some'"),
    ],
)
def test_reprune_refuses_bad_input_before_anything_starts(toy, options, message):
    toy.recorder.close()
    before = toy.recorder.log.path.read_bytes()
    done = CliRunner().invoke(app, ["reprune", *options, "--runs", str(toy.folder.parent)])
    assert done.exit_code == 2
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert toy.recorder.log.path.read_bytes() == before

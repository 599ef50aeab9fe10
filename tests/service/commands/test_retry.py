import os
import sys

import pytest


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


@pytest.mark.parametrize("gone", ["cwd", "python"])
def test_a_command_that_cannot_run_any_more_is_printed(toy, sweeps, monkeypatch, tmp_path, gone):
    key = toy.trial(None, status="error")
    missing = tmp_path / "gone"
    python = str(missing) if gone == "python" else sys.executable
    toy.recorder.run_started([python, "-m", "sweeps.digits"], num_search=1, num_confirm=0)
    if gone == "cwd":
        without_time = {name: value for name, value in toy.state.last_run.items() if name != "time"}
        toy.recorder.state.apply(toy.recorder.log.append(**without_time | {"cwd": str(missing)}))
    toy.recorder.close()
    monkeypatch.setattr(os, "execv", lambda *words: pytest.fail("it must not start"))
    shown, code = sweeps("retry", "toy")
    marked, why, command = shown.splitlines()
    assert code == 0
    assert marked == f"1 trials of toy will run again: {key}"
    assert f"{missing}, with which it ran last, does not exist" in why
    assert command == f"cd {missing if gone == 'cwd' else os.getcwd()} && {python} -m sweeps.digits"

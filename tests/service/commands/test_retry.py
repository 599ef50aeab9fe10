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

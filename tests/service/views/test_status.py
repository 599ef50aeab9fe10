import json

from typer.testing import CliRunner

from service.commands import app
from service.views.status import status_of
from tests.service.conftest import make_config


def test_a_running_trial_counts_the_epochs_of_all_rounds(recorder):
    config = make_config(
        pruning_schedule="imp", pruning_sched={"fraction": 0.5}
    )  # to 0.9 in 3 halvings, so 4 trainings of 3 epochs
    recorder.records.start(config.key, phase="search", arm="sam + wcr", number=0, config=config.model_dump(mode="json"))
    recorder.records.evaluation(config.key, {"epoch": 7, "loss": 0.5, "acc_dense": 0.5, "acc_pruned": 0.25})
    (running,) = status_of(recorder.records.folder)["running"]
    assert running == {"trial": config.key, "arm": "sam + wcr", "epoch": 7, "of": 12}


def test_retry_takes_failed_trials_and_on_demand_diverged_ones(recorder):
    failed = recorder.trial(None, status="error")
    diverged = recorder.trial(None, status="diverged", lam=0.1)
    recorder.records.close()
    folder = recorder.records.folder
    command = ["retry", folder.name, "--runs", str(folder.parent), "--no-start"]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    assert shown.output.startswith(f"1 trials of toy are to be made again: {failed}")
    shown = CliRunner().invoke(app, [*command, "--diverged"])
    assert shown.output.startswith(f"1 trials of toy are to be made again: {diverged}")


def test_status_says_how_failed_trials_are_made_again(recorder):
    recorder.trial(None, status="error")
    folder = recorder.records.folder
    shown = CliRunner().invoke(app, ["status", "toy", "--runs", str(folder.parent)])
    assert f"python -m sweeps retry toy --runs {recorder.records.folder.parent}" in shown.output
    shown = CliRunner().invoke(app, ["status", "toy", "--runs", str(folder.parent), "--json"])
    assert [row["status"] for row in json.loads(shown.output)[0]["failed"]] == ["error"]

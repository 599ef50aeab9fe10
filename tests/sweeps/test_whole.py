"""Whole sweeps, as a user runs them: a process of their own, local Ray, a study on disk, MLflow's database."""

import json
import os
import shlex
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from service.commands import app
from service.records.best import best
from service.records.state import State
from service.tracking.connection import default_tracking_uri
from service.views.tables import headline
from tests._digits import (
    assert_as_undisturbed,
    command,
    end,
    events,
    kill_worker,
    num_repeated,
    results,
    run,
    start,
    studies,
    wait_until,
)
from trainables import load_pruned
from trainables.config import TrialConfig
from trainables.loop import load_task

pytestmark = pytest.mark.sweep


def sweeps(*arguments):
    """What `python -m sweeps ...` prints."""
    done = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    runs = tmp_path_factory.mktemp("undisturbed")
    return runs, run(runs)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The same: a worker killed, then the driver while the search runs."""
    runs = tmp_path_factory.mktemp("killed")
    process = start(runs)
    wait_until(lambda: events(runs)["evaluation"] >= 1, process)
    kill_worker(process)
    wait_until(lambda: events(runs)["end"] >= 2 and events(runs)["evaluation"] >= 8, process)
    assert end(process, signal.SIGKILL) == -signal.SIGKILL
    assert "its worker died, it continues from its last checkpoint" in (runs / "shown").read_text()
    return runs, run(runs, "--quiet")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The same, asked to stop in the confirmation."""
    runs = tmp_path_factory.mktemp("stopped")
    process = start(runs)
    wait_until(lambda: events(runs)["end"] >= 8, process)
    assert f"digits: running (process {process.pid} on " in sweeps("status", "digits", "--runs", runs)
    said = sweeps("stop", "digits", "--runs", runs)
    assert "digits has stopped" in said
    assert f"cd {runs} && {shlex.join(command(runs))}" in said
    assert end(process) == 130
    assert "digits: stopped" in sweeps("status", "--runs", runs)
    shown = (runs / "shown").read_text()
    assert f"Stopped. The same command continues from here.\n{shlex.join(command(runs))}\n" in shown
    assert "Traceback" not in shown
    started = State.read(runs / "digits").trials
    assert any(not trial.done for trial in started.values()) or len(started) < 11
    return runs, run(runs, "--quiet")


def test_it_prints_the_best_and_the_table(undisturbed):
    runs, shown = undisturbed
    assert "digits  11/11 " in shown
    for arm in ("sgd + none", "sgd + wcr", "sam + none", "sam + wcr"):
        assert arm in shown
    assert "Best: s" in shown
    assert "(1 unseen seed)" in shown
    assert f"python -m sweeps ui --runs {runs}" in shown
    assert "Traceback" not in shown
    assert "Warning" not in shown
    assert {path.name for path in (runs / "digits").iterdir()} >= {"events.jsonl", "study.log", "curve.png", "trials"}
    assert (runs / "mlflow.db").exists()


def test_a_killed_sweep_ends_as_an_undisturbed_one(undisturbed, killed):
    assert_as_undisturbed(killed[0], undisturbed[0])
    assert Counter(result[0] for result in results(killed[0]).values()) == {"search": 7, "confirm": 4}
    assert [state for trials in studies(killed[0]).values() for _, state, *_ in trials] == ["COMPLETE"] * 7


@pytest.mark.slow
def test_a_stopped_sweep_ends_as_an_undisturbed_one(undisturbed, stopped):
    assert_as_undisturbed(stopped[0], undisturbed[0])
    assert num_repeated(stopped[0]) == 0


def test_nothing_that_had_finished_was_repeated(killed):
    assert num_repeated(killed[0]) == 0


def test_a_quiet_sweep_prints_the_headline_only(killed):
    first, *warnings, last = killed[1].splitlines()
    assert first == "nothing to search, so one configuration: sgd + none"
    summary = State.read(killed[0] / "digits").summary
    assert last == headline(summary)
    assert len(warnings) == len(summary["warnings"])


def events_of(sweep):
    return sweep[0] / "digits" / "events.jsonl"


def test_each_trial_is_one_mlflow_run_below_the_parent(killed):
    from mlflow import MlflowClient

    client = MlflowClient(default_tracking_uri(killed[0]))
    experiment = client.get_experiment_by_name("digits")
    runs = client.search_runs([experiment.experiment_id])
    assert Counter(run.data.tags["trial"] for run in runs) == Counter(["all", *results(killed[0])])
    assert {run.info.status for run in runs} == {"FINISHED"}
    parent = next(run for run in runs if run.data.tags["trial"] == "all")
    assert {run.data.tags.get("mlflow.parentRunId") for run in runs} == {parent.info.run_id, None}
    assert "best_run" in parent.data.tags
    assert {a.path for a in client.list_artifacts(parent.info.run_id)} == {"curve.png", "summary.json", "summary.md"}


def test_a_pruned_checkpoint_from_mlflow_has_its_sparsity_and_its_accuracy(undisturbed, tmp_path):
    from mlflow import MlflowClient

    client = MlflowClient(default_tracking_uri(undisturbed[0]))
    version = client.get_model_version_by_alias("small_resnet-digits-0.96", "best")
    folder = client.download_artifacts(version.run_id, "pruned/0.96", str(tmp_path))
    model = load_pruned(folder)
    convolutions = [m.weight for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    total = sum(w.numel() for w in convolutions)
    assert sum((w == 0).sum().item() for w in convolutions) == round(0.96 * total)
    assert {path.suffix for path in Path(folder).iterdir()} == {".safetensors", ".json"}
    recorded = json.loads((Path(folder) / "config.json").read_text())
    task = load_task(TrialConfig.model_validate(recorded["trial_config"]))
    metrics = client.get_run(version.run_id).data.metrics
    for split, prefix in (("validation", ""), ("test", "test_")):
        acc = task.evaluate(model, split)["acc"]
        assert acc == recorded[split]["acc"]
        assert metrics[f"{prefix}acc_pruned/0.96"] == pytest.approx(acc, rel=1e-5)  # it has six digits


def test_the_same_command_again_trains_nothing_and_says_the_same(undisturbed):
    runs, before = undisturbed
    log = events_of(undisturbed).read_bytes()
    after = run(runs)
    assert "11 are done already" in after
    title = "Best configuration of each arm"
    assert after[after.index(title) :] == before[before.index(title) :]
    assert events_of(undisturbed).read_bytes() == log


def test_best_and_report_read_the_same_records(undisturbed):
    rows = json.loads(sweeps("best", "--json", "--runs", undisturbed[0]))
    found = {(row["optimizer"], row["regularizer"]) for row in rows if row["sparsity"] == 0.96}
    assert found == {("sgd", "none"), ("sgd", "wcr"), ("sam", "none"), ("sam", "wcr")}
    summary = State.read(undisturbed[0] / "digits").summary
    assert {(row["n"], row["seeds"]) for row in rows} == {(1, "unseen")}  # the search's own seed is left out
    shown = sweeps("report", "digits", "--runs", undisturbed[0])
    assert f"{summary['winner']['optimizer']} + {summary['winner']['regularizer']}" in shown


@pytest.mark.slow
def test_reuse_best_starts_from_what_another_sweep_found_and_divergence_is_a_result(undisturbed):
    runs = undisturbed[0]
    known = {
        (row["optimizer"], row["regularizer"]): (row["lam"], row["rho"])
        for row in best(runs)
        if row["sparsity"] == 0.96
    }
    shown = run(runs, "--name", "again", "--reuse-best", "--trials", "1", "--opt", "lr=1e6", expect=1)
    trials = State.read(runs / "again").trials.values()
    first = {t.arm: t.config for t in trials}
    for (optimizer, regularizer), (lam, rho) in known.items():
        config = first[f"{optimizer} + {regularizer}"]
        assert config["lam"] == (lam or 0.0)
        assert config["opt"].get("rho") == rho
    assert [trial.status for trial in trials] == ["diverged"] * 4
    assert all("diverged at step" in trial.reason and "lam" in trial.reason for trial in trials)
    assert "again   4/" in shown
    assert "diverged at step" in shown
    assert "No trial has finished yet." in shown
    (status,) = json.loads(sweeps("status", "again", "--json", "--runs", runs))
    assert (status["state"], status["phases"]["search"]) == ("complete", {"planned": 4, "diverged": 4})
    assert {row["reason"] for row in status["failed"]} == {trial.reason for trial in trials}
    assert sweeps("retry", "again", "--runs", runs).startswith("0 trials of again")  # they would again
    assert "4 trials" in sweeps("retry", "again", "--diverged", "--no-start", "--runs", runs)
    (status,) = json.loads(sweeps("status", "again", "--json", "--runs", runs))
    assert (status["state"], status["phases"]["search"]) == ("stopped", {"planned": 4, "waiting": 4})


def test_no_process_is_left_behind(undisturbed, killed):
    time.sleep(3)
    mine = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                text = (folder / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if any(str(runs) in text for runs, _ in (undisturbed, killed)):
                mine.append(text)
    assert mine == []

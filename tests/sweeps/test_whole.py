"""Whole sweeps, as a user runs them: a process of their own, local Ray, a study on disk, MLflow's database."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import optuna
import pytest
import torch

from sweeps._journal import Journal
from sweeps._records import Records, best, default_tracking_uri
from sweeps._searcher import open_storage
from trainables import load_pruned
from trainables.config import TrialConfig
from trainables.training import load_task

pytestmark = pytest.mark.sweep
REPOSITORY = Path(__file__).parents[2]
SMALL = ["--epochs", "8", "--rungs", "4", "--model", "width=4", "--trials", "6", "--confirm", "2", "--seeds", "2"]
ARMS = ["--optimizer", "sgd", "--optimizer", "sam", "--regularizer", "none", "--regularizer", "wcr"]


def command(runs, *flags):
    return [sys.executable, str(REPOSITORY / "sweeps" / "digits.py"), "--runs", str(runs), *SMALL, *ARMS, *flags]


def run(runs, *flags, expect=0):
    done = subprocess.run(command(runs, *flags), cwd=runs, capture_output=True, text=True, timeout=240)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout


def start_and_interrupt(runs, sig, when, *flags):
    """Start a sweep, send it a signal as soon as its journal satisfies `when`; returns its exit code and output."""
    journal = runs / "digits" / "journal.jsonl"
    process = subprocess.Popen(
        command(runs, *flags), cwd=runs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if when(Counter(entry["event"] for entry, _ in Journal.read(journal))):
                break
            time.sleep(0.02)
        process.send_signal(sig)
        shown, _ = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            process.kill()
    return process.returncode, shown


def results(runs):
    """Everything that a sweep says, but for seconds: those differ from run to run."""
    records = Records.replay(runs / "digits")
    return {
        key: (t.phase, t.arm, t.number, t.config, t.status, [{**r, "seconds": 0} for r in t.rungs], t.curve, t.test)
        for key, t in records.trials.items()
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    runs = tmp_path_factory.mktemp("undisturbed")
    return runs, run(runs)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The same sweep, its driver killed while the search runs, and stopped by Ctrl-C while the confirmation does."""
    runs = tmp_path_factory.mktemp("killed")
    assert start_and_interrupt(runs, signal.SIGKILL, lambda n: n["end"] >= 2 and n["rung"] >= 8)[0] == -signal.SIGKILL
    code, shown = start_and_interrupt(runs, signal.SIGINT, lambda n: n["end"] >= 7)
    assert code == 130, shown
    assert "Stopped. The same command goes on from here." in shown
    assert "Traceback" not in shown
    started = Records.replay(runs / "digits").trials
    assert any(not trial.done for trial in started.values()) or len(started) < 10
    return runs, run(runs)


def test_it_prints_the_best_and_the_table(undisturbed):
    runs, shown = undisturbed
    assert "digits  10/10 " in shown
    for arm in ("sgd + none", "sgd + wcr", "sam + none", "sam + wcr"):
        assert arm in shown
    assert "Best: s" in shown
    assert "n = 2" in shown
    assert f"python -m sweeps ui --runs {runs}" in shown
    assert "Traceback" not in shown
    assert "Warning" not in shown
    assert {path.name for path in (runs / "digits").iterdir()} >= {"journal.jsonl", "study.log", "curve.png", "trials"}
    assert (runs / "mlflow.db").exists()


def test_a_killed_sweep_ends_as_an_undisturbed_one(undisturbed, killed):
    assert results(killed[0]) == results(undisturbed[0])
    assert len(results(killed[0])) == 10
    for phase, number in (("search", 6), ("confirm", 4)):
        assert sum(result[0] == phase for result in results(killed[0]).values()) == number


def test_nothing_that_had_finished_was_repeated(killed):
    events = [
        (e["event"], e.get("trial"), e.get("report", {}).get("epoch")) for e, _ in Journal.read(journal_of(killed))
    ]
    counted = Counter(event for event in events if event[0] in ("start", "rung", "end"))
    assert set(counted.values()) == {1}


def journal_of(sweep):
    return sweep[0] / "digits" / "journal.jsonl"


def test_the_studies_agree_and_have_no_trial_left_running(undisturbed, killed):
    def content(runs):
        storage = open_storage(runs / "digits" / "study.log")
        return {
            study.study_name: [
                (t.number, t.state, t.params, t.value)
                for t in optuna.load_study(study_name=study.study_name, storage=storage).get_trials()
            ]
            for study in optuna.get_all_study_summaries(storage)
        }

    assert content(killed[0]) == content(undisturbed[0])
    states = [trial[1].name for trials in content(killed[0]).values() for trial in trials]
    assert states == ["COMPLETE"] * 6


def test_each_trial_is_one_mlflow_run_below_the_parent(killed):
    from mlflow import MlflowClient

    client = MlflowClient(default_tracking_uri(killed[0]))
    experiment = client.get_experiment_by_name("digits")
    runs = client.search_runs([experiment.experiment_id])
    assert Counter(run.data.tags["trial"] for run in runs) == Counter(["all", *results(killed[0])])
    assert {run.info.status for run in runs} == {"FINISHED"}
    parent = next(run for run in runs if run.data.tags["trial"] == "all")
    assert "best_run" in parent.data.tags
    assert {a.path for a in client.list_artifacts(parent.info.run_id)} == {"curve.png", "summary.json", "summary.md"}
    for one in runs:
        for name in one.data.metrics:
            steps = [metric.step for metric in client.get_metric_history(one.info.run_id, name)]
            assert len(steps) == len(set(steps)), name


def test_a_pruned_checkpoint_from_mlflow_has_its_sparsity_and_its_accuracy(undisturbed, tmp_path):
    import json

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
        assert acc == recorded[split]["acc"] == metrics[f"{prefix}acc_pruned/0.96"]


def test_the_same_command_again_trains_nothing_and_says_the_same(undisturbed):
    runs, before = undisturbed
    journal = journal_of(undisturbed).read_bytes()
    after = run(runs)
    assert "10 are done already" in after
    assert after[after.index("Best trial of each arm") :] == before[before.index("Best trial of each arm") :]
    assert journal_of(undisturbed).read_bytes() == journal


def test_best_and_report_read_the_same_records(undisturbed):
    import json

    sweeps = [sys.executable, "-m", "sweeps"]
    rows = json.loads(subprocess.check_output([*sweeps, "best", "--json", "--runs", undisturbed[0]], text=True))
    found = {(row["optimizer"], row["regularizer"]) for row in rows if row["sparsity"] == 0.96}
    assert found == {("sgd", "none"), ("sgd", "wcr"), ("sam", "none"), ("sam", "wcr")}
    summary = Records.replay(undisturbed[0] / "digits").summary
    top = next(r for r in rows if r["sparsity"] == 0.96 and r["trial"] and r["n"] == 3)
    assert top["n"] == 3  # the search's seed and the two of the confirmation
    shown = subprocess.check_output([*sweeps, "report", "digits", "--runs", undisturbed[0]], text=True)
    assert f"{summary['winner']['optimizer']} + {summary['winner']['regularizer']}" in shown


def test_reuse_best_starts_from_what_another_sweep_found_and_divergence_is_a_result(undisturbed):
    runs = undisturbed[0]
    known = {
        (row["optimizer"], row["regularizer"]): (row["lam"], row["rho"])
        for row in best(runs)
        if row["sparsity"] == 0.96
    }
    shown = run(runs, "--name", "again", "--reuse-best", "--trials", "4", "--opt", "lr=1e6", expect=1)
    trials = Records.replay(runs / "again").trials.values()
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

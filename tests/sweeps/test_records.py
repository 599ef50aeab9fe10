import json
import os
import sqlite3
import subprocess
import sys
import time

import pytest

from sweeps._records import Records, Shipper, best, default_tracking_uri, flatten, mean_and_spread, metrics_of
from sweeps._report import summarize


def test_one_spelling_goes_all_the_way():
    assert flatten({"lam": 1e-5, "opt": {"rho": 0.1, "lr": 1}}) == {"lam": 1e-5, "opt/rho": 0.1, "opt/lr": 1}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.5], {"value": 0.5, "spread": None, "n": 1}),
        ([1.0, 2.0, 3.0, 4.0], {"value": 2.5, "spread": pytest.approx((5 / 3) ** 0.5), "n": 4}),  # sum of squares 5
    ],
)
def test_spread_is_the_sample_standard_deviation(values, expected):
    assert mean_and_spread(values) == expected


def test_records_are_the_same_after_they_are_opened_again(recorder):
    key = recorder.trial((0.9, 0.7), rungs=2)
    again = Records.replay(recorder.records.folder)
    assert again.trials == recorder.records.trials
    assert again.trials[key].at(0.9, "acc") == 0.7
    assert [rung["epoch"] for rung in again.trials[key].rungs] == [1, 2]


def test_a_repeated_start_rung_or_end_is_recorded_once(recorder):
    key = recorder.trial((0.9, 0.7), rungs=2)
    before = recorder.records.journal.path.read_bytes()
    recorder.records.start(key, phase="search", arm="sam + wcr", number=0, config={})
    recorder.records.rung(key, {"epoch": 2, "loss": 0.0})
    recorder.records.end(key, status="lost", reason="late news of a host that was parted")
    assert recorder.records.journal.path.read_bytes() == before


def test_a_trial_without_a_result_is_recorded_as_lost(recorder):
    config = {"optimizer": "sgd", "max_epochs": 1}
    recorder.records.start("abc", phase="search", arm="sgd + none", number=0, config=config)
    recorder.records.end("abc", status="lost", reason="its worker died")
    assert (recorder.records.trials["abc"].status, recorder.records.trials["abc"].reason) == ("lost", "its worker died")


def test_a_folder_of_another_sweep_is_refused_and_says_what_differs(recorder):
    recorder.records.close()
    with pytest.raises(ValueError, match=r"toy: must be of the same sweep.*\(seed: 0 there, 7 here\): choose another"):
        Records(recorder.records.folder, recorder.records.header["identity"] | {"seed": 7})


def test_a_second_process_is_refused_by_a_lock_that_names_its_holder(recorder):
    with pytest.raises(ValueError, match=rf"one process at a time, is in use by process {os.getpid()} on "):
        Records(recorder.records.folder, recorder.records.header["identity"])


def test_a_lock_goes_with_a_killed_process(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from sweeps._records import Records;"
        "records = Records(Path(sys.argv[1]), {'a': 1}); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=f"in use by process {process.pid}"):
            Records(tmp_path, {"a": 1})
        process.kill()
        process.wait()
    Records(tmp_path, {"a": 1}).close()


# ---- best ------------------------------------------------------------------------------------------------------


def rows_of(runs, **only):
    rows = best(runs, **only)
    return {(r["optimizer"], r["regularizer"], r["sparsity"]): (r["lam"], r["rho"], r["value"], r["n"]) for r in rows}


def test_best_is_per_arm_and_sparsity_and_counts_only_finished_trials(recorder, tmp_path):
    recorder.trial((0.99, 0.5), lam=1e-6)
    recorder.trial((0.95, 0.8), lam=1e-4, rho=0.3)
    recorder.trial((0.97, 0.6), optimizer="sgd", regularizer="none")
    recorder.trial((1.0, 1.0), status="diverged", lam=1e-1)
    assert rows_of(tmp_path / "runs") == {
        ("sam", "wcr", 0.0): (1e-6, 0.1, 0.99, 1),
        ("sam", "wcr", 0.9): (1e-4, 0.3, 0.8, 1),
        ("sgd", "none", 0.0): (None, None, 0.97, 1),
        ("sgd", "none", 0.9): (None, None, 0.6, 1),
    }
    assert list(rows_of(tmp_path / "runs", optimizer="sgd")) == [("sgd", "none", 0.0), ("sgd", "none", 0.9)]
    assert best(tmp_path / "runs", skip_sweep="toy") == []
    assert best(tmp_path / "nothing") == []


def test_a_confirmed_configuration_comes_before_a_lucky_one(recorder, tmp_path):
    recorder.trial((0.9, 0.95), lam=1e-6)  # tried once
    recorder.trial((0.9, 0.90), lam=1e-5)
    for seed, acc in ((1, 0.84), (2, 0.93)):
        recorder.trial((0.9, acc), lam=1e-5, seed=seed, phase="confirm", test=(0.1, 0.1))
    row = next(r for r in best(tmp_path / "runs") if r["sparsity"] == 0.9)
    assert (row["lam"], row["value"], row["n"]) == (1e-5, pytest.approx((0.90 + 0.84 + 0.93) / 3), 3)


# ---- MLflow ----------------------------------------------------------------------------------------------------


def ship(folder, uri):
    warnings = []
    shipper = Shipper(folder, uri, warn=warnings.append)
    shipper.start()
    return shipper.finish(timeout=60), warnings


def rows(uri, query):
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        return database.execute(query).fetchall()


def fill(recorder):
    keys = [recorder.trial((0.9, 0.7), lam=lam, rungs=2) for lam in (1e-6, 1e-5)]
    keys.append(recorder.trial(None, status="diverged", lam=1e-1))
    keys.append(recorder.trial((0.9, 0.6), lam=1e-5, seed=1, phase="confirm", test=(0.8, 0.5)))
    summary = summarize(recorder.records, objective="acc", target_sparsity=0.9, complete=True)
    recorder.records.summarize(summary)
    return keys


def test_mlflow_gets_everything_once_however_often_it_is_shipped(recorder, tmp_path):
    runs = tmp_path / "runs"
    uri = default_tracking_uri(runs)
    keys = fill(recorder)
    folder = recorder.records.folder
    assert ship(folder, uri) == (0, [])

    def state():
        metrics = rows(uri, "select run_uuid, key, step, value from metrics order by 1, 2, 3, 4")
        artifacts = sorted(str(p.relative_to(runs)) for p in (runs / "mlartifacts").rglob("*") if p.is_file())
        versions = rows(uri, "select name, version, run_id from model_versions")
        return rows(uri, "select run_uuid, name, status from runs order by 1"), metrics, artifacts, versions

    once = state()
    assert len({row[:3] for row in once[1]}) == len(once[1])
    (folder / "shipped.json").unlink()  # a process killed before it could note how far it had come
    assert ship(folder, uri) == (0, [])
    assert state() == once

    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("toy")
    found = {run.data.tags["trial"]: run for run in client.search_runs([experiment.experiment_id])}
    assert set(found) == {"all", *keys}
    parent = found["all"].info.run_id
    assert all(found[key].data.tags["mlflow.parentRunId"] == parent for key in keys)
    assert [found[key].info.status for key in keys] == ["FINISHED", "FINISHED", "FAILED", "FINISHED"]
    assert found[keys[2]].data.tags["reason"] == "it diverged"
    assert found[keys[1]].data.params["opt/rho"] == "0.1"
    metrics = found[keys[3]].data.metrics
    assert (metrics["lam"], metrics["rho"], metrics["log10_lam"]) == (1e-5, 0.1, -5.0)
    assert (metrics["acc_pruned/0.9"], metrics["test_acc_pruned/0.9"]) == (0.6, 0.5)
    assert [m.step for m in client.get_metric_history(found[keys[0]].info.run_id, "loss")] == [1, 2, 3]
    assert {a.path for a in client.list_artifacts(found[keys[0]].info.run_id)} == {
        "curve.png",
        "layers.json",
        "pruned",
        "weights.png",
    }
    winner = client.get_model_version_by_alias("small_resnet-digits-0.9", "best")
    assert (winner.run_id, winner.tags["lam"], winner.tags["rho"]) == (found[keys[3]].info.run_id, "1e-05", "0.1")
    assert found["all"].data.tags["best_run"] == winner.run_id
    assert len({row[1] for row in once[1]}) < 40


def test_a_chunk_that_fails_half_way_is_sent_again_without_doubles(recorder, tmp_path, monkeypatch):
    from mlflow import MlflowClient

    uri = default_tracking_uri(tmp_path / "runs")
    fill(recorder)
    real, calls = MlflowClient.log_batch, []

    def failing(self, *args, **kwargs):
        calls.append(args)
        if len(calls) in (3, 8):
            raise ConnectionError("the server went away")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "log_batch", failing)
    warnings = []
    shipper = Shipper(recorder.records.folder, uri, warn=warnings.append)
    shipper.start()
    deadline = time.monotonic() + 60
    while shipper.num_waiting and time.monotonic() < deadline:
        time.sleep(0.2)
    assert shipper.finish(10) == 0
    assert len(warnings) == 1  # one outage, however many tries
    assert len(calls) > 8
    assert "the server went away); the journal keeps everything" in warnings[0]
    found = rows(uri, "select run_uuid, key, step from metrics")
    assert len(found) == len(set(found))
    entries = [json.loads(line) for line in recorder.records.journal.path.read_text().splitlines()]
    expected = sum(1 for e in entries if e["event"] in ("start", "rung", "end") for _ in metrics_of(e))
    assert len(found) == expected + 1  # and the parent's own


def test_a_dead_tracking_server_neither_raises_nor_loses_anything(recorder, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    fill(recorder)
    left, warnings = ship(recorder.records.folder, "http://127.0.0.1:9")  # the discard port: nobody listens
    assert left == len(recorder.records.journal.path.read_text().splitlines())
    assert len(warnings) == 1
    assert "MLflow at http://127.0.0.1:9 is not reached" in warnings[0]


def test_a_rung_that_a_killed_driver_did_not_hear_of_is_found_in_the_trials_result(recorder):
    records = recorder.records
    records.start("abc", phase="search", arm="sgd + none", number=0, config={})
    records.rung("abc", {"epoch": 1, "loss": 3.0})
    records.rung("abc", {"epoch": 3, "loss": 1.0})  # 2 was trained and kept in the checkpoint; then the driver died
    rungs = [{"epoch": epoch, "loss": 4.0 - epoch} for epoch in (1, 2, 3)]
    folder = records.trial_folder("abc")
    folder.mkdir(parents=True)
    result = {"report": {"status": "finished", "reason": "", "epoch": 4}, "notes": [], "rungs": rungs}
    (folder / "result.json").write_text(json.dumps(result))
    records.end("abc")
    assert records.trials["abc"].rungs == rungs
    assert Records.replay(records.folder).trials["abc"].rungs == rungs

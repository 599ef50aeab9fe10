import json

import pytest
from mlflow import MlflowClient

from service.tracking.metrics import metrics_of
from service.tracking.mlflow_writer import MlflowWriter
from service.tracking.run_fields import sweep_params
from tests._tracking import assert_as_the_events_say, runs_of
from tests.service._sweeps import SWEEPS, load_sweep, make


def write(toy, uri):
    """Write all events of a sweep, as often as this is called."""
    writer = MlflowWriter(toy.folder, uri)
    assert writer.write([event for event, _ in toy.recorder.log.read(toy.recorder.log.path)]) == {}


def test_metrics_of_events():
    config = {"lam": 1e-5, "opt": {"rho": 0.1, "lr": 0.5}}
    assert list(metrics_of({"event": "start", "config": config})) == [
        ("lam", 1e-5, 0),
        ("log10_lam", -5.0, 0),
        ("rho", 0.1, 0),
    ]
    without = {"lam": 0.0, "opt": {}}
    assert list(metrics_of({"event": "start", "config": without})) == [("lam", 0.0, 0), ("rho", 0.0, 0)]
    report = {"epoch": 3, "loss": 0.5, "acc_dense": None, "status": "running"}
    assert list(metrics_of({"event": "evaluation", "report": report})) == [("loss", 0.5, 3)]
    end = {
        "event": "end",
        "status": "finished",
        "report": report,
        "diagnostics": {"loss_gap": 0.25},
        "objective": "acc",
        "target_sparsity": 0.9,
        "pruned": [
            {
                "label": "magnitude global",
                "curve": [
                    {"sparsity": 0.9, "acc": 0.7, "loss": 1.0, "collapsed": 0.0, "macs": 40, "macs_left": 0.4},
                ],
                "test": [{"sparsity": 0.9, "acc": 0.6, "macs": 40, "macs_left": 0.4}],
            },
            {"label": "snip 2:4", "curve": [{"sparsity": 0.5, "acc": 0.8}], "test": [{"sparsity": 0.5, "acc": 0.75}]},
        ],
    }
    assert list(metrics_of(end)) == [
        ("loss", 0.5, 3),
        ("loss_gap", 0.25, 3),
        ("acc_pruned/0.9", 0.7, 3),
        ("macs", 40, 3),
        ("macs_left", 0.4, 3),
        ("test_acc_pruned/0.9", 0.6, 3),
        ("sparsity", 0.9, 900),
        ("acc_by_sparsity", 0.7, 900),
        ("test_acc_by_sparsity", 0.6, 900),
        ("acc_by_sparsity/snip 2_4", 0.8, 500),
        ("test_acc_by_sparsity/snip 2_4", 0.75, 500),
    ]
    assert not {"macs", "macs_left"} & {name for name, *_ in metrics_of(end | {"target_sparsity": 0.95})}
    assert list(metrics_of(end | {"status": "diverged"})) == []
    assert list(metrics_of({"event": "retry"})) == []


def test_levels_in_the_same_thousandth_are_one_point_of_the_curve():
    rows = [{"sparsity": s, "dice": s / 2} for s in (0.0, 0.9996, 0.9999)]
    end = {"event": "end", "status": "finished", "report": {"epoch": 1}, "diagnostics": {}, "objective": "dice"}
    points = list(metrics_of(end | {"pruned": [{"label": "magnitude global", "curve": rows, "test": None}]}))
    assert [(value, step) for name, value, step in points if name == "dice_by_sparsity"] == [(0.0, 0), (0.49995, 1000)]


def test_a_trials_run_has_its_arm_and_its_status_as_tags(toy, uri):
    finished, diverged = toy.trial((0.9, 2 / 3)), toy.trial(None, status="diverged", lam=0.1)
    write(toy, uri)
    runs = runs_of(MlflowClient(uri), toy.folder)
    assert runs[finished].data.metrics["acc_pruned"] == 0.666667  # MLflow's tables show every digit
    tags = {key: run.data.tags for key, run in runs.items()}
    assert {tags[key]["arm"] for key in (finished, diverged)} == {"sam + wcr"}
    assert (tags[finished]["status"], tags[finished]["phase"]) == ("finished", "search")
    assert "reason" not in tags[finished]
    assert (tags[diverged]["status"], tags[diverged]["reason"]) == ("diverged", "it diverged")


def test_a_collapsed_trial_has_a_tag_instead_of_a_metric(toy, uri):
    folder = toy.folder
    marks = {"warnings": ["collapsed: constant"], "diagnostics": {"penalty_ratio_max": 12.5}}
    one = toy.trial((0.1, 0.1), more={"collapsed": 1.0}, marks=marks)
    other = toy.trial((0.9, 0.8), lam=1e-4, more={"collapsed": 0.0})
    write(toy, uri)
    runs = runs_of(MlflowClient(uri), folder)
    assert runs[one].data.tags["collapsed"] == "yes"
    assert "collapsed" not in runs[other].data.tags
    assert not [name for name in runs[one].data.metrics if "collapsed" in name]
    assert runs[one].data.metrics["penalty_ratio_max"] == 12.5


def test_a_trial_that_runs_again_has_the_same_run_with_each_point_once(toy, uri):
    folder = toy.folder
    again = toy.trial(None, status="diverged", lam=1e-1, evaluations=2)
    write(toy, uri)
    client = MlflowClient(uri)
    first = runs_of(client, folder)[again]
    assert (first.info.status, first.data.tags["reason"]) == ("FAILED", "it diverged")
    assert toy.recorder.retry(["diverged"]) == [again]
    write(toy, uri)
    assert runs_of(client, folder)[again].info.status == "RUNNING"
    assert toy.trial((0.9, 0.8), lam=1e-1, evaluations=3) == again
    write(toy, uri)
    last = runs_of(client, folder)[again]
    assert (last.info.run_id, last.info.status, last.data.tags["status"]) == (
        first.info.run_id,
        "FINISHED",
        "finished",
    )
    assert not last.data.tags["reason"]
    assert_as_the_events_say(client, folder)
    write(toy, uri)
    assert_as_the_events_say(client, folder)


def test_the_sweeps_params_have_the_trials_names_and_one_entry_for_each_range():
    identity = make().identity()
    params = sweep_params(identity)
    assert (params["architecture"], params["opt/lr"], params["num_search_seeds"]) == ("small_resnet", 0.1, 1)
    assert json.loads(params["search/ranges/opt/rho"]) == identity["search"]["ranges"]["opt/rho"]
    assert len(params) < 100  # what MLflow accepts at once


@pytest.mark.parametrize("name", SWEEPS)
def test_the_params_of_every_sweep_fit_into_one_request(name):
    assert len(sweep_params(load_sweep(name).identity())) < 100


def test_later_pruning_is_recorded_in_the_same_run(toy, uri):
    key = toy.trial((0.9, 0.8))
    write(toy, uri)
    before = runs_of(MlflowClient(uri), toy.folder)[key]
    result = json.loads((toy.state.trial_folder(key) / "result.json").read_text())
    snip = {"label": "snip uniform", "method": {}, "curve": [{"sparsity": 0.9, "acc": 0.85}], "test": None}
    toy.write_result(key, result | {"pruned": [*result["pruned"], snip]})
    toy.recorder.trial_ended(key)
    for _ in range(2):  # sending twice changes nothing
        write(toy, uri)
        after = runs_of(MlflowClient(uri), toy.folder)[key]
        assert after.info.run_id == before.info.run_id
        assert after.info.status == "FINISHED"
        assert after.data.metrics == before.data.metrics | {"acc_by_sparsity/snip uniform": 0.85}
        client = MlflowClient(uri)
        assert len(client.get_metric_history(before.info.run_id, "acc_pruned")) == 2  # an evaluation, and the end


def test_a_pruning_that_failed_is_a_tag(toy, uri):
    key = toy.trial((0.9, 0.8))
    toy.recorder.trial_ended(key, failure=("error", "no memory"), is_complete=lambda result: False)
    write(toy, uri)
    run = runs_of(MlflowClient(uri), toy.folder)[key]
    assert (run.data.tags["status"], run.data.tags["not_pruned"]) == ("finished", "no memory")

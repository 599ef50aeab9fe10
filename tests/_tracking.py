"""What MLflow must have of a sweep, whatever happened on the way: what the event log says, each thing once."""

from collections import Counter

from service.records.events import EventLog
from service.tracking.metrics import metrics_of


def runs_of(client, folder):
    """Of a sweep in MLflow: trial -> its run. There is one each."""
    experiment = client.get_experiment_by_name(folder.name)
    found = client.search_runs([experiment.experiment_id])
    assert len({run.data.tags["trial"] for run in found}) == len(found)
    return {run.data.tags["trial"]: run for run in found}


def assert_as_the_events_say(client, folder, without=()):
    """Each trial has one run, and each (metric, step) of it is there once, with the value that came first."""
    expected = {}
    for entry, _ in EventLog.read(folder / "events.jsonl"):
        if entry.get("trial", "") not in ("", *without):
            points = expected.setdefault(entry["trial"], {})
            for name, value, step in metrics_of(entry):
                points.setdefault((name, step), value)
    found = runs_of(client, folder)
    assert set(found) - set(without) == {"all", *expected}
    for key, points in expected.items():
        run = found[key]
        history = [m for name in run.data.metrics for m in client.get_metric_history(run.info.run_id, name)]
        assert Counter((m.key, m.step) for m in history) == Counter(points.keys())
        assert {(m.key, m.step): m.value for m in history} == points

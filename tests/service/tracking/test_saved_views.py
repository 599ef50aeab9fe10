"""The views that MLflow's pages open, as tags of an experiment."""

import base64
import json
import zlib

import pytest

import sparsity
from service.tracking.saved_views import TAG, experiments_with_views, link, note, run_colour, views

LONGEST = 20_000  # characters of a tag that MLflow keeps


def state(value):
    packed = json.loads(value)["state"]
    return json.loads(zlib.decompress(base64.b64decode(packed.removeprefix("deflate;"))))


@pytest.mark.parametrize("objective", ["acc", "f1"])
def test_views_show_every_trial_sorted_by_the_objective(objective):
    found = dict(views(objective, 1234))
    assert list(found) == [TAG + "trials", TAG + "arms", TAG + "confirmed"]
    assert all(len(value) < LONGEST for value in found.values())
    trials = state(found[TAG + "trials"])
    assert trials["orderByKey"] == f"metrics.`{objective}_pruned`"
    assert trials["searchFilter"] == "tags.trial != 'all'"
    drawn = [metric for chart in trials["compareRunCharts"] for metric in chart.get("selectedMetricKeys", ())]
    assert drawn == [f"{objective}_by_sparsity", f"{objective}_pruned"]
    assert state(found[TAG + "confirmed"])["searchFilter"] == "tags.phase = 'confirm'"
    assert state(found[TAG + "arms"])["groupBy"]["groupByKeys"] == [{"mode": "tag", "groupByData": "arm"}]
    assert found == dict(views(objective, 1234))  # writing them again changes nothing


def test_a_note_links_to_the_views():
    text = note("7", "Best: sam + wcr.")
    assert text.startswith("Best: sam + wcr. Compare: [charts](#/experiments/7/runs?viewStateShareKey=trials&")
    assert link("7").startswith("/#/experiments/7/")


def test_only_experiments_with_views_have_pages():
    answer = {"experiments": [
        {"name": "digits", "experiment_id": "1", "tags": [{"key": TAG + "trials", "value": "x"}]},
        {"name": "Default", "experiment_id": "0"},
    ]}  # fmt: skip
    assert experiments_with_views(answer) == [("digits", "1")]
    assert experiments_with_views({}) == []


def test_each_regularizer_has_a_colour():
    names = sparsity.names("regularizers")
    assert len({run_colour(name) for name in names}) == len(names)
    assert run_colour("nets.py:Mine").startswith("#")

"""A dense loss curve per task: training that silently learns less than it did is found here, not in a sweep."""

import json
from pathlib import Path

import pytest

from trainables.config import TrialConfig
from trainables.training import load_task, train

BASELINES = sorted((Path(__file__).parent / "baselines").glob("*.json"))


@pytest.mark.parametrize("path", BASELINES, ids=lambda path: path.stem)
def test_the_dense_loss_curve_is_the_recorded_one(path):
    baseline = json.loads(path.read_text())
    config = TrialConfig.model_validate(baseline["config"])
    losses = []
    _, evaluation = train(load_task(config), config, report=lambda report: losses.append(report["loss"]))
    assert losses == pytest.approx(baseline["loss"], rel=0.1)  # another CPU rounds otherwise; learning is the same
    assert evaluation.metrics[0.0]["acc"] == pytest.approx(baseline["acc_dense"], abs=0.03)

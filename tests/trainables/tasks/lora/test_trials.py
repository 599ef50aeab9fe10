import json
import math

import pytest

from tests.trainables.tasks.lora._setting import PROJECTIONS, configuration
from trainables.loop import Training
from trainables.pruning import load_pruned
from trainables.result import SIZES
from trainables.runner import TrialRunner
from trainables.tasks.lora import LoRA


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """The folder, result and task of a finished trial that reads the test split."""
    config = configuration(
        data={"tasks": "boolq"},
        model={"hidden_size": 32},
        task_args={"r": 16, "alpha": 32},
        batch_size=8,
        max_epochs=6,
        num_evaluations=3,
        read_test=True,
    )
    task = LoRA(config, LoRA.load(config, str(folder)))
    folder = tmp_path_factory.mktemp("trial")
    trial = TrialRunner(config, folder, lambda: task)
    while (report := trial.advance())["status"] == "running":
        pass
    assert report["status"] == "finished", report["reason"]
    return folder, json.loads((folder / "result.json").read_text()), task


def test_learns(finished):
    dense = finished[1]["pruned"][0]["curve"][0]
    assert dense["sparsity"] == 0
    assert dense["acc_boolq"] > 0.9 > 0.5
    assert dense["greedy_agreement"] > 0.9
    assert dense["loss"] < 0.3


def test_a_pruned_checkpoint_loads_without_internet_with_the_same_metrics(finished, monkeypatch):
    folder, result, task = finished
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("it asked the network"))
    model = load_pruned(folder / "pruned" / "0.3")
    weights = [m.weight for n, m in model.named_modules() if n.split(".")[-1] in PROJECTIONS]
    assert len(weights) == 14
    for weight in weights:
        assert (weight == 0).sum() == round(0.3 * weight.numel())  # uniform
    metrics = task.evaluate(model, "validation")
    assert metrics == {k: v for k, v in result["pruned"][0]["curve"][-1].items() if k not in ("sparsity", *SIZES)}
    described = json.loads((folder / "pruned" / "0.3" / "sparsity.json").read_text())
    assert described["baselines"]["test"]["boolq"]["chance"] == 0.5
    assert described["trial_config"]["model"]["base"] == "tiny-qwen2"
    assert (folder / "pruned" / "0.3" / "tokenizer.json").read_text() == task.data.tokenizer


def test_writes_the_figure_and_its_numbers(finished):
    folder, result, _ = finished
    assert {path.name for path in (folder / "figures").iterdir()} == {"accuracy.json", "accuracy.png"}
    found = json.loads((folder / "figures" / "accuracy.json").read_text())
    assert found.keys() == {"validation", "test"}
    one = found["test"]["boolq"]
    assert (one["num"], one["chance"]) == (30, 0.5)
    assert one["0"]["acc"] == result["pruned"][0]["test"][0]["acc_boolq"]
    p = one["0.3"]["acc"]
    assert one["0.3"]["standard_error"] == pytest.approx(math.sqrt(p * (1 - p) / 30))


def test_resumed_equals_never_stopped(data, tmp_path):
    config = configuration(
        train_size=32,
        eval_size=10,
        task_args={"regularize": "merged"},
        regularizer="wcr",
        lam=1e-9,
        optimizer="s2sam",
        opt={"base": "adamw", "rho": 0.05},
        lr_schedule="linear_warmup",
        lr_sched={"num_warmup_steps": 3},
    )

    def run(folder, *, stop):
        trial = TrialRunner(config, folder, lambda: LoRA(config, data))
        while (report := trial.advance())["status"] == "running":
            if stop:  # a new one, which resumes from the folder
                trial = TrialRunner(config, folder, lambda: LoRA(config, data))
        assert report["status"] == "finished", report["reason"]
        result = json.loads((folder / "result.json").read_text())
        return [result["pruned"], [{**evaluation, "seconds": 0} for evaluation in result["evaluations"]]]

    assert run(tmp_path / "whole", stop=False) == run(tmp_path / "stopped", stop=True)


def test_a_checkpoint_holds_the_factors_only(make):
    task, _ = make()
    training = Training(task, task.config)
    state = training.state_dict()["model"]
    assert state.keys() == {name for name, p in training.model.named_parameters() if p.requires_grad}
    merged = training.trained_model()
    assert len(merged.state_dict()) > 14  # all weights
    with pytest.raises(RuntimeError, match="lora_A"):
        training.model.load_state_dict({name: t for name, t in state.items() if "layers.0.mlp.up_proj" not in name})

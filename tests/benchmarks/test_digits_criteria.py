import json

import numpy as np
import pytest

from benchmarks import digits_criteria as study
from benchmarks._ablation_jobs import initial_config
from service.statistics import sign_flip_p
from trainables.loop import load_task, train
from trainables.pruning import evaluate_pruned

LEVELS = [f"{level:g}" for level in study.LEVELS]


def lines(num_seeds=12, gain=0.02):
    """LAMP keeps `gain` more than magnitude, and a little more from seed to seed; all other methods keep the same."""
    for arm in study.ARMS:
        for seed in list(study.SEEDS)[:num_seeds]:
            methods = {
                method.label: {
                    "acc": {
                        f"{level:g}": 0.7 + (gain + seed / 1e5) * (method.criterion == "lamp") for level in study.LEVELS
                    },
                    "empty": {f"{level:g}": 2 * (method.label == study.REFERENCE) for level in study.LEVELS},
                }
                for method in study.METHODS
            }
            labels = {"optimizer": arm[0], "regularizer": arm[1], "seed": seed}
            yield {"event": "job", "job": f"{arm}/{seed}", "key": "k", **labels, "methods": methods, "cpu_s": 60.0}


def test_the_section_of_hand_made_lines():
    text = study.section(list(lines()))
    assert "60 trainings, 60 CPU minutes" in text
    assert "Not complete" not in text
    assert "| sgd + none | magnitude global | 12 |" in text
    assert "[0.700, 0.700] | 2.0 |" in text
    smallest = sign_flip_p(np.array([0.02 + seed / 1e5 for seed in study.SEEDS]))
    row = next(line for line in text.splitlines() if line.startswith("| sam + wcr: lamp global |"))
    assert f"| 12 | +0.022 | +0.022 to +0.022 | {smallest:.2g} | {20 * smallest:.2g} | higher |" in row
    assert sum(line.endswith("| 1 | 1 | no |") for line in text.splitlines()) == 15


def test_a_part_says_that_it_is_one():
    text = study.section(list(lines(num_seeds=2)))
    assert text.startswith("**Not complete:** 10 of 60 trainings have run.")
    assert " higher |" not in text
    assert study.section([]) == "Not measured yet."


def test_the_command_trains_what_has_no_line_and_writes_the_section(tmp_path, monkeypatch, capsys):
    arm = ("sgd", "none")
    config = initial_config(*arm)
    monkeypatch.setattr(study, "ARMS", (arm,))
    monkeypatch.setattr(study, "SEEDS", range(200, 201))
    monkeypatch.setattr(study, "METHODS", (study.METHODS[0], study.METHODS[4]))
    monkeypatch.setattr(study, "COMPARED", ("wanda row",))
    monkeypatch.setattr(study, "studied_configs", lambda runs: {arm: config})
    results, page = tmp_path / "lines.jsonl", tmp_path / "page.md"
    arguments = ["--epochs", "1", "--results", str(results), "--processes", "1"]
    assert study.main(arguments) == 0
    (line,) = map(json.loads, results.read_text().splitlines())
    trained = config.model_copy(update={"seed": 200, "max_epochs": 1})
    task = load_task(trained)
    model, _ = train(task, trained)
    evaluation = evaluate_pruned(task, model, trained, (0.0, *study.LEVELS), "test")
    expected = {f"{level:g}": pytest.approx(evaluation.metrics[level]["acc"], abs=1e-6) for level in study.LEVELS}
    assert line["methods"]["magnitude global"]["acc"] == expected
    assert line["dense"] == pytest.approx(evaluation.metrics[0.0]["acc"], abs=1e-6)
    assert study.main(arguments) == 0
    assert len(results.read_text().splitlines()) == 1
    page.write_text(f"before\n{study.START}\nold\n{study.END}\nafter\n")
    assert study.main(["--write", "--results", str(results), "--page", str(page)]) == 0
    text = page.read_text()
    assert "| sgd + none | wanda row | 1 |" in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text


def test_every_job_has_the_studys_configuration_with_an_unseen_seed():
    arms = {arm: initial_config(*arm) for arm in study.ARMS}
    jobs = list(study.all_jobs(arms))
    assert len(jobs) == len({job.name for job in jobs}) == 60
    for job in jobs:
        arm = job.labels["optimizer"], job.labels["regularizer"]
        assert job.config.seed == job.labels["seed"] >= 200
        assert job.config == arms[arm].model_copy(update={"seed": job.config.seed})

"""Tasks for lm-evaluation-harness: the files, and that the harness chooses the answers that a sweep's metrics count."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml

from tests.trainables._tiny_tasks import MODELS, tiny_config
from trainables.data.harness_tasks import harness_tasks, write_harness_tasks
from trainables.data.questions import Question
from trainables.pruning import load_pruned, save_trained
from trainables.pruning.trained import TrainedNetwork
from trainables.tasks.lora import LoRA

QUESTIONS = [
    Question("Is it?\n", ("it is true", "it is false"), 1, "boolq"),
    Question("Which – é?\n", ("it is answer1", "it is answer2", "it is answer3"), 0, "ARC-Easy"),
    Question("And?\n", ("it is true", "it is false"), 0, "boolq"),
]


def test_the_files_by_hand(tmp_path):
    assert write_harness_tasks(tmp_path / "tasks", "mine", QUESTIONS) == ["mine_ARC-Easy", "mine_boolq"]
    names = ["ARC-Easy.jsonl", "ARC-Easy.yaml", "boolq.jsonl", "boolq.yaml", "group.yaml"]
    assert sorted(path.name for path in (tmp_path / "tasks").iterdir()) == names
    records = [json.loads(line) for line in (tmp_path / "tasks" / "boolq.jsonl").read_text().splitlines()]
    assert records == [
        {"prompt": "Is it", "responses": ["?\nit is true", "?\nit is false"], "answer": 1},
        {"prompt": "And", "responses": ["?\nit is true", "?\nit is false"], "answer": 0},
    ]
    task = yaml.safe_load((tmp_path / "tasks" / "boolq.yaml").read_text())
    assert task["task"] == "mine_boolq"
    assert task["dataset_kwargs"]["data_files"] == {"test": str(tmp_path / "tasks" / "boolq.jsonl")}
    assert task["target_delimiter"] == ""
    group = yaml.safe_load((tmp_path / "tasks" / "group.yaml").read_text())
    assert (group["group"], group["task"]) == ("mine", ["mine_ARC-Easy", "mine_boolq"])


def test_bad_input_is_one_line(tmp_path, commonsense_folder):
    with pytest.raises(ValueError, match=r"^dataset: must have questions with candidate answers .*, got 'digits'$"):
        harness_tasks(tmp_path / "tasks", None, dataset="digits")
    with pytest.raises(ValueError, match=r"^data: arguments of commonsense must be among tasks, cutoff, got 'task'$"):
        harness_tasks(tmp_path / "tasks", commonsense_folder, arguments={"task": "boolq"})
    assert not (tmp_path / "tasks").exists()
    (tmp_path / "tasks").mkdir()
    with pytest.raises(FileExistsError, match=r"^folder: must not exist yet, got "):
        harness_tasks(tmp_path / "tasks", commonsense_folder)


@pytest.fixture
def records(tmp_path):
    """Four benchmarks with 60 training and 20 test questions each; ARC-Easy has three to five candidates."""
    random = np.random.default_rng(0)
    stems = {"piqa": "solution", "winogrande": "option", "ARC-Easy": "answer"}
    for task in ("boolq", *stems):
        (tmp_path / "records" / task).mkdir(parents=True)
        for split, num in (("train", 60), ("test", 20)):
            content = []
            for number in random.integers(0, 10_000, num).tolist():
                count = 3 + number % 3 if task == "ARC-Easy" else 2
                names = ["true", "false"] if task == "boolq" else [f"{stems[task]}{i + 1}" for i in range(count)]
                answer = names[number // 10 % count]
                asked = (
                    f"What's {number} na\u0308ive men's share?  {number / 7:.3f}%.\n\nAnswer format: {'/'.join(names)}"
                )
                output = f"the correct answer is {answer}"
                content.append({"instruction": asked, "input": "", "output": output, "answer": answer})
            (tmp_path / "records" / task / f"{split}.json").write_text(json.dumps(content))
    return tmp_path / "records"


@pytest.mark.extras
def test_the_harness_chooses_the_same_answers(records, tmp_path):
    """Record by record, in another process and without network."""
    pytest.importorskip("lm_eval")
    config = tiny_config("causal_lm", model={**MODELS["causal_lm"], "hidden_size": 32}, train_size=None, eval_size=None)
    config = config.model_copy(update={"read_test": True})
    task = LoRA(config, LoRA.load(config, str(records)))
    torch.manual_seed(0)
    network = task.deployed(task.build_model()).eval()
    save_trained(tmp_path / "checkpoint", TrainedNetwork(task, network, config), {})
    names = harness_tasks(tmp_path / "tasks", records)
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--device", "cpu", "--batch_size", "8"]
    command += ["--model_args", f"pretrained={tmp_path / 'checkpoint'},dtype=float32"]
    command += ["--include_path", str(tmp_path / "tasks"), "--tasks", "commonsense", "--log_samples"]
    command += ["--output_path", str(tmp_path / "results")]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, env={**os.environ, **offline}, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (results,) = (tmp_path / "results").glob("**/results_*.json")
    rows, model = np.sort(task.rows["test"]), load_pruned(tmp_path / "checkpoint")
    ours, tasks = task.scorer.predict(model, rows), task.questions.tasks[rows]
    with torch.no_grad():
        scores = task.scorer.score(model, rows).log_probability.double().numpy()
    theirs = json.loads(results.read_text())["results"]
    for name in names:
        of_task = tasks == task.questions.task_names.index(name.removeprefix("commonsense_"))
        (samples,) = (tmp_path / "results").glob(f"**/samples_{name}_*.jsonl")
        lines = sorted(map(json.loads, samples.read_text().splitlines()), key=lambda line: line["doc_id"])
        assert len(lines) == of_task.sum() == 20
        for line, expected, chosen in zip(lines, scores[of_task], ours.chosen[of_task], strict=True):
            # The harness counts the end of the prompt, ":" and a line break, for all candidates alike.
            found = np.array([float(one[0]) for one in line["filtered_resps"]])
            expected = expected[: len(found)]
            np.testing.assert_allclose(found - found[0], expected - expected[0], atol=1e-4)
            assert found.argmax() == chosen
        assert theirs[name]["acc,none"] == pytest.approx(ours.correct[of_task].mean())
    assert theirs["commonsense"]["acc,none"] == pytest.approx(task.evaluate(network, "test")["acc"])
    assert len(set(ours.chosen.tolist())) > 1

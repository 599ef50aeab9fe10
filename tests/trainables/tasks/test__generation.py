"""Generated answers, against transformers' generation of one prompt at a time and patterns written out by hand."""

import copy
import json
import math
import re

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from trainables.config import TrialConfig
from trainables.loop import Training
from trainables.tasks._generation import answer_pattern
from trainables.tasks.lora import LoRA

BY_TASK = {"boolq": r"true|false", "ARC-Easy": r"answer1|answer2|answer3|answer4|answer5"}
CONFIG = {
    "task": "lora",
    "dataset": "commonsense",
    "architecture": "causal_lm",
    "model": {"base": "tiny-qwen2", "vocab_size": 300, "hidden_size": 32, "num_layers": 2, "num_heads": 2},
    "task_args": {"r": 16, "alpha": 32, "answer": "generate"},
    "optimizer": "adamw",
    "opt": {"lr": 1e-2},
    "max_epochs": 2,
    "batch_size": 8,
    "target_sparsity": 0.3,
    "scope": "uniform",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The task, the correct answers of its test questions, and two networks: one that learned a bit, and it pruned."""
    root = tmp_path_factory.mktemp("records")
    random = np.random.default_rng(0)
    tested = []  # in the order of the files
    for task, listed in (("boolq", ("true", "false")), ("ARC-Easy", ("answer1", "answer2", "answer3"))):
        (root / task).mkdir()
        for name, size in (("train", 64), ("test", 8)):
            answers = [listed[number] for number in random.integers(len(listed), size=size)]
            records = [
                {
                    "instruction": f"{'a ' * random.integers(1, 9)}take {answer}\n\nAnswer format: {'/'.join(listed)}",
                    "input": "",
                    "output": f"the correct answer is {answer}",
                    "answer": answer,
                }
                for answer in answers
            ]
            (root / task / f"{name}.json").write_text(json.dumps(records))
            tested += answers if name == "test" else []
    config = TrialConfig.model_validate(CONFIG)
    task = LoRA(config, LoRA.load(config, str(root)))
    training = Training(task, config)
    training.run_epoch()
    network = training.trained_model().eval()
    pruned = copy.deepcopy(network)
    with torch.no_grad():
        for weight in task.prunable(pruned).values():
            weight[weight.abs() < weight.abs().quantile(0.4)] = 0
    return task, [tested[row - 128] for row in task.rows["test"]], (network, pruned)


def generated_by_hand(task, network, row, **settings):
    """The lower-case text that transformers generates after one prompt, without any padding."""
    prompt = torch.tensor([task.questions.prompts.rows()[row]])
    config = GenerationConfig(max_new_tokens=32, do_sample=False, eos_token_id=0, pad_token_id=0, **settings)
    tokens = network.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=config)
    return task.generator.tokenizer.tokenizer.decode(tokens[0, prompt.shape[1] :].tolist()).lower()


@torch.no_grad()
def test_answers_are_those_of_transformers_one_prompt_at_a_time(trained):
    task, answers, networks = trained
    rows = task.rows["test"]
    names = [task.questions.task_names[t] for t in task.questions.tasks[rows]]
    for network in networks:
        expected = []
        for row, name, answer in zip(rows, names, answers, strict=True):
            matches = re.findall(BY_TASK[name], generated_by_hand(task, network, row, num_beams=4))
            expected.append(bool(matches) and matches[0] == answer)
        assert set(expected) == {True, False}
        assert task.generator.correct(network, rows).tolist() == expected


def test_settings_of_a_checkpoint_are_ignored_and_restored(trained):
    task, _, networks = trained
    network, rows = copy.deepcopy(networks[1]), task.rows["test"]
    expected = task.generator.correct(network, rows)
    own = GenerationConfig(do_sample=True, temperature=9.0, repetition_penalty=5.0, max_new_tokens=1)
    network.generation_config = own
    network.train()
    assert task.generator.correct(network, rows).tolist() == expected.tolist()
    assert network.generation_config is own
    assert network.training


def test_right_and_greedy_answers_are_right_when_generated_greedily(trained):
    """Record by record, hence `acc_greedy` is a lower bound."""
    task, _, networks = trained
    rows, nontrivial = task.rows["test"], False
    for network in networks:
        predictions = task.scorer.predict(network, rows)
        bound, generated = predictions.correct & predictions.greedy, task.generator.correct(network, rows, num_beams=1)
        assert (generated | ~bound).all()
        nontrivial |= 0 < bound.sum() < generated.sum()
        metrics = task.evaluate(network, "test")
        by_task = [bound[task.questions.tasks[rows] == i].mean() for i in range(2)]
        assert metrics["acc_greedy"] == pytest.approx(np.mean(by_task))
        assert metrics["acc_greedy"] <= metrics["acc"]
    assert nontrivial


def test_only_the_test_split_is_answered_by_generation(trained):
    task, _, networks = trained
    network, rows = networks[1], task.rows["test"]
    right, tasks = task.generator.correct(network, rows), task.questions.tasks[rows]
    metrics = task.evaluate(network, "test")
    assert metrics["acc_generated_ARC-Easy"] == pytest.approx(right[tasks == 0].mean())
    assert metrics["acc_generated_boolq"] == pytest.approx(right[tasks == 1].mean())
    assert metrics["acc_generated"] == pytest.approx((right[tasks == 0].mean() + right[tasks == 1].mean()) / 2)
    assert not any("generated" in name for name in task.evaluate(network, "validation"))
    choosing = LoRA(task.config.model_copy(update={"task_args": {"r": 16, "alpha": 32}}), task.data)
    without = {name: value for name, value in metrics.items() if "generated" not in name}
    assert choosing.evaluate(network, "test") == without


@pytest.mark.parametrize("fill", [math.nan, math.inf, 0.0])
def test_a_network_without_an_answer_is_wrong(trained, fill):
    task, _, networks = trained
    network = copy.deepcopy(networks[0])
    with torch.no_grad():
        for weight in task.prunable(network).values():
            weight.fill_(fill)
    assert not task.generator.correct(network, task.rows["test"][:4]).any()


@pytest.mark.parametrize(
    ("responses", "pattern"),
    [
        (["the correct answer is true", "the correct answer is false"], "true|false"),
        (["the correct answer is solution1", "the correct answer is solution2"], "solution1|solution2"),
        (["the correct answer is option1", "the correct answer is option2"], "option1|option2"),
        (["the correct answer is ending2", "the correct answer is ending4"], "ending1|ending2|ending3|ending4"),
        ([f"the correct answer is answer{i}" for i in (1, 2, 3)], "answer1|answer2|answer3|answer4|answer5"),
        ([f"it is answer{i}" for i in range(1, 12)], None),  # answer10 is not answer1
        (["it is red wine", "it is red", "it is beer (cold)"], None),
    ],
)
def test_the_pattern_of_each_benchmark(responses, pattern):
    found = answer_pattern(responses)
    assert pattern is None or found == pattern
    first = [re.search(found, f"{response}, not {responses[0]}")[0] for response in responses]
    assert [response.endswith(match) for response, match in zip(responses, first, strict=True)] == [True] * len(first)

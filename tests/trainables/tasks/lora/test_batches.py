import numpy as np
import pytest
import torch

from tests.trainables.tasks.lora._setting import configuration, texts
from trainables.tasks.lora import LoRA


def test_a_batch_holds_prompts_responses_and_positions(make, data):
    task, _ = make()
    records = data.questions
    (batch,) = task.batches("validation", 100)
    rows, labels = texts(task, batch)
    for i, row in enumerate(data.validation):
        prompt, response = records.prompts.rows()[row], records.responses.rows()[records.correct[row]]
        assert rows[i] == prompt + response[:-1]
        assert labels[i] == response
        assert batch.positions[i, : len(response)].tolist() == list(range(len(prompt) - 1, len(rows[i])))
    assert (batch.tokens.shape[1], batch.positions.shape[1]) == (max(map(len, rows)), max(map(len, labels)))
    assert batch.tokens[0, batch.lengths[0] :].eq(0).all()


def test_an_epoch_has_each_question_at_most_once_by_its_seed(make, data):
    task, _ = make()
    assert task.steps_per_epoch(16) == 11  # of 180

    def epoch(seed):
        return [tuple(row) for batch in task.batches("train", 16, seed=seed) for row in texts(task, batch)[0]]

    one = epoch(1)
    assert len(one) == 11 * 16
    state = torch.get_rng_state()
    torch.manual_seed(9)  # the global generator has no effect
    assert epoch(1) == one
    torch.set_rng_state(state)
    assert epoch(2) != one
    everything = [tuple(row) for batch in task.batches("train", 1000) for row in texts(task, batch)[0]]
    assert len(everything) == 180
    for row in set(one):
        assert one.count(row) <= everything.count(row)


def test_long_prompts_are_cut_after_their_first_token(folder):
    config = configuration(data={"cutoff": 120})
    data = LoRA.load(config, str(folder))
    task, records = LoRA(config, data), data.questions
    batch = next(task.batches("train", 1000))
    rows, labels = texts(task, batch)
    num_cut = 0
    for i, row in enumerate(data.training):
        prompt, response = records.prompts.rows()[row], records.responses.rows()[records.correct[row]]
        assert labels[i] == response
        if len(prompt) + len(response) <= 120:
            assert rows[i] == prompt + response[:-1]
            continue
        num_cut += 1
        assert len(rows[i]) == 119
        left = 120 - len(response) - 1
        assert rows[i] == prompt[:1] + prompt[-left:] + response[:-1]
    task.build_model()
    assert 0 < num_cut < 180
    assert task.describe_model()["input"]["num_training_prompts_cut"] == num_cut
    longest = records.prompts.lengths[data.validation].max()  # evaluation does not cut
    assert (
        task.batcher.batch(data.validation, records.correct[data.validation], 0 * data.validation).lengths.max()
        > longest
        > 120
    )
    with pytest.raises(
        ValueError, match=r"^data: cutoff must be above \d+ \(the tokens of the longest answer\), got 5$"
    ):
        LoRA.load(configuration(data={"cutoff": 5}), str(folder))


def test_eval_size_and_train_size(data):
    task = LoRA(configuration(eval_size=10), data)
    assert {name: len(rows) for name, rows in task.rows.items()} == {"train": 180, "validation": 10, "test": 10}
    assert np.bincount(data.questions.tasks[task.rows["test"]]).tolist() == [5, 5]
    assert set(task.rows["test"]) <= set(range(200, 250))
    assert not set(data.training) & set(data.validation)

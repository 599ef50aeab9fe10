"""Expected values come from the generation of transformers and from hand calculation."""

import copy
import json
import math

import numpy as np
import pytest
import torch

from tests.trainables.tasks.lora._setting import configuration, with_factors
from trainables.loop import Training
from trainables.tasks._scoring import Scores
from trainables.tasks.lora import LoRA


def by_hand(model, prompt, response):
    """Sum of the log-probabilities of a response after a prompt, from the full logits of one text."""
    logits = model(torch.tensor([prompt + response])).logits[0].log_softmax(-1)
    return sum(logits[len(prompt) - 1 + i, token].item() for i, token in enumerate(response))


@torch.no_grad()
def test_scores_and_greedy_match_each_candidate_alone(make, data):
    task, untrained = make()
    training = Training(task, task.config)
    with torch.enable_grad():
        training.run_epoch()
    for model in (task.deployed(with_factors(untrained)).eval(), training.trained_model().eval()):
        rows = task.rows["test"][:8]
        scores, greedy, nats = task.scorer.score(model, rows)
        total, prompts, table = 0.0, data.questions.prompts.rows(), data.questions.responses.rows()
        for i, row in enumerate(rows):
            for k, candidate in enumerate(data.questions.candidates[row]):
                if candidate < 0:
                    assert scores[i, k] == -math.inf
                    assert not greedy[i, k]
                    continue
                response = table[candidate][:-1]
                assert scores[i, k].item() == pytest.approx(by_hand(model, prompts[row], response), abs=1e-3)
                generated = model.generate(
                    torch.tensor([prompts[row]]),
                    attention_mask=torch.ones(1, len(prompts[row]), dtype=torch.long),
                    max_new_tokens=len(response),
                    do_sample=False,
                    pad_token_id=0,
                )[0, len(prompts[row]) :].tolist()
                assert greedy[i, k].item() is (generated == response)
            total -= by_hand(model, prompts[row], table[data.questions.correct[row]])
        assert nats.item() == pytest.approx(total, rel=1e-4)


def test_candidates_of_several_tokens_are_scored(folder, tmp_path):
    """Answers that differ early, in two tasks: more rows than questions, in one batch."""
    for task, candidates in (("boolq", ("yes it is", "no")), ("piqa", ("red wine", "beer", "red herring and chips"))):
        (tmp_path / task).mkdir()
        for name in ("train", "test"):
            answers = [candidates[i % len(candidates)] for i in range(12)]
            instruction = "{}?\n\nAnswer format: " + "/".join(candidates)
            records = [
                {"instruction": instruction.format("x" * i), "output": f"it is {a}", "answer": a}
                for i, a in enumerate(answers)
            ]
            (tmp_path / task / f"{name}.json").write_text(json.dumps(records))
    data = LoRA.load(configuration(), str(tmp_path))
    task = LoRA(configuration(), data)
    model = task.deployed(with_factors(task.build_model())).eval()
    rows = data.test
    with torch.no_grad():
        scores, _, _ = task.scorer.score(model, rows)
        prompts, table = data.questions.prompts.rows(), data.questions.responses.rows()
        for i, row in enumerate(rows):
            candidates = [c for c in data.questions.candidates[row] if c >= 0]
            expected = [by_hand(model, prompts[row], table[c][:-1]) for c in candidates]
            assert scores[i, : len(candidates)].tolist() == pytest.approx(expected, abs=1e-3)


def test_metrics_by_hand(make, data, monkeypatch):
    """Scores are replaced by ones whose choices are known."""
    task, model = make()
    rows, records = task.rows["test"], data.questions
    chosen = {row: int(np.random.default_rng(row).integers((records.candidates[row] >= 0).sum())) for row in rows}

    def score(model, chunk):
        scores = torch.full(records.candidates[chunk].shape, -1.0)
        for i, row in enumerate(chunk):
            scores[i, chosen[row]] = -0.5
        loss = torch.tensor(2.0 * len(chunk), dtype=torch.float64)
        return Scores(scores, torch.zeros_like(scores, dtype=torch.bool), loss)

    monkeypatch.setattr(task.scorer, "score", score)
    metrics = task.evaluate(model, "test")
    arc, boolq = range(230, 250), range(200, 230)  # test files follow the training files, in the order of tasks
    acc = {
        name: np.mean([chosen[row] == records.answers[row] for row in of])
        for name, of in (("ARC-Easy", arc), ("boolq", boolq))
    }
    chance = (np.mean([1 / (records.candidates[row] >= 0).sum() for row in arc]) + 1 / 2) / 2
    num_tokens = sum(len(records.responses.rows()[records.correct[row]]) for row in rows)
    assert metrics == pytest.approx(
        {
            "acc": (acc["ARC-Easy"] + acc["boolq"]) / 2,
            "acc_greedy": 0.0,
            "loss": 2 * len(rows) / num_tokens,
            "acc_ARC-Easy": acc["ARC-Easy"],
            "acc_boolq": acc["boolq"],
            "chance": chance,
            "greedy_agreement": 0.0,
            "collapsed": 0.0,
        }
    )


def test_the_choice_does_not_depend_on_the_correct_answer(make, data):
    task, model = make()
    model = task.deployed(with_factors(model)).eval()
    rows = task.rows["test"]
    other = copy.deepcopy(data)
    other.questions.answers.flags.writeable = True
    other.questions.answers[:] = 0
    with torch.no_grad():
        scores = [LoRA(task.config, d).scorer.score(model, rows)[0] for d in (data, other)]
    finite = scores[0].isfinite()
    torch.testing.assert_close(scores[0][finite], scores[1][finite], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fill", [float("nan"), float("inf"), 3e38, 0.0])
def test_metrics_are_finite_for_any_weights(make, fill):
    task, model = make(eval_size=10)
    model = task.deployed(model)
    with torch.no_grad():
        for weight in task.prunable(model).values():
            weight.fill_(fill)
    metrics = task.evaluate(model.train(), "validation")
    assert all(math.isfinite(value) for value in metrics.values())
    assert model.training
    if math.isnan(fill):
        assert (metrics["acc"], metrics["loss"], metrics["greedy_agreement"]) == (0.0, 1e9, 0.0)


def test_gradient_criteria_score_the_merged_weights(make):
    from trainables.pruning import score

    task, model = make(criterion="gradient_magnitude")
    model = task.deployed(with_factors(model)).eval()
    scores = score(task, model, task.config)
    assert all(s.isfinite().all() and s.max() > 0 for s in scores)


def test_a_network_that_ignores_the_question_is_collapsed(make, data, monkeypatch):
    task, model = make()
    records = data.questions

    def collapsed(choose):
        def score(model, chunk):
            scores = torch.where(torch.tensor(records.candidates[chunk]) >= 0, -1.0, -torch.inf)
            for i, row in enumerate(chunk):
                scores[i, choose(row)] = 0.0
            return Scores(scores, torch.zeros_like(scores, dtype=torch.bool), torch.zeros((), dtype=torch.float64))

        monkeypatch.setattr(task.scorer, "score", score)
        return task.evaluate(model, "test")["collapsed"]

    last = {row: int((records.candidates[row] >= 0).sum()) - 1 for row in task.rows["test"]}
    assert collapsed(lambda row: 0) == 1.0
    assert collapsed(last.get) == 1.0  # always the last candidate, whatever the question
    assert collapsed(lambda row: int(records.answers[row])) == 0.0
    boolq = range(200, 230)
    assert (
        collapsed(lambda row: int(records.answers[row]) if row in boolq else 0) == 0.0
    )  # BoolQ is answered by the question

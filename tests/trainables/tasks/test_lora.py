"""LoRA on generated questions.

Expected values come from the loss and the generation of transformers, from the formula of LoRA, and from autograd.
"""

import copy
import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import sparsity
from search_spaces import lora as lora_space
from sparsity.regularizers.wcr import WCR
from trainables.config import TrialConfig
from trainables.loop import Training, train_step
from trainables.penalty_ratio import PENALTY_RATIO_LIMIT
from trainables.pruning import load_pruned
from trainables.result import SIZES
from trainables.runner import TrialRunner
from trainables.tasks._adapters import find_projections
from trainables.tasks._question_batches import IGNORED
from trainables.tasks._scoring import Scores
from trainables.tasks.lora import LoRA

REAL = Path(__file__).parents[4] / "shared" / "data" / "commonsense"
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CONFIG = {
    "task": "lora",
    "dataset": "commonsense",
    "architecture": "causal_lm",
    "model": {"base": "tiny-qwen2", "vocab_size": 300, "hidden_size": 16, "num_layers": 2, "num_heads": 2},
    "task_args": {"r": 4, "alpha": 8},
    "optimizer": "adamw",
    "opt": {"lr": 1e-2},
    "max_epochs": 2,
    "num_evaluations": 2,
    "batch_size": 16,
    "target_sparsity": 0.3,
    "sparsities": (0.2,),
    "scope": "uniform",
}


def configuration(**fields):
    groups = {name: {**CONFIG[name], **fields.pop(name, {})} for name in ("model", "task_args", "opt")}
    return TrialConfig.model_validate({**CONFIG, **groups, **fields})


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Two tasks: true or false by one word, in a tenth of the questions after many others; an answer by a number."""
    root = tmp_path_factory.mktemp("records")
    random = np.random.default_rng(0)

    def truth():
        answer = ("false", "true")[word := random.integers(2)]
        words = "a " * (60 if random.random() < 0.1 else random.integers(1, 12))
        return f"{words}{('bad', 'good')[word]} one\n\nAnswer format: true/false", answer

    def choice():
        answer = f"answer{(number := random.integers(3)) + 1}"
        listed = "/".join(f"answer{i + 1}" for i in range(random.integers(3, 6)))
        return f"take {number}\n\nAnswer format: {listed}", answer

    for task, make, sizes in (("boolq", truth, (140, 30)), ("ARC-Easy", choice, (60, 20))):
        (root / task).mkdir()
        for name, size in zip(("train", "test"), sizes, strict=True):
            made = [make() for _ in range(size)]
            records = [
                {"instruction": text, "input": "", "output": f"the correct answer is {answer}", "answer": answer}
                for text, answer in made
            ]
            (root / task / f"{name}.json").write_text(json.dumps(records))
    return root


@pytest.fixture(scope="session")
def data(folder):
    """The loaded dataset with read-only arrays, as trials share it."""
    loaded = LoRA.load(configuration(), str(folder))
    for value in (loaded, loaded.questions, loaded.questions.prompts, loaded.questions.responses):
        for array in vars(value).values():
            if isinstance(array, np.ndarray):
                array.flags.writeable = False
    return loaded


@pytest.fixture
def make(data):
    """A function that builds the task and its network from the fields that differ from CONFIG."""

    def task_and_model(**fields):
        task = LoRA(configuration(**fields), data)
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = task.build_model()
        return task, model

    return task_and_model


def with_factors(model, scale=0.3):
    """Set B to random values: it is 0 at first, and with it the adapters."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model


def texts(task, batch):
    """The tokens and labels of each row of a batch without padding."""
    rows = [row[:length].tolist() for row, length in zip(batch.tokens, batch.lengths, strict=True)]
    return rows, [[label for label in row.tolist() if label != IGNORED] for row in batch.labels]


# ---- batches -----------------------------------------------------------------------------------------------------


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


# ---- loss and gradients ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_inputs", [False, True])
@pytest.mark.parametrize("base", ["tiny-qwen2", "tiny-llama"])
def test_the_loss_is_that_of_transformers(make, base, on_inputs):
    task, model = make(model={"base": base}, task_args={"train_on_inputs": on_inputs})
    with_factors(model).eval()
    batch = next(task.batches("train", 24, seed=0))
    tokens = torch.cat([batch.tokens, torch.zeros(24, 1, dtype=torch.long)], 1)
    labels = torch.full_like(tokens, IGNORED)
    mask = torch.zeros_like(tokens)
    for i, (length, count) in enumerate(zip(batch.lengths, batch.num_labels, strict=True)):
        tokens[i, length] = batch.labels[i, count - 1]  # the end of text, which a batch leaves out
        begin = 0 if on_inputs else length + 1 - count
        labels[i, begin : length + 1] = tokens[i, begin : length + 1]
        mask[i, : length + 1] = 1
    expected = model(input_ids=tokens, attention_mask=mask, labels=labels).loss
    assert task.loss(model, batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_prompts_are_labels_if_asked_for_in_training_batches(folder):
    """Rows, cut ones too, are as without; each position has the next token, and the last one the end of text."""
    args = {"train_on_inputs": True}
    config = configuration(data={"cutoff": 120}, task_args=args)
    data = LoRA.load(config, str(folder))
    with_prompts, without = (LoRA(c, data) for c in (config, config.model_copy(update={"task_args": {}})))
    batch, other = (next(task.batches("train", 40, seed=3)) for task in (with_prompts, without))
    assert torch.equal(batch.tokens, other.tokens)
    assert batch.lengths.max() == 119
    for i, (length, row) in enumerate(zip(batch.lengths, texts(without, other)[0], strict=True)):
        assert batch.labels[i].tolist() == [*row[1:], data.end] + [IGNORED] * (batch.tokens.shape[1] - length)
        assert batch.positions[i, :length].tolist() == list(range(length))


def test_padding_changes_nothing(make):
    task, model = make()
    with_factors(model).eval()
    batch = next(task.batches("train", 16, seed=0))
    together = task.forward(model, batch)
    for i, (_, alone) in enumerate(task.parts(batch, 16)):
        count = int(batch.num_labels[i])
        assert alone.tokens.shape == (1, batch.lengths[i])
        torch.testing.assert_close(task.forward(model, alone)[0, :count], together[i, :count], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("num", "on_inputs"), [(1, False), (3, True), (3, False), (4, False), (16, True), (99, False)])
def test_parts_add_up_to_the_whole_batch(make, num, on_inputs):
    task, model = make(task_args={"dropout": 0.0, "train_on_inputs": on_inputs})
    with_factors(model)
    batch = next(task.batches("train", 16, seed=0))
    parts = task.parts(batch, num)
    assert len(parts) == min(num, 16)
    assert sum(weight for weight, _ in parts) == pytest.approx(1)
    assert sum(part.lengths.sum() for _, part in parts) == batch.lengths.sum()
    trained = [p for p in model.parameters() if p.requires_grad]
    whole = torch.autograd.grad(task.loss(model, batch), trained)
    added = torch.autograd.grad(sum(weight * task.loss(model, part) for weight, part in parts), trained)
    for one, other in zip(whole, added, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_gradient_checkpointing_gives_the_same_gradients(make):
    gradients = []
    for on in (False, True):
        task, model = make(task_args={"gradient_checkpointing": on})
        with_factors(model).train()
        torch.manual_seed(5)  # dropout
        task.loss(model, next(task.batches("train", 16, seed=0))).backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    assert all(gradient.abs().max() > 0 for gradient in gradients[0])


def test_only_the_factors_are_trained_always_in_float32(make):
    for dtype in ("float32", "bfloat16"):
        task, model = make(task_args={"base_dtype": dtype})
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        assert len(trained) == 2 * 7 * 2
        assert all("lora_A" in name or "lora_B" in name for name in trained)
        assert {p.dtype for p in trained.values()} == {torch.float32}
        assert {p.dtype for p in model.parameters() if not p.requires_grad} == {getattr(torch, dtype)}
        assert {b.dtype for n, b in model.named_buffers() if "inv_freq" in n} == {torch.float32}
        assert task.regularized(model).keys() == trained.keys()
        task.loss(with_factors(model), next(task.batches("train", 16, seed=0))).backward()
        assert all(p.grad.dtype is torch.float32 and p.grad.abs().max() > 0 for p in trained.values())
        merged = task.deployed(copy.deepcopy(model))
        assert {p.dtype for p in merged.parameters()} == {torch.float32}
        assert math.isfinite(task.evaluate(merged, "validation")["loss"])


# ---- merging -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["tiny-qwen2", "tiny-llama"])
def test_deployed_is_w0_plus_scale_b_a_in_a_plain_network(make, base):
    task, model = make(model={"base": base})
    with_factors(model).eval()
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    merged = task.deployed(copy.deepcopy(model))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.named_parameters())
    assert type(merged).__name__ in ("Qwen2ForCausalLM", "LlamaForCausalLM")
    prunable = task.prunable(merged)
    names = [f"model.layers.{i}.{part}" for i in range(2) for part in ("self_attn", "mlp")]
    assert {name.rsplit(".", 2)[0] for name in prunable} == set(names)
    assert [name.split(".")[-2] for name in prunable] == PROJECTIONS * 2
    parameters = dict(merged.named_parameters())
    for name, weight in prunable.items():
        assert weight is parameters[name]
        layer = f"base_model.model.{name.removesuffix('.weight')}"
        A, B = (before[f"{layer}.lora_{factor}.default.weight"].double() for factor in "AB")
        expected = before[f"{layer}.base_layer.weight"].double() + 8 / 4 * B @ A
        torch.testing.assert_close(weight.detach().double(), expected, rtol=1e-6, atol=1e-6)
    batch = next(task.batches("train", 16))
    torch.testing.assert_close(task.forward(merged, batch), task.forward(model, batch), rtol=1e-4, atol=1e-4)
    assert task.prunable(model).keys() == prunable.keys()  # the same before merging


def test_the_penalty_of_merged_weights_follows_the_chain_rule(make):
    """Against autograd through W0 + 2 B A, at two successive steps, and in parts."""
    task, model = make(task_args={"regularize": "merged", "dropout": 0.0}, regularizer="wcr", lam=1e-3)
    with_factors(model)
    regularizer = WCR(task.regularized(model).values())
    layers = list(find_projections(model, task.settings.names).values())
    batch = next(task.batches("train", 16, seed=0))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.05)
    for accumulate in (1, 1, 4):
        A, B = ([getattr(layer, f"lora_{f}")["default"].weight.detach().clone() for layer in layers] for f in "AB")
        factors = [tensor.requires_grad_() for tensor in (*A, *B)]
        merged = [layer.base_layer.weight + 2 * b @ a for layer, a, b in zip(layers, A, B, strict=True)]
        penalty = sum(1 / (w.square().add(1e-8).sqrt().var(correction=0) + 1e-8) for w in merged)
        penalty_gradients = torch.autograd.grad(penalty, factors)
        loss_gradients = torch.autograd.grad(task.loss(model, batch), trained)
        expected = dict(zip([id(layer.lora_A["default"].weight) for layer in layers], penalty_gradients, strict=False))
        expected |= dict(
            zip([id(layer.lora_B["default"].weight) for layer in layers], penalty_gradients[len(layers) :], strict=True)
        )
        _, found = train_step(
            model, batch, task=task, regularizer=regularizer, lam=1e-3, optimizer=optimizer, accumulate=accumulate
        )
        assert found.item() == pytest.approx(penalty.item(), rel=1e-5)
        for parameter, of_loss in zip(trained, loss_gradients, strict=True):
            whole = of_loss + 1e-3 * expected[id(parameter)]
            torch.testing.assert_close(parameter.grad, whole, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("optimizer", "regularize"),
    [
        *[(optimizer, "factors") for optimizer in ("adamw", "sam", "s2sam", "friendly_sam", "cram")],
        *[(optimizer, "merged") for optimizer in ("sam", "s2sam", "friendly_sam")],
    ],
)
def test_works_with_the_sam_family(make, optimizer, regularize):
    base = {} if optimizer == "adamw" else {"base": "adamw", "rho": 0.05}
    task, _ = make(
        task_args={"regularize": regularize},
        optimizer=optimizer,
        opt=base,
        regularizer="wcr",
        reg={"eps": 1e-4},
        lam=1e-6,
        accumulate=2,
        train_size=32,
    )
    training = Training(task, task.config)
    before = {name: p.detach().clone() for name, p in training.model.named_parameters()}
    terms = training.run_epoch()
    assert terms["loss"] > 0
    assert terms["penalty"] > 0
    for name, parameter in training.model.named_parameters():
        assert torch.equal(parameter, before[name]) is not parameter.requires_grad, name


@pytest.mark.parametrize("optimizer", ["sam", "friendly_sam"])
@pytest.mark.parametrize("regularize", ["factors", "merged"])
def test_a_sam_step_perturbs_the_factors_as_by_hand(make, optimizer, regularize):
    """Against autograd through W0 + 2 B A in the plain network. The first step of Friendly-SAM is SAM's."""
    task, model = make(task_args={"regularize": regularize, "dropout": 0.0}, regularizer="wcr", lam=1e-3)
    with_factors(model)
    batch = next(task.batches("train", 16, seed=0))
    layers = find_projections(model, task.settings.names)
    plain = task.deployed(copy.deepcopy(model)).eval()
    factors = [getattr(layer, f"lora_{f}")["default"].weight for f in "AB" for layer in layers.values()]

    def objective(values):
        A, B = values[: len(layers)], values[len(layers) :]
        merged = {
            f"{name}.weight": layer.base_layer.weight + 2 * b @ a
            for (name, layer), a, b in zip(layers.items(), A, B, strict=True)
        }
        logits = torch.func.functional_call(plain, merged, (batch.tokens,)).logits
        chosen = logits.gather(1, batch.positions[..., None].expand(-1, -1, logits.shape[-1]))
        loss = F.cross_entropy(chosen.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED)
        penalized = merged.values() if regularize == "merged" else values
        return loss + 1e-3 * sum(1 / (w.square().add(1e-8).sqrt().var(correction=0) + 1e-4) for w in penalized)

    start = [factor.detach().clone().requires_grad_() for factor in factors]
    g = torch.autograd.grad(objective(start), start)
    norm = math.sqrt(sum(x.square().sum().item() for x in g))
    perturbed = [(w.detach() + 0.05 * x / norm).requires_grad_() for w, x in zip(start, g, strict=True)]
    assert objective(perturbed) > objective(start) * 1.001  # it ascends
    expected = [w - 0.1 * x for w, x in zip(start, torch.autograd.grad(objective(perturbed), perturbed), strict=True)]

    regularizer = WCR(task.regularized(model).values(), eps=1e-4)
    sam = sparsity.load("optimizers", optimizer)(factors, lr=0.1, rho=0.05, momentum=0.0)
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    train_step(model, batch, task=task, regularizer=regularizer, lam=1e-3, optimizer=sam)
    for found, by_hand in zip(factors, expected, strict=True):
        torch.testing.assert_close(found.detach(), by_hand.detach(), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)


def test_gates_go_on_the_factors_and_are_folded_before_merging(make):
    task, _ = make(regularizer="l0_hard_concrete", lam=1e-4, train_size=32, eval_size=10)
    training = Training(task, task.config)
    training.run_epoch()
    merged = training.trained_model()
    assert not any("parametrizations" in name for name, _ in merged.named_parameters())
    assert math.isfinite(task.evaluate(merged, "validation")["loss"])


# ---- answers -----------------------------------------------------------------------------------------------------


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


# ---- whole trials ------------------------------------------------------------------------------------------------


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


# ---- a checkpoint as base, and bad input -------------------------------------------------------------------------


def test_the_base_may_be_a_local_checkpoint(folder, data, tmp_path):
    from tokenizers import Tokenizer

    from trainables.architectures.causal_lm import causal_lm

    torch.manual_seed(3)
    network = causal_lm(**CONFIG["model"])
    network.save_pretrained(tmp_path)
    Tokenizer.from_str(data.tokenizer).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    config = TrialConfig.model_validate({**CONFIG, "model": {"base": str(tmp_path)}})
    loaded = LoRA.load(config, str(folder))
    assert loaded.tokenizer == ""
    np.testing.assert_array_equal(loaded.questions.prompts.values, data.questions.prompts.values)
    task = LoRA(config, loaded)
    merged = task.deployed(task.build_model())
    for name, tensor in network.state_dict().items():
        assert torch.equal(merged.state_dict()[name], tensor), name  # B is 0 at first
    assert task.describe_model()["input"]["tokenizer"] == str(tmp_path)
    assert "hidden_size" in task.describe_model()["model"]["config"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task_args": {"r": 0}}, r"task_args: r must be a whole number >= 1 \(it is a rank\), got 0"),
        ({"task_args": {"alpha": 0}}, r"task_args: alpha must be > 0 .*, got 0"),
        ({"task_args": {"dropout": 1.0}}, r"task_args: dropout must be in \[0, 1\), got 1.0"),
        ({"task_args": {"regularize": "all"}}, r"task_args: regularize must be one of factors, merged, got 'all'"),
        ({"task_args": {"base_dtype": "int8"}}, r"task_args: base_dtype must be one of float32, bfloat16, got 'int8'"),
        ({"task_args": {"answer": "guess"}}, r"task_args: answer must be one of choose, generate, got 'guess'"),
        ({"task_args": {"train_on_inputs": 1}}, r"task_args: train_on_inputs must be true or false, got 1"),
        ({"task_args": {"rank": 8}}, r"task_args: arguments of LoRASettings must be among r, alpha, .*, got 'rank'"),
        ({"architecture": "small_resnet", "model": {}}, r"lora: architecture must be causal_lm, got small_resnet"),
        ({"pruning_schedule": "imp"}, r"lora: pruning_schedule must be one_shot \(.*\), got imp"),
        ({"criterion": "compensation"}, r"lora: criterion must fit a language model \(.*\), got compensation"),
        ({"criterion": "synflow"}, r"lora: criterion must fit a language model \(.*\), got synflow"),
        (
            {"task_args": {"regularize": "merged"}, "regularizer": "l0_hard_concrete", "lam": 1.0},
            r"task_args: regularize must be factors with l0_hard_concrete \(gates are put on parameters\), got merged",
        ),
        ({"model": {"vocab_size": 100}}, r"model: vocab_size must be a whole number above 256 \(.*\), got 100"),
        ({"data": {"cut": 1}}, r"data: arguments of commonsense must be among tasks, cutoff, got 'cut'"),
        ({"train_size": 500}, r"split: train_size must be from 1 to 180 .*, got 500"),
    ],
)
def test_load_refuses_bad_input(folder, fields, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        LoRA.load(configuration(**fields), str(folder))


def test_load_refuses_another_kind_of_dataset(monkeypatch):
    monkeypatch.setattr("trainables.datasets.digits.digits", lambda root: object())
    with pytest.raises(ValueError, match=r"^dataset: must have questions with candidate answers \(.*\), got 'digits'$"):
        LoRA.load(configuration(dataset="digits"))


def test_refuses_unknown_projections(data):
    for projections, missing in (("q_proj,c_attn", "c_attn"), ("q_proj,embed_tokens", "embed_tokens")):
        task = LoRA(configuration(task_args={"projections": projections}), data)
        with pytest.raises(
            ValueError,
            match=f"^task_args: projections must be names of linear layers of the model, got {missing}, while "
            "Qwen2ForCausalLM has down_proj, embed_tokens, gate_proj, input_layernorm, .*, v_proj$",
        ):
            task.build_model()


def test_the_sizes_in_the_docstring():
    """Q and L, from the published shapes (in, out) of the projections of a block."""
    for shapes, num_blocks, q, lora in (
        ({(1536, 1536): 2, (1536, 256): 2, (1536, 8960): 2, (8960, 1536): 1}, 28, 1.310e9, 36.9e6),  # Qwen2.5-1.5B
        ({(2048, 2048): 2, (2048, 512): 2, (2048, 8192): 2, (8192, 2048): 1}, 16, 0.973e9, 22.5e6),  # LLaMA-3.2-1B
    ):
        assert num_blocks * sum(n * i * o for (i, o), n in shapes.items()) == pytest.approx(q, rel=1e-3)
        assert num_blocks * sum(n * 32 * (i + o) for (i, o), n in shapes.items()) == pytest.approx(lora, rel=2e-3)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no {REAL.name} records at {REAL}")
def test_published_questions_need_one_row_each():
    """In ARC-Easy and OpenBookQA, candidates differ in their last token only."""
    config = configuration(data={"tasks": "ARC-Easy,openbookqa"}, model={"vocab_size": 2048}, eval_size=200)
    data = LoRA.load(config, str(REAL))
    task = LoRA(config, data)
    rows = np.concatenate([data.training, data.validation, data.test])
    records, _, _ = task.scorer.rows(data.questions.candidates[rows], data.questions.correct[rows])
    assert len(records) == len(rows) == 2251 + 4957 + 2376 + 500
    metrics = task.evaluate(task.deployed(task.build_model()), "test")
    assert metrics["chance"] == pytest.approx(0.25, abs=2e-3)
    assert abs(metrics["acc"] - 0.25) < 0.15  # five standard errors: the network is untrained
    assert 8 < F.softplus(torch.tensor(metrics["loss"])) < 30


# ---- the penalty beside the loss, and collapsed networks ---------------------------------------------------------


@pytest.mark.parametrize("lr", [1e-2, 3e-4])
def test_wcr_on_the_factors_dominates_with_its_default_eps_only(data, lr):
    """B is 0 before the first of 22 steps."""
    found = {}
    for eps in (1e-8, lora_space.SEARCH_SPACE.overrides["reg/eps"]["regularizer"]["wcr"]):
        lam = lora_space.SEARCH_SPACE.initial_points["lam"]["regularizer"]["wcr"]
        config = configuration(regularizer="wcr", lam=lam, reg={"eps": eps}, opt={"lr": lr})
        training = Training(LoRA(config, data), config)
        while not training.finished:
            training.run_epoch()
        found[eps] = training.penalty_ratio.values
        assert bool(training.penalty_warning()) == (eps == 1e-8)
    assert found[1e-8]["max"] > 5 * PENALTY_RATIO_LIMIT
    assert 0 < found[1e-4]["max"] < 0.1 * PENALTY_RATIO_LIMIT
    assert found[1e-8]["start"] < 1  # the penalty dominates only after B has changed
    assert found[1e-8]["max_step"] > 0


@pytest.mark.parametrize("regularizer", ["l1", "hoyer_square"])
def test_other_penalties_do_not_dominate_at_their_initial_lam(data, regularizer):
    config = configuration(
        regularizer=regularizer, lam=lora_space.SEARCH_SPACE.initial_points["lam"]["regularizer"][regularizer]
    )
    training = Training(LoRA(config, data), config)
    while not training.finished:
        training.run_epoch()
    assert 0 < training.penalty_ratio.values["max"] <= PENALTY_RATIO_LIMIT


@pytest.mark.parametrize(("optimizer", "num_gradients"), [("adamw", 1), ("sam", 2)])
def test_weights_are_merged_once_per_gradient(make, monkeypatch, optimizer, num_gradients):
    arguments = {} if optimizer == "adamw" else {"base": "adamw", "rho": 0.05}
    task, _ = make(
        task_args={"regularize": "merged"},
        regularizer="wcr",
        lam=1e-6,
        accumulate=4,
        optimizer=optimizer,
        opt=arguments,
    )
    training = Training(task, task.config)
    merged, addmm = [], torch.Tensor.addmm_
    monkeypatch.setattr(torch.Tensor, "addmm_", lambda *args, **more: merged.append(1) or addmm(*args, **more))
    training.run_epoch()
    assert len(merged) == 14 * num_gradients * 11  # layers, gradients, steps
    assert training.penalty_ratio.values["max"] > 0


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

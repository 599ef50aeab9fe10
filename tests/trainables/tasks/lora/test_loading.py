from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.trainables.tasks.lora._setting import CONFIG, configuration
from trainables.config import TrialConfig
from trainables.tasks.lora import LoRA

REAL = Path(__file__).parents[5] / "shared" / "data" / "commonsense"


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
        (
            {"task_args": {"gradient_checkpointing": "no"}},
            r"task_args: gradient_checkpointing must be true or false, got 'no'",
        ),
        ({"task_args": {"projections": ""}}, r"task_args: projections must be names of linear layers, got ''"),
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

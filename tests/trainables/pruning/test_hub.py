"""Checkpoints of language models in the layout of the Hugging Face hub, read by transformers in another process."""

import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors import safe_open
from safetensors.torch import load_file

from tests.trainables._tiny_tasks import MODELS, equal_states, make_tiny_task, tiny_config
from trainables.architectures.causal_lm import causal_lm
from trainables.pruning import evaluate_pruned, load_pruned, load_trained, read_description, save_pruned, save_trained
from trainables.pruning.hub import write_tokenizer
from trainables.pruning.trained import TrainedNetwork

FILES = ["README.md", "config.json", "generation_config.json", "model.safetensors", "sparsity.json"]
TOKENIZER_FILES = ["tokenizer.json", "tokenizer_config.json"]
BASES = ["tiny-qwen2", "tiny-llama"]
# Decomposed accents, numbers, and punctuation before line breaks: what the pre-tokenizers of Qwen2 and GPT-2 divide
# differently.
TEXTS = ["nai\u0308ve: 1776 men.\n\n### Response:\n", "it's  12.5%\r\n\tof \u212b", "the correct answer is answer1"]
METRICS = {"acc": 0.25, "acc_boolq": 0.25, "loss": 1.5}

OPEN = """
import json, socket, sys, torch
socket.socket.connect = lambda *_: sys.exit("it asked the network")
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
texts, tokens, to, *folders = json.loads(sys.argv[1])
logits, found = {}, []
for number, folder in enumerate(folders):
    model, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    small = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    with torch.no_grad():
        logits[f"{number}"] = model.eval()(torch.tensor(tokens)).logits.clone()
        logits[f"{number} bfloat16"] = small.eval()(torch.tensor(tokens)).logits.clone()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer(text)["input_ids"] for text in texts]
    problems = [sorted(loading[kind]) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")]
    found.append([ids, tokenizer.eos_token_id, model.generation_config.eos_token_id, problems])
save_file(logits, to)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """By base: the task, its dense network, and the folder of the network pruned at 0.5."""
    made = {}
    for base in BASES:
        config = tiny_config("causal_lm", model={**MODELS["causal_lm"], "base": base})
        task = make_tiny_task(config)
        torch.manual_seed(0)
        network = task.deployed(task.build_model()).eval()
        evaluation = evaluate_pruned(task, network, config, (0.5,), "validation")
        folder = tmp_path_factory.mktemp(base) / "0.5"
        description = {
            "target_sparsity": 0.5,
            "pruning": config.pruning[0].model_dump(mode="json"),
            "validation": METRICS,
            "test": {"acc": 0.5},
        }
        save_pruned(folder, task, network, evaluation.masks[0.5], description)
        made[base] = SimpleNamespace(config=config, task=task, network=network, folder=folder, evaluation=evaluation)
    return made


@pytest.fixture(scope="module")
def opened(checkpoints, tmp_path_factory):
    """By base: what transformers finds in the folder, in a process without this project and without network."""
    scratch = tmp_path_factory.mktemp("opened")
    tokens = torch.arange(60).reshape(3, 20).tolist()
    folders = [str(checkpoints[base].folder) for base in BASES]
    given = json.dumps([TEXTS, tokens, str(scratch / "logits"), *folders])
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    command = [sys.executable, "-P", "-W", "error::UserWarning", "-c", OPEN, given]
    done = subprocess.run(command, env=environment, cwd=scratch, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    logits = load_file(scratch / "logits")
    found = json.loads(done.stdout.splitlines()[-1])
    return {
        base: SimpleNamespace(
            tokens=torch.tensor(tokens), logits=logits[str(i)], small=logits[f"{i} bfloat16"], found=found[i]
        )
        for i, base in enumerate(BASES)
    }


@pytest.mark.slow
@pytest.mark.parametrize("base", BASES)
def test_transformers_finds_the_same_network(checkpoints, opened, base):
    ours = load_pruned(checkpoints[base].folder)
    assert opened[base].found[3] == [[], [], []]  # no weight is missing or too much
    with torch.no_grad():
        assert torch.equal(ours(opened[base].tokens).logits, opened[base].logits)
        for parameter in ours.parameters():  # not the buffers: rotary angles need more digits
            parameter.data = parameter.data.bfloat16()
        assert torch.equal(ours(opened[base].tokens).logits, opened[base].small)


@pytest.mark.slow
@pytest.mark.parametrize("base", BASES)
def test_transformers_divides_texts_into_the_same_tokens(checkpoints, opened, base):
    from tokenizers import Tokenizer

    ids, end, generation_end, _ = opened[base].found
    trained = Tokenizer.from_str(checkpoints[base].task.data.tokenizer)
    assert ids == [trained.encode(text).ids for text in TEXTS]
    assert end == generation_end == checkpoints[base].task.data.end == 0


@pytest.mark.parametrize("base", BASES)
def test_the_files(checkpoints, base):
    made = checkpoints[base]
    assert sorted(path.name for path in made.folder.iterdir()) == sorted(FILES + TOKENIZER_FILES)
    with safe_open(made.folder / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert {name for name, _ in made.network.named_parameters()} == names  # the tied head once
    assert "lm_head.weight" not in names
    config = json.loads((made.folder / "config.json").read_text())
    assert config["architectures"] == [type(made.network).__name__]
    assert (config["dtype"], config["tie_word_embeddings"]) == ("float32", True)
    described = json.loads((made.folder / "sparsity.json").read_text())
    assert "model" not in described  # config.json is
    assert described["architecture"] == "causal_lm"
    assert described["input"]["tokenizer"] == "tokenizer.json"
    assert described["validation"] == METRICS
    zeros = sum(int((p == 0).sum()) for name, p in made.network.named_parameters() if name in described["prunable"])
    assert zeros == 0
    loaded = load_pruned(made.folder)
    parameters = dict(loaded.named_parameters())
    zeros = sum(int((parameters[name] == 0).sum()) for name in described["prunable"])
    assert described["prunable_sparsity"] == zeros / sum(parameters[name].numel() for name in described["prunable"])
    assert described["model_sparsity"] == pytest.approx(
        sum(int((p == 0).sum()) for p in parameters.values()) / sum(p.numel() for p in parameters.values())
    )


def test_the_model_card(checkpoints):
    card = ModelCard.load(checkpoints["tiny-qwen2"].folder / "README.md")
    assert card.data.to_dict() == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["lora", "pruned", "sparsity"],
    }
    lines = card.text.splitlines()
    assert "# Qwen2ForCausalLM, pruned to sparsity 0.5" in lines
    assert "| metric | validation | test |" in lines
    assert "| `acc` | 0.25 | 0.5 |" in lines
    assert "| `loss` | 1.5 |  |" in lines
    assert "0.5 of the weights of its adapted projections" in card.text
    assert "by the criterion magnitude" in card.text
    assert "### Instruction:" in card.text


def test_the_network_of_a_base_has_the_files_of_the_base(checkpoints, tmp_path, monkeypatch):
    """The base is in the hub's cache, so that its name is not that of a folder."""
    base = tmp_path / "cache" / "base"
    shutil.copytree(checkpoints["tiny-llama"].folder, base)
    (base / "generation_config.json").write_text('{"eos_token_id": 0, "max_new_tokens": 7}')
    (base / "chat_template.jinja").write_text("{{ messages }}")
    monkeypatch.setattr("trainables.pruning.hub.base_folder", lambda name: {"some/base": base}[name])
    made = checkpoints["tiny-llama"]
    described = made.task.describe_model()
    described["input"]["tokenizer"] = "some/base"
    monkeypatch.setattr(made.task, "describe_model", lambda: described)
    save_pruned(tmp_path / "0.5", made.task, made.network, made.evaluation.masks[0.5], {"target_sparsity": 0.5})
    for name in (*TOKENIZER_FILES, "generation_config.json", "chat_template.jinja"):
        assert (tmp_path / "0.5" / name).read_bytes() == (base / name).read_bytes(), name
    card = ModelCard.load(tmp_path / "0.5" / "README.md")
    assert card.data.base_model == "some/base"
    assert "# some/base, pruned to sparsity 0.5" in card.text
    assert read_description(tmp_path / "0.5")["input"]["tokenizer"] == "some/base"


def test_a_base_that_is_gone_loses_the_tokenizer_only(checkpoints, tmp_path, monkeypatch):
    made = checkpoints["tiny-llama"]
    gone = str(tmp_path / "gone")
    described = made.task.describe_model()
    described["input"]["tokenizer"] = gone
    monkeypatch.setattr(made.task, "describe_model", lambda: described)
    save_pruned(tmp_path / "0.5", made.task, made.network, made.evaluation.masks[0.5], {"target_sparsity": 0.5})
    assert sorted(path.name for path in (tmp_path / "0.5").iterdir()) == sorted(FILES)
    assert equal_states(load_pruned(tmp_path / "0.5"), load_pruned(made.folder))
    text = (tmp_path / "0.5" / "README.md").read_text()
    assert "This folder has no tokenizer: use that of `LlamaForCausalLM`." in text
    assert str(tmp_path) not in text
    reason = write_tokenizer(tmp_path, described, made.network)
    assert reason.startswith(
        f"no tokenizer: model: base must be a folder or a name on the Hugging Face hub, got '{gone}'"
    )
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "config.json").write_text("{}")
    (tmp_path / "gone" / "model.safetensors").touch()
    assert write_tokenizer(tmp_path, described, made.network) == f"no tokenizer: {gone} has no tokenizer.json"


def test_a_trained_network_that_was_read_is_pruned_and_saved(checkpoints, tmp_path):
    """As `sweeps reprune` does: its task builds no network."""
    made = checkpoints["tiny-qwen2"]
    save_trained(tmp_path / "trained", TrainedNetwork(made.task, made.network, made.config), {})
    card = ModelCard.load(tmp_path / "trained" / "README.md")
    assert "# Qwen2ForCausalLM, fine-tuned" in card.text
    assert card.data.tags == ["lora"]
    task = make_tiny_task(made.config)
    trained, _ = load_trained(tmp_path / "trained", task, made.config)
    masks = trained.evaluate((0.5,)).masks[0.5]
    save_pruned(tmp_path / "0.5", task, trained.network, masks, {"target_sparsity": 0.5})
    assert equal_states(load_pruned(tmp_path / "0.5"), load_pruned(made.folder))


def test_folders_of_earlier_versions_are_read(checkpoints, tmp_path):
    """The description was in config.json, as for other networks; exported, it was under a key of config.json."""
    folder = checkpoints["tiny-qwen2"].folder
    described = read_description(folder)
    trial, exported = tmp_path / "trial", tmp_path / "exported"
    config, rest = described["model"]["config"], {name: value for name, value in described.items() if name != "model"}
    for old, content in ((trial, described), (exported, {**config, "sparsity_sweeps": rest})):
        old.mkdir()
        (old / "config.json").write_text(json.dumps(content))
        shutil.copyfile(folder / "model.safetensors", old / "model.safetensors")
        assert read_description(old) == described
        assert equal_states(load_pruned(old), load_pruned(folder))


@pytest.mark.parametrize("text", ["{", "[]", '{"input": {}}'])
def test_a_damaged_description_is_an_error(checkpoints, tmp_path, text):
    shutil.copytree(checkpoints["tiny-qwen2"].folder, tmp_path / "damaged")
    (tmp_path / "damaged" / "sparsity.json").write_text(text)
    with pytest.raises(
        ValueError, match=r"damaged: config\.json and sparsity\.json must be JSON, the latter with arch"
    ):
        load_pruned(tmp_path / "damaged")


def test_another_network_is_no_folder_of_the_hub(tmp_path):
    config = tiny_config("small_resnet")
    task = make_tiny_task(config)
    model = task.build_model()
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in task.prunable(model).items()}
    save_pruned(tmp_path / "0", task, model, masks, {})
    assert sorted(path.name for path in (tmp_path / "0").iterdir()) == ["config.json", "model.safetensors"]


def test_a_sweep_can_start_from_a_pruned_language_model(checkpoints):
    folder = checkpoints["tiny-llama"].folder
    assert equal_states(causal_lm(base=str(folder)), load_pruned(folder))

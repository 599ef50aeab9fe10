"""The layout of the Hugging Face hub, which the folders of language models have.

- `config.json`: the transformers library's configuration, which is also the `model` of our description.
- `sparsity.json`: the rest of our description.
- `generation_config.json`, the files of the tokenizer, and `README.md`, a model card.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from trainables.architectures.causal_lm import base_folder, is_from_hub

__all__ = [
    "RECORD",
    "hub_description",
    "is_language_model",
    "write_description",
    "write_model_card",
    "write_tokenizer",
]

RECORD = "sparsity.json"
TOKENIZER = "tokenizer.json"
GENERATION = "generation_config.json"
BASE_FILES = (
    *(TOKENIZER, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model"),
    *("vocab.json", "merges.txt", "chat_template.jinja", GENERATION),
)


def is_language_model(description: Mapping[str, Any]) -> bool:
    """Whether a description is that of a language model of the transformers library."""
    return "tokenizer" in description.get("input", {}) and "config" in description["model"]


def hub_description(description: Mapping[str, Any], network: nn.Module) -> dict[str, Any]:
    """The description of a language model, with what the transformers library needs to build it by itself.

    Args:
        description: `architecture`, its arguments `model`, `input` and more.
        network: The network.
    """
    config = {**description["model"]["config"], "architectures": [type(network).__name__], "dtype": "float32"}
    return {**description, "model": {"config": config}}


def write_description(folder: Path, description: Mapping[str, Any], *, hub: bool) -> None:
    """Write what `trainables.pruning.read_description` reads.

    Args:
        folder: An existing folder.
        description: `architecture`, its arguments `model`, `input` and more.
        hub: Whether to write config.json and sparsity.json of the hub's layout (see `hub_description`), not a single
            config.json.
    """
    parts: dict[str, Any] = {"config.json": description}
    if hub:
        rest = {name: value for name, value in description.items() if name != "model"}
        if rest["input"]["tokenizer"].startswith("{"):
            rest["input"] = {**rest["input"], "tokenizer": TOKENIZER}  # the text is in this file
        parts = {"config.json": description["model"]["config"], RECORD: rest}
    for file, part in parts.items():
        (folder / file).write_text(json.dumps(part, indent=2, allow_nan=False))


def write_tokenizer(
    folder: Path, description: Mapping[str, Any], network: nn.Module, *, source: Path | None = None
) -> str:
    """Write the tokenizer of a language model, and its generation_config.json.

    Args:
        folder: An existing folder.
        description: The description of the network. `tokenizer` of its `input` is the text of a tokenizer.json, or the
            name of the base.
        network: The network.
        source: A folder that may have these files. They are used unless the text is given.

    Returns:
        Why there is no tokenizer, in one line; "" if there is one.
    """
    text, end = description["input"]["tokenizer"], description["input"]["end_of_text"]
    reason = ""
    if text.startswith("{"):
        (folder / TOKENIZER).write_text(text)
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(text, end), indent=2))
    else:
        try:
            found = source if source is not None and (source / TOKENIZER).is_file() else base_folder(text)
            for name in BASE_FILES:
                if (found / name).is_file():
                    shutil.copyfile(found / name, folder / name)
        except ValueError as error:
            reason = f"no tokenizer: {error}"
        else:
            reason = "" if (folder / TOKENIZER).exists() else f"no tokenizer: {found} has no {TOKENIZER}"
    if not (folder / GENERATION).exists():
        (folder / GENERATION).write_text(network.generation_config.to_json_string())  # type: ignore[operator, union-attr]
    return reason


def tokenizer_config(text: str, end: int) -> dict[str, Any]:
    """tokenizer_config.json of a tokenizer that was trained here: the text of its tokenizer.json, the end of text."""
    named = {token["id"]: token["content"] for token in json.loads(text)["added_tokens"]}[end]
    return {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": named, "pad_token": named}


# ---- the model card ------------------------------------------------------------------------------------------------

USE = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
```"""


def write_model_card(folder: Path, description: Mapping[str, Any]) -> None:
    """Write README.md: metadata that the hub reads, what the network is, metrics, and how to use it.

    Args:
        folder: The folder, with its tokenizer if it has one.
        description: The description of the network.
    """
    import yaml  # lazy: only language models need it

    prepare, base = description["input"], description["input"]["tokenizer"]
    known = base != TOKENIZER and is_from_hub(base)  # neither trained here nor a folder of this machine
    level = description.get("target_sparsity")
    metadata = {
        **({"base_model": base} if known else {}),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["lora", *(["pruned", "sparsity"] if level else [])],
    }
    name = base if known else description["model"]["config"]["architectures"][0]
    done = f"pruned to sparsity {level:g}" if level else "fine-tuned"
    sections = [f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---", f"# {name}, {done}", origin(description, name)]
    if not (folder / TOKENIZER).exists():
        sections.append(f"This folder has no tokenizer: use that of `{name}`.")
    if table := metric_table(description):
        sections += ["## Metrics", table]
    sections += ["## Use", USE, "The prompt that it was trained with:", f"```text\n{prepare['prompt']}\n```"]
    (folder / "README.md").write_text("\n\n".join(sections) + "\n")


def origin(description: Mapping[str, Any], name: str) -> str:
    """One paragraph: how the network was made."""
    sentences = [f"`{name}` was fine-tuned with LoRA, and the adapters were merged into its weights."]
    if pruning := description.get("pruning"):
        sentences.append(
            f"Then {description['prunable_sparsity']:.4g} of the weights of its adapted projections "
            f"({description['model_sparsity']:.4g} of all parameters) were set to zero by the criterion "
            f"{pruning['criterion']} with scope {pruning['scope']}, without training afterwards."
        )
    sentences.append(f"`{RECORD}` has the details. The licence of the base applies.")
    return " ".join(sentences)


def metric_table(description: Mapping[str, Any]) -> str:
    """The metrics on validation and test as a table, "" without any."""
    splits = [split for split in ("validation", "test") if split in description]
    names = list(dict.fromkeys(name for split in splits for name in description[split]))
    if not names:
        return ""
    rows = [["metric", *splits], ["---"] * (1 + len(splits))]
    for name in names:
        values = (description[split].get(name) for split in splits)
        rows.append([f"`{name}`", *("" if value is None else f"{value:.4g}" for value in values)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)

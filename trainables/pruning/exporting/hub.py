"""config.json of an exported network, and the layout of the Hugging Face hub for language models."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainables.pruning.checkpoint import HUB_KEY

__all__ = ["write_description", "write_tokenizer"]

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.model", "vocab.json", "merges.txt", "chat_template.jinja", "generation_config.json"),
)


def write_description(folder: Path, description: Mapping[str, Any], *, hub: bool) -> None:
    """Write config.json, so that `trainables.pruning.read_description` returns the description.

    Args:
        folder: An existing folder.
        description: `architecture`, its arguments `model`, `input` and more.
        hub: Whether to write it in the layout of the Hugging Face hub. The arguments must then be `config`, the
            transformers library's configuration.
    """
    described = dict(description)
    if hub:
        described = {**described.pop("model")["config"], HUB_KEY: described}
    (folder / "config.json").write_text(json.dumps(described, indent=2, allow_nan=False))


def write_tokenizer(folder: Path, prepare: Mapping[str, Any], eos_token_id: int | None) -> str:
    """Write the tokenizer of a language model in the layout of the Hugging Face hub.

    Args:
        folder: The folder with its config.json.
        prepare: `input` of the checkpoint's config.json, whose `tokenizer` is the text of a tokenizer.json or the name
            of the base.
        eos_token_id: The end-of-text token.

    Returns:
        Why there is no tokenizer, in one line; "" if there is one.
    """
    text = prepare["tokenizer"]
    if text.startswith("{"):
        (folder / "tokenizer.json").write_text(text)
        tokens = {token["id"]: token["content"] for token in json.loads(text).get("added_tokens", ())}
        described = {"tokenizer_class": "PreTrainedTokenizerFast"}
        if eos_token_id in tokens:
            described["eos_token"] = tokens[eos_token_id]
        (folder / "tokenizer_config.json").write_text(json.dumps(described, indent=2))
        return ""
    from trainables.architectures.causal_lm import base_folder  # lazy: only language models need it

    try:
        base = base_folder(text)
    except ValueError as error:
        return f"no tokenizer: {error}"
    for name in TOKENIZER_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    return "" if (folder / "tokenizer.json").exists() else f"no tokenizer: {base} has no tokenizer.json"

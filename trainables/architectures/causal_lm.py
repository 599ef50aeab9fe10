import json
import os
from pathlib import Path
from typing import Any

import torch

from trainables.architectures._base import check_counts
from trainables.architectures._hub import checkpoint_folder, is_hub_name
from trainables.data.tokens import TRAINED_END
from trainables.errors import one_line

__all__ = ["causal_lm"]

DEFAULT_BASE = "Qwen/Qwen2.5-1.5B"
TINY = {"tiny-qwen2": "qwen2", "tiny-llama": "llama"}  # base -> transformers' model_type
SIZES = {"vocab_size": 2048, "hidden_size": 64, "num_layers": 2, "num_heads": 4}  # defaults of the tiny networks
WHERE = "model: base"
EMBEDDING_LENGTH = 4  # mean length of an embedding in the tiny networks
MAX_LENGTH = 200  # characters of an exception's text in a message


def causal_lm(
    *,
    base: str = DEFAULT_BASE,
    config: dict[str, Any] | None = None,
    vocab_size: int | None = None,
    hidden_size: int | None = None,
    num_layers: int | None = None,
    num_heads: int | None = None,
) -> Any:
    """Decoder-only language model of the transformers library, in float32.

    It maps tokens (N, T) to an object whose `logits` are (N, T, vocabulary), of the next token at each position.
    Weights have the names that transformers gives them.

    The tiny networks are for tests and laptops. They have random weights, two heads per key and value, and an FFN of
    width 4 hidden_size; tiny-qwen2 has 254,528 parameters by default.

    Args:
        base: A name on the Hugging Face hub, such as Qwen/Qwen2.5-1.5B (1,543,714,304 parameters) or
            meta-llama/Llama-3.2-1B (1,235,814,400), downloaded once; a folder with such a checkpoint; or tiny-qwen2 or
            tiny-llama.
        config: transformers' configuration as a dictionary. It replaces `base` and gives a network with random weights.
        vocab_size: Number of tokens of a tiny network, 2048 by default.
        hidden_size: Width of a tiny network, 64 by default, a multiple of 2 num_heads.
        num_layers: Blocks of a tiny network, 2 by default.
        num_heads: Attention heads of a tiny network, 4 by default, an even number.

    Raises:
        ValueError: If the checkpoint is missing, is no language model or cannot be downloaded, or the sizes are below
            1, do not fit together, or are given for a network that is not tiny.

    Reference: Qwen team, "Qwen2.5 Technical Report", 2024, arXiv 2412.15115.
    """
    sizes = {"vocab_size": vocab_size, "hidden_size": hidden_size, "num_layers": num_layers, "num_heads": num_heads}
    sizes = {name: size for name, size in sizes.items() if size is not None}
    if config is None and base not in TINY:
        for name, size in sizes.items():
            raise ValueError(f"model: {name} must be left out unless base is one of {', '.join(TINY)}, got {size}")
        return _read(base_folder(base))
    tiny = config is None
    if config is None:
        config = _tiny_config(base, sizes)
    quiet()
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=torch.float32)
    except Exception as error:  # its entries decide which type is raised
        raise ValueError(f"model: config must be that of a causal language model, got {short(error)}") from error
    if tiny:  # The head shares the embedding. At length 1, its logits are too close for adapters to single out a token.
        with torch.no_grad():
            model.get_input_embeddings().weight.mul_(EMBEDDING_LENGTH)
    return model


def network_config(model: Any) -> dict[str, Any]:
    """Return the `config` from which `causal_lm` builds the same network, as JSON."""
    return json.loads(model.config.to_json_string(use_diff=True))


def base_folder(base: str) -> Path:
    """Find the checkpoint of a base that is not tiny; see `checkpoint_folder`."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    return checkpoint_folder(WHERE, base)


def is_from_hub(base: str) -> bool:
    """Whether a base is named as on the Hugging Face hub: neither tiny nor a local folder."""
    return base not in TINY and is_hub_name(base)


def quiet() -> None:
    """Turn off the progress bars and the advice of transformers."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def short(error: Exception) -> str:
    """Format an exception in 200 characters; transformers' may list all networks."""
    text = one_line(error)
    return text if len(text) <= MAX_LENGTH else f"{text[:MAX_LENGTH]} ..."


def _tiny_config(base, sizes):
    sizes = {**SIZES, **sizes}
    check_counts("causal_lm", **sizes)
    hidden_size, num_heads = sizes["hidden_size"], sizes["num_heads"]
    if num_heads % 2:
        raise ValueError(f"causal_lm: num_heads must be even (two heads share keys and values), got {num_heads}")
    if hidden_size % (2 * num_heads):
        raise ValueError(
            f"causal_lm: hidden_size must be a multiple of {2 * num_heads} (two per head), got {hidden_size}"
        )
    return {
        "model_type": TINY[base],
        "vocab_size": sizes["vocab_size"],
        "hidden_size": hidden_size,
        "intermediate_size": 4 * hidden_size,
        "num_hidden_layers": sizes["num_layers"],
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_heads // 2,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": TRAINED_END,
        "initializer_range": hidden_size**-0.5,
    }


def _read(folder: Path):
    """Read the network of a checkpoint. Only safetensors are read, and no code of the checkpoint is run."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from_pretrained: Any = AutoModelForCausalLM.from_pretrained
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model, found = from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,  # whatever the checkpoint's own type
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # transformers raises many types for damaged files
        raise ValueError(f"{WHERE} must be a causal language model, got {folder} ({short(error)})") from error
    if lacking := sorted(found["missing_keys"]):
        raise ValueError(
            f"{WHERE} must have all weights of {type(model).__name__}, got {folder} without {', '.join(lacking[:3])}"
            + (f" and {len(lacking) - 3} more" if len(lacking) > 3 else "")
        )
    return model

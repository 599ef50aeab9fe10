import json
import os
from pathlib import Path
from typing import Any

import torch

from trainables.architectures._base import check_counts
from trainables.architectures._hub import checkpoint_folder
from trainables.errors import one_line

__all__ = ["causal_lm"]

DEFAULT_BASE = "Qwen/Qwen2.5-1.5B"
TINY = {"tiny-qwen2": "qwen2", "tiny-llama": "llama"}  # base -> transformers' model_type
SIZES = {"vocab_size": 2048, "hidden_size": 64, "num_layers": 2, "num_heads": 4}  # of these, by default
WHERE = "model: base"
END = 0  # the end-of-text token of a tokenizer that is trained for them
EMBEDDING_LENGTH = 4  # on average, of the tiny ones
MAX_LENGTH = 200  # characters of another library's message


def causal_lm(*, base=DEFAULT_BASE, config=None, vocab_size=None, hidden_size=None, num_layers=None, num_heads=None):
    """A decoder-only language model, transformers' implementation, in float32; its weights have transformers' names.

    base: a name on the Hugging Face hub, such as Qwen/Qwen2.5-1.5B (Qwen team 2024, arXiv 2412.15115: 1,543,714,304
        parameters) or meta-llama/Llama-3.2-1B (1,235,814,400), downloaded once; a folder with such a checkpoint; or
        tiny-qwen2 or tiny-llama, small ones of the same two kinds with random weights, for tests and laptops.
    vocab_size, hidden_size, num_layers, num_heads: of the tiny ones alone; 2048, 64, 2 and 4 by default. hidden_size
        is a multiple of 2 num_heads. Two heads share keys and values (num_heads even), and the FFN is 4 hidden_size
        wide, so 254,528 parameters (tiny-qwen2).
    config: a dictionary, transformers' configuration, to have that network with random weights instead: no base then.
    tokens (N, T) -> an object whose `logits` are (N, T, vocabulary), of the next token at each place.
    ValueError, one line, for what is no such checkpoint or cannot be had, a count below 1, and sizes that do not fit.
    """
    sizes = {"vocab_size": vocab_size, "hidden_size": hidden_size, "num_layers": num_layers, "num_heads": num_heads}
    sizes = {name: size for name, size in sizes.items() if size is not None}
    if config is None and base not in TINY:
        for name, size in sizes.items():
            raise ValueError(f"model: {name} must be left out unless base is one of {', '.join(TINY)}, got {size}")
        return _read(base_folder(base))
    tiny = config is None
    config = _tiny_config(base, sizes) if tiny else config
    quiet()
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=torch.float32)
    except Exception as error:  # whatever its entries lead to
        raise ValueError(f"model: config must be that of a causal language model, got {short(error)}") from error
    if tiny:  # the head is the embedding: at a length of 1 its logits are too close for adapters to be sure of a token
        with torch.no_grad():
            model.get_input_embeddings().weight.mul_(EMBEDDING_LENGTH)
    return model


def network_config(model):
    """The dictionary that `causal_lm(config=...)` makes the same network of; JSON."""
    return json.loads(model.config.to_json_string(use_diff=True))


def base_folder(base):
    """The folder with the checkpoint of a base that is not tiny. ValueError, one line and at once, without one."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    return checkpoint_folder(WHERE, base)


def quiet():
    """Before anything of transformers' is used: no progress bars, and no advice."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def short(error):
    """An exception as text; some of transformers' list every kind of network that it has."""
    text = one_line(error)
    return text if len(text) <= MAX_LENGTH else f"{text[:MAX_LENGTH]} ..."


def _tiny_config(base, sizes):
    sizes = {**SIZES, **sizes}
    check_counts("causal_lm", **sizes)
    hidden_size, num_heads = sizes["hidden_size"], sizes["num_heads"]
    if num_heads % 2:
        raise ValueError(f"causal_lm: num_heads must be even (two share keys and values), got {num_heads}")
    if hidden_size % (2 * num_heads):
        raise ValueError(
            f"causal_lm: hidden_size must be a multiple of {2 * num_heads} (two for each head), got {hidden_size}"
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
        "eos_token_id": END,
        "initializer_range": hidden_size**-0.5,
    }


def _read(folder: Path):
    """The checkpoint's network. Weights as safetensors only, and no code of the checkpoint's own."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from_pretrained: Any = AutoModelForCausalLM.from_pretrained
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model, found = from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,  # not the checkpoint's own
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # a damaged file raises whatever its bytes lead to
        raise ValueError(f"{WHERE} must be a causal language model, got {folder} ({short(error)})") from error
    if lacking := sorted(found["missing_keys"]):
        raise ValueError(
            f"{WHERE} must have all weights of {type(model).__name__}, got {folder} without {', '.join(lacking[:3])}"
            + (f" and {len(lacking) - 3} more" if len(lacking) > 3 else "")
        )
    return model

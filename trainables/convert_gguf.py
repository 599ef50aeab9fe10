"""Convert a language model from GGUF, the format of llama.cpp, to a folder that a sweep can start from.

    python -m trainables.convert_gguf FILE FOLDER

Then run, for example, `python sweeps/commonsense_lora.py --model base=FOLDER`. The folder has the layout of the Hugging
Face hub: config.json, model.safetensors and the tokenizer. Quantized weights become float32. `make llm` downloads
SmolLM2-135M-Instruct and converts it.

FOLDER must not exist. It appears when it is complete. The package `gguf` is needed (`pip install gguf`).
"""

import argparse
import importlib.util
from pathlib import Path
from typing import Any

from trainables.architectures.causal_lm import quiet, short
from trainables.files import new_folder

__all__ = ["convert_gguf"]

SPLIT_DIGITS = ("smollm",)  # values of tokenizer.ggml.pre whose tokenizers make each digit a token


def convert_gguf(file: str | Path, folder: str | Path) -> None:
    """Convert a GGUF file to a folder that `causal_lm` reads as its base.

    Args:
        file: The GGUF file. Its architecture must be one that transformers reads from GGUF, such as llama or qwen2.
        folder: Folder to create.

    Raises:
        FileExistsError: If the folder exists.
        ValueError: If the package `gguf` is missing, or the file is missing or cannot be read.
    """
    file, folder = Path(file).expanduser(), Path(folder).expanduser()
    if importlib.util.find_spec("gguf") is None:
        raise ValueError("convert_gguf: package gguf must be installed (it reads the file): pip install gguf")
    if not file.is_file():
        raise ValueError(f"convert_gguf: file must be a GGUF file, got {file}: no such file")
    with new_folder(folder) as partial:
        try:
            network, tokenizer, metadata = _read(file)
        except Exception as error:  # transformers and gguf raise many types for damaged files
            raise ValueError(f"convert_gguf: file must be a readable GGUF file, got {file} ({short(error)})") from error
        if metadata.get("tokenizer.ggml.pre") in SPLIT_DIGITS:
            _split_digits(tokenizer)
        network.save_pretrained(partial)
        tokenizer.save_pretrained(partial)


def _read(file: Path) -> tuple[Any, Any, dict[str, Any]]:
    """The network in float32, the tokenizer, and the metadata of the file that describe the tokenizer."""
    import torch
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    quiet()
    fields = GGUFReader(file).fields
    metadata = {name: fields[name].contents() for name in ("tokenizer.ggml.pre",) if name in fields}
    where: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    network = AutoModelForCausalLM.from_pretrained(
        file.parent,
        quantization_config=GgufConfig(dequantize=True),  # quantized weights can be neither trained nor saved
        dtype=torch.float32,
        **where,
    )
    network.config.__dict__.pop("_model_name_or_path", None)  # the file's own name for it, which is no model's name
    return network, AutoTokenizer.from_pretrained(file.parent, **where), metadata


def _split_digits(tokenizer: Any) -> None:
    """Make each digit a token, which transformers leaves out when it reads the tokenizer of a GGUF file."""
    from tokenizers import pre_tokenizers

    backend = tokenizer.backend_tokenizer
    digits = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m trainables.convert_gguf",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", help="GGUF file to read")
    parser.add_argument("folder", help="folder to write, for --model base=")
    chosen = parser.parse_args()
    try:
        convert_gguf(chosen.file, chosen.folder)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{error}\n")
    folder = Path(chosen.folder).expanduser().absolute()  # workers of a sweep may have another working folder
    print(f"{Path(chosen.file).name} is converted: --model base={folder}")


if __name__ == "__main__":
    main()

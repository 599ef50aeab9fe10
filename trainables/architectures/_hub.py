"""Checkpoints in the layout of the Hugging Face hub, local or downloaded."""

import json
import re
from pathlib import Path

from trainables.errors import one_line
from trainables.paths import expanded

__all__ = ["checkpoint_folder", "is_hub_name"]

FILES = ["*.json", "*.safetensors"]  # pickled weights are neither downloaded nor opened
HUB_NAME = r"\w[\w.-]*(/\w[\w.-]*)?"  # such as google/vit-base-patch32-224-in21k


def checkpoint_folder(where: str, name: str) -> Path:
    """Find the folder with a checkpoint, downloading it if necessary.

    The folder holds config.json and *.safetensors. A complete checkpoint in the hub's cache is used without a network
    request.

    Args:
        where: The argument that names the checkpoint, as "group: argument", for error messages.
        name: A folder, or a name on the hub.

    Returns:
        The folder.

    Raises:
        ValueError: If there is no such checkpoint, no network, or no weights as safetensors. It is raised at once,
            without the half minute for which a download retries.
    """
    folder = expanded(name, where)
    if not folder.is_dir():
        folder = _hub_folder(where, name)
    if lacking := _lacking(folder):
        raise ValueError(f"{where} must have config.json and *.safetensors, got {folder} without {lacking}")
    return folder


def is_hub_name(name: str) -> bool:
    """Whether a name is spelled like one on the hub, and is not that of a local folder."""
    return re.fullmatch(HUB_NAME, name) is not None and not Path(name).is_dir()


def _hub_folder(where: str, name: str) -> Path:
    if not re.fullmatch(HUB_NAME, name):
        raise ValueError(f"{where} must be a folder or a name on the Hugging Face hub, got {name!r}: no such folder")
    import huggingface_hub as hub  # lazy: a local folder does not need it

    try:
        cached = Path(hub.snapshot_download(name, local_files_only=True))
        if not _lacking(cached):
            return cached
    except (FileNotFoundError, ValueError):  # not cached, or not a valid name: the request below says which
        pass
    try:
        hub.get_hf_file_metadata(
            hub.hf_hub_url(name, "config.json")
        )  # fails at once; a download retries for half a minute
        return Path(hub.snapshot_download(name, allow_patterns=FILES))
    except Exception as error:  # the hub's client raises some twenty types, its HTTP library more
        flag = f"--{where.replace(': ', ' ')}=FOLDER"
        raise ValueError(
            f"{where} must be a folder, or in the Hugging Face hub's cache, or downloadable, got {name!r} "
            f"({one_line(error)}): connect to the network, or name a folder that holds the checkpoint, {flag}"
        ) from error


def _lacking(folder: Path) -> str:
    """Return the name of a file that a checkpoint needs and the folder lacks, or ""."""
    needed = ["config.json", "*.safetensors"]
    index = folder / "model.safetensors.index.json"  # exists if the weights are in several files
    if index.is_file():
        try:
            needed += sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"a readable {index.name}"
    return next((name for name in needed if not any(folder.glob(name))), "")

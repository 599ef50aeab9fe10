"""Checkpoints in the layout of the Hugging Face hub: a folder of one's own, or the hub's, downloaded once."""

import json
import re
from pathlib import Path

from trainables.config import expanded
from trainables.errors import one_line

__all__ = ["checkpoint_folder"]

FILES = ["*.json", "*.safetensors"]  # pickled weights are neither downloaded nor opened
HUB_NAME = r"\w[\w.-]*(/\w[\w.-]*)?"  # as google/vit-base-patch32-224-in21k


def checkpoint_folder(where: str, name: str) -> Path:
    """The folder with a checkpoint's config.json and *.safetensors: `name` if it is a folder, else what the hub has.

    What is whole in the hub's cache is taken from there, without a word to the network; else it is downloaded into it.
    where: the argument that the messages are about, "group: argument", as --group argument=... gives it.
    ValueError, one line and at once, where there is no such checkpoint, no network, or no weights as safetensors.
    """
    folder = expanded(name, where)
    if not folder.is_dir():
        folder = _hub_folder(where, name)
    if lacking := _lacking(folder):
        raise ValueError(f"{where} must have config.json and *.safetensors, got {folder} without {lacking}")
    return folder


def _hub_folder(where: str, name: str) -> Path:
    if not re.fullmatch(HUB_NAME, name):
        raise ValueError(f"{where} must be a folder or a name on the Hugging Face hub, got {name!r}: no such folder")
    import huggingface_hub as hub

    try:
        cached = Path(hub.snapshot_download(name, local_files_only=True))
        if not _lacking(cached):
            return cached
    except (FileNotFoundError, ValueError):  # not there, or no name that the hub knows: it says which below
        pass
    try:
        hub.get_hf_file_metadata(hub.hf_hub_url(name, "config.json"))  # fails at once; a download tries half a minute
        return Path(hub.snapshot_download(name, allow_patterns=FILES))
    except Exception as error:  # the hub's client has some twenty types, and its connection's own
        flag = f"--{where.replace(': ', ' ')}=FOLDER"
        raise ValueError(
            f"{where} must be a folder, or in the Hugging Face hub's cache, or downloadable, got {name!r} "
            f"({one_line(error)}): connect to the network, or name a folder that holds the checkpoint, {flag}"
        ) from error


def _lacking(folder: Path) -> str:
    """A file that a checkpoint needs and the folder does not have, or ""."""
    needed = ["config.json", "*.safetensors"]
    index = folder / "model.safetensors.index.json"  # of weights in several files
    if index.is_file():
        try:
            needed += sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"a readable {index.name}"
    return next((name for name in needed if not any(folder.glob(name))), "")

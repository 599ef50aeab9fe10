import json
import re
import socket
import time

import huggingface_hub
import pytest
from huggingface_hub import constants

from trainables.architectures._hub import checkpoint_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """An empty cache and no internet. Returns the list of attempted connections."""
    tried = []

    def refused(*args, **kwargs):
        tried.append(args)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tried


@pytest.fixture
def cached(asked, tmp_path):
    """The hub's cache with someone/model in its documented layout: refs/main names the commit in snapshots/."""
    repo = tmp_path / "hub" / "models--someone--model"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    folder = repo / "snapshots" / COMMIT
    write_checkpoint(folder)
    return folder


def write_checkpoint(folder):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")


def write_shards(folder, *names):
    """Write an index of two files, and those of them that are named."""
    (folder / "model.safetensors").unlink()
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    for name in names:
        (folder / name).write_bytes(b"")


def test_a_folder_is_used_without_a_request(asked, tmp_path):
    write_checkpoint(tmp_path / "mine")
    assert checkpoint_folder("model: pretrained", str(tmp_path / "mine")) == tmp_path / "mine"
    write_shards(tmp_path / "mine", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    assert checkpoint_folder("model: pretrained", str(tmp_path / "mine")) == tmp_path / "mine"
    assert not asked


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_refuses_a_folder_without_its_files(tmp_path, name):
    write_checkpoint(tmp_path / "mine")
    (tmp_path / "mine" / name).rename(tmp_path / "mine" / "pytorch_model.bin")
    lacking = {"config.json": r"config\.json", "model.safetensors": r"\*\.safetensors"}[name]
    message = rf"^model: pretrained must have config\.json and \*\.safetensors, got \S+ without {lacking}$"
    with pytest.raises(ValueError, match=message):
        checkpoint_folder("model: pretrained", str(tmp_path / "mine"))


def test_refuses_a_folder_without_one_of_several_files(tmp_path):
    write_checkpoint(tmp_path / "mine")
    write_shards(tmp_path / "mine", "model-00001-of-00002.safetensors")
    with pytest.raises(ValueError, match=r"^model: base must .*, got \S+ without model-00002-of-00002\.safetensors$"):
        checkpoint_folder("model: base", str(tmp_path / "mine"))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 1}'])
def test_refuses_a_damaged_index(tmp_path, text):
    write_checkpoint(tmp_path / "mine")
    (tmp_path / "mine" / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match=r"got \S+ without a readable model\.safetensors\.index\.json$"):
        checkpoint_folder("model: base", str(tmp_path / "mine"))


@pytest.mark.parametrize("name", ["/no/such/folder", "./folder", "~/no/such/folder", "a/b/c", "a b"])
def test_refuses_a_missing_path(asked, name):
    expected = f"^model: base must be a folder or a name on the Hugging Face hub, got '{re.escape(name)}'"
    with pytest.raises(ValueError, match=f"{expected}: no such folder$"):
        checkpoint_folder("model: base", name)
    assert not asked


def test_a_complete_cache_is_used_without_a_request(cached, asked):
    assert checkpoint_folder("model: base", "someone/model") == cached
    assert not asked


def test_without_internet_fails_at_once_in_one_line(asked):
    message = (
        r"model: base must be a folder, or in .*, or downloadable, got 'someone/model' \(.*\): .* --model base=FOLDER"
    )
    begin = time.monotonic()
    with pytest.raises(ValueError, match=f"^{message}$") as caught:
        checkpoint_folder("model: base", "someone/model")
    assert time.monotonic() - begin < 10  # the hub's client retries for half a minute
    assert "\n" not in str(caught.value)
    assert asked


def test_an_incomplete_cache_is_not_used(cached, asked):
    write_shards(cached, "model-00001-of-00002.safetensors")
    with pytest.raises(ValueError, match="downloadable, got 'someone/model'"):
        checkpoint_folder("model: base", "someone/model")
    assert asked


@pytest.mark.parametrize("name", ["no--name", "no..name", "someone/model."])
def test_refuses_an_invalid_name(asked, name):
    with pytest.raises(ValueError, match=rf"^model: base must .*, got '{re.escape(name)}' \(HFValidationError: .*\)"):
        checkpoint_folder("model: base", name)
    assert not asked


def test_downloads_json_and_safetensors_only(asked, monkeypatch, tmp_path):
    """A repository without safetensors is refused."""
    calls = []

    def download(name, **options):
        calls.append((name, options))
        if options.get("local_files_only"):
            raise FileNotFoundError
        (tmp_path / "got").mkdir()
        (tmp_path / "got" / "config.json").write_text("{}")
        return str(tmp_path / "got")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ValueError, match=r"got \S+ without \*\.safetensors$"):
        checkpoint_folder("model: base", "someone/model")
    assert calls[1] == ("someone/model", {"allow_patterns": ["*.json", "*.safetensors"]})
    (tmp_path / "got" / "model.safetensors").write_bytes(b"")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **options: str(tmp_path / "got"))
    assert checkpoint_folder("model: base", "someone/model") == tmp_path / "got"

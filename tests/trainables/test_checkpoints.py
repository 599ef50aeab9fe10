import zipfile

import pytest
import torch

from trainables.checkpoints import LATEST, PREVIOUS, read_checkpoint, remove_checkpoints, save_checkpoint


def test_last_two_checkpoints_are_kept(tmp_path):
    for epoch in range(3):
        save_checkpoint(tmp_path, {"epoch": epoch, "weights": {"w": torch.full((2,), float(epoch))}})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([LATEST, PREVIOUS])
    assert [read_checkpoint((tmp_path / name).read_bytes())["epoch"] for name in (LATEST, PREVIOUS)] == [2, 1]
    assert read_checkpoint((tmp_path / LATEST).read_bytes())["weights"]["w"].tolist() == [2, 2]


def test_altered_bit_is_found(tmp_path):
    """torch.load alone does not compare checksums."""
    save_checkpoint(tmp_path, {"w": torch.ones(1000)})
    path = tmp_path / LATEST
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as file:
        (name,) = [name for name in file.namelist() if "/data/" in name]
        content[content.index(file.read(name)) + 2000] ^= 1
    path.write_bytes(bytes(content))
    assert torch.load(path, weights_only=True)["w"].shape == (1000,)
    with pytest.raises(ValueError, match="data/0 does not match its checksum"):
        read_checkpoint(path.read_bytes())


def test_all_checkpoints_are_removed(tmp_path):
    (tmp_path / "result.json").write_text("{}")
    (tmp_path / f"{LATEST}.99.partial").write_bytes(b"half")
    save_checkpoint(tmp_path, {})
    save_checkpoint(tmp_path, {})
    remove_checkpoints(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]

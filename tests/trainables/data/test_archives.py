import io
import os
import tarfile
import zipfile
from pathlib import PurePosixPath

import pytest

from trainables.data import archives
from trainables.data.archives import ARCHIVE_SUFFIXES, read_archive
from trainables.data.errors import DataError

FILES = {"top/a.tif": b"one", "top/deep/b.tif": b"two" * 100_000, "top/readme.txt": b"three", "c.tif": b""}
WANTED = {PurePosixPath(name): content for name, content in FILES.items() if name.endswith(".tif")}


def write_tar(file, files=FILES, more=()):
    """Write a tar of files (contents by name) and of further members without contents."""
    with tarfile.open(file, f"w:{file.suffix[1:].replace('tar', '').replace('tgz', 'gz')}") as tar:
        tar.addfile(directory("top"))
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info in more:
            tar.addfile(info)


def directory(name):
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE
    return info


def member(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def write_zip(file, files=FILES, more=()):
    """Write a zip of files (contents by name) and of further members (name, Unix mode)."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        made.mkdir("top")
        for name, content in files.items():
            made.writestr(name, content)
        for name, mode in more:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            made.writestr(info, b"/etc/passwd")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory and the folder of archives; a file written by mistake is found below its parent."""
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    return inner


@pytest.mark.parametrize("suffix", ARCHIVE_SUFFIXES)
def test_reads_the_files_with_the_suffix(folder, suffix):
    archive = folder / f"data{suffix}"
    (write_zip if suffix == ".zip" else write_tar)(archive)
    assert dict(read_archive(archive, ".tif")) == WANTED


HOSTILE = {
    "parent": [tarfile.TarInfo("../evil.tif")],
    "parent inside": [tarfile.TarInfo("top/../../evil.tif")],
    "absolute": [tarfile.TarInfo("/tmp/evil.tif")],
    "drive": [tarfile.TarInfo("C:\\evil.tif")],
    "backslash": [tarfile.TarInfo("..\\evil.tif")],
    "symbolic link": [member("link.tif", tarfile.SYMTYPE, "/etc/passwd")],
    "link to a folder": [member("link", tarfile.SYMTYPE, ".."), tarfile.TarInfo("link/evil.tif")],
    "hard link": [member("link.tif", tarfile.LNKTYPE, "c.tif")],
    "pipe": [member("pipe.tif", tarfile.FIFOTYPE)],
    "device": [member("disk", tarfile.BLKTYPE)],  # refused although its name has no suffix to read
    "terminal": [member("tty.tif", tarfile.CHRTYPE)],
}


@pytest.mark.parametrize("more", HOSTILE.values(), ids=HOSTILE)
def test_refuses_a_hostile_tar(folder, more):
    archive = folder / "data.tar.xz"
    write_tar(archive, more=more)
    with pytest.raises(DataError, match=r"^\S+/data\.tar\.xz: members must ") as error:
        list(read_archive(archive, ".tif"))
    assert repr(more[0].name) in str(error.value)
    assert "\n" not in str(error.value)
    assert sum(len(files) for _, _, files in os.walk(folder.parent)) == 1  # the archive itself


@pytest.mark.parametrize(
    ("name", "mode"), [("../evil.tif", 0o100644), ("/tmp/evil.tif", 0o100644), ("link", 0o120777), ("pipe", 0o010644)]
)
def test_refuses_a_hostile_zip(folder, name, mode):
    write_zip(folder / "data.zip", more=[(name, mode)])
    with pytest.raises(DataError, match=rf"data\.zip: members must .* got '{name}'"):
        list(read_archive(folder / "data.zip", ".tif"))
    assert sum(len(files) for _, _, files in os.walk(folder.parent)) == 1


@pytest.mark.parametrize("suffix", [".tar.xz", ".zip"])
def test_refuses_a_huge_file_in_a_small_archive(folder, suffix, monkeypatch):
    monkeypatch.setattr(archives, "MAX_BYTES", 100_000)
    archive = folder / f"data{suffix}"
    (write_zip if suffix == ".zip" else write_tar)(archive, {"huge.tif": bytes(100_001)})
    assert archive.stat().st_size < 1000
    with pytest.raises(DataError, match=r"files must have at most 100000 bytes, got 'huge.tif' of 100001$"):
        list(read_archive(archive, ".tif"))
    assert not list(read_archive(archive, ".png"))


@pytest.mark.parametrize("suffix", [".tar", ".tar.xz", ".tar.gz", ".zip"])
@pytest.mark.parametrize("damage", ["cut", "altered", "not one", "empty"])
def test_refuses_a_damaged_archive(folder, suffix, damage):
    archive = folder / f"data{suffix}"
    (write_zip if suffix == ".zip" else write_tar)(archive, {"a.tif": os.urandom(50_000)})
    content = bytearray(archive.read_bytes())
    if damage == "altered":
        if suffix == ".tar":
            content[0] ^= 1  # only the header has a checksum
        else:
            content[len(content) // 2] ^= 1
    archive.write_bytes(
        {"cut": content[: len(content) // 2], "altered": content, "not one": b"GIF89a" * 99, "empty": b""}[damage]
    )
    with pytest.raises(
        DataError, match=r"^\S+: must be a complete, readable archive, got (\w+Error|Bad\w+File)"
    ) as error:
        list(read_archive(archive, ".tif"))
    assert "\n" not in str(error.value)


def test_refuses_a_missing_archive(folder):
    with pytest.raises(DataError, match=r"none\.zip: must be a complete, readable archive, got FileNotFoundError"):
        list(read_archive(folder / "none.zip", ".tif"))

"""Reading archives in place: nothing is unpacked to disk, so no path in one can lead out of a folder."""

import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from trainables.data.images import DataError
from trainables.errors import one_line

__all__ = ["SUFFIXES", "read_archive"]

SUFFIXES = (".tar", ".tar.xz", ".tar.gz", ".tgz", ".tar.bz2", ".zip")
MAX_BYTES = 64 * 2**20  # of one file: images are far smaller, and memory is not for a member to decide


class Member(NamedTuple):
    name: str
    kind: str  # "file", "folder", or what else it is
    size: int  # bytes
    open: Callable[[], IO[bytes] | None]


def read_archive(archive: Path, suffix: str) -> Iterator[tuple[PurePosixPath, bytes]]:
    """The files of a zip or tar (plain, gzip, bzip2 or xz) whose names end with `suffix`, path and content, as stored.

    DataError for a member, wanted or not, that is a link or a device or has an absolute path or one with `..`; for a
    wanted one of more than 64 MiB; and for an archive that is damaged, cut off or encrypted.
    """
    try:
        for member in (zip_members if archive.name.endswith(".zip") else tar_members)(archive):
            path = PurePosixPath(member.name.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", member.name):
                raise DataError(f"{archive}: members must have paths below its top, got {member.name!r}")
            if member.kind not in ("file", "folder"):
                raise DataError(f"{archive}: members must be files and folders, got {member.name!r}, a {member.kind}")
            if member.kind == "folder" or not path.name.endswith(suffix):
                continue
            if member.size > MAX_BYTES:
                raise DataError(
                    f"{archive}: files must have at most {MAX_BYTES} bytes, got {member.name!r} of {member.size}"
                )
            file = member.open()
            assert file is not None
            with file:
                yield path, file.read()
    except DataError:
        raise
    except (
        Exception
    ) as error:  # the formats and their four compressions raise a dozen types on bytes that are not theirs
        raise DataError(f"{archive}: must be a whole, readable archive, got {one_line(error)}") from error


def tar_members(archive: Path) -> Iterator[Member]:
    with tarfile.open(archive) as tar:
        for info in tar:
            kind = "file" if info.isreg() else "folder" if info.isdir() else "link or device"
            yield Member(info.name, kind, info.size, lambda info=info: tar.extractfile(info))  # type: ignore[misc]
        while tar.fileobj and tar.fileobj.read(MAX_BYTES):  # to the end, where gzip and xz have their checksums
            pass


def zip_members(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            mode = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archive was not written on Unix
            kind = "folder" if info.is_dir() else "file" if mode in (0, stat.S_IFREG) else "link or device"
            yield Member(info.filename, kind, info.file_size, lambda info=info: file.open(info))  # type: ignore[misc]

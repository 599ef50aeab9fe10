"""Reading of zip and tar archives in place, without unpacking them to disk."""

import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from trainables.data.errors import DataError
from trainables.errors import one_line

__all__ = ["ARCHIVE_SUFFIXES", "read_archive"]

ARCHIVE_SUFFIXES = (".tar", ".tar.xz", ".tar.gz", ".tgz", ".tar.bz2", ".zip")
MAX_BYTES = 64 * 2**20  # of one file: far more than an image, and a small archive cannot exhaust the memory


class _Member(NamedTuple):
    name: str
    kind: str  # "file", "folder" or "link or device"
    size: int  # bytes
    open: Callable[[], IO[bytes] | None]


def read_archive(archive: Path, suffix: str) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Read the files of an archive whose names end with `suffix`, in stored order.

    Args:
        archive: A zip file, or a tar file (plain or compressed with gzip, bzip2 or xz).
        suffix: End of the names to read, such as ".tif".

    Yields:
        The path of each file in the archive and its contents.

    Raises:
        DataError: If any member is a link or a device or has an absolute path or one with `..`, if a file to read is
            larger than 64 MiB, or if the archive is damaged, cut off or encrypted.
    """
    try:
        for member in (_zip_members if archive.name.endswith(".zip") else _tar_members)(archive):
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
    except Exception as error:  # zipfile, tarfile and four decompressors raise a dozen types for damaged data
        raise DataError(f"{archive}: must be a complete, readable archive, got {one_line(error)}") from error


def _tar_members(archive: Path) -> Iterator[_Member]:
    with tarfile.open(archive) as tar:
        for info in tar:
            kind = "file" if info.isreg() else "folder" if info.isdir() else "link or device"
            yield _Member(info.name, kind, info.size, lambda info=info: tar.extractfile(info))  # type: ignore[misc]
        while tar.fileobj and tar.fileobj.read(MAX_BYTES):  # read to the end: gzip and xz store checksums there
            pass


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            mode = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archive was not written on Unix
            kind = "folder" if info.is_dir() else "file" if mode in (0, stat.S_IFREG) else "link or device"
            yield _Member(info.filename, kind, info.file_size, lambda info=info: file.open(info))  # type: ignore[misc]

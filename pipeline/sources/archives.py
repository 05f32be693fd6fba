"""Unpacks tar (plain or compressed) and zip archives, recognised by content, never outside the folder given."""

import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from gzip import BadGzipFile
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from tqdm import tqdm

from pipeline.records.errors import InputError

MACOS_EXTRAS = "__MACOSX"
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Member:
    """One entry of an archive; `open` gives its bytes."""

    path: PurePosixPath
    kind: Literal["file", "folder", "other"]
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks `archive` into the existing `folder`, without hidden files and without a top folder that holds all else.

    Nothing is written before every member has been looked at.

    Raises:
        InputError: ``not-an-archive``, ``damaged-archive``, ``unsafe-archive`` (a member that leaves the folder, a
            link, a device).
    """
    with _refusing_damage(archive), _members_of(archive) as members:
        for member in members:
            _refuse_unsafe(archive, member)
        files = [member for member in members if member.kind == "file" and not _is_extra(member.path)]
        tops = {member.path.parts[0] for member in files}
        has_top = len(tops) == 1 and all(len(member.path.parts) > 1 for member in files)
        for member in tqdm(files, desc="unpacking", unit="file", disable=None):
            target = folder.joinpath(*member.path.parts[int(has_top):])
            target.parent.mkdir(parents=True, exist_ok=True)
            with member.open() as stream, target.open("wb") as written:
                shutil.copyfileobj(stream, written)


@contextmanager
def _members_of(archive: Path) -> Iterator[Sequence[Member]]:
    # Tar first: a tar whose last member is a zip also looks like a zip.
    if tarfile.is_tarfile(archive):
        with tarfile.open(archive) as tar:
            yield [_tar_member(tar, info) for info in tar.getmembers()]
            # A checksum at the end of the compressed stream is compared only by who reads that far.
            while tar.fileobj is not None and tar.fileobj.read(CHUNK_BYTES):
                pass
    elif zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            yield [_zip_member(opened, info) for info in opened.infolist()]
    else:
        raise InputError(archive, found="neither a folder nor an archive", wanted="a folder, tar, tar.gz or zip",
                         remedy="give the dataset's folder or the archive it came in", reason="not-an-archive")


def _tar_member(tar: tarfile.TarFile, info: tarfile.TarInfo) -> Member:
    def opened() -> IO[bytes]:
        stream = tar.extractfile(info)
        assert stream is not None, "only opened where `kind` is file"
        return stream

    return Member(PurePosixPath(info.name), "file" if info.isfile() else "folder" if info.isdir() else "other", opened)


def _zip_member(opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    mode = info.external_attr >> 16
    is_other = stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR)
    return Member(PurePosixPath(info.filename), "other" if is_other else "folder" if info.is_dir() else "file",
                  lambda: opened.open(info))


def _refuse_unsafe(archive: Path, member: Member) -> None:
    if member.path.is_absolute() or ".." in member.path.parts or "\0" in str(member.path):
        found, wanted = f"the member {str(member.path)!r}", "members inside the archive's own folder"
    elif member.kind == "other":
        found, wanted = f"the link or device {str(member.path)!r}", "files and folders only"
    else:
        return
    raise InputError(archive, found=found, wanted=wanted, remedy="pack the dataset's plain files again",
                     reason="unsafe-archive")


def _is_extra(path: PurePosixPath) -> bool:
    """Returns whether the member is hidden: ``._`` files and the like that macOS adds."""
    return not path.parts or any(part.startswith(".") or part == MACOS_EXTRAS for part in path.parts)


@contextmanager
def _refusing_damage(archive: Path) -> Iterator[None]:
    damage = (tarfile.TarError, zipfile.BadZipFile, BadGzipFile, zlib.error, LZMAError, EOFError)
    try:
        yield
    except (*damage, RuntimeError, NotImplementedError) as error:  # the last two: passwords, rare compressions
        raise InputError(archive, found=f"an archive that cannot be unpacked ({error})", wanted="a complete archive",
                         remedy="copy or download it again", reason="damaged-archive") from error

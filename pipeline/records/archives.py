"""Unpacks tar (plain or compressed) and zip archives, recognised by content, never outside the folder given."""

import shutil
import stat
import struct
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
FREELY_INFLATED_BYTES = 1 << 30
# An entry of a zip's directory: 46 bytes, a path, extra fields.
MOST_ENTRY_BYTES = 512


@dataclass(frozen=True)
class Member:
    """One entry of an archive; `open` gives its bytes, of which no more than `size` are ever made."""

    path: PurePosixPath
    kind: Literal["file", "folder", "other"]
    size: int
    open: Callable[[], IO[bytes]]


@dataclass(frozen=True)
class Limits:
    """What an archive from anywhere may become at most; beyond it nothing is unpacked.

    Attributes:
        files: entries.
        free_bytes: all files together.
        inflation: all files together, as a multiple of the archive; archives that become less than a gigabyte are
            free to be this well packed.
    """

    files: int
    free_bytes: int
    inflation: int


def unpack(archive: Path, folder: Path, *, keep_top: bool = False, limits: Limits | None = None) -> None:
    """Unpacks `archive` into the existing `folder`, without hidden files and without a top folder that holds all else.

    Nothing is written before every member has been looked at.

    Args:
        archive: a tar or zip file.
        folder: where its files go.
        keep_top: keep the top folder that holds all else.
        limits: for archives of which nothing is known; None trusts their size.

    Raises:
        InputError: ``not-an-archive``, ``damaged-archive``, ``encrypted-archive``, ``unsafe-archive`` (a member that
            leaves the folder, a link, a device); with limits ``too-large``, ``unsupported-archive``. Names of members
            stand in `where` alone.
    """
    with _refusing_damage(archive), _members_of(archive, limits) as members:
        if limits is not None:
            _refuse_large(archive, members, limits)
        for member in members:
            _refuse_unsafe(archive, member)
        files = [member for member in members if member.kind == "file" and not _is_extra(member.path)]
        tops = {member.path.parts[0] for member in files}
        has_top = not keep_top and len(tops) == 1 and all(len(member.path.parts) > 1 for member in files)
        for member in tqdm(files, desc="unpacking", unit="file", disable=None):
            target = folder.joinpath(*member.path.parts[int(has_top):])
            target.parent.mkdir(parents=True, exist_ok=True)
            with member.open() as stream, target.open("wb") as written:
                shutil.copyfileobj(stream, written, CHUNK_BYTES)


def is_zip(path: Path) -> bool:
    """Returns whether the file starts as a zip does; other formats may end as one."""
    with path.open("rb") as stream:
        return stream.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


@contextmanager
def _members_of(archive: Path, limits: Limits | None) -> Iterator[Sequence[Member]]:
    # Tar first: a tar whose last member is a zip also looks like a zip.
    if tarfile.is_tarfile(archive):
        with tarfile.open(archive) as tar:
            yield [_tar_member(tar, info) for info in tar.getmembers()]
            # A checksum at the end of the compressed stream is compared only by who reads that far.
            while tar.fileobj is not None and tar.fileobj.read(CHUNK_BYTES):
                pass
    elif zipfile.is_zipfile(archive):
        if limits is not None:
            _refuse_long_directory(archive, limits)
        with zipfile.ZipFile(archive) as opened:
            if limits is not None:
                _refuse_unbounded(archive, opened)
            yield [_zip_member(opened, info) for info in opened.infolist()]
    elif is_zip(archive):  # whose directory, at its end, is lost
        raise InputError(archive, found="a zip archive that is cut off", wanted="a whole archive",
                         remedy="copy or download it again", reason="damaged-archive")
    else:
        raise InputError(archive, found="neither a folder nor an archive", wanted="a folder, tar, tar.gz or zip",
                         remedy="give the dataset's folder or the archive it came in", reason="not-an-archive")


def _tar_member(tar: tarfile.TarFile, info: tarfile.TarInfo) -> Member:
    def opened() -> IO[bytes]:
        stream = tar.extractfile(info)
        assert stream is not None, "only opened where `kind` is file"
        return stream

    return Member(PurePosixPath(info.name), "file" if info.isfile() else "folder" if info.isdir() else "other",
                  info.size, opened)


def _zip_member(opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    mode = info.external_attr >> 16
    is_other = stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR)
    return Member(PurePosixPath(info.filename), "other" if is_other else "folder" if info.is_dir() else "file",
                  info.file_size, lambda: opened.open(info))


def _refuse_unsafe(archive: Path, member: Member) -> None:
    if member.path.is_absolute() or ".." in member.path.parts or "\0" in str(member.path):
        found, wanted = "a member that leaves its folder", "members inside the archive's own folder"
    elif member.kind == "other":
        found, wanted = "a link or device", "files and folders only"
    else:
        return
    raise InputError(f"{archive}, member {str(member.path)!r}", found=found, wanted=wanted,
                     remedy="pack the plain files again", reason="unsafe-archive")


def _refuse_large(archive: Path, members: Sequence[Member], limits: Limits) -> None:
    size = sum(member.size for member in members)
    if len(members) > limits.files:
        found, wanted = f"{len(members):,} entries", f"at most {limits.files:,}"
    elif size > limits.free_bytes:
        found, wanted = f"{size / 2**30:.1f} GiB once unpacked", f"at most {limits.free_bytes / 2**30:.1f} GiB"
    elif size > max(FREELY_INFLATED_BYTES, limits.inflation * archive.stat().st_size):
        found, wanted = f"{size / 2**30:.1f} GiB once unpacked", f"at most {limits.inflation} times the archive"
    else:
        return
    raise _too_large(archive, found, wanted)


def _refuse_long_directory(archive: Path, limits: Limits) -> None:
    """Counts a zip's entries by their signatures: to read a directory of millions of them takes minutes and gigabytes.

    Source: PKWARE APPNOTE, 4.3.12 to 4.3.16.
    """
    with archive.open("rb") as stream:
        size = stream.seek(0, 2)
        # The record's 22 bytes, after which a comment of up to 64 KiB may stand, and the 20 of the zip64 locator.
        start = stream.seek(max(0, size - 42 - 0xFFFF))
        tail = stream.read()
        place = tail.rfind(b"PK\x05\x06")
        if place < 0 or place + 22 > len(tail):
            return
        end, (length,) = start + place, struct.unpack_from("<L", tail, place + 12)
        if place >= 20 and tail[place - 20 : place - 16] == b"PK\x06\x07":
            end = stream.seek(min(size, *struct.unpack_from("<Q", tail, place - 12)))
            (length,) = struct.unpack_from("<Q", stream.read(48).ljust(48, b"\0"), 40)
        if length > limits.files * MOST_ENTRY_BYTES:
            raise _too_large(archive, f"a directory of {length:,} bytes", f"at most {limits.files:,} entries")
        stream.seek(max(0, end - length))
        count = stream.read(length).count(b"PK\x01\x02")
    if count > limits.files:
        raise _too_large(archive, f"{count:,} entries", f"at most {limits.files:,}")


def _refuse_unbounded(archive: Path, opened: zipfile.ZipFile) -> None:
    """Raises for compressions that Python inflates at one go, however much it becomes."""
    if any(info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for info in opened.infolist()):
        raise InputError(archive, found="members in a rare compression", wanted="stored or deflated members",
                         remedy="unpack it yourself and give the folder", reason="unsupported-archive")


def _too_large(archive: Path, found: str, wanted: str) -> InputError:
    return InputError(archive, found=found, wanted=wanted, remedy="unpack it yourself and give the folder",
                      reason="too-large")


def _is_extra(path: PurePosixPath) -> bool:
    """Returns whether the member is hidden: ``._`` files and the like that macOS adds."""
    return not path.parts or any(part.startswith(".") or part == MACOS_EXTRAS for part in path.parts)


@contextmanager
def _refusing_damage(archive: Path) -> Iterator[None]:
    damage = (tarfile.TarError, zipfile.BadZipFile, BadGzipFile, zlib.error, LZMAError, EOFError)
    try:
        yield
    except (*damage, RuntimeError, NotImplementedError) as error:  # the last two: passwords, rare compressions
        is_encrypted = "encrypted" in str(error)
        # What the libraries say may name a member.
        raise InputError(
            f"{archive} ({' '.join(str(error).split())})",
            found="an archive with a password" if is_encrypted else "an archive that cannot be unpacked",
            wanted="a complete archive without password",
            remedy="unpack it yourself and give the folder" if is_encrypted else "copy or download it again",
            reason="encrypted-archive" if is_encrypted else "damaged-archive") from error

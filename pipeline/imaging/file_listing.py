"""All files at or below a path that may be scans: links followed but in no circle, zip archives looked into."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.imaging.dicom_directory import NAME, files_listed
from pipeline.imaging.file_kinds import ACCEPTED, DICOM_SUFFIXES, first_bytes, kind_by_name, kind_of
from pipeline.imaging.locations import Refused
from pipeline.imaging.unpacked import unpacked
from pipeline.records.errors import InputError

Identity = tuple[int, int]


@dataclass(frozen=True)
class ListedFile:
    """A file that may hold a scan; `relative` is the POSIX path from the given input, through archives."""

    path: Path
    relative: str


@dataclass
class Listing:
    """What lies at or below a path.

    Attributes:
        scans: files that are one scan each, by their name or content.
        others: files that may be DICOM, which only their headers tell.
        refused: what could not be looked at.
    """

    scans: list[ListedFile] = field(default_factory=list)
    others: list[ListedFile] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)

    def add(self, other: "Listing") -> None:
        """Takes over all of another listing."""
        self.scans += other.scans
        self.others += other.others
        self.refused += other.refused


def list_files(path: Path, *, leave_out: Path | None = None) -> Listing:
    """Returns what lies at `path`, a file of any accepted kind, or below it, a folder; each in order of `relative`.

    Raises:
        InputError: ``missing-file``, ``not-an-image``, ``unreadable-file``, ``unreadable-folder``, ``same-folder``
            where `path` is what to leave out, or as `unpacked` and `files_listed` where `path` itself is an archive or
            a DICOMDIR.
    """
    try:
        # A path that is too long, or in a folder that may not be entered, makes even this fail.
        exists, is_folder = path.exists(), path.is_dir()
        left_out = _identity(leave_out)
        is_left_out = is_folder and _identity(path) == left_out
    except OSError as error:
        raise _unreadable(path, error) from error
    if not exists:
        raise InputError(path, found="no such file or folder", wanted=f"a scan or a folder of scans: {ACCEPTED}",
                         remedy="check the path", reason="missing-file")
    if is_left_out:
        raise InputError(path, found="the folder for the results", wanted="another folder",
                         remedy="choose another --output_dir", reason="same-folder")
    listing = _below(path, "", left_out) if is_folder else _at(path)
    for files in (listing.scans, listing.others):
        files.sort(key=lambda file: file.relative.split("/"))
    return listing


def _at(path: Path) -> Listing:
    """Returns what one file is."""
    if not path.is_file():
        raise InputError(path, found="neither a file nor a folder", wanted=ACCEPTED, remedy="give a file or folder",
                         reason="not-an-image")
    try:
        kind = kind_of(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    if kind is None:
        is_empty = path.stat().st_size == 0
        raise InputError(path, found="an empty file" if is_empty else "another kind of file", wanted=ACCEPTED,
                         remedy="give an image, or convert it to one of these",
                         reason="truncated-file" if is_empty else "not-an-image")
    if kind == "zip":
        return _in_archive(path, path.name)
    if kind == "dicomdir":
        return _in_directory(path)
    found = [ListedFile(path, path.name)]
    return Listing(others=found) if kind == "dicom" else Listing(scans=found)


def _in_directory(path: Path) -> Listing:
    listed = files_listed(path)
    listing = Listing(others=[ListedFile(file, file.relative_to(path.parent).as_posix()) for file in listed.files])
    if listed.missing:
        error = InputError(f"{path} (first {listed.first_missing!r})",
                           found=f"{listed.missing} of {listed.missing + len(listed.files)} listed files are missing",
                           wanted="all files that the DICOMDIR lists", remedy="copy the whole disc",
                           reason="missing-listed-files")
        listing.refused.append(Refused(path.name, error))
    return listing


def _in_archive(path: Path, relative: str) -> Listing:
    # Archives in the archive are not followed: nobody would look for scans there, and they can nest without end.
    return _below(unpacked(path), relative, None, takes_archives=False)


def _below(folder: Path, prefix: str, left_out: Identity | None, *, takes_archives: bool = True) -> Listing:
    listing = Listing()

    def refuse(relative: str, error: InputError) -> None:
        listing.refused.append(Refused(relative, error))

    for path, relative, is_file in _walk(folder, prefix, left_out, refuse):
        kind = kind_by_name(path.name)
        if not is_file:
            # A link to nothing is worth a word only where a scan was meant.
            if kind is not None and not _is(path.exists):
                refuse(relative, InputError(path, found="a link to nothing", wanted="an image file",
                                            remedy="copy the file that it points to", reason="missing-file"))
        elif kind == "zip":
            if takes_archives:
                _add_archive(listing, path, relative)
        elif kind is not None:
            listing.scans.append(ListedFile(path, relative))
        elif path.name.lower() != NAME and _may_be_dicom(path, relative, refuse):
            listing.others.append(ListedFile(path, relative))
    return listing


def _add_archive(listing: Listing, path: Path, relative: str) -> None:
    try:
        listing.add(_in_archive(path, relative))
    except InputError as error:
        listing.refused.append(Refused(relative, error))


def _may_be_dicom(path: Path, relative: str, refuse: Callable[[str, InputError], None]) -> bool:
    """Returns whether to read the header; a file named as DICOM that is something else is refused, others pass."""
    if not path.name.lower().endswith(DICOM_SUFFIXES):
        return True
    try:
        start = first_bytes(path)
        is_dicom = kind_of(path) == "dicom"
    except OSError as error:
        refuse(relative, _unreadable(path, error))
        return False
    if not is_dicom:
        refuse(relative, InputError(
            path, found="another kind of file under a DICOM name" if start else "an empty file", wanted="DICOM",
            remedy="copy or download it again", reason="not-an-image" if start else "truncated-file"))
    return is_dicom


def _walk(root: Path, prefix: str, left_out: Identity | None,
          refuse: Callable[[str, InputError], None]) -> Iterator[tuple[Path, str, bool]]:
    """Yields path, relative path and whether it is a file, of all files and other links below that are not hidden.

    Each folder is entered once, however many links lead there, on its own path where that is below `root`.
    """
    waiting, linked = [(root, prefix)], list[tuple[Path, str]]()
    seen = {left_out} if left_out else set[Identity]()
    while waiting or linked:
        folder, relative = waiting.pop() if waiting else linked.pop(0)
        try:
            identity = _identity(folder)
            if identity is None or identity in seen:
                continue
            seen.add(identity)
            with os.scandir(folder) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
        except OSError as error:
            refuse(relative, _unreadable(folder, error))
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path, below = folder / entry.name, f"{relative}/{entry.name}" if relative else entry.name
            if _is(entry.is_dir):
                (linked if entry.is_symlink() else waiting).append((path, below))
            elif _is(entry.is_file):
                yield path, below, True
            elif entry.is_symlink():
                yield path, below, False


def _is(question: Callable[[], bool]) -> bool:
    """Asks a directory entry, for which a link that leads to itself is an error."""
    try:
        return question()
    except OSError:
        return False


def _identity(folder: Path | None) -> Identity | None:
    """Returns what tells folders apart under whatever name; None where there is none."""
    try:
        found = folder.stat() if folder is not None else None
    except (FileNotFoundError, NotADirectoryError):
        return None
    return (found.st_dev, found.st_ino) if found else None


def _unreadable(path: Path, error: OSError) -> InputError:
    kind = "folder" if os.path.isdir(path) else "file"  # noqa: PTH112  # Path.is_dir raises on such paths
    return InputError(path, found=f"a {kind} that cannot be read ({error.strerror})", wanted="read permission",
                      remedy="change its permissions or leave it out", reason=f"unreadable-{kind}")

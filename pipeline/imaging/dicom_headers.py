"""The headers of DICOM files, grouped into image series; pixels are not read."""

import struct
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.imaging.dicom_elements import STORED_CLASS, HeaderError, read_elements, starts_as_dicom
from pipeline.imaging.dicom_frames import FRAME_SEQUENCES, FRAME_TAGS, frames_of
from pipeline.imaging.dicom_kinds import SCAN, kind_of
from pipeline.imaging.dicom_slices import (
    DESCRIPTION,
    IMAGE_TYPE,
    MODALITY,
    MODALITY_TABLE,
    SERIES_NUMBER,
    SERIES_UID,
    SLICE_TAGS,
    SOP_CLASS,
    SOP_INSTANCE,
    STUDY_UID,
    SliceHeader,
    Values,
    single_slice,
)
from pipeline.records.errors import InputError
from pipeline.records.files import sha256_of_file

__all__ = ["Series", "SliceHeader", "Survey", "is_dicom", "survey_files"]

REPEATED = "repeated image"
_SEQUENCES = frozenset({MODALITY_TABLE, *FRAME_SEQUENCES})
# What hostile bytes make the readers of numbers, texts and sequences raise.
_READING_ERRORS = (ValueError, struct.error, zlib.error, OSError, EOFError, TypeError, KeyError, AttributeError,
                   IndexError, OverflowError, NotImplementedError, RecursionError)


@dataclass(frozen=True)
class Series:
    """The images of one series, in the order of their file names and frames.

    Attributes:
        uid: of the series.
        number: of the series, as text; empty where there is none.
        description: for the terminal only, as it may hold a name.
        modality: DICOM code.
        study_uid: of the study.
        slices: one for each plane.
        damaged: names of files that say they belong here and cannot be read.
    """

    uid: str
    number: str
    description: str
    modality: str
    study_uid: str
    slices: tuple[SliceHeader, ...]
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True)
class Survey:
    """What a set of files holds.

    Attributes:
        series: image series sorted by UID.
        set_aside: how many objects of each kind are no scan.
        damaged: an error for each file that starts as DICOM and cannot be read; its `where` is the file.
    """

    series: tuple[Series, ...]
    set_aside: dict[str, int]
    damaged: tuple[InputError, ...]


def is_dicom(path: Path) -> bool:
    """Returns whether the file starts as DICOM does, with the standard's preamble or, as old files, without."""
    with path.open("rb") as stream:
        return starts_as_dicom(stream.read(132))


def survey_files(files: Iterable[Path]) -> Survey:
    """Returns the image series among `files`, sorted by UID, and what else there is; other formats are passed over.

    What is no scan is known by class, modality and image type, never by its file's name. The same object found twice
    counts once. A file that cannot be read is one entry of `damaged`, and the others go on.
    """
    found: dict[str, list[_Image]] = {}
    broken: dict[str, list[str]] = {}
    set_aside: Counter[str] = Counter()
    damaged: list[InputError] = []
    copies = _Copies()
    for path in files:
        try:
            image = _image(path)
        except _DamageError as damage:
            damaged.append(damage.error)
            broken.setdefault(damage.series_uid, []).append(path.name)
            continue
        if image is None:
            continue
        if isinstance(image, str):
            set_aside[image] += 1
        elif copies.has(image):
            set_aside[REPEATED] += 1
        else:
            found.setdefault(image.series_uid, []).append(image)
    series = tuple(_series(uid, images, broken.get(uid, [])) for uid, images in sorted(found.items()))
    return Survey(series, dict(set_aside), tuple(damaged))


@dataclass(frozen=True)
class _Image:
    """A file that holds images of one series."""

    path: Path
    values: Values
    slices: tuple[SliceHeader, ...]

    @property
    def series_uid(self) -> str:
        return self.values.text(SERIES_UID)


class _Copies:
    """Knows files that are the same as one before, byte for byte; only those of equal UID and size are read for that.

    An equal UID alone does not tell: some programs that take names out of files give all slices one.
    """

    def __init__(self) -> None:
        self.first: dict[tuple[str, int], Path] = {}
        self.digests: dict[tuple[str, int], set[str]] = {}

    def has(self, image: _Image) -> bool:
        """Returns whether the file is a copy, and remembers it."""
        key = image.values.text(SOP_INSTANCE), image.path.stat().st_size
        if not key[0] or self.first.setdefault(key, image.path) == image.path:
            return False
        seen = self.digests.setdefault(key, {sha256_of_file(self.first[key])})
        digest = sha256_of_file(image.path)
        is_copy = digest in seen
        seen.add(digest)
        return is_copy


class _DamageError(Exception):
    """A file that starts as DICOM and cannot be read; `series_uid` is empty where it does not get as far as that."""

    def __init__(self, error: InputError, series_uid: str) -> None:
        super().__init__(str(error))
        self.error, self.series_uid = error, series_uid


def _image(path: Path) -> _Image | str | None:
    """Returns the images of a file, or the kind of an object that is no scan; None where it is not DICOM.

    Raises:
        _DamageError: the header cannot be read.
    """
    series_uid = ""
    try:
        elements = read_elements(path, wanted=SLICE_TAGS | set(FRAME_TAGS), sequences=_SEQUENCES)
        if elements is None:
            return None
        values = Values(elements)
        series_uid = values.text(SERIES_UID)
        kind = _kind(values, is_placed=True)
        if kind != SCAN:
            return kind
        if elements.problem is not None:
            raise HeaderError(elements.problem)
        slices = frames_of(single_slice(path, values), values)
        kind = _kind(values, is_placed=any(item.position_mm for item in slices))
        return _Image(path, values, slices) if kind == SCAN else kind
    except _READING_ERRORS as error:
        raise _DamageError(_damaged(path, error), series_uid) from error


def _kind(values: Values, *, is_placed: bool) -> str:
    sop_class = values.text(SOP_CLASS) or values.text(STORED_CLASS)
    return kind_of(sop_class, values.text(MODALITY), values.texts(IMAGE_TYPE), is_placed=is_placed)


def _damaged(path: Path, error: Exception) -> InputError:
    # What pydicom says may quote the file, and what stands here goes into summaries.
    why = str(error) if isinstance(error, HeaderError) else type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        why = error.strerror
    return InputError(path, found=f"a DICOM header that cannot be read ({' '.join(why.split())})",
                      wanted="a whole DICOM file", remedy="copy or export it again", reason="damaged-header")


def _series(uid: str, images: list[_Image], broken: list[str]) -> Series:
    first = images[0].values
    return Series(uid, first.text(SERIES_NUMBER), first.text(DESCRIPTION), first.text(MODALITY), first.text(STUDY_UID),
                  tuple(item for image in images for item in image.slices), tuple(broken))

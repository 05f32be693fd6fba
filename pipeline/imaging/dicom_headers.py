"""The headers of the DICOM files in a folder, grouped into image series; pixels are not read."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.config import disable_value_validation
from pydicom.uid import DeflatedExplicitVRLittleEndian

from pipeline.records.errors import InputError

# Objects that carry rows and columns and are no scan.
DERIVED_MODALITIES = {"SEG", "RTDOSE", "RTIMAGE", "PR", "KO", "SR", "REG"}
TAGS = ["SOPClassUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "Modality", "ImageType", "Rows",
        "Columns", "SamplesPerPixel", "BitsAllocated", "PhotometricInterpretation", "NumberOfFrames",
        "SharedFunctionalGroupsSequence", "ModalityLUTSequence", "ImagePositionPatient", "ImageOrientationPatient",
        "PixelSpacing", "LossyImageCompression"]


@dataclass(frozen=True)
class SliceHeader:
    """What one file says about its image.

    Attributes:
        position_mm: centre of the first pixel in LPS, or None where the file does not say.
        orientation: direction cosines along a row, then down a column, in LPS; or None.
        pixel_spacing_mm: between rows, then between columns; or None.
        is_colour: more than one number a pixel, or an index into colours.
        is_multiframe: an enhanced object, or several frames in one file.
        is_localizer: a scout image.
        is_inverted: MONOCHROME1, where small numbers are bright.
        is_lossy: the pixels were compressed with loss.
        has_lookup_table: intensities follow a table instead of slope and intercept.
        is_truncated: the file ends before its pixels do.
    """

    path: Path
    series_uid: str
    number: str
    description: str
    modality: str
    rows: int
    columns: int
    position_mm: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel_spacing_mm: tuple[float, ...] | None
    is_colour: bool
    is_multiframe: bool
    is_localizer: bool
    is_inverted: bool
    is_lossy: bool
    has_lookup_table: bool
    is_truncated: bool


@dataclass(frozen=True)
class Series:
    """The images of one series, in the order of their file names. `description` is for the terminal only."""

    uid: str
    number: str
    description: str
    modality: str
    slices: tuple[SliceHeader, ...]


def is_dicom(path: Path) -> bool:
    """Returns whether the file starts as DICOM does, with the standard's preamble or, as old files, without."""
    with path.open("rb") as stream:
        start = stream.read(132)
    # Without preamble a file starts with an element of group 2 or 8, in either transfer syntax.
    return start[128:] == b"DICM" or (start[:2] in (b"\x02\x00", b"\x08\x00") and start[2:4] < b"\x90\x00")


def image_series(folder: Path) -> list[Series]:
    """Returns the image series directly in `folder`, sorted by UID; localizers and other objects are left out.

    A series without any position (a captured screen) is left out too where another one has positions.

    Raises:
        InputError: ``undecodable`` where a file that starts as DICOM cannot be read.
    """
    groups: dict[str, list[SliceHeader]] = {}
    for header in _image_headers(folder):
        if not header.is_localizer:
            groups.setdefault(header.series_uid, []).append(header)
    series = [Series(uid, found[0].number, found[0].description, found[0].modality, tuple(found))
              for uid, found in sorted(groups.items())]
    placed = [one for one in series if any(item.position_mm or item.is_multiframe for item in one.slices)]
    return placed or series


def _image_headers(folder: Path) -> Iterator[SliceHeader]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file() or not is_dicom(path):
            continue
        header = _header(path)
        if header is not None:
            yield header


def _header(path: Path) -> SliceHeader | None:
    """Returns the header of an image, None for any other object."""
    try:
        with path.open("rb") as stream, disable_value_validation():
            content = pydicom.dcmread(stream, stop_before_pixels=True, force=True, specific_tags=TAGS)
            bytes_left = path.stat().st_size - stream.tell()
            if "SOPClassUID" not in content or "Rows" not in content or "Columns" not in content:
                return None
            if str(content.get("Modality", "")) in DERIVED_MODALITIES:
                return None
            return _slice_header(path, content, bytes_left)
    except (ValueError, TypeError, KeyError, OSError, EOFError, NotImplementedError, AttributeError) as error:
        raise InputError(path, found=f"an unreadable DICOM header in {path.name} ({type(error).__name__})",
                         wanted="a complete DICOM file", remedy="export the series again",
                         reason="undecodable") from error


def _slice_header(path: Path, content: Any, bytes_left: int) -> SliceHeader:
    samples = int(content.get("SamplesPerPixel", 1) or 1)
    kind = str(content.get("PhotometricInterpretation", ""))
    image_type = content.get("ImageType", "")
    return SliceHeader(
        path=path,
        series_uid=str(content.get("SeriesInstanceUID", "")),
        number=str(content.get("SeriesNumber", "")),
        description=str(content.get("SeriesDescription", "")),
        modality=str(content.get("Modality", "")),
        rows=int(content.Rows),
        columns=int(content.Columns),
        position_mm=_numbers(content, "ImagePositionPatient", 3),
        orientation=_numbers(content, "ImageOrientationPatient", 6),
        pixel_spacing_mm=_numbers(content, "PixelSpacing", 2),
        is_colour=samples > 1 or kind == "PALETTE COLOR",
        is_multiframe=int(content.get("NumberOfFrames", 1) or 1) > 1 or "SharedFunctionalGroupsSequence" in content,
        is_localizer="LOCALIZER" in ([image_type] if isinstance(image_type, str) else list(image_type)),
        is_inverted=kind == "MONOCHROME1",
        is_lossy=str(content.get("LossyImageCompression", "")) == "01",
        has_lookup_table="ModalityLUTSequence" in content,
        is_truncated=_has_plain_pixels(content) and bytes_left < _pixel_bytes(content, samples),
    )


def _has_plain_pixels(content: Any) -> bool:
    """Returns whether the size of the pixels on disk follows from rows and columns."""
    syntax = content.file_meta.get("TransferSyntaxUID") if hasattr(content, "file_meta") else None
    return syntax is None or not (syntax.is_encapsulated or syntax == DeflatedExplicitVRLittleEndian)


def _pixel_bytes(content: Any, samples: int) -> int:
    frames = int(content.get("NumberOfFrames", 1) or 1)
    return int(content.Rows) * int(content.Columns) * samples * frames * int(content.get("BitsAllocated", 16)) // 8


def _numbers(content: Any, name: str, count: int) -> tuple[float, ...] | None:
    """Returns the element's numbers, None where it is missing or has another count of them."""
    values = content.get(name)
    if values is None or isinstance(values, str) or not hasattr(values, "__len__") or len(values) != count:
        return None
    return tuple(float(value) for value in values)

"""What a DICOM header says about one plane and its pixels."""

import math
import struct
from dataclasses import dataclass
from pathlib import Path

from pydicom.charset import convert_encodings, decode_bytes

from pipeline.imaging.dicom_elements import DEFLATED, Elements, HeaderError

Volume = tuple[tuple[str, float | str], ...]

CHARACTER_SET, IMAGE_TYPE, SOP_CLASS, SOP_INSTANCE = 0x00080005, 0x00080008, 0x00080016, 0x00080018
MODALITY, DESCRIPTION, SERIES_UID, STUDY_UID = 0x00080060, 0x0008103E, 0x0020000E, 0x0020000D
SERIES_NUMBER, ACQUISITION, INSTANCE_NUMBER, TEMPORAL = 0x00200011, 0x00200012, 0x00200013, 0x00200100
THICKNESS, ECHO_TIME, TRIGGER_TIME, B_VALUE = 0x00180050, 0x00180081, 0x00181060, 0x00189087
POSITION, ORIENTATION, PIXEL_SPACING = 0x00200032, 0x00200037, 0x00280030
SAMPLES, PHOTOMETRIC, FRAMES, ROWS, COLUMNS = 0x00280002, 0x00280004, 0x00280008, 0x00280010, 0x00280011
ALLOCATED, STORED, HIGH_BIT, REPRESENTATION = 0x00280100, 0x00280101, 0x00280102, 0x00280103
INTERCEPT, SLOPE, LOSSY = 0x00281052, 0x00281053, 0x00282110
MODALITY_TABLE = 0x00283000

SLICE_TAGS = frozenset((
    CHARACTER_SET, IMAGE_TYPE, SOP_CLASS, SOP_INSTANCE, MODALITY, DESCRIPTION, SERIES_UID, STUDY_UID, SERIES_NUMBER,
    ACQUISITION, INSTANCE_NUMBER, TEMPORAL, THICKNESS, ECHO_TIME, TRIGGER_TIME, B_VALUE, POSITION, ORIENTATION,
    PIXEL_SPACING, SAMPLES, PHOTOMETRIC, FRAMES, ROWS, COLUMNS, ALLOCATED, STORED, HIGH_BIT, REPRESENTATION, INTERCEPT,
    SLOPE, LOSSY,
))
# What tells the volumes apart that share one series, in the order in which the first of them is chosen.
_VOLUME_TAGS = ((ECHO_TIME, "echo time"), (B_VALUE, "b-value"), (TEMPORAL, "temporal position"),
                (TRIGGER_TIME, "trigger time"))


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """How the pixels of one file are stored.

    Attributes:
        transfer_syntax: UID, empty where the file states none.
        is_little: pixels of more than a byte are little endian.
        offset: first byte of the pixels in the file, or, if deflated, in what it inflates to.
        length: bytes of the pixels; None if encapsulated, as compressed ones are.
        frames: images in the file.
        samples: numbers a pixel.
        bits_allocated, bits_stored, high_bit: of a number, as the standard names them.
        is_signed: numbers are two's complement.
        is_integer: else they are floating point.
        photometric: MONOCHROME2 where large numbers are bright.
        has_lookup_table: intensities follow a table instead of slope and intercept.
        is_lossy: the pixels were compressed with loss.
    """

    transfer_syntax: str
    is_little: bool
    offset: int
    length: int | None
    frames: int
    samples: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool
    is_integer: bool
    photometric: str
    has_lookup_table: bool
    is_lossy: bool

    @property
    def is_colour(self) -> bool:
        """More than one number a pixel, or an index into colours."""
        return self.samples > 1 or self.photometric not in ("MONOCHROME1", "MONOCHROME2", "")


@dataclass(frozen=True, slots=True)
class SliceHeader:
    """What a header says about one plane: a classic file has one, a multi-frame file one for each frame.

    Attributes:
        path: the file.
        frame: from 1; None in a classic file.
        rows, columns: pixels.
        position_mm: centre of the first pixel in LPS, or None where the file does not say.
        orientation: direction cosines along a row, then down a column, in LPS; or None.
        pixel_spacing_mm: between rows, then between columns; or None.
        thickness_mm: of the slice, or None.
        slope, intercept: take stored values to the scan's.
        instance_number: or None.
        volume: names and values of what may tell several volumes of one series apart: echo time, b-value, and so on.
        image_type: DICOM's words for the image, such as ORIGINAL, PRIMARY, AXIAL.
        pixels: how they are stored.
        is_truncated: the file ends before its pixels do.
    """

    path: Path
    frame: int | None
    rows: int
    columns: int
    position_mm: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel_spacing_mm: tuple[float, ...] | None
    thickness_mm: float | None
    slope: float
    intercept: float
    instance_number: int | None
    volume: Volume
    image_type: tuple[str, ...]
    pixels: PixelFormat
    is_truncated: bool

    @property
    def label(self) -> str:
        """The file's name, with the frame where there are several."""
        return self.path.name if self.frame is None else f"frame {self.frame} of {self.path.name}"


@dataclass(frozen=True)
class Values:
    """The elements of a header as text and numbers; what is missing or malformed is None or empty."""

    elements: Elements

    def text(self, tag: int) -> str:
        """Returns the element's text in the file's character set, without padding."""
        value = self.elements.values.get(tag, b"").strip(b"\0 ")
        if value.isascii():
            return value.decode("ascii")
        named = self.elements.values.get(CHARACTER_SET, b"").decode("latin-1").strip("\0 ")
        return str(decode_bytes(value, convert_encodings(named.split("\\")), set()))

    def texts(self, tag: int) -> tuple[str, ...]:
        """Returns the element's values, split at the backslash."""
        return tuple(part.strip() for part in self.text(tag).split("\\")) if self.text(tag) else ()

    def short(self, tag: int, otherwise: int | None = None) -> int | None:
        """Returns an unsigned short (VR US)."""
        value = self.elements.values.get(tag, b"")
        return struct.unpack("<H" if self.elements.is_little else ">H", value[:2])[0] if len(value) >= 2 else otherwise

    def numbers(self, tag: int, count: int) -> tuple[float, ...] | None:
        """Returns numbers written as text (VR DS or IS), None unless there are `count` of them, all finite."""
        try:
            found = tuple(float(part) for part in self.texts(tag))
        except ValueError:
            return None
        return found if len(found) == count and all(math.isfinite(one) for one in found) else None

    def number(self, tag: int) -> float | None:
        """Returns one number written as text."""
        found = self.numbers(tag, 1)
        return found[0] if found else None

    def integer(self, tag: int) -> int | None:
        """Returns one whole number written as text."""
        found = self.number(tag)
        return int(found) if found is not None and found.is_integer() else None

    def double(self, tag: int) -> float | None:
        """Returns a binary double (VR FD)."""
        value = self.elements.values.get(tag, b"")
        if len(value) != 8:
            return None
        return float(struct.unpack("<d" if self.elements.is_little else ">d", value)[0])


def single_slice(path: Path, values: Values) -> SliceHeader:
    """Returns the plane of a classic file; of a multi-frame file what its top level says of all frames.

    Raises:
        HeaderError: numbers that make no image.
    """
    rows, columns = values.short(ROWS), values.short(COLUMNS)
    if not rows or not columns:
        raise HeaderError("no rows or no columns")
    pixels = _pixel_format(values)
    slope, intercept = values.number(SLOPE), values.number(INTERCEPT)
    if (slope is None and values.text(SLOPE)) or (intercept is None and values.text(INTERCEPT)):
        raise HeaderError("a slope or intercept that is no number")
    return SliceHeader(
        path=path, frame=None, rows=rows, columns=columns, position_mm=values.numbers(POSITION, 3),
        orientation=values.numbers(ORIENTATION, 6), pixel_spacing_mm=values.numbers(PIXEL_SPACING, 2),
        thickness_mm=values.number(THICKNESS), slope=1.0 if slope is None else slope,
        intercept=0.0 if intercept is None else intercept, instance_number=values.integer(INSTANCE_NUMBER),
        volume=_volume(values), image_type=values.texts(IMAGE_TYPE), pixels=pixels,
        is_truncated=_is_truncated(rows, columns, pixels, values.elements.size),
    )


def _pixel_format(values: Values) -> PixelFormat:
    """Returns how the pixels are stored; raises HeaderError where there are none."""
    elements = values.elements
    if elements.pixel_tag is None:
        raise HeaderError("no pixels")
    allocated = values.short(ALLOCATED, 16) or 16
    stored = values.short(STORED, allocated) or allocated
    frames = values.integer(FRAMES)
    return PixelFormat(
        transfer_syntax=elements.transfer_syntax, is_little=elements.is_little, offset=elements.pixel_offset,
        length=elements.pixel_length, frames=1 if frames is None else max(frames, 1),
        samples=values.short(SAMPLES, 1) or 1, bits_allocated=allocated, bits_stored=stored,
        high_bit=values.short(HIGH_BIT, stored - 1) or 0, is_signed=values.short(REPRESENTATION, 0) == 1,
        is_integer=elements.pixel_tag == 0x7FE00010, photometric=values.text(PHOTOMETRIC),
        has_lookup_table=MODALITY_TABLE in elements.spans, is_lossy=values.text(LOSSY) == "01",
    )


def _volume(values: Values) -> Volume:
    found: list[tuple[str, float | str]] = []
    image_type = values.texts(IMAGE_TYPE)
    if len(image_type) > 2:
        found.append(("image type", "\\".join(image_type[2:])))
    for tag, name in _VOLUME_TAGS:
        value = values.double(tag) if tag == B_VALUE else values.number(tag)
        if value is not None:
            found.append((name, value))
    acquisition = values.number(ACQUISITION)
    return (*found, ("acquisition", acquisition)) if acquisition is not None else tuple(found)


def _is_truncated(rows: int, columns: int, pixels: PixelFormat, size: int | None) -> bool:
    """Returns whether the file, or its pixel element, is shorter than the image; unknown if compressed or deflated."""
    if pixels.length is None:
        return False
    needed = (rows * columns * pixels.samples * pixels.frames * pixels.bits_allocated + 7) // 8
    is_cut_off = size is not None and pixels.transfer_syntax != DEFLATED and pixels.offset + pixels.length > size
    return is_cut_off or pixels.length < needed

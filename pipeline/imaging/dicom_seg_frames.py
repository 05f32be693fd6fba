"""The frames of a DICOM segmentation: which plane and segment each one is, and how its pixels are stored.

A segmentation of many structures has thousands of frames with the same few groups of elements in each. The groups are
encoded here, those of a plane once: pydicom takes about a millisecond a frame.

Source: DICOM PS3.3, C.7.6.16 functional groups, C.8.20.3 segmentation; PS3.5, 7.5 sequences, 8.2 native pixels,
annex G run lengths.
"""

import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom.valuerep import format_number_as_ds

from pipeline.imaging.dicom_codes import Code
from pipeline.imaging.dicom_derived import Reference

# PS3.16: CID 7203 and 7202.
SEGMENTATION_DERIVATION: Code = ("113076", "DCM", "Segmentation")
SOURCE_IMAGE: Code = ("121322", "DCM", "Source image for image processing operation")
ITEM = bytes.fromhex("feff00e0")
# Eight frames of bits fill whole bytes whatever their size.
FRAMES_PACKED = 8
# PS3.5, G.3.1: one run is at most 128 equal bytes; the header states up to 15 segments.
LONGEST_RUN, RUN_HEADER = 128, "<16I"

# (row, column) of one plane, or (plane, row, column) of all: bits, label values or steps.
Frame = NDArray[Any]


@dataclass(frozen=True)
class FramePlace:
    """Plane ``array[:, :, plane]`` of one segment; segment 0 where a frame holds them all."""

    plane: int
    segment: int


def in_plane_order(array: NDArray[Any]) -> Frame:
    """Returns ``(plane, row, column)`` of ``(x, y, z)``, contiguous; a view where it lies so already."""
    turned = array.transpose(2, 1, 0)
    if turned.flags.c_contiguous:
        return turned
    out = np.empty(turned.shape, dtype=array.dtype)
    # In strips that fit the cache: turned at once, the same array takes ten times as long.
    for row in range(0, turned.shape[1], 4):
        out[:, row : row + 4] = turned[:, row : row + 4]
    return out


def write_bits(frames: Iterable[Frame], sink: BinaryIO) -> str:
    """Writes boolean frames one bit a pixel, the first pixel lowest, without gaps between frames; returns a digest."""
    source, digest = iter(frames), hashlib.sha256()
    while block := list(islice(source, FRAMES_PACKED)):
        packed = np.packbits(np.stack(block).ravel(), bitorder="little").tobytes()
        digest.update(packed)
        sink.write(packed)
    _pad(sink)
    return digest.hexdigest()


def write_bytes(frames: Iterable[Frame], sink: BinaryIO) -> str:
    """Writes uint8 frames; returns a digest."""
    digest = hashlib.sha256()
    for frame in frames:
        stored = np.ascontiguousarray(frame, dtype=np.uint8).tobytes()
        digest.update(stored)
        sink.write(stored)
    _pad(sink)
    return digest.hexdigest()


def run_lengths(frame: Frame) -> bytes:
    """Returns a frame of uint8 or uint16 in DICOM's run length encoding, the higher bytes first.

    Runs only, no literal stretches: what is even for long stretches, as label maps are, gets no shorter by them.
    """
    high_to_low = range(frame.dtype.itemsize - 1, -1, -1)
    segments = [_runs(((frame >> (8 * byte)) & 0xFF).astype(np.uint8)) for byte in high_to_low]
    starts = np.cumsum([struct.calcsize(RUN_HEADER), *map(len, segments)])[:-1].tolist()
    header = struct.pack(RUN_HEADER, len(segments), *starts, *[0] * (15 - len(segments)))
    return header + b"".join(segments)


def frame_items(places: Sequence[FramePlace], *, position_of: Callable[[int], NDArray[np.float64]],
                reference_of: Callable[[int], Reference | None]) -> bytes:
    """Returns the value of the per-frame functional groups sequence, explicit VR little endian.

    Args:
        places: of each frame.
        position_of: LPS millimetres of a plane's first pixel.
        reference_of: the source image of a plane, None where there is no single one.
    """
    has_segments = places[0].segment > 0
    planes = sorted({place.plane for place in places})
    number_of = {plane: number for number, plane in enumerate(planes, start=1)}
    derivation = {plane: _derivation(reference_of(plane)) for plane in planes}
    position = {plane: _plane_position(position_of(plane)) for plane in planes}
    items = []
    for place in places:
        number, segment = number_of[place.plane], place.segment
        content = _frame_content(segment, number) if has_segments else _frame_content(number)
        # In the order of their tags.
        items.append(_item(derivation[place.plane] + content + position[place.plane]
                           + (_segment(segment) if has_segments else b"")))
    return b"".join(items)


def _pad(sink: BinaryIO) -> None:
    if sink.tell() % 2:
        sink.write(b"\0")


def _runs(values: NDArray[np.uint8]) -> bytes:
    """Returns the bytes of ``(rows, columns)`` as pairs of a count and a value; no run crosses a row's end."""
    rows, columns = values.shape
    starts_run = np.ones((rows, columns), dtype=bool)
    starts_run[:, 1:] = values[:, 1:] != values[:, :-1]
    flat, starts = values.ravel(), np.flatnonzero(starts_run)
    lengths = np.diff(starts, append=flat.size)
    pieces = -(-lengths // LONGEST_RUN)
    counts = np.full(int(pieces.sum()), LONGEST_RUN, dtype=np.int64)
    counts[np.cumsum(pieces) - 1] = lengths - (pieces - 1) * LONGEST_RUN
    pairs = np.empty((counts.size, 2), dtype=np.uint8)
    # A run of n is written 257 - n; of one, 0 stands for a single literal byte.
    pairs[:, 0] = np.where(counts == 1, 0, 257 - counts)
    pairs[:, 1] = np.repeat(flat[starts], pieces)
    return pairs.tobytes()


def _derivation(reference: Reference | None) -> bytes:
    """Returns the derivation image sequence, with no item where no single image is the source."""
    if reference is None:
        return _sequence(0x00089124)
    frame = b"" if reference.frame is None else _element(0x00081160, b"IS", str(reference.frame))
    image = (_element(0x00081150, b"UI", reference.sop_class) + _element(0x00081155, b"UI", reference.sop_uid) + frame
             + _element(0x0028135A, b"CS", "YES") + _sequence(0x0040A170, _code(SOURCE_IMAGE)))
    return _sequence(0x00089124, _sequence(0x00082112, image) + _sequence(0x00089215, _code(SEGMENTATION_DERIVATION)))


def _plane_position(position: NDArray[np.float64]) -> bytes:
    decimals = "\\".join(format_number_as_ds(float(value)) for value in position)
    return _sequence(0x00209113, _element(0x00200032, b"DS", decimals))


def _frame_content(*numbers: int) -> bytes:
    return _sequence(0x00209111, _element(0x00209157, b"UL", struct.pack(f"<{len(numbers)}I", *numbers)))


def _segment(number: int) -> bytes:
    return _sequence(0x0062000A, _element(0x0062000B, b"US", struct.pack("<H", number)))


def _code(code: Code) -> bytes:
    value, scheme, meaning = code
    return (_element(0x00080100, b"SH", value) + _element(0x00080102, b"SH", scheme)
            + _element(0x00080104, b"LO", meaning))


def _element(tag: int, vr: bytes, value: str | bytes) -> bytes:
    """Returns one short element in explicit VR little endian, padded to an even length."""
    if isinstance(value, str):
        value = value.encode()
        value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def _sequence(tag: int, *items: bytes) -> bytes:
    """Returns a sequence of already encoded items, all lengths stated."""
    value = b"".join(_item(item) for item in items)
    return struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, b"SQ", 0, len(value)) + value


def _item(content: bytes) -> bytes:
    return ITEM + struct.pack("<I", len(content)) + content


def planes_with(label_frames: Frame, values: Sequence[int]) -> Iterator[tuple[int, set[int]]]:
    """Yields each plane that is not empty, with the values of `values` it holds.

    Raises:
        ValueError: another value than 0 and those is in it.
    """
    known = set(values)
    for plane, frame in enumerate(label_frames):
        filled = frame[frame != 0]
        if filled.size:
            if filled.min() < 0 or filled.max() > max(known):  # before a list as long as the value is made
                raise ValueError(f"label value {filled.min() if filled.min() < 0 else filled.max()}")
            found = set(np.flatnonzero(np.bincount(filled)).tolist())
            if not found <= known:
                raise ValueError(f"label value {min(found - known)}")
            yield plane, found

"""The pixels of DICOM planes: stored values read or decoded exactly, then scaled to intensities.

Uncompressed pixels go from the file into place, one plane at a time. MONOCHROME1 only says that small values are shown
bright: the stored values are the same, and so are slope and intercept.

Source: DICOM PS3.5, 8.1 pixel encoding, annex A transfer syntaxes; PS3.3, C.7.6.3.1.2, C.11.1 modality LUT.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels import apply_modality_lut

from pipeline.imaging.dicom_codecs import UndecodableError, decode_frame
from pipeline.imaging.dicom_elements import BIG_ENDIAN, DEFLATED, inflate
from pipeline.imaging.dicom_slices import PixelFormat, SliceHeader
from pipeline.imaging.voxels import unset_voxels
from pipeline.records.errors import InputError

# As float32; a body in half-millimetre voxels. A header may declare a thousand times as much in a few bytes.
LARGEST_BYTES = 2**33
# Without compression, apart from deflation; files without a header of their own state none.
NATIVE_SYNTAXES = frozenset(("", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", BIG_ENDIAN, DEFLATED))
# Whole numbers up to this are exact in float32, so that slope and intercept need no detour over float64.
EXACT_IN_FLOAT32 = 2**24
READING_ERRORS = (UndecodableError, ValueError, TypeError, KeyError, AttributeError, IndexError, OSError, struct.error,
                  zlib.error, OverflowError, NotImplementedError)


def read_planes(where: Path, slices: Sequence[SliceHeader]) -> NDArray[np.float32]:
    """Returns ``(column, row, plane)`` in memory order x fastest, with each plane's slope and intercept applied.

    Args:
        where: what errors name.
        slices: of one size, in the order that the planes shall have.

    Raises:
        InputError: ``too-large``, ``truncated-file``, ``undecodable``.
    """
    rows, columns = slices[0].rows, slices[0].columns
    check_size(where, (columns, rows, len(slices)))
    array = unset_voxels(len(slices) * rows * columns).reshape(len(slices), rows, columns)
    # Grouped by file and in its order: a multi-frame file is opened and walked through once.
    places = sorted(range(len(slices)), key=lambda at: (str(slices[at].path), slices[at].frame or 0))
    for path, group in groupby(places, key=lambda at: slices[at].path):
        _read_file(where, path, [(slices[at], array[at]) for at in group])
    return array.transpose(2, 1, 0)


def check_size(where: Path, shape: tuple[int, ...]) -> None:
    """Raises `InputError` ``too-large`` where a float32 array of this shape is beyond the limit."""
    if np.prod(shape, dtype=object) * 4 > LARGEST_BYTES:
        raise InputError(where, found=f"a volume of {' x '.join(map(str, shape))} voxels",
                         wanted=f"at most {LARGEST_BYTES // 4} voxels", remedy="crop it or resample it first",
                         reason="too-large")


def _read_file(where: Path, path: Path, planes: list[tuple[SliceHeader, NDArray[np.float32]]]) -> None:
    """Fills in the planes of one file, which are in the file's order."""
    headers = [header for header, _ in planes]
    try:
        table = _lookup_table(path) if headers[0].pixels.has_lookup_table else None
        for (header, plane), stored in zip(planes, _stored_values(path, headers), strict=True):
            if table is None:
                _scale(stored, header, plane)
            else:
                plane[...] = apply_modality_lut(stored, table)
    except EOFError as error:
        raise truncated_file(where, path.name) from error
    except READING_ERRORS as error:
        raise InputError(where, found=f"pixels that cannot be decoded in {path.name} ({_one_line(error)})",
                         wanted="sound DICOM images", remedy="export the series again, uncompressed",
                         reason="undecodable") from error


def truncated_file(where: Path, name: str) -> InputError:
    """Returns the error for a file that ends too early."""
    return InputError(where, found=f"{name} ends before its pixels do", wanted="whole files",
                      remedy="copy or export the series again", reason="truncated-file")


def _stored_values(path: Path, headers: Sequence[SliceHeader]) -> Iterator[NDArray[Any]]:
    """Yields the stored values ``(row, column)`` of some planes of a file, in the file's order."""
    pixels = headers[0].pixels
    if pixels.length is not None:
        return _native(path, headers)
    return _compressed(path, headers)


def _native(path: Path, headers: Sequence[SliceHeader]) -> Iterator[NDArray[Any]]:
    pixels = headers[0].pixels
    dtype = _stored_type(pixels)
    count = headers[0].rows * headers[0].columns
    size = count * dtype.itemsize
    with path.open("rb") as stream:
        inflated = _inflated(path, headers) if pixels.transfer_syntax == DEFLATED else None
        for header in headers:
            start = pixels.offset + ((header.frame or 1) - 1) * size
            if inflated is None:
                stream.seek(start)
                raw = np.fromfile(stream, dtype=dtype, count=count)
            else:
                whole = len(inflated) >= start + size
                raw = np.frombuffer(inflated, dtype, count, start) if whole else np.empty(0, dtype)
            if raw.size != count:
                raise EOFError
            yield _used_bits(raw, pixels).reshape(header.rows, header.columns)


def _inflated(path: Path, headers: Sequence[SliceHeader]) -> bytes:
    pixels = headers[0].pixels
    plane = headers[0].rows * headers[0].columns * pixels.bits_allocated // 8
    return inflate(path, at_most=pixels.offset + plane * max(header.frame or 1 for header in headers))


def _stored_type(pixels: PixelFormat) -> np.dtype[Any]:
    kind = ("i" if pixels.is_signed else "u") if pixels.is_integer else "f"
    known = (8, 16, 32) if pixels.is_integer else (32, 64)
    # Bytes in big endian words would have to be swapped; nobody has written such files for decades.
    if pixels.bits_allocated not in known or (pixels.bits_allocated == 8 and not pixels.is_little):
        raise UndecodableError(f"{pixels.bits_allocated} bits a pixel")
    if pixels.transfer_syntax not in NATIVE_SYNTAXES:
        raise UndecodableError(f"transfer syntax {pixels.transfer_syntax}")
    return np.dtype(f"{'<' if pixels.is_little else '>'}{kind}{pixels.bits_allocated // 8}")


def _used_bits(raw: NDArray[Any], pixels: PixelFormat) -> NDArray[Any]:
    """Returns the numbers without the bits above and below them, where old files keep overlays."""
    above = pixels.bits_allocated - pixels.high_bit - 1
    below = pixels.high_bit + 1 - pixels.bits_stored
    if not pixels.is_integer or (above, below) == (0, 0):
        return raw
    if above < 0 or below < 0:
        raise UndecodableError(f"{pixels.bits_stored} bits up to bit {pixels.high_bit}")
    # Shifted to the top and back: the way back keeps the sign of signed numbers.
    return (raw << above) >> (above + below)


def _compressed(path: Path, headers: Sequence[SliceHeader]) -> Iterator[NDArray[Any]]:
    pixels = headers[0].pixels
    wanted = {header.frame or 1: header for header in headers}
    with path.open("rb") as stream:
        stream.seek(pixels.offset)
        frames = generate_frames(stream, number_of_frames=pixels.frames)
        for number, data in enumerate(frames, 1):
            if number in wanted:
                yield decode_frame(data, wanted.pop(number))
    if wanted:
        raise EOFError


def _scale(stored: NDArray[Any], header: SliceHeader, plane: NDArray[np.float32]) -> None:
    """Writes ``stored * slope + intercept`` into `plane`, rounded once."""
    is_exact = stored.dtype.kind in "iu" and stored.dtype.itemsize <= 2 and float(header.intercept).is_integer()
    if is_exact and header.slope == 1 and abs(header.intercept) < EXACT_IN_FLOAT32 - 2**16:
        np.add(stored, np.float32(header.intercept), out=plane)
    else:
        plane[...] = stored.astype(np.float64) * header.slope + header.intercept


def _lookup_table(path: Path) -> Dataset:
    with disable_value_validation():
        return pydicom.dcmread(path, stop_before_pixels=True, force=True, defer_size=2**20)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:80] or type(error).__name__

"""NRRD and MetaImage files, attached or with a data file beside them, read with every check at the door.

The voxels are decoded here: ITK's readers return other voxels, without an error, where compressed ones are damaged.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.imaging.grids import check_affine, check_size, doubts_about_axes
from pipeline.imaging.scans import Scan
from pipeline.imaging.volume_headers import META_END, data_file, extents, numbers, read_meta_header, read_nrrd_header
from pipeline.imaging.voxels import LONGER, Inflated, Source, opened, read_voxels, refusal

GUESSED = "the file does not say how the patient lies: orientation is guessed, left and right may be exchanged"
UNSCALED = "intensities are as stored: the header's slope and offset are not applied"
# Both formats are LPS where they say nothing else; scans here are RAS.
LPS = (-1.0, -1.0, 1.0)
NRRD_SPACES = {
    "right-anterior-superior": (1.0, 1.0, 1.0), "ras": (1.0, 1.0, 1.0),
    "left-anterior-superior": (-1.0, 1.0, 1.0), "las": (-1.0, 1.0, 1.0),
    "left-posterior-superior": LPS, "lps": LPS,
}
_WHOLE = {"char": "1", "short": "2", "int": "4", "longlong": "8"}
NRRD_TYPES = {
    "signedchar": "i1", "int8": "i1", "int8_t": "i1", "uchar": "u1", "unsignedchar": "u1", "uint8": "u1",
    "uint8_t": "u1", "float": "f4", "double": "f8",
    **{f"{sign}{name}{end}": f"{kind}{size}" for name, size in list(_WHOLE.items())[1:] for end in ("", "int")
       for sign, kind in (("", "i"), ("signed", "i"), ("u", "u"), ("unsigned", "u"))},
    **{f"{sign}int{bits}{end}": f"{kind}{bits // 8}" for bits in (16, 32, 64) for end in ("", "_t")
       for sign, kind in (("", "i"), ("u", "u"))},
}
META_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
# What an axis of a scan may be called; all other kinds are channels, points in time, parts of a tensor.
NRRD_KINDS = {"domain", "space", "???", "none", ""}


@dataclass(frozen=True)
class _Layout:
    """Where and how the voxels are stored.

    Attributes:
        data: name of the data file, None where the voxels follow the header.
        dtype: with byte order.
        is_packed: gzip or zlib.
        skip: bytes before the voxels, after unpacking; -1 counts from the end of a file that is not packed.
        skip_lines: lines before those.
    """

    data: str | None
    dtype: np.dtype[Any]
    is_packed: bool
    skip: int = 0
    skip_lines: int = 0


@dataclass(frozen=True)
class _Grid:
    shape: tuple[int, ...]
    affine: NDArray[np.float64]
    is_placed: bool


def is_volume_name(path: Path) -> bool:
    """Returns whether the file's name ends as NRRD and MetaImage headers do."""
    return path.name.lower().endswith((".nrrd", ".nhdr", ".mha", ".mhd"))


def read_volume(path: Path, kind: Literal["nrrd", "meta"]) -> Scan:
    """Returns the image, values as stored; where the file gives no orientation, both codes are 0 and a warning says so.

    Raises:
        InputError: ``missing-file``, ``unreadable-file``, ``truncated-file``, ``damaged-file``, ``not-an-image``,
            ``not-single-channel``, ``bad-affine``, ``not-millimetres``, ``too-large``, ``unsupported-encoding``,
            ``missing-data-file``, ``outside-data-file``, ``several-data-files``.
    """
    with opened(path) as stream:
        if kind == "nrrd":
            fields = read_nrrd_header(path, stream)
            grid, layout = _nrrd_grid(path, fields), _nrrd_layout(path, fields)
        else:
            fields = read_meta_header(path, stream)
            grid, layout = _meta_grid(path, fields), _meta_layout(path, fields)
        check_size(path, grid.shape)
        check_affine(path, grid.affine)
        voxels, has_tail = _attached_or_beside(path, stream, grid, layout)
        warnings = [*([] if grid.is_placed else [GUESSED]), *doubts_about_axes(grid.affine),
                    *([LONGER] if has_tail else []), *([UNSCALED] if _has_scaling(path, fields) else [])]
    shape, code = (*grid.shape, 1)[:3], int(grid.is_placed)
    return Scan(voxels.reshape(shape, order="F"), grid.affine, path, None, grid.shape, code, code, tuple(warnings))


def _attached_or_beside(path: Path, stream: BinaryIO, grid: _Grid,
                        layout: _Layout) -> tuple[NDArray[np.float32], bool]:
    if layout.data is None:
        return _voxels(path, stream, grid, layout)
    beside = data_file(path, layout.data)
    with opened(beside) as other:
        return _voxels(beside, other, grid, layout)


def _voxels(path: Path, stream: BinaryIO, grid: _Grid, layout: _Layout) -> tuple[NDArray[np.float32], bool]:
    count = math.prod(grid.shape)
    for _ in range(layout.skip_lines):
        stream.readline()
    source: Source = Inflated(stream) if layout.is_packed else stream
    if layout.skip < 0:
        stream.seek(max(0, path.stat().st_size - count * layout.dtype.itemsize))
    elif len(source.read(layout.skip)) < layout.skip:
        raise refusal(path, "no voxels", "voxels after the header", "truncated-file")
    return read_voxels(path, source, dtype=layout.dtype, count=count)


def _nrrd_layout(path: Path, fields: Mapping[str, str]) -> _Layout:
    dtype = _dtype(path, NRRD_TYPES.get("".join(fields.get("type", "").lower().split())))
    encoding = fields.get("encoding", "").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise _unsupported(path)
    endian = fields.get("endian", "").lower()
    if dtype.itemsize > 1 and endian not in ("little", "big"):
        raise refusal(path, "no byte order", "endian: little or big", "damaged-file")
    skip, lines = numbers(path, fields, "byteskip") or (0,), numbers(path, fields, "lineskip") or (0,)
    if not -1 <= skip[0] < 2**24 or not 0 <= lines[0] < 2**16 or (skip[0] < 0 and encoding != "raw"):
        raise refusal(path, "an impossible byte or line skip", "voxels right after the header", "damaged-file")
    return _Layout(fields.get("datafile"), dtype.newbyteorder(">" if endian == "big" else "<"), encoding != "raw",
                   int(skip[0]), int(lines[0]))


def _nrrd_grid(path: Path, fields: Mapping[str, str]) -> _Grid:
    shape = extents(path, fields, "sizes")
    if str(len(shape)) != fields.get("dimension"):
        raise refusal(path, f"{len(shape)} sizes", "one for each dimension", "damaged-file")
    if not {kind.lower() for kind in fields.get("kinds", "").split()} <= NRRD_KINDS:
        raise refusal(path, "an axis that is not one of space", "one channel", "not-single-channel",
                      "give each channel its own file")
    for name in ("spaceunits", "units"):
        _check_millimetres(path, re.findall(r'"([^"]*)"', fields.get(name, "")))
    signs = NRRD_SPACES.get(fields.get("space", "").lower())
    directions = _vectors(path, fields.get("spacedirections", ""))
    axes = np.zeros((3, 3))
    if directions:
        if len(directions) != len(shape) or any(len(vector) not in (2, 3) for vector in directions):
            raise refusal(path, "space directions that do not fit the image", "a vector for each axis", "bad-affine")
        for axis, vector in enumerate(directions):
            axes[: len(vector), axis] = vector
    else:
        spacing = numbers(path, fields, "spacings") or (1.0,) * len(shape)
        if len(spacing) != len(shape) or not min(spacing) > 0:
            raise refusal(path, f"spacing {spacing}", "a length above 0 for each axis", "bad-affine")
        np.fill_diagonal(axes, [*spacing, 1.0][:3])
    origin = [*_vectors(path, fields.get("spaceorigin", "")), (0.0, 0.0, 0.0)][0]
    if len(origin) not in (2, 3):
        raise refusal(path, "a space origin that does not fit the image", "three numbers", "bad-affine")
    is_placed = signs is not None and bool(directions) and len(directions[0]) == 3
    return _Grid(shape, _affine(axes, origin, signs or LPS, len(shape)), is_placed)


def _vectors(path: Path, text: str) -> list[tuple[float, ...]]:
    """Returns the vectors in ``(1,0,0) (0,1,0) none``, in which the last axis is none of space and has no vector."""
    try:
        return [tuple(float(part) for part in inner.split(",")) for inner in re.findall(r"\(([^)]*)\)", text)]
    except ValueError as error:
        raise refusal(path, "vectors that are not numbers", "numbers", "damaged-file") from error


def _meta_layout(path: Path, fields: Mapping[str, str]) -> _Layout:
    dtype = _dtype(path, META_TYPES.get(fields.get("elementtype", "").upper()))
    if fields.get("binarydata", "True").lower() != "true":
        raise _unsupported(path)
    is_big = "true" in (fields.get("binarydatabyteordermsb", "").lower(),
                        fields.get("elementbyteordermsb", "").lower())
    skip = (numbers(path, fields, "headersize") or (0,))[0]
    is_packed = fields.get("compresseddata", "").lower() == "true"
    if not -1 <= skip < 2**24 or (skip < 0 and is_packed):
        raise refusal(path, "an impossible HeaderSize", "voxels right after the header", "damaged-file")
    name = fields[META_END]
    return _Layout(None if name.lower() == "local" else name, dtype.newbyteorder(">" if is_big else "<"), is_packed,
                   int(skip))


def _meta_grid(path: Path, fields: Mapping[str, str]) -> _Grid:
    shape = extents(path, fields, "dimsize")
    dims = len(shape)
    if str(dims) != fields.get("ndims"):
        raise refusal(path, f"{dims} sizes", "one for each dimension", "damaged-file")
    if fields.get("elementnumberofchannels", "1") != "1":
        raise refusal(path, "several numbers a voxel", "one channel", "not-single-channel",
                      "give each channel its own file")
    _check_millimetres(path, [fields.get("distanceunits", "")])
    matrix = _first(path, fields, ("transformmatrix", "rotation", "orientation"))
    spacing = _first(path, fields, ("elementspacing", "elementsize")) or (1.0,) * dims
    origin = _first(path, fields, ("offset", "position", "origin")) or (0.0,) * dims
    if len(spacing) != dims or not min(spacing) > 0:
        raise refusal(path, f"spacing {spacing}", "a length above 0 for each axis", "bad-affine")
    if len(origin) != dims or len(matrix or range(dims**2)) != dims**2:
        raise refusal(path, "an offset or matrix that does not fit the image", "numbers for each axis", "bad-affine")
    axes = np.zeros((3, 3))
    # Each row of the matrix is the direction of one axis.
    axes[:dims, :dims] = np.reshape(matrix or np.eye(dims).ravel(), (dims, dims)).T * spacing
    return _Grid(shape, _affine(axes, origin, LPS, dims), matrix is not None and dims == 3)


def _first(path: Path, fields: Mapping[str, str], names: tuple[str, ...]) -> tuple[float, ...] | None:
    return next((found for name in names if (found := numbers(path, fields, name)) is not None), None)


def _affine(axes: NDArray[np.float64], origin: tuple[float, ...], signs: tuple[float, ...],
            dims: int) -> NDArray[np.float64]:
    """Returns voxel index to RAS+ from the axes' steps (columns) in the file's own space; a 2D image is 1 mm thick."""
    if dims == 2:
        normal = np.cross(axes[:, 0], axes[:, 1])
        length = float(np.linalg.norm(normal))
        axes[:, 2] = normal / length if length > 0 else 0.0
    affine = np.eye(4)
    affine[:3, :3] = axes
    affine[:3, 3] = [*origin, 0.0][:3]
    affine[:3] *= np.reshape(signs, (3, 1))
    return affine


def _dtype(path: Path, name: str | None) -> np.dtype[Any]:
    if name is None:
        raise refusal(path, "voxels of another type", "one whole or floating number a voxel", "not-single-channel")
    return np.dtype(name)


def _has_scaling(path: Path, fields: Mapping[str, str]) -> bool:
    """Returns whether a MetaImage asks for intensities other than the stored ones, which ITK passes over too."""
    slope = numbers(path, fields, "elementtointensityfunctionslope")
    offset = numbers(path, fields, "elementtointensityfunctionoffset")
    return slope not in (None, (1.0,)) or offset not in (None, (0.0,))


def _check_millimetres(path: Path, units: list[str]) -> None:
    for unit in units:
        if unit.lower() not in ("mm", "millimeter", "millimeters", "millimetre", "millimetres", "", "?"):
            raise refusal(path, "lengths in another unit", "millimetres", "not-millimetres",
                          "convert the header to millimetres")


def _unsupported(path: Path) -> Exception:
    return refusal(path, "voxels written as text, or packed in a rare way", "raw or gzip voxels",
                   "unsupported-encoding", "save it again, or convert it to NIfTI")

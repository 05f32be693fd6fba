"""The header of a NIfTI file: the grid it declares, checked, and how its voxels are stored."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.imageglobals import LoggingOutputSuppressor
from numpy.typing import NDArray

from pipeline.imaging.grids import AFFINE_ROUNDING_MM, check_affine, doubts_about_axes
from pipeline.imaging.voxels import Source, refusal

# Extensions stand between header and voxels; no program writes more of them.
MOST_OFFSET = 1 << 26
# That a header has room for.
MOST_DIMENSIONS = 7
# Length of the header, which is its first number; where the magic stands; nibabel's class.
FORMATS = ((348, slice(344, 348), b"n+1\0", nib.Nifti1Header), (540, slice(4, 8), b"n+2\0", nib.Nifti2Header))
GUESSED = "qform and sform are both unset: orientation and position are guessed, left and right may be exchanged"


@dataclass(frozen=True)
class Header:
    """nibabel's header, and whether the file gives every voxel a length above 0, which nibabel would mend unasked."""

    fields: Any
    has_sound_lengths: bool


@dataclass(frozen=True)
class Grid:
    """What a header says: the shape as ``(x, y, z)`` and on disk, the affine that holds, and what is doubtful."""

    shape: tuple[int, int, int]
    shape_on_disk: tuple[int, ...]
    affine: NDArray[np.float64]
    qform_code: int
    sform_code: int
    warnings: tuple[str, ...]


def read_header(path: Path, source: Source) -> Header:
    """Returns the header of the single-file format that the source begins with."""
    start = source.read(4)
    if not start:
        raise refusal(path, "an empty file", "a NIfTI file", "truncated-file")
    for size, place, magic, kind in FORMATS:
        endianness = {size.to_bytes(4, "little"): "<", size.to_bytes(4, "big"): ">"}.get(start)
        content = start + source.read(size - 4) if endianness else b""
        if content[place] != magic:
            continue
        if len(content) < size:
            raise refusal(path, f"{len(content)} bytes", f"a header of {size} bytes", "truncated-file")
        return _parsed(path, kind, content, endianness)
    raise refusal(path, "no NIfTI header", "a single-file NIfTI (.nii or .nii.gz)", "not-an-image",
                  "convert it to NIfTI, or give the folder of a DICOM series")


def _parsed(path: Path, kind: Any, content: bytes, endianness: str | None) -> Header:
    try:
        with LoggingOutputSuppressor():
            header = kind(content, endianness=endianness)
            as_written = kind(content, endianness=endianness, check=False)
            lengths = as_written["pixdim"][1 : 1 + min(3, int(header["dim"][0]))]
            # Each of these raises on fields that the construction takes.
            header.get_data_shape(), header.get_data_dtype(), header.get_slope_inter()
            offset = header.get_data_offset()
    except Exception as error:  # nibabel raises several kinds for damaged headers
        raise refusal(path, f"a damaged header ({_one_line(error)})", "a NIfTI header", "damaged-file") from error
    if header["dim"][0] > MOST_DIMENSIONS:
        raise refusal(path, f"{header['dim'][0]} dimensions", "2 or 3", "damaged-file")
    if not len(content) <= offset <= MOST_OFFSET:
        raise refusal(path, f"voxels from byte {offset} on", "voxels right after the header", "damaged-file")
    return Header(header, bool(np.isfinite(lengths).all() and (lengths > 0).all()))


def grid_of(path: Path, header: Header) -> Grid:
    fields = header.fields
    on_disk = tuple(int(extent) for extent in fields.get_data_shape())
    if len(on_disk) < 2 or min(on_disk) < 1:
        raise refusal(path, f"shape {on_disk}", "an image of 2 or 3 dimensions", "not-an-image")
    if any(extent > 1 for extent in on_disk[3:]):
        raise refusal(path, f"shape {on_disk}", "one channel", "not-single-channel", "give each channel its own file")
    if fields.get_xyzt_units()[0] not in ("mm", "unknown"):
        raise refusal(path, f"lengths in {fields.get_xyzt_units()[0]}", "millimetres", "not-millimetres",
                      "convert the header to millimetres")
    shape = on_disk[0], on_disk[1], (*on_disk, 1)[2]
    affine = _affine(path, header)
    return Grid(shape, on_disk, affine, int(fields["qform_code"]), int(fields["sform_code"]),
                 tuple(_doubts(header, affine)))


def _affine(path: Path, header: Header) -> NDArray[np.float64]:
    """Returns the affine that holds, checked."""
    if header.fields["sform_code"] <= 0 and not header.has_sound_lengths:
        raise refusal(path, "a voxel length that is not above 0", "lengths above 0, or an sform", "bad-affine")
    try:
        affine = np.asarray(header.fields.get_best_affine(), dtype=np.float64)
    except Exception as error:  # an impossible quaternion
        raise refusal(path, f"an impossible qform ({_one_line(error)})", "a valid one", "bad-affine") from error
    check_affine(path, affine)
    return affine


def _doubts(header: Header, affine: NDArray[np.float64]) -> Iterator[str]:
    """Yields what is doubtful about the affine that holds."""
    if header.fields["qform_code"] <= 0 and header.fields["sform_code"] <= 0:
        yield GUESSED
    if header.fields["sform_code"] > 0 and header.fields["qform_code"] > 0 and not _has_qform(header, affine):
        yield "qform and sform disagree: the sform is used"
    elif header.fields["sform_code"] > 0 and not _has_lengths(header, affine):
        yield "voxel lengths and sform disagree: the sform is used"
    yield from doubts_about_axes(affine)


def _has_qform(header: Header, affine: NDArray[np.float64]) -> bool:
    try:
        return bool(np.allclose(header.fields.get_qform(), affine, atol=AFFINE_ROUNDING_MM))
    except Exception:  # an impossible quaternion
        return False


def _has_lengths(header: Header, affine: NDArray[np.float64]) -> bool:
    axes = min(3, int(header.fields["dim"][0]))
    lengths, spacing = header.fields["pixdim"][1 : 1 + axes], np.linalg.norm(affine[:3, :axes], axis=0)
    return header.has_sound_lengths and bool(np.allclose(lengths, spacing, rtol=0, atol=AFFINE_ROUNDING_MM))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())

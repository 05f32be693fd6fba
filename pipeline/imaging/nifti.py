"""NIfTI-1 and NIfTI-2 single files, plain or gzipped: read with every check at the door, written the same each time."""

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.imageglobals import LoggingOutputSuppressor
from numpy.typing import NDArray

from pipeline.imaging.scans import Scan
from pipeline.records.errors import InputError
from pipeline.records.files import written_aside

GZIP_MAGIC = b"\x1f\x8b"
# The largest header (NIfTI-2) is 540 bytes, the extension flag after it 4.
HEADER_BYTES = 544
# Enough for label maps, which compress well; higher levels cost seconds on a CT and save little.
GZIP_LEVEL = 4
# Largest difference between two affines that is still rounding to float32, in millimetres.
AFFINE_ROUNDING_MM = 1e-2
# Cosine between two voxel axes above which they are called oblique to each other.
SHEAR_COSINE = 1e-3


@dataclass(frozen=True)
class NiftiGeometry:
    """What a NIfTI header says about the grid.

    Attributes:
        shape: ``(x, y, z)``; a 2D image has z of 1.
        shape_on_disk: the shape in the header, with its trailing dimensions of 1.
        affine: ``(4, 4)`` float64, voxel index to millimetres in RAS+: the sform where set, else the qform, else
            spacing alone.
        qform_code, sform_code: NIfTI's codes; 0 is unset.
        warnings: sentences about what is doubtful, without path.
    """

    shape: tuple[int, int, int]
    shape_on_disk: tuple[int, ...]
    affine: NDArray[np.float64]
    qform_code: int
    sform_code: int
    warnings: tuple[str, ...] = ()


def is_nifti_name(path: Path) -> bool:
    """Returns whether the file's name ends as NIfTI files do."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def read_nifti(path: Path) -> Scan:
    """Returns the image with the file's intensity scaling applied.

    Gzip is recognised by content, not by name. Voxels that are not finite are kept: the caller decides.

    Raises:
        InputError: ``missing-file``, ``unreadable-file``, ``truncated-file``, ``damaged-file``, ``not-an-image``,
            ``not-single-channel``, ``bad-affine``, ``not-millimetres``.
    """
    content = _content(path)
    header = _header(path, content)
    geometry = _geometry(path, header)
    return Scan(_voxels(path, header, content).reshape(geometry.shape, order="F"), geometry.affine, path, None,
                geometry.shape_on_disk, geometry.qform_code, geometry.sform_code, geometry.warnings)


def read_nifti_geometry(path: Path) -> NiftiGeometry:
    """Returns the grid from the header alone; a file truncated after its header is not noticed.

    Raises:
        InputError: as `read_nifti`.
    """
    return _geometry(path, _header(path, _content(path, limit=HEADER_BYTES)))


def write_nifti(path: Path, array: NDArray[Any], *, affine: NDArray[np.float64], qform_code: int = 1,
                sform_code: int = 1) -> None:
    """Writes NIfTI-1 atomically, gzipped where the name ends in ``.gz``; the same content gives the same bytes.

    Args:
        path: the file to write or replace.
        array: of any shape that NIfTI can hold, ``(x, y)`` or ``(x, y, z)`` or with trailing ones; its dtype is kept
            (bool becomes uint8).
        affine: ``(4, 4)`` voxel index to millimetres in RAS+; written to both forms. With both codes 0, readers derive
            it from spacing and shape.
        qform_code, sform_code: NIfTI's codes of the two forms.
    """
    voxels = np.asarray(array)
    voxels = voxels.astype(np.uint8) if voxels.dtype == bool else voxels
    header = nib.Nifti1Header()
    header.set_data_dtype(voxels.dtype)
    header.set_data_shape(voxels.shape)
    header.set_qform(affine, code=qform_code, strip_shears=True)
    header.set_sform(affine, code=sform_code)
    header.set_xyzt_units("mm")
    header["magic"], header["vox_offset"], header["scl_slope"], header["scl_inter"] = b"n+1", 352, 1, 0
    content = header.binaryblock + bytes(4) + voxels.astype(header.get_data_dtype(), copy=False).tobytes(order="F")
    with written_aside(path) as aside:
        aside.write_bytes(gzip.compress(content, GZIP_LEVEL, mtime=0) if path.name.endswith(".gz") else content)


def _content(path: Path, limit: int = -1) -> bytes:
    """Returns the first `limit` bytes of the file after unpacking, or all of them."""
    try:
        with path.open("rb") as stream:
            start = stream.read(2)
            stream.seek(0)
            if start != GZIP_MAGIC:
                return stream.read(limit)
            if limit < 0:
                return gzip.decompress(stream.read())
            with gzip.GzipFile(fileobj=stream) as unpacked:
                return unpacked.read(limit)
    except FileNotFoundError as error:
        raise _refusal(path, "no such file", "an existing NIfTI file", "missing-file", "check the path") from error
    except EOFError as error:
        raise _refusal(path, "a gzip stream that ends early", "a complete .nii.gz", "truncated-file") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise _refusal(path, f"a damaged gzip stream ({error})", "a sound .nii.gz", "damaged-file") from error
    except OSError as error:
        raise _refusal(path, f"unreadable ({error.strerror})", "a readable NIfTI file", "unreadable-file",
                       "check its kind and permissions") from error


def _header(path: Path, content: bytes) -> Any:
    """Returns nibabel's header of the single-file format that `content` starts with."""
    if not content:
        raise _refusal(path, "an empty file", "a NIfTI file", "truncated-file")
    kinds = {(348, b"n+1\0"): nib.Nifti1Header, (540, b"n+2\0"): nib.Nifti2Header}
    for endianness in "<>":
        size = int(np.frombuffer(content[:4].ljust(4, b"\0"), dtype=f"{endianness}i4")[0])
        magic = content[344:348] if size == 348 else content[4:8]
        if (size, magic) in kinds:
            break
    else:
        raise _refusal(path, "no NIfTI header", "a single-file NIfTI (.nii or .nii.gz)", "not-an-image",
                       "convert it to NIfTI, or give the folder of a DICOM series")
    if len(content) < size:
        raise _refusal(path, f"{len(content)} bytes", f"a header of {size} bytes", "truncated-file")
    try:
        with LoggingOutputSuppressor():
            return kinds[size, magic](content[:size], endianness=endianness)
    except Exception as error:  # nibabel raises several kinds for damaged headers
        raise _refusal(path, f"a damaged header ({_one_line(error)})", "a NIfTI header", "damaged-file") from error


def _geometry(path: Path, header: Any) -> NiftiGeometry:
    on_disk = tuple(int(extent) for extent in header.get_data_shape())
    if len(on_disk) < 2 or min(on_disk) < 1:
        raise _refusal(path, f"shape {on_disk}", "an image of 2 or 3 dimensions", "not-an-image")
    if any(extent > 1 for extent in on_disk[3:]):
        raise _refusal(path, f"shape {on_disk}", "one channel", "not-single-channel", "give each channel its own file")
    if header.get_xyzt_units()[0] not in ("mm", "unknown"):
        raise _refusal(path, f"lengths in {header.get_xyzt_units()[0]}", "millimetres", "not-millimetres",
                       "convert the header to millimetres")
    shape = on_disk[0], on_disk[1], (*on_disk, 1)[2]
    affine, warnings = _affine(path, header)
    return NiftiGeometry(shape, on_disk, affine, int(header["qform_code"]), int(header["sform_code"]), warnings)


def _affine(path: Path, header: Any) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Returns the affine that holds, checked, and what is doubtful about it."""
    qform_code, sform_code = int(header["qform_code"]), int(header["sform_code"])
    warnings = []
    try:
        affine = np.asarray(header.get_best_affine(), dtype=np.float64)
        qform = header.get_qform() if qform_code > 0 and sform_code > 0 else affine
    except Exception as error:  # an impossible quaternion
        raise _refusal(path, f"an impossible qform ({_one_line(error)})", "a valid one", "bad-affine") from error
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or min(spacing) <= 0:
        raise _refusal(path, f"affine {_rows(affine)}", "finite numbers and spacing above 0", "bad-affine")
    cosines = affine[:3, :3] / spacing
    if abs(np.linalg.det(cosines)) < 1e-3:
        raise _refusal(path, f"affine {_rows(affine)}", "three independent axes", "bad-affine")
    if qform_code <= 0 and sform_code <= 0:
        warnings.append("qform and sform are both unset: orientation and position are guessed, left and right may be "
                        "exchanged")
    if not np.allclose(qform, affine, atol=AFFINE_ROUNDING_MM):
        warnings.append("qform and sform disagree: the sform is used")
    if np.abs(cosines.T @ cosines - np.eye(3)).max() > SHEAR_COSINE:
        warnings.append("the voxel axes are not perpendicular to each other")
    return affine, tuple(warnings)


def _voxels(path: Path, header: Any, content: bytes) -> NDArray[np.float32]:
    """Returns all voxels in file order as float32, slope and intercept applied."""
    dtype = header.get_data_dtype()
    if dtype.kind == "c" or dtype.fields:
        raise _refusal(path, "colour or complex voxels", "one number a voxel", "not-single-channel",
                       "give each channel its own file")
    if dtype.kind not in "iuf":
        raise _refusal(path, f"voxels of type {dtype}", "whole or floating numbers", "not-an-image")
    count, offset = int(np.prod(header.get_data_shape(), dtype=np.int64)), header.get_data_offset()
    if offset + count * dtype.itemsize > len(content):
        raise _refusal(path, f"{len(content)} bytes", f"{offset + count * dtype.itemsize} bytes", "truncated-file")
    stored = np.frombuffer(content, dtype=dtype, count=count, offset=offset)
    slope, intercept = header.get_slope_inter()
    if slope is None or (slope, intercept) == (1.0, 0.0):
        return stored.astype(np.float32)
    # float32 holds 16-bit numbers exactly; wider ones are scaled before they are rounded.
    working: NDArray[np.floating[Any]] = stored.astype(np.float32 if dtype.itemsize <= 2 else np.float64)
    working *= slope
    working += intercept or 0.0
    return np.asarray(working, dtype=np.float32)


def _refusal(path: Path, found: str, wanted: str, reason: str, remedy: str = "export or copy it again") -> InputError:
    return InputError(path, found=found, wanted=wanted, remedy=remedy, reason=reason)


def _rows(affine: NDArray[np.float64]) -> str:
    return str([[round(float(value), 4) for value in row] for row in affine[:3]])


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())

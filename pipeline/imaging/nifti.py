"""NIfTI-1 and NIfTI-2 single files, plain or gzipped: read with every check at the door, written the same each time."""

import math
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from pipeline.imaging.grids import check_size
from pipeline.imaging.nifti_header import grid_of, read_header
from pipeline.imaging.scans import Scan
from pipeline.imaging.voxels import GZIP_MAGIC, LONGER, STEP_BYTES, Inflated, Source, opened, read_voxels, refusal
from pipeline.records.files import written_aside

# Level and strategy. Of voxels of one byte, which are label maps, only runs are packed: half the time of level 4, and
# smaller.
LABEL_COMPRESSION = (1, zlib.Z_RLE)
# Higher levels cost seconds on a CT and save little.
IMAGE_COMPRESSION = (4, zlib.Z_DEFAULT_STRATEGY)


def is_nifti_name(path: Path) -> bool:
    """Returns whether the file's name ends as NIfTI files do."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def read_nifti(path: Path) -> Scan:
    """Returns the image with the file's intensity scaling applied.

    Gzip is recognised by content, not by name. Voxels that are not finite are kept: the caller decides. Memory is
    taken for the float32 voxels alone, and only where the file can hold as many as its header declares.

    Raises:
        InputError: ``missing-file``, ``unreadable-file``, ``truncated-file``, ``damaged-file``, ``not-an-image``,
            ``not-single-channel``, ``bad-affine``, ``not-millimetres``, ``too-large``.
    """
    with opened(path) as stream:
        is_gzip = stream.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        stream.seek(0)
        source: Source = Inflated(stream) if is_gzip else stream
        header = read_header(path, source)
        grid = grid_of(path, header)
        check_size(path, grid.shape_on_disk)
        source.read(header.fields.get_data_offset() - source.tell())
        slope, intercept = header.fields.get_slope_inter()
        voxels, has_tail = read_voxels(path, source, dtype=_dtype(path, header.fields), slope=slope,
                                       intercept=intercept, count=math.prod(grid.shape))
    return Scan(voxels.reshape(grid.shape, order="F"), grid.affine, path, None, grid.shape_on_disk, grid.qform_code,
                grid.sform_code, (*grid.warnings, LONGER) if has_tail else grid.warnings)


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
    voxels = voxels.view(np.uint8) if voxels.dtype == bool else voxels
    header = nib.Nifti1Header()
    header.set_data_dtype(voxels.dtype)
    header.set_data_shape(voxels.shape)
    header.set_qform(affine, code=qform_code, strip_shears=True)
    header.set_sform(affine, code=sform_code)
    header.set_xyzt_units("mm")
    header["magic"], header["vox_offset"], header["scl_slope"], header["scl_inter"] = b"n+1", 352, 1, 0
    level, strategy = LABEL_COMPRESSION if voxels.dtype.itemsize == 1 else IMAGE_COMPRESSION
    # 16 more than the largest window asks zlib for gzip's frame, in which it writes no time and no name.
    packer = zlib.compressobj(level, wbits=16 + zlib.MAX_WBITS, memLevel=9, strategy=strategy)
    is_packed = path.name.endswith(".gz")
    with written_aside(path) as aside, aside.open("wb") as written:
        for step in chain([header.binaryblock + bytes(4)], _in_file_order(voxels, header.get_data_dtype())):
            written.write(packer.compress(step) if is_packed else step)
        written.write(packer.flush() if is_packed else b"")


def _in_file_order(voxels: NDArray[Any], dtype: np.dtype[Any]) -> Iterator[bytes | memoryview]:
    """Yields the bytes of a few slices at a time, the first axis running fastest."""
    if voxels.size != math.prod(voxels.shape[:3]):
        yield voxels.astype(dtype, copy=False).tobytes(order="F")
        return
    # Axes of one voxel at the end change no order.
    volume = voxels.reshape((*voxels.shape, 1, 1)[:3])
    count = max(1, STEP_BYTES // max(1, volume[..., :1].nbytes))
    for first in range(0, volume.shape[2], count):
        slices = volume[..., first : first + count]
        if slices.flags.f_contiguous:
            yield slices.astype(dtype, copy=False).tobytes(order="F")
            continue
        turned = np.empty(slices.shape[::-1], dtype)
        # Row by row stays within the processor's cache, which a turn of the whole does not: three times as fast.
        for row in range(slices.shape[1]):
            turned[:, row] = slices[:, row].T
        yield turned.data


def _dtype(path: Path, header: Any) -> np.dtype[Any]:
    dtype: np.dtype[Any] = header.get_data_dtype()
    if dtype.kind == "c" or dtype.fields:
        raise refusal(path, "colour or complex voxels", "one number a voxel", "not-single-channel",
                      "give each channel its own file")
    if dtype.kind not in "iuf":
        raise refusal(path, f"voxels of type {dtype}", "whole or floating numbers", "not-an-image")
    return dtype

"""What a grid must be before memory is taken for its voxels: of a size that fits, with axes that mean a place."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.records.errors import InputError

# 8 GiB of float32: 1290 voxels in each direction, several times the largest CT.
MOST_BYTES = 2**33
BYTES_A_VOXEL = 4
# Largest difference between two affines that is still rounding to float32, in millimetres.
AFFINE_ROUNDING_MM = 1e-2
# Cosine between two voxel axes above which they are called oblique to each other.
SHEAR_COSINE = 1e-3
# Volume of the box that three unit vectors span, below which one of them lies in the plane of the others.
SINGULAR_VOLUME = 1e-3


def check_size(where: Path, shape: Sequence[int]) -> None:
    """Refuses an image of which the voxels alone would fill the memory.

    Raises:
        InputError: ``too-large``.
    """
    voxels = math.prod(shape)
    if voxels * BYTES_A_VOXEL > MOST_BYTES:
        raise InputError(where, found=f"a header that declares {' x '.join(str(extent) for extent in shape)} voxels",
                         wanted=f"at most {MOST_BYTES // BYTES_A_VOXEL:,} voxels",
                         remedy="crop it or resample it to larger voxels, or export it again if the header is wrong",
                         reason="too-large")


def check_affine(where: Path, affine: NDArray[np.float64]) -> None:
    """Refuses an affine ``(4, 4)`` that gives some voxels no place, or many voxels the same one.

    Raises:
        InputError: ``bad-affine``.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        is_sound = bool(np.isfinite(affine).all() and np.isfinite(spacing).all() and min(spacing) > 0)
    if is_sound and abs(np.linalg.det(affine[:3, :3] / spacing)) >= SINGULAR_VOLUME:
        return
    rows = [[round(float(value), 4) for value in row] for row in affine[:3]]
    raise InputError(where, found=f"affine {rows}", remedy="export or copy it again", reason="bad-affine",
                     wanted="three independent axes" if is_sound else "finite numbers and spacing above 0")


def doubts_about_axes(affine: NDArray[np.float64]) -> Iterator[str]:
    """Yields what is doubtful about an affine that `check_affine` took."""
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if np.abs(cosines.T @ cosines - np.eye(3)).max() > SHEAR_COSINE:
        yield "the voxel axes are not perpendicular to each other"

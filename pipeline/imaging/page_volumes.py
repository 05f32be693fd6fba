"""A scan with truth and prediction, small enough to be carried by a web page that scrolls through it."""

import base64
import gzip
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.imaging.comparisons import Comparison
from pipeline.imaging.preview import Voxel, robust_window, spacing_in_ras_order

# More are cut to a box round the labels and, if need be, thinned out. A voxel takes about a byte of the page.
MOST_VOXELS = 1_000_000
# What is left round the labels where a scan is cut, for a reader looks at neighbours as well.
MARGIN_MM = 15.0
# Intensities beyond the window in which a scan is shown first, as a share of its width, that a reader can window to.
# Of pictures in colour all are kept: 8 bits are what they have.
BEYOND_WINDOW = 0.5


@dataclass(frozen=True)
class PageVolume:
    """One case for the page's viewer, in RAS order.

    `data` is base64 of gzip of the bytes of the image (channel by channel), the truth and the prediction, each with x
    outermost. A byte of the image means `darkest` at 0 and `brightest` at 255; `window` is what is shown first.
    A byte of a label map is a position in `labels`, whose first entry is the background. `start` is where the planes
    pass first. `thinned`: how many of the scan's voxels along each axis one stands for.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    channels: int
    darkest: float
    brightest: float
    window: tuple[float, float]
    labels: tuple[str, ...]
    start: Voxel
    thinned: tuple[int, int, int]
    data: str


def pack_volume(comparison: Comparison, start: Voxel, *, labels: Mapping[str, int],
                most_voxels: int = MOST_VOXELS) -> PageVolume:
    """Returns the case with at most `most_voxels`, image included once; the same case gives the same bytes.

    Args:
        comparison: the scan with both label maps.
        start: a voxel in the order of `comparison`, kept inside.
        labels: values in the label maps by name; other values are shown as one more label, `other`.
        most_voxels: how many may be left.
    """
    spacing = spacing_in_ras_order(comparison.affine)
    box = _box(comparison, start, spacing) if comparison.truth.size > most_voxels else (slice(None),) * 3
    thinned = _thinning(comparison.truth[box].shape, spacing, most_voxels)
    truth, prediction = (_positions(_thinned(array[box], thinned), labels)
                         for array in (comparison.truth, comparison.prediction))
    channels = comparison.image if comparison.image.ndim == 4 else comparison.image[None]
    shown = np.stack([_block_means(channel[box], thinned) for channel in channels])
    low, high = robust_window(comparison.image)
    beyond = BEYOND_WINDOW * (high - low) if len(channels) == 1 else math.inf
    finite = shown[np.isfinite(shown)]
    darkest = max(low - beyond, float(finite.min(initial=low)))
    brightest = min(high + beyond, float(finite.max(initial=high)))
    levels = np.nan_to_num((shown - darkest) / (brightest - darkest)).clip(0, 1)
    content = b"".join(array.tobytes() for array in (np.rint(levels * 255).astype(np.uint8), truth, prediction))
    return PageVolume(
        shape=(truth.shape[0], truth.shape[1], truth.shape[2]), channels=len(channels),
        spacing_mm=(spacing[0] * thinned[0], spacing[1] * thinned[1], spacing[2] * thinned[2]),
        darkest=darkest, brightest=brightest, window=(low, high), labels=("background", *labels, "other"),
        start=_start(start, box, thinned, truth.shape), thinned=thinned,
        data=base64.b64encode(gzip.compress(content, mtime=0)).decode("ascii"),
    )


def _box(comparison: Comparison, start: Voxel, spacing_mm: Sequence[float]) -> tuple[slice, ...]:
    """Returns the box of all labels and the start, with a margin."""
    is_shown = (comparison.truth > 0) | (comparison.prediction > 0)
    is_shown[start] = True
    box = []
    for axis, (size, mm) in enumerate(zip(is_shown.shape, spacing_mm, strict=True)):
        others = tuple(other for other in range(3) if other != axis)
        places = np.flatnonzero(is_shown.any(axis=others))
        margin = math.ceil(MARGIN_MM / mm)
        box.append(slice(max(0, int(places[0]) - margin), min(size, int(places[-1]) + margin + 1)))
    return tuple(box)


def _thinning(shape: Sequence[int], spacing_mm: Sequence[float], most_voxels: int) -> Voxel:
    """Returns by how much to thin each axis out: the finest is halved until few enough are left."""
    thinned = [1, 1, 1]
    while math.prod(-(-size // n) for size, n in zip(shape, thinned, strict=True)) > most_voxels:
        # An axis of one voxel cannot be thinned.
        finest = min((axis for axis in range(3) if shape[axis] > thinned[axis]),
                     key=lambda axis: spacing_mm[axis] * thinned[axis])
        thinned[finest] *= 2
    return thinned[0], thinned[1], thinned[2]


def _thinned(array: NDArray[np.int16], thinned: Voxel) -> NDArray[np.int16]:
    """Returns every nth voxel; the labels of thin structures survive only where one of these hits them."""
    return array[tuple(slice(None, None, n) for n in thinned)]


def _block_means(channel: NDArray[np.float32], thinned: Voxel) -> NDArray[np.float32]:
    """Returns the means of blocks that begin at the voxels `_thinned` keeps."""
    for axis, n in enumerate(thinned):
        if n > 1:
            starts = np.arange(0, channel.shape[axis], n)
            counts = np.diff(np.append(starts, channel.shape[axis]))
            shape = [-1 if other == axis else 1 for other in range(3)]
            sums = np.add.reduceat(channel, starts, axis=axis, dtype=np.float32)
            channel = (sums / counts.reshape(shape)).astype(np.float32)
    return channel


def _positions(label_map: NDArray[np.int16], labels: Mapping[str, int]) -> NDArray[np.uint8]:
    """Returns for each voxel the position of its label: 0 background, 1 the first label, and one more for others."""
    positions = np.where(label_map == 0, 0, len(labels) + 1).astype(np.uint8)
    for position, value in enumerate(labels.values(), start=1):
        positions[label_map == value] = position
    return positions


def _start(start: Voxel, box: Sequence[slice], thinned: Voxel, shape: Sequence[int]) -> Voxel:
    x, y, z = (min((at - (part.start or 0)) // n, size - 1)
               for at, part, n, size in zip(start, box, thinned, shape, strict=True))
    return x, y, z

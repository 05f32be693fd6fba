"""Pictures of a scan: three planes with the outlines of structures, as radiologists look at them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from pipeline.imaging.intensities import samples_of
from pipeline.records.files import written_aside

# The longest side of the scan takes this many pixels; the planes share one scale.
LONGEST_SIDE_PIXELS = 384
GAP_PIXELS = 8
OUTLINE_PIXELS = 1
WINDOW_PERCENTILES = (0.5, 99.5)
# Voxels this near to the lowest value are air or padding and say nothing about contrast.
AIR_SHARE = 0.05
# A percentile needs no more voxels than this.
WINDOW_SAMPLES = 500_000

# Distinct on grey and for colour-blind eyes (Okabe and Ito 2008), in the order in which labels take them.
COLOURS: tuple[tuple[int, int, int], ...] = (
    (230, 159, 0), (86, 180, 233), (0, 200, 130), (240, 228, 66), (204, 121, 167), (213, 94, 0), (0, 114, 178),
)

Colour = tuple[int, int, int]
Voxel = tuple[int, int, int]


def in_ras_order(array: NDArray[np.generic], affine: NDArray[np.float64]) -> NDArray[np.generic]:
    """Returns a view of ``(x, y, z)`` flipped and transposed so that its axes run nearest to right, front and head."""
    return np.asarray(nib.orientations.apply_orientation(array, nib.orientations.io_orientation(affine)))


def voxel_in_ras_order(voxel: Sequence[int], shape: Sequence[int], affine: NDArray[np.float64]) -> Voxel:
    """Returns where `in_ras_order` puts a voxel of an array of `shape`."""
    moved = [0, 0, 0]
    for at, size, (axis, way) in zip(voxel, shape, nib.orientations.io_orientation(affine), strict=True):
        moved[int(axis)] = at if way > 0 else size - 1 - at
    return moved[0], moved[1], moved[2]


def spacing_in_ras_order(affine: NDArray[np.float64]) -> tuple[float, float, float]:
    """Returns the spacing in millimetres of the axes that `in_ras_order` makes."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    x, y, z = spacing[np.argsort(nib.orientations.io_orientation(affine)[:, 0])]
    return float(x), float(y), float(z)


def orientation_of(affine: NDArray[np.float64]) -> str:
    """Returns the nearest anatomical direction of each axis, for instance ``LPS``."""
    return "".join(str(letter) for letter in nib.orientations.aff2axcodes(affine))


def widest_section(mask: NDArray[np.bool_]) -> Voxel:
    """Returns for each axis the slice where the mask is largest; the middle of the volume if it is empty.

    The planes through this voxel each show the mask, though the voxel itself may lie outside it.
    """
    if not mask.any():
        return mask.shape[0] // 2, mask.shape[1] // 2, mask.shape[2] // 2
    x, y, z = (int(np.argmax(np.count_nonzero(mask, axis=others))) for others in ((1, 2), (0, 2), (0, 1)))
    return x, y, z


def draw_planes(
    image: NDArray[np.generic], spacing_mm: tuple[float, float, float], *,
    labelmap: NDArray[np.generic] | None = None, colours: Mapping[int, Colour] | None = None, centre: Voxel,
) -> NDArray[np.uint8]:
    """Draws the axial, coronal and sagittal plane through `centre` side by side; of a single slice only that one.

    The patient's right is at the left, the front at the top (sagittal: at the left), the head at the top. One
    millimetre takes the same number of pixels in every direction.

    Args:
        image: ``(x, y, z)`` in RAS order (`in_ras_order`), any intensities, or red, green and blue ``(3, x, y, z)``;
            windowed by percentiles, all channels alike.
        spacing_mm: along the same axes.
        labelmap: of the image's shape.
        colours: of the outline of each value in the label map; later ones are drawn over earlier ones.
        centre: the voxel that the planes share.

    Returns:
        ``(height, width, 3)`` RGB.
    """
    low, high = robust_window(image)
    shape = image.shape[-3:]
    scale = LONGEST_SIDE_PIXELS / max(n * mm for n, mm in zip(shape, spacing_mm, strict=True))
    panels = []
    for axis in _shown_axes(shape):
        height, width = _panel_size(shape, spacing_mm, axis, scale)
        levels = []
        for channel in image if image.ndim == 4 else [image]:
            plane = np.nan_to_num(np.asarray(_plane(channel, axis, centre), dtype=np.float32), nan=low)
            grey = _resized(np.clip((plane - low) / (high - low), 0, 1) * 255, height, width)
            levels.append(np.clip(np.rint(grey), 0, 255).astype(np.uint8))
        panel = np.stack(levels if len(levels) == 3 else levels * 3, axis=2)
        for value, colour in (colours or {}).items():
            if labelmap is not None:
                panel[_outline(_plane(labelmap, axis, centre) == value, height, width)] = colour
        panels.append(panel)
    return _side_by_side(panels)


def robust_window(image: NDArray[np.generic]) -> tuple[float, float]:
    """Returns the intensities to show as black and white: percentiles of what is not air or padding; high > low."""
    values = samples_of(image, WINDOW_SAMPLES).astype(np.float64)
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(values, WINDOW_PERCENTILES)
    tissue = values[values > low + AIR_SHARE * (high - low)]
    if tissue.size:
        low, high = np.percentile(tissue, WINDOW_PERCENTILES)
    if high <= low:  # a few voxels on an even ground
        low, high = values.min(), values.max()
    return float(low), float(high) if high > low else float(low) + 1.0


def write_png(path: Path, rgb: NDArray[np.uint8]) -> None:
    """Writes ``(height, width, 3)`` as PNG, atomically; the same picture gives the same bytes."""
    with written_aside(path) as aside:
        Image.fromarray(rgb).save(aside, format="PNG")


def _shown_axes(shape: tuple[int, ...]) -> list[int]:
    """Returns the axes to look along, axial first; of a single slice only the one it lies across."""
    single = [axis for axis in (2, 1, 0) if shape[axis] == 1]
    return single[:1] or [2, 1, 0]


def _plane(volume: NDArray[np.generic], axis: int, centre: Voxel) -> NDArray[np.generic]:
    """Returns ``(row, column)``: both remaining axes reversed, the later one as rows."""
    # Reversed, right comes left, front comes left or top, and head comes top.
    # A view: `take` would copy the whole volume where x is innermost.
    return np.asarray(np.moveaxis(volume, axis, 0)[centre[axis]][::-1, ::-1].T)


def _panel_size(shape: tuple[int, ...], spacing_mm: Sequence[float], axis: int, scale: float) -> tuple[int, int]:
    across, up = (other for other in range(3) if other != axis)
    return max(1, round(shape[up] * spacing_mm[up] * scale)), max(1, round(shape[across] * spacing_mm[across] * scale))


def _resized(plane: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    picture = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)


def _outline(mask: NDArray[np.bool_], height: int, width: int) -> NDArray[np.bool_]:
    """Returns the inner rim of the mask at the panel's resolution; a mask too small for a rim is drawn whole."""
    if not mask.any():
        return np.zeros((height, width), dtype=bool)
    picture = Image.fromarray(np.ascontiguousarray(mask, dtype=np.float32))
    smooth = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
    # Half of the highest coverage, so that specks survive when a large scan is drawn small.
    inside = smooth >= min(0.5, 0.5 * float(smooth.max()))
    return np.asarray(inside & ~ndimage.binary_erosion(inside, iterations=OUTLINE_PIXELS))


def _side_by_side(panels: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Returns the panels on black, centred vertically, with a gap between them."""
    height = max(panel.shape[0] for panel in panels)
    width = sum(panel.shape[1] for panel in panels) + GAP_PIXELS * (len(panels) - 1)
    canvas = np.zeros((height, width, 3), dtype=np.uint8)
    left = 0
    for panel in panels:
        top = (height - panel.shape[0]) // 2
        canvas[top : top + panel.shape[0], left : left + panel.shape[1]] = panel
        left += panel.shape[1] + GAP_PIXELS
    return canvas

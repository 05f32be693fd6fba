"""Distances between the surfaces of two masks: masks and spacing in, millimetres and shares out.

Masks are boolean arrays ``(x, y, z)`` of equal shape; spacing is in millimetres along the same axes. A 2D image has z
of 1 and is measured in its plane.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

# Distances are roots of sums of products: two voxels of 0.7 mm must lie within 1.4 mm wherever they are.
ROUNDING_MM = 1e-6

Mask = NDArray[np.bool_]
SpacingMm = tuple[float, float, float]


@dataclass(frozen=True)
class Surface:
    """The surface of a mask as small pieces: how large each is, and how far from the other mask's nearest piece.

    `areas` are in square millimetres, of a 2D image's outline in millimetres.
    """

    areas: NDArray[np.float64]
    distances_mm: NDArray[np.float64]


def hd95_mm(truth: Mask, prediction: Mask, *, spacing_mm: SpacingMm) -> float:
    """Returns the 95th percentile Hausdorff distance in millimetres; NaN where either mask is empty.

    Each direction's distances give a percentile (linear between ranks); the larger of the two counts.

    Source: Reinke et al., Understanding metric-related pitfalls in image analysis validation,
    doi:10.1038/s41592-023-02150-0.

    Raises:
        ValueError: the masks differ in shape.
    """
    refuse_other_shape(truth, prediction)
    if not truth.any() or not prediction.any():
        return float("nan")
    truth_to_prediction, prediction_to_truth = surface_distances_mm(truth, prediction, spacing_mm=spacing_mm)
    return float(max(np.percentile(truth_to_prediction, 95), np.percentile(prediction_to_truth, 95)))


def nsd(truth: Surface, prediction: Surface, *, tolerance_mm: float) -> float:
    """Returns the normalised surface Dice: the share of both surfaces' area within the tolerance of the other.

    Source: Nikolov et al., Clinically applicable segmentation of head and neck anatomy for radiotherapy,
    doi:10.2196/26151.
    """
    right = sum(float(one.areas[one.distances_mm <= tolerance_mm + ROUNDING_MM].sum()) for one in (truth, prediction))
    return right / float(truth.areas.sum() + prediction.areas.sum())


def assd_mm(truth: Surface, prediction: Surface) -> float:
    """Returns the average symmetric surface distance in millimetres: the mean over the area of both surfaces.

    Source: Heimann et al., Comparison and evaluation of methods for liver segmentation from CT datasets,
    doi:10.1109/TMI.2009.2013851; areas as in `nsd`.
    """
    weighted = sum(float((one.areas * one.distances_mm).sum()) for one in (truth, prediction))
    return weighted / float(truth.areas.sum() + prediction.areas.sum())


def surfaces_of(truth: Mask, prediction: Mask, *, spacing_mm: SpacingMm) -> tuple[Surface, Surface]:
    """Returns the surfaces of truth and prediction, each with its distances to the other.

    A piece of surface lies where eight voxels meet (four pixels in 2D) that are not all inside or all outside; its area
    is that of the marching cubes between them. Voxels count by area so, whatever their spacing along each axis; beyond
    the array's border is outside.

    Raises:
        ValueError: a mask is empty, or the masks differ in shape.
    """
    axes = 2 if truth.shape[2] == 1 else 3
    (true_points, true_areas), (points, areas) = (
        _pieces(mask.reshape(mask.shape[:axes]), spacing_mm[:axes]) for mask in _cropped(truth, prediction))
    return Surface(true_areas, _nearest_mm(true_points, points)), Surface(areas, _nearest_mm(points, true_points))


def surface_distances_mm(
    truth: Mask, prediction: Mask, *, spacing_mm: SpacingMm
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the distances from truth to prediction and from prediction to truth, one per surface voxel.

    The surface of a mask is its voxels with a face neighbour outside it; beyond the array's border is outside, except
    along an axis of one voxel, which has no neighbours. Distances run between voxel centres.

    Raises:
        ValueError: a mask is empty, or the masks differ in shape.
    """
    faces = _face_neighbours(truth.shape)
    truth_surface, prediction_surface = (np.argwhere(_surface(mask, faces)) * np.asarray(spacing_mm)
                                         for mask in _cropped(truth, prediction))
    return _nearest_mm(truth_surface, prediction_surface), _nearest_mm(prediction_surface, truth_surface)


def refuse_other_shape(truth: Mask, prediction: Mask) -> None:
    """Raises `ValueError` where the masks differ in shape."""
    if truth.shape != prediction.shape:
        raise ValueError(f"truth has shape {truth.shape}, prediction {prediction.shape}; they must be on one grid")


def bounding_box(mask: Mask) -> tuple[slice, ...] | None:
    """Returns the smallest box around the mask's voxels, None where it has none."""
    boxes = ndimage.find_objects(mask.view(np.uint8))
    return boxes[0] if boxes else None


def _cropped(truth: Mask, prediction: Mask) -> tuple[Mask, Mask]:
    """Returns both masks in the box around them."""
    refuse_other_shape(truth, prediction)
    box = bounding_box(truth | prediction)
    if box is None or not truth.any() or not prediction.any():
        raise ValueError("a mask without voxels has no surface")
    return truth[box], prediction[box]


def _face_neighbours(shape: tuple[int, ...]) -> Mask:
    """Returns the structuring element that reaches over faces, and not along axes of one voxel."""
    faces = ndimage.generate_binary_structure(len(shape), 1)
    for axis, length in enumerate(shape):
        if length == 1:
            faces = faces.take([1], axis=axis)
    return np.asarray(faces)


def _surface(mask: Mask, faces: Mask) -> Mask:
    return np.asarray(mask & ~ndimage.binary_erosion(mask, faces, border_value=0))


def _pieces(mask: Mask, spacing_mm: tuple[float, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns where the surface's pieces lie ``(count, axes)``, in millimetres, and their areas."""
    inside = np.pad(mask, 1).view(np.uint8)
    corners = list(product((slice(None, -1), slice(1, None)), repeat=mask.ndim))
    codes = np.zeros([size - 1 for size in inside.shape], dtype=np.uint8)
    # The first corner has the highest bit, as in the tables.
    for corner in corners:
        codes <<= 1
        codes |= inside[corner]
    surface = (codes > 0) & (codes < 2 ** len(corners) - 1)
    return np.argwhere(surface) * np.asarray(spacing_mm), _areas_by_code(spacing_mm)[codes[surface]]


@lru_cache(maxsize=64)
def _areas_by_code(spacing_mm: tuple[float, ...]) -> NDArray[np.float64]:
    """Returns the area for each pattern of corners inside: of marching cubes in 3D, the contour's length in 2D."""
    from monai.metrics.utils import (  # seconds, which a mistake in evaluation.yaml need not wait for
        create_table_neighbour_code_to_contour_length,
        create_table_neighbour_code_to_surface_area,
    )

    table, _ = create_table_neighbour_code_to_contour_length(spacing_mm) if len(spacing_mm) == 2 else \
        create_table_neighbour_code_to_surface_area(spacing_mm)
    return np.asarray(table, dtype=np.float64)


def _nearest_mm(points: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the distance from each point ``(count, axes)`` to the nearest of the others.

    By a tree of the surfaces' points alone: maps of the distances in the box around them take longer.
    """
    # Points of a grid share coordinates, which a balanced tree is slow to halve.
    tree = KDTree(others, balanced_tree=False, compact_nodes=False)
    return np.asarray(tree.query(points, workers=-1)[0])

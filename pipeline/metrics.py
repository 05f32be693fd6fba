"""Scores of a segmentation against the truth: arrays and spacing in, numbers out.

Masks are boolean arrays ``(x, y, z)`` of equal shape, one label each; spacing is in millimetres along the same axes. A
2D image has z of 1 and is measured in its plane. What is undefined is NaN, never a made-up number: docs/adr/0001.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.records.tables import Status

Mask = NDArray[np.bool_]
SpacingMm = tuple[float, float, float]


@dataclass(frozen=True)
class LabelScores:
    """How well one label of one scan was found.

    `dice`, `recall` and `precision` run from 0 to 1. `false_positive_components` counts the connected components of
    the prediction that touch no voxel of the truth. `status` says which of the two masks were empty.
    """

    dice: float
    recall: float
    precision: float
    hd95_mm: float
    truth_ml: float
    prediction_ml: float
    false_positive_components: int
    status: Status


@dataclass(frozen=True)
class Lesion:
    """One connected component of the truth.

    `position` is its voxel nearest to its centre of mass, so it lies inside even where the lesion is a crescent.
    `diameter_mm` is that of the sphere of equal volume; for a 2D image, of the circle of equal area. It is found where
    the prediction of the same label covers at least one of its voxels.
    """

    volume_ml: float
    diameter_mm: float
    position: tuple[int, int, int]
    is_found: bool


def score_label(truth: Mask, prediction: Mask, *, spacing_mm: SpacingMm) -> LabelScores:
    """Returns all scores of one label.

    Both masks empty: everything but the volumes is NaN. Truth alone empty: Dice and precision 0, recall NaN.
    Prediction alone empty: Dice and recall 0, precision NaN. HD95 is NaN unless both have voxels.

    Raises:
        ValueError: the masks differ in shape.
    """
    _refuse_other_shape(truth, prediction)
    in_truth, in_prediction = int(np.count_nonzero(truth)), int(np.count_nonzero(prediction))
    in_both = int(np.count_nonzero(truth & prediction))
    voxel_ml = float(np.prod(spacing_mm)) / 1000.0
    return LabelScores(
        dice=_ratio(2 * in_both, in_truth + in_prediction),
        recall=_ratio(in_both, in_truth),
        precision=_ratio(in_both, in_prediction),
        hd95_mm=hd95_mm(truth, prediction, spacing_mm=spacing_mm),
        truth_ml=in_truth * voxel_ml,
        prediction_ml=in_prediction * voxel_ml,
        false_positive_components=sum(not is_hit for _, is_hit in _components(prediction, hit_by=truth)),
        status=_status(in_truth > 0, in_prediction > 0),
    )


def hd95_mm(truth: Mask, prediction: Mask, *, spacing_mm: SpacingMm) -> float:
    """Returns the 95th percentile Hausdorff distance in millimetres; NaN where either mask is empty.

    Each direction's distances give a percentile (linear between ranks); the larger of the two counts.

    Source: Reinke et al., Understanding metric-related pitfalls in image analysis validation,
    doi:10.1038/s41592-023-02150-0.
    """
    _refuse_other_shape(truth, prediction)
    if not truth.any() or not prediction.any():
        return float("nan")
    truth_to_prediction, prediction_to_truth = surface_distances_mm(truth, prediction, spacing_mm=spacing_mm)
    return float(max(np.percentile(truth_to_prediction, 95), np.percentile(prediction_to_truth, 95)))


def surface_distances_mm(
    truth: Mask, prediction: Mask, *, spacing_mm: SpacingMm
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the distances from truth to prediction and from prediction to truth, one per surface voxel.

    The surface of a mask is its voxels with a face neighbour outside it; beyond the array's border is outside, except
    along an axis of one voxel, which has no neighbours. Distances run between voxel centres.

    Raises:
        ValueError: a mask is empty.
    """
    box = _bounding_box(truth | prediction)
    if box is None or not truth.any() or not prediction.any():
        raise ValueError("a mask without voxels has no surface")
    faces = _face_neighbours(truth.shape)
    truth_surface, prediction_surface = _surface(truth[box], faces), _surface(prediction[box], faces)
    return (_distances_mm(truth_surface, prediction_surface, spacing_mm),
            _distances_mm(prediction_surface, truth_surface, spacing_mm))


def find_lesions(truth: Mask, prediction: Mask, *, spacing_mm: SpacingMm) -> tuple[Lesion, ...]:
    """Returns the lesions of the truth in scan order, each found or missed by the prediction.

    A lesion is a component connected by faces, edges or corners (26 neighbours; 8 in a 2D image).

    Raises:
        ValueError: the masks differ in shape.
    """
    _refuse_other_shape(truth, prediction)
    is_flat = truth.shape[2] == 1
    return tuple(_lesion(voxels, spacing_mm, is_found=is_hit, is_flat=is_flat)
                 for voxels, is_hit in _components(truth, hit_by=prediction))


def size_class(diameter_mm: float, edges_mm: tuple[float, ...]) -> str:
    """Returns the name of the size class, ``3-6 mm`` for 3 <= diameter < 6; open classes lie beyond the edges."""
    if diameter_mm < edges_mm[0]:
        return f"under {edges_mm[0]:g} mm"
    for lower, upper in pairwise(edges_mm):
        if diameter_mm < upper:
            return f"{lower:g}-{upper:g} mm"
    return f"{edges_mm[-1]:g} mm or more"


def size_classes(edges_mm: tuple[float, ...]) -> tuple[str, ...]:
    """Returns the names of all size classes, smallest first, the open ones at both ends included."""
    return tuple(size_class(diameter, edges_mm) for diameter in (-np.inf, *edges_mm))


def _lesion(voxels: NDArray[np.int64], spacing_mm: SpacingMm, *, is_found: bool, is_flat: bool) -> Lesion:
    x_mm, y_mm, z_mm = spacing_mm
    volume_mm3 = len(voxels) * x_mm * y_mm * z_mm
    circle_mm = 2.0 * np.sqrt(len(voxels) * x_mm * y_mm / np.pi)
    sphere_mm = np.cbrt(6.0 * volume_mm3 / np.pi)
    off_centre_mm = np.linalg.norm((voxels - voxels.mean(axis=0)) * spacing_mm, axis=1)
    x, y, z = voxels[int(off_centre_mm.argmin())]
    return Lesion(volume_ml=volume_mm3 / 1000.0, diameter_mm=float(circle_mm if is_flat else sphere_mm),
                  position=(int(x), int(y), int(z)), is_found=is_found)


def _components(mask: Mask, *, hit_by: Mask) -> Iterator[tuple[NDArray[np.int64], bool]]:
    """Yields each component's voxels ``(count, 3)`` and whether `hit_by` covers one of them.

    Voxels belong together where they share a face, an edge or a corner.
    """
    box = _bounding_box(mask)
    if box is None:
        return
    components, count = ndimage.label(mask[box], structure=np.ones((3,) * mask.ndim))
    is_hit = np.bincount(components[hit_by[box]], minlength=count + 1) > 0
    corner = _corner(box)
    for number, part in enumerate(ndimage.find_objects(components), start=1):
        voxels = np.argwhere(components[part] == number) + _corner(part) + corner
        yield voxels, bool(is_hit[number])


def _face_neighbours(shape: tuple[int, ...]) -> Mask:
    """Returns the structuring element that reaches over faces, and not along axes of one voxel."""
    faces = ndimage.generate_binary_structure(len(shape), 1)
    for axis, length in enumerate(shape):
        if length == 1:
            faces = faces.take([1], axis=axis)
    return np.asarray(faces)


def _surface(mask: Mask, faces: Mask) -> Mask:
    return np.asarray(mask & ~ndimage.binary_erosion(mask, faces, border_value=0))


def _distances_mm(from_voxels: Mask, to_voxels: Mask, spacing_mm: SpacingMm) -> NDArray[np.float64]:
    """Returns the distance from each voxel of one mask to the nearest of the other, in scan order."""
    # Only the nearest voxels are kept: distances of the whole box would cost twice the memory.
    nearest = ndimage.distance_transform_edt(~to_voxels, sampling=spacing_mm, return_distances=False,
                                             return_indices=True)
    offsets = nearest[:, from_voxels].T - np.argwhere(from_voxels)
    return np.asarray(np.linalg.norm(offsets * np.asarray(spacing_mm), axis=1))


def _bounding_box(mask: Mask) -> tuple[slice, ...] | None:
    """Returns the smallest box around the mask's voxels, None where it has none."""
    boxes = ndimage.find_objects(mask.view(np.uint8))
    return boxes[0] if boxes else None


def _corner(box: tuple[slice, ...]) -> NDArray[np.int64]:
    return np.array([side.start for side in box], dtype=np.int64)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _status(has_truth: bool, has_prediction: bool) -> Status:
    if has_truth:
        return "scored" if has_prediction else "prediction empty"
    return "truth empty" if has_prediction else "both empty"


def _refuse_other_shape(truth: Mask, prediction: Mask) -> None:
    if truth.shape != prediction.shape:
        raise ValueError(f"truth has shape {truth.shape}, prediction {prediction.shape}; they must be on one grid")

"""Scores of a segmentation against the truth: arrays and spacing in, numbers out.

Masks are boolean arrays ``(x, y, z)`` of equal shape, one label each; spacing is in millimetres along the same axes. A
2D image has z of 1 and is measured in its plane. What is undefined is NaN, never a made-up number: docs/adr/0001.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.records.settings import DEFAULT_TOLERANCE_MM
from pipeline.records.tables import Status
from pipeline.surfaces import (
    Mask,
    SpacingMm,
    assd_mm,
    bounding_box,
    hd95_mm,
    nsd,
    refuse_other_shape,
    surfaces_of,
)


@dataclass(frozen=True)
class LabelScores:
    """How well one label of one scan was found.

    `dice`, `iou`, `recall`, `precision`, `specificity` and `nsd` run from 0 to 1. `volume_error` is the predicted
    volume over the true one, minus 1. `false_positive_components` counts those of the `prediction_components`, its
    connected components, that touch no voxel of the truth. `status` says which of the two masks were empty.
    """

    dice: float
    iou: float
    recall: float
    precision: float
    specificity: float
    hd95_mm: float
    assd_mm: float
    nsd: float
    truth_ml: float
    prediction_ml: float
    volume_error: float
    prediction_components: int
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


def score_label(truth: Mask, prediction: Mask, *, spacing_mm: SpacingMm,
                tolerance_mm: float = DEFAULT_TOLERANCE_MM) -> LabelScores:
    """Returns all scores of one label.

    Both masks empty: everything but the volumes and specificity is NaN. Truth alone empty: Dice, IoU, NSD and precision
    0, recall and volume error NaN. Prediction alone empty: Dice, IoU, NSD and recall 0, precision NaN. Distances are
    NaN unless both have voxels, specificity where no voxel is outside of the truth.

    Args:
        truth, prediction: ``(x, y, z)``.
        spacing_mm: along x, y and z.
        tolerance_mm: distance up to which a piece of surface counts as right, see `nsd`.

    Raises:
        ValueError: the masks differ in shape.
    """
    refuse_other_shape(truth, prediction)
    in_truth, in_prediction = int(np.count_nonzero(truth)), int(np.count_nonzero(prediction))
    in_both = int(np.count_nonzero(truth & prediction))
    in_neither = truth.size - in_truth - in_prediction + in_both
    voxel_ml = float(np.prod(spacing_mm)) / 1000.0
    hits = [is_hit for _, is_hit in _components(prediction, hit_by=truth)]
    surfaces = surfaces_of(truth, prediction, spacing_mm=spacing_mm) if in_truth and in_prediction else None
    return LabelScores(
        dice=_ratio(2 * in_both, in_truth + in_prediction),
        iou=_ratio(in_both, in_truth + in_prediction - in_both),
        recall=_ratio(in_both, in_truth),
        precision=_ratio(in_both, in_prediction),
        specificity=_ratio(in_neither, truth.size - in_truth),
        hd95_mm=hd95_mm(truth, prediction, spacing_mm=spacing_mm),
        assd_mm=assd_mm(*surfaces) if surfaces else float("nan"),
        nsd=nsd(*surfaces, tolerance_mm=tolerance_mm) if surfaces else _ratio(0, in_truth + in_prediction),
        truth_ml=in_truth * voxel_ml,
        prediction_ml=in_prediction * voxel_ml,
        volume_error=_ratio(in_prediction - in_truth, in_truth),
        prediction_components=len(hits),
        false_positive_components=hits.count(False),
        status=_status(in_truth > 0, in_prediction > 0),
    )


def find_lesions(truth: Mask, prediction: Mask, *, spacing_mm: SpacingMm) -> tuple[Lesion, ...]:
    """Returns the lesions of the truth in scan order, each found or missed by the prediction.

    A lesion is a component connected by faces, edges or corners (26 neighbours; 8 in a 2D image).

    Raises:
        ValueError: the masks differ in shape.
    """
    refuse_other_shape(truth, prediction)
    is_flat = truth.shape[2] == 1
    return tuple(_lesion(voxels, spacing_mm, is_found=is_hit, is_flat=is_flat)
                 for voxels, is_hit in _components(truth, hit_by=prediction))


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
    box = bounding_box(mask)
    if box is None:
        return
    components, count = ndimage.label(mask[box], structure=np.ones((3,) * mask.ndim))
    is_hit = np.bincount(components[hit_by[box]], minlength=count + 1) > 0
    corner = _corner(box)
    for number, part in enumerate(ndimage.find_objects(components), start=1):
        voxels = np.argwhere(components[part] == number) + _corner(part) + corner
        yield voxels, bool(is_hit[number])


def _corner(box: tuple[slice, ...]) -> NDArray[np.int64]:
    return np.array([side.start for side in box], dtype=np.int64)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _status(has_truth: bool, has_prediction: bool) -> Status:
    if has_truth:
        return "scored" if has_prediction else "prediction empty"
    return "truth empty" if has_prediction else "both empty"

"""Metrics against numbers worked out by hand, and against SimpleITK where numbers are many."""

import math

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813  (its own name)
import surface_distance
from scipy.ndimage import gaussian_filter

from pipeline.metrics import find_lesions, score_label
from pipeline.surfaces import hd95_mm, surface_distances_mm, surfaces_of

SHAPE = (12, 10, 8)
UNIT_MM = (1.0, 1.0, 1.0)


def box(x: slice, y: slice, z: slice, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Returns a mask that is true in one box."""
    mask = np.zeros(shape, dtype=bool)
    mask[x, y, z] = True
    return mask


def cube(first: int) -> np.ndarray:
    """Returns a cube of 3x3x3 voxels from `first` along x."""
    return box(slice(first, first + 3), slice(2, 5), slice(2, 5))


EMPTY = np.zeros(SHAPE, dtype=bool)


def test_two_cubes_one_voxel_apart() -> None:
    # Two of three layers overlap, 18 of 27 voxels on both sides; the far layers lie one voxel from the other surface.
    scores = score_label(cube(2), cube(3), spacing_mm=(1.0, 2.0, 5.0))
    assert scores.dice == pytest.approx(36 / 54)
    assert scores.recall == pytest.approx(18 / 27)
    assert scores.precision == pytest.approx(18 / 27)
    assert scores.hd95_mm == pytest.approx(1.0)
    assert scores.iou == pytest.approx(18 / 36)
    # 9 of the 960 - 27 voxels outside of the truth are predicted.
    assert scores.specificity == pytest.approx(924 / 933)
    assert (scores.truth_ml, scores.volume_error) == (pytest.approx(27 * 10 / 1000), 0.0)
    assert (scores.prediction_components, scores.status) == (1, "scored")


@pytest.mark.parametrize("depth", [8, 1], ids=["3d", "2d"])
@pytest.mark.parametrize(("tolerance_mm", "expected"), [(1.9, 0.5), (2.0, 1.0)])
def test_surfaces_of_two_voxels_side_by_side(depth: int, tolerance_mm: float, expected: float) -> None:
    # Each has equal pieces of surface at its corners, at x of 0 and 2 mm and of 2 and 4 mm: half of them touch the
    # other's, half are 2 mm away.
    shape = (12, 10, depth)
    here, there = (box(slice(first, first + 1), slice(4, 5), slice(0, 1), shape) for first in (5, 6))
    scores = score_label(here, there, spacing_mm=(2.0, 1.0, 3.0), tolerance_mm=tolerance_mm)
    assert (scores.assd_mm, scores.nsd) == (pytest.approx(1.0), pytest.approx(expected))


def test_what_lies_in_one_slice_of_a_volume_is_measured_in_three_dimensions() -> None:
    plate, hole = box(slice(2, 7), slice(2, 7), slice(3, 4)), box(slice(3, 6), slice(3, 6), slice(3, 4))
    # Every voxel of a plate is surface, 25 of them, also those in the middle, 2 mm from the frame.
    distances, _ = surface_distances_mm(plate, plate & ~hole, spacing_mm=UNIT_MM)
    assert (len(distances), distances.max()) == (25, 2.0)
    scores = score_label(plate, plate & ~hole, spacing_mm=UNIT_MM, tolerance_mm=0.5)
    theirs = surface_distance.compute_surface_distances(plate, plate & ~hole, UNIT_MM)
    assert scores.nsd == pytest.approx(surface_distance.compute_surface_dice_at_tolerance(theirs, 0.5), rel=1e-6)
    assert scores.hd95_mm == pytest.approx(1.0)


def test_the_tolerance_includes_its_end_wherever_the_voxels_lie() -> None:
    # Pairs of voxels of 0.7 mm, two apart and far from other pairs: surfaces 0.7 and 1.4 mm from each other, which
    # as differences of products are a little more than 1.4 at some places, such as 5 x 0.7 - 3 x 0.7.
    truth, prediction = np.zeros((12, 36, 3), dtype=bool), np.zeros((12, 36, 3), dtype=bool)
    for first in range(9):
        truth[first, 4 * first, 1] = prediction[first + 2, 4 * first, 1] = True
    assert score_label(truth, prediction, spacing_mm=(0.7, 0.7, 0.7), tolerance_mm=1.4).nsd == 1.0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [(17, 14, 11), (19, 16, 1)], ids=["3d", "2d"])
@pytest.mark.parametrize("spacing_mm", [UNIT_MM, (0.7, 1.3, 2.9)], ids=["even", "anisotropic"])
def test_surface_scores_agree_with_the_surface_distance_package(
    seed: int, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]
) -> None:
    truth, prediction = blob(seed, shape), blob(seed + 100, shape)
    scores = score_label(truth, prediction, spacing_mm=spacing_mm, tolerance_mm=1.0)
    flat = shape[2] == 1
    theirs = surface_distance.compute_surface_distances(
        *(mask[..., 0] if flat else mask for mask in (truth, prediction)), spacing_mm[: 2 if flat else 3])
    assert scores.nsd == pytest.approx(surface_distance.compute_surface_dice_at_tolerance(theirs, 1.0), rel=1e-6)
    means = surface_distance.compute_average_surface_distance(theirs)
    areas = [theirs[f"surfel_areas_{side}"].sum() for side in ("gt", "pred")]
    assert scores.assd_mm == pytest.approx(np.average(means, weights=areas), rel=1e-6)


@pytest.mark.parametrize(("axis", "expected_mm"), [(0, 0.5), (1, 2.0), (2, 5.0)])
def test_a_shift_of_one_voxel_costs_that_axis_spacing(axis: int, expected_mm: float) -> None:
    assert hd95_mm(cube(3), np.roll(cube(3), 1, axis=axis), spacing_mm=(0.5, 2.0, 5.0)) == pytest.approx(expected_mm)


def test_recall_and_precision_are_not_exchanged() -> None:
    scores = score_label(box(slice(0, 2), slice(0, 1), slice(0, 1)), box(slice(0, 8), slice(0, 1), slice(0, 1)),
                         spacing_mm=UNIT_MM)
    assert (scores.recall, scores.precision, scores.dice) == (1.0, 0.25, pytest.approx(4 / 10))


def test_hd95_takes_the_larger_direction() -> None:
    # From the point to the line: 0. From the line's 11 voxels to the point: 0 to 10 mm, of which the 95th percentile
    # lies half way between ranks 9 and 10.
    point, line = box(slice(0, 1), slice(0, 1), slice(0, 1)), box(slice(0, 11), slice(0, 1), slice(0, 1))
    assert hd95_mm(point, line, spacing_mm=UNIT_MM) == pytest.approx(9.5)
    assert hd95_mm(line, point, spacing_mm=UNIT_MM) == pytest.approx(9.5)


def test_equal_masks_are_perfect() -> None:
    scores = score_label(cube(2), cube(2), spacing_mm=UNIT_MM)
    assert (scores.dice, scores.recall, scores.precision, scores.hd95_mm) == (1.0, 1.0, 1.0, 0.0)
    assert (scores.iou, scores.specificity, scores.assd_mm, scores.nsd) == (1.0, 1.0, 0.0, 1.0)


def test_both_empty_has_no_score() -> None:
    scores = score_label(EMPTY, EMPTY, spacing_mm=UNIT_MM)
    undefined = ("dice", "iou", "recall", "precision", "hd95_mm", "assd_mm", "nsd", "volume_error")
    assert all(math.isnan(getattr(scores, name)) for name in undefined)
    assert (scores.specificity, scores.prediction_components) == (1.0, 0)
    assert (scores.truth_ml, scores.prediction_ml, scores.status) == (0.0, 0.0, "both empty")


def test_prediction_where_truth_is_empty_is_zero_with_its_volume() -> None:
    scores = score_label(EMPTY, cube(2), spacing_mm=(1.0, 1.0, 2.0))
    assert (scores.dice, scores.iou, scores.precision, scores.nsd, scores.status) == (0.0, 0.0, 0.0, 0.0, "truth empty")
    assert all(math.isnan(getattr(scores, name)) for name in ("recall", "hd95_mm", "assd_mm", "volume_error"))
    assert scores.specificity == pytest.approx(933 / 960)
    assert (scores.prediction_ml, scores.false_positive_components) == (pytest.approx(0.054), 1)


def test_no_prediction_where_there_is_truth_is_zero() -> None:
    scores = score_label(cube(2), EMPTY, spacing_mm=UNIT_MM)
    assert (scores.dice, scores.iou, scores.recall, scores.nsd, scores.volume_error) == (0.0, 0.0, 0.0, 0.0, -1.0)
    assert all(math.isnan(getattr(scores, name)) for name in ("precision", "hd95_mm", "assd_mm"))
    assert scores.status == "prediction empty"


def test_nothing_outside_of_the_truth_has_no_specificity() -> None:
    assert math.isnan(score_label(~EMPTY, cube(2), spacing_mm=UNIT_MM).specificity)


def test_a_2d_image_is_measured_in_its_plane() -> None:
    # Two discs of one square in the other: all inner voxels would be surface if the missing third axis counted.
    flat = (9, 9, 1)
    outer, inner = box(slice(0, 9), slice(0, 9), slice(0, 1), flat), box(slice(3, 6), slice(3, 6), slice(0, 1), flat)
    to_prediction, to_truth = surface_distances_mm(outer, inner, spacing_mm=(1.0, 1.0, 100.0))
    assert (len(to_prediction), len(to_truth)) == (32, 8)
    # Corner to corner: 3 voxels along both axes. From inside the way to the border is 3.
    assert to_prediction.max() == pytest.approx(3 * math.sqrt(2))
    assert to_truth.max() == pytest.approx(3.0)


def test_surface_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no surface"):
        surface_distances_mm(EMPTY, cube(2), spacing_mm=UNIT_MM)


def test_masks_of_another_grid_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(12, 10, 8\).*\(12, 10, 7\)"):
        score_label(EMPTY, EMPTY[..., :7], spacing_mm=UNIT_MM)
    # One slice would be stretched over all of them.
    for measure in (surfaces_of, surface_distances_mm, hd95_mm):
        with pytest.raises(ValueError, match="one grid"):
            measure(cube(2), cube(2)[..., 2:3], spacing_mm=UNIT_MM)


def blob(seed: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Returns a ragged random mask with several parts and holes."""
    noise = np.random.default_rng(seed).random(shape)
    return gaussian_filter(noise, [1.5 if length > 1 else 0 for length in shape]) > 0.52


def as_itk(mask: np.ndarray, spacing_mm: tuple[float, float, float]) -> sitk.Image:
    """Returns the mask as an ITK image with a border of background; 2D where z is 1."""
    array = mask[..., 0] if mask.shape[2] == 1 else mask
    image = sitk.GetImageFromArray(np.pad(array, 1).astype(np.uint8).T)
    image.SetSpacing(spacing_mm[: array.ndim])
    return image


def itk_hd95_mm(truth: sitk.Image, prediction: sitk.Image) -> float:
    """Returns HD95 by ITK's contours and Maurer distance maps."""
    contours = [sitk.LabelContour(image, fullyConnected=False) for image in (truth, prediction)]
    voxels = [sitk.GetArrayFromImage(contour) > 0 for contour in contours]
    maps = [np.abs(sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(contour, squaredDistance=False,
                                                                       useImageSpacing=True))) for contour in contours]
    for distances, own in zip(maps, voxels, strict=True):
        distances[own] = 0.0
    return max(np.percentile(maps[1][voxels[0]], 95), np.percentile(maps[0][voxels[1]], 95))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [(17, 14, 11), (19, 16, 1)], ids=["3d", "2d"])
def test_scores_agree_with_simpleitk(seed: int, shape: tuple[int, int, int]) -> None:
    spacing_mm = (0.7, 1.3, 2.9)
    truth, prediction = blob(seed, shape), blob(seed + 100, shape)
    scores = score_label(truth, prediction, spacing_mm=spacing_mm)
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    # ITK calls them source and target; its errors are those of the source.
    overlap.Execute(as_itk(prediction, spacing_mm), as_itk(truth, spacing_mm))
    assert scores.dice == pytest.approx(overlap.GetDiceCoefficient())
    assert scores.iou == pytest.approx(overlap.GetJaccardCoefficient())
    # ITK's border of background counts as right here.
    border = as_itk(truth, spacing_mm).GetNumberOfPixels() - truth.size
    false_positive = 1 - scores.specificity
    assert false_positive * (truth.size - truth.sum()) / (truth.size - truth.sum() + border) == pytest.approx(
        overlap.GetFalsePositiveError())
    assert 1 - scores.recall == pytest.approx(overlap.GetFalseNegativeError())
    assert 1 - scores.precision == pytest.approx(overlap.GetFalseDiscoveryRate())
    expected_mm = itk_hd95_mm(as_itk(truth, spacing_mm), as_itk(prediction, spacing_mm))
    assert scores.hd95_mm == pytest.approx(expected_mm, rel=1e-4)


def test_largest_distance_of_disjoint_boxes_agrees_with_simpleitk() -> None:
    spacing_mm = (0.7, 1.3, 2.9)
    truth, prediction = box(slice(0, 4), slice(1, 3), slice(0, 2)), box(slice(6, 11), slice(4, 9), slice(5, 7))
    hausdorff = sitk.HausdorffDistanceImageFilter()
    hausdorff.Execute(as_itk(truth, spacing_mm), as_itk(prediction, spacing_mm))
    both = surface_distances_mm(truth, prediction, spacing_mm=spacing_mm)
    assert max(both[0].max(), both[1].max()) == pytest.approx(hausdorff.GetHausdorffDistance(), rel=1e-5)


def test_a_lesion_is_found_when_one_voxel_of_it_is_covered() -> None:
    truth = cube(0) | cube(5)
    truth[11, 9, 7] = True
    one_voxel = box(slice(7, 8), slice(4, 5), slice(4, 5))
    lesions = find_lesions(truth, one_voxel, spacing_mm=(1.0, 1.0, 2.0))
    assert [lesion.is_found for lesion in lesions] == [False, True, False]
    assert [lesion.position for lesion in lesions] == [(1, 3, 3), (6, 3, 3), (11, 9, 7)]
    # 27 voxels of 2 mm³: 54 mm³ is a sphere of (6 * 54 / pi) ** (1/3) = 4.690 mm.
    assert lesions[0].volume_ml == pytest.approx(0.054)
    assert lesions[0].diameter_mm == pytest.approx(4.690, abs=1e-3)


def test_lesions_that_share_a_corner_are_one() -> None:
    truth = EMPTY.copy()
    truth[2, 2, 2] = truth[3, 3, 3] = True
    assert len(find_lesions(truth, EMPTY, spacing_mm=UNIT_MM)) == 1
    truth[3, 3, 3], truth[4, 4, 4] = False, True
    assert len(find_lesions(truth, EMPTY, spacing_mm=UNIT_MM)) == 2


def test_the_position_of_a_ring_lies_on_it() -> None:
    ring = box(slice(2, 7), slice(2, 7), slice(3, 4)) & ~box(slice(3, 6), slice(3, 6), slice(3, 4))
    (lesion,) = find_lesions(ring, EMPTY, spacing_mm=UNIT_MM)
    assert ring[lesion.position]


def test_a_2d_lesion_has_the_diameter_of_a_circle() -> None:
    flat = (9, 9, 1)
    (lesion,) = find_lesions(box(slice(0, 4), slice(0, 5), slice(0, 1), flat), np.zeros(flat, dtype=bool),
                             spacing_mm=(0.5, 0.5, 1.0))
    # 20 pixels of 0.25 mm²: 5 mm² is a circle of 2 * sqrt(5 / pi) = 2.523 mm.
    assert lesion.diameter_mm == pytest.approx(2.523, abs=1e-3)


def test_false_positive_components_are_those_that_touch_no_truth() -> None:
    prediction = cube(0) | cube(5)
    prediction[11, 9, 7] = True
    assert score_label(cube(1), prediction, spacing_mm=UNIT_MM).false_positive_components == 2
    assert find_lesions(EMPTY, prediction, spacing_mm=UNIT_MM) == ()

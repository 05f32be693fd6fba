"""Pictures of truth and prediction: the right colours at the right place, the right plane."""

from pathlib import Path

import numpy as np
import pytest
from tiny_msd import write_scan

from pipeline.imaging.comparisons import (
    AGREEMENT,
    PREDICTION,
    TRUTH,
    Comparison,
    draw_comparison,
    read_comparison,
)

SHAPE = (16, 12, 8)
AFFINE = np.eye(4)


def comparison(truth: np.ndarray, prediction: np.ndarray) -> Comparison:
    """Returns one on an image without structure."""
    return Comparison(np.full(truth.shape, 50, dtype=np.float32), truth.astype(np.int16), prediction.astype(np.int16),
                      AFFINE)


def box(first: int, last: int) -> np.ndarray:
    """Returns a label map with a box that runs from `first` to before `last` along x."""
    array = np.zeros(SHAPE, dtype=np.int16)
    array[first:last, 3:9, 2:6] = 1
    return array


def pixels(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    """Returns how many pixels have the colour."""
    return int((picture == colour).all(axis=2).sum())


def test_equal_masks_show_agreement_alone() -> None:
    picture = draw_comparison(comparison(box(4, 10), box(4, 10)), (6, 5, 3))
    assert pixels(picture, AGREEMENT) > 0
    assert pixels(picture, TRUTH) == pixels(picture, PREDICTION) == 0


def test_truth_and_prediction_have_their_own_side() -> None:
    # Right (higher x) is at the left of the axial panel, the first one: 384 pixels for 16 voxels.
    picture = draw_comparison(comparison(box(10, 13), box(2, 5)), (11, 5, 3))
    axial = picture[:, :384]
    truth, prediction = ((axial == colour).all(axis=2).nonzero()[1] for colour in (TRUTH, PREDICTION))
    assert (truth.min() // 24, truth.max() // 24) == (3, 5)
    assert (prediction.min() // 24, prediction.max() // 24) == (11, 13)


def test_a_missed_mask_shows_truth_alone() -> None:
    picture = draw_comparison(comparison(box(4, 10), box(0, 0)), (6, 5, 3))
    assert pixels(picture, TRUTH) > 0
    assert pixels(picture, PREDICTION) == pixels(picture, AGREEMENT) == 0


def test_two_labels_have_an_outline_each() -> None:
    two = box(4, 10)
    two[7:10] *= 2
    one_outline = pixels(draw_comparison(comparison(box(4, 10), box(0, 0)), (6, 5, 3)), TRUTH)
    assert pixels(draw_comparison(comparison(two, box(0, 0)), (6, 5, 3)), TRUTH) > one_outline


def test_planes_pass_where_truth_is_widest_or_where_both_differ() -> None:
    truth, prediction = box(4, 10), box(4, 10)
    prediction[14, 10, 7] = 1
    shown = comparison(truth, prediction)
    assert shown.widest_disagreement == (14, 10, 7)
    assert shown.widest_truth == (4, 3, 2)
    assert comparison(truth, truth).widest_disagreement == (4, 3, 2)


@pytest.mark.parametrize("directions", [
    np.diag([1.0, 1, 1]), np.diag([-1.0, -1, 1]), np.array([[0, 0, 1.0], [-1, 0, 0], [0, 1, 0]]),
], ids=["RAS", "LPS", "turned"])
def test_a_voxel_of_the_file_is_found_in_any_orientation(tmp_path: Path, directions: np.ndarray) -> None:
    affine = np.eye(4)
    affine[:3, :3] = directions
    label = np.zeros((5, 4, 3), dtype=np.uint8)
    label[4, 1, 2] = 3
    paths = [write_scan(tmp_path / f"{name}.nii.gz", label.astype(kind), affine)
             for name, kind in (("image", np.float32), ("truth", np.uint8), ("prediction", np.uint8))]
    shown = read_comparison(paths[0], paths[1], prediction=paths[2])
    assert shown.truth[shown.voxel_in_ras_order((4, 1, 2))] == 3
    assert shown.image[shown.voxel_in_ras_order((4, 1, 2))] == 3
    assert shown.widest_truth == shown.voxel_in_ras_order((4, 1, 2))

"""Label maps of a few voxels, whose largest components are seen."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_bundle import segmenter_of, write_bundle
from tiny_msd import write_scan

from pipeline.engine.components import found_components, keep_largest
from pipeline.records.errors import InputError
from pipeline.records.postprocessing import EVERYTHING

LABELS = {"organ": 1, "lesion": 7}


def flat(*rows: str) -> NDArray[np.uint8]:
    """Returns an image ``(x, y, 1)`` of one digit a voxel, a row for each x."""
    return np.array([[int(digit) for digit in row] for row in rows], dtype=np.uint8)[:, :, None]


@pytest.mark.parametrize(("names", "wanted"), [
    ([], ("1100700", "1100071", "7000000")),
    (["organ"], ("1100700", "1100070", "7000000")),
    (["organ", "lesion"], ("1100700", "1100070", "0000000")),  # over a corner, two voxels of the lesion are one
    ([EVERYTHING], ("1100000", "1100000", "7000000")),  # 5 voxels against 3: what touches the organ stays with it
])
def test_all_but_the_largest_becomes_background(names: list[str], wanted: tuple[str, ...]) -> None:
    found = flat("1100700", "1100071", "7000000")
    keep_largest(found, names, LABELS)
    expected = flat(*wanted)
    assert np.array_equal(found, expected)


def test_components_touch_over_corners_in_space() -> None:
    volume = np.zeros((4, 4, 4), dtype=np.uint16)
    volume[0, 0, 0] = volume[1, 1, 1] = 7
    volume[3, 3, 3] = 7
    keep_largest(volume, ["lesion"], LABELS)
    assert np.argwhere(volume).tolist() == [[0, 0, 0], [1, 1, 1]]


def test_of_equals_the_first_stays_and_nothing_is_nothing() -> None:
    found = flat("101", "101")
    keep_largest(found, ["organ", "lesion"], LABELS)
    assert np.array_equal(found, flat("100", "100"))
    keep_largest(found[:0, :0, :0], ["organ", EVERYTHING], LABELS)  # the box of an empty label map


def test_a_view_in_any_memory_order_is_changed_in_place() -> None:
    whole = np.zeros((9, 8, 7), dtype=np.uint8)
    part = whole.T[1:6, 2:8, 3:9]
    part[0:2, 0:2, 0:2] = 1
    part[4, 5, 5] = 1
    keep_largest(part, ["organ"], LABELS)
    assert int(whole.sum()) == 8


def test_components_of_the_truth_that_a_prediction_touches() -> None:
    truth = flat("11000", "00000", "00110", "00000", "10001") == 1
    assert found_components(truth, truth) == (4, 4)
    assert found_components(truth, flat("01000", "00000", "00000", "01000", "00011") == 1) == (2, 4)
    assert found_components(truth, np.zeros_like(truth)) == (0, 4)
    assert found_components(np.zeros_like(truth), truth) == (0, 0)


def test_a_bundle_clears_what_it_is_told_to_on_the_scans_own_grid(tmp_path: Path) -> None:
    volume = np.zeros((20, 18, 16), dtype=np.float32)
    volume[3:9, 4:9, 5:9] = 1
    volume[15:17, 15:17, 12:14] = 1  # a stray
    volume[12, 2, 2] = volume[2, 14, 14] = 2
    # Axes to the left, the back and the head, so that the network's grid is turned.
    scan = write_scan(tmp_path / "scan.nii.gz", volume, np.diag([-1.0, -1.0, 2.0, 1.0]))
    root = write_bundle(tmp_path / "bundle", labels={"organ": 1, "cyst": 2}, largest_component=["organ"])
    (result,) = segmenter_of(root, scan, tmp_path / "out").segment_all()
    assert result.folder is not None
    wanted = volume.copy()
    wanted[15:17, 15:17, 12:14] = 0
    assert np.array_equal(np.asarray(nib.load(result.folder / "segmentation.nii.gz").dataobj), wanted)
    report = json.loads((result.folder / "report.json").read_text())
    assert report["settings"]["largest_component"] == ["organ"]
    assert (report["labels"]["organ"]["voxels"], report["labels"]["cyst"]["voxels"]) == (120, 2)

    # Another choice is another result, which --resume does not take for done.
    (again,) = segmenter_of(root, scan, tmp_path / "out", largest_component=[], resume=True).segment_all()
    assert again.volumes_ml["organ"] == pytest.approx((120 + 8) * 0.002)


def test_a_scan_in_which_nothing_is_found_is_an_empty_mask(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz", np.zeros((8, 9, 10), dtype=np.float32))
    root = write_bundle(tmp_path / "bundle", labels={"organ": 1}, largest_component=["organ"])
    (result,) = segmenter_of(root, scan, tmp_path / "out").segment_all()
    assert (result.status, result.volumes_ml) == ("ok", {"organ": 0})


def test_a_label_that_the_model_has_not_is_one_line(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz", np.zeros((8, 8, 8), dtype=np.float32))
    root = write_bundle(tmp_path / "bundle", labels={"organ": 1}, largest_component=["lung"])
    with pytest.raises(InputError, match=r"^largest_component: `lung`; expected some of organ, or \*; name a label$"):
        segmenter_of(root, scan, tmp_path / "out").segment_all()

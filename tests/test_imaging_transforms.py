"""The bundle's own transforms, on arrays small enough to work out by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.transforms import Compose
from PIL import Image
from tiny_dicom import slice_dataset, write_slices
from tiny_msd import AFFINE, image_array, label_array, write_scan

from pipeline.imaging.discovery import find_scans
from pipeline.imaging.transforms import NormalizeIntensityByPland, ReadScand, ResampleToSpacingd
from pipeline.records.errors import InputError


def test_image_and_label_are_read_on_the_files_grid(tmp_path: Path) -> None:
    image = write_scan(tmp_path / "image.nii.gz", image_array())
    label = write_scan(tmp_path / "label.nii.gz", label_array())
    data = ReadScand(["image", "label"])({"image": image, "label": label, "other": 1})
    for key, expected in (("image", image_array()), ("label", label_array())):
        assert data[key].dtype == torch.float32
        assert data[key].shape == (1, 5, 4, 3)
        assert np.array_equal(data[key][0].numpy(), expected)
        assert data[f"{key}_scan"].affine == pytest.approx(AFFINE)
    assert data["other"] == 1


def test_the_scan_travels_beside_its_image(tmp_path: Path) -> None:
    folder = write_slices(tmp_path / "series", [slice_dataset(number) for number in range(3)],
                          LossyImageCompression="01")
    (location,) = find_scans(folder).scans
    scan = ReadScand("image")({"image": location})["image_scan"]
    assert scan.modality == "CT"
    assert scan.warnings == ("the pixels were compressed with loss",)


@pytest.mark.parametrize("keys", [["image", "label"], ["label", "image"]])
def test_a_mask_without_resolution_is_resampled_as_its_picture(tmp_path: Path, keys: list[str]) -> None:
    pixels = np.zeros((20, 40), dtype=np.uint8)
    pixels[4:12, 8:32] = 200
    # 10 000 pixels a centimetre are 0.001 mm each; the plan wants 0.002.
    Image.fromarray(pixels).save(tmp_path / "a.tif", resolution_unit=3, x_resolution=10000.0, y_resolution=10000.0)
    Image.fromarray(pixels // 200).save(tmp_path / "a.png")
    steps = Compose([ReadScand(["image", "label"]), ResampleToSpacingd(keys, (0.002, 0.002, -1))])
    data = steps({"image": tmp_path / "a.tif", "label": tmp_path / "a.png"})
    assert data["image"].shape == data["label"].shape == (1, 20, 10, 1)
    assert torch.equal(data["image"] > 100, data["label"] > 0)


def test_an_irregular_series_is_resampled_on_request_only(tmp_path: Path) -> None:
    slices = [slice_dataset(number, at_mm=at_mm) for number, at_mm in enumerate((0, 2.5, 5, 10, 12.5))]
    (location,) = find_scans(write_slices(tmp_path / "series", slices)).scans
    with pytest.raises(InputError) as caught:
        ReadScand("image")({"image": location})
    assert caught.value.reason == "missing-slice"
    assert ReadScand("image", irregular="resample")({"image": location})["image"].shape[-1] == 6


def test_image_and_label_come_to_one_grid_in_ras(tmp_path: Path) -> None:
    affine = np.diag([-1.0, 2.0, 3.0, 1.0])
    image = write_scan(tmp_path / "image.nii.gz", image_array(), affine)
    label = write_scan(tmp_path / "label.nii.gz", label_array(), affine)
    steps = Compose([ReadScand(["image", "label"]), ResampleToSpacingd(["image", "label"], (1, 1, -1))])
    data = steps({"image": image, "label": label})
    assert data["image"].shape == data["label"].shape == (1, 5, 7, 3)
    # Every second row is one of the scan's own; x runs the other way; between rows images have means and labels none.
    assert np.array_equal(data["image"][0, :, ::2].numpy(), image_array()[::-1])
    assert np.allclose(data["image"][0, :, 1].numpy(), (image_array()[::-1, 0] + image_array()[::-1, 1]) / 2)
    assert set(np.unique(data["label"])) <= set(np.unique(label_array()))
    assert data["image_regrid"].flipped == (True, False, False)


def test_voxels_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    voxels = image_array()
    voxels[0, 0, :2] = np.nan, np.inf
    path = write_scan(tmp_path / "a.nii.gz", voxels)
    with pytest.raises(InputError, match=r"2 voxels that are not finite") as caught:
        ReadScand("image")({"image": path})
    assert caught.value.reason == "non-finite-voxels"


def test_ct_is_clipped_and_scaled_by_the_training_data() -> None:
    intensity = {"scheme": "ct", "low": -100, "high": 300, "mean": 50, "std": 25}
    image = torch.tensor([-1000.0, -100.0, 50.0, 75.0, 3000.0])
    result = NormalizeIntensityByPland("image", intensity)({"image": image})["image"]
    assert result.tolist() == [-6, -6, 0, 1, 10]


def test_z_score_has_mean_0_and_deviation_1() -> None:
    image = torch.tensor([1.0, 3.0, 1.0, 3.0]) * 1e6
    result = NormalizeIntensityByPland("image", {"scheme": "z-score"})({"image": image})["image"]
    assert result.tolist() == [-1, 1, -1, 1]


def test_constant_image_becomes_zero() -> None:
    image = torch.full((1, 2, 2, 2), 7.0)
    result = NormalizeIntensityByPland("image", {"scheme": "z-score"})({"image": image})["image"]
    assert torch.equal(result, torch.zeros(1, 2, 2, 2))


@pytest.mark.parametrize("intensity", [
    {}, {"scheme": "mri"}, {"scheme": "ct", "low": 0}, {"scheme": "z-score", "low": 0},
])
def test_scheme_that_is_not_whole_is_refused(intensity: dict[str, object]) -> None:
    with pytest.raises(InputError):
        NormalizeIntensityByPland("image", intensity)

"""The bundle's own transforms, on arrays small enough to work out by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Orientationd
from tiny_dicom import slice_dataset, write_slices
from tiny_msd import AFFINE, image_array, label_array, write_scan

from pipeline.imaging.transforms import NormalizeIntensityByPland, ReadScand, scan_of
from pipeline.records.errors import InputError


def test_image_and_label_are_read_on_the_files_grid(tmp_path: Path) -> None:
    image = write_scan(tmp_path / "image.nii.gz", image_array())
    label = write_scan(tmp_path / "label.nii.gz", label_array())
    data = ReadScand(["image", "label"])({"image": image, "label": str(label), "other": 1})
    for key, expected in (("image", image_array()), ("label", label_array())):
        assert isinstance(data[key], MetaTensor)
        assert data[key].dtype == torch.float32
        assert data[key].shape == (1, 5, 4, 3)
        assert np.array_equal(data[key][0].numpy(), expected)
        assert data[key].affine.numpy() == pytest.approx(AFFINE)
    assert data["other"] == 1


def test_scan_comes_back_out_of_the_tensor(tmp_path: Path) -> None:
    path = write_scan(tmp_path / "a.nii.gz", np.ones((3, 2), dtype=np.float32))
    scan = scan_of(ReadScand("image")({"image": path})["image"], path)
    assert scan.shape_on_disk == (3, 2)
    assert scan.array.shape == (3, 2, 1)
    assert (scan.modality, scan.qform_code, scan.sform_code, scan.warnings) == (None, 1, 1, ())
    folder = write_slices(tmp_path / "series", [slice_dataset(number) for number in range(3)],
                          LossyImageCompression="01")
    scan = scan_of(ReadScand("image")({"image": folder})["image"], folder)
    assert scan.modality == "CT"
    assert scan.warnings == ("the pixels were compressed with loss",)


def test_other_transforms_keep_the_facts(tmp_path: Path) -> None:
    path = write_scan(tmp_path / "a.nii.gz", image_array(), np.diag([-1.0, 2.0, 3.0, 1.0]))
    steps = Compose([ReadScand("image"), Orientationd("image", axcodes="RAS", labels=None)])
    image = steps({"image": path})["image"]
    assert np.array_equal(image[0].numpy(), image_array()[::-1])
    assert image.meta["qform_code"] == 1
    assert image.meta["spacing_mm"] == (1, 2, 3)


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

"""Pictures at a bundle's door: which are taken, set aside or refused; corners, spacing and outputs of a grey one."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_bundle import segmenter_of, write_bundle

from pipeline.imaging.discovery import SeriesRule, find_scans
from pipeline.imaging.nifti import read_nifti, write_nifti
from pipeline.imaging.transforms import NormalizeIntensityByPland, ReadScand, ResampleToSpacingd

# Four columns, three rows; its values are the labels that the tiny network finds.
PIXELS = np.array([[1, 0, 0, 2], [0, 0, 0, 0], [3, 0, 0, 1]], dtype=np.uint8)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A 2D model of grey pictures."""
    return write_bundle(tmp_path / "bundle", labels={"a": 1, "b": 2, "c": 700}, slice_axis=2, pictures=True,
                        spacing_mm=(0.5, 0.5, -1))


def save(path: Path, pixels: np.ndarray = PIXELS, **options: object) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def test_every_corner_comes_back_where_it_was(bundle: Path, tmp_path: Path) -> None:
    (result,) = segmenter_of(bundle, save(tmp_path / "in/a.png"), tmp_path / "out").segment_all()
    assert (result.status, result.pixels, result.volumes_ml) == ("ok", {"a": 2, "b": 1, "c": 1}, {})
    found = Image.open(tmp_path / "out/a/segmentation.png")
    assert found.mode == "I;16"  # for the value of 700
    np.testing.assert_array_equal(np.asarray(found), np.where(PIXELS == 3, np.uint16(700), PIXELS))
    assert "a_pixels,b_pixels,c_pixels" in (tmp_path / "out/summary.csv").read_text()


def test_probabilities_and_uncertainty_are_niftis_of_the_same_pixels(bundle: Path, tmp_path: Path) -> None:
    segmenter_of(bundle, save(tmp_path / "in/a.png"), tmp_path / "out", probabilities=True,
                 uncertainty=True).segment_all()
    assert read_nifti(tmp_path / "out/a/uncertainty.nii.gz").array.shape == (4, 3, 1)
    assert (tmp_path / "out/a/probabilities.nii.gz").is_file()


def test_a_result_is_kept_by_resume(bundle: Path, tmp_path: Path) -> None:
    scan = save(tmp_path / "in/a.png")
    segmenter_of(bundle, scan, tmp_path / "out").segment_all()
    (again,) = segmenter_of(bundle, scan, tmp_path / "out", resume=True).segment_all()
    assert (again.is_earlier, again.pixels) == (True, {"a": 2, "b": 1, "c": 1})


def test_pixels_of_unknown_size_stay_and_known_ones_are_resampled(tmp_path: Path) -> None:
    unknown = save(tmp_path / "a.tif")
    known = save(tmp_path / "b.tif", resolution_unit=3, x_resolution=1e4, y_resolution=1e4)  # 0.001 mm
    steps = [ReadScand("image", pictures=True), ResampleToSpacingd("image", (0.0005, 0.0005, -1))]
    shapes = []
    for path in (unknown, known):
        data = {"image": path}
        for step in steps:
            data = step(data)
        shapes.append(tuple(data["image"].shape))
    assert shapes == [(1, 4, 3, 1), (1, 7, 5, 1)]


def test_each_channel_is_resampled_and_normalised_by_itself(tmp_path: Path) -> None:
    colours = np.stack([PIXELS, 10 * PIXELS + 7, np.full_like(PIXELS, 9)], axis=-1)
    path = save(tmp_path / "a.tif", colours, resolution_unit=3, x_resolution=1e4, y_resolution=1e4)
    data = ResampleToSpacingd("image", (0.0005, 0.0005, -1))(ReadScand("image")({"image": path}))
    assert tuple(data["image"].shape) == (3, 7, 5, 1)
    torch.testing.assert_close(data["image"][1], 10 * data["image"][0] + 7)
    image = NormalizeIntensityByPland("image", {"scheme": "z-score"})(data)["image"]
    torch.testing.assert_close(image[0], image[1])
    assert float(image[0].mean()) == pytest.approx(0, abs=1e-6)
    assert float(image[0].std(correction=0)) == pytest.approx(1, abs=1e-6)
    assert not image[2].any()  # constant


def test_a_model_of_volumes_refuses_a_picture_that_is_given_and_sets_those_in_folders_aside(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", labels={"a": 1})
    picture = save(tmp_path / "in/a.png")
    write_nifti(tmp_path / "in/b.nii.gz", np.ones((4, 4, 4), np.int16), affine=np.eye(4))
    rule = SeriesRule(pictures=False)
    found = find_scans(tmp_path / "in", rule=rule)
    assert ([scan.relative for scan in found.scans], found.set_aside) == (["b.nii.gz"], {"picture": 1})
    (given,) = segmenter_of(bundle, picture, tmp_path / "out", found=find_scans(picture, rule=rule)).segment_all()
    assert (given.status, given.reason) == ("failed", "not-a-volume")
    assert str(given.message).startswith("a picture (PNG or TIFF); expected volumes (NIfTI")


def test_a_flat_volume_is_no_picture_and_colours_are_no_grey(bundle: Path, tmp_path: Path) -> None:
    save(tmp_path / "in/b.png", np.stack([PIXELS] * 3, axis=-1))
    write_nifti(tmp_path / "in/a.nii.gz", np.ones((4, 4, 1), np.int16), affine=np.eye(4))
    save(tmp_path / "in/c.png")
    segmenter_of(bundle, tmp_path / "in", tmp_path / "out").segment_all()
    scans = json.loads((tmp_path / "out/summary.json").read_text())["scans"]
    assert {scan["input"]: scan["reason"] for scan in scans} == {
        "a.nii.gz": "not-a-picture", "b.png": "other-channels", "c.png": None}

"""The phantoms: deterministic, true to their geometry, and not easy."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_erosion, label

from pipeline.sources.phantom_2d import DESCRIPTION_2D, HEART, LUNG, make_phantom_2d
from pipeline.sources.phantom_3d import DESCRIPTION_3D, LARGEST_SHAPE, LESION, ORGAN, make_phantom_3d
from pipeline.sources.phantom_dataset import PhantomScan, write_phantom
from pipeline.sources.phantom_fields import ellipsoid, volume_fraction

TINY = (32, 28, 14)
TOUCHING = np.ones((3, 3, 3))


@pytest.fixture(scope="module")
def scans() -> list[PhantomScan]:
    return list(make_phantom_3d(0, patients=12))


@pytest.fixture(scope="module")
def images() -> list[PhantomScan]:
    return list(make_phantom_2d(0, patients=10))


def spacing_mm(scan: PhantomScan) -> np.ndarray:
    return np.linalg.norm(scan.affine[:3, :3], axis=0)


def middle_mm(scan: PhantomScan, mask: np.ndarray) -> np.ndarray:
    return (scan.affine @ np.append(np.argwhere(mask).mean(axis=0), 1))[:3]


def best_dice_of_an_intensity_window(image: np.ndarray, truth: np.ndarray, *, low: int, high: int, step: int) -> float:
    """Dice of the best of all intervals of intensity, chosen with the truth at hand."""
    bins = np.clip((image.astype(int) - low) // step, 0, (high - low) // step)
    count = (high - low) // step + 1
    hits = np.append(0, np.bincount(bins[truth], minlength=count).cumsum())
    chosen = np.append(0, np.bincount(bins.ravel(), minlength=count).cumsum())
    return max(float((2 * (hits[first + 1:] - hits[first]) / (chosen[first + 1:] - chosen[first] + truth.sum())).max())
               for first in range(count))


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def written(folder: Path, *, seed: int) -> dict[str, bytes]:
    three, two = folder / "3d", folder / "2d"
    three.mkdir(parents=True)
    two.mkdir()
    write_phantom(three, make_phantom_3d(seed, patients=2, largest_shape=TINY), description=DESCRIPTION_3D, seed=seed)
    write_phantom(two, make_phantom_2d(seed, patients=2, largest_side=48), description=DESCRIPTION_2D, seed=seed)
    return bytes_of(folder)


def test_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    first, again, other = (written(tmp_path / name, seed=seed) for name, seed in (("a", 5), ("b", 5), ("c", 6)))
    assert first == again
    assert all(first[name] != other[name] for name in first.keys() & other.keys())


def test_a_patient_does_not_change_when_more_patients_are_asked_for() -> None:
    few = list(make_phantom_3d(3, patients=1, largest_shape=TINY))
    more = list(make_phantom_3d(3, patients=2, largest_shape=TINY))
    assert all(np.array_equal(a.image, b.image) for a, b in zip(few, more, strict=False))


def test_dataset_json_lists_what_is_there(tmp_path: Path) -> None:
    write_phantom(tmp_path, make_phantom_3d(0, patients=3, largest_shape=TINY), description=DESCRIPTION_3D, seed=0)
    content = json.loads((tmp_path / "dataset.json").read_text())
    assert content["modality"] == {"0": "CT"}
    assert content["labels"] == {"0": "background", "1": "organ", "2": "lesion"}
    assert content["tensorImageSize"] == "3D"
    assert content["licence"] == "CC0-1.0"
    assert content["numTraining"] == len(content["training"]) == len(list((tmp_path / "imagesTr").iterdir()))
    for case in content["training"]:
        image, truth = nib.load(tmp_path / case["image"]), nib.load(tmp_path / case["label"])
        assert image.get_data_dtype() == np.int16
        assert truth.get_data_dtype() == np.uint8
        assert image.shape == truth.shape
        assert np.array_equal(image.affine, truth.affine)


def test_files_hold_the_scan_and_its_affine(tmp_path: Path) -> None:
    scan = next(make_phantom_3d(0, patients=1, largest_shape=TINY))
    write_phantom(tmp_path, [scan], description=DESCRIPTION_3D, seed=0)
    image = nib.load(tmp_path / "imagesTr" / "p001_a.nii.gz")
    assert np.array_equal(np.asarray(image.dataobj), scan.image)
    assert np.array_equal(image.affine, scan.affine)


def test_a_smaller_shape_shows_the_same_anatomy_coarser() -> None:
    scan = next(make_phantom_3d(0, patients=1, largest_shape=TINY))
    assert all(size <= most for size, most in zip(scan.image.shape, TINY, strict=True))
    assert ((np.array(scan.image.shape) * spacing_mm(scan)) > (110, 85, 70)).all()
    assert set(np.unique(scan.label)) >= {0, ORGAN}


def test_labels_shapes_and_intensities_of_the_volumes(scans: list[PhantomScan]) -> None:
    for scan in scans:
        assert set(np.unique(scan.label)) - {LESION} == {0, ORGAN}
        assert all(size <= most for size, most in zip(scan.image.shape, LARGEST_SHAPE, strict=True))
        assert np.median(scan.image[[0, -1]]) < -900, "air at the sides"
        assert 40 < np.median(scan.image[scan.label == ORGAN]) < 100, "soft tissue in Hounsfield units"
        assert (scan.image > 350).any(), "bone"


def test_intensity_alone_does_not_find_the_organ(scans: list[PhantomScan]) -> None:
    for scan in scans:
        assert best_dice_of_an_intensity_window(scan.image, scan.label > 0, low=-200, high=300, step=3) < 0.7


def test_intensity_alone_does_not_find_the_lesions(scans: list[PhantomScan]) -> None:
    for scan in scans:
        if scan.lesion_diameters_mm:
            assert best_dice_of_an_intensity_window(scan.image, scan.label == LESION, low=-200, high=300, step=3) < 0.5


def test_intensity_within_the_organ_does_not_find_the_lesions_either(scans: list[PhantomScan]) -> None:
    dice = [best_dice_of_an_intensity_window(scan.image[scan.label > 0], scan.label[scan.label > 0] == LESION,
                                             low=-200, high=300, step=3)
            for scan in scans if scan.lesion_diameters_mm]
    assert np.mean(dice) < 0.6


def test_zero_to_four_lesions_of_3_to_25_mm(scans: list[PhantomScan]) -> None:
    counts = [len(scan.lesion_diameters_mm) for scan in make_phantom_3d(0, patients=36, largest_shape=(16, 14, 8))]
    assert set(counts) == {0, 1, 2, 3, 4}
    sizes = [size for scan in scans for size in scan.lesion_diameters_mm]
    assert 3 <= min(sizes) < 6
    assert 18 < max(sizes) <= 25


def test_no_lesion_is_lost_and_none_merge(scans: list[PhantomScan]) -> None:
    for scan in scans:
        assert label(scan.label == LESION, TOUCHING)[1] == len(scan.lesion_diameters_mm)


def test_lesion_voxels_have_the_volume_of_their_spheres(scans: list[PhantomScan]) -> None:
    large = [scan for scan in scans if scan.lesion_diameters_mm and scan.lesion_diameters_mm[0] > 10]
    assert len(large) >= 5
    for scan in large:
        spheres_mm3 = sum(np.pi / 6 * size**3 for size in scan.lesion_diameters_mm)
        assert (scan.label == LESION).sum() * spacing_mm(scan).prod() == pytest.approx(spheres_mm3, rel=0.12)


def test_lesions_lie_inside_the_organ_and_are_darker(scans: list[PhantomScan]) -> None:
    for scan in scans:
        regions, count = label(scan.label == LESION, TOUCHING)
        for number in range(1, count + 1):
            shell = binary_dilation(regions == number) & (regions != number)
            assert (scan.label[shell] == ORGAN).mean() > 0.85
        core = binary_erosion(scan.label == LESION)
        if core.sum() > 20:
            assert 20 < np.median(scan.image[scan.label == ORGAN]) - scan.image[core].mean() < 80


def test_noise_is_that_of_a_scanner(scans: list[PhantomScan]) -> None:
    for scan in scans:
        organ = binary_erosion(scan.label == ORGAN, iterations=2)
        difference = scan.image[1:].astype(float) - scan.image[:-1]
        both = organ[1:] & organ[:-1]
        # White noise of this difference would be 1.41 times the standard deviation; correlated noise is less.
        ratio = difference[both].std() / scan.image[organ].std()
        assert 8 < scan.image[organ].std() < 24
        assert ratio < 1.25


def test_spacing_and_orientation_vary(scans: list[PhantomScan]) -> None:
    codes = {"".join(nib.aff2axcodes(scan.affine)) for scan in scans}
    assert codes >= {"RAS", "LPS"}
    oblique = [nib.affines.obliquity(scan.affine).max() > np.deg2rad(4) for scan in scans]
    assert 0 < sum(oblique) < len(scans)
    spacings = np.array([spacing_mm(scan) for scan in scans])
    assert (spacings[:, :2] >= 1.5 - 1e-5).all()
    assert (spacings[:, :2] <= 2.2 + 1e-5).all()
    assert {2.5, 5.0} <= set(spacings[:, 2].round(3).tolist())
    assert spacings[:, 0].std() > 0.1


def test_every_orientation_shows_the_organ_at_the_patients_right_in_front_of_the_spine(
        scans: list[PhantomScan]) -> None:
    for scan in scans:
        body = middle_mm(scan, scan.image > -300)
        organ, bone = middle_mm(scan, scan.label > 0) - body, middle_mm(scan, scan.image > 250) - body
        lung = middle_mm(scan, (scan.image > -850) & (scan.image < -650)) - body
        assert organ[0] > 8
        assert bone[1] < organ[1] - 5
        assert lung[2] > 0


def test_second_scans_show_the_same_patient_anew(scans: list[PhantomScan]) -> None:
    pairs = [(a, b) for a in scans for b in scans if a.patient == b.patient and (a.scan, b.scan) == ("a", "b")]
    assert pairs
    for first, second in pairs:
        assert first.lesion_diameters_mm == second.lesion_diameters_mm
        assert not np.allclose(first.affine, second.affine)
        volumes_mm3 = [(scan.label > 0).sum() * spacing_mm(scan).prod() for scan in (first, second)]
        assert volumes_mm3[0] == pytest.approx(volumes_mm3[1], rel=0.05)


def test_volume_fraction_of_a_sphere_adds_up_to_its_volume_in_anisotropic_voxels() -> None:
    spacing = np.array([1.5, 2.0, 5.0])
    index = np.stack(np.meshgrid(*(np.arange(size) - size / 2 for size in (40, 30, 12)), indexing="ij"))
    points = (index * spacing.reshape(3, 1, 1, 1)).astype(np.float32)
    fraction = volume_fraction(ellipsoid(points, (0.3, 0.4, 0.5), radii=(20, 20, 20)))
    assert float(fraction.sum()) * spacing.prod() == pytest.approx(4 / 3 * np.pi * 20**3, rel=0.03)


def test_radiographs_are_single_slices_with_two_labels(images: list[PhantomScan]) -> None:
    for image in images:
        assert image.image.ndim == 3
        assert image.image.shape[2] == 1
        assert image.image.shape == image.label.shape
        assert set(np.unique(image.label)) == {0, LUNG, HEART}
        assert 1.5 <= spacing_mm(image)[0] <= 2.0
        assert image.image.min() >= 0
        assert image.image.max() <= 4095


def test_radiographs_show_the_heart_at_the_patients_left(images: list[PhantomScan]) -> None:
    for image in images:
        assert middle_mm(image, image.label == HEART)[0] < middle_mm(image, image.label == LUNG)[0] - 5


def test_radiographs_share_intensities_between_labels_and_surroundings(images: list[PhantomScan]) -> None:
    for image in images:
        for value, most in ((LUNG, 0.8), (HEART, 0.7)):
            assert best_dice_of_an_intensity_window(image.image, image.label == value, low=0, high=4095,
                                                    step=16) < most


def test_radiographs_differ_in_exposure_and_spacing(images: list[PhantomScan]) -> None:
    lung = [np.median(image.image[image.label == LUNG]) for image in images]
    assert max(lung) / min(lung) > 1.3
    assert len({round(float(spacing_mm(image)[0]), 3) for image in images}) == len({i.patient + i.scan for i in images})

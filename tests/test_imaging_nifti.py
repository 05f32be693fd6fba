"""NIfTI: read as nibabel and ITK read it, refused in one line, written the same each time."""

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from pipeline.imaging.nifti import read_nifti, read_nifti_geometry, write_nifti
from pipeline.records.errors import InputError

# Oblique: rotated by 0.3 rad about z, axes to the left and the back, spacing 1.5, 0.8 and 2.5 mm.
OBLIQUE = np.array([
    [-1.4330047, 0.2364162, 0.0, 10.0],
    [-0.4432803, -0.7642692, 0.0, -20.0],
    [0.0, 0.0, 2.5, 30.0],
    [0.0, 0.0, 0.0, 1.0],
])
COUNTED = np.arange(60, dtype=np.int16).reshape(5, 4, 3)


def save(path: Path, array: np.ndarray, affine: np.ndarray = OBLIQUE, **header: Any) -> Path:
    """Writes by nibabel, setting fields of the header."""
    image = nib.Nifti1Image(array, affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    for name, value in header.items():
        image.header[name] = value
    nib.save(image, path)
    return path


def corrupt(path: Path, offset: int, content: bytes) -> Path:
    """Overwrites bytes of an uncompressed file."""
    data = bytearray(path.read_bytes())
    data[offset : offset + len(content)] = content
    path.write_bytes(data)
    return path


def reason_of(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_nifti(path)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)
    return caught.value.reason


def test_voxels_affine_and_codes_are_the_files(tmp_path: Path) -> None:
    scan = read_nifti(save(tmp_path / "a.nii.gz", COUNTED, qform_code=0, sform_code=2))
    assert scan.array.dtype == np.float32
    assert np.array_equal(scan.array, COUNTED)
    assert scan.affine == pytest.approx(OBLIQUE, abs=1e-6)
    assert scan.spacing_mm == pytest.approx((1.5, 0.8, 2.5), abs=1e-6)
    assert (scan.shape_on_disk, scan.qform_code, scan.sform_code) == ((5, 4, 3), 0, 2)
    assert scan.warnings == ()


@pytest.mark.parametrize("stored", [np.int16, np.int32, np.float64])
def test_slope_and_intercept_are_applied(tmp_path: Path, stored: type) -> None:
    path = save(tmp_path / "a.nii", COUNTED.astype(stored))
    # nibabel resets scaling on saving: write slope 2 and intercept -1024 into the header's bytes 112 to 119.
    corrupt(path, 112, np.array([2, -1024], dtype="<f4").tobytes())
    assert np.array_equal(read_nifti(path).array, COUNTED * 2.0 - 1024)


def test_big_endian_and_nifti_2_are_read(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(COUNTED, OBLIQUE), tmp_path / "two.nii")
    image = nib.Nifti1Image(COUNTED, OBLIQUE)
    nib.Nifti1Image(COUNTED, OBLIQUE, image.header.as_byteswapped(">")).to_filename(tmp_path / "big.nii")
    for name in ("two.nii", "big.nii"):
        scan = read_nifti(tmp_path / name)
        assert np.array_equal(scan.array, COUNTED), name
        assert scan.affine == pytest.approx(OBLIQUE, abs=1e-6), name


def test_gzip_is_known_by_content_not_by_name(tmp_path: Path) -> None:
    plain = save(tmp_path / "a.nii", COUNTED).read_bytes()
    (tmp_path / "plain.nii.gz").write_bytes(plain)
    (tmp_path / "zipped.nii").write_bytes(gzip.compress(plain))
    assert np.array_equal(read_nifti(tmp_path / "plain.nii.gz").array, COUNTED)
    assert np.array_equal(read_nifti(tmp_path / "zipped.nii").array, COUNTED)


@pytest.mark.parametrize("on_disk", [(5, 4), (5, 4, 3, 1), (5, 4, 1, 1)])
def test_2d_and_trailing_ones_are_one_volume(tmp_path: Path, on_disk: tuple[int, ...]) -> None:
    voxels = np.arange(np.prod(on_disk), dtype=np.float32).reshape(on_disk)
    scan = read_nifti(save(tmp_path / "a.nii.gz", voxels))
    assert scan.array.shape == (*on_disk, 1)[:3]
    assert scan.shape_on_disk == on_disk
    assert np.array_equal(scan.array.ravel(), voxels.ravel())


def test_geometry_alone_agrees_with_the_scan(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", COUNTED)
    geometry, scan = read_nifti_geometry(path), read_nifti(path)
    assert geometry.shape == scan.array.shape
    assert np.array_equal(geometry.affine, scan.affine)


def test_both_codes_unset_warns_of_left_and_right(tmp_path: Path) -> None:
    # Both codes, at bytes 252 and 254; nibabel itself would set one of them on saving.
    scan = read_nifti(corrupt(save(tmp_path / "a.nii", COUNTED), 252, bytes(4)))
    assert "left and right" in scan.warnings[0]


def test_forms_that_disagree_warn_and_the_sform_holds(tmp_path: Path) -> None:
    image = nib.Nifti1Image(COUNTED, OBLIQUE)
    image.set_sform(OBLIQUE, code=1)
    image.set_qform(np.diag([1.0, 1.0, 1.0, 1.0]), code=1)
    nib.save(image, tmp_path / "a.nii")
    scan = read_nifti(tmp_path / "a.nii")
    assert scan.affine == pytest.approx(OBLIQUE, abs=1e-6)
    assert any("disagree" in warning for warning in scan.warnings)


def test_truncated_gzip_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", np.random.default_rng(0).random((9, 9, 9), dtype=np.float32))
    path.write_bytes(path.read_bytes()[:-200])
    assert reason_of(path) == "truncated-file"


def test_truncated_plain_file_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", COUNTED)
    path.write_bytes(path.read_bytes()[:-1])
    assert reason_of(path) == "truncated-file"


def test_changed_byte_in_gzip_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", COUNTED)
    assert reason_of(corrupt(path, path.stat().st_size - 6, b"\xff\xff")) == "damaged-file"


@pytest.mark.parametrize("content", [b"no image at all", b"\x5c\x01\0\0", b"\x5c\x01\0\0" + b"\0" * 400])
def test_other_content_is_not_an_image(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(content)
    assert reason_of(path) == "not-an-image"


def test_empty_missing_and_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.nii.gz").touch()
    (tmp_path / "folder.nii.gz").mkdir()
    assert reason_of(tmp_path / "empty.nii.gz") == "truncated-file"
    assert reason_of(tmp_path / "missing.nii.gz") == "missing-file"
    assert reason_of(tmp_path / "folder.nii.gz") == "unreadable-file"


def test_more_than_one_channel_is_refused(tmp_path: Path) -> None:
    rgb = np.zeros((5, 4, 3), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    for voxels in (np.zeros((5, 4, 3, 2)), np.zeros((5, 4, 3), np.complex64), rgb):
        assert reason_of(save(tmp_path / "a.nii", voxels)) == "not-single-channel", voxels.dtype


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_affine_that_is_not_finite_or_singular_is_refused(tmp_path: Path, value: float) -> None:
    row = np.array([value, 0, 0, 10], dtype="<f4").tobytes()
    sform = corrupt(save(tmp_path / "a.nii", COUNTED, np.diag([2.0, 2.0, 2.0, 1.0])), 280, row)
    assert reason_of(sform) == "bad-affine"


def test_impossible_quaternion_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", COUNTED, sform_code=0)
    assert reason_of(corrupt(path, 256, np.array([2, 2, 2], dtype="<f4").tobytes())) == "bad-affine"


def test_lengths_in_metres_are_refused(tmp_path: Path) -> None:
    assert reason_of(save(tmp_path / "a.nii", COUNTED, xyzt_units=1)) == "not-millimetres"


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32, np.float64, np.int64])
def test_written_file_keeps_dtype_and_place_for_itk(tmp_path: Path, dtype: type) -> None:
    path = tmp_path / "a.nii.gz"
    write_nifti(path, COUNTED.astype(dtype), affine=OBLIQUE)
    image = SimpleITK.ReadImage(str(path))
    assert np.array_equal(SimpleITK.GetArrayFromImage(image).T, COUNTED)
    # ITK is LPS: the first two world coordinates change sign.
    assert image.TransformContinuousIndexToPhysicalPoint((4.0, 3.0, 2.0)) == pytest.approx(
        (OBLIQUE @ [4, 3, 2, 1])[:3] * [-1, -1, 1], abs=1e-4)
    header = nib.load(path).header
    assert header.get_data_dtype() == dtype
    assert header.get_xyzt_units()[0] == "mm"
    assert header.get_zooms() == pytest.approx((1.5, 0.8, 2.5), abs=1e-5)


@pytest.mark.parametrize("codes", [(0, 0), (1, 0), (0, 2), (3, 4)])
@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3), (5, 4, 3, 1)])
def test_codes_and_shape_come_back(tmp_path: Path, codes: tuple[int, int], shape: tuple[int, ...]) -> None:
    path = tmp_path / "a.nii"
    write_nifti(path, np.ones(shape, dtype=bool), affine=OBLIQUE, qform_code=codes[0], sform_code=codes[1])
    scan = read_nifti(path)
    assert (scan.qform_code, scan.sform_code, scan.shape_on_disk) == (*codes, shape)
    assert nib.load(path).header.get_data_dtype() == np.uint8
    if any(codes):
        assert scan.affine == pytest.approx(OBLIQUE, abs=1e-5)


def test_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii.gz", COUNTED, affine=OBLIQUE)
    write_nifti(tmp_path / "sub/b.nii.gz", COUNTED.copy(order="F"), affine=OBLIQUE)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "sub/b.nii.gz").read_bytes()
    # Bytes 4 to 7 of gzip's header are the time of writing, and the flags in byte 3 would announce a file name.
    assert (tmp_path / "a.nii.gz").read_bytes()[3:8] == bytes(5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nii.gz", "sub"]

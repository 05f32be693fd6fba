"""NIfTI: read as nibabel and ITK read it, refused in one line, written the same each time."""

import gzip
import tracemalloc
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from pipeline.imaging.nifti import read_nifti, write_nifti
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


def test_lengths_that_are_not_above_0_need_an_sform(tmp_path: Path) -> None:
    for length in (0.0, -0.8, np.nan):
        path = save(tmp_path / "a.nii", COUNTED)
        corrupt(path, 84, np.array([length], dtype="<f4").tobytes())
        scan = read_nifti(path)
        assert scan.affine == pytest.approx(OBLIQUE, abs=1e-6)
        assert any("disagree" in warning for warning in scan.warnings), length
        # The sform's code, at byte 254, unset: nibabel alone would take the length as 1, or without its sign.
        assert reason_of(corrupt(path, 254, bytes(2))) == "bad-affine", length


def test_an_impossible_qform_beside_an_sform_is_doubtful(tmp_path: Path) -> None:
    path = corrupt(save(tmp_path / "a.nii", COUNTED), 256, np.array([2, 2, 2], dtype="<f4").tobytes())
    assert any("disagree" in warning for warning in read_nifti(path).warnings)


def test_lengths_other_than_the_sforms_are_doubtful(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", COUNTED, qform_code=0)
    assert read_nifti(path).warnings == ()
    corrupt(path, 88, np.array([5.0], dtype="<f4").tobytes())
    assert read_nifti(path).warnings == ("voxel lengths and sform disagree: the sform is used",)


@pytest.mark.parametrize("scaling", [(np.nan, 0.0), (0.0, 5.0), (np.inf, 0.0)])
def test_a_slope_that_is_none_leaves_the_values(tmp_path: Path, scaling: tuple[float, float]) -> None:
    path = corrupt(save(tmp_path / "a.nii", COUNTED), 112, np.array(scaling, dtype="<f4").tobytes())
    assert np.array_equal(read_nifti(path).array, COUNTED)


def test_gzip_in_several_members_is_one_stream(tmp_path: Path) -> None:
    plain = save(tmp_path / "a.nii", COUNTED).read_bytes()
    for cut in (100, 348, 400):
        packed = gzip.compress(plain[:cut]) + gzip.compress(plain[cut:]) + bytes(512)
        (tmp_path / "b.nii.gz").write_bytes(packed)
        assert np.array_equal(read_nifti(tmp_path / "b.nii.gz").array, COUNTED), cut


def test_volumes_larger_than_a_step_are_whole(tmp_path: Path) -> None:
    # 6 MiB of numbers that do not repeat, so that a step missed or taken twice shows.
    voxels = np.random.default_rng(0).integers(0, 9999, (128, 128, 192)).astype(np.int16)
    for name in ("a.nii", "a.nii.gz"):
        write_nifti(tmp_path / name, voxels, affine=OBLIQUE)
        assert np.array_equal(read_nifti(tmp_path / name).array, voxels), name
        assert np.array_equal(np.asarray(nib.load(tmp_path / name).dataobj), voxels), name


@pytest.mark.parametrize("packed", [False, True])
def test_reading_takes_little_more_memory_than_the_voxels(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / ("a.nii.gz" if packed else "a.nii")
    write_nifti(path, np.zeros((256, 256, 160), np.int16), affine=OBLIQUE)
    tracemalloc.start()
    try:
        voxels = read_nifti(path).array.nbytes
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.4 * voxels


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 3), (7, 5, 3, 1), (7, 5, 3, 2)])
def test_arrays_in_any_order_are_written_the_same(tmp_path: Path, order: str, shape: tuple[int, ...]) -> None:
    voxels = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    for array in (np.asarray(voxels, order=order), np.asarray(voxels[::-1], order=order)[::-1]):  # type: ignore
        write_nifti(tmp_path / "a.nii.gz", array, affine=OBLIQUE)
        assert np.array_equal(np.asarray(nib.load(tmp_path / "a.nii.gz").dataobj), voxels)


def axis_orders() -> list[np.ndarray]:
    """Returns the affines of all 48 axis orders and directions, with other spacings along each axis."""
    matrices = []
    for order in permutations(range(3)):
        for signs in product((1, -1), repeat=3):
            affine = np.eye(4)
            affine[:3, :3] = 0
            for axis, (place, sign) in enumerate(zip(order, signs, strict=True)):
                affine[place, axis] = sign * (1.0, 0.75, 2.5)[axis]
            affine[:3, 3] = -10, 20, -30
            matrices.append(affine)
    return matrices


def test_all_axis_orders_are_itks(tmp_path: Path) -> None:
    for affine in axis_orders():
        scan = read_nifti(save(tmp_path / "a.nii", COUNTED, affine))
        assert np.array_equal(scan.affine, affine)
        image = SimpleITK.ReadImage(str(tmp_path / "a.nii"))
        lps = image.TransformIndexToPhysicalPoint((4, 3, 2))
        assert (scan.affine @ [4, 3, 2, 1])[:3] * [-1, -1, 1] == pytest.approx(lps, abs=1e-4)
        assert np.array_equal(scan.array, SimpleITK.GetArrayFromImage(image).T)


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

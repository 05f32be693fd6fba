"""NRRD and MetaImage: read as ITK reads sound ones; damaged ones, which ITK takes, are refused in one line."""

import gzip
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from pipeline.imaging.scans import Scan
from pipeline.imaging.volumes import read_volume
from pipeline.records.errors import InputError

VOXELS = (np.arange(60, dtype=np.int16) * 7 - 100).reshape(5, 4, 3)
# Turned by 0.3 rad about z, and the third axis turned round; LPS, as ITK's are.
COSINE, SINE = np.cos(0.3), np.sin(0.3)
DIRECTION = (COSINE, -SINE, 0.0, SINE, COSINE, 0.0, 0.0, 0.0, -1.0)
NRRD = """NRRD0004
# a comment
type: short
dimension: 3
space: left-posterior-superior
sizes: 5 4 3
space directions: (1.5,0,0) (0,0.8,0) (0,0,2.5)
kinds: domain domain domain
endian: little
encoding: raw
space origin: (-10,20,30)
patient:=Smith John
"""
META = """ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
CompressedData = False
TransformMatrix = 1 0 0 0 1 0 0 0 1
Offset = -10 20 30
ElementSpacing = 1.5 0.8 2.5
DimSize = 5 4 3
ElementType = MET_SHORT
ElementDataFile = LOCAL
"""
STORED = VOXELS.astype("<i2").tobytes(order="F")


def itk_image(voxels: np.ndarray = VOXELS) -> SimpleITK.Image:
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(voxels.T))
    image.SetSpacing((1.5, 0.8, 2.5))
    image.SetOrigin((-10.0, 20.0, 30.0))
    image.SetDirection(DIRECTION)
    return image


def read(path: Path) -> Scan:
    return read_volume(path, "nrrd" if path.suffix in (".nrrd", ".nhdr") else "meta")


def written(path: Path, header: str, voxels: bytes = STORED, **changes: str | None) -> Path:
    """Writes a header with lines replaced, added (``space_units``) or, with None, left out, and voxels behind it."""
    separator = ": " if header.startswith("NRRD") else " = "
    lines = header.splitlines()
    for name, value in changes.items():
        key = name.replace("_", " ")
        place = next((i for i, line in enumerate(lines) if line.split(separator)[0] == key), None)
        new = [] if value is None else [f"{key}{separator}{value}"]
        if place is None:
            # Right after the dimension, which teem wants to know first.
            lines[4:4] = new
        else:
            lines[place : place + 1] = new
    path.write_bytes("\n".join(lines).encode() + (b"\n\n" if header.startswith("NRRD") else b"\n") + voxels)
    return path


def reason_of(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["a.nrrd", "a.nhdr", "a.mha", "a.mhd"])
def test_voxels_and_places_are_itks(tmp_path: Path, name: str, packed: bool) -> None:
    image = itk_image()
    SimpleITK.WriteImage(image, str(tmp_path / name), packed)
    scan = read(tmp_path / name)
    assert scan.array.dtype == np.float32
    assert np.array_equal(scan.array, VOXELS)
    for index in ((0, 0, 0), (4, 0, 0), (0, 3, 0), (0, 0, 2), (4, 3, 2)):
        # ITK is LPS: the first two world coordinates change sign.
        lps = image.TransformIndexToPhysicalPoint(index)
        assert (scan.affine @ [*index, 1])[:3] == pytest.approx(np.array(lps) * [-1, -1, 1], abs=1e-9), index
    assert (scan.shape_on_disk, scan.qform_code, scan.sform_code, scan.warnings) == ((5, 4, 3), 1, 1, ())


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64,
                                   np.uint64, np.float32, np.float64])
@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_every_type_of_number_is_itks(tmp_path: Path, name: str, dtype: type) -> None:
    SimpleITK.WriteImage(itk_image(np.abs(VOXELS).astype(np.uint8).astype(dtype)), str(tmp_path / name))
    assert np.array_equal(read(tmp_path / name).array, np.abs(VOXELS).astype(np.uint8).astype(dtype))


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_2d_is_one_slice_without_orientation(tmp_path: Path, name: str) -> None:
    image = SimpleITK.GetImageFromArray(VOXELS[:, :, 0].T)
    image.SetSpacing((0.5, 0.25))
    SimpleITK.WriteImage(image, str(tmp_path / name))
    scan = read(tmp_path / name)
    assert np.array_equal(scan.array[:, :, 0], VOXELS[:, :, 0])
    assert (scan.shape_on_disk, scan.array.shape, scan.spacing_mm) == ((5, 4), (5, 4, 1), (0.5, 0.25, 1.0))
    assert (scan.qform_code, scan.sform_code) == (0, 0)


@pytest.mark.parametrize(("space", "first_voxel"), [
    ("right-anterior-superior", (-10, 20, 30)), ("RAS", (-10, 20, 30)), ("left-anterior-superior", (10, 20, 30)),
    ("left-posterior-superior", (10, -20, 30)),
])
def test_nrrd_spaces_end_in_ras(tmp_path: Path, space: str, first_voxel: tuple[float, ...]) -> None:
    scan = read(written(tmp_path / "a.nrrd", NRRD, space=space))
    assert tuple(scan.affine[:3, 3]) == first_voxel
    assert (scan.sform_code, scan.warnings) == (1, ())


@pytest.mark.parametrize("changes", [
    {"space": None, "space_dimension": "3"}, {"space": "scanner-xyz"},
    {"space": None, "space_directions": None, "space_origin": None, "spacings": "1.5 0.8 2.5"},
])
def test_nrrd_without_anatomical_space_is_a_guess(tmp_path: Path, changes: dict[str, str | None]) -> None:
    scan = read(written(tmp_path / "a.nrrd", NRRD, **changes))
    assert scan.spacing_mm == pytest.approx((1.5, 0.8, 2.5))
    assert (scan.qform_code, scan.sform_code) == (0, 0)
    assert "left and right" in scan.warnings[0]
    # ITK guesses the same.
    image = SimpleITK.ReadImage(str(tmp_path / "a.nrrd"))
    assert image.TransformIndexToPhysicalPoint((4, 3, 2)) == pytest.approx(
        (scan.affine @ [4, 3, 2, 1])[:3] * [-1, -1, 1])


def test_metaimage_without_matrix_is_a_guess(tmp_path: Path) -> None:
    scan = read(written(tmp_path / "a.mha", META, TransformMatrix=None))
    assert (scan.qform_code, scan.sform_code) == (0, 0)
    assert "left and right" in scan.warnings[0]


def test_big_endian_byte_skip_and_line_ends_of_windows(tmp_path: Path) -> None:
    big = VOXELS.astype(">i2").tobytes(order="F")
    scan = read(written(tmp_path / "a.nrrd", NRRD, b"skip me" + big, endian="big", byte_skip="7"))
    assert np.array_equal(scan.array, VOXELS)
    scan = read(written(tmp_path / "b.nrrd", NRRD, b"any length" + STORED, byte_skip="-1"))
    assert np.array_equal(scan.array, VOXELS)
    scan = read(written(tmp_path / "a.mha", META, big, BinaryDataByteOrderMSB="True"))
    assert np.array_equal(scan.array, VOXELS)
    (tmp_path / "c.nrrd").write_bytes(NRRD.replace("\n", "\r\n").encode() + b"\r\n" + STORED)
    assert np.array_equal(read(tmp_path / "c.nrrd").array, VOXELS)


def test_sheared_axes_are_kept_and_told(tmp_path: Path) -> None:
    scan = read(written(tmp_path / "a.nrrd", NRRD, space_directions="(1.5,0,0) (0.4,0.8,0) (0,0,2.5)"))
    # The second axis' step in LPS, with x and y turned round.
    assert tuple(scan.affine[:3, 1]) == (-0.4, -0.8, 0.0)
    assert "not perpendicular" in scan.warnings[0]


def test_scaling_that_itk_passes_over_is_told(tmp_path: Path) -> None:
    scan = read(written(tmp_path / "a.mha", META, ElementToIntensityFunctionSlope="2"))
    assert np.array_equal(scan.array, VOXELS)
    assert "not applied" in scan.warnings[0]


def packed_nrrd(path: Path, voxels: bytes) -> Path:
    return written(path, NRRD, voxels, encoding="gzip")


def packed_meta(path: Path, voxels: bytes) -> Path:
    return written(path, META, voxels, CompressedData="True")


def flipped(content: bytes) -> bytes:
    return content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 0xFF]) + content[len(content) // 2 + 1:]


def test_packed_voxels_that_are_damaged_are_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 99, 60).astype("<i2").tobytes()
    for write, pack, name in ((packed_nrrd, gzip.compress, "a.nrrd"), (packed_meta, zlib.compress, "a.mha")):
        path = tmp_path / name
        assert read(write(path, pack(noise))).array.size == 60
        assert reason_of(write(path, pack(noise[:-2]))) == "truncated-file", name
        assert reason_of(write(path, pack(noise)[:-20])) == "truncated-file", name
        assert reason_of(write(path, flipped(pack(noise)))) in ("damaged-file", "truncated-file"), name
        assert reason_of(write(path, b"not packed at all, although the header says so")) == "damaged-file", name


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_raw_voxels_that_end_early_are_refused(tmp_path: Path, name: str) -> None:
    header = NRRD if name == "a.nrrd" else META
    for voxels in (STORED[:-1], b""):
        assert reason_of(written(tmp_path / name, header, voxels)) == "truncated-file"


def test_headers_that_break_off_or_are_none(tmp_path: Path) -> None:
    for name, content, reason in (
        ("a.nrrd", b"", "not-an-image"), ("a.nrrd", b"<html>no such page</html>", "not-an-image"),
        ("a.nrrd", b"NRRD0004\ntype: short\n", "truncated-file"), ("a.nrrd", b"NRRD0004\n\n", "damaged-file"),
        ("a.nrrd", b"NRRD0004\n" + b"x" * (1 << 21), "damaged-file"), ("a.mha", b"", "not-an-image"),
        ("a.mha", b"<html>\n", "not-an-image"), ("a.mha", b"NDims = 3\nDimSize = 1 1", "truncated-file"),
        ("a.mha", b"ElementDataFile = LOCAL\n", "damaged-file"), ("a.mha", bytes(1 << 21), "not-an-image"),
    ):
        (tmp_path / name).write_bytes(content)
        assert reason_of(tmp_path / name) == reason, content[:30]


@pytest.mark.parametrize(("changes", "reason"), [
    ({"sizes": "5 4 3 2", "dimension": "4"}, "not-single-channel"), ({"sizes": "5 4"}, "damaged-file"),
    ({"sizes": "5 4 -3"}, "not-an-image"), ({"sizes": "5 4 x"}, "damaged-file"),
    ({"sizes": "5 4 inf"}, "damaged-file"), ({"sizes": "1300 1300 1300"}, "too-large"),
    ({"sizes": "1000 1000 1000"}, "truncated-file"), ({"kinds": "RGB-color domain domain"}, "not-single-channel"),
    ({"kinds": "domain domain time"}, "not-single-channel"), ({"type": "block"}, "not-single-channel"),
    ({"endian": None}, "damaged-file"), ({"encoding": "ascii"}, "unsupported-encoding"),
    ({"encoding": "bzip2"}, "unsupported-encoding"), ({"space_units": '"um" "um" "um"'}, "not-millimetres"),
    ({"space_directions": "(1,0,0) (0,0,0) (0,0,1)"}, "bad-affine"),
    ({"space_directions": "(1,0,0) (1,0,0) (0,0,1)"}, "bad-affine"),
    ({"space_directions": "(1,0,0) (0,nan,0) (0,0,1)"}, "bad-affine"),
    ({"space_directions": "(1,0,0) none (0,0,1)"}, "bad-affine"), ({"space_origin": "(1)"}, "bad-affine"),
    ({"space_directions": "(1,0,0) (0,one,0) (0,0,1)"}, "damaged-file"),
    ({"space_directions": None, "spacings": "1 -1 1"}, "bad-affine"), ({"byte_skip": "-2"}, "damaged-file"),
    ({"byte_skip": "nan"}, "damaged-file"), ({"line_skip": "9999999999"}, "damaged-file"),
])
def test_nrrd_fields_that_cannot_be_used(tmp_path: Path, changes: dict[str, str | None], reason: str) -> None:
    assert reason_of(written(tmp_path / "a.nrrd", NRRD, **changes)) == reason


@pytest.mark.parametrize(("changes", "reason"), [
    ({"DimSize": "5 4 3 2", "NDims": "4"}, "not-single-channel"),
    ({"ElementNumberOfChannels": "3"}, "not-single-channel"),
    ({"ElementType": "MET_OTHER"}, "not-single-channel"), ({"ElementSpacing": "1 0 1"}, "bad-affine"),
    ({"ElementSpacing": "1 -1 1"}, "bad-affine"), ({"ElementSpacing": "1 nan 1"}, "bad-affine"),
    ({"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, "bad-affine"), ({"TransformMatrix": "1 0 0"}, "bad-affine"),
    ({"Offset": "1 2"}, "bad-affine"), ({"Offset": "1 2 inf"}, "bad-affine"),
    ({"BinaryData": "False"}, "unsupported-encoding"),
    ({"DimSize": "1000 1000 9999"}, "too-large"), ({"DistanceUnits": "um"}, "not-millimetres"),
    ({"HeaderSize": "-5"}, "damaged-file"), ({"HeaderSize": "400"}, "truncated-file"),
])
def test_metaimage_keys_that_cannot_be_used(tmp_path: Path, changes: dict[str, str | None], reason: str) -> None:
    assert reason_of(written(tmp_path / "a.mha", META, **changes)) == reason


def test_a_field_given_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.nrrd").write_bytes(("\n".join([*NRRD.splitlines(), "sizes: 9 9 9"]) + "\n\n").encode() + STORED)
    (tmp_path / "a.mha").write_bytes(("ElementSpacing = 1 1 1\n" + META).encode() + STORED)
    assert (reason_of(tmp_path / "a.nrrd"), reason_of(tmp_path / "a.mha")) == ("damaged-file", "damaged-file")


@pytest.mark.parametrize(("named", "reason"), [
    ("/etc/passwd", "outside-data-file"), ("../a.raw", "outside-data-file"), ("sub/a.raw", "outside-data-file"),
    ("..", "outside-data-file"), ("..\\a.raw", "outside-data-file"), ("b.raw", "missing-data-file"),
    ("LIST", "several-data-files"), ("a%03d.raw 1 3 1", "several-data-files"), ("sub", "missing-data-file"),
])
def test_data_files_elsewhere_are_not_opened(tmp_path: Path, named: str, reason: str) -> None:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for place in (tmp_path, folder / "sub"):
        (place / "a.raw").write_bytes(STORED)
    assert reason_of(written(folder / "a.nhdr", NRRD, b"", data_file=named)) == reason
    assert reason_of(written(folder / "a.mhd", META, b"", ElementDataFile=named)) == reason


def test_data_file_beside_the_header_is_read_and_checked(tmp_path: Path) -> None:
    (tmp_path / "a 1 b.raw").write_bytes(STORED)
    for path in (written(tmp_path / "a.nhdr", NRRD, b"", data_file="a 1 b.raw"),
                 written(tmp_path / "a.mhd", META, b"", ElementDataFile="a 1 b.raw")):
        assert np.array_equal(read(path).array, VOXELS)
    (tmp_path / "a 1 b.raw").write_bytes(STORED[:-1])
    assert reason_of(tmp_path / "a.mhd") == "truncated-file"

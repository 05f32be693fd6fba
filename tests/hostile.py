"""Inputs as they should never come: each generator writes one into a folder and returns what is to become of it.

The expected reason is that of the one `InputError` which finding, reading or checking the voxels must raise; None means
that the input is a scan all the same.
"""

import gzip
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from tiny_dicom import slice_dataset

Generator = Callable[[Path], str | None]
GENERATORS: dict[str, Generator] = {}
VOXELS = np.random.default_rng(0).integers(0, 99, (12, 11, 10)).astype(np.int16)
AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])
NRRD = """NRRD0004
type: short
dimension: 3
space: left-posterior-superior
sizes: {sizes}
space directions: {directions}
kinds: {kinds}
endian: little
encoding: {encoding}
space origin: (0,0,0)
{more}
"""
META = """ObjectType = Image
NDims = {dims}
BinaryData = True
CompressedData = {packed}
TransformMatrix = 1 0 0 0 1 0 0 0 1
Offset = 0 0 0
ElementSpacing = {spacing}
DimSize = {sizes}
ElementType = MET_SHORT
ElementDataFile = {data}
"""


def hostile(function: Generator) -> Generator:
    """Enters a generator under its name, with blanks for underscores."""
    GENERATORS[function.__name__.replace("_", " ")] = function
    return function


def write_good_scan(path: Path) -> Path:
    """Writes a NIfTI file that nothing is wrong with."""
    nib.save(_image(), path)
    return path


# NIfTI.


def _image(voxels: np.ndarray = VOXELS, affine: np.ndarray = AFFINE) -> Any:
    image = nib.Nifti1Image(voxels, affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    return image


def _nifti(path: Path, *patches: tuple[int, bytes], voxels: np.ndarray = VOXELS) -> None:
    """Writes an uncompressed file, then bytes over it."""
    content = bytearray(_image(voxels).to_bytes())
    for offset, patch in patches:
        content[offset : offset + len(patch)] = patch
    path.write_bytes(content)


def _shorts(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}h", *values)


def _floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


# Where the fields of NIfTI-1 stand.
DIM, DATATYPE, PIXDIM, VOX_OFFSET, SLOPE, CODES, QUATERN, SROW = 40, 70, 76, 108, 112, 252, 256, 280


@hostile
def truncated_nifti(folder: Path) -> str | None:
    _nifti(folder / "a.nii")
    (folder / "a.nii").write_bytes((folder / "a.nii").read_bytes()[:-100])
    return "truncated-file"


@hostile
def truncated_gzip(folder: Path) -> str | None:
    (folder / "a.nii.gz").write_bytes(gzip.compress(_image().to_bytes())[:-100])
    return "truncated-file"


@hostile
def changed_byte_in_gzip(folder: Path) -> str | None:
    content = bytearray(gzip.compress(_image().to_bytes()))
    content[-7] ^= 0xFF
    (folder / "a.nii.gz").write_bytes(content)
    return "damaged-file"


@hostile
def empty_nifti(folder: Path) -> str | None:
    (folder / "a.nii.gz").touch()
    return "truncated-file"


@hostile
def text_under_a_nifti_name(folder: Path) -> str | None:
    (folder / "a.nii").write_text("this is no image\n" * 50)
    return "not-an-image"


@hostile
def four_dimensions(folder: Path) -> str | None:
    _nifti(folder / "a.nii", voxels=np.zeros((4, 4, 4, 5), np.int16))
    return "not-single-channel"


@hostile
def colour_nifti(folder: Path) -> str | None:
    _nifti(folder / "a.nii", voxels=np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")]))
    return "not-single-channel"


@hostile
def a_thousand_million_voxels(folder: Path) -> str | None:
    _nifti(folder / "a.nii", (DIM, _shorts(3, 1000, 1000, 1000)))
    return "truncated-file"


@hostile
def a_thousand_million_voxels_in_gzip(folder: Path) -> str | None:
    _nifti(folder / "a.nii", (DIM, _shorts(3, 1000, 1000, 1000)))
    (folder / "a.nii").write_bytes(gzip.compress((folder / "a.nii").read_bytes()))
    return "truncated-file"


@hostile
def more_voxels_than_memory(folder: Path) -> str | None:
    _nifti(folder / "a.nii", (DIM, _shorts(3, 32767, 32767, 32767)))
    return "too-large"


@hostile
def gzip_bomb_behind_the_voxels(folder: Path) -> str | None:
    # 4 GiB of zeros in a few megabytes, as 256 members.
    member = gzip.compress(bytes(1 << 24))
    (folder / "a.nii.gz").write_bytes(gzip.compress(_image().to_bytes()) + member * 256)
    return None


@hostile
def gzip_bomb_before_the_voxels(folder: Path) -> str | None:
    _nifti(folder / "a.nii", (VOX_OFFSET, _floats(2.0**31)))
    (folder / "a.nii").write_bytes(gzip.compress((folder / "a.nii").read_bytes()) + gzip.compress(bytes(1 << 24)) * 256)
    return "damaged-file"


@hostile
def negative_size(folder: Path) -> str | None:
    _nifti(folder / "a.nii", (DIM, _shorts(3, 12, -11, 10)))
    return "not-an-image"


@hostile
def nine_dimensions(folder: Path) -> str | None:
    _nifti(folder / "a.nii", (DIM, _shorts(9)))
    return "damaged-file"


@hostile
def unknown_kind_of_number(folder: Path) -> str | None:
    _nifti(folder / "a.nii", (DATATYPE, _shorts(12345)))
    return "damaged-file"


@hostile
def negative_spacing(folder: Path) -> str | None:
    _nifti(folder / "a.nii", (PIXDIM, _floats(1, 1, -1.5, 2)), (CODES, _shorts(1, 0)))
    return "bad-affine"


@hostile
def zero_spacing(folder: Path) -> str | None:
    _nifti(folder / "a.nii", (PIXDIM, _floats(1, 1, 0, 2)), (CODES, _shorts(1, 0)))
    return "bad-affine"


@hostile
def singular_affine(folder: Path) -> str | None:
    _nifti(folder / "a.nii", (SROW, _floats(1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 2, 0)))
    return "bad-affine"


@hostile
def affine_that_is_not_a_number(folder: Path) -> str | None:
    _nifti(folder / "a.nii", (SROW, _floats(float("nan"))))
    return "bad-affine"


@hostile
def impossible_quaternion(folder: Path) -> str | None:
    _nifti(folder / "a.nii", (QUATERN, _floats(9, 9, 9)), (CODES, _shorts(1, 0)))
    return "bad-affine"


@hostile
def sheared_affine(folder: Path) -> str | None:
    _nifti(folder / "a.nii", (SROW, _floats(1, 0.7, 0, 0, 0, 1.5, 0, 0, 0, 0, 2, 0)))
    return None


@hostile
def forms_that_disagree(folder: Path) -> str | None:
    _nifti(folder / "a.nii", (SROW, _floats(-1, 0, 0, 0, 0, 1.5, 0, 0, 0, 0, 2, 0)))
    return None


@hostile
def no_orientation(folder: Path) -> str | None:
    _nifti(folder / "a.nii", (CODES, _shorts(0, 0)))
    return None


@hostile
def voxels_that_are_not_numbers(folder: Path) -> str | None:
    voxels = VOXELS.astype(np.float32)
    voxels[3, 3, 3] = np.nan
    _nifti(folder / "a.nii", voxels=voxels)
    return "non-finite-voxels"


@hostile
def slope_that_is_not_a_number(folder: Path) -> str | None:
    _nifti(folder / "a.nii", (SLOPE, _floats(float("nan"), 0)))
    return None


@hostile
def intercept_that_is_not_a_number(folder: Path) -> str | None:
    _nifti(folder / "a.nii", (SLOPE, _floats(2, float("nan"))))
    return "damaged-file"


@hostile
def one_slice(folder: Path) -> str | None:
    _nifti(folder / "a.nii", voxels=VOXELS[:, :, :1])
    return None


# NRRD and MetaImage.


def _nrrd(path: Path, voxels: bytes = VOXELS.tobytes(order="F"), **fields: str) -> None:
    usual = {"sizes": "12 11 10", "directions": "(1,0,0) (0,1.5,0) (0,0,2)", "kinds": "domain domain domain",
             "encoding": "raw", "more": "content: hostile"}
    path.write_bytes(NRRD.format(**usual | fields).encode() + b"\n" + voxels)


def _meta(path: Path, voxels: bytes = VOXELS.tobytes(order="F"), **fields: str) -> None:
    usual = {"dims": "3", "sizes": "12 11 10", "packed": "False", "spacing": "1 1.5 2", "data": "LOCAL"}
    path.write_bytes(META.format(**usual | fields).encode() + voxels)


def _damaged_deflate(packed: bytes) -> bytes:
    half = len(packed) // 2
    return packed[:half] + bytes(byte ^ 0x55 for byte in packed[half : half + 9]) + packed[half + 9:]


@hostile
def truncated_nrrd(folder: Path) -> str | None:
    _nrrd(folder / "a.nrrd", VOXELS.tobytes()[:-10])
    return "truncated-file"


@hostile
def damaged_nrrd(folder: Path) -> str | None:
    _nrrd(folder / "a.nrrd", gzip.compress(VOXELS.tobytes(), 0)[:-8] + bytes(8), encoding="gzip")
    return "damaged-file"


@hostile
def nrrd_of_a_thousand_million_voxels(folder: Path) -> str | None:
    _nrrd(folder / "a.nrrd", sizes="1000 1000 1000")
    return "truncated-file"


@hostile
def nrrd_with_more_voxels_than_memory(folder: Path) -> str | None:
    _nrrd(folder / "a.nrrd", sizes="100000 100000 100000")
    return "too-large"


@hostile
def nrrd_that_points_to_the_users_of_the_machine(folder: Path) -> str | None:
    _nrrd(folder / "a.nhdr", b"", sizes="2 2 2", more="data file: /etc/passwd")
    return "outside-data-file"


@hostile
def nrrd_that_points_above(folder: Path) -> str | None:
    _nrrd(folder / "a.nhdr", b"", sizes="2 2 2", more="data file: ../../../etc/passwd")
    return "outside-data-file"


@hostile
def nrrd_of_colours(folder: Path) -> str | None:
    _nrrd(folder / "a.nrrd", sizes="3 11 10", kinds="RGB-color domain domain")
    return "not-single-channel"


@hostile
def nrrd_without_end(folder: Path) -> str | None:
    (folder / "a.nrrd").write_bytes(b"NRRD0005\n" + (b"key:=" + b"x" * 500 + b"\n") * 6000)
    return "damaged-file"


@hostile
def metaimage_whose_voxels_are_damaged(folder: Path) -> str | None:
    _meta(folder / "a.mha", _damaged_deflate(zlib.compress(VOXELS.tobytes(order="F"))), packed="True")
    return "damaged-file"


@hostile
def metaimage_of_four_dimensions(folder: Path) -> str | None:
    _meta(folder / "a.mha", dims="4", sizes="6 2 11 10", spacing="1 1 1 1")
    return "not-single-channel"


@hostile
def metaimage_without_its_data_file(folder: Path) -> str | None:
    _meta(folder / "a.mhd", b"", data="gone.raw")
    return "missing-data-file"


@hostile
def metaimage_of_negative_spacing(folder: Path) -> str | None:
    _meta(folder / "a.mha", spacing="1 -1.5 2")
    return "bad-affine"


# DICOM.


def _series(folder: Path, *, slices: int = 3, without: str = "", **elements: Any) -> None:
    """Writes a series, all slices without one element or with others."""
    for number in range(slices):
        content = slice_dataset(number, series_uid="1.2.3.99")
        content.StudyInstanceUID = "1.2.3.98"
        if without:
            delattr(content, without)
        for name, value in elements.items():
            setattr(content, name, value)
        content.save_as(folder / f"IM{number}", enforce_file_format=without != "SOPClassUID")


@hostile
def dicom_header_that_breaks_off(folder: Path) -> str | None:
    _series(folder)
    for path in folder.glob("IM*"):
        path.write_bytes(path.read_bytes()[:300])
    return "damaged-header"


@hostile
def dicom_pixels_that_break_off(folder: Path) -> str | None:
    _series(folder)
    (folder / "IM1").write_bytes((folder / "IM1").read_bytes()[:-7])
    return "truncated-file"


@hostile
def dicom_of_colours(folder: Path) -> str | None:
    _series(folder, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0, BitsAllocated=8,
            BitsStored=8, HighBit=7, PixelRepresentation=0, PixelData=bytes(60))
    return "colour"


@hostile
def dicom_of_a_thousand_million_pixels(folder: Path) -> str | None:
    _series(folder, Rows=31700, Columns=31700)
    return "truncated-file"


@hostile
def dicom_of_a_million_frames(folder: Path) -> str | None:
    _series(folder, slices=1, NumberOfFrames="1000000")
    return "multiframe"


@hostile
def dicom_without_position(folder: Path) -> str | None:
    _series(folder, without="ImagePositionPatient")
    return "missing-geometry"


@hostile
def dicom_without_orientation(folder: Path) -> str | None:
    _series(folder, without="ImageOrientationPatient")
    return "missing-geometry"


@hostile
def dicom_without_spacing(folder: Path) -> str | None:
    _series(folder, without="PixelSpacing")
    return "missing-geometry"


@hostile
def dicom_without_rows(folder: Path) -> str | None:
    _series(folder, without="Rows")
    return "damaged-header"


@hostile
def dicom_without_class(folder: Path) -> str | None:
    _series(folder, without="SOPClassUID")
    return None


@hostile
def dicom_of_zero_spacing(folder: Path) -> str | None:
    _series(folder, PixelSpacing=[0, 0.9])
    return "bad-orientation"


@hostile
def dicom_of_negative_spacing(folder: Path) -> str | None:
    _series(folder, PixelSpacing=[-0.7, 0.9])
    return "bad-orientation"


@hostile
def dicom_of_singular_orientation(folder: Path) -> str | None:
    _series(folder, ImageOrientationPatient=[1, 0, 0, 1, 0, 0])
    return "bad-orientation"


@hostile
def dicom_with_one_slice(folder: Path) -> str | None:
    _series(folder, slices=1)
    return "too-few-slices"


@hostile
def dicom_with_megabytes_of_private_garbage(folder: Path) -> str | None:
    for number in range(3):
        item = slice_dataset(number, series_uid="1.2.3.99")
        item.private_block(0x0009, "GARBAGE", create=True).add_new(1, "OB", os.urandom(1 << 22))
        item.save_as(folder / f"IM{number}", enforce_file_format=True)
    return None


@hostile
def dicom_sequence_without_end(folder: Path) -> str | None:
    _series(folder)
    for path in folder.glob("IM*"):
        content = path.read_bytes()
        # Before the first element of group 0020: (0019,1001) SQ of undefined length, an item, and no end.
        place = content.index(b"\x20\x00\x0d\x00UI")
        opened = b"\x19\x00\x01\x10SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
        path.write_bytes(content[:place] + opened + content[place:])
    return "damaged-header"


@hostile
def dicom_sequences_without_bottom(folder: Path) -> str | None:
    inner = Dataset()
    inner.PatientID = "x"
    for _ in range(60):
        outer = Dataset()
        outer.ReferencedStudySequence = DicomSequence([inner])
        outer["ReferencedStudySequence"].is_undefined_length = True
        inner = outer
    _series(folder, ReferencedStudySequence=DicomSequence([inner]))
    return None


@hostile
def page_saved_as_dicom(folder: Path) -> str | None:
    (folder / "a.dcm").write_text("<!DOCTYPE html><html><body>Your session has expired</body></html>")
    return "not-an-image"


@hostile
def empty_dicom(folder: Path) -> str | None:
    (folder / "a.dcm").touch()
    return "truncated-file"


@hostile
def garbage_behind_the_dicom_magic(folder: Path) -> str | None:
    (folder / "a.dcm").write_bytes(bytes(128) + b"DICM" + np.random.default_rng(1).bytes(5000))
    return "damaged-header"


# Zip archives.


def _zip(path: Path, members: dict[str, bytes], *, mode: int = stat.S_IFREG) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (mode | 0o644) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            packed.writestr(info, content)


@hostile
def zip_that_climbs_out(folder: Path) -> str | None:
    _zip(folder / "a.zip", {"../../escaped.nii": _image().to_bytes()})
    return "unsafe-archive"


@hostile
def zip_with_an_absolute_path(folder: Path) -> str | None:
    _zip(folder / "a.zip", {"/tmp/segline-escaped.nii": _image().to_bytes()})
    return "unsafe-archive"


@hostile
def zip_with_a_link(folder: Path) -> str | None:
    _zip(folder / "a.zip", {"a.nii": b"/etc/passwd"}, mode=stat.S_IFLNK)
    return "unsafe-archive"


@hostile
def zip_bomb(folder: Path) -> str | None:
    _zip(folder / "a.zip", {f"{number}.nii": bytes(1000) for number in range(4)})
    content = (folder / "a.zip").read_bytes()
    (folder / "a.zip").write_bytes(content.replace(struct.pack("<L", 1000), struct.pack("<L", 4_000_000_000)))
    return "too-large"


@hostile
def zip_bomb_that_says_it_is_small(folder: Path) -> str | None:
    _zip(folder / "a.zip", {"a.nii": bytes(1 << 26)})
    content = (folder / "a.zip").read_bytes()
    (folder / "a.zip").write_bytes(content.replace(struct.pack("<L", 1 << 26), struct.pack("<L", 1000)))
    return "damaged-archive"


@hostile
def zip_of_a_hundred_thousand_entries(folder: Path) -> str | None:
    local, directory = bytearray(), bytearray()
    for number in range(100_000):
        name = f"{number:06}.nii".encode()
        head = struct.pack("<5H3L2H", 20, 0, 0, 0, 0, 0, 0, 0, len(name), 0)
        directory += b"PK\1\2" + bytes([20, 0]) + head + struct.pack("<3H2L", 0, 0, 0, 0, len(local)) + name
        local += b"PK\3\4" + head + name
    # The record at the end counts only to 65535, and programs go by the length of the directory.
    end = struct.pack("<4H2LH", 0, 0, 100_000 & 0xFFFF, 100_000 & 0xFFFF, len(directory), len(local), 0)
    (folder / "a.zip").write_bytes(local + directory + b"PK\5\6" + end)
    return "too-large"


@hostile
def zip_with_a_password(folder: Path) -> str | None:
    _zip(folder / "a.zip", {"a.nii": _image().to_bytes()})
    content = bytearray((folder / "a.zip").read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (folder / "a.zip").write_bytes(content)
    return "encrypted-archive"


@hostile
def zip_in_zip(folder: Path) -> str | None:
    _zip(folder / "b.zip", {"a.nii": _image().to_bytes()})
    _zip(folder / "a.zip", {"b.zip": (folder / "b.zip").read_bytes()})
    (folder / "b.zip").unlink()
    return "no-images"


@hostile
def truncated_zip(folder: Path) -> str | None:
    _zip(folder / "a.zip", {"a.nii": _image().to_bytes()})
    (folder / "a.zip").write_bytes((folder / "a.zip").read_bytes()[:-30])
    return "damaged-archive"


@hostile
def zip_member_that_is_file_and_folder(folder: Path) -> str | None:
    _zip(folder / "a.zip", {"a": b"x", "a/b.nii": _image().to_bytes()})
    return "unreadable-file"


@hostile
def zip_with_a_name_too_long(folder: Path) -> str | None:
    _zip(folder / "a.zip", {"a" * 300 + ".nii": _image().to_bytes()})
    return "unreadable-file"


@hostile
def zip_in_a_rare_compression(folder: Path) -> str | None:
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_BZIP2) as packed:
        packed.writestr("a.nii", bytes(1 << 20))
    return "unsupported-archive"


# Files and folders.


@hostile
def empty_folder(folder: Path) -> str | None:
    (folder / "empty").mkdir()
    return "no-images"


@hostile
def folder_named_as_a_file(folder: Path) -> str | None:
    (folder / "a.nii.gz").mkdir()
    return "no-images"


@hostile
def links_in_a_circle(folder: Path) -> str | None:
    (folder / "deep").mkdir()
    (folder / "deep/back").symlink_to(folder)
    (folder / "self").symlink_to(folder / "self")
    return "no-images"


@hostile
def link_to_a_device(folder: Path) -> str | None:
    (folder / "a.dcm").symlink_to("/dev/zero")
    (folder / "b.nii").symlink_to("/dev/zero")
    return "no-images"


@hostile
def pipe(folder: Path) -> str | None:
    os.mkfifo(folder / "a.nii")
    os.mkfifo(folder / "b")
    return "no-images"


@hostile
def link_to_nothing(folder: Path) -> str | None:
    (folder / "a.nii.gz").symlink_to(folder / "gone.nii.gz")
    return "missing-file"


@hostile
def name_with_a_new_line(folder: Path) -> str | None:
    _nifti(folder / "a\nb\x1b[2J.nii")
    return None


@hostile
def name_that_is_no_text(folder: Path) -> str | None:
    _nifti(folder / os.fsdecode(b"\xff\xfe.nii"))
    return None


@hostile
def name_that_looks_like_an_option(folder: Path) -> str | None:
    _nifti(folder / "--output_dir=x.nii")
    return None


def _png(width: int, height: int, packed: bytes, *, more: bytes = b"") -> bytes:
    """Returns an 8-bit grey PNG of the given packed pixels; `more` are chunks before them."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + more + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@hostile
def a_truncated_png(folder: Path) -> str:
    (folder / "a.png").write_bytes(_png(9, 9, zlib.compress(bytes(90)))[:-20])
    return "truncated-file"


@hostile
def a_png_of_fewer_rows_than_declared(folder: Path) -> str:
    (folder / "a.png").write_bytes(_png(9, 90, zlib.compress(bytes(90))))
    return "truncated-file"


@hostile
def a_png_that_declares_more_than_it_can_hold(folder: Path) -> str:
    (folder / "a.png").write_bytes(_png(9_000, 9_000, zlib.compress(bytes(90))))
    return "truncated-file"


@hostile
def a_png_bomb(folder: Path) -> str:
    (folder / "a.png").write_bytes(_png(60_000, 60_000, zlib.compress(bytes(1 << 20))))
    return "too-large"


@hostile
def a_png_with_damaged_pixels(folder: Path) -> str:
    (folder / "a.png").write_bytes(_png(9, 9, zlib.compress(bytes(90))[:-6] + b"broken"))
    return "damaged-file"


@hostile
def an_animated_png(folder: Path) -> str:
    frames = _chunk(b"acTL", struct.pack(">II", 2, 0))
    (folder / "a.png").write_bytes(_png(9, 9, zlib.compress(bytes(90)), more=frames))
    return "several-pages"


@hostile
def text_called_png(folder: Path) -> str:
    (folder / "a.png").write_text("no picture")
    return "not-an-image"


@hostile
def an_empty_png(folder: Path) -> str:
    (folder / "a.png").write_bytes(b"")
    return "truncated-file"


@hostile
def a_tiff_of_which_only_the_start_is_left(folder: Path) -> str:
    (folder / "a.tif").write_bytes(b"II*\0" + bytes(60))
    return "damaged-file"


@hostile
def a_nifti_called_png(folder: Path) -> None:
    nib.save(_image(), folder / "a.nii")
    (folder / "a.nii").rename(folder / "a.png")

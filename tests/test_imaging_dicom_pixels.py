"""Pixels of DICOM planes: every transfer syntax to exactly the values that were stored."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK
from openjpeg import utils as openjpeg
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    MPEG2MPML,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from tiny_dicom import enhanced_dataset, item, read_folder, slice_dataset, write_slices

from pipeline.imaging.dicom_headers import survey_files
from pipeline.imaging.dicom_pixels import read_planes
from pipeline.records.errors import InputError

ROWS, COLUMNS = 40, 33
# Steps through all of 12 bits, some times over.
RAMP = (np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS) * 37) % 4096


def image(stored: np.ndarray, *, bits: int) -> Dataset:
    """Returns a slice with these stored values."""
    content = slice_dataset(0)
    content.Rows, content.Columns = stored.shape
    content.BitsAllocated = 8 * stored.itemsize
    content.BitsStored, content.HighBit = bits, bits - 1
    content.PixelRepresentation = int(stored.dtype.kind == "i")
    content.PixelData = stored.tobytes()
    content["PixelData"].VR = "OW"
    del content.RescaleSlope, content.RescaleIntercept
    return content


def values(content: Dataset, folder: Path, **options: Any) -> np.ndarray:
    """Returns what is read of one slice, ``(row, column)``."""
    path = folder / "a"
    content.save_as(path, **(options or {"enforce_file_format": True}))
    survey = survey_files([path])
    assert not survey.damaged
    return read_planes(path, survey.series[0].slices)[:, :, 0].T


def compressed(content: Dataset, syntax: UID, frame: bytes) -> Dataset:
    content.file_meta.TransferSyntaxUID = syntax
    content.PixelData = encapsulate([frame])
    content["PixelData"].VR, content["PixelData"].is_undefined_length = "OB", True
    return content


STORED = {
    "uint8": ((RAMP % 256).astype(np.uint8), 8),
    "uint12": (RAMP.astype(np.uint16), 12),
    "int12": ((RAMP - 2048).astype(np.int16), 12),
    "uint16": ((RAMP * 16 + 15).astype(np.uint16), 16),
    "int16": ((RAMP * 16 - 32768).astype(np.int16), 16),
}


@pytest.mark.parametrize("kind", STORED)
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless,
                                    JPEGLSLossless, JPEG2000Lossless])
def test_stored_values_come_back_exactly(tmp_path: Path, syntax: UID, kind: str) -> None:
    stored, bits = STORED[kind]
    content = image(stored, bits=bits)
    if syntax == JPEG2000Lossless:
        stream = openjpeg.encode_array(stored, bits_stored=bits, photometric_interpretation=2, codec_format=0)
        compressed(content, syntax, stream)
    elif syntax.is_encapsulated:
        content.compress(syntax)
    else:
        content.file_meta.TransferSyntaxUID = syntax
    assert np.array_equal(values(content, tmp_path), stored)


@pytest.mark.parametrize("kind", ["uint12", "int12", "uint16", "int16"])
def test_big_endian_values_come_back_exactly(tmp_path: Path, kind: str) -> None:
    stored, bits = STORED[kind]
    content = image(stored, bits=bits)
    content.PixelData = stored.astype(stored.dtype.newbyteorder(">")).tobytes()
    content.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    assert np.array_equal(values(content, tmp_path), stored)


@pytest.mark.parametrize("kind", ["uint8", "uint12", "int16"])
def test_lossless_jpeg_written_by_gdcm(tmp_path: Path, kind: str) -> None:
    stored, _ = STORED[kind]
    writer = SimpleITK.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.SetFileName(str(tmp_path / "itk.dcm"))
    writer.SetUseCompression(True)
    writer.SetCompressor("JPEG")
    writer.Execute(SimpleITK.GetImageFromArray(stored))
    content = pydicom.dcmread(tmp_path / "itk.dcm")
    content.ImagePositionPatient = [0, 0, 0]
    assert content.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.70"
    assert np.array_equal(values(content, tmp_path), stored)


def test_baseline_jpeg_is_what_pillow_decodes(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(16) * 9, np.arange(16) * 6).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "image.jpg", quality=90)
    content = compressed(image(smooth, bits=8), JPEGBaseline8Bit, (tmp_path / "image.jpg").read_bytes())
    expected = np.asarray(Image.open(tmp_path / "image.jpg")).astype(int)
    # The two may round the cosine transform differently.
    assert np.abs(values(content, tmp_path) - expected).max() <= 1


# By OpenJPH 0.26.3 from numpy.arange(20).reshape(4, 5) * 37 as uint16, and * 97 - 1000 as int16.
HIGH_THROUGHPUT = {
    "uint16": ((np.arange(20).reshape(4, 5) * 37).astype(np.uint16), (
        "/0//UQApQAAAAAAFAAAABAAAAAAAAAAAAAAABQAAAAQAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCI"
        "kJCQkJCQkJCQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAADsAAf+TwAAmy/0FB3QAAADAABKAJgGHdACg"
        "AAnAPvv8AII0AKAAFUBw4eD+AAhAd1YA/9k=")),
    "int16": ((np.arange(20).reshape(4, 5) * 97 - 1000).astype(np.int16), (
        "/0//UQApQAAAAAAFAAAABAAAAAAAAAAAAAAABQAAAAQAAAAAAAAAAAABjwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCI"
        "kJCQkJCQkJCQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAADsAAf+TwAAmB/4CB3QAAADAABKABgIHdACg"
        "AAnAhEiIAMI0AKAAFUDII0f+ABCAd1YA/9k=")),
}


@pytest.mark.parametrize("kind", HIGH_THROUGHPUT)
def test_high_throughput_jpeg_2000(tmp_path: Path, kind: str) -> None:
    stored, stream = HIGH_THROUGHPUT[kind]
    content = compressed(image(stored, bits=16), HTJ2KLossless, base64.b64decode(stream))
    assert np.array_equal(values(content, tmp_path), stored)


@pytest.mark.parametrize(("name", "syntax"), [
    ("JPEG-lossy.dcm", JPEGExtended12Bit),
    ("JPEGLSNearLossless_16.dcm", JPEGLSNearLossless),
    ("JPEG2000.dcm", "1.2.840.10008.1.2.4.91"),
    # The stream says unsigned, the header signed.
    ("J2K_pixelrep_mismatch.dcm", JPEG2000Lossless),
    ("MR_small_RLE.dcm", RLELossless),
    ("MR_small_bigendian.dcm", ExplicitVRBigEndian),
])
def test_files_by_other_writers_equal_gdcm(tmp_path: Path, name: str, syntax: UID) -> None:
    path = str(get_testdata_file(name, download=False))
    content = pydicom.dcmread(path)
    assert content.file_meta.TransferSyntaxUID == syntax
    # Some are secondary captures, which count as images where they say where they lie.
    content.ImagePositionPatient = [0, 0, 0]
    expected = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path, SimpleITK.sitkFloat64, imageIO="GDCMImageIO"))[0]
    assert np.array_equal(values(content, tmp_path), expected)


def test_bits_beside_the_stored_ones_are_left_out(tmp_path: Path) -> None:
    # Old files keep overlays above the stored bits, and may keep the pixel in the upper bits.
    low = image((RAMP + 0xF000).astype(np.uint16), bits=12)
    assert np.array_equal(values(low, tmp_path), RAMP)
    high = image(((RAMP << 4) + 0xF).astype(np.uint16), bits=12)
    high.HighBit = 15
    assert np.array_equal(values(high, tmp_path), RAMP)
    signed = image(((RAMP - 2048) & 0xFFF).astype(np.uint16), bits=12)
    signed.PixelRepresentation = 1
    assert np.array_equal(values(signed, tmp_path), RAMP - 2048)


def test_32_bit_and_floating_point_values(tmp_path: Path) -> None:
    stored = (RAMP.astype(np.int32) - 2048) * 4096
    content = image(stored, bits=32)
    content.RescaleSlope, content.RescaleIntercept = "0.5", "-3"
    assert np.array_equal(values(content, tmp_path), (stored * 0.5 - 3).astype(np.float32))
    content = image(stored, bits=32)
    del content.PixelData
    content.FloatPixelData = (RAMP / 7).astype(np.float32).tobytes()
    assert np.array_equal(values(content, tmp_path), (RAMP / 7).astype(np.float32))


def test_padding_is_kept_as_it_is_stored(tmp_path: Path) -> None:
    stored = (RAMP - 2048).astype(np.int16)
    stored[0] = -2000
    content = image(stored, bits=16)
    content.add_new("PixelPaddingValue", "SS", -2000)
    content.RescaleSlope, content.RescaleIntercept = "2", "-1024"
    found = values(content, tmp_path)
    assert (found[0] == -5024).all()
    # As ITK and pydicom have it.
    itk = SimpleITK.ReadImage(str(tmp_path / "a"), SimpleITK.sitkFloat64, imageIO="GDCMImageIO")
    assert np.array_equal(found, SimpleITK.GetArrayFromImage(itk)[0])
    assert np.array_equal(found, pydicom.dcmread(tmp_path / "a").pixel_array * 2.0 - 1024)


def test_modality_lookup_table_is_applied(tmp_path: Path) -> None:
    stored = (RAMP % 16).astype(np.uint16)
    content = image(stored, bits=12)
    table = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8], dtype=np.uint16)
    # 12 entries from stored value 2 on; beyond them the first and the last one hold.
    content.ModalityLUTSequence = item(LUTDescriptor=[12, 2, 16], ModalityLUTType="US", LUTData=table.tobytes())
    expected = table[np.clip(stored.astype(int) - 2, 0, 11)]
    assert np.array_equal(values(content, tmp_path), expected)


def refusal(content: Dataset, folder: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        values(content, folder)
    assert "\n" not in str(caught.value)
    return caught.value


def broken_stream(stream: bytes) -> bytes:
    return stream[: len(stream) // 2]


def no_stream(_: bytes) -> bytes:
    return b"no such stream"


@pytest.mark.parametrize(("syntax", "spoil", "named"), [
    (MPEG2MPML, lambda stream: stream, "transfer syntax 1.2.840.10008.1.2.4.100"),
    (RLELossless, broken_stream, ""),
    (JPEGLSLossless, broken_stream, ""),
    (JPEG2000Lossless, no_stream, ""),
    # A few bytes that state 65535 x 65535 pixels.
    (JPEG2000Lossless, lambda stream: stream[:8] + b"\x00\x00\xff\xff" * 2 + stream[16:], "65535 x 65535"),
])
def test_what_no_codec_reads_is_named(
    tmp_path: Path, syntax: UID, spoil: Callable[[bytes], bytes], named: str
) -> None:
    stored, bits = STORED["uint12"]
    content = image(stored, bits=bits)
    if syntax in (RLELossless, JPEGLSLossless):
        content.compress(syntax)
        stream = next(pydicom.encaps.generate_frames(content.PixelData, number_of_frames=1))
    else:
        stream = openjpeg.encode_array(stored, bits_stored=bits, photometric_interpretation=2, codec_format=0)
    error = refusal(compressed(content, syntax, spoil(stream)), tmp_path)
    assert error.reason == "undecodable"
    assert named in error.found


def test_a_deflated_file_cut_off_is_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    content = image(rng.integers(0, 4096, (64, 64)).astype(np.uint16), bits=12)
    content.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    content.save_as(tmp_path / "a", enforce_file_format=True)
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:-2000])
    survey = survey_files([tmp_path / "a"])
    with pytest.raises(InputError) as caught:
        read_planes(tmp_path, survey.series[0].slices)
    assert caught.value.reason == "truncated-file"


def test_planes_are_in_the_order_asked_for_and_x_is_fastest(tmp_path: Path) -> None:
    folder = write_slices(tmp_path / "series", [slice_dataset(number) for number in range(4)])
    slices = survey_files(sorted(folder.iterdir())).series[0].slices
    order = [slices[at] for at in (2, 0, 3, 1)]
    array = read_planes(folder, order)
    assert array.flags.f_contiguous
    assert array.dtype == np.float32
    for place, header in enumerate(order):
        expected = pydicom.dcmread(header.path).pixel_array - 1024.0
        assert np.array_equal(array[:, :, place].T, expected)


@pytest.mark.parametrize("syntax", [RLELossless, DeflatedExplicitVRLittleEndian])
def test_frames_of_a_compressed_multi_frame_file(tmp_path: Path, syntax: UID) -> None:
    content = enhanced_dataset([7.5, 0.0, 5.0, 2.5])
    plain = pydicom.dcmread(write_slices(tmp_path / "plain", [enhanced_dataset([7.5, 0.0, 5.0, 2.5])]) / "IM3")
    if syntax.is_encapsulated:
        content.compress(syntax)
    content.file_meta.TransferSyntaxUID = syntax
    write_slices(tmp_path / "packed", [content])
    found = read_folder(tmp_path / "packed").array
    for place, frame in enumerate((1, 3, 2, 0)):
        assert np.array_equal(found[:, :, place].T, plain.pixel_array[frame] - 1024.0)



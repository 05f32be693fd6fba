"""The UIDs of an encoded object, in every plain encoding, without its patient."""

import tracemalloc
import zlib
from io import BytesIO
from pathlib import Path

import pytest
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless
from tiny_dicom import slice_dataset

from pipeline.imaging.instances import Instance, can_hold_scan, instance_of, read_instance
from pipeline.records.errors import InputError

CT = "1.2.840.10008.5.1.4.1.1.2"
DEFLATED = "1.2.840.10008.1.2.1.99"


def encoded(syntax: str, **elements: str) -> bytes:
    content = slice_dataset(0)
    for name, value in elements.items():
        setattr(content, name, value)
    stream = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    content.pop("PixelData")
    write_dataset(stream, content)
    plain = stream.getvalue()
    if syntax != DEFLATED:
        return plain
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflate.compress(plain) + deflate.flush()


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian,
                                    JPEG2000Lossless, DEFLATED])
def test_uids_in_every_encoding(syntax: str) -> None:
    uid = slice_dataset(0).SOPInstanceUID
    assert instance_of(BytesIO(encoded(syntax)), syntax) == Instance("1.2.3", "1.2.3.4", CT, uid, syntax)


def test_a_file(tmp_path: Path) -> None:
    content = slice_dataset(0)
    content.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    found = Instance("1.2.3", "1.2.3.4", CT, content.SOPInstanceUID, ExplicitVRLittleEndian)
    assert read_instance(tmp_path / "a.dcm") == found


@pytest.mark.parametrize("name", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_a_missing_uid(name: str) -> None:
    with pytest.raises(InputError) as caught:
        instance_of(BytesIO(encoded(ExplicitVRLittleEndian, **{name: ""})), ExplicitVRLittleEndian)
    assert (caught.value.reason, caught.value.found) == ("odd-uid", f"no usable {name}")


def test_a_uid_that_could_be_a_path() -> None:
    stream = BytesIO(encoded(ImplicitVRLittleEndian).replace(b"1.2.3.4\x00", b"../../x\x00"))
    with pytest.raises(InputError) as caught:
        instance_of(stream, ImplicitVRLittleEndian)
    assert caught.value.reason == "odd-uid"
    assert "../" not in str(caught.value)


@pytest.mark.parametrize(("content", "syntax"), [
    (b"", ExplicitVRLittleEndian), (b"\xff" * 100, ExplicitVRLittleEndian), (b"no deflate", DEFLATED),
    (encoded(ExplicitVRLittleEndian)[:60], ExplicitVRLittleEndian),
])
def test_what_is_no_data_set(content: bytes, syntax: str) -> None:
    with pytest.raises(InputError) as caught:
        instance_of(BytesIO(content), syntax)
    assert caught.value.reason in ("undecodable", "odd-uid")


def test_a_file_that_is_not_dicom(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 500)
    with pytest.raises(InputError) as caught:
        read_instance(tmp_path / "a")
    assert caught.value.reason == "undecodable"


def test_a_deflated_bomb_is_not_inflated() -> None:
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    plain = encoded(ExplicitVRLittleEndian)
    bomb = deflate.compress(plain)
    for _ in range(64):
        bomb += deflate.compress(bytes(1 << 20))
    stream = BytesIO(bomb + deflate.flush())
    tracemalloc.start()
    assert instance_of(stream, DEFLATED).study_uid == "1.2.3"
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 16 << 20


@pytest.mark.parametrize(("suffix", "expected"), [
    ("2", True), ("2.1", True), ("4", True), ("4.1", True), ("128", True), ("7", True), ("12.1", True),
    ("66.4", False), ("66", False), ("88.59", False), ("11.1", False), ("481.3", False), ("104.1", False),
    ("9.1.1", False),
])
def test_kinds_of_objects(suffix: str, expected: bool) -> None:
    assert can_hold_scan(f"1.2.840.10008.5.1.4.1.1.{suffix}") is expected


def test_a_private_kind_of_object_holds_no_scan() -> None:
    assert can_hold_scan("1.3.12.2.1107.5.9.1") is False

"""What one DICOM object says it is: its UIDs and nothing about the patient; and whether it can hold a scan."""

import re
import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom.config import disable_value_validation
from pydicom.filereader import read_dataset
from pydicom.tag import Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from pipeline.records.errors import InputError

NAMES = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
LAST_TAG = Tag("SeriesInstanceUID")
# The UIDs stand near the start; what would inflate to more is not inflated.
INFLATED_BYTES = 1 << 22
UNREADABLE = (ValueError, TypeError, KeyError, OSError, EOFError, NotImplementedError, AttributeError, IndexError,
              RecursionError, struct.error, zlib.error)
STORAGE = "1.2.840.10008.5.1.4.1.1."
# Below STORAGE: waveforms, presentation states, segmentations with registrations and fiducials, structured reports,
# encapsulated documents, radiotherapy. Source: DICOM PS3.6, table A-1.
WITHOUT_SCAN = ("9", "11", "66", "88", "104", "481")


@dataclass(frozen=True)
class Instance:
    """One DICOM object, by its UIDs and the transfer syntax that it is encoded in."""

    study_uid: str
    series_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax: str


def instance_of(stream: BinaryIO, transfer_syntax: str) -> Instance:
    """Returns what the encoded data set in `stream` (as it travels: without file meta information) says it is.

    Raises:
        InputError: ``undecodable`` where it cannot be read so far, ``odd-uid`` where a UID is missing or malformed.
    """
    syntax = UID(transfer_syntax)
    try:
        with disable_value_validation():
            if syntax == DeflatedExplicitVRLittleEndian:
                inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(stream.read(), INFLATED_BYTES)
                stream = BytesIO(inflated)
            content = read_dataset(
                stream, is_implicit_VR=syntax.is_implicit_VR, is_little_endian=syntax.is_little_endian,
                stop_when=_is_past, specific_tags=[Tag(name) for name in NAMES])
            return _checked(content, transfer_syntax, "received object")
    except UNREADABLE as error:
        raise _undecodable("received object", error) from error


def read_instance(path: Path) -> Instance:
    """Returns what the DICOM file at `path` says it is; raises `InputError` as `instance_of` does."""
    try:
        with disable_value_validation():
            content = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(NAMES))
            return _checked(content, str(content.file_meta.TransferSyntaxUID), path.name)
    except (*UNREADABLE, pydicom.errors.InvalidDicomError) as error:
        raise _undecodable(path.name, error) from error


def can_hold_scan(sop_class_uid: str) -> bool:
    """Returns whether objects of this class can be slices of a scan, as segmentations and reports never are."""
    kind = sop_class_uid.removeprefix(STORAGE)
    return kind != sop_class_uid and kind.partition(".")[0] not in WITHOUT_SCAN


def _is_past(tag: int, vr: str | None, length: int) -> bool:  # noqa: ARG001
    return bool(tag > LAST_TAG)


def _checked(content: Any, transfer_syntax: str, where: str) -> Instance:
    uids = {name: str(content.get(name, "")) for name in NAMES}
    for name, uid in uids.items():
        if not re.fullmatch(r"[0-9.]{1,64}", uid):
            raise InputError(where, found=f"no usable {name}", wanted="digits and dots, at most 64",
                             remedy="send the object as the scanner or archive made it", reason="odd-uid")
    return Instance(uids["StudyInstanceUID"], uids["SeriesInstanceUID"], uids["SOPClassUID"], uids["SOPInstanceUID"],
                    transfer_syntax)


def _undecodable(where: str, error: BaseException) -> InputError:
    return InputError(where, found=f"an unreadable DICOM header ({type(error).__name__})", reason="undecodable",
                      wanted="a complete DICOM object", remedy="export it again")
